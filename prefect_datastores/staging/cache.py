"""Objects that were downloaded before, so that the next run on this machine need not fetch them.

An entry is one version (ETag) of one object: another name of the file that was downloaded where
that lies on the same disk, else a copy. Nothing guards that file, so an entry is used only while
its inode, length and time of change are those of the file that was verified. What is used is
written down in a database, which is the only thing that several processes share; any fault of the
cache costs a fetch and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prefect_datastores.part_files import PartFile
from prefect_datastores.stores.base import ObjectInfo
from prefect_datastores.workspaces import Workspace

_log = logging.getLogger("prefect_datastores.staging")
_DEFAULT_BYTES = 10 * 2**30
_SHARE_OF_FREE = 10  # a tenth of what is free when nothing is said
_BATCH = 500  # objects after which what happened is written down
_ORPHAN_SECONDS = 3600.0
_WAIT_SECONDS = 10.0
_TABLE = """
create table if not exists objects (
    key text primary key, size integer, inode integer, changed integer, used integer
) without rowid
"""


@dataclass(frozen=True)
class CacheLimits:
    """Where a cache is, and how many bytes it may hold; None is 10 GiB or a tenth of the free disk.

    With `links`, what is taken from it is the entry itself under one more name, which nobody may
    write to, instead of a copy.
    """

    root: Path
    most: int | None = None
    links: bool = False


def _key_of(url: str, name: str, etag: str, size: int) -> str:
    """Return what one version of one object is filed under."""
    return hashlib.sha256("\n".join((url, name, etag, str(size))).encode()).hexdigest()


@contextlib.contextmanager
def opened(limits: CacheLimits | None) -> Iterator[Cache | None]:
    """Give the cache for the length of a transfer; None where there is none, or none can be had."""
    cache = None
    if limits is not None:
        try:
            cache = Cache(limits)
        except (OSError, sqlite3.Error) as error:
            _log.warning("There is no cache at %s: %s", limits.root, error)
    try:
        yield cache
    finally:
        if cache is not None:
            cache.close()


class Cache:
    """The entries of one folder; used by many threads and processes at once."""

    def __init__(self, limits: CacheLimits) -> None:
        """Open the folder, making it when it is missing; no other user can look into it."""
        limits.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.links = limits.links
        self._root, self._lock = limits.root, threading.Lock()
        free = shutil.disk_usage(limits.root).free
        self._most = (
            min(_DEFAULT_BYTES, free // _SHARE_OF_FREE) if limits.most is None else limits.most
        )
        self._added: dict[str, tuple[int, int, int]] = {}
        self._used: set[str] = set()
        self._shards: set[str] = set()
        self._broken = self._empty = False
        self._rows = sqlite3.connect(
            limits.root / "index.db", timeout=_WAIT_SECONDS, check_same_thread=False
        )
        try:
            self._rows.execute("pragma journal_mode = wal")
            self._rows.execute("pragma synchronous = normal")
            self._rows.execute(_TABLE)
            self._rows.commit()
            self._empty = self._rows.execute("select 1 from objects limit 1").fetchone() is None
            self._forget_orphans()
        except BaseException:
            self._rows.close()
            raise

    def entry(self, url: str, info: ObjectInfo) -> Entry:
        """Return what the cache has of a version of an object, or its place where there is nothing."""
        return Entry(self, _key_of(url, info.asked, info.etag, info.size))

    def holds(self, url: str, info: ObjectInfo) -> bool:
        """Tell whether there is an entry for a version of an object, whatever it is worth."""
        if self._broken or self._empty or not info.etag:
            return False
        with self._guarded(), self._lock:
            key = _key_of(url, info.asked, info.etag, info.size)
            row = self._rows.execute("select 1 from objects where key = ?", (key,)).fetchone()
            return row is not None
        return False

    def find(self, key: str) -> int | None:
        """Return a descriptor of an entry, which the caller closes; None where there is none."""
        if self._broken or self._empty:
            return None
        with self._guarded():
            with self._lock:
                row = self._rows.execute(
                    "select size, inode, changed from objects where key = ?", (key,)
                ).fetchone()
            if row is None:
                return None
            try:
                fd = os.open(self.path_of(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                fd = -1
            if fd >= 0 and _stamp(fd) == row:
                with self._lock:
                    self._used.add(key)
                return fd
            if fd >= 0:
                os.close(fd)
            self.forget(key)
        return None

    def add(self, key: str, part: PartFile, *, shares: bool) -> None:
        """Keep what is whole, verified and flushed under one more name, or as a copy unless it `shares`."""
        if self._broken:
            return
        with self._guarded():
            size, inode, changed = _stamp(part.fd)
            if size > self._most:
                return
            path = self.path_of(key)
            if key[:2] not in self._shards:
                Path(path).parent.mkdir(exist_ok=True, mode=0o700)
                self._shards.add(key[:2])
            if not (shares and part.link_to(path)):
                inode, changed = self._copy(part.fd, Path(path))
            with self._lock:
                self._added[key] = (size, inode, changed)
                full = len(self._added) >= _BATCH
            if full:
                self._write_down()

    def path_of(self, key: str) -> str:
        """Return where an entry is; a text, as it is made for every object."""
        return f"{self._root}/{key[:2]}/{key[2:]}"

    def forget(self, key: str) -> None:
        """Drop an entry that is not what it was."""
        with self._guarded():
            with self._lock:
                self._added.pop(key, None)
                self._rows.execute("delete from objects where key = ?", (key,))
                self._rows.commit()
            Path(self.path_of(key)).unlink(missing_ok=True)

    def close(self) -> None:
        """Write down what happened, and drop what was not used for longest where there is too much."""
        self._write_down()
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._rows.close()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn the cache off at its first fault."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            if not self._broken:
                self._broken = True
                _log.warning("The cache at %s is not used any more: %s", self._root, error)

    def _copy(self, fd: int, path: Path) -> tuple[int, int]:
        """Copy a file of another disk into the cache, and return the inode and the time of the copy."""
        beside = path.with_name(f"{secrets.token_hex(8)}.new")
        try:
            with os.fdopen(os.dup(fd), "rb") as read, beside.open("xb") as written:
                read.seek(0)
                shutil.copyfileobj(read, written, 2**20)
                written.flush()
                os.fsync(written.fileno())
                _, inode, changed = _stamp(written.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        return inode, changed

    def _write_down(self) -> None:
        with self._guarded(), self._lock:
            added, self._added = self._added, {}
            used, self._used = self._used, set()
            now = time.time_ns()
            with self._rows:
                self._rows.executemany(
                    "insert or replace into objects values (?, ?, ?, ?, ?)",
                    [(key, *stamp, now) for key, stamp in added.items()],
                )
                self._rows.executemany(
                    "update objects set used = ? where key = ?", [(now, key) for key in used]
                )
            if added:
                self._evict()

    def _evict(self) -> None:
        """Drop what was not used for longest until the rest is within the bound."""
        held = self._rows.execute("select coalesce(sum(size), 0) from objects").fetchone()[0]
        while held > self._most:
            oldest = self._rows.execute(
                "select key, size from objects order by used, key limit 100"
            ).fetchall()
            if not oldest:
                return
            for key, size in oldest:
                if held <= self._most:
                    break
                with self._rows:
                    self._rows.execute("delete from objects where key = ?", (key,))
                Path(self.path_of(key)).unlink(missing_ok=True)
                held -= size

    def _forget_orphans(self) -> None:
        """Remove what a kill left without a row, in one of the 256 folders each time."""
        shard = self._root / secrets.token_hex(1)
        before = time.time() - _ORPHAN_SECONDS
        with contextlib.suppress(FileNotFoundError):
            for path in shard.iterdir():
                row = self._rows.execute(
                    "select 1 from objects where key = ?", (shard.name + path.name,)
                ).fetchone()
                # The time of change of the inode: a new name of an old file is new.
                if row is None and path.lstat().st_ctime < before:
                    path.unlink(missing_ok=True)


class Entry:
    """One version of one object in the cache, or its empty place there (`fd` is None)."""

    def __init__(self, cache: Cache, key: str) -> None:
        self._cache, self._key = cache, key
        self.links = cache.links
        self.fd = cache.find(key)
        self._linked = False

    def link_into(self, workspace: Workspace) -> tuple[str, int] | None:
        """Give the entry itself a name in a workspace, where links are wanted and can be had."""
        if self.fd is None or not self.links:
            return None
        taken = workspace.link_from(self._cache.path_of(self._key))
        if taken is not None and os.fstat(taken[1]).st_ino != os.fstat(self.fd).st_ino:
            os.close(taken[1])  # another was put in its place meanwhile
            return None
        self._linked = taken is not None
        return taken

    def gave(self, part: PartFile) -> bool:
        """Tell whether the part file has the whole content now, without a byte being copied."""
        return self._linked or (self.fd is not None and part.clone(self.fd))

    def read_into(self, offset: int, memory: memoryview) -> bool:
        """Fill the memory with what the entry has at `offset`; tell whether there is as much."""
        return self.fd is not None and os.preadv(self.fd, [memory], offset) == len(memory)

    def add(self, part: PartFile, *, shares: bool = True) -> None:
        """Fill the empty place; a file that has what is not the object's content does not share itself."""
        self._cache.add(self._key, part, shares=shares)

    def forget(self) -> None:
        """Drop the entry: it is not what it was."""
        self._cache.forget(self._key)

    def close(self) -> None:
        """Let go of the file."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def _stamp(fd: int) -> tuple[int, int, int]:
    """Return what is another once anybody wrote to a file."""
    info = os.fstat(fd)
    return info.st_size, info.st_ino, info.st_mtime_ns
