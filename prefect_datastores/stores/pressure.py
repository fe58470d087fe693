"""Backpressure: when the service asks one thread to wait, all threads of the store do.

A 429 or 503 holds every request that has not begun. After the pause one request tries; the more
good answers come, the more requests may be under way: twice as many with each round of answers up
to half of what was too much, then one more a round (as TCP does it, RFC 5681). A service that gives
no good answer at all is asked only so often, by all threads together, and left alone then.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from prefect_datastores.errors import (
    DatastoreError,
    EndpointUnreachable,
    IntegrityError,
    ServiceBusy,
    TransferCancelled,
)
from prefect_datastores.stores.base import Failed, ObjectStore, Pending
from prefect_datastores.stores.decorated import DecoratedStore, Result, Wrapped

# These say nothing of how busy the service is.
_NO_ANSWER = (ServiceBusy, EndpointUnreachable, IntegrityError, TransferCancelled)


class Patience(Protocol):
    """How often and how long a busy service is asked; `RetryPolicy` says it."""

    @property
    def tries(self) -> int:
        """The pauses in a row, without one good answer between, after which it is left alone."""

    @property
    def deadline(self) -> float:
        """The seconds after which it is."""

    @property
    def longest_pause(self) -> float:
        """The longest pause in seconds, and how long it is left alone."""

    @property
    def sleep(self) -> Callable[[float], None]:
        """Waits; raises when the transfer is cancelled."""

    @property
    def clock(self) -> Callable[[], float]:
        """The time in seconds."""

    def pause(self, attempt: int, asked: float | None) -> float:
        """Return the pause after the try of that number."""


class StaysBusy(ServiceBusy):
    """The service was asked often enough by all threads together; to try again now is of no use."""


@dataclass(frozen=True)
class _Trip:
    """The service is left alone."""

    until: float
    why: str


class Pressure:
    """What all threads of a store know of how busy the service is."""

    def __init__(self, patience: Patience) -> None:
        """Begin without any bound."""
        self._patience = patience
        self._changed = threading.Condition(threading.Lock())
        self._under_way = 0
        self._ahead = 0  # begun, and waited for by nobody yet
        self._allowed = math.inf
        self._enough = math.inf  # beyond this, growth is slow
        self._round = 0  # counts the pauses
        self._until = -math.inf
        self._in_a_row = 0  # pauses without a good answer since
        self._busy_since = 0.0
        self._trip: _Trip | None = None

    def enter(self) -> int:
        """Return when a request may begin, with the round it belongs to.

        Raises:
            StaysBusy: the service is left alone for a while.
        """
        while True:
            with self._changed:
                now = self._patience.clock()
                if self._trip is not None and now < self._trip.until:
                    raise StaysBusy(
                        self._trip.why, retry_after=self._trip.until - now, throttled=True
                    )
                pause = self._until - now
                if pause <= 0:
                    if self._under_way + 1 <= self._allowed:
                        self._under_way += 1
                        return self._round
                    self._wait()
                    continue
            self._patience.sleep(pause)

    def enter_at_once(self) -> int | None:
        """Let a request begin that nobody waits for yet, where there is room for it right now.

        It is no request under way until `waited_for`: its thread may have to make another one before.
        """
        with self._changed:
            now = self._patience.clock()
            left_alone = self._trip is not None and now < self._trip.until
            busy = self._under_way + self._ahead + 1 > self._allowed
            if left_alone or busy or now < self._until:
                return None
            self._ahead += 1
            return self._round

    def waited_for(self) -> None:
        """Take note that a request that was begun ahead is one under way now."""
        with self._changed:
            self._ahead -= 1
            self._under_way += 1

    def left(self) -> None:
        """Take note that nobody will wait for a request that was begun ahead."""
        with self._changed:
            self._ahead -= 1
            self._changed.notify()

    def _wait(self) -> None:
        try:
            self._changed.wait()
        except BaseException:
            self._changed.notify_all()  # the one who was told is not there to hear it
            raise

    def answered(self, began_in: int, *, tells: bool) -> None:
        """Take note of the end of a request that the service answered, or that says nothing of it."""
        with self._changed:
            self._under_way -= 1
            if tells and began_in == self._round:
                self._in_a_row, self._trip = 0, None
                fast = self._allowed < self._enough
                self._allowed += 1.0 if fast else 1.0 / self._allowed
            # What ended makes room for one, and growth for one more.
            self._changed.notify(2)

    def throttled(self, began_in: int, error: ServiceBusy, *, ahead: bool = False) -> None:
        """Take note of the end of a request that the service asked to wait for."""
        patience = self._patience
        with self._changed:
            now = patience.clock()
            if began_in == self._round:
                self._busy_since = self._busy_since if self._in_a_row else now
                self._in_a_row += 1
                pause = patience.pause(self._in_a_row, error.retry_after)
                self._enough = max(1.0, min(self._allowed, self._under_way + self._ahead) / 2)
                self._allowed = 1.0
                self._round += 1
                self._until = now + pause
                spent = now - self._busy_since
                if self._in_a_row >= patience.tries or spent + pause > patience.deadline:
                    self._leave_alone(now, spent, error)
            elif error.retry_after and not ahead:
                # One of those that were under way already: the same pause, a longer one perhaps.
                # An answer to a request that was sent ahead may be as old as the pause.
                asked = min(error.retry_after, patience.longest_pause)
                self._until = max(self._until, now + asked)
            self._under_way -= 1
            self._changed.notify_all()

    def _leave_alone(self, now: float, spent: float, error: ServiceBusy) -> None:
        why = (
            f"{error} It gave no good answer for {spent:.0f} s, after {self._in_a_row} pauses of "
            "all requests, and is left alone for now. Try again later, with fewer at once."
        )
        self._until = now + self._patience.longest_pause
        self._trip = _Trip(self._until, why)


class PressuredStore(DecoratedStore):
    """`inner`, whose requests begin when the pressure lets them."""

    def __init__(self, inner: ObjectStore, pressure: Pressure) -> None:
        """Decorate a store."""
        super().__init__(inner)
        self._pressure = pressure

    def _around(
        self, what: str, request: Callable[[], Result], *, size: int = 0, asks: bool = True
    ) -> Result:
        return self._end(self._pressure.enter(), request, asks=asks)

    def _ahead(
        self,
        what: str,
        begin: Callable[[], Pending[Result]],
        request: Callable[[], Result],
        *,
        size: int = 0,
    ) -> Pending[Result]:
        began_in = self._pressure.enter_at_once()
        if began_in is None:
            return super()._ahead(what, begin, request, size=size)
        try:
            pending = begin()
        except DatastoreError as error:
            pending = Failed(error)  # noted when it is told
        except BaseException:
            self._pressure.left()
            raise
        if not pending.is_under_way:  # it will be sent when it is wanted, and may have to wait then
            self._pressure.left()
            return super()._ahead(what, begin, request, size=size)

        def finish(finish: Callable[[], Result]) -> Result:
            self._pressure.waited_for()
            return self._end(began_in, finish, asks=True, ahead=True)

        return Wrapped(pending, finish, self._pressure.left)

    def _end(
        self, began_in: int, request: Callable[[], Result], *, asks: bool, ahead: bool = False
    ) -> Result:
        try:
            result = request()
        except ServiceBusy as error:
            if error.throttled:
                self._pressure.throttled(began_in, error, ahead=ahead)
            else:
                self._pressure.answered(began_in, tells=False)
            raise
        except BaseException as error:
            says_no = isinstance(error, DatastoreError) and not isinstance(error, _NO_ANSWER)
            self._pressure.answered(began_in, tells=asks and says_no)
            raise
        self._pressure.answered(began_in, tells=asks)
        return result
