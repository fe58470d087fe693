"""What an account holds: shares, in them directories and files, and what is known of each."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from servers.azure_files.content import Content
from servers.azure_files.errors import Refused
from servers.azure_files.names import Path, identity
from servers.azure_files.times import Clock

_FIRST_ID = 1 << 63
_ids = itertools.count(1)


def new_id() -> int:
    """Return an id that no other file or directory has, as large as the service's are."""
    return _FIRST_ID + (next(_ids) << 20)


@dataclass
class Node:
    """What a directory and a file have in common; moments are in ticks."""

    name: str
    attributes: str
    created: int
    written: int
    changed: int
    modified: int
    """What the ETag is made of; unlike `changed`, no client sets it after the creation."""
    permission: str
    metadata: dict[str, str]
    id: int = field(default_factory=new_id)
    parent_id: int = 0

    @property
    def is_read_only(self) -> bool:
        """Whether it has the attribute."""
        return "ReadOnly" in self.attributes


@dataclass
class Directory(Node):
    """A directory; its entries are found whatever the case of their names."""

    entries: dict[str, Node] = field(default_factory=dict)

    def put(self, node: Node) -> None:
        """Take an entry in; one of the same name is replaced."""
        node.parent_id = self.id
        self.entries[identity(node.name)] = node

    def get(self, name: str) -> Node | None:
        """Return an entry, or None."""
        return self.entries.get(identity(name))

    def take_out(self, name: str) -> Node:
        """Remove an entry that is there."""
        return self.entries.pop(identity(name))

    def in_order(self) -> list[Node]:
        """Return the entries as they are listed, files and directories together."""
        return [self.entries[name] for name in sorted(self.entries)]


@dataclass
class Lease:
    """Who alone may change a file; `is_broken` once nobody is any more."""

    id: str
    is_broken: bool = False


@dataclass(frozen=True)
class Copied:
    """Where a file was copied from."""

    id: str
    source: str
    length: int
    at: int


@dataclass
class File(Node):
    """A file; `http` holds the headers that come with its bytes, under their own names."""

    content: Content = field(default_factory=lambda: Content(0))
    http: dict[str, str] = field(default_factory=dict)
    lease: Lease | None = None
    copied: Copied | None = None


@dataclass
class Share:
    """A share, or a snapshot of one."""

    name: str
    root: Directory
    modified: int
    metadata: dict[str, str]
    quota: int = 5120
    permissions: dict[str, str] = field(default_factory=dict)
    """Security descriptors by their key."""
    policies: dict[str, dict[str, str]] = field(default_factory=dict)
    snapshots: dict[str, Share] = field(default_factory=dict)

    def snapshot(self, metadata: Mapping[str, str]) -> Share:
        """Return what it is now, apart from its other snapshots."""
        return Share(
            self.name,
            copy.deepcopy(self.root),
            self.modified,
            dict(metadata or self.metadata),
            self.quota,
            dict(self.permissions),
        )

    def find(self, path: Path) -> Node:
        """Return what has a path; its parents are looked for first."""
        if not path:
            return self.root
        node = self.parent(path).get(path[-1])
        if node is None:
            raise Refused("ResourceNotFound")
        return node

    def parent(self, path: Path) -> Directory:
        """Return the directory that holds, or would hold, what has a path."""
        directory: Directory = self.root
        for name in path[:-1]:
            found = directory.get(name)
            if not isinstance(found, Directory):
                raise Refused("ParentNotFound")
            directory = found
        return directory

    def directory(self, path: Path) -> Directory:
        """Return the directory of a path."""
        node = self.find(path)
        if not isinstance(node, Directory):
            raise Refused("ResourceTypeMismatch")
        return node

    def file(self, path: Path) -> File:
        """Return the file of a path."""
        node = self.find(path)
        if not isinstance(node, File):
            raise Refused("ResourceTypeMismatch")
        return node


def files_below(node: Node) -> Iterator[File]:
    """Yield every file in a directory and below, or the file itself."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        if isinstance(found, Directory):
            waiting += found.entries.values()
        elif isinstance(found, File):
            yield found


@dataclass
class Account:
    """The account, and what opens it; `lock` is held by whoever looks at it."""

    name: str
    key: str
    token: str = ""
    shares: dict[str, Share] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def share(self, name: str, snapshot: str = "") -> Share:
        """Return a share, or a snapshot of it."""
        share = self.shares.get(name)
        if share is not None and snapshot:
            share = share.snapshots.get(snapshot)
        if share is None:
            raise Refused("ShareNotFound")
        return share
