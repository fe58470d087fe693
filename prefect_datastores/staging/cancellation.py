"""The stop of a transfer, asked for from anywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect_datastores.errors import TransferCancelled


class Cancellation:
    """Set once, from any thread or signal; work that sees it stops."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._actions: dict[object, Callable[[], None]] = {}

    def cancel(self) -> None:
        """Ask for the stop."""
        self._event.set()
        for action in tuple(self._actions.values()):
            action()

    @contextmanager
    def calling(self, action: Callable[[], None]) -> Iterator[None]:
        """Call `action` when the stop is asked for during the block, or was already."""
        key = object()
        self._actions[key] = action
        try:
            if self.requested:
                action()
            yield
        finally:
            del self._actions[key]

    @property
    def requested(self) -> bool:
        """Whether the stop was asked for."""
        return self._event.is_set()

    def pause(self, seconds: float) -> None:
        """Return after that time, or at once when the stop is asked for.

        Raises:
            TransferCancelled: it was.
        """
        self._event.wait(seconds)
        self.check()

    def check(self) -> None:
        """Return unless the stop was asked for.

        Raises:
            TransferCancelled: it was.
        """
        if self.requested:
            raise TransferCancelled("The transfer was cancelled.")
