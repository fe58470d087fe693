"""Checkpoints of a folder: each is whole, of one moment, and over what its run knows; nothing is sent twice."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from places import Place, RemotePlace
from servers import sandbox
from servers.faults import Fault
from small_stores import PART, Around, AroundWriting, make_tree, tree

from prefect_datastores.errors import (
    CheckpointOvertaken,
    ConfigurationError,
    IntegrityError,
    PlaceTaken,
    ServiceBusy,
    SourceChanged,
    StageFailed,
    TransferCancelled,
)
from prefect_datastores.mounting.folders import Folders
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.checkpoint import Checkpoint
from prefect_datastores.staging.continuous import Continuous
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.generations import DATA, POINTER, Holder, list_of
from prefect_datastores.staging.plan import Overwrite
from prefect_datastores.staging.publish import publish
from prefect_datastores.staging.published import at, pointer_of, where
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.base import ObjectInfo, ObjectStore, Writing
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.testing import at_once, content_of, get, put

ONE = {"model": content_of(2 * PART + 5), "sub/optimizer": b"state 1", "empty": b""}
TWO = {"model": ONE["model"], "sub/optimizer": b"state 2", "sub/more": b"new"}
PLACE = "top/job"
A, B = Holder("run A", "a", 1), Holder("run B", "b", 1)
WAIT = 60.0


def rewrite(folder: Path, files: dict[str, bytes]) -> None:
    """Have a folder hold just these, each written beside and renamed where it is another one."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path.relative_to(folder).as_posix() not in files:
            path.unlink()
    for name, content in files.items():
        path = folder / name
        if path.exists() and path.read_bytes() == content:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.tmp")
        beside.write_bytes(content)
        beside.rename(path)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Checkpoint]:
    """Makes the checkpoint of a run, whose folder does not exist yet."""
    numbers = iter(range(1000))

    def make(holder: Holder = A, **more: Any) -> Checkpoint:
        folder = tmp_path / f"run{next(numbers)}" / "checkpoints"
        return Checkpoint(PLACE, folder, holder, **{"quiet": 0.0, **more})

    return make


Run = Callable[..., Checkpoint]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., dict[str, bytes | str]]:
    """Downloads a place, as anybody does."""
    numbers = iter(range(1000))

    def fetch(store: ObjectStore, path: str = PLACE, **more: Any) -> dict[str, bytes | str]:
        folder = tmp_path / f"read{next(numbers)}"
        download(store, folder, DownloadRequest(path, allow_empty=True, **more))
        return tree(folder)

    return fetch


Read = Callable[..., dict[str, bytes | str]]


def begin(store: ObjectStore, checkpoint: Checkpoint) -> dict[str, bytes | str]:
    checkpoint.restore(store)
    return tree(checkpoint._folder)


def keep(store: ObjectStore, checkpoint: Checkpoint, files: dict[str, bytes]) -> str:
    """Have a script write files, and make a checkpoint of them; return its generation."""
    rewrite(checkpoint._folder, files)
    assert checkpoint.store(store) is not None
    return checkpoint.generation


def stored(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.name for info in list_objects(store, prefix) if not info.is_marker]


class Counting(Around):
    """Takes note of the objects that are written, with their lengths, and of all requests."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.written: dict[str, int] = {}
        self.asked = 0

    def begin_write(self, name: ObjectName, size: int, **conditions: Any) -> Writing:
        self.written[name] = size
        return self.inner.begin_write(name, size, **conditions)

    def contents(self) -> dict[str, int]:
        """Those below the places of generations, by their names in these."""
        return {
            name.split("/", 4)[4]: size
            for name, size in self.written.items()
            if name.startswith(f"{PLACE}/{DATA}/") and not name.endswith(".list")
        }

    def __getattr__(self, name: str) -> Any:
        if name in {"head", "list_page", "read_into", "delete", "page_by_component"}:
            self.asked += 1
        return super().__getattr__(name)


# What comes back.


def test_a_run_begins_with_the_newest_generation_and_nothing_else(
    store: ObjectStore, run: Run, read: Read
) -> None:
    first = run()
    assert begin(store, first) == {}
    for files in (ONE, TWO):
        keep(store, first, files)
        assert read(store) == files
        assert begin(store, run(B)) == files
    assert first.store(store) is None
    assert first.store(store, last=True) is None


def test_a_finished_generation_is_not_gone_on_with(store: ObjectStore, run: Run) -> None:
    nightly = run()
    begin(store, nightly)
    keep(store, nightly, ONE)
    nightly.finish(store)
    nightly.finish(store)
    told = run(B).restore(store)
    assert "run A" in told.reason
    assert begin(store, run(B)) == {}
    assert begin(store, run(B, resume="always")) == ONE
    assert (
        begin(store, run(Holder("run A", "a", 2))) == ONE
    )  # a later try of the run that finished it
    assert begin(store, run(Holder("run A", "a", 1))) == {}
    following = run(B)
    begin(store, following)
    keep(store, following, TWO)
    assert begin(store, run(A)) == TWO
    following.finish(store)
    assert begin(store, run(A)) == {}


def test_what_lies_in_the_folder_is_set_aside_and_not_mixed(store: ObjectStore, run: Run) -> None:
    first = run()
    begin(store, first)
    keep(store, first, ONE)
    second = run(B)
    make_tree(second._folder, {"model": b"mine", "other": b"mine too"})
    told = second.restore(store)
    assert tree(second._folder) == ONE
    assert told.set_aside is not None
    assert tree(told.set_aside) == {"model": b"mine", "other": b"mine too"}
    for gone in (None, "model"):  # what is to be there stays, also where a part of it is missing
        if gone:
            (second._folder / gone).unlink()
        again = second.restore(store)
        assert again.set_aside is None
        assert again.report is not None
        assert again.report.count == bool(gone)
        assert tree(second._folder) == ONE


def test_an_empty_state_is_one(store: ObjectStore, run: Run, read: Read) -> None:
    first = run()
    begin(store, first)
    assert first.store(store, last=True) is None  # nothing was ever there
    assert pointer_of(store, PLACE) is None
    keep(store, first, ONE)
    keep(store, first, {})
    assert read(store) == {}
    assert begin(store, run(B)) == {}


def test_a_folder_that_is_gone_is_no_state(store: ObjectStore, run: Run, read: Read) -> None:
    first = run()
    begin(store, first)
    keep(store, first, ONE)
    first._folder.rename(first._folder.with_name("elsewhere"))
    assert not first.differs()
    assert first.store(store, last=True) is None
    assert read(store) == ONE


def test_every_reader_sees_the_newest_generation(store: ObjectStore, run: Run, read: Read) -> None:
    first = run()
    begin(store, first)
    for files in (ONE, TWO):
        keep(store, first, files)
    assert read(store, "top") == {f"job/{name}": content for name, content in TWO.items()}
    assert read(store, f"{PLACE}/sub") == {"optimizer": b"state 2", "more": b"new"}
    assert read(store, f"{PLACE}/sub/more") == {"more": b"new"}
    single, _ = at(store, f"{PLACE}/model")
    assert single is not None
    assert single.size == len(TWO["model"])
    assert where(store, PLACE) == (None, f"{PLACE}/")
    shown = Folders(store).content(f"{PLACE}/")
    assert shown.is_published
    assert set(shown.listing) == {"model", "sub"}
    for below in (f"{shown.prefix}sub/", where(store, f"{PLACE}/sub")[1]):
        for folders in (Folders(store),):
            found = folders.content(below).listing
            assert set(found) == {"more", "optimizer"}
            assert found["more"] is not None
            assert get(store, found["more"].asked) == b"new"


# What is sent, and what stays.


def test_what_did_not_change_is_not_sent_again(store: ObjectStore, run: Run) -> None:
    counting = Counting(store)
    first = run()
    first.restore(counting)  # type: ignore[arg-type]
    keep(counting, first, ONE)  # type: ignore[arg-type]
    assert counting.contents() == {name: len(content) for name, content in ONE.items()}
    counting.written.clear()
    keep(counting, first, TWO)  # type: ignore[arg-type]
    assert counting.contents() == {"sub/optimizer": 7, "sub/more": 3}
    # Nor by the next run, nor under another name, nor where it was written anew.
    counting.written.clear()
    second = run(B)
    second.restore(counting)  # type: ignore[arg-type]
    renamed = {"model-2": TWO["model"], "sub/more": b"new", "sub/optimizer": b"state 3"}
    keep(counting, second, renamed)  # type: ignore[arg-type]
    assert counting.contents() == {"sub/optimizer": 7}
    counting.written.clear()
    for name in renamed:
        path = second._folder / name
        path.with_suffix(".tmp").write_bytes(path.read_bytes())
        path.with_suffix(".tmp").rename(path)
    asked = counting.asked
    assert second.differs()
    assert second.store(counting) is None  # type: ignore[arg-type]
    assert counting.written == {}
    assert counting.asked > asked
    asked = counting.asked
    assert not second.differs()
    assert second.store(counting) is None  # type: ignore[arg-type]
    assert counting.asked == asked  # nobody is asked for anything


def test_two_generations_are_kept_and_what_they_are_made_of(
    store: ObjectStore, run: Run, read: Read
) -> None:
    first = run()
    begin(store, first)
    states = [{"same": b"always", "number": b"%d" % turn} for turn in range(5)]
    generations = [keep(store, first, files) for files in states]
    names = stored(store, f"{PLACE}/{DATA}/")
    assert sorted(names) == sorted(
        [
            f"{PLACE}/{DATA}/{generations[0]}/same",
            f"{PLACE}/{DATA}/{generations[3]}/number",
            f"{PLACE}/{DATA}/{generations[4]}/number",
            f"{PLACE}/{list_of(generations[3])}",
            f"{PLACE}/{list_of(generations[4])}",
        ]
    )
    assert read(store) == states[-1]


def test_a_reader_of_the_generation_before_comes_to_its_end(
    store: ObjectStore, run: Run, tmp_path: Path
) -> None:
    first = run()
    begin(store, first)
    keep(store, first, ONE)

    class Overtaking(Around):
        """Another generation is made once the pointer was read."""

        def read_into(self, name: ObjectName, *given: Any, **more: Any) -> bytes | None:
            told = self.inner.read_into(name, *given, **more)
            if name.endswith(POINTER) and first.generation == one:
                keep(store, first, TWO)
            return told

    one = first.generation
    download(Overtaking(store), tmp_path / "reader", DownloadRequest(PLACE))  # type: ignore[arg-type]
    assert tree(tmp_path / "reader") == ONE
    assert first.generation != one


def test_readers_see_one_generation_while_others_are_made(
    store: ObjectStore, run: Run, read: Read
) -> None:
    first, over = run(), threading.Event()
    begin(store, first)
    keep(store, first, {f"{n}": b"0" for n in range(5)})

    def make() -> int:
        try:
            for turn in range(1, 8):
                keep(store, first, {f"{n}": b"%d" % turn for n in range(5)})
        finally:
            over.set()
        return turn

    def look() -> int:
        whole = 0
        while not over.is_set():
            try:
                there = read(store)
            except (StageFailed, SourceChanged, IntegrityError):  # two were made meanwhile
                continue
            assert len(there) == 5, there
            assert len(set(there.values())) == 1, there
            whole += 1
        return whole

    made, *_ = at_once([make, look, look])
    assert made == 7
    assert set(read(store).values()) == {b"7"}


# Two runs.


def test_two_runs_never_mix_theirs_and_the_loser_hears_who_won(
    store: ObjectStore, run: Run, read: Read
) -> None:
    first, second = run(A), run(B)
    begin(store, first)
    begin(store, second)
    keep(store, first, ONE)
    for turn in range(2):
        rewrite(second._folder, {**TWO, "turn": b"%d" % turn})
        with pytest.raises(CheckpointOvertaken, match="run A") as caught:
            second.store(store, last=bool(turn))
        assert caught.value.holder == "run A"
    assert read(store) == ONE
    keep(store, first, TWO)
    first.finish(store)
    with pytest.raises(CheckpointOvertaken, match="run A"):
        second.store(store)
    third, fourth = run(A), run(B)
    begin(store, third)
    begin(store, fourth)
    keep(store, fourth, ONE)
    with pytest.raises(CheckpointOvertaken, match="run B"):
        keep(store, third, TWO)
    assert read(store) == ONE


def test_one_that_comes_between_the_look_and_the_write_wins(
    store: ObjectStore, run: Run, read: Read
) -> None:
    first, second = run(A), run(B)
    begin(store, first)
    keep(store, first, ONE)
    begin(store, second)

    class Between(Around):
        def begin_write(self, name: ObjectName, size: int, **conditions: Any) -> Writing:
            if name.endswith(POINTER):
                keep(store, second, TWO)
            return self.inner.begin_write(name, size, **conditions)

    rewrite(first._folder, {**ONE, "late": b"late"})
    with pytest.raises(CheckpointOvertaken, match="run B"):
        first.store(Between(store))  # type: ignore[arg-type]
    assert read(store) == TWO
    keep(store, second, ONE)  # what was stored for nothing goes
    assert not [name for name in stored(store) if name.endswith("/late")]


def test_what_is_removed_is_never_of_who_comes_next(
    store: ObjectStore, run: Run, read: Read
) -> None:
    """One who begins on a new generation has stored something when the maker of that tidies up."""
    first, second = run(A), run(B)
    begin(store, first)
    keep(store, first, ONE)
    keep(store, first, TWO)

    class Slow(Around):
        """After the pointer was written, and before anything is removed, another run goes on."""

        written = False

        def begin_write(self, name: ObjectName, size: int, **conditions: Any) -> Writing:
            self.written = self.written or name.endswith(POINTER)
            return self.inner.begin_write(name, size, **conditions)

        def delete(self, name: ObjectName, *, pin: str | None = None) -> None:
            self.go_on()
            self.inner.delete(name, pin=pin)

        def remove_folder(self, name: ObjectName) -> None:
            self.go_on()
            self.inner.remove_folder(name)

        def go_on(self) -> None:
            if self.written:
                self.written = False
                assert begin(store, second) == {"model": b"third"}
                keep(store, second, {"model": b"fourth", "other": b"of the second"})

    keep(Slow(store), first, {"model": b"third"})  # type: ignore[arg-type]
    assert read(store) == {"model": b"fourth", "other": b"of the second"}


# A script that writes meanwhile.


class Meddling(Around):
    """A script writes whenever an object is committed."""

    def __init__(self, inner: ObjectStore, write: Callable[[], None]) -> None:
        super().__init__(inner)
        self.write = write

    def begin_write(self, name: ObjectName, size: int, **conditions: Any) -> Writing:
        made = MeddlingWriting(self.inner.begin_write(name, size, **conditions))
        made.write = self.write if not name.endswith((POINTER, ".list")) else lambda: None
        return made


class MeddlingWriting(AroundWriting):
    write: Callable[[], None]

    def commit(self, digest: bytes) -> ObjectInfo:
        self.write()
        return super().commit(digest)


def test_what_changes_while_it_is_stored_is_stored_again(
    store: ObjectStore, run: Run, read: Read
) -> None:
    first, writes = run(), iter(range(2))
    begin(store, first)

    def write() -> None:
        if (turn := next(writes, None)) is not None:
            rewrite(first._folder, {"a": b"%d" % turn, "b": b"%d" % turn})

    rewrite(first._folder, {"a": b"begin", "b": b"begin"})
    assert first.store(Meddling(store, write)) is not None  # type: ignore[arg-type]
    assert read(store) == {"a": b"1", "b": b"1"}


def test_a_folder_that_does_not_hold_still_gives_no_generation_but_the_last(
    store: ObjectStore, run: Run, read: Read
) -> None:
    first, numbers = run(), iter(range(10**6))
    begin(store, first)
    keep(store, first, ONE)

    def write() -> None:
        (first._folder / "log").write_bytes(b"%d" % next(numbers))

    write()
    for _ in range(2):
        with pytest.raises(SourceChanged, match="'log'"):
            first.store(Meddling(store, write))  # type: ignore[arg-type]
    assert read(store) == ONE
    assert first.store(store, last=True) is not None
    there = read(store)
    assert there.pop("log") == (first._folder / "log").read_bytes()
    assert there == ONE
    # What was stored in vain is gone with the next one.
    keep(store, first, TWO)
    keep(store, first, ONE)
    assert not [name for name in stored(store) if name.endswith("/log")]


def test_a_file_that_is_rewritten_all_the_time_can_be_left_out(
    store: ObjectStore, run: Run, read: Read
) -> None:
    first, numbers = run(exclude=("log",)), iter(range(10**6))
    begin(store, first)

    def write() -> None:
        (first._folder / "log").write_bytes(b"%d" % next(numbers))

    rewrite(first._folder, ONE)
    write()
    assert first.store(Meddling(store, write)) is not None  # type: ignore[arg-type]
    assert read(store) == ONE


def test_what_is_being_written_is_left_out(store: ObjectStore, run: Run, read: Read) -> None:
    first = run()
    begin(store, first)
    make_tree(
        first._folder,
        {
            **ONE,
            "model.tmp": b"half",
            "step-5.tmp/a": b"half",
            "sub/.~lock": b"",
            "a.tmpl": b"kept",
        },
    )
    assert first.store(store) is not None
    assert read(store) == {**ONE, "a.tmpl": b"kept"}


def test_a_folder_is_stored_when_it_is_quiet(run: Run, tmp_path: Path) -> None:
    from prefect_datastores.stores.memory import MemoryStore

    store, now = MemoryStore(), [0.0]
    paused: list[float] = []

    class Stop(Cancellation):
        def pause(self, seconds: float) -> None:
            if seconds > 0.2:
                paused.append(seconds)
                now[0] += seconds

    first = run(quiet=5.0, clock=lambda: now[0])
    first.restore(store)
    rewrite(first._folder, ONE)
    now[0] = max(path.stat().st_ctime for path in first._folder.rglob("*")) + 2.0
    assert first.store(store, cancellation=Stop()) is not None
    assert len(paused) == 1
    assert 2.0 < paused[0] <= 3.1
    rewrite(first._folder, TWO)
    now[0] = 0.0  # a disk whose clock is ahead
    assert first.store(store, cancellation=Stop()) is not None
    assert len(paused) == 1


# What is damaged, and what is in the way.


def test_a_damaged_generation_is_never_taken_for_whole(
    store: ObjectStore, run: Run, read: Read
) -> None:
    first = run()
    begin(store, first)
    keep(store, first, ONE)
    newest = keep(store, first, TWO)
    store.delete(ObjectName(f"{PLACE}/{DATA}/{newest}/sub/more"))
    with pytest.raises(IntegrityError, match="sub/more"):
        read(store)
    second = run(B)
    told = second.restore(store)  # the one before is whole
    assert tree(second._folder) == ONE
    assert told.generation != newest
    # It can be gone on with, and is whole again.
    keep(store, second, TWO)
    assert read(store) == TWO


def test_content_that_somebody_changed_is_never_taken_for_that_of_a_checkpoint(
    store: ObjectStore, run: Run, read: Read
) -> None:
    first = run()
    begin(store, first)
    keep(store, first, ONE)
    newest = keep(store, first, {**ONE, "sub/optimizer": b"state 2"})
    name = ObjectName(f"{PLACE}/{DATA}/{newest}/sub/optimizer")
    store.delete(name)
    put(store, name, b"state X")
    with pytest.raises((IntegrityError, StageFailed)):
        read(store)
    second = run(B)
    if store.capabilities.stores_digest and store.capabilities.lists_digest:
        second.restore(store)  # seen before anything was brought
        assert tree(second._folder) == ONE
    else:
        with pytest.raises(StageFailed, match="another MD5"):
            second.restore(store)


def test_a_damaged_list_is_never_believed(store: ObjectStore, run: Run, read: Read) -> None:
    first = run()
    begin(store, first)
    newest = keep(store, first, ONE)
    name = ObjectName(f"{PLACE}/{list_of(newest)}")
    content = get(store, name)
    store.delete(name)
    put(store, name, content.replace(b"optimizer", b"0ptimizer"))
    with pytest.raises(IntegrityError, match="not as it was written"):
        begin(store, run(B))
    with pytest.raises(IntegrityError):
        read(store)


def test_what_is_gone_at_the_place_is_sent_anew(store: ObjectStore, run: Run, read: Read) -> None:
    first = run()
    begin(store, first)
    newest = keep(store, first, ONE)
    store.delete(ObjectName(f"{PLACE}/{DATA}/{newest}/model"))
    rewrite(first._folder, {**ONE, "more": b"more"})
    with pytest.raises(IntegrityError, match="'model'"):
        first.store(store)
    assert first.store(store) is not None
    assert read(store) == {**ONE, "more": b"more"}


def test_other_ways_to_store_and_checkpoints_keep_apart(
    store: ObjectStore, run: Run, tmp_path: Path
) -> None:
    source = folder_source(make_tree(tmp_path / "source", ONE))
    first = run()
    begin(store, first)
    keep(store, first, ONE)
    rules: list[Overwrite] = ["replace", "if_changed", "skip"]
    for rule in rules:
        with pytest.raises(ConfigurationError, match="checkpoints"):
            publish(store, source, PLACE, rule)
        with pytest.raises(ConfigurationError, match="checkpoints"):
            upload(store, source, PLACE, rule)
    publish(store, source, "published", "replace")
    upload(store, source, "single", "replace")
    for place in ("published", "single", f"{PLACE}/below"):
        with pytest.raises(ConfigurationError):
            Checkpoint(place, tmp_path / "x", A).restore(store)
    with pytest.raises(PlaceTaken):
        Checkpoint("single/model", tmp_path / "x", A).restore(store)


# Kills.

KILLED = """
from prefect_datastores.staging.checkpoint import Checkpoint
from prefect_datastores.staging.generations import Holder
from prefect_datastores.stores.listed import list_objects

def state(number):
    return {"a": b"a%d" % number, "b": b"b%d" % number * 50, "same": b"same"}

def rewrite(root, files):
    for name, content in files.items():
        if not (root / name).exists() or (root / name).read_bytes() != content:
            (root / (name + ".tmp")).write_bytes(content)
            (root / (name + ".tmp")).rename(root / name)

def tree(root):
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}

def run(target, name):
    made = Checkpoint(target, folder / name, Holder(name), quiet=0.0)
    store = opened()
    made.restore(store)
    return store, made, folder / name

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

kills, seen, step, over = 0, set(), 0, False
while not over:
    step += 1
    target = f"job{step}"
    store, first, root = run(target, f"first{step}")
    for number in (1, 2):
        rewrite(root, state(number))
        assert first.store(store) is not None
    store.close()
    def work():
        store, second, root = run(target, f"killed{step}")
        assert tree(root) == state(2)
        rewrite(root, state(3))
        die_before(step)
        second.store(store)
    code = killed(work)
    assert code in (0, -9)
    over = code == 0
    kills += code == -9
    store, third, root = run(target, f"third{step}")
    found = tree(root)
    assert found in (state(2), state(3)), (step, found)
    seen.add(found == state(3))
    for number in (4, 5, 6):
        rewrite(root, state(number))
        assert third.store(store) is not None
    third.finish(store)
    left = [info.name for info in list_objects(store, f"{target}/") if not info.is_marker]
    assert len(left) == 1 + 2 + 5, (step, left)  # the pointer, two lists, what they name
    store.close()
tell(kills=kills, seen=sorted(seen))
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

DISK = """
from prefect_datastores.stores.local import LocalStore
(folder / "store").mkdir(exist_ok=True)
def opened():
    return LocalStore(folder / "store")

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
"""


def test_a_kill_at_every_step_leaves_a_generation_that_was_made(tmp_path: Path) -> None:
    told = sandbox.run(DISK + KILLED, tmp_path, timeout=300)
    assert told["kills"] > 10
    assert told["seen"] == [False, True]


def test_a_kill_at_every_request_leaves_a_generation_that_was_made(
    remote: RemotePlace, tmp_path: Path
) -> None:
    told = sandbox.run(remote.opened_by() + SERVICE + KILLED, tmp_path, timeout=300)
    assert told["kills"] > 8
    assert told["seen"] == [False, True]


# Again and again, while a script runs.


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def opening(store: ObjectStore) -> Callable[[Cancellation], Any]:
    return lambda _: nullcontext(store)


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("pds-checkpoint")]


def test_what_changed_is_kept_while_the_script_runs(
    store: ObjectStore, run: Run, read: Read
) -> None:
    first = run()
    first.restore(store)
    continuous = Continuous(first, opening(store), 0.05)
    continuous.begin()
    for turn in range(3):
        rewrite(first._folder, {"number": b"%d" % turn})
        wait_until(lambda turn=turn: read(store) == {"number": b"%d" % turn})  # type: ignore[misc]
    rewrite(first._folder, ONE)
    assert continuous.end() is not None
    assert read(store) == ONE
    assert continuous.made >= 4
    continuous.finish()
    assert begin(store, run(B)) == {}
    assert not threads()


def test_a_service_that_is_away_for_a_while_is_told_and_tried_again(
    remote: RemotePlace, run: Run, read: Read
) -> None:
    first = run()
    first.restore(remote.store)
    with remote.through() as way:
        told: list[Exception] = []
        continuous = Continuous(first, opening(way.store), 0.05, failed=told.append)
        way.proxy.fail_by(Fault("", "drop", times=None))
        continuous.begin()
        rewrite(first._folder, ONE)
        wait_until(lambda: len(told) > 2)
        assert pointer_of(remote.store, PLACE) is None
        way.proxy.fail_by()
        wait_until(lambda: continuous.made)
        assert read(remote.store) == ONE
        way.proxy.fail_by(Fault("", "drop", times=None))
        rewrite(first._folder, TWO)
        with pytest.raises(Exception, match=way.bare.url.split("/")[2]):
            continuous.end()
    assert read(remote.store) == ONE
    assert begin(remote.store, run(B)) == ONE
    assert tree(first._folder) == TWO
    assert not threads()


def test_answers_that_are_lost_cost_nothing(remote: RemotePlace, run: Run, read: Read) -> None:
    first = run()
    first.restore(remote.store)
    for number in range(14):
        with remote.through(tries=1) as way:
            way.proxy.fail_by(Fault("PUT|PATCH", "lose", skip=number))
            rewrite(first._folder, {"number": b"%d" % number, "same": b"same"})
            with suppress(ServiceBusy, StageFailed):
                first.store(way.store)
        first.store(remote.store)
        assert read(remote.store) == {"number": b"%d" % number, "same": b"same"}


def test_a_cancel_leaves_off_what_is_under_way_and_bounds_the_last_one(run: Run) -> None:
    from prefect_datastores.stores.memory import MemoryStore

    store, first = MemoryStore(), run()
    first.restore(store)
    waiting = threading.Event()
    stops: list[Cancellation] = []

    @contextmanager
    def opened(stop: Cancellation) -> Iterator[ObjectStore]:
        stops.append(stop)

        def wait() -> None:
            waiting.set()
            stop.pause(WAIT)

        yield Meddling(store, wait)  # type: ignore[misc]

    rewrite(first._folder, ONE)
    continuous = Continuous(first, opened, 0.01, hurry=0.5)
    continuous.begin()
    assert waiting.wait(WAIT)
    began = time.monotonic()
    with pytest.raises(TransferCancelled):
        continuous.hurry()
        continuous.end()
    assert time.monotonic() - began < WAIT / 2
    assert len(stops) == 2
    assert not threads()
    assert pointer_of(store, PLACE) is None


def test_a_signal_while_the_last_one_is_made_leaves_it_its_seconds(run: Run) -> None:
    from prefect_datastores.stores.memory import MemoryStore

    for hurry, comes in ((0.5, False), (WAIT, True)):
        store, first = MemoryStore(), run()
        first.restore(store)
        signalled = threading.Event()

        @contextmanager
        def opened(
            stop: Cancellation,
            store: MemoryStore = store,
            signalled: threading.Event = signalled,
            comes: bool = comes,
        ) -> Iterator[ObjectStore]:
            def interrupt() -> None:
                if not signalled.is_set():
                    os.kill(os.getpid(), signal.SIGINT)
                    signalled.set()
                if not comes:
                    stop.pause(WAIT)

            yield Meddling(store, interrupt)  # type: ignore[misc]

        rewrite(first._folder, ONE)
        continuous = Continuous(first, opened, WAIT, hurry=hurry)
        continuous.begin()
        with pytest.raises(KeyboardInterrupt):
            continuous.end()
        assert signalled.is_set()
        assert (continuous.fault is None) == comes
        assert (pointer_of(store, PLACE) is not None) == comes
        assert not threads()


def test_a_run_that_is_overtaken_stops_to_store(store: ObjectStore, run: Run, read: Read) -> None:
    first, second = run(A), run(B)
    begin(store, first)
    begin(store, second)
    keep(store, second, TWO)
    continuous = Continuous(first, opening(store), 0.05)
    continuous.begin()
    rewrite(first._folder, ONE)
    wait_until(lambda: continuous.lost)
    with pytest.raises(CheckpointOvertaken, match="run B"):
        continuous.end()
    assert read(store) == TWO
    assert not threads()


# A script that writes sets of files, killed at random instants.

WRITER = """
import shutil
number = int(sys.argv[3])
root = folder / "checkpoints"
print("ready", flush=True)
while True:
    number += 1
    beside = root / f"set-{number}.tmp"
    beside.mkdir()
    for name in ("model", "optimizer", "state"):
        (beside / name).write_bytes(b"%d" % number * (1 + number % 50))
    beside.rename(root / f"set-{number}")
    for old in root.glob("set-*"):
        if old.name not in (f"set-{number}", f"set-{number - 1}") and not old.name.endswith(".tmp"):
            gone = old.with_name(old.name + ".tmp")
            old.rename(gone)
            shutil.rmtree(gone)
"""


def consistent(files: dict[str, bytes | str]) -> int:
    """The number of the newest set; every set has all of its files."""
    sets: dict[int, dict[str, bytes | str]] = {}
    for path, content in files.items():
        folder, _, name = path.partition("/")
        sets.setdefault(int(folder.removeprefix("set-")), {})[name] = content
    for number, found in sets.items():
        assert set(found) == {"model", "optimizer", "state"}, (number, found)
        assert set(found.values()) == {b"%d" % number * (1 + number % 50)}, (number, found)
    return max(sets, default=0)


def test_what_comes_back_is_of_one_moment(kept: Place, run: Run, tmp_path: Path) -> None:
    """A script writes as fast as it can, and is killed with what stores; it is gone on with where it was kept."""
    numbers = [0]
    for _ in range(4):
        checkpoint = run()
        checkpoint.restore(kept.store)
        back = consistent(tree(checkpoint._folder))
        assert back == numbers[-1]
        writer = sandbox.start(WRITER, checkpoint._folder.parent, str(back))
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            made, until = 0, time.monotonic() + WAIT
            while made < 3:
                assert time.monotonic() < until
                try:
                    made += checkpoint.store(kept.store) is not None
                except SourceChanged:
                    # It writes all the time: let it hold still for a moment, wherever it is.
                    os.kill(writer.pid, signal.SIGSTOP)
                    wait_until(lambda pid=writer.pid: psutil.Process(pid).status() == "stopped")  # type: ignore[misc]
                    made += checkpoint.store(kept.store) is not None
                    os.kill(writer.pid, signal.SIGCONT)
        finally:
            writer.kill()
            writer.communicate()
        reader = run(B)
        reader.restore(kept.store)
        numbers.append(consistent(tree(reader._folder)))
        assert numbers[-1] > back
