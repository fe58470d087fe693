"""Retries: what is tried again, how long it takes, and that it ends; then over real sockets."""

import gzip
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from azure.storage.blob import ContainerClient, ContentSettings
from hypothesis import given, settings
from hypothesis import strategies as st
from places import RemotePlace
from servers.faults import Fault, FaultyProxy
from small_stores import PART

from prefect_datastores.errors import (
    AccessDenied,
    AuthenticationFailed,
    ConfigurationError,
    ContainerNotFound,
    CredentialExpired,
    DatastoreError,
    EndpointUnreachable,
    IntegrityError,
    LocalDiskFull,
    ObjectExists,
    ObjectNotFound,
    ServiceBusy,
    SourceChanged,
    StageFailed,
    TransferCancelled,
    TransferError,
    UnsafeName,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.blob import BlobStore
from prefect_datastores.stores.retry import RetryingStore, RetryPolicy
from prefect_datastores.testing import begin, content_of, get, md5_of, names_below, put

PASSING = [ServiceBusy, EndpointUnreachable, IntegrityError]
LASTING = [
    *(AccessDenied, AuthenticationFailed, ConfigurationError, ContainerNotFound),
    *(CredentialExpired, LocalDiskFull, ObjectExists, ObjectNotFound, SourceChanged),
    *(TransferError, UnsafeName, ValueError, KeyboardInterrupt),
]


@dataclass
class Clock:
    """Time that passes only in pauses, and in requests that take some."""

    now: float = 1000.0
    pauses: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def policy(self, *, jitter: float = 1.0, **bounds: float) -> RetryPolicy:
        return RetryPolicy(
            sleep=self.sleep,
            clock=lambda: self.now,
            jitter=lambda: jitter,
            **bounds,  # type: ignore[arg-type]
        )


class Flaky:
    """A request that fails in given ways, one a try, the last one for ever, or ends well."""

    def __init__(
        self, *errors: BaseException, clock: Clock | None = None, takes: float = 0
    ) -> None:
        self.errors, self.tries = list(errors), 0
        self.clock, self.takes = clock, takes

    def __call__(self) -> str:
        self.tries += 1
        if self.clock:
            self.clock.now += self.takes
        if self.tries <= len(self.errors):
            raise self.errors[self.tries - 1]
        return "done"


def forever(error: BaseException, **more: object) -> Flaky:
    return Flaky(*[error] * 1000, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", PASSING)
def test_what_may_pass_is_tried_again(kind: type[DatastoreError]) -> None:
    request = Flaky(kind("no"), kind("no"))
    assert Clock().policy().call("read", request) == "done"
    assert request.tries == 3


@pytest.mark.parametrize("kind", LASTING)
def test_what_will_not_pass_is_not_tried_again(kind: type[BaseException]) -> None:
    clock, error = Clock(), kind("no")
    request = Flaky(error)
    with pytest.raises(kind) as caught:
        clock.policy().call("read", request)
    assert caught.value is error
    assert (request.tries, clock.pauses) == (1, [])


def test_pauses_double_up_to_the_longest() -> None:
    clock = Clock()
    with pytest.raises(ServiceBusy):
        clock.policy(deadline=1000).call("read", forever(ServiceBusy("no")))
    assert clock.pauses == [0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6]
    clock = Clock()
    with pytest.raises(ServiceBusy):
        clock.policy(longest_pause=2.0).call("read", forever(ServiceBusy("no")))
    assert clock.pauses == [0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0]


def test_jitter_is_full() -> None:
    clock = Clock()
    clock.policy(jitter=0.0).call("read", Flaky(ServiceBusy("no"), ServiceBusy("no")))
    clock.policy(jitter=0.5).call("read", Flaky(ServiceBusy("no"), ServiceBusy("no")))
    assert clock.pauses == [0.0, 0.0, 0.2, 0.4]


@pytest.mark.parametrize(
    ("asked", "pause"), [(5.0, 5.0), (0.1, 0.4), (0.0, 0.4), (None, 0.4), (86_400.0, 30.0)]
)
def test_retry_after_is_the_least_pause_and_is_capped(asked: float | None, pause: float) -> None:
    clock = Clock()
    clock.policy().call("read", Flaky(ServiceBusy("no", retry_after=asked)))
    assert clock.pauses == [pause]


def test_tries_are_bounded_and_the_error_says_how_many() -> None:
    clock, request = Clock(), forever(ServiceBusy("It answered 503.", retry_after=1.0))
    with pytest.raises(ServiceBusy, match=r"^It answered 503\. Gave up to read after 4 tries") as e:
        clock.policy(tries=4).call("read", request)
    assert (request.tries, e.value.retry_after) == (4, 1.0)


@pytest.mark.parametrize(("kind", "tries"), [(EndpointUnreachable, 3), (IntegrityError, 8)])
def test_each_kind_has_its_bound_and_keeps_its_type(kind: type[DatastoreError], tries: int) -> None:
    request = forever(kind("no"))
    with pytest.raises(kind, match=r"^no$"):
        Clock().policy().call("read", request)
    assert request.tries == tries


def test_no_try_begins_after_the_deadline() -> None:
    clock = Clock()
    request = forever(ServiceBusy("no"), clock=clock, takes=50.0)
    with pytest.raises(ServiceBusy):
        clock.policy(jitter=0.0, tries=100, deadline=180.0).call("read", request)
    assert request.tries == 4  # at 0, 50, 100 and 150


@settings(deadline=None, derandomize=True)
@given(
    tries=st.integers(1, 12),
    first=st.floats(0, 10),
    longest=st.floats(0, 60),
    deadline=st.floats(0, 300),
    asked=st.none() | st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)
def test_every_policy_ends(
    tries: int, first: float, longest: float, deadline: float, asked: float | None, jitter: float
) -> None:
    clock, request = Clock(), forever(ServiceBusy("no", retry_after=asked))
    policy = clock.policy(
        jitter=jitter, tries=tries, first_pause=first, longest_pause=longest, deadline=deadline
    )
    with pytest.raises(ServiceBusy):
        policy.call("read", request)
    assert 1 <= request.tries <= tries
    assert len(clock.pauses) == request.tries - 1
    assert all(0 <= pause <= longest for pause in clock.pauses)
    assert sum(clock.pauses) <= deadline + 1e-6


# Over real sockets.

CONTENT = content_of(2 * PART + 77)
NAME = ObjectName("data")
DATA = r"GET /\S+/data(\?|$)"


@dataclass
class Through:
    """A place, seen through the proxy."""

    bare: ObjectStore
    retrying: RetryingStore
    proxy: FaultyProxy
    clock: Clock


@contextmanager
def through(remote: RemotePlace, *faults: Fault, tries: int = 4) -> Iterator[Through]:
    clock = Clock()
    with remote.through(*faults) as seen:
        policy = clock.policy(jitter=0.0, tries=tries)
        yield Through(seen.bare, RetryingStore(seen.bare, policy), seen.proxy, clock)


def test_a_proxy_without_faults_changes_nothing(remote: RemotePlace) -> None:
    with through(remote) as seen:
        info = put(seen.bare, "data", CONTENT)
        assert get(remote.store, "data") == get(seen.bare, "data") == CONTENT
        assert seen.bare.head(NAME) == remote.store.head(NAME)
        assert names_below(seen.bare) == ["data"]
        seen.bare.delete(NAME, pin=info.etag)
    assert names_below(remote.store) == []


@pytest.mark.parametrize("status", [503, 500, 429, 408, 502, 504])
def test_a_busy_service_is_waited_for_as_it_asks(remote: RemotePlace, status: int) -> None:
    put(remote.store, "data", CONTENT[:100])
    busy = Fault(DATA, "answer", times=2, status=status, headers={"Retry-After": "1"})
    with through(remote, busy) as seen:
        buffer = bytearray(100)
        seen.retrying.read_into(NAME, 0, memoryview(buffer), pin=None)
        assert buffer == CONTENT[:100]
        assert seen.clock.pauses == [1.0, 1.0]
        assert seen.proxy.count(DATA) == 3


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "31536000"}, 30.0),
        ({"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}, 30.0),
        ({"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, 0.0),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "soon"}, 0.0),
        ({"x-ms-retry-after-ms": "1500", "Retry-After": "9"}, 1.5),
        ({}, 0.0),
    ],
)
def test_retry_after_is_read_in_every_form(
    remote: RemotePlace, headers: dict[str, str], pause: float
) -> None:
    put(remote.store, "data")
    with through(remote, Fault("HEAD", "answer", headers=headers)) as seen:
        assert seen.retrying.head(NAME).size == 1
        assert seen.clock.pauses == [pause]


def test_a_service_that_stays_busy_is_asked_a_bounded_number_of_times(remote: RemotePlace) -> None:
    put(remote.store, "data", CONTENT)
    with through(remote) as seen:
        seen.bare.check_write(ObjectName("try"))  # what is done once is done
        seen.proxy.fail_by(Fault("", "answer", times=None))
        requests = {
            "list": lambda: seen.retrying.list_page(""),
            "head": lambda: seen.retrying.head(NAME),
            "read": lambda: seen.retrying.read_into(NAME, 0, memoryview(bytearray(PART)), pin=None),
            "write": lambda: put(seen.retrying, "new", CONTENT[:9]),
            "write parts": lambda: put(seen.retrying, "new", CONTENT),
            "delete": lambda: seen.retrying.delete(NAME),
            "make": seen.retrying.create_root,
        }
        for number, request in enumerate(requests.values(), 1):
            with pytest.raises(ServiceBusy, match="after 4 tries"):
                request()
            assert len(seen.proxy.requests) == 4 * number
    assert get(remote.store, "data") == CONTENT


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 416])
def test_what_will_not_pass_is_asked_once(remote: RemotePlace, status: int) -> None:
    put(remote.store, "data")
    fault = Fault("HEAD", "answer", times=None, status=status, headers={"Retry-After": "1"})
    with through(remote, fault) as seen:
        with pytest.raises(DatastoreError):
            seen.retrying.head(NAME)
        assert (len(seen.proxy.requests), seen.clock.pauses) == (
            (4, [0.0] * 3) if status == 416 else (1, [])
        )


BREAKS = ["reset", "truncate", "stall", "lose"]


@pytest.mark.parametrize("action", BREAKS)
def test_a_body_that_breaks_is_read_again_once(remote: RemotePlace, action: str) -> None:
    put(remote.store, "data", CONTENT)
    with through(remote, Fault(DATA, action, skip=1)) as seen:  # type: ignore[arg-type]
        assert get(seen.retrying, "data") == CONTENT
        assert seen.proxy.count(DATA) == 4
        assert len(seen.clock.pauses) == 1


@pytest.mark.parametrize("action", BREAKS)
def test_a_body_that_always_breaks_is_bounded_and_never_published(
    remote: RemotePlace, tmp_path: Path, action: str
) -> None:
    put(remote.store, "data", CONTENT[:PART])
    (tmp_path / "data").write_bytes(b"old")
    with through(remote, Fault(DATA, action, times=None)) as seen:  # type: ignore[arg-type]
        with pytest.raises(StageFailed) as caught:
            download(seen.retrying, tmp_path, DownloadRequest(overwrite="replace"))
        assert seen.proxy.count(DATA) == 4
    assert [row.action for row in caught.value.report.rows] == ["failed"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"data": b"old"}


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 200, "body": CONTENT},  # all of it, for a part
        {"status": 206, "body": b"x" * 10, "headers": {"Content-Range": "nonsense"}},
        {"status": 206, "body": b"x" * 10},
        {"status": 206, "body": b"x" * 9, "headers": {"Content-Range": "bytes 0-8/9"}},
        {"status": 206, "body": b"", "headers": {"Content-Range": "bytes 0-9/10"}},
        {"status": 204},
    ],
)
def test_an_answer_that_is_not_the_range_is_rejected(
    remote: RemotePlace, answer: dict[str, object]
) -> None:
    put(remote.store, "data", CONTENT)
    fault = Fault(DATA, "answer", **answer)  # type: ignore[arg-type]
    with through(remote, fault) as seen:
        buffer = bytearray(b"." * 10)
        with pytest.raises(IntegrityError):
            seen.bare.read_into(NAME, 0, memoryview(buffer), pin=None)
        assert buffer == b"." * 10
        seen.retrying.read_into(NAME, 0, memoryview(buffer), pin=None)
        assert buffer == CONTENT[:10]


def test_another_range_than_the_one_asked_for_is_rejected(remote: RemotePlace) -> None:
    put(remote.store, "data", CONTENT)
    wrong = {"Content-Range": f"bytes 50-59/{len(CONTENT)}"}
    fault = Fault(DATA, "answer", status=206, headers=wrong, body=CONTENT[50:60])
    with through(remote, fault) as seen:
        buffer = bytearray(10)
        seen.retrying.read_into(NAME, 0, memoryview(buffer), pin=None)
        assert buffer == CONTENT[:10]
        assert seen.proxy.count(DATA) == 2


LISTING = (
    b'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="" '
    b'ContainerName="c"><Blobs>'
)


@pytest.mark.parametrize(
    "body", [b"", LISTING, b"<html>Sign in to the hotel's network</html>", b"not xml", b"{}"]
)
def test_a_listing_that_is_none_is_never_empty(remote: RemotePlace, body: bytes) -> None:
    put(remote.store, "data")
    headers = {"Content-Type": "application/xml"}
    fault = Fault("comp=list", "answer", status=200, times=None, headers=headers, body=body)
    with through(remote, fault) as seen:
        with pytest.raises(DatastoreError):
            seen.retrying.list_page("")
        assert len(seen.proxy.requests) <= 4


@pytest.mark.parametrize("action", BREAKS)
def test_a_listing_that_breaks_is_asked_for_again(remote: RemotePlace, action: str) -> None:
    for name in "abc":
        put(remote.store, name)
    fault = Fault("comp=list", action, skip=1)  # type: ignore[arg-type]
    with through(remote, fault) as seen:
        first = seen.retrying.list_page("", limit=2)
        second = seen.retrying.list_page("", limit=2, marker=first.marker)
        assert [info.name for info in (*first.objects, *second.objects)] == ["a", "b", "c"]
        assert len(seen.proxy.requests) == 3


@pytest.mark.parametrize("size", [0, 9, len(CONTENT)])
@pytest.mark.parametrize("condition", ["always", "if absent", "replaces"])
def test_a_commit_whose_answer_is_lost_has_happened(
    remote: RemotePlace, size: int, condition: str
) -> None:
    content = CONTENT[:size]
    commit = r"PUT \S+comp=blocklist" if size > PART else "PUT"
    replaces = put(remote.store, "data", b"old").etag if condition == "replaces" else None
    with through(remote, Fault(commit, "lose")) as seen:
        info = put(
            seen.retrying, "data", content, replaces=replaces, if_absent=condition == "if absent"
        )
    assert get(remote.store, "data") == content
    assert info.etag == remote.store.head(NAME).etag
    assert (info.size, info.digest) == (size, md5_of(content))


@pytest.mark.parametrize("if_absent", [True, False])
def test_a_commit_that_another_writer_overtook_has_not_happened(
    remote: RemotePlace, if_absent: bool
) -> None:
    replaces = None if if_absent else put(remote.store, "data", b"old").etag
    with through(remote, Fault("PUT", "answer")) as seen:
        writing = begin(seen.retrying, "data", b"ours", if_absent=if_absent, replaces=replaces)
        put(remote.store, "data", b"theirs")
        with pytest.raises(ObjectExists):
            writing.commit(md5_of(b"ours"))
    assert get(remote.store, "data") == b"theirs"


@pytest.mark.parametrize("size", [9, len(CONTENT)])
def test_what_is_damaged_on_its_way_is_sent_again(remote: RemotePlace, size: int) -> None:
    with through(remote, Fault("PUT", "damage")) as seen:
        put(seen.retrying, "data", CONTENT[:size])
    assert get(remote.store, "data") == CONTENT[:size]


def test_nobody_there_is_tried_a_few_times_only() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/account"
        clock = Clock()
        store = RetryingStore(BlobStore(url, "container", account_key="a2V5"), clock.policy())
        with closing(store), pytest.raises(EndpointUnreachable, match="Nobody answers"):
            store.check_root()
        assert len(clock.pauses) == 2


def test_a_compressed_blob_comes_as_it_is_stored(
    blob_store: BlobStore, container: ContainerClient, tmp_path: Path
) -> None:
    stored = gzip.compress(b"text " * 1000)
    container.upload_blob("data", stored, content_settings=ContentSettings(content_encoding="gzip"))
    download(blob_store, tmp_path, DownloadRequest())
    assert (tmp_path / "data").read_bytes() == stored


def test_a_deletion_whose_answer_is_lost_has_happened(remote: RemotePlace) -> None:
    put(remote.store, "data")
    with through(remote, Fault("DELETE", "lose")) as seen:
        seen.retrying.delete(NAME)
        with pytest.raises(ObjectNotFound):
            seen.retrying.delete(NAME)
    assert names_below(remote.store) == []


def test_a_pause_between_tries_ends_when_it_is_cancelled() -> None:
    cancellation = Cancellation()
    tries: list[int] = []

    def busy() -> None:
        tries.append(1)
        cancellation.cancel()
        raise ServiceBusy("busy", retry_after=3600)

    policy = RetryPolicy(longest_pause=3600, deadline=7200, sleep=cancellation.pause)
    with pytest.raises(TransferCancelled):
        policy.call("read", busy)
    assert len(tries) == 1
