"""An Azure file share as a datastore."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

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
from prefect_datastores.datastores.opened import share_filesystem
from prefect_datastores.forms import not_prefilled
from prefect_datastores.names import container_name
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.share import ShareStore

if TYPE_CHECKING:
    from prefect_datastores.filesystems import AzureFileShareFileSystem


class AzureFileDatastore(AzureAccountDatastore):
    """A share of Azure Files under a name, with the credential that opens it.

    Example:
        Stage data from a file share:
        ```python
        from prefect_datastores import AzureFileDatastore

        datastore = AzureFileDatastore.load("BLOCK_NAME")
        datastore.download("data", prefix="mnist")
        ```
    """

    _block_type_name = "Azure File Datastore"
    _block_type_slug = "azure-file-datastore"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/54e3fa7e00197a4fbd1d82ed62494cb58d08c96a-250x250.png"  # type: ignore[assignment]
    _documentation_url = "https://learn.microsoft.com/azure/machine-learning/v1/how-to-access-data"  # type: ignore[assignment]
    datastore_type: ClassVar[str] = "AzureFile"

    service: ClassVar[Service] = "file"

    account_name: Account
    file_share_name: str = Field(title="File share", description="The name of the file share.")
    auth: SignIn = NO_VALUE
    protocol: HttpProtocol = "https"
    endpoint: Endpoint = PUBLIC_CLOUD
    subscription_id: Subscription = ""
    resource_group: ResourceGroup = ""
    allow_trailing_dots: bool = Field(
        False,
        title="Trailing dots",
        description="Allow names that end in a dot, which the service strips unless it is told not to.",
        json_schema_extra=not_prefilled,
    )

    @field_validator("file_share_name")
    @classmethod
    def _share(cls, value: str) -> str:
        return container_name(value)

    @property
    def container_name(self) -> str:
        """The name of the share, as Azure ML calls it for every kind."""
        return self.file_share_name

    @property
    def url(self) -> str:
        """Where the share is."""
        return f"{self.account_url}/{self.file_share_name}"

    def store_maker(self) -> Callable[[], ObjectStore]:
        """Return what opens the share in another process."""
        return partial(
            ShareStore,
            self.account_url,
            self.file_share_name,
            allow_trailing_dots=self.allow_trailing_dots,
            **self._signs(),
        )

    def _connect(self) -> ObjectStore:
        return ShareStore(
            self.account_url,
            self.file_share_name,
            allow_trailing_dots=self.allow_trailing_dots,
            **self._signed_in(),
        )

    def filesystem(self, **options: Any) -> AzureFileShareFileSystem:
        """Return the file system of the account's shares; a path begins with the share."""
        given = {"allow_trailing_dots": self.allow_trailing_dots, **options}
        return share_filesystem(*self._opened_by(), **given)
