"""The properties that Windows knows of files and directories: attributes, moments, permission."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from servers.azure_files import times
from servers.azure_files.errors import Refused, unknown
from servers.azure_files.request import Request
from servers.azure_files.tree import Directory, Node, Share

HEADERS = frozenset(
    {
        "x-ms-file-attributes",
        "x-ms-file-creation-time",
        "x-ms-file-last-write-time",
        "x-ms-file-change-time",
        "x-ms-file-permission",
        "x-ms-file-permission-key",
    }
)
"""The headers that set them."""

_ATTRIBUTES = (
    "ReadOnly", "Hidden", "System", "Directory", "Archive", "Temporary", "Offline",
    "NotContentIndexed", "NoScrubData",
)  # fmt: skip
_NAMED = {name.lower(): name for name in _ATTRIBUTES}
_INHERITED = {True: "O:SYG:SYD:(A;OICIID;FA;;;SY)", False: "O:SYG:SYD:(A;ID;FA;;;SY)"}
_LONGEST_IN_HEADER, _LONGEST = 8 * 1024, 64 * 1024
# The header's own words: "it must have owner, group and dacl".
_DESCRIPTOR = re.compile(r"O:[^:]+G:[^:]+D:[\x20-\x7e]*")
_FIRST_MANDATORY, _FIRST_OPTIONAL = "2019-02-02", "2021-06-08"


@dataclass(frozen=True)
class Properties:
    """What a request has them be."""

    attributes: str
    created: int
    written: int
    changed: int
    modified: int
    permission: str


def of_new(request: Request, share: Share, now: int, *, is_directory: bool) -> Properties:
    """Return the properties of what a request creates."""
    _check_mandatory(request)
    created = _moment(request, "x-ms-file-creation-time", now, now)
    return Properties(
        _attributes(request, "", is_directory=is_directory),
        created,
        _moment(request, "x-ms-file-last-write-time", now, now),
        _moment(request, "x-ms-file-change-time", now, created),
        created,  # so two files that are given one moment of creation have one ETag
        _permission(request, share, "", is_directory=is_directory),
    )


def of_changed(request: Request, share: Share, node: Node, now: int) -> Properties:
    """Return the properties of what a request changes."""
    is_directory = isinstance(node, Directory)
    return Properties(
        _attributes(request, node.attributes, is_directory=is_directory),
        _moment(request, "x-ms-file-creation-time", now, node.created, node.created),
        _moment(request, "x-ms-file-last-write-time", now, node.written, node.written),
        _moment(request, "x-ms-file-change-time", now, now, node.changed),
        now,
        _permission(request, share, node.permission, is_directory=is_directory),
    )


def change(request: Request, share: Share, node: Node, now: int) -> None:
    """Set the properties that a request gives."""
    _check_mandatory(request)
    apply(node, of_changed(request, share, node, now))


def apply(node: Node, properties: Properties) -> None:
    """Set properties."""
    node.attributes, node.permission = properties.attributes, properties.permission
    node.created, node.written = properties.created, properties.written
    node.changed, node.modified = properties.changed, properties.modified


def headers_of(request: Request, node: Node) -> dict[str, str]:
    """Return the headers that tell them; versions before 2019-02-02 do not."""
    if not request.since(_FIRST_MANDATORY):
        return {}
    return {
        "x-ms-file-attributes": node.attributes,
        "x-ms-file-change-time": times.iso(node.changed),
        "x-ms-file-creation-time": times.iso(node.created),
        "x-ms-file-id": str(node.id),
        "x-ms-file-last-write-time": times.iso(node.written),
        "x-ms-file-parent-id": str(node.parent_id),
        "x-ms-file-permission-key": node.permission,
    }


def keep_permission(share: Share, descriptor: str) -> str:
    """Store a security descriptor in the share, and return its key."""
    if not _DESCRIPTOR.fullmatch(descriptor) or len(descriptor) > _LONGEST:
        raise Refused("FileInvalidPermission")
    digest = hashlib.sha256(descriptor.encode()).digest()
    first, second = (int.from_bytes(digest[at : at + 8], "big") for at in (0, 8))
    key = f"{first}*{second}"
    share.permissions[key] = descriptor
    return key


def _check_mandatory(request: Request) -> None:
    if not _FIRST_MANDATORY <= request.version < _FIRST_OPTIONAL:
        return
    for name in ("attributes", "creation-time", "last-write-time"):
        request.header(f"x-ms-file-{name}")
    if "x-ms-file-permission-key" not in request.headers:
        request.header("x-ms-file-permission")


def _attributes(request: Request, before: str, *, is_directory: bool) -> str:
    given = request.headers.get("x-ms-file-attributes", "preserve" if before else "none")
    if given.lower() == "preserve" and before:
        return before
    named = {part.strip().lower() for part in given.split("|")}
    if named != {"none"} and not named <= set(_NAMED):
        raise Refused("InvalidHeaderValue", "x-ms-file-attributes")
    if is_directory:
        named.add("directory")
    elif "directory" in named:
        raise Refused("InvalidHeaderValue", "x-ms-file-attributes")
    elif not before:
        named.add("archive")
    return " | ".join(name for name in _ATTRIBUTES if name.lower() in named) or "None"


def _moment(request: Request, name: str, now: int, default: int, before: int | None = None) -> int:
    given = request.headers.get(name, "")
    if not given:
        return default
    if given.lower() == "now":
        return now
    if given.lower() == "preserve" and before is not None:
        return before
    return times.of_header(name, given)


def _permission(request: Request, share: Share, before: str, *, is_directory: bool) -> str:
    key = request.headers.get("x-ms-file-permission-key", "")
    given = request.headers.get("x-ms-file-permission", "")
    if key and given:
        raise unknown("x-ms-file-permission beside x-ms-file-permission-key")
    if key:
        if key not in share.permissions:
            raise Refused("FileInvalidPermissionKey")
        return key
    if not given or given.lower() == "preserve":
        given = "preserve" if before else "inherit"
    if given == "preserve":
        return before
    if given.lower() == "inherit":
        return keep_permission(share, _INHERITED[is_directory])
    if len(given) > _LONGEST_IN_HEADER:
        raise Refused("FileInvalidPermission")
    return keep_permission(share, given)


def of_new_root(share: Share) -> str:
    """Return the permission of a share's root."""
    return keep_permission(share, _INHERITED[True])
