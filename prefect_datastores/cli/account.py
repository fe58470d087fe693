"""Options that open a place in a storage account: where it is, and each way to sign in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from pydantic import SecretStr

from prefect_datastores.cli.telling import Command
from prefect_datastores.datastores.auth import (
    Anonymous,
    AzureAuth,
    AzureCli,
    Certificate,
    ConnectionString,
    Identity,
    ManagedIdentity,
    ServicePrincipal,
    WorkloadIdentity,
)
from prefect_datastores.errors import ConfigurationError

_PREFIX = "PREFECT_DATASTORES_"
_OF_THE_MACHINE = ("identity", "managed-identity", "workload-identity", "azure-cli", "anonymous")


def _secret_option(name: str, text: str) -> Any:
    """Return an option that is better given by a variable, as other users can read arguments."""
    variable = _PREFIX + name.upper().replace("-", "_")
    return click.option(
        f"--{name}", envvar=variable, help=f"{text}; '-' asks for it. Better in {variable}."
    )


_PLACE = (
    click.option(
        "--account", help="The storage account, without a domain; a connection string names it."
    ),
    click.option("--endpoint", help="The cloud's suffix, a URL, or host:port of an emulator."),
    click.option(
        "--protocol", type=click.Choice(["https", "http"]), help="http for an emulator only."
    ),
)
_SIGN_IN = (
    _secret_option("account-key", "The account's key"),
    _secret_option("sas-token", "A shared access signature"),
    _secret_option("connection-string", "A connection string, as the portal shows it"),
    click.option(
        "--sign-in",
        type=click.Choice(_OF_THE_MACHINE),
        help="Without a secret: as whatever identity is found (the default), or as one of these.",
    ),
    click.option(
        "--tenant-id", help="The directory of a service principal, or of another identity."
    ),
    click.option(
        "--client-id", help="The application id of a service principal, or of an identity."
    ),
    _secret_option("client-secret", "The secret of a service principal"),
    click.option(
        "--certificate",
        metavar="FILE",
        help="The certificate of a service principal, PEM or PFX, where flows run.",
    ),
    _secret_option("certificate-password", "The password of its private key"),
)
_REGISTER = (
    click.option("--create", is_flag=True, help="Make the container when it is missing."),
    click.option("--overwrite", is_flag=True, help="Replace a datastore that has the name."),
    click.option("--skip-validation", is_flag=True, help="Register without asking the service."),
)
_GRANT = (
    click.option("--subscription-id", help="The subscription of the account."),
    click.option("--resource-group", help="The resource group of the account."),
    click.option(
        "--grant-access",
        is_flag=True,
        help="Give the identity that signs in the roles it needs, or print how.",
    ),
)


def account_options(command: Command) -> Command:
    """Add what opens a place in a storage account, and how it is registered."""
    return _with(command, (*_PLACE, *_SIGN_IN, *_REGISTER))


def grant_options(command: Command) -> Command:
    """Add what gives an identity its roles on the account."""
    return _with(command, _GRANT)


def _with(command: Command, options: Sequence[Any]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def account_arguments(
    account: str | None,
    account_key: str | None,
    sas_token: str | None,
    connection_string: str | None,
    sign_in: str | None,
    tenant_id: str | None,
    client_id: str | None,
    client_secret: str | None,
    certificate: str | None,
    certificate_password: str | None,
    create: bool,
    **same: Any,
) -> dict[str, Any]:
    """Return what the options of an account mean as arguments; a secret that is `-` is asked for.

    Raises:
        ConfigurationError: no account is named, or no one way to sign in.
    """
    connection = _secret("Connection string", connection_string)
    if not account and not connection:
        raise ConfigurationError("Name the storage account: --account, or --connection-string.")
    secret = _secret("Client secret", client_secret)
    password = _secret("Password of the certificate", certificate_password)
    ways = [
        _by_connection_string(connection),
        _by_secret(secret, tenant_id, client_id),
        _by_certificate(certificate, password, tenant_id, client_id),
        _by_machine(sign_in, tenant_id, client_id),
    ]
    given = [way for way in ways if way is not None]
    key, sas = _secret("Account key", account_key), _secret("SAS token", sas_token)
    if len(given) + bool(key) + bool(sas) > 1:
        raise ConfigurationError(
            "Two ways to sign in were given; give one. Options and the variables PREFECT_DATASTORES_* both count."
        )
    if not given and (tenant_id or client_id):
        raise ConfigurationError(
            "--tenant-id and --client-id say whose identity it is, not how it signs in: add --client-secret, "
            "--certificate or --sign-in."
        )
    if "grant_access" in same:
        same["grant_workspace_access"] = same.pop("grant_access")
    return {
        "account_name": account or "",
        "account_key": key,
        "sas_token": sas,
        "auth": given[0] if given else None,
        "create_if_not_exists": create,
        **same,
    }


def _by_connection_string(text: str | None) -> AzureAuth | None:
    return ConnectionString(connection_string=SecretStr(text)) if text else None


def _by_secret(secret: str | None, tenant: str | None, client: str | None) -> AzureAuth | None:
    if not secret:
        return None
    tenant, client = _both(tenant, client)
    return ServicePrincipal(tenant_id=tenant, client_id=client, client_secret=SecretStr(secret))


def _by_certificate(
    file: str | None, password: str | None, tenant: str | None, client: str | None
) -> AzureAuth | None:
    if not file:
        return None
    tenant, client = _both(tenant, client)
    return Certificate(
        certificate_tenant_id=tenant,
        certificate_client_id=client,
        certificate=SecretStr(file),
        certificate_password=SecretStr(password or ""),
    )


def _both(tenant: str | None, client: str | None) -> tuple[str, str]:
    if not tenant or not client:
        raise ConfigurationError("A service principal needs --tenant-id and --client-id as well.")
    return tenant, client


def _by_machine(sign_in: str | None, tenant: str | None, client: str | None) -> AzureAuth | None:
    """Return the way without a secret that was named.

    Raises:
        ConfigurationError: it takes no tenant, or no client id.
    """
    takes_tenant = sign_in in {"workload-identity", "azure-cli"}
    takes_client = sign_in in {"identity", "managed-identity", "workload-identity"}
    if sign_in and ((tenant and not takes_tenant) or (client and not takes_client)):
        option = "--client-id" if client and not takes_client else "--tenant-id"
        raise ConfigurationError(f"--sign-in {sign_in} takes no {option}; leave it out.")
    tenant, client = tenant or "", client or ""
    ways: dict[str, AzureAuth] = {
        "identity": Identity(identity_client_id=client),
        "managed-identity": ManagedIdentity(managed_identity=True, managed_identity_id=client),
        "workload-identity": WorkloadIdentity(
            workload_identity=True, workload_tenant_id=tenant, workload_client_id=client
        ),
        "azure-cli": AzureCli(azure_cli=True, cli_tenant_id=tenant),
        "anonymous": Anonymous(anonymous=True),
    }
    return ways[sign_in] if sign_in else None


def _secret(title: str, value: str | None) -> str | None:
    return str(click.prompt(title, hide_input=True, err=True)) if value == "-" else value
