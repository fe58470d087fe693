"""Whether a storage account has a hierarchical namespace; asked in as many ways as it takes.

Each way needs another right, so that one that is refused is followed by the next.
"""

from __future__ import annotations

from collections.abc import Callable

from prefect_datastores.errors import AccessDenied, ConfigurationError, TransferError
from prefect_datastores.stores.azure import AzureService

_ACCOUNT = (("restype", "account"), ("comp", "properties"))
_FILESYSTEM = (("resource", "filesystem"),)
_ACCESS = (("action", "getAccessControl"),)


def is_hierarchical(blob: AzureService, dfs: AzureService, *, by_token: bool) -> bool:
    """Tell whether the account of a filesystem has directories of its own, by either of its endpoints.

    Raises:
        ContainerNotFound: the filesystem does not exist.
        AccessDenied: the credential may ask in none of the ways.
        DatastoreError: the service failed.
    """
    ways: list[Callable[[], str]] = [lambda: _of_filesystem(dfs), lambda: _of_access(dfs)]
    if not by_token:  # which needs a role that those who move data do not have
        ways.insert(0, lambda: _of_account(blob))
    refused: AccessDenied | None = None
    for way in ways:
        try:
            told = way()
        except AccessDenied as error:
            refused = refused or error
            continue
        except ConfigurationError:  # the DFS endpoint says so itself
            return False
        if told:
            return told == "true"
    raise refused or TransferError(
        f"{blob.url} does not tell whether its account has a hierarchical namespace; does a proxy drop headers?"
    )


def _of_account(blob: AzureService) -> str:
    headers = blob.request("HEAD", query=_ACCOUNT).headers
    return headers.get("x-ms-is-hns-enabled", "").lower()


def _of_filesystem(dfs: AzureService) -> str:
    headers = dfs.request("HEAD", query=_FILESYSTEM).headers
    return headers.get("x-ms-namespace-enabled", "").lower()


def _of_access(dfs: AzureService) -> str:
    """Ask for the root's access control list, which only a hierarchical namespace has."""
    headers = dfs.request("HEAD", query=_ACCESS).headers
    return "true" if "x-ms-acl" in headers else ""
