"""How many threads are worth while, found out from what they do; no I/O, and time is injected."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Worked:
    """Seconds of its own time that a thread worked: on so many `larger` objects, and on `small` ones.

    Small ones are those that one thread has many of under way, so that it need not wait for any.
    """

    seconds: float = 0.0
    larger: int = 0
    small: float = 0.0


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Pace:
    """The number of threads that keep Python at work, and none more.

    Only one thread runs Python at a time, and threads that wait for their turn cost more than they
    bring: where one can do all that comes, two take twice as long. So there are more only as long
    as all of them together wait for the service or the disk most of the time, and fewer again when
    they hardly do.
    """

    _LOOK_SECONDS = 0.02
    _TOO_LITTLE, _AIM, _TOO_MUCH = (
        0.7,
        0.75,
        0.8,
    )  # the share of the time in which Python is at work
    _RARELY, _FASTEST, _FAST = 0.1, 4.0, 2.0
    _MOST_PYTHON = (
        0.0003  # seconds of a larger object: more is digests and copies, for which nobody waits
    )
    _OF_CORES = 0.55  # of them at work: beyond this they are what there is too little of

    def __init__(
        self, most: int, clock: Callable[[], float] = time.monotonic, of_cores: int | None = None
    ) -> None:
        """Begin with one thread."""
        self.wanted = 1
        self._most, self._clock = most, clock
        self._cores = of_cores or cores()
        self.begin_look()

    def begin_look(self) -> None:
        """Forget what was seen since the last look."""
        self._began = self._clock()
        self._seconds, self._python, self._larger = 0.0, 0.0, 0

    def worked(self, worked: Worked, threads: int) -> None:
        """Take note of the work of one of so many threads; now and then `wanted` follows."""
        larger = min(worked.seconds, worked.larger * self._MOST_PYTHON)
        self._seconds += worked.seconds + worked.small
        self._python += worked.small + larger
        self._larger += worked.larger
        elapsed = self._clock() - self._began
        if elapsed < self._LOOK_SECONDS:
            return
        share = self._python / elapsed
        if share >= self._TOO_MUCH:
            self.wanted = max(1, threads // 2)
        elif (
            self._larger
            and share < self._TOO_LITTLE
            and self._seconds < self._OF_CORES * self._cores * elapsed
        ):
            growth = self._FASTEST if share < self._RARELY else self._FAST
            growth = min(growth, self._AIM / max(share, 0.001))
            self.wanted = min(self._most, max(1, int(threads * growth)))
        self.begin_look()
