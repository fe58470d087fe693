"""Reads: from one version, into their buffer and nowhere else; what is deleted."""
# ruff: noqa: D102  the names of the tests are sentences

from __future__ import annotations

import pytest

from prefect_datastores.errors import (
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    SourceChanged,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.testing.objects import begin, content_of, get, md5_of, names_below, put


class ReadingContract:
    """Reads: from one version, into their buffer and nowhere else; what is deleted."""

    # Reading.

    def test_what_is_missing_is_not_found(self, store: ObjectStore) -> None:
        put(store, "folder/a")
        for name in ("missing", "folder", "folder/missing", "folder/a/below"):
            with pytest.raises(ObjectNotFound):
                store.head(ObjectName(name))
            with pytest.raises(ObjectNotFound):
                store.read_into(ObjectName(name), 0, memoryview(bytearray(1)), pin=None)

    def test_a_read_fills_its_buffer_from_any_place(self, store: ObjectStore) -> None:
        content = content_of(1000)
        info = put(store, "a", content)
        for offset, length in [(0, 1000), (0, 1), (999, 1), (250, 500), (500, 500)]:
            buffer = bytearray(length)
            store.read_into(ObjectName("a"), offset, memoryview(buffer), pin=info.etag)
            assert buffer == content[offset : offset + length]

    def test_reads_that_are_begun_together_come_in_any_order(self, store: ObjectStore) -> None:
        contents = {f"{number:02}": content_of(3000 + number, str(number)) for number in range(20)}
        infos = {name: put(store, name, content) for name, content in contents.items()}
        buffers = {name: bytearray(len(content)) for name, content in contents.items()}
        begun = {
            name: store.begin_read(ObjectName(name), 0, memoryview(buffer), pin=infos[name].etag)
            for name, buffer in buffers.items()
        }
        for name in sorted(begun, key=lambda name: name[::-1]):
            begun[name].finish()
            begun[name].drop()  # which is nothing any more
        assert buffers == contents
        assert get(store, "00") == contents["00"]

    def test_reads_that_are_dropped_leave_the_store_as_good_as_it_was(
        self, store: ObjectStore
    ) -> None:
        content = content_of(70_000)
        info = put(store, "a", content)
        for _ in range(3):
            buffer = memoryview(bytearray(len(content)))
            begun = [store.begin_read(ObjectName("a"), 0, buffer, pin=info.etag) for _ in range(5)]
            begun[2].finish()
            for one in begun:
                one.drop()
                one.drop()
            assert buffer == content
        assert get(store, "a") == content

    def test_a_read_that_is_begun_fails_as_one_that_is_not(self, store: ObjectStore) -> None:
        old = put(store, "a", b"old")
        put(store, "a", b"new")
        for name, length, pin, error in [
            ("missing", 1, None, ObjectNotFound),
            ("a", 3, old.etag, SourceChanged),
            ("a", 4, None, IntegrityError),
        ]:
            room = memoryview(bytearray(length))
            begun = store.begin_read(ObjectName(name), 0, room, pin=pin)
            with pytest.raises(error):
                begun.finish()
            begun.drop()

    def test_commits_that_are_begun_together_are_all_done(self, store: ObjectStore) -> None:
        contents = {f"{number:02}": content_of(300 + number, str(number)) for number in range(20)}
        begun = [
            begin(store, name, content).begin_commit(md5_of(content))
            for name, content in contents.items()
        ]
        for one, (name, content) in zip(begun, contents.items(), strict=True):
            info = one.finish()
            one.drop()
            assert (info.name, info.size) == (name, len(content))
        assert {name: get(store, name) for name in names_below(store)} == contents

    def test_a_commit_that_is_begun_keeps_its_condition(self, store: ObjectStore) -> None:
        writing = begin(store, "a", b"ours", if_absent=True)
        put(store, "a", b"theirs")
        begun = writing.begin_commit(md5_of(b"ours"))
        with pytest.raises(ObjectExists):
            begun.finish()
        assert get(store, "a") == b"theirs"

    def test_a_read_touches_nothing_beside_its_buffer(self, store: ObjectStore) -> None:
        put(store, "a", b"0123456789")
        room = bytearray(b"." * 8)
        store.read_into(ObjectName("a"), 3, memoryview(room)[2:6], pin=None)
        assert room == b"..3456.."

    def test_an_empty_buffer_is_full(self, store: ObjectStore) -> None:
        for content in (b"", b"0123"):
            info = put(store, "a", content)
            store.read_into(ObjectName("a"), len(content), memoryview(bytearray()), pin=info.etag)

    @pytest.mark.parametrize(("offset", "length"), [(8, 4), (0, 11), (10, 1), (500, 1)])
    def test_a_read_past_the_end_is_no_short_read(
        self, store: ObjectStore, offset: int, length: int
    ) -> None:
        info = put(store, "a", b"0123456789")
        with pytest.raises(IntegrityError):
            store.read_into(ObjectName("a"), offset, memoryview(bytearray(length)), pin=info.etag)

    def test_an_empty_object_gives_no_byte(self, store: ObjectStore) -> None:
        info = put(store, "a", b"")
        with pytest.raises(IntegrityError):
            store.read_into(ObjectName("a"), 0, memoryview(bytearray(1)), pin=info.etag)

    def test_a_pinned_read_gives_no_other_version(self, store: ObjectStore) -> None:
        old = put(store, "a", b"old")
        new = put(store, "a", b"new")
        buffer = bytearray(3)
        with pytest.raises(SourceChanged):
            store.read_into(ObjectName("a"), 0, memoryview(buffer), pin=old.etag)
        store.read_into(ObjectName("a"), 0, memoryview(buffer), pin=new.etag)
        assert buffer == b"new"
        store.read_into(ObjectName("a"), 0, memoryview(buffer), pin=None)
        assert buffer == b"new"

    def test_a_pinned_read_of_a_deleted_object_fails(self, store: ObjectStore) -> None:
        old = put(store, "a", b"old")
        store.delete(ObjectName("a"))
        with pytest.raises((ObjectNotFound, SourceChanged)):
            store.read_into(ObjectName("a"), 0, memoryview(bytearray(3)), pin=old.etag)

    # Deleting.

    def test_a_deleted_object_is_gone_and_no_other(self, store: ObjectStore) -> None:
        for name in ("a", "a1", "b/c"):
            put(store, name)
        store.delete(ObjectName("a"))
        with pytest.raises(ObjectNotFound):
            store.head(ObjectName("a"))
        assert names_below(store) == ["a1", "b/c"]

    def test_what_is_not_there_is_not_deleted(self, store: ObjectStore) -> None:
        with pytest.raises(ObjectNotFound):
            store.delete(ObjectName("a"))

    def test_only_the_pinned_version_is_deleted(self, store: ObjectStore) -> None:
        old = put(store, "a", b"old")
        new = put(store, "a", b"new")
        with pytest.raises(SourceChanged):
            store.delete(ObjectName("a"), pin=old.etag)
        assert get(store, "a") == b"new"
        store.delete(ObjectName("a"), pin=new.etag)
        assert names_below(store) == []
