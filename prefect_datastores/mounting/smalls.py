"""Small objects that were fetched whole: the newest in memory, all in files that hold many of them.

A file of its own for each would cost more than fetching it. An object stands behind a head with its
key, length and checksum, so that the next mount finds it, and a torn end harms nothing before it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
import threading
import zlib
from collections import OrderedDict
from pathlib import Path

from prefect_datastores.mounting.space import Evictable, Space, open_locked, touch

SMALL = 2**20
_IN_MEMORY = 64 * 2**20
_PACK = 64 * 2**20
_LOAD_SECONDS = 0.5
_HEAD = struct.Struct("<4s32sII")
_MAGIC = b"pdsm"


class _Pack(Evictable):
    """One file of many small objects."""

    def __init__(self, path: Path, fd: int, end: int) -> None:
        self.path, self.fd, self.end = path, fd, end
        self.is_gone = False

    def evict(self, key: object) -> None:
        """Remove the file; who reads from it finds that it is empty, as it may have it open for long."""
        self.is_gone = True
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, 0)
        self.path.unlink(missing_ok=True)


class Smalls:
    """Small objects by the key of their version; used by many threads."""

    def __init__(self, space: Space | None) -> None:
        """Find what earlier mounts left."""
        self._space, self._lock = space, threading.Lock()
        self._memory: OrderedDict[bytes, bytes] = OrderedDict()
        self._memory_bytes = 0
        self._places: dict[bytes, tuple[_Pack, int, int, int]] = {}
        self._packs: list[_Pack] = []
        self._current: _Pack | None = None
        self._used: set[_Pack] = set()
        self._over = False
        self._loading: threading.Thread | None = None
        if space is not None:
            with contextlib.suppress(OSError):
                (space.root / "small").mkdir(exist_ok=True, mode=0o700)
                # Heads of millions take a while; what is not known yet is fetched meanwhile.
                self._loading = threading.Thread(
                    target=self._load, args=(space.root / "small",), name="pds-mount-load"
                )
                self._loading.start()
                self._loading.join(_LOAD_SECONDS)

    def _load(self, folder: Path) -> None:
        for path in sorted(folder.glob("*.pack"), key=_moment, reverse=True):
            with contextlib.suppress(OSError):
                self._take_over(path)

    def _take_over(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        pack = _Pack(path, fd, 0)
        with self._lock:
            self._packs.append(pack)
        size = os.fstat(fd).st_size
        while pack.end + _HEAD.size <= size and not self._over:
            magic, key, length, checksum = _HEAD.unpack(os.pread(fd, _HEAD.size, pack.end))
            begin = pack.end + _HEAD.size
            if magic != _MAGIC or begin + length > size:
                return
            self._places.setdefault(key, (pack, begin, length, checksum))
            pack.end = begin + length

    def has(self, key: bytes) -> bool:
        """Tell whether an object is here, whatever it is worth."""
        return key in self._memory or key in self._places

    def get(self, key: bytes) -> bytes | None:
        """Return an object as it was fetched; None where it is not here (any more)."""
        with self._lock:
            content = self._memory.get(key)
            if content is not None:
                self._memory.move_to_end(key)
                return content
            place = self._places.get(key)
        if place is None:
            return None
        pack, begin, length, checksum = place
        content = b""
        if not pack.is_gone:
            with contextlib.suppress(OSError):
                content = os.pread(pack.fd, length, begin)
        if len(content) != length or zlib.crc32(content) != checksum:
            with self._lock:
                self._places.pop(key, None)
            return None
        if self._space is not None:
            self._space.used(pack)
            self._used.add(pack)
        with self._lock:
            self._remember(key, content)
        return content

    def put(self, key: bytes, content: bytes) -> None:
        """Keep an object that was fetched."""
        with self._lock:
            self._remember(key, content)
            if self._space is None or key in self._places:
                return
            pack = self._pack_for(_HEAD.size + len(content), self._space)
            if pack is None:
                return
            checksum, begin = zlib.crc32(content), pack.end + _HEAD.size
            pack.end = begin + len(content)
        head = _HEAD.pack(_MAGIC, key, len(content), checksum)
        try:
            os.pwritev(pack.fd, [head, content], begin - _HEAD.size)
        except OSError:
            return
        self._places[key] = (pack, begin, len(content), checksum)

    def _remember(self, key: bytes, content: bytes) -> None:
        if key not in self._memory:
            self._memory[key] = content
            self._memory_bytes += len(content)
        while self._memory_bytes > _IN_MEMORY:
            _, dropped = self._memory.popitem(last=False)
            self._memory_bytes -= len(dropped)

    def _pack_for(self, length: int, space: Space) -> _Pack | None:
        """Return the file that has room for so many bytes more."""
        pack = self._current
        if pack is not None and not pack.is_gone and pack.end + length <= _PACK:
            return pack
        path = space.root / "small" / f"{secrets.token_hex(8)}.pack"
        try:
            fd = open_locked(path, make=True)
        except OSError:
            return None
        if fd is None:
            return None
        pack = _Pack(path, fd, 0)
        if not space.take(pack, _PACK, pack):
            os.close(fd)
            path.unlink(missing_ok=True)
            return None
        self._packs.append(pack)
        self._current = pack
        return pack

    def close(self) -> None:
        """Let go of the files; what is in them is there for the next mount."""
        self._over = True
        if self._loading is not None:
            self._loading.join()
        for pack in self._packs:
            if pack in self._used:
                touch(pack.fd)
            if self._space is not None:
                self._space.give(pack, stays=not pack.is_gone)
            os.close(pack.fd)
        self._packs.clear()


def _moment(path: Path) -> float:
    """Return when a file was used last."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
