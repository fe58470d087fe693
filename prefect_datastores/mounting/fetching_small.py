"""Small files of a mount: fetched whole, each once for all who want it, and many ahead of them at once."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefect_datastores.disk import descriptor_limit
from prefect_datastores.errors import DatastoreError, IntegrityError
from prefect_datastores.mounting.answers import Answer, Parts, as_fault, counted
from prefect_datastores.mounting.rows import Queue, start
from prefect_datastores.mounting.smalls import SMALL, Smalls
from prefect_datastores.names import ObjectName

if TYPE_CHECKING:
    from prefect_datastores.mounting.space import Space
    from prefect_datastores.mounting.statistics import Statistics
    from prefect_datastores.stores.base import ObjectInfo, ObjectStore, Pending

_STREAMS, _PIPELINE = 4, 256
"""Threads that fetch what is waited for; requests ahead that one thread has under way, each on a connection."""
_AHEAD_BYTES, _FEW = 32 * 2**20, 8
"""How much is fetched ahead at once."""


@dataclass(eq=False)
class _Small:
    """A small object that is to be fetched."""

    info: ObjectInfo
    key: bytes
    answers: list[Answer] = field(default_factory=list)
    was_damaged: bool = False


class SmallFiles:
    """The contents of all small files of one mount; used by many threads."""

    def __init__(self, store: ObjectStore, space: Space | None, statistics: Statistics) -> None:
        """Start the threads that fetch; nothing is fetched yet."""
        self._store, self._statistics = store, statistics
        self._here = Smalls(space)
        self._lock = threading.Lock()
        self._under_way: dict[bytes, _Small] = {}
        self._jobs: Queue[_Small] = Queue()
        self._pipeline = max(1, min(_PIPELINE, descriptor_limit() // 4))
        self._threads = [
            *start("small", _STREAMS, self._fetch_waited_for),
            *start("ahead", 1, self._fetch_ahead),  # more take Python's lock from each other
        ]

    def prefetch(self, key: bytes, info: ObjectInfo) -> None:
        """Fetch one before it is asked for."""
        if 0 < info.size <= SMALL:
            self._want(key, info, None)

    def may_prefetch(self, size: int) -> int:
        """Return how many of about that size may be fetched ahead now."""
        most = min(self._pipeline, max(_FEW, _AHEAD_BYTES // max(1, size)))
        return max(0, most - len(self._under_way))

    def read(self, key: bytes, info: ObjectInfo, offset: int, size: int, answer: Answer) -> None:
        """Give what is at a place to `answer`, at once or later."""

        def part(content: Parts | DatastoreError) -> None:
            if not isinstance(content, DatastoreError):
                content = [memoryview(content[0])[offset : offset + size]]
            answer(content)

        content = self._here.get(key)
        if content is not None:
            self._statistics.hit(size)
            part([content])
            return
        answer = counted(self._statistics, answer)
        self._want(key, info, part)

    def _want(self, key: bytes, info: ObjectInfo, answer: Answer | None) -> None:
        with self._lock:
            job = self._under_way.get(key)
            if job is not None:
                if answer is not None:
                    job.answers.append(answer)
                    self._jobs.hurry(job)
                return
            if answer is None and self._here.has(key):
                return
            job = _Small(info, key, [answer] if answer is not None else [])
            self._under_way[key] = job
        self._jobs.put(job, ahead=answer is None)

    def _fetch_waited_for(self) -> None:
        while (job := self._jobs.take(only_waited_for=True)) is not None:
            buffer = memoryview(bytearray(job.info.size))
            try:
                told = self._store.read_into(
                    ObjectName(job.info.asked), 0, buffer, pin=job.info.etag or None
                )
                self._came(job, buffer, told)
            except BaseException as error:  # noqa: BLE001
                self._failed(job, as_fault(error, job.info.name))

    def _fetch_ahead(self) -> None:
        """Ask for many at once, as long as anything is to be asked for; most are small beside the way there."""
        begun: deque[tuple[_Small, memoryview, Pending[bytes | None]]] = deque()
        while True:
            job = self._jobs.take(wait=not begun) if len(begun) < self._pipeline else None
            if job is not None:
                buffer = memoryview(bytearray(job.info.size))
                try:
                    name, pin = ObjectName(job.info.asked), job.info.etag or None
                    begun.append((job, buffer, self._store.begin_read(name, 0, buffer, pin=pin)))
                except BaseException as error:  # noqa: BLE001
                    self._failed(job, as_fault(error, job.info.name))
                continue
            if not begun:
                return
            job, buffer, pending = begun.popleft()
            try:
                self._came(job, buffer, pending.finish())
            except BaseException as error:  # noqa: BLE001
                self._failed(job, as_fault(error, job.info.name))

    def _came(self, job: _Small, buffer: memoryview, told: bytes | None) -> None:
        self._statistics.fetched(len(buffer))
        digest = job.info.digest or told
        if digest is not None and hashlib.md5(buffer, usedforsecurity=False).digest() != digest:
            raise IntegrityError(
                f"{job.info.name!r} arrived with another MD5 than the one stored with it. It was damaged on its way, "
                "or stored damaged."
            )
        content = bytes(buffer)
        self._here.put(job.key, content)
        for answer in self._settled(job):
            answer([content])

    def _failed(self, job: _Small, fault: DatastoreError) -> None:
        if isinstance(fault, IntegrityError) and not job.was_damaged:
            job.was_damaged = True  # on its way, perhaps
            self._jobs.put(job)
            return
        self._statistics.failed()
        for answer in self._settled(job):
            answer(fault)

    def _settled(self, job: _Small) -> list[Answer]:
        with self._lock:
            self._under_way.pop(job.key, None)
            answers, job.answers = job.answers, []
        return answers

    # -- the end --------------------------------------------------------------------------------

    def stop(self) -> list[threading.Thread]:
        """Begin nothing any more; return the threads that end what they do."""
        self._jobs.close()
        return self._threads

    def close(self) -> None:
        """Leave what was fetched to the next mount."""
        self._here.close()
