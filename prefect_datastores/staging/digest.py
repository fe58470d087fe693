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

    Whoever brings the part that is next hashes on, over those that came before their time, which
    are read back; nobody waits for another's hashing.
    """

    def __init__(self, read_at: Callable[[int, int], bytes], cancellation: Cancellation) -> None:
        """Begin with nothing."""
        self._read_at, self._cancellation = read_at, cancellation
        self._digest, self._at = hashlib.md5(usedforsecurity=False), 0
        self._early: dict[int, int] = {}
        self._hashing, self._lock = False, threading.Lock()

    def came(self, offset: int, data: memoryview) -> None:
        """Take note of a part that is in its place in the file.

        Raises:
            TransferCancelled: the stop was asked for meanwhile.
        """
        with self._lock:
            if self._hashing or offset != self._at:
                self._early[offset] = len(data)
                return
            self._hashing = True
        self._digest.update(data)
        self._at += len(data)
        while (length := self._next()) is not None:
            self._read_back(length)

    def _next(self) -> int | None:
        with self._lock:
            length = self._early.pop(self._at, None)
            self._hashing = length is not None
        return length

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
