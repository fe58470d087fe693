"""Blobs as they are written at the Blob endpoint."""

import base64
import binascii
import uuid
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET

from servers.data_lake import conditions
from servers.data_lake.access import Access
from servers.data_lake.blob_reading import found
from servers.data_lake.calls import Answer, base64_md5, http_date, pairs_of, same_digest
from servers.data_lake.names import path_of
from servers.data_lake.namespace import Directory, File
from servers.data_lake.operations import Asked, version_of
from servers.data_lake.refusals import Refusal, unknown
from servers.data_lake.signatures import sas_rights

CONTENT = {
    f"x-ms-blob-{name.lower()}": name
    for name in (
        *("Content-Type", "Content-Encoding", "Content-Language", "Content-Disposition"),
        *("Content-MD5", "Cache-Control"),
    )
}
_SAFE = {"x-ms-request-server-encrypted": "true"}
_LONGEST_SOURCE = 2048


def put_blob(asked: Asked) -> Answer:
    """Put Block Blob: a whole blob, over whatever file was there."""
    call = asked.call
    if call.header("x-ms-blob-type") != "BlockBlob":
        raise unknown(f"the blob type {call.header('x-ms-blob-type')!r}")
    old = _place_for_blob(asked)
    call.check_body()
    if asked.account.hierarchical and _says_to_be_directory(asked):
        return _directory_instead(asked, old)
    if given := call.header("x-ms-blob-content-md5"):
        same_digest(given, call.body)
    made = _new_file(asked, call.body, old)
    made.properties["Content-MD5"] = base64_md5(call.body)
    _keep(asked, made)
    return Answer(201, {**version_of(made), "Content-MD5": made.properties["Content-MD5"], **_SAFE})


def _says_to_be_directory(asked: Asked) -> bool:
    named = {name.lower(): value for name, value in asked.call.metadata.items()}
    return named.get("hdi_isfolder", "").lower() == "true"


def _directory_instead(asked: Asked, old: File | None) -> Answer:
    """Make the directory that an empty blob says to be, as hadoop-azure and rclone rely on."""
    if old is not None or asked.call.body:
        raise unknown("a blob that says to be a directory, over a file or with content")
    access = Access.of_new("", "", directory=True)
    made = Directory(asked.account.stamps.new(), access)
    asked.filesystem.namespace.put(asked.call.path, made)
    return Answer(201, {**version_of(made), "Content-MD5": base64_md5(b""), **_SAFE})


def _place_for_blob(asked: Asked, *, checks: bool = True) -> File | None:
    """Return the file that is written over, if any; that codes are these is a guess."""
    call = asked.call
    node = asked.filesystem.namespace.find_beside(call.path, "ResourceTypeMismatch")
    if checks:
        conditions.check_write(call.headers, node, taken="BlobAlreadyExists")
    if isinstance(node, Directory):
        raise Refusal("ResourceTypeMismatch", "a directory has the name")
    if node is not None:
        asked.rights.check_overwrite()
    assert node is None or isinstance(node, File)
    return node


def _new_file(asked: Asked, content: bytes, old: File | None) -> File:
    given = {
        name: asked.call.headers[header]
        for header, name in CONTENT.items()
        if header in asked.call.headers
    }
    if "content-type" in asked.call.headers and "Content-Type" not in given:
        given["Content-Type"] = asked.call.headers["content-type"]
    made = File(
        asked.account.stamps.new(),
        old.access if old else Access.of_new("", "", directory=False),
        metadata=dict(asked.call.metadata),
        properties=given,
        content=content,
    )
    if old:
        made.created = old.created
    return made


def _keep(asked: Asked, made: File) -> None:
    asked.filesystem.namespace.put(asked.call.path, made)
    asked.filesystem.staged.pop(asked.call.path, None)


def put_block(asked: Asked) -> Answer:
    """Put Block; that it makes no directories before the commit is a guess."""
    call = asked.call
    block = call.query.get("blockid", "")
    try:
        identity = base64.b64decode(block, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("InvalidBlockId") from None
    if not 0 < len(identity) <= 64:
        raise Refusal("InvalidBlockId")
    if not call.body:
        raise Refusal("InvalidHeaderValue", "an empty block")
    _refuse_of_dfs(_place_for_blob(asked, checks=False))
    call.check_body()
    staged = asked.filesystem.staged.setdefault(call.path, {})
    if any(len(other) != len(block) for other in staged):
        raise Refusal("InvalidBlobOrBlock", "ids of other lengths")
    staged[block] = call.body
    digest = {"Content-MD5": call.headers["content-md5"]} if "content-md5" in call.headers else {}
    return Answer(201, {**digest, **_SAFE})


def _refuse_of_dfs(node: File | None) -> None:
    """Raise where blocks would go into a file that the DFS endpoint made (documented)."""
    if node is not None and node.is_of_dfs:
        raise Refusal("BlobOperationNotSupported")


def put_block_list(asked: Asked) -> Answer:
    """Put Block List: what was staged becomes the blob, and what is not named is dropped."""
    call = asked.call
    old = _place_for_blob(asked)
    _refuse_of_dfs(old)
    call.check_body()
    staged = asked.filesystem.staged.get(call.path, {})
    committed = dict(old.blocks) if old else {}
    blocks = [_named(one, staged, committed) for one in _block_list(call.body)]
    made = _new_file(asked, b"".join(content for _, content in blocks), old)
    if "x-ms-blob-content-type" not in call.headers:
        made.properties.pop("Content-Type", None)  # the request's own is that of the list
    made.blocks = blocks
    _keep(asked, made)
    return Answer(201, {**version_of(made), **_SAFE})


def _block_list(body: bytes) -> list[tuple[str, str]]:
    try:
        root = ET.fromstring(body)
    except ET.ParseError:
        raise Refusal("InvalidXmlDocument") from None
    if root.tag != "BlockList":
        raise Refusal("InvalidXmlDocument")
    return [(element.tag, element.text or "") for element in root]


def _named(
    one: tuple[str, str], staged: dict[str, bytes], committed: dict[str, bytes]
) -> tuple[str, bytes]:
    kind, block = one
    places = {
        "Uncommitted": [staged],
        "Committed": [committed],
        "Latest": [staged, committed],
    }
    if kind not in places:
        raise Refusal("InvalidXmlDocument", kind)
    for place in places[kind]:
        if block in place:
            return block, place[block]
    raise Refusal("InvalidBlockList")


def get_block_list(asked: Asked) -> Answer:
    """Get Block List; blocks that the DFS endpoint wrote are not seen (documented)."""
    call, node = asked.call, asked.find()
    staged = asked.filesystem.staged.get(call.path, {})
    if node is None and not staged:
        raise Refusal("BlobNotFound")
    if isinstance(node, Directory):
        raise Refusal("ResourceTypeMismatch")
    kind = call.query.get("blocklisttype", "committed")
    if kind not in {"committed", "uncommitted", "all"}:
        raise Refusal("InvalidQueryParameterValue", "blocklisttype")
    assert node is None or isinstance(node, File)
    committed = node.blocks if node else []
    parts = []
    if kind != "uncommitted":
        parts.append(_blocks("CommittedBlocks", committed))
    if kind != "committed":
        parts.append(_blocks("UncommittedBlocks", sorted(staged.items())))
    body = f'\ufeff<?xml version="1.0" encoding="utf-8"?><BlockList>{"".join(parts)}</BlockList>'
    told = {}
    if node:
        told = {**version_of(node), "x-ms-blob-content-length": str(len(node.content))}
    return Answer(200, {**told, "Content-Type": "application/xml"}, body.encode())


def _blocks(element: str, blocks: list[tuple[str, bytes]]) -> str:
    listed = "".join(
        f"<Block><Name>{name}</Name><Size>{len(content)}</Size></Block>" for name, content in blocks
    )
    return f"<{element}>{listed}</{element}>" if listed else f"<{element} />"


def set_blob_metadata(asked: Asked) -> Answer:
    """Set Blob Metadata."""
    node = found(asked)
    conditions.check_write(asked.call.headers, node)
    node.metadata = dict(asked.call.metadata)
    node.change(asked.account.stamps.new())
    return Answer(200, {**version_of(node), **_SAFE})


def copy_blob(asked: Asked) -> Answer:
    """Copy Blob, of a file of this account, which is done at once.

    That the source is looked at before the place is a guess.
    """
    call = asked.call
    source = _source(asked)
    conditions.check_source(call.headers, source)
    old = _place_for_blob(asked)
    made = _new_file(asked, source.content, old)
    made.metadata = dict(call.metadata) or dict(source.metadata)
    made.properties = dict(source.properties)
    made.blocks = list(source.blocks)
    made.copied = {
        "x-ms-copy-id": str(uuid.uuid4()),
        "x-ms-copy-source": call.header("x-ms-copy-source").partition("?")[0],
        "x-ms-copy-status": "success",
        "x-ms-copy-progress": f"{len(made.content)}/{len(made.content)}",
        "x-ms-copy-completion-time": http_date(made.modified),
    }
    _keep(asked, made)
    told = {name: made.copied[name] for name in ("x-ms-copy-id", "x-ms-copy-status")}
    return Answer(202, {**version_of(made), **told})


def _source(asked: Asked) -> File:
    """Return the file that is copied; the SAS of the request is for the place alone (documented)."""
    url = urlsplit(asked.call.header("x-ms-copy-source"))
    place = url.path.removeprefix("/").removeprefix(f"{asked.account.name}/")
    filesystem, _, path = place.partition("/")
    if not path:
        raise unknown("a source of a copy without a path")
    if len(asked.call.header("x-ms-copy-source")) > _LONGEST_SOURCE:
        raise Refusal("InvalidHeaderValue", "x-ms-copy-source")
    filesystem = unquote(filesystem)
    named = path_of(unquote(path), hierarchical=asked.account.hierarchical)
    fields = pairs_of(url.query)
    if "sig" in fields:
        rights = sas_rights(fields, filesystem, named, asked.account)
        rights.require("r", "o", by_container=True)
    elif url.query:
        raise unknown("a source of a copy with a query that is no SAS")
    elif not asked.rights.is_all:
        raise Refusal("CannotVerifyCopySource")
    held = asked.account.filesystems.get(filesystem)
    node = held.namespace.find(named) if held else None
    if not isinstance(node, File):
        raise Refusal("BlobNotFound")
    return node


def delete_blob(asked: Asked) -> Answer:
    """Delete Blob, or a directory that has nothing in it."""
    node = found(asked)
    conditions.check_write(asked.call.headers, node)
    if isinstance(node, Directory):
        if "x-ms-delete-snapshots" in asked.call.headers:
            raise Refusal("OperationNotSupportedOnDirectory")
        if node.children:
            raise Refusal("DirectoryIsNotEmpty")
    asked.filesystem.namespace.remove(asked.call.path)
    asked.filesystem.staged.pop(asked.call.path, None)
    return Answer(202, {"x-ms-delete-type-permanent": "true"})
