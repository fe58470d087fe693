"""Faults of the service with marked secrets: none shows in anything that a person or a server may see."""

import base64
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from azure.core.credentials import AccessToken
from oracle import Outcome, attempt, fill
from places import LakePlace, RemotePlace
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from servers.faults import Fault
from small_stores import PART, make_tree
from test_redaction import everything_logged, shown, spellings
from wire_faults import LISTING, READING, WRITING, at

from prefect_datastores import Datastore, Estimator
from prefect_datastores.datastores.auth import SasToken
from prefect_datastores.errors import DatastoreError
from prefect_datastores.result_table import table_description, table_rows
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.tasks import download as download_task
from prefect_datastores.testing import content_of, put

NEW = {"large": content_of(3 * PART + 77), "small": b"new"}
REPLACE = DownloadRequest("in", overwrite="replace")
STALL = 0.5  # a busy machine takes its time


def all_faults(quoted: bytes) -> Iterator[tuple[bool, Fault]]:
    """Every fault of a part that is read, of a listing, and of all that is written; and whether it is of an upload.

    What is answered in place of the service quotes the secret, as proxies and firewalls do.
    """
    places = (
        (r"GET \S+/large(\?|$)", READING),
        ("comp=list", LISTING),
        (r"PUT \S+/(large|.pds-unfinished/)", WRITING),
    )
    for match, kinds in places:
        for name, named in kinds.items():
            if not name.startswith("stall"):  # they end as a cut does, after a pause
                fault = replace(named.fault, body=b"<html>Not allowed: " + quoted + b"</html>")
                fault = at(fault, match, times=None, skip=match != "comp=list")
                yield kinds is WRITING, fault


def all_that_shows(outcome: Outcome) -> str:
    """What a person, a log or a page could be shown of a transfer."""
    texts = [repr(outcome), shown(outcome.error) if outcome.error else ""]
    if (report := outcome.report) is not None:
        texts += [repr(report.to_dict()), report.summary(), repr(list(report.rows))]
        texts += [repr(table_rows(report)), table_description(report)]
    return "\n".join(texts)


def written_below(root: Path) -> str:
    """What files hold that a transfer keeps for itself, and what they are called."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".bin"]
    return "\n".join(f"{path} {path.read_bytes()!r}" for path in paths)


class Marked:
    """Gives one token."""

    def __init__(self, token: str) -> None:
        self.token = token

    def get_token(self, *_: str, **__: object) -> AccessToken:
        return AccessToken(self.token, int(time.time()) + 3600)


@pytest.mark.parametrize("kind", ["sas", "key", "token"])
def test_no_fault_brings_a_secret_to_light(remote: RemotePlace, tmp_path: Path, kind: str) -> None:
    sas, token = remote.sas(), f"marked.{secrets.token_hex(24)}"
    sign_in: dict[str, Any]
    if kind == "sas":
        sign_in, hidden, quoted = {"sas_token": sas}, spellings(sas), f"GET /c?{sas}"
    elif kind == "key":
        key = remote.server.key
        sign_in, hidden, quoted = {"account_key": key}, spelled(key), key
    else:
        sign_in, hidden = {"token": Marked(token), "takes_any_token": True}, [token]
        quoted = f"Authorization: Bearer {token}"
    source = make_tree(tmp_path / "source", NEW)
    met, kept, texts, journals = 0, 0, [], tmp_path / "journals"
    with (
        everything_logged() as written,
        remote.through(stall=STALL, **sign_in) as seen,
    ):
        fill(remote.store, {f"in/{name}": data for name, data in NEW.items()})
        for is_upload, fault in all_faults(quoted.encode()):
            if is_upload and isinstance(remote, LakePlace):  # it is renamed, by a signed name
                remote.plant_by_dfs("up/large", b"old")
            seen.proxy.fail_by(fault)
            outcome = attempt(
                partial(
                    upload, seen.store, folder_source(source), "up", "replace", journals=journals
                )
                if is_upload
                else partial(download, seen.store, tmp_path / "to", REPLACE)
            )
            met += outcome.error is not None
            texts.append(all_that_shows(outcome))
            # While there is something to go on with, there is a journal.
            texts.append(written_below(tmp_path))
            kept += texts[-1].count("/journal b")
        texts += [seen.store.url, repr(seen.store)]
    texts.append(written_below(tmp_path))
    assert kept > 20
    log = written.getvalue()
    assert met > 50
    assert log.count("prefect_datastores.http") > 200  # it is not silent
    for place in (log, *texts):
        found = [line for line in place.splitlines() if any(secret in line for secret in hidden)]
        assert found == []


def spelled(key: str) -> list[str]:
    """A key as it is, as what it signs with, and as a URL would have it."""
    return [key, quote(key, safe=""), repr(base64.b64decode(key))]


@pytest.mark.usefixtures("prefect_api")
def test_no_fault_brings_a_secret_to_prefects_server(remote: RemotePlace, tmp_path: Path) -> None:
    sas = remote.sas()
    page = f"<Error><Code>X</Code><Message>GET /c?{sas} is refused</Message></Error>".encode()
    with remote.through() as seen:
        fill(seen.store, NEW)
        seen.proxy.fail_by(Fault(r"GET \S+/large", "answer", times=None, status=409, body=page))
        store: Any = remote.datastore(seen.ports, auth=SasToken(sas_token=sas))
        ids: list[str] = []

        @flow
        def fetching() -> None:
            ids.append(flow_run.id)
            download_task(store.path("").as_download(), tmp_path / "to")

        with pytest.raises(DatastoreError) as caught:
            fetching()
    with get_client(sync_client=True) as client:
        told = {
            kind: client.request("POST", f"/{kind}/filter", json=body).text
            for kind, body in {
                "artifacts": {"artifacts": {"flow_run_id": {"any_": ids}}},
                "task_runs": {"flow_runs": {"id": {"any_": ids}}},
                "flow_runs": {"flow_runs": {"id": {"any_": ids}}},
            }.items()
        }
        until = time.monotonic() + 60
        while True:  # logs are sent now and then
            body = {"logs": {"flow_run_id": {"any_": ids}}}
            told["logs"] = client.request("POST", "/logs/filter", json=body).text
            if "is refused" in told["logs"]:
                break
            assert time.monotonic() < until
            time.sleep(0.2)
    assert "is refused" in told["artifacts"]
    assert "is refused" in told["flow_runs"]
    for text in (*told.values(), shown(caught.value)):
        assert [secret for secret in spellings(sas) if secret in text] == []


# A script that stays until it is told to go, and a child of it.
STAYS = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(os.environ["STARTED"], "w").close()
while not os.path.exists(os.environ["OVER"]):
    time.sleep(0.05)
child.kill()
"""


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize(
    ("remote", "kind"),
    [("blob", "sas"), ("blob", "key"), ("share", "sas"), ("lake", "key")],  # each takes seconds
    indirect=["remote"],
)
def test_no_process_of_a_run_shows_a_secret(
    remote: RemotePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Neither by the arguments of any process, nor by the environment of any; nor does any file of the run."""
    sas, key = remote.sas(), remote.server.key
    hidden = spellings(sas) if kind == "sas" else spelled(key)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_SCRATCH_ROOT", str(tmp_path / "scratch"))
    put(remote.store, "data/file", b"content")
    source = make_tree(tmp_path / "source", {"train.py": STAYS.encode()})
    name, over = f"ds_{secrets.token_hex(6)}", tmp_path / "over"
    signed = {"sas_token": sas, "account_key": None} if kind == "sas" else {}
    store = remote.register(name, **signed)
    try:
        run = Estimator(
            source,
            entry_script="train.py",
            script_params={"--data": store.path("data").as_download()},
            inputs=[store.path("out").as_upload("outputs", allow_empty=True)],
            source_directory_data_store=store,
            environment_variables={"STARTED": tmp_path / "started", "OVER": over},
        ).submit()
        try:
            until = time.monotonic() + 90
            while not (tmp_path / "started").exists():
                assert time.monotonic() < until
                time.sleep(0.1)
            assert run._process is not None
            root = psutil.Process(run._process.pid)
            below = [root, *root.children(recursive=True)]
            shows = [(one.cmdline(), sorted(one.environ().items())) for one in below]
            files = written_below(tmp_path)
        finally:
            over.touch()
            run.wait_for_completion()
    finally:
        Datastore.unregister(name)
    # The run, the guard, the script, and what it started.
    assert len(shows) >= 4
    assert any("train.py" in arguments for arguments, _ in shows)
    assert "spec.json" in files
    for text in (repr(shows), files, repr(run), repr(store)):
        assert [secret for secret in hidden if secret in text] == []
