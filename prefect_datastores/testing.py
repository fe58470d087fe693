"""The contract of a store, as tests: what `stores/base.py` says, each sentence tried.

For authors of stores. Subclass it, and give it two fixtures:

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self):
            with closing(MyStore(a_new_container())) as store:
                yield store  # empty, and its container exists

        @pytest.fixture
        def missing_store(self):
            with closing(MyStore("no-such-container")) as store:
                yield store  # its container does not exist, and may be made

`pytest.register_assert_rewrite("prefect_datastores.testing")`, before this is imported, makes
failures say more.
"""
# ruff: noqa: D102  the names of the tests are sentences

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from prefect_datastores.errors import (
    ConfigurationError,
    ContainerNotFound,
    DatastoreError,
    FolderNotEmpty,
    IntegrityError,
    NameCollision,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    SourceChanged,
    TransferError,
)
from prefect_datastores.names import NameRules, ObjectName
from prefect_datastores.stores.base import (
    NO_EXTRAS,
    Extras,
    ObjectInfo,
    ObjectStore,
    Page,
    Writing,
    part_size,
)
from prefect_datastores.stores.listed import list_objects

_MOMENT = 1_234_567_890  # seconds since the epoch
ODD_NAMES = (
    "a b",
    " leading",
    "trailing ",
    "%20",
    "%41",
    "%2e%2e",
    "100%",
    "#",
    "?a=b&c",
    "a+b",
    "a&b<c>\"'",
    "a;b=c,d",
    "[x]{y}(z)",
    "~$@!*|^`",
    "a:b",
    "tab\there",
    "two\nlines",
    "ends with a newline\n",
    "caf\u00e9",
    "\u65e5\u672c\u8a9e",
    "\U0001f680",
    "\u200b",
    ".hidden",
    "..two-dots",
    "...",
    "-rf",
    "deep/er/and/deeper.txt",
    "x" * 255,
)
"""Names that look harmful, are none, and come back as they were given."""

_THREADS = 8
_MOST_PAGES = 1000


def content_of(size: int, seed: str = "") -> bytes:
    """Return bytes that repeat nowhere, so that no part can stand in for another."""
    return hashlib.shake_128(f"{seed}-{size}".encode()).digest(size)


def md5_of(content: bytes) -> bytes:
    """Return the digest with which an object is committed."""
    return hashlib.md5(content, usedforsecurity=False).digest()


def parts_of(store: ObjectStore, content: bytes) -> list[tuple[int, int, memoryview]]:
    """Cut an object into the arguments of its `write_part` calls."""
    step = part_size(store.capabilities, len(content))
    return [
        (index, offset, memoryview(content)[offset : offset + step])
        for index, offset in enumerate(range(0, len(content), step))
    ]


def begin(
    store: ObjectStore,
    name: str,
    content: bytes,
    *,
    replaces: str | None = None,
    if_absent: bool = False,
    extras: Extras = NO_EXTRAS,
) -> Writing:
    """Write all parts of an object, and leave the commit to the caller."""
    writing = store.begin_write(
        ObjectName(name), len(content), replaces=replaces, if_absent=if_absent, extras=extras
    )
    for part in parts_of(store, content):
        writing.write_part(*part)
    return writing


def put(
    store: ObjectStore,
    name: str,
    content: bytes = b"x",
    *,
    replaces: str | None = None,
    if_absent: bool = False,
    extras: Extras = NO_EXTRAS,
) -> ObjectInfo:
    """Store a whole object."""
    writing = begin(store, name, content, replaces=replaces, if_absent=if_absent, extras=extras)
    return writing.commit(md5_of(content))


def get(store: ObjectStore, name: str) -> bytes:
    """Read a whole object, part by part, from one version."""
    info = store.head(ObjectName(name))
    content = bytearray(info.size)
    for _, offset, part in parts_of(store, bytes(content)):
        buffer = memoryview(content)[offset : offset + len(part)]
        store.read_into(info_name(info), offset, buffer, pin=info.etag)
    return bytes(content)


def info_name(info: ObjectInfo) -> ObjectName:
    """Return the checked name of a listed object."""
    return ObjectName(info.name)


def names_below(store: ObjectStore, prefix: str = "") -> list[str]:
    """Return the names of all objects below a prefix."""
    return [info.name for info in list_objects(store, prefix)]


def pages(
    store: ObjectStore, prefix: str = "", *, limit: int, recursive: bool = True
) -> list[Page]:
    """Return every page of a listing; one that would not end fails the test."""
    found = [store.list_page(prefix, limit=limit, recursive=recursive)]
    while (marker := found[-1].marker) is not None:
        found.append(store.list_page(prefix, marker=marker, limit=limit, recursive=recursive))
        assert len(found) < _MOST_PAGES, "the listing does not end"
    return found


def at_once(work: Iterable[Callable[[], object]]) -> list[object]:
    """Run everything in threads that begin together; give results, and our errors as results."""
    calls = list(work)
    gate = threading.Barrier(len(calls))

    def one(call: Callable[[], object]) -> object:
        gate.wait()
        try:
            return call()
        except DatastoreError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(one, calls))


def _sizes(store: ObjectStore) -> dict[str, int]:
    step = store.capabilities.part_size
    return {"empty": 0, "one byte": 1, "one part": step, "many parts": 2 * step + 3}


class StoreContract:
    """What every store does; subclass it with the fixtures `store` and `missing_store`."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        """Give an empty store whose container exists."""
        raise NotImplementedError("a subclass gives the store")

    @pytest.fixture
    def missing_store(self) -> ObjectStore:
        """Give a store whose container does not exist, but can be made."""
        raise NotImplementedError("a subclass gives the store")

    # The container.

    def test_a_new_store_has_a_root_and_no_objects(self, store: ObjectStore) -> None:
        store.check_root()
        assert store.list_page("") == Page()

    def test_a_write_that_is_only_tried_is_seen_by_nobody(
        self, store: ObjectStore, missing_store: ObjectStore
    ) -> None:
        probe = ObjectName("some/folder/probe")
        store.check_write(probe)
        assert names_below(store) == []
        with pytest.raises(ObjectNotFound):
            store.head(probe)
        with pytest.raises(ContainerNotFound):
            missing_store.check_write(probe)

    def test_a_missing_container_is_no_empty_listing(self, missing_store: ObjectStore) -> None:
        for attempt in (
            missing_store.check_root,
            lambda: missing_store.list_page(""),
            lambda: missing_store.list_page("some/folder/"),
            lambda: missing_store.list_page("", recursive=False),
            lambda: missing_store.list_page("", limit=1),
        ):
            with pytest.raises(ContainerNotFound):
                attempt()

    def test_no_object_is_found_or_made_in_a_missing_container(
        self, missing_store: ObjectStore
    ) -> None:
        with pytest.raises((ContainerNotFound, ObjectNotFound)):
            missing_store.head(ObjectName("a"))
        with pytest.raises((ContainerNotFound, ObjectNotFound)):
            missing_store.read_into(ObjectName("a"), 0, memoryview(bytearray(1)), pin=None)
        with pytest.raises(ContainerNotFound):
            put(missing_store, "a")

    def test_a_container_is_made_once_and_keeps_its_objects(
        self, missing_store: ObjectStore
    ) -> None:
        missing_store.create_root()
        missing_store.check_root()
        put(missing_store, "a", b"content")
        missing_store.create_root()
        assert get(missing_store, "a") == b"content"

    def test_the_capabilities_leave_room_for_parts(self, store: ObjectStore) -> None:
        capabilities = store.capabilities
        assert capabilities.kind
        assert capabilities.part_size > 0
        assert capabilities.max_parts > 0

    # Writing.

    @pytest.mark.parametrize("size", ["empty", "one byte", "one part", "many parts"])
    def test_an_object_reads_back_as_it_was_written(self, store: ObjectStore, size: str) -> None:
        content = content_of(_sizes(store)[size])
        put(store, "folder/object", content)
        assert get(store, "folder/object") == content

    @pytest.mark.parametrize("size", ["empty", "one byte", "many parts"])
    def test_commit_head_and_listing_agree(self, store: ObjectStore, size: str) -> None:
        content = content_of(_sizes(store)[size])
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
        content = content_of(_sizes(store)[size])
        put(store, "a", content)
        expected = md5_of(content) if store.capabilities.stores_digest else None
        assert store.head(ObjectName("a")).digest == expected
        listed = store.list_page("").objects[0].digest
        assert listed == (expected if store.capabilities.lists_digest else None)

    def test_parts_may_come_in_any_order(self, store: ObjectStore) -> None:
        content = content_of(_sizes(store)["many parts"])
        writing = store.begin_write(ObjectName("a"), len(content))
        for part in reversed(parts_of(store, content)):
            writing.write_part(*part)
        writing.commit(md5_of(content))
        assert get(store, "a") == content

    def test_parts_may_come_from_many_threads(self, store: ObjectStore) -> None:
        content = content_of(_sizes(store)["many parts"])
        writing = store.begin_write(ObjectName("a"), len(content))
        at_once(
            lambda part=part: writing.write_part(*part)  # type: ignore[misc]
            for part in parts_of(store, content)
        )
        writing.commit(md5_of(content))
        assert get(store, "a") == content

    def test_a_part_may_be_written_again(self, store: ObjectStore) -> None:
        content = content_of(_sizes(store)["many parts"])
        writing = begin(store, "a", content)
        writing.write_part(*parts_of(store, content)[1])
        writing.commit(md5_of(content))
        assert get(store, "a") == content

    def test_nothing_is_visible_before_the_commit(self, store: ObjectStore) -> None:
        content = content_of(_sizes(store)["many parts"])
        writing = begin(store, "folder/a", content)
        with pytest.raises(ObjectNotFound):
            store.head(ObjectName("folder/a"))
        assert [info for info in list_objects(store, "") if not info.is_marker] == []
        writing.commit(md5_of(content))
        assert names_below(store) == ["folder/a"]

    @pytest.mark.parametrize("size", ["one byte", "many parts"])
    def test_the_old_version_stands_until_the_commit(self, store: ObjectStore, size: str) -> None:
        content = content_of(_sizes(store)[size])
        old = put(store, "a", b"old")
        writing = begin(store, "a", content)
        assert get(store, "a") == b"old"
        assert store.head(ObjectName("a")).etag == old.etag
        new = writing.commit(md5_of(content))
        assert get(store, "a") == content
        assert new.etag != old.etag

    @pytest.mark.parametrize("size", ["empty", "one byte", "many parts"])
    def test_an_abort_leaves_nothing(self, store: ObjectStore, size: str) -> None:
        content = content_of(_sizes(store)[size])
        begin(store, "a", content).abort()
        assert store.list_page("") == Page()
        put(store, "a", b"the next attempt")
        assert get(store, "a") == b"the next attempt"

    def test_an_abort_leaves_the_old_version(self, store: ObjectStore) -> None:
        put(store, "a", b"old")
        begin(store, "a", content_of(_sizes(store)["many parts"])).abort()
        assert get(store, "a") == b"old"

    def test_an_object_that_lacks_a_part_is_not_committed(self, store: ObjectStore) -> None:
        content = content_of(_sizes(store)["many parts"])
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
        content, given = content_of(_sizes(store)[size]), Extras(modified=_MOMENT * 10**9)
        if not store.capabilities.keeps_times:
            with pytest.raises(ConfigurationError):
                begin(store, "a", content, extras=given)
            return
        first = put(store, "a", content, extras=given)
        second = put(store, "a", content, extras=given)
        assert first.modified == second.modified == _MOMENT
        assert first.etag != second.etag
        assert store.head(ObjectName("a")) == second
        (listed,) = list_objects(store, "")
        assert (listed.modified, listed.etag) == (_MOMENT, second.etag)

    @pytest.mark.parametrize("size", ["empty", "many parts"])
    def test_properties_are_kept_or_refused(self, store: ObjectStore, size: str) -> None:
        content, keeps = content_of(_sizes(store)[size]), Extras(keeps_properties=True)
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
        content = content_of(_sizes(store)[size])
        put(store, "a", content, if_absent=True)
        with pytest.raises(ObjectExists):
            put(store, "a", content_of(len(content), "other"), if_absent=True)
        assert get(store, "a") == content

    @pytest.mark.parametrize("size", ["one byte", "many parts"])
    def test_if_absent_is_decided_by_the_commit(self, store: ObjectStore, size: str) -> None:
        content = content_of(_sizes(store)[size])
        writing = begin(store, "a", content, if_absent=True)
        put(store, "a", b"somebody else's")
        with pytest.raises(ObjectExists):
            writing.commit(md5_of(content))
        writing.abort()
        assert get(store, "a") == b"somebody else's"

    @pytest.mark.parametrize("size", ["empty", "one byte", "many parts"])
    def test_replaces_commits_over_its_version(self, store: ObjectStore, size: str) -> None:
        content = content_of(_sizes(store)[size])
        old = put(store, "a", b"old")
        put(store, "a", content, replaces=old.etag)
        assert get(store, "a") == content

    @pytest.mark.parametrize("size", ["one byte", "many parts"])
    def test_replaces_commits_over_no_other_version(self, store: ObjectStore, size: str) -> None:
        content = content_of(_sizes(store)[size])
        old = put(store, "a", b"old")
        writing = begin(store, "a", content, replaces=old.etag)
        put(store, "a", b"somebody else's")
        with pytest.raises(ObjectExists):
            writing.commit(md5_of(content))
        writing.abort()
        assert get(store, "a") == b"somebody else's"

    @pytest.mark.parametrize("size", ["one byte", "many parts"])
    def test_replaces_makes_no_new_object(self, store: ObjectStore, size: str) -> None:
        content = content_of(_sizes(store)[size])
        old = put(store, "a", b"old")
        writing = begin(store, "a", content, replaces=old.etag)
        store.delete(ObjectName("a"))
        with pytest.raises(ObjectExists):
            writing.commit(md5_of(content))
        writing.abort()
        assert names_below(store) == []

    def test_two_writers_leave_one_whole_object(self, store: ObjectStore) -> None:
        contents = [content_of(_sizes(store)["many parts"], seed) for seed in "ab"]
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

    # Listing.

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

    # Moving.

    @pytest.mark.parametrize("size", ["empty", "one byte", "many parts"])
    def test_an_object_gets_another_name(self, store: ObjectStore, size: str) -> None:
        content = content_of(_sizes(store)[size])
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
        content = content_of(_sizes(store)[size])
        put(store, "a", content)
        there = put(store, "sub/b", b"there")
        moved = store.move(ObjectName("a"), ObjectName("sub/b"))
        assert moved.etag == store.head(ObjectName("sub/b")).etag != there.etag
        assert get(store, "sub/b") == content
        assert names_below(store) == ["sub/b"]

    def test_a_moved_object_keeps_its_time_and_properties(self, store: ObjectStore) -> None:
        can = store.capabilities
        given = Extras(modified=_MOMENT * 10**9) if can.keeps_times else NO_EXTRAS
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
        assert "empty" in _folders_in(store, "")

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

        done = at_once([work] * _THREADS)
        # Where it is copied, another one may have copied it, and this one found its copy.
        assert "content" in done
        assert all(
            isinstance(result, (str, ObjectExists, ObjectNotFound, SourceChanged))
            for result in done
        )
        assert get(store, "to") == b"content"
        assert names_below(store) == ["to"]

    def test_of_many_threads_one_moves_its_object_to_a_name(self, store: ObjectStore) -> None:
        for number in range(_THREADS):
            put(store, f"from/{number}", f"{number}".encode())

        def work(number: int) -> str:
            return store.move(ObjectName(f"from/{number}"), ObjectName("a"), if_absent=True).etag

        done = at_once(lambda n=n: work(n) for n in range(_THREADS))  # type: ignore[misc]
        _one_won(done, store)
        assert len(names_below(store)) == _THREADS

    def test_readers_see_one_whole_version_while_others_are_moved_over_it(
        self, store: ObjectStore
    ) -> None:
        versions = [bytes([number]) * 4096 for number in range(_THREADS)]
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
                    for n in range(_THREADS)
                ),
                *[read] * _THREADS,
            ]
        )
        seen = [result for result in done if isinstance(result, bytes)]
        moved = [result for result in done if isinstance(result, ObjectInfo)]
        assert (len(seen), len(moved)) == (_THREADS, _THREADS)
        assert set(seen) <= set(versions)
        assert [info.name for info in list_objects(store, "") if not info.is_marker] == ["a"]

    # Folders that stay when they are empty.

    def test_an_empty_folder_is_made_and_removed(self, store: ObjectStore) -> None:
        for _ in range(2):
            store.make_folder(ObjectName("a/b"))
        assert _folders_in(store, "a/") == {"a/b"}
        assert "a" in _folders_in(store, "")
        assert [info.is_marker for info in list_objects(store, "a/b")] == [True]
        store.remove_empty_folder(ObjectName("a/b"))
        assert _folders_in(store, "a/") == set()
        with pytest.raises(ObjectNotFound):
            store.remove_empty_folder(ObjectName("a/b"))
        if store.capabilities.has_folders:  # the one above it was made as well
            store.remove_empty_folder(ObjectName("a"))
        assert store.list_page("") == Page()

    def test_a_folder_is_removed_only_when_it_is_empty(self, store: ObjectStore) -> None:
        store.make_folder(ObjectName("a"))
        put(store, "a/b/c", b"c")
        store.make_folder(ObjectName("d/e"))
        for full in ("a", "a/b", "d"):
            with pytest.raises(FolderNotEmpty):
                store.remove_empty_folder(ObjectName(full))
        assert get(store, "a/b/c") == b"c"
        assert _folders_in(store, "d/") == {"d/e"}
        store.delete(ObjectName("a/b/c"))
        if store.capabilities.has_folders:
            store.remove_empty_folder(ObjectName("a/b"))
        store.remove_empty_folder(ObjectName("a"))
        assert "a" not in _folders_in(store, "")

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
            assert "a" in _folders_in(store, "")
            store.remove_empty_folder(ObjectName("a"))
            assert store.list_page("") == Page()

    def test_of_many_threads_each_makes_the_folder(self, store: ObjectStore) -> None:
        made = [lambda: store.make_folder(ObjectName("a/b/c"))] * _THREADS
        assert at_once(made) == [None] * _THREADS
        assert _folders_in(store, "a/b/") == {"a/b/c"}

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

        done = at_once(lambda n=n: work(n) for n in range(_THREADS))  # type: ignore[misc]
        _one_won(done, store, "place/mark")

    def test_a_folder_is_removed_with_all_below_it(self, store: ObjectStore) -> None:
        if not store.capabilities.has_folders:
            return
        for name in ("old/a", "old/sub/b", "older/c"):
            put(store, name)
        store.remove_folder(ObjectName("old"))
        store.remove_folder(ObjectName("old"))
        store.remove_folder(ObjectName("nothing/at/all"))
        assert names_below(store) == ["older/c"]

    # Names.

    def test_odd_names_come_back_as_they_were_given(self, store: ObjectStore) -> None:
        rules = store.name_rules()
        # What a place refuses stops a plan, so that it is never kept under another name.
        names = [f"odd/{name}" for name in ODD_NAMES if not _faults(rules, name)]
        for name in names:
            put(store, name, name.encode())
        assert names_below(store, "odd/") == sorted(names)
        for name in names:
            assert store.head(ObjectName(name)).name == name
            assert get(store, name) == name.encode()
            assert name in names_below(store, name)
            store.delete(ObjectName(name))
            assert name not in names_below(store, name)
        assert [info for info in list_objects(store, "odd/") if not info.is_marker] == []

    def test_names_that_look_alike_are_other_objects(self, store: ObjectStore) -> None:
        rules = store.name_rules()
        names = ["%41", "A", "a%2Fb", "a+b", "a b", "a%20b", "..a", ".a"]
        # Where names are told apart without case, `A` would be the folder of `a/b`.
        names += ["a/b"] if rules.case_sensitive else ["c/b"]
        for name in names:
            put(store, name, name.encode())
        assert [get(store, name) for name in names] == [name.encode() for name in names]
        assert names_below(store) == sorted(names)

    @pytest.mark.parametrize(
        ("one", "other"), [("case", "Case"), ("e\u0301", "\u00e9"), ("\u017f", "s")]
    )
    def test_the_name_rules_say_which_names_are_one(
        self, store: ObjectStore, one: str, other: str
    ) -> None:
        rules = store.name_rules()
        put(store, one, b"one")
        put(store, other, b"other")
        distinct = rules.key(one) != rules.key(other)
        assert len(names_below(store)) == (2 if distinct else 1)
        assert get(store, one) == (b"one" if distinct else b"other")

    # Many threads.

    def test_many_threads_work_on_their_own_objects(self, store: ObjectStore) -> None:
        def work(number: int) -> list[bytes]:
            read = []
            for turn in range(3):
                name = f"thread-{number}/{turn}"
                put(store, name, name.encode())
                read.append(get(store, name))
                assert names_below(store, f"thread-{number}/{turn}") == [name]
            store.delete(ObjectName(f"thread-{number}/0"))
            return read

        done = at_once(lambda n=n: work(n) for n in range(_THREADS))  # type: ignore[misc]
        assert done == [[f"thread-{n}/{t}".encode() for t in range(3)] for n in range(_THREADS)]
        assert names_below(store) == sorted(
            f"thread-{n}/{t}" for n in range(_THREADS) for t in (1, 2)
        )

    def test_of_many_threads_one_makes_a_new_object(self, store: ObjectStore) -> None:
        def work(number: int) -> str:
            return put(store, "a", f"{number}".encode(), if_absent=True).etag

        done = at_once(lambda n=n: work(n) for n in range(_THREADS))  # type: ignore[misc]
        _one_won(done, store)

    def test_of_many_threads_one_replaces_a_version(self, store: ObjectStore) -> None:
        old = put(store, "a", b"old")

        def work(number: int) -> str:
            return put(store, "a", f"{number}".encode(), replaces=old.etag).etag

        done = at_once(lambda n=n: work(n) for n in range(_THREADS))  # type: ignore[misc]
        _one_won(done, store)

    def test_readers_see_one_whole_version_while_it_is_replaced(self, store: ObjectStore) -> None:
        versions = [bytes([number]) * 4096 for number in range(_THREADS)]
        put(store, "a", versions[0])

        def read() -> bytes:
            buffer = bytearray(4096)
            store.read_into(ObjectName("a"), 0, memoryview(buffer), pin=None)
            return bytes(buffer)

        done = at_once(
            [
                *(lambda version=version: put(store, "a", version) for version in versions),
                *[read] * _THREADS,
            ]
        )
        seen = [result for result in done if isinstance(result, bytes)]
        assert len(seen) == _THREADS
        assert set(seen) <= set(versions)


def _folders_in(store: ObjectStore, prefix: str) -> set[str]:
    """Return the folders right below a prefix, whether they are told as such or by a marker."""
    page = store.list_page(prefix, recursive=False)
    marked = {info.name.removesuffix("/") for info in page.objects if info.is_marker}
    return {*page.folders, *(name for name in marked if f"{name}/" != prefix)}


def _faults(rules: NameRules, name: str) -> list[str]:
    return [fault for part in name.split("/") if (fault := rules.fault(part))]


def _one_won(done: Sequence[object], store: ObjectStore, name: str = "a") -> None:
    won = [number for number, result in enumerate(done) if isinstance(result, str)]
    lost = [result for result in done if isinstance(result, ObjectExists)]
    assert len(won) == 1
    assert len(lost) == len(done) - 1
    assert get(store, name) == str(won[0]).encode()
