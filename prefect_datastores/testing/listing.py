"""Listings: in order, everything once."""
# ruff: noqa: D102  the names of the tests are sentences

from __future__ import annotations

import pytest

from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.testing.objects import names_below, pages, put


class ListingContract:
    """Listings: in order, everything once."""

    def test_a_listing_is_in_name_order(self, store: ObjectStore) -> None:
        names = ["b", "a/b", "a.txt", "a/a/z", "a-b", "C", "a0", "a/a.txt", "\u00e9", "a b"]
        names += ["B"] if store.name_rules().case_sensitive else []  # else it is `b`
        for name in names:
            put(store, name)
        assert names_below(store) == sorted(names)

    def test_a_listing_gives_exactly_what_begins_with_the_prefix(self, store: ObjectStore) -> None:
        for name in ["p/1", "p/sub/2", "p1/x", "p.txt", "q", "a/p/1"]:
            put(store, name)
        assert names_below(store, "p/") == ["p/1", "p/sub/2"]
        assert names_below(store, "p/sub/") == ["p/sub/2"]
        assert names_below(store, "p") == ["p.txt", "p/1", "p/sub/2", "p1/x"]
        assert names_below(store, "p/s") == ["p/sub/2"]
        assert names_below(store, "nothing/") == []
        assert names_below(store, "p/1/") == []

    @pytest.mark.parametrize("recursive", [True, False])
    def test_pages_give_everything_once(self, store: ObjectStore, recursive: bool) -> None:
        names = ["p/a", "p/b/1", "p/b/2", "p/b0", "p/c", "p/d/e/1", "p/d/f", "p1"]
        for name in names:
            put(store, name)
        for limit in (1, 2, 3, 4, 5, 100):
            got = pages(store, "p/", limit=limit, recursive=recursive)
            objects = [info.name for page in got for info in page.objects]
            folders = [folder for page in got for folder in page.folders]
            assert objects == (names[:-1] if recursive else ["p/a", "p/b0", "p/c"])
            assert folders == ([] if recursive else ["p/b", "p/d"])
            assert all(len(page.objects) + len(page.folders) <= limit for page in got)

    def test_a_page_below_its_limit_is_the_last(self, store: ObjectStore) -> None:
        put(store, "a")
        assert store.list_page("", limit=2).marker is None

    def test_a_marker_goes_on_after_what_was_listed_whatever_came_meanwhile(
        self, store: ObjectStore
    ) -> None:
        for name in "aceg":
            put(store, name)
        first = store.list_page("", limit=2)
        put(store, "b")
        put(store, "d")
        second = store.list_page("", marker=first.marker, limit=5)
        assert [info.name for info in first.objects] == ["a", "c"]
        assert [info.name for info in second.objects if info.name not in "bd"] == ["e", "g"]

    def test_folders_are_what_lies_deeper_than_the_next_slash(self, store: ObjectStore) -> None:
        for name in ["top", "a/1", "a/b/2", "a/b/c/3", "d/4"]:
            put(store, name)
        root = store.list_page("", recursive=False)
        below = store.list_page("a/", recursive=False)
        assert [info.name for info in root.objects] == ["top"]
        assert root.folders == ("a", "d")
        assert [info.name for info in below.objects] == ["a/1"]
        assert below.folders == ("a/b",)
        assert store.list_page("a/b/c/", recursive=False).folders == ()
