"""Estimators and flows are deployed from a snapshot, and a real worker runs them in a fresh directory."""

import asyncio
import contextlib
import json
import re
import shutil
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
from prefect.deployments import run_deployment
from prefect.deployments.steps.core import run_steps
from prefect.exceptions import ObjectNotFound as PrefectObjectNotFound
from prefect.exceptions import ParameterTypeError
from prefect.flows import load_flow_from_entrypoint
from prefect.schedules import Cron

from prefect_datastores import Datastore, Estimator, LocalDatastore
from prefect_datastores.deployments.carrying import SNAPSHOTS
from prefect_datastores.deployments.deploying import Deployed
from prefect_datastores.deployments.steps import (
    pull_estimator,
    pull_from_datastore,
    push_to_datastore,
)
from prefect_datastores.deployments.storage import DatastoreStorage
from prefect_datastores.errors import (
    ConfigurationError,
    DatastoreError,
    DatastoreNotFound,
    ObjectNotFound,
    SnapshotTooLarge,
)
from prefect_datastores.estimator_spec import EstimatorSpec
from prefect_datastores.runs import Run

pytest_plugins = ["workers"]
pytestmark = [pytest.mark.usefixtures("prefect_api", "scratch"), pytest.mark.timeout(240)]

README = Path(__file__).parent.parent / "README.md"

ENVIRONMENT = {"PREFECT_INTEGRATIONS_DATASTORES_COMPUTE": "process"}
"""What a run on a pool of processes is told of where it is."""

TELL = """
import json, os, sys
with open('outputs/told.json', 'w') as file:
    json.dump({'argv': sys.argv[1:], 'cwd': os.getcwd(), 'files': sorted(os.listdir('.'))}, file)
"""


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
    assert made.job_variables == {"env": {**ENVIRONMENT, "A": "b"}}
    assert made.parameters == {"lr": 0.5}
    (schedule,) = made.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 2 * * *", "Europe/Berlin")
    shown = made.parameter_openapi_schema["properties"]
    assert {key: (shown[key]["type"], shown[key]["default"]) for key in ("lr", "deep", "kind")} == {
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


def in_order(properties: dict[str, Any]) -> list[str]:
    """The fields as Prefect's page shows them: the server keeps no order."""
    return sorted(properties, key=lambda name: properties[name]["position"])


def test_references_are_small_forms_with_datastores_to_choose_from(
    estimate: Any, results: LocalDatastore, pool: str, name: Callable[[], str], tmp_path: Path
) -> None:
    other = Datastore.register_local(name(), tmp_path / "other")
    data = results.path("a").as_download("input")
    est = estimate(
        data,
        results.path("m", "model").as_upload("m", allow_empty=True),
        script_params={"--data": data, "--chosen": other.path("x").as_download(include="*.csv")},
    )
    given = {"data": other.path("b").as_mount(), "model": {"path": "n"}}
    deployed = est.deploy("nightly", pool, parameters=given)
    made = deployment(deployed)
    # Of a form that is given, all is kept: what it begins with may change with the next deployment.
    assert made.parameters == {
        "data": {"datastore": other.name, "path": "b", "mode": "mount"},
        "model": {"datastore": results.name, "path": "n"},
    }
    schema = made.parameter_openapi_schema
    assert in_order(schema["properties"]) == ["data", "chosen", "model", "outputs"]
    forms = {key: schema["definitions"][key]["properties"] for key in schema["properties"]}
    assert {key: in_order(form) for key, form in forms.items()} == {
        "data": ["datastore", "path", "mode"],
        "chosen": ["datastore", "path"],  # a mount would show what the globs leave out
        "model": ["datastore", "path"],
        "outputs": ["datastore", "path"],
    }
    assert forms["data"]["mode"]["enum"] == ["download", "mount"]
    for form in forms.values():
        assert {results.name, other.name, "workspaceblobstore"} <= set(form["datastore"]["enum"])
    assert schema["properties"]["data"]["default"] == {
        "datastore": results.name,
        "path": "a",
        "mode": "download",
    }
    # Refused before there is a run.
    for wrong in ({"datastore": "no_such", "path": ""}, {"mode": "upload"}, {"rows": 1}):
        with pytest.raises(ConfigurationError, match="does not take that"):
            deployed.run(data=wrong)
    with get_client(sync_client=True) as client:
        run = deployed.run(data=results.path("c").as_download(), model=other.path("z").as_upload())
        asked = client.read_flow_run(uuid.UUID(run.id)).parameters
    assert asked["data"] == {"datastore": results.name, "path": "c", "mode": "download"}
    assert asked["model"] == {"datastore": other.name, "path": "z"}


def test_a_run_takes_the_data_that_a_form_names(
    estimate: Any, results: LocalDatastore, name: Callable[[], str], tmp_path: Path
) -> None:
    other = Datastore.register_local(name(), tmp_path / "other")
    for store, path in ((results, "a/x"), (other, "b/c/x"), (other, "d/x")):
        store.write_path(path, path.encode())
    data, more = results.path("a").as_download("input"), other.path("d")
    est = estimate(
        data,
        script_params={
            "--data": data,
            "--all": [data, more.as_download()],
            "--lr": 0.1,
            "--file": f"{data}/x",
        },
        code="""
        import os, sys
        at = sys.argv.index
        (one, (both, last), lr, file) = (
            sys.argv[at('--data') + 1], sys.argv[at('--all') + 1 : at('--all') + 3],
            sys.argv[at('--lr') + 1], sys.argv[at('--file') + 1],
        )
        assert one == both == os.environ['AZUREML_DATAREFERENCE_' + NAME], one
        told = [open(path).read() for path in (one + '/x', last + '/x', file)]
        open('outputs/told', 'w').write(' '.join([*told, lr, os.path.relpath(one)]))
        """.replace("NAME", repr(data.name)),
    )
    flow = Estimator.from_spec(est.as_flow()._storage.stored()).as_flow()
    flow()
    assert results.read_path("out/told") == b"a/x d/x a/x 0.1 input"
    flow(data={"datastore": other.name.upper(), "path": "/b/c/"}, lr=0.2)
    assert results.read_path("out/told") == b"b/c/x d/x b/c/x 0.2 input"
    flow(data=other.path("d", "of_its_own").as_download())
    assert results.read_path("out/told") == b"d/x d/x d/x 0.1 input"
    with pytest.raises(ParameterTypeError, match=r"has the component '\.\.'"):
        flow(data={"path": "../x"})
    with pytest.raises(DatastoreNotFound):
        flow(data={"datastore": "no_such"})


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
    (src / "outputs").mkdir()
    (src / "outputs/model").write_text("last week's")
    assert est.deploy("nightly", pool).snapshot == first.snapshot
    assert (deployment(first).schedules, deployment(first).parameters) == ([], {})

    (src / "pkg/__init__.py").write_text("ANSWER = 43\n")
    changed = est.deploy("nightly", pool, rrule="FREQ=DAILY")
    assert changed.id == first.id
    assert changed.snapshot != first.snapshot
    assert len(stored()) == 2
    assert deployment(first).version != ""
    assert deployment(first).schedules[0].schedule.rrule.endswith("FREQ=DAILY")
    assert est.deploy("other", pool).id != first.id

    given = {"work_queue_name": "urgent", "tags": ["t"], "job_variables": {"env": {"A": "b"}}}
    est.deploy("nightly", pool, concurrency_limit=1, **given)
    assert deployment(first).work_queue_name == "urgent"
    with pytest.raises(ConfigurationError, match=r"'third' cannot be deployed: .*loudly"):
        est.deploy("third", pool, job_variables={"stream_output": "loudly"})
    # In a notebook, where a loop runs, as well.
    asyncio.run(_later(lambda: est.deploy("nightly", pool)))
    made = deployment(first)
    assert (made.work_queue_name, made.tags, made.job_variables) == (
        "default",
        [],
        {"env": ENVIRONMENT},
    )
    assert made.global_concurrency_limit is None


async def _later(work: Callable[[], Any]) -> None:
    work()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"cron": "0 2 * * *", "interval": 60}, "Two schedules were given, cron and interval"),
        ({"rrule": "FREQ=DAILY", "schedule": Cron("0 2 * * *")}, "Two schedules"),
        ({"cron": "every night"}, "cron='every night' is no schedule"),
        ({"cron": "0 2 * * *", "timezone": "Berlin"}, "is no schedule: Invalid timezone"),
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
        assert all(each.work_pool_name != pool for each in client.read_deployments())
    assert results.list_objects() == []


def test_the_datastores_of_a_deployment_are_registered(estimate: Any, src: Path, pool: str) -> None:
    stray = LocalDatastore(root=str(src))
    for est in (
        estimate(stray.path("a").as_download()),
        estimate(source_directory_data_store=stray),
    ):
        with pytest.raises(ConfigurationError, match="not registered, so a worker cannot find it"):
            est.deploy("nightly", pool)
    with pytest.raises(DatastoreNotFound):
        estimate(source_directory_data_store="no_such").deploy("nightly", pool)


def test_a_source_that_is_too_large_or_has_no_script_is_not_deployed(
    estimate: Any, src: Path, pool: str, results: LocalDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (src / ".amlignore").write_text("train.*\n")
    with pytest.raises(ConfigurationError, match=r"train\.py would not be part of the snapshot"):
        estimate().deploy("nightly", pool)
    (src / ".amlignore").unlink()
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_SNAPSHOT_FILES", "1")
    with pytest.raises(SnapshotTooLarge, match=r"3 files .*takes 1 files"):
        estimate().deploy("nightly", pool)
    assert results.list_objects() == []


def test_the_flow_of_an_estimator_is_deployed_by_prefects_own_means(
    estimate: Any, pool: str
) -> None:
    est = estimate(script_params={"--lr": 0.1})
    ours = deployment(est.deploy("ours", pool))
    theirs: Any = est.as_flow()
    made = theirs.deploy(
        "theirs", work_pool_name=pool, print_next_steps=False, ignore_warnings=True
    )
    with get_client(sync_client=True) as client:
        found = client.read_deployment(made)
    assert (found.entrypoint, found.pull_steps) == (ours.entrypoint, ours.pull_steps)
    # All but the datastores to choose from, which only `est.deploy` asks for.
    del ours.parameter_openapi_schema["definitions"]["outputs"]["properties"]["datastore"]["enum"]
    assert found.parameter_openapi_schema == ours.parameter_openapi_schema


# -- what a worker does, here -----------------------------------------------------------------------------


def pulled(deployed: Any, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run a deployment's pull steps as a worker does, and return the run's directory."""
    directory.mkdir()
    monkeypatch.chdir(directory)
    return Path(asyncio.run(run_steps(deployed.pull_steps))["directory"])


def test_what_looks_like_a_placeholder_stays_as_it_is(
    estimate: Any, pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "{{ $HOME }} {{{ prefect.variables.x }}} {{prefect.blocks.secret.y}} }}{{"
    est = estimate(
        script_params={"--prompt": text, "--nested": [text]}, environment_variables={"T": text}
    )
    there = pulled(deployment(est.deploy("nightly", pool)), tmp_path / "run", monkeypatch)
    spec = EstimatorSpec.model_validate_json((there / "estimator.json").read_text())
    assert spec.script_params == est.spec.script_params
    assert spec.environment_variables == {"T": text}


def test_each_run_has_a_directory_of_its_own(
    estimate: Any, pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = deployment(estimate().deploy("nightly", pool))
    one = pulled(made, tmp_path / "shared", monkeypatch)
    two = Path(asyncio.run(run_steps(made.pull_steps))["directory"])
    assert one.parent == two.parent == tmp_path / "shared"
    assert one != two


def test_a_specification_of_another_version_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = {"name": "x", "source_directory": "", "entry_script": "x.py", "of_tomorrow": 1}
    with pytest.raises(ConfigurationError, match="another version of prefect-datastores"):
        pull_estimator(json.dumps(spec))


def test_a_run_whose_snapshot_is_gone_says_so(estimate: Any, results: LocalDatastore) -> None:
    spec = estimate().as_flow()._storage.stored()
    (Path(results.root) / f"{SNAPSHOTS}/{spec.snapshot}.zip").unlink()
    with pytest.raises(ObjectNotFound, match=r"snapshot .* is not in .*Deploy again"):
        Estimator.from_spec(spec).run()


# -- a worker -----------------------------------------------------------------------------------------------


NEEDS_ALL = """
import argparse, json, os, pathlib, subprocess, sys, time, pkg
parser = argparse.ArgumentParser()
parser.add_argument('--data', type=pathlib.Path)
parser.add_argument('--lr', type=float)
given = parser.parse_args()
shown = subprocess.check_output(['./run.sh'], text=True).strip()
data = (given.data / 'x.csv').read_text()
with open('mine', 'x') as file:  # nobody else writes here
    file.write(str(given.lr))
time.sleep(2)
if given.lr < 0:
    sys.exit('it diverged')
told = {'files': sorted(os.listdir('.')), 'data': data, 'shown': shown, 'answer': pkg.ANSWER}
told['mine'], told['cwd'] = open('mine').read(), os.getcwd()
with open(f'outputs/{given.lr}.json', 'w') as file:
    json.dump(told, file)
"""


def test_a_pool_of_containers_is_told_what_the_data_needs(
    blob_place: RemotePlace, src: Path, name: Callable[[], str], results: LocalDatastore
) -> None:
    store, pool = blob_place.register(name()), f"docker-{uuid.uuid4().hex[:8]}"
    template = json.loads((Path(__file__).parent / "pools/docker-0.7.4.json").read_text())
    template = template.get("base_job_template", template)
    with get_client(sync_client=True) as client:
        made = WorkPoolCreate(name=pool, type="docker", base_job_template=template)
        client.create_work_pool(made)
    flow_name = f"train-{uuid.uuid4().hex[:8]}"

    def deploy(outputs: Any, **options: Any) -> Deployed:
        est = Estimator(
            src,
            entry_script="train.py",
            script_params={"--data": store.path("data").as_mount()},
            inputs=[outputs.path("out").as_upload("outputs")],
            source_directory_data_store=store,
            name=flow_name,
        )
        return est.deploy("nightly", pool, **options)

    made_of = deployment(deploy(store, job_variables={"image": "ours:1"})).job_variables
    assert made_of["image"] == "ours:1"
    assert "/dev/fuse" in json.dumps(made_of["container_create_kwargs"])
    # A folder of this machine is in the container where it is here.
    assert f"{results.root}:{results.root}" in deployment(deploy(results)).job_variables["volumes"]
    with get_client(sync_client=True) as client:
        client.delete_work_pool(pool)


def test_a_worker_runs_deployed_estimators_side_by_side(
    blob_place: RemotePlace,
    share_place: RemotePlace,
    src: Path,
    name: Callable[[], str],
    pool: str,
    worker: Path,
    scratch: Path,
    tmp_path: Path,
) -> None:
    (src / "train.py").write_text(NEEDS_ALL)
    (src / "run.sh").write_text("#!/bin/sh\necho it runs\n")
    (src / "run.sh").chmod(0o755)
    stores = [place.register(name()) for place in (blob_place, share_place)]
    deployed = []
    for store in stores:
        store.write_path("data/x.csv", store.name.encode())
        est = Estimator(
            src,
            entry_script="train.py",
            script_params={"--data": store.path("data").as_download(), "--lr": 0.1},
            inputs=[store.path("out").as_upload("outputs")],
            source_directory_data_store=store,
            name=f"train-{uuid.uuid4().hex[:8]}",
        )
        deployed.append(est.deploy("nightly", pool))
        assert (
            store.auth.account_key.get_secret_value()
            not in deployment(deployed[-1]).model_dump_json()
        )
    # The worker has the package and the datastores, and no source.
    src.rename(tmp_path / "gone")

    blob, share = deployed
    runs = [blob.run(), blob.run(lr=0.5), share.run(lr=0.25)]
    failing = blob.run(lr=-1)
    for run in runs:
        assert run.wait_for_completion() == "Completed"
    with pytest.raises(DatastoreError, match="it diverged"):
        failing.wait_for_completion()

    told = {
        (store.name, info.name): json.loads(store.read_path(info.name))
        for store in stores
        for info in store.list_objects("out")
    }
    assert sorted(told) == sorted(
        [
            *((stores[0].name, "out/0.1.json"), (stores[0].name, "out/0.5.json")),
            (stores[1].name, "out/0.25.json"),
        ]
    )
    for (store_name, output), said in told.items():
        assert said["data"] == store_name
        assert (said["shown"], said["answer"]) == ("it runs", 42)
        assert f"out/{said['mine']}.json" == output
        assert said["files"] == [".amlignore", "mine", "outputs", "pkg", "run.sh", "train.py"]
        assert Path(said["cwd"]).is_relative_to(scratch)
    # Each had a folder of its own; that of the one which failed is kept, as are no others.
    assert len({said["cwd"] for said in told.values()}) == len(told)
    assert [path.name for path in (scratch / "runs").iterdir()] == [failing.id]
    assert (scratch / "runs" / failing.id / "code/mine").read_text() == "-1.0"
    assert list(worker.iterdir()) == []


SERVE = """
from prefect_datastores import Datastore, Estimator
results = Datastore.get(RESULTS)
est = Estimator(
    SOURCE, entry_script="train.py", name=NAME, source_directory_data_store=results,
    inputs=[results.path("out").as_upload("outputs")],
)
est.as_flow().serve("served")
"""


def test_the_flow_of_an_estimator_is_served_as_any_other(
    src: Path, results: LocalDatastore, tmp_path: Path
) -> None:
    from workers import started

    flow_name = f"train-{uuid.uuid4().hex[:8]}"
    shown = SERVE.replace("RESULTS", repr(results.name)).replace("NAME", repr(flow_name))
    (tmp_path / "serve.py").write_text(shown.replace("SOURCE", repr(str(src))))
    (tmp_path / "run").mkdir()
    ask: Any = run_deployment
    with started(
        str(tmp_path / "serve.py"),
        directory=tmp_path / "run",
        log=tmp_path / "serve.log",
        PREFECT_RUNNER_POLL_FREQUENCY="1",
    ):
        until = time.monotonic() + 90
        while True:
            with contextlib.suppress(PrefectObjectNotFound):
                run = ask(f"{flow_name}/served", timeout=0, _sync=True)
                break
            assert time.monotonic() < until, (tmp_path / "serve.log").read_text()
            time.sleep(0.5)
        # What runs is what was there when it was served.
        (src / "train.py").write_text("raise SystemExit('another one')")
        assert Run(run.id).wait_for_completion() == "Completed"
    assert json.loads(results.read_path("out/told.json"))["argv"] == []
    assert list((tmp_path / "run").iterdir()) == []


# -- code of any flow -----------------------------------------------------------------------------------------


CODE = """
from pathlib import Path
from prefect import flow
import numbers_of

@flow
def double(x: int = 1) -> str:
    return f"{2 * x} {numbers_of.NAME} {(Path(__file__).parent / 'large.csv').exists()}"
"""


@pytest.fixture
def project(src: Path) -> Path:
    """A directory with a flow."""
    (src / "double.py").write_text(CODE)
    (src / "numbers_of.py").write_text("NAME = 'one'\n")
    return src


def test_steps_carry_code_over_each_kind_of_datastore(
    kept: Place,
    project: Path,
    name: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = name()
    store: Any = kept.register(chosen)
    given = push_to_datastore(chosen, str(project))
    assert given == {"datastore": chosen, "snapshot": given["snapshot"]}
    (project / "numbers_of.py").write_text("NAME = 'two'\n")
    store.put_directory(str(project), "flows/double")

    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    for taken, named in ((given, "one"), ({"datastore": chosen, "path": "flows/double"}, "two")):
        there = Path(pull_from_datastore(**taken)["directory"])
        assert there.is_relative_to(tmp_path / "run")
        assert (there / "numbers_of.py").read_text() == f"NAME = '{named}'\n"
        assert (there / "double.py").read_text() == CODE
    with pytest.raises(ObjectNotFound):
        pull_from_datastore(chosen, path="flows/dou")
    for wrong in ({}, {"snapshot": "0" * 64, "path": "x"}):
        with pytest.raises(ConfigurationError, match="takes a snapshot"):
            pull_from_datastore(chosen, **wrong)


def test_a_project_is_deployed_by_the_steps_that_the_readme_shows(
    project: Path,
    results: LocalDatastore,
    pool: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flow_name = f"double-{uuid.uuid4().hex[:8]}"
    (project / "double.py").write_text(CODE.replace("@flow", f"@flow(name={flow_name!r})"))
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    steps = shown.replace("datastore: raw", f"datastore: {results.name}").replace(
        ": cpu", f": {pool}"
    )
    (project / "prefect.yaml").write_text(steps)
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with get_client(sync_client=True) as client:
        made = client.read_deployment_by_name(f"{flow_name}/nightly")
    (project / "numbers_of.py").write_text("NAME = 'what was not deployed'\n")
    there = pulled(made, tmp_path / "run", monkeypatch)
    loaded: Any = load_flow_from_entrypoint(str(there / str(made.entrypoint)))
    assert loaded.fn(x=21) == "42 one False"


def test_a_flow_comes_from_a_directory_and_goes_to_a_worker_as_it_was(
    project: Path,
    results: LocalDatastore,
    pool: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source: Any = DatastoreStorage(results.name, directory=project)
    loaded = flow.from_source(source=source, entrypoint="double.py:double")  # type: ignore[attr-defined]
    assert loaded.name == "double"
    (project / "numbers_of.py").write_text("NAME = 'two'\n")
    made = loaded.deploy(
        f"d-{uuid.uuid4().hex[:8]}",
        work_pool_name=pool,
        print_next_steps=False,
        ignore_warnings=True,
    )
    with get_client(sync_client=True) as client:
        deployed = client.read_deployment(made)
    there = pulled(deployed, tmp_path / "run", monkeypatch)
    assert (there / "numbers_of.py").read_text() == "NAME = 'one'\n"
    assert source.pull_interval is None


def test_a_flow_comes_from_a_folder_of_each_kind_of_datastore(
    kept: Place, project: Path, name: Callable[[], str], tmp_path: Path
) -> None:
    store: Any = kept.register(name())
    store.put_directory(str(project), "flows")
    source = DatastoreStorage(store, path="flows/")
    assert source == DatastoreStorage(store.name, path="./flows")
    assert hash(source) == hash(DatastoreStorage(store.name, path="./flows"))
    assert source != DatastoreStorage(store.name, path="other")
    assert source.to_pull_step() == {
        "prefect_datastores.deployments.steps.pull_from_datastore": {
            "datastore": store.name,
            "path": "flows",
        }
    }
    source.set_base_path(tmp_path / "base")
    asyncio.run(source.pull_code())
    assert (source.destination / "numbers_of.py").read_text() == "NAME = 'one'\n"
    # As it is then: what is no more there is no more here.
    store.write_path("flows/numbers_of.py", b"NAME = 'two'\n")
    (source.destination / "stray").write_text("")
    asyncio.run(source.pull_code())
    assert (source.destination / "numbers_of.py").read_text() == "NAME = 'two'\n"
    assert not (source.destination / "stray").exists()
    assert [path.name for path in (tmp_path / "base").iterdir()] == [source.destination.name]


def test_a_pull_that_fails_leaves_the_code_that_is_there(
    project: Path, results: LocalDatastore, tmp_path: Path
) -> None:
    results.put_directory(str(project), "flows")
    source = DatastoreStorage(results, path="flows")
    source.set_base_path(tmp_path / "base")
    asyncio.run(source.pull_code())
    shutil.rmtree(Path(results.root) / "flows")
    with pytest.raises(ObjectNotFound):
        asyncio.run(source.pull_code())
    assert (source.destination / "numbers_of.py").exists()
    assert [path.name for path in (tmp_path / "base").iterdir()] == [source.destination.name]


def test_a_storage_is_of_one_place() -> None:
    for wrong in ({}, {"directory": ".", "path": "x"}):
        with pytest.raises(ConfigurationError, match="a directory of this machine or a path"):
            DatastoreStorage("raw", **wrong)
    with pytest.raises(ConfigurationError, match="not registered, so a worker cannot find it"):
        DatastoreStorage(LocalDatastore(root="/nowhere"), path="x").to_pull_step()
