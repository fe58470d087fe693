"""A mount as the process sees that wants it: begun, asked for its numbers, and ended."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from prefect_datastores.errors import MountError, MountUnavailable
from prefect_datastores.mounting import device, lease
from prefect_datastores.mounting.pending import Unstored
from prefect_datastores.mounting.talk import (
    Failed,
    MakeStore,
    Ready,
    Renew,
    Storing,
    Tell,
    Told,
    Unmount,
    Wanted,
    receive,
    send,
)

READY_SECONDS = 120.0
_GRACE_SECONDS = 5.0
_SILENT_SECONDS = 30.0
_TAIL_LINES = 5
_SHOWN = 10
# The process gets its environment by the pipe: what others can see of it holds no secret.
_VISIBLE = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "PYTHONPATH",
    "PYTHONHOME",
    "LD_LIBRARY_PATH",
)
_PACKAGE = Path(__file__).resolve().parents[1]
# Without what the package itself imports, Prefect above all: it takes seconds, and nothing here needs it.
_PROGRAM = (
    "import sys, types; package = sys.modules['prefect_datastores'] = types.ModuleType('prefect_datastores'); "
    "package.__path__ = [sys.argv[1]]; from prefect_datastores.mounting.child import main; sys.exit(main())"
)


class Mount:
    """One mount, served by a process of its own, which ends when this one does."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, wanted: Wanted) -> None:
        """Take a process that was started."""
        assert process.stdin is not None, "Opened as a pipe."
        assert process.stdout is not None, "Opened as a pipe."
        self._process, self._folder, self._wanted = process, folder, wanted
        self._to, self._from = process.stdin.fileno(), process.stdout.fileno()
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self._is_over = False
        self.name = ""

    @property
    def path(self) -> Path:
        """What was mounted: the folder, or the one file."""
        return self._wanted.point / self.name if self.name else self._wanted.point

    @property
    def log(self) -> Path:
        """What the process has to say."""
        return self._folder / lease.LOG

    def is_alive(self) -> bool:
        """Tell whether it is served."""
        return self._process.poll() is None

    def numbers(self) -> dict[str, int]:
        """Return what it did up to now; what was known last where it does not answer."""
        with self._lock, contextlib.suppress(OSError):
            if not self._is_over and self.is_alive():
                send(self._to, Tell())
                if isinstance(told := self._next(5.0), Told):
                    self._numbers = told.numbers
        return dict(self._numbers)

    def renew(self, make: MakeStore) -> None:
        """Have the store opened by another credential from now on."""
        with self._lock, contextlib.suppress(OSError):
            send(self._to, Renew(make))

    def unmount(
        self,
        grace: float = _GRACE_SECONDS,
        *,
        tell: Callable[[int, int], None] = lambda *_: None,
    ) -> dict[str, int]:
        """End it, and return what it did; nothing of it is left, whatever happened to its process.

        Who uses it is waited for `grace` seconds, and loses it then. What was written and is not
        stored yet is waited for; `tell` hears each second how many files and bytes that is.

        Raises:
            MountError: its process died before, so that who used it had errors; or a file that was
                written could not be stored.
        """
        with self._lock:
            if self._is_over:
                return dict(self._numbers)
            self._is_over = True
            told = self._last_words(grace, tell)
            if told is not None:
                self._numbers = told.numbers
            tail = self._tail()
            self._end()
        if told is None:
            died = self._process.returncode
            raise MountError(
                f"The mount of {self._wanted.title} ended before its time (exit code {died}): what was read from it "
                f"since then failed. The end of its log:\n  {tail}"
            )
        if told.unstored:
            raise MountError(_unstored(self._wanted.title, told.unstored))
        return dict(self._numbers)

    def _last_words(self, grace: float, tell: Callable[[int, int], None]) -> Told | None:
        """Ask the process to end, and return what it says then; None where it is dead."""
        with contextlib.suppress(OSError):
            send(self._to, Unmount(grace))
            while (said := self._next(grace + _SILENT_SECONDS)) is not None:
                if isinstance(said, Told):
                    return said
                if isinstance(said, Storing):
                    tell(said.files, said.size)
        return None

    def _end(self) -> None:
        """Make sure that nothing is left."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        lease.remove(self._folder)

    def _next(self, seconds: float) -> object:
        """Return what the process says next; None where it says nothing in time, or any more."""
        ready, _, _ = select.select([self._from], [], [], seconds)
        return receive(self._from) if ready else None

    def _tail(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return "\n  ".join(lines[-_TAIL_LINES:])
        return ""

    def begin(self, stop: Callable[[], None]) -> None:
        """Return when it is mounted; `stop` raises when that is not wanted any more.

        Raises:
            MountUnavailable: nothing can be mounted here.
            DatastoreError: the place cannot be opened, or is not there.
        """
        until = time.monotonic() + READY_SECONDS
        try:
            send(self._to, self._wanted)
            while not select.select([self._from], [], [], 0.1)[0]:
                stop()
                if time.monotonic() > until:
                    raise MountError(
                        f"{self._wanted.title} was not mounted within {READY_SECONDS:g} s."
                    )
            said = receive(self._from)
        except OSError as error:
            said = error
        except BaseException:
            self._process.send_signal(signal.SIGTERM)
            self._end()
            raise
        if isinstance(said, Ready):
            self.name = said.name
            return
        tail = self._tail()
        self._end()
        if isinstance(said, Failed):
            raise said.error
        raise MountError(f"The process that was to mount {self._wanted.title} ended:\n  {tail}")


def _unstored(title: str, files: Sequence[Unstored]) -> str:
    """Say what the service does not have, and where it is."""
    shown = [f"  {one.name}: {one.reason} ({one.draft})" for one in files[:_SHOWN]]
    shown += [f"  and {len(files) - _SHOWN} more"] if len(files) > _SHOWN else []
    listed = "\n".join(shown)
    return (
        f"What was written to {title} is not all stored:\n{listed}\nThe next mount of it stores what its writer "
        "closed, and so does `prefect-datastores doctor`; the rest stays there for a week."
    )


def mount(
    wanted: Wanted,
    root: Path,
    *,
    at: Path | None = None,
    stop: Callable[[], None] = lambda: None,
) -> Mount:
    """Return what is mounted, below a root that all mounts of this user share, or at an empty folder.

    `wanted` has no place yet. What killed mounts left below the root is removed before.

    Raises:
        MountUnavailable: nothing can be mounted here.
        DatastoreError: the place cannot be opened, or is not there.
    """
    if (reason := device.fault()) is not None:
        raise MountUnavailable(f"{wanted.title} cannot be mounted: {reason}")
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    lease.clean(root)
    folder = root.resolve() / secrets.token_hex(6)
    (folder / lease.POINT).mkdir(parents=True, mode=0o700)
    point = folder / lease.POINT if at is None else at.resolve()
    placed = replace(wanted, point=point, lease=folder / lease.LEASE, environment=dict(os.environ))
    with (folder / lease.LOG).open("xb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(_PACKAGE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            env={name: os.environ[name] for name in _VISIBLE if name in os.environ},
            start_new_session=True,
        )
    made = Mount(process, folder, placed)
    made.begin(stop)
    return made
