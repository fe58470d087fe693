"""What is in the files of a mount, whether they are fetched whole or in blocks."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefect_datastores.mounting.ahead import Pattern
from prefect_datastores.mounting.answers import Answer
from prefect_datastores.mounting.fetching_large import LargeFiles, Version
from prefect_datastores.mounting.fetching_small import SmallFiles
from prefect_datastores.mounting.smalls import SMALL

if TYPE_CHECKING:
    from prefect_datastores.mounting.space import Space
    from prefect_datastores.mounting.statistics import Statistics
    from prefect_datastores.stores.base import ObjectInfo, ObjectStore

_END_SECONDS = 5.0
"""For how long the end waits for requests that were interrupted."""


class Opened:
    """One open file."""

    def __init__(self, info: ObjectInfo, version: Version | None) -> None:
        """Begin; a small file has no blocks."""
        self.info, self.version = info, version
        self.pattern = Pattern(info.size)


class Contents:
    """The contents of all files of one mount; used by many threads."""

    def __init__(self, store: ObjectStore, space: Space | None, statistics: Statistics) -> None:
        """Start the threads that fetch; nothing is fetched yet."""
        self._store, self._space = store, space
        self._large = LargeFiles(store, space, statistics)
        self._small = SmallFiles(store, space, statistics)

    def open(self, info: ObjectInfo) -> Opened:
        """Return a version of an object as an open file.

        Raises:
            IntegrityError: all of it was here, and was not what the service holds.
        """
        if info.size <= SMALL:
            return Opened(info, None)
        return Opened(info, self._large.open(self._key_of(info), info))

    def close_file(self, opened: Opened) -> None:
        """Take note that a file is closed; what was fetched of it stays."""
        if opened.version is not None:
            self._large.close_file(opened.version)

    def prefetch(self, infos: Sequence[ObjectInfo]) -> None:
        """Fetch small objects before they are asked for."""
        for info in infos:
            self._small.prefetch(self._key_of(info), info)

    def may_prefetch(self, size: int) -> int:
        """Return how many small objects of about that size may be fetched ahead now."""
        return self._small.may_prefetch(size)

    def read(self, opened: Opened, offset: int, size: int, answer: Answer) -> None:
        """Give what is at a place to `answer`, at once or later; shorter only at the end of the file."""
        size = min(size, opened.info.size - offset)
        if size <= 0:
            answer(())
        elif opened.version is None:
            self._small.read(self._key_of(opened.info), opened.info, offset, size, answer)
        else:
            self._large.read(opened.version, opened.pattern, offset, size, answer)

    def _key_of(self, info: ObjectInfo) -> bytes:
        """Return what one version of one object is filed under."""
        named = "\n".join((self._store.url, info.asked, info.etag, str(info.size)))
        return hashlib.sha256(named.encode(errors="surrogatepass")).digest()

    def close(self) -> None:
        """Stop fetching, and leave what was fetched to the next mount."""
        threads = [*self._large.stop(), *self._small.stop()]
        self._store.interrupt()
        until = time.monotonic() + _END_SECONDS
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._large.close()
        self._small.close()
        if self._space is not None:
            self._space.close()
