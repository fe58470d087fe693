"""What an account holds: filesystems, and in each the paths, as a tree or as flat names."""

import bisect
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from servers.data_lake.access import Access
from servers.data_lake.refusals import Refusal, unknown

_TICKS = 10_000_000
_TO_1601 = 11_644_473_600  # seconds between the epoch of Windows and ours
_TO_ETAGS = 621_355_968_000_000_000  # ticks between the year 1, from which ETags count, and ours


class Stamps:
    """Gives ETags, which grow with the time and are never given twice."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def new(self) -> str:
        """Return a new ETag, without quotes."""
        with self._lock:
            self._last = max(self._last + 1, int(time.time() * _TICKS) + _TO_ETAGS)
            return f"0x{self._last:X}"


@dataclass
class Node:
    """A file or a directory."""

    etag: str
    access: Access
    modified: float = field(default_factory=time.time)
    created: float = field(default_factory=time.time)
    metadata: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)

    def change(self, etag: str) -> None:
        """Take note of a change."""
        self.etag, self.modified = etag, time.time()


@dataclass
class File(Node):
    """Content; `blocks` are those that it was committed from, `appended` what is not flushed.

    `copied` is told of it where it came by a copy.
    """

    content: bytes = b""
    blocks: list[tuple[str, bytes]] = field(default_factory=list)
    appended: dict[int, bytes] = field(default_factory=dict)
    is_of_dfs: bool = False
    copied: dict[str, str] = field(default_factory=dict)


@dataclass
class Directory(Node):
    """Children by name."""

    children: dict[str, Node] = field(default_factory=dict)


class Entry(NamedTuple):
    """A path in a listing; what is folded into `name`, which ends with a slash, may have no node."""

    name: str
    node: Node | None

    @property
    def is_folded(self) -> bool:
        """Whether it stands for all that begins with its name."""
        return self.name.endswith("/")


class Namespace(Protocol):
    """The paths of one filesystem."""

    def find(self, path: str) -> Node | None:
        """Return what stands at a path."""

    def find_beside(self, path: str, conflict: str) -> Node | None:
        """Return what stands at a path; raise `conflict` where a file stands above it."""

    def put(self, path: str, node: Node) -> None:
        """Let something stand at a path."""

    def remove(self, path: str) -> None:
        """Let nothing stand at a path."""

    def entries(self, prefix: str, *, delimiter: str, after: str) -> Iterator[Entry]:
        """Give what begins with a prefix and comes after a name, in the order of listings."""


class Flat:
    """Names, in whose middle a slash means nothing."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def find(self, path: str) -> Node | None:
        """Return the blob of that name."""
        return self._nodes.get(path)

    def find_beside(self, path: str, conflict: str) -> Node | None:
        """Return the blob of that name: nothing stands above another."""
        return self.find(path)

    def put(self, path: str, node: Node) -> None:
        """Keep a blob."""
        self._nodes[path] = node

    def remove(self, path: str) -> None:
        """Forget a blob."""
        del self._nodes[path]

    def entries(self, prefix: str, *, delimiter: str, after: str) -> Iterator[Entry]:
        """Give the names in the order of their characters."""
        names = sorted(self._nodes)
        folded = ""
        for name in names[bisect.bisect_left(names, prefix) :]:
            if not name.startswith(prefix):
                return
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            shown = f"{prefix}{head}{delimiter}" if found else name
            if shown != folded and shown > after:
                yield Entry(shown, None if found else self._nodes[name])
            folded = shown if found else ""


class Tree:
    """Directories, which are there whether or not something is in them."""

    def __init__(self, stamps: Stamps) -> None:
        self._stamps = stamps
        self.root = self._new_directory()

    def _new_directory(self) -> Directory:
        return Directory(self._stamps.new(), Access.of_new("", "", directory=True))

    def find(self, path: str) -> Node | None:
        """Follow a path."""
        node: Node = self.root
        for component in filter(None, path.split("/")):
            if not isinstance(node, Directory) or component not in node.children:
                return None
            node = node.children[component]
        return node

    def find_beside(self, path: str, conflict: str) -> Node | None:
        """Follow a path, which no file may stand in the middle of."""
        node: Node = self.root
        for component in filter(None, path.split("/")):
            if not isinstance(node, Directory):
                raise Refusal(conflict, "a file stands above the path")
            if component not in node.children:
                return None
            node = node.children[component]
        return node

    def put(self, path: str, node: Node) -> None:
        """Put something at a path, and make the directories above it."""
        *above, name = path.split("/")
        parent = self.root
        for component in above:
            if component not in parent.children:
                parent.children[component] = self._new_directory()
            child = parent.children[component]
            assert isinstance(child, Directory), f"{path} is below a file"
            parent = child
        parent.children[name] = node

    def remove(self, path: str) -> None:
        """Take something away, with all below it; the directory above it stays."""
        above, _, name = path.rpartition("/")
        parent = self.find(above)
        assert isinstance(parent, Directory)
        del parent.children[name]

    def entries(self, prefix: str, *, delimiter: str, after: str) -> Iterator[Entry]:
        """Give a directory before what is in it, and that before what stands beside it.

        So `a/b` comes before `a-b`, which is not the order of a flat namespace.
        """
        if delimiter not in {"", "/"}:
            raise Refusal("InvalidQueryParameterValue", "delimiter")
        if "//" in prefix or prefix.startswith("/"):
            raise unknown(f"a prefix with empty components: {prefix!r}")
        place = tuple(after.rstrip("/").split("/")) if after else ()
        above, _, stem = prefix.rpartition("/")
        top = self.find_beside(above, "ResourceTypeMismatch")
        if isinstance(top, File):
            raise Refusal("ResourceTypeMismatch", "a file stands in the middle of the prefix")
        if isinstance(top, Directory):
            start = f"{above}/" if above else ""
            yield from self._below(top, start, stem, folds=bool(delimiter), place=place)

    def _below(
        self, top: Directory, start: str, stem: str, *, folds: bool, place: tuple[str, ...]
    ) -> Iterator[Entry]:
        for name in sorted(top.children):
            if not name.startswith(stem):
                continue
            child, path = top.children[name], f"{start}{name}"
            is_directory = isinstance(child, Directory)
            if tuple(path.split("/")) > place:
                yield Entry(f"{path}/" if folds and is_directory else path, child)
            if isinstance(child, Directory) and not folds:
                yield from self._below(child, f"{path}/", "", folds=False, place=place)


@dataclass
class Filesystem:
    """One container; `staged` are blocks that are in no blob yet."""

    etag: str
    namespace: Namespace
    modified: float = field(default_factory=time.time)
    metadata: dict[str, str] = field(default_factory=dict)
    staged: dict[str, dict[str, bytes]] = field(default_factory=dict)


class Account:
    """An account; `lock` is held by whoever works on it, so that each request is one step."""

    def __init__(
        self, name: str, key: bytes, *, hierarchical: bool, tokens: frozenset[str]
    ) -> None:
        self.name, self.key, self.hierarchical, self.tokens = name, key, hierarchical, tokens
        self.filesystems: dict[str, Filesystem] = {}
        self.public: set[str] = set()
        self.stamps = Stamps()
        self.lock = threading.Lock()

    def make_filesystem(self, name: str, metadata: dict[str, str]) -> Filesystem:
        """Make a filesystem."""
        made = Filesystem(
            self.stamps.new(),
            Tree(self.stamps) if self.hierarchical else Flat(),
            metadata=metadata,
        )
        self.filesystems[name] = made
        return made


def file_time(seconds: float) -> int:
    """Return a time as listings of the DFS endpoint have it."""
    return int((seconds + _TO_1601) * _TICKS)
