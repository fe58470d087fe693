"""A blob container as a datastore."""

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
from prefect_datastores.stores.blob import BlobStore


class AzureBlobDatastore(AzureAccountDatastore):
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

    service: ClassVar[Service] = "blob"

    account_name: Account
    container_name: str = Field(title="Container", description="The name of the blob container.")
    auth: SignIn = NO_VALUE
    protocol: HttpProtocol = "https"
    endpoint: Endpoint = PUBLIC_CLOUD
    blob_cache_timeout: int = Field(
        -1,
        title="Cache timeout",
        description="Seconds that a mount keeps a blob; as long as the run unless given.",
        json_schema_extra=not_prefilled,
    )
    subscription_id: Subscription = ""
    resource_group: ResourceGroup = ""

    @field_validator("container_name")
    @classmethod
    def _container(cls, value: str) -> str:
        return container_name(value)

    @property
    def url(self) -> str:
        """Where the container is."""
        return f"{self.account_url}/{self.container_name}"

    def store_maker(self) -> Callable[[], ObjectStore]:
        """Return what opens the container in another process."""
        return partial(BlobStore, self.account_url, self.container_name, **self._signs())

    def _connect(self) -> ObjectStore:
        return BlobStore(self.account_url, self.container_name, **self._signed_in())
