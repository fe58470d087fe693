"""A generation, stored aside: where nobody looks, written down as it is sent, and compared with that."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import NamedTuple

from prefect_datastores.errors import IntegrityError, ObjectNotFound
from prefect_datastores.names import ObjectName, folder_prefix, join
from prefect_datastores.staging.generations import POINTER, Pointer
from prefect_datastores.staging.lookup import Lookup
from prefect_datastores.staging.published import Standing
from prefect_datastores.staging.spool import Spool
from prefect_datastores.stores.base import (
    NO_EXTRAS,
    Extras,
    Later,
    ObjectInfo,
    ObjectStore,
    Pending,
    Writing,
    part_size,
)
from prefect_datastores.stores.decorated import (
    Ahead,
    Around,
    DecoratedStore,
    DecoratedWriting,
    Result,
    Wrapped,
)
from prefect_datastores.stores.listed import list_objects

_DELETES = 16
_DELETED_AT_ONCE = 1000


def write_pointer(
    store: ObjectStore, folder: str, pointer: Pointer, replaces: Standing | None
) -> ObjectInfo:
    """Have a folder show a generation, where `replaces` still stands there; return the pointer's object.

    Raises:
        ObjectExists: something else stands there.
    """
    name, etag = ObjectName(join(folder, POINTER)), replaces.etag if replaces else None
    return write_object(store, name, pointer.to_bytes(), replaces=etag)


def write_object(
    store: ObjectStore, name: ObjectName, content: bytes, *, replaces: str | None = None
) -> ObjectInfo:
    """Store an object from memory: over the version `replaces`, or only where nothing is.

    Raises:
        ObjectExists: something else stands there.
    """
    size = len(content)
    writing = store.begin_write(name, size, replaces=replaces, if_absent=replaces is None)
    try:
        step = part_size(store.capabilities, size)
        if size > step:
            writing.make_ready()
        for index, offset in enumerate(range(0, size, step)):
            writing.write_part(index, offset, memoryview(content)[offset : offset + step])
        return writing.commit(hashlib.md5(content, usedforsecurity=False).digest())
    except BaseException:
        writing.abort()
        raise


def remove(store: ObjectStore, folder: str) -> None:
    """Remove a generation with all that is in it."""
    if store.capabilities.has_folders:
        store.remove_folder(ObjectName(folder))
        return
    delete_all(store, (i.name for i in list_objects(store, f"{folder}/") if not i.is_marker))


def delete_all(store: ObjectStore, names: Iterable[str]) -> None:
    """Delete objects, many at once; one that is gone already is fine."""

    def delete(name: str) -> None:
        with contextlib.suppress(ObjectNotFound):
            store.delete(ObjectName(name))

    left = iter(names)
    with ThreadPoolExecutor(_DELETES, thread_name_prefix="pds-delete") as threads:
        while some := list(islice(left, _DELETED_AT_ONCE)):
            list(threads.map(delete, some))


class Sent(NamedTuple):
    """An object that was stored, as it was sent; and the version that it is then."""

    name: str
    size: int
    digest: bytes
    etag: str


def new_ledger() -> Spool[Sent]:
    """Return an empty sequence for what is sent."""
    return Spool(tuple, lambda entry: Sent(*entry))


class Staging(DecoratedStore):
    """The store, as an upload to a folder sees it whose objects go to a generation; what is sent is written down."""

    def __init__(
        self,
        inner: ObjectStore,
        folder: str,
        place: str,
        ledger: Spool[Sent],
    ) -> None:
        """Have objects of `folder` stored at `place`."""
        super().__init__(inner)
        self._place, self._ledger = place, ledger
        self._shown = len(folder_prefix(folder))

    def _around(
        self, what: str, request: Callable[[], Result], *, size: int = 0, asks: bool = True
    ) -> Result:
        return request()

    def head(self, name: ObjectName) -> ObjectInfo:
        """Find nothing."""
        raise ObjectNotFound(f"A new generation has no {name!r}.")

    def begin_write(
        self,
        name: ObjectName,
        size: int,
        *,
        replaces: str | None = None,
        if_absent: bool = False,
        extras: Extras = NO_EXTRAS,
    ) -> Writing:
        """Begin an object of the generation; nothing stands in its way."""
        staged = ObjectName(join(self._place, name[self._shown :]))
        writing = self._inner.begin_write(staged, size, if_absent=True, extras=extras)
        return _StagedWriting(writing, size, self._around, self._ahead, staged, self._ledger)


class _StagedWriting(DecoratedWriting):
    def __init__(
        self,
        inner: Writing,
        size: int,
        around: Around,
        ahead: Ahead,
        name: ObjectName,
        ledger: Spool[Sent],
    ) -> None:
        super().__init__(inner, size, around, ahead)
        self._name, self._ledger = name, ledger

    def commit(self, digest: bytes) -> ObjectInfo:
        return self._written_down(digest, lambda: self._inner.commit(digest))

    def begin_commit(self, digest: bytes) -> Pending[ObjectInfo]:
        pending = self._inner.begin_commit(digest)
        if isinstance(pending, Later):
            return Later(lambda: self.commit(digest))
        return Wrapped(pending, lambda finish: self._written_down(digest, finish))

    def _written_down(self, digest: bytes, commit: Callable[[], ObjectInfo]) -> ObjectInfo:
        info = commit()
        self._ledger.append(Sent(str(self._name), info.size, digest, info.etag))
        return info


def verify(store: ObjectStore, place: str, ledger: Spool[Sent]) -> tuple[int, int]:
    """Return the count and the bytes of what is stored, where that is all that was sent and nothing else.

    Raises:
        IntegrityError: it is not.
    """
    count = size = 0
    by_etag = not store.capabilities.lists_digest

    def counted() -> Iterator[ObjectInfo]:
        nonlocal count, size
        for info in list_objects(store, f"{place}/"):
            count, size = count + (not info.is_marker), size + info.size
            yield info

    with closing(Lookup(counted(), store.name_rules())) as there:
        for sent in ledger:
            found = there(sent.name)
            if found is None or not _is_sent(found, sent, by_etag=by_etag):
                what = "is missing" if found is None else "has another length or MD5"
                raise _wrong(store, f"{sent.name!r} {what}")
    if count != len(ledger):
        raise _wrong(store, f"{count} objects are stored, and {len(ledger)} were sent")
    return count, size


def _is_sent(found: ObjectInfo, sent: Sent, *, by_etag: bool) -> bool:
    if by_etag and found.etag != sent.etag:
        return False
    return found.size == sent.size and found.digest in {None, sent.digest}


def _wrong(store: ObjectStore, why: str) -> IntegrityError:
    return IntegrityError(
        f"Nothing was published: what is stored in {store.url} is not what was sent: {why}. Publish it again."
    )
