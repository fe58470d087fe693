"""A process pool and its worker, for tests; a module gets them by `pytest_plugins = ["workers"]`."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.workers.process import ProcessWorker
from servers.prefect_server import PrefectServer

_END_SECONDS = 20


@contextmanager
def started(*command: str, directory: Path, log: Path, **variables: str) -> Iterator[None]:
    """Have a program of Python run in a directory for a while; it ends as by Ctrl-C."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=directory,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scratch space of the test's own, here and in the processes that it starts."""
    folder = tmp_path / "scratch"
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_SCRATCH_ROOT", str(folder))
    return folder


@pytest.fixture
def pool(prefect_api: PrefectServer) -> Iterator[str]:
    """A process pool of the test's own."""
    made = f"pool-{uuid.uuid4().hex[:8]}"
    template = ProcessWorker.get_default_base_job_template()  # as the command line gives it
    with get_client(sync_client=True) as client:
        client.create_work_pool(
            WorkPoolCreate(name=made, type="process", base_job_template=template)
        )
    yield made
    with get_client(sync_client=True) as client:
        client.delete_work_pool(made)


@pytest.fixture
def worker(pool: str, tmp_path: Path, scratch: Path) -> Iterator[Path]:
    """A worker of the pool, in an empty directory, which the fixture gives."""
    directory = tmp_path / "worker"
    directory.mkdir()
    command = ("-m", "prefect", "worker", "start", "--pool", pool, "--type", "process")
    log = tmp_path / "worker.log"
    with started(*command, directory=directory, log=log, PREFECT_WORKER_QUERY_SECONDS="1"):
        yield directory
