"""The disk that mounts of this machine may use for what they fetched: bounded, shared, used again.

What a version of an object is filed under says its place, name, ETag and length. A mount that reads
one holds a lock on its file; another mount that wants the same at the same time fetches for itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

DEFAULT_BYTES = 10 * 2**30
_SHARE_OF_FREE = 10
_KEEP_FREE = 256 * 2**20
"""Bytes of the disk that are never taken."""
_PUNCH, _KEEP_SIZE = 2, 1  # linux/falloc.h


class Space:
    """The folder of one mount's cache, and what may be in it; used by many threads."""

    def __init__(self, root: Path, most: int | None = None) -> None:
        """Open the folder, making it when it is missing; no other user can look into it.

        Raises:
            OSError: it cannot be made.
        """
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root = root
        free = shutil.disk_usage(root).free
        self.most = min(DEFAULT_BYTES, free // _SHARE_OF_FREE) if most is None else most
        self._lock = threading.Lock()
        self._held: OrderedDict[object, tuple[int, Evictable]] = OrderedDict()
        self._bytes = 0
        self._others = self._of_others()

    def _of_others(self) -> int:
        """Make room among what earlier mounts left, and return how much that is; the oldest goes first."""
        kept = sorted(_kept(self.root), key=lambda found: found[0])
        held = sum(size for _, size, _ in kept)
        for _, size, path in kept:
            if held <= self.most * 3 // 4:
                break
            if _forget(path):
                held -= size
        return held

    def take(self, key: object, size: int, owner: Evictable) -> bool:
        """Take so many bytes for something, and drop what was not used for longest; False where there is no room."""
        dropped: list[tuple[object, Evictable]] = []
        with self._lock:
            if size > self.most or self._free() < size + _KEEP_FREE:
                return False
            tries = len(self._held)
            while tries and self._bytes + self._others + size > self.most:
                tries -= 1
                oldest, (length, whose) = next(iter(self._held.items()))
                if not whose.is_evictable():
                    self._held.move_to_end(oldest)
                    continue
                del self._held[oldest]
                self._bytes -= length
                dropped.append((oldest, whose))
            room = self._bytes + self._others + size <= self.most
            if room:
                self._held[key] = (size, owner)
                self._bytes += size
        for oldest, whose in dropped:
            whose.evict(oldest)
        return room

    def used(self, key: object) -> None:
        """Take note that something is wanted."""
        with self._lock, contextlib.suppress(KeyError):
            self._held.move_to_end(key)

    def give(self, key: object, *, stays: bool = False) -> None:
        """Take note that something is gone, or stays for the next mount."""
        with self._lock:
            size, _ = self._held.pop(key, (0, None))
            self._bytes -= size
            self._others += size if stays else 0

    def adopt(self, key: object, size: int, owner: Evictable) -> None:
        """Count what an earlier mount left, and is used again, as this one's."""
        with self._lock:
            self._held[key] = (size, owner)
            self._bytes += size
            self._others = max(0, self._others - size)

    def _free(self) -> int:
        return shutil.disk_usage(self.root).free


class Evictable(ABC):
    """What holds something that can be dropped to make room."""

    def is_evictable(self) -> bool:
        """Tell whether it may be dropped now."""
        return True

    @abstractmethod
    def evict(self, key: object) -> None:
        """Drop it."""


def open_locked(path: Path, *, make: bool) -> int | None:
    """Open a file for this mount alone; None where another has it, or there is none and none is to be made."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if make else 0)
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        now = path.lstat()
        if now.st_ino == os.fstat(fd).st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def nameless(root: Path) -> int:
    """Return a file that is gone with its last user."""
    path = root / f".{secrets.token_hex(8)}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    path.unlink()
    return fd


def punch(fd: int, offset: int, length: int) -> None:
    """Give a range of a file back to the disk; it reads as zeros then.

    Raises:
        OSError: the file system cannot do that.
    """
    library = ctypes.CDLL(None, use_errno=True)
    place, size = ctypes.c_int64(offset), ctypes.c_int64(length)
    if library.fallocate(fd, _PUNCH | _KEEP_SIZE, place, size) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _kept(root: Path) -> Iterator[tuple[float, int, Path]]:
    """Give when each file of earlier mounts was used last, and how much of the disk it has."""
    for path in root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            if path.is_file():
                yield found.st_mtime, found.st_blocks * 512, path


def _forget(path: Path) -> bool:
    """Remove a file unless a mount has it."""
    fd = open_locked(path, make=False)
    if fd is None:
        return False
    path.unlink(missing_ok=True)
    os.close(fd)
    return True


def touch(fd: int) -> None:
    """Take note that a file was used just now."""
    now = time.time()
    with contextlib.suppress(OSError):
        os.utime(fd, (now, now))
