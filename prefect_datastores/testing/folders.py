"""Folders: that stay when they are empty, and that are things of their own."""
# ruff: noqa: D102  the names of the tests are sentences

from __future__ import annotations

import pytest

from prefect_datastores.errors import (
    ConfigurationError,
    ContainerNotFound,
    FolderNotEmpty,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import (
    Extras,
    ObjectStore,
    Page,
)
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.testing.objects import (
    THREADS,
    at_once,
    folders_in,
    get,
    names_below,
    one_won,
    put,
)


class FolderContract:
    """Folders: that stay when they are empty, and that are things of their own."""

    # Folders that stay when they are empty.

    def test_an_empty_folder_is_made_and_removed(self, store: ObjectStore) -> None:
        for _ in range(2):
            store.make_folder(ObjectName("a/b"))
        assert folders_in(store, "a/") == {"a/b"}
        assert "a" in folders_in(store, "")
        assert [info.is_marker for info in list_objects(store, "a/b")] == [True]
        store.remove_empty_folder(ObjectName("a/b"))
        assert folders_in(store, "a/") == set()
        with pytest.raises(ObjectNotFound):
            store.remove_empty_folder(ObjectName("a/b"))
        if store.capabilities.has_folders:  # the one above it was made as well
            store.remove_empty_folder(ObjectName("a"))
        assert store.list_page("") == Page()

    def test_a_folder_is_removed_only_when_it_is_empty(self, store: ObjectStore) -> None:
        assert [store.make_folder(ObjectName("a")) for _ in range(2)] == [True, False]
        put(store, "a/b/c", b"c")
        store.make_folder(ObjectName("d/e"))
        for full in ("a", "a/b", "d"):
            with pytest.raises(FolderNotEmpty):
                store.remove_empty_folder(ObjectName(full))
        assert get(store, "a/b/c") == b"c"
        assert folders_in(store, "d/") == {"d/e"}
        store.delete(ObjectName("a/b/c"))
        if store.capabilities.has_folders:
            store.remove_empty_folder(ObjectName("a/b"))
        store.remove_empty_folder(ObjectName("a"))
        assert "a" not in folders_in(store, "")

    def test_a_folder_takes_no_objects_place_and_is_not_taken_for_one(
        self, store: ObjectStore
    ) -> None:
        for content in (b"", b"content"):
            put(store, "a", content)
            with pytest.raises(PlaceTaken):
                store.make_folder(ObjectName("a"))
            with pytest.raises(ObjectNotFound):
                store.remove_empty_folder(ObjectName("a"))
            assert get(store, "a") == content
        if store.capabilities.has_folders:
            with pytest.raises(PlaceTaken):
                store.make_folder(ObjectName("a/below"))
        assert names_below(store) == ["a"]
        with pytest.raises(ObjectNotFound):
            store.remove_empty_folder(ObjectName("missing"))
        with pytest.raises(ObjectNotFound):
            store.remove_empty_folder(ObjectName("missing/below"))

    def test_a_folder_is_filled_emptied_and_made_again(self, store: ObjectStore) -> None:
        for turn in range(3):
            store.make_folder(ObjectName("a"))
            put(store, "a/b", f"{turn}".encode())
            assert get(store, "a/b") == f"{turn}".encode()
            store.delete(ObjectName("a/b"))
            assert "a" in folders_in(store, "")
            store.remove_empty_folder(ObjectName("a"))
            assert store.list_page("") == Page()

    def test_of_many_threads_one_makes_the_folder(self, store: ObjectStore) -> None:
        made = at_once([lambda: store.make_folder(ObjectName("a/b/c"))] * THREADS)
        assert made.count(True) == 1
        assert made.count(False) == THREADS - 1
        assert folders_in(store, "a/b/") == {"a/b/c"}

    def test_no_folder_is_made_in_a_missing_container(self, missing_store: ObjectStore) -> None:
        with pytest.raises(ContainerNotFound):
            missing_store.make_folder(ObjectName("a"))
        with pytest.raises((ContainerNotFound, ObjectNotFound)):
            missing_store.remove_empty_folder(ObjectName("a"))
        with pytest.raises((ContainerNotFound, ObjectNotFound)):
            missing_store.move(ObjectName("a"), ObjectName("b"))

    # Folders, where they are things of their own.

    def test_what_is_written_to_a_folders_old_name_is_not_in_it(self, store: ObjectStore) -> None:
        if not store.capabilities.has_folders:
            return
        put(store, "old/a", b"first")
        store.move_folder(ObjectName("old"), ObjectName("new"))
        put(store, "old/a", b"second")
        assert (get(store, "new/a"), get(store, "old/a")) == (b"first", b"second")

    def test_a_folder_gets_another_name_with_all_below_it(self, store: ObjectStore) -> None:
        if not store.capabilities.has_folders:
            assert not store.swaps_folders()
            return
        for name in ("old/a", "old/sub/b", "older/c"):
            put(store, name, name.encode())
        store.move_folder(ObjectName("old"), ObjectName("new/place"))
        assert names_below(store, "new/") == ["new/place/a", "new/place/sub/b"]
        assert get(store, "new/place/sub/b") == b"old/sub/b"
        assert get(store, "older/c") == b"older/c"
        assert names_below(store, "old/") == []
        with pytest.raises(PlaceTaken):
            store.move_folder(ObjectName("older"), ObjectName("new/place"))
        with pytest.raises(PlaceTaken):
            store.move_folder(ObjectName("older"), ObjectName("new/place/a"))
        with pytest.raises(ObjectNotFound):
            store.move_folder(ObjectName("old"), ObjectName("other"))
        assert names_below(store, "new/") == ["new/place/a", "new/place/sub/b"]
        assert names_below(store, "older/") == ["older/c"]

    def test_two_folders_take_each_others_names(self, store: ObjectStore) -> None:
        if not store.swaps_folders():
            return
        put(store, "one/a", b"1")
        version = put(store, "two/b", b"2")
        over = (ObjectName("two/b"), version.etag)
        store.move_folder(ObjectName("one"), ObjectName("two"), over=over)
        assert names_below(store) == ["one/b", "two/a"]
        assert store.head(ObjectName("one/b")).etag == version.etag
        for wrong in (over, (ObjectName("two/a"), version.etag)):
            with pytest.raises(ObjectExists):
                store.move_folder(ObjectName("one"), ObjectName("two"), over=wrong)
        assert names_below(store) == ["one/b", "two/a"]

    def test_of_many_threads_one_takes_a_folders_place(self, store: ObjectStore) -> None:
        if not store.swaps_folders():
            return
        version = put(store, "place/mark", b"old")
        over = (ObjectName("place/mark"), version.etag)

        def work(number: int) -> str:
            put(store, f"staged/{number}/mark", f"{number}".encode())
            store.move_folder(ObjectName(f"staged/{number}"), ObjectName("place"), over=over)
            return f"{number}"

        done = at_once(lambda n=n: work(n) for n in range(THREADS))  # type: ignore[misc]
        one_won(done, store, "place/mark")

    def test_a_folder_is_looked_at_and_a_file_is_none(self, store: ObjectStore) -> None:
        if not store.capabilities.has_folders:
            return
        name, file = ObjectName("new/place"), ObjectName("file")
        assert store.make_folder(name)
        assert not store.make_folder(name)
        put(store, "file")
        with pytest.raises(PlaceTaken):
            store.make_folder(file)
        assert store.folder_info(name, properties=False).modified is not None
        is_told = bool(store.capabilities.properties)
        assert bool(store.folder_info(name, properties=is_told).properties) == is_told
        for missing in (ObjectName("none"), ObjectName("new/none"), file):
            with pytest.raises(ObjectNotFound):
                store.folder_info(missing, properties=is_told)

    def test_a_folder_keeps_what_it_is_given(self, store: ObjectStore) -> None:
        can = store.capabilities
        if not can.has_folders:
            return
        put(store, "top/sub/a")
        name, moment = ObjectName("top/sub"), 1_500_000_000_123_456_000
        times = Extras(moment) if can.keeps_times else None
        told = store.folder_info(name, properties=bool(can.properties))
        for extras in (times, Extras(properties=told.properties) if can.properties else None):
            if extras is None:
                continue
            store.give_folder(name, extras)
            for missing in (ObjectName("top/none"), ObjectName("top/sub/a")):
                with pytest.raises(ObjectNotFound):
                    store.give_folder(missing, extras)
        now = store.folder_info(name, properties=bool(can.properties))
        assert now.properties == told.properties
        if can.keeps_times:
            assert now.modified == pytest.approx(moment / 1e9, abs=1e-6)
        else:
            with pytest.raises(ConfigurationError):
                store.give_folder(name, Extras(moment))
        assert get(store, "top/sub/a") == b"x"

    def test_a_folder_is_removed_with_all_below_it(self, store: ObjectStore) -> None:
        if not store.capabilities.has_folders:
            return
        for name in ("old/a", "old/sub/b", "older/c"):
            put(store, name)
        store.remove_folder(ObjectName("old"))
        store.remove_folder(ObjectName("old"))
        store.remove_folder(ObjectName("nothing/at/all"))
        assert names_below(store) == ["older/c"]
