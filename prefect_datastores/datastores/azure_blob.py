"""A blob container as a datastore."""

from __future__ import annotations

import ipaddress
from typing import ClassVar

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from prefect_datastores.datastores.auth import (
    Anonymous,
    AzureAuth,
    Identity,
    not_prefilled,
    store_arguments,
)
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.names import account_name, container_name
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.blob import BlobStore

_LOOPBACK_NAMES = {"localhost", "host.docker.internal", "azurite"}


class AzureBlobDatastore(FileDatastore):
    """A container of Azure Blob Storage under a name, with the credential that opens it.

    Example:
        Stage data from a container:
        ```python
        from prefect_datastores import AzureBlobDatastore

        datastore = AzureBlobDatastore.load("BLOCK_NAME")
        datastore.download("data", prefix="mnist")
        ```
    """

    _block_type_name = "Azure Blob Datastore"
    _block_type_slug = "azure-blob-datastore"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/54e3fa7e00197a4fbd1d82ed62494cb58d08c96a-250x250.png"  # type: ignore[assignment]
    _documentation_url = "https://learn.microsoft.com/azure/machine-learning/v1/how-to-access-data"  # type: ignore[assignment]
    datastore_type: ClassVar[str] = "AzureBlob"

    account_name: str = Field(title="Account", description="The name of the storage account.")
    container_name: str = Field(title="Container", description="The name of the blob container.")
    auth: AzureAuth = Field(
        default=Identity(),
        title="Sign in with",
        description="How the container is opened; by the machine's own identity unless another way is filled in.",
        json_schema_extra=not_prefilled,
    )
    protocol: str = Field(
        "https",
        title="Protocol",
        description="https unless given; http is for an emulator.",
        json_schema_extra=not_prefilled,
    )
    endpoint: str = Field(
        "core.windows.net",
        title="Endpoint",
        description="core.windows.net unless given; another cloud's suffix (core.chinacloudapi.cn, ...), a whole URL "
        "of a custom domain, or host:port of an emulator.",
        json_schema_extra=not_prefilled,
    )
    blob_cache_timeout: int = Field(
        -1,
        title="Cache timeout",
        description="Seconds that a mount keeps a blob; as long as the run unless given.",
        json_schema_extra=not_prefilled,
    )
    subscription_id: str = Field(
        "",
        title="Subscription",
        description="The subscription of the account.",
        json_schema_extra=not_prefilled,
    )
    resource_group: str = Field(
        "",
        title="Resource group",
        description="The resource group of the account.",
        json_schema_extra=not_prefilled,
    )

    @field_validator("account_name")
    @classmethod
    def _account(cls, value: str) -> str:
        return account_name(value)

    @field_validator("container_name")
    @classmethod
    def _container(cls, value: str) -> str:
        return container_name(value)

    @field_validator("protocol")
    @classmethod
    def _protocol(cls, value: str) -> str:
        if value not in {"http", "https"}:
            raise ConfigurationError(
                f"protocol={value!r} is refused: use 'https', or 'http' for an emulator."
            )
        return value

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        if any(sign in value for sign in "?#@"):  # a SAS in it would be shown, and kept in clear
            raise ConfigurationError(
                "The endpoint is refused: give an address alone, without user, '?' or '#'; a SAS token has a "
                "field of its own."
            )
        scheme, found, rest = value.partition("://")
        if found and scheme.lower() not in {"http", "https"}:
            raise ConfigurationError(f"The endpoint {value!r} is refused: use https.")
        return f"{scheme.lower()}://{rest}" if found else value

    @model_validator(mode="after")
    def _no_credential_in_clear(self) -> Self:
        host = self.url.partition("://")[2].partition("/")[0]
        if (
            self.url.startswith("http://")
            and not isinstance(self.auth, Anonymous)
            and not _is_local(host)
        ):
            raise ConfigurationError(
                f"A credential would travel to {host} in clear: use protocol='https' (http is for emulators)."
            )
        return self

    @property
    def account_url(self) -> str:
        """Where the account's blob service is."""
        if "://" in self.endpoint:
            url = self.endpoint.rstrip("/")
            host, _, path = url.partition("://")[2].partition("/")
            # An emulator tells its accounts by the path, the service by the host.
            return f"{url}/{self.account_name}" if _is_local(host) and not path else url
        host = self.endpoint.strip("/")
        if ":" in host or _is_local(host):
            return f"{self.protocol}://{host}/{self.account_name}"
        return f"{self.protocol}://{self.account_name}.blob.{host}"

    @property
    def url(self) -> str:
        """Where the container is."""
        return f"{self.account_url}/{self.container_name}"

    @property
    def sign_in(self) -> str:
        """How the datastore signs in, in a word."""
        return str(type(self.auth).model_config.get("title", "")).lower()

    def _connect(self) -> ObjectStore:
        return BlobStore(
            self.account_url,
            self.container_name,
            account_name=self.account_name,
            **store_arguments(self.auth),
        )


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0].strip("[]") if ":" in host else host
    if name in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(name).is_private
    except ValueError:
        return False
