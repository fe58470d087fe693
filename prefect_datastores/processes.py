"""Which process it was: what tells one from every other, before and after it, that has the same number."""

from __future__ import annotations

import contextlib
from pathlib import Path


def started(pid: int) -> int:
    """Return when a process began, in ticks since the machine did.

    -1 where there is none, where it is dead and not yet buried (as for ever below a container's first
    process that buries nobody), and where the system does not say it.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = line.rpartition(")")[2].split()  # the name before may hold anything
        return -1 if fields[0] in {"Z", "X"} else int(fields[19])
    return -1


def boot_id() -> str:
    """Return what is another after the machine was started anew; "" where that is unknown."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def namespace() -> str:
    """Return what processes share that see each other by number; containers have their own."""
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""
