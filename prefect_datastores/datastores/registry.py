"""Finds and keeps datastores by name: as Prefect blocks, whatever their kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, Union

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import get_current_settings
from pydantic import SecretStr, ValidationError

from prefect_datastores.datastores.auth import AccountKey, AzureAuth, Identity, SasToken
from prefect_datastores.datastores.azure_blob import AzureBlobDatastore
from prefect_datastores.datastores.azure_file import AzureFileDatastore
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.credentials import account_of
from prefect_datastores.datastores.documents import (
    DatastoreInfo,
    default_name,
    documents,
    info_of,
    kind_of,
    not_found,
    set_default,
)
from prefect_datastores.datastores.grants import grant_access
from prefect_datastores.datastores.local import LocalDatastore
from prefect_datastores.errors import (
    AccessDenied,
    ConfigurationError,
    ContainerNotFound,
    DatastoreExists,
)
from prefect_datastores.names import block_name, datastore_name
from prefect_datastores.references import DataReference

Registered = TypeVar("Registered", bound=FileDatastore)

AnyDatastore = Union[AzureBlobDatastore, AzureFileDatastore, LocalDatastore]
"""Any kind of datastore; as the type of a flow's parameter it gives a choice in Prefect's form."""

WORKSPACE_BLOB_STORE, WORKSPACE_FILE_STORE = "workspaceblobstore", "workspacefilestore"


class Datastore:
    """Datastores of any kind by name; all methods are static, as in Azure ML.

    Where Azure ML's methods take a workspace first, so do these; it may be left out, because the
    workspace is the Prefect server (or Cloud workspace) of the current profile.
    """

    def __new__(cls, workspace: Any = None, name: str | None = None) -> FileDatastore:  # type: ignore[misc]
        """Return the datastore of that name, or the default one."""
        named = name or isinstance(workspace, str)
        return cls.get(workspace, name) if named else cls.get_default(workspace)

    @staticmethod
    def register_azure_blob_container(
        workspace: Any = None,
        datastore_name: str = "",
        container_name: str = "",
        account_name: str = "",
        sas_token: str | None = None,
        account_key: str | None = None,
        protocol: str | None = None,
        endpoint: str | None = None,
        overwrite: bool = False,
        create_if_not_exists: bool = False,
        skip_validation: bool = False,
        blob_cache_timeout: int | None = None,
        grant_workspace_access: bool = False,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        *,
        auth: AzureAuth | None = None,
    ) -> AzureBlobDatastore:
        """Register a blob container under a name, once it is known to work.

        Args:
            workspace: taken for Azure ML's sake; the workspace is the Prefect profile's server.
            datastore_name: letters, digits and `_`; case does not matter.
            container_name: the blob container.
            account_name: the storage account, without a domain; a connection string names it as well.
            sas_token: signs in with a shared access signature.
            account_key: signs in with the account's key.
            protocol: "https" when None; "http" for an emulator only.
            endpoint: the cloud's suffix, "core.windows.net" when None; a URL, or host:port of an emulator.
            overwrite: replace a datastore that has the name.
            create_if_not_exists: make the container when it is missing.
            skip_validation: register without asking the service.
            blob_cache_timeout: seconds that a mount keeps a blob; None for as long as the run.
            grant_workspace_access: give the identity that signs in (the machine's, where that is by a key)
                the roles it needs, where the extra `azure-mgmt` is installed and the caller may; else
                print the commands for an owner. Needs `subscription_id` and `resource_group`.
            subscription_id: the account's subscription.
            resource_group: the account's resource group.
            auth: any other way to sign in; with none of the three, the machine's own identity.

        Raises:
            DatastoreExists: the name is taken and `overwrite` is not set.
            ConfigurationError: an argument is wrong, or two ways to sign in were given.
            AuthenticationFailed: the key, token or identity is wrong.
            EndpointUnreachable: the account does not exist.
            ContainerNotFound: the container does not exist and `create_if_not_exists` is not set.
        """
        if grant_workspace_access and not (subscription_id and resource_group):
            raise ConfigurationError(
                "grant_workspace_access needs subscription_id and resource_group."
            )
        chosen = _one_sign_in(auth, sas_token, account_key)
        cache = -1 if blob_cache_timeout is None else blob_cache_timeout
        with _as_configuration_error():
            datastore = AzureBlobDatastore(
                account_name=account_name or account_of(chosen),
                container_name=container_name,
                auth=chosen,
                protocol=protocol or "https",
                endpoint=endpoint or "core.windows.net",
                blob_cache_timeout=cache,
                subscription_id=subscription_id or "",
                resource_group=resource_group or "",
            )
        registered = _register(
            datastore,
            datastore_name,
            overwrite=overwrite,
            create=create_if_not_exists,
            validate=not skip_validation,
        )
        if grant_workspace_access:
            grant_access(datastore)
        return registered

    @staticmethod
    def register_azure_file_share(
        workspace: Any = None,
        datastore_name: str = "",
        file_share_name: str = "",
        account_name: str = "",
        sas_token: str | None = None,
        account_key: str | None = None,
        protocol: str | None = None,
        endpoint: str | None = None,
        overwrite: bool = False,
        create_if_not_exists: bool = False,
        skip_validation: bool = False,
        *,
        auth: AzureAuth | None = None,
        allow_trailing_dots: bool = False,
    ) -> AzureFileDatastore:
        """Register a share of Azure Files under a name, once it is known to work.

        The arguments are those of `register_azure_blob_container`. With `allow_trailing_dots` a name
        may end in a dot.

        Raises:
            DatastoreError: as `register_azure_blob_container` says, of a share.
        """
        chosen = _one_sign_in(auth, sas_token, account_key)
        with _as_configuration_error():
            datastore = AzureFileDatastore(
                account_name=account_name,
                file_share_name=file_share_name,
                auth=chosen,
                protocol=protocol or "https",
                endpoint=endpoint or "core.windows.net",
                allow_trailing_dots=allow_trailing_dots,
            )
        return _register(
            datastore,
            datastore_name,
            overwrite=overwrite,
            create=create_if_not_exists,
            validate=not skip_validation,
        )

    @staticmethod
    def register_local(
        datastore_name: str,
        root: str | Path,
        *,
        overwrite: bool = False,
        create_if_not_exists: bool = True,
        skip_validation: bool = False,
    ) -> LocalDatastore:
        """Register a folder of this machine under a name.

        Raises:
            DatastoreExists: the name is taken and `overwrite` is not set.
            ContainerNotFound: the folder does not exist and is not to be made.
            AccessError: the folder cannot be made or listed.
        """
        with _as_configuration_error():  # pydantic's way says what is wrong with a `~`
            datastore = LocalDatastore(
                root=str(root) if str(root)[:1] == "~" else str(Path(root).absolute())
            )
        return _register(
            datastore,
            datastore_name,
            overwrite=overwrite,
            create=create_if_not_exists,
            validate=not skip_validation,
        )

    @staticmethod
    def get(workspace: Any = None, datastore_name: str | None = None) -> FileDatastore:
        """Return a datastore by name: `get("raw")`, or `get(ws, "raw")` as in Azure ML.

        Raises:
            DatastoreNotFound: none is registered under the name.
        """
        name = _asked_name(workspace, datastore_name)
        with get_client(sync_client=True) as client:
            return _get(client, name)

    @staticmethod
    def list(workspace: Any = None) -> dict[str, DatastoreInfo]:
        """Return all registered datastores by name, without their secrets."""
        with get_client(sync_client=True) as client:
            for name in (WORKSPACE_BLOB_STORE, WORKSPACE_FILE_STORE):
                if not documents(client, name):
                    _make_workspace_store(name)
            default = _default_name(client)
            infos = [info_of(document, default) for document in documents(client)]
        return {info.name: info for info in sorted(infos, key=lambda info: info.name)}

    @staticmethod
    def get_default(workspace: Any = None) -> FileDatastore:
        """Return the workspace's default datastore: `workspaceblobstore` unless another was set."""
        with get_client(sync_client=True) as client:
            return _get(client, _default_name(client))

    @staticmethod
    def set_default(workspace: Any = None, datastore_name: str | None = None) -> None:
        """Make a registered datastore the workspace's default.

        Raises:
            DatastoreNotFound: none is registered under the name.
        """
        name = _asked_name(workspace, datastore_name)
        with get_client(sync_client=True) as client:
            _get(client, name)
            set_default(client, name)

    @staticmethod
    def unregister(workspace: Any = None, datastore_name: str | None = None) -> None:
        """Forget a datastore. Its data is not touched.

        Raises:
            DatastoreNotFound: none is registered under the name.
        """
        name = _asked_name(workspace, datastore_name)
        with get_client(sync_client=True) as client:
            found = documents(client, name)
            if not found:
                raise not_found(client, name)
            for document in found:
                client.delete_block_document(document.id)
            if _default_name(client) == name:
                set_default(client, WORKSPACE_BLOB_STORE)


def resolve(reference: DataReference) -> FileDatastore:
    """Return the datastore that a reference names.

    Raises:
        DatastoreNotFound: it is not registered.
    """
    unregistered = reference._unregistered  # noqa: SLF001 - the block and its values are one thing
    return unregistered if unregistered is not None else Datastore.get(reference.datastore)


def _asked_name(workspace: Any, name: str | None) -> str:
    if name is None and isinstance(workspace, str):
        name = workspace
    if not name:
        raise ConfigurationError("Give the datastore's name.")
    return datastore_name(name)


def _one_sign_in(
    auth: AzureAuth | None, sas_token: str | None, account_key: str | None
) -> AzureAuth:
    ways: list[AzureAuth] = [auth] if auth is not None else []
    ways += [SasToken(sas_token=SecretStr(sas_token))] if sas_token else []
    ways += [AccountKey(account_key=SecretStr(account_key))] if account_key else []
    if len(ways) > 1:
        raise ConfigurationError(
            "Two ways to sign in were given; give one of sas_token, account_key and auth."
        )
    return ways[0] if ways else Identity()


@contextmanager
def _as_configuration_error(what: str = "") -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        faults = "; ".join(map(_fault_text, error.errors()))
        raise ConfigurationError(f"{what}{faults}") from None


def _fault_text(fault: Mapping[str, Any]) -> str:
    text = str(fault.get("msg", "")).removeprefix("Value error, ")
    field = next(iter(fault.get("loc", ())), "")
    return f"{field}: {text}" if fault.get("type") == "missing" else text


def _register(
    datastore: Registered, name: str, *, overwrite: bool, create: bool, validate: bool
) -> Registered:
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
        f"A datastore {name!r} is registered already. Choose another name, or say overwrite=True."
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


def _get(client: SyncPrefectClient, name: str) -> FileDatastore:
    found = documents(client, name, secrets=True)
    if not found and name in {WORKSPACE_BLOB_STORE, WORKSPACE_FILE_STORE}:
        return _make_workspace_store(name)
    if not found:
        raise not_found(client, name)
    if len(found) > 1:
        kinds = ", ".join(
            sorted(document.block_type.name for document in found if document.block_type)
        )
        raise ConfigurationError(
            f"The name {name!r} stands for several blocks: {kinds}. Rename or delete all but one of them."
        )
    with _as_configuration_error(f"The block of datastore {name!r} is to be edited: "):
        loaded = kind_of(found[0])._from_block_document(found[0])  # noqa: SLF001 - as Block.load does
    if name in {WORKSPACE_BLOB_STORE, WORKSPACE_FILE_STORE} and isinstance(loaded, LocalDatastore):
        # Made by whichever machine asked first; the folder is made on any other as well.
        with contextlib.suppress(OSError):
            Path(loaded.root).mkdir(parents=True, exist_ok=True)
    return loaded


def _default_name(client: SyncPrefectClient) -> str:
    return default_name(client) or WORKSPACE_BLOB_STORE


def _make_workspace_store(name: str) -> FileDatastore:
    root = get_current_settings().home / "datastores" / name
    try:
        return Datastore.register_local(name, root)
    except DatastoreExists:  # somebody else asked for it at the same time
        return Datastore.get(name)
