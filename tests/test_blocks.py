"""Datastores are Prefect blocks: forms, servers and result storage take them for what they are."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest
from azure.storage.blob import ContainerClient
from prefect import flow
from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.filesystems import WritableDeploymentStorage, WritableFileSystem
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import BaseModel, SecretStr, ValidationError
from servers.azurite import Azurite

from prefect_datastores import (
    AccountKey,
    Anonymous,
    AzureBlobDatastore,
    AzureCli,
    AzureDataLakeGen2Datastore,
    Certificate,
    ConnectionString,
    Identity,
    LocalDatastore,
    ManagedIdentity,
    SasToken,
    ServicePrincipal,
    WorkloadIdentity,
)
from prefect_datastores.datastores.auth import AzureAuth
from prefect_datastores.datastores.azure_account import Service
from prefect_datastores.errors import ObjectNotFound, UnsafeName

pytestmark = pytest.mark.usefixtures("prefect_api")

KINDS = (AzureBlobDatastore, AzureDataLakeGen2Datastore, LocalDatastore)
SECRET = "c2VjcmV0LXRoYXQtbm9ib2R5LW1heS1zZWU="
VARIANTS = [
    Identity(),
    Identity(identity_client_id="0000-1111"),
    AccountKey(account_key=SecretStr(SECRET)),
    SasToken(sas_token=SecretStr(f"?sv=2024&sig={SECRET}")),
    ServicePrincipal(tenant_id="tenant", client_id="client", client_secret=SecretStr(SECRET)),
    ServicePrincipal(
        tenant_id="tenant",
        client_id="client",
        client_secret=SecretStr(SECRET),
        authority_url="https://login.microsoftonline.us",
        resource_url="https://storage.azure.com/",
    ),
    Certificate(
        certificate_tenant_id="tenant",
        certificate_client_id="client",
        certificate=SecretStr(f"-----BEGIN {SECRET}"),
        certificate_password=SecretStr(SECRET),
    ),
    ConnectionString(connection_string=SecretStr(f"AccountName=account1;AccountKey={SECRET}")),
    ManagedIdentity(),
    ManagedIdentity(managed_identity_id="0000-1111"),
    WorkloadIdentity(),
    WorkloadIdentity(
        workload_tenant_id="tenant", workload_client_id="client", federated_token_file="/token"
    ),
    AzureCli(),
    AzureCli(cli_tenant_id="tenant"),
    Anonymous(),
]


class LogoWithoutNetwork(BlockStandardTestSuite):
    """Prefect's own tests of a block; the one that downloads the logo looks at its address."""

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        address = urlsplit(str(block._logo_url))
        assert address.scheme == "https"
        assert address.hostname
        assert address.path.endswith(".png")


class TestAzureBlobDatastore(LogoWithoutNetwork):
    @pytest.fixture
    def block(self) -> type[Block]:
        return AzureBlobDatastore


class TestLocalDatastore(LogoWithoutNetwork):
    @pytest.fixture
    def block(self) -> type[Block]:
        return LocalDatastore


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made


@pytest.fixture
def unique() -> str:
    """A name that no other test has."""
    return f"block-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def blob(azurite: Azurite, container: ContainerClient) -> AzureBlobDatastore:
    """A datastore on Azurite that is not saved."""
    return AzureBlobDatastore(
        account_name=azurite.account,
        container_name=container.container_name,
        auth=AccountKey(account_key=SecretStr(azurite.key)),
        protocol="http",
        endpoint=f"{azurite.host}:{azurite.port}",
    )


@pytest.fixture(params=["local", "blob"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A datastore of each kind."""
    if request.param == "blob":
        return request.getfixturevalue("blob")
    (tmp_path / "root").mkdir()
    return LocalDatastore(root=str(tmp_path / "root"))


def fields(kind: type[Block]) -> dict[str, Any]:
    """The schema as Prefect's server, and so its form, gets it."""
    schema: dict[str, Any] = kind._to_block_schema(block_type_id=uuid.uuid4()).fields
    return schema


def members() -> list[type[BaseModel]]:
    return list(get_args(AzureAuth))


# -- the schema that Prefect's form is made from ------------------------------------------------


def test_every_way_to_sign_in_is_tested() -> None:
    assert {type(variant) for variant in VARIANTS} == set(members())


def test_ways_to_sign_in_share_no_key() -> None:
    keys = [key for member in members() for key in member.model_fields]
    assert len(keys) == len(set(keys))
    assert all(member.model_config["extra"] == "forbid" for member in members())


def test_every_way_to_sign_in_has_a_tab_with_a_key_of_its_own() -> None:
    """The form tells the ways apart by their keys; one without keys would be all of them."""
    schema = fields(AzureBlobDatastore)
    options = schema["properties"]["auth"]["anyOf"]
    models = [schema["definitions"][option["$ref"].rpartition("/")[2]] for option in options]
    assert all(model["properties"] for model in models)
    assert [model["title"] for model in models] == [
        *("Identity", "Account key", "SAS token", "Service principal", "Anonymous"),
        *("Connection string", "Certificate", "Managed id", "Workload id", "Azure CLI"),
    ]


def test_the_union_is_plain() -> None:
    text = json.dumps(fields(AzureBlobDatastore))
    assert "discriminator" not in text
    assert "oneOf" not in text
    assert '"const"' not in text


@pytest.mark.parametrize("given", [{}, {"auth": {}}, {"auth": {"identity_client_id": ""}}], ids=str)
def test_without_a_value_the_way_to_sign_in_is_the_first_tab(given: dict[str, Any]) -> None:
    made = AzureBlobDatastore(account_name="account1", container_name="data", **given)
    assert made.auth == Identity()
    assert members()[0] is Identity


def test_every_secret_is_known_as_one() -> None:
    secrets = {
        f"auth.{key}"
        for member in members()
        for key, field in member.model_fields.items()
        if field.annotation is SecretStr
    }
    assert len(secrets) == 6
    assert set(fields(AzureBlobDatastore)["secret_fields"]) == secrets
    assert fields(LocalDatastore)["secret_fields"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_names_every_field(kind: type[Block]) -> None:
    schema = fields(kind)
    models = [schema, *(schema.get("definitions") or {}).values()]
    for model in models:
        for field in model["properties"].values():
            assert field["title"]
            assert field["description"].endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_the_fields_keep_their_order_on_any_server(kind: type[Block]) -> None:
    """PostgreSQL keeps no order of keys; Prefect's pages go by the position."""
    schema = fields(kind)
    for model in [schema, *(schema.get("definitions") or {}).values()]:
        positions = [field["position"] for field in model["properties"].values()]
        assert positions == [*range(len(positions))]


@pytest.mark.parametrize("kind", KINDS)
def test_prefect_sees_the_capabilities_of_a_storage_block(kind: type[Block]) -> None:
    assert issubclass(kind, WritableFileSystem)
    assert issubclass(kind, WritableDeploymentStorage)
    assert kind.get_block_capabilities() >= {
        *("read-path", "write-path", "get-directory", "put-directory"),
    }


# -- made in Python, by CLI, and by the form -----------------------------------------------------


@pytest.mark.parametrize("auth", VARIANTS, ids=lambda auth: type(auth).__name__)
def test_every_way_to_sign_in_is_saved_and_loaded_unchanged(
    auth: AzureAuth, unique: str, client: SyncPrefectClient
) -> None:
    made = AzureBlobDatastore(
        account_name="account1",
        container_name="data",
        auth=auth,
        blob_cache_timeout=60,
        subscription_id="sub",
        resource_group="group",
    )
    made.save(unique)
    loaded = AzureBlobDatastore.load(unique)
    assert type(loaded.auth) is type(auth)
    assert loaded.auth == auth
    assert loaded.model_dump() == made.model_dump()

    masked = client.request("GET", f"/block_documents/{loaded._block_document_id}").json()
    assert SECRET not in json.dumps(masked)
    clear = client.request(
        "GET", f"/block_documents/{loaded._block_document_id}?include_secrets=true"
    ).json()
    assert (SECRET in json.dumps(clear)) == (SECRET in _clear(auth))


def _clear(auth: BaseModel) -> str:
    values = [getattr(auth, key) for key in type(auth).model_fields]
    return " ".join(
        value.get_secret_value() if isinstance(value, SecretStr) else str(value) for value in values
    )


@pytest.mark.parametrize("auth", VARIANTS, ids=lambda auth: type(auth).__name__)
def test_a_secret_is_masked_wherever_a_block_is_shown(auth: AzureAuth) -> None:
    block = AzureBlobDatastore(account_name="account1", container_name="data", auth=auth)
    shown = [repr(block), str(block), block.model_dump_json(), block.url, block.sign_in]
    shown += [repr(block.path("x")), block.path("x").model_dump_json(), str(block.model_dump())]
    assert [text for text in shown if SECRET in text] == []
    assert "account1" in repr(block)


def test_a_secret_is_not_in_the_error_of_a_block_that_is_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"account_name": "NOT VALID", "auth": {"account_key": SECRET}},
        {"account_name": "account1", "auth": {"account_key": SECRET, "sas_token": SECRET}},
        {"account_name": "account1", "auth": {"key": SECRET}},
        {"account_name": "account1", "auth": {"account_key": SECRET}, "protocol": "http"},
        {"account_name": "account1", "auth": SECRET},
    ]
    for values in wrong:
        with pytest.raises(ValidationError) as refused:
            AzureBlobDatastore(container_name="data", **values)
        assert SECRET[:12] not in str(refused.value)
        assert SECRET[:12] not in repr(refused.value)
    with pytest.raises(ValidationError) as refused:
        AccountKey(key=SECRET)
    assert SECRET[:12] not in str(refused.value)


def test_a_local_datastore_is_saved_and_loaded_unchanged(unique: str, tmp_path: Path) -> None:
    made = LocalDatastore(root=str(tmp_path))
    made.save(unique)
    loaded = LocalDatastore.load(unique)
    assert loaded.model_dump() == made.model_dump()
    assert loaded.name == unique.replace("-", "_")
    assert loaded.url == tmp_path.as_uri()


def post_as_the_form(client: SyncPrefectClient, kind: type[Block], name: str, data: Any) -> str:
    """Make a block document by the requests that Prefect's form makes."""
    block_type = client.request("GET", f"/block_types/slug/{kind.get_block_type_slug()}").json()
    schemas = client.request(
        "POST",
        "/block_schemas/filter",
        json={"block_schemas": {"block_type_id": {"any_": [block_type["id"]]}}, "limit": 1},
    ).json()
    made = client.request(
        "POST",
        "/block_documents/",
        json={
            "name": name,
            "data": data,
            "block_type_id": block_type["id"],
            "block_schema_id": schemas[0]["id"],
        },
    ).json()
    assert SECRET not in json.dumps(made)
    return str(made["id"])


@pytest.mark.parametrize(
    ("data", "auth"),
    [
        ({}, Identity()),
        ({"identity_client_id": ""}, Identity()),
        ({"account_key": SECRET}, AccountKey(account_key=SecretStr(SECRET))),
        ({"sas_token": SECRET}, SasToken(sas_token=SecretStr(SECRET))),
        (
            {"tenant_id": "t", "client_id": "c", "client_secret": SECRET},
            ServicePrincipal(tenant_id="t", client_id="c", client_secret=SecretStr(SECRET)),
        ),
        ({"anonymous": True}, Anonymous()),
        (
            {"connection_string": f"AccountName=account1;AccountKey={SECRET}"},
            ConnectionString(
                connection_string=SecretStr(f"AccountName=account1;AccountKey={SECRET}")
            ),
        ),
        (
            {
                "certificate_tenant_id": "t",
                "certificate_client_id": "c",
                "certificate": SECRET,
                "certificate_password": "",
            },
            Certificate(
                certificate_tenant_id="t",
                certificate_client_id="c",
                certificate=SecretStr(SECRET),
            ),
        ),
        ({"managed_identity": True}, ManagedIdentity()),
        ({"workload_identity": True}, WorkloadIdentity()),
        ({"azure_cli": True}, AzureCli()),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_block_of_the_form_loads_and_keeps_its_secret_when_edited(
    data: dict[str, Any], auth: AzureAuth, unique: str, client: SyncPrefectClient
) -> None:
    AzureBlobDatastore.register_type_and_schema()
    whole = {"account_name": "account1", "container_name": "data", "auth": data}
    made = post_as_the_form(client, AzureBlobDatastore, unique, whole)
    loaded = AzureBlobDatastore.load(unique)
    assert loaded.auth == auth
    assert (loaded.protocol, loaded.endpoint) == ("https", "core.windows.net")

    # The form edits what the API shows, secrets masked, and sends all of it back.
    shown = client.request("GET", f"/block_documents/{made}").json()["data"]
    assert SECRET not in json.dumps(shown)
    client.request(
        "PATCH",
        f"/block_documents/{made}",
        json={"data": {**shown, "container_name": "other"}, "merge_existing_data": False},
    )
    edited = AzureBlobDatastore.load(unique)
    assert edited.container_name == "other"
    assert edited.auth == auth


def test_a_local_block_of_the_form_loads(
    unique: str, client: SyncPrefectClient, tmp_path: Path
) -> None:
    LocalDatastore.register_type_and_schema()
    post_as_the_form(client, LocalDatastore, unique, {"root": str(tmp_path)})
    assert LocalDatastore.load(unique).root == str(tmp_path)


def test_prefects_cli_registers_the_kinds_and_shows_a_block_without_its_secret(
    unique: str,
) -> None:
    def cli(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "block", *arguments],
            env={**os.environ, "COLUMNS": "300"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    registered = cli("register", "-m", "prefect_datastores")
    assert all(kind.get_block_type_name() in registered for kind in KINDS)
    AzureBlobDatastore(
        account_name="account1",
        container_name="data",
        auth=AccountKey(account_key=SecretStr(SECRET)),
    ).save(unique)
    shown = cli("inspect", f"azure-blob-datastore/{unique}")
    assert "account1" in shown
    assert SECRET not in shown


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"protocol": "ftp"}, r"protocol='ftp' is refused: use 'https'"),
        ({"account_name": "Account"}, r"The account name 'Account' is refused"),
        ({"account_name": "a.blob.core.windows.net"}, r"the name alone, without"),
        ({"account_name": ""}, r"The account name '' is refused"),
        ({"container_name": "UPPER"}, r"The container name 'UPPER' is refused"),
        ({"container_name": "a--b"}, r"The container name 'a--b' is refused"),
        ({"container_name": "../x"}, r"The container name '../x' is refused"),
    ],
    ids=str,
)
def test_what_no_service_would_take_is_refused(wrong: dict[str, str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        AzureBlobDatastore(**{"account_name": "account1", "container_name": "data", **wrong})


@pytest.mark.parametrize(
    "place",
    [
        {"protocol": "http"},
        {"protocol": "http", "endpoint": "core.chinacloudapi.cn"},
        {"endpoint": "http://data.example.com"},
        {"protocol": "http", "endpoint": "8.8.8.8:10000"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "auth",
    # A connection string has an address of its own, to which another one is an error anyway.
    [auth for auth in VARIANTS if not isinstance(auth, Anonymous | ConnectionString)],
    ids=lambda auth: type(auth).__name__,
)
def test_no_credential_travels_in_clear(auth: AzureAuth, place: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"would travel to .* in clear: use protocol='https'"):
        AzureBlobDatastore(account_name="account1", container_name="data", auth=auth, **place)
    public = AzureBlobDatastore(
        account_name="account1", container_name="data", auth=Anonymous(), **place
    )
    assert public.url.startswith("http://")


@pytest.mark.parametrize(
    "endpoint",
    [
        f"https://account1.blob.core.windows.net/?sv=2024&sig={SECRET}",
        f"https://user:{SECRET}@data.example.com",
        "http://127.0.0.1:80@data.example.com",
    ],
)
def test_an_endpoint_with_more_than_an_address_is_refused_and_not_shown(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="give an address alone") as refused:
        AzureBlobDatastore(account_name="account1", container_name="data", endpoint=endpoint)
    assert SECRET[:12] not in str(refused.value)


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ({}, "https://account1.blob.core.windows.net/data"),
        ({"endpoint": "core.chinacloudapi.cn"}, "https://account1.blob.core.chinacloudapi.cn/data"),
        ({"endpoint": "https://data.example.com/"}, "https://data.example.com/data"),
        (
            {"protocol": "http", "endpoint": "127.0.0.1:10000"},
            "http://127.0.0.1:10000/account1/data",
        ),
        (
            {"protocol": "http", "endpoint": "localhost:10000"},
            "http://localhost:10000/account1/data",
        ),
        ({"protocol": "http", "endpoint": "azurite:10000"}, "http://azurite:10000/account1/data"),
        ({"protocol": "http", "endpoint": "10.0.0.7:80"}, "http://10.0.0.7:80/account1/data"),
        ({"protocol": "http", "endpoint": "[::1]:10000"}, "http://[::1]:10000/account1/data"),
    ],
    ids=str,
)
def test_clouds_custom_domains_and_emulators_have_their_addresses(
    place: dict[str, str], url: str
) -> None:
    made = AzureBlobDatastore(
        account_name="account1",
        container_name="data",
        auth=AccountKey(account_key=SecretStr(SECRET)),
        **place,
    )
    assert made.url == url


@pytest.mark.parametrize(
    ("endpoint", "urls"),
    [
        ("core.usgovcloudapi.net", "https://account1.{}.core.usgovcloudapi.net"),
        ("https://account1.blob.core.windows.net", "https://account1.{}.core.windows.net"),
        ("https://account1.z7.dfs.storage.azure.net/", "https://account1.z7.{}.storage.azure.net"),
        ("https://data.example.com", "https://data.example.com"),
        ("127.0.0.1:10000", "https://127.0.0.1:10000/account1"),
        ("https://127.0.0.1:10000/other", "https://127.0.0.1:10000/other"),
    ],
)
def test_the_services_of_an_account_have_an_address_each(endpoint: str, urls: str) -> None:
    made = AzureBlobDatastore(account_name="account1", container_name="data", endpoint=endpoint)
    services: list[Service] = ["blob", "file", "dfs"]
    for service in services:
        assert made.service_url(service) == urls.format(service)
    assert made.account_url == made.service_url("blob")


# -- drop-in for Prefect's storage blocks ---------------------------------------------------------


def test_sync_code_reads_and_writes_objects_and_folders(store: Any, tmp_path: Path) -> None:
    store.write_path("a/b/one.bin", b"one")
    store.write_path("a/b/one.bin", b"one, again")
    assert store.read_path("a/b/one.bin") == b"one, again"
    assert store.read_path("./a/b/one.bin") == b"one, again"
    assert store.exists("a/b/one.bin")
    assert not store.exists("a/b")
    assert not store.exists("a/b/two.bin")
    with pytest.raises(ObjectNotFound):
        store.read_path("a/b/two.bin")
    for outside in ("../x", "a/../../x"):
        with pytest.raises(UnsafeName):
            store.write_path(outside, b"")

    store.get_directory("a", str(tmp_path / "down"))
    assert (tmp_path / "down/b/one.bin").read_bytes() == b"one, again"
    (tmp_path / "down/b/new.bin").write_bytes(b"new")
    (tmp_path / "down/skip.log").write_bytes(b"")
    (tmp_path / "ignore").write_text("*.log\nignore\n")
    assert store.put_directory(str(tmp_path / "down"), "up", str(tmp_path / "ignore")) == 2
    assert [info.name for info in store.list_objects("up")] == ["up/b/new.bin", "up/b/one.bin"]


def test_objects_of_no_byte_and_of_many_parts_come_back_whole(store: Any) -> None:
    content = os.urandom(9 * 2**20 + 1)
    for name, data in (("empty", b""), ("large", content)):
        store.write_path(name, data)
        assert store.read_path(name) == data


def test_async_code_awaits_the_same_methods(store: Any, tmp_path: Path) -> None:
    async def work() -> bytes:
        await store.write_path("a/one.bin", b"one")
        await store.get_directory("a", str(tmp_path / "down"))
        assert await store.put_directory(str(tmp_path / "down"), "up") == 1
        assert store.read_path("a/one.bin", _sync=True) == b"one"
        assert await store.read_path.aio(store, "up/one.bin") == b"one"
        read: bytes = await store.read_path("up/one.bin")
        return read

    assert asyncio.run(work()) == b"one"


def test_the_defaults_are_the_root_and_the_working_directory(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/code.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path / "here")
    assert store.put_directory() == 1
    (tmp_path / "here/code.py").unlink()
    store.get_directory()
    assert (tmp_path / "here/code.py").read_text() == "x = 1\n"


def test_results_of_a_flow_are_kept_in_a_datastore(
    store: Any, unique: str, client: SyncPrefectClient
) -> None:
    store.save(unique)

    @flow(persist_result=True, result_storage=f"{store.get_block_type_slug()}/{unique}")
    def answer() -> dict[str, Any]:
        from prefect.runtime import flow_run

        return {"run": flow_run.id, "answer": 42}

    @flow(persist_result=True, result_storage=store)
    async def async_answer() -> dict[str, Any]:
        from prefect.runtime import flow_run

        return {"run": flow_run.id, "answer": 42}

    for result in (answer(), asyncio.run(async_answer())):
        # The server's state knows where the result is; its value comes from the datastore.
        state = client.read_flow_run(result["run"]).state
        assert state is not None
        assert state.result(_sync=True) == result  # type: ignore[call-overload]
        assert store.exists(state.data.storage_key)


def test_the_code_of_a_flow_comes_from_a_datastore(store: Any, unique: str, tmp_path: Path) -> None:
    store.write_path(
        "numbers_flow.py",
        b"from prefect import flow\n@flow\ndef double(x: int) -> int:\n    return 2 * x\n",
    )
    store.save(unique)
    loaded = flow.from_source(  # type: ignore[attr-defined]
        source=type(store).load(unique), entrypoint="numbers_flow.py:double"
    )
    assert loaded(x=21) == 42


def test_no_credential_travels_in_clear_however_http_is_spelled() -> None:
    for endpoint in ("HTTP://storage.example.com", "ftp://storage.example.com"):
        with pytest.raises(ValueError, match=r"in clear|use https"):
            AzureBlobDatastore(
                account_name="acme",
                container_name="data",
                endpoint=endpoint,
                auth=AccountKey(account_key=SecretStr("key")),
            )
