"""Retry, in one place, as a decorator of a store.

What is tried again: an answer or a broken connection that may pass (`ServiceBusy`), a body that
came short (`IntegrityError` of a read), and an endpoint that does not answer, a few times only.
Everything else is the caller's business at once. The SDK's own retries are off: two policies would
multiply.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from prefect_datastores.errors import (
    AccessError,
    DatastoreError,
    EndpointUnreachable,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    ServiceBusy,
)
from prefect_datastores.names import NameRules, ObjectName
from prefect_datastores.stores.base import Capabilities, ObjectInfo, ObjectStore, Page, Writing

Result = TypeVar("Result")


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

    def call(self, what: str, request: Callable[[], Result]) -> Result:
        """Return what `request` returns, however often it takes within the bounds.

        Raises:
            ServiceBusy: it may pass, but did not within the bounds.
        """
        began = self.clock()
        attempt = unreachable = 0
        while True:
            attempt += 1
            try:
                return request()
            except (ServiceBusy, EndpointUnreachable, IntegrityError) as error:
                pause = self._pause(attempt, error)
                unreachable += isinstance(error, EndpointUnreachable)
                late = self.clock() - began + pause > self.deadline
                if attempt >= self.tries or unreachable >= self.unreachable_tries or late:
                    raise _given_up(what, attempt, error) from error
            self.sleep(pause)

    def _pause(self, attempt: int, error: DatastoreError) -> float:
        pause = self.jitter() * self.first_pause * 2.0**attempt
        asked = error.retry_after if isinstance(error, ServiceBusy) else None
        return min(max(pause, asked or 0.0), self.longest_pause)


def _given_up(what: str, attempts: int, error: DatastoreError) -> DatastoreError:
    if isinstance(error, ServiceBusy):
        return ServiceBusy(
            f"{error} Gave up to {what} after {attempts} tries.", retry_after=error.retry_after
        )
    return type(error)(str(error))


class RetryingStore:
    """`inner`, with each of its requests tried again as the policy says."""

    def __init__(self, inner: ObjectStore, policy: RetryPolicy | None = None) -> None:
        """Decorate a store."""
        self._inner = inner
        self._call = (policy or RetryPolicy()).call

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._inner.url

    @property
    def capabilities(self) -> Capabilities:
        """What the service can do."""
        return self._inner.capabilities

    def name_rules(self) -> NameRules:
        """Say which names the service takes for one."""
        return self._call("learn the name rules", self._inner.name_rules)

    def create_root(self) -> None:
        """Make the container unless it exists."""
        self._call("make the container", self._inner.create_root)

    def check_root(self) -> None:
        """Raise unless the container can be listed."""
        self._call("look at the container", self._inner.check_root)

    def check_write(self, name: ObjectName) -> None:
        """Raise unless an object could be written there."""
        self._call("try to write", lambda: self._inner.check_write(name))

    def list_page(
        self, prefix: str, *, marker: str | None = None, recursive: bool = True, limit: int = 5000
    ) -> Page:
        """Return one page."""
        return self._call(
            "list",
            lambda: self._inner.list_page(prefix, marker=marker, recursive=recursive, limit=limit),
        )

    def head(self, name: ObjectName) -> ObjectInfo:
        """Return what is known of one object."""
        return self._call("look at the object", lambda: self._inner.head(name))

    def read_into(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> None:
        """Fill `buffer` from one version; a try begins at the first byte again."""
        self._call("read", lambda: self._inner.read_into(name, offset, buffer, pin=pin))

    def begin_write(
        self, name: ObjectName, size: int, *, replaces: str | None = None, if_absent: bool = False
    ) -> Writing:
        """Begin an object whose parts and commit are tried again as well."""
        begin = self._inner.begin_write
        writing = self._call(
            "begin to write", lambda: begin(name, size, replaces=replaces, if_absent=if_absent)
        )
        return _RetryingWriting(self._inner, name, size, writing, self._call)

    def delete(self, name: ObjectName, *, pin: str | None = None) -> None:
        """Delete one object."""
        lost = False

        def once() -> None:
            nonlocal lost
            try:
                self._inner.delete(name, pin=pin)
            except ServiceBusy:
                lost = True  # it may have been done all the same
                raise
            except ObjectNotFound:
                if not lost:
                    raise

        self._call("delete", once)

    def interrupt(self) -> None:
        """Break the requests under way."""
        self._inner.interrupt()

    def close(self) -> None:
        """Let go of connections."""
        self._inner.close()


class _RetryingWriting:
    def __init__(
        self,
        store: ObjectStore,
        name: ObjectName,
        size: int,
        inner: Writing,
        call: Callable[[str, Callable[[], Any]], Any],
    ) -> None:
        self._store, self._name, self._size = store, name, size
        self._inner, self._call = inner, call

    @property
    def token(self) -> str:
        return self._inner.token

    def kept_parts(self) -> Mapping[tuple[str, int], int]:
        kept: Mapping[tuple[str, int], int] = self._call(
            "look for kept parts", self._inner.kept_parts
        )
        return kept

    def keep_part(self, index: int, length: int, token: str) -> None:
        self._inner.keep_part(index, length, token)

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        self._call("write a part", lambda: self._inner.write_part(index, offset, data))

    def commit(self, digest: bytes) -> ObjectInfo:
        done: list[ObjectInfo] = []
        lost = False

        def once() -> None:
            nonlocal lost
            try:
                done.append(self._inner.commit(digest))
            except ServiceBusy:
                lost = True  # it may have been done all the same
                raise
            except ObjectExists:
                ours = self._committed(digest) if lost else None
                if ours is None:
                    raise
                done.append(ours)

        self._call("commit", once)
        return done[0]

    def _committed(self, digest: bytes) -> ObjectInfo | None:
        """Return the object when it is the one whose commit was not answered."""
        try:
            info = self._store.head(self._name)
        except (ObjectNotFound, AccessError):  # one that may only write cannot tell
            return None
        return info if (info.size, info.digest) == (self._size, digest) else None

    def abort(self) -> None:
        self._inner.abort()
