"""What a mount's process and its parent say to each other: values in frames, over pipes that nobody else has."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect_datastores.mounting.pending import Unstored
from prefect_datastores.mounting.tree import Consistency
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.limit import Rates

_LENGTH = struct.Struct("<Q")
MakeStore = Callable[[], ObjectStore]
"""Makes a store; it can be pickled, and a secret is in it."""


@dataclass(frozen=True)
class Wanted:
    """What is to be mounted, and how."""

    make: MakeStore = field(repr=False)
    path: str
    """A folder or an object of the datastore; "" is all of it."""
    title: str
    """What people see in a list of mounts."""
    point: Path = Path()
    """An empty folder."""
    lease: Path = Path()
    consistency: Consistency = "pinned"
    read_only: bool = True
    drafts_root: Path | None = None
    """Where files are that are written to. What a kill left there is stored by a mount of the same store."""
    cache_root: Path | None = None
    cache_bytes: int | None = None
    allow_empty: bool = False
    rates: Rates = field(default_factory=Rates)
    environment: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Ready:
    """It is mounted; `name` is the one file's, where one is mounted alone."""

    name: str = ""


@dataclass(frozen=True)
class Failed:
    """It could not be mounted."""

    error: Exception


@dataclass(frozen=True)
class Told:
    """What it did up to now."""

    numbers: dict[str, int]
    unstored: tuple[Unstored, ...] = ()
    """At the end: the files that were written and that the service does not have."""


@dataclass(frozen=True)
class Storing:
    """What was written is stored still, before the end."""

    files: int
    size: int


@dataclass(frozen=True)
class Unmount:
    """It is to go; after so many seconds even where it is in use."""

    grace: float


@dataclass(frozen=True)
class Tell:
    """Its numbers are wanted."""


@dataclass(frozen=True)
class Renew:
    """From now on another credential opens the store."""

    make: MakeStore = field(repr=False)


def send(fd: int, value: object) -> None:
    """Send a value.

    Raises:
        OSError: nobody reads it.
    """
    content = pickle.dumps(value)
    view = memoryview(_LENGTH.pack(len(content)) + content)
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int) -> Any:
    """Return the next value; None at the end."""
    head = _exactly(fd, _LENGTH.size)
    if head is None:
        return None
    content = _exactly(fd, _LENGTH.unpack(head)[0])
    return None if content is None else pickle.loads(content)  # noqa: S301 - of a process of ours


def _exactly(fd: int, size: int) -> bytes | None:
    content = b""
    while len(content) < size:
        piece = os.read(fd, size - len(content))
        if not piece:
            return None
        content += piece
    return content
