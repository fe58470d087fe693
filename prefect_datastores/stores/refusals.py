"""Which part is wrong when Azure Storage refuses: the clock, the credential, a right, or the firewall."""

from __future__ import annotations

import email.utils
import time
from typing import NamedTuple

from prefect_datastores.errors import (
    AccessDenied,
    AuthenticationFailed,
    CredentialExpired,
    DatastoreError,
    FirewallDenied,
)
from prefect_datastores.stores.signing import NoSigner, Query, SasSigner, Signer, TokenSigner

_CLOCK_SECONDS = 10 * 60  # a request's time may differ by fifteen minutes from the service's
_NOT_ACCEPTED = {"AuthenticationFailed", "InvalidAuthenticationInfo"}
BLOB_ROLES, FILE_ROLES = "Storage Blob Data", "Storage File Data Privileged"
_READS = {"list", "read", "read access control"}
_READ_PERMISSIONS, _STORE_PERMISSIONS = "read permissions of files", "store permissions of files"
_OF_PERMISSIONS = {_READ_PERMISSIONS, _STORE_PERMISSIONS}
_SET_ACCESS = "set access control"  # p of a SAS, and o for another owner or group
_BY_QUERY = {
    ("GET", "filepermission"): _READ_PERMISSIONS,
    ("PUT", "filepermission"): _STORE_PERMISSIONS,
    ("HEAD", "getAccessControl"): "read access control",
    ("PATCH", "setAccessControl"): _SET_ACCESS,
}
_BY_CODE: dict[str, tuple[type[DatastoreError], str]] = {
    "AuthorizationSourceIPMismatch": (
        FirewallDenied,
        "the SAS token is for other addresses than this machine's (sip). Make one without, or run elsewhere.",
    ),
    "AuthorizationProtocolMismatch": (
        AccessDenied,
        "the SAS token is for https only (spr). Use protocol='https'.",
    ),
    "AuthorizationServiceMismatch": (
        AccessDenied,
        "the SAS token is for other services of the account (ss). Make one for this service.",
    ),
    "AuthorizationResourceTypeMismatch": (
        AccessDenied,
        "the SAS token is not for containers and their objects (srt). Make one with srt=co.",
    ),
    "KeyBasedAuthenticationNotPermitted": (
        AuthenticationFailed,
        "the account takes neither keys nor what is signed by one. Sign in by an identity.",
    ),
    "AccountIsDisabled": (AccessDenied, "the account is disabled."),
}


class Refusal(NamedTuple):
    """A 401 or 403 of the service: its code and message, the time that it has, and who it is."""

    code: str
    message: str
    date: str = ""
    server: str = ""


def right_of(method: str, query: Query) -> str:
    """Return what a request needs the right to do."""
    asked = dict(query)
    named = _BY_QUERY.get((method, asked.get("comp", asked.get("action", ""))))
    if named is not None:
        return named
    if method in {"GET", "HEAD"}:
        return "list" if asked.get("comp") == "list" else "read"
    if method == "DELETE":
        return "delete"
    return "create it" if asked.get("restype") and not asked.get("comp") else "write"


def refused(
    refusal: Refusal, answer: str, signer: Signer, right: str, roles: str = BLOB_ROLES
) -> DatastoreError:
    """Return the error that names what is wrong; `answer` says who answered what, `roles` give rights on the data."""
    code, message = refusal.code, refusal.message
    clock = _clock(refusal)
    if "Signature not valid in the specified time frame" in message:
        return CredentialExpired(
            f"{answer}: the SAS token is outside its time. {clock or 'Make a new one.'}"
        )
    # Azurite says AuthorizationFailure where the service says AuthenticationFailed. Its message would
    # tell them apart, but an answer to HEAD has none.
    of_emulator = code == "AuthorizationFailure" and refusal.server.startswith("Azurite")
    not_accepted = code in _NOT_ACCEPTED or of_emulator
    if not_accepted and not isinstance(signer, NoSigner):
        hint = "Check that it belongs to this account and is whole."
        return AuthenticationFailed(
            f"{answer}: the {signer.title} is not accepted. {clock or hint}"
        )
    if code in _BY_CODE:
        kind, says = _BY_CODE[code]
        return kind(f"{answer}: {says}")
    # What is kept from every SAS, or nearly so, is told by the same code as a firewall.
    is_of_permissions = right in _OF_PERMISSIONS and isinstance(signer, SasSigner)
    by_network = code == "AuthorizationFailure" or "IpAuthorization".lower() in code.lower()
    if by_network and not is_of_permissions:
        also = ", or the SAS token is not for this" if isinstance(signer, SasSigner) else ""
        return FirewallDenied(
            f"{answer}: the account's firewall (its network rules) does not let this machine in{also}. Have an owner "
            "of the account allow this machine's address or network, or run where it is allowed."
        )
    if isinstance(signer, NoSigner) or code == "NoAuthenticationInformation":
        return AuthenticationFailed(
            f"{answer}: it does not allow anonymous access; give a credential."
        )
    rank = "Reader" if right in _READS or right == _READ_PERMISSIONS else "Contributor"
    role = f"{roles} {'Owner' if right == _SET_ACCESS else rank}"
    asked = f" Have an owner grant the identity a role for the data, such as '{role}'."
    grant = asked if isinstance(signer, TokenSigner) else ""
    if is_of_permissions:
        grant = " Sign in by key or by an identity, or leave keep_properties out."
    return AccessDenied(f"{answer}: the {signer.title} lacks the right to {right}.{grant}")


def _clock(refusal: Refusal) -> str:
    """Say how wrong this machine's clock is, where it is: no signature is right by a wrong clock."""
    try:
        there = email.utils.parsedate_to_datetime(refusal.date).timestamp()
    except (TypeError, ValueError, OverflowError):
        return ""
    ahead = time.time() - there
    if abs(ahead) < _CLOCK_SECONDS:
        return ""
    side = "ahead of" if ahead > 0 else "behind"
    minutes = round(abs(ahead) / 60)
    return f"This machine's clock is {minutes} minutes {side} the service's: set it right."
