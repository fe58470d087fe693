"""The hidden folder in which one transfer keeps its part files, and what a kill left of others.

It stands in the root of a destination, so that a finished part is renamed within one disk. Its
owner is written into it, so that the next transfer knows whether anybody still works there. A wrong
answer (a clock, a lock that a network disk grants to all) costs time and never data: what is taken
over is checked byte by byte, and an owner whose part was taken begins that file again.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from prefect_datastores.processes import boot_id, namespace, started

_PREFIX, _SUFFIX = ".pds-", ".part"
_OWNER, JOURNAL = "owner", "journal"
_JUST_MADE_SECONDS = 60.0  # between a folder and the name of its owner in it lies no more
_NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW
_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR | _NO_FOLLOW


def is_part(component: str) -> bool:
    """Tell a transfer's own files and folders from those that people made."""
    return component.startswith(_PREFIX) and component.endswith(_SUFFIX)


def new_name() -> str:
    """Return a name that nobody can guess, for something of a transfer's own."""
    return f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"


class Workspace:
    """The folder of a transfer that lives; it is gone after `close`, unless something is kept."""

    def __init__(self, root: int) -> None:
        """Make it in the folder whose descriptor is `root`, and write down whose it is."""
        self.name = new_name()
        self._numbers = itertools.count(1)
        self._keep = False
        with contextlib.ExitStack() as opened:
            os.mkdir(self.name, 0o700, dir_fd=root)
            self.fd = os.open(self.name, _FOLDER, dir_fd=root)
            opened.callback(os.close, self.fd)
            self._owner = os.open(_OWNER, _NEW, 0o600, dir_fd=self.fd)
            opened.callback(os.close, self._owner)
            self._root = os.dup(root)
            opened.callback(os.close, self._root)
            self._descriptors = opened.pop_all()
        with contextlib.suppress(OSError):  # a disk without locks
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            os.write(self._owner, json.dumps(_process(os.getpid())).encode())
        except OSError:  # a full disk
            self.close()
            raise

    def new_part(self) -> str:
        """Return a name in the folder that no part file has."""
        return f"{next(self._numbers)}{_SUFFIX}"

    def open_new(self, name: str) -> int:
        """Make a file in the folder, for this user alone."""
        return os.open(name, _NEW, 0o600, dir_fd=self.fd)

    def link_from(self, source: str) -> tuple[str, int] | None:
        """Give a file of the same disk a name in the folder, and open it; None where that cannot be."""
        name = self.new_part()
        try:
            os.link(source, name, dst_dir_fd=self.fd, follow_symlinks=False)
        except OSError:
            return None
        return name, os.open(name, os.O_RDONLY | _NO_FOLLOW, dir_fd=self.fd)

    def open_journal(self) -> int:
        """Make the file in which the transfer writes down what it did; each write goes to its end."""
        return os.open(JOURNAL, _NEW | os.O_APPEND, 0o600, dir_fd=self.fd)

    def keep(self) -> None:
        """Leave the folder where it is after `close`: the next transfer goes on with it."""
        self._keep = True

    def close(self) -> None:
        """Remove the folder with all that is in it, or give it up to whoever goes on with it."""
        if self._keep:
            # In place, because a full disk has no room for more; where that fails as well, it is
            # given up with the end of this process.
            with contextlib.suppress(OSError):
                os.pwrite(self._owner, b"{}".ljust(os.fstat(self._owner).st_size), 0)
        else:
            _remove(self._root, self.name, self.fd)
        self._descriptors.close()


class Abandoned:
    """The folder of a transfer that ended before its work did."""

    def __init__(self, root: int, name: str, fd: int, info: os.stat_result) -> None:
        self.name, self.touched = name, info.st_mtime
        self._root, self._fd = root, fd

    def journal(self) -> bytes | None:
        """Return what its owner wrote down, or None where there is nothing."""
        try:
            fd = os.open(JOURNAL, os.O_RDONLY | _NO_FOLLOW, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, "rb") as file:
            return file.read()

    def take(self, part: str, workspace: Workspace, name: str) -> int | None:
        """Take one of its part files over, in one step; None where another was first."""
        try:
            os.rename(part, name, src_dir_fd=self._fd, dst_dir_fd=workspace.fd)
            fd = os.open(name, os.O_RDWR | os.O_NONBLOCK | _NO_FOLLOW, dir_fd=workspace.fd)
        except OSError:
            return None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        return fd

    def remove(self) -> None:
        """Remove what is left."""
        _remove(self._root, self.name, self._fd)


@contextlib.contextmanager
def abandoned(root: int) -> Iterator[list[Abandoned]]:
    """Give the folders in `root` (a descriptor) whose owners are gone."""
    found: list[Abandoned] = []
    with contextlib.ExitStack() as opened:
        for name in _names(root):
            try:
                fd = os.open(name, _FOLDER, dir_fd=root)
            except OSError:  # a file, a link, another user's, or gone by now
                _remove_probe(root, name)
                continue
            opened.callback(os.close, fd)
            info = os.fstat(fd)
            if info.st_uid == os.geteuid() and _is_left(fd, info):
                found.append(Abandoned(root, name, fd, info))
        yield found


def _names(root: int) -> list[str]:
    # Opened anew: descriptors that `dup` made share one position in the directory.
    fd = os.open(".", _FOLDER, dir_fd=root)
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if is_part(entry.name)]
    finally:
        os.close(fd)


def _remove_probe(root: int, name: str) -> None:
    """Remove a file by which a killed transfer tried what the disk makes of names."""
    with contextlib.suppress(OSError):
        info = os.stat(name, dir_fd=root, follow_symlinks=False)
        if stat.S_ISREG(info.st_mode) and time.time() - info.st_mtime > _JUST_MADE_SECONDS:
            os.unlink(name, dir_fd=root)


def _remove(root: int, name: str, fd: int) -> None:
    with contextlib.suppress(OSError):
        with os.scandir(fd) as entries:
            inside = [entry.name for entry in entries]
        for entry in inside:
            with contextlib.suppress(FileNotFoundError):
                try:
                    os.unlink(entry, dir_fd=fd)
                except (
                    IsADirectoryError,
                    PermissionError,
                ):  # one that a killed transfer tried with
                    os.rmdir(entry, dir_fd=fd)
        os.rmdir(name, dir_fd=root)


def _is_left(fd: int, info: os.stat_result) -> bool:
    """Tell whether nobody works in a workspace any more."""
    just_made = time.time() - info.st_mtime < _JUST_MADE_SECONDS
    try:
        owner_fd = os.open(_OWNER, os.O_RDWR | _NO_FOLLOW, dir_fd=fd)
    except OSError:
        return not just_made
    with os.fdopen(owner_fd, "rb") as file:
        try:
            owner: Any = json.load(file)
        except ValueError:
            return not just_made
        if not owner or (_machine() and owner.get("machine") == _machine()):
            return not owner or _process(int(owner["pid"])) != owner
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _process(pid: int) -> dict[str, Any]:
    """Return what tells a process of this machine from every other, before and after it."""
    return {"machine": _machine(), "pid": pid, "started": started(pid)}


@lru_cache(maxsize=1)
def _machine() -> str:
    """Return what is one for all processes that see each other by number; "" where that is unknown."""
    boot, shared = boot_id(), namespace()
    return f"{boot} {shared}" if boot and shared else ""
