"""What a mounted place answers to who asks for names, attributes and bytes; knows no kernel's protocol.

A fault of the service becomes the errno that a program can act on, and a line in the log.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time

from prefect_datastores.mounting.answers import Answer
from prefect_datastores.mounting.beside import Beside
from prefect_datastores.mounting.contents import Contents, Opened
from prefect_datastores.mounting.faults import Faults, Refused
from prefect_datastores.mounting.folders import LONGEST, Listing
from prefect_datastores.mounting.kernel import FOREVER, Attributes
from prefect_datastores.mounting.smalls import SMALL
from prefect_datastores.mounting.statistics import Statistics
from prefect_datastores.mounting.tree import Node, Tree

_FILE, _FOLDER = stat.S_IFREG | 0o444, stat.S_IFDIR | 0o555


class Operations:
    """A read-only file system; used by many threads."""

    def __init__(self, tree: Tree, contents: Contents, statistics: Statistics) -> None:
        """Serve a tree, and what is in its files."""
        self._tree, self._contents, self._statistics = tree, contents, statistics
        self._owner, self._group, self._began = os.getuid(), os.getgid(), time.time()
        self._lock = threading.Lock()
        self._opened: dict[int, tuple[Node, Opened]] = {}
        self._next = 1
        self._beside = Beside(contents)
        self._seen: set[int] = set()
        self.faults = Faults()

    @property
    def valid_seconds(self) -> int:
        """For how long what was told of names and attributes holds."""
        return FOREVER if self._tree.is_pinned else 0

    # -- names and attributes -------------------------------------------------------------------

    def look_up(self, parent: int, name: bytes) -> Attributes | None:
        """Return what stands under a name, a lookup more; None where nothing does."""
        folder = self._node(parent)
        try:
            shown = name.decode()
        except UnicodeDecodeError:
            return None
        if not folder.is_folder:
            raise Refused(errno.ENOTDIR)
        if len(name) > LONGEST:
            raise Refused(errno.ENAMETOOLONG)
        with self.faults.told(f"look up {shown!r}"):
            node = self._tree.look_up(folder, shown)
        return self.attributes(node) if node is not None else None

    def is_ready(self, folder: int) -> bool:
        """Tell whether a folder can be looked into at once."""
        return self._tree.is_ready(self._node(folder))

    def forget(self, node: int, lookups: int) -> None:
        """Take note that lookups were given back."""
        self._tree.forget(node, lookups)

    def stat(self, node: int) -> Attributes:
        """Return what is known of a node."""
        return self.attributes(self._node(node))

    def attributes(self, node: Node) -> Attributes:
        """Return what is known of a node."""
        if node.info is None:
            return Attributes(node.id, _FOLDER, 0, self._began, 2, self._owner, self._group)
        modified = node.info.modified or self._began
        return Attributes(node.id, _FILE, node.info.size, modified, 1, self._owner, self._group)

    def listing(self, folder: int) -> Listing:
        """Return what a folder holds."""
        node = self._node(folder)
        if not node.is_folder:
            raise Refused(errno.ENOTDIR)
        with self.faults.told(f"list {node.prefix!r}"):
            return self._tree.entries(node)

    def entry(self, folder: int, name: str, listing: Listing) -> Attributes:
        """Return what a listing showed under a name, a lookup more."""
        return self.attributes(self._tree.known(self._node(folder), name, listing[name]))

    def parent(self, folder: int) -> Attributes:
        """Return the folder above; of the root, the root."""
        node = self._node(folder)
        return self.attributes(node.parent or node)

    def room(self) -> tuple[int, int, int]:
        """Return bytes in all, free bytes, and files; nobody knows, and nobody may write."""
        numbers = self._statistics.to_dict()
        return numbers["bytes_listed"], 0, numbers["files_listed"]

    def _node(self, number: int) -> Node:
        try:
            return self._tree.node(number)
        except KeyError:
            raise Refused(errno.ESTALE) from None

    # -- files ----------------------------------------------------------------------------------

    def open(self, number: int, flags: int) -> int:
        """Open a file to read; what will most likely be opened next is fetched meanwhile."""
        node = self._node(number)
        if node.info is None:
            raise Refused(errno.EISDIR)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise Refused(errno.EROFS)
        with self.faults.told(f"open {node.info.name!r}"):
            opened = self._contents.open(node.info)
        with self._lock:
            handle, self._next = self._next, self._next + 1
            self._opened[handle] = (node, opened)
            is_first = node.id not in self._seen
            self._seen.add(node.id)
        self._statistics.opened(node.info.size, is_first=is_first)
        if node.info.size <= SMALL and is_first:
            self._fetch_beside(node)
        return handle

    def opened(self, handle: int) -> tuple[Node, Opened]:
        """Return an open file."""
        found = self._opened.get(handle)
        if found is None:
            raise Refused(errno.EBADF)
        return found

    def _fetch_beside(self, node: Node) -> None:
        """Fetch the small files beside one that was opened, where others beside it were opened before."""
        folder = node.parent
        if folder is None or folder.listing is None or not folder.listing.done():
            return
        listing = folder.listing.result()
        self._beside.opened(folder.id, node.name, listing.get, lambda: listing)

    def read(self, handle: int, offset: int, size: int, answer: Answer) -> None:
        """Give what is at a place in an open file to `answer`, at once or later."""
        _, opened = self.opened(handle)
        self._contents.read(opened, offset, size, answer)

    def close(self, handle: int) -> None:
        """Close a file."""
        with self._lock:
            found = self._opened.pop(handle, None)
        if found is not None:
            self._contents.close_file(found[1])
