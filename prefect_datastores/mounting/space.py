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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prefect_datastores.mounting.bound import Bound

DEFAULT_BYTES = 10 * 2**30
_SHARE_OF_FREE = 10
_KEEP_FREE = 256 * 2**20
"""Bytes of the disk that are never taken."""
_NUMBERS = ".mounts"
_GIVE_SECONDS = 1.0
_SECTOR = 512
_PUNCH, _KEEP_SIZE = 2, 1  # linux/falloc.h


class Space:
    """The folder of one mount's cache, and what may be in it; used by many threads."""

    def __init__(self, root: Path, most: int | None = None) -> None:
        """Open the folder, making it when it is missing; no other user can look into it.

        All mounts that use it have `most` bytes together.

        Raises:
            OSError: it cannot be made, or its disk has no locks.
        """
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root = root
        free = shutil.disk_usage(root).free
        self.most = min(DEFAULT_BYTES, free // _SHARE_OF_FREE) if most is None else most
        self._lock = threading.Lock()
        self._held: OrderedDict[object, tuple[int, Evictable]] = OrderedDict()
        self._bytes = self._stays = self._may = 0
        self._bound = Bound(root / _NUMBERS, self.most, self._trim)
        self._over = threading.Event()
        self._giving = threading.Thread(target=self._give, name="pds-mount-space", daemon=True)
        self._giving.start()

    def take(self, key: object, size: int, owner: Evictable) -> bool:
        """Take so many bytes for something, and drop what was not used for longest; False where there is no room."""
        while True:
            with self._lock:
                if size > self.most or self._free() < size + _KEEP_FREE:
                    return False
                if self._bytes + size <= self._may:
                    before, _ = self._held.pop(key, (0, owner))
                    self._held[key] = (size, owner)
                    self._bytes += size - before
                    return True
            try:
                more = self._bound.more(size)
            except OSError:
                return False
            with self._lock:
                self._may += more
            if not more and not self._dropped():
                return False

    def _dropped(self, *, for_others: bool = False) -> int:
        """Drop what was not used for longest; return how many bytes that were, 0 where nothing may go."""
        with self._lock:
            for _ in range(len(self._held)):
                key, (size, whose) = next(iter(self._held.items()))
                if whose.is_evictable():
                    del self._held[key]
                    break
                self._held.move_to_end(key)
            else:
                return 0
        whose.evict(key)
        with self._lock:
            self._bytes -= size
            self._may -= size if for_others else 0
        return size

    def holds(self, key: object) -> bool:
        """Tell whether what was taken for something was not dropped since."""
        with self._lock:
            return key in self._held

    def used(self, key: object) -> None:
        """Take note that something is wanted."""
        with self._lock, contextlib.suppress(KeyError):
            self._held.move_to_end(key)

    def give(self, key: object, *, stays: bool = False) -> None:
        """Take note that something is gone, or stays for the next mount."""
        with self._lock:
            size, _ = self._held.pop(key, (0, None))
            self._bytes -= size
            self._stays += size if stays else 0

    @contextlib.contextmanager
    def taking_over(self) -> Iterator[Callable[[int, Mapping[object, int], Evictable], None]]:
        """Keep other mounts away while a file is opened that an earlier one may have left.

        What is given is told how many bytes of the disk the file had, and the length of each thing in it
        that is used again.
        """
        with self._bound.taking_over() as take_over:

            def adopt(was: int, found: Mapping[object, int], owner: Evictable) -> None:
                size = sum(found.values())
                take_over(was, size)
                with self._lock:
                    self._held.update({key: (length, owner) for key, length in found.items()})
                    self._bytes += size
                    self._may += size

            yield adopt

    def close(self) -> None:
        """Leave what is there to the next mount."""
        self._over.set()
        self._giving.join()
        with contextlib.suppress(OSError):
            self._bound.close(self._stays)

    def _give(self) -> None:
        """Give way to other mounts that have less, and lack it; an idle one does so as well."""
        while not self._over.wait(_GIVE_SECONDS):
            with contextlib.suppress(OSError):
                beyond, gone = self._bound.beyond(), 0
                while gone < beyond and (size := self._dropped(for_others=True)):
                    gone += size
                if gone:
                    self._bound.less(gone)

    def _trim(self, most: int) -> int:
        """Remove what no mount has until so many bytes are left, the oldest first; return how many are left."""
        found = sorted(_left(self.root), key=lambda one: one[0])
        held = sum(size for _, size, _ in found)
        for _, size, path in found:
            if held <= most:
                break
            if _forget(path):
                held -= size
        return held

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


def index_of(path: Path) -> Path:
    """Return the file in which it stands what of a file is there."""
    return path.with_name(f"{path.name}.index")


def _left(root: Path) -> Iterator[tuple[float, int, Path]]:
    """Give when each file that no mount has was used last, and how much of the disk it has with its index."""
    for path in (*root.glob("[0-9a-f][0-9a-f]/*"), *root.glob("small/*.pack")):
        if path.suffix in {".index", ".new"}:
            continue
        with contextlib.suppress(OSError):
            fd = open_locked(path, make=False)
            if fd is None:
                continue
            found = os.fstat(fd)
            os.close(fd)
            size = found.st_blocks * _SECTOR
            with contextlib.suppress(FileNotFoundError):
                size += index_of(path).stat().st_blocks * _SECTOR
            yield found.st_mtime, size, path


def _forget(path: Path) -> bool:
    """Remove a file unless a mount has it to write to; who reads it finds that it is empty."""
    fd = open_locked(path, make=False)
    if fd is None:
        return False
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
    path.unlink(missing_ok=True)
    index_of(path).unlink(missing_ok=True)
    os.close(fd)
    return True


def touch(fd: int) -> None:
    """Take note that a file was used just now."""
    now = time.time()
    with contextlib.suppress(OSError):
        os.utime(fd, (now, now))
