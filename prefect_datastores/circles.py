"""How often Python looks for circles among objects, while many are made that are in none."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# The heap of a flow run is large for the modules that it imported, and each look at all of it takes a tenth of a
# second. With Python's own 700 that was a fifth of a listing of 100,000 objects (benchmarks/transfer.py).
_NEW_OBJECTS = 20_000

_lock = threading.Lock()
_users = 0
_before: tuple[int, int, int] | None = None


@contextmanager
def rarely_looked_for() -> Iterator[None]:
    """Have circles looked for every 20,000 new objects, in all of this process, while this lasts.

    Who set it higher, or looks for none, keeps that.
    """
    global _users, _before  # noqa: PLW0603 - it is the process that has one collector
    with _lock:
        _users += 1
        if _users == 1 and 0 < gc.get_threshold()[0] < _NEW_OBJECTS:
            _before = gc.get_threshold()
            gc.set_threshold(_NEW_OBJECTS, *_before[1:])
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and _before is not None:
                if gc.get_threshold()[0] == _NEW_OBJECTS:
                    gc.set_threshold(*_before)
                _before = None
