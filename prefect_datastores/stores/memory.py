"""The reference store: objects in a dictionary. What it does is what every store must do."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from prefect_datastores.errors import (
    ContainerNotFound,
    FolderNotEmpty,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    SourceChanged,
)
from prefect_datastores.names import NameRules, ObjectName
from prefect_datastores.stores.base import (
    NO_EXTRAS,
    Capabilities,
    Extras,
    Later,
    NoFolders,
    NoProperties,
    ObjectInfo,
    Page,
    check_extras,
)
from prefect_datastores.stores.moving import check_move


@dataclass(frozen=True)
class _Object:
    content: bytes
    info: ObjectInfo


class MemoryStore(NoFolders, NoProperties):
    """Objects that live as long as the process."""

    capabilities = Capabilities(
        kind="memory",
        stores_digest=True,
        part_size=64 * 1024,
        moves_in_one_step=True,
        keeps_times=True,
    )

    def __init__(self, name: str = "memory", *, exists: bool = True) -> None:
        """Make an empty store; `exists=False` makes one whose container is missing."""
        self.url = f"memory://{name}"
        self._objects: dict[str, _Object] | None = {} if exists else None
        self._versions = itertools.count(1)
        self._lock = threading.RLock()

    def _content(self) -> dict[str, _Object]:
        if self._objects is None:
            raise ContainerNotFound(f"The container {self.url} does not exist.")
        return self._objects

    def _find(self, name: ObjectName) -> _Object:
        found = self._content().get(name)
        if found is None:
            raise ObjectNotFound(f"{self.url} has no object {name!r}.")
        return found

    def name_rules(self) -> NameRules:
        """Tell every name from every other."""
        return NameRules()

    def create_root(self) -> None:
        """Make the container unless it exists."""
        if self._objects is None:
            self._objects = {}

    def check_root(self) -> None:
        """Raise when the container is missing."""
        self._content()

    def check_write(self, name: ObjectName) -> None:
        """Raise when the container is missing."""
        self._content()

    def list_page(
        self, prefix: str, *, marker: str | None = None, recursive: bool = True, limit: int = 5000
    ) -> Page:
        """Return one page in name order."""
        with self._lock:
            content = self._content()
            found: dict[str, ObjectInfo | None] = {}  # None: a folder, whose name ends in "/"
            for name in content:
                if name.startswith(prefix):
                    first, slash, _ = name[len(prefix) :].partition("/")
                    folded = slash and not recursive
                    found[f"{prefix}{first}/" if folded else name] = (
                        None if folded else content[name].info
                    )
        left = sorted(key for key in found if marker is None or key > marker)
        keys = left[:limit]
        return Page(
            tuple(info for key in keys if (info := found[key])),
            tuple(key.removesuffix("/") for key in keys if found[key] is None),
            keys[-1] if len(left) > limit else None,
        )

    def head(self, name: ObjectName) -> ObjectInfo:
        """Return what is known of one object."""
        with self._lock:
            return self._find(name).info

    def read_into(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> None:
        """Fill `buffer` from one version."""
        with self._lock:
            found = self._find(name)
        if pin is not None and found.info.etag != pin:
            raise SourceChanged(f"{self.url}/{name} changed while it was read.")
        data = found.content[offset : offset + len(buffer)]
        if len(data) != len(buffer):
            raise IntegrityError(f"{self.url}/{name} ended at byte {offset + len(data)}.")
        buffer[:] = data

    def begin_read(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> Later[None]:
        """Read when it is wanted: no answer is waited for."""
        return Later(lambda: self.read_into(name, offset, buffer, pin=pin))

    def begin_write(
        self,
        name: ObjectName,
        size: int,
        *,
        replaces: str | None = None,
        if_absent: bool = False,
        extras: Extras = NO_EXTRAS,
    ) -> _MemoryWriting:
        """Begin an object."""
        check_extras(self, extras)
        self._content()
        return _MemoryWriting(self, name, size, replaces, if_absent, extras.modified)

    def put(
        self,
        name: str,
        content: bytes,
        digest: bytes | None = None,
        *,
        modified: float | None = None,
    ) -> ObjectInfo:
        """Store under any name, as a hostile service could list it; for tests of store users."""
        with self._lock:
            info = ObjectInfo(
                name,
                len(content),
                f'"0x{next(self._versions):X}"',
                digest,
                time.time() if modified is None else modified,
            )
            self._content()[name] = _Object(content, info)
        return info

    def delete(self, name: ObjectName, *, pin: str | None = None) -> None:
        """Delete one object."""
        with self._lock:
            found = self._find(name)
            if pin is not None and found.info.etag != pin:
                raise SourceChanged(f"{self.url}/{name} is another version than the one to delete.")
            del self._content()[name]

    def move(
        self,
        name: ObjectName,
        to: ObjectName,
        *,
        pin: str | None = None,
        replaces: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """Give an object another name; it keeps its version."""
        with self._lock:
            found, stands = self._find(name), self._content().get(to)
            if found.info.is_marker:
                raise ObjectNotFound(f"{self.url}/{name} is a folder, and no object.")
            check_move(
                f"{self.url}/{to}",
                found.info,
                stands.info if stands else None,
                pin=pin,
                replaces=replaces,
                if_absent=if_absent,
            )
            del self._content()[name]
            moved = _Object(found.content, found.info._replace(name=str(to)))
            self._content()[to] = moved
        return moved.info

    def make_folder(self, name: ObjectName) -> None:
        """Put a marker, unless one is there."""
        with self._lock:
            stands = self._content().get(name)
            if stands is None:
                info = self.put(name, b"")._replace(is_marker=True)
                self._content()[name] = _Object(b"", info)
            elif not stands.info.is_marker:
                raise PlaceTaken(f"An object stands at {self.url}/{name}, where a folder is to be.")

    def remove_empty_folder(self, name: ObjectName) -> None:
        """Remove the marker of a folder, where nothing is below it."""
        with self._lock:
            if any(other.startswith(f"{name}/") for other in self._content()):
                raise FolderNotEmpty(f"Something is in the folder {self.url}/{name}.")
            if not self._find(name).info.is_marker:
                raise ObjectNotFound(f"{self.url}/{name} is an object, and no folder.")
            del self._content()[name]

    def interrupt(self) -> None:
        """Do nothing: no request takes time."""

    def close(self) -> None:
        """Keep the objects: there is no connection."""


class _MemoryWriting:
    token = ""  # parts are gone with their writer

    def make_ready(self) -> None:
        pass

    def token_after(self, token: str) -> str:
        return token

    def take_over(self, token: str, parts: Mapping[int, int]) -> Collection[int]:
        return ()

    def keep_part(self, index: int, length: int, token: str) -> None:
        raise NotImplementedError

    def __init__(
        self,
        store: MemoryStore,
        name: ObjectName,
        size: int,
        replaces: str | None,
        if_absent: bool,
        modified: int | None,
    ) -> None:
        self._store, self._name, self._size = store, name, size
        self._modified = None if modified is None else modified / 1e9
        self._replaces, self._if_absent = replaces, if_absent
        self._parts: dict[int, bytes] = {}

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        self._parts[index] = bytes(data)

    def commit(self, digest: bytes) -> ObjectInfo:
        content = b"".join(self._parts[index] for index in sorted(self._parts))
        if (
            len(content) != self._size
            or hashlib.md5(content, usedforsecurity=False).digest() != digest
        ):
            raise IntegrityError(f"{self._store.url}/{self._name} was not written whole.")
        with self._store._lock:  # noqa: SLF001 - one room, two classes
            current = self._store._content().get(self._name)  # noqa: SLF001
            taken = self._if_absent and current is not None
            if taken or (
                self._replaces is not None
                and (current is None or current.info.etag != self._replaces)
            ):
                raise ObjectExists(f"{self._store.url}/{self._name} was written by somebody else.")
            return self._store.put(self._name, content, digest, modified=self._modified)

    def begin_commit(self, digest: bytes) -> Later[ObjectInfo]:
        return Later(lambda: self.commit(digest))

    def abort(self, *, keep: bool = False) -> None:
        self._parts.clear()
