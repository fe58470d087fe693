"""Folders get their times and properties last: after all that goes into them, those below them first.

What stands in a folder changes its time, and what a folder allows may keep its own content from being
written; so nothing is set before everything is there. A folder has no content by which it could be the
same as before: each transfer sets what it is to have, but one with `overwrite="skip"`, which leaves
alone what was there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from prefect_datastores.errors import (
    DatastoreError,
    ObjectNotFound,
    TransferCancelled,
    UnsafeName,
)
from prefect_datastores.files import Folder
from prefect_datastores.names import NameCheck, NameRules, ObjectName, RelativePath, join
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.engine import Lanes, Limits, run
from prefect_datastores.staging.generations import is_kept_for_publishing
from prefect_datastores.staging.keeping import (
    Keep,
    from_attribute,
    nanoseconds_of,
    to_attribute,
    to_microseconds,
)
from prefect_datastores.staging.progress import Silent
from prefect_datastores.staging.report import Action, ObjectRow
from prefect_datastores.staging.spool import Spool
from prefect_datastores.stores.base import Extras, ObjectStore


class Place(NamedTuple):
    """A folder on both sides."""

    path: RelativePath
    name: ObjectName


def places() -> Spool[Place]:
    """Return an empty sequence for folders."""
    return Spool(
        lambda place: (str(place.path), str(place.name)),
        lambda packed: Place(RelativePath(packed[0]), ObjectName(packed[1])),
    )


def above(found: Iterable[Place]) -> Iterator[Place]:
    """Give every folder above what was found, once where that comes in the order of names."""
    opened: list[Place] = []
    for path, name in found:
        folders = [
            Place(RelativePath("/".join(path[:depth])), ObjectName(whole))
            for depth, whole in _names_above(path, name)
        ]
        same = sum(1 for _ in _alike(opened, folders))
        yield from reversed(opened[same:])
        opened[same:] = folders[same:]
    yield from reversed(opened)


def all_of(found: Iterable[Place], empty: Sequence[Place]) -> Spool[Place]:
    """Return the folders above what was found, and empty ones with those above them."""
    everything = places()
    for place in chain(above(found), empty, above(empty)):
        everything.append(place)
    return everything


def _names_above(path: RelativePath, name: str) -> list[tuple[int, str]]:
    """Return how deep each folder above is, and its name, from the top down."""
    found = []
    for depth in range(len(path) - 1, 0, -1):
        name = name.rpartition("/")[0]
        found.append((depth, name))
    return found[::-1]


def _alike(first: Sequence[Place], second: Sequence[Place]) -> Iterator[Place]:
    for one, other in zip(first, second, strict=False):
        if one != other:
            return
        yield one


def check_folders(folders: Iterable[str], target: str, rules: NameRules) -> None:
    """Return when every folder can be one below `target`.

    Raises:
        UnsafeName: the service cannot hold a name as it is.
        NameCollision: two would be one.
    """
    check = NameCheck(rules)
    for folder in folders:
        if is_kept_for_publishing(folder.split("/")):
            check.refuse(
                UnsafeName(f"The name {folder!r} is kept for published folders; leave it out.")
            )
            continue
        try:
            name = tuple(ObjectName(join(target, str(RelativePath(folder)))).split("/"))
        except UnsafeName as fault:
            check.refuse(fault)
            continue
        if why := rules.path_fault(name):
            check.refuse(UnsafeName(f"The name {'/'.join(name)!r} {why}."))
        check.add(name, folder=True)
    check.raise_faults("the source")


@dataclass(frozen=True)
class Folders:
    """Brings what is kept of folders from one side to the other; it does nothing where nothing is kept."""

    store: ObjectStore
    folder: Folder
    keep: Keep
    limits: Limits
    cancellation: Cancellation

    @property
    def are_kept(self) -> bool:
        """Whether anything is."""
        wanted = self.keep.times or self.keep.properties
        return wanted and self.store.capabilities.has_folders

    def receive(self, found: Sequence[Place]) -> list[ObjectRow]:
        """Give local folders what the service tells of theirs; return a row for each that failed."""
        return self._each(found, self._receive)

    def _receive(self, place: Place) -> None:
        kind = self.store.capabilities.properties if self.keep.properties else ""
        told = self.store.folder_info(place.name, properties=bool(kind))
        is_timed = self.keep.times and told.modified is not None
        modified = nanoseconds_of(told.modified or 0.0) if is_timed else None
        attribute = to_attribute(kind, told.properties or {}) if kind else None
        try:
            self.folder.describe_directory(place.path, modified, attribute=attribute)
        except ObjectNotFound:  # nothing came of all that was to be in it
            return

    def make(
        self, empty: Iterable[Place], *, only_new: bool
    ) -> tuple[Spool[Place], list[ObjectRow]]:
        """Make empty folders at the service; return those to be given something, and rows of what failed."""
        to_give, failed = places(), list[ObjectRow]()
        for place in empty:
            self.cancellation.check()
            try:
                if self.store.make_folder(place.name) or not only_new:
                    to_give.append(place)
            except TransferCancelled:
                raise
            except DatastoreError as error:
                failed.append(_failed(place, error))
        return to_give, failed

    def send(self, found: Sequence[Place]) -> list[ObjectRow]:
        """Give folders at the service what local ones have; return a row for each that failed."""
        return self._each(found, self._send)

    def _send(self, place: Place) -> None:
        try:
            info, value = self.folder.directory(place.path)
        except ObjectNotFound:  # gone by now
            return
        properties = None
        if self.keep.properties:
            kind = self.store.capabilities.properties
            properties = from_attribute(value, kind, place.path, "the folder was left as it is")
        modified = to_microseconds(info.st_mtime_ns) if self.keep.times else None
        if modified is None and properties is None:
            return
        try:
            self.store.give_folder(place.name, Extras(modified, properties))
        except ObjectNotFound:  # nothing came of all that was to be in it
            return

    def _each(self, found: Sequence[Place], work: Callable[[Place], None]) -> list[ObjectRow]:
        """Work on all, the deepest first: one that was done may keep out who looks below it."""
        failed: list[ObjectRow] = []

        def done(place: Place, _: Lanes) -> ObjectRow:
            work(place)
            return ObjectRow(f"{place.name}/", f"{place.path}/", 0, "moved")

        for depth in range(max((len(place.path) for place in found), default=0), 0, -1):
            rows = run(
                (place for place in found if len(place.path) == depth),
                done,
                _failed,
                limits=self.limits,
                cancellation=self.cancellation,
                progress=Silent(),
            )
            failed += [row for row in rows if row.action != "moved"]
        return failed


def _failed(place: Place, error: DatastoreError) -> ObjectRow:
    action: Action = "cancelled" if isinstance(error, TransferCancelled) else "failed"
    return ObjectRow(f"{place.name}/", f"{place.path}/", 0, action, detail=str(error))
