"""What is given to who reads: bytes without a copy, or the fault, at once or later."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from prefect_datastores.errors import DatastoreError, MountError
from prefect_datastores.mounting.statistics import Statistics

_log = logging.getLogger("prefect_datastores.mounting")

Parts = Sequence["memoryview | bytes"]
Answer = Callable[["Parts | DatastoreError"], None]


def counted(statistics: Statistics, answer: Answer) -> Answer:
    """Count a read that has to wait, for how long it does, and what it gets."""
    began = time.monotonic()

    def counts(content: Parts | DatastoreError) -> None:
        size = 0 if isinstance(content, DatastoreError) else sum(map(len, content))
        statistics.missed(size, time.monotonic() - began)
        answer(content)

    return counts


def as_fault(error: BaseException, name: str) -> DatastoreError:
    """Return what a reader is told of an error that reading a file met."""
    if isinstance(error, DatastoreError):
        return error
    _log.error("Reading %r failed.", name, exc_info=error)
    return MountError(f"Reading {name!r} failed: {type(error).__name__}: {error}")
