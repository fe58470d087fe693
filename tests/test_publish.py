"""Folders that are published at once: readers see the old one or the new one, whole, whatever happens."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import Place, RemotePlace
from servers import sandbox
from servers.faults import Fault
from small_stores import (
    PART,
    Around,
    AroundWriting,
    SmallLocalStore,
    make_tree,
    tree,
)

from prefect_datastores.errors import (
    AccessDenied,
    ConfigurationError,
    DatastoreError,
    IntegrityError,
    NameCollision,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    ServiceBusy,
    SourceChanged,
    StageFailed,
    TransferCancelled,
    UnsafeName,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.download import plan as plan_of_download
from prefect_datastores.staging.generations import (
    DATA,
    LONGEST_POINTER,
    POINTER,
    Pointer,
    made_at,
    new_generation,
)
from prefect_datastores.staging.plan import Overwrite
from prefect_datastores.staging.publish import publish, take_back
from prefect_datastores.staging.published import objects, pointer_of
from prefect_datastores.staging.report import TransferReport
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.base import ObjectInfo, ObjectStore, Page, Writing
from prefect_datastores.stores.blob import BlobStore
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.stores.memory import MemoryStore
from prefect_datastores.stores.retry import RetryingStore, RetryPolicy
from prefect_datastores.testing import at_once, content_of, get, names_below, put

OLD = {"a": b"old a", "gone": b"gone", "sub/x": b"old x", "!first": b"1"}
NEW = {"a": b"new a", "sub/x": b"old x", "sub/deep/y": content_of(2 * PART + 3), "empty": b""}
DAY = 24 * 3600.0


class UnswappingLocalStore(SmallLocalStore):
    """A disk that cannot exchange two folders."""

    def swaps_folders(self) -> bool:
        return False


@pytest.fixture(params=["memory", "local", "unswapping", "blob", "share", "lake"])
def store(
    request: pytest.FixtureRequest, new_place: Callable[[str], Place], tmp_path: Path
) -> Iterator[ObjectStore]:
    """An empty store of each kind."""
    if request.param != "unswapping":
        made = new_place(request.param).store
        assert made.swaps_folders() == (request.param == "local")
        yield made
        return
    (tmp_path / "store").mkdir()
    with closing(UnswappingLocalStore(tmp_path / "store")) as made:
        yield made


with_pointers = pytest.mark.parametrize(
    "store", ["memory", "unswapping", "blob", "share", "lake"], indirect=True
)
"""Where folders are not exchanged."""


@pytest.fixture
def send(tmp_path: Path) -> Callable[..., TransferReport]:
    """Publishes some files at "top/x"."""
    numbers = iter(range(1000))

    def publish_files(
        store: ObjectStore,
        files: dict[str, bytes],
        overwrite: Overwrite = "if_changed",
        target: str = "top/x",
        **more: Any,
    ) -> TransferReport:
        source = make_tree(tmp_path / f"source{next(numbers)}", files)
        source.mkdir(exist_ok=True)
        return publish(store, folder_source(source), target, overwrite, **more)

    return publish_files


Send = Callable[..., TransferReport]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., dict[str, bytes | str]]:
    """Downloads a folder, and returns what came."""
    numbers = iter(range(1000))

    def fetch(store: ObjectStore, path: str = "top/x", **more: Any) -> dict[str, bytes | str]:
        place = tmp_path / f"read{next(numbers)}"
        download(store, place, DownloadRequest(path, allow_empty=True, **more))
        return tree(place)

    return fetch


Read = Callable[..., dict[str, bytes | str]]


def shown(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.name for info in objects(store, prefix) if not info.is_marker]


def stored(store: ObjectStore) -> list[str]:
    """The names of all objects, those that readers do not see as well."""
    return [info.name for info in list_objects(store, "") if not info.is_marker]


def by_pointer(store: ObjectStore) -> bool:
    return not store.swaps_folders()


# What readers see.


def test_readers_see_the_last_publish_and_nothing_else(
    store: ObjectStore, send: Send, read: Read
) -> None:
    first = send(store, OLD)
    assert read(store) == OLD
    second = send(store, NEW)
    assert read(store) == NEW
    assert shown(store) == sorted(f"top/x/{name}" for name in NEW)
    for report, files in ((first, OLD), (second, NEW)):
        assert {row.name for row in report.rows} == {f"top/x/{name}" for name in files}
        assert {row.action for row in report.rows} == {"moved"}
        assert report.publication is not None
        assert report.publication.pointer.count == len(files)
        assert report.publication.pointer.size == sum(map(len, files.values()))
    assert second.publication.before == first.publication.pointer  # type: ignore[union-attr]
    assert second.to_dict()["published"] in second.summary()


def test_a_folder_on_a_disk_that_swaps_is_a_folder_of_plain_files(
    tmp_path: Path, send: Send
) -> None:
    (tmp_path / "root").mkdir()
    with closing(SmallLocalStore(tmp_path / "root")) as store:
        for files in (OLD, NEW):
            send(store, files)
            there = tree(tmp_path / "root/top/x")
            assert there.pop(POINTER)
            assert there == files


def test_a_pointer_says_what_other_tools_need(blob_store: ObjectStore, send: Send) -> None:
    first, second = (send(blob_store, files) for files in (OLD, NEW))
    pointer = json.loads(get(blob_store, f"top/x/{POINTER}"))
    generation = second.publication.pointer.generation  # type: ignore[union-attr]
    assert pointer == {
        "format": 1,
        "generation": generation,
        "at": f"{DATA}/{generation}",
        "count": len(NEW),
        "bytes": sum(map(len, NEW.values())),
        "previous": first.publication.pointer.generation,  # type: ignore[union-attr]
    }
    assert get(blob_store, f"top/x/{pointer['at']}/a") == b"new a"


def test_the_folder_above_shows_published_folders_among_others(
    store: ObjectStore, send: Send, read: Read
) -> None:
    send(store, OLD, target="top/x")
    send(store, NEW, target="top/y/z")
    for name in ("top/plain", "top/.hidden", "top/xy/b", "top/~"):
        put(store, name, b"plain")
    below = {f"x/{name}": data for name, data in OLD.items()}
    below |= {f"y/z/{name}": data for name, data in NEW.items()}
    below |= dict.fromkeys(["plain", ".hidden", "xy/b", "~"], b"plain")
    assert read(store, "top") == below
    assert read(store, "") == {f"top/{name}": data for name, data in below.items()}
    assert read(store, "", whole_names=True) == read(store, "")
    assert read(store, "top/xy") == {"b": b"plain"}
    assert read(store, "top", include=("z/sub",)) == {}
    assert set(read(store, "top", include=("y/z/sub",))) == {"y/z/sub/x", "y/z/sub/deep/y"}


def test_a_place_within_a_published_folder_is_found(
    store: ObjectStore, send: Send, read: Read, tmp_path: Path
) -> None:
    send(store, OLD)
    send(store, NEW)
    assert read(store, "top/x/a") == {"a": b"new a"}
    assert read(store, "top/x/sub") == {"x": b"old x", "deep/y": NEW["sub/deep/y"]}
    assert read(store, "top/x/sub/deep/y") == {"y": NEW["sub/deep/y"]}
    assert read(store, "top/x/sub", whole_names=True) == {
        "top/x/sub/x": b"old x",
        "top/x/sub/deep/y": NEW["sub/deep/y"],
    }
    made = plan_of_download(store, tmp_path / "nowhere", DownloadRequest("top/x/sub"))
    assert [str(item.path) for item in made.fetches] == ["deep/y", "x"]
    for path in ("top/x/gone", "top/x/su", "top/x/sub/deep/y/z", "top/xx"):
        with pytest.raises(ObjectNotFound):
            download(store, tmp_path / "nothing", DownloadRequest(path))


def test_the_root_of_a_store_can_be_published(store: ObjectStore, send: Send, read: Read) -> None:
    for files in (OLD, NEW):
        send(store, files, target="")
        assert read(store, "") == files
        assert shown(store) == sorted(files)
    assert read(store, "sub/deep") == {"y": NEW["sub/deep/y"]}


def test_what_is_read_is_asked_for_by_no_more_requests_where_nothing_is_published(
    remote: RemotePlace, read: Read
) -> None:
    with remote.through() as seen:
        put(seen.bare, "x/a")
        before = len(seen.proxy.requests)
        assert read(seen.bare, "x") == {"a": b"x"}
        asked = seen.proxy.requests[before:]
        assert [line.split()[0] for line in asked] == ["HEAD", "GET", "GET"]


def test_every_face_of_a_datastore_shows_the_same(kept: Place, tmp_path: Path) -> None:
    datastore: Any = kept.datastore()
    source = make_tree(tmp_path / "source", {"a": b"1", "sub/b": b"2"})
    report = datastore.upload(source, "x", publish="atomic", show_progress=False)
    assert report.publication is not None
    names = [info.name for info in datastore.list_objects("x")]
    assert names == ["x/a", "x/sub/b"]
    assert [info.name for info in datastore.list_objects(limit=1)] == ["x/a"]
    assert [info.name for info in datastore.list_objects("x/sub")] == ["x/sub/b"]
    assert [info.name for info in datastore.list_objects("x/a")] == ["x/a"]
    assert datastore.read_path("x/sub/b") == b"2"
    assert datastore.exists("x/a")
    assert not datastore.exists("x/b")
    datastore.get_directory("x", str(tmp_path / "got"))
    assert tree(tmp_path / "got") == {"a": b"1", "sub/b": b"2"}
    with pytest.raises(ObjectNotFound):
        datastore.list_objects("x/c")
    with pytest.raises(ObjectNotFound):
        datastore.read_path("x/b")
    with pytest.raises(ConfigurationError, match="publish='some'"):
        datastore.upload(source, "y", publish="some")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="was published at once"):
        datastore.upload(source, "x", overwrite=True)


# What is kept, and what is refused.


def test_the_same_content_is_not_published_again(store: ObjectStore, send: Send) -> None:
    send(store, NEW)
    before = stored(store)
    report = send(store, NEW)
    if not store.capabilities.stores_digest:  # nothing can be said of it
        assert report.count == len(NEW)
        return
    assert {row.action for row in report.rows} == {"unchanged"}
    assert len(report.rows) == len(NEW)
    assert report.publication is None
    assert stored(store) == before
    for files in (
        {**NEW, "more": b""},
        {name: data for name, data in NEW.items() if name != "empty"},
        {**NEW, "a": b"NEW a"},
        {**NEW, "a": b"longer"},
    ):
        assert send(store, files).publication is not None
        assert send(store, NEW).publication is not None


def test_replace_publishes_the_same_content_again(store: ObjectStore, send: Send) -> None:
    send(store, NEW)
    assert send(store, NEW, "replace").count == len(NEW)


def test_skip_keeps_what_is_published(store: ObjectStore, send: Send, read: Read) -> None:
    assert send(store, OLD, "skip").count == len(OLD)
    before = stored(store)
    report = send(store, NEW, "skip")
    assert {row.action for row in report.rows} == {"skipped"}
    assert len(report.rows) == len(NEW)
    assert stored(store) == before
    assert read(store) == OLD


def test_fail_moves_nothing_when_anything_is_there(store: ObjectStore, send: Send) -> None:
    send(store, OLD, "fail")
    put(store, "top/y/sub/b")
    for target in ("top/x", "top/y"):
        before = stored(store)
        with pytest.raises(ObjectExists, match="overwrite is 'fail'"):
            send(store, NEW, "fail", target=target)
        assert stored(store) == before


def test_nothing_to_publish_leaves_what_is_there(
    store: ObjectStore, send: Send, read: Read
) -> None:
    send(store, OLD)
    assert send(store, {}).rows == ()
    assert read(store) == OLD


@pytest.mark.parametrize("rule", ["replace", "if_changed", "skip"])
def test_what_was_stored_singly_is_never_published_over(
    store: ObjectStore, send: Send, rule: Overwrite
) -> None:
    put(store, "top/x/sub/b")
    with pytest.raises(ConfigurationError, match=r"stored singly .'top/x/sub/b'"):
        send(store, NEW, rule)
    put(store, "file")
    with pytest.raises(PlaceTaken, match="An object stands at"):
        send(store, NEW, rule, target="file")
    assert stored(store) == ["file", "top/x/sub/b"]


@pytest.mark.parametrize("files", [1, 20])
@pytest.mark.parametrize("rule", ["replace", "if_changed", "skip", "fail"])
def test_nothing_is_stored_singly_in_a_published_folder(
    store: ObjectStore, send: Send, tmp_path: Path, rule: Overwrite, files: int
) -> None:
    send(store, OLD)
    before = stored(store)
    source = folder_source(make_tree(tmp_path / "s", {f"{n}": b"" for n in range(files)}))
    with pytest.raises(ConfigurationError, match='Say publish="atomic"'):
        upload(store, source, "top/x", rule)
    assert stored(store) == before
    upload(store, source, "top/xy", rule)


def test_a_folder_in_a_published_one_is_not_published(store: ObjectStore, send: Send) -> None:
    send(store, OLD)
    for target in ("top/x/sub", "top/x/new/deep"):
        with pytest.raises(ConfigurationError, match="lies in a folder that was published"):
            send(store, NEW, target=target)
    with pytest.raises(ConfigurationError, match="stored singly"):
        send(store, NEW, target="top")


def test_files_that_are_named_like_a_pointer_are_refused(
    store: ObjectStore, send: Send, tmp_path: Path
) -> None:
    hostile = {f"sub/{POINTER}": b"", f"{DATA}/b": b"", "fine": b""}
    with pytest.raises(UnsafeName, match="kept for published folders") as refused:
        send(store, hostile)
    assert POINTER in str(refused.value)
    assert DATA in str(refused.value)
    with pytest.raises(UnsafeName):
        upload(store, folder_source(make_tree(tmp_path / "s", hostile)), "x", "replace")
    with pytest.raises(UnsafeName, match="name another"):
        upload(store, folder_source(make_tree(tmp_path / "t", {"a": b""})), f"x/{DATA}", "replace")
    assert stored(store) == []


def test_a_name_that_is_too_long_below_its_generation_stops_the_publish(
    store: ObjectStore, send: Send
) -> None:
    long = "/".join(["n" * 100] * 10)
    with pytest.raises(UnsafeName, match="1024 characters"):
        send(store, {long: b""})
    assert stored(store) == []


# What a failure leaves.


class Failing(Around):
    """Refuses to store one object."""

    def begin_write(self, name: ObjectName, size: int, **more: Any) -> Writing:
        if name.endswith("/a"):
            raise AccessDenied("No.")
        return self.inner.begin_write(name, size, **more)


def test_a_file_that_fails_leaves_the_old_folder(
    store: ObjectStore, send: Send, read: Read
) -> None:
    send(store, OLD)
    before = stored(store)
    with pytest.raises(StageFailed) as failed:
        send(Failing(store), NEW)
    assert [row.name for row in failed.value.report.of("failed")] == ["top/x/a"]
    assert read(store) == OLD
    assert stored(store) == before


class Meddling(Around):
    """Does something with each object that was stored."""

    def __init__(self, inner: ObjectStore, meddle: Callable[[str], None]) -> None:
        super().__init__(inner)
        self.meddle = meddle

    def begin_write(self, name: ObjectName, size: int, **more: Any) -> Writing:
        return MeddlingWriting(self.inner.begin_write(name, size, **more), name, self.meddle)


class MeddlingWriting(AroundWriting):
    def __init__(self, inner: Writing, name: str, meddle: Callable[[str], None]) -> None:
        super().__init__(inner)
        self.name, self.meddle = name, meddle

    def commit(self, digest: bytes) -> ObjectInfo:
        info = self.inner.commit(digest)
        self.meddle(self.name)
        return info


@pytest.mark.parametrize("what", ["missing", "length", "content", "more"])
def test_what_is_stored_is_compared_with_what_was_sent(
    store: ObjectStore, send: Send, read: Read, what: str
) -> None:
    def meddle(name: str) -> None:
        if name.endswith("/a"):
            if what == "missing":
                store.delete(ObjectName(name))
            elif what == "more":
                put(store, f"{name}-more")
            else:
                put(store, name, b"longer" if what == "length" else b"NEW a")

    send(store, OLD)
    before = stored(store)
    if what == "content" and not store.capabilities.stores_digest:
        return
    with pytest.raises(IntegrityError, match="Nothing was published"):
        send(Meddling(store, meddle), NEW)
    assert read(store) == OLD
    assert stored(store) == before


@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_cancelled_publish_leaves_the_old_folder_and_nothing_else(
    store: ObjectStore, send: Send, read: Read, after: int
) -> None:
    cancellation, left = Cancellation(), after
    lock = threading.Lock()

    def count(_: str) -> None:
        nonlocal left
        with lock:
            left -= 1
            if left == 0:
                cancellation.cancel()

    @contextmanager
    def reopen(_: Cancellation) -> Iterator[ObjectStore]:
        yield store

    send(store, OLD)
    before = stored(store)
    with pytest.raises(TransferCancelled):
        send(Meddling(store, count), NEW, cancellation=cancellation, reopen=reopen)
    assert read(store) == OLD
    assert stored(store) == before


def test_a_cancel_closes_the_store_and_what_was_staged_is_removed_all_the_same(
    remote: RemotePlace, send: Send, read: Read
) -> None:
    datastore: Any = remote.datastore()
    stop = Cancellation()
    with datastore.open_store(stop) as store:
        cancelling = Meddling(store, lambda _: stop.cancel())
        with pytest.raises(TransferCancelled):
            send(cancelling, NEW, cancellation=stop, reopen=datastore.open_store)
    assert [name for name in stored(remote.store) if name[-1] != "/"] == []


def test_an_answer_that_is_lost_is_asked_for_again(
    remote: RemotePlace, send: Send, read: Read
) -> None:
    at_the_pointer = "PUT .*" + POINTER
    with remote.through(Fault(at_the_pointer, "lose", times=None)) as seen:
        assert send(seen.bare, OLD).publication is not None
        retrying = RetryingStore(seen.bare, RetryPolicy(first_pause=0.0, longest_pause=0.0))
        report = send(retrying, NEW)
        assert report.publication is not None
        assert read(seen.bare) == NEW


class Uncertain(Around):
    """The pointer's write is not answered, and done when nobody waits for it any more."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.later: list[Callable[[], ObjectInfo]] = []

    def begin_write(self, name: ObjectName, size: int, **more: Any) -> Writing:
        writing = self.inner.begin_write(name, size, **more)
        return UncertainWriting(writing, self) if name.endswith(POINTER) else writing


class UncertainWriting(AroundWriting):
    def __init__(self, inner: Writing, store: Uncertain) -> None:
        super().__init__(inner)
        self.store = store

    def commit(self, digest: bytes) -> ObjectInfo:
        self.store.later.append(partial(self.inner.commit, digest))
        raise ServiceBusy("No answer.")

    def abort(self, *, keep: bool = False) -> None:
        pass


def test_what_the_service_may_show_later_is_not_removed(send: Send, read: Read) -> None:
    store = MemoryStore()
    send(store, OLD)
    uncertain = Uncertain(store)
    with pytest.raises(ServiceBusy):
        send(uncertain, NEW)
    assert read(store) == OLD
    uncertain.later[0]()
    assert read(store) == NEW


# Readers and publishers at once.


def test_a_reader_under_way_ends_with_what_it_began_with(
    store: ObjectStore, send: Send, read: Read, tmp_path: Path
) -> None:
    if not by_pointer(store):
        pytest.skip("a folder that is exchanged is told by its readers' pins instead")
    send(store, OLD)
    listing = objects(store, "top/x/")
    first = next(listing)
    for files in (NEW, OLD, NEW):
        send(store, files)
    found = {info.name: get(store, info.asked) for info in (first, *listing)}
    assert found == {f"top/x/{name}": data for name, data in OLD.items()}


class Interrupting(Around):
    """Does something after a page of a listing was fetched, or before an object is read."""

    def __init__(self, inner: ObjectStore, work: Callable[[], None], *, at: str) -> None:
        super().__init__(inner)
        self.work, self.at, self.busy = work, at, threading.Lock()

    def once(self) -> None:
        with self.busy:
            work, self.work = self.work, lambda: None
            work()

    def list_page(self, prefix: str, **more: Any) -> Page:
        return self.listed(self.inner.list_page(prefix, **more))

    def page_by_component(self, prefix: str, **more: Any) -> Page:
        return self.listed(self.inner.page_by_component(prefix, **more))

    def listed(self, page: Page) -> Page:
        if self.at == "list":
            self.once()
        return page

    def read_into(self, name: ObjectName, *more: Any, **most: Any) -> None:
        if self.at == "read" and not name.endswith(POINTER):
            self.once()
        self.inner.read_into(name, *more, **most)


@pytest.mark.parametrize("at", ["list", "read"])
@pytest.mark.parametrize("path", ["top/x", "top", "top/x/sub"])
def test_a_publish_during_a_download_mixes_nothing(
    store: ObjectStore, send: Send, read: Read, at: str, path: str
) -> None:
    send(store, OLD)
    between = Interrupting(store, lambda: send(store, NEW) and None, at=at)

    def below(files: dict[str, bytes]) -> dict[str, bytes]:
        whole = {f"top/x/{name}": data for name, data in files.items()}
        return {
            name[len(path) + 1 :]: data
            for name, data in whole.items()
            if name.startswith(f"{path}/")
        }

    try:
        found = read(between, path)
    except (StageFailed, SourceChanged, IntegrityError):
        assert not by_pointer(store)  # the files have given way, and the reader is told
        found = read(store, path)
        assert found == below(NEW)
    assert found in (below(OLD), below(NEW))


@pytest.mark.parametrize("at", ["list", "read"])
def test_a_publish_that_is_taken_back_during_a_download_is_told(
    store: ObjectStore, send: Send, read: Read, at: str
) -> None:
    send(store, OLD)
    publication = send(store, NEW).publication
    assert publication is not None
    between = Interrupting(store, lambda: take_back(store, publication) and None, at=at)
    try:
        found = read(between)
    except (StageFailed, SourceChanged, IntegrityError):
        found = read(store)
    assert found == OLD


def test_what_is_taken_away_while_it_is_listed_is_no_short_folder(send: Send) -> None:
    store = MemoryStore()
    publication = send(store, {f"{n}": b"" for n in range(10)}).publication
    assert publication is not None
    listing = objects(store, "top/x/", page_size=3)
    next(listing)
    take_back(store, publication)
    with pytest.raises(IntegrityError, match="published with 10 objects"):
        list(listing)
    assert names_below(store) == []


def test_of_two_publishers_one_is_told(store: ObjectStore, send: Send, read: Read) -> None:
    for begun in (None, OLD):
        if begun:
            send(store, begun, target="top/y")
        target = "top/y" if begun else "top/x"
        gate = threading.Barrier(4)

        def one(number: int, target: str = target, gate: threading.Barrier = gate) -> int:
            passed: list[str] = []

            def wait(name: str) -> None:
                if not passed:  # all of them have looked at what stands there
                    passed.append(name)
                    gate.wait()

            send(Meddling(store, wait), {"n": b"%d" % number, f"{number}": b""}, "replace", target)
            return number

        done = at_once([partial(one, number) for number in range(4)])
        won = [result for result in done if isinstance(result, int)]
        lost = [result for result in done if not isinstance(result, int)]
        assert all(isinstance(error, ObjectExists) for error in lost), lost
        conditional = isinstance(store, BlobStore) or not store.capabilities.has_folders
        if not conditional and by_pointer(store) and begun:
            assert won  # a disk looks at a version and replaces it in two steps
        else:
            assert len(won) == 1
        there = read(store, target)
        number = int(there["n"])
        assert number in won
        assert there == {"n": b"%d" % number, f"{number}": b""}


def test_a_publish_that_comes_before_the_exchange_stays(tmp_path: Path, send: Send) -> None:
    (tmp_path / "root").mkdir()

    class Late(SmallLocalStore):
        """Another publish comes just before the exchange."""

        def move_folder(self, name: ObjectName, to: ObjectName, **more: Any) -> None:
            if not came:
                came.append(True)
                send(store, {"other": b"other"}, "replace")
            super().move_folder(name, to, **more)

    came: list[bool] = []
    with closing(SmallLocalStore(tmp_path / "root")) as store, closing(Late(store.root)) as late:
        send(store, OLD)
        with pytest.raises(ObjectExists, match="Another publish"):
            send(late, NEW)
        assert shown(store) == ["top/x/other"]
        left = [name for name in stored(store) if name.startswith(f"top/{DATA}/")]
        assert {name.split("/", 3)[3] for name in left} == {*OLD, POINTER}


# Taking back.


def test_a_publish_is_taken_back(store: ObjectStore, send: Send, read: Read) -> None:
    send(store, OLD)
    before = sorted(stored(store))
    first = send(store, NEW).publication
    assert first is not None
    assert take_back(store, first)
    assert read(store) == OLD
    assert sorted(stored(store)) == before
    assert not take_back(store, first)
    send(store, NEW)  # as if nothing had been
    assert read(store) == NEW


def test_the_first_publish_is_taken_back_to_nothing(store: ObjectStore, send: Send) -> None:
    publication = send(store, NEW).publication
    assert publication is not None
    assert take_back(store, publication)
    assert stored(store) == []
    send(store, NEW, "fail")


def test_what_another_publish_shows_is_not_taken_back(
    store: ObjectStore, send: Send, read: Read
) -> None:
    mine = send(store, OLD).publication
    assert mine is not None
    send(store, NEW)
    before = stored(store)
    assert not take_back(store, mine)
    assert stored(store) == before
    assert read(store) == NEW


def test_what_cannot_be_shown_again_leaves_the_new_folder(store: ObjectStore, send: Send) -> None:
    send(store, OLD)
    publication = send(store, NEW).publication
    assert publication is not None
    assert publication.before is not None
    for name in stored(store):
        new = publication.pointer.generation in name
        if DATA in name and new != by_pointer(
            store
        ):  # where it gave way, it has the new one's name
            store.delete(ObjectName(name))
    with pytest.raises(IntegrityError, match="that is gone"):
        take_back(store, publication)
    assert shown(store, "top/x/") == sorted(f"top/x/{name}" for name in NEW)


# What is removed, and when.


class Aged(Around):
    """Shows every object as old as it is told to be."""

    modified = 0.0

    def list_page(self, prefix: str, **more: Any) -> Page:
        return self.aged(self.inner.list_page(prefix, **more))

    def page_by_component(self, prefix: str, **more: Any) -> Page:
        return self.aged(self.inner.page_by_component(prefix, **more))

    def aged(self, page: Page) -> Page:
        aged = tuple(
            ObjectInfo(info.name, info.size, info.etag, info.digest, self.modified, info.is_marker)
            for info in page.objects
        )
        return Page(aged, page.folders, page.marker)


def generations(store: ObjectStore) -> set[str]:
    return {
        part
        for name in stored(store)
        if DATA in name
        for part in [name.split(f"{DATA}/")[1].split("/")[0]]
    }


def test_generations_that_nobody_reads_any_more_are_removed(
    store: ObjectStore, send: Send, read: Read
) -> None:
    if not by_pointer(store):
        pytest.skip("has a test of its own")
    aged = Aged(store)
    now = 1_800_000_000.0

    def at(hours: float) -> str:
        report = send(aged, {"n": b"%f" % hours}, clock=lambda: now + hours * 3600)
        assert report.publication is not None
        return report.publication.pointer.generation

    orphan = new_generation(now - 3600)
    put(store, f"top/x/{DATA}/{orphan}/a")
    put(store, f"top/x/{DATA}/somebody's/a")
    one, two, three = at(0), at(1), at(2)
    assert generations(store) == {orphan, one, two, three, "somebody's"}
    four = at(24.5)  # three was made 22 hours ago; until then two was shown
    assert generations(store) == {one, two, three, four, "somebody's"}
    five = at(25.5)
    assert generations(store) == {two, three, four, five, "somebody's"}
    six = at(60)
    assert generations(store) == {five, six, "somebody's"}
    assert read(store) == {"n": b"%f" % 60}


def test_folders_that_gave_way_are_removed_after_a_day(tmp_path: Path, send: Send) -> None:
    (tmp_path / "root").mkdir()
    now = 1_800_000_000.0
    with closing(SmallLocalStore(tmp_path / "root")) as store:
        aged = Aged(store)
        for hours, left in ((0, 0), (1, 1), (2, 2), (30, 2), (60, 2), (90, 2)):
            send(aged, {"n": b"%d" % hours}, clock=lambda hours=hours: now + hours * 3600)
            assert len(generations(store)) == left, hours
            assert get(store, "top/x/n") == b"%d" % hours


@with_pointers
def test_a_publish_that_another_is_long_about_is_not_removed(
    store: ObjectStore, send: Send
) -> None:
    now = time.time()
    send(store, OLD, clock=lambda: now - 10 * DAY)
    under_way = new_generation(now - 5 * DAY)
    put(store, f"top/x/{DATA}/{under_way}/a")  # just now
    send(store, NEW, clock=lambda: now)
    assert under_way in generations(store)


@with_pointers
def test_a_sweep_that_fails_costs_no_publish(
    store: ObjectStore, send: Send, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    class Keeping(Aged):
        def delete(self, name: ObjectName, *, pin: str | None = None) -> None:
            raise AccessDenied("No.")

        def remove_folder(self, name: ObjectName) -> None:
            raise AccessDenied("No.")

    keeping = Keeping(store)
    for days in range(4):
        send(keeping, {"n": b"%d" % days}, clock=lambda days=days: days * DAY * 2)
    assert read(store) == {"n": b"3"}
    assert "could not be removed" in caplog.text


# Pointers that nobody of ours wrote.

GENERATION = "20261125T031500-0123abcd"
GOOD = {
    "format": 1,
    "generation": GENERATION,
    "at": f"{DATA}/{GENERATION}",
    "count": 1,
    "bytes": 1,
    "previous": None,
}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff",
        b"[]",
        b"null",
        b"{}",
        b"[" * 4000,
        b" " * (LONGEST_POINTER + 1),
        *(
            json.dumps({**GOOD, **change}).encode()
            for change in (
                {"format": 2},
                {"generation": "../../other"},
                {"generation": "..", "at": f"{DATA}/.."},
                {"generation": "a/b", "at": f"{DATA}/a/b"},
                {"generation": None},
                {"generation": GENERATION + "\n"},
                {"at": ".."},
                {"at": "../" + GENERATION},
                {"at": f"{DATA}/20261125T031500-ffffffff"},
                {"at": [DATA]},
                {"count": -1},
                {"count": "1"},
                {"count": True},
                {"bytes": 1.5},
                {"bytes": None},
                {"previous": "../x"},
                {"previous": 1},
                {"more": 1},
                {"in_place": True},
            )
        ),
        *(
            json.dumps({key: GOOD[key] for key in GOOD if key != left_out}).encode()
            for left_out in GOOD
        ),
    ],
)
def test_a_damaged_or_hostile_pointer_is_an_error_and_never_an_empty_folder(
    send: Send, read: Read, content: bytes
) -> None:
    store = MemoryStore()
    put(store, f"top/x/{DATA}/{GENERATION}/a")
    put(store, f"top/x/{POINTER}", content)
    if content == json.dumps({key: GOOD[key] for key in GOOD if key != "previous"}).encode():
        return  # nothing was there before
    for path in ("top/x", "top", "", "top/x/a"):
        with pytest.raises(IntegrityError, match="damaged"):
            read(store, path)
    with pytest.raises(IntegrityError, match="damaged"):
        send(store, NEW)


def test_a_damaged_pointer_is_no_empty_folder_in_any_kind_of_store(
    store: ObjectStore, send: Send, read: Read
) -> None:
    put(store, f"top/x/{DATA}/{GENERATION}/a")
    put(store, f"top/x/{POINTER}", b"{}")
    for path in ("top/x", "top", "", "top/x/a"):
        with pytest.raises(IntegrityError, match="damaged"):
            read(store, path)
    with pytest.raises(IntegrityError, match="damaged"):
        send(store, NEW)


@given(st.binary(max_size=100) | st.from_regex(r'\{"format": ?1,.*\}').map(str.encode))
def test_no_content_breaks_the_reading_of_a_pointer(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        Pointer.from_bytes(content, "here")


def test_a_pointer_comes_back_as_it_was_written() -> None:
    for pointer in (
        Pointer(GENERATION, 3, 4),
        Pointer(GENERATION, 0, 0, "20261125T031500-ffffffff", in_place=True),
    ):
        assert Pointer.from_bytes(pointer.to_bytes(), "here") == pointer


def test_a_generation_tells_when_it_was_made_and_sorts_by_it() -> None:
    earlier, later = new_generation(1_800_000_000), new_generation(1_800_000_001)
    assert earlier < later
    assert (made_at(earlier), made_at(later)) == (1_800_000_000, 1_800_000_001)
    assert made_at("20261399T000000-00000000") is None
    assert made_at("other") is None
    assert earlier != new_generation(1_800_000_000)


def test_what_was_never_published_is_not_seen(store: ObjectStore, read: Read) -> None:
    put(store, f"top/x/{DATA}/{GENERATION}/a")
    put(store, "top/b")
    assert read(store, "top") == {"b": b"x"}
    assert read(store, "top/x") == {}
    assert read(store, f"top/x/{DATA}/{GENERATION}") == {"a": b"x"}  # who asks for it, gets it


@with_pointers
def test_more_or_less_than_was_published_is_told(
    store: ObjectStore, send: Send, read: Read
) -> None:
    for number, meddle in enumerate(
        (
            lambda name: store.delete(ObjectName(name)),
            lambda name: put(store, f"{name}-more"),
            lambda name: put(store, name, b"longer than before"),
        )
    ):
        folder = f"top/{number}"
        send(store, OLD, target=folder)
        inside = [name for name in stored(store) if name.startswith(f"{folder}/")]
        meddle(next(name for name in inside if name.endswith("/a")))
        with pytest.raises(IntegrityError, match="publish it again"):
            read(store, folder)
        assert send(store, OLD, target=folder).publication is not None
        assert read(store, folder) == OLD


@with_pointers
def test_what_lies_beside_a_published_folder_all_the_same_collides_and_is_told(
    store: ObjectStore, send: Send, read: Read
) -> None:
    send(store, OLD)
    put(store, "top/x/a")
    with pytest.raises(NameCollision):
        read(store)


# SIGKILL, at every step.

KILLED = """
import time
from prefect_datastores.errors import DatastoreError
from prefect_datastores import renames
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.publish import publish
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.workspaces import is_part

old = {"a": b"old a", "gone": b"gone", "sub/x": b"x"}
new = {"a": b"new a", "sub/x": b"x", "sub/deep/y": b"y" * 100}

def make(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root

def tree(root):
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths
            if not any(map(is_part, path.relative_to(root).parts))}

def send(store, files, target):
    publish(store, folder_source(folder / files), target, "replace")

def read(store, target, place):
    download(store, place, DownloadRequest(target, allow_empty=True))
    return tree(place)

def killed(work):
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)

make(folder / "old", old); make(folder / "new", new)
kills = {False: 0, True: 0}
seen = {"old": 0, "new": 0}
for first in (True, False):
    step = 0
    over = False
    while not over:
        step += 1
        target = f"{'first' if first else 'next'}/{step}/x"
        store = opened()
        if not first:
            send(store, "old", target)
        def work():
            die_before(step)
            send(opened(), "new", target)
        code = killed(work)
        assert code in (0, -9)
        over = code == 0
        kills[first] += code == -9
        before = {} if first else old
        place = folder / "read" / target
        found = read(store, target, place)
        assert found in (before, new), (step, found)
        seen["new" if found == new else "old"] += code == -9
        assert read(store, target.rpartition("/")[0], place.parent / "above") == {
            f"x/{name}": content for name, content in found.items()}
        send(store, "old", target)
        assert read(store, target, place.parent / "again") == old
        store.close()
tell(first=kills[True], next=kills[False], **seen)
"""

DISK = """
from prefect_datastores.stores.local import LocalStore
class Unswapping(LocalStore):
    def swaps_folders(self): return False
(folder / "store").mkdir(exist_ok=True)
def opened():
    return (LocalStore if sys.argv[3] == "swap" else Unswapping)(folder / "store")

os.fsync = lambda fd: None  # a kill loses nothing that was written

def die_before(step):
    steps = 0
    def counted(call):
        def stepping(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps == step: die()
            return call(*args, **kwargs)
        return stepping
    for name in ("write", "pwrite", "mkdir", "rename", "link", "unlink", "rmdir", "fsync"):
        setattr(os, name, counted(getattr(os, name)))
    from prefect_datastores import files
    files.exchange = counted(files.exchange)
"""

SERVICE = """
from prefect_datastores.stores.azure import AzureService

def die_before(step):
    steps, request = 0, AzureService.begin
    def stepping(self, *args, **kwargs):
        nonlocal steps
        steps += 1
        if steps == step: die()
        return request(self, *args, **kwargs)
    AzureService.begin = stepping
"""


@pytest.mark.parametrize("way", ["swap", "point"])
def test_a_kill_at_every_step_on_a_disk_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, way: str
) -> None:
    told = sandbox.run(DISK + KILLED, tmp_path, way)
    assert told["first"] > 10
    assert told["next"] > 10
    assert told["old"] > 10
    assert told["new"] > 0


def test_a_kill_at_every_request_leaves_the_old_folder_or_the_new_one(
    remote: RemotePlace, tmp_path: Path
) -> None:
    told = sandbox.run(remote.opened_by() + SERVICE + KILLED, tmp_path)
    assert told["first"] > 10
    assert told["next"] > 10
    assert told["old"] > 10
    assert told["new"] > 0


# A model of it all.


def test_many_publishers_and_readers_at_once_see_whole_folders(
    store: ObjectStore, send: Send, read: Read
) -> None:
    send(store, {f"{n}": b"0" for n in range(5)}, "replace")
    over = threading.Event()

    def publish_some() -> int:
        try:
            for turn in range(1, 6):
                send(store, {f"{n}": b"%d" % turn for n in range(5)}, "replace")
        finally:
            over.set()
        return turn

    def read_some() -> int:
        whole = 0
        while not over.is_set():
            try:
                there = read(store, overwrite="replace")
            except (StageFailed, SourceChanged, IntegrityError):
                assert not by_pointer(store)
                continue
            assert len(there) == 5, there
            assert len(set(there.values())) == 1, there
            whole += 1
        return whole

    won, *_ = at_once([publish_some, read_some, read_some])
    assert not isinstance(won, DatastoreError)
    assert won == 5
    assert pointer_of(store, "top/x") is not None
