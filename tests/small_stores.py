"""Stores whose parts are so short that a file of several is quickly moved, and what decorates them."""

import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect_datastores.errors import ServiceBusy
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import Later, ObjectInfo, ObjectStore, Writing
from prefect_datastores.stores.blob import BlobStore
from prefect_datastores.stores.data_lake import DataLakeStore
from prefect_datastores.stores.local import LocalStore
from prefect_datastores.stores.share import ShareStore
from prefect_datastores.workspaces import is_part

PART = 64 * 1024


class SmallBlobStore(BlobStore):
    """Blobs in short parts."""

    flat = replace(BlobStore.flat, part_size=PART)


class SmallShareStore(ShareStore):
    """Files of a share in short parts."""

    capabilities = replace(ShareStore.capabilities, part_size=PART)


class SmallDataLakeStore(DataLakeStore):
    """Files of a data lake in short parts."""

    flat = replace(DataLakeStore.flat, part_size=PART)


class SmallLocalStore(LocalStore):
    """Files in short parts."""

    capabilities = replace(LocalStore.capabilities, part_size=PART)


class Around:
    """A store that is another one; subclasses change one of its methods."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    def begin_read(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> Later[bytes | None]:
        return Later(lambda: self.read_into(name, offset, buffer, pin=pin))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class AroundWriting:
    """A writing that is another one."""

    def __init__(self, inner: Writing) -> None:
        self.inner = inner

    @property
    def token(self) -> str:
        return self.inner.token

    def make_ready(self) -> None:
        self.inner.make_ready()

    def token_after(self, token: str) -> str:
        return self.inner.token_after(token)

    def take_over(self, token: str, parts: Mapping[int, int]) -> Collection[int]:
        return self.inner.take_over(token, parts)

    def keep_part(self, index: int, length: int, token: str) -> None:
        self.inner.keep_part(index, length, token)

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        self.inner.write_part(index, offset, data)

    def commit(self, digest: bytes) -> ObjectInfo:
        return self.inner.commit(digest)

    def begin_commit(self, digest: bytes) -> Later[ObjectInfo]:
        return Later(lambda: self.commit(digest))

    def abort(self, *, keep: bool = False) -> None:
        self.inner.abort(keep=keep)


class Breaking(Around):
    """Counts the parts that are read and written, and breaks after some."""

    def __init__(self, inner: ObjectStore, most: int | None = None) -> None:
        super().__init__(inner)
        self.most, self.begun, self.read, self.wrote = most, 0, 0, 0
        self.lock = threading.Lock()

    def count(self) -> None:
        with self.lock:
            if self.begun == self.most:
                raise ServiceBusy("It broke.")
            self.begun += 1

    def read_into(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> None:
        self.count()
        self.inner.read_into(name, offset, buffer, pin=pin)
        with self.lock:
            self.read += 1

    def begin_write(self, name: ObjectName, size: int, **conditions: object) -> Writing:
        return BreakingWriting(self.inner.begin_write(name, size, **conditions), self)  # type: ignore[arg-type]


class BreakingWriting(AroundWriting):
    def __init__(self, inner: Writing, store: Breaking) -> None:
        super().__init__(inner)
        self.store = store

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        self.store.count()
        self.inner.write_part(index, offset, data)
        with self.store.lock:
            self.store.wrote += 1


def make_tree(root: Path, content: dict[str, bytes]) -> Path:
    """Make files below `root`."""
    for name, data in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def tree(root: Path) -> dict[str, bytes | str]:
    """Everything below a folder but folders: files by content, links by target, the rest by kind.

    What transfers keep for themselves is left out.
    """
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if any(map(is_part, path.relative_to(root).parts)):
            continue
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = path.read_bytes()
        elif not path.is_dir():
            found[name] = "special"
    return found


def folders(root: Path) -> list[str]:
    """Every folder below a folder."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_dir())
