"""The example deployment is deployed to a real server, and a real worker runs it."""

import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from prefect_datastores import Datastore
from prefect_datastores.demo.digits import write_digits

ROOT = Path(__file__).parent.parent

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


def test_the_example_is_deployed_and_a_worker_runs_it(tmp_path: Path) -> None:
    name = f"digits_{uuid.uuid4().hex[:8]}"
    store = Datastore.register_local(name, tmp_path / "store")
    write_digits(tmp_path / "digits")
    store.upload(tmp_path / "digits", "digits")
    project = tmp_path / "project"
    for folder in ("flows", "deployments"):
        shutil.copytree(
            ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__")
        )

    prefect("work-pool", "create", "--type", "process", "--overwrite", "staging", directory=project)
    prefect(
        "--no-prompt",
        "deploy",
        "--all",
        "--prefect-file",
        "deployments/prefect.yaml",
        directory=project,
    )
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
