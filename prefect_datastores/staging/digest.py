"""The digest that Azure Storage keeps with an object: the MD5 of the whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from prefect_datastores.errors import TransferError
from prefect_datastores.staging.engine import Cancellation

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
