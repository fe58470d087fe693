"""What a transfer did: one row per object, and their sums."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

Direction = Literal["download", "upload"]
Action = Literal["moved", "unchanged", "skipped", "ignored", "failed", "cancelled"]


@dataclass(frozen=True)
class ObjectRow:
    """One object of a transfer.

    `action`: `moved`; `unchanged` (the same content was there); `skipped` (something was there and
    `overwrite="skip"` kept it); `ignored` (a link or special file, never transferred); `failed`;
    `cancelled` (not tried, because the transfer stopped). `verified` says by what a moved or
    unchanged object was checked: `md5`, or `length` where the service holds no digest. One that is
    `cached` was fetched by an earlier transfer and taken from this machine.
    """

    name: str
    path: str
    size: int
    action: Action
    verified: Literal["", "length", "md5"] = ""
    detail: str = ""
    cached: bool = False


@dataclass(frozen=True)
class TransferReport:
    """A finished transfer; `seconds` is wall time, sizes are bytes."""

    # No word: Prefect takes a task that gets an equal constant for one that depends on this result.
    is_upload: bool
    source: str
    destination: str
    rows: tuple[ObjectRow, ...]
    seconds: float

    @property
    def direction(self) -> Direction:
        """Which way it went."""
        return "upload" if self.is_upload else "download"

    def of(self, *actions: Action) -> tuple[ObjectRow, ...]:
        """Return the rows with one of the actions."""
        return tuple(row for row in self.rows if row.action in actions)

    @property
    def count(self) -> int:
        """How many objects were moved."""
        return len(self.of("moved"))

    @property
    def bytes(self) -> int:
        """How many bytes the moved objects have."""
        return sum(row.size for row in self.of("moved"))

    @property
    def failed(self) -> tuple[ObjectRow, ...]:
        """The rows of objects that failed or were not tried."""
        return self.of("failed", "cancelled")

    @property
    def unverified(self) -> tuple[ObjectRow, ...]:
        """The rows of moved objects of which only the length was checked."""
        return tuple(row for row in self.of("moved", "unchanged") if row.verified != "md5")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "direction": self.direction,
            "source": self.source,
            "destination": self.destination,
            "count": self.count,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "actions": dict(Counter(row.action for row in self.rows)),
            "unverified": len(self.unverified),
            "objects": [asdict(row) for row in self.rows],
        }

    def summary(self) -> str:
        """Return one line for a log."""
        verb = "Uploaded" if self.is_upload else "Downloaded"
        rate = (
            f", {human_bytes(self.bytes / self.seconds)}/s"
            if self.seconds > 0 and self.bytes
            else ""
        )
        parts = [
            f"{verb} {plural(self.count, 'object')} ({human_bytes(self.bytes)}) in {self.seconds:.1f} s{rate}"
        ]
        if cached := sum(row.cached for row in self.rows):
            parts.append(f"{cached} from the cache")
        for action in ("unchanged", "skipped", "ignored", "failed", "cancelled"):
            if rows := self.of(action):
                parts.append(f"{len(rows)} {action}")
        if self.unverified:
            parts.append(f"{len(self.unverified)} verified by length only")
        return "; ".join(parts) + "."


def plural(count: int, noun: str) -> str:
    """Return the count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def human_bytes(size: float) -> str:
    """Return a size as people read it, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:  # noqa: PLR2004
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
