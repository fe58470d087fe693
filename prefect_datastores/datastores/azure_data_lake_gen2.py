"""A filesystem of Azure Data Lake Storage Gen2 as a datastore."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from pydantic import Field, field_validator

from prefect_datastores.datastores.azure_account import (
    NO_VALUE,
    PUBLIC_CLOUD,
    Account,
    AzureAccountDatastore,
    Endpoint,
    HttpProtocol,
    ResourceGroup,
    Service,
    SignIn,
    Subscription,
)
from prefect_datastores.forms import not_prefilled
from prefect_datastores.names import container_name
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.connection_string import Connection
from prefect_datastores.stores.data_lake import DataLakeStore


class AzureDataLakeGen2Datastore(AzureAccountDatastore):
    """A filesystem of Azure Data Lake Storage Gen2 under a name, with the credential that opens it.

    Example:
        Stage data from a data lake:
        ```python
        from prefect_datastores import AzureDataLakeGen2Datastore

        datastore = AzureDataLakeGen2Datastore.load("BLOCK_NAME")
        datastore.download("data", prefix="mnist")
        ```
    """

    _block_type_name = "Azure Data Lake Gen2 Datastore"
    _block_type_slug = "azure-data-lake-gen2-datastore"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/54e3fa7e00197a4fbd1d82ed62494cb58d08c96a-250x250.png"  # type: ignore[assignment]
    _documentation_url = "https://learn.microsoft.com/azure/machine-learning/v1/how-to-access-data"  # type: ignore[assignment]
    datastore_type: ClassVar[str] = "AzureDataLakeGen2"

    # Bytes and listings go by the Blob endpoint.
    service: ClassVar[Service] = "blob"

    account_name: Account
    container_name: str = Field(
        title="Filesystem", description="The name of the filesystem (its container)."
    )
    auth: SignIn = NO_VALUE
    protocol: HttpProtocol = "https"
    endpoint: Endpoint = PUBLIC_CLOUD
    subscription_id: Subscription = ""
    resource_group: ResourceGroup = ""
    dfs_endpoint: str = Field(
        "",
        title="DFS endpoint",
        description="Where folders are asked for; beside the Blob endpoint unless given, which a custom domain and an "
        "emulator (host:port) need.",
        json_schema_extra=not_prefilled,
    )

    @field_validator("container_name")
    @classmethod
    def _filesystem(cls, value: str) -> str:
        return container_name(value)

    @property
    def url(self) -> str:
        """Where the filesystem is."""
        return f"{self.account_url}/{self.container_name}"

    @property
    def dfs_url(self) -> str:
        """Where the account's folders are asked for."""
        return self.service_url("dfs", self.dfs_endpoint)

    def _take_addresses(self, said: Connection) -> None:
        super()._take_addresses(said)
        self.dfs_endpoint = self.dfs_endpoint or said.endpoints.get("dfs", "")

    def _addresses(self) -> tuple[str, ...]:
        return (self.account_url, self.dfs_url)

    def store_maker(self) -> Callable[[], ObjectStore]:
        """Return what opens the filesystem in another process."""
        return partial(
            DataLakeStore,
            self.account_url,
            self.container_name,
            dfs_url=self.dfs_url,
            **self._signs(),
        )

    def _connect(self) -> ObjectStore:
        return DataLakeStore(
            self.account_url, self.container_name, dfs_url=self.dfs_url, **self._signed_in()
        )
