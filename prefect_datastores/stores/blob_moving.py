"""Blobs that get another name: copied by the service, and then deleted under the old one.

By the pages "Copy Blob", "Get Blob Properties" and "Abort Copy Blob" of the REST reference. A copy takes
content, block list, MD5, content headers and metadata along (not the tags of an index). The source
is read by the account's key or the identity that signs, or by the SAS in its address, of 2 KiB at most.

A copy within an account is done with its answer, as a rule. The service may leave it `pending`
though; until it is done, an empty blob stands at the place. Then it is waited for, and the source stays.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote, urlsplit

from prefect_datastores.errors import (
    DatastoreError,
    EndpointUnreachable,
    ObjectExists,
    ObjectNotFound,
    ServiceBusy,
    SourceChanged,
    TransferError,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.azure import AzureService
from prefect_datastores.stores.base import ObjectInfo
from prefect_datastores.stores.listing import digest_of, time_of
from prefect_datastores.stores.moving import Remembered, check_move, end_not_known

if TYPE_CHECKING:
    from prefect_datastores.stores.blob import BlobStore

_MAY_BE_DONE = (ServiceBusy, EndpointUnreachable)
_CHANGED = (SourceChanged, ObjectExists, ObjectNotFound)
_TURNS = 5  # in each of which somebody else changed what the look before found
_SECONDS = 900.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_STATUS, _ID = "x-ms-copy-status", "x-ms-copy-id"


@dataclass(frozen=True)
class _Begun:
    """A copy that was asked for: of which version, over what, and what came of it as far as is known."""

    source: str
    before: str
    copy_id: str = ""
    copied: ObjectInfo | None = None


class BlobMoves:
    """The moves of one store; used by many threads at once."""

    def __init__(
        self,
        store: BlobStore,
        service: AzureService,
        *,
        seconds: float = _SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the store; a copy that is `pending` for longer than `seconds` is given up."""
        self._store, self._service = store, service
        self._seconds, self._sleep, self._clock = seconds, sleep, clock
        self._begun = Remembered[_Begun]()

    def move(
        self,
        name: ObjectName,
        to: ObjectName,
        conditions: Mapping[str, str],
        *,
        pin: str | None,
        replaces: str | None,
        if_absent: bool,
    ) -> ObjectInfo:
        """Do what `ObjectStore.move` says; `conditions` are those of a commit at `to`.

        What is copied is one version, and no other one is deleted: where somebody wrote to `name`
        meanwhile, that version stays there, as if it had been written after the move.
        """
        key, where, turn = (str(name), str(to)), f"{self._store.url}/{to}", 0
        while True:
            turn += 1
            try:
                source = self._source(name)
            except ObjectNotFound:
                return self._moved_before(key)
            told, stands = self._standing(to)
            begun = self._begun.of(key)
            if begun is not None and self._is_copy(told, begun, source):
                check_move(where, source, None, pin=pin, replaces=None, if_absent=False)
            else:
                check_move(where, source, stands, pin=pin, replaces=replaces, if_absent=if_absent)
                begun = _Begun(source.etag, stands.etag if stands else "")
                try:
                    told = self._copy(key, begun, conditions)
                except _CHANGED:  # the next look tells which of both it was
                    if turn == _TURNS:
                        raise
                    continue
            return self._completed(key, replace(begun, copy_id=told.get(_ID, "")), source, told)

    def _completed(
        self, key: tuple[str, str], begun: _Begun, source: ObjectInfo, told: Mapping[str, str]
    ) -> ObjectInfo:
        """Wait for the end of a copy, and delete its source."""
        self._begun.keep(key, begun)
        copied = self._finished(key, begun, source, told)
        self._begun.keep(key, replace(begun, copied=copied))
        with contextlib.suppress(SourceChanged, ObjectNotFound):
            self._store.delete(ObjectName(key[0]), pin=source.etag)
        self._begun.forget(key)
        return copied

    def _source(self, name: ObjectName) -> ObjectInfo:
        source = self._store.head(name)
        if source.is_marker:
            raise ObjectNotFound(f"{self._store.url}/{name} is a folder, and no object.")
        return source

    def _moved_before(self, key: tuple[str, str]) -> ObjectInfo:
        """Return the blob at the second name, where a call before this one moved it there.

        Raises:
            ObjectNotFound: none did.
            TransferError: it cannot be told.
        """
        name, to = key
        begun, stands = self._begun.of(key), self._standing(ObjectName(to))[1]
        if begun is None or begun.copied is None or stands is None:
            raise ObjectNotFound(f"{self._store.url} has no blob {name!r} to move.")
        self._begun.forget(key)
        if stands.etag != begun.copied.etag:
            raise end_not_known(self._store.url, name, to)
        return begun.copied

    def _standing(self, to: ObjectName) -> tuple[Mapping[str, str], ObjectInfo | None]:
        try:
            headers = self._service.request("HEAD", to).headers
        except ObjectNotFound:
            return {}, None
        return headers, self._store.info_of(to, headers)

    def _is_copy(self, told: Mapping[str, str], begun: _Begun, source: ObjectInfo) -> bool:
        """Tell whether what stands at a place is the copy that a call before this one asked for.

        Where its answer was lost, its id is not known: then it is another version than stood there
        before, that was copied from this source, and has its length and MD5. Whoever did that, the
        place has the whole of it. What is told of a copy is gone once the blob is written to ("Get Blob
        Properties"); Azurite keeps it over Put Block List.
        """
        given = urlsplit(told.get("x-ms-copy-source", "")).path
        ours = urlsplit(self._service.signed_url(source.name)).path
        return (
            begun.source == source.etag
            and told.get("etag", "") not in {"", begun.before}
            and (told.get(_STATUS) == "pending" or self._is_alike(told, source))
            and begun.copy_id in {"", told.get(_ID, "")}
            and unquote(given) == unquote(ours)
        )

    @staticmethod
    def _is_alike(told: Mapping[str, str], source: ObjectInfo) -> bool:
        digest = digest_of(told.get("content-md5", ""))
        stands = (told.get(_STATUS), told.get("content-length"), digest)
        is_same = stands == ("success", str(source.size), source.digest)
        written = told.get("last-modified") != told.get("x-ms-copy-completion-time")
        return is_same and not (digest is None and written)

    def _copy(
        self, key: tuple[str, str], begun: _Begun, conditions: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Have the service copy; return what it told."""
        name, to = key
        headers = {
            "x-ms-copy-source": self._service.signed_url(name),
            "x-ms-source-if-match": begun.source,
            **conditions,
        }
        try:
            return self._service.request("PUT", to, (), headers).headers
        except _MAY_BE_DONE:
            self._begun.keep(key, begun)
            raise

    def _finished(
        self, key: tuple[str, str], begun: _Begun, source: ObjectInfo, told: Mapping[str, str]
    ) -> ObjectInfo:
        """Return what stands at the place once the copy is done.

        Raises:
            TransferError: the service gave the copy up, or took too long.
        """
        to, end, pause = ObjectName(key[1]), self._clock() + self._seconds, _FIRST_PAUSE
        while told.get(_STATUS) == "pending" and told.get(_ID) == begun.copy_id:
            if self._clock() >= end:
                self._give_up(key, begun, "it takes too long")
            self._sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            told, _ = self._standing(to)
        if told.get(_ID) != begun.copy_id or not begun.copy_id:
            self._give_up(key, begun, "somebody else wrote there meanwhile")
        if told.get(_STATUS) != "success":
            why = told.get("x-ms-copy-status-description") or told.get(_STATUS)
            self._give_up(key, begun, why or "it does not tell why")
        return source._replace(
            name=str(to),
            etag=told.get("etag", ""),
            modified=time_of(told.get("last-modified", "")) or time.time(),
        )

    def _give_up(self, key: tuple[str, str], begun: _Begun, why: str) -> NoReturn:
        """End a copy that comes to nothing, and remove what is left of it where nothing was before."""
        name, to = key
        self._begun.forget(key)
        if begun.copy_id:
            abort = (("comp", "copy"), ("copyid", begun.copy_id))
            with contextlib.suppress(DatastoreError):  # as a rule it has ended
                self._service.request("PUT", to, abort, {"x-ms-copy-action": "abort"})
        with contextlib.suppress(DatastoreError):
            told, stands = self._standing(ObjectName(to))
            is_left = stands is not None and not stands.size and told.get(_ID) == begun.copy_id
            if is_left and not begun.before:
                self._service.request("DELETE", to, headers={"If-Match": told["etag"]})
        raise TransferError(
            f"{self._store.url}/{name} could not be moved to {to!r}: the service did not copy it ({why}). It is where "
            "it was; what is at the other name may be empty now. Move it again."
        )
