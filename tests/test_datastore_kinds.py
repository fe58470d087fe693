"""Datastores of each kind over the wire: registered, found and signed in to in the same ways."""

import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from click.testing import CliRunner
from oracle import stored
from places import RemotePlace
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.client.orchestration import get_client
from prefect.runtime import task_run
from pydantic import SecretStr
from servers.faults import Fault
from servers.prefect_server import PrefectServer
from small_stores import PART, make_tree, tree

from prefect_datastores import Datastore, SasToken
from prefect_datastores.cli import main
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import (
    AccessDenied,
    AuthenticationFailed,
    ContainerNotFound,
    DatastoreNotFound,
)
from prefect_datastores.testing import content_of, put

FILES = {"large": content_of(3 * PART + 5), "deep/er/small": b"small", "empty": b""}


@pytest.fixture
def name(prefect_api: PrefectServer) -> Iterator[str]:
    made = f"ds_{uuid.uuid4().hex[:12]}"
    yield made
    with suppress(DatastoreNotFound):
        Datastore.unregister(made)


def test_what_was_registered_is_found_and_works(
    name: str, remote: RemotePlace, tmp_path: Path
) -> None:
    made: Any = remote.register(name)
    found: Any = Datastore.get("workspace", name)
    assert type(found) is type(made) is remote.block
    assert found.model_dump() == made.model_dump()
    assert found.container_name == remote.name
    assert Datastore.list()[name].datastore_type == found.datastore_type
    found.write_path("sub/x", b"data")
    assert made.read_path("sub/x") == b"data"
    source = make_tree(tmp_path / "source", FILES)
    made.upload(source, "top", show_progress=False)
    assert found.download(tmp_path / "got", "top", show_progress=False).count == len(FILES)
    assert tree(tmp_path / "got" / "top") == FILES
    assert {check.outcome for check in made.check()} == {"ok"}


def test_a_container_is_made_where_that_is_wanted(name: str, remote: RemotePlace) -> None:
    remote.destroy()
    with pytest.raises(ContainerNotFound):
        remote.register(name)
    made: Any = remote.register(name, create_if_not_exists=True)
    assert made.list_objects() == []


def test_the_command_line_registers_each(name: str, remote: RemotePlace) -> None:
    given = remote.connection()
    arguments = ["register", remote.command, name, "--account", given.pop("account_name")]
    arguments += [f"--{remote.option}", given.pop(remote.name_field)]
    for field, value in given.items():
        arguments += [f"--{field.replace('_', '-')}", value]
    key = remote.server.key
    variables = {"PREFECT_DATASTORES_ACCOUNT_KEY": key}
    result = CliRunner().invoke(main, arguments, env=variables)
    assert result.exit_code == 0, result.output
    assert f"/{remote.server.account}/{remote.name}" in result.output
    assert key not in result.output
    assert type(Datastore.get(name)) is remote.block


def test_a_wrong_key_is_told_and_not_shown(name: str, remote: RemotePlace) -> None:
    with pytest.raises(AuthenticationFailed) as e:
        remote.register(name, account_key="d3Jvbmc=")
    assert "d3Jvbmc=" not in str(e.value)


def test_secrets_are_not_shown(remote: RemotePlace) -> None:
    made: Any = remote.datastore()
    assert remote.server.key not in repr(made)
    assert remote.server.key not in str(made.model_dump())


def test_a_sas_does_what_it_allows(remote: RemotePlace, tmp_path: Path) -> None:
    def by(permission: str) -> FileDatastore:
        return remote.datastore(auth=SasToken(sas_token=SecretStr(remote.sas(permission))))

    source = make_tree(tmp_path / "source", FILES)
    by("rcwdl").upload(source, "", show_progress=False)
    assert by("rl").download(tmp_path / "got", show_progress=False).count == len(FILES)
    assert tree(tmp_path / "got") == FILES
    with pytest.raises(AccessDenied):
        by("rl").upload(source, "other", show_progress=False)


class Token:
    """A credential whose token the server takes."""

    def __init__(self, token: str) -> None:
        self.token = token

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        assert scopes == ("https://storage.azure.com/.default",)
        return AccessToken(self.token, 2**40)


@pytest.mark.parametrize("remote", ["share", "lake"], indirect=True)  # Azurite wants https for it
def test_a_token_opens_each(remote: RemotePlace) -> None:
    with closing(remote.open(token=Token(remote.token))) as store:
        put(store, "a/b", b"content")
        assert stored(store) == {"a/b": b"content"}


@pytest.mark.parametrize(
    ("remote", "role"),
    [
        ("share", "Storage File Data Privileged Reader"),
        ("lake", "Storage Blob Data Reader"),
        ("blob", "Storage Blob Data Reader"),
    ],
    indirect=["remote"],
)
def test_a_role_that_is_missing_is_named(remote: RemotePlace, role: str) -> None:
    code = {"x-ms-error-code": "AuthorizationPermissionMismatch"}
    fault = Fault("comp=list", "answer", status=403, headers=code)
    token = Token("any")
    with remote.through(fault, takes_any_token=True, token=token) as seen:
        with pytest.raises(AccessDenied, match=f"'{role}'"):
            seen.store.check_root()


@pytest.mark.parametrize("remote", ["share", "lake"], indirect=True)  # blobs are in test_blocks.py
def test_results_and_code_of_flows_are_kept_in_each(
    name: str, remote: RemotePlace, prefect_api: PrefectServer
) -> None:
    store: Any = remote.register(name)
    slug = f"{store.get_block_type_slug()}/{store._block_document_name}"

    @task(cache_policy=INPUTS, result_storage=store)
    def add(x: int) -> dict[str, Any]:
        return {"x": x + 1, "run": str(task_run.id)}

    @flow(persist_result=True, result_storage=slug)
    def twice() -> list[dict[str, Any]]:
        return [add(1), add(1), add(2)]

    state = twice(return_state=True)
    one, cached, two = result = state.result()
    assert one == cached  # what was computed once came from the datastore
    assert (one["x"], two["x"]) == (2, 3)
    with get_client(sync_client=True) as client:
        told: Any = client.read_flow_run(state.state_details.flow_run_id).state
    assert told.result(_sync=True) == result
    assert store.exists(told.data.storage_key)

    code = "from prefect import flow\n@flow\ndef double(x: int) -> int:\n    return 2 * x\n"
    store.write_path("flows/numbers_flow.py", code.encode())
    loaded = flow.from_source(source=store, entrypoint="flows/numbers_flow.py:double")  # type: ignore[attr-defined]
    assert loaded(x=21) == 42
