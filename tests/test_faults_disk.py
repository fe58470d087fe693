"""Faults of the local disk and of what stands on it, met by whole transfers; `docs/faults.md` numbers them."""

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from oracle import attempt, check, fill, open_descriptors, plant_link, stored, threads_left
from places import RemotePlace
from servers import sandbox
from servers.faults import Fault
from small_stores import (
    PART,
    Around,
    AroundWriting,
    make_tree,
    tree,
)

from prefect_datastores.errors import TransferCancelled
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.engine import Limits
from prefect_datastores.staging.report import TransferReport
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.base import ObjectStore, Writing
from prefect_datastores.testing import begin, content_of, get, put

PARTS = 4
LARGE = content_of(3 * PART + 77)
NEW = {"large": LARGE, "small": b"new and small", "sub/other": b"other", "empty": b""}
OLD = {"large": b"old", "small": b"old and small", "kept": b"kept"}
ALL = {**OLD, **NEW}
REPLACE = DownloadRequest(overwrite="replace")
OF_LARGE = r"GET \S+/large(\?|$)"


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "destination", OLD)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "source", NEW)


def unreported(
    old: dict[str, bytes], new: dict[str, bytes], found: Mapping[str, bytes | str]
) -> None:
    """Assert that each is old or new, and no thread is left, where a stop leaves no report."""
    assert old.keys() <= found.keys() <= old.keys() | new.keys()
    for name, content in found.items():
        assert content in (old.get(name), new.get(name)), f"{name} is neither old nor new"
    assert threads_left() == []


# A disk that is full, or says no, in the middle.

DISK = """
import errno, hashlib, threading
from prefect_datastores.errors import DatastoreError, StageFailed
from prefect_datastores.files import Folder
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.stores.memory import MemoryStore
new = {name: os.urandom(size) for name, size in {"large": 3 * 65536 + 77, "small": 60000, "sub/other": 60000}.items()}
old = {"large": b"old", "small": b"old", "kept": b"kept"}
store = MemoryStore()
for name, content in new.items():
    store.put(name, content, hashlib.md5(content).digest())
def make():
    for name, content in old.items():
        (folder / name).write_bytes(content)
def run():
    try:
        return download(store, folder, DownloadRequest(overwrite="replace")), ""
    except StageFailed as failed:
        return failed.report, str(failed)
    except DatastoreError as failed:
        return None, str(failed)
def facts(report, message):
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
             if path.is_file() and ".pds-" not in str(path)}
    rows = {row.path: row.action for row in report.rows} if report else {}
    assert old.keys() <= found.keys() <= old.keys() | new.keys(), found.keys()
    for name, content in found.items():
        assert content in (old.get(name), new.get(name)), name
    for name in new:
        assert (rows.get(name) == "moved") == (found.get(name) == new[name]), (name, rows)
    return {"rows": rows, "message": message, "threads": len(threading.enumerate()) - 1,
            "descriptors": len(os.listdir("/dev/fd"))}
def left():
    return [path.name for path in folder.glob(".pds-*")]
"""

FULL = """
try:
    mount_small_disk(folder)
except OSError:
    tell(mounted=False)
    sys.exit()
make()
read_into, filled = store.read_into, []
def fill_the_disk(*given, **more):
    if not filled:
        filled.append(True)
        with open(folder.parent / folder.name / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass
        old["filler"] = (folder / "filler").read_bytes()
    read_into(*given, **more)
store.read_into = fill_the_disk
before = len(os.listdir("/dev/fd"))
first = facts(*run())
(folder / "filler").unlink()
del old["filler"]
store.read_into = read_into
again = facts(*run())
tell(mounted=True, first=first, again=again, before=before, left=left())
"""


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    (tmp_path / "bare").mkdir()
    return tmp_path / "bare"


def test_a_disk_that_fills_up_in_the_middle_keeps_what_it_has_and_is_gone_on_with(
    bare: Path,
) -> None:
    told = sandbox.run(sandbox.TMPFS + DISK + FULL, bare)
    if not told["mounted"]:
        pytest.skip("no disk may be mounted here")
    assert "failed" in told["first"]["rows"].values()
    assert f"No room for {bare}" in told["first"]["message"]
    assert set(told["again"]["rows"].values()) == {"moved"}
    assert told["left"] == []
    for facts in (told["first"], told["again"]):
        assert (facts["threads"], facts["descriptors"]) == (0, told["before"])


SAYS_NO = """
make()
number, call, most = getattr(errno, sys.argv[3]), sys.argv[4], int(sys.argv[5])
real, calls = getattr(os, call), 0
def says_no(*given, **more):
    global calls
    calls += 1
    overwrites = call == "pwrite" and len(given[1]) < 1000  # what a full disk has room for
    if calls > most and not overwrites:
        raise OSError(number, os.strerror(number))
    return real(*given, **more)
before = len(os.listdir("/dev/fd"))
setattr(os, call, says_no)
first = facts(*run())
setattr(os, call, real)
again = facts(*run())
tell(calls=calls > most, first=first, again=again, before=before, left=left())
"""


@pytest.mark.parametrize(
    ("call", "most", "number"),
    [
        *(("pwrite", 1, "ENOSPC"), ("pwrite", 2, "EDQUOT")),
        *(("posix_fallocate", 0, "ENOSPC"), ("posix_fallocate", 0, "EDQUOT")),
        *(("fsync", 0, "ENOSPC"), ("fsync", 0, "EDQUOT"), ("fsync", 0, "EROFS")),
        *(("rename", 0, "EROFS"), ("rename", 0, "EACCES"), ("rename", 1, "ENOSPC")),
        *(("open", 8, "EMFILE"), ("open", 12, "EMFILE"), ("mkdir", 0, "EROFS")),
    ],
)
def test_a_disk_that_says_no_leaves_whole_files_and_says_where(
    bare: Path, call: str, most: int, number: str
) -> None:
    told = sandbox.run(DISK + SAYS_NO, bare, number, call, str(most))
    assert told["calls"]
    assert str(bare) in told["first"]["message"]
    assert set(told["again"]["rows"].values()) == {"moved"}
    assert told["left"] == []
    for facts in (told["first"], told["again"]):
        assert (facts["threads"], facts["descriptors"]) == (0, told["before"])


AT_ANY_CALL = """
import logging, shutil
warnings = []
logging.getLogger("prefect_datastores").addHandler(type("Keeping", (logging.Handler,), {
    "emit": lambda self, record: warnings.append(record.getMessage())})())
number, call = getattr(errno, sys.argv[3]), sys.argv[4]
real, calls, most, told = getattr(os, call), 0, 0, []
def says_no(*given, **more):
    global calls
    calls += 1
    if calls > most:
        raise OSError(number, os.strerror(number))
    return real(*given, **more)
def end(outcome):
    return facts(*outcome) if outcome[0] else {**facts_of_files(), "message": outcome[1]}
def facts_of_files():
    for name in old.keys() | new.keys():
        path = folder / name
        assert not path.exists() or path.read_bytes() in (old.get(name), new.get(name)), name
    return {"rows": {}, "threads": len(threading.enumerate()) - 1, "descriptors": len(os.listdir("/dev/fd"))}
while True:
    shutil.rmtree(folder)
    folder.mkdir()
    make()
    calls, before = 0, len(os.listdir("/dev/fd"))
    warnings.clear()
    setattr(os, call, says_no)
    outcome = run()
    setattr(os, call, real)
    if calls <= most:
        break
    first, warned = end(outcome), len(warnings)
    again = end(run())
    told.append({"first": first, "again": again, "warned": warned, "before": before})
    most += 1
tell(told=told)
"""


@pytest.mark.parametrize(
    ("call", "number", "least"),
    [
        *(("write", "ENOSPC", 8), ("pwrite", "ENOSPC", 6), ("fsync", "ENOSPC", 5)),
        *(("open", "EMFILE", 15), ("open", "ENOSPC", 15), ("mkdir", "EROFS", 2)),
        *(("rename", "EROFS", 3), ("fchmod", "EROFS", 3), ("posix_fallocate", "EDQUOT", 1)),
    ],
)
def test_a_disk_that_says_no_from_any_call_on_leaves_whole_files_and_no_descriptor(
    bare: Path, call: str, number: str, least: int
) -> None:
    told = sandbox.run(DISK + AT_ANY_CALL, bare, number, call)["told"]
    assert len(told) >= least
    for turn, met in enumerate(told):
        for facts in (met["first"], met["again"]):
            assert (facts["threads"], facts["descriptors"]) == (0, met["before"]), turn
        assert set(met["again"]["rows"].values()) == {"moved"}, turn
        if (
            call == "write" and turn
        ):  # the first one says whose the parts are, the rest is the journal
            assert set(met["first"]["rows"].values()) == {"moved"}
            assert met["warned"] == 1
        else:
            assert str(bare) in met["first"]["message"], turn
            assert "[Errno" not in met["first"]["message"], turn


FEW_DESCRIPTORS = """
import resource
for n in range(40):
    new[f"many/{n}"] = os.urandom(70000)
    store.put(f"many/{n}", new[f"many/{n}"], hashlib.md5(new[f"many/{n}"]).digest())
read_into, barrier = store.read_into, threading.Barrier(30)
def all_at_once(*given, **more):
    try:
        barrier.wait(1)  # many files are open at once, so that descriptors run out
    except threading.BrokenBarrierError:
        pass
    read_into(*given, **more)
make()
before = len(os.listdir("/dev/fd"))
most = resource.getrlimit(resource.RLIMIT_NOFILE)
facts(*run())  # what is imported on the first transfer is open already
make()
for name in new.keys() - old.keys():
    (folder / name).unlink()
store.read_into = all_at_once
resource.setrlimit(resource.RLIMIT_NOFILE, (before + 25, most[1]))
from prefect_datastores.staging.pace import Pace
Pace.wanted = property(lambda self: 64, lambda self, wanted: None)
first = run()
resource.setrlimit(resource.RLIMIT_NOFILE, most)
first = facts(*first)
store.read_into = read_into
again = facts(*run())
tell(first=first, again=again, before=before, left=left())
"""


def test_a_process_without_descriptors_leaves_whole_files_and_leaks_none(bare: Path) -> None:
    told = sandbox.run(DISK + FEW_DESCRIPTORS, bare)
    assert "Too many open files" in told["first"]["message"]
    assert str(bare) in told["first"]["message"]
    assert set(told["again"]["rows"].values()) == {"moved"}
    assert told["left"] == []
    for facts in (told["first"], told["again"]):
        assert (facts["threads"], facts["descriptors"]) == (0, told["before"])


# What stands in the destination, and what comes there meanwhile.


def test_a_link_planted_during_a_download_is_not_followed(
    remote: RemotePlace, destination: Path, tmp_path: Path
) -> None:
    fill(remote.store, {**NEW, "sub/large": LARGE})
    outside = make_tree(tmp_path / "outside", {"large": b"outside", "other": b"outside"})
    (destination / "sub").mkdir()
    swap = Fault(
        r"GET \S+/large(\?|$)",
        "pass",
        meanwhile=lambda: plant_link(destination / "sub", outside),
    )
    with remote.through(swap) as seen:
        outcome = attempt(lambda: download(seen.store, destination, REPLACE))
    assert tree(outside) == {"large": b"outside", "other": b"outside"}
    # One whose folder was opened before is in the folder that was moved away, one after is told.
    for name in ("sub/large", "sub/other"):
        row = outcome.row(name)
        moved = destination / "sub moved away" / name.rpartition("/")[2]
        assert (row.action == "moved") == moved.exists()
        assert row.action == "moved" or "symbolic link" in row.detail
    assert (destination / "sub").is_symlink()
    assert {name: (destination / name).read_bytes() for name in OLD} == {
        **OLD,
        **{name: NEW[name] for name in ("large", "small")},
    }


def rewrite_and_hide(path: Path) -> None:
    """Give a file other content of that length, and its old times."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_whole(path: Path) -> None:
    """Put another file of that length in its place, as editors do; the open one stays as it was."""
    beside = path.with_name("beside")
    beside.write_bytes(bytes(path.stat().st_size))
    beside.rename(path)


@pytest.mark.parametrize("name", ["large", "small"])
def test_a_rewrite_that_keeps_length_and_times_is_seen(
    store: ObjectStore, source: Path, name: str
) -> None:
    fill(store, OLD)
    changing = Changing(store, name, lambda: rewrite_and_hide(source / name))
    outcome = attempt(lambda: upload(changing, folder_source(source), "", "replace"))
    check(outcome, OLD, NEW, stored(store))
    assert outcome.row(name).action == "failed"
    assert "changed while it was read" in outcome.row(name).detail


def test_a_file_that_is_replaced_by_another_is_stored_as_it_was_opened(
    store: ObjectStore, source: Path
) -> None:
    fill(store, OLD)
    changing = Changing(store, "large", lambda: replace_whole(source / "large"))
    outcome = attempt(lambda: upload(changing, folder_source(source), "", "replace"))
    check(outcome, OLD, NEW, stored(store))


class Changing(Around):
    """Has something happen to a file once its first part is on its way."""

    def __init__(self, inner: ObjectStore, name: str, change: Callable[[], None]) -> None:
        super().__init__(inner)
        self.name, self.change = name, change

    def begin_write(self, name: ObjectName, size: int, **conditions: Any) -> Writing:
        writing = self.inner.begin_write(name, size, **conditions)
        return ChangingWriting(writing, self.change) if name == self.name else writing


class ChangingWriting(AroundWriting):
    def __init__(self, inner: Writing, change: Callable[[], None]) -> None:
        super().__init__(inner)
        self.change = change

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        super().write_part(index, offset, data)
        if index == 0:
            self.change()


def test_an_attempt_that_is_given_up_late_takes_nothing_with_it(store: ObjectStore) -> None:
    for content in (b"small", LARGE):
        given_up = begin(store, "name", content)
        put(store, "name", content[::-1])
        given_up.abort()
        assert get(store, "name") == content[::-1]


def test_a_tree_with_everything_that_is_no_file_is_stored_without_it(
    store: ObjectStore, source: Path
) -> None:
    (source / "loop").mkdir()
    (source / "loop" / "up").symlink_to("..")
    (source / "loop" / "one").symlink_to("two")
    (source / "loop" / "two").symlink_to("one")
    os.mkfifo(source / "fifo")
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(source)  # a socket's path is short
        try:
            bound.bind("socket")
        finally:
            os.chdir(here)
        with (source / "sparse").open("wb") as file:
            file.seek(2 * PART)
            file.write(b"end")
        outcome = attempt(lambda: upload(store, folder_source(source), "", "replace"))
    new = {**NEW, "sparse": bytes(2 * PART) + b"end"}
    assert stored(store) == new
    ignored = {name for name, action in outcome.actions.items() if action == "ignored"}
    assert ignored == {"fifo", "socket", "loop/up", "loop/one", "loop/two"}
    assert outcome.actions == {**dict.fromkeys(new, "moved"), **dict.fromkeys(ignored, "ignored")}


# A stop at every request.


def no_more_descriptors_than(before: int) -> None:
    """Assert it once the proxy, whose ends are of this process too, has seen that nobody is there."""
    for _ in range(500):
        if open_descriptors() <= before:
            return
        time.sleep(0.01)
    raise AssertionError(f"{open_descriptors()} descriptors are open where {before} were")


@pytest.mark.parametrize("limits", [Limits(), Limits(files=1, parts=1, bytes_in_flight=PART)])
def test_a_download_that_is_cancelled_at_any_request_leaves_nothing_and_is_gone_on_with(
    remote: RemotePlace, destination: Path, limits: Limits
) -> None:
    fill(remote.store, NEW)
    before = open_descriptors()
    with remote.through() as seen:
        download(seen.store, destination, REPLACE, limits=limits)
        requests = len(seen.proxy.requests)
        assert requests > PARTS + 2
        cancels = 0
        for request in range(requests):
            make_tree(destination, OLD)
            stop = Cancellation()
            seen.proxy.fail_by(Fault("", "pass", skip=request, meanwhile=stop.cancel))
            cancelled = attempt(
                lambda stop=stop: download(
                    *(seen.store, destination, REPLACE), limits=limits, cancellation=stop
                )
            )
            assert isinstance(cancelled.error, TransferCancelled) == stop.requested
            cancels += stop.requested
            unreported(OLD, NEW, tree(destination))
            # What is left is what the next one goes on with, and that once.
            assert len(list(destination.glob(".pds-*/*.part"))) <= 1
        assert cancels > PARTS  # parts that came are not fetched again
        seen.proxy.fail_by()
        download(seen.store, destination, REPLACE)
    assert tree(destination) == ALL
    assert not list(destination.glob(".pds-*"))
    no_more_descriptors_than(before)


@pytest.mark.parametrize("limits", [Limits(), Limits(files=1, parts=1, bytes_in_flight=PART)])
def test_an_upload_that_is_cancelled_at_any_request_commits_whole_objects_only(
    remote: RemotePlace, source: Path, tmp_path: Path, limits: Limits
) -> None:
    journals = tmp_path / "journals"

    def send(stop: Cancellation) -> TransferReport:
        return upload(
            *(seen.store, folder_source(source), "", "replace"),
            limits=limits,
            cancellation=stop,
            journals=journals,
        )

    fill(remote.store, OLD)
    before = open_descriptors()
    with remote.through() as seen, closing(remote.open()) as looking:
        send(Cancellation())
        requests = len(seen.proxy.requests)
        assert requests > PARTS + 3
        cancels = 0
        for request in range(requests):
            fill(remote.store, OLD)
            stop = Cancellation()
            seen.proxy.fail_by(Fault("", "pass", skip=request, meanwhile=stop.cancel))
            cancelled = attempt(lambda stop=stop: send(stop))
            assert isinstance(cancelled.error, TransferCancelled) == stop.requested
            cancels += stop.requested
            unreported(OLD, NEW, stored(looking))
        assert cancels > PARTS  # blocks that the service kept are not sent again
        seen.proxy.fail_by()
        send(Cancellation())
        assert stored(looking) == ALL
    assert not list(journals.iterdir())
    no_more_descriptors_than(before)
