"""What is made good when a run's process is gone: only what is of it, and only where nobody else did."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect import State, flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_HOME, temporary_settings
from prefect.states import (
    AwaitingRetry,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Paused,
    Pending,
    Running,
)
from servers import prefect_server
from servers.processes import free_port

from prefect_datastores.settings import notes_root
from prefect_datastores.supervision import settle
from prefect_datastores.supervision.notes import Note, Process, notes, process, write
from prefect_datastores.supervision.settle import settle_left

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of the test's own, here and in the processes that it starts."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    with temporary_settings({PREFECT_HOME: tmp_path / "home"}):
        yield tmp_path / "home"


@pytest.fixture(scope="module")
def dead() -> Process:
    """A process that is gone."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as one:
        return process(one.pid)


def run_in(*states: State[Any]) -> FlowRun:
    """A flow run that had these states."""

    @flow
    def work() -> None:
        pass

    with get_client(sync_client=True) as client:
        made = client.create_flow_run(work)
        for state in states:
            client.set_flow_run_state(made.id, state, force=True)
        return client.read_flow_run(made.id)


def state_of(run: FlowRun) -> State[Any]:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run.id).state
    assert state is not None
    return state


def left(of: Process, *runs: FlowRun, **more: Any) -> Path:
    """What a process left that had these runs, the outermost first."""
    path = notes_root() / f"{of.pid}.json"
    given = {"reporter": None, "folders": {}, **more}
    write(path, Note(of, runs={str(run.id): run.run_count for run in runs}, **given))
    return path


def wait_for(holds: Callable[[], Any], seconds: float = 90) -> Any:
    until = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return found


# -- the state that is shown ------------------------------------------------------------------------------


def test_a_run_that_is_shown_as_running_is_reported_and_those_below_it(dead: Process) -> None:
    above, below = run_in(Running()), run_in(Running())
    path = left(dead, above, below)
    (one,) = settle_left(0.0)
    assert [line.rpartition(" ")[2] for line in one.told] == ["Crashed.", "Crashed."]
    for run in (above, below):
        assert state_of(run).is_crashed()
        assert f"process ({dead.pid} on {dead.host}) is gone" in (state_of(run).message or "")
    assert not path.exists()
    assert settle_left(0.0) == []


def test_a_run_that_was_to_be_cancelled_is_cancelled(dead: Process) -> None:
    run = run_in(Running(), Cancelling())
    left(dead, run)
    settle_left(0.0)
    assert state_of(run).is_cancelled()


@pytest.mark.parametrize(
    "state", [Completed(), Failed(), Crashed(), AwaitingRetry(), Paused()], ids=lambda one: one.name
)
def test_what_has_ended_or_waits_is_left_alone(dead: Process, state: State[Any]) -> None:
    run = run_in(Running(), state)
    path = left(dead, run)
    before = state_of(run)
    settle_left(0.0)
    assert (state_of(run).id, path.exists()) == (before.id, False)


def test_a_run_that_was_begun_again_is_left_alone(dead: Process) -> None:
    before = run_in(Running())
    path = left(dead, before)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(before.id, AwaitingRetry(), force=True)
        client.set_flow_run_state(before.id, Running(), force=True)
    settle_left(0.0)
    assert (state_of(before).name, path.exists()) == ("Running", False)


def test_task_runs_of_threads_are_reported_and_others_may_go_on(dead: Process) -> None:
    """Those of a runner of processes, or of other machines, may live."""

    @task
    def read() -> None:
        pass

    here, elsewhere = run_in(Running()), run_in(Running())
    with get_client(sync_client=True) as client:

        def begun(run: FlowRun, key: str, state: State[Any]) -> UUID:
            return client.create_task_run(read, run.id, dynamic_key=key, state=state).id

        made = {
            "running": begun(here, "0", Running()),
            "waiting": begun(here, "1", Pending()),
            "ended": begun(here, "2", Completed()),
            "elsewhere": begun(elsewhere, "0", Running()),
        }
        left(dead, here, elsewhere, with_tasks=[str(here.id)])
        settle_left(0.0)
        states = {key: client.read_task_run(one).state for key, one in made.items()}
    assert {key: state and state.type.value for key, state in states.items()} == {
        "running": "CRASHED",
        "waiting": "CRASHED",
        "ended": "COMPLETED",
        "elsewhere": "RUNNING",
    }
    assert str(dead.pid) in ((states["running"] and states["running"].message) or "")


def test_a_run_that_was_deleted_is_no_fault(dead: Process) -> None:
    gone, other = run_in(Running()), run_in(Running())
    with get_client(sync_client=True) as client:
        client.delete_flow_run(gone.id)
    path = left(dead, gone, other)
    settle_left(0.0)
    assert (state_of(other).is_crashed(), path.exists()) == (True, False)


def test_a_worker_that_lives_says_it_first(dead: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_in(Running())
    left(dead, run, reporter=process(os.getpid()))
    settling = threading.Thread(target=settle_left)
    settling.start()
    time.sleep(2 * settle._ALONE_SECONDS)  # it would have been reported by now
    assert state_of(run).is_running()
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Crashed(message="said the worker"))
    settling.join()
    assert state_of(run).message == "said the worker"


def test_a_worker_that_lives_and_says_nothing_is_not_waited_for_without_an_end(
    dead: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "_REPORT_SECONDS", dict.fromkeys(settle._REPORT_SECONDS, 3.0))
    run = run_in(Running())
    left(dead, run, reporter=process(os.getpid()))
    settle_left()
    assert state_of(run).is_crashed()


# -- whose process is gone --------------------------------------------------------------------------------


def test_what_lives_or_may_live_elsewhere_is_left_alone(dead: Process) -> None:
    run = run_in(Running())
    for of in (
        process(os.getpid()),
        replace(dead, host="another"),
        replace(dead, namespace="pid:[1]"),
    ):
        path = left(of, run)
        assert settle_left(0.0) == []
        assert state_of(run).is_running()
        path.unlink()
    left(replace(dead, pid=os.getpid(), boot="before"), run)
    settle_left(0.0)
    assert state_of(run).is_crashed()


def test_a_folder_that_another_process_has_now_stays(dead: Process, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    again = notes_root() / "again.json"
    write(again, Note(process(os.getpid()), None, {}, {str(folder): False}))
    left(dead, folders={str(folder): False})
    settle_left(0.0)
    assert folder.exists()
    again.unlink()
    left(dead, folders={str(folder): False})
    settle_left(0.0)
    assert not folder.exists()


# -- the watcher ------------------------------------------------------------------------------------------

WATCHED = """
import os, sys, time
from pathlib import Path
from prefect_datastores.supervision import watched
folder = Path(sys.argv[1])
with watched.watched(folder, keep=False):
    (folder / "x").touch()
    if sys.argv[2] == "fork" and os.fork() == 0:
        time.sleep(600)
    (folder.parent / "pid~").write_text(f"{os.getpid()} {watched._here()._watcher.pid}")
    (folder.parent / "pid~").rename(folder.parent / "pid")
    if sys.argv[2] != "end":
        time.sleep(600)
"""


def watched(folder: Path, how: str) -> tuple[subprocess.Popen[bytes], int]:
    folder.mkdir()
    one = subprocess.Popen([sys.executable, "-c", WATCHED, str(folder), how])
    wait_for((folder.parent / "pid").exists)
    _, watcher = (folder.parent / "pid").read_text().split()
    return one, int(watcher)


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_what_a_killed_process_had_is_removed(tmp_path: Path, how: str) -> None:
    """One that it forked holds all open that it had open, and lives on."""
    folder = tmp_path / "run"
    one, number = watched(folder, how)
    watcher = psutil.Process(number)
    forked = psutil.Process(one.pid).children()
    used = watcher.cpu_times()
    assert used.user + used.system < 0.3
    assert watcher.memory_info().rss < 20 * 2**20
    one.kill()
    one.wait()
    try:
        wait_for(lambda: not folder.exists())
        wait_for(lambda: not notes(notes_root()))
    finally:
        for child in forked:
            if child.pid != watcher.pid:
                child.kill()
    wait_for(lambda: not watcher.is_running())


def test_a_process_that_ends_leaves_no_note_and_no_watcher(tmp_path: Path) -> None:
    one, watcher = watched(tmp_path / "run", "end")
    assert one.wait(60) == 0
    assert not psutil.pid_exists(watcher)
    assert (tmp_path / "run/x").exists()  # whose block ended removes it itself
    assert list(notes_root().iterdir()) == []


# -- a server that is away --------------------------------------------------------------------------------


def doctor(api_url: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "prefect_datastores.cli", "doctor", "--json"],
        env={**os.environ, "PREFECT_API_URL": api_url},
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_what_the_server_could_not_be_told_is_told_by_the_doctor(dead: Process) -> None:
    run = run_in(Running())
    path = left(dead, run)
    (one,) = doctor(f"http://127.0.0.1:{free_port()}/api")["ended"]
    assert "Connect" in one["reason"]
    assert path.exists()
    (one,) = doctor(os.environ["PREFECT_API_URL"])["ended"]
    assert one["told"] == [f"Reported the flow run {run.name} as Crashed."]
    assert state_of(run).is_crashed()


HELD = """
import os, sys, time
from pathlib import Path
from prefect import flow
from prefect.runtime import flow_run
from prefect_datastores import LocalDatastore, stage
root = Path(sys.argv[1])
@flow
def held() -> None:
    with stage(data=LocalDatastore(root=str(root / "data")).path("x").as_mount()) as s:
        (root / "started~").write_text(str(flow_run.id))
        (root / "started~").rename(root / "started")
        while not (root / "goes-on").exists():
            (s.data / "file").read_bytes()
            time.sleep(0.2)
held()
"""


def test_a_server_that_is_restarted_in_the_middle_of_a_run_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run goes on; of the other, whose process is killed meanwhile, it is told when it can be told."""
    server = prefect_server.start(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", server.api_url)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_MOUNTS_ROOT", str(tmp_path / "mounts"))
    try:
        server.server.wait_until_ready()
        roots, runs = [tmp_path / "goes", tmp_path / "is-killed"], []
        for root in roots:
            (root / "data/x").mkdir(parents=True)
            (root / "data/x/file").write_bytes(b"content")
            runs.append(subprocess.Popen([sys.executable, "-c", HELD, str(root)]))
        wait_for(lambda: all((root / "started").exists() for root in roots))
        ids = [(root / "started").read_text() for root in roots]
        server.server.stop()
        runs[1].kill()
        wait_for(lambda: len(list((tmp_path / "mounts").iterdir())) == 1)
        (roots[0] / "goes-on").touch()
        server = prefect_server.start(tmp_path, port=server.port)
        server.server.wait_until_ready()

        def state(run_id: str) -> str:
            with get_client(
                sync_client=True, httpx_settings={"base_url": server.api_url}
            ) as client:
                return client.read_flow_run(UUID(run_id)).state_name or ""

        wait_for(lambda: [state(run_id) for run_id in ids] == ["Completed", "Crashed"])
        assert runs[0].wait(60) == 0
        assert list((tmp_path / "mounts").iterdir()) == []
    finally:
        for run in runs:
            run.kill()
            run.wait()
        server.server.stop()
