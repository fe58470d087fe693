"""Data lakes as datastores: registered as in Azure ML, signed in to in each way, moved to and from."""

import inspect
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from pydantic import SecretStr
from servers.prefect_server import PrefectServer

from prefect_datastores import (
    AccountKey,
    Anonymous,
    AzureDataLakeGen2Datastore,
    ConnectionString,
    Datastore,
    Identity,
    ServicePrincipal,
)
from prefect_datastores.errors import (
    ConfigurationError,
    DatastoreNotFound,
)


@pytest.fixture
def name(prefect_api: PrefectServer) -> Iterator[str]:
    made = f"dl_{uuid.uuid4().hex[:12]}"
    yield made
    with suppress(DatastoreNotFound):
        Datastore.unregister(made)


def lake_of(**given: Any) -> AzureDataLakeGen2Datastore:
    return AzureDataLakeGen2Datastore(
        **{"account_name": "account1", "container_name": "data", **given}
    )


def test_the_signature_is_that_of_the_original() -> None:
    given = list(inspect.signature(Datastore.register_azure_data_lake_gen2).parameters.values())
    positional = [one.name for one in given if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert positional == [
        *("workspace", "datastore_name", "filesystem", "account_name"),
        *("tenant_id", "client_id", "client_secret", "resource_url", "authority_url"),
        *("protocol", "endpoint", "overwrite"),
        *("subscription_id", "resource_group", "grant_workspace_access"),
    ]


def test_a_service_principal_is_all_of_its_values_or_none(name: str) -> None:
    def register(**given: Any) -> AzureDataLakeGen2Datastore:
        return Datastore.register_azure_data_lake_gen2(
            None, name, "data", "account1", overwrite=True, skip_validation=True, **given
        )

    values = {"tenant_id": "t", "client_id": "c", "client_secret": "s"}
    for missing in values:
        with pytest.raises(ConfigurationError, match=f": {missing} is missing"):
            register(**{key: value for key, value in values.items() if key != missing})
    more = {"resource_url": "https://storage.azure.com/", "authority_url": "https://login.test"}
    made = register(**values, **more)
    assert isinstance(made.auth, ServicePrincipal)
    assert (made.auth.tenant_id, made.auth.client_id) == ("t", "c")
    assert made.auth.client_secret.get_secret_value() == "s"
    assert {key: getattr(made.auth, key) for key in more} == more
    assert isinstance(register().auth, Identity)
    for other in ({"account_key": "a2V5"}, {"sas_token": "sv=1&sig=x"}, {"auth": Anonymous()}):
        with pytest.raises(ConfigurationError, match="Two ways"):
            register(**values, **other)
    with pytest.raises(ConfigurationError, match="needs subscription_id"):
        register(grant_workspace_access=True)


@pytest.mark.parametrize(
    ("given", "blob", "dfs"),
    [
        ({}, "https://account1.blob.core.windows.net", "https://account1.dfs.core.windows.net"),
        (
            {"endpoint": "core.chinacloudapi.cn"},
            "https://account1.blob.core.chinacloudapi.cn",
            "https://account1.dfs.core.chinacloudapi.cn",
        ),
        (
            {"endpoint": "https://account1.dfs.core.windows.net"},
            "https://account1.blob.core.windows.net",
            "https://account1.dfs.core.windows.net",
        ),
        (
            {"endpoint": "https://data.acme.test", "dfs_endpoint": "https://lake.acme.test/"},
            "https://data.acme.test",
            "https://lake.acme.test",
        ),
        (
            {"endpoint": "127.0.0.1:1", "dfs_endpoint": "127.0.0.1:2", "protocol": "http"},
            "http://127.0.0.1:1/account1",
            "http://127.0.0.1:2/account1",
        ),
    ],
)
def test_both_endpoints_are_known(given: dict[str, str], blob: str, dfs: str) -> None:
    made = lake_of(**given)
    assert (made.url, made.dfs_url) == (f"{blob}/data", dfs)


def test_a_connection_string_tells_both_endpoints() -> None:
    text = "AccountName=account1;AccountKey=a2V5;BlobEndpoint=https://b.test;DfsEndpoint=https://d.test"
    made = lake_of(auth=ConnectionString(connection_string=SecretStr(text)))
    assert (made.account_url, made.dfs_url) == ("https://b.test", "https://d.test")
    clear = text.replace("https://d.test", "http://d.test")
    with pytest.raises(ValueError, match="in clear"):
        lake_of(auth=ConnectionString(connection_string=SecretStr(clear)))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"container_name": "Upper"}, "is refused"),
        ({"container_name": "two--dashes"}, "is refused"),
        ({"dfs_endpoint": "https://lake.acme.test?sig=x"}, "endpoint is refused"),
        ({"dfs_endpoint": "http://lake.acme.test"}, "in clear"),
        ({"protocol": "abfss"}, "is refused"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        lake_of(auth=AccountKey(account_key=SecretStr("a2V5")), **given)


@pytest.mark.parametrize(
    ("positional", "named"),
    [
        ((), {}),
        (("ws", "old", "store", "tenant", "client", "secret-of-somebody"), {"overwrite": True}),
        ((), {"datastore_name": "old", "store_name": "store", "grant_workspace_access": False}),
    ],
)
def test_data_lake_gen1_is_gone(positional: tuple[str, ...], named: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as e:
        Datastore.register_azure_data_lake(*positional, **named)
    assert "retired on 29 February 2024" in str(e.value)
    assert "register_azure_data_lake_gen2" in str(e.value)
    assert "secret-of-somebody" not in str(e.value)
