"""Data that Spark opens by itself: where it is, and the configuration that lets it in, without a secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from prefect_datastores.compute.check import check_way
from prefect_datastores.compute.matrix import find_compute
from prefect_datastores.datastores.auth import (
    AccountKey,
    AzureAuth,
    Identity,
    ManagedIdentity,
    ServicePrincipal,
    WorkloadIdentity,
)
from prefect_datastores.datastores.azure_account import AzureAccountDatastore, is_local
from prefect_datastores.datastores.azure_data_lake_gen2 import AzureDataLakeGen2Datastore
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.credentials import (
    account_of,
    authority_options,
    sas_token_of,
)
from prefect_datastores.datastores.registry import resolve
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.references import DataReference

Hadoop = Literal["spark", "databricks"]

_PREFIX = "spark.hadoop.fs.azure."
_PROVIDERS = "org.apache.hadoop.fs.azurebfs"
_LOGIN = "https://login.microsoftonline.com"
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_SCOPE_AND_KEY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Direct:
    """Where data is for Spark, and the keys of its configuration; no value of them is a secret."""

    uri: str
    """`abfss://container@account.dfs.core.windows.net/path`."""
    configuration: Mapping[str, str]
    """Keys and values for a cluster, or for `SparkSession.builder.config(key, value)`."""


def direct(
    place: DataReference | FileDatastore, *, compute: Hadoop = "spark", secret: str = ""
) -> Direct:
    """Return where a place is for Spark, and how it is let in; nobody is asked, nothing is opened.

    The keys are of Hadoop's ABFS driver, for this account alone
    (https://hadoop.apache.org/docs/stable/hadoop-azure/abfs.html). Where the datastore signs in by a
    secret, the configuration says where that is to be found, and the secret itself stays in the block.

    Args:
        place: a reference, or a datastore for all of it.
        compute: "spark", or "databricks".
        secret: where the secret is: for Spark the name of an environment variable of driver and
            executors, which Hadoop expands; for Databricks `scope/key` of a secret scope.

    Raises:
        WayUnavailable: the driver knows no datastores of that kind.
        ConfigurationError: the driver does not know that way to sign in, or `secret` is missing.
    """
    reference = place.path() if isinstance(place, FileDatastore) else place
    datastore = resolve(reference)
    check_way(find_compute(compute), datastore, "direct")
    assert isinstance(datastore, AzureAccountDatastore), "No other kind is let through."
    host = _host_of(datastore)
    uri = f"abfss://{datastore.container_name}@{host}/{reference.path_on_datastore}"
    known = _keys(datastore.auth, datastore.endpoint, compute, secret)
    return Direct(uri, {f"{_PREFIX}{key}.{host}": value for key, value in known.items()})


def _host_of(datastore: AzureAccountDatastore) -> str:
    url = (
        datastore.dfs_url
        if isinstance(datastore, AzureDataLakeGen2Datastore)
        else datastore.service_url("dfs")
    )
    split = urlsplit(url)
    if split.scheme != "https" or is_local(split.netloc) or split.path.strip("/"):
        raise ConfigurationError(
            f"Spark cannot open {datastore.name!r}: {url} is not the DFS endpoint of an account in Azure, by https."
        )
    return split.netloc


def _keys(auth: AzureAuth, endpoint: str, compute: Hadoop, secret: str) -> dict[str, str]:
    """Return the keys below `fs.azure.` for a way to sign in; each is said again for the account."""
    if sas_token_of(auth):
        return {
            "account.auth.type": "SAS",
            "sas.token.provider.type": f"{_PROVIDERS}.sas.FixedSASTokenProvider",
            "sas.fixed.token": _found_at(secret, compute, "the SAS token, without its '?'"),
        }
    if isinstance(auth, AccountKey) or account_of(auth):
        key = _found_at(secret, compute, "the account's key")
        return {"account.auth.type": "SharedKey", "account.key": key}
    if isinstance(auth, ServicePrincipal):
        login = authority_options(endpoint, auth.authority_url).get("authority", _LOGIN)
        login = login if "://" in login else f"https://{login}"
        return {
            **_by_token("ClientCredsTokenProvider"),
            "account.oauth2.client.id": auth.client_id,
            "account.oauth2.client.secret": _found_at(secret, compute, "the client secret"),
            "account.oauth2.client.endpoint": f"{login}/{auth.tenant_id}/oauth2/token",
        }
    if isinstance(auth, (Identity, ManagedIdentity, WorkloadIdentity)):
        if compute == "databricks":  # an external location of Unity Catalog lets it in, not a key
            return {}
        return _identity(auth)
    title = str(type(auth).model_config.get("title", "")).lower()
    raise ConfigurationError(
        f"Spark cannot sign in by {title}: register the datastore with a service principal and its secret, a managed "
        "identity, a SAS token or an account key."
    )


def _identity(auth: Identity | ManagedIdentity | WorkloadIdentity) -> dict[str, str]:
    if isinstance(
        auth, WorkloadIdentity
    ):  # since Hadoop 3.4.1; what a pod says is in its variables
        return {
            **_by_token("WorkloadIdentityTokenProvider"),
            "account.oauth2.msi.tenant": auth.workload_tenant_id or "${env.AZURE_TENANT_ID}",
            "account.oauth2.client.id": auth.workload_client_id or "${env.AZURE_CLIENT_ID}",
            "account.oauth2.token.file": auth.federated_token_file
            or "${env.AZURE_FEDERATED_TOKEN_FILE}",
        }
    client = auth.identity_client_id if isinstance(auth, Identity) else auth.managed_identity_id
    if client.startswith("/"):
        raise ConfigurationError(
            "Spark knows a user-assigned identity by its client id, not by its resource id: register the datastore "
            "with that."
        )
    named = {"account.oauth2.client.id": client} if client else {}
    return {**_by_token("MsiTokenProvider"), **named}


def _by_token(provider: str) -> dict[str, str]:
    return {
        "account.auth.type": "OAuth",
        "account.oauth.provider.type": f"{_PROVIDERS}.oauth2.{provider}",
    }


def _found_at(secret: str, compute: Hadoop, what: str) -> str:
    """Return what stands for a secret in the configuration.

    Raises:
        ConfigurationError: it is not said where the secret is.
    """
    if compute == "databricks":
        if not _SCOPE_AND_KEY.fullmatch(secret):
            raise ConfigurationError(
                f"Say where Databricks finds {what}: secret='scope/key', of a secret scope; the secret itself is "
                "never written into a configuration."
            )
        return f"{{{{secrets/{secret}}}}}"
    if not _VARIABLE.fullmatch(secret):
        raise ConfigurationError(
            f"Say where Spark finds {what}: secret='NAME' of an environment variable of driver and executors; the "
            "secret itself is never written into a configuration."
        )
    return f"${{env.{secret}}}"
