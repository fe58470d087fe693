"""Ways to sign in, as a plain union of models without common keys.

No discriminator, no `type` field, no nested credentials block, and no default in the form: it is
the one modelling that Prefect's form creates, saves and edits without losing a secret. The form
picks a tab by the number of keys in common, so every model has a key of its own. It shows the first
model where there is no value, so that is the one that is meant without a value. The tabs stand in
one row that does not wrap, so their titles are short.
"""

from __future__ import annotations

from typing import Union

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from prefect_datastores.errors import ConfigurationError
from prefect_datastores.forms import in_order, not_prefilled


def _meant(value: bool) -> bool:
    """Refuse a way to sign in that is chosen and crossed out at once."""
    if not value:
        raise ConfigurationError("This way to sign in was crossed out: choose another one instead.")
    return value


class _WayToSignIn(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, json_schema_extra=in_order)


class AccountKey(_WayToSignIn):
    """The account's key: all rights on all of the account."""

    model_config = ConfigDict(title="Account key")

    account_key: SecretStr = Field(
        min_length=1, title="Account key", description="One of the two keys of the storage account."
    )


class SasToken(_WayToSignIn):
    """A shared access signature: some rights, for some time."""

    model_config = ConfigDict(title="SAS token")

    sas_token: SecretStr = Field(
        min_length=1, title="SAS token", description="The token, with or without the leading '?'."
    )


class ServicePrincipal(_WayToSignIn):
    """An application's own identity, by its secret."""

    model_config = ConfigDict(title="Service principal")

    tenant_id: str = Field(
        title="Tenant id", description="The directory (tenant) of the application."
    )
    client_id: str = Field(title="Client id", description="The application (client) id.")
    client_secret: SecretStr = Field(
        title="Client secret", description="A secret of the application."
    )
    authority_url: str = Field(
        "",
        title="Authority",
        description="Where the application signs in; the cloud of the endpoint tells unless given.",
        json_schema_extra=not_prefilled,
    )
    resource_url: str = Field(
        "",
        title="Resource",
        description="What the token is for; https://storage.azure.com/ unless given, in all clouds.",
        json_schema_extra=not_prefilled,
    )


class Certificate(_WayToSignIn):
    """An application's own identity, by its certificate."""

    model_config = ConfigDict(title="Certificate")

    certificate_tenant_id: str = Field(
        title="Tenant id", description="The directory (tenant) of the application."
    )
    certificate_client_id: str = Field(
        title="Client id", description="The application (client) id."
    )
    certificate: SecretStr = Field(
        min_length=1,
        title="Certificate",
        description="With its private key, as PEM, as PFX in base64, or as the path of a file where flows run.",
    )
    certificate_password: SecretStr = Field(
        SecretStr(""),
        title="Password",
        description="The password of the private key, where it has one.",
        json_schema_extra=not_prefilled,
    )


class ConnectionString(_WayToSignIn):
    """Account, address and key (or SAS) in one text, as the portal shows it."""

    model_config = ConfigDict(title="Connection string")

    connection_string: SecretStr = Field(
        min_length=1,
        title="Connection string",
        description="As the portal shows it; where the account is comes from it as well.",
    )


class Identity(_WayToSignIn):
    """Whatever identity the machine has: workload, managed, or a person's az login."""

    model_config = ConfigDict(title="Identity")

    identity_client_id: str = Field(
        "",
        title="Identity client id",
        description="The client id of a user-assigned managed identity; empty for the machine's own.",
        json_schema_extra=not_prefilled,
    )


class Anonymous(_WayToSignIn):
    """No sign-in: containers with public read access."""

    model_config = ConfigDict(title="Anonymous")

    anonymous: bool = Field(
        True, title="Anonymous", description="Read a public container without signing in."
    )


class ManagedIdentity(_WayToSignIn):
    """The managed identity of the machine, and nothing else that may be there."""

    model_config = ConfigDict(title="Managed id")

    managed_identity: bool = Field(
        True, title="Managed identity", description="Sign in as the machine in Azure."
    )
    managed_identity_id: str = Field(
        "",
        title="User-assigned identity",
        description="Its client id, or its resource id (/subscriptions/...); empty for the system-assigned one.",
        json_schema_extra=not_prefilled,
    )

    _chosen = field_validator("managed_identity")(_meant)


class WorkloadIdentity(_WayToSignIn):
    """The identity of a Kubernetes pod (or a pipeline's job), by the token that it is given in a file."""

    model_config = ConfigDict(title="Workload id")

    workload_identity: bool = Field(
        True, title="Workload identity", description="Sign in as the pod or job."
    )
    workload_tenant_id: str = Field(
        "",
        title="Tenant id",
        description="AZURE_TENANT_ID unless given.",
        json_schema_extra=not_prefilled,
    )
    workload_client_id: str = Field(
        "",
        title="Client id",
        description="AZURE_CLIENT_ID unless given.",
        json_schema_extra=not_prefilled,
    )
    federated_token_file: str = Field(
        "",
        title="Token file",
        description="AZURE_FEDERATED_TOKEN_FILE unless given.",
        json_schema_extra=not_prefilled,
    )

    _chosen = field_validator("workload_identity")(_meant)


class AzureCli(_WayToSignIn):
    """Whoever is signed in by `az login` on the machine."""

    model_config = ConfigDict(title="Azure CLI")

    azure_cli: bool = Field(True, title="Azure CLI", description="Sign in as az login did.")
    cli_tenant_id: str = Field(
        "",
        title="Tenant id",
        description="The CLI's own tenant unless given.",
        json_schema_extra=not_prefilled,
    )

    _chosen = field_validator("azure_cli")(_meant)


AzureAuth = Union[
    Identity,
    AccountKey,
    SasToken,
    ServicePrincipal,
    Anonymous,
    ConnectionString,
    Certificate,
    ManagedIdentity,
    WorkloadIdentity,
    AzureCli,
]
