"""Has a run watched from the first staged data on: should its process be gone without a word, that is made good."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.settings import get_current_settings
from prefect.task_runners import ThreadPoolTaskRunner

from prefect_datastores.settings import notes_root
from prefect_datastores.supervision import settle, watcher
from prefect_datastores.supervision.notes import Note, notes, process, write

_OF_ONE_RUN = "PREFECT__"
_OF_A_WORKER = f"{_OF_ONE_RUN}FLOW_RUN_ID"
_PACKAGE = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def watched(folder: Path, *, keep: bool) -> Iterator[None]:
    """Have the end of this process told should it come in this block, and later in the same flow run.

    What is in `folder` is removed then, unless `keep`. A disk on which nothing can be written down
    costs this, and nothing else.
    """
    with contextlib.suppress(OSError):
        _here().begin(folder, keep=keep)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            _here().end(folder)


class _Watched:
    """What this process has under way, as its note says it; and the watcher that looks at the note."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._note = notes_root() / f"{self.pid}-{uuid.uuid4().hex[:8]}.json"
        self._me = process(self.pid)
        by_a_worker = _OF_A_WORKER in os.environ
        self._reporter = process(os.getppid()) if by_a_worker else None
        self._lock = threading.RLock()
        self._runs: dict[str, FlowRun] = {}
        self._with_tasks: set[str] = set()
        self._folders: dict[str, bool] = {}
        self._watcher: subprocess.Popen[bytes] | None = None
        self._settling: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        atexit.register(self.leave)

    def begin(self, folder: Path, *, keep: bool) -> None:
        """Write down what a block has, and begin to be watched."""
        with self._lock:
            self._folders[str(folder)] = keep
            for run, has_tasks in _runs_of_this_process():
                self._runs[str(run.id)] = run
                self._with_tasks |= {str(run.id)} if has_tasks else set()
            self._write()
            if self._watcher is None:
                self._watch()

    def end(self, folder: Path) -> None:
        """Write down that a block is over."""
        with self._lock:
            self._folders.pop(str(folder), None)
            self._write()

    def leave(self) -> None:
        """Let the watcher go, unless a run of this process has not ended for Prefect."""
        with self._lock, contextlib.suppress(OSError):
            if self.pid != os.getpid() or self._watcher is None or self._write():
                return
            os.close(self._lifeline)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._watcher.wait(2.0)

    def _write(self) -> bool:
        """Write the note; none where nothing would be left, which it tells."""
        self._runs = {
            key: run
            for key, run in self._runs.items()
            if not (run.state is not None and run.state.is_final())
        }
        if not self._runs and not self._folders:
            self._note.unlink(missing_ok=True)
            return False
        runs = {key: run.run_count for key, run in self._runs.items()}
        with_tasks = [key for key in runs if key in self._with_tasks]
        write(self._note, Note(self._me, self._reporter, runs, dict(self._folders), with_tasks))
        return True

    def _watch(self) -> None:
        command, environment = [sys.executable, "-m", settle.__name__], _environment()
        if any(other.process.is_gone() for _, other in notes(self._note.parent)):
            # Its watcher was killed as well, or gave the server up.
            self._settling = subprocess.Popen(command, env=environment, **_APART)
        reading, self._lifeline = os.pipe()
        try:
            self._watcher = subprocess.Popen(
                [sys.executable, "-I", "-S", watcher.__file__, str(reading), str(self.pid)],
                pass_fds=[reading],
                **_APART,
            )
        finally:
            os.close(reading)
        wanted = {"note": str(self._note), "command": command, "environment": environment}
        os.write(self._lifeline, json.dumps(wanted).encode())


_APART: Any = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.DEVNULL,
    "cwd": "/",
    "start_new_session": True,
}
_only: _Watched | None = None
_lock = threading.Lock()


def _here() -> _Watched:
    """Return what is told of this process; one that was forked begins anew."""
    global _only  # noqa: PLW0603 - one for a process
    with _lock:
        if _only is None or _only.pid != os.getpid():
            _only = _Watched()
        return _only


def _environment() -> dict[str, str]:
    """Return an environment in which this package is found, and the server that this process has."""
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_OF_ONE_RUN)}
    path = os.pathsep.join(filter(None, (str(_PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    return {**inherited, **settings, "PYTHONPATH": path}


def _runs_of_this_process() -> list[tuple[FlowRun, bool]]:
    """Return the flow run that this is in and those that it was called in, the outermost first.

    One of which a task came here from another process is not of this one. With each, whether its tasks are.
    """
    found: list[tuple[FlowRun, bool]] = []
    context: Any = FlowRunContext.get()
    while isinstance(context, FlowRunContext) and not context.detached:
        if context.flow_run is not None:
            has_tasks = isinstance(context.task_runner, ThreadPoolTaskRunner)
            found.insert(0, (context.flow_run, has_tasks))
        entered = context._token  # noqa: SLF001 - Prefect tells it by nothing else
        context = entered.old_value if entered is not None else None
    return found
