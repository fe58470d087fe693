"""The process of a submitted run: `python -m prefect_datastores.submitted SPEC RUN_ID`."""

from __future__ import annotations

import sys
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from prefect_datastores.estimator import Estimator, EstimatorSpec
from prefect_datastores.runs import confirm_cancellation


def main(spec_file: str, run_id: str) -> None:
    """Run the estimator as the flow run that was made for it."""
    path = Path(spec_file)
    spec = EstimatorSpec.model_validate_json(path.read_text(encoding="utf-8"))
    path.unlink()
    with get_client(sync_client=True) as client:
        created = client.read_flow_run(UUID(run_id))
    flow = Estimator.from_spec(spec).as_flow()
    try:
        run_flow(flow, flow_run=created, parameters=created.parameters, return_type="state")
    finally:
        confirm_cancellation(created.id)


if __name__ == "__main__":
    main(*sys.argv[1:])
