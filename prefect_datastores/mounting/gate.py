"""A door that many pass at once, or one alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """What changes one name passes together with others; what changes the names of many passes alone."""

    def __init__(self) -> None:
        """Let everybody pass."""
        self._changed = threading.Condition()
        self._inside, self._waiting, self._is_closed = 0, 0, False

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Be inside together with others; who waits to be alone goes first."""
        with self._changed:
            while self._is_closed or self._waiting:
                self._changed.wait()
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be inside with nobody else."""
        with self._changed:
            self._waiting += 1
            while self._is_closed or self._inside:
                self._changed.wait()
            self._waiting -= 1
            self._is_closed = True
        try:
            yield
        finally:
            with self._changed:
                self._is_closed = False
                self._changed.notify_all()
