"""Datastores are registered once and found by name; what is wrong is said before it is used."""

import contextlib
import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oracle import stored
from places import REMOTE, RemotePlace
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from pydantic import SecretStr
from servers.faults import Fault

from prefect_datastores import (
    AccountKey,
    Anonymous,
    ConnectionString,
    Datastore,
    Identity,
    LocalDatastore,
    SasToken,
    ServicePrincipal,
)
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.check import Check
from prefect_datastores.datastores.documents import documents
from prefect_datastores.errors import (
    AccessDenied,
    AuthenticationFailed,
    ConfigurationError,
    ContainerNotFound,
    CredentialExpired,
    DatastoreError,
    DatastoreExists,
    DatastoreNotFound,
    EndpointUnreachable,
)
from prefect_datastores.testing import put

pytestmark = pytest.mark.usefixtures("prefect_api")

# One server, one default: tests that touch it run one after another.
the_default = pytest.mark.xdist_group("the default datastore")

WRONG_KEY = "d3Jvbmcta2V5LXdyb25nLWtleS13cm9uZy1rZXktd3Jvbmcta2V5LXdyb25nLWtleS0wMTIzNDU2Nzg5YWI="


@pytest.fixture
def free() -> str:
    """A name that no other test has, for what is refused."""
    return f"ds_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def name(free: str) -> Iterator[str]:
    """A name that no other test has; it is forgotten afterwards."""
    yield free
    with contextlib.suppress(DatastoreNotFound):
        Datastore.unregister(free)


@pytest.fixture
def place(blob_place: Any) -> dict[str, Any]:
    """What register_azure_blob_container needs for a container on Azurite."""
    return {**blob_place.connection(), "account_key": blob_place.server.key}


@pytest.fixture(params=REMOTE.values(), ids=list(REMOTE))
def of_kind(request: pytest.FixtureRequest) -> type[RemotePlace]:
    """A kind of datastore, where none is there."""
    made: type[RemotePlace] = request.param
    return made


# -- register and get -----------------------------------------------------------------------------


def test_what_is_registered_is_found_in_both_forms_of_get_and_works(
    name: str, remote: RemotePlace
) -> None:
    registered = remote.register(name)
    assert isinstance(registered, remote.block)
    assert registered.name == name
    for found in (
        Datastore.get(name),
        Datastore.get("workspace", name),
        Datastore.get(None, datastore_name=name),
        Datastore.get(workspace=object(), datastore_name=name),
        Datastore("workspace", name),
        remote.block.load(name.replace("_", "-")),
    ):
        assert isinstance(found, remote.block)
        assert found.name == name
        assert found.model_dump() == registered.model_dump()
    Datastore.get(name).write_path("x", b"data")
    assert registered.read_path("x") == b"data"


def test_every_parameter_of_the_original_is_kept(
    name: str, place: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    prefect_log = logging.getLogger("prefect")
    prefect_log.addHandler(caplog.handler)
    try:
        made = Datastore.register_azure_blob_container(
            workspace=object(),
            datastore_name=name,
            container_name=place["container_name"],
            account_name=place["account_name"],
            sas_token=None,
            account_key=place["account_key"],
            protocol="http",
            endpoint=place["endpoint"],
            overwrite=False,
            create_if_not_exists=False,
            skip_validation=False,
            blob_cache_timeout=120,
            grant_workspace_access=True,
            subscription_id="sub-1",
            resource_group="group-1",
        )
    finally:
        prefect_log.removeHandler(caplog.handler)
    assert isinstance(made.auth, AccountKey)
    assert made.auth.account_key.get_secret_value() == place["account_key"]
    assert (made.protocol, made.endpoint) == ("http", place["endpoint"])
    assert (made.blob_cache_timeout, made.subscription_id, made.resource_group) == (
        *(120, "sub-1", "group-1"),
    )
    scope = (
        "/subscriptions/sub-1/resourceGroups/group-1/providers/Microsoft.Storage/storageAccounts"
    )
    assert f"--scope {scope}/{place['account_name']}" in caplog.text
    assert place["account_key"] not in caplog.text


def test_the_defaults_are_those_of_the_original(name: str) -> None:
    made = Datastore.register_azure_blob_container(
        datastore_name=name, container_name="data", account_name="account1", skip_validation=True
    )
    assert made.url == "https://account1.blob.core.windows.net/data"
    assert made.auth == Identity()
    assert made.blob_cache_timeout == -1


@pytest.mark.parametrize(
    ("kind", "auth"),
    [
        ("share", Anonymous()),
        ("blob", Identity(identity_client_id="1")),
        ("lake", ServicePrincipal(tenant_id="t", client_id="c", client_secret=SecretStr("s" * 20))),
    ],
    ids=lambda given: str(getattr(type(given), "__name__", given)),
)
def test_any_way_to_sign_in_is_registered(name: str, kind: str, auth: Any) -> None:
    REMOTE[kind].register_elsewhere(name, auth=auth, skip_validation=True)
    found: Any = Datastore.get(name)
    assert isinstance(found, REMOTE[kind].block)
    assert found.auth == auth


def test_a_sas_with_its_question_mark_works(name: str, remote: RemotePlace) -> None:
    token = remote.sas("rcwdl")
    remote.register(name, account_key=None, sas_token=f"?{token}")
    found = Datastore.get(name)
    found.write_path("x", b"data")
    assert found.read_path("x") == b"data"
    assert token.partition("sig=")[2] not in repr(found)


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(
    name: str, remote: RemotePlace, tmp_path: Path
) -> None:
    remote.register(name)
    with pytest.raises(DatastoreExists, match=f"'{name}' is registered already.*overwrite=True"):
        remote.register(name)
    with pytest.raises(DatastoreExists):
        Datastore.register_local(name, tmp_path)
    replaced = remote.register(name, overwrite=True, account_key=None, sas_token=remote.sas("rl"))
    found: Any = Datastore.get(name)
    assert isinstance(found, remote.block)
    assert isinstance(found.auth, SasToken)
    assert found._block_document_id == replaced._block_document_id


def test_a_datastore_of_another_kind_takes_the_name_over(
    name: str, remote: RemotePlace, tmp_path: Path
) -> None:
    remote.register(name)
    Datastore.get(name).write_path("x", b"stays")
    Datastore.register_local(name, tmp_path, overwrite=True)
    assert isinstance(Datastore.get(name), LocalDatastore)
    with pytest.raises(ValueError, match="Unable to find block document"):
        remote.block.load(name.replace("_", "-"))
    remote.register(name, overwrite=True)
    assert Datastore.get(name).read_path("x") == b"stays"


def test_a_replacement_that_does_not_work_leaves_the_old_one(
    name: str, remote: RemotePlace
) -> None:
    remote.register(name)
    with pytest.raises(AuthenticationFailed):
        remote.register(name, overwrite=True, account_key=WRONG_KEY)
    Datastore.get(name).write_path("x", b"still works")


def test_two_blocks_of_one_name_are_not_guessed_about(
    name: str, of_kind: type[RemotePlace], tmp_path: Path
) -> None:
    """The form can make what the registry refuses."""
    block = name.replace("_", "-")
    LocalDatastore(root=str(tmp_path)).save(block)
    other = of_kind.block_elsewhere()
    other.save(block)
    with pytest.raises(ConfigurationError, match=f"{other.get_block_type_name()}, Local Datastore"):
        Datastore.get(name)


# -- names ----------------------------------------------------------------------------------------


def test_dashes_underscores_and_capitals_are_one_name(name: str, tmp_path: Path) -> None:
    Datastore.register_local(name.upper(), tmp_path)
    for spelling in (name, name.replace("_", "-"), name.title(), name.upper().replace("_", "-")):
        assert Datastore.get(spelling).name == name
        with pytest.raises(DatastoreExists):
            Datastore.register_local(spelling, tmp_path)
    Datastore.unregister(name.title().replace("_", "-"))
    with pytest.raises(DatastoreNotFound):
        Datastore.get(name)


@pytest.mark.parametrize(
    "bad", ["", "a b", "ä", "a/b", "_a", "-a", "a_", "a-", "a" * 256, "a.b", "a$", "a\n"]
)
def test_a_bad_name_is_refused_before_anything_is_asked(bad: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"datastore name .* is refused"):
        Datastore.register_local(bad, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    with pytest.raises(ConfigurationError, match=r"is refused|Give the datastore's name"):
        Datastore.get(bad)


def test_an_unknown_name_says_which_there_are(name: str, tmp_path: Path) -> None:
    Datastore.register_local(name, tmp_path)
    with pytest.raises(DatastoreNotFound, match=f"registered as 'no_{name}'.*{name}"):
        Datastore.get(f"no_{name}")


# -- list, default, unregister --------------------------------------------------------------------


@the_default
def test_the_list_has_all_kinds_and_no_secret(
    name: str, remote: RemotePlace, tmp_path: Path
) -> None:
    made: Any = remote.register(name)
    Datastore.register_local(f"{name}_2", tmp_path)
    listed = Datastore.list()
    assert list(listed) == sorted(listed)
    assert {"workspaceblobstore", "workspacefilestore"} <= set(listed)
    assert listed[name].datastore_type == made.datastore_type
    assert listed[name].sign_in == "account key"
    server = remote.server
    at = f"http://{server.host}:{remote.ports[0]}/{server.account}/{remote.name}"
    assert listed[name].url == at
    assert (listed[f"{name}_2"].datastore_type, listed[f"{name}_2"].sign_in) == ("Local", "none")
    everything = repr(listed) + json.dumps({key: vars(info) for key, info in listed.items()})
    assert server.key not in everything
    assert server.key[:16] not in everything
    Datastore.unregister(f"{name}_2")


@the_default
def test_the_default_is_the_workspace_blob_store_until_another_is_set(
    name: str, tmp_path: Path
) -> None:
    assert Datastore.get_default().name == "workspaceblobstore"
    Datastore.register_local(name, tmp_path)
    try:
        Datastore.set_default("workspace", name)
        for found in (Datastore.get_default(), Datastore.get_default("workspace"), Datastore()):
            assert found.name == name
        assert [info.name for info in Datastore.list().values() if info.is_default] == [name]
        Datastore.set_default("workspaceblobstore")
        assert Datastore.get_default().name == "workspaceblobstore"
        Datastore.set_default(name)
    finally:
        Datastore.unregister(name)
    assert Datastore.get_default().name == "workspaceblobstore"


@the_default
def test_what_is_not_registered_cannot_be_the_default(name: str) -> None:
    with pytest.raises(DatastoreNotFound):
        Datastore.set_default(name)
    with pytest.raises(ConfigurationError, match="Give the datastore's name"):
        Datastore.set_default()
    assert Datastore.get_default().name == "workspaceblobstore"


@the_default
@pytest.mark.parametrize("store", ["workspaceblobstore", "workspacefilestore"])
def test_the_workspace_stores_are_made_on_first_use(store: str) -> None:
    Datastore.list()
    Datastore.unregister(store)
    made = Datastore.get(store)
    assert isinstance(made, LocalDatastore)
    assert Path(made.root) == get_current_settings().home / "datastores" / store
    made.write_path("x", b"data")
    Datastore.unregister(store)
    if store == "workspaceblobstore":
        assert Datastore.get_default().read_path("x") == b"data"
    else:
        assert store in Datastore.list()
    assert Datastore.get(store).read_path("x") == b"data"


def test_to_unregister_leaves_the_data(name: str, kept: Any) -> None:
    kept.register(name).write_path("x", b"data")
    Datastore.unregister("workspace", name)
    assert stored(kept.store) == {"x": b"data"}
    with pytest.raises(DatastoreNotFound):
        Datastore.get(name)
    with pytest.raises(DatastoreNotFound):
        Datastore.unregister(name)


# -- containers -----------------------------------------------------------------------------------


def test_a_missing_container_is_made_when_asked_for(name: str, remote: RemotePlace) -> None:
    remote.destroy()
    with pytest.raises(ContainerNotFound, match=r"create_if_not_exists=True") as missing:
        remote.register(name)
    assert repr(remote.name) in str(missing.value)
    assert remote.server.key not in str(missing.value)
    with pytest.raises(ContainerNotFound):
        remote.store.check_root()
    remote.register(name, create_if_not_exists=True)
    remote.store.check_root()
    put(remote.store, "x", b"data")
    remote.register(name, create_if_not_exists=True, overwrite=True)
    assert Datastore.get(name).read_path("x") == b"data"


def test_a_missing_folder_is_made_unless_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ContainerNotFound, match=r"folder .*/new does not exist"):
        Datastore.register_local(name, tmp_path / "new", create_if_not_exists=False)
    assert not (tmp_path / "new").exists()
    Datastore.register_local(name, tmp_path / "new")
    assert (tmp_path / "new").is_dir()


def test_a_connection_string_names_the_account(name: str, remote: RemotePlace) -> None:
    server = remote.server
    account, key = server.account, server.key
    endpoints = zip(remote.services, remote.ports, strict=True)
    addresses = [f"{of}=http://{server.host}:{port}/{account}" for of, port in endpoints]
    text = ";".join([f"AccountName={account}", f"AccountKey={key}", *addresses])
    made: Any = type(remote).registration(
        *(None, name, remote.name), auth=ConnectionString(connection_string=SecretStr(text))
    )
    assert made.account_name == account
    assert made.url == f"http://{server.host}:{remote.ports[0]}/{account}/{remote.name}"
    assert Datastore.list()[name].url == made.url
    assert Datastore.get(name).list_objects() == []


def test_a_token_that_ended_is_refused_before_anybody_is_asked(
    name: str, of_kind: type[RemotePlace]
) -> None:
    ended = {"sas_token": "sv=2024-11-04&sp=rwl&se=2020-01-01&sig=abcdefghijk"}
    nowhere = {"endpoint": "nowhere.invalid", **ended}
    message = refused(of_kind.register_elsewhere, name, CredentialExpired, **nowhere)
    assert "The SAS token ended at 2020-01-01 00:00 UTC" in message
    of_kind.register_elsewhere(name, **nowhere, skip_validation=True)


def test_without_validation_nobody_is_asked(name: str, of_kind: type[RemotePlace]) -> None:
    made = of_kind.register_elsewhere(
        name, account_key=WRONG_KEY, endpoint="nowhere.invalid", skip_validation=True
    )
    service = of_kind.service_of_url
    assert Datastore.get(name).url == made.url == f"https://account1.{service}.nowhere.invalid/data"


# -- what is wrong is said ------------------------------------------------------------------------


def refused(
    register: Callable[..., object],
    name: str,
    kind: type[Exception] | tuple[type[Exception], ...],
    **values: Any,
) -> str:
    """The message with which a registration is refused; nothing is registered then."""
    with pytest.raises(kind) as error:
        register(name, **values)
    with pytest.raises(DatastoreNotFound):
        Datastore.get(name)
    message = str(error.value)
    chain: BaseException | None = error.value
    while chain is not None:
        for secret in (values.get("account_key"), values.get("sas_token")):
            assert not secret or secret[:16] not in f"{chain} {chain!r} {chain.__dict__}"
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    return message


def test_a_wrong_key_is_named(free: str, remote: RemotePlace) -> None:
    message = refused(remote.register, free, AuthenticationFailed, account_key=WRONG_KEY)
    assert "the account key is not accepted" in message
    assert remote.name in message


def test_a_key_that_is_no_key_is_named(free: str, remote: RemotePlace) -> None:
    message = refused(remote.register, free, AuthenticationFailed, account_key="this is no base64!")
    assert "account key" in message


def by_sas(token: str) -> dict[str, Any]:
    return {"account_key": None, "sas_token": token}


def test_a_wrong_sas_is_named(free: str, remote: RemotePlace) -> None:
    wrong = remote.sas("rl")[:-8] + "AAAA%3D"
    message = refused(remote.register, free, AuthenticationFailed, **by_sas(wrong))
    assert "the SAS token is not accepted" in message


def test_an_expired_sas_is_named(free: str, remote: RemotePlace) -> None:
    expired = by_sas(remote.sas("rl", hours=-1))
    kinds = (CredentialExpired, AuthenticationFailed)
    assert "SAS token" in refused(remote.register, free, kinds, **expired)


def test_a_sas_without_the_right_is_named(free: str, remote: RemotePlace) -> None:
    message = refused(remote.register, free, AccessDenied, **by_sas(remote.sas("w")))
    assert "lacks the right" in message


def test_an_account_that_does_not_exist_is_named(free: str, of_kind: type[RemotePlace]) -> None:
    message = refused(
        *(of_kind.register_elsewhere, free, EndpointUnreachable),
        account_key=WRONG_KEY,
        endpoint="nowhere.invalid",
    )
    at = f"https://account1.{of_kind.service_of_url}.nowhere.invalid"
    assert f"{at} does not exist" in message
    assert "Check the account name and the endpoint" in message


def test_a_port_where_nobody_answers_is_named(free: str, remote: RemotePlace) -> None:
    message = refused(remote.register, free, EndpointUnreachable, endpoint="127.0.0.1:9")
    assert "Nobody answers at http://127.0.0.1:9/" in message


def test_a_wrong_account_is_named(free: str, blob_place: RemotePlace) -> None:
    """Azurite has one host for all accounts; at Azure the host of a wrong one does not exist."""
    message = refused(blob_place.register, free, DatastoreError, account_name="otheraccount")
    assert f"/otheraccount/{blob_place.name} does not exist; is the account's name" in message
    checks = blob_place.datastore(account_name="otheraccount").check()
    assert outcomes(checks)["sign in"] == "failed"


def test_a_missing_container_is_named(free: str, remote: RemotePlace) -> None:
    message = refused(remote.register, free, ContainerNotFound, **{remote.argument: "not-there"})
    assert "The container 'not-there' does not exist in" in message


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"container": "UPPER"}, "The container name 'UPPER' is refused"),
        ({"container": ""}, "The container name '' is refused"),
        ({"account_name": "a.b"}, "The account name 'a.b' is refused"),
        ({"protocol": "ftp"}, "protocol='ftp' is refused"),
        ({"endpoint": "core.windows.net"}, "would travel to .* in clear"),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(
    free: str, remote: RemotePlace, wrong: dict[str, str], says: str
) -> None:
    given = {remote.argument if key == "container" else key: text for key, text in wrong.items()}
    message = refused(remote.register, free, ConfigurationError, **given)
    assert re.search(says, message)
    assert "validation error" not in message


@pytest.mark.parametrize(
    "two",
    [
        {"sas_token": "sig=abcdefgh", "account_key": WRONG_KEY},
        {"account_key": WRONG_KEY, "auth": Identity()},
        {"sas_token": "sig=abcdefgh", "auth": SasToken(sas_token=SecretStr("sig=abcdefgh"))},
    ],
    ids="-".join,
)
def test_two_ways_to_sign_in_are_refused(
    free: str, of_kind: type[RemotePlace], two: dict[str, Any]
) -> None:
    message = refused(of_kind.register_elsewhere, free, ConfigurationError, **two)
    assert "one of sas_token, account_key and auth" in message


@pytest.mark.parametrize("given", [{}, {"subscription_id": "s"}, {"resource_group": "g"}], ids=str)
@pytest.mark.parametrize("kind", ["blob", "lake"])  # Azure ML has it for these alone
def test_to_grant_access_needs_to_know_where(free: str, kind: str, given: dict[str, str]) -> None:
    message = refused(
        *(REMOTE[kind].register_elsewhere, free, ConfigurationError),
        grant_workspace_access=True,
        **given,
    )
    assert "grant_workspace_access needs subscription_id and resource_group" in message


# -- check ----------------------------------------------------------------------------------------


def outcomes(checks: list[Check]) -> dict[str, str]:
    assert all(check.seconds >= 0 for check in checks)
    return {check.step: check.outcome for check in checks}


def test_a_good_datastore_passes_all_checks_and_is_left_as_it_was(kept: Any) -> None:
    made = kept.datastore()
    assert outcomes(made.check()) == {
        "sign in": "ok",
        "list": "ok",
        "read": "not tried",
        "write": "ok",
    }
    assert made.list_objects() == []
    made.write_path("x", b"data")
    assert set(outcomes(made.check()).values()) == {"ok"}
    assert [info.name for info in made.list_objects()] == ["x"]
    assert outcomes(made.check(write=False))["write"] == "not tried"


def test_a_wrong_key_fails_to_sign_in_and_nothing_else_is_tried(remote: RemotePlace) -> None:
    checks = remote.datastore(auth={"account_key": WRONG_KEY}).check()
    assert outcomes(checks) == {
        "sign in": "failed",
        "list": "not tried",
        "read": "not tried",
        "write": "not tried",
    }
    assert "the account key is not accepted" in checks[0].detail
    assert WRONG_KEY[:16] not in repr(checks)


def test_a_missing_container_fails_to_list_but_signs_in(kept: Any) -> None:
    missing = kept.datastore()
    kept.destroy()
    checks = missing.check()
    assert outcomes(checks) == {
        "sign in": "ok",
        "list": "failed",
        "read": "not tried",
        "write": "not tried",
    }
    assert (kept.name if isinstance(kept, RemotePlace) else kept.root.name) in checks[1].detail


def signed(remote: RemotePlace, permission: str) -> tuple[FileDatastore, str]:
    """A block that signs in by a SAS, and that."""
    token = remote.sas(permission)
    return remote.datastore(auth={"sas_token": token}), token


def test_a_sas_that_may_only_read_fails_to_write(remote: RemotePlace) -> None:
    put(remote.store, "x", b"data")
    made, token = signed(remote, "rl")
    checks = made.check()
    assert outcomes(checks) == {"sign in": "ok", "list": "ok", "read": "ok", "write": "failed"}
    assert "lacks the right" in checks[3].detail
    assert token.partition("sig=")[2] not in repr(checks)
    assert stored(remote.store) == {"x": b"data"}


def test_a_sas_that_may_only_write_fails_to_list(remote: RemotePlace) -> None:
    checks = signed(remote, "cw")[0].check()
    assert outcomes(checks)["sign in"] == "ok"
    assert outcomes(checks)["list"] == "failed"


def test_nobody_there_fails_to_sign_in(remote: RemotePlace) -> None:
    checks = remote.datastore(endpoint="127.0.0.1:9").check()
    assert outcomes(checks)["sign in"] == "failed"
    assert "Nobody answers" in checks[0].detail


def test_a_name_alone_means_that_datastore_and_not_the_default(name: str, tmp_path: Path) -> None:
    Datastore.register_local(name, tmp_path)
    assert Datastore(name).name == name
    assert Datastore(None, name).name == name


def test_a_block_with_a_name_that_no_datastore_has_is_passed_over(
    name: str, tmp_path: Path
) -> None:
    Datastore.register_local(name, tmp_path)
    save: Any = LocalDatastore(root=str(tmp_path)).save
    odd = f"-{name.replace('_', '-')}"
    save(odd, _sync=True)
    try:
        assert name in Datastore.list()
        with pytest.raises(DatastoreNotFound):
            Datastore.get(f"{name}_2")
    finally:
        LocalDatastore.delete(odd)


def test_a_folder_is_the_same_for_every_process() -> None:
    for root in ("", "relative/folder", "~nobody-has-this-name/x"):
        with pytest.raises(ValueError, match="is refused"):
            LocalDatastore(root=root)
    assert LocalDatastore(root="~/data").root == str(Path.home() / "data")


def test_a_sas_that_may_not_delete_has_written_and_says_what_it_left(remote: RemotePlace) -> None:
    checks = signed(remote, "rcwl")[0].check()
    assert outcomes(checks)["write"] == "ok"
    (left,) = stored(remote.store)
    assert f"could not be deleted and is still there, {left!r}" in checks[3].detail


@pytest.mark.parametrize(
    ("remote", "same_kind"),
    [("blob", True), ("blob", False), ("share", True), ("lake", False)],
    indirect=["remote"],
)
def test_of_two_who_register_one_name_at_once_one_is_told(
    name: str, remote: RemotePlace, tmp_path: Path, same_kind: bool
) -> None:
    """While the service is asked about the one, the other is registered."""

    def register_another() -> None:
        if same_kind:
            remote.register_elsewhere(name, skip_validation=True)
        else:
            Datastore.register_local(name, tmp_path)

    late = Fault("comp=list", "pass", meanwhile=register_another)
    with remote.through(late) as seen:
        with pytest.raises(DatastoreExists, match="registered already"):
            remote.register(name, seen.ports)
    elsewhere = f"https://account1.{remote.service_of_url}.core.windows.net/data"
    assert Datastore.get(name).url == (elsewhere if same_kind else tmp_path.as_uri())


def test_a_block_that_a_form_saved_incomplete_says_what_is_wrong(
    name: str, of_kind: type[RemotePlace]
) -> None:
    of_kind.register_elsewhere(name, skip_validation=True)
    field = of_kind.name_field
    with get_client(sync_client=True) as client:
        (document,) = documents(client, name)
        for data, says in (
            ({"account_name": "acme.blob.core.windows.net", field: "c1c"}, "account name"),
            ({"account_name": "acme"}, f"{field}: Field required"),
        ):
            body = {"data": data, "merge_existing_data": False}
            client.request("PATCH", f"/block_documents/{document.id}", json=body)
            with pytest.raises(ConfigurationError, match=f"is to be edited: .*{says}"):
                Datastore.get(name)
            assert "incomplete" in Datastore.list()[name].url


def test_a_home_that_does_not_exist_is_refused(free: str) -> None:
    with pytest.raises(ConfigurationError, match="home directory"):
        Datastore.register_local(free, "~nosuchuser/x")


def test_a_key_in_the_place_of_the_account_is_not_shown(
    name: str, of_kind: type[RemotePlace]
) -> None:
    with pytest.raises(ConfigurationError, match="account name of 84 characters") as caught:
        of_kind.register_elsewhere(name, account_name=WRONG_KEY, account_key="devstoreaccount1")
    assert WRONG_KEY not in repr(caught.value)
