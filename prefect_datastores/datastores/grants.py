"""Grants an identity access to a storage account, or says with which commands its owner does.

The grant needs the extra `azure-mgmt`, and a caller who may assign roles; it is the same however often
it is made.
"""

from __future__ import annotations

import base64
import binascii
import json
import shlex
import uuid
from dataclasses import dataclass

from prefect.logging import get_logger

from prefect_datastores.datastores.auth import AzureAuth, Identity
from prefect_datastores.datastores.azure_account import AzureAccountDatastore
from prefect_datastores.datastores.credentials import by_token, token_credential
from prefect_datastores.errors import DatastoreError
from prefect_datastores.redaction import guard_loggers, scrub

_READER = ("Reader", "acdd72a7-3385-48ef-bd42-f606fba81ae7")
_BLOBS = ("Storage Blob Data Contributor", "ba92f5b4-2d11-453d-a403-e96b0029c9fe")
_FILES = ("Storage File Data Privileged Contributor", "69566ab7-960f-475b-8e7c-b3118f30c6bd")
_ROLES = {"blob": (_READER, _BLOBS), "dfs": (_READER, _BLOBS), "file": (_READER, _FILES)}
_STORAGE = "https://storage.azure.com/.default"
_MANAGEMENT = {
    "chinacloudapi.cn": "https://management.chinacloudapi.cn",
    "usgovcloudapi.net": "https://management.usgovcloudapi.net",
}
_PUBLIC_MANAGEMENT = "https://management.azure.com"


@dataclass(frozen=True)
class Principal:
    """Whom a token is of."""

    object_id: str
    kind: str


class _NotGranted(Exception):
    """Why the grant could not be made here."""


def grant_access(datastore: AzureAccountDatastore, *, management_url: str = "") -> bool:
    """Give the identity that uses a datastore the roles that it needs; tell whether that was done.

    Where it was not, the commands by which an owner of the account does it are in the log.
    """
    log = get_logger(__name__)
    principal: Principal | None = None
    try:
        principal = _principal_of(datastore)
        _assign(datastore, principal, management_url or _management_of(datastore.endpoint))
    except _NotGranted as reason:
        text = "\n".join(f"  {command}" for command in commands(datastore, principal))
        log.warning(
            "Access was not granted: %s. An owner of the storage account grants it with:\n%s",
            scrub(str(reason)),
            text,
        )
        return False
    log.info("Access to %s is granted to %s.", datastore.account_url, principal.object_id)
    return True


def commands(datastore: AzureAccountDatastore, principal: Principal | None) -> list[str]:
    """Return the commands by which an owner of the account grants the access."""
    who = (
        f"--assignee-object-id {principal.object_id} --assignee-principal-type {principal.kind}"
        if principal
        else "--assignee '<object id of the identity that runs flows>'"
    )
    return [
        f"az role assignment create {who} --role {shlex.quote(role)} --scope {shlex.quote(_scope(datastore))}"
        for role, _ in _ROLES[datastore.service]
    ]


def _scope(datastore: AzureAccountDatastore) -> str:
    return (
        f"/subscriptions/{datastore.subscription_id}/resourceGroups/{datastore.resource_group}"
        f"/providers/Microsoft.Storage/storageAccounts/{datastore.account_name}"
    )


def _principal_of(datastore: AzureAccountDatastore) -> Principal:
    """Return who signs in to the datastore; of one that is opened by a key, the machine's identity."""
    from azure.core.exceptions import AzureError  # noqa: PLC0415 - only to grant

    guard_loggers()
    auth: AzureAuth = datastore.auth if by_token(datastore.auth) else Identity()
    try:
        token = token_credential(auth, datastore.endpoint).get_token(_STORAGE).token
    except (AzureError, DatastoreError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _NotGranted(f"this machine has no identity ({lines[0].rstrip('.')})") from None
    claims = _claims(token)
    if not claims.get("oid"):
        raise _NotGranted("the token of the identity does not tell its object id")
    kind = "ServicePrincipal" if claims.get("idtyp") == "app" else "User"
    return Principal(claims["oid"], kind)


def _claims(token: str) -> dict[str, str]:
    """Read what a token says; whether it is true is the service's to judge, to whom it is given."""
    middle = [*token.split("."), "", ""][1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _assign(datastore: AzureAccountDatastore, principal: Principal, management_url: str) -> None:
    try:
        from azure.core.exceptions import AzureError, ResourceExistsError  # noqa: PLC0415
        from azure.mgmt.authorization import AuthorizationManagementClient  # noqa: PLC0415
    except ImportError:
        raise _NotGranted("the extra prefect-datastores[azure-mgmt] is not installed") from None
    subscription, scope = datastore.subscription_id, _scope(datastore)
    client = AuthorizationManagementClient(
        token_credential(Identity(), datastore.endpoint),
        subscription,
        base_url=management_url,
        credential_scopes=[f"{management_url}/.default"],
    )
    with client:
        for role, role_id in _ROLES[datastore.service]:
            # A name that follows from the rest: made again, it is the same assignment.
            name = uuid.uuid5(uuid.NAMESPACE_URL, f"{scope}|{role_id}|{principal.object_id}")
            definition = f"/subscriptions/{subscription}/providers/Microsoft.Authorization/roleDefinitions/{role_id}"
            wanted = {
                "properties": {
                    "roleDefinitionId": definition,
                    "principalId": principal.object_id,
                    "principalType": principal.kind,
                }
            }
            try:
                client.role_assignments.create(
                    scope.lstrip("/"), str(name), _as_json(wanted), content_type="application/json"
                )
            except ResourceExistsError:
                continue  # granted before, under another name
            except AzureError as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise _NotGranted(
                    f"the role {role!r} could not be assigned ({lines[0].rstrip('.')})"
                ) from None


def _as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def _management_of(endpoint: str) -> str:
    place = endpoint.rstrip("/").partition("://")[2] or endpoint.strip("/")
    found = [url for end, url in _MANAGEMENT.items() if place.endswith(end)]
    return found[0] if found else _PUBLIC_MANAGEMENT
