"""What a mount did, in numbers."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass


@dataclass
class Numbers:
    """Sums since the mount began."""

    requests: int = 0
    """To the service."""
    bytes_fetched: int = 0
    bytes_served: int = 0
    """To who read; what the kernel had already is not among them."""
    reads: int = 0
    hits: int = 0
    """Reads that were answered from what was here."""
    milliseconds_waited: int = 0
    """By readers, in all, for what was not here."""
    errors: int = 0
    opened: int = 0
    files_opened: int = 0
    """Different ones."""
    bytes_of_files_opened: int = 0
    files_stored: int = 0
    """One that was closed again and again as often."""
    bytes_stored: int = 0
    files_listed: int = 0
    bytes_listed: int = 0


class Statistics:
    """Counts; used by many threads."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._numbers, self._lock = Numbers(), threading.Lock()

    def fetched(self, size: int) -> None:
        """Count a request that brought something."""
        with self._lock:
            self._numbers.requests += 1
            self._numbers.bytes_fetched += size

    def hit(self, size: int) -> None:
        """Count a read that was answered at once."""
        with self._lock:
            self._numbers.reads += 1
            self._numbers.hits += 1
            self._numbers.bytes_served += size

    def missed(self, size: int, seconds: float) -> None:
        """Count a read that had to wait, and for how long it did."""
        with self._lock:
            self._numbers.reads += 1
            self._numbers.bytes_served += size
            self._numbers.milliseconds_waited += round(seconds * 1000)

    def failed(self) -> None:
        """Count a fault."""
        with self._lock:
            self._numbers.errors += 1

    def opened(self, size: int, *, is_first: bool) -> None:
        """Count a file that was opened."""
        with self._lock:
            self._numbers.opened += 1
            if is_first:
                self._numbers.files_opened += 1
                self._numbers.bytes_of_files_opened += size

    def stored(self, size: int) -> None:
        """Count a file that was written here and is stored."""
        with self._lock:
            self._numbers.requests += 1
            self._numbers.files_stored += 1
            self._numbers.bytes_stored += size

    def listed(self, files: int, size: int) -> None:
        """Count what a folder showed."""
        with self._lock:
            self._numbers.files_listed += files
            self._numbers.bytes_listed += size

    def activity(self) -> int:
        """Return what grows with each read, and each request to the service."""
        return self._numbers.reads + self._numbers.requests

    def to_dict(self) -> dict[str, int]:
        """Return all of it."""
        with self._lock:
            return asdict(self._numbers)
