"""A datastore is registered: made of what was given, tried at its service, and kept under its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from prefect.client.orchestration import get_client
from pydantic import SecretStr, ValidationError

from prefect_datastores.datastores.auth import (
    AccountKey,
    AzureAuth,
    Identity,
    SasToken,
    ServicePrincipal,
)
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.documents import documents
from prefect_datastores.errors import (
    AccessDenied,
    ConfigurationError,
    ContainerNotFound,
    DatastoreExists,
)
from prefect_datastores.names import block_name, datastore_name

Registered = TypeVar("Registered", bound=FileDatastore)


def one_sign_in(
    auth: AzureAuth | None,
    sas_token: str | None,
    account_key: str | None,
    principal: ServicePrincipal | None = None,
) -> AzureAuth:
    """Return the one way to sign in that was given; the machine's own identity where none was.

    Raises:
        ConfigurationError: two were given.
    """
    ways: list[AzureAuth] = [way for way in (auth, principal) if way is not None]
    ways += [SasToken(sas_token=SecretStr(sas_token))] if sas_token else []
    ways += [AccountKey(account_key=SecretStr(account_key))] if account_key else []
    if len(ways) > 1:
        named = "sas_token, account_key and auth"
        more = " (tenant_id, client_id and client_secret are one as well)" if principal else ""
        raise ConfigurationError(f"Two ways to sign in were given; give one of {named}{more}.")
    return ways[0] if ways else Identity()


def principal_of(
    tenant_id: str | None,
    client_id: str | None,
    client_secret: str | None,
    resource_url: str | None,
    authority_url: str | None,
) -> ServicePrincipal | None:
    """Return the service principal that was given by its values; None where none was.

    Raises:
        ConfigurationError: one of the three that make it is missing.
    """
    values = {"tenant_id": tenant_id, "client_id": client_id, "client_secret": client_secret}
    missing = [name for name, value in values.items() if not value]
    if len(missing) == len(values):
        return None
    if missing:
        raise ConfigurationError(
            f"A service principal is all of tenant_id, client_id and client_secret: {', '.join(missing)} is missing."
        )
    return ServicePrincipal(
        tenant_id=tenant_id or "",
        client_id=client_id or "",
        client_secret=SecretStr(client_secret or ""),
        resource_url=resource_url or "",
        authority_url=authority_url or "",
    )


def check_grant(wanted: bool, subscription_id: str | None, resource_group: str | None) -> None:
    """Return unless access is to be granted to an account of which it is not said where it is.

    Raises:
        ConfigurationError: its subscription or resource group is missing.
    """
    if wanted and not (subscription_id and resource_group):
        raise ConfigurationError("grant_workspace_access needs subscription_id and resource_group.")


@contextmanager
def as_configuration_error(what: str = "") -> Iterator[None]:
    """Tell what pydantic refuses as an error of ours, without the values."""
    try:
        yield
    except ValidationError as error:
        faults = "; ".join(map(_fault_text, error.errors()))
        raise ConfigurationError(f"{what}{faults}") from None


def _fault_text(fault: Mapping[str, Any]) -> str:
    text = str(fault.get("msg", "")).removeprefix("Value error, ")
    field = next(iter(fault.get("loc", ())), "")
    return f"{field}: {text}" if fault.get("type") == "missing" else text


def register(
    datastore: Registered, name: str, *, overwrite: bool, create: bool, validate: bool
) -> Registered:
    """Keep a datastore under a name, once it is known to work.

    Raises:
        DatastoreExists: the name is taken and is not to be overwritten.
        DatastoreError: it does not work.
    """
    name = datastore_name(name)
    with get_client(sync_client=True) as client:
        others = documents(client, name)
        if others and not overwrite:
            raise _taken(name)
        if create or validate:
            _validate(datastore, create=create, validate=validate)
        save: Any = datastore.save  # Prefect's own dispatch takes `_sync`, its signature does not
        try:
            save(block_name(name), overwrite=overwrite, _sync=True)
        except ValueError:
            if overwrite or not documents(client, name):
                raise
            raise _taken(name) from None  # by somebody who came between
        # The name is the datastore's, whatever its kind: one of another kind gives way, or, where it
        # came between and may not be replaced, this one does.
        mine = datastore._block_document_id  # noqa: SLF001
        others = [document for document in documents(client, name) if document.id != mine]
        if others and not overwrite and mine is not None:
            client.delete_block_document(mine)
            raise _taken(name)
        for other in others:
            client.delete_block_document(other.id)
    return datastore


def _taken(name: str) -> DatastoreExists:
    return DatastoreExists(
        f"A datastore {name!r} is registered already. Choose another name, or say overwrite=True (--overwrite)."
    )


def _validate(datastore: FileDatastore, *, create: bool, validate: bool) -> None:
    datastore.check_credential()
    store = datastore._connect()  # noqa: SLF001
    try:
        if create:
            try:
                store.check_root()
            except ContainerNotFound:
                store.create_root()
            except AccessDenied:  # a SAS that may write but not list
                if validate:
                    raise
        elif validate:
            store.check_root()
    finally:
        store.close()
