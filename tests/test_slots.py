"""A named concurrency limit of Prefect bounds how many transfers there are, in all runs together.

A slot is held around a transfer, whatever the store; that a wait touches no store, and that a transfer
gives its slot back, is seen with each kind.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from places import Place
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.logging import get_logger
from prefect.settings import PREFECT_API_URL, temporary_settings
from servers.processes import free_port
from small_stores import make_tree

from prefect_datastores import download, slots, upload
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import (
    ConfigurationError,
    ObjectNotFound,
    TransferCancelled,
    TransferError,
)
from prefect_datastores.slots import transfer_slot
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.tasks import cancellation_scope
from prefect_datastores.testing import put

VARIABLE = "PREFECT_INTEGRATIONS_DATASTORES_CONCURRENCY_LIMIT"

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch, prefect_api: object) -> Iterator[str]:
    """A limit of one slot, named by the setting."""
    name = f"limit-{uuid.uuid4().hex[:8]}"
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        monkeypatch.setenv(VARIABLE, name)
        yield name
        client.delete_global_concurrency_limit_by_name(name)


@pytest.fixture
def raw(new_place: Callable[[str], Any]) -> FileDatastore:
    """A datastore with a file."""
    place: Place = new_place("local")
    put(place.store, "a/data.csv", b"1,2\n")
    return place.datastore()


def active(name: str) -> int:
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(name).active_slots


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Waits until a transfer says that it waits for a slot."""
    waits = threading.Event()

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "Waiting for a slot of the concurrency limit" in record.getMessage():
                waits.set()

    monkeypatch.setattr(slots, "_SILENT_SECONDS", 0.05)
    log = get_logger("prefect_datastores")
    monkeypatch.setattr(log, "handlers", [*log.handlers, Seen()])

    def until_told() -> None:
        assert waits.wait(timeout=60)

    return until_told


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pds-")]


def test_a_download_waits_for_the_slot_that_another_transfer_holds(
    limit: str, kept: Any, tmp_path: Path, told: Callable[[], None]
) -> None:
    put(kept.store, "a/data.csv", b"1,2\n")
    raw: FileDatastore = kept.datastore()
    with ThreadPoolExecutor(1) as threads:
        with concurrency(limit, strict=True):
            fetched = threads.submit(download.fn, raw.path("a").as_download(), tmp_path / "here")
            told()
            assert not (tmp_path / "here").exists()
        assert fetched.result(timeout=60) == tmp_path / "here"
    assert active(limit) == 0
    assert our_threads() == []


def test_transfers_of_runs_do_not_overlap_where_the_limit_is_one(
    limit: str, raw: FileDatastore, tmp_path: Path
) -> None:
    began = time.time()
    source = make_tree(tmp_path / "source", {"data.csv": b"1,2\n"})

    @flow
    def both() -> None:
        wanted = raw.path("a").as_download()
        fetched = download.submit(wanted, tmp_path / "here")
        stored = upload.submit(source, raw.path("b").as_upload())
        fetched.result()
        stored.result()

    both()
    assert active(limit) == 0
    assert events(limit, began, 4) == ["acquired", "released"] * 2


def events(name: str, since: float, count: int) -> list[str]:
    """What happened to the slots of a limit, in order, once the server has heard of that many events."""
    body: dict[str, Any] = {
        "filter": {
            "event": {"prefix": ["prefect.concurrency-limit."]},
            "occurred": {"since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since))},
            "order": "ASC",
        }
    }
    until = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while True:
            found = client.request("POST", "/events/filter", json=body).json()["events"]
            heard = [
                event["event"].rpartition(".")[2]
                for event in found
                if event["resource"].get("prefect.resource.name") == name
                and event["event"].endswith((".acquired", ".released"))
            ]
            if len(heard) >= count:
                return heard
            assert time.monotonic() < until, heard
            time.sleep(0.1)


def test_a_cancel_ends_the_wait_for_a_slot(
    limit: str, raw: FileDatastore, tmp_path: Path, told: Callable[[], None]
) -> None:
    with cancellation_scope() as (scope, stop), ThreadPoolExecutor(1) as threads:
        with concurrency(limit, strict=True):
            fetched = threads.submit(
                download.fn, raw.path("a").as_download(), tmp_path / "here", scope=scope
            )
            told()
            stop.cancel()
            with pytest.raises(TransferCancelled):
                fetched.result(timeout=60)
            assert our_threads() == []
    assert not (tmp_path / "here").exists()


def test_the_slot_is_given_back_by_a_transfer_that_fails(
    limit: str, kept: Place, tmp_path: Path
) -> None:
    with pytest.raises(ObjectNotFound):
        download(kept.datastore().path("none").as_download(), tmp_path / "here")
    assert active(limit) == 0


def test_the_slot_is_given_back_by_a_transfer_that_is_cancelled(limit: str) -> None:
    stop = Cancellation()

    def transfer() -> None:
        with transfer_slot(stop):
            assert active(limit) == 1
            stop.cancel()
            stop.check()

    with pytest.raises(TransferCancelled):
        transfer()
    assert active(limit) == 0


def test_a_limit_that_does_not_exist_is_an_error_that_says_how_to_make_it(
    raw: FileDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "nobody-made-it")
    with pytest.raises(ConfigurationError, match="prefect gcl create nobody-made-it --limit"):
        download(raw.path("a").as_download(), tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_server_that_does_not_answer_gives_no_slot_and_the_error_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, f"limit-{uuid.uuid4().hex[:8]}")
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        with pytest.raises(TransferError, match="gave no slot of the concurrency limit"):
            transfer_slot(Cancellation()).__enter__()


def test_without_the_setting_nobody_asks_prefect() -> None:
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        with transfer_slot(Cancellation()):
            pass
