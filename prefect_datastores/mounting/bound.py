"""One bound for all mounts that share a folder: who may use how much, whatever becomes of any of them.

Each mount has a file with its number, locked as long as its process lives. Of one that was killed the
lock is gone, and its number counts as what it left. All numbers are read and changed under one lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_NUMBER = struct.Struct("<QQ")
"""Bytes that a mount may use, and when it was refused more last, by the machine's monotonic clock in ns."""
_LEFT = struct.Struct("<Q")
_STEP, _STEPS = 16 * 2**20, 32
"""Bytes that are granted at once, so that not every block needs the lock; a part of the whole at most."""
_PARTS = 16
"""The part of the whole that is made room for, or given to others, at once."""
_WANTS_SECONDS = 5.0

Trim = Callable[[int], int]
"""Removes the oldest of what nobody has until so many bytes are left, and returns how many there are."""


class Bound:
    """What one mount may use of a folder that others use as well; used by many threads."""

    def __init__(self, folder: Path, most: int, trim: Trim) -> None:
        """Be one of the mounts that have `most` bytes together, and leave a quarter of it free of what was left.

        Raises:
            OSError: the folder cannot be made, or its disk has no locks.
        """
        folder.mkdir(exist_ok=True, mode=0o700)
        self._folder, self._most, self._trim = folder, most, trim
        self._lock = threading.Lock()  # the other one is of the process
        self._bytes, self._is_over = 0, False
        self._sum = os.open(folder / "left", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._path = folder / f"{secrets.token_hex(8)}.mount"
        try:
            with self._alone():
                self._fd = _opened(self._path, os.O_CREAT | os.O_EXCL)
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                self._write(self._fd, 0, 0)
                _, others, _ = self._others()
                self._leave(trim(max(0, most * 3 // 4 - others)))
        except BaseException:
            os.close(self._sum)
            raise

    def more(self, size: int) -> int:
        """Return how many bytes more may be used from now on, at least `size`; 0 where there is no room.

        What earlier mounts left gives way, the oldest first. Whom there is no room for is noticed by the others.
        """
        with self._alone():
            left, others, _ = self._others()
            room = self._most - left - others - self._bytes
            if room < size and left:
                before = left
                left = self._trim(max(0, left - max(size - room, self._most // _PARTS)))
                self._leave(left)
                room += before - left
            if room < size:
                self._write(self._fd, self._bytes, time.monotonic_ns())
                return 0
            given = max(size, min(room, _STEP, self._most // _STEPS))
            self._bytes += given
            self._write(self._fd, self._bytes, 0)
            return given

    def less(self, size: int) -> None:
        """Take note that so many bytes are not used any more."""
        with self._alone():
            self._bytes = max(0, self._bytes - size)
            self._write(self._fd, self._bytes, 0)

    @contextlib.contextmanager
    def taking_over(self) -> Iterator[Callable[[int, int], None]]:
        """Keep others away while something is opened that an earlier mount may have left.

        What is given is told how many bytes were left, and how many of them are used here from now on.
        """
        with self._alone():
            yield self._take_over

    def _take_over(self, was: int, size: int) -> None:
        left, _, _ = self._others()
        self._leave(max(0, left - was))
        self._bytes += size
        self._write(self._fd, self._bytes, 0)

    def beyond(self) -> int:
        """Return how many bytes are to be given to others now, which lack them; each may have as much as the next."""
        with self._alone():
            _, _, wanting = self._others()
            if not wanting:
                return 0
            over = self._bytes - self._most // (1 + self._count())
            return max(0, min(over, self._most // _PARTS))

    def close(self, stays: int) -> None:
        """Use nothing any more; so many bytes stay for the next mount."""
        with self._alone():
            left, _, _ = self._others()
            self._leave(left + stays)
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._is_over = True
        os.close(self._sum)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            if self._is_over:
                raise OSError(errno.EBADF, "The mount is over.")
            fcntl.flock(self._sum, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._sum, fcntl.LOCK_UN)

    def _others(self) -> tuple[int, int, bool]:
        """Return the bytes that were left, those that others may use, and whether one of those lacks some now."""
        left, used, wanting = self._left(), 0, False
        since = time.monotonic_ns() - int(_WANTS_SECONDS * 1e9)
        for path in self._mounts():
            try:
                fd = _opened(path)
            except FileNotFoundError:
                continue
            size, wanted = _number(fd)
            if _is_held(fd):
                used, wanting = used + size, wanting or wanted > since
            else:
                path.unlink(missing_ok=True)
                left += size
                self._leave(left)
            os.close(fd)
        return left, used, wanting

    def _mounts(self) -> list[Path]:
        return [path for path in self._folder.glob("*.mount") if path != self._path]

    def _count(self) -> int:
        return len(self._mounts())

    def _left(self) -> int:
        content = os.pread(self._sum, _LEFT.size, 0)
        return int(_LEFT.unpack(content)[0]) if len(content) == _LEFT.size else 0

    def _leave(self, size: int) -> None:
        os.pwrite(self._sum, _LEFT.pack(size), 0)

    @staticmethod
    def _write(fd: int, size: int, wanted: int) -> None:
        os.pwrite(fd, _NUMBER.pack(size, wanted), 0)


def _opened(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)


def _number(fd: int) -> tuple[int, int]:
    content = os.pread(fd, _NUMBER.size, 0)
    size, wanted = _NUMBER.unpack(content) if len(content) == _NUMBER.size else (0, 0)
    return size, wanted


def _is_held(fd: int) -> bool:
    """Tell whether the process of a mount lives: nobody else keeps a lock on its file."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
