"""Shares: made, looked at, changed, copied as they are now, and deleted."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from xml.sax.saxutils import escape

from servers.azure_files import smb, times
from servers.azure_files.errors import Refused, unknown
from servers.azure_files.names import check_share
from servers.azure_files.operation import Call, Operation
from servers.azure_files.request import Answer, xml
from servers.azure_files.tree import Account, Directory, Share, files_below

_META = frozenset({"x-ms-meta-"})
_SNAPSHOT = frozenset({"sharesnapshot"})
_SECOND = 10_000_000
_MOST_POLICIES = 5
_LARGEST_QUOTA = 102_400


def create(call: Call) -> Answer:
    """Make a share."""
    request, account = call.request, call.account
    check_share(request.share)
    if request.share in account.shares:
        raise Refused("ShareAlreadyExists")
    now = call.now()
    root = Directory("", "Directory", now, now, now, now, "", {}, id=0)
    share = Share(request.share, root, now, request.metadata())
    root.permission = smb.of_new_root(share)
    if "x-ms-share-quota" in request.headers:
        share.quota = request.number("x-ms-share-quota", _LARGEST_QUOTA)
    account.shares[share.name] = share
    return Answer(201, _version_of(share))


def properties(call: Call) -> Answer:
    """Tell what is known of a share."""
    share = call.share()
    headers = {
        **_version_of(share),
        **_metadata_of(share),
        "x-ms-share-quota": str(share.quota),
        "x-ms-has-immutability-policy": "false",
        "x-ms-has-legal-hold": "false",
    }
    if call.request.since("2019-12-12"):
        headers["x-ms-access-tier"] = "TransactionOptimized"
    if call.request.since("2020-02-10"):
        headers |= {"x-ms-lease-state": "available", "x-ms-lease-status": "unlocked"}
        headers["x-ms-enabled-protocols"] = "SMB"
    return Answer(200, headers)


def delete(call: Call) -> Answer:
    """Remove a share, or one of its snapshots."""
    request, account = call.request, call.account
    share = account.share(request.share)
    snapshot = request.query.get("sharesnapshot", "")
    if snapshot:
        if snapshot not in share.snapshots:
            raise Refused("ShareNotFound")
        del share.snapshots[snapshot]
        return Answer(202)
    with_them = request.headers.get("x-ms-delete-snapshots", "")
    if with_them not in {"", "include"}:
        raise unknown(f"x-ms-delete-snapshots: {with_them}")
    if share.snapshots and not with_them:
        raise Refused("ShareHasSnapshots")
    del account.shares[share.name]
    return Answer(202)


def metadata(call: Call) -> Answer:
    """Tell the metadata of a share."""
    share = call.share()
    return Answer(200, {**_version_of(share), **_metadata_of(share)})


def set_metadata(call: Call) -> Answer:
    """Replace the metadata of a share."""
    share = call.changed_share()
    share.metadata, share.modified = call.request.metadata(), call.now()
    return Answer(200, _version_of(share))


def set_properties(call: Call) -> Answer:
    """Set the quota of a share."""
    share = call.changed_share()
    if "x-ms-share-quota" in call.request.headers:
        share.quota = call.request.number("x-ms-share-quota", _LARGEST_QUOTA)
    share.modified = call.now()
    return Answer(200, _version_of(share))


def stats(call: Call) -> Answer:
    """Tell how many bytes are stored."""
    used = sum(file.content.used for file in files_below(call.share().root))
    return xml(f"<ShareStats><ShareUsageBytes>{used}</ShareUsageBytes></ShareStats>")


def snapshot(call: Call) -> Answer:
    """Keep a share as it is now; two of one second get seconds of their own."""
    share = call.changed_share()
    ticks = -(-call.now() // _SECOND) * _SECOND
    while (moment := times.iso(ticks)) in share.snapshots:
        ticks += _SECOND
    share.snapshots[moment] = share.snapshot(call.request.metadata())
    return Answer(201, {**_version_of(share), "x-ms-snapshot": moment})


def policies(call: Call) -> Answer:
    """Tell the stored access policies."""
    share = call.share()
    told = "".join(
        f"<SignedIdentifier><Id>{escape(name)}</Id>{_policy(fields)}</SignedIdentifier>"
        for name, fields in share.policies.items()
    )
    body = f"<SignedIdentifiers>{told}</SignedIdentifiers>" if told else "<SignedIdentifiers />"
    answer = xml(body)
    answer.headers |= _version_of(share)
    return answer


def set_policies(call: Call) -> Answer:
    """Replace the stored access policies."""
    share = call.changed_share()
    found: dict[str, dict[str, str]] = {}
    if call.request.body:
        try:
            document = ET.fromstring(call.request.body)
        except ET.ParseError:
            raise Refused("InvalidXmlDocument") from None
        for element in document.iter("SignedIdentifier"):
            fields = {each.tag: each.text or "" for each in element.iterfind("AccessPolicy/*")}
            for moment in ("Start", "Expiry"):
                ticks = times.parse(fields.get(moment, ""))
                if ticks is not None:
                    fields[moment] = times.iso(ticks)
            found[element.findtext("Id", "")] = fields
    if len(found) > _MOST_POLICIES:
        raise Refused("InvalidXmlDocument")
    share.policies, share.modified = found, call.now()
    return Answer(200, _version_of(share))


def create_permission(call: Call) -> Answer:
    """Store a security descriptor."""
    share = call.changed_share()
    try:
        descriptor = json.loads(call.request.body)["permission"]
    except (ValueError, KeyError, TypeError):
        raise Refused("FileInvalidPermission") from None
    key = smb.keep_permission(share, descriptor)
    return Answer(201, {"x-ms-file-permission-key": key}, is_chunked=True)


def permission(call: Call) -> Answer:
    """Tell a stored security descriptor."""
    key = call.request.header("x-ms-file-permission-key")
    found = call.share().permissions.get(key)
    if found is None:
        raise Refused("FileInvalidPermissionKey")
    body = json.dumps({"permission": found}).encode()
    return Answer(200, body=body)


def policy_of(account: Account, share: str, name: str) -> dict[str, str]:
    """Return a stored access policy that a signature names."""
    found = account.shares.get(share)
    if found is None or name not in found.policies:
        raise Refused("AuthenticationFailed", f"There is no access policy {name}")
    return found.policies[name]


def _policy(fields: dict[str, str]) -> str:
    told = "".join(
        f"<{name}>{escape(fields[name])}</{name}>"
        for name in ("Start", "Expiry", "Permission")
        if fields.get(name)
    )
    return f"<AccessPolicy>{told}</AccessPolicy>" if told else ""


def _version_of(share: Share) -> dict[str, str]:
    return {"ETag": times.etag(share.modified), "Last-Modified": times.http_date(share.modified)}


def _metadata_of(share: Share) -> dict[str, str]:
    return {f"x-ms-meta-{name}": value for name, value in share.metadata.items()}


_QUOTA = frozenset({"x-ms-share-quota"})

CREATE = Operation(create, "share", "cw", _META | _QUOTA)
PROPERTIES = Operation(properties, "share", "r", query=_SNAPSHOT)
DELETE = Operation(delete, "share", "d", frozenset({"x-ms-delete-snapshots"}), _SNAPSHOT)
METADATA = Operation(metadata, "share", "r", query=_SNAPSHOT)
SET_METADATA = Operation(set_metadata, "share", "w", _META, _SNAPSHOT)
SET_PROPERTIES = Operation(set_properties, "share", "w", _QUOTA, _SNAPSHOT)
STATS = Operation(stats, "share", "r")
SNAPSHOT = Operation(snapshot, "share", "cw", _META)
POLICIES = Operation(policies, "share", "")
SET_POLICIES = Operation(set_policies, "share", "")
CREATE_PERMISSION = Operation(create_permission, "share", "", since="2019-02-02")
PERMISSION = Operation(
    permission, "share", "", frozenset({"x-ms-file-permission-key"}), since="2019-02-02"
)
