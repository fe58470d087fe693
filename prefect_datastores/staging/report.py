"""What a transfer did: one row per object, and their sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, overload

from prefect_datastores.staging.generations import Publication
from prefect_datastores.staging.spool import Spool

Direction = Literal["download", "upload"]
Action = Literal["moved", "unchanged", "skipped", "ignored", "failed", "cancelled"]


class ObjectRow(NamedTuple):
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


def object_rows() -> Spool[tuple[int, ObjectRow]]:
    """Return an empty sequence for rows and their places among the objects of a plan."""
    return Spool(
        # marshal knows texts, and no names that are checked
        lambda placed: (placed[0], (str(placed[1].name), *placed[1][1:])),
        lambda packed: (packed[0], ObjectRow(*packed[1])),
    )


class Rows(Sequence[ObjectRow]):
    """Rows that are too many for memory, in the order in which their objects were done."""

    def __init__(self, placed: Spool[tuple[int, ObjectRow]]) -> None:
        self._placed = placed

    def __len__(self) -> int:
        return len(self._placed)

    def __iter__(self) -> Iterator[ObjectRow]:
        return (row for _, row in self._placed)

    @overload
    def __getitem__(self, index: int) -> ObjectRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ObjectRow]: ...
    def __getitem__(self, index: int | slice) -> ObjectRow | Sequence[ObjectRow]:
        """Return one row, or several."""
        if isinstance(index, slice):
            return tuple(row for _, row in self._placed[index])
        return self._placed[index][1]


def in_order(placed: Spool[tuple[int, ObjectRow]]) -> Sequence[ObjectRow]:
    """Return the rows in the order of their objects; where they are too many, in that of their ends."""
    if placed.is_short:
        return tuple(row for _, row in sorted(placed, key=lambda pair: pair[0]))
    return Rows(placed)


@dataclass(frozen=True)
class TransferReport:
    """A finished transfer; `seconds` is wall time, sizes are bytes.

    `rows` are in the order of the objects' names; where they are more than 10,000, in the order in
    which objects were done. `publication` is what became visible at once, where a folder was
    published so.
    """

    # No word: Prefect takes a task that gets an equal constant for one that depends on this result.
    is_upload: bool
    source: str
    destination: str
    rows: Sequence[ObjectRow]
    seconds: float
    publication: Publication | None = None

    @property
    def direction(self) -> Direction:
        """Which way it went."""
        return "upload" if self.is_upload else "download"

    def of(self, *actions: Action) -> tuple[ObjectRow, ...]:
        """Return the rows with one of the actions."""
        return tuple(row for row in self.rows if row.action in actions)

    @cached_property
    def actions(self) -> Mapping[Action, int]:
        """How many objects had which outcome."""
        return Counter(row.action for row in self.rows)

    @property
    def count(self) -> int:
        """How many objects were moved."""
        return self.actions.get("moved", 0)

    @cached_property
    def bytes(self) -> int:
        """How many bytes the moved objects have."""
        return sum(row.size for row in self.rows if row.action == "moved")

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
            "actions": dict(self.actions),
            "unverified": len(self.unverified),
            "published": self.publication.pointer.generation if self.publication else None,
            "objects": [row._asdict() for row in self.rows],
        }

    def summary(self) -> str:
        """Return one line for a log."""
        return f"{'Uploaded' if self.is_upload else 'Downloaded'} {self.sums()}"

    def sums(self) -> str:
        """Return the line without what was done, where its reader knows that."""
        rate = (
            f", {human_bytes(self.bytes / self.seconds)}/s"
            if self.seconds > 0 and self.bytes
            else ""
        )
        parts = [
            f"{plural(self.count, 'object')} ({human_bytes(self.bytes)}) in {self.seconds:.1f} s{rate}"
        ]
        if cached := sum(row.cached for row in self.rows):
            parts.append(f"{cached} from the cache")
        others: tuple[Action, ...] = ("unchanged", "skipped", "ignored", "failed", "cancelled")
        for action in others:
            if count := self.actions.get(action):
                parts.append(f"{count} {action}")
        if unverified := len(self.unverified):
            parts.append(f"{unverified} verified by length only")
        if self.publication:
            parts.append(f"published at once as {self.publication.pointer.generation}")
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
