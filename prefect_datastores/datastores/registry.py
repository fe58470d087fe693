"""Finds and keeps datastores by name: as Prefect blocks, whatever their kind."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, NoReturn, Union

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import get_current_settings

from prefect_datastores.datastores.auth import AzureAuth
from prefect_datastores.datastores.azure_blob import AzureBlobDatastore
from prefect_datastores.datastores.azure_data_lake_gen2 import AzureDataLakeGen2Datastore
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
from prefect_datastores.datastores.registration import (
    as_configuration_error,
    check_grant,
    one_sign_in,
    principal_of,
    register,
)
from prefect_datastores.errors import (
    ConfigurationError,
    DatastoreExists,
)
from prefect_datastores.names import datastore_name
from prefect_datastores.references import DataReference

AnyDatastore = Union[
    AzureBlobDatastore, AzureDataLakeGen2Datastore, AzureFileDatastore, LocalDatastore
]
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
        check_grant(grant_workspace_access, subscription_id, resource_group)
        chosen = one_sign_in(auth, sas_token, account_key)
        cache = -1 if blob_cache_timeout is None else blob_cache_timeout
        with as_configuration_error():
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
        registered = register(
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
        chosen = one_sign_in(auth, sas_token, account_key)
        with as_configuration_error():
            datastore = AzureFileDatastore(
                account_name=account_name or account_of(chosen),
                file_share_name=file_share_name,
                auth=chosen,
                protocol=protocol or "https",
                endpoint=endpoint or "core.windows.net",
                allow_trailing_dots=allow_trailing_dots,
            )
        return register(
            datastore,
            datastore_name,
            overwrite=overwrite,
            create=create_if_not_exists,
            validate=not skip_validation,
        )

    @staticmethod
    def register_azure_data_lake_gen2(
        workspace: Any = None,
        datastore_name: str = "",
        filesystem: str = "",
        account_name: str = "",
        tenant_id: str | None = None,
        client_id: str | None = None,
        client_secret: str | None = None,
        resource_url: str | None = None,
        authority_url: str | None = None,
        protocol: str | None = None,
        endpoint: str | None = None,
        overwrite: bool = False,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        grant_workspace_access: bool = False,
        *,
        sas_token: str | None = None,
        account_key: str | None = None,
        auth: AzureAuth | None = None,
        dfs_endpoint: str | None = None,
        create_if_not_exists: bool = False,
        skip_validation: bool = False,
    ) -> AzureDataLakeGen2Datastore:
        """Register a filesystem of Data Lake Storage Gen2 under a name, once it is known to work.

        What is not named here is as `register_azure_blob_container` says.

        Args:
            workspace: taken for Azure ML's sake.
            datastore_name: letters, digits and `_`; case does not matter.
            filesystem: the filesystem, which the Blob endpoint calls a container.
            account_name: the storage account, without a domain; a connection string names it as well.
            tenant_id: the tenant of a service principal, which is all of three values or none.
            client_id: its application's id.
            client_secret: its secret.
            resource_url: what its token is for, "https://storage.azure.com/" when None.
            authority_url: where it signs in; the cloud of the endpoint tells when None.
            protocol: "https" when None.
            endpoint: the cloud's suffix, "core.windows.net" when None; a URL, or host:port of an emulator.
            overwrite: replace a datastore that has the name.
            subscription_id: the account's subscription.
            resource_group: the account's resource group.
            grant_workspace_access: give the identity that signs in the roles it needs.
            sas_token: signs in with a shared access signature.
            account_key: signs in with the account's key.
            auth: any other way to sign in; with none of them, the machine's own identity.
            dfs_endpoint: where folders are asked for, where that is not beside the Blob endpoint.
            create_if_not_exists: make the filesystem when it is missing.
            skip_validation: register without asking the service.

        Raises:
            DatastoreError: as `register_azure_blob_container` says, of a filesystem.
        """
        check_grant(grant_workspace_access, subscription_id, resource_group)
        principal = principal_of(tenant_id, client_id, client_secret, resource_url, authority_url)
        chosen = one_sign_in(auth, sas_token, account_key, principal)
        with as_configuration_error():
            datastore = AzureDataLakeGen2Datastore(
                account_name=account_name or account_of(chosen),
                container_name=filesystem,
                auth=chosen,
                protocol=protocol or "https",
                endpoint=endpoint or "core.windows.net",
                subscription_id=subscription_id or "",
                resource_group=resource_group or "",
                dfs_endpoint=dfs_endpoint or "",
            )
        registered = register(
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
    def register_azure_data_lake(*_: Any, **__: Any) -> NoReturn:
        """Refuse, whatever is given: the service is gone.

        Raises:
            ConfigurationError: Data Lake Storage Gen1 was retired; it names what takes its place.
        """
        raise ConfigurationError(
            "Azure Data Lake Storage Gen1 was retired on 29 February 2024, and what was in it cannot be reached any "
            "more. Its place is taken by Data Lake Storage Gen2: Datastore.register_azure_data_lake_gen2(...), with "
            "the filesystem and the storage account for the store's name."
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
        with as_configuration_error():  # pydantic's way says what is wrong with a `~`
            datastore = LocalDatastore(
                root=str(root) if str(root)[:1] == "~" else str(Path(root).absolute())
            )
        return register(
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


def resolve_elsewhere(reference: DataReference, who: str) -> FileDatastore:
    """Return the datastore that a reference names, as another process finds it; `who` is that one.

    Raises:
        ConfigurationError: it is not registered, so that it is of this process alone.
        DatastoreNotFound: nothing is registered under its name.
    """
    if reference._unregistered is not None:  # noqa: SLF001 - the block and its values are one thing
        raise ConfigurationError(
            f"The datastore of {reference.uri!r} is not registered, so {who} cannot find it: save it first, or run it "
            "in this process."
        )
    return resolve(reference)


def _asked_name(workspace: Any, name: str | None) -> str:
    if name is None and isinstance(workspace, str):
        name = workspace
    if not name:
        raise ConfigurationError("Give the datastore's name.")
    return datastore_name(name)


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
    with as_configuration_error(f"The block of datastore {name!r} is to be edited: "):
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
