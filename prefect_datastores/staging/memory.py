"""The memory of a transfer: bounded, and used again instead of given back.

Memory that threads allocate and free stays with each of them (glibc gives every thread an arena of
its own), so large parts are received into and sent from a few pieces that all threads share.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect_datastores.staging.cancellation import Cancellation

SMALL = 2**20
"""Bytes up to which an object of one part is not worth another thread."""
_WORTH_KEEPING = 2**17
"""Bytes from which on memory costs more to get from the system, page by page, than to keep."""
_AHEAD = 0.25
_PATIENCE_SECONDS = 0.2


class MemoryBudget:
    """Bytes that may be in use at once; one piece larger than all of it goes alone."""

    def __init__(self, most: int, cancellation: Cancellation) -> None:
        """Allocate nothing yet."""
        self._most, self._used, self._cancellation = most, 0, cancellation
        self._kept: dict[int, list[bytearray]] = {}
        self._kept_bytes = self._ahead = 0
        self._freed = threading.Condition()
        self._lying: list[Callable[[], bool]] = []

    @contextmanager
    def holding(self, size: int) -> Iterator[memoryview]:
        """Give memory for a while, as `take` does."""
        piece = self.take(size)
        try:
            yield piece
        finally:
            self.give(piece)

    def take(self, size: int) -> memoryview:
        """Return `size` bytes of memory, whose content is anything, once there is room for them.

        Raises:
            TransferCancelled: the stop was asked for.
        """
        room = _room(size)
        while not self._taken(room):
            self._cancellation.check()
            # Who would use what lies there for later may be the one who waits here.
            any(give_up() for give_up in tuple(self._lying))
        with self._freed:
            kept = self._kept.get(room)
            piece = kept.pop() if kept else None
            self._kept_bytes -= room if piece is not None else 0
            if self._kept_bytes and self._used + self._kept_bytes > self._most:
                self._kept.clear()
                self._kept_bytes = 0
        return memoryview(piece if piece is not None else bytearray(room))[:size]

    def _taken(self, room: int) -> bool:
        """Take so much once there is room for it; False when there was none for a while."""
        with self._freed:
            self._cancellation.check()
            there = self._freed.wait_for(
                lambda: not self._used or self._used + room <= self._most, _PATIENCE_SECONDS
            )
            self._used += room if there else 0
            return there

    @contextmanager
    def lying(self, give_up: Callable[[], bool]) -> Iterator[None]:
        """Let pieces lie for later use: where nobody else frees any, `give_up` gives one of them, or says False."""
        self._lying.append(give_up)
        try:
            yield
        finally:
            self._lying.remove(give_up)

    def take_ahead(self, size: int) -> memoryview | None:
        """Return memory for what is asked for ahead, or None where there is no room for it right now.

        It has a quarter of its own: who waits in `take` may be the one who has to give this back.
        """
        with self._freed:
            if self._ahead + size > self._most * _AHEAD:
                return None
            self._ahead += size
        return memoryview(bytearray(size))

    def give_ahead(self, piece: memoryview) -> None:
        """Take back what `take_ahead` gave."""
        with self._freed:
            self._ahead -= len(piece)
        piece.release()

    def give(self, piece: memoryview) -> None:
        """Take back what `take` gave; it is not used any more."""
        whole = piece.obj
        room = len(whole)  # type: ignore[arg-type]
        piece.release()
        with self._freed:
            self._used -= room
            if room > _WORTH_KEEPING and self._kept_bytes + self._used + room <= self._most:
                self._kept.setdefault(room, []).append(whole)  # type: ignore[arg-type]
                self._kept_bytes += room
            self._freed.notify()


def _room(size: int) -> int:
    """Return the length of the piece that holds `size` bytes: few lengths, so that pieces fit again."""
    if size <= _WORTH_KEEPING:
        return size
    room = _WORTH_KEEPING
    while room < size:
        room *= 2
    return room
