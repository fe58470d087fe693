"""Datastores are registered once and found by name; what is wrong is said before it is used."""

import contextlib
import json
import logging
import socket
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import (
    BlobServiceClient,
    ContainerClient,
    ContainerSasPermissions,
    generate_container_sas,
)
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from pydantic import SecretStr
from servers.azurite import Azurite
from servers.wire import Heard, ok, wire

from prefect_datastores import (
    AccountKey,
    Anonymous,
    AzureBlobDatastore,
    ConnectionString,
    Datastore,
    Identity,
    LocalDatastore,
    SasToken,
    ServicePrincipal,
)
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

pytestmark = pytest.mark.usefixtures("prefect_api")

# One server, one default: tests that touch it run one after another.
the_default = pytest.mark.xdist_group("the default datastore")

WRONG_KEY = "d3Jvbmcta2V5LXdyb25nLWtleS13cm9uZy1rZXktd3Jvbmcta2V5LXdyb25nLWtleS0wMTIzNDU2Nzg5YWI="


@pytest.fixture
def name() -> Iterator[str]:
    """A name that no other test has; it is forgotten afterwards."""
    made = f"ds_{uuid.uuid4().hex[:12]}"
    yield made
    for left in (made, f"{made}_2"):
        with contextlib.suppress(DatastoreNotFound):
            Datastore.unregister(left)


@pytest.fixture
def place(azurite: Azurite, container: ContainerClient) -> dict[str, Any]:
    """What register_azure_blob_container needs for a container on Azurite."""
    return {
        "container_name": container.container_name,
        "account_name": azurite.account,
        "account_key": azurite.key,
        "protocol": "http",
        "endpoint": f"{azurite.host}:{azurite.port}",
    }


@pytest.fixture
def sas(azurite: Azurite, container: ContainerClient) -> Any:
    """Makes SAS tokens of the container."""

    def make(permission: str, hours: float = 1) -> str:
        return generate_container_sas(
            azurite.account,
            container.container_name,
            account_key=azurite.key,
            permission=ContainerSasPermissions.from_string(permission),
            start=datetime.now(timezone.utc) - timedelta(hours=8),
            expiry=datetime.now(timezone.utc) + timedelta(hours=hours),
        )

    return make


# -- register and get -----------------------------------------------------------------------------


def test_a_registered_container_is_found_in_both_forms_of_get_and_works(
    name: str, place: dict[str, Any]
) -> None:
    registered = Datastore.register_azure_blob_container("workspace", name, **place)
    assert isinstance(registered, AzureBlobDatastore)
    assert registered.name == name
    for found in (
        Datastore.get(name),
        Datastore.get("workspace", name),
        Datastore.get(None, datastore_name=name),
        Datastore.get(workspace=object(), datastore_name=name),
        Datastore("workspace", name),
        AzureBlobDatastore.load(name.replace("_", "-")),
    ):
        assert isinstance(found, AzureBlobDatastore)
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
    "auth",
    [
        Anonymous(),
        Identity(identity_client_id="1"),
        ServicePrincipal(tenant_id="t", client_id="c", client_secret=SecretStr("s" * 20)),
    ],
    ids=lambda auth: type(auth).__name__,
)
def test_any_way_to_sign_in_is_registered(name: str, auth: Any) -> None:
    Datastore.register_azure_blob_container(
        None, name, "data", "account1", auth=auth, skip_validation=True
    )
    found = Datastore.get(name)
    assert isinstance(found, AzureBlobDatastore)
    assert found.auth == auth


def test_a_sas_with_its_question_mark_works(name: str, place: dict[str, Any], sas: Any) -> None:
    token = sas("racwdl")
    Datastore.register_azure_blob_container(
        None, name, sas_token=f"?{token}", **{**place, "account_key": None}
    )
    found = Datastore.get(name)
    found.write_path("x", b"data")
    assert found.read_path("x") == b"data"
    assert token.partition("sig=")[2] not in repr(found)


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(
    name: str, place: dict[str, Any], tmp_path: Path
) -> None:
    Datastore.register_azure_blob_container(None, name, **place)
    with pytest.raises(DatastoreExists, match=f"'{name}' is registered already.*overwrite=True"):
        Datastore.register_azure_blob_container(None, name, **place)
    with pytest.raises(DatastoreExists):
        Datastore.register_local(name, tmp_path)
    replaced = Datastore.register_azure_blob_container(
        None, name, overwrite=True, blob_cache_timeout=5, **place
    )
    found = Datastore.get(name)
    assert isinstance(found, AzureBlobDatastore)
    assert found.blob_cache_timeout == 5
    assert found._block_document_id == replaced._block_document_id


def test_a_datastore_of_another_kind_takes_the_name_over(
    name: str, place: dict[str, Any], tmp_path: Path
) -> None:
    Datastore.register_azure_blob_container(None, name, **place)
    Datastore.get(name).write_path("x", b"stays")
    Datastore.register_local(name, tmp_path, overwrite=True)
    assert isinstance(Datastore.get(name), LocalDatastore)
    with pytest.raises(ValueError, match="Unable to find block document"):
        AzureBlobDatastore.load(name.replace("_", "-"))
    Datastore.register_azure_blob_container(None, name, overwrite=True, **place)
    assert Datastore.get(name).read_path("x") == b"stays"


def test_a_replacement_that_does_not_work_leaves_the_old_one(
    name: str, place: dict[str, Any]
) -> None:
    Datastore.register_azure_blob_container(None, name, **place)
    with pytest.raises(AuthenticationFailed):
        Datastore.register_azure_blob_container(
            None, name, overwrite=True, **{**place, "account_key": WRONG_KEY}
        )
    Datastore.get(name).write_path("x", b"still works")


def test_two_blocks_of_one_name_are_not_guessed_about(name: str, tmp_path: Path) -> None:
    """The form can make what the registry refuses."""
    block = name.replace("_", "-")
    LocalDatastore(root=str(tmp_path)).save(block)
    AzureBlobDatastore(account_name="account1", container_name="data").save(block)
    with pytest.raises(ConfigurationError, match="Azure Blob Datastore, Local Datastore"):
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
    name: str, place: dict[str, Any], tmp_path: Path
) -> None:
    Datastore.register_azure_blob_container(None, name, **place)
    Datastore.register_local(f"{name}_2", tmp_path)
    listed = Datastore.list()
    assert list(listed) == sorted(listed)
    assert {"workspaceblobstore", "workspacefilestore"} <= set(listed)
    assert (listed[name].datastore_type, listed[name].sign_in) == ("AzureBlob", "account key")
    assert (
        listed[name].url
        == f"http://{place['endpoint']}/{place['account_name']}/{place['container_name']}"
    )
    assert (listed[f"{name}_2"].datastore_type, listed[f"{name}_2"].sign_in) == ("Local", "none")
    everything = repr(listed) + json.dumps({key: vars(info) for key, info in listed.items()})
    assert place["account_key"] not in everything
    assert place["account_key"][:16] not in everything


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


def test_to_unregister_leaves_the_data(
    name: str, place: dict[str, Any], container: ContainerClient, tmp_path: Path
) -> None:
    Datastore.register_azure_blob_container(None, name, **place).write_path("x", b"data")
    Datastore.unregister("workspace", name)
    assert container.download_blob("x").readall() == b"data"
    Datastore.register_local(name, tmp_path).write_path("x", b"data")
    Datastore.unregister(name)
    assert (tmp_path / "x").read_bytes() == b"data"
    with pytest.raises(DatastoreNotFound):
        Datastore.get(name)
    with pytest.raises(DatastoreNotFound):
        Datastore.unregister(name)


# -- containers -----------------------------------------------------------------------------------


def test_a_missing_container_is_made_when_asked_for(
    name: str, place: dict[str, Any], azurite: Azurite
) -> None:
    place["container_name"] = f"made-{uuid.uuid4().hex}"
    credential = {"account_name": azurite.account, "account_key": azurite.key}
    with BlobServiceClient(azurite.url, credential=credential) as service:
        made = service.get_container_client(place["container_name"])
        with pytest.raises(ContainerNotFound, match=r"create_if_not_exists=True") as missing:
            Datastore.register_azure_blob_container(None, name, **place)
        assert repr(place["container_name"]) in str(missing.value)
        assert place["account_key"] not in str(missing.value)
        assert not made.exists()
        Datastore.register_azure_blob_container(None, name, create_if_not_exists=True, **place)
        try:
            assert made.exists()
            made.upload_blob("x", b"data")
            Datastore.register_azure_blob_container(
                None, name, create_if_not_exists=True, overwrite=True, **place
            )
            assert Datastore.get(name).read_path("x") == b"data"
        finally:
            made.delete_container()


def test_a_missing_folder_is_made_unless_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ContainerNotFound, match=r"folder .*/new does not exist"):
        Datastore.register_local(name, tmp_path / "new", create_if_not_exists=False)
    assert not (tmp_path / "new").exists()
    Datastore.register_local(name, tmp_path / "new")
    assert (tmp_path / "new").is_dir()


def test_a_connection_string_names_the_account(
    name: str, azurite: Azurite, container: ContainerClient
) -> None:
    text = f"AccountName={azurite.account};AccountKey={azurite.key};BlobEndpoint={azurite.url}"
    made = Datastore.register_azure_blob_container(
        *(None, name, container.container_name),
        auth=ConnectionString(connection_string=SecretStr(text)),
    )
    assert (made.account_name, made.url) == (
        azurite.account,
        f"{azurite.url}/{container.container_name}",
    )
    assert Datastore.list()[name].url == made.url
    assert Datastore.get(name).list_objects() == []


def test_a_token_that_ended_is_refused_before_anybody_is_asked(name: str) -> None:
    ended = {"sas_token": "sv=2024-11-04&sp=rwl&se=2020-01-01&sig=abcdefghijk"}
    place = {"container_name": "data", "account_name": "account1", "endpoint": "nowhere.invalid"}
    message = refused(name, CredentialExpired, **place, **ended)
    assert "The SAS token ended at 2020-01-01 00:00 UTC" in message
    Datastore.register_azure_blob_container(None, name, **place, **ended, skip_validation=True)


def test_without_validation_nobody_is_asked(name: str) -> None:
    made = Datastore.register_azure_blob_container(
        *(None, name, "data", "account1"),
        account_key=WRONG_KEY,
        endpoint="nowhere.invalid",
        skip_validation=True,
    )
    assert Datastore.get(name).url == made.url == "https://account1.blob.nowhere.invalid/data"


# -- what is wrong is said ------------------------------------------------------------------------


def refused(name: str, kind: type[Exception], **values: Any) -> str:
    """The message with which a registration is refused; nothing is registered then."""
    with pytest.raises(kind) as error:
        Datastore.register_azure_blob_container(None, name, **values)
    with pytest.raises(DatastoreNotFound):
        Datastore.get(name)
    message = str(error.value)
    chain: BaseException | None = error.value
    while chain is not None:
        for secret in (values.get("account_key"), values.get("sas_token")):
            assert not secret or secret[:16] not in f"{chain} {chain!r} {chain.__dict__}"
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    return message


def test_a_wrong_key_is_named(name: str, place: dict[str, Any]) -> None:
    message = refused(name, AuthenticationFailed, **{**place, "account_key": WRONG_KEY})
    assert "the account key is not accepted" in message
    assert place["container_name"] in message


def test_a_key_that_is_no_key_is_named(name: str, place: dict[str, Any]) -> None:
    message = refused(name, AuthenticationFailed, **{**place, "account_key": "this is no base64!"})
    assert "account key" in message


def test_a_wrong_sas_is_named(name: str, place: dict[str, Any], sas: Any) -> None:
    wrong = sas("rl")[:-8] + "AAAA%3D"
    message = refused(
        name, AuthenticationFailed, **{**place, "account_key": None, "sas_token": wrong}
    )
    assert "the SAS token is not accepted" in message


def test_an_expired_sas_is_named(name: str, place: dict[str, Any], sas: Any) -> None:
    message = refused(
        name,
        (CredentialExpired, AuthenticationFailed),  # type: ignore[arg-type]
        **{**place, "account_key": None, "sas_token": sas("rl", hours=-1)},
    )
    assert "SAS token" in message


def test_a_sas_without_the_right_is_named(name: str, place: dict[str, Any], sas: Any) -> None:
    message = refused(name, AccessDenied, **{**place, "account_key": None, "sas_token": sas("w")})
    assert "lacks the right" in message


def test_an_account_that_does_not_exist_is_named(name: str) -> None:
    message = refused(
        name,
        EndpointUnreachable,
        container_name="data",
        account_name="account1",
        account_key=WRONG_KEY,
        endpoint="nowhere.invalid",
    )
    assert "https://account1.blob.nowhere.invalid does not exist" in message
    assert "Check the account name and the endpoint" in message


def test_a_port_where_nobody_answers_is_named(name: str, place: dict[str, Any]) -> None:
    message = refused(name, EndpointUnreachable, **{**place, "endpoint": "127.0.0.1:9"})
    assert "Nobody answers at http://127.0.0.1:9/" in message


def test_a_wrong_account_is_named(name: str, place: dict[str, Any]) -> None:
    """An emulator has one host for all accounts; at Azure the host of a wrong one does not exist."""
    message = refused(name, DatastoreError, **{**place, "account_name": "otheraccount"})
    assert (
        f"/otheraccount/{place['container_name']} does not exist; is the account's name" in message
    )
    checks = blob({**place, "account_name": "otheraccount"}).check()
    assert outcomes(checks)["sign in"] == "failed"


def test_a_missing_container_is_named(name: str, place: dict[str, Any]) -> None:
    message = refused(name, ContainerNotFound, **{**place, "container_name": "not-there"})
    assert "The container 'not-there' does not exist in" in message


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"container_name": "UPPER"}, "The container name 'UPPER' is refused"),
        ({"container_name": ""}, "The container name '' is refused"),
        ({"account_name": "a.b"}, "The account name 'a.b' is refused"),
        ({"protocol": "ftp"}, "protocol='ftp' is refused"),
        ({"endpoint": "core.windows.net"}, "would travel to .* in clear"),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(
    name: str, place: dict[str, Any], wrong: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{says}|{says}"):
        Datastore.register_azure_blob_container(None, name, **{**place, **wrong})
    assert "validation error" not in refused(name, ConfigurationError, **{**place, **wrong})


@pytest.mark.parametrize(
    "two",
    [
        {"sas_token": "sig=abcdefgh", "account_key": WRONG_KEY},
        {"account_key": WRONG_KEY, "auth": Identity()},
        {"sas_token": "sig=abcdefgh", "auth": SasToken(sas_token=SecretStr("sig=abcdefgh"))},
    ],
    ids="-".join,
)
def test_two_ways_to_sign_in_are_refused(name: str, two: dict[str, Any]) -> None:
    message = refused(
        name, ConfigurationError, container_name="data", account_name="account1", **two
    )
    assert "one of sas_token, account_key and auth" in message


@pytest.mark.parametrize("given", [{}, {"subscription_id": "s"}, {"resource_group": "g"}], ids=str)
def test_to_grant_access_needs_to_know_where(name: str, given: dict[str, str]) -> None:
    message = refused(
        *(name, ConfigurationError),
        container_name="data",
        account_name="account1",
        grant_workspace_access=True,
        **given,
    )
    assert "grant_workspace_access needs subscription_id and resource_group" in message


# -- check ----------------------------------------------------------------------------------------


def outcomes(checks: list[Check]) -> dict[str, str]:
    assert all(check.seconds >= 0 for check in checks)
    return {check.step: check.outcome for check in checks}


def blob(place: dict[str, Any], **auth: Any) -> AzureBlobDatastore:
    values = {key: value for key, value in place.items() if key != "account_key"}
    return AzureBlobDatastore(**values, auth=auth or {"account_key": place["account_key"]})


def test_a_good_datastore_passes_all_checks_and_is_left_as_it_was(
    place: dict[str, Any], container: ContainerClient, tmp_path: Path
) -> None:
    for store in (blob(place), LocalDatastore(root=str(tmp_path))):
        assert outcomes(store.check()) == {
            "sign in": "ok",
            "list": "ok",
            "read": "not tried",
            "write": "ok",
        }
        assert store.list_objects() == []
        store.write_path("x", b"data")
        assert set(outcomes(store.check()).values()) == {"ok"}
        assert [info.name for info in store.list_objects()] == ["x"]
        assert outcomes(store.check(write=False))["write"] == "not tried"


def test_a_wrong_key_fails_to_sign_in_and_nothing_else_is_tried(place: dict[str, Any]) -> None:
    checks = blob(place, account_key=WRONG_KEY).check()
    assert outcomes(checks) == {
        "sign in": "failed",
        "list": "not tried",
        "read": "not tried",
        "write": "not tried",
    }
    assert "the account key is not accepted" in checks[0].detail
    assert WRONG_KEY[:16] not in repr(checks)


def test_a_missing_container_fails_to_list_but_signs_in(
    place: dict[str, Any], tmp_path: Path
) -> None:
    for store in (
        blob({**place, "container_name": "not-there"}),
        LocalDatastore(root=str(tmp_path / "not-there")),
    ):
        checks = store.check()
        assert outcomes(checks) == {
            "sign in": "ok",
            "list": "failed",
            "read": "not tried",
            "write": "not tried",
        }
        assert "not-there" in checks[1].detail


def test_a_sas_that_may_only_read_fails_to_write(
    place: dict[str, Any], container: ContainerClient, sas: Any
) -> None:
    container.upload_blob("x", b"data")
    token = sas("rl")
    checks = blob(place, sas_token=token).check()
    assert outcomes(checks) == {"sign in": "ok", "list": "ok", "read": "ok", "write": "failed"}
    assert "lacks the right" in checks[3].detail
    assert token.partition("sig=")[2] not in repr(checks)
    assert [item.name for item in container.list_blobs()] == ["x"]


def test_a_sas_that_may_only_write_fails_to_list(place: dict[str, Any], sas: Any) -> None:
    checks = blob(place, sas_token=sas("cw")).check()
    assert outcomes(checks)["sign in"] == "ok"
    assert outcomes(checks)["list"] == "failed"


def test_nobody_there_fails_to_sign_in(place: dict[str, Any]) -> None:
    checks = blob({**place, "endpoint": "127.0.0.1:9"}).check()
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


def test_a_sas_that_may_not_delete_has_written_and_says_what_it_left(
    place: dict[str, Any], container: ContainerClient, sas: Any
) -> None:
    checks = blob(place, sas_token=sas("rcwl")).check()
    assert outcomes(checks)["write"] == "ok"
    (left,) = container.list_blobs()
    assert f"could not be deleted and is still there, {left.name!r}" in checks[3].detail


@pytest.mark.parametrize("same_kind", [True, False])
def test_of_two_who_register_one_name_at_once_one_is_told(
    name: str, tmp_path: Path, same_kind: bool
) -> None:
    """While the service is asked about the one, the other is registered."""

    def register_another() -> None:
        if same_kind:
            Datastore.register_azure_blob_container(
                None, name, "other", "account1", skip_validation=True
            )
        else:
            Datastore.register_local(name, tmp_path)

    def answer_late(sock: socket.socket, heard: Heard) -> None:
        while heard.take(sock):
            register_another()
            sock.sendall(ok(b"<EnumerationResults><Blobs/></EnumerationResults>"))

    with wire(answer_late) as heard, pytest.raises(DatastoreExists, match="registered already"):
        Datastore.register_azure_blob_container(
            None,
            name,
            "container",
            "account1",
            auth=Anonymous(),
            protocol="http",
            endpoint=f"127.0.0.1:{heard.port}",
        )
    local = tmp_path.as_uri()
    expected = "https://account1.blob.core.windows.net/other" if same_kind else local
    assert Datastore.get(name).url == expected


def test_a_block_that_a_form_saved_incomplete_says_what_is_wrong(name: str) -> None:
    Datastore.register_azure_blob_container(
        None, name, "container", "account1", skip_validation=True
    )
    with get_client(sync_client=True) as client:
        (document,) = documents(client, name)
        for data, says in (
            (
                {"account_name": "acme.blob.core.windows.net", "container_name": "c1c"},
                "account name",
            ),
            ({"account_name": "acme"}, "container_name: Field required"),
        ):
            body = {"data": data, "merge_existing_data": False}
            client.request("PATCH", f"/block_documents/{document.id}", json=body)
            with pytest.raises(ConfigurationError, match=f"is to be edited: .*{says}"):
                Datastore.get(name)
            assert "incomplete" in Datastore.list()[name].url


def test_a_home_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="home directory"):
        Datastore.register_local(name, "~nosuchuser/x")


def test_a_key_in_the_place_of_the_account_is_not_shown(name: str, azurite: Azurite) -> None:
    with pytest.raises(ConfigurationError, match="account name of 88 characters") as caught:
        Datastore.register_azure_blob_container(
            None, name, "container", azurite.key, account_key="devstoreaccount1"
        )
    assert azurite.key not in repr(caught.value)
