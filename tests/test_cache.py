"""The cache: what was downloaded before is not fetched again, and is never another thing than it was."""

import os
import sqlite3
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from oracle import fill
from places import Place, RemotePlace
from servers import sandbox
from small_stores import PART, Around, SmallLocalStore, make_tree, tree

from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.cache import CacheLimits
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.report import TransferReport
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.memory import MemoryStore
from prefect_datastores.tasks import download as download_task
from prefect_datastores.testing import put

FILES = {"large": os.urandom(3 * PART + 1), "sub/small": b"small", "empty": b""}


class Counting(Around):
    """Counts the reads, and takes note of what is read."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.names: list[str] = []

    def read_into(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> None:
        self.names.append(name)
        self.inner.read_into(name, offset, buffer, pin=pin)


@pytest.fixture(params=["memory", "blob", "share", "lake"])
def store(request: pytest.FixtureRequest, new_place: Callable[[str], Place]) -> Counting:
    """One of each kind that the cache is for: a local folder needs none."""
    made = new_place(request.param).store
    fill(made, FILES)
    return Counting(made)


@pytest.fixture
def cache(tmp_path: Path) -> CacheLimits:
    return CacheLimits(tmp_path / "cache", 2**30)


def fetch(store: Counting, destination: Path, cache: CacheLimits | None) -> TransferReport:
    store.names.clear()
    return download(store, destination, DownloadRequest(), cache=cache)


def kept(cache: CacheLimits) -> dict[str, int]:
    """The entries of a cache: keys and lengths."""
    with closing(sqlite3.connect(cache.root / "index.db")) as rows:
        return dict(rows.execute("select key, size from objects"))


def entry(cache: CacheLimits, size: int) -> Path:
    """The file of the only entry of that length."""
    (key,) = [key for key, length in kept(cache).items() if length == size]
    return cache.root / key[:2] / key[2:]


def test_what_is_there_is_not_fetched_again(
    store: Counting, cache: CacheLimits, tmp_path: Path
) -> None:
    first = fetch(store, tmp_path / "first", cache)
    assert not any(row.cached for row in first.rows)
    second = fetch(store, tmp_path / "second", cache)
    assert store.names == []
    assert tree(tmp_path / "second") == FILES
    assert [row.cached for row in second.rows] == [True] * 3
    assert "3 from the cache" in second.summary()


def test_a_file_taken_from_the_cache_is_the_runs_own(
    store: Counting, cache: CacheLimits, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        fetch(store, tmp_path / name, cache)
    with (tmp_path / "second" / "large").open("r+b") as file:
        file.write(b"changed")
    fetch(store, tmp_path / "third", cache)
    assert tree(tmp_path / "third") == FILES
    assert store.names == []


def test_what_was_changed_in_place_is_fetched_again(
    store: Counting, cache: CacheLimits, tmp_path: Path
) -> None:
    """The first file and the entry are one; it belongs to people, who may write to it."""
    fetch(store, tmp_path / "first", cache)
    with (tmp_path / "first" / "large").open("r+b") as file:
        file.write(b"changed")
    fetch(store, tmp_path / "second", cache)
    assert set(store.names) == {"large"}
    assert tree(tmp_path / "second") == FILES
    fetch(store, tmp_path / "third", cache)
    assert store.names == []


def test_a_damaged_entry_whose_stamp_is_right_is_found_by_its_digest(
    store: Counting, cache: CacheLimits, tmp_path: Path
) -> None:
    content = FILES["large"]
    fetch(store, tmp_path / "first", cache)
    path = entry(cache, len(content))
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"changed")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    report = fetch(store, tmp_path / "second", cache)
    assert tree(tmp_path / "second") == FILES
    assert {row.name: row.cached for row in report.rows}["large"] is False
    fetch(store, tmp_path / "third", cache)
    assert store.names == []


def test_another_version_is_another_entry(
    store: Counting, cache: CacheLimits, tmp_path: Path
) -> None:
    fetch(store, tmp_path / "first", cache)
    put(store.inner, "large", b"new")
    fetch(store, tmp_path / "second", cache)
    assert store.names == ["large"]
    assert (tmp_path / "second" / "large").read_bytes() == b"new"


def test_the_same_name_elsewhere_is_another_object(
    store: Counting, cache: CacheLimits, tmp_path: Path
) -> None:
    other = MemoryStore("other")
    for name in FILES:
        other.put(name, b"other")
    fetch(store, tmp_path / "first", cache)
    fetch(Counting(other), tmp_path / "second", cache)
    assert set(tree(tmp_path / "second").values()) == {b"other"}


def test_without_a_cache_nothing_is_kept(store: Counting, tmp_path: Path) -> None:
    fetch(store, tmp_path / "first", None)
    fetch(store, tmp_path / "second", None)
    assert set(store.names) == {"large", "sub/small"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_a_local_folder_needs_no_cache(cache: CacheLimits, tmp_path: Path) -> None:
    with closing(SmallLocalStore(make_tree(tmp_path / "store", FILES))) as local:
        download(local, tmp_path / "first", DownloadRequest(), cache=cache)
    assert not cache.root.exists()


def test_links_give_the_entry_itself_which_nobody_may_write_to(
    store: Counting, tmp_path: Path
) -> None:
    cache = CacheLimits(tmp_path / "cache", 2**30, links=True)
    for name in ("first", "second"):
        fetch(store, tmp_path / name, cache)
    assert store.names == []
    first, second = tmp_path / "first" / "large", tmp_path / "second" / "large"
    assert (
        first.stat().st_ino
        == second.stat().st_ino
        == entry(cache, len(FILES["large"])).stat().st_ino
    )
    assert not stat.S_IMODE(second.stat().st_mode) & 0o222
    assert tree(tmp_path / "second") == FILES


@pytest.mark.parametrize("links", [False, True])
def test_times_are_kept_on_request_from_the_cache_too(
    store: Counting, tmp_path: Path, links: bool
) -> None:
    cache = CacheLimits(tmp_path / "cache", 2**30, links)
    changed = store.head(ObjectName("large")).modified
    request = DownloadRequest(keep_times=True)
    for name, asked in [("1", request), ("2", DownloadRequest()), ("3", request), ("4", request)]:
        download(store, tmp_path / name, asked, cache=cache)
    assert changed is not None
    wanted = round(changed * 1e6) * 1000
    kept_times = [(tmp_path / name / "large").stat().st_mtime_ns == wanted for name in "134"]
    assert kept_times == [True] * 3
    assert store.names.count("large") == 4  # its parts, once


def test_what_was_not_used_for_longest_gives_way(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(5):
        store.put(f"{number}", bytes([number]) * 100)
    counting, cache = Counting(store), CacheLimits(tmp_path / "cache", 300)

    def get(name: str, turn: int) -> list[str]:
        counting.names.clear()
        download(counting, tmp_path / f"{turn}", DownloadRequest(path=name), cache=cache)
        return list(counting.names)

    assert [get(name, turn) for turn, name in enumerate("0120")] == [["0"], ["1"], ["2"], []]
    assert get("3", 4) == ["3"]  # in place of 1, as 0 was used since
    assert get("0", 5) == []
    assert get("1", 6) == ["1"]
    assert sum(kept(cache).values()) <= 300
    files = list(cache.root.glob("??/*"))
    assert len(files) == 3


def test_one_that_is_larger_than_the_cache_is_not_kept(store: Counting, tmp_path: Path) -> None:
    cache = CacheLimits(tmp_path / "cache", PART)
    for name in ("first", "second"):
        fetch(store, tmp_path / name, cache)
        assert tree(tmp_path / name) == FILES
    assert set(store.names) == {"large"}


def test_a_missing_file_of_an_entry_is_a_fetch(
    store: Counting, cache: CacheLimits, tmp_path: Path
) -> None:
    fetch(store, tmp_path / "first", cache)
    entry(cache, len(FILES["large"])).unlink()
    fetch(store, tmp_path / "second", cache)
    assert set(store.names) == {"large"}
    assert tree(tmp_path / "second") == FILES


@pytest.mark.parametrize("damage", ["database", "no folder", "rows"])
def test_a_fault_of_the_cache_costs_a_fetch_and_nothing_else(
    store: Counting,
    cache: CacheLimits,
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if damage == "no folder":
        cache.root.write_bytes(b"a file")
    else:
        fetch(store, tmp_path / "first", cache)
        if damage == "database":
            (cache.root / "index.db").write_bytes(b"no database" * 1000)
        else:
            with closing(sqlite3.connect(cache.root / "index.db")) as rows:
                rows.execute("drop table objects")
                rows.execute("create table objects (other)")
                rows.commit()
    caplog.clear()
    fetch(store, tmp_path / "second", cache)
    assert tree(tmp_path / "second") == FILES
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_what_a_kill_left_without_a_row_goes(
    store: Counting, cache: CacheLimits, tmp_path: Path
) -> None:
    fetch(store, tmp_path / "first", cache)
    orphans = [cache.root / f"{number:02x}" / "orphan" for number in range(256)]
    for path in orphans:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    fetch(store, tmp_path / "second", cache)
    assert all(path.exists() for path in orphans)  # they may be of one who is at work
    from prefect_datastores.staging import cache as caching

    before, caching._ORPHAN_SECONDS = caching._ORPHAN_SECONDS, -60.0
    try:
        fetch(store, tmp_path / "third", cache)
    finally:
        caching._ORPHAN_SECONDS = before
    assert sum(path.exists() for path in orphans) == 255
    assert store.names == []


KILLED = """
from prefect_datastores.staging.cache import CacheLimits
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.stores.memory import MemoryStore
store = MemoryStore()
for number in range(4):
    store.put(f"{number}", bytes([number]) * 100)
steps = 0
def counted(call):
    def stepping(*args, **kwargs):
        global steps
        steps += 1
        if steps == step: die()
        return call(*args, **kwargs)
    return stepping
killed = step = 0
while True:
    step += 1
    child = os.fork()
    if not child:
        for name in ("rename", "link", "unlink", "fsync", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        download(store, folder / "killed", DownloadRequest(overwrite="replace"),
                 cache=CacheLimits(folder / "cache", 10**9))
        os._exit(0)
    if not os.waitpid(child, 0)[1]: break
    killed += 1
    place = folder / f"{step}"
    download(store, place, DownloadRequest(), cache=CacheLimits(folder / "cache", 10**9))
    for number in range(4):
        assert (place / f"{number}").read_bytes() == bytes([number]) * 100
    for path in (folder / "cache").glob("??/*"): path.unlink()
tell(killed=killed)
"""


def test_a_kill_at_any_step_leaves_a_cache_that_serves_nothing_wrong(tmp_path: Path) -> None:
    assert sandbox.run(KILLED, tmp_path)["killed"] > 15


def test_many_at_once_share_one_cache(store: Counting, tmp_path: Path) -> None:
    cache = CacheLimits(tmp_path / "cache", 2 * PART)  # less than all, so that entries come and go

    def go(number: int) -> dict[str, bytes | str]:
        place = tmp_path / f"{number}"
        download(store, place, DownloadRequest(), cache=cache)
        return tree(place)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(go, range(24))) == [FILES] * 24


def test_nobody_else_can_look_into_it(store: Counting, cache: CacheLimits, tmp_path: Path) -> None:
    fetch(store, tmp_path / "first", cache)
    assert stat.S_IMODE(cache.root.stat().st_mode) == 0o700


# As people meet it.


@pytest.fixture
def datastore(remote: RemotePlace) -> FileDatastore:
    put(remote.store, "file", b"content")
    return remote.datastore()


def test_a_datastore_keeps_what_it_downloads_unless_told_otherwise(
    datastore: FileDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_CACHE_ROOT", str(tmp_path / "cache"))

    def cached(place: str, **options: bool) -> list[bool]:
        report = datastore.download(tmp_path / place, show_progress=False, **options)
        return [row.cached for row in report.rows]

    assert cached("1", cache=False) == [False]
    assert not (tmp_path / "cache").exists()
    assert cached("2") == [False]
    assert cached("3") == [True]
    assert cached("4", cache=False) == [False]
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_CACHE", "false")
    assert cached("5") == [False]


def test_a_reference_says_whether_the_cache_is_used(
    datastore: FileDatastore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_CACHE_ROOT", str(tmp_path / "cache"))
    download_task.fn(datastore.path("file").as_download(cache=False), tmp_path / "1")
    assert not (tmp_path / "cache").exists()
    download_task.fn(datastore.path("file").as_download(), tmp_path / "2")
    assert kept(CacheLimits(tmp_path / "cache"))
    assert "cache" in datastore.path("file").as_download(cache=False).model_dump()
