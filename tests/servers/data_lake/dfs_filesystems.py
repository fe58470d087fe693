"""Filesystems at the DFS endpoint: made, told, deleted, and the paths in them listed as JSON."""

import base64
import binascii
import json
import re
from typing import Any

from servers.data_lake.blob_listing import marker_of, name_of, page_of
from servers.data_lake.calls import Answer, Call, http_date
from servers.data_lake.names import check_container, path_of
from servers.data_lake.namespace import Directory, Entry, File, file_time
from servers.data_lake.operations import Asked, version_of
from servers.data_lake.refusals import Refusal

_MOST = 5000
_PROPERTY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
JSON = {"Content-Type": "application/json;charset=utf-8"}


def properties_of(call: Call) -> dict[str, str] | None:
    """Read `x-ms-properties`: names with values in base64; None where nothing is given."""
    text = call.header("x-ms-properties")
    if not text:
        return None
    found = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = pair.partition("=")
        if not _PROPERTY.fullmatch(name):
            raise Refusal("InvalidPropertyName", name)
        try:
            found[name] = base64.b64decode(value, validate=True).decode("latin-1")
        except (binascii.Error, ValueError):
            raise Refusal("InvalidHeaderValue", "x-ms-properties") from None
    return found


def told_properties(metadata: dict[str, str]) -> dict[str, str]:
    """Return the header that tells metadata."""
    pairs = [
        f"{name}={base64.b64encode(value.encode('latin-1')).decode()}"
        for name, value in metadata.items()
    ]
    return {"x-ms-properties": ",".join(pairs)} if pairs else {}


def _told_kind(asked: Asked) -> dict[str, str]:
    return {"x-ms-namespace-enabled": "true" if asked.account.hierarchical else "false"}


def create_filesystem(asked: Asked) -> Answer:
    """Filesystem - Create."""
    name = asked.call.filesystem
    check_container(name)
    if name in asked.account.filesystems:
        raise Refusal("FilesystemAlreadyExists")
    made = asked.account.make_filesystem(name, properties_of(asked.call) or {})
    return Answer(201, {**version_of(made), **_told_kind(asked)})


def get_filesystem_properties(asked: Asked) -> Answer:
    """Filesystem - Get Properties: also what tells a hierarchical namespace from a flat one."""
    held = asked.filesystem
    return Answer(200, {**version_of(held), **_told_kind(asked), **told_properties(held.metadata)})


def delete_filesystem(asked: Asked) -> Answer:
    """Filesystem - Delete; unlike the service's, its name is free at once."""
    del asked.account.filesystems[asked.call.filesystem]
    return Answer(202)


def list_filesystems(asked: Asked) -> Answer:
    """Filesystem - List."""
    call, held = asked.call, asked.account.filesystems
    prefix, continuation = call.query.get("prefix", ""), call.query.get("continuation", "")
    limit, after = call.limit("maxResults", _MOST), name_of(continuation) if continuation else ""
    names = [name for name in sorted(held) if name.startswith(prefix) and name > after]
    rows = [
        {"name": name, "etag": held[name].etag, "lastModified": http_date(held[name].modified)}
        for name in names[:limit]
    ]
    goes_on = {"x-ms-continuation": marker_of(names[limit - 1])} if len(names) > limit else {}
    return Answer(200, {**JSON, **goes_on}, json.dumps({"filesystems": rows}).encode())


def list_paths(asked: Asked) -> Answer:
    """Path - List: what is in a directory, or in all below it."""
    call = asked.call
    recursive = call.flag("recursive")
    if recursive is None:
        raise Refusal("MissingRequiredQueryParameter", "recursive")
    call.flag("upn")
    directory = call.query.get("directory", "").strip("/")
    above = path_of(directory, hierarchical=asked.account.hierarchical) if directory else ""
    if above and asked.account.hierarchical:
        node = asked.filesystem.namespace.find(above)
        if not isinstance(node, Directory):
            raise Refusal("PathNotFound", "no directory has the name")
    continuation, limit = call.query.get("continuation", ""), call.limit("maxResults", _MOST)
    entries = asked.filesystem.namespace.entries(
        f"{above}/" if above else "",
        delimiter="" if recursive else "/",
        after=name_of(continuation) if continuation else "",
    )
    page, following = page_of(entries, limit)
    goes_on = {"x-ms-continuation": marker_of(following)} if following else {}
    body = json.dumps({"paths": [_row(entry) for entry in page]}).encode()
    return Answer(200, {**JSON, **goes_on, **version_of(asked.filesystem)}, body)


def _row(entry: Entry) -> dict[str, Any]:
    """Return a path as a listing shows it: all values are text, and ETags have no quotes."""
    node = entry.node
    if node is None:
        return {"name": entry.name.rstrip("/"), "isDirectory": "true", "contentLength": "0"}
    return {
        "contentLength": str(len(node.content) if isinstance(node, File) else 0),
        "creationTime": str(file_time(node.created)),
        "etag": node.etag,
        "expiryTime": "0",
        "group": node.access.group,
        **({"isDirectory": "true"} if isinstance(node, Directory) else {}),
        "lastModified": http_date(node.modified),
        "name": entry.name.rstrip("/"),
        "owner": node.access.owner,
        "permissions": node.access.permissions,
    }
