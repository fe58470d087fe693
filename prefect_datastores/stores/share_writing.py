"""Files of a share while they are written: in the hidden folder, until a rename gives them their name."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefect_datastores.errors import (
    DatastoreError,
    FolderMissing,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    PartLost,
    ServiceBusy,
    TransferError,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import NO_EXTRAS, Extras, Later, ObjectInfo
from prefect_datastores.stores.share_properties import CHANGED, WRITTEN, moment_text, same_headers

if TYPE_CHECKING:
    from prefect_datastores.stores.share import ShareStore

_NOTED = "x-ms-meta-pds_md5_written"
_NOTED_CHANGE = "x-ms-meta-pds_md5_changed"
_FIRST_ROOM = 64 * 2**20
_MOST_ROOM = 2**30  # what is never written of a file costs nothing, but a share has a quota


class ShareWriting:
    """A file in the hidden folder, until it gets its name."""

    token = ""

    def __init__(
        self,
        store: ShareStore,
        name: ObjectName,
        size: int,
        replaces: str | None,
        if_absent: bool,
        extras: Extras = NO_EXTRAS,
    ) -> None:
        self._extras = extras
        self._store, self._name, self._size = store, name, size
        self._replaces, self._if_absent = replaces, if_absent
        self._file: tuple[str, str] | None = None
        self._making = threading.Lock()
        self._written: dict[int, int] = {}
        self._is_described = self._renamed = False
        self._last_write = ""

    def kept_parts(self) -> Mapping[tuple[str, int], int]:
        """Return none: a range that was written is not told from one that was begun."""
        return {}

    def keep_part(self, index: int, length: int, token: str) -> None:
        """Refuse: there are no kept parts."""
        raise NotImplementedError

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        """Store one part; the only one makes the file."""
        if len(data) == self._size:
            self._make(data, hashlib.md5(data, usedforsecurity=False).digest())
        else:
            self._store.write_range(self._make()[0], offset, data)
        self._written[index] = len(data)

    def _make(
        self, content: memoryview | None = None, digest: bytes | None = None
    ) -> tuple[str, str]:
        """Return the name and id of the file, which the first part makes; with all its content, if that is one."""
        with self._making:
            if self._file is None or content is not None:
                name, told = self._store.new_file(self._size, content, described(digest))
                self._file = name, told.get("x-ms-file-id", "")
                self._last_write = told.get(WRITTEN, "") if digest else ""
                self._is_described = digest is not None
            return self._file

    def commit(self, digest: bytes) -> ObjectInfo:
        """Give the file its name."""
        if sum(self._written.values()) != self._size:
            raise IntegrityError(f"{self._store.url}/{self._name} was not written whole.")
        file, file_id = self._make(digest=None if self._size else digest)
        if not self._is_described:
            told = self._store.describe(file, described(digest))
            self._last_write, self._is_described = told.get(WRITTEN, ""), True
        return self._publish(file, file_id, digest)

    def _publish(self, file: str, file_id: str, digest: bytes | None) -> ObjectInfo:
        with self._store.changing(self._name):
            if self._replaces is not None:
                self._expect(self._replaces)
            told = self._rename(file, file_id)
        return self._store.info_of(self._name, told, str(self._size), digest)

    def _rename(self, file: str, file_id: str) -> Mapping[str, str]:
        replace, given = self._given()
        before, self._renamed = self._renamed, True
        try:
            return self._store.rename(file, self._name, replace=replace, given=given).headers
        except (ObjectNotFound, ObjectExists, TransferError) as error:
            if isinstance(error, ServiceBusy):
                raise
            # One that was given a mark of being read-only is not replaced by itself.
            ours = self._standing(file_id) if before else None
            if ours is not None:
                return ours  # the try before was done, and its answer lost
            if isinstance(error, (ObjectExists, FolderMissing, TransferError)):
                raise
            raise PartLost(
                f"{self._store.url}/{self._name}: the unfinished file was taken away."
            ) from None

    def _given(self) -> tuple[bool, Mapping[str, str]]:
        """Return whether a file may be replaced, and what this one is given when it gets its name.

        Of the requests that come after the last write, the rename is the one that takes metadata.
        """
        replace, given, extras = not self._if_absent, dict[str, str](), self._extras
        if extras.properties is not None:
            given = self._store.headers_for(extras.properties)
        elif extras.keeps_properties and replace:
            try:
                given = same_headers(self._store.stat(self._name))
            except ObjectNotFound:  # what comes between has properties that nobody looked at
                replace = False
        if extras.modified is None:
            return replace, given | ({_NOTED: self._last_write} if self._last_write else {})
        given[WRITTEN] = moment_text(extras.modified)
        if self._last_write:
            # Whoever gives times can give this one to other content; nobody gives a time of change.
            given[CHANGED] = moment_text(time.time_ns())
            given |= {_NOTED: given[WRITTEN], _NOTED_CHANGE: given[CHANGED]}
        return replace, given

    def _standing(self, file_id: str) -> Mapping[str, str] | None:
        """Return what is told of the file at the name, where it is this one."""
        with contextlib.suppress(ObjectNotFound):
            headers = self._store.service.request("HEAD", self._name).headers
            if file_id and headers.get("x-ms-file-id") == file_id:
                return headers
        return None

    def begin_commit(self, digest: bytes) -> Later[ObjectInfo]:
        """Give the file its name when that is wanted."""
        return Later(lambda: self.commit(digest))

    def _expect(self, etag: str) -> None:
        try:
            stands = self._store.head(self._name).etag
        except ObjectNotFound:
            stands = ""
        if stands != etag:
            raise ObjectExists(
                f"{self._store.url}/{self._name} was written by somebody else meanwhile; it was left as it is."
            )

    def abort(self) -> None:
        """Delete what there is of the file."""
        if self._file is not None:
            with contextlib.suppress(DatastoreError):
                self._store.delete_unfinished(self._file[0])


class GrowingWriting(ShareWriting):
    """A file whose length shows at its end; it may begin as a copy of another."""

    def __init__(
        self,
        store: ShareStore,
        name: ObjectName,
        *,
        replaces: str | None = None,
        if_absent: bool = False,
    ) -> None:
        super().__init__(store, name, 0, replaces, if_absent)
        self._room = 0

    def begin_as(self, source: str, size: int) -> None:
        """Begin with all of another file of the account, by its signed address; the service copies."""
        self._file = (self._store.unfinished.new_name(), "")
        self._file = (self._file[0], self._store.copy(source, self._file[0]))
        self._room = self._written[-1] = size
        self._is_described = True

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        """Store one part, and make the file longer where it needs to be."""
        self._store.write_range(self._with_room(offset + len(data)), offset, data)
        self._written[index] = len(data)
        self._is_described = False

    def _with_room(self, end: int) -> str:
        """Return the name of the file, which is long enough for a part that ends there."""
        with self._making:
            if self._file is None:
                room = max(end, _FIRST_ROOM)
                name, told = self._store.new_file(room, None, described(None))
                self._file = name, told.get("x-ms-file-id", "")
                self._room = room
            elif end > self._room:
                room = max(end, self._room + min(self._room, _MOST_ROOM))
                self._store.describe(self._file[0], {"x-ms-content-length": str(room)})
                self._room = room
            return self._file[0]

    def commit(self, digest: bytes | None = None) -> ObjectInfo:
        """Make the whole visible; with no digest, one that came along with a copy is kept."""
        self._size = sum(self._written.values())
        file, file_id = self._make()
        if not self._is_described:
            length = {"x-ms-content-length": str(self._size)}
            told = self._store.describe(file, {**described(digest), **length})
            self._last_write = told.get(WRITTEN, "") if digest else ""
            self._room, self._is_described = self._size, True
        return self._publish(file, file_id, digest)


def described(digest: bytes | None) -> dict[str, str]:
    """Return what a file says of itself; a request that names one of these sets all of them."""
    headers = {"x-ms-content-type": "application/octet-stream"}
    return headers if digest is None else {**headers, "x-ms-content-md5": md5_text(digest)}


def digest_of_now(
    headers: Mapping[str, str], digest: bytes | None, *, of_others: bool
) -> bytes | None:
    """Return the MD5 that a file tells, unless it was written to since that was stored.

    The service keeps an MD5 whatever is written to the file later. So it is noted when that was
    written of which it is; where nothing is noted, another client stored it, and nobody knows.
    """
    if _NOTED not in headers:
        return digest if of_others else None
    is_of_now = headers[_NOTED] == headers.get(WRITTEN) and (
        headers.get(_NOTED_CHANGE, headers.get(CHANGED)) == headers.get(CHANGED)
    )
    return digest if is_of_now else None


def md5_text(digest: bytes) -> str:
    """Return a digest as headers have it."""
    return base64.b64encode(digest).decode()
