"""Small objects are asked for ahead: one thread has many under way, and none is lost, doubled or left.

What the engine does with answers that are under way is seen with a store that keeps the books of them;
how the requests of each kind bear it, over the wire.
"""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracle import attempt, check, fill, open_descriptors, stored
from places import TRIES, RemotePlace
from servers.faults import Fault
from small_stores import Around, make_tree, tree
from wire_faults import READING, at

from prefect_datastores.errors import AccessDenied, ServiceBusy, TransferCancelled
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.engine import Limits, run
from prefect_datastores.staging.fetching import SMALL
from prefect_datastores.staging.progress import Silent
from prefect_datastores.staging.report import ObjectRow
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.base import Capabilities, Later, Page
from prefect_datastores.stores.limit import Allowance, LimitedStore, Rates
from prefect_datastores.stores.memory import MemoryStore
from prefect_datastores.stores.pressure import Pressure, PressuredStore
from prefect_datastores.stores.retry import RetryPolicy, patient
from prefect_datastores.testing import content_of, put

MANY = {f"{number:03}": content_of(100 + number, str(number)) for number in range(300)}
REPLACE = DownloadRequest(overwrite="replace")


class Answering(Around):
    """A store whose answers are under way until they are wanted, and that keeps the books of them."""

    capabilities = Capabilities(
        "a service", stores_digest=True, part_size=2**20, begins_ahead=True, commits_ahead=True
    )

    def __init__(self, content: dict[str, bytes]) -> None:
        super().__init__(MemoryStore())
        self.begun: list[Answer] = []
        self.threads: set[threading.Thread] = set()
        self.peak = 0
        self.before: Callable[[str], None] = lambda _: None
        for name, data in content.items():
            put(self.inner, name, data)

    def begin_read(
        self, name: ObjectName, offset: int, buffer: memoryview, **more: Any
    ) -> "Answer":  # type: ignore[override]
        self.threads.add(threading.current_thread())

        def read() -> None:
            self.before(name)
            self.inner.read_into(name, offset, buffer, **more)

        self.begun.append(Answer(read))
        self.peak = max(self.peak, sum(one.is_open for one in self.begun))
        return self.begun[-1]


class Answer:
    is_under_way = True

    def __init__(self, read: Callable[[], None]) -> None:
        self._read, self.is_open, self.ends = read, True, 0

    def go_on(self) -> bool:
        return False

    def finish(self) -> None:
        assert self.is_open, "An answer comes once."
        self.is_open, self.ends = False, self.ends + 1
        self._read()

    def drop(self) -> None:
        self.ends += self.is_open
        self.is_open = False


def fetch(store: Answering, to: Path, **more: Any) -> Any:
    return attempt(lambda: download(store, to, REPLACE, **more))  # type: ignore[arg-type]


def test_one_thread_has_as_many_under_way_as_there_may_be(tmp_path: Path) -> None:
    store = Answering(MANY)
    outcome = fetch(store, tmp_path, limits=Limits(small=50))
    check(outcome, {}, MANY, tree(tmp_path))
    assert store.peak == 50
    assert len(store.threads) == 1
    assert [one.ends for one in store.begun] == [1] * len(MANY)


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_what_takes_several_answers_goes_behind_the_others_after_each(stages: int) -> None:
    sent: list[str] = []

    class Staged:
        is_under_way = True

        def __init__(self, name: str) -> None:
            self.name, self.stage = name, 1
            sent.append(f"{name}1")

        def go_on(self) -> bool:
            if self.stage == stages:
                return False
            self.stage += 1
            sent.append(f"{self.name}{self.stage}")
            return True

        def finish(self) -> ObjectRow:
            assert self.stage == stages
            return ObjectRow(self.name, self.name, 0, "moved")

        def drop(self) -> None:
            pass

    rows = run(
        *(
            "abc",
            lambda *_: pytest.fail("Each of them was begun."),
            lambda *_: pytest.fail("None is wrong."),
        ),
        begin=lambda item, _: Staged(item),
        limits=Limits(),
        cancellation=Cancellation(),
        progress=Silent(),
    )
    assert [row.name for row in rows] == list("abc")
    assert sent == [f"{name}{stage}" for stage in range(1, stages + 1) for name in "abc"]


def test_what_is_asked_for_ahead_has_memory_of_its_own(tmp_path: Path) -> None:
    content = {f"{number:02}": content_of(SMALL, str(number)) for number in range(40)}
    store = Answering({**content, "large": content_of(SMALL + 1)})
    outcome = fetch(store, tmp_path, limits=Limits(bytes_in_flight=12 * SMALL))
    assert outcome.error is None
    assert store.peak == 3
    assert "large" not in [one.ends for one in store.begun]


def test_nothing_is_asked_for_behind_a_larger_object(tmp_path: Path) -> None:
    """Its memory could be that which the smaller ones hold."""
    content = {
        "a": b"1",
        "b": content_of(3 * SMALL),
        **{f"c{n}": content_of(SMALL) for n in range(9)},
    }
    store = Answering(content)
    asked: list[int] = []
    read = store.inner.read_into

    def look(name: ObjectName, *given: Any, **more: Any) -> None:
        if name == "b":
            asked.append(len(store.begun))
        read(name, *given, **more)

    store.inner.read_into = look  # type: ignore[method-assign]
    outcome = fetch(store, tmp_path, limits=Limits(files=1, bytes_in_flight=SMALL))
    check(outcome, {}, content, tree(tmp_path))
    assert set(asked) == {1}


def test_damaged_ones_are_fetched_again_where_memory_is_short(tmp_path: Path) -> None:
    content = {f"{number:02}": content_of(SMALL, str(number)) for number in range(20)}
    store, damaged = Answering(content), set[str]()
    read = store.inner.read_into

    def damage(name: ObjectName, offset: int, buffer: memoryview, **more: Any) -> None:
        read(name, offset, buffer, **more)
        if name not in damaged:
            damaged.add(name)
            buffer[0] ^= 1

    store.inner.read_into = damage  # type: ignore[method-assign]
    outcome = fetch(store, tmp_path, limits=Limits(bytes_in_flight=4 * SMALL))
    check(outcome, {}, content, tree(tmp_path))
    assert outcome.error is None
    assert len(damaged) == 20


def test_a_cancel_drops_all_that_is_under_way(tmp_path: Path) -> None:
    store, stop = Answering(MANY), Cancellation()
    make_tree(tmp_path, {"old": b"old"})
    before = open_descriptors()
    store.before = lambda name: stop.cancel() if name == "100" else None
    outcome = fetch(store, tmp_path, cancellation=stop)
    assert isinstance(outcome.error, TransferCancelled)
    found = tree(tmp_path)
    assert found.pop("old") == b"old"
    assert found.items() <= MANY.items()
    assert [one.ends for one in store.begun] == [1] * len(store.begun)
    assert len(store.begun) < len(MANY)
    assert not list(tmp_path.glob(".pds-*"))
    assert open_descriptors() == before


def test_a_fault_that_nobody_thought_of_drops_all_that_is_under_way(tmp_path: Path) -> None:
    store = Answering(MANY)
    before = open_descriptors()

    def break_down(name: str) -> None:
        if name == "100":
            raise ZeroDivisionError

    store.before = break_down
    with pytest.raises(ZeroDivisionError):
        fetch(store, tmp_path)
    assert [one.ends for one in store.begun] == [1] * len(store.begun)
    assert tree(tmp_path).items() <= MANY.items()
    assert not list(tmp_path.glob(".pds-*"))
    assert open_descriptors() == before


def test_one_that_fails_for_all_lets_nothing_more_be_asked_for(tmp_path: Path) -> None:
    store = Answering(MANY)

    def refuse(name: str) -> None:
        if name >= "100":
            raise AccessDenied("No.")

    store.before = refuse
    outcome = fetch(store, tmp_path, limits=Limits(small=20))
    check(outcome, {}, MANY, tree(tmp_path))
    heard = len(store.begun) - 100  # of those that were asked for already
    assert 0 < heard <= 20
    actions = [outcome.actions[name] for name in sorted(MANY)]
    assert actions == ["moved"] * 100 + ["failed"] * heard + ["cancelled"] * (200 - heard)


# Settled together.


def only_one(call: Callable[..., Any], number: int, error: OSError) -> Callable[..., Any]:
    calls = iter(range(10**9))

    def wrapped(*given: Any, **more: Any) -> Any:
        if next(calls) == number:
            raise error
        return call(*given, **more)

    return wrapped


@pytest.mark.parametrize("name", ["fsync", "rename", "fchmod"])
def test_a_disk_that_says_no_to_one_of_many_has_all_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    store = Answering(MANY)
    error = OSError(5, "Input/output error")
    monkeypatch.setattr(os, name, only_one(getattr(os, name), 70, error))
    outcome = fetch(store, tmp_path)
    check(outcome, {}, MANY, tree(tmp_path))
    assert sorted(outcome.actions.values()) == ["failed"] + ["moved"] * 299
    assert not list(tmp_path.glob(".pds-*"))


def test_nothing_has_its_name_before_the_disk_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[int] = set()
    named: list[bool] = []
    fsync, link = os.fsync, os.rename

    def flush(fd: int) -> None:
        fsync(fd)
        flushed.add(os.fstat(fd).st_ino)

    def rename(source: str, target: str, **more: Any) -> None:
        if "src_dir_fd" in more and target in MANY:
            named.append(os.stat(source, dir_fd=more["src_dir_fd"]).st_ino in flushed)
        link(source, target, **more)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "rename", rename)
    assert fetch(Answering(MANY), tmp_path).error is None
    assert named == [True] * len(MANY)


def test_a_disk_that_takes_its_time_for_each_is_given_many_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = [0, 0]
    lock, fsync = threading.Lock(), os.fsync

    def slow(fd: int) -> None:
        with lock:
            at_once[0] += 1
            at_once[1] = max(at_once)
        threading.Event().wait(0.003)
        with lock:
            at_once[0] -= 1
        fsync(fd)

    monkeypatch.setattr(os, "fsync", slow)
    outcome = fetch(Answering(MANY), tmp_path, limits=Limits(parts=8))
    check(outcome, {}, MANY, tree(tmp_path))
    assert outcome.error is None
    assert at_once[1] == 8


# Over the wire.


FEW = {name: MANY[name] for name in sorted(MANY)[:12]}
OLD = {"003": b"old", "kept": b"kept"}


@pytest.mark.parametrize("name", READING)
def test_a_fault_of_a_small_read_is_got_over_or_told(
    remote: RemotePlace, tmp_path: Path, name: str
) -> None:
    fill(remote.store, FEW)
    named = READING[name]
    with remote.through(stall=0.5) as seen:
        download(seen.store, tmp_path / "first", REPLACE)  # connections are there now
        for times in (None, 1):
            destination = make_tree(tmp_path / f"to{times}", OLD)
            seen.proxy.fail_by(at(named.fault, r"GET \S+/003(\?|$)", times=times))
            outcome = attempt(lambda to=destination: download(seen.store, to, REPLACE))
            check(outcome, OLD, FEW, tree(destination))
            got_over = named.passes and times == 1
            assert outcome.row("003").action == ("moved" if got_over else "failed")
            stops = "403" in name and not got_over  # what the others would meet as well
            others = {outcome.actions[other] for other in FEW if other != "003"}
            assert others <= ({"moved", "cancelled"} if stops else {"moved"})
            assert seen.proxy.count(r"GET \S+/003") <= 2 * TRIES


def test_a_service_that_is_busy_is_waited_for_with_many_under_way(
    remote: RemotePlace, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "source", MANY)
    pauses: list[float] = []
    # How many are under way together, and so are one pause, is a matter of time: at worst each is one.
    policy = RetryPolicy(tries=25, sleep=pauses.append, jitter=lambda: 0.0)
    with remote.through() as seen:
        store = patient(seen.bare, policy)
        before = make_tree(tmp_path / "before", dict.fromkeys(MANY, b"old"))
        upload(store, folder_source(before), "", "replace")  # connections are there now
        seen.proxy.fail_by(Fault(r"PUT \S+/0\d\d(\?|$)", "answer", times=20, status=503))
        sent = attempt(lambda: upload(store, folder_source(source), "", "replace"))
        check(sent, dict.fromkeys(MANY, b"old"), MANY, stored(remote.store))
        seen.proxy.fail_by(Fault(r"GET \S+/0\d\d", "answer", times=20, status=503))
        came = attempt(lambda: download(store, tmp_path / "to", REPLACE))
        check(came, {}, MANY, tree(tmp_path / "to"))
    assert (sent.error, came.error) == (None, None)
    assert len(pauses) >= 2


def test_small_files_whose_commit_is_lost_or_overtaken_are_told_right(
    remote: RemotePlace, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "source", FEW)
    theirs = b"theirs"
    faults = (
        Fault(r"PUT \S+/003", "lose"),
        Fault(r"PUT \S+/005", "pass", meanwhile=lambda: put(remote.store, "005", theirs)),
    )
    with remote.through(*faults) as seen:
        outcome = attempt(lambda: upload(seen.store, folder_source(source), "", "fail"))
    found = stored(remote.store)
    check(outcome, {"005": theirs}, FEW, found)
    assert outcome.row("003").action == "moved"
    assert outcome.row("005").action == "failed"
    assert found["005"] == theirs


def test_a_file_that_grows_before_it_is_sent_is_sent_as_it_is(
    remote: RemotePlace, tmp_path: Path
) -> None:
    files = folder_source(make_tree(tmp_path / "source", FEW))
    (tmp_path / "source" / "003").write_bytes(b"longer" * 100)
    outcome = attempt(lambda: upload(remote.store, files, "", "replace"))
    assert outcome.error is None
    assert stored(remote.store) == {**FEW, "003": b"longer" * 100}


# Backpressure.


def test_nothing_is_begun_ahead_while_the_service_wants_a_pause() -> None:
    pressure = Pressure(RetryPolicy(sleep=lambda _: None, clock=lambda: 10.0, jitter=lambda: 1.0))
    began = pressure.enter()
    assert pressure.enter_at_once() == began
    pressure.throttled(began, ServiceBusy("503", throttled=True))
    assert pressure.enter_at_once() is None


def test_what_is_begun_ahead_hinders_nobody_who_waits() -> None:
    now = [10.0]
    pressure = Pressure(
        RetryPolicy(sleep=lambda s: now.__setitem__(0, now[0] + s), clock=lambda: now[0])
    )
    ahead = [pressure.enter_at_once() for _ in range(5)]
    first = pressure.enter()
    pressure.throttled(first, ServiceBusy("503", throttled=True))  # one at once from now on
    again = pressure.enter()  # does not wait for those that only this thread would finish
    assert pressure.enter_at_once() is None
    pressure.answered(again, tells=True)
    for began in ahead:
        assert began is not None
        pressure.waited_for()
        pressure.answered(began, tells=True)
    assert pressure.enter_at_once() is not None
    pressure.left()


def test_refusals_that_were_under_way_together_are_one_pause() -> None:
    """One thread reads them one after another; none of them asks for a pause of its own."""
    now, pauses = [100.0], list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    class Refusing(Around):
        def begin_read(self, *_: Any, **__: Any) -> Answer:  # type: ignore[override]
            return Answer(refuse)

        def read_into(self, *_: Any, **__: Any) -> None:
            pass

    def refuse() -> None:
        now[0] += 0.001
        raise ServiceBusy("503", retry_after=10.0, throttled=True)

    policy = RetryPolicy(sleep=sleep, clock=lambda: now[0], jitter=lambda: 0.0)
    store = patient(Refusing(MemoryStore()), policy)  # type: ignore[arg-type]
    begun = [
        store.begin_read(ObjectName("a"), 0, memoryview(bytearray(1)), pin=None) for _ in range(8)
    ]
    for one in begun:
        one.finish()
    assert 9.9 <= sum(pauses) <= 10.1


def test_one_that_is_not_under_way_waits_for_the_pause_like_any_other() -> None:
    now = [100.0]
    sent: list[float] = []

    class Unready(Around):
        def begin_read(self, *_: Any, **__: Any) -> Later[None]:  # type: ignore[override]
            return Later(lambda: sent.append(now[0]))

        def read_into(self, *_: Any, **__: Any) -> None:
            sent.append(now[0])

    policy = RetryPolicy(
        sleep=lambda s: now.__setitem__(0, now[0] + s), clock=lambda: now[0], jitter=lambda: 0.0
    )
    pressure = Pressure(policy)
    store = PressuredStore(Unready(MemoryStore()), pressure)  # type: ignore[arg-type]
    begun = store.begin_read(ObjectName("a"), 0, memoryview(bytearray(1)), pin=None)
    pressure.throttled(pressure.enter(), ServiceBusy("503", retry_after=5.0, throttled=True))
    begun.finish()
    assert sent == [105.0]


def test_small_files_are_named_before_a_larger_one_is_waited_for(tmp_path: Path) -> None:
    content = {**FEW, "z": content_of(3 * SMALL)}
    store, there = Answering(content), list[int]()
    read = store.inner.read_into

    def look(name: ObjectName, *given: Any, **more: Any) -> None:
        if name == "z":
            there.append(len(tree(tmp_path)))
        read(name, *given, **more)

    store.inner.read_into = look  # type: ignore[method-assign]
    assert fetch(store, tmp_path, limits=Limits(files=1)).error is None
    assert there[0] == len(FEW)


def test_what_will_be_refused_for_its_digest_is_not_asked_for(tmp_path: Path) -> None:
    store = Answering({})
    for name, content in FEW.items():
        store.inner.put(name, content)
    request = DownloadRequest(require_digest=True)
    outcome = attempt(lambda: download(store, tmp_path, request))  # type: ignore[arg-type]
    assert set(outcome.actions.values()) == {"failed"}
    assert store.begun == []


def test_a_limit_lets_nothing_be_asked_for_ahead_and_reads_no_file_twice(
    remote: RemotePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_tree(tmp_path / "source", FEW)
    limited = LimitedStore(remote.store, Allowance(Rates(requests_per_second=10_000.0)))
    reads, preadv = list[int](), os.preadv
    monkeypatch.setattr(os, "preadv", lambda *given: reads.append(1) or preadv(*given))
    outcome = attempt(lambda: upload(limited, folder_source(source), "", "replace"))
    check(outcome, {}, FEW, stored(remote.store))
    assert not limited.capabilities.begins_ahead
    assert len(reads) == len(FEW)


def test_a_signal_is_heard_while_a_plan_does_not_go_on(tmp_path: Path) -> None:
    """The thread that waits for the next object holds nothing that the main thread needs."""
    goes_on, in_time = threading.Event(), list[bool]()

    class Stalling(MemoryStore):
        def list_page(self, *given: Any, **more: Any) -> Page:
            page = super().list_page(*given, **{**more, "limit": 5000})
            if (more.get("marker") or "") >= "009":
                in_time.append(goes_on.wait(20))
            return page

    store, stop = Stalling(), Cancellation()
    for number in range(12_000):
        store.put(f"{number:06}", b"")

    def cancel(*_: object) -> None:
        stop.cancel()
        goes_on.set()

    before = signal.signal(signal.SIGALRM, cancel)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        outcome = attempt(lambda: download(store, tmp_path, DownloadRequest(), cancellation=stop))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert isinstance(outcome.error, TransferCancelled)
    assert in_time == [True]
