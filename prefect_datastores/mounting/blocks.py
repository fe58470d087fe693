"""The blocks of one version of a large object, as far as they were fetched: in a file with holes, each with its checksum."""

from __future__ import annotations

import array
import contextlib
import json
import os
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_datastores.mounting.space import (
    Evictable,
    Space,
    index_of,
    nameless,
    open_locked,
    punch,
    touch,
)

if TYPE_CHECKING:
    from prefect_datastores.stores.base import ObjectInfo

BLOCK = 512 * 2**10
_FORMAT = 1
_INDEX_SECONDS = 10.0
_SECTOR = 512
_ABSENT, _THERE, _SEEN = 0, 1, 2
"""Nothing; what an earlier mount left; what this one wrote, or compared with its checksum."""


class Blocks(Evictable):
    """Which blocks of a version are here; used by many threads."""

    def __init__(self, space: Space | None, key: str, info: ObjectInfo) -> None:
        """Go on with what an earlier mount fetched of the same version, where nobody else does."""
        self._space, self._key, self.size = space, key, info.size
        self.count = -(-info.size // BLOCK)
        self._state = bytearray(self.count)
        self._sums = array.array("I", bytes(4 * self.count))
        self._lock = threading.Lock()
        self._left = self.count
        self._written: int | None = None
        self._indexed = 0.0
        self.pins = 0
        """How many have the file itself, so that none of it may go."""
        self.changes = 0
        """How often a block went."""
        self.digest = info.digest
        """The MD5 that the service holds of the whole, once that is known."""
        self.is_verified = False
        """Whether the whole was compared with it."""
        self.fd = -1
        self._index: Path | None = None
        self._is_spoiled = False
        if space is not None:
            self._open(space)

    def _open(self, space: Space) -> None:
        folder = space.root / self._key[:2]
        with contextlib.suppress(OSError), space.taking_over() as adopt:
            folder.mkdir(exist_ok=True, mode=0o700)
            path = folder / self._key[2:]
            fd = open_locked(path, make=True)
            if fd is None:
                self.fd = nameless(space.root)
            else:
                self.fd, self._index = fd, index_of(path)
                was = os.fstat(fd).st_blocks * _SECTOR
                self._read_index()
                self._give_back_the_rest()
                adopt(
                    was, {(self._key, block): self._length(block) for block in self._here()}, self
                )
            os.ftruncate(self.fd, self.size)

    def _read_index(self) -> None:
        """Take over what is written down; what that is worth, the checksums tell."""
        assert self._index is not None, "Called where there is one."
        try:
            head, _, body = self._index.read_bytes().partition(b"\n")
            said = json.loads(head)
            state, sums = body[: self.count], body[self.count :]
            if (said["format"], said["size"], said["block"]) != (_FORMAT, self.size, BLOCK):
                return
            if len(sums) != 4 * self.count or os.fstat(self.fd).st_size != self.size:
                return
            digest, is_verified = said.get("digest"), said.get("verified") is True
            digest = bytes.fromhex(digest) if digest else None
        except (OSError, ValueError, KeyError, TypeError):
            return
        self._state[:] = bytes(_THERE if one else _ABSENT for one in state)
        self._sums = array.array("I", sums)
        self._left = self._state.count(_ABSENT)
        self.is_verified = is_verified and self.digest in {None, digest}
        self.digest = self.digest or digest

    def _here(self) -> list[int]:
        return [block for block in range(self.count) if self._state[block]]

    def _give_back_the_rest(self) -> None:
        """Have nothing on the disk that the index does not know: a mount that was killed may have written more."""
        if self._left == self.count:
            os.ftruncate(self.fd, 0)
            return
        known = sum(map(self._length, self._here()))
        if os.fstat(self.fd).st_blocks * _SECTOR <= known + BLOCK:
            return
        for block in range(self.count):
            if not self._state[block]:
                with contextlib.suppress(OSError):
                    punch(self.fd, block * BLOCK, self._length(block))

    def _length(self, block: int) -> int:
        return min(BLOCK, self.size - block * BLOCK)

    @property
    def is_whole(self) -> bool:
        """Whether all of it is here, whatever it is worth."""
        return not self._left

    def note_verified(self) -> None:
        """Take note that the whole is what the service holds, for the next mount too."""
        self.is_verified = True
        self.write_index()

    def spoil(self) -> None:
        """Have nothing of it any more, and take nothing of it again: it is not what the service holds.

        Who reads the file itself comes to its end.
        """
        with self._lock:
            self._is_spoiled = True
            here, self._state[:], self._left = self._here(), bytes(self.count), self.count
            self.changes += 1
            index, self._index, self._written = self._index, None, None
        if self._space is not None:
            for block in here:
                self._space.give((self._key, block))
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, 0)
            if index is not None:
                index.with_suffix("").unlink(missing_ok=True)
                index.unlink(missing_ok=True)

    @property
    def may_be_handed_out(self) -> bool:
        """Whether the file is the whole version, as it was fetched."""
        return self._is_as_left()

    def is_evictable(self) -> bool:
        """Tell whether any of it may go."""
        return not self.pins

    def has(self, block: int) -> bool:
        """Tell whether a block is here."""
        return self._state[block] != _ABSENT

    def keep(self, block: int, content: memoryview) -> bool:
        """Keep a block that was fetched; False where there is no room for it."""
        if self.fd < 0 or self._space is None or self._is_spoiled:
            return False
        key = (self._key, block)
        if not self._space.take(key, len(content), self):
            return False
        try:
            os.pwrite(self.fd, content, block * BLOCK)
        except OSError:
            self._space.give(key)
            return False
        checksum = zlib.crc32(content)
        with self._lock:
            if self.is_verified and checksum != self._sums[block]:
                self.is_verified = False  # what was compared had something else here
            self._sums[block] = checksum
            if self._state[block] == _ABSENT:
                self._left -= 1
            self._state[block] = _SEEN
            self._written = None
            self._note_if_whole()
        if not self._space.holds(key):  # it was dropped before it was written
            self.evict(key)
            return False
        return True

    def read(self, offset: int, size: int) -> memoryview | None:
        """Return what is at a place, as it was fetched; None where some of it is not here (any more)."""
        end = min(offset + size, self.size)
        if self._is_as_left():
            content = memoryview(bytearray(end - offset))
            return content if self._filled(content, offset) else None
        first, last = offset // BLOCK, (end - 1) // BLOCK
        if any(not self._state[block] for block in range(first, last + 1)):
            return None
        begin, until = first * BLOCK, min((last + 1) * BLOCK, self.size)
        content = memoryview(bytearray(until - begin))
        if not self._filled(content, begin):
            return None
        for block in range(first, last + 1):
            piece = content[block * BLOCK - begin :][: self._length(block)]
            if zlib.crc32(piece) != self._sums[block] or not self._state[block]:
                self.drop(block)
                return None
            self._state[block] = _SEEN
        with self._lock:
            self._note_if_whole()
        if self._space is not None:
            self._space.used((self._key, first))
        return content[offset - begin : end - begin]

    def _filled(self, content: memoryview, offset: int) -> bool:
        try:
            return os.preadv(self.fd, [content], offset) == len(content)
        except OSError:
            return False

    def _is_as_left(self) -> bool:
        """Tell whether the whole is here, was compared with its checksums, and nobody wrote to it since."""
        if self._left:
            return False
        try:
            written = os.fstat(self.fd).st_mtime_ns
        except OSError:
            return False
        if written == self._written:
            return True
        if self._written is not None:  # somebody did
            self._written = None
            self._state[:] = bytes(_THERE if one else _ABSENT for one in self._state)
        return False

    def _note_if_whole(self) -> None:
        """Take note of when the file was written to last, once all of it is here and known to be right."""
        if self._written is None and not self._left and self._state.count(_SEEN) == self.count:
            self._written = os.fstat(self.fd).st_mtime_ns

    def drop(self, block: int) -> None:
        """Forget a block that is not what it was."""
        if self._space is not None:
            self._space.give((self._key, block))
        self.evict((self._key, block))

    def _forget(self, block: int) -> None:
        with self._lock:
            if self._state[block] != _ABSENT:
                self._state[block] = _ABSENT
                self._left += 1
                self.changes += 1

    def evict(self, key: object) -> None:
        """Give a block back to the disk."""
        assert isinstance(key, tuple), "As it was taken."
        block = int(key[1])
        self._forget(block)
        with contextlib.suppress(OSError):  # then it stays on the disk until the version goes
            punch(self.fd, block * BLOCK, self._length(block))

    def write_index(self, *, seldom: bool = False) -> None:
        """Write down what is here, for the next mount; not again at once where `seldom` is said."""
        now = time.monotonic()
        if self._index is None or (seldom and now - self._indexed < _INDEX_SECONDS):
            return
        self._indexed = now
        with self._lock:
            said = {
                "format": _FORMAT,
                "size": self.size,
                "block": BLOCK,
                "digest": self.digest.hex() if self.digest else None,
                "verified": self.is_verified,
            }
            body = json.dumps(said).encode() + b"\n" + bytes(self._state) + self._sums.tobytes()
        beside = self._index.with_name(f"{self._index.name}.new")
        with contextlib.suppress(OSError):
            beside.write_bytes(body)
            beside.replace(self._index)

    def close(self) -> None:
        """Let go of the file; what is in it is there for the next mount."""
        self.write_index()
        stays = self._index is not None
        if self._space is not None:
            for block in range(self.count):
                if self._state[block]:
                    self._space.give((self._key, block), stays=stays)
        if self.fd >= 0:
            if stays:
                touch(self.fd)
            os.close(self.fd)
            self.fd = -1
