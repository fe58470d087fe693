"""All that is below a prefix, whether a service lists it page by page or folder by folder.

Each page is one request of the store, so that each is tried again by itself; those of the next
folders are asked for meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice

from prefect_datastores.errors import IntegrityError
from prefect_datastores.stores.base import ObjectInfo, ObjectStore, Page

_AT_ONCE = 16  # folders that are asked for before it is their turn

_Entries = Sequence[tuple[str, ObjectInfo | None]]
"""What stands in a folder, by the key that it sorts by: a folder's ends in `/`, and it has no info."""


def list_objects(
    store: ObjectStore, prefix: str, *, limit: int | None = None, page_size: int | None = None
) -> Iterator[ObjectInfo]:
    """Give every object below `prefix`, in name order; a fault ends the listing with an error.

    `limit` ends it after so many objects; `page_size` is how many are asked for at once.

    Raises:
        IntegrityError: the service repeats a marker, which would never end.
    """
    if store.capabilities.lists_by_folder:
        with closing(in_order(store, prefix)) as found:
            yield from islice(found, limit)
        return
    most = min(store.capabilities.page_size, page_size or store.capabilities.page_size)
    left = limit
    for page in _pages(store, prefix, min(most, left or most)):
        yield from page.objects[:left]
        if left is not None:
            left -= len(page.objects)
            if left <= 0:
                return


def _pages(store: ObjectStore, prefix: str, most: int, *, recursive: bool = True) -> Iterator[Page]:
    marker: str | None = None
    seen: set[str] = set()
    while True:
        page = store.list_page(prefix, marker=marker, limit=most, recursive=recursive)
        yield page
        marker = page.marker
        if marker is None:
            return
        if marker in seen:
            raise IntegrityError(
                f"The listing of {store.url} below {prefix!r} repeats itself: it has no end."
            )
        seen.add(marker)


def in_order(
    store: ObjectStore, prefix: str, after: str | None = None
) -> Generator[ObjectInfo, None, None]:
    """Give all whose names begin with `prefix`, folder by folder; with `after`, those that come after it.

    A folder sorts by its name with a `/`, so `a.txt` comes before what is in `a/`. What stands in
    one folder is held in memory.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pds-list") as threads:
        tree = _Tree(store, threads)
        try:
            yield from tree.below(tree.ask(prefix), after)
        finally:
            tree.drop()


def page_in_order(store: ObjectStore, prefix: str, marker: str | None, limit: int) -> Page:
    """Return one page of what `in_order` gives; its marker is the last name."""
    with closing(in_order(store, prefix, marker)) as below:
        found = tuple(islice(below, limit + 1))
    return Page(found[:limit], (), found[limit - 1].name if len(found) > limit else None)


class _Tree:
    """One walk; folders are asked for by threads, and visited by one."""

    def __init__(self, store: ObjectStore, threads: ThreadPoolExecutor) -> None:
        self._store, self._threads = store, threads
        self._asked: set[Future[_Entries]] = set()

    def ask(self, prefix: str) -> Future[_Entries]:
        asked = self._threads.submit(self._entries, prefix)
        self._asked.add(asked)
        return asked

    def drop(self) -> None:
        """Ask for no folder any more."""
        for asked in self._asked:
            asked.cancel()

    def below(self, asked: Future[_Entries], after: str | None) -> Iterator[ObjectInfo]:
        entries = asked.result()
        self._asked.discard(asked)
        due = (name for name, info in entries if info is None and _is_due(name, after))
        ahead = deque((name, self.ask(name)) for name in islice(due, _AT_ONCE))
        for name, info in entries:
            if info is not None:
                if after is None or name > after:
                    yield info
            elif ahead and ahead[0][0] == name:
                folder = ahead.popleft()[1]
                ahead.extend((more, self.ask(more)) for more in islice(due, 1))
                yield from self.below(folder, after)

    def _entries(self, prefix: str) -> _Entries:
        found: list[tuple[str, ObjectInfo | None]] = []
        for page in _pages(
            self._store, prefix, self._store.capabilities.page_size, recursive=False
        ):
            found += [(info.name, info) for info in page.objects]
            found += [(f"{folder}/", None) for folder in page.folders]
        return sorted(found, key=lambda entry: entry[0])


def _is_due(folder: str, after: str | None) -> bool:
    """Tell whether anything in a folder can come after a name."""
    return after is None or folder > after or after.startswith(folder)
