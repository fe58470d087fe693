"""Makes of a way to sign in what a store takes: a key, a signature, or what gets tokens."""

from __future__ import annotations

import base64
import binascii
import os
import re
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from prefect_datastores.datastores.auth import (
    AccountKey,
    Anonymous,
    AzureAuth,
    AzureCli,
    Certificate,
    ConnectionString,
    Identity,
    ManagedIdentity,
    SasToken,
    ServicePrincipal,
    WorkloadIdentity,
)
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.redaction import remember
from prefect_datastores.stores.connection_string import read_connection_string

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential

_AUTHORITIES = {  # of the sovereign clouds, by what their endpoints end in
    "chinacloudapi.cn": "login.chinacloudapi.cn",
    "usgovcloudapi.net": "login.microsoftonline.us",
}
# Only these are vouched for by Microsoft's directory; to ask it about another one fails.
_VOUCHED_FOR = {
    "login.microsoftonline.com",
    "login.microsoft.com",
    "login.windows.net",
    "login.chinacloudapi.cn",
    "login.partner.microsoftonline.cn",
    "login.microsoftonline.us",
    "login.usgovcloudapi.net",
}
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)


def store_arguments(auth: AzureAuth, endpoint: str = "") -> dict[str, Any]:
    """Return the arguments with which a store signs in; the endpoint tells the cloud.

    Raises:
        ConfigurationError: the way to sign in cannot be used as it is.
    """
    if isinstance(auth, AccountKey):
        return {"account_key": auth.account_key.get_secret_value()}
    if sas := sas_token_of(auth):
        return {"sas_token": sas}
    if isinstance(auth, ConnectionString):
        said = read_connection_string(auth.connection_string.get_secret_value())
        return {"account_key": said.account_key}
    return {} if isinstance(auth, Anonymous) else {"token": token_credential(auth, endpoint)}


def sas_token_of(auth: AzureAuth) -> str:
    """Return the shared access signature that opens the account, "" where something else does."""
    if isinstance(auth, SasToken):
        return auth.sas_token.get_secret_value()
    if isinstance(auth, ConnectionString):
        return read_connection_string(auth.connection_string.get_secret_value()).sas_token
    return ""


def account_of(auth: AzureAuth) -> str:
    """Return the account that a connection string names, "" where something else opens it.

    Raises:
        ConfigurationError: the connection string is none.
    """
    if isinstance(auth, ConnectionString):
        return read_connection_string(auth.connection_string.get_secret_value()).account
    return ""


def by_token(auth: AzureAuth) -> bool:
    """Tell whether that way to sign in is an identity's, by a token."""
    return type(auth) in _MAKERS


class BlockCredential:
    """Gets tokens by the way to sign in of a block; another process that it is sent to makes its own."""

    def __init__(self, auth: AzureAuth, endpoint: str) -> None:
        """Ask nobody yet; the endpoint tells the cloud."""
        self._auth, self._endpoint = auth, endpoint
        self._begin()

    def _begin(self) -> None:
        self._making = threading.Lock()
        self._made: TokenCredential | None = None

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """Return a token.

        Raises:
            ConfigurationError: the way to sign in cannot be used as it is.
        """
        return self._credential().get_token(*scopes, **options)

    def _credential(self) -> TokenCredential:
        with self._making:
            if self._made is None:
                self._made = token_credential(self._auth, self._endpoint)
            return self._made

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process makes it of; a secret is in it, as in the file system's own state."""
        return {"auth": self._auth, "endpoint": self._endpoint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin anew."""
        self._auth, self._endpoint = state["auth"], state["endpoint"]
        self._begin()


def token_credential(auth: AzureAuth, endpoint: str = "") -> TokenCredential:
    """Return what gets tokens; nobody is asked for one yet.

    Raises:
        ConfigurationError: something is missing, or cannot be what it is given for.
    """
    make = _MAKERS[type(auth)]
    explicit = auth.authority_url if isinstance(auth, ServicePrincipal) else ""
    try:
        return make(auth, authority_options(endpoint, explicit))
    except (ValueError, TypeError) as error:  # TypeError: a password that is missing, or too much
        reason = str(error).strip().rstrip(".")
        title = str(type(auth).model_config.get("title", "")).lower()
        raise ConfigurationError(f"The sign-in by {title} cannot be used: {reason}.") from None


def authority_options(endpoint: str, authority_url: str = "") -> dict[str, Any]:
    """Return where tokens are asked for: as given, else by the cloud, else AZURE_AUTHORITY_HOST."""
    host = authority_url.rstrip("/")
    if host:
        split = urlsplit(host if "://" in host else f"https://{host}")
        host = f"{split.scheme}://{split.netloc}"  # a tenant behind it is named on its own
    else:
        place = (urlsplit(endpoint).hostname or "") if "://" in endpoint else endpoint.strip("/")
        found = [cloud for end, cloud in _AUTHORITIES.items() if place.endswith(end)]
        host = found[0] if found else ""
    asked = host or os.environ.get("AZURE_AUTHORITY_HOST", "")
    name = (urlsplit(asked).netloc if "://" in asked else asked).strip("/").lower()
    options: dict[str, Any] = {"authority": host} if host else {}
    if name and name not in _VOUCHED_FOR:
        options["disable_instance_discovery"] = True
    return options


class _ForResource:
    """Gets tokens for another resource than the one that a service of storage asks for."""

    def __init__(self, credential: TokenCredential, resource_url: str) -> None:
        self._credential, self._scope = credential, f"{resource_url.rstrip('/')}/.default"

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return self._credential.get_token(self._scope, **options)


def _service_principal(auth: ServicePrincipal, options: dict[str, Any]) -> TokenCredential:
    from azure.identity import ClientSecretCredential  # noqa: PLC0415 - 0.4 s

    secret = auth.client_secret.get_secret_value()
    remember(secret)
    made = ClientSecretCredential(auth.tenant_id, auth.client_id, secret, **options)
    return _ForResource(made, auth.resource_url) if auth.resource_url else made


def _certificate(auth: Certificate, options: dict[str, Any]) -> TokenCredential:
    from azure.identity import CertificateCredential  # noqa: PLC0415

    password = auth.certificate_password.get_secret_value()
    remember(password)
    return CertificateCredential(
        auth.certificate_tenant_id,
        auth.certificate_client_id,
        certificate_data=_certificate_bytes(auth.certificate.get_secret_value()),
        password=password or None,
        **options,
    )


def _certificate_bytes(text: str) -> bytes:
    """Return the content of a certificate that is given as PEM, as PFX in base64, or by its path."""
    if "-----BEGIN" in text:
        remember(text)
        return _PEM.sub(_in_lines, text).encode()
    path = Path(text.strip())
    try:
        return path.expanduser().read_bytes()
    except (
        OSError,
        RuntimeError,
        ValueError,
    ):  # no path that could be one: what is read is the text
        remember(text)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        # What it is instead is not shown: it may be most of a key.
        raise ConfigurationError(
            "it is neither PEM, nor PFX in base64, nor the path of a file on this machine"
        ) from None


def _in_lines(section: re.Match[str]) -> str:
    """Give a section of PEM its lines back, which a form's field of one line takes away."""
    name, body = section[1], section[2].strip()
    if "\n" in body:
        return section[0]
    lines = "\n".join(textwrap.wrap("".join(body.split()), 64))
    return f"-----BEGIN {name}-----\n{lines}\n-----END {name}-----\n"


def _default(auth: Identity, options: dict[str, Any]) -> TokenCredential:
    from azure.identity import DefaultAzureCredential  # noqa: PLC0415

    if auth.identity_client_id:
        options = {**options, "managed_identity_client_id": auth.identity_client_id}
    return DefaultAzureCredential(**options)


def _managed_identity(auth: ManagedIdentity, _options: dict[str, Any]) -> TokenCredential:
    from azure.identity import ManagedIdentityCredential  # noqa: PLC0415

    named = auth.managed_identity_id
    if named.startswith("/"):
        return ManagedIdentityCredential(identity_config={"resource_id": named})
    return ManagedIdentityCredential(client_id=named or None)


def _workload_identity(auth: WorkloadIdentity, options: dict[str, Any]) -> TokenCredential:
    from azure.identity import WorkloadIdentityCredential  # noqa: PLC0415

    return WorkloadIdentityCredential(
        tenant_id=auth.workload_tenant_id or None,
        client_id=auth.workload_client_id or None,
        token_file_path=auth.federated_token_file or None,
        **options,
    )


def _azure_cli(auth: AzureCli, _options: dict[str, Any]) -> TokenCredential:
    from azure.identity import AzureCliCredential  # noqa: PLC0415

    return AzureCliCredential(tenant_id=auth.cli_tenant_id)


_MAKERS: dict[type, Callable[..., TokenCredential]] = {
    ServicePrincipal: _service_principal,
    Certificate: _certificate,
    Identity: _default,
    ManagedIdentity: _managed_identity,
    WorkloadIdentity: _workload_identity,
    AzureCli: _azure_cli,
}
