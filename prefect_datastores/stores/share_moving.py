"""Files of a share that get another name: by one rename, with id, times, attributes, permission and metadata.

By the page "Rename File" of the REST reference, whose one condition is that nothing stands at the place
(`x-ms-file-rename-replace-if-exists: false`). So versions are compared before, under locks of this
process, as a commit does: of two processes, one may replace what the other has just put there, or move
what it has just written.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from prefect_datastores.errors import (
    DatastoreError,
    EndpointUnreachable,
    FolderMissing,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    ServiceBusy,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import ObjectInfo
from prefect_datastores.stores.moving import (
    Remembered,
    both,
    check_move,
    end_not_known,
    stays_in_place,
)
from prefect_datastores.stores.share_writing import noted_again

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prefect_datastores.stores.share import ShareStore

_FILE_ID = "x-ms-file-id"


class ShareMoves:
    """The moves of one store; used by many threads at once."""

    def __init__(self, store: ShareStore) -> None:
        """Take the store."""
        self._store = store
        self._sent = Remembered[str]()  # the ids of files, which they keep

    def move(
        self,
        name: ObjectName,
        to: ObjectName,
        *,
        pin: str | None,
        replaces: str | None,
        if_absent: bool,
    ) -> ObjectInfo:
        """Do what `ObjectStore.move` says."""
        store, key = self._store, (str(name), str(to))
        stays = stays_in_place(name, to, store.name_rules())
        with both(store.changing(name), store.changing(to)):
            try:
                told = store.stat(name)
            except ObjectNotFound:
                return self._moved_before(key)
            source = store.info_of(name, told, told.get("content-length", ""))
            stands = source if stays else None
            if not stays and (replaces is not None or if_absent):
                stands = self._standing(to)
            where = f"{store.url}/{to}"
            check_move(where, source, stands, pin=pin, replaces=replaces, if_absent=if_absent)
            if stays:
                return source
            told = self._rename(key, told, replace=not if_absent)
        return store.info_of(to, told, str(source.size), source.digest)

    def _standing(self, to: ObjectName) -> ObjectInfo | None:
        try:
            return self._store.head(to)
        except ObjectNotFound:
            return None

    def _rename(
        self, key: tuple[str, str], told: Mapping[str, str], *, replace: bool
    ) -> Mapping[str, str]:
        """Rename a file, of which that was `told`; return what is told of it then."""
        name, to = key
        try:
            given = noted_again(told)
            answer = self._store.rename(name, to, replace=replace, given=given)
        except (ServiceBusy, EndpointUnreachable):
            self._sent.keep(key, told.get(_FILE_ID, ""))  # it may have been done all the same
            raise
        except DatastoreError as error:
            self._sent.forget(key)
            if isinstance(error, FolderMissing):
                self._store.refuse_file_above(to)
            if isinstance(error, ObjectExists) and (replace or self._store.is_folder(to)):
                # Only a file is ever replaced.
                raise PlaceTaken(f"A folder stands at {self._store.url}/{to}.") from None
            raise
        self._sent.forget(key)
        return answer.headers

    def _moved_before(self, key: tuple[str, str]) -> ObjectInfo:
        """Return the file at the second name, where a call before this one moved it there.

        Raises:
            ObjectNotFound: none did.
            TransferError: it cannot be told.
        """
        name, to = key
        file_id, there = self._sent.of(key), None
        with contextlib.suppress(ObjectNotFound):
            there = self._store.stat(to) if file_id is not None else None
        if there is None:
            raise ObjectNotFound(f"{self._store.url} has no file {name!r} to move.")
        self._sent.forget(key)
        if not file_id or there.get(_FILE_ID) != file_id:
            raise end_not_known(self._store.url, name, to)
        return self._store.info_of(ObjectName(to), there, there.get("content-length", ""))
