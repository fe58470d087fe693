"""Runs the items of a plan: many at once, within a bound of memory, until told to stop.

Two lanes of threads: an item (a file) has one thread of its lane, and hands the parts of a large
file to the other lane. Parts wait for nobody, so the lanes cannot lock each other.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from prefect_datastores.staging.memory import SMALL, MemoryBudget
from prefect_datastores.staging.progress import Progress
from prefect_datastores.staging.report import ObjectRow, in_order, object_rows

Item = TypeVar("Item")

_SPARE = 1.5  # times as many threads as are wanted stay, so that they do not come and go
_NEXT_WOULD_FAIL_TOO = (
    *(AccessDenied, AuthenticationFailed, CredentialExpired),
    *(ContainerNotFound, EndpointUnreachable, LocalDiskFull),
)


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
        if size <= min(part_size, SMALL):
            if size:
                self._one(work, 0, size)
            return
        self.gather(
            self._parts.submit(self._one, work, offset, min(part_size, size - offset))
            for offset in range(0, size, part_size)
        )

    def _one(self, work: Callable[[int, memoryview], None], offset: int, length: int) -> None:
        memory = self.memory.take(length)
        try:
            work(offset, memory)
        finally:
            self.memory.give(memory)
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
) -> Sequence[ObjectRow]:
    """Work on every item and return a row for each, in the order of the items.

    Where they are too many for memory, they are in the order in which the items were done.

    A fault of one item is a row of `row_of`, and the rest goes on; a fault that the next item
    would meet as well (no access, no disk, nobody there) stops the rest.

    Raises:
        TransferCancelled: the stop was asked for from outside.
    """
    crew = _Crew(
        iter(enumerate(items)), work, row_of, Lanes(limits, cancellation, progress), limits.files
    )
    try:
        crew.run()
    except BaseException:
        cancellation.cancel()
        raise
    finally:
        crew.finish()
        progress.end()
    cancellation.check()
    return in_order(crew.rows)


@dataclass(frozen=True)
class _Took:
    """The seconds that an object took, and those in which its thread worked instead of waiting."""

    whole: float
    working: float


class _Pace:
    """How many threads are worth while: as many as can do their part while one waits.

    A small object is a wait for the service and some work of this process, of which only one thread
    does much at a time. Threads beyond that cost more than they bring: on a quick link one is
    faster than sixty, and at 20 ms sixty are thirty times as fast. Threads that wait for each other
    wait as long as they are many, which says that they are enough, so a little less than that is wanted.
    """

    _LESS, _RECENT = 0.9, 32
    _LEAST_WORK = 0.00005  # seconds: less is not measured, but the time of another thread's

    def __init__(self, most: int) -> None:
        self._most = most
        self._recent: deque[float] = deque(maxlen=self._RECENT)

    def took(self, took: _Took) -> None:
        """Take note of how long an object took."""
        self._recent.append(took.whole / max(took.working, self._LEAST_WORK))

    def wanted(self) -> int:
        """Return the number of threads, by what half of the last objects had at least."""
        ratio = sorted(self._recent)[len(self._recent) // 2] if self._recent else 0.0
        return int(min(self._most, max(1.0, ratio * self._LESS)))


class _Crew(Generic[Item]):
    """Threads that take the items one after another, until there is none or something is wrong."""

    def __init__(
        self,
        items: Iterator[tuple[int, Item]],
        work: Callable[[Item, Lanes], ObjectRow],
        row_of: Callable[[Item, DatastoreError], ObjectRow],
        lanes: Lanes,
        most: int,
    ) -> None:
        self.rows = object_rows()
        self.taken = 0
        self._items, self._work, self._row_of, self._lanes = items, work, row_of, lanes
        self._pace = _Pace(most)
        self._changed = threading.Condition()
        self._over = False
        self._stop = Cancellation()
        self._fault: BaseException | None = None
        self._threads: set[threading.Thread] = set()

    def run(self) -> None:
        """Return when all items are done.

        Raises:
            BaseException: what nobody expected in `work` or in the items themselves.
        """
        with self._changed:
            self._grow()
            while self._threads:
                self._changed.wait()
        if self._fault is not None:
            raise self._fault
        # A row that is missing would be a failure that nobody hears of.
        if not self._over or len(self.rows) != self.taken:
            raise RuntimeError(f"Only {len(self.rows)} of {self.taken} objects have a row.")

    def finish(self) -> None:
        """Return when no thread works any more."""
        with self._changed:
            self._over = True
            while self._threads:
                self._changed.wait()
        self._lanes.close()

    def _grow(self) -> None:
        """Start one thread more where that is worth while; the caller holds the lock."""
        if len(self._threads) < self._pace.wanted() and not self._over:
            thread = threading.Thread(target=self._take_all, name="pds-file", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the machine gives no more; those that run do all the work
                if not self._threads:
                    raise
                return
            self._threads.add(thread)

    def _take_all(self) -> None:
        try:
            took: _Took | None = None
            while (taken := self._take(took)) is not None:
                took = self._do(*taken)
        except BaseException as fault:  # noqa: BLE001 - raised by `run` in the thread that waits
            self._over = True
            self._fault = self._fault or fault
            self._lanes.cancellation.cancel()
        finally:
            with self._changed:
                self._threads.discard(threading.current_thread())
                self._changed.notify_all()

    def _take(self, took: _Took | None) -> tuple[int, Item] | None:
        """Return the next item, or None where there is none, or this thread is one too many.

        `took` is how long the item before took, where that says anything.
        """
        with self._changed:
            if took is not None:
                self._pace.took(took)
                if len(self._threads) > max(1, self._pace.wanted() * _SPARE):
                    self._threads.discard(threading.current_thread())
                    return None
            taken = None if self._over else next(self._items, None)
            self._over = self._over or taken is None
            self.taken += taken is not None
            self._grow()
        return taken

    def _do(self, index: int, item: Item) -> _Took | None:
        """Keep the row of an item, and return how long it took where it was moved."""
        began, worked = time.monotonic(), time.thread_time()
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
        self.rows.append((index, row))
        self._lanes.progress.finished(row)
        # What asked nobody tells nothing of the wait.
        asked = row.action == "moved" and row.size and not row.cached
        return _Took(time.monotonic() - began, time.thread_time() - worked) if asked else None
