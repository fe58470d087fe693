"""A person opens a deployment in Prefect's pages, changes what the form shows, and a worker runs it."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
)

from prefect_datastores import Datastore, Estimator
from prefect_datastores.runs import Run

if TYPE_CHECKING:
    from browser import PrefectPage

    from prefect_datastores.deployments.deploying import Deployed

pytest_plugins = ["browser", "workers"]
pytestmark = [pytest.mark.xdist_group("deployment_form"), pytest.mark.timeout(240)]

SCRIPT = """
import argparse, pathlib
parser = argparse.ArgumentParser()
for name, kind in (('--data', pathlib.Path), ('--lr', float), ('--epochs', int)):
    parser.add_argument(name, type=kind)
given = parser.parse_args()
told = (given.data / 'x.csv').read_text()
pathlib.Path('outputs/told').write_text(f'{told} {given.lr} {given.epochs}')
"""


@pytest.fixture
def deployed(pool: str, scratch: Path, tmp_path: Path) -> Deployed:
    """An estimator on the data of one datastore, while there is another."""
    stores = [
        Datastore.register_local(f"{kind}_{uuid.uuid4().hex[:8]}", tmp_path / kind)
        for kind in ("first", "second", "results")
    ]
    for path in ("first/digits/x.csv", "second/letters/x.csv", "src/train.py"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(SCRIPT if path.startswith("src") else path)
    estimator = Estimator(
        tmp_path / "src",
        entry_script="train.py",
        name="train-by-form",
        script_params={
            "--data": stores[0].path("digits").as_download(),
            "--lr": 0.1,
            "--epochs": 3,
        },
        inputs=[stores[2].path("out").as_upload("outputs")],
        source_directory_data_store=stores[2],
    )
    return estimator.deploy("nightly", pool)


def test_a_run_has_what_was_filled_into_its_form(
    deployed: Deployed, worker: Path, prefect_page: PrefectPage, tmp_path: Path
) -> None:
    page = prefect_page.page
    prefect_page.open(f"/deployments/deployment/{deployed.id}/run")
    page.get_by_label("lr").fill("0.75")
    # A card for each reference; the first is that of `--data`.
    page.get_by_label("Datastore").first.click()
    page.get_by_role("option", name="second").first.click()
    page.get_by_label("Path").first.fill("letters")
    prefect_page.picture("deployment-form")
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("button", name="View run").wait_for()

    asked = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[uuid.UUID(deployed.id)]))
    until = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while not (found := client.read_flow_runs(flow_run_filter=asked)):
            assert time.monotonic() < until
            time.sleep(0.2)
    (run,) = found
    assert run.parameters["lr"] == 0.75
    assert Run(run.id).wait_for_completion() == "Completed"
    assert (tmp_path / "results/out/told").read_text() == "second/letters/x.csv 0.75 3"
