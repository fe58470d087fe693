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
from typing import Generic, Protocol, TypeVar, Union

from prefect_datastores.disk import descriptor_limit
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
from prefect_datastores.staging.pace import Pace, Worked
from prefect_datastores.staging.progress import Progress
from prefect_datastores.staging.report import ObjectRow, in_order, object_rows
from prefect_datastores.stores.base import Failed, Pending

Item = TypeVar("Item")
Result = TypeVar("Result")


class Unsettled(Pending[ObjectRow], Protocol):
    """An object that is here, and gets its name together with others: so the disk is quicker."""

    def begin_flush(self) -> None:
        """Have the disk begin with it."""

    def flush(self) -> None:
        """Return when the disk has it; a fault is raised by `finish`."""


Done = Union[ObjectRow, Unsettled]
"""The row of an object, or what is still to be settled of it."""

_WAKE_SECONDS = 0.5  # a signal that another thread was handed does not wake the main one
_TOGETHER = 64  # small objects that all threads have unsettled; each holds three descriptors
_SLOW_FLUSH = 0.001  # seconds; such a disk does not bring one file along with another
_BATCH = 48  # small objects that a thread begins one after another, which is quicker than one now and then
_FIRST_AHEAD = 16  # small objects that a thread asks for before it knows how long they take
_NEXT_WOULD_FAIL_TOO = (
    *(AccessDenied, AuthenticationFailed, CredentialExpired),
    *(ContainerNotFound, EndpointUnreachable, LocalDiskFull),
)


@dataclass(frozen=True)
class Limits:
    """Bounds of one transfer: files and parts in work at once, and bytes held in memory.

    A small object takes a round trip to the service (20 ms), so many are under way: `small` of
    them are asked for before the first has come, by as few threads as can take what comes. A large
    one is bound by what a connection carries, which 16 exceed on most machines.
    """

    files: int = 64
    small: int = 256
    parts: int = 16
    bytes_in_flight: int = 64 * 2**20


class Lanes:
    """What the work on one item may use: the lane of parts, the memory, and the stop."""

    def __init__(self, limits: Limits, cancellation: Cancellation, progress: Progress) -> None:
        """Open the lane of parts."""
        self.cancellation, self.progress = cancellation, progress
        self.memory = MemoryBudget(limits.bytes_in_flight, cancellation)
        self._most_beside = limits.parts
        self._parts = ThreadPoolExecutor(limits.parts, thread_name_prefix="pds-part")

    def each_part(self, size: int, part_size: int, work: Callable[[int, memoryview], None]) -> None:
        """Call `work(offset, memory)` for each part, many at once; the first fault ends it.

        It is `work` that gives the memory back, whatever comes of the part.
        """
        if size <= min(part_size, SMALL):
            if size:
                self._one(work, 0, size)
            return
        self.gather(
            self._parts.submit(self._one, work, offset, min(part_size, size - offset))
            for offset in range(0, size, part_size)
        )

    def _one(self, work: Callable[[int, memoryview], None], offset: int, length: int) -> None:
        work(offset, self.memory.take(length))
        self.progress.moved(length)

    def send_part(self, memory: memoryview, work: Callable[[], None]) -> Future[None]:
        """Run `work` in the lane of parts; the memory is given back when it is over or never ran."""
        part = self._parts.submit(work)
        part.add_done_callback(lambda _: self.memory.give(memory))
        return part

    def beside(self, calls: Iterable[Callable[[], None]]) -> None:
        """Make the calls, many at once, whatever the lane of parts has to do; the first fault ends it."""
        with ThreadPoolExecutor(self._most_beside, thread_name_prefix="pds-flush") as beside:
            self.gather(beside.submit(call) for call in calls)

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
    work: Callable[[Item, Lanes], Done],
    row_of: Callable[[Item, DatastoreError], ObjectRow],
    *,
    begin: Callable[[Item, Lanes], Pending[Done] | None] = lambda *_: None,
    limits: Limits,
    cancellation: Cancellation,
    progress: Progress,
) -> Sequence[ObjectRow]:
    """Work on every item and return a row for each, in the order of the items.

    Where they are too many for memory, they are in the order in which the items were done. What
    `begin` returns is worked on instead, after what was begun before; None is nothing to begin.

    A fault of one item is a row of `row_of`, and the rest goes on; a fault that the next item
    would meet as well (no access, no disk, nobody there) stops the rest.

    Raises:
        TransferCancelled: the stop was asked for from outside.
    """
    crew = _Crew(
        iter(enumerate(items)), work, begin, row_of, Lanes(limits, cancellation, progress), limits
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
class _Taken(Generic[Item]):
    """An item that a thread took, and what is begun of it already."""

    index: int
    item: Item
    pending: Pending[Done] | None


class _Hand(Generic[Item]):
    """What one thread has in hand."""

    def __init__(self) -> None:
        self.begun: deque[_Taken[Item]] = deque()
        self.unsettled: list[tuple[_Taken[Item], Unsettled]] = []
        # Few at first: it is not known yet how many threads there will be to share them.
        self.ahead, self.is_held_up = _FIRST_AHEAD, False
        self._seconds, self._larger, self._small = 0.0, 0, 0.0
        self._until = time.thread_time()

    def begin(self, taken: _Taken[Item]) -> None:
        """Put one more behind the others."""
        self.begun.append(taken)
        # A larger one, or one that found no connection: nobody works on it before this thread does.
        self.is_held_up = taken.pending is None or not taken.pending.is_under_way

    def next(self) -> _Taken[Item]:
        """Take the first one out of hand."""
        taken = self.begun.popleft()
        self.is_held_up = self.is_held_up and bool(self.begun)
        return taken

    def worked(self, *, is_small: bool) -> None:
        """Take note of work since the last time, in the thread's own time, which is cheap to ask for only now and then."""
        now = time.thread_time()
        seconds, self._until = now - self._until, now
        if is_small:
            self._small += seconds
        else:
            self._seconds, self._larger = self._seconds + seconds, self._larger + 1

    def take_worked(self) -> Worked:
        """Return what was worked since the last time."""
        worked = Worked(self._seconds, self._larger, self._small)
        self._seconds, self._larger, self._small = 0.0, 0, 0.0
        return worked

    def drop(self) -> None:
        """Let go of all of it."""
        for taken in self.begun:
            if taken.pending is not None:
                taken.pending.drop()
        for _, unsettled in self.unsettled:
            unsettled.drop()


class _Crew(Generic[Item]):
    """Threads that take the items one after another, until there is none or something is wrong."""

    def __init__(
        self,
        items: Iterator[tuple[int, Item]],
        work: Callable[[Item, Lanes], Done],
        begin: Callable[[Item, Lanes], Pending[Done] | None],
        row_of: Callable[[Item, DatastoreError], ObjectRow],
        lanes: Lanes,
        limits: Limits,
    ) -> None:
        self.rows = object_rows()
        self.taken = 0
        self._items, self._work, self._row_of, self._lanes = items, work, row_of, lanes
        self._begin = begin
        self._small = max(1, min(limits.small, descriptor_limit() // 4))
        self._together = max(1, min(_TOGETHER, descriptor_limit() // 16))
        self._pace = Pace(limits.files)
        self._changed, self._taking = threading.Condition(), threading.Lock()
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
                self._changed.wait(_WAKE_SECONDS)
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
                self._changed.wait(_WAKE_SECONDS)
        self._lanes.close()

    def _grow(self) -> None:
        """Start one thread more where that is worth while; the caller holds the lock."""
        if len(self._threads) < self._pace.wanted and not self._over:
            thread = threading.Thread(target=self._take_all, name="pds-file", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the machine gives no more; those that run do all the work
                if not self._threads:
                    raise
                return
            self._threads.add(thread)

    def _take_all(self) -> None:
        """Take items and work on them, some of them begun before the ones before are done."""
        hand: _Hand[Item] = _Hand()
        try:
            while self._fill(hand) or hand.unsettled:
                if hand.begun:
                    if hand.begun[0].pending is None:  # it may take long
                        self._settle(hand)
                    self._go_on(hand, hand.next())
                if not hand.begun or len(hand.unsettled) * len(self._threads) >= self._together:
                    self._settle(hand)
        except BaseException as fault:  # noqa: BLE001 - raised by `run` in the thread that waits
            self._over = True
            self._fault = self._fault or fault
            self._lanes.cancellation.cancel()
        finally:
            hand.drop()
            with self._changed:
                self._threads.discard(threading.current_thread())
                self._changed.notify_all()

    def _fill(self, hand: _Hand[Item]) -> bool:
        """Take as many items as this thread may have begun at once; tell whether it has any."""
        most = max(1, self._small // max(1, len(self._threads)))
        wanted = min(hand.ahead, most)
        if len(hand.begun) > max(wanted - _BATCH, wanted // 2):
            return True
        # Behind one that takes this thread's time nothing is begun: others may take it meanwhile.
        while len(hand.begun) < wanted and not hand.is_held_up:
            taken = self._take(hand, is_full=hand.ahead >= most)
            if taken is None:
                break
            pending = self._ask(hand, taken[1])
            hand.begin(_Taken(*taken, pending))
            if pending is None:
                hand.ahead = self._small
        return bool(hand.begun)

    def _take(self, hand: _Hand[Item], *, is_full: bool) -> tuple[int, Item] | None:
        """Return the next item, or None where there is none, or this thread is one too many.

        A thread that is not `is_full` could have more begun than it has, so its waiting says nothing.
        """
        with self._changed:
            threads = len(self._threads)
            if is_full:
                self._pace.worked(hand.take_worked(), threads)
            else:
                self._pace.begin_look()
            if threads > self._pace.wanted:
                if not hand.begun and not hand.unsettled:
                    self._threads.discard(threading.current_thread())
                return None
        # The next item may be long in coming: a plan that grows. Nobody is to wait for that who has
        # something else to do, and least of all the main thread, which a signal could not wake.
        if not self._taking.acquire(blocking=not (hand.begun or hand.unsettled)):
            return None
        try:
            taken = None if self._over else next(self._items, None)
        finally:
            self._taking.release()
        with self._changed:
            self._over = self._over or taken is None
            self.taken += taken is not None
            self._grow()
        return taken

    def _ask(self, hand: _Hand[Item], item: Item) -> Pending[Done] | None:
        """Begin with an item, where that can be."""
        if self._stop.requested or self._lanes.cancellation.requested:
            return None
        try:
            return self._begin(item, self._lanes)
        except (DatastoreError, OSError) as error:
            return Failed(error)
        finally:
            hand.worked(is_small=True)

    def _go_on(self, hand: _Hand[Item], taken: _Taken[Item]) -> None:
        """Work on an item; one whose next answer is to be waited for goes behind the others."""
        pending = taken.pending
        if pending is not None and not self._lanes.cancellation.requested and pending.go_on():
            hand.begin(taken)
            hand.worked(is_small=True)
        else:
            self._do(hand, taken)

    def _do(self, hand: _Hand[Item], taken: _Taken[Item]) -> None:
        """Work on an item; keep its row, or what is still to be settled of it."""
        pending = taken.pending

        def work() -> Done:
            # What was begun is finished even if the rest is not: nobody knew what came of it.
            if pending is not None:
                return pending.finish()
            self._stop.check()
            return self._work(taken.item, self._lanes)

        try:
            done = self._tried(taken.item, work)
        finally:
            if pending is not None:
                pending.drop()
        if isinstance(done, ObjectRow):
            self._keep(taken, done)
        else:
            hand.unsettled.append((taken, done))
        hand.ahead += 1
        hand.worked(is_small=pending is not None)

    def _settle(self, hand: _Hand[Item]) -> None:
        """Settle what is to be settled together: the disk is quicker where nothing comes between."""
        together = hand.unsettled
        for _, unsettled in together:
            unsettled.begin_flush()
        self._flush([unsettled for _, unsettled in together])
        while together:
            taken, unsettled = together.pop()
            try:
                row = self._tried(taken.item, unsettled.finish)
            finally:
                unsettled.drop()
            self._keep(taken, row)
        hand.worked(is_small=True)

    def _flush(self, together: Sequence[Unsettled]) -> None:
        for place, unsettled in enumerate(together):
            began = time.monotonic()
            unsettled.flush()
            if place and time.monotonic() - began > _SLOW_FLUSH:
                self._lanes.beside(rest.flush for rest in together[place + 1 :])
                return

    def _tried(self, item: Item, work: Callable[[], Result]) -> Result | ObjectRow:
        """Return what comes of an item, or the row that says why nothing does."""
        try:
            self._lanes.cancellation.check()
            return work()
        except DatastoreError as error:
            if isinstance(error, _NEXT_WOULD_FAIL_TOO):
                self._stop.cancel()
            return self._row_of(item, error)
        except OSError as error:
            return self._row_of(item, TransferError(str(error)))

    def _keep(self, taken: _Taken[Item], row: ObjectRow) -> None:
        self.rows.append((taken.index, row))
        self._lanes.progress.finished(row)
