"""Files of a data lake, as they are written: as blobs, but over what the DFS endpoint wrote.

The Blob endpoint stages no parts for such a file (of Spark, say, or azcopy). So the new one is
written under another name, and takes its place by a rename, which keeps the conditions. A file that
is to have the access control of another gets it there, before anybody sees it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefect_datastores.errors import (
    DatastoreError,
    ObjectExists,
    ObjectNotFound,
    PartsRefused,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import Later, ObjectInfo, Pending
from prefect_datastores.stores.blob import BlobWriting

if TYPE_CHECKING:
    from prefect_datastores.stores.azure import AzureService
    from prefect_datastores.stores.data_lake import DataLakeStore


class DataLakeWriting(BlobWriting):
    """One file; it steps aside when its parts are refused where it is to be."""

    def __init__(
        self,
        store: DataLakeStore,
        service: AzureService,
        name: ObjectName,
        size: int,
        conditions: Mapping[str, str],
    ) -> None:
        """Begin to write at the file's own name."""
        super().__init__(service, name, size, conditions)
        self._store = store
        self._stepping = threading.Lock()
        self._target: ObjectName | None = None
        self._over: Mapping[str, str] = {}
        self._aside: ObjectInfo | None = None
        self._access: Mapping[str, str] | None = None
        self._keeps_access = self._has_access = False

    def give_access(self, access: Mapping[str, str], *, is_kept: bool) -> None:
        """Have the file appear with an access control; it `is_kept` where it is that of what is replaced.

        So it is written aside, because at its own name it would be seen before it has that.
        """
        self._access, self._keeps_access = access, is_kept
        self._step_aside()

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        """Stage one part."""
        try:
            super().write_part(index, offset, data)
        except PartsRefused:
            self._step_aside()
            super().write_part(index, offset, data)

    def _step_aside(self) -> None:
        """Write under another name from now on; parts that are staged already are ones of nobody."""
        with self._stepping:
            if self._target is None:
                self._over, self._conditions = self._conditions, {}
                self._target, self._name = self._name, self._store.name_aside()

    def commit(self, digest: bytes) -> ObjectInfo:
        """Make the whole visible; one that was not answered may be asked for again."""
        if self._target is None:
            return super().commit(digest)
        if self._aside is None:
            self._aside = self._committed_aside(digest)
        if self._access is not None and not self._has_access:
            self._store.give_access(self._name, self._access_now())
            self._has_access = True
        return self._store.put_in_place(self._aside, self._target, self._over)

    def _access_now(self) -> Mapping[str, str]:
        """Return the access control to give: of what is replaced, as it is by now."""
        assert self._access is not None
        assert self._target is not None
        now = self._store.access_of(self._target) if self._keeps_access else None
        return now or self._access

    def _committed_aside(self, digest: bytes) -> ObjectInfo:
        try:
            return super().commit(digest)
        except ObjectExists:  # nobody else knows the name: a try before this one did it
            with contextlib.suppress(ObjectNotFound):  # or parts were sent before it stepped aside
                info = self._store.head(self._name)
                if (info.size, info.digest) == (self._size, digest):
                    return info
            raise

    def begin_commit(self, digest: bytes) -> Pending[ObjectInfo]:
        """Ask for the commit."""
        if self._target is None:
            return super().begin_commit(digest)
        return Later(lambda: self.commit(digest))

    def abort(self, *, keep: bool = False) -> None:
        """Leave nothing behind but what is staged."""
        super().abort(keep=keep)
        if self._aside is not None:
            with contextlib.suppress(DatastoreError):  # after the rename nothing is there
                self._store.delete(ObjectName(self._aside.name), pin=self._aside.etag)
