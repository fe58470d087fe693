"""Names of a mount that is written to: files and folders as they stand here, and what the service has of them.

A node is one file or folder from its making to its end, whatever its name or content is meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Union

from prefect_datastores.mounting.drafts import Draft
from prefect_datastores.mounting.folders import Folders
from prefect_datastores.mounting.statistics import Statistics
from prefect_datastores.mounting.tree import ROOT, Place
from prefect_datastores.names import folder_prefix
from prefect_datastores.stores.base import ObjectInfo, ObjectStore


class File:
    """One file."""

    def __init__(self, number: int, parent: Folder, name: str, info: ObjectInfo | None) -> None:
        """Begin with what the service has under its name."""
        self.id, self.parent, self.name, self.info = number, parent, name, info
        self.lock = threading.RLock()
        """Held while what the service has of it, or its draft, becomes something else."""
        self.draft: Draft | None = None
        self.is_changed = False
        """The draft has what the service does not."""
        self.fault: BaseException | None = None
        """Why it could not be stored."""
        self.is_linked = True
        self.lookups = self.users = self.writers = 0
        self.mode, self.modified = 0o644, 0.0

    @property
    def object_name(self) -> str:
        """What it is called at the service."""
        return self.parent.prefix + self.name

    @property
    def size(self) -> int:
        """Bytes."""
        draft = self.draft
        if draft is not None:
            return draft.size
        return self.info.size if self.info is not None else 0

    @property
    def time(self) -> float:
        """When it was changed last."""
        if self.modified or self.info is None:
            return self.modified
        return self.info.modified or 0.0


class Folder:
    """One folder."""

    def __init__(self, number: int, parent: Folder | None, name: str) -> None:
        """Begin with nothing known of what it holds."""
        self.id, self.parent, self.name = number, parent, name
        self.lock = threading.Lock()
        self.children: dict[str, Node] | None = None
        self.fixed: str | None = None
        """Below which prefix its content is, where that does not follow from its name."""
        self.is_frozen = False
        """What is in it cannot be changed."""
        self.holds_one = False
        """It shows one file that was mounted alone, and that can be written to."""
        self.stands = False
        """It stays at the service when nothing is in it."""
        self.is_linked = True
        self.lookups = 0
        self.mode, self.modified = 0o755, 0.0

    @property
    def prefix(self) -> str:
        """What the names of all in it begin with."""
        if self.fixed is not None:
            return self.fixed
        assert self.parent is not None, "The root's is fixed."
        return f"{self.parent.prefix}{self.name}/"

    @property
    def object_name(self) -> str:
        """What it is called at the service."""
        return self.prefix.rstrip("/")


Node = Union[File, Folder]


class WorkingTree:
    """The nodes of one mount; used by many threads."""

    def __init__(self, store: ObjectStore, place: Place, statistics: Statistics) -> None:
        """Ask for nothing yet."""
        self._folders, self._statistics = Folders(store), statistics
        self._lock = threading.Lock()
        self._next = ROOT + 1
        self.root = Folder(ROOT, None, "")
        self.root.fixed, self.root.stands, self.root.modified = place.prefix, True, time.time()
        self.root.is_frozen = place.is_published
        self._nodes: dict[int, Node] = {ROOT: self.root}
        if place.single is not None:
            above, _, name = place.single.asked.rpartition("/")
            self.root.fixed, self.root.is_frozen = folder_prefix(above), True
            self.root.holds_one = not place.is_published
            self.root.children = {}
            file = self.new_file(self.root, name, place.single)
            statistics.listed(1, file.size)

    def node(self, number: int) -> Node:
        """Return a node that the kernel knows.

        Raises:
            KeyError: it was forgotten.
        """
        return self._nodes[number]

    def files(self) -> list[File]:
        """Return all files that are known."""
        with self._lock:
            return [node for node in self._nodes.values() if isinstance(node, File)]

    def children(self, folder: Folder) -> dict[str, Node]:
        """Return what a folder holds.

        Raises:
            DatastoreError: the service failed.
        """
        with folder.lock:
            if folder.children is None:
                content = self._folders.content(folder.prefix)
                if content.is_published:
                    folder.fixed, folder.is_frozen = content.prefix, True
                found = content.listing
                folder.children = {}
                for name, info in found.items():
                    if info is None:
                        self.new_folder(folder, name).is_frozen = folder.is_frozen
                    else:
                        self.new_file(folder, name, info)
                sizes = [info.size for info in found.values() if info is not None]
                self._statistics.listed(len(sizes), sum(sizes))
            return folder.children

    def new_file(self, parent: Folder, name: str, info: ObjectInfo | None) -> File:
        """Have a file under a name that stands for nothing yet; its folder was looked into."""
        with self._lock:
            file = File(self._number(), parent, name, info)
            self._nodes[file.id] = file
        self._link(file, parent, name)
        return file

    def new_folder(self, parent: Folder, name: str) -> Folder:
        """Have a folder under a name that stands for nothing yet; its folder was looked into."""
        with self._lock:
            folder = Folder(self._number(), parent, name)
            self._nodes[folder.id] = folder
        self._link(folder, parent, name)
        return folder

    def _number(self) -> int:
        number, self._next = self._next, self._next + 1
        return number

    @staticmethod
    def _link(node: Node, parent: Folder, name: str) -> None:
        assert parent.children is not None, "It was looked into."
        node.parent, node.name = parent, name
        parent.children[name] = node

    def unlink(self, node: Node) -> None:
        """Take a node's name away; it lives as long as somebody uses it."""
        assert node.parent is not None
        assert node.parent.children is not None, "It was found in it."
        del node.parent.children[node.name]
        node.is_linked = False
        self.forget(node, 0)

    def rename(self, node: Node, parent: Folder, name: str) -> None:
        """Give a node another name, at which nothing stands any more."""
        assert node.parent is not None
        assert node.parent.children is not None, "It was found in it."
        del node.parent.children[node.name]
        self._link(node, parent, name)

    def renamed_below(self, folder: Folder, moved: Mapping[str, ObjectInfo] | None) -> None:
        """Take note that the service has all below a folder under other names.

        `moved` has the versions that they are now, by the names before; None where they are the same.
        """
        for node in (folder.children or {}).values():
            if isinstance(node, Folder):
                self.renamed_below(node, moved)
            elif node.info is not None:
                info = node.info if moved is None else moved.get(node.info.name, node.info)
                node.info = info._replace(name=node.object_name, stored_as="")

    def forget(self, node: Node, lookups: int) -> None:
        """Take note that the kernel let go of so many lookups."""
        with self._lock:
            node.lookups -= lookups
            if node.lookups <= 0 and not node.is_linked:
                self._nodes.pop(node.id, None)

    def looked_up(self, node: Node) -> Node:
        """Count a lookup more."""
        with self._lock:
            node.lookups += 1
            return node
