"""Runs the items of a plan: many at once, within a bound of memory, until told to stop.

Two lanes of threads: an item (a file) has one thread of its lane, and hands the parts of a large
file to the other lane. Parts wait for nobody, so the lanes cannot lock each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from prefect_datastores.errors import (
    AccessDenied,
    AuthenticationFailed,
    ContainerNotFound,
    CredentialExpired,
    DatastoreError,
    EndpointUnreachable,
    LocalDiskFull,
    TransferError,
)
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.memory import MemoryBudget
from prefect_datastores.staging.progress import Progress
from prefect_datastores.staging.report import ObjectRow

Item = TypeVar("Item")

_NEXT_WOULD_FAIL_TOO = (
    *(AccessDenied, AuthenticationFailed, CredentialExpired),
    *(ContainerNotFound, EndpointUnreachable, LocalDiskFull),
)
_SMALL = 2**20  # up to here an object of one part is moved by the thread that has the file


@dataclass(frozen=True)
class Limits:
    """Bounds of one transfer: files and parts in work at once, and bytes held in memory.

    A small object takes a round trip to the service (20 ms), so many are under way; a large one
    is bound by what a connection carries, which 16 exceed on most machines.
    """

    files: int = 64
    parts: int = 16
    bytes_in_flight: int = 64 * 2**20


class Lanes:
    """What the work on one item may use: the lane of parts, the memory, and the stop."""

    def __init__(self, limits: Limits, cancellation: Cancellation, progress: Progress) -> None:
        """Open the lane of parts."""
        self.cancellation, self.progress = cancellation, progress
        self.memory = MemoryBudget(limits.bytes_in_flight, cancellation)
        self._parts = ThreadPoolExecutor(limits.parts, thread_name_prefix="pds-part")

    def each_part(self, size: int, part_size: int, work: Callable[[int, memoryview], None]) -> None:
        """Call `work(offset, memory)` for each part, many at once; the first fault ends it."""
        if size <= min(part_size, _SMALL):
            if size:
                self._one(work, 0, size)
            return
        self.gather(
            self._parts.submit(self._one, work, offset, min(part_size, size - offset))
            for offset in range(0, size, part_size)
        )

    def _one(self, work: Callable[[int, memoryview], None], offset: int, length: int) -> None:
        with self.memory.holding(length) as memory:
            work(offset, memory)
        self.progress.moved(length)

    def send_part(self, memory: memoryview, work: Callable[[], None]) -> Future[None]:
        """Run `work` in the lane of parts; the memory is given back when it is over or never ran."""
        part = self._parts.submit(work)
        part.add_done_callback(lambda _: self.memory.give(memory))
        return part

    @staticmethod
    def drop(parts: Iterable[Future[None]]) -> None:
        """Begin none of the parts any more, and wait for those in work."""
        pending = list(parts)
        for part in pending:
            part.cancel()
        wait(pending)

    @staticmethod
    def gather(parts: Iterable[Future[None]]) -> None:
        """Wait for all parts, and raise the first fault once none is running any more."""
        pending = list(parts)
        try:
            done, _ = wait(pending, return_when=FIRST_EXCEPTION)
            for part in done:
                part.result()
        finally:
            Lanes.drop(pending)

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
    crew = _Crew(iter(enumerate(items)), work, row_of, Lanes(limits, cancellation, progress))
    try:
        crew.run(limits.files)
    except BaseException:
        cancellation.cancel()
        raise
    finally:
        crew.finish()
        progress.end()
    cancellation.check()
    return [crew.rows[index] for index in sorted(crew.rows)]


class _Crew(Generic[Item]):
    """Threads that take the items one after another, until there is none or something is wrong."""

    def __init__(
        self,
        items: Iterator[tuple[int, Item]],
        work: Callable[[Item, Lanes], ObjectRow],
        row_of: Callable[[Item, DatastoreError], ObjectRow],
        lanes: Lanes,
    ) -> None:
        self.rows: dict[int, ObjectRow] = {}
        self._items, self._work, self._row_of, self._lanes = items, work, row_of, lanes
        self._taking = threading.Lock()
        self._over = False
        self._stop = Cancellation()
        self._fault: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def run(self, most: int) -> None:
        """Return when all items are done.

        Raises:
            BaseException: what nobody expected in `work` or in the items themselves.
        """
        for number in range(most):
            if self._over:
                break
            thread = threading.Thread(target=self._take_all, name=f"pds-file-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the machine gives no more; those that run do all the work
                if not self._threads:
                    raise
                break
            self._threads.append(thread)
        for thread in self._threads:
            thread.join()
        if self._fault is not None:
            raise self._fault

    def finish(self) -> None:
        """Return when no thread works any more."""
        self._over = True
        for thread in self._threads:
            thread.join()
        self._lanes.close()

    def _take_all(self) -> None:
        try:
            while True:
                with self._taking:
                    if self._over:
                        return
                    taken = next(self._items, None)
                    if taken is None:
                        self._over = True
                        return
                self._do(*taken)
        except BaseException as fault:  # noqa: BLE001 - raised by `run` in the thread that waits
            self._over = True
            self._fault = self._fault or fault
            self._lanes.cancellation.cancel()

    def _do(self, index: int, item: Item) -> None:
        try:
            self._lanes.cancellation.check()
            self._stop.check()
            row = self._work(item, self._lanes)
        except DatastoreError as error:
            row = self._row_of(item, error)
            if isinstance(error, _NEXT_WOULD_FAIL_TOO):
                self._stop.cancel()
        except OSError as error:
            row = self._row_of(item, TransferError(str(error)))
        self.rows[index] = row
        self._lanes.progress.finished(row)
