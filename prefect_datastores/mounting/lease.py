"""What tells who mounted what on this machine, so that a kill or a power cut leaves nothing for ever.

A mount has a folder of its own below the root of all mounts: `mnt` is where it is mounted, `lease`
says which process serves it, `log` is what that process has to say.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from prefect_datastores.errors import MountError
from prefect_datastores.mounting import device
from prefect_datastores.processes import boot_id, started

POINT, LEASE, LOG, NUMBERS = "mnt", "lease.json", "log", "numbers.json"
_YOUNG_SECONDS = 60.0
"""A folder without a lease may be one that is being made."""


@dataclass(frozen=True)
class Lease:
    """Which process serves a mount."""

    pid: int
    started: int
    """When the kernel says that the process began, in ticks since the machine did."""
    boot: str
    title: str
    point: str
    """Where it is mounted."""
    since: float

    def is_held(self) -> bool:
        """Tell whether that very process lives."""
        return self.boot == boot_id() and started(self.pid) == self.started


def mine(title: str, point: Path) -> Lease:
    """Return the lease of this process."""
    return Lease(os.getpid(), started(os.getpid()), boot_id(), title, str(point), time.time())


def write(path: Path, lease: Lease) -> None:
    """Write a lease down, whole or not at all."""
    _write(path, asdict(lease))


def write_numbers(lease: Path, numbers: Mapping[str, int]) -> None:
    """Write down what a mount did up to now, beside its lease."""
    _write(lease.with_name(NUMBERS), numbers)


def _write(path: Path, value: object) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(json.dumps(value), encoding="utf-8")
    beside.replace(path)


def read(path: Path) -> Lease | None:
    """Return a lease; None where none that can be read is."""
    try:
        return Lease(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Found:
    """One mount of this machine."""

    folder: Path
    lease: Lease | None

    @property
    def point(self) -> Path:
        """Where it is mounted."""
        return Path(self.lease.point) if self.lease is not None else self.folder / POINT

    def numbers(self) -> dict[str, int]:
        """Return what it did up to some seconds ago."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.folder / NUMBERS).read_text(encoding="utf-8")))
        return {}

    @property
    def is_left(self) -> bool:
        """Whether nobody serves it any more."""
        if self.lease is not None:
            return not self.lease.is_held()
        with contextlib.suppress(OSError):
            return time.time() - self.folder.stat().st_mtime > _YOUNG_SECONDS
        return False


def mounts(root: Path) -> list[Found]:
    """Return the mounts below a root, in the order of their names."""
    with contextlib.suppress(FileNotFoundError):
        return [
            Found(folder, read(folder / LEASE))
            for folder in sorted(root.iterdir())
            if folder.is_dir()
        ]
    return []


def at(root: Path, point: Path) -> Found | None:
    """Return the mount at a folder, or the one that a link there leads to."""
    wanted = {point.absolute(), point.resolve()}
    return next((found for found in mounts(root) if found.point in wanted), None)


def is_over(root: Path, path: Path) -> bool:
    """Tell whether a path lies in a mount below the root which is gone, or which nobody serves any more."""
    if root not in path.parents:
        return False
    folder = root / path.relative_to(root).parts[0]
    return not folder.exists() or Found(folder, read(folder / LEASE)).is_left


def end(found: Found, seconds: float = 15.0) -> None:
    """Have a mount's process unmount it, and return when it is gone; one that nobody serves is removed.

    Raises:
        MountError: it is there still.
    """
    if found.lease is not None and found.lease.is_held():
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.lease.pid, signal.SIGTERM)
        until = time.monotonic() + seconds
        while found.lease.is_held() and time.monotonic() < until:
            time.sleep(0.05)
        if found.lease.is_held():
            raise MountError(
                f"{found.point} is there still: its process {found.lease.pid} does not end."
            )
    remove(found.folder)


def clean(root: Path) -> list[Path]:
    """Unmount and remove what nobody serves any more; return what was removed. Data is never touched."""
    gone: list[Path] = []
    for found in mounts(root):
        if found.is_left:
            with contextlib.suppress(MountError, OSError):
                remove(found.folder)
                gone.append(found.folder)
    return gone


def remove(folder: Path) -> None:
    """Unmount what a folder of a mount holds, and remove it; what is mounted is never deleted.

    Raises:
        MountError, OSError: it is still mounted.
    """
    inside = folder / POINT
    for point in {Found(folder, read(folder / LEASE)).point, inside}:
        device.unmount(point, detach=True)
    with contextlib.suppress(FileNotFoundError):
        inside.rmdir()  # of a mount that is still there this fails, before anything else is removed
    shutil.rmtree(folder, ignore_errors=True)
