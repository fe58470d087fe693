"""Runs the items of a plan: many at once, within a bound of bytes in flight, until told to stop.

Two lanes of threads: an item (a file) has one thread of its lane, and hands the parts of a large
file to the other lane. Parts wait for nobody, so the lanes cannot lock each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from prefect_datastores.errors import (
    AccessError,
    ContainerNotFound,
    DatastoreError,
    EndpointUnreachable,
    LocalDiskFull,
    TransferCancelled,
    TransferError,
)
from prefect_datastores.staging.progress import Progress
from prefect_datastores.staging.report import ObjectRow

Item = TypeVar("Item")

# Each thread that ever held a part keeps its memory (glibc gives each an arena of its own), so what
# is larger than this goes through the few threads of the lane of parts.
_SMALL = 2**20

_NEXT_WOULD_FAIL_TOO = (AccessError, ContainerNotFound, EndpointUnreachable, LocalDiskFull)


@dataclass(frozen=True)
class Limits:
    """Bounds of one transfer: files and parts in work at once, and bytes held in memory."""

    files: int = 16
    parts: int = 6
    bytes_in_flight: int = 24 * 2**20


class Cancellation:
    """Set once, from any thread or signal; work that sees it stops."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask for the stop."""
        self._event.set()

    @property
    def requested(self) -> bool:
        """Whether the stop was asked for."""
        return self._event.is_set()

    def pause(self, seconds: float) -> None:
        """Return after that time, or at once when the stop is asked for.

        Raises:
            TransferCancelled: it was.
        """
        self._event.wait(seconds)
        self.check()

    def check(self) -> None:
        """Return unless the stop was asked for.

        Raises:
            TransferCancelled: it was.
        """
        if self.requested:
            raise TransferCancelled("The transfer was cancelled.")


class _ByteBudget:
    """Bytes that may be in memory at once; one part larger than all of it goes alone."""

    def __init__(self, most: int, cancellation: Cancellation) -> None:
        self._most, self._used, self._cancellation = most, 0, cancellation
        self._freed = threading.Condition()

    def take(self, size: int) -> None:
        with self._freed:
            while self._used and self._used + size > self._most:
                self._cancellation.check()
                self._freed.wait(0.2)
            self._used += size

    def give(self, size: int) -> None:
        with self._freed:
            self._used -= size
            self._freed.notify_all()


class Lanes:
    """What the work on one item may use: the lane of parts, the budget, and the stop."""

    def __init__(self, limits: Limits, cancellation: Cancellation, progress: Progress) -> None:
        """Open the lane of parts."""
        self.cancellation, self.progress = cancellation, progress
        self._budget = _ByteBudget(limits.bytes_in_flight, cancellation)
        self._parts = ThreadPoolExecutor(limits.parts, thread_name_prefix="pds-part")

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Hold `size` bytes of the budget for a while."""
        self.cancellation.check()
        self._budget.take(size)
        try:
            yield
        finally:
            self._budget.give(size)

    def each_part(self, size: int, part_size: int, work: Callable[[int, int, int], None]) -> None:
        """Call `work(index, offset, length)` for each part, many at once; the first fault ends it."""
        parts = [
            (index, offset, min(part_size, size - offset))
            for index, offset in enumerate(range(0, size, part_size))
        ]
        if size <= _SMALL and len(parts) == 1:
            self._one(work, *parts[0])
            return
        self.gather(self._parts.submit(self._one, work, *part) for part in parts)

    def _one(
        self, work: Callable[[int, int, int], None], index: int, offset: int, length: int
    ) -> None:
        with self.holding(length):
            work(index, offset, length)
        self.progress.moved(length)

    def take(self, size: int) -> None:
        """Take `size` bytes of the budget before they are read; `send_part` returns them."""
        self.cancellation.check()
        self._budget.take(size)

    def give(self, size: int) -> None:
        """Return bytes that were taken and will not be sent."""
        self._budget.give(size)

    def send_part(self, size: int, work: Callable[[], None]) -> Future[None]:
        """Run `work` in the lane of parts, and return its budget when it is over or never ran."""
        part = self._parts.submit(work)
        part.add_done_callback(lambda _: self._budget.give(size))
        return part

    @staticmethod
    def gather(parts: Iterable[Future[None]]) -> None:
        """Wait for all parts, and raise the first fault once none is running any more."""
        pending = list(parts)
        try:
            for part in pending:
                part.result()
        finally:
            for part in pending:
                part.cancel()
            wait(pending)

    def close(self) -> None:
        """Wait for the parts in work; begin no other."""
        self._parts.shutdown(wait=True, cancel_futures=True)


def run(
    items: Iterable[Item],
    work: Callable[[Item, Lanes], ObjectRow],
    row_of: Callable[[Item, DatastoreError], ObjectRow],
    *,
    limits: Limits,
    cancellation: Cancellation,
    progress: Progress,
) -> list[ObjectRow]:
    """Work on every item and return a row for each, in the order of the items.

    A fault of one item is a row of `row_of`, and the rest goes on; a fault that the next item
    would meet as well (no access, no disk, nobody there) stops the rest.

    Raises:
        TransferCancelled: the stop was asked for from outside.
    """
    stop = Cancellation()
    rows: dict[int, ObjectRow] = {}

    def one(index: int, item: Item) -> None:
        try:
            cancellation.check()
            stop.check()
            row = work(item, lanes)
        except DatastoreError as error:
            row = row_of(item, error)
            if isinstance(error, _NEXT_WOULD_FAIL_TOO):
                stop.cancel()
        except OSError as error:
            row = row_of(item, TransferError(str(error)))
        rows[index] = row
        progress.finished(row)

    lanes = Lanes(limits, cancellation, progress)
    files = ThreadPoolExecutor(limits.files, thread_name_prefix="pds-file")
    try:
        running: set[Future[None]] = set()
        for index, item in enumerate(items):
            running.add(files.submit(one, index, item))
            if len(running) >= 4 * limits.files:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        for future in running:
            future.result()
    except BaseException:
        cancellation.cancel()
        raise
    finally:
        files.shutdown(wait=True, cancel_futures=True)
        lanes.close()
        progress.end()
    cancellation.check()
    return [rows[index] for index in sorted(rows)]
