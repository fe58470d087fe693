"""What is left, and what is shown, after each way in which a run can end early, with all in progress."""

import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from crash_flows import PART, SIZE, short_parts
from crashes import (
    PASSED,
    Cell,
    Event,
    Table,
    content_at,
    ended,
    execute,
    key_of,
    limited_memory,
    wait_for,
)
from prefect.client.orchestration import get_client
from prefect.states import Cancelling
from servers.azurite import Azurite
from servers.prefect_server import PrefectServer

from prefect_datastores.stores.blob import BlobStore
from prefect_datastores.transfers import fetch

pytestmark = [pytest.mark.xdist_group("crashes"), pytest.mark.timeout(900)]


def cancel(cell: Cell) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(uuid.UUID(cell.run_id), Cancelling())


def to_engine(number: signal.Signals) -> Callable[[Cell], object]:
    return lambda cell: os.kill(cell.pids["engine"], number)


def to_host(number: signal.Signals) -> Callable[[Cell], object]:
    return lambda cell: os.kill(cell.host.pid if cell.host else 0, number)


def out_of_memory(name: str, asked: str) -> Callable[[Cell], object]:
    """The kernel kills it for want of memory; where nobody may limit that, as the kernel would."""

    def send(cell: Cell) -> None:
        pid = cell.pids[name]
        with limited_memory(pid, 100 * 2**20) as is_limited:
            if is_limited:
                (cell.folder / asked).touch()
                wait_for(lambda: name not in cell.alive(), 60)
            else:
                os.kill(pid, signal.SIGKILL)

    return send


def exits(cell: Cell) -> None:
    (cell.folder / "exits").touch()


RESCHEDULE = (("PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR", "reschedule"),)
GONE = r"process \(\d+ on .*\) is gone and did not say why"
EACH = ("all", "download", "upload")
# Some at a time: each is several processes that import Prefect, and there may be two cores.
RUNS = [
    Event("cancel", "worker", cancel, "CANCELLED", stages=EACH),
    Event("cancel async", "worker", cancel, "CANCELLED", flow="async"),
    Event("term", "worker", to_engine(signal.SIGTERM), "CRASHED", "termination", keep="never"),
    Event("kill", "worker", to_engine(signal.SIGKILL), "CRASHED", "SIGKILL", stages=EACH),
]
WORKERS = [
    Event("exit", "worker", exits, "CRASHED", "status code: 3", flow="async"),
    Event("memory", "worker", out_of_memory("engine", "eats"), "CRASHED", "memory"),
    Event(
        *("script memory", "worker", out_of_memory("script 0", "script-eats"), "FAILED"),
        message="SIGKILL, often: out of memory",
        keep="always",
    ),
    Event("stop", "worker-term", to_host(signal.SIGTERM), "CRASHED", GONE, keep="never"),
    Event("stop by key", "worker-int", to_host(signal.SIGINT), "CRASHED", GONE),
    Event("kill worker", "worker-kill", to_host(signal.SIGKILL), "RUNNING", lives=True),
]
OTHERS = [
    Event("local key", "local", to_host(signal.SIGINT), "CRASHED", "interrupt"),
    Event("local term", "local", to_host(signal.SIGTERM), "CRASHED", "termination", keep="always"),
    Event("local hang up", "local", to_host(signal.SIGHUP), "CRASHED", GONE, keep="always"),
    Event("serve cancel", "serve-cancel", cancel, "CANCELLED", keep="never"),
    Event("serve term", "serve-term", to_host(signal.SIGTERM), "RUNNING", keep="never", lives=True),
    Event("serve key", "serve-key", to_host(signal.SIGINT), "RUNNING", lives=True),
    Event("execute cancel", "execute", cancel, "CANCELLED"),
    Event("execute term", "execute", to_host(signal.SIGTERM), "RUNNING", lives=True),
    Event(
        *("execute again", "execute", to_host(signal.SIGTERM), "SCHEDULED"), variables=RESCHEDULE
    ),
]
GROUPS = {"runs": RUNS, "workers": WORKERS, "others": OTHERS}


@pytest.fixture(scope="module")
def tables(
    prefect_api: PrefectServer, azurite: Azurite, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Table]]:
    """What ends all of a group, side by side, when it is first asked for."""
    made: dict[str, Table] = {}
    with pytest.MonkeyPatch.context() as patched, ExitStack() as stack:

        def of(group: str) -> Table:
            if group not in made:
                root = tmp_path_factory.mktemp(group)
                patched.setenv("PREFECT_HOME", str(root / "home"))
                # Dozens of processes import Prefect: only the first compiles it.
                patched.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
                patched.setenv("PYTHONPYCACHEPREFIX", str(root.parent / "compiled"))
                for name in ("SCRATCH", "MOUNTS"):
                    variable = f"PREFECT_INTEGRATIONS_DATASTORES_{name}_ROOT"
                    patched.setenv(variable, str(root / name.lower()))
                made[group] = stack.enter_context(ended(GROUPS[group], azurite, root))
            return made[group]

        yield of


@pytest.fixture
def table(request: pytest.FixtureRequest, tables: Callable[[str], Table]) -> Table:
    """The group of a cell."""
    return tables(request.param)


def each(*stages: str, lives: bool | None = None) -> pytest.MarkDecorator:
    """Each cell, of some stages alone, or of those whose run goes on, or does not."""
    found = [
        pytest.param(group, key_of(event, stage), id=key_of(event, stage))
        for group, events in GROUPS.items()
        for event in events
        for stage in event.stages
        if (not stages or stage in stages) and lives in {None, event.lives}
    ]
    return pytest.mark.parametrize(("table", "key"), found, indirect=["table"])


@each()
def test_what_is_left_and_shown(table: Table, key: str) -> None:
    cell = table.cells[key]
    assert cell.seen() == cell.expected()
    state = cell.runs()[0].state
    assert state is not None
    assert re.search(cell.event.message, state.message or "")
    # Nobody sees an upload by half; one whose run goes on goes on as well, once it is let.
    new = [b"n" * SIZE] if cell.event.lives else []
    assert content_at(table, f"out/{key}/large") in [b"old", *new]
    assert [info.name for info in table.store.list_objects(f"out/{key}")] == [f"out/{key}/large"]


@each("all", "download", lives=False)
def test_the_next_download_fetches_the_rest(
    table: Table, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cell, asked = table.cells[key], rf"GET \S+/data/{key}/large"
    before = table.proxy.count(asked)
    if cell.event.state == "SCHEDULED":
        (cell.folder / "over").touch()
        execute(cell, tmp_path / "again.log")
        wait_for(lambda: cell.runs()[0].state_name == "Completed", 90)
        assert cell.runs()[0].state_name == "Completed"
    else:
        monkeypatch.setattr(BlobStore, "flat", short_parts())
        fetch(table.store.path(f"data/{key}").as_download(cache=False), cell.folder / "data")
    assert [path.name for path in (cell.folder / "data").iterdir()] == ["large"]
    assert (cell.folder / "data/large").read_bytes() == b"d" * SIZE
    assert 0 < table.proxy.count(asked) - before <= SIZE // PART - PASSED


@each(lives=True)
def test_what_outlives_its_worker_is_reported_when_it_ends(table: Table, key: str) -> None:
    cell = table.cells[key]
    os.kill(cell.pids["engine"], signal.SIGKILL)
    after = {**cell.expected(), "states": ["CRASHED"] * 2, "alive": [], "mounted": False}
    after["folder"] = cell.event.keep != "never"
    wait_for(lambda: cell.seen() == after, 90)
    assert cell.seen() == after
    wait_for(lambda: not cell.open_tasks(), 30)
    assert cell.open_tasks() == []


@pytest.mark.parametrize("table", GROUPS, indirect=True)
def test_nothing_is_left_of_all(table: Table) -> None:
    """Below what runs share; this comes after those that are ended last."""
    (root,) = {cell.root.parent for cell in table.cells.values()}
    wait_for(lambda: not list((root / "home/datastores/runs").iterdir()), 90)
    assert list((root / "home/datastores/runs").iterdir()) == []
    assert list((root / "scratch").glob("stages/*")) == []
    assert list((root / "mounts").iterdir()) == []
