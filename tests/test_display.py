"""What people see of a transfer: how often it was tried again, and what became of each object."""

import contextvars
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import ContainerClient
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from servers.azurite import Azurite
from servers.faults import Fault, faulty
from servers.processes import free_port

from prefect_datastores import AzureBlobDatastore, LocalDatastore, download, upload
from prefect_datastores.datastores.auth import AccountKey
from prefect_datastores.display import TerminalProgress, retry_teller
from prefect_datastores.errors import ServiceBusy, StageFailed
from prefect_datastores.redaction import MASK, remember
from prefect_datastores.result_table import MOST_ROWS, table_description, table_rows
from prefect_datastores.staging.progress import Silent, Tally
from prefect_datastores.staging.report import Action, ObjectRow, TransferReport
from prefect_datastores.stores.retry import Retry

BUSY = ServiceBusy("It answered 503 ServerBusy.", retry_after=1, throttled=True)
BROKEN = ServiceBusy("The connection broke.")


class Seen(logging.Handler):
    """Every record of the package's logger."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage()))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    log, handler = logging.getLogger("prefect.prefect_datastores"), Seen()
    monkeypatch.setattr(log, "handlers", [handler])
    monkeypatch.setattr(log, "level", logging.DEBUG)
    logging.Logger.manager._clear_cache()  # type: ignore[attr-defined]
    return handler


def test_a_line_says_how_often_it_was_tried_again() -> None:
    tally = Tally("data", objects=2, size=10)
    assert "retr" not in tally.line()
    tally.add(retries=1)
    assert tally.line().endswith(", 1 retry")
    tally.add(retries=2)
    assert tally.line().endswith(", 3 retries")


def test_each_retry_is_a_debug_line_and_the_first_throttle_a_warning(seen: Seen) -> None:
    class Counting(Silent):
        retries = 0

        def retried(self) -> None:
            self.retries += 1

    progress = Counting()
    tell = retry_teller(progress)
    tell(Retry("read", 1, 0.4, BROKEN))
    assert [level for level, _ in seen.lines] == ["DEBUG"]
    assert "Try 1 to read failed: The connection broke. Next in 0.4 s." in seen.lines[0][1]
    for attempt in (2, 3):
        tell(Retry("read", attempt, 1.0, BUSY))
    warnings = [text for level, text in seen.lines if level == "WARNING"]
    assert len(warnings) == 1
    assert "It answered 503 ServerBusy." in warnings[0]
    assert progress.retries == 3
    retry_teller(progress)(Retry("read", 1, 1.0, BUSY))  # of another transfer
    assert sum(level == "WARNING" for level, _ in seen.lines) == 2


def test_the_bar_of_a_terminal_counts_retries_from_before_it_began() -> None:
    from rich.console import Console

    bar = TerminalProgress()
    text = io.StringIO()
    bar._bar.live.console = Console(file=text, force_terminal=True, width=200)
    bar.retried()  # of the listing
    bar.begin("Downloading", 2, 10)
    bar.retried()
    bar.moved(10)
    bar.end()
    assert "2 retries" in text.getvalue()


@pytest.fixture
def busy(azurite: Azurite, container: ContainerClient) -> Iterator[Callable[..., Any]]:
    """Gives datastores whose service answers as faults say."""
    with faulty(
        azurite.host,
        azurite.port,
        Fault(r"GET \S+/busy", "answer", times=2, headers={"Retry-After": "0"}),
        Fault(r"GET \S+/denied", "answer", status=403, times=None),
    ) as proxy:
        yield lambda: AzureBlobDatastore(
            account_name=azurite.account,
            container_name=container.container_name,
            auth=AccountKey(account_key=azurite.key),
            protocol="http",
            endpoint=f"127.0.0.1:{proxy.port}",
        )


def artifacts(run_id: str) -> dict[str, list[dict[str, Any]]]:
    body = {"flow_runs": {"id": {"any_": [run_id]}}}
    found: dict[str, list[dict[str, Any]]] = {}
    with get_client(sync_client=True) as client:
        for item in client.request("POST", "/artifacts/filter", json=body).json():
            found.setdefault(item["type"], []).append(item)
    return found


@pytest.mark.usefixtures("prefect_api")
def test_the_run_says_how_often_a_busy_service_was_asked_again(
    busy: Callable[..., AzureBlobDatastore], container: ContainerClient, tmp_path: Path
) -> None:
    container.upload_blob("data/busy", b"1")

    @flow
    def fetch() -> str:
        download(busy().path("data").as_download(), tmp_path / "here")
        return str(flow_run.id)

    run_id = fetch()
    (progress,) = artifacts(run_id)["progress"]
    assert ", 2 retries (Downloading" in progress["description"]
    assert (tmp_path / "here/busy").read_bytes() == b"1"
    until = time.monotonic() + 60
    body = {"logs": {"flow_run_id": {"any_": [run_id]}, "level": {"ge_": logging.WARNING}}}
    with get_client(sync_client=True) as client:
        while not (lines := client.request("POST", "/logs/filter", json=body).json()):
            assert time.monotonic() < until
            time.sleep(0.1)
    assert [("asks to wait" in line["message"], "503" in line["message"]) for line in lines] == [
        (True, True)
    ]


@pytest.mark.usefixtures("prefect_api")
def test_the_table_of_a_failed_download_says_what_failed_and_why(
    busy: Callable[..., AzureBlobDatastore], container: ContainerClient, tmp_path: Path
) -> None:
    for name in ("a", "denied", "z"):
        container.upload_blob(f"data/{name}", b"1")
    ids = []

    @flow
    def fetch() -> None:
        ids.append(str(flow_run.id))
        download(busy().path("data").as_download(), tmp_path / "here")

    with pytest.raises(StageFailed):
        fetch()
    (table,) = artifacts(ids[0])["table"]
    first, *others = json_of(table["data"])
    assert (first["object"], first["outcome"]) == ("data/denied", "failed")
    assert "403" in first["why"]
    assert {row["object"] for row in others} == {"data/a", "data/z"}
    assert "1 failed" in table["description"]
    assert table["task_run_id"]


def json_of(data: Any) -> Any:
    return json.loads(data) if isinstance(data, str) else data


def row(name: str, action: Action, detail: str = "") -> ObjectRow:
    return ObjectRow(name, name, 2048, action, "md5" if action == "moved" else "", detail)


def report(*rows: ObjectRow) -> TransferReport:
    return TransferReport(False, "https://acme/raw", "/data", rows, 1.0)


def test_what_a_person_has_to_look_at_comes_first() -> None:
    actions: list[Action] = ["moved", "unchanged", "ignored", "skipped", "cancelled", "failed"]
    rows = table_rows(report(*(row(action, action) for action in actions)))
    assert [item["outcome"] for item in rows] == [
        *("failed", "cancelled", "skipped", "ignored", "moved", "unchanged")
    ]
    assert rows[4] == {
        "object": "moved",
        "outcome": "moved",
        "size": "2.0 KiB",
        "checked": "md5",
        "why": "",
    }


def test_a_table_has_a_bounded_number_of_rows_and_none_that_failed_is_left_out_for_another() -> (
    None
):
    many = report(*(row(f"{n}", "moved") for n in range(500)), row("bad", "failed", "why"))
    rows = table_rows(many)
    assert len(rows) == MOST_ROWS == 100
    assert rows[0]["object"] == "bad"
    assert "401 more objects are not shown." in table_description(many)
    assert "500 objects" in table_description(many)
    assert "1 failed" in table_description(many)
    assert "not shown" not in table_description(report(row("a", "moved")))


def test_a_table_has_no_secret_and_no_endless_cell() -> None:
    remember("c2VjcmV0LWtleQ==")
    told = report(
        row("name?sig=abc%3D", "failed", "https://x/y?sv=1&sig=abcdef&x=1 c2VjcmV0LWtleQ=="),
        row("long", "failed", "x" * 10_000),
    )
    text = str(table_rows(told)) + table_description(told)
    assert "abc" not in text
    assert "c2VjcmV0" not in text
    assert MASK in text
    assert all(len(item["why"]) < 500 for item in table_rows(told))


@pytest.mark.usefixtures("prefect_api")
def test_a_transfer_of_nothing_and_one_outside_of_a_run_have_no_table(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    raw = LocalDatastore(root=str(tmp_path / "raw"))

    @flow
    def fetch() -> str:
        download(raw.path("none").as_download(allow_empty=True), tmp_path / "here")
        return str(flow_run.id)

    assert "table" not in artifacts(fetch())
    (tmp_path / "raw/a").write_text("a")
    assert download.fn(raw.path("a").as_download(), tmp_path / "here").read_text() == "a"


def test_a_server_that_does_not_answer_costs_the_table_and_not_the_transfer(
    tmp_path: Path, prefect_api: object
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a").write_text("a")
    raw = LocalDatastore(root=str(tmp_path / "raw"))

    @flow
    def store() -> tuple[str, int]:
        run = FlowRunContext.get()
        assert run is not None

        def without_a_server() -> int:
            away = {PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}
            FlowRunContext.__var__.set(run)
            with temporary_settings(away):
                return upload.fn(tmp_path / "raw/a", raw.path("b").as_upload()).count

        # In a context that has the run and no client which knows where the server was.
        return str(flow_run.id), contextvars.Context().run(without_a_server)

    run_id, count = store()
    assert count == 1
    assert (tmp_path / "raw/b/a").read_text() == "a"
    assert artifacts(run_id) == {}
