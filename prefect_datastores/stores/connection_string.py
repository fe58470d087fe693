"""Reads the connection string of a storage account; what is wrong with one is said without showing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from prefect_datastores.errors import ConfigurationError

_ENDPOINTS = {"blob": "blobendpoint", "file": "fileendpoint", "dfs": "dfsendpoint"}
_EMULATOR_ACCOUNT = "devstoreaccount1"
# Microsoft publishes it; it is the same in every emulator.
_EMULATOR_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_EMULATOR_PORT = 10000


@dataclass(frozen=True)
class Connection:
    """What a connection string says."""

    account: str
    protocol: str
    suffix: str
    endpoints: Mapping[str, str]
    """The URLs of services that it names."""
    account_key: str = field(repr=False, default="")
    sas_token: str = field(repr=False, default="")

    def endpoint(self, service: str) -> str:
        """Return a datastore's endpoint for a service: the URL that is named, else the cloud's suffix.

        A URL of another service tells the domain at least.
        """
        return self.endpoints.get(service) or next(iter(self.endpoints.values()), self.suffix)


def read_connection_string(text: str) -> Connection:
    """Return what a connection string says.

    Raises:
        ConfigurationError: it is none, or lacks the account or what opens it.
    """
    fields = _fields(text)
    if fields.get("usedevelopmentstorage", "").lower() == "true":
        host = fields.get("developmentstorageproxyuri", "http://127.0.0.1").rstrip("/")
        url = f"{host}:{_EMULATOR_PORT}/{_EMULATOR_ACCOUNT}"
        return Connection(_EMULATOR_ACCOUNT, "http", "", {"blob": url}, account_key=_EMULATOR_KEY)
    endpoints = {
        service: fields[key].rstrip("/") for service, key in _ENDPOINTS.items() if fields.get(key)
    }
    for url in endpoints.values():
        if urlsplit(url).scheme not in {"http", "https"} or any(sign in url for sign in "?#@"):
            raise _refused("an endpoint in it is no address alone (https://...)")
    account = fields.get("accountname") or next(map(_account_of, endpoints.values()), "")
    key, sas = fields.get("accountkey", ""), fields.get("sharedaccesssignature", "")
    if not account:
        raise _refused("it has no AccountName")
    if not key and not sas:
        raise _refused("it has neither AccountKey nor SharedAccessSignature")
    return Connection(
        account,
        fields.get("defaultendpointsprotocol", "https").lower(),
        fields.get("endpointsuffix") or "core.windows.net",
        endpoints,
        account_key=key,
        sas_token="" if key else sas,
    )


def _fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.strip().split(";"))):
        key, found, value = part.partition("=")  # a key and a signature hold '=' themselves
        if not found:
            raise _refused("a part of it is no Name=Value; was it cut off?")
        fields[key.strip().lower()] = value.strip()
    return fields


def _account_of(url: str) -> str:
    split = urlsplit(url)
    return split.path.strip("/") or (split.hostname or "").partition(".")[0]


def _refused(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The connection string is refused: {why}. Copy it from the portal again."
    )
