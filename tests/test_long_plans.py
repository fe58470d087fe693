"""Plans of many objects: in bounded memory, acted on while they grow, shown when they are good.

A plan takes what a listing gives, one by one, and knows no store; so a store in memory, which lists as
it is told, shows what a plan makes of pages. What is spooled is moved over every kind.
"""

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import fill, stored
from small_stores import Around, tree

from prefect_datastores.errors import IntegrityError, NameCollision, TransferCancelled
from prefect_datastores.names import NameCheck, NameRules, ObjectName, OrderedNameCheck, OutOfOrder
from prefect_datastores.staging import planned, spool
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.download import plan as plan_download
from prefect_datastores.staging.lookup import Lookup
from prefect_datastores.staging.spool import Spool
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.base import ObjectInfo, ObjectStore, Page
from prefect_datastores.stores.memory import MemoryStore
from prefect_datastores.workspaces import is_part

# Names in order.

NAMES = st.lists(st.text("ab./", min_size=1, max_size=4), max_size=8, unique=True)


@given(NAMES, st.data())
def test_names_in_order_are_checked_without_memory_and_no_worse(
    names: list[str], data: st.DataObject
) -> None:
    paths = [(tuple(name.split("/")), data.draw(st.booleans())) for name in sorted(names)]
    known, exact = NameCheck(NameRules()), OrderedNameCheck(NameRules())
    for path, folder in paths:
        known.add(path, folder=folder)
        exact.add(path, folder=folder)
        assert len(exact._begun) <= len("/".join(path))
    assert bool(known.collisions) == bool(exact.collisions)
    assert exact._files == exact._folders == {}


def test_a_name_out_of_order_is_told() -> None:
    check = OrderedNameCheck(NameRules())
    check.add(("b",))
    with pytest.raises(OutOfOrder):
        check.add(("a",))


# Long sequences.


def numbers(count: int, most: int = 10) -> Spool[int]:
    made: Spool[int] = Spool(str, int, most)
    for number in range(count):
        made.append(number)
    return made


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 509, 510, 511, 1010, 1234])
def test_a_long_sequence_is_what_was_added(count: int) -> None:
    made = numbers(count)
    assert list(made) == list(made) == list(range(count))
    assert len(made) == count
    assert [made[index] for index in range(count)] == list(range(count))
    assert list(made[1:3]) == list(range(count))[1:3]
    assert list(pickle.loads(pickle.dumps(made.after(0)))) == list(made.after(0))
    with pytest.raises(IndexError):
        made[count]
    assert len(made._first) + len(made._last) <= 10 + 500


def test_what_is_added_meanwhile_is_given_too() -> None:
    made = numbers(3)
    seen = []
    for number in made:
        seen.append(number)
        if len(seen) < 2000:
            made.append(len(made))
    assert seen == list(range(2002))


# Downloads.


class Paged(Around):
    """Lists in short pages, and waits before each of them but the first until it is let."""

    def __init__(self, inner: MemoryStore, pages: list[object]) -> None:
        super().__init__(inner)
        self.pages = pages
        self.read = threading.Event()
        self.let = threading.Event()

    def list_page(self, prefix: str, *, marker: str | None = None, **_: object) -> Page:
        number = int(marker or 0)
        if number:
            assert self.let.wait(30)
        page = self.pages[number]
        if isinstance(page, Exception):
            raise page
        following = f"{number + 1}" if number + 1 < len(self.pages) else None
        return Page(tuple(page), (), following)  # type: ignore[arg-type]

    def head(self, name: ObjectName) -> ObjectInfo:
        return self.inner.head(name)

    def read_into(self, *args: object, **kwargs: object) -> None:
        self.read.set()
        self.inner.read_into(*args, **kwargs)


@pytest.fixture(autouse=True)
def short_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a plan of five objects be a long one."""
    monkeypatch.setattr(planned, "_AT_ONCE", 5)


def paged(*pages: object) -> Paged:
    memory = MemoryStore()
    made: list[object] = []
    for page in pages:
        if isinstance(page, Exception):
            made.append(page)
        else:
            made.append([memory.put(name, name.encode()) for name in page])  # type: ignore[attr-defined]
    return Paged(memory, made)


FIRST, SECOND = [f"a{number}" for number in range(5)], ["b0", "b1/c"]


@pytest.fixture
def running() -> Iterator[list[threading.Thread]]:
    threads: list[threading.Thread] = []
    yield threads
    for thread in threads:
        thread.join(30)


def begin(
    store: Paged,
    destination: Path,
    running: list[threading.Thread],
    stop: Cancellation | None = None,
) -> list[BaseException]:
    """Download in a thread, until objects are fetched; return where its fault will be."""
    faults: list[BaseException] = []

    def go() -> None:
        try:
            download(store, destination, DownloadRequest(), cancellation=stop)
        except BaseException as fault:  # noqa: BLE001 - looked at by the test
            faults.append(fault)

    running.append(threading.Thread(target=go))
    running[0].start()
    assert store.read.wait(30)
    return faults


def files(destination: Path) -> list[str]:
    return sorted(
        path.relative_to(destination).as_posix()
        for path in destination.rglob("*")
        if path.is_file() and not any(map(is_part, path.relative_to(destination).parts))
    )


def test_objects_are_fetched_while_the_rest_is_listed_and_shown_when_all_is_good(
    tmp_path: Path, running: list[threading.Thread]
) -> None:
    store = paged(FIRST, SECOND)
    faults = begin(store, tmp_path / "to", running)
    assert files(tmp_path / "to") == []
    store.let.set()
    running[0].join(30)
    assert faults == []
    assert files(tmp_path / "to") == sorted([*FIRST, *SECOND])


@pytest.mark.parametrize(
    ("pages", "kind"),
    [
        ((FIRST, IntegrityError("The page is damaged.")), IntegrityError),
        ((FIRST, ["b0", "b0/c"]), NameCollision),
        ((FIRST, ["a0/x"]), NameCollision),  # out of order as well
    ],
)
def test_a_fault_in_the_rest_of_a_plan_leaves_nothing(
    tmp_path: Path,
    running: list[threading.Thread],
    pages: tuple[object, ...],
    kind: type[Exception],
) -> None:
    store = paged(*pages)
    faults = begin(store, tmp_path / "to", running)
    store.let.set()
    running[0].join(30)
    assert [type(fault) for fault in faults] == [kind]
    assert list((tmp_path / "to").rglob("*")) == []


def test_a_cancel_does_not_wait_for_the_rest_of_a_plan_to_be_published(
    tmp_path: Path, running: list[threading.Thread]
) -> None:
    store, stop = paged(FIRST, SECOND), Cancellation()
    faults = begin(store, tmp_path / "to", running, stop)
    stop.cancel()
    store.let.set()
    running[0].join(30)
    assert [type(fault) for fault in faults] == [TransferCancelled]
    assert list((tmp_path / "to").rglob("*")) == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("pds-")] == []


def test_a_dry_run_waits_for_all_of_it(tmp_path: Path) -> None:
    store = paged(FIRST, SECOND)
    store.let.set()
    made = plan_download(store, tmp_path / "to", DownloadRequest())
    assert [item.name for item in made.fetches] == [*FIRST, *SECOND]
    assert made.size == made.needed == sum(map(len, [*FIRST, *SECOND]))


def test_many_objects_go_there_and_back(tmp_path: Path) -> None:
    """More than are kept in memory, so that plans, sources and reports are on disk."""
    count = 10_600
    memory = MemoryStore()
    for number in range(count):
        memory.put(f"{number:05}", b"%d" % number)
    report = download(memory, tmp_path / "to", DownloadRequest())
    assert report.count == len(report.rows) == count
    assert {row.name for row in report.rows} == {f"{number:05}" for number in range(count)}
    assert report.bytes == sum(len(str(number)) for number in range(count))
    assert (tmp_path / "to" / "10599").read_bytes() == b"10599"
    again = download(memory, tmp_path / "to", DownloadRequest(overwrite="skip"))
    assert dict(again.actions) == {"skipped": count}

    other = MemoryStore()
    sent = upload(other, folder_source(tmp_path / "to"), "x", "if_changed")
    assert sent.count == count
    assert other.head(ObjectName("x/10599")).size == 5
    twice = upload(other, folder_source(tmp_path / "to"), "x", "if_changed")
    assert dict(twice.actions) == {"unchanged": count}
    back = download(other, tmp_path / "back", DownloadRequest("x"))
    assert back.count == count


@pytest.fixture
def short_spools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sequence of more than five be on disk, in blocks of three."""
    monkeypatch.setattr(Spool.__init__, "__defaults__", (5,))
    monkeypatch.setattr(spool, "_BLOCK", 3)


@pytest.mark.usefixtures("short_spools")
def test_what_is_spooled_goes_there_and_back_whatever_the_store(
    store: ObjectStore, tmp_path: Path
) -> None:
    content = {f"{'d/' * (number % 3)}{number:02}": b"%d" % number for number in range(40)}
    fill(store, {f"from/{name}": data for name, data in content.items()})
    report = download(store, tmp_path / "to", DownloadRequest("from"))
    assert sorted(row.path for row in report.rows) == sorted(content)
    assert {row.action for row in report.rows} == {"moved"}
    assert tree(tmp_path / "to") == content
    again = download(store, tmp_path / "to", DownloadRequest("from", overwrite="skip"))
    assert dict(again.actions) == {"skipped": 40}
    sent = upload(store, folder_source(tmp_path / "to"), "x", "if_changed")
    assert sent.count == 40
    assert stored(store, "x/") == {f"x/{name}": data for name, data in content.items()}
    twice = upload(store, folder_source(tmp_path / "to"), "x", "if_changed")
    same = "unchanged" if store.capabilities.stores_digest else "moved"
    assert dict(twice.actions) == {same: 40}


# What stands at names.


def test_a_listing_is_found_by_name() -> None:
    infos = [ObjectInfo("a", 1, '"1"', b"digest", 1.5), ObjectInfo("b/", 0, "", is_marker=True)]
    lookup = Lookup(infos, NameRules())
    assert lookup("a") == infos[0]
    assert lookup("b/") is None
    assert lookup("c") is None
    lookup.close()
