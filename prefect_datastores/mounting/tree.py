"""Names and folders of a mounted place: what stands where, in which version, by the nodes that the kernel knows.

A node of a file is one version of it, for ever: another version is another node, so that nobody who
has a file open sees two of them. A folder is listed once and serves the attributes of all in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from prefect_datastores.errors import ObjectNotFound
from prefect_datastores.mounting.folders import Folders, Listing
from prefect_datastores.mounting.statistics import Statistics
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import ObjectInfo, ObjectStore

Consistency = Literal["pinned", "latest"]
"""Whether what was seen once stays as it was, or what is there now is shown within a second."""

ROOT = 1
FRESH_SECONDS = 1.0
"""How old a listing may be before what it says is asked for anew, where the latest is wanted."""
_LISTED_AHEAD = 32  # folders


class Node:
    """A folder, or one version of a file."""

    __slots__ = ("base", "id", "info", "listed", "listing", "lookups", "name", "parent", "prefix")

    def __init__(
        self, number: int, name: str, parent: Node | None, info: ObjectInfo | None, base: str
    ) -> None:
        self.id, self.name, self.parent, self.info = number, name, parent, info
        # What lies below a folder, and where that is found: elsewhere, in one that was published at once.
        self.base = self.prefix = base
        self.lookups = 0
        self.listing: Future[Listing] | None = None
        self.listed = 0.0

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.info is None


@dataclass(frozen=True)
class Place:
    """What is mounted: all below a prefix, or one object alone, under its last name."""

    prefix: str = ""
    single: ObjectInfo | None = None
    is_published: bool = False
    """It lies in a folder that was published at once, so that nobody may change it."""


class Tree:
    """The nodes of one mount; used by many threads."""

    def __init__(
        self,
        store: ObjectStore,
        place: Place,
        consistency: Consistency = "pinned",
        *,
        statistics: Statistics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask for nothing yet."""
        self._store, self._consistency, self._clock = store, consistency, clock
        self._lock = threading.RLock()
        self._next = ROOT + 1
        self.root = Node(ROOT, "", None, None, place.prefix)
        self._nodes: dict[int, Node] = {ROOT: self.root}
        self._by_name: dict[tuple[int, str], Node] = {}
        self._threads = ThreadPoolExecutor(16, thread_name_prefix="pds-mount-list")
        self._folders = Folders(store)
        self._statistics = statistics or Statistics()
        if place.single is not None:
            listing: Future[Listing] = Future()
            listing.set_result({place.single.name.rpartition("/")[2]: place.single})
            self.root.listing, self.root.listed = listing, float("inf")
            self._statistics.listed(1, place.single.size)

    @property
    def is_pinned(self) -> bool:
        """Whether what was seen once stays as it was."""
        return self._consistency == "pinned"

    def node(self, number: int) -> Node:
        """Return a node that the kernel knows.

        Raises:
            KeyError: it was forgotten.
        """
        return self._nodes[number]

    def is_ready(self, folder: Node) -> bool:
        """Tell whether a folder can be looked into without asking the service."""
        asked = folder.listing
        return asked is not None and asked.done() and (self.is_pinned or not self._is_old(folder))

    def look_up(self, parent: Node, name: str) -> Node | None:
        """Return what stands under a name, one lookup more of it; None where nothing does.

        Raises:
            DatastoreError: the service failed.
        """
        asked = parent.listing
        if asked is not None and asked.done() and not self.is_pinned and self._is_old(parent):
            info = asked.result().get(name)
            if info is not None:  # one file is asked for more quickly than all of its folder
                now = self._now(info)
                return self.known(parent, name, now) if now is not None else None
        listing = self._listing_of(parent)
        return self.known(parent, name, listing[name]) if name in listing else None

    def known(self, parent: Node, name: str, info: ObjectInfo | None) -> Node:
        """Return the node of what a listing showed, one lookup more of it."""
        with self._lock:
            node = self._by_name.get((parent.id, name))
            if node is None or not _is_same(node.info, info):
                prefix = "" if info is not None else f"{parent.prefix}{name}/"
                node = Node(self._next, name, parent, info, prefix)
                self._next += 1
                self._nodes[node.id] = node
                self._by_name[parent.id, name] = node
            node.lookups += 1
            return node

    def forget(self, number: int, lookups: int) -> None:
        """Take note that the kernel let go of so many lookups."""
        with self._lock:
            node = self._nodes.get(number)
            if node is None or node is self.root:
                return
            node.lookups -= lookups
            if node.lookups <= 0:
                del self._nodes[number]
                key = (node.parent.id, node.name) if node.parent else (0, "")
                if self._by_name.get(key) is node:
                    del self._by_name[key]

    def entries(self, folder: Node) -> Listing:
        """Return what a folder holds, in name order; those that will be asked for next are asked for meanwhile.

        Raises:
            DatastoreError: the service failed.
        """
        listing = self._listing_of(folder)
        self._list_ahead(folder, listing)
        return listing

    def _list_ahead(self, folder: Node, listing: Listing) -> None:
        """Ask for the folders in a folder, and for those that come after it: who walks a tree wants them next."""
        if not self.is_pinned:
            return
        due = [(folder, name) for name in islice(_folders(listing), _LISTED_AHEAD)]
        parent = folder.parent
        if parent is not None and parent.listing is not None and parent.listing.done():
            after = _after(_folders(parent.listing.result()), folder.name)
            due += [(parent, name) for name in islice(after, _LISTED_AHEAD)]
        for above, name in due:
            with self._lock:
                node = self._by_name.get((above.id, name))
                if node is None:
                    node = self.known(above, name, None)
                    node.lookups -= 1  # the kernel knows nothing of it yet
            self._ask(node)

    def _listing_of(self, folder: Node) -> Listing:
        asked = self._ask(folder)
        try:
            return asked.result()
        except BaseException:
            with self._lock:  # the next one asks again
                if folder.listing is asked:
                    folder.listing = None
            raise

    def _ask(self, folder: Node) -> Future[Listing]:
        """Return a folder's listing, which may be under way."""
        with self._lock:
            asked = folder.listing
            if asked is None or (not self.is_pinned and asked.done() and self._is_old(folder)):
                is_first, folder.listed = not folder.listed, self._clock()
                asked = folder.listing = self._threads.submit(self._listed, folder, is_first)
            return asked

    def _is_old(self, folder: Node) -> bool:
        return self._clock() - folder.listed > FRESH_SECONDS

    def _now(self, info: ObjectInfo) -> ObjectInfo | None:
        try:
            now = self._store.head(ObjectName(info.asked))
        except ObjectNotFound:
            return None
        return now._replace(name=info.name, stored_as=info.stored_as)

    def _listed(self, folder: Node, is_first: bool) -> Listing:
        content = self._folders.content(folder.base)
        folder.prefix = content.prefix
        if is_first:
            files = [info for info in content.listing.values() if info is not None]
            self._statistics.listed(len(files), sum(info.size for info in files))
        return content.listing

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _is_same(one: ObjectInfo | None, other: ObjectInfo | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.etag, one.size, one.asked) == (other.etag, other.size, other.asked)


def _folders(listing: Listing) -> Iterator[str]:
    return (name for name, info in listing.items() if info is None)


def _after(names: Iterator[str], name: str) -> Iterator[str]:
    return (one for one in names if one > name)
