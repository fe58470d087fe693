"""What an engine tells while it works; who shows it is not the engine's concern."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

from prefect_datastores.staging.report import ObjectRow, human_bytes


class Progress(Protocol):
    """Is told how a transfer goes; called from many threads."""

    def begin(self, title: str, objects: int, size: int) -> None:
        """Take note of what is to be moved, as far as that is known."""

    def grow(self, objects: int, size: int) -> None:
        """Take note of what is to be moved in all: the plan was longer than it looked."""

    def moved(self, size: int) -> None:
        """Take note of that many bytes more."""

    def finished(self, row: ObjectRow) -> None:
        """Take note that one object is done."""

    def retried(self) -> None:
        """Take note that a request is tried again; it may come before `begin`."""

    def end(self) -> None:
        """The transfer is over, well or not."""


class Silent:
    """Shows nothing."""

    def begin(self, title: str, objects: int, size: int) -> None:
        """Do nothing."""

    def grow(self, objects: int, size: int) -> None:
        """Do nothing."""

    def moved(self, size: int) -> None:
        """Do nothing."""

    def finished(self, row: ObjectRow) -> None:
        """Do nothing."""

    def retried(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


@dataclass
class Tally:
    """The sums that every display needs; safe to use from many threads."""

    title: str = ""
    objects: int = 0
    size: int = 0
    objects_done: int = 0
    size_done: int = 0
    retries: int = 0
    began: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, objects: int = 0, size: int = 0, retries: int = 0) -> None:
        """Add what was done."""
        with self._lock:
            self.objects_done += objects
            self.size_done += size
            self.retries += retries

    @property
    def percent(self) -> float:
        """How much is done, by bytes, or by objects where there are no bytes; 0 to 100."""
        if self.size:
            return min(100.0, 100 * self.size_done / self.size)
        return 100 * self.objects_done / self.objects if self.objects else 100.0

    def line(self) -> str:
        """Return the sums in one line."""
        seconds = max(time.monotonic() - self.began, 1e-6)
        rate = self.size_done / seconds
        left = (
            f", {(self.size - self.size_done) / rate:.0f} s left"
            if rate and self.size > self.size_done
            else ""
        )
        return (
            f"{self.objects_done}/{self.objects} objects, {human_bytes(self.size_done)} of "
            f"{human_bytes(self.size)}, {human_bytes(rate)}/s{left}{self.again}"
        )

    @property
    def again(self) -> str:
        """The number of retries, to stand behind something else; nothing where there were none."""
        if not self.retries:
            return ""
        return f", {self.retries} {'retry' if self.retries == 1 else 'retries'}"
