"""Large files as a whole: when all of one is here, its MD5 is compared with the one that the service holds.

Blocks are compared with checksums of what was fetched, which tell nothing of what came wrong. This is
done once for each version, by one thread that takes what time nobody needs, when the mount is quiet:
it is as much work as fetching and serving them, for which a reader would wait where cores are few.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from prefect_datastores.mounting.blocks import BLOCK, Blocks
from prefect_datastores.mounting.rows import Queue, start

_STEP = 8 * BLOCK
_NICE = 19
_QUIET_SECONDS, _LONGEST_SECONDS = 1.0, 60.0
"""For how long nothing was asked for; after how long it is done all the same."""


class HasBlocks(Protocol):
    """A version of an object."""

    blocks: Blocks


Checked = TypeVar("Checked", bound=HasBlocks)


class Wholes(Generic[Checked]):
    """Versions that are to be compared, one after another; used by many threads."""

    def __init__(self, spoiled: Callable[[Checked], None], activity: Callable[[], int]) -> None:
        """Start; `spoiled` is told of each that is not what it should be, `activity` says how much was done."""
        self._spoiled, self._activity = spoiled, activity
        self._lock, self._under_way = threading.Lock(), set[int]()
        self._queue: Queue[Checked] = Queue()
        self._over = threading.Event()
        self._threads = start("whole", 1, self._work)

    def want(self, version: Checked) -> None:
        """Compare a version, if all of it is here, it was not compared before, and there is something to compare it with."""
        blocks = version.blocks
        if not blocks.is_whole or blocks.is_verified or blocks.digest is None:
            return
        with self._lock:
            if id(version) in self._under_way:
                return
            self._under_way.add(id(version))
        self._queue.put(version)

    def close(self) -> None:
        """Stop: what was not compared is compared by the next mount that has it."""
        self._over.set()
        self._queue.close()
        for thread in self._threads:
            thread.join(5.0)

    def _work(self) -> None:
        with contextlib.suppress(OSError):  # of Linux, where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while (version := self._queue.take()) is not None:
            self._wait_for_quiet()
            found = self._digest_of(version.blocks)
            with self._lock:
                self._under_way.discard(id(version))
            if found is None:
                self.want(version)  # which may be whole again by now
            elif found == version.blocks.digest:
                version.blocks.note_verified()
            else:
                self._spoiled(version)

    def _wait_for_quiet(self) -> None:
        until, before = time.monotonic() + _LONGEST_SECONDS, -1
        while (now := self._activity()) != before and time.monotonic() < until:
            before = now
            if self._over.wait(_QUIET_SECONDS):
                return

    def _digest_of(self, blocks: Blocks) -> bytes | None:
        """Return the MD5 of all of it; None where some of it is not here (any more), or all is over."""
        changes, digest = blocks.changes, hashlib.md5(usedforsecurity=False)
        for offset in range(0, blocks.size, _STEP):
            content = None if self._over.is_set() else blocks.read(offset, _STEP)
            if content is None or blocks.changes != changes:
                return None
            digest.update(content)
        return digest.digest() if blocks.changes == changes else None
