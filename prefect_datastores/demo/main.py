"""Runs the main job from nothing to a trained model, and says what it did."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from prefect_datastores.demo.server import local_server
from prefect_datastores.errors import DatastoreError


def run_demo(home: Path, *, quiet: bool = False) -> dict[str, Any]:
    """Start a server, run the job on it, and return what came of it.

    The result has the run's id, the accuracy, where the outputs are, and the page of the run.

    Raises:
        DatastoreError: the server did not start, or the job failed.
    """
    began = time.monotonic()
    say = sys.stderr if quiet else sys.stdout
    print(
        "Starting Prefect's own server (its first start takes about 20 s) ...", file=say, flush=True
    )
    with local_server(home / "prefect") as (ui, environment):
        job = subprocess.run(
            [sys.executable, "-m", "prefect_datastores.demo.job", str(home)],
            env=environment,
            stdout=say.fileno(),
            check=False,
        )
        if job.returncode:
            raise DatastoreError(
                f"The demo's job failed with exit code {job.returncode}; its output says why."
            )
    result: dict[str, Any] = json.loads((home / "result.json").read_text())
    result["page"] = f"{ui}/runs/flow-run/{result['run_id']}"
    result["seconds"] = round(time.monotonic() - began, 1)
    files = ", ".join(sorted(item.name for item in Path(result["outputs"]).iterdir()))
    print(
        f"\nTrained on staged data in {result['seconds']:.0f} s.\n"
        f"  accuracy  {result['accuracy']:.4f}\n"
        f"  outputs   {result['outputs']} ({files})\n"
        f"  the run   `make ui` (or `prefect-datastores demo --ui`), then open\n"
        f"            {result['page']}",
        file=say,
    )
    return result


def show_ui(home: Path) -> None:
    """Run the server of earlier demos until it is interrupted."""
    with local_server(home / "prefect") as (ui, _), contextlib.suppress(KeyboardInterrupt):
        print(f"Prefect's UI is at {ui} (Ctrl-C ends it).", flush=True)
        threading.Event().wait()
