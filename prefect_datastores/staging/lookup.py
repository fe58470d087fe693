"""What a listing showed, found by name; on disk, so that a long listing takes no memory."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable

from prefect_datastores.names import NameRules
from prefect_datastores.stores.base import ObjectInfo


class Lookup:
    """Objects of one listing by their names; used by one thread at a time."""

    def __init__(self, listing: Iterable[ObjectInfo], rules: NameRules) -> None:
        """Take in the whole listing; markers stand for folders and are left out.

        By `rules` a name finds the object that the place takes for the same.
        """
        self._key = rules.key
        self._lock = threading.Lock()
        # A database without a name lives in memory while it is small, and in a nameless file then.
        self._rows = sqlite3.connect("", check_same_thread=False)
        self._rows.execute(
            "create table listed "
            "(key text primary key, name, size, etag, digest, modified, marker, stored_as) without rowid"
        )
        with self._rows:
            self._rows.executemany(
                "insert or replace into listed values (?, ?, ?, ?, ?, ?, ?, ?)",
                ((self._key(info.name), *info) for info in listing if not info.is_marker),
            )

    def __call__(self, name: str) -> ObjectInfo | None:
        """Return what the listing showed at a name, or None."""
        with self._lock:
            found = self._rows.execute("select * from listed where key = ?", (self._key(name),))
            row = found.fetchone()
        if row is None:
            return None
        _, name, size, etag, digest, modified, _, stored_as = row
        return ObjectInfo(name, size, etag, digest, modified, stored_as=stored_as)

    def close(self) -> None:
        """Forget all of it."""
        self._rows.close()
