"""Makes good what runs left whose process is gone: `python -m prefect_datastores.supervision.settle`.

Prefect reports first, where there is a worker to do it. What nobody reported then is reported here,
and nothing else: no run that has ended, waits, or was begun again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from prefect import State
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed

from prefect_datastores.mounting import lease
from prefect_datastores.settings import mounts_root, notes_root
from prefect_datastores.staging.report import plural
from prefect_datastores.supervision.notes import Note, claimed, killed_for_memory, notes, read

_TRY_SECONDS = 600.0
_POLL_SECONDS = 2.0
_SCRIPT_SECONDS = 15.0
"""More than a script has to tidy up, and then its guard."""
_REPORT_SECONDS = {StateType.RUNNING: 20.0, StateType.CANCELLING: 60.0}
"""What a worker that lives may take to say how a run ended; one that cancels gives 30 seconds first."""
_ALONE_SECONDS = 2.0
"""The same where nobody is to say it: what was sent last may be on its way."""


@dataclass(frozen=True)
class Settled:
    """What came of one note."""

    process: int
    told: tuple[str, ...] = ()
    """What was done, a line for each."""
    reason: str = ""
    """Why the server could not be told; it is tried again."""


def settle_left(seconds: float = _TRY_SECONDS) -> list[Settled]:
    """Make good what is left on this machine, within some time; what cannot be stays for the next who tries."""
    until = time.monotonic() + seconds
    done: list[Settled] = []
    for path, _ in notes(notes_root()):
        with claimed(path) as is_mine:
            note = read(path) if is_mine else None
            if note is not None and note.process.is_gone():
                done.append(_settle(path, note, until))
    return done


def _settle(path: Path, note: Note, until: float) -> Settled:
    gone_at = time.monotonic()
    told = list(_tidied(note))
    while True:
        try:
            with get_client(sync_client=True) as client:
                told += _report(client, note, gone_at)
        except Exception as error:  # noqa: BLE001 - whatever the server's trouble is
            reason = f"{type(error).__name__}: {error}"
        else:
            reason = ""
        if not reason:
            path.unlink(missing_ok=True)
        if not reason or time.monotonic() > until:
            return Settled(note.process.pid, tuple(told), reason)
        time.sleep(_POLL_SECONDS)


def _tidied(note: Note) -> Iterator[str]:
    """Remove what is not to stay, when the script is gone that works there; say what stays."""
    until = time.monotonic() + _SCRIPT_SECONDS
    for folder, keep in note.folders.items():
        while _is_worked_in(folder) and time.monotonic() < until:
            time.sleep(0.2)
        if not keep and not _is_wanted(folder):
            shutil.rmtree(folder, ignore_errors=True)
        elif Path(folder).exists():
            yield f"The run's folder is kept: {folder}"
    lease.clean(mounts_root())


def _is_wanted(folder: str) -> bool:
    """Tell whether another process has that folder: the same run, begun again."""
    return any(
        folder in other.folders and not other.process.is_gone() for _, other in notes(notes_root())
    )


def _is_worked_in(folder: str) -> bool:
    """Tell whether a process has its working directory there."""
    for cwd in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(cwd)).is_relative_to(folder):  # noqa: PTH115 - it may be deleted
                return True
    return False


def _report(client: SyncPrefectClient, note: Note, gone_at: float) -> Iterator[str]:
    """Report each run of which nobody else says that it ended."""
    for key, run_count in note.runs.items():
        with contextlib.suppress(ObjectNotFound):  # somebody deleted it
            run = client.read_flow_run(UUID(key))
            while _is_open(run, run_count) and not _is_due(run, note, gone_at):
                time.sleep(_POLL_SECONDS / 4)
                run = client.read_flow_run(UUID(key))
            if _is_open(run, run_count):
                state = _end_of(run, note)
                client.set_flow_run_state(run.id, state, force=state.is_cancelled())
                yield f"Reported the flow run {run.name} as {state.name}."
            if key in note.with_tasks:
                _end_tasks(client, run, run_count, note, gone_at)


def _end_tasks(
    client: SyncPrefectClient, run: FlowRun, run_count: int, note: Note, gone_at: float
) -> None:
    """Report the task runs that were in the process as crashed: Prefect shows them as running for ever."""
    # What they sent last may be on its way.
    time.sleep(max(0.0, gone_at + _ALONE_SECONDS - time.monotonic()))
    types = TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    found = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=types)),
    )
    one = note.process
    message = f"Its process ({one.pid} on {one.host}) is gone."
    for task_run in found:
        # One that was never begun is of no attempt; where the run was begun again, it may be of the new one.
        if run_count in {run.run_count, task_run.flow_run_run_count}:
            client.set_task_run_state(task_run.id, Crashed(message=message), force=True)


def _is_open(run: FlowRun, run_count: int) -> bool:
    """Tell whether a run is shown as if its process went on."""
    is_shown = run.state is not None and run.state.type in _REPORT_SECONDS
    return is_shown and run.run_count == run_count


def _is_due(run: FlowRun, note: Note, gone_at: float) -> bool:
    """Tell whether nobody else will report it."""
    assert run.state is not None, "It is open."
    waited = time.monotonic() - gone_at
    is_first = str(run.id) == next(iter(note.runs))  # nobody but us reports those below it
    if is_first and note.reporter is not None and not note.reporter.is_gone():
        return waited > _REPORT_SECONDS[run.state.type]
    return waited > _ALONE_SECONDS


def _end_of(run: FlowRun, note: Note) -> State[None]:
    assert run.state is not None, "It is open."
    one = note.process
    message = (
        f"The run's process ({one.pid} on {one.host}) is gone and did not say why: it was killed"
    )
    if note.reporter is None:
        message += ", or its terminal was closed."
    elif note.reporter.is_gone():
        message += " with the worker that had started it, which is gone as well."
    else:
        message += "."
    if (killed := killed_for_memory() - note.killed_for_memory) > 0:
        message += (
            f" Meanwhile the kernel killed {plural(killed, 'process')} there for want of memory."
        )
    if run.state.type is StateType.CANCELLING:
        return Cancelled(message=f"Cancelled from Prefect. {message}")
    return Crashed(message=message)


if __name__ == "__main__":
    settle_left()
