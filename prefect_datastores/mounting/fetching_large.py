"""Large files of a mount: fetched in blocks, each once for all who want it, and ahead of them where that can be told.

A read is answered at once from what is here, or by the thread that brought the last of what it
lacks: nobody waits in between.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefect_datastores.errors import DatastoreError, IntegrityError
from prefect_datastores.mounting.ahead import Patience, Pattern, Span
from prefect_datastores.mounting.answers import Answer, Parts, as_fault, counted
from prefect_datastores.mounting.blocks import BLOCK, Blocks
from prefect_datastores.mounting.rows import Queue, start
from prefect_datastores.mounting.whole import Wholes
from prefect_datastores.names import ObjectName

if TYPE_CHECKING:
    from prefect_datastores.mounting.space import Space
    from prefect_datastores.mounting.statistics import Statistics
    from prefect_datastores.stores.base import ObjectInfo, ObjectStore

_log = logging.getLogger("prefect_datastores.mounting")
_STREAMS = 16
_RANGE = 4 * 2**20
_REST_STREAMS, _REST_RANGE = 8, 2**21
"""What is fetched for nobody in particular: half of the streams, and short enough to be waited for."""
_RECENT = 64 * 2**20
"""Bytes that came last, in memory: who reads in order gets them from there."""


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
        self.patience = Patience(info.size)
        self.rest: int | None = None
        """The block up to which all were fetched; None where only those are that somebody reads."""
        self.rest_under_way = 0


@dataclass(eq=False)
class _Waiting:
    """One read that lacks some blocks."""

    offset: int
    size: int
    answer: Answer
    lacks: set[int] = field(default_factory=set)
    found: dict[int, memoryview] = field(default_factory=dict)


@dataclass(frozen=True)
class _Range:
    """Blocks of a version that are fetched by one request."""

    version: Version
    first: int
    count: int
    is_rest: bool = False
    """Nobody reads there: somebody read elsewhere in it, at random, and will again."""


class LargeFiles:
    """The contents of all large files of one mount; used by many threads."""

    def __init__(self, store: ObjectStore, space: Space | None, statistics: Statistics) -> None:
        """Start the threads that fetch; nothing is fetched yet."""
        self._store, self._space, self._statistics = store, space, statistics
        self._lock = threading.Lock()
        self._versions: dict[bytes, Version] = {}
        self._recent: OrderedDict[tuple[bytes, int], memoryview] = OrderedDict()
        self._recent_bytes = 0
        self._ranges: Queue[_Range] = Queue()
        self._wholes: Wholes[Version] = Wholes(self._spoil, statistics.activity)
        self._threads = start("range", _STREAMS, self._fetch_ranges)

    def open(self, key: bytes, info: ObjectInfo) -> Version:
        """Return a version that somebody more uses.

        Raises:
            IntegrityError: all of it was here, and was not what the service holds.
        """
        with self._lock:
            version = self._versions.get(key)
            if version is None:
                version = Version(key, info, Blocks(self._space, key.hex(), info))
                self._versions[key] = version
            if version.fault:
                raise IntegrityError(version.fault)
            version.users += 1
        self._wholes.want(version)
        return version

    def close_file(self, version: Version) -> None:
        """Take note that a file is closed; what was fetched of it stays."""
        with self._lock:
            version.users -= 1
        if not version.users:
            version.blocks.write_index(seldom=True)

    def read(
        self, version: Version, pattern: Pattern, offset: int, size: int, answer: Answer
    ) -> None:
        """Give what is at a place to `answer`, at once or later."""
        if version.fault:
            answer(IntegrityError(version.fault))
            return
        first, last = offset // BLOCK, (offset + size - 1) // BLOCK
        spans = pattern.wanted(offset, size)
        parts = self._here(version, offset, size, first, last)
        if parts is None:
            if pattern.is_at_random:
                answer = self._patient(version, answer)
            answer = counted(self._statistics, answer)
            self._wait_for(version, _Waiting(offset, size, answer), first, last)
        self._ahead(version, spans)
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

    def _patient(self, version: Version, answer: Answer) -> Answer:
        """Have all of a version fetched once its readers waited as long for places that nobody could foretell."""
        began = version.patience.began()

        def waited(content: Parts | DatastoreError) -> None:
            answer(content)
            with version.lock:
                is_over = version.patience.is_over(began) and self._fits(version)
                if is_over and version.rest is None:
                    version.rest = 0
            if is_over and not isinstance(content, DatastoreError):
                self._fetch_rest(version)

        return waited

    def _fits(self, version: Version) -> bool:
        """Tell whether all of a version can stay here, and not only until the next one comes."""
        return self._space is not None and version.info.size <= self._space.most // 2

    def _fetch_rest(self, version: Version) -> None:
        """Have the next blocks fetched that are not here, as many as may be under way at once."""
        with version.lock:
            while version.rest is not None and version.rest_under_way < _REST_STREAMS:
                blocks = self._next_of_rest(version, version.rest)
                if not blocks or not version.users:
                    version.rest = None
                    return
                version.rest = blocks[-1] + 1
                version.rest_under_way += 1
                version.under_way.update({block: [] for block in blocks})
                self._ranges.put(_Range(version, blocks[0], len(blocks), is_rest=True), ahead=True)

    @staticmethod
    def _next_of_rest(version: Version, begin: int) -> Sequence[int]:
        """Return the blocks that one request is to bring, none where all are here; the caller has the lock."""

        def is_lacking(block: int) -> bool:
            return not (version.blocks.has(block) or block in version.under_way)

        count = version.blocks.count
        first = next((block for block in range(begin, count) if is_lacking(block)), count)
        end = first
        while end < min(first + _REST_RANGE // BLOCK, count) and is_lacking(end):
            end += 1
        return range(first, end)

    def _rest_came(self, job: _Range) -> None:
        """Go on with the rest, unless there is no room for it, or it could not be fetched."""
        version = job.version
        with version.lock:
            version.rest_under_way -= 1
            if not version.blocks.has(job.first):
                version.rest = None
        self._fetch_rest(version)

    # -- fetching -------------------------------------------------------------------------------

    def _fetch_ranges(self) -> None:
        while (job := self._ranges.take()) is not None:
            self._fetch_range(job)
            if job.is_rest:
                self._rest_came(job)

    def _fetch_range(self, job: _Range) -> None:
        version, offset = job.version, job.first * BLOCK
        length = min(job.count * BLOCK, version.info.size - offset)
        buffer = memoryview(bytearray(length))
        try:
            name, pin = ObjectName(version.info.asked), version.info.etag or None
            told = self._store.read_into(name, offset, buffer, pin=pin)
        except BaseException as error:  # noqa: BLE001 - whoever waits has to be told
            self._fail(job, as_fault(error, version.info.name))
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

    # -- the end --------------------------------------------------------------------------------

    def stop(self) -> list[threading.Thread]:
        """Begin nothing any more; return the threads that end what they do."""
        self._ranges.close()
        self._wholes.close()
        return self._threads

    def close(self) -> None:
        """Leave what was fetched to the next mount."""
        with self._lock:
            for version in self._versions.values():
                version.blocks.close()


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
