"""What a process writes down that runs flows with staged data: what would have to be made good were it gone now.

There is one note for each such process, while there is anything to tell. It is removed by its
process, or by whoever made good what it tells.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from prefect_datastores.processes import boot_id, namespace, started

_KEPT_SECONDS = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Process:
    """What tells a process from every other one, as far as that can be told from outside."""

    pid: int
    started: int
    boot: str
    host: str
    namespace: str
    """In which its number is meant: containers of one machine have numbers of their own."""

    def is_gone(self) -> bool:
        """Tell whether it is gone for sure: one of another machine or container may live."""
        if self.host != socket.gethostname():
            return False
        if self.boot != boot_id():
            return True
        return self.namespace == namespace() and started(self.pid) != self.started


def process(pid: int) -> Process:
    """Return a process of this machine that lives."""
    return Process(pid, started(pid), boot_id(), socket.gethostname(), namespace())


def killed_for_memory() -> int:
    """Return how many processes the kernel killed for want of memory since the machine was started."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        told = Path("/proc/vmstat").read_text(encoding="ascii")
        return int(told.partition("oom_kill ")[2].split(maxsplit=1)[0])
    return 0


@dataclass(frozen=True)
class Note:
    """What would have to be made good."""

    process: Process
    reporter: Process | None
    """What started it for Prefect, and says how it ended: a worker, or what serves a deployment."""
    runs: Mapping[str, int]
    """The flow runs in it, the outermost first, and how often each had been begun."""
    folders: Mapping[str, bool]
    """What lies there for its blocks, and whether it is to stay when one of them fails."""
    with_tasks: Sequence[str] = ()
    """Those of the flow runs whose tasks run in threads of it, and nowhere else."""
    killed_for_memory: int = field(default_factory=killed_for_memory)
    """By the kernel, of all processes, up to then."""


def write(path: Path, note: Note) -> None:
    """Write a note down, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(asdict(note)), encoding="utf-8")
    beside.replace(path)


def read(path: Path) -> Note | None:
    """Return a note; None where none that can be read is."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        reporter = told.pop("reporter")
        return Note(
            process=Process(**told.pop("process")),
            reporter=Process(**reporter) if reporter else None,
            **told,
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def notes(root: Path) -> list[tuple[Path, Note]]:
    """Return all notes in a folder that can be read; one that was left for a week is removed."""
    found = [(path, note) for path in sorted(root.glob("*.json")) if (note := read(path))]
    for path, note in found:
        with contextlib.suppress(OSError):
            if note.process.is_gone() and time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                path.unlink()
    return found


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Tell whether nobody else makes good what a note tells, and let nobody meanwhile."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    is_mine = False
    try:
        with contextlib.suppress(OSError):  # somebody has it
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_mine = path.exists()
        yield is_mine
    finally:
        os.close(fd)
