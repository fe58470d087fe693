"""Files of a hierarchical namespace that get another name: by one rename, on conditions of both names.

By the page "Path - Create" of the REST reference: `x-ms-source-if-match` is of the source, `If-Match` and
`If-None-Match` of the place. A file keeps its version by a rename, and so one that was not answered is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect_datastores.errors import (
    DatastoreError,
    EndpointUnreachable,
    ObjectExists,
    ObjectNotFound,
    ServiceBusy,
    SourceChanged,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import ObjectInfo
from prefect_datastores.stores.blob import conditions_of
from prefect_datastores.stores.moving import Remembered, check_move, end_not_known

if TYPE_CHECKING:
    from prefect_datastores.stores.data_lake import DataLakeStore

_TURNS = 5  # in each of which somebody else changed what the look before found


class DataLakeMoves:
    """The moves of one store; used by many threads at once."""

    def __init__(self, store: DataLakeStore) -> None:
        """Take the store."""
        self._store = store
        self._sent = Remembered[str]()  # the ETags of files

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
        key, over = (str(name), str(to)), conditions_of(replaces, if_absent)
        turn = 0
        while True:
            turn += 1
            try:
                source = self._store.head(name)
            except ObjectNotFound:
                return self._moved_before(key)
            if turn > 1:  # which condition it was that did not hold
                where, stands = f"{self._store.url}/{to}", self._store.standing(to)
                check_move(where, source, stands, pin=pin, replaces=replaces, if_absent=if_absent)
            try:
                self._rename(key, source, {"x-ms-source-if-match": pin or source.etag, **over})
            except (SourceChanged, ObjectExists):
                if turn == _TURNS:
                    raise
            else:
                return source._replace(name=str(to))

    def _rename(self, key: tuple[str, str], source: ObjectInfo, conditions: dict[str, str]) -> None:
        name, to = map(ObjectName, key)
        try:
            self._store.rename(name, to, conditions)
        except (ServiceBusy, EndpointUnreachable):
            self._sent.keep(key, source.etag)  # it may have been done all the same
            raise
        except DatastoreError:
            self._sent.forget(key)
            raise
        self._sent.forget(key)

    def _moved_before(self, key: tuple[str, str]) -> ObjectInfo:
        """Return the file at the second name, where a call before this one moved it there.

        Raises:
            ObjectNotFound: none did.
            TransferError: it cannot be told.
        """
        name, to = key
        version, stands = self._sent.of(key), self._store.standing(ObjectName(to))
        if version is None or stands is None:
            raise ObjectNotFound(f"{self._store.url} has no file {name!r} to move.")
        self._sent.forget(key)
        if stands.etag != version:
            raise end_not_known(self._store.url, name, to)
        return stands
