"""File systems of fsspec, opened by the way that a block signs in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect_datastores.datastores.auth import Anonymous, AzureAuth
from prefect_datastores.datastores.credentials import BlockCredential, by_token, store_arguments
from prefect_datastores.errors import ConfigurationError

if TYPE_CHECKING:
    from prefect_datastores.filesystems import AzureFileShareFileSystem


def blob_filesystem(url: str, account: str, auth: AzureAuth, endpoint: str, **options: Any) -> Any:
    """Return adlfs, opened for an account's blobs.

    Raises:
        ConfigurationError: adlfs is not installed.
    """
    try:
        from prefect_datastores.filesystems.blobs import ConfiguredBlobFileSystem  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"The file system of blobs is adlfs, which is missing here ({error}): pip install "
            "'prefect-datastores[adlfs]'."
        ) from None
    signs = {"account_key": None, "sas_token": None, "token": None, **_signs(auth, endpoint)}
    return ConfiguredBlobFileSystem(
        account_name=account, account_url=url, skip_instance_cache=True, **signs, **options
    )


def share_filesystem(
    url: str, account: str, auth: AzureAuth, endpoint: str, **options: Any
) -> AzureFileShareFileSystem:
    """Return the file system of an account's shares."""
    from prefect_datastores.filesystems import AzureFileShareFileSystem  # noqa: PLC0415 - few ask for it

    if isinstance(auth, Anonymous):  # without any way it would take the machine's identity
        raise ConfigurationError(
            "Azure Files lets nobody in without signing in: choose another way."
        )
    signs = _signs(auth, endpoint)
    given = {
        "credential": signs.pop("token", None),
        "skip_instance_cache": True,
        **signs,
        **options,
    }
    return AzureFileShareFileSystem(account_name=account, account_url=url, **given)


def _signs(auth: AzureAuth, endpoint: str) -> dict[str, Any]:
    if by_token(auth):
        return {"token": BlockCredential(auth, endpoint)}
    return store_arguments(auth, endpoint)
