"""The example deployments are deployed to a real server; a real worker runs the one that it can run here."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import toml
import yaml
from click.testing import CliRunner
from prefect.client.orchestration import get_client

from prefect_datastores import Datastore
from prefect_datastores.cli import main
from prefect_datastores.compute.pools import extended_template
from prefect_datastores.demo.digits import write_digits

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
        pool = ("--type", pool_type, "--overwrite", DEPLOYMENTS[name]["work_pool"]["name"])
        made_of = ("--base-job-template", str(template))
        prefect("work-pool", "create", *pool, *made_of, directory=project)
    deploy(*POOLS, project=project)
    for name in POOLS:
        deployed, pool = known(f"/deployments/name/train/{name}"), DEPLOYMENTS[name]["work_pool"]
        assert deployed["job_variables"] == pool["job_variables"]
        assert deployed["parameters"] == DEPLOYMENTS[name]["parameters"]
        schema = known(f"/work_pools/{pool['name']}")["base_job_template"]["variables"]
        assert set(pool["job_variables"]) <= set(schema["properties"]), name
        jsonschema.validate(pool["job_variables"], {**schema, "required": []})


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
