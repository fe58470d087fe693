"""The hidden folder in which a service that renames holds what is not finished; what was left in it is removed."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterable

from prefect_datastores.errors import DatastoreError
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import ObjectInfo

UNFINISHED = ".pds-unfinished"
SWEPT_AT_ONCE = 500
_LEFT_SECONDS = 7 * 86_400.0  # as long as the service keeps blocks of a blob that are not committed


class Unfinished:
    """The folder of one store; used by many threads."""

    def __init__(
        self, listed: Callable[[], Iterable[ObjectInfo]], delete: Callable[[str], None]
    ) -> None:
        """Take what lists the folder, and what deletes a file of it."""
        self._listed, self._delete = listed, delete
        self._sweeping, self._is_swept = threading.Lock(), False

    def new_name(self) -> ObjectName:
        """Return a name in the folder that nobody has."""
        return ObjectName(f"{UNFINISHED}/{secrets.token_hex(12)}")

    def sweep(self) -> None:
        """Remove, once, what killed uploads left, so that it does not fill the place."""
        with self._sweeping:
            if self._is_swept:
                return
            self._is_swept = True
        with contextlib.suppress(DatastoreError):  # one that may only write cannot look
            for info in self._listed():
                if info.modified is not None and info.modified < time.time() - _LEFT_SECONDS:
                    self._delete(info.name)
