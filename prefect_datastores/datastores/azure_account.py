"""What datastores in a storage account share: the account, its address, and how it is signed in to.

A kind names its fields one by one, by the types here: their order is part of a block's schema, and
inherited fields would all stand before its own.
"""

from __future__ import annotations

import ipaddress
import time
from abc import ABC
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from prefect_datastores.datastores.auth import (
    Anonymous,
    AzureAuth,
    ConnectionString,
    Identity,
)
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.credentials import (
    portable_arguments,
    sas_token_of,
    store_arguments,
)
from prefect_datastores.datastores.opened import blob_filesystem
from prefect_datastores.display import run_log
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.forms import not_prefilled
from prefect_datastores.names import account_name, join, normal_path
from prefect_datastores.stores.connection_string import Connection, read_connection_string
from prefect_datastores.stores.sas import Need, read_sas, said

Service = Literal["blob", "file", "dfs"]

PUBLIC_CLOUD = "core.windows.net"
NO_VALUE = Identity()
"""The way to sign in of a block that names none."""

Account = Annotated[str, Field(title="Account", description="The name of the storage account.")]
SignIn = Annotated[
    AzureAuth,
    Field(
        title="Sign in with",
        description="How it is opened; by the machine's own identity unless another way is filled in.",
        json_schema_extra=not_prefilled,
    ),
]
HttpProtocol = Annotated[
    str,
    Field(
        title="Protocol",
        description="https unless given; http is for an emulator.",
        json_schema_extra=not_prefilled,
    ),
]
Endpoint = Annotated[
    str,
    Field(
        title="Endpoint",
        description="core.windows.net unless given; another cloud's suffix (core.chinacloudapi.cn, ...), a whole URL "
        "of a custom domain, or host:port of an emulator.",
        json_schema_extra=not_prefilled,
    ),
]
Subscription = Annotated[
    str,
    Field(
        title="Subscription",
        description="The subscription of the account.",
        json_schema_extra=not_prefilled,
    ),
]
ResourceGroup = Annotated[
    str,
    Field(
        title="Resource group",
        description="The resource group of the account.",
        json_schema_extra=not_prefilled,
    ),
]

_SERVICES = ("blob", "file", "dfs")
_SOON = 15 * 60.0  # seconds; a stage may well take as long
_LOOPBACK_NAMES = {"localhost", "host.docker.internal", "azurite"}


class AzureAccountDatastore(FileDatastore, ABC):
    """A place in a storage account; its address is checked, and no credential travels in clear."""

    # ABC among the bases keeps this class, too, out of Prefect's catalog of blocks.

    service: ClassVar[Service]

    if TYPE_CHECKING:  # each kind has them, in an order of its own
        account_name: str
        auth: AzureAuth
        protocol: str
        endpoint: str
        subscription_id: str
        resource_group: str

        @property
        def container_name(self) -> str:
            """The name of the place in the account, as Azure ML calls it for every kind."""

    @field_validator("account_name", check_fields=False)
    @classmethod
    def _account(cls, value: str) -> str:
        return account_name(value)

    @field_validator("protocol", check_fields=False)
    @classmethod
    def _protocol(cls, value: str) -> str:
        if value not in {"http", "https"}:
            raise ConfigurationError(
                f"protocol={value!r} is refused: use 'https', or 'http' for an emulator."
            )
        return value

    @field_validator("endpoint", "dfs_endpoint", check_fields=False)
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
    def _as_the_connection_string_says(self) -> Self:
        """Take the address from the connection string, unless another one was given: then say so."""
        text = (
            self.auth.connection_string.get_secret_value()
            if isinstance(self.auth, ConnectionString)
            else ""
        )
        if not text.strip("*"):  # none, or masked by Prefect in a list
            return self
        said = read_connection_string(text)
        if said.account != self.account_name:
            raise ConfigurationError(
                f"The connection string is of the account {said.account!r}, and the datastore of "
                f"{self.account_name!r}: one of the two is wrong."
            )
        self._take_addresses(said)
        return self

    def _take_addresses(self, said: Connection) -> None:
        """Take what a connection string of this account says of where it is.

        Raises:
            ConfigurationError: another place was given.
        """
        endpoint = said.endpoint(self.service)
        there = _url_of(self.service, said.account, said.protocol, endpoint)
        if self.endpoint == PUBLIC_CLOUD:
            self.endpoint, self.protocol = endpoint, said.protocol
        elif there != self.account_url:
            raise ConfigurationError(
                f"The connection string is for {there}, and the endpoint of the datastore is {self.account_url}: "
                "leave the endpoint out, or mend one of the two."
            )

    @model_validator(mode="after")
    def _no_credential_in_clear(self) -> Self:
        for url in self._addresses():
            host = url.partition("://")[2].partition("/")[0]
            if (
                url.startswith("http://")
                and not isinstance(self.auth, Anonymous)
                and not is_local(host)
            ):
                raise ConfigurationError(
                    f"A credential would travel to {host} in clear: use protocol='https' (http is for emulators)."
                )
        return self

    def _addresses(self) -> tuple[str, ...]:
        """Return every address that the credential is sent to."""
        return (self.account_url,)

    @property
    def account_url(self) -> str:
        """Where the account's own service of this kind is."""
        return self.service_url(self.service)

    def service_url(self, service: Service, endpoint: str = "") -> str:
        """Where one of the account's services is; at the datastore's endpoint unless it has its own."""
        return _url_of(service, self.account_name, self.protocol, endpoint or self.endpoint)

    @property
    def sign_in(self) -> str:
        """How the datastore signs in, in a word."""
        return str(type(self.auth).model_config.get("title", "")).lower()

    def check_credential(self, need: Need = "", *, seconds: float = 0.0) -> None:
        """Read the SAS, where that is how the account is opened."""
        if not (token := sas_token_of(self.auth)):
            return
        access, (protocol, _, _) = read_sas(token), self.account_url.partition("://")
        if fault := access.fault(need, self.service, protocol):
            raise fault
        if access.ends is not None and access.ends < time.time() + max(seconds, _SOON):
            run_log().warning(
                "The SAS token of %s ends at %s: what takes longer fails. Make one that lasts.",
                self.url,
                said(access.ends),
            )

    @property
    def credential_says(self) -> str:
        """What a SAS allows, and until when."""
        token = sas_token_of(self.auth)
        return f"SAS token: {read_sas(token)}" if token else ""

    def filesystem(self, **options: Any) -> Any:
        """Return adlfs, opened for the account's blobs; a path begins with the container."""
        return blob_filesystem(*self._opened_by(), **options)

    def filesystem_path(self, path: str | None = None) -> str:
        """Return a path that begins with the container."""
        return join(self.container_name, normal_path(path))

    def _opened_by(self) -> tuple[str, str, AzureAuth, str]:
        """Return what a file system of the account is opened by."""
        return self.account_url, self.account_name, self.auth, self.endpoint

    def _signs(self) -> dict[str, Any]:
        """Return the same for another process."""
        return {"account_name": self.account_name, **portable_arguments(self.auth, self.endpoint)}

    def _signed_in(self) -> dict[str, Any]:
        """Return the arguments by which a store of this account signs in."""
        return {"account_name": self.account_name, **store_arguments(self.auth, self.endpoint)}


def _url_of(service: Service, account: str, protocol: str, endpoint: str) -> str:
    if "://" in endpoint:
        url = endpoint.rstrip("/")
        host, _, path = url.partition("://")[2].partition("/")
        if is_local(host):
            # An emulator tells its accounts by the path, the service by the host.
            return url if path else f"{url}/{account}"
        return _of_service(url, service)
    host = endpoint.strip("/")
    if ":" in host or is_local(host):
        return f"{protocol}://{host}/{account}"
    return f"{protocol}://{account}.{service}.{host}"


def is_local(host: str) -> bool:
    """Tell whether a host is this machine or one beside it, where emulators are."""
    name = host.rpartition(":")[0].strip("[]") if ":" in host else host
    if name in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(name).is_private
    except ValueError:
        return False


def _of_service(url: str, service: Service) -> str:
    """Return the URL of another service beside one that is named in a URL; a custom domain stays."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    for other in _SERVICES:
        host = host.replace(f".{other}.", f".{service}.", 1)
    return f"{scheme}://{host}{slash}{path}"
