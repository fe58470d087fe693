"""What a folder of a store holds, as a disk would show it: files and folders under names that a disk can have."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Union

from prefect_datastores.errors import IntegrityError
from prefect_datastores.staging.generations import DATA, POINTER
from prefect_datastores.staging.published import listed, pointer_of
from prefect_datastores.stores.base import ObjectInfo, ObjectStore

_log = logging.getLogger("prefect_datastores.mounting")
_LISTS = 8
LONGEST = 255
"""Bytes of a name, as on a disk."""

Listing = Mapping[str, Union[ObjectInfo, None]]
"""What a folder holds, by name; None is a folder."""


@dataclass(frozen=True)
class Content:
    """A folder that was listed: below which prefix its content was found, and what that is, in name order."""

    prefix: str
    listing: Listing
    is_published: bool = False
    """It was published at once: what it shows is one generation, which nobody changes."""


class Folders:
    """Lists the folders of a store; used by many threads."""

    def __init__(self, store: ObjectStore) -> None:
        """Ask for nothing yet."""
        self._store = store
        self._hidden: set[str] = set()
        self._lists: dict[str, list[ObjectInfo]] = {}

    def content(self, prefix: str) -> Content:
        """Return what a folder holds; of one that was published at once, what its readers see.

        Raises:
            DatastoreError: the service failed.
        """
        if (shown := self._by_list(prefix)) is not None:
            return shown
        found, is_published = dict(self._all(prefix)), False
        if found.get(POINTER) is not None:
            standing = pointer_of(self._store, prefix.rstrip("/"))
            is_published = standing is not None
            if standing is not None and standing.pointer.holder is not None:
                return self._listed(prefix, standing.pointer.generation)
            if standing is not None and not standing.pointer.in_place:
                prefix = f"{prefix}{DATA}/{standing.pointer.generation}/"
                found = dict(self._all(prefix))
            found.pop(POINTER, None)
        found.pop(DATA, None)
        return Content(prefix, dict(sorted(found.items())), is_published)

    def _listed(self, prefix: str, generation: str) -> Content:
        """Return what a folder shows by a list, under a prefix that tells which generation it was."""
        base = f"{prefix}{DATA}/{generation}/"
        shown = listed(self._store, prefix.rstrip("/"), generation)
        while len(self._lists) >= _LISTS:
            self._lists.pop(next(iter(self._lists)))
        self._lists[base] = [info._replace(name=info.name[len(prefix) :]) for info in shown]
        return self._of_list(base, "")

    def _by_list(self, prefix: str) -> Content | None:
        """Return what a folder in one that shows a list holds; None where it is in none."""
        for base in self._lists:
            if prefix.startswith(base):
                return self._of_list(base, prefix[len(base) :])
        above, found, below = prefix.partition(f"{DATA}/")
        generation, _, _ = below.partition("/")
        if not found or not generation:
            return None
        standing = pointer_of(self._store, above.rstrip("/"))  # that it was mounted by a path below
        if standing is None or standing.pointer.holder is None:
            return None
        self._listed(above, generation)
        return self._by_list(prefix)

    def _of_list(self, base: str, below: str) -> Content:
        found: dict[str, ObjectInfo | None] = {}
        for info in self._lists[base]:
            if info.name.startswith(below):
                name, deeper, _ = info.name[len(below) :].partition("/")
                if self._is_shown(base + below, name):
                    found[name] = None if deeper else info
        return Content(base + below, dict(sorted(found.items())), is_published=True)

    def _all(self, prefix: str) -> Iterator[tuple[str, ObjectInfo | None]]:
        """Give all in a folder, page by page."""
        marker, seen, begin = None, set(), len(prefix)
        while True:
            page = self._store.list_page(
                prefix, marker=marker, recursive=False, limit=self._store.capabilities.page_size
            )
            for info in page.objects:
                name = info.name[begin:].rstrip("/") if info.is_marker else info.name[begin:]
                if self._is_shown(prefix, name):
                    yield name, None if info.is_marker else info
            # After the objects: of a file and a folder of one name, the folder is shown, as it has more in it.
            for folder in page.folders:
                if self._is_shown(prefix, folder[begin:]):
                    yield folder[begin:], None
            marker = page.marker
            if marker is None:
                return
            if marker in seen:
                raise IntegrityError(
                    f"The listing of {self._store.url} below {prefix!r} repeats itself: it has no end."
                )
            seen.add(marker)

    def _is_shown(self, prefix: str, name: str) -> bool:
        """Tell whether a name can be one of a file here; what cannot is not seen, and said once."""
        if not name:  # the folder's own marker
            return False
        if (
            name in {".", ".."}
            or "/" in name
            or "\0" in name
            or len(name.encode(errors="replace")) > LONGEST
        ):
            if prefix + name not in self._hidden:
                self._hidden.add(prefix + name)
                _log.warning("%r is not shown: no file here can have that name.", prefix + name)
            return False
        return True
