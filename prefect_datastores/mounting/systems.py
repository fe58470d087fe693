"""What a mount's process serves: a place that is only read, or one that is written to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from prefect_datastores.errors import MountError
from prefect_datastores.mounting.changing import WritingSession
from prefect_datastores.mounting.contents import Contents
from prefect_datastores.mounting.operations import Operations
from prefect_datastores.mounting.passing import ReadingSession
from prefect_datastores.mounting.pending import Drafts, Unstored, left
from prefect_datastores.mounting.session import Session
from prefect_datastores.mounting.statistics import Statistics
from prefect_datastores.mounting.storing import Sender
from prefect_datastores.mounting.talk import Wanted
from prefect_datastores.mounting.tree import Consistency, Place, Tree
from prefect_datastores.mounting.working import WorkingTree
from prefect_datastores.mounting.writable import WritableOperations
from prefect_datastores.mounting.writing import Writing
from prefect_datastores.stores.base import ObjectStore

_log = logging.getLogger("prefect_datastores.mounting")
_STORE_SECONDS = 600.0
"""For how long the end of a mount waits for the service to take what was written."""


class Reading:
    """A place that is only read."""

    def __init__(
        self,
        store: ObjectStore,
        place: Place,
        contents: Contents,
        consistency: Consistency,
        statistics: Statistics,
    ) -> None:
        """Ask for nothing yet."""
        self._tree = Tree(store, place, consistency, statistics=statistics)
        self._operations = Operations(self._tree, contents, statistics)

    def session(self, fd: int) -> Session:
        """Return what serves the kernel."""
        return ReadingSession(fd, self._operations)

    def finish(self, tell: Callable[[int, int], None], *, is_free: bool) -> Sequence[Unstored]:
        """Have nothing to store."""
        return ()

    def close(self, *, keep: bool) -> None:
        """Let go of the threads."""
        self._tree.close()


class Changing:
    """A place that is written to."""

    def __init__(
        self,
        store: ObjectStore,
        place: Place,
        contents: Contents,
        wanted: Wanted,
        statistics: Statistics,
    ) -> None:
        """Ask for nothing yet.

        Raises:
            OSError: there is no place for drafts.
        """
        if wanted.drafts_root is None:
            raise MountError(
                f"{wanted.title} is to be written to, and nobody said where drafts are."
            )
        self._tree = WorkingTree(store, place, statistics)
        drafts = Drafts(wanted.drafts_root, wanted.title, store.url)
        self._writing = Writing(store, contents, drafts, statistics)
        self._operations = WritableOperations(store, self._tree, self._writing, statistics)

    def session(self, fd: int) -> Session:
        """Return what serves the kernel."""
        return WritingSession(fd, self._operations)

    def finish(self, tell: Callable[[int, int], None], *, is_free: bool) -> Sequence[Unstored]:
        """Store what is not stored yet; return what cannot be. Nobody has a file open any more where it `is_free`."""
        unstored = self._writing.finish(self._tree.files(), _STORE_SECONDS, tell, is_free=is_free)
        _tell(unstored)
        return unstored

    def close(self, *, keep: bool) -> None:
        """Let go of the drafts; with `keep`, they stay for who stores them later."""
        self._writing.close_all(keep=keep)


def recover(store: ObjectStore, root: Path) -> None:
    """Store what killed mounts of a store left unstored."""
    sender = Sender()
    try:
        with left(root) as found:
            for one in found:
                if one.url == store.url:
                    stored, unstored = one.finish(store, sender.send)
                    for name in stored:
                        _log.warning("%r, which a killed mount had not stored, is stored.", name)
                    _tell(unstored)
    finally:
        sender.close()


def _tell(unstored: Sequence[Unstored]) -> None:
    for file in unstored:
        _log.error("%r is not stored: %s. It is in %s.", file.name, file.reason, file.draft)
