"""The example deployments are deployed to a real server; a real worker runs the one that it can run here."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import toml
import yaml
from azure.storage.blob import ContainerClient
from click.testing import CliRunner
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.runtime import flow_run
from prefect.transactions import transaction
from prefect.workers.process import ProcessWorker
from servers.azurite import Azurite

from prefect_datastores import Datastore, upload
from prefect_datastores.cli import main
from prefect_datastores.compute.pools import extended_template
from prefect_datastores.demo.digits import write_digits
from prefect_datastores.errors import DatastoreNotFound

ROOT = Path(__file__).parent.parent
DEPLOYMENTS = {
    one["name"]: one
    for one in yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())["deployments"]
}
DEFAULTS = {
    path.name.rpartition("-")[0]: path for path in sorted((ROOT / "tests/pools").glob("*.json"))
}
# The pools that run containers, by the deployment for each, and the templates that they are made with.
POOLS = {
    "nightly-docker": ("docker", DEFAULTS["docker"]),
    "nightly-kubernetes": ("kubernetes", ROOT / "deployments/pools/kubernetes.json"),
    "nightly-instances": (
        "azure-container-instance",
        ROOT / "deployments/pools/azure-container-instance.json",
    ),
}

pytestmark = [pytest.mark.usefixtures("prefect_api"), pytest.mark.timeout(400)]


def prefect(*arguments: str, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        cwd=directory,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make_pool(name: str, pool_type: str, template: dict[str, Any]) -> None:
    made = WorkPoolCreate(name=name, type=pool_type, base_job_template=template)
    with get_client(sync_client=True) as client:
        client.create_work_pool(made, overwrite=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what is deployed."""
    for folder in ("flows", "deployments"):
        shutil.copytree(
            ROOT / folder,
            tmp_path / "project" / folder,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return tmp_path / "project"


def deploy(*names: str, project: Path) -> None:
    chosen = [word for name in names for word in ("--name", name)]
    file = ("--prefect-file", "deployments/prefect.yaml")
    prefect("--no-prompt", "deploy", *file, *chosen, directory=project)


def test_the_example_is_deployed_and_a_worker_runs_it(tmp_path: Path, project: Path) -> None:
    name = f"digits_{uuid.uuid4().hex[:8]}"
    store = Datastore.register_local(name, tmp_path / "store")
    write_digits(tmp_path / "digits")
    store.upload(tmp_path / "digits", "digits")

    prefect("work-pool", "create", "--type", "process", "--overwrite", "staging", directory=project)
    deploy("nightly", project=project)
    run = (
        "deployment",
        "run",
        "train/nightly",
        "--param",
        f"datastore={name}",
        "--param",
        "path=digits",
    )
    prefect(*run, directory=project)
    worker = ("worker", "start", "--pool", "staging", "--run-once", "--type", "process")
    prefect(*worker, directory=project)

    assert store.exists("digits-model/model.joblib")


def known(path: str) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        found: dict[str, Any] = client.request("GET", path).json()
    return found


def test_deployments_in_containers_are_what_their_pools_take(project: Path) -> None:
    for name, (pool_type, template) in POOLS.items():
        pool = DEPLOYMENTS[name]["work_pool"]["name"]
        make_pool(pool, pool_type, json.loads(template.read_text()))
    deploy(*POOLS, project=project)
    for name in POOLS:
        deployed, pool = known(f"/deployments/name/train/{name}"), DEPLOYMENTS[name]["work_pool"]
        assert deployed["job_variables"] == pool["job_variables"]
        assert deployed["parameters"] == DEPLOYMENTS[name]["parameters"]
        schema = known(f"/work_pools/{pool['name']}")["base_job_template"]["variables"]
        assert set(pool["job_variables"]) <= set(schema["properties"]), name
        jsonschema.validate(pool["job_variables"], {**schema, "required": []})


@pytest.fixture
def name_of_the_examples() -> Iterator[None]:
    """Forgets the datastores that the examples name; who uses them is in one group of tests."""
    yield
    for name in ("raw", "training"):
        with contextlib.suppress(DatastoreNotFound):
            Datastore.unregister(name)


@pytest.mark.usefixtures("name_of_the_examples")
@pytest.mark.xdist_group("the default datastore")
@pytest.mark.parametrize("name", list(POOLS))
def test_what_a_job_gets_for_its_data_is_what_the_command_of_the_comment_prints(name: str) -> None:
    there = {"account_name": "acme", "account_key": "a2V5", "skip_validation": True}
    Datastore.register_azure_blob_container(
        datastore_name="raw", container_name="raw", overwrite=True, **there
    )
    Datastore.register_azure_file_share(
        datastore_name="training", file_share_name="training", overwrite=True, **there
    )
    comment = (ROOT / "deployments/prefect.yaml").read_text().replace("\\\n#", " ")
    (command,) = re.findall(
        rf"^#   prefect-datastores (job-variables {POOLS[name][0]} .*)$", comment, re.MULTILINE
    )
    done = CliRunner().invoke(main, shlex.split(command))
    wanted = {
        key: value
        for key, value in DEPLOYMENTS[name]["work_pool"]["job_variables"].items()
        if key != "image"
    }
    assert json.loads(done.stdout) == wanted


@pytest.mark.parametrize("pool_type", ["kubernetes", "azure-container-instance"])
def test_the_templates_of_pools_are_prefects_own_with_a_place_for_data(pool_type: str) -> None:
    shipped = json.loads((ROOT / f"deployments/pools/{pool_type}.json").read_text())
    assert shipped == extended_template(pool_type, json.loads(DEFAULTS[pool_type].read_text()))


def test_the_dockerfile_takes_files_that_are_there_and_extras_that_exist() -> None:
    text = (ROOT / "deployments/Dockerfile").read_text().replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]
    copied = [file for kind, rest in steps if kind == "COPY" for file in rest.split()[:-1]]
    assert [file for file in copied if not (ROOT / file).exists()] == []
    # What the build of the package reads has to be in the image.
    project = toml.loads((ROOT / "pyproject.toml").read_text())
    assert {"pyproject.toml", project["project"]["readme"], "prefect_datastores"} <= set(copied)
    (install,) = [rest for kind, rest in steps if kind == "RUN" and rest.startswith("pip")]
    (extras,) = re.findall(r"\.\[(.*)\]", install)
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    assert re.search(r"-c (\S+)", install).group(1) in copied  # type: ignore[union-attr]
    (base,) = [rest for kind, rest in steps if kind == "FROM"]
    assert base.startswith(
        "prefecthq/prefect:"
    )  # its entrypoint is what the instances' worker calls
    (folder,) = [rest for kind, rest in steps if kind == "WORKDIR"]
    for name in POOLS:
        (step,) = DEPLOYMENTS[name]["pull"]
        assert step["prefect.deployments.steps.set_working_directory"]["directory"] == folder
        assert DEPLOYMENTS[name]["entrypoint"].split("/")[0] in copied


# Events.


def asked(path: str, body: dict[str, Any]) -> Any:
    with get_client(sync_client=True) as client:
        return client.request("POST", path, json=body).json()


def events_of(place: str) -> list[dict[str, Any]]:
    """The events of a place that the server knows, oldest first."""
    wanted = {
        "event": {"name": ["datastore.published"]},
        "resource": {"id": [place]},
        "order": "ASC",
    }
    found: list[dict[str, Any]] = asked("/events/filter", {"filter": wanted})["events"]
    return found


def once(found: Callable[[], Any], seconds: float = 90) -> Any:
    """What is found, as soon as anything is."""
    until = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.2)
    return result


@flow
def store(folder: Path, name: str, path: str, fails: bool = False) -> str:
    with transaction():
        upload(folder, Datastore.get(name).path(path).as_upload(publish="atomic"))
        if fails:
            raise RuntimeError("the check failed")
    return str(flow_run.id)


def test_an_upload_says_that_something_is_there_when_it_is_there_to_stay(
    tmp_path: Path, azurite: Azurite, container: ContainerClient
) -> None:
    name = f"events_{uuid.uuid4().hex[:8]}"
    Datastore.register_azure_blob_container(
        datastore_name=name,
        container_name=container.container_name,
        account_name=azurite.account,
        account_key=azurite.key,
        protocol="http",
        endpoint=f"{azurite.host}:{azurite.port}",
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model/a b.txt").write_text("first")
    with pytest.raises(RuntimeError, match="the check failed"):
        store(tmp_path / "model", name, "models/a b", fails=True)
    run_id = store(tmp_path / "model", name, "models/a b")
    store(tmp_path / "model", name, "models/a b")  # nothing is new
    (tmp_path / "model/a b.txt").write_text("second!")
    store(tmp_path / "model", name, "models/a b")

    place = f"datastore://{name}/models/a%20b"
    once(lambda: len(events_of(place)) > 1)
    first, second = events_of(place)
    assert first["resource"]["prefect.resource.name"] == f"{name}:models/a b"
    assert {key: first["payload"][key] for key in ("datastore", "path", "publish", "bytes")} == {
        "datastore": name,
        "path": "models/a b",
        "publish": "atomic",
        "bytes": 5,
    }
    assert first["payload"]["generation"] != second["payload"]["generation"] != ""
    assert azurite.key not in json.dumps([first, second])
    assert f"prefect.flow-run.{run_id}" in {
        related["prefect.resource.id"] for related in first["related"]
    }


@pytest.mark.usefixtures("name_of_the_examples")
@pytest.mark.xdist_group("the default datastore")
def test_an_automation_runs_a_deployment_when_something_was_stored(
    tmp_path: Path, project: Path
) -> None:
    make_pool("staging", "process", ProcessWorker.get_default_base_job_template())
    deploy("on-new-digits", project=project)
    deployed = known("/deployments/name/train/on-new-digits")
    Datastore.register_local("raw", tmp_path / "store", overwrite=True)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/train.csv").write_text("1,2")

    def runs() -> list[dict[str, Any]]:
        of_it = {"deployments": {"id": {"any_": [deployed["id"]]}}}
        found: list[dict[str, Any]] = asked("/flow_runs/filter", of_it)
        return found

    def runs_after_another_upload() -> list[dict[str, Any]]:
        # The server learns of a new automation in its own time.
        (tmp_path / "digits/train.csv").write_text(uuid.uuid4().hex)
        store(tmp_path / "digits", "raw", "other")
        store(tmp_path / "digits", "raw", "digits")
        time.sleep(1)
        return runs()

    try:
        started, *_ = once(runs_after_another_upload)
        assert started["parameters"] == {"datastore": "raw", "path": "digits"}
        assert {run["parameters"]["path"] for run in runs()} == {"digits"}
    finally:
        with get_client(sync_client=True) as client:  # or other tests' workers would run it
            client.request("DELETE", f"/deployments/{deployed['id']}")
