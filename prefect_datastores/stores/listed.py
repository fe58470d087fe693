"""All that is below a prefix, whether a service lists it page by page or folder by folder.

Each page is one request of the store, so that each is tried again by itself; those of the next
folders are asked for meanwhile. Where a service has pages of all below a folder as well, but in
another order, those are taken as long as folders are small.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice, takewhile

from prefect_datastores.errors import IntegrityError
from prefect_datastores.stores.base import ObjectInfo, ObjectStore, Page
from prefect_datastores.stores.components import in_name_order

_AT_ONCE = 16  # folders that are asked for before it is their turn

_FEW = 64  # objects a folder, up to which pages are quicker than folders that are asked for at once

_Entries = Sequence[tuple[str, ObjectInfo | None]]
"""What stands in a folder, by the key that it sorts by: a folder's ends in `/`, and it has no info."""
_All = Iterator[ObjectInfo]
"""All that is below a folder, in order; made while it is taken."""


def list_objects(
    store: ObjectStore, prefix: str, *, limit: int | None = None, page_size: int | None = None
) -> Iterator[ObjectInfo]:
    """Give every object below `prefix`, in name order; a fault ends the listing with an error.

    `limit` ends it after so many objects; `page_size` is how many are asked for at once.

    Raises:
        IntegrityError: the service repeats a marker, which would never end.
    """
    if store.capabilities.lists_by_folder:
        # Who wants a few does not look at all.
        by_page = store.capabilities.pages_by_component and limit is None
        with closing(in_order(store, prefix, by_page=by_page)) as found:
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
            raise _endless(store, prefix)
        seen.add(marker)


def in_order(
    store: ObjectStore, prefix: str, after: str | None = None, *, by_page: bool = False
) -> Generator[ObjectInfo, None, None]:
    """Give all whose names begin with `prefix`, folder by folder; with `after`, those that come after it.

    A folder sorts by its name with a `/`, so `a.txt` comes before what is in `a/`. What stands in
    one folder is held in memory. With `by_page` pages of all below a folder are taken where its
    folders are small.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pds-list") as threads:
        tree = _Tree(store, threads, by_page=by_page)
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

    def __init__(self, store: ObjectStore, threads: ThreadPoolExecutor, *, by_page: bool) -> None:
        self._store, self._threads, self._by_page = store, threads, by_page
        self._asked: set[Future[_Entries | _All]] = set()

    def ask(self, prefix: str) -> Future[_Entries | _All]:
        asked = self._threads.submit(self._entries, prefix)
        self._asked.add(asked)
        return asked

    def drop(self) -> None:
        """Ask for no folder any more."""
        for asked in self._asked:
            asked.cancel()

    def below(self, asked: Future[_Entries | _All], after: str | None) -> Iterator[ObjectInfo]:
        entries = asked.result()
        self._asked.discard(asked)
        if isinstance(entries, Iterator):
            yield from entries
            return
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

    def _entries(self, prefix: str) -> _Entries | _All:
        if self._by_page and (not prefix or prefix.endswith("/")):
            page = self._store.page_by_component(prefix)
            if page.objects and (page.marker is None or _are_small(page)):
                return in_name_order(self._by_component(prefix, page), prefix, self._beside)
        found: list[tuple[str, ObjectInfo | None]] = []
        for page in _pages(
            self._store, prefix, self._store.capabilities.page_size, recursive=False
        ):
            found += [(info.name, info) for info in page.objects]
            found += [(f"{folder}/", None) for folder in page.folders]
        return sorted(found, key=lambda entry: entry[0])

    def _by_component(self, prefix: str, page: Page) -> Iterator[ObjectInfo]:
        """Give all below a folder, from its first page on; the next is asked for meanwhile."""
        seen: set[str] = set()
        while page.marker is not None:
            if page.marker in seen:
                raise _endless(self._store, prefix)
            seen.add(page.marker)
            ask = partial(self._store.page_by_component, prefix, marker=page.marker)
            following = self._threads.submit(ask)
            yield from page.objects
            page = following.result()
        yield from page.objects

    def _beside(self, folder: str) -> Iterator[ObjectInfo]:
        with closing(in_order(self._store, folder)) as found:
            yield from takewhile(lambda info: info.name < f"{folder}/", found)


def _are_small(page: Page) -> bool:
    """Tell whether folders have few objects, as far as a page shows, or there are none at all."""
    folders = sum(info.is_marker for info in page.objects)
    return not folders or folders * _FEW >= len(page.objects)


def _endless(store: ObjectStore, prefix: str) -> IntegrityError:
    return IntegrityError(
        f"The listing of {store.url} below {prefix!r} repeats itself: it has no end."
    )


def _is_due(folder: str, after: str | None) -> bool:
    """Tell whether anything in a folder can come after a name."""
    return after is None or folder > after or after.startswith(folder)
