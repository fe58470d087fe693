"""Backpressure: one thread is asked to wait, and all do; then requests begin slowly again."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from places import RemotePlace
from servers.faults import Fault, FaultyProxy
from small_stores import Around

from prefect_datastores.errors import (
    DatastoreError,
    EndpointUnreachable,
    IntegrityError,
    ObjectNotFound,
    ServiceBusy,
    TransferCancelled,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.stores.base import ObjectInfo
from prefect_datastores.stores.memory import MemoryStore
from prefect_datastores.stores.pressure import Pressure, PressuredStore, StaysBusy
from prefect_datastores.stores.retry import RetryPolicy, patient
from prefect_datastores.testing import names_below, put

NAME = ObjectName("data")
BUSY = ServiceBusy("It answered 503.", throttled=True)


def busy(retry_after: float | None = None) -> ServiceBusy:
    return ServiceBusy("It answered 503.", retry_after=retry_after, throttled=True)


class Time:
    """Time for many threads: it passes when a test says so, and wakes who slept long enough."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asleep = 0
        self.slept: list[float] = []
        self._changed = threading.Condition()

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._changed:
            until = self.now + seconds
            self.slept.append(seconds)
            self.asleep += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.now >= until)
            self.asleep -= 1

    def until_asleep(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.asleep == count, timeout=60)

    def passes(self, seconds: float) -> None:
        with self._changed:
            self.now += seconds
            self._changed.notify_all()

    def policy(self, **bounds: float) -> RetryPolicy:
        return RetryPolicy(
            sleep=self.sleep,
            clock=self.clock,
            jitter=lambda: 1.0,
            **bounds,  # type: ignore[arg-type]
        )


class Held(Around):
    """A store whose `head` waits in the middle until a test says how it ends."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.pending: list[Future[None]] = []
        self._changed = threading.Condition()
        self._over = False

    def let_go(self) -> None:
        with self._changed:
            self._over = True
            for request in self.pending:
                request.set_result(None)

    def head(self, name: ObjectName) -> ObjectInfo:
        ends: Future[None] = Future()
        with self._changed:
            self.pending.append(ends)
            if self._over:
                ends.set_result(None)
            self._changed.notify_all()
        ends.result()
        return ObjectInfo(str(name), 1, "1")

    def under_way(self, count: int) -> list[Future[None]]:
        """Exactly that many requests, once they are there; then they are the test's to end."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.pending) >= count, timeout=20)
            assert len(self.pending) == count
            taken, self.pending = self.pending, []
        return taken


@dataclass
class Crew:
    """Threads that ask one store for the head of an object."""

    held: Held
    time: Time
    threads: ThreadPoolExecutor
    store: PressuredStore
    asked: list[Future[ObjectInfo]] = field(default_factory=list)

    def ask(self, count: int) -> None:
        self.asked += [self.threads.submit(self.store.head, NAME) for _ in range(count)]


@pytest.fixture
def crew() -> Iterator[Crew]:
    held, time = Held(), Time()
    store = PressuredStore(held, Pressure(time.policy()))
    with ThreadPoolExecutor(64) as threads:
        yield Crew(held, time, threads, store)
        held.let_go()  # of what a failed test left
        time.passes(1e9)


def end(requests: list[Future[None]], error: Exception | None = None) -> None:
    for request in requests:
        if error is None:
            request.set_result(None)
        else:
            request.set_exception(error)


def test_nothing_holds_requests_that_nobody_asked_to_wait(crew: Crew) -> None:
    crew.ask(64)
    end(crew.held.under_way(64))
    assert [future.result().size for future in crew.asked] == [1] * 64
    assert crew.time.slept == []


def test_one_thread_that_is_asked_to_wait_holds_all(crew: Crew) -> None:
    crew.ask(8)
    first, *others = crew.held.under_way(8)
    end([first], busy(retry_after=5.0))
    with pytest.raises(ServiceBusy):
        crew.asked[0].result()
    end(others)  # what was under way ends as it does
    crew.ask(20)
    crew.time.until_asleep(20)
    assert crew.held.pending == []
    assert crew.time.slept == [5.0] * 20  # one wait of all, not one after the other
    crew.time.passes(5.0)
    end(crew.held.under_way(1))  # and not 20 at once


def test_requests_begin_low_and_grow_again(crew: Crew) -> None:
    crew.ask(16)
    throttled, *others = crew.held.under_way(16)
    end([throttled], busy(retry_after=1.0))
    with pytest.raises(ServiceBusy):
        crew.asked[0].result()
    end(others)
    crew.ask(60)
    crew.time.until_asleep(60)
    crew.time.passes(1.0)
    # Twice as many up to half of 16, then about one more with each round.
    for expected in (1, 2, 4, 8, 8, 9, 10):
        end(crew.held.under_way(expected))
    end(crew.held.under_way(11))
    end(crew.held.under_way(7))
    assert len([future.result() for future in crew.asked[1:]]) == 75


def test_a_burst_of_refusals_is_one_pause(crew: Crew) -> None:
    crew.ask(32)
    end(crew.held.under_way(32), busy())
    for future in crew.asked:
        with pytest.raises(ServiceBusy):
            future.result()
    crew.ask(32)
    crew.time.until_asleep(32)
    assert crew.time.slept == pytest.approx([0.4] * 32)  # as after one try, not as after 32
    crew.time.passes(0.4)
    end(crew.held.under_way(1))
    end(crew.held.under_way(2))
    end(crew.held.under_way(4))
    end(crew.held.under_way(8))
    end(crew.held.under_way(16))
    end(crew.held.under_way(1))


def test_the_longest_pause_that_one_of_a_burst_was_asked_for_holds_all(crew: Crew) -> None:
    crew.ask(2)
    first, second = crew.held.under_way(2)
    end([first], busy(retry_after=2.0))
    with pytest.raises(ServiceBusy):
        crew.asked[0].result()
    end([second], busy(retry_after=500.0))
    with pytest.raises(ServiceBusy):
        crew.asked[1].result()
    crew.ask(1)
    crew.time.until_asleep(1)
    assert crew.time.slept == [30.0]  # at most, whatever is asked for
    crew.time.passes(30.0)
    end(crew.held.under_way(1))


@pytest.mark.parametrize(
    "error",
    [
        ServiceBusy("The connection broke."),
        ServiceBusy("It answered 500.", retry_after=9.0),
        EndpointUnreachable("Nobody answers."),
        IntegrityError("Short."),
        ObjectNotFound("None."),
        ValueError("?"),
    ],
)
def test_a_broken_connection_holds_nobody(crew: Crew, error: Exception) -> None:
    crew.ask(4)
    end(crew.held.under_way(4), error)
    for future in crew.asked:
        with pytest.raises(type(error)):
            future.result()
    crew.ask(32)
    end(crew.held.under_way(32))
    assert crew.time.slept == []


@contextmanager
def slowed(crew: Crew) -> Iterator[None]:
    """One request at a time is allowed, and it is under way."""
    crew.ask(1)
    end(crew.held.under_way(1), busy(retry_after=1.0))
    with pytest.raises(ServiceBusy):
        crew.asked.pop().result()
    crew.time.passes(1.0)
    yield


@pytest.mark.parametrize(
    ("error", "then"),
    [(ObjectNotFound("None."), 2), (ServiceBusy("broken"), 1), (TransferCancelled("stop"), 1)],
)
def test_only_an_answer_lets_requests_grow(crew: Crew, error: DatastoreError, then: int) -> None:
    with slowed(crew):
        crew.ask(4)
        end(crew.held.under_way(1), error)
        end(crew.held.under_way(then))
        end(crew.held.under_way(3 - then))
    assert sorted(future.exception() is None for future in crew.asked) == [False, True, True, True]


def test_what_asked_nobody_is_no_good_answer() -> None:
    time = Time()
    pressure = Pressure(time.policy(tries=2))
    memory = MemoryStore()
    memory.capabilities = replace(memory.capabilities, commits_with_content=True)
    put(memory, "data")
    store = PressuredStore(memory, pressure)
    pressure.throttled(pressure.enter(), busy())
    time.passes(1.0)
    # Blob stores ask nobody for these; a good end of them would hide that nothing works.
    store.begin_write(NAME, 1).write_part(0, 0, memoryview(b"x"))
    store.read_into(NAME, 0, memoryview(bytearray()), pin=None)
    store.name_rules()
    pressure.throttled(pressure.enter(), busy())
    with pytest.raises(StaysBusy, match="after 2 pauses"):
        store.head(NAME)


def test_a_service_that_never_answers_well_is_left_alone_and_looked_at_now_and_then() -> None:
    time = Time()
    pressure = Pressure(time.policy(tries=3))
    asked = 0

    def ask(error: ServiceBusy | None = BUSY) -> None:
        nonlocal asked
        began = pressure.enter()
        asked += 1
        if error is not None:
            pressure.throttled(began, error)
        else:
            pressure.answered(began, tells=True)

    for _ in range(3):
        ask()
        time.passes(2.0)
    for _ in range(1000):
        with pytest.raises(StaysBusy, match=r"^It answered 503\. .* after 3 pauses") as caught:
            ask()
    assert asked == 3
    assert (caught.value.throttled, caught.value.retry_after) == (True, 28.0)
    time.passes(28.0)
    ask()  # one look
    with pytest.raises(StaysBusy):
        ask()
    time.passes(30.0)
    ask(None)  # it is well again
    for _ in range(5):
        ask(None)
    assert asked == 10


def test_a_service_that_answers_well_now_and_then_is_not_left_alone() -> None:
    time = Time()
    pressure = Pressure(time.policy(tries=2))
    for _ in range(20):
        pressure.throttled(pressure.enter(), busy())
        time.passes(0.4)  # the first pause, each time
        pressure.answered(pressure.enter(), tells=True)
    pressure.answered(pressure.enter(), tells=True)


def test_the_deadline_is_one_of_all_threads() -> None:
    time = Time()
    pressure = Pressure(time.policy(tries=1000, deadline=60.0))
    for _ in range(3):
        pressure.throttled(pressure.enter(), busy(retry_after=25.0))
        time.passes(25.0)
    with pytest.raises(StaysBusy, match="for 50 s"):
        pressure.enter()


def test_who_waits_for_a_turn_hears_that_the_service_is_left_alone(crew: Crew) -> None:
    crew.store._pressure = pressure = Pressure(crew.time.policy(tries=2))
    pressure.throttled(pressure.enter(), busy(retry_after=1.0))
    crew.time.passes(1.0)
    crew.ask(10)
    end(crew.held.under_way(1), busy())
    for future in crew.asked:
        with pytest.raises(ServiceBusy):
            future.result(timeout=60)
    assert sum(isinstance(future.exception(), StaysBusy) for future in crew.asked) == 9


def test_a_cancel_ends_the_pause_of_all() -> None:
    stop = Cancellation()
    held = Held()
    policy = RetryPolicy(sleep=stop.pause, longest_pause=3600, deadline=7200)
    store = PressuredStore(held, Pressure(policy))
    with ThreadPoolExecutor(16) as threads:
        first = threads.submit(store.head, NAME)
        end(held.under_way(1), busy(retry_after=3600))
        with pytest.raises(ServiceBusy):
            first.result()
        waiting = [threads.submit(store.head, NAME) for _ in range(15)]
        stop.cancel()
        for future in waiting:
            with pytest.raises(TransferCancelled):
                future.result(timeout=60)
    assert held.pending == []


# Over real sockets.


class Quick:
    """Time that passes as soon as somebody waits for it."""

    def __init__(self) -> None:
        self._lock, self._now = threading.Lock(), 0.0
        self.policy = RetryPolicy(
            sleep=self._sleep, clock=lambda: self._now, jitter=lambda: 1.0, deadline=1e9
        )

    def _sleep(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds


@contextmanager
def put_by_many(
    remote: RemotePlace, policy: RetryPolicy, *faults: Fault
) -> Iterator[tuple[FaultyProxy, list[Future[ObjectInfo]]]]:
    """Store 300 objects from 64 threads through a proxy with faults."""
    with remote.through(*faults) as seen, ThreadPoolExecutor(64) as threads:
        store = patient(seen.bare, policy)
        yield seen.proxy, [threads.submit(put, store, f"{number}") for number in range(300)]


@pytest.mark.parametrize("status", [429, 503])
def test_an_endless_refusal_is_asked_a_bounded_number_of_times_by_all_threads(
    remote: RemotePlace, status: int
) -> None:
    fault = Fault("PUT", "answer", times=None, status=status, headers={"Retry-After": "1"})
    with put_by_many(remote, Quick().policy, fault) as (proxy, stored):
        for future in stored:
            with pytest.raises(ServiceBusy, match=f"answered {status}"):
                future.result()
        assert (
            8 <= proxy.count("PUT") <= 100
        )  # 64 that are under way at first, and then 8; not 2400
    assert names_below(remote.store) == []


def test_what_the_service_has_no_time_for_comes_later(remote: RemotePlace) -> None:
    policy = replace(Quick().policy, tries=25)
    shown = r"PUT \S+/\d{1,3}(\?|$)"  # once for each object
    fault = Fault(shown, "answer", skip=5, times=20, headers={"Retry-After": "1"})
    with put_by_many(remote, policy, fault) as (proxy, stored):
        assert {future.result().size for future in stored} == {1}
        assert proxy.count(shown) == 320
    assert len(names_below(remote.store)) == 300


def test_a_store_with_all_patience_is_the_store() -> None:
    store = patient(MemoryStore())
    assert put(store, "data", b"12345").size == 5
    assert store.head(NAME).size == 5
