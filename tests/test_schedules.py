"""A deployment runs by its schedule with nobody present, and its second run has the data already."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from azure.storage.blob import ContainerClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from servers.azurite import Azurite
from servers.faults import FaultyProxy, faulty

from prefect_datastores import Datastore, Estimator
from prefect_datastores.deployments.deploying import Deployed

pytest_plugins = ["workers"]
pytestmark = [pytest.mark.usefixtures("prefect_api", "scratch"), pytest.mark.timeout(300)]

BERLIN = "Europe/Berlin"
SCRIPT = """
import pathlib, sys
rows = sum(len(file.read_text().split()) for file in pathlib.Path(sys.argv[2]).iterdir())
pathlib.Path("outputs/rows").write_text(str(rows))
"""


@pytest.fixture
def estimator(tmp_path: Path) -> Callable[[Any], Estimator]:
    """Makes the estimator on the data of a datastore; its results and its source are in a folder."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/train.py").write_text(SCRIPT)
    results = Datastore.register_local(f"results_{uuid.uuid4().hex[:8]}", tmp_path / "results")

    def make(data: Any) -> Estimator:
        return Estimator(
            tmp_path / "src",
            entry_script="train.py",
            name=f"train-{uuid.uuid4().hex[:8]}",
            script_params={"--data": data.path("digits").as_download()},
            inputs=[results.path("out").as_upload("outputs", overwrite="replace")],
            source_directory_data_store=results,
        )

    return make


@pytest.fixture
def proxy(azurite: Azurite) -> Iterator[FaultyProxy]:
    """What counts the requests to the blob server."""
    with faulty(azurite.host, azurite.port) as running:
        yield running


def runs_of(deployed: Deployed) -> list[FlowRun]:
    """The runs of a deployment, in the order in which they are to begin."""
    asked = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[uuid.UUID(deployed.id)]))
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_run_filter=asked, sort=FlowRunSort.EXPECTED_START_TIME_ASC
        )


def wait_for(condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + 200
    while not (met := condition()):
        assert time.monotonic() < until
        time.sleep(0.5)
    return met


def tables(run: FlowRun) -> dict[str, dict[str, Any]]:
    """The tables of a run's transfers, by what begins their descriptions: the names of task runs."""
    asked = {
        "flow_runs": {"id": {"any_": [str(run.id)]}},
        "artifacts": {"type": {"any_": ["table"]}},
    }
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/filter", json=asked).json()
    return {item["description"].partition(": ")[0]: item for item in found}


def test_a_schedule_fires_and_its_second_run_has_the_data_from_the_cache(
    estimator: Callable[[Any], Estimator],
    pool: str,
    worker: Path,
    azurite: Azurite,
    proxy: FaultyProxy,
    container: ContainerClient,
    tmp_path: Path,
) -> None:
    for name in ("a.csv", "b.csv"):
        container.upload_blob(f"digits/{name}", f"1 2 {name}")
    data = Datastore.register_azure_blob_container(
        datastore_name=f"data_{uuid.uuid4().hex[:8]}",
        container_name=container.container_name,
        account_name=azurite.account,
        account_key=azurite.key,
        protocol="http",
        endpoint=f"127.0.0.1:{proxy.port}",
    )
    # One at a time, so that the second begins when the first has ended, whatever that took.
    deployed = estimator(data).deploy("often", pool, interval=5, concurrency_limit=1)
    try:
        ended = wait_for(lambda: len(done := completed(deployed)) > 1 and done)
    finally:
        with get_client(sync_client=True) as client:
            client.delete_deployment(uuid.UUID(deployed.id))
    first, second = sorted(ended, key=lambda run: run.start_time)[:2]
    assert first.auto_scheduled
    assert second.auto_scheduled
    assert first.end_time <= second.start_time
    assert (tmp_path / "results/out/rows").read_text() == "6"
    for name in ("a.csv", "b.csv"):
        assert proxy.count(rf"^GET /\S*/digits/{name}") == 1
    of = f"download {data.name}:digits"
    assert "from the cache" not in tables(first)[of]["description"]
    assert "2 from the cache" in tables(second)[of]["description"]
    assert proxy.count("^GET .*comp=list") >= 2  # what is there now was asked for each time


def completed(deployed: Deployed) -> list[FlowRun]:
    return [run for run in runs_of(deployed) if run.state and run.state.is_completed()]


def test_each_form_of_schedule_reaches_the_server_and_is_kept_to(
    estimator: Callable[[Any], Estimator], pool: str, tmp_path: Path
) -> None:
    est = estimator(Datastore.register_local(f"data_{uuid.uuid4().hex[:8]}", tmp_path / "data"))
    by_cron = est.deploy("cron", pool, cron="30 2 * * *", timezone=BERLIN)
    by_interval = est.deploy("interval", pool, interval=timedelta(hours=6), timezone=BERLIN)
    by_rule = est.deploy("rrule", pool, rrule="FREQ=DAILY;BYHOUR=2;BYMINUTE=30", timezone=BERLIN)
    kept = {}
    for deployed in (by_cron, by_interval, by_rule):
        with get_client(sync_client=True) as client:
            (made,) = client.read_deployment(deployed.id).schedules
        assert made.active
        assert made.schedule.timezone == BERLIN
        kept[deployed.id] = made.schedule
    assert kept[by_cron.id].cron == "30 2 * * *"
    assert kept[by_interval.id].interval == timedelta(hours=6)
    assert kept[by_rule.id].rrule.endswith("FREQ=DAILY;BYHOUR=2;BYMINUTE=30")
    try:
        for deployed in (by_cron, by_rule):
            runs = wait_for(lambda deployed=deployed: runs_of(deployed))
            local = [run.expected_start_time.astimezone(ZoneInfo(BERLIN)) for run in runs]
            assert {(when.hour, when.minute) for when in local} == {(2, 30)}
        first, second, *_ = (
            run.expected_start_time for run in wait_for(lambda: runs_of(by_interval)[:2])
        )
        assert second - first == timedelta(hours=6)
    finally:
        with get_client(sync_client=True) as client:
            for deployed in (by_cron, by_interval, by_rule):
                client.delete_deployment(uuid.UUID(deployed.id))
