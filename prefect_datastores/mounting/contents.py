"""What is in the files of a mount: fetched once for all who want it, and ahead of them where that can be told.

A read is answered at once from what is here, or by the thread that brought the last of what it
lacks: nobody waits in between.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefect_datastores.errors import DatastoreError, IntegrityError, MountError
from prefect_datastores.mounting.ahead import Pattern, Span
from prefect_datastores.mounting.blocks import BLOCK, Blocks
from prefect_datastores.mounting.rows import Queue, start
from prefect_datastores.mounting.smalls import SMALL, Smalls
from prefect_datastores.mounting.space import Space
from prefect_datastores.mounting.statistics import Statistics
from prefect_datastores.mounting.whole import Wholes
from prefect_datastores.names import ObjectName

if TYPE_CHECKING:
    from prefect_datastores.stores.base import ObjectInfo, ObjectStore, Pending

_log = logging.getLogger("prefect_datastores.mounting")
_STREAMS, _SMALL_STREAMS, _SMALL_AHEAD, _PIPELINE = 16, 4, 4, 32
_RANGE = 4 * 2**20
_AHEAD_BYTES, _FEW = 32 * 2**20, 8
"""How much of small objects is fetched ahead at once."""
_RECENT = 64 * 2**20
"""Bytes of large objects that came last, in memory: who reads in order gets them from there."""

Parts = Sequence["memoryview | bytes"]
Answer = Callable[["Parts | DatastoreError"], None]


def key_of(url: str, info: ObjectInfo) -> bytes:
    """Return what one version of one object is filed under."""
    named = "\n".join((url, info.asked, info.etag, str(info.size)))
    return hashlib.sha256(named.encode(errors="surrogatepass")).digest()


class Version:
    """One version of a large object, and who waits for some of it."""

    def __init__(self, key: bytes, info: ObjectInfo, blocks: Blocks) -> None:
        """Nothing of it is under way yet."""
        self.key, self.info, self.blocks = key, info, blocks
        self.users = 0
        self.fault = ""
        """Why nothing of it is given to anybody any more."""
        self.lock = threading.Lock()
        self.under_way: dict[int, list[_Waiting]] = {}


@dataclass(eq=False)
class _Waiting:
    """One read that lacks some blocks."""

    offset: int
    size: int
    answer: Answer
    lacks: set[int] = field(default_factory=set)
    found: dict[int, memoryview] = field(default_factory=dict)


class Opened:
    """One open file."""

    def __init__(self, info: ObjectInfo, version: Version | None) -> None:
        """Begin; a small file has no blocks."""
        self.info, self.version = info, version
        self.pattern = Pattern(info.size)
        self.content: bytes | None = None


@dataclass(eq=False)
class _Small:
    """A small object that is to be fetched."""

    info: ObjectInfo
    key: bytes
    answers: list[Answer] = field(default_factory=list)
    was_damaged: bool = False


@dataclass(frozen=True)
class _Range:
    """Blocks of a version that are fetched by one request."""

    version: Version
    first: int
    count: int


class Contents:
    """The contents of all files of one mount; used by many threads."""

    def __init__(self, store: ObjectStore, space: Space | None, statistics: Statistics) -> None:
        """Start the threads that fetch; nothing is fetched yet."""
        self._store, self._space, self._statistics = store, space, statistics
        self._smalls = Smalls(space)
        self._lock = threading.Lock()
        self._versions: dict[bytes, Version] = {}
        self._small_under_way: dict[bytes, _Small] = {}
        self._recent: OrderedDict[tuple[bytes, int], memoryview] = OrderedDict()
        self._recent_bytes = 0
        self._ranges: Queue[_Range] = Queue()
        self._small: Queue[_Small] = Queue()
        self._wholes: Wholes[Version] = Wholes(self._spoil, statistics.activity)
        self._threads = [
            *start("range", _STREAMS, self._fetch_ranges),
            *start("small", _SMALL_STREAMS, self._fetch_waited_for),
            *start("ahead", _SMALL_AHEAD, self._fetch_ahead),
        ]

    # -- opening --------------------------------------------------------------------------------

    def open(self, info: ObjectInfo) -> Opened:
        """Return a version of an object as an open file.

        Raises:
            IntegrityError: all of it was here, and was not what the service holds.
        """
        if info.size <= SMALL:
            return Opened(info, None)
        key = key_of(self._store.url, info)
        with self._lock:
            version = self._versions.get(key)
            if version is None:
                version = Version(key, info, Blocks(self._space, key.hex(), info))
                self._versions[key] = version
            if version.fault:
                raise IntegrityError(version.fault)
            version.users += 1
        self._wholes.want(version)
        return Opened(info, version)

    def close_file(self, opened: Opened) -> None:
        """Take note that a file is closed; what was fetched of it stays."""
        version = opened.version
        if version is None:
            return
        with self._lock:
            version.users -= 1
        if not version.users:
            version.blocks.write_index(seldom=True)

    def prefetch(self, infos: Sequence[ObjectInfo]) -> None:
        """Fetch small objects before they are asked for."""
        for info in infos:
            if 0 < info.size <= SMALL:
                self._want_small(info, None)

    def may_prefetch(self, size: int) -> int:
        """Return how many small objects of about that size may be fetched ahead now."""
        most = min(_SMALL_AHEAD * _PIPELINE, max(_FEW, _AHEAD_BYTES // max(1, size)))
        return max(0, most - len(self._small_under_way))

    # -- reading --------------------------------------------------------------------------------

    def read(self, opened: Opened, offset: int, size: int, answer: Answer) -> None:
        """Give what is at a place to `answer`, at once or later; shorter only at the end of the file."""
        size = min(size, opened.info.size - offset)
        if size <= 0:
            answer(())
        elif opened.version is None:
            self._read_small(opened, offset, size, answer)
        else:
            self._read_large(opened, opened.version, offset, size, answer)

    def _read_small(self, opened: Opened, offset: int, size: int, answer: Answer) -> None:
        def part(content: Parts | DatastoreError) -> None:
            if not isinstance(content, DatastoreError):
                content = [memoryview(content[0])[offset : offset + size]]
            answer(content)

        key = key_of(self._store.url, opened.info)
        content = self._smalls.get(key)
        if content is not None:
            self._statistics.hit(size)
            part([content])
            return
        answer = self._counted(answer)
        self._want_small(opened.info, part, key)

    def _want_small(
        self, info: ObjectInfo, answer: Answer | None, key: bytes | None = None
    ) -> None:
        key = key or key_of(self._store.url, info)
        with self._lock:
            job = self._small_under_way.get(key)
            if job is not None:
                if answer is not None:
                    job.answers.append(answer)
                    self._small.hurry(job)
                return
            if answer is None and self._smalls.has(key):
                return
            job = _Small(info, key, [answer] if answer is not None else [])
            self._small_under_way[key] = job
        self._small.put(job, ahead=answer is None)

    def _read_large(
        self, opened: Opened, version: Version, offset: int, size: int, answer: Answer
    ) -> None:
        if version.fault:
            answer(IntegrityError(version.fault))
            return
        first, last = offset // BLOCK, (offset + size - 1) // BLOCK
        parts = self._here(version, offset, size, first, last)
        if parts is None:
            self._wait_for(version, _Waiting(offset, size, self._counted(answer)), first, last)
        self._ahead(version, opened.pattern.wanted(offset, size))
        if parts is not None:
            self._statistics.hit(size)
            answer(parts)

    def _here(
        self, version: Version, offset: int, size: int, first: int, last: int
    ) -> Parts | None:
        """Return what is at a place, from memory or from the disk; None where some of it is not here."""
        with self._lock:
            recent = [self._recent.get((version.key, block)) for block in range(first, last + 1)]
        found = [block for block in recent if block is not None]
        if len(found) == len(recent):
            return _cut(found, offset - first * BLOCK, size)
        content = version.blocks.read(offset, size)
        return None if content is None else [content]

    def _counted(self, answer: Answer) -> Answer:
        """Count a read that has to wait, for how long it does, and what it gets."""
        began = time.monotonic()

        def counted(content: Parts | DatastoreError) -> None:
            size = 0 if isinstance(content, DatastoreError) else sum(map(len, content))
            self._statistics.missed(size, time.monotonic() - began)
            answer(content)

        return counted

    def _wait_for(self, version: Version, waiting: _Waiting, first: int, last: int) -> None:
        """Have the blocks that a read lacks fetched, each once for all who lack it."""
        lacking: list[int] = []
        with version.lock:
            for block in range(first, last + 1):
                found = self._found(version, block)
                if found is not None:
                    waiting.found[block] = found
                    continue
                waiting.lacks.add(block)
                if block not in version.under_way:
                    version.under_way[block] = []
                    lacking.append(block)
                version.under_way[block].append(waiting)
            done = not waiting.lacks
        if done:
            waiting.answer(_joined(waiting))
        for begin, count in _runs(lacking):
            self._ranges.put(_Range(version, begin, count))

    def _found(self, version: Version, block: int) -> memoryview | None:
        """Return a block that is here, and what it was; None where it has to be fetched."""
        with self._lock:
            recent = self._recent.get((version.key, block))
        if recent is not None or block in version.under_way:
            return recent
        return version.blocks.read(block * BLOCK, BLOCK)

    def _ahead(self, version: Version, spans: Sequence[Span]) -> None:
        for begin, end in spans:
            with version.lock:
                blocks = [
                    block
                    for block in range(begin // BLOCK, -(-end // BLOCK))
                    if block not in version.under_way and not version.blocks.has(block)
                ]
                version.under_way.update({block: [] for block in blocks})
            for first, count in _runs(blocks):
                self._ranges.put(_Range(version, first, count), ahead=True)

    # -- fetching -------------------------------------------------------------------------------

    def _fetch_ranges(self) -> None:
        while (job := self._ranges.take()) is not None:
            self._fetch_range(job)

    def _fetch_range(self, job: _Range) -> None:
        version, offset = job.version, job.first * BLOCK
        length = min(job.count * BLOCK, version.info.size - offset)
        buffer = memoryview(bytearray(length))
        try:
            name, pin = ObjectName(version.info.asked), version.info.etag or None
            told = self._store.read_into(name, offset, buffer, pin=pin)
        except BaseException as error:  # noqa: BLE001 - whoever waits has to be told
            self._fail(job, _as_fault(error, version.info))
            return
        self._statistics.fetched(length)
        version.blocks.digest = version.blocks.digest or told
        for step in range(job.count):
            self._came(version, job.first + step, buffer[step * BLOCK :][:BLOCK])

    def _came(self, version: Version, block: int, content: memoryview) -> None:
        version.blocks.keep(block, content)
        self._keep_recent(version, block, content)
        done: list[_Waiting] = []
        with version.lock:
            for waiting in version.under_way.pop(block, []):
                waiting.found[block] = content
                waiting.lacks.discard(block)
                if not waiting.lacks:
                    done.append(waiting)
        for waiting in done:
            waiting.answer(_joined(waiting))
        self._wholes.want(version)

    def _spoil(self, version: Version) -> None:
        """Give nothing of a version to anybody any more that came, as a whole, with another MD5."""
        version.fault = (
            f"{version.info.name!r} arrived with another MD5 than the one stored with it. It was damaged on its way, or "
            "stored damaged; this mount gives nothing of it any more, and the next one fetches it anew."
        )
        self._statistics.failed()
        _log.error("%s", version.fault)
        with self._lock:
            for key in [key for key in self._recent if key[0] == version.key]:
                self._recent_bytes -= len(self._recent.pop(key))
        version.blocks.spoil()

    def _keep_recent(self, version: Version, block: int, content: memoryview) -> None:
        key = (version.key, block)
        with self._lock:
            self._recent_bytes += len(content) - len(self._recent.pop(key, b""))
            self._recent[key] = content
            while self._recent_bytes > _RECENT:
                _, dropped = self._recent.popitem(last=False)
                self._recent_bytes -= len(dropped)

    def _fail(self, job: _Range, fault: DatastoreError) -> None:
        self._statistics.failed()
        told: list[_Waiting] = []
        with job.version.lock:
            for block in range(job.first, job.first + job.count):
                told += job.version.under_way.pop(block, [])
            for waiting in told:
                for block in waiting.lacks:
                    with contextlib.suppress(KeyError, ValueError):
                        job.version.under_way[block].remove(waiting)
        for waiting in dict.fromkeys(told):
            waiting.answer(fault)

    def _fetch_waited_for(self) -> None:
        while (job := self._small.take(only_waited_for=True)) is not None:
            buffer = memoryview(bytearray(job.info.size))
            try:
                told = self._store.read_into(
                    ObjectName(job.info.asked), 0, buffer, pin=job.info.etag or None
                )
                self._small_came(job, buffer, told)
            except BaseException as error:  # noqa: BLE001
                self._small_failed(job, _as_fault(error, job.info))

    def _fetch_ahead(self) -> None:
        """Ask for many at once, as long as anything is to be asked for; most are small beside the way there."""
        begun: deque[tuple[_Small, memoryview, Pending[bytes | None]]] = deque()
        while True:
            job = self._small.take(wait=not begun) if len(begun) < _PIPELINE else None
            if job is not None:
                buffer = memoryview(bytearray(job.info.size))
                try:
                    name, pin = ObjectName(job.info.asked), job.info.etag or None
                    begun.append((job, buffer, self._store.begin_read(name, 0, buffer, pin=pin)))
                except BaseException as error:  # noqa: BLE001
                    self._small_failed(job, _as_fault(error, job.info))
                continue
            if not begun:
                return
            job, buffer, pending = begun.popleft()
            try:
                self._small_came(job, buffer, pending.finish())
            except BaseException as error:  # noqa: BLE001
                self._small_failed(job, _as_fault(error, job.info))

    def _small_came(self, job: _Small, buffer: memoryview, told: bytes | None) -> None:
        self._statistics.fetched(len(buffer))
        digest = job.info.digest or told
        if digest is not None and hashlib.md5(buffer, usedforsecurity=False).digest() != digest:
            raise IntegrityError(
                f"{job.info.name!r} arrived with another MD5 than the one stored with it. It was damaged on its way, "
                "or stored damaged."
            )
        content = bytes(buffer)
        self._smalls.put(job.key, content)
        for answer in self._settled(job):
            answer([content])

    def _small_failed(self, job: _Small, fault: DatastoreError) -> None:
        if isinstance(fault, IntegrityError) and not job.was_damaged:
            job.was_damaged = True  # on its way, perhaps
            self._small.put(job)
            return
        self._statistics.failed()
        for answer in self._settled(job):
            answer(fault)

    def _settled(self, job: _Small) -> list[Answer]:
        with self._lock:
            self._small_under_way.pop(job.key, None)
            answers, job.answers = job.answers, []
        return answers

    # -- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop fetching, and leave what was fetched to the next mount."""
        self._ranges.close()
        self._small.close()
        self._wholes.close()
        self._store.interrupt()
        for thread in self._threads:
            thread.join(5.0)
        with self._lock:
            for version in self._versions.values():
                version.blocks.close()
        self._smalls.close()
        if self._space is not None:
            self._space.close()


def _as_fault(error: BaseException, info: ObjectInfo) -> DatastoreError:
    if isinstance(error, DatastoreError):
        return error
    _log.error("Reading %r failed.", info.name, exc_info=error)
    return MountError(f"Reading {info.name!r} failed: {type(error).__name__}: {error}")


def _joined(waiting: _Waiting) -> Parts:
    """Return what a read asked for, from its blocks."""
    blocks = [waiting.found[block] for block in sorted(waiting.found)]
    return _cut(blocks, waiting.offset - min(waiting.found) * BLOCK, waiting.size)


def _cut(blocks: Sequence[memoryview], offset: int, size: int) -> Parts:
    """Return a range of blocks that follow each other, without a copy."""
    parts: list[memoryview] = []
    for block in blocks:
        part = block[offset : offset + size]
        parts.append(part)
        size -= len(part)
        offset = 0
    return parts


def _runs(blocks: Sequence[int]) -> list[tuple[int, int]]:
    """Return neighbours together, as many as one request is to bring."""
    found: list[tuple[int, int]] = []
    for block in blocks:
        if found and found[-1][0] + found[-1][1] == block and found[-1][1] < _RANGE // BLOCK:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((block, 1))
    return found
