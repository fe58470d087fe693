"""Limits: never more in a second than allowed, every try counts, and nobody starves."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import RemotePlace
from servers.faults import Fault
from small_stores import PART

from prefect_datastores import LocalDatastore
from prefect_datastores.errors import ConfigurationError, TransferCancelled
from prefect_datastores.names import ObjectName
from prefect_datastores.settings import rates
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.limit import Allowance, Bucket, LimitedStore, Rates, allowance_of
from prefect_datastores.stores.memory import MemoryStore
from prefect_datastores.stores.retry import RetryPolicy, patient
from prefect_datastores.testing import content_of, get, names_below, put

NAME = ObjectName("data")


class Clock:
    """Time that passes in sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@settings(deadline=None, derandomize=True)
@given(
    rate=st.floats(0.1, 1e6),
    asked=st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 3)), min_size=1, max_size=40),
)
def test_no_time_sees_more_than_the_rate_and_one_second_of_spare(
    rate: float, asked: list[tuple[float, float]]
) -> None:
    clock = Clock()
    bucket = Bucket(rate, clock)
    uses: list[tuple[float, float]] = []  # when, how much
    for idle, seconds_worth in asked:
        clock.now += idle
        amount = seconds_worth * rate
        uses.append((clock.now + bucket.take(amount), amount))
    times = [when for when, _ in uses]
    assert times == sorted(times)  # who asks first is served first
    for first in range(len(uses)):
        for last in range(first, len(uses)):
            used = sum(amount for _, amount in uses[first : last + 1])
            largest = max(amount for _, amount in uses[first : last + 1])
            window = times[last] - times[first]
            assert used <= (rate * (window + 1.0) + largest) * (1 + 1e-6)


def test_a_rate_is_used_to_the_full() -> None:
    clock = Clock()
    bucket = Bucket(10, clock)
    for _ in range(110):
        if pause := bucket.take(1):
            clock.sleep(pause)
    assert clock.now == pytest.approx(10.0)


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_at_which_nothing_moves_is_refused(rate: float) -> None:
    with pytest.raises(ConfigurationError, match="nothing would ever move"):
        Rates(requests_per_second=rate)
    with pytest.raises(ConfigurationError, match="nothing would ever move"):
        Rates(bytes_per_second=rate)


def test_sixty_four_threads_get_their_turns_one_after_another() -> None:
    allowance, lock = Allowance(Rates(requests_per_second=1), Clock()), threading.Lock()
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        with lock:
            pauses.append(seconds)

    store = LimitedStore(MemoryStore(), allowance, sleep)
    with ThreadPoolExecutor(64) as threads:
        for done in [threads.submit(store.list_page, "") for _ in range(64)]:
            done.result()
    assert sorted(pauses) == pytest.approx([float(second) for second in range(1, 64)])


def test_bytes_count_in_both_directions() -> None:
    clock = Clock()
    store = LimitedStore(MemoryStore(), Allowance(Rates(bytes_per_second=1000), clock), clock.sleep)
    put(store, "data", content_of(1000))  # which an idle second has left
    assert clock.now == 0
    assert get(store, "data") == content_of(1000)
    assert clock.now == pytest.approx(1.0)
    put(store, "data", content_of(5000))
    assert clock.now == pytest.approx(2.0)  # more than there ever is: those after it wait for that
    store.read_into(NAME, 0, memoryview(bytearray(1)), pin=None)
    assert clock.now == pytest.approx(6.001)


class Counting(Allowance):
    """Counts what is waited for."""

    requests = size = 0

    def wait(self, requests: int, size: int, sleep: Callable[[float], None]) -> None:
        self.requests += requests
        self.size += size
        super().wait(requests, size, sleep)


def test_what_is_asked_of_the_service_is_what_is_counted(remote: RemotePlace) -> None:
    counted = Counting(Rates())

    def everything(store: ObjectStore) -> None:
        put(store, "small", b"12345")
        put(store, "empty", b"")
        put(store, "large", content_of(2 * PART + 7))
        assert get(store, "large") == content_of(2 * PART + 7)
        assert names_below(store) == ["empty", "large", "small"]
        store.name_rules()
        store.check_root()
        store.check_write(ObjectName("try"))
        store.delete(ObjectName("small"))
        store.move(ObjectName("empty"), ObjectName("sub/moved"))
        store.make_folder(ObjectName("folder"))
        store.remove_empty_folder(ObjectName("folder"))

    with remote.through() as seen:
        everything(LimitedStore(seen.bare, counted))
        assert counted.requests == len(seen.proxy.requests), seen.proxy.requests
    assert counted.size == 5 + 2 * (2 * PART + 7)


def test_every_try_counts(remote: RemotePlace) -> None:
    clock = Clock()
    allowance = Counting(Rates(bytes_per_second=1000), clock)
    policy = RetryPolicy(sleep=clock.sleep, clock=clock, jitter=lambda: 0.0)
    fault = Fault("PUT", "answer", status=500, times=3)
    with remote.through(fault) as seen:
        put(patient(seen.bare, policy, allowance=allowance), "data", content_of(2000))
        assert allowance.requests == len(seen.proxy.requests)
    # Four times 2000 bytes, of which the first began at once.
    assert clock.now == pytest.approx(6.0)


def test_what_a_cancelled_transfer_did_not_use_is_there_for_others() -> None:
    clock, stop = Clock(), Cancellation()
    allowance = Allowance(Rates(bytes_per_second=1000), clock)
    memory = MemoryStore()
    put(memory, "data", content_of(10_000))
    stop.cancel()
    cancelled = LimitedStore(memory, allowance, stop.pause)
    other = LimitedStore(memory, allowance, clock.sleep)
    get(other, "data")
    for _ in range(100):
        with pytest.raises(TransferCancelled):
            get(cancelled, "data")
    other.read_into(NAME, 0, memoryview(bytearray(1000)), pin=None)
    assert clock.now == pytest.approx(10.0)


class Impatient(Cancellation):
    """Notes the pauses, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


def test_all_transfers_of_a_process_share_what_the_settings_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "PREFECT_INTEGRATIONS_DATASTORES_{}_PER_SECOND"
    assert rates() == Rates()
    monkeypatch.setenv(variable.format("MEGABYTES"), "0.01")
    monkeypatch.setenv(variable.format("REQUESTS"), "500")
    assert rates() == Rates(requests_per_second=500, bytes_per_second=10_000)
    assert allowance_of(rates()) is allowance_of(rates())
    pauses = []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_bytes(content_of(10_000))
        stop = Impatient()
        with LocalDatastore(root=str(tmp_path / name)).open_store(stop) as store:
            store.read_into(NAME, 0, memoryview(bytearray(10_000)), pin=None)
        pauses.append(sum(stop.pauses))
    first, second, third = pauses  # real time passes between them, and counts
    assert first == 0
    assert 0 < second <= 1.0 < third <= 2.0


def test_without_a_setting_nothing_waits(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(content_of(10_000))
    stop = Impatient()
    with LocalDatastore(root=str(tmp_path)).open_store(stop) as store:
        for _ in range(100):
            store.read_into(NAME, 0, memoryview(bytearray(10_000)), pin=None)
    assert stop.pauses == []
