"""Runs that are ended early side by side, each where it is held, and what is seen of them then."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
from crash_flows import SIZE
from places import REMOTE, RemotePlace
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker
from servers.azurite import Azurite
from servers.faults import Fault, FaultyProxy, faulty

from prefect_datastores import Datastore
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.mounting import lease
from prefect_datastores.processes import started
from prefect_datastores.testing import get, put

PASSED = 2
"Parts that come, or go, before the transfer is held."
_HERE = Path(__file__).parent
_START_SECONDS, _END_SECONDS, _AT_ONCE = 150, 180, 4
_MEMORY = Path("/sys/fs/cgroup/memory")


@dataclass(frozen=True)
class Event:
    """Something that ends a run early, and what is to be shown of it then, the run below it too."""

    name: str
    host: str
    "What runs it: a worker, a served deployment, an executor, or nothing else (`local`)."
    send: Callable[["Cell"], object]
    state: str
    message: str = ""
    flow: str = "sync"
    keep: str = "failed"
    "Whether the estimator's folder is kept."
    lives: bool = False
    "Whether it goes on, and what is shown is true."
    stages: Sequence[str] = ("all",)
    """What is in progress: a download, an upload and a mount at once (`all`), or one of the first two as a step of the
    estimator's own."""
    variables: tuple[tuple[str, str], ...] = ()


@dataclass
class Cell:
    """One run, what is known of it, and what was seen of it."""

    event: Event
    stage: str
    folder: Path
    root: Path
    host: subprocess.Popen[bytes] | None = None
    run_id: str = ""
    pids: dict[str, int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return key_of(self.event, self.stage)

    def read(self, name: str) -> list[int]:
        """Processes that told their numbers."""
        with contextlib.suppress(FileNotFoundError):
            return [int(pid) for pid in (self.folder / name).read_text().split()]
        return []

    def runs(self) -> list[FlowRun]:
        """The flow run, and those below it."""
        parent = FlowRunFilterParentFlowRunId(any_=[uuid.UUID(self.run_id)])
        below = asked().read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))
        return [asked().read_flow_run(uuid.UUID(self.run_id)), *below]

    def alive(self) -> list[str]:
        return [name for name, pid in self.pids.items() if started(pid) >= 0]

    def mounted(self) -> bool:
        return f":read/{self.key} " in Path("/proc/self/mountinfo").read_text()

    def moving(self) -> list[str]:
        """How the transfers that are held ask for their content."""
        asked_for = {
            "download": rf"GET \S+/data/{self.key}/large",
            "upload": rf"PUT \S+/out/{self.key}/large\?\S*comp=block&",
        }
        return [asked_for[self.stage]] if self.stage in asked_for else list(asked_for.values())

    def open_tasks(self) -> list[str]:
        """The task runs that are shown as if they went on."""
        runs = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in self.runs()]))
        found = asked().read_task_runs(flow_run_filter=runs)
        return sorted(one.name for one in found if not (one.state and one.state.is_final()))

    def folders(self) -> list[Path]:
        """What is there of the run's scratch space."""
        return [path for run in self.runs() if (path := self.root / "runs" / str(run.id)).exists()]

    def seen(self) -> dict[str, Any]:
        return {
            "states": [run.state and run.state.type.value for run in self.runs()],
            "alive": self.alive(),
            "mounted": self.mounted(),
            "folder": bool(self.folders()),
            "open tasks": [] if self.event.lives else self.open_tasks(),
        }

    def expected(self) -> dict[str, Any]:
        lives, nested = self.event.lives, self.event.flow == "sync"
        below = "CRASHED" if self.event.state == "SCHEDULED" else self.event.state
        return {
            "states": [self.event.state, below] if nested else [self.event.state],
            "alive": list(self.pids) if lives else [],
            "mounted": lives,
            "folder": nested and (lives or self.event.keep != "never"),
            "open tasks": [],
        }


@lru_cache(maxsize=1)
def asked() -> SyncPrefectClient:
    """Prefect's server: to make a client takes longer than to ask."""
    return get_client(sync_client=True)


def key_of(event: Event, stage: str) -> str:
    return f"{event.name} {stage}".replace(" ", "-")


@dataclass
class Table:
    """All cells, and the store that they had."""

    cells: dict[str, Cell]
    store: FileDatastore
    place: RemotePlace
    proxy: FaultyProxy


def program(*command: str, log: Path, **variables: str) -> subprocess.Popen[bytes]:
    """Start a program of Python in a session of its own, and in an empty directory."""
    directory = log.with_suffix("")
    directory.mkdir(exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=directory,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for(holds: Callable[[], Any], seconds: float) -> Any:
    """What holds at last; or does not, after that time."""
    until = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(1.0)
    return found


@contextmanager
def limited_memory(pid: int, most: int) -> Iterator[bool]:
    """Have the kernel kill a process that takes more memory; False where only root of the machine could."""
    group = _MEMORY / f"datastores-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(most))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), 30)
        group.rmdir()


@contextmanager
def ended(events: Sequence[Event], azurite: Azurite, root: Path) -> Iterator[Table]:
    """Start a run for each event and stage, end each when it is held there, and wait for what is expected."""
    with ExitStack() as stack:
        proxy = stack.enter_context(faulty(azurite.host, azurite.port))
        place = REMOTE["blob"](azurite, f"test-{uuid.uuid4().hex}")
        stack.callback(place.remove)
        store = place.register(f"crash_{uuid.uuid4().hex[:8]}", [proxy.port])
        stack.callback(Datastore.unregister, store.name)
        cells = [
            Cell(event, stage, root / "cells" / key_of(event, stage), root / "scratch")
            for event in events
            for stage in event.stages
        ]
        over = threading.Event()
        stack.callback(over.set)
        proxy.fail_by(*[_held(asked, over) for cell in cells for asked in cell.moving()])
        for cell in cells:
            for what in ("data", "read"):
                put(place.store, f"{what}/{cell.key}/large", b"d" * SIZE)
            put(place.store, f"out/{cell.key}/large", b"old")
            cell.folder.mkdir(parents=True)
        stack.callback(_kill_all, cells)
        made = _hosts(cells, root, stack)
        for number, cell in enumerate(cells):
            _start(cell, store, made.get(cell.event.host), root)
            _wait_until_held(cells[: number + 1], proxy, _AT_ONCE)
        _wait_until_held(cells, proxy, 1)
        for cell in cells:
            _learn(cell, store, root)
        hosts: set[int] = set()
        for cell in cells:
            if not cell.event.host.startswith("worker-") or id(cell.host) not in hosts:
                cell.event.send(cell)
            hosts.add(id(cell.host))
        wait_for(lambda: all(cell.seen() == cell.expected() for cell in cells), _END_SECONDS)
        over.set()
        proxy.fail_by()
        yield Table({cell.key: cell for cell in cells}, store, place, proxy)


def _held(request: str, over: threading.Event) -> Fault:
    return Fault(request, "drop", skip=PASSED, times=None, meanwhile=lambda: over.wait(600))


def _is_held(cell: Cell, proxy: FaultyProxy) -> bool:
    read = cell.stage != "all" or (cell.folder / "script").exists()
    return read and all(proxy.count(request) > PASSED for request in cell.moving())


def _wait_until_held(cells: Sequence[Cell], proxy: FaultyProxy, fewer: int) -> None:
    """Wait until fewer than that many are on their way: all at once are too much for Prefect's server."""

    def on_the_way() -> list[str]:
        died = {cell.event.host for cell in cells if cell.host and cell.host.poll() is not None}
        waiting = [cell for cell in cells if not _is_held(cell, proxy)]
        ended = {cell.key: told for cell in waiting if (told := _ended(cell))}
        assert (died, ended) == (set(), {})
        return [cell.key for cell in waiting]

    wait_for(lambda: len(on_the_way()) < fewer, _START_SECONDS)
    assert len(on_the_way()) < fewer, on_the_way()


def _ended(cell: Cell) -> str:
    """Tell how a run ended that was to be held first."""
    state = cell.runs()[0].state if cell.run_id else None
    return f"{state.name}: {state.message}" if state is not None and state.is_final() else ""


def _hosts(
    cells: Sequence[Cell], root: Path, stack: ExitStack
) -> dict[str, subprocess.Popen[bytes]]:
    """Start what runs them, and deploy the flows."""
    pool, hosts = f"pool-{uuid.uuid4().hex[:8]}", {cell.event.host for cell in cells}
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        client.create_work_pool(
            WorkPoolCreate(name=pool, type="process", base_job_template=template)
        )
        for queue in hosts:
            client.create_work_queue(name=queue, work_pool_name=pool)
    made: dict[str, subprocess.Popen[bytes]] = {}
    for host in sorted(hosts):
        log = root / f"{host}.log"
        if host.startswith("worker"):
            command = ("-m", "prefect", "worker", "start", "--pool", pool, "--type", "process")
            queue = ("--work-queue", host)
            made[host] = program(*command, *queue, log=log, PREFECT_WORKER_QUERY_SECONDS="1")
        if host.startswith("serve"):
            command = (str(_HERE / "crash_flows.py"), "serve", host)
            made[host] = program(*command, log=log, PREFECT_RUNNER_POLL_FREQUENCY="1")
    for process in made.values():
        stack.callback(_end, process)
    for name in ("work", "awork"):
        loaded: Any = flow.from_source(str(_HERE), entrypoint=f"crash_flows.py:{name}")
        loaded.deploy("table", work_pool_name=pool, print_next_steps=False, ignore_warnings=True)
    return made


def _start(
    cell: Cell, store: FileDatastore, host: subprocess.Popen[bytes] | None, root: Path
) -> None:
    event, log = cell.event, root / f"{cell.key}.log"
    given = {"folder": str(cell.folder), "store": store.name, "key": cell.key}
    given |= {"stage": cell.stage, "keep": event.keep}
    if event.host == "local":
        cell.host = program(
            str(_HERE / "crash_flows.py"),
            "run",
            json.dumps(given),
            log=log,
            **dict(event.variables),
        )
        return
    name = event.host if event.host.startswith("serve") else "table"

    def ask() -> str:
        asking: Any = run_deployment
        with contextlib.suppress(ObjectNotFound, httpx.HTTPError):  # not served yet, or busy
            return str(
                asking(
                    f"crash-{event.flow}/{name}",
                    parameters={"given": given},
                    timeout=0,
                    idempotency_key=str(cell.folder),
                    work_queue_name=None if name == event.host else event.host,
                    _sync=True,
                ).id
            )
        return ""

    cell.run_id = wait_for(ask, _START_SECONDS)
    cell.host = host
    if event.host == "execute":
        execute(cell, log)


def execute(cell: Cell, log: Path) -> None:
    """Run it as the entrypoint of a container does."""
    command = ("-m", "prefect", "flow-run", "execute", cell.run_id)
    cell.host = program(*command, log=log, **dict(cell.event.variables))


def _learn(cell: Cell, store: FileDatastore, root: Path) -> None:
    """Learn which processes the run has, and its id where nobody gave it one."""
    (engine,) = cell.read("engine")
    cell.pids = {"engine": engine}
    cell.pids |= {f"script {n}": pid for n, pid in enumerate(cell.read("script"))}
    if cell.stage == "all":
        title = f"{store.name}:read/{cell.key}"
        (cell.pids["mount"],) = (
            one.lease.pid
            for one in lease.mounts(root / "mounts")
            if one.lease and one.lease.title == title
        )
        assert cell.mounted()
    if not cell.run_id:
        with get_client(sync_client=True) as client:
            (cell.run_id,) = (
                str(run.id)
                for run in client.read_flow_runs()
                if run.parameters.get("given", {}).get("folder") == str(cell.folder)
            )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _kill_all(cells: Sequence[Cell]) -> None:
    """Leave no run behind, whatever was shown of it."""
    for cell in cells:
        for pid in (*cell.read("engine"), *cell.read("script")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if cell.host is not None:
            _end(cell.host)


def content_at(table: Table, name: str) -> bytes:
    return get(table.place.store, name)
