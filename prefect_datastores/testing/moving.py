"""Moves of an object: one version, to one place."""
# ruff: noqa: D102  the names of the tests are sentences

from __future__ import annotations

import pytest

from prefect_datastores.errors import (
    NameCollision,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    SourceChanged,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import (
    NO_EXTRAS,
    Extras,
    ObjectInfo,
    ObjectStore,
)
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.testing.objects import (
    MOMENT,
    THREADS,
    at_once,
    content_of,
    folders_in,
    get,
    md5_of,
    names_below,
    one_won,
    put,
    sizes,
)


class MovingContract:
    """Moves of an object: one version, to one place."""

    @pytest.mark.parametrize("size", ["empty", "one byte", "many parts"])
    def test_an_object_gets_another_name(self, store: ObjectStore, size: str) -> None:
        content = content_of(sizes(store)[size])
        old = put(store, "old/a", content)
        put(store, "old/ab", b"beside")
        moved = store.move(ObjectName("old/a"), ObjectName("new/place/b"))
        assert moved == store.head(ObjectName("new/place/b"))
        assert (moved.name, moved.size) == ("new/place/b", len(content))
        assert moved.digest == store.head(ObjectName("new/place/b")).digest
        assert moved.digest == (old.digest if store.capabilities.stores_digest else None)
        assert get(store, "new/place/b") == content
        with pytest.raises(ObjectNotFound):
            store.head(ObjectName("old/a"))
        assert names_below(store) == ["new/place/b", "old/ab"]

    @pytest.mark.parametrize("size", ["empty", "many parts"])
    def test_a_moved_object_takes_the_place_of_another(self, store: ObjectStore, size: str) -> None:
        content = content_of(sizes(store)[size])
        put(store, "a", content)
        there = put(store, "sub/b", b"there")
        moved = store.move(ObjectName("a"), ObjectName("sub/b"))
        assert moved.etag == store.head(ObjectName("sub/b")).etag != there.etag
        assert get(store, "sub/b") == content
        assert names_below(store) == ["sub/b"]

    def test_a_moved_object_keeps_its_time_and_properties(self, store: ObjectStore) -> None:
        can = store.capabilities
        given = Extras(modified=MOMENT * 10**9) if can.keeps_times else NO_EXTRAS
        old = put(store, "a", b"content", extras=given)
        properties = store.properties(ObjectName("a"), pin=old.etag) if can.properties else {}
        moved = store.move(ObjectName("a"), ObjectName("b"))
        if can.moves_in_one_step:
            assert store.head(ObjectName("b")).modified == old.modified
        if can.stores_digest:
            assert store.head(ObjectName("b")).digest == md5_of(b"content")
        if can.properties:
            assert store.properties(ObjectName("b"), pin=moved.etag) == properties

    def test_only_the_pinned_version_is_moved(self, store: ObjectStore) -> None:
        old = put(store, "a", b"old")
        new = put(store, "a", b"new")
        put(store, "b", b"there")
        with pytest.raises(SourceChanged):
            store.move(ObjectName("a"), ObjectName("b"), pin=old.etag)
        assert (get(store, "a"), get(store, "b")) == (b"new", b"there")
        store.move(ObjectName("a"), ObjectName("b"), pin=new.etag)
        assert get(store, "b") == b"new"
        assert names_below(store) == ["b"]

    def test_a_move_keeps_the_conditions_of_its_place(self, store: ObjectStore) -> None:
        put(store, "a", b"a")
        old = put(store, "b", b"old")
        new = put(store, "b", b"new")
        with pytest.raises(ObjectExists):
            store.move(ObjectName("a"), ObjectName("b"), replaces=old.etag)
        with pytest.raises(ObjectExists):
            store.move(ObjectName("a"), ObjectName("c"), replaces=old.etag)
        with pytest.raises(ObjectExists):
            store.move(ObjectName("a"), ObjectName("b"), if_absent=True)
        assert (get(store, "a"), get(store, "b")) == (b"a", b"new")
        store.move(ObjectName("a"), ObjectName("b"), replaces=new.etag)
        store.move(ObjectName("b"), ObjectName("c"), if_absent=True)
        assert get(store, "c") == b"a"
        assert names_below(store) == ["c"]

    def test_what_is_missing_is_not_moved(self, store: ObjectStore) -> None:
        there = put(store, "folder/a", b"there")
        for name in ("missing", "folder", "folder/missing"):
            for pin, replaces in [(None, None), (there.etag, None), (None, there.etag)]:
                with pytest.raises(ObjectNotFound):
                    store.move(ObjectName(name), ObjectName("folder/a"), pin=pin, replaces=replaces)
        assert get(store, "folder/a") == b"there"
        assert names_below(store) == ["folder/a"]

    def test_nothing_is_moved_over_a_folder_or_below_an_object(self, store: ObjectStore) -> None:
        put(store, "a", b"a")
        store.make_folder(ObjectName("empty"))
        with pytest.raises(PlaceTaken):
            store.move(ObjectName("a"), ObjectName("empty"))
        with pytest.raises(ObjectNotFound):
            store.move(ObjectName("empty"), ObjectName("b"))
        if store.capabilities.has_folders:
            put(store, "full/b", b"b")
            for to in ("full", "full/b/below"):
                with pytest.raises(PlaceTaken):
                    store.move(ObjectName("a"), ObjectName(to))
            assert get(store, "full/b") == b"b"
        assert get(store, "a") == b"a"
        assert "empty" in folders_in(store, "")

    def test_an_object_that_is_moved_to_its_own_name_stays(self, store: ObjectStore) -> None:
        info = put(store, "a", b"a")
        assert store.move(ObjectName("a"), ObjectName("a")).size == 1
        assert store.move(ObjectName("a"), ObjectName("a"), pin=info.etag).etag == info.etag
        with pytest.raises(SourceChanged):
            store.move(ObjectName("a"), ObjectName("a"), pin='"other"')
        with pytest.raises(ObjectExists):
            store.move(ObjectName("a"), ObjectName("a"), if_absent=True)
        with pytest.raises(ObjectNotFound):
            store.move(ObjectName("b"), ObjectName("b"))
        assert get(store, "a") == b"a"

    @pytest.mark.parametrize(("one", "other"), [("a", "A"), ("a", "a."), ("a/b", "a./b")])
    def test_names_that_are_one_do_not_replace_each_other(
        self, store: ObjectStore, one: str, other: str
    ) -> None:
        put(store, one, b"content")
        try:
            store.move(ObjectName(one), ObjectName(other))
        except NameCollision:
            assert store.name_rules().takes_for_one(one, other)
            expected = one
        else:
            expected = other
        assert get(store, expected) == b"content"
        assert [info.name for info in list_objects(store, "") if not info.is_marker] == [expected]

    def test_of_many_threads_one_moves_an_object(self, store: ObjectStore) -> None:
        put(store, "a", b"content")

        def work() -> str:
            store.move(ObjectName("a"), ObjectName("to"), if_absent=True)
            return "content"

        done = at_once([work] * THREADS)
        # Where it is copied, another one may have copied it, and this one found its copy.
        assert "content" in done
        assert all(
            isinstance(result, (str, ObjectExists, ObjectNotFound, SourceChanged))
            for result in done
        )
        assert get(store, "to") == b"content"
        assert names_below(store) == ["to"]

    def test_of_many_threads_one_moves_its_object_to_a_name(self, store: ObjectStore) -> None:
        for number in range(THREADS):
            put(store, f"from/{number}", f"{number}".encode())

        def work(number: int) -> str:
            return store.move(ObjectName(f"from/{number}"), ObjectName("a"), if_absent=True).etag

        done = at_once(lambda n=n: work(n) for n in range(THREADS))  # type: ignore[misc]
        one_won(done, store)
        assert len(names_below(store)) == THREADS

    def test_readers_see_one_whole_version_while_others_are_moved_over_it(
        self, store: ObjectStore
    ) -> None:
        versions = [bytes([number]) * 4096 for number in range(THREADS)]
        put(store, "a", versions[0])
        for number, version in enumerate(versions):
            put(store, f"from/{number}", version)

        def read() -> bytes:
            buffer = bytearray(4096)
            store.read_into(ObjectName("a"), 0, memoryview(buffer), pin=None)
            return bytes(buffer)

        done = at_once(
            [
                *(
                    lambda n=n: store.move(ObjectName(f"from/{n}"), ObjectName("a"))
                    for n in range(THREADS)
                ),
                *[read] * THREADS,
            ]
        )
        seen = [result for result in done if isinstance(result, bytes)]
        moved = [result for result in done if isinstance(result, ObjectInfo)]
        assert (len(seen), len(moved)) == (THREADS, THREADS)
        assert set(seen) <= set(versions)
        assert [info.name for info in list_objects(store, "") if not info.is_marker] == ["a"]
