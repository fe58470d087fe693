"""Fetches the small files beside one that was opened, where others beside it were opened before."""

from __future__ import annotations

import threading
from collections.abc import Callable

from prefect_datastores.mounting.ahead import FolderPattern
from prefect_datastores.mounting.contents import Contents
from prefect_datastores.mounting.folders import Listing
from prefect_datastores.mounting.smalls import SMALL
from prefect_datastores.stores.base import ObjectInfo


class Beside:
    """Knows in which order the files of each folder are opened; used by many threads."""

    def __init__(self, contents: Contents) -> None:
        """Fetch nothing yet."""
        self._contents, self._lock = contents, threading.Lock()
        self._patterns: dict[int, FolderPattern] = {}

    def opened(
        self,
        folder: int,
        name: str,
        info_of: Callable[[str], ObjectInfo | None],
        listing: Callable[[], Listing],
    ) -> None:
        """Take note that a small file was opened, for the first time; fetch what will most likely be next.

        `listing` is asked for once, and says what the folder holds; `info_of` what is to be fetched
        of a file now, where anything is.
        """
        with self._lock:
            pattern = self._patterns.get(folder)
            if pattern is None:
                pattern = self._patterns[folder] = _pattern_of(listing())
            wanted = pattern.wanted(name, self._contents.may_prefetch(pattern.usual))
        self._contents.prefetch([info for one in wanted if (info := info_of(one))])


def _pattern_of(listing: Listing) -> FolderPattern:
    small = {name: info.size for name, info in listing.items() if info and 0 < info.size <= SMALL}
    return FolderPattern(list(small), sum(small.values()) // max(1, len(small)))
