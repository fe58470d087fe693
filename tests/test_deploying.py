"""Estimators and flows are deployed from a snapshot, and a real worker runs them in a fresh directory."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from places import Place, RemotePlace
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.steps.core import run_steps
from prefect.schedules import Cron

from prefect_datastores import Datastore, Estimator, LocalDatastore
from prefect_datastores.deployments.carrying import SNAPSHOTS
from prefect_datastores.deployments.deploying import Deployed
from prefect_datastores.deployments.steps import pull_from_datastore, push_to_datastore
from prefect_datastores.deployments.storage import DatastoreStorage
from prefect_datastores.errors import (
    ConfigurationError,
    DatastoreNotFound,
    ObjectNotFound,
    SnapshotTooLarge,
)
from prefect_datastores.estimator_spec import EstimatorSpec
from prefect_datastores.testing import names_below

pytestmark = [pytest.mark.usefixtures("prefect_api", "scratch"), pytest.mark.timeout(240)]

TELL = """
import json, os, sys
with open('outputs/told.json', 'w') as file:
    json.dump({'argv': sys.argv[1:], 'cwd': os.getcwd(), 'files': sorted(os.listdir('.'))}, file)
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scratch space of the test's own, here and in the processes that it starts."""
    folder = tmp_path / "scratch"
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_SCRATCH_ROOT", str(folder))
    return folder


@pytest.fixture
def name() -> Iterator[Callable[[], str]]:
    """Gives names of datastores that no other test has; they are forgotten afterwards."""
    made: list[str] = []

    def give() -> str:
        made.append(f"ds_{uuid.uuid4().hex[:12]}")
        return made[-1]

    yield give
    for each in made:
        with contextlib.suppress(DatastoreNotFound):
            Datastore.unregister(each)


@pytest.fixture
def results(tmp_path: Path, name: Callable[[], str]) -> LocalDatastore:
    """Where the scripts' outputs go, so that the workspace's default is not touched."""
    return Datastore.register_local(name(), tmp_path / "results")


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """A source directory with a script that tells all."""
    folder = tmp_path / "src"
    (folder / "pkg").mkdir(parents=True)
    (folder / "train.py").write_text(TELL)
    (folder / "pkg/__init__.py").write_text("ANSWER = 42\n")
    (folder / ".amlignore").write_text("*.csv\n")
    (folder / "large.csv").write_text("x")
    return folder


@pytest.fixture
def estimate(src: Path, results: LocalDatastore, name: Callable[[], str]) -> Any:
    """Makes estimators of flows of their own, whose outputs go to `results`."""

    def make(*inputs: Any, code: str = "", **options: Any) -> Estimator:
        if code:
            (src / "train.py").write_text(textwrap.dedent(code))
        outputs = results.path("out", "outputs").as_upload("outputs", allow_empty=True)
        options.setdefault("source_directory_data_store", results.name)
        options.setdefault("name", f"train-{uuid.uuid4().hex[:8]}")
        return Estimator(src, entry_script="train.py", inputs=[*inputs, outputs], **options)

    return make


@pytest.fixture
def pool() -> Iterator[str]:
    """A process pool of the test's own."""
    made = f"pool-{uuid.uuid4().hex[:8]}"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=made, type="process"))
    yield made
    with get_client(sync_client=True) as client:
        client.delete_work_pool(made)


def deployment(deployed: Deployed) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_deployment(deployed.id)


# -- a deployment ---------------------------------------------------------------------------------------


def test_a_deployment_says_where_its_source_is_and_shows_typed_parameters(
    estimate: Any, results: LocalDatastore, pool: str
) -> None:
    est = estimate(script_params={"--lr": 0.1, "--deep": True, "--kind": "svm", "--data": results})
    deployed = est.deploy(
        "nightly",
        pool,
        cron="0 2 * * *",
        timezone="Europe/Berlin",
        parameters={"lr": 0.5},
        job_variables={"env": {"A": "b"}},
        tags=["t"],
        description="Says what it is.",
        concurrency_limit=2,
    )
    made = deployment(deployed)
    assert deployed.name == f"{est.name}/nightly"
    assert deployed.url.endswith(f"/deployments/deployment/{deployed.id}")
    assert (made.work_pool_name, made.tags, made.description) == (pool, ["t"], "Says what it is.")
    assert made.job_variables == {"env": {"A": "b"}}
    assert made.parameters == {"lr": 0.5}
    (schedule,) = made.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 2 * * *", "Europe/Berlin")
    shown = made.parameter_openapi_schema["properties"]
    assert {key: (shown[key]["type"], shown[key]["default"]) for key in shown} == {
        "lr": ("number", 0.1),
        "deep": ("boolean", True),
        "kind": ("string", "svm"),
    }
    (step,) = made.pull_steps
    spec = EstimatorSpec.model_validate_json(
        step["prefect_datastores.deployments.steps.pull_estimator"]["spec"]
    )
    assert spec.snapshot == deployed.snapshot
    assert spec.source_directory_data_store == results.name
    assert spec.source_directory == ""
    assert results.exists(f"{SNAPSHOTS}/{deployed.snapshot}.zip")


def test_deploying_again_changes_the_deployment_and_stores_a_source_once(
    estimate: Any, results: LocalDatastore, pool: str, src: Path
) -> None:
    def stored() -> list[str]:
        return [info.name for info in results.list_objects(SNAPSHOTS)]

    est = estimate(script_params={"--lr": 0.1})
    first = est.deploy("nightly", pool, interval=3600, parameters={"lr": 0.2})
    assert est.deploy("nightly", pool, interval=3600, parameters={"lr": 0.2}) == first
    assert len(deployment(first).schedules) == len(stored()) == 1
    assert deployment(first).schedules[0].schedule.interval == timedelta(hours=1)

    (src / "large.csv").write_text("left out, so nothing of the source changed")
    assert est.deploy("nightly", pool).snapshot == first.snapshot
    assert (deployment(first).schedules, deployment(first).parameters) == ([], {})

    (src / "pkg/__init__.py").write_text("ANSWER = 43\n")
    changed = est.deploy("nightly", pool, rrule="FREQ=DAILY")
    assert changed.id == first.id
    assert changed.snapshot != first.snapshot
    assert len(stored()) == 2
    assert deployment(first).version != ""
    assert deployment(first).schedules[0].schedule.rrule == "FREQ=DAILY"
    assert est.deploy("other", pool).id != first.id


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"cron": "0 2 * * *", "interval": 60}, "Two schedules were given, cron and interval"),
        ({"rrule": "FREQ=DAILY", "schedule": Cron("0 2 * * *")}, "Two schedules"),
        ({"cron": "every night"}, "cron='every night' is no schedule"),
        ({"cron": "0 2 * * *", "timezone": "Berlin"}, "is no schedule"),
        ({"rrule": "DAILY"}, "rrule='DAILY' is no schedule"),
        ({"interval": 0}, "interval=0 is no schedule"),
        ({"interval": timedelta(seconds=-1)}, "is no schedule"),
        ({"timezone": "UTC"}, "timezone is that of"),
        ({"parameters": {"rate": 1}}, "no parameter 'rate'; it has: lr"),
        ({"parameters": {"lr": "much"}}, "A parameter of .* is refused"),
        ({"work_pool_name": "no-such-pool"}, "There is no work pool 'no-such-pool'"),
        ({"work_pool_name": None}, "No work_pool_name was given"),
        ({"name": "a/b"}, "cannot be deployed"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_deployed(
    options: dict[str, Any], why: str, estimate: Any, results: LocalDatastore, pool: str
) -> None:
    est = estimate(script_params={"--lr": 0.1})
    given = {"name": "nightly", "work_pool_name": pool, **options}
    with pytest.raises(ConfigurationError, match=why):
        est.deploy(**given)
    with get_client(sync_client=True) as client:
        assert [each for each in client.read_deployments() if each.name == given["name"]] == [] or (
            not [
                each
                for each in client.read_deployments()
                if each.entrypoint == "estimator.py:flow" and each.work_pool_name == pool
            ]
        )
