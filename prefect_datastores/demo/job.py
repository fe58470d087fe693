"""The demo's work, in a process of its own whose environment names the demo's server.

Prefect's background threads read the server's address from the environment alone, so a setting
that holds for a while only would let them start a second server.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from prefect_datastores.datastores.registry import Datastore
from prefect_datastores.demo.digits import digits_estimator, write_digits


def main(home: Path) -> dict[str, Any]:
    """Register two local datastores below `home`, stage digits, train, and keep the model."""
    raw = Datastore.register_local("raw", home / "datastores" / "raw", overwrite=True)
    models = Datastore.register_local("models", home / "datastores" / "models", overwrite=True)
    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder))
        stored = raw.upload(folder, target_path="digits", overwrite="if_changed")
    print(f"Datastore raw, {raw.url}: {stored.summary()}")
    estimator = digits_estimator(raw, models)
    print(f"\nThe plan of the run:\n{estimator.plan()}\n", flush=True)
    result = estimator.run()
    outputs = home / "datastores" / "models" / "digits"
    metrics = json.loads((outputs / "metrics.json").read_text())
    return {"run_id": result["run_id"], "accuracy": metrics["accuracy"], "outputs": str(outputs)}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    (place / "result.json").write_text(json.dumps(main(place)))
