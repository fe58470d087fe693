"""Retry, in one place, as a decorator of a store.

What is tried again: an answer or a broken connection that may pass (`ServiceBusy`), a body that
came short (`IntegrityError` of a read), and an endpoint that does not answer, a few times only.
Everything else is the caller's business at once. The SDK's own retries are off: two policies would
multiply.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import Generic

from prefect_datastores.errors import (
    AccessError,
    DatastoreError,
    EndpointUnreachable,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    ServiceBusy,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import (
    NO_EXTRAS,
    Extras,
    Failed,
    ObjectInfo,
    ObjectStore,
    Pending,
    Writing,
)
from prefect_datastores.stores.decorated import (
    Ahead,
    Around,
    DecoratedStore,
    DecoratedWriting,
    Result,
    Wrapped,
)
from prefect_datastores.stores.limit import Allowance, LimitedStore
from prefect_datastores.stores.pressure import Pressure, PressuredStore, StaysBusy


@dataclass(frozen=True)
class Retry:
    """One try that is followed by another, `pause` seconds later."""

    what: str
    attempt: int
    pause: float
    error: DatastoreError


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long; all times in seconds.

    The pause before try n+1 is random between nothing and `first_pause * 2**n`, at most
    `longest_pause` (full jitter); a `Retry-After` of the service is the least pause, at most
    `longest_pause` as well. No try begins after `deadline`.
    """

    tries: int = 8
    unreachable_tries: int = 3
    first_pause: float = 0.2
    longest_pause: float = 30.0
    deadline: float = 180.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def call(
        self,
        what: str,
        request: Callable[[], Result],
        tell: Callable[[Retry], None] = lambda _: None,
        *,
        since: float | None = None,
    ) -> Result:
        """Return what `request` returns, however often it takes within the bounds.

        `tell` hears of each try that is followed by another. A first try that was sent long `since`
        may have its answer for as long: the pause after it is over by that much. So many that were
        sent together and refused together are one pause, though one thread hears of them in turn.

        Raises:
            ServiceBusy: it may pass, but did not within the bounds.
        """
        began = self.clock()
        attempt = unreachable = 0
        while True:
            attempt += 1
            try:
                return request()
            except StaysBusy:
                raise
            except (ServiceBusy, EndpointUnreachable, IntegrityError) as error:
                asked = error.retry_after if isinstance(error, ServiceBusy) else None
                pause = self.pause(attempt, asked)
                if attempt == 1 and since is not None:
                    pause = max(0.0, pause - (self.clock() - since))
                unreachable += isinstance(error, EndpointUnreachable)
                late = self.clock() - began + pause > self.deadline
                if attempt >= self.tries or unreachable >= self.unreachable_tries or late:
                    raise _given_up(what, attempt, error) from error
                tell(Retry(what, attempt, pause, error))
            self.sleep(pause)

    def pause(self, attempt: int, asked: float | None) -> float:
        """Return the pause after the try of that number, where the service asked for `asked`."""
        pause = self.jitter() * self.first_pause * 2.0**attempt
        return min(max(pause, asked or 0.0), self.longest_pause)


def _given_up(what: str, attempts: int, error: DatastoreError) -> DatastoreError:
    if isinstance(error, ServiceBusy):
        return ServiceBusy(
            f"{error} Gave up to {what} after {attempts} tries.",
            retry_after=error.retry_after,
            throttled=error.throttled,
        )
    return type(error)(str(error))


class _Retried(Generic[Result]):
    """A request that was begun, and is made anew where its answer says so.

    It refers to nothing that refers to it: there is one for each object of a transfer, and the
    collector of circles would take longer than the rest.
    """

    __slots__ = ("_call", "_pending", "_request", "_since")

    def __init__(
        self,
        pending: Pending[Result],
        request: Callable[[], Result],
        call: Callable[..., Result],
        *,
        since: float,
    ) -> None:
        """Take over what was begun at `since`; `call` makes the tries, and `request` is all but the first."""
        self._pending, self._request, self._call = pending, request, call
        self._since = since if pending.is_under_way else None

    @property
    def is_under_way(self) -> bool:
        return self._pending.is_under_way

    def go_on(self) -> bool:
        if goes_on := self._pending.go_on():
            self._since = None  # the answer is another request's than that of then
        return goes_on

    def finish(self) -> Result:
        tries = chain([self._pending.finish], repeat(self._request))

        def once() -> Result:
            return next(tries)()

        return self._call(request=once, since=self._since)

    def drop(self) -> None:
        self._pending.drop()


class RetryingStore(DecoratedStore):
    """`inner`, with each of its requests tried again as the policy says."""

    def __init__(
        self,
        inner: ObjectStore,
        policy: RetryPolicy | None = None,
        tell: Callable[[Retry], None] = lambda _: None,
    ) -> None:
        """Decorate a store; `tell` hears of each try that is followed by another, in its thread."""
        super().__init__(inner)
        self._policy, self._tell = policy or RetryPolicy(), tell

    def _around(
        self, what: str, request: Callable[[], Result], *, size: int = 0, asks: bool = True
    ) -> Result:
        return self._policy.call(what, request, self._tell)

    def _ahead(
        self,
        what: str,
        begin: Callable[[], Pending[Result]],
        request: Callable[[], Result],
        *,
        size: int = 0,
    ) -> Pending[Result]:
        sent = self._policy.clock()
        try:
            pending = begin()
        except DatastoreError as error:
            pending = Failed(error)
        return _Retried(
            pending, request, partial(self._policy.call, what, tell=self._tell), since=sent
        )

    def begin_write(
        self,
        name: ObjectName,
        size: int,
        *,
        replaces: str | None = None,
        if_absent: bool = False,
        extras: Extras = NO_EXTRAS,
    ) -> Writing:
        """Begin an object whose parts and commit are tried again as well."""
        writing = self._begin(name, size, replaces=replaces, if_absent=if_absent, extras=extras)
        late = self.capabilities.commits_with_content
        return _RetryingWriting(
            self._inner, name, size, writing, self._around, self._ahead, late=late
        )

    def delete(self, name: ObjectName, *, pin: str | None = None) -> None:
        """Delete one object."""
        self._gone("delete", lambda: self._inner.delete(name, pin=pin))

    def remove_empty_folder(self, name: ObjectName) -> None:
        """Remove a folder in which nothing is."""
        self._gone("remove the empty folder", lambda: self._inner.remove_empty_folder(name))

    def _gone(self, what: str, remove: Callable[[], None]) -> None:
        """Remove something; where a try was not answered, the next one may find nothing."""
        lost = False

        def once() -> None:
            nonlocal lost
            try:
                remove()
            except ServiceBusy:
                lost = True  # it may have been done all the same
                raise
            except ObjectNotFound:
                if not lost:
                    raise

        self._around(what, once)

    def move_folder(
        self, name: ObjectName, to: ObjectName, *, over: tuple[ObjectName, str] | None = None
    ) -> None:
        """Give a folder another name; tried once, as a second try could undo the first."""
        self._inner.move_folder(name, to, over=over)

    def make_folder(self, name: ObjectName) -> bool:
        """Make a folder; one of a try that was not answered was not there before."""
        lost = False

        def once() -> bool:
            nonlocal lost
            try:
                return self._inner.make_folder(name) or lost
            except ServiceBusy:
                lost = True  # it may have been done all the same
                raise

        return self._around("make the folder", once)


class _RetryingWriting(DecoratedWriting):
    def __init__(
        self,
        store: ObjectStore,
        name: ObjectName,
        size: int,
        inner: Writing,
        around: Around,
        ahead: Ahead,
        *,
        late: bool,
    ) -> None:
        super().__init__(inner, size, around, ahead, late=late)
        self._store, self._name = store, name

    def commit(self, digest: bytes) -> ObjectInfo:
        once = self._once(digest)
        return self._around("commit", lambda: once(lambda: self._inner.commit(digest)))

    def begin_commit(self, digest: bytes) -> Pending[ObjectInfo]:
        once = self._once(digest)

        def begin() -> Pending[ObjectInfo]:
            try:
                return Wrapped(self._inner.begin_commit(digest), once)
            except ServiceBusy as error:
                return Wrapped(Failed(error), once)

        return self._ahead("commit", begin, lambda: once(lambda: self._inner.commit(digest)))

    def _once(self, digest: bytes) -> Callable[[Callable[[], ObjectInfo]], ObjectInfo]:
        """Return what makes one try of a commit, and knows whether an earlier one was not answered."""
        lost = False

        def once(commit: Callable[[], ObjectInfo]) -> ObjectInfo:
            nonlocal lost
            try:
                return commit()
            except ServiceBusy:
                lost = True  # it may have been done all the same
                raise
            except ObjectExists:
                ours = self._committed(digest) if lost else None
                if ours is None:
                    raise
                return ours

        return once

    def _committed(self, digest: bytes) -> ObjectInfo | None:
        """Return the object when it is the one whose commit was not answered."""
        try:
            info = self._store.head(self._name)
        except (ObjectNotFound, AccessError):  # one that may only write cannot tell
            return None
        return info if (info.size, info.digest) == (self._size, digest) else None


def patient(
    store: ObjectStore,
    policy: RetryPolicy | None = None,
    *,
    allowance: Allowance | None = None,
    tell: Callable[[Retry], None] = lambda _: None,
) -> ObjectStore:
    """Return the store with all that a transfer needs of patience: retry, limits and backpressure.

    Every try counts for the limits, so they are inside retry; what waits for its turn may have to
    wait for the service as well, so backpressure is innermost.
    """
    policy = policy or RetryPolicy()
    store = PressuredStore(store, Pressure(policy))
    if allowance is not None:
        store = LimitedStore(store, allowance, policy.sleep)
    return RetryingStore(store, policy, tell)
