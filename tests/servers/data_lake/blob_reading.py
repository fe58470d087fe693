"""Blobs as they are read at the Blob endpoint."""

from servers.data_lake import conditions
from servers.data_lake.blob_listing import metadata_of
from servers.data_lake.calls import Answer, base64_md5, http_date, range_of
from servers.data_lake.namespace import Directory, File, Node
from servers.data_lake.operations import Asked, version_of
from servers.data_lake.refusals import Refusal

_MOST_WITH_MD5 = 4 * 2**20


def get_blob_properties(asked: Asked) -> Answer:
    """Get Blob Properties."""
    node = found(asked)
    conditions.check_read(asked.call.headers, node)
    size = len(node.content) if isinstance(node, File) else 0
    return Answer(200, {**_described(asked, node), "Content-Length": str(size)})


def get_blob(asked: Asked) -> Answer:
    """Get Blob; a directory is a blob without content (a guess)."""
    node = found(asked)
    conditions.check_read(asked.call.headers, node)
    content = node.content if isinstance(node, File) else b""
    described = _described(asked, node)
    span = range_of(asked.call, len(content))
    wants_md5 = asked.call.header("x-ms-range-get-content-md5").lower() == "true"
    if span is None:
        if wants_md5:
            raise Refusal("InvalidHeaderValue", "x-ms-range-get-content-md5 without a range")
        return Answer(200, described, content)
    part = content[span[0] : span[1]]
    if whole := described.pop("Content-MD5", ""):
        described["x-ms-blob-content-md5"] = whole
    if wants_md5:
        if len(part) > _MOST_WITH_MD5:
            raise Refusal("OutOfRangeQueryParameterValue", "x-ms-range-get-content-md5")
        described["Content-MD5"] = base64_md5(part)
    described["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{len(content)}"
    return Answer(206, described, part)


def found(asked: Asked) -> Node:
    """Return what stands at the path."""
    node = asked.find()
    if node is None:
        raise Refusal("BlobNotFound")
    return node


def _described(asked: Asked, node: Node) -> dict[str, str]:
    headers = {
        "Content-Type": "application/octet-stream",
        **node.properties,
        **version_of(node),
        "Accept-Ranges": "bytes",
        "x-ms-blob-type": "BlockBlob",
        "x-ms-creation-time": http_date(node.created),
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-server-encrypted": "true",
        **(node.copied if isinstance(node, File) else {}),
        **{f"x-ms-meta-{key}": value for key, value in metadata_of(node).items()},
    }
    # Recorded in 2021-08-06, and not in 2019-07-07; the page on List Blobs names 2020-10-02.
    if asked.account.hierarchical and asked.call.version >= "2020-10-02":
        headers["x-ms-resource-type"] = "directory" if isinstance(node, Directory) else "file"
        headers |= {
            "x-ms-owner": node.access.owner,
            "x-ms-group": node.access.group,
            "x-ms-permissions": node.access.permissions,
        }
    if asked.account.hierarchical and asked.call.version >= "2023-11-03":
        headers["x-ms-acl"] = node.access.acl
    return headers
