"""Threads that all file systems of a process share: one lane for files, one for parts of them.

What runs for a part waits for nothing else, so that a file never waits for a part that waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from typing import TypeVar

PART = 4 * 2**20  # the most that one request may write
AHEAD = 3  # parts of one file that are under way beside the one in hand
_FILES, _PARTS = 6, 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def files_lane() -> ThreadPoolExecutor:
    """Return the threads that move whole files."""
    return _lane("files", _FILES, os.getpid())


def parts_lane() -> ThreadPoolExecutor:
    """Return the threads that make single requests."""
    return _lane("parts", _PARTS, os.getpid())


@lru_cache(maxsize=4)
def _lane(name: str, threads: int, _process: int) -> ThreadPoolExecutor:
    """Return the lane of a process: one that was forked has none of its parent's threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"azurefile-{name}")


def beside(
    lane: ThreadPoolExecutor, work: Callable[[Item], Result], items: Sequence[Item]
) -> list[Result]:
    """Return what `work` returns for each item; the first that fails ends it, once the others have stopped."""
    if len(items) <= 1:
        return [work(item) for item in items]
    asked = [lane.submit(work, item) for item in items]
    try:
        return [one.result() for one in asked]
    finally:
        for one in asked:
            one.cancel()
        wait(asked)
