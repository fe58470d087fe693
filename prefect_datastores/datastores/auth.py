"""Ways to sign in, as a plain union of models without common keys.

No discriminator, no `type` field, no nested credentials block, and no default in the form: it is
the one modelling that Prefect's form creates, saves and edits without losing a secret. The form
picks a tab by the number of keys in common, so every model has a key of its own. It shows the first
model where there is no value, so that is the one that is meant without a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from prefect_datastores.errors import ConfigurationError

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential


def not_prefilled(schema: dict[str, Any]) -> None:
    """Keep a field's default out of Prefect's form.

    The form that edits a block (3.8.8) writes every default of the schema over the block's own
    value, unless the page was just reloaded: saving it would reset the way to sign in.
    """
    schema.pop("default", None)


class AccountKey(BaseModel):
    """The account's key: all rights on all of the account."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, title="Account key")

    account_key: SecretStr = Field(
        min_length=1, title="Account key", description="One of the two keys of the storage account."
    )


class SasToken(BaseModel):
    """A shared access signature: some rights, for some time."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, title="SAS token")

    sas_token: SecretStr = Field(
        min_length=1, title="SAS token", description="The token, with or without the leading '?'."
    )


class ServicePrincipal(BaseModel):
    """An application's own identity, by its secret."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, title="Service principal")

    tenant_id: str = Field(
        title="Tenant id", description="The directory (tenant) of the application."
    )
    client_id: str = Field(title="Client id", description="The application (client) id.")
    client_secret: SecretStr = Field(
        title="Client secret", description="A secret of the application."
    )


class Identity(BaseModel):
    """Whatever identity the machine has: workload, managed, or a person's az login."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, title="Identity")

    identity_client_id: str = Field(
        "",
        title="Identity client id",
        description="The client id of a user-assigned managed identity; empty for the machine's own.",
        json_schema_extra=not_prefilled,
    )


class Anonymous(BaseModel):
    """No sign-in: containers with public read access."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, title="Anonymous")

    anonymous: bool = Field(
        True, title="Anonymous", description="Read a public container without signing in."
    )


AzureAuth = Union[Identity, AccountKey, SasToken, ServicePrincipal, Anonymous]


def store_arguments(auth: AzureAuth) -> dict[str, Any]:
    """Return the arguments with which a store signs in."""
    if isinstance(auth, AccountKey):
        return {"account_key": auth.account_key.get_secret_value()}
    if isinstance(auth, SasToken):
        return {"sas_token": auth.sas_token.get_secret_value()}
    if isinstance(auth, Anonymous):
        return {}
    return {"token": _token(auth)}


def _token(auth: Identity | ServicePrincipal) -> TokenCredential:
    from azure.identity import ClientSecretCredential, DefaultAzureCredential  # noqa: PLC0415 - 0.4 s

    from prefect_datastores.redaction import remember  # noqa: PLC0415

    if isinstance(auth, ServicePrincipal):
        secret = auth.client_secret.get_secret_value()
        remember(secret)
        try:
            return ClientSecretCredential(auth.tenant_id, auth.client_id, secret)
        except ValueError as error:
            raise ConfigurationError(f"The service principal cannot be used: {error}") from None
    chosen = (
        {"managed_identity_client_id": auth.identity_client_id} if auth.identity_client_id else {}
    )
    return DefaultAzureCredential(**chosen)
