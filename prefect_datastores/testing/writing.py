"""Writes: whole at the commit, on their condition, or not at all."""
# ruff: noqa: D102  the names of the tests are sentences

from __future__ import annotations

import pytest

from prefect_datastores.errors import (
    ConfigurationError,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    SourceChanged,
    TransferError,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import (
    Extras,
    ObjectInfo,
    ObjectStore,
    Page,
)
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.testing.objects import (
    MOMENT,
    at_once,
    begin,
    content_of,
    get,
    md5_of,
    names_below,
    parts_of,
    put,
    sizes,
)


class WritingContract:
    """Writes: whole at the commit, on their condition, or not at all."""

    @pytest.mark.parametrize("size", ["empty", "one byte", "one part", "many parts"])
    def test_an_object_reads_back_as_it_was_written(self, store: ObjectStore, size: str) -> None:
        content = content_of(sizes(store)[size])
        put(store, "folder/object", content)
        assert get(store, "folder/object") == content

    @pytest.mark.parametrize("size", ["empty", "one byte", "many parts"])
    def test_commit_head_and_listing_agree(self, store: ObjectStore, size: str) -> None:
        content = content_of(sizes(store)[size])
        committed = put(store, "a", content)
        head, listed = store.head(ObjectName("a")), store.list_page("").objects[0]
        for info in (committed, head, listed):
            assert (info.name, info.size, info.etag) == ("a", len(content), head.etag)
            assert not info.is_marker
        assert head.etag
        assert head.modified is not None
        assert head.modified == listed.modified

    @pytest.mark.parametrize("size", ["empty", "one byte", "many parts"])
    def test_the_digest_is_kept_where_the_service_holds_one(
        self, store: ObjectStore, size: str
    ) -> None:
        content = content_of(sizes(store)[size])
        put(store, "a", content)
        expected = md5_of(content) if store.capabilities.stores_digest else None
        assert store.head(ObjectName("a")).digest == expected
        listed = store.list_page("").objects[0].digest
        assert listed == (expected if store.capabilities.lists_digest else None)

    def test_parts_may_come_in_any_order(self, store: ObjectStore) -> None:
        content = content_of(sizes(store)["many parts"])
        writing = store.begin_write(ObjectName("a"), len(content))
        for part in reversed(parts_of(store, content)):
            writing.write_part(*part)
        writing.commit(md5_of(content))
        assert get(store, "a") == content

    def test_parts_may_come_from_many_threads(self, store: ObjectStore) -> None:
        content = content_of(sizes(store)["many parts"])
        writing = store.begin_write(ObjectName("a"), len(content))
        at_once(
            lambda part=part: writing.write_part(*part)  # type: ignore[misc]
            for part in parts_of(store, content)
        )
        writing.commit(md5_of(content))
        assert get(store, "a") == content

    def test_a_part_may_be_written_again(self, store: ObjectStore) -> None:
        content = content_of(sizes(store)["many parts"])
        writing = begin(store, "a", content)
        writing.write_part(*parts_of(store, content)[1])
        writing.commit(md5_of(content))
        assert get(store, "a") == content

    def test_nothing_is_visible_before_the_commit(self, store: ObjectStore) -> None:
        content = content_of(sizes(store)["many parts"])
        writing = begin(store, "folder/a", content)
        with pytest.raises(ObjectNotFound):
            store.head(ObjectName("folder/a"))
        assert [info for info in list_objects(store, "") if not info.is_marker] == []
        writing.commit(md5_of(content))
        assert names_below(store) == ["folder/a"]

    @pytest.mark.parametrize("size", ["one byte", "many parts"])
    def test_the_old_version_stands_until_the_commit(self, store: ObjectStore, size: str) -> None:
        content = content_of(sizes(store)[size])
        old = put(store, "a", b"old")
        writing = begin(store, "a", content)
        assert get(store, "a") == b"old"
        assert store.head(ObjectName("a")).etag == old.etag
        new = writing.commit(md5_of(content))
        assert get(store, "a") == content
        assert new.etag != old.etag

    @pytest.mark.parametrize("size", ["empty", "one byte", "many parts"])
    def test_an_abort_leaves_nothing(self, store: ObjectStore, size: str) -> None:
        content = content_of(sizes(store)[size])
        begin(store, "a", content).abort()
        assert store.list_page("") == Page()
        put(store, "a", b"the next attempt")
        assert get(store, "a") == b"the next attempt"

    def test_an_abort_leaves_the_old_version(self, store: ObjectStore) -> None:
        put(store, "a", b"old")
        begin(store, "a", content_of(sizes(store)["many parts"])).abort()
        assert get(store, "a") == b"old"

    def test_an_object_that_lacks_a_part_is_not_committed(self, store: ObjectStore) -> None:
        content = content_of(sizes(store)["many parts"])
        put(store, "a", b"old")
        writing = store.begin_write(ObjectName("a"), len(content))
        for part in parts_of(store, content)[:-1]:
            writing.write_part(*part)
        with pytest.raises(IntegrityError):
            writing.commit(md5_of(content))
        writing.abort()
        assert get(store, "a") == b"old"

    def test_every_rewrite_is_another_version(self, store: ObjectStore) -> None:
        etags = {put(store, "a", b"same").etag for _ in range(3)}
        assert len(etags) == 3  # noqa: PLR2004
        assert store.head(ObjectName("a")).etag in etags

    @pytest.mark.parametrize("size", ["empty", "many parts"])
    def test_a_time_that_is_given_is_kept_or_refused(self, store: ObjectStore, size: str) -> None:
        content, given = content_of(sizes(store)[size]), Extras(modified=MOMENT * 10**9)
        if not store.capabilities.keeps_times:
            with pytest.raises(ConfigurationError):
                begin(store, "a", content, extras=given)
            return
        first = put(store, "a", content, extras=given)
        second = put(store, "a", content, extras=given)
        assert first.modified == second.modified == MOMENT
        assert first.etag != second.etag
        assert store.head(ObjectName("a")) == second
        (listed,) = list_objects(store, "")
        assert (listed.modified, listed.etag) == (MOMENT, second.etag)

    @pytest.mark.parametrize("size", ["empty", "many parts"])
    def test_properties_are_kept_or_refused(self, store: ObjectStore, size: str) -> None:
        content, keeps = content_of(sizes(store)[size]), Extras(keeps_properties=True)
        if not store.capabilities.properties:
            for given in (keeps, Extras(properties={})):
                with pytest.raises(ConfigurationError):
                    begin(store, "a", content, extras=given)
            return
        before = put(store, "a", b"of somebody")
        properties = store.properties(ObjectName("a"), pin=before.etag)
        assert properties
        put(store, "sub/b", content, extras=Extras(properties=properties))
        put(store, "a", content, replaces=before.etag, extras=keeps)
        for name in ("a", "sub/b"):
            assert store.properties(ObjectName(name), pin=None) == properties
            assert get(store, name) == content
        with pytest.raises(SourceChanged):
            store.properties(ObjectName("a"), pin=before.etag)
        with pytest.raises(ObjectNotFound):
            store.properties(ObjectName("nothing"), pin=None)
        with pytest.raises(TransferError):
            begin(store, "c", content, extras=Extras(properties={"line": "a\r\nb: c"}))
        assert names_below(store) == ["a", "sub/b"]

    @pytest.mark.parametrize("size", ["empty", "one byte", "many parts"])
    def test_if_absent_commits_only_where_none_is(self, store: ObjectStore, size: str) -> None:
        content = content_of(sizes(store)[size])
        put(store, "a", content, if_absent=True)
        with pytest.raises(ObjectExists):
            put(store, "a", content_of(len(content), "other"), if_absent=True)
        assert get(store, "a") == content

    @pytest.mark.parametrize("size", ["one byte", "many parts"])
    def test_if_absent_is_decided_by_the_commit(self, store: ObjectStore, size: str) -> None:
        content = content_of(sizes(store)[size])
        writing = begin(store, "a", content, if_absent=True)
        put(store, "a", b"somebody else's")
        with pytest.raises(ObjectExists):
            writing.commit(md5_of(content))
        writing.abort()
        assert get(store, "a") == b"somebody else's"

    @pytest.mark.parametrize("size", ["empty", "one byte", "many parts"])
    def test_replaces_commits_over_its_version(self, store: ObjectStore, size: str) -> None:
        content = content_of(sizes(store)[size])
        old = put(store, "a", b"old")
        put(store, "a", content, replaces=old.etag)
        assert get(store, "a") == content

    @pytest.mark.parametrize("size", ["one byte", "many parts"])
    def test_replaces_commits_over_no_other_version(self, store: ObjectStore, size: str) -> None:
        content = content_of(sizes(store)[size])
        old = put(store, "a", b"old")
        writing = begin(store, "a", content, replaces=old.etag)
        put(store, "a", b"somebody else's")
        with pytest.raises(ObjectExists):
            writing.commit(md5_of(content))
        writing.abort()
        assert get(store, "a") == b"somebody else's"

    @pytest.mark.parametrize("size", ["one byte", "many parts"])
    def test_replaces_makes_no_new_object(self, store: ObjectStore, size: str) -> None:
        content = content_of(sizes(store)[size])
        old = put(store, "a", b"old")
        writing = begin(store, "a", content, replaces=old.etag)
        store.delete(ObjectName("a"))
        with pytest.raises(ObjectExists):
            writing.commit(md5_of(content))
        writing.abort()
        assert names_below(store) == []

    def test_two_writers_leave_one_whole_object(self, store: ObjectStore) -> None:
        contents = [content_of(sizes(store)["many parts"], seed) for seed in "ab"]
        writings = [begin(store, "a", content) for content in contents]
        done = at_once(
            lambda writing=writing, content=content: writing.commit(md5_of(content))  # type: ignore[misc]
            for writing, content in zip(writings, contents, strict=True)
        )
        # A service may drop the parts of all but the first; then those say so.
        committed = [result.etag for result in done if isinstance(result, ObjectInfo)]
        assert committed
        assert all(isinstance(result, (ObjectInfo, ObjectExists)) for result in done)
        assert store.head(ObjectName("a")).etag in committed
        assert get(store, "a") in contents
