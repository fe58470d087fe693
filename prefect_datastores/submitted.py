"""The process of a submitted run: `python -m prefect_datastores.submitted FOLDER RUN_ID`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from prefect_datastores.estimator import Estimator
from prefect_datastores.estimator_spec import EstimatorSpec
from prefect_datastores.runs import confirm_cancellation
from prefect_datastores.supervision.watched import watched


def main(folder: str, run_id: str) -> None:
    """Run the estimator in `folder` as the flow run that was made for it, and remove the folder."""
    submitted = Path(folder)
    text = (submitted / "spec.json").read_text(encoding="utf-8")
    with watched(submitted, keep=False):
        try:
            with get_client(sync_client=True) as client:
                created = client.read_flow_run(UUID(run_id))
            flow = Estimator.from_spec(EstimatorSpec.model_validate_json(text)).as_flow()
            try:
                run_flow(flow, flow_run=created, parameters=created.parameters, return_type="state")
            finally:
                confirm_cancellation(created.id)
        finally:
            shutil.rmtree(submitted, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
