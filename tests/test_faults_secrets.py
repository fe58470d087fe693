"""Faults of the service with marked secrets: none shows in anything that a person or a server may see."""

import base64
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from azure.core.credentials import AccessToken
from azure.storage.blob import ContainerClient
from oracle import Outcome, attempt, through
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from servers.azurite import Azurite
from servers.faults import Fault
from small_stores import PART, SmallBlobStore, make_tree
from test_redaction import everything_logged, sas_of, shown, spellings
from wire_faults import LISTING, READING, WRITING, at

from prefect_datastores import AzureBlobDatastore
from prefect_datastores.datastores.auth import SasToken
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import DatastoreError
from prefect_datastores.result_table import table_description, table_rows
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.tasks import download as download_task
from prefect_datastores.testing import content_of, put

NEW = {"large": content_of(3 * PART + 77), "small": b"new"}
STALL = 0.02


def all_faults(quoted: bytes) -> Iterator[tuple[str, Fault]]:
    """Every fault of a part that is read, of a listing, of a part and a commit that is written.

    What is answered in place of the service quotes the secret, as proxies and firewalls do.
    """
    places = (
        (r"GET \S+/large(\?|$)", READING),
        ("comp=list", LISTING),
        (r"PUT \S+/large", WRITING),
    )
    for match, kinds in places:
        for name, named in kinds.items():
            if not name.startswith("stall"):  # they end as a cut does, after a pause
                fault = replace(named.fault, body=b"<html>Not allowed: " + quoted + b"</html>")
                yield name, at(fault, match, times=None, skip=match != "comp=list")


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
def test_no_fault_brings_a_secret_to_light(
    azurite: Azurite, container: ContainerClient, tmp_path: Path, kind: str
) -> None:
    sas, token = sas_of(azurite, container), f"marked.{secrets.token_hex(24)}"
    sign_in: dict[str, Any]
    if kind == "sas":
        sign_in, hidden, quoted = {"sas_token": sas}, spellings(sas), f"GET /c?{sas}"
    elif kind == "key":
        sign_in, hidden, quoted = {"account_key": azurite.key}, spelled(azurite.key), azurite.key
    else:
        sign_in, hidden = {"token": Marked(token), "sas": sas}, [token, *spellings(sas)]
        quoted = f"Authorization: Bearer {token}"
    direct = SmallBlobStore(azurite.url, container.container_name, account_key=azurite.key)
    source = make_tree(tmp_path / "source", NEW)
    met, texts = 0, []
    with (
        everything_logged() as written,
        through(azurite, container, stall=STALL, **sign_in) as seen,
    ):
        for name, content in NEW.items():
            put(direct, name, content)
        for _, fault in all_faults(quoted.encode()):
            for transfer in (
                lambda: download(seen.store, tmp_path / "to", DownloadRequest(overwrite="replace")),
                lambda: upload(
                    *(seen.store, folder_source(source), "up", "replace"),
                    journals=tmp_path / "journals",
                ),
            ):
                seen.proxy.fail_by(fault)
                outcome = attempt(transfer)
                met += outcome.error is not None
                texts.append(all_that_shows(outcome))
        texts += [seen.store.url, repr(seen.store)]
    texts.append(written_below(tmp_path))
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
def test_no_fault_brings_a_secret_to_prefects_server(
    azurite: Azurite, container: ContainerClient, tmp_path: Path
) -> None:
    sas = sas_of(azurite, container)
    page = f"<Error><Code>X</Code><Message>GET /c?{sas} is refused</Message></Error>".encode()
    with through(azurite, container) as seen:
        for name, content in NEW.items():
            put(seen.store, name, content)
        seen.proxy.fail_by(Fault(r"GET \S+/large", "answer", times=None, status=409, body=page))
        store: FileDatastore = AzureBlobDatastore(
            account_name=azurite.account,
            container_name=container.container_name,
            auth=SasToken(sas_token=sas),
            protocol="http",
            endpoint=f"127.0.0.1:{seen.proxy.port}",
        )
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
    assert "is refused" in told["artifacts"]
    assert "is refused" in told["flow_runs"]
    for text in (*told.values(), shown(caught.value)):
        assert [secret for secret in spellings(sas) if secret in text] == []
