"""Files of a share while they are written: in the hidden folder, until a rename gives them their name."""

from __future__ import annotations

import base64
import contextlib
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from prefect_datastores.errors import (
    AccessError,
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
from prefect_datastores.stores.base import (
    NO_EXTRAS,
    Extras,
    Later,
    ObjectInfo,
    Pending,
    part_size,
)
from prefect_datastores.stores.decorated import Result
from prefect_datastores.stores.share_properties import CHANGED, WRITTEN, moment_text, same_headers
from prefect_datastores.stores.steps import Steps, Stepwise
from prefect_datastores.stores.unfinished import UNFINISHED

if TYPE_CHECKING:
    from prefect_datastores.stores.share import ShareStore

_NOTED = "x-ms-meta-pds_md5_written"
_NOTED_CHANGE = "x-ms-meta-pds_md5_changed"
_TOKEN = re.compile(r"([0-9a-f]{24})\.([0-9A-Za-z-]+)")  # a name in the hidden folder, and an id
_FIRST_ROOM = 64 * 2**20
_MOST_ROOM = 2**30  # what is never written of a file costs nothing, but a share has a quota


class ShareWriting:
    """A file in the hidden folder, until it gets its name.

    It outlives its process, and is taken over by a rename to another hidden name, which one alone
    can do. From then on whatever the writer before still asks for finds nothing, and nothing that
    was written down of the old name counts. An id tells it from any other file of that name.
    """

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
        self._to_be = store.unfinished.new_name()  # of one that is taken over
        self._begun: frozenset[int] = frozenset()
        self._only_part: memoryview | None = None
        self._making = threading.Lock()
        self._written: dict[int, int] = {}
        self._is_described = self._renamed = False
        self._last_write = ""

    @property
    def token(self) -> str:
        """The name and id of the hidden file; "" before it is made, and where no id was told."""
        return _token(*self._file) if self._file is not None else ""

    def make_ready(self) -> None:
        """Make the file."""
        self._make()

    def token_after(self, token: str) -> str:
        """Return the name that the file gets here, and its id."""
        found = _TOKEN.fullmatch(token)
        return _token(self._to_be, found[2]) if found else ""

    def take_over(self, token: str, parts: Mapping[int, int]) -> Collection[int]:
        """Go on with the hidden file of an earlier writing: with all that it is said to have, or none of it."""
        found = _TOKEN.fullmatch(token)
        if found is None:
            return ()
        name, file_id = f"{UNFINISHED}/{found[1]}", found[2]
        if self._file is not None:
            self._store.delete_unfinished(name)
            return ()
        if not self._is_taken(name, file_id):
            return ()
        if not self._holds(parts):
            self._store.delete_unfinished(self._to_be)
            return ()
        self._file, self._begun = (self._to_be, file_id), frozenset(parts)
        return self._begun

    def _is_taken(self, name: str, file_id: str) -> bool:
        """Give the file of an earlier writing another name; tell whether it is there, and that file."""
        try:
            told = self._store.rename(name, self._to_be).headers
        except (ObjectNotFound, ObjectExists):  # or a try before was done, and its answer lost
            return self._standing(self._to_be, file_id) is not None
        except ServiceBusy:
            raise
        except TransferError:  # leased, or held open by an SMB client
            return False
        if told.get("x-ms-file-id") != file_id:
            self._store.delete_unfinished(self._to_be)
            return False
        return True

    def _holds(self, parts: Mapping[int, int]) -> bool:
        """Tell whether the file has its length, and each of the parts was written."""
        step = part_size(self._store.capabilities, self._size)
        try:
            length, ranges = self._store.written_ranges(self._to_be)
        except AccessError:  # one that may only write cannot tell
            return False
        except ObjectNotFound:  # another took it over in its turn
            return False
        spans = [(index * step, index * step + parts[index]) for index in parts]
        return length == self._size and all(
            any(start <= first and last <= end for start, end in ranges) for first, last in spans
        )

    def keep_part(self, index: int, length: int, token: str) -> None:
        """Take a kept part for part `index`."""
        self._written[index] = length

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        """Store one part; the only one is sent with the commit.

        Raises:
            PartLost: it would be written over one of an earlier writing that had another content.
        """
        if index in self._begun:
            # A journal says what is there now: it would be wrong, if this one were killed.
            raise PartLost(
                f"{self._store.url}/{self._name} was begun with another content; it is begun anew."
            )
        if len(data) == self._size and self._file is None:
            self._only_part = data
        else:
            file = self._make()[0]
            self._on_hidden(lambda: self._store.write_range(file, offset, data))
        self._written[index] = len(data)

    def _on_hidden(self, request: Callable[[], Result]) -> Result:
        """Make a request about the hidden file.

        Raises:
            PartLost: another took it over, or removed it.
        """
        try:
            return request()
        except ObjectNotFound:
            raise self._lost() from None

    def _lost(self) -> PartLost:
        return PartLost(f"{self._store.url}/{self._name}: the unfinished file was taken away.")

    def _make(self) -> tuple[str, str]:
        """Return the name and id of the file, which the first part makes."""
        with self._making:
            if self._file is None:
                name, answer = self._store.new_file(self._size, described(None))
                self._file = name, answer.headers.get("x-ms-file-id", "")
            return self._file

    def commit(self, digest: bytes) -> ObjectInfo:
        """Give the file its name."""
        self._store.carry_out(self._completing(digest))
        return self._publish(digest)

    def begin_commit(self, digest: bytes) -> Pending[ObjectInfo]:
        """Begin to give the file its name; what stands there is looked at right before, and so not ahead."""
        if self._replaces is not None or self._extras.keeps_properties:
            return Later(lambda: self.commit(digest))
        return Stepwise(self._store.service, self._committing(digest), ahead=True)

    def _committing(self, digest: bytes) -> Steps[ObjectInfo]:
        yield from self._completing(digest)
        return (yield from self._publishing(digest))

    def _completing(self, digest: bytes) -> Steps[None]:
        """Bring the file into the state in which it is to be seen."""
        if sum(self._written.values()) != self._size:
            raise IntegrityError(f"{self._store.url}/{self._name} was not written whole.")
        if self._is_described:
            return
        if self._file is None:
            name, answer = yield from self._store.making(
                self._size, described(digest), self._only_part
            )
            self._file = name, answer.headers.get("x-ms-file-id", "")
        else:
            try:
                answer = yield self._store.describing(self._file[0], described(digest))
            except ObjectNotFound:
                raise self._lost() from None
        self._last_write, self._is_described = answer.headers.get(WRITTEN, ""), True

    def _publish(self, digest: bytes | None) -> ObjectInfo:
        with self._store.changing(self._name):
            return self._store.carry_out(self._publishing(digest))

    def _publishing(self, digest: bytes | None) -> Steps[ObjectInfo]:
        if self._replaces is not None:
            self._expect(self._replaces)
        assert self._file is not None
        told = yield from self._renaming(*self._file)
        return self._store.info_of(self._name, told, str(self._size), digest)

    def _renaming(self, file: str, file_id: str) -> Steps[Mapping[str, str]]:
        replace, given = self._given()
        before, self._renamed = self._renamed, True
        try:
            answer = yield from self._store.renaming(file, self._name, replace=replace, given=given)
        except (ObjectNotFound, ObjectExists, TransferError) as error:
            if isinstance(error, ServiceBusy):
                raise
            # One that was given a mark of being read-only is not replaced by itself.
            ours = self._standing(self._name, file_id) if before else None
            if ours is not None:
                return ours  # the try before was done, and its answer lost
            if isinstance(error, (ObjectExists, FolderMissing, TransferError)):
                raise
            raise self._lost() from None
        return answer.headers

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

    def _standing(self, name: str, file_id: str) -> Mapping[str, str] | None:
        """Return what is told of the file at a name, where it is this one."""
        with contextlib.suppress(ObjectNotFound):
            headers = self._store.service.request("HEAD", name).headers
            if file_id and headers.get("x-ms-file-id") == file_id:
                return headers
        return None

    def _expect(self, etag: str) -> None:
        try:
            stands = self._store.head(self._name).etag
        except ObjectNotFound:
            stands = ""
        if stands != etag:
            raise ObjectExists(
                f"{self._store.url}/{self._name} was written by somebody else meanwhile; it was left as it is."
            )

    def abort(self, *, keep: bool = False) -> None:
        """Delete what there is of the file, unless the next writing goes on with it."""
        self._only_part = None
        if self._file is not None and not keep:
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
                name, answer = self._store.new_file(room, described(None))
                self._file = name, answer.headers.get("x-ms-file-id", "")
                self._room = room
            elif end > self._room:
                room = max(end, self._room + min(self._room, _MOST_ROOM))
                self._store.describe(self._file[0], {"x-ms-content-length": str(room)})
                self._room = room
            return self._file[0]

    def commit(self, digest: bytes | None = None) -> ObjectInfo:
        """Make the whole visible; with no digest, one that came along with a copy is kept."""
        self._size = sum(self._written.values())
        file, _ = self._make()
        if not self._is_described:
            length = {"x-ms-content-length": str(self._size)}
            told = self._store.describe(file, {**described(digest), **length})
            self._last_write = told.get(WRITTEN, "") if digest else ""
            self._room, self._is_described = self._size, True
        return self._publish(digest)


def _token(name: str, file_id: str) -> str:
    return f"{name.rpartition('/')[2]}.{file_id}" if file_id else ""


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


def noted_again(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what a rename has to give a file so that its MD5 is believed after it.

    A rename is a change, so one whose change is noted gets a note of this one, with all its metadata:
    what a rename has of that takes the place of all that there was.
    """
    if _NOTED_CHANGE not in headers or digest_of_now(headers, b"?", of_others=False) is None:
        return {}
    changed = moment_text(time.time_ns())
    kept = {name: text for name, text in headers.items() if name.startswith("x-ms-meta-")}
    return {**kept, CHANGED: changed, _NOTED_CHANGE: changed}


def md5_text(digest: bytes) -> str:
    """Return a digest as headers have it."""
    return base64.b64encode(digest).decode()
