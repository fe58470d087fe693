"""The digest that Azure Storage keeps with an object: the MD5 of the whole."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable

from prefect_datastores.errors import TransferError
from prefect_datastores.staging.cancellation import Cancellation

_CHUNK = 2**20


def md5_of(read_at: Callable[[int, int], bytes], cancellation: Cancellation) -> bytes:
    """Return the MD5 of what `read_at(offset, length)` gives until it gives nothing.

    Raises:
        TransferCancelled: the stop was asked for meanwhile.
    """
    digest, offset = hashlib.md5(usedforsecurity=False), 0
    while chunk := read_at(offset, _CHUNK):
        cancellation.check()
        digest.update(chunk)
        offset += len(chunk)
    return digest.digest()


def md5_of_file(fd: int, cancellation: Cancellation) -> bytes:
    """Return the MD5 of an open file.

    Raises:
        TransferError: it cannot be read.
    """

    def read_at(offset: int, length: int) -> bytes:
        try:
            return os.pread(fd, length, offset)
        except OSError as error:
            raise TransferError(f"A local file could not be read: {error.strerror}.") from error

    return md5_of(read_at, cancellation)


class RunningDigest:
    """The MD5 of a file whose parts come in any order, made while they come.

    Whoever brings the part that is next hashes on, over those that came before their time; nobody
    waits for another's hashing. Those lie in memory until then, so that no more is fetched than can
    be hashed; where memory runs short, the part that is wanted last is read back from the file.
    """

    def __init__(
        self,
        read_at: Callable[[int, int], bytes],
        cancellation: Cancellation,
        give: Callable[[memoryview], None],
    ) -> None:
        """Begin with nothing; `give` takes the memory of a part."""
        self._read_at, self._cancellation, self._give = read_at, cancellation, give
        self._digest, self._at = hashlib.md5(usedforsecurity=False), 0
        self._early: dict[int, memoryview | int] = {}
        self._hashing, self._lock = False, threading.Lock()

    def came(self, offset: int, data: memoryview) -> None:
        """Take over a part that is in its place in the file; its memory is given when it is hashed.

        Raises:
            TransferCancelled: the stop was asked for meanwhile.
        """
        with self._lock:
            if self._hashing or offset != self._at:
                self._early[offset] = data
                return
            self._hashing = True
        part: memoryview | int | None = data
        while part is not None:
            if isinstance(part, int):
                self._read_back(part)
            else:
                self._hash(part)
            part = self._next()

    def give_up(self) -> bool:
        """Give the memory of the part that is wanted last; False where none lies here."""
        with self._lock:
            lying = {at: part for at, part in self._early.items() if not isinstance(part, int)}
            if not lying:
                return False
            part = lying[last := max(lying)]
            self._early[last] = len(part)
        self._give(part)
        return True

    def close(self) -> None:
        """Give the memory of all parts that were not hashed."""
        while self.give_up():
            pass

    def _hash(self, part: memoryview) -> None:
        try:
            self._cancellation.check()
            self._digest.update(part)
            self._at += len(part)
        finally:
            self._give(part)

    def _next(self) -> memoryview | int | None:
        with self._lock:
            part = self._early.pop(self._at, None)
            self._hashing = part is not None
        return part

    def _read_back(self, length: int) -> None:
        until = self._at + length
        while self._at < until:
            self._cancellation.check()
            chunk = self._read_at(self._at, min(_CHUNK, until - self._at))
            if not chunk:
                raise TransferError("A part of a file was gone when it was read back.")
            self._digest.update(chunk)
            self._at += len(chunk)

    def result(self) -> bytes:
        """Return the digest of all parts, once all came."""
        return self._digest.digest()
