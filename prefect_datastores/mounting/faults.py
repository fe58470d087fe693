"""What a program is told of a fault: an errno that it can act on, and a line in the log for people."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect_datastores.errors import (
    AccessError,
    DatastoreError,
    LocalDiskFull,
    ObjectExists,
    ObjectNotFound,
    SourceChanged,
    TransferCancelled,
    UnsafeName,
)

_log = logging.getLogger("prefect_datastores.mounting")
_LOG_SECONDS, _SAID = 10.0, 1000
"""For how long a line is not said again, and of how many lines that is known."""


class Refused(Exception):
    """What a program gets instead of an answer."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


class Faults:
    """Tells programs and the log what failed; used by many threads."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        self._lock, self._said = threading.Lock(), dict[str, float]()

    @contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Tell a program the errno of what fails inside; that of the disk is what it is."""
        try:
            yield
        except DatastoreError as error:
            raise Refused(self.errno_of(error, what)) from error
        except OSError as error:
            number = error.errno or errno.EIO
            self._say(f"{what}: {error.strerror}", number)
            raise Refused(number) from error

    def errno_of(self, error: DatastoreError, what: str) -> int:
        """Return the errno of a fault, which is said in the log."""
        number = _errno_of(error)
        self._say(f"{what}: {error}", number)
        return number

    def _say(self, text: str, number: int) -> None:
        now = time.monotonic()
        with self._lock:
            if len(self._said) > _SAID:
                self._said.clear()
            if now - self._said.get(text, -_LOG_SECONDS) < _LOG_SECONDS:
                return
            self._said[text] = now
        _log.error("%s: %s", errno.errorcode[number], text)


def _errno_of(error: DatastoreError) -> int:
    if isinstance(error, (SourceChanged, ObjectNotFound, ObjectExists)):
        return errno.ESTALE
    if isinstance(error, AccessError):
        return errno.EACCES
    if isinstance(error, LocalDiskFull):
        return errno.ENOSPC
    if isinstance(error, UnsafeName):
        return errno.EINVAL
    return errno.EINTR if isinstance(error, TransferCancelled) else errno.EIO
