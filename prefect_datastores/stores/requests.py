"""The requests that one call of a store makes, told one by one to who limits them.

A call is a request, as a rule; on a file share it may be several, and only the transport knows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Told(threading.local):
    waits: tuple[Callable[[], None], ...] = ()


_told = _Told()


@contextmanager
def beyond(expected: int, wait: Callable[[], None]) -> Iterator[None]:
    """Call `wait` before each request that this thread makes meanwhile, beyond the expected ones."""
    left = expected

    def one() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            wait()

    outer, _told.waits = _told.waits, (*_told.waits, one)
    try:
        yield
    finally:
        _told.waits = outer


def about_to_ask() -> None:
    """Say that a request is about to be sent; returns when it may be."""
    for wait in _told.waits:
        wait()
