"""Listings, page by page: the shares of an account, the entries of a directory."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from servers.azure_files import times
from servers.azure_files.errors import Refused, unknown
from servers.azure_files.names import identity
from servers.azure_files.operation import Call, Operation
from servers.azure_files.request import Answer, Request, xml
from servers.azure_files.tree import File, Node, Share

Listed = TypeVar("Listed")

_MOST = 5000
_PARTS = {"timestamps", "etag", "attributes", "permissionkey"}
_NO_XML = {*map(chr, range(0x20)), "\ufffe", "\uffff"}
_TELLS_IDS, _ENCODES_NAMES = "2021-06-08", "2021-12-02"


def shares(call: Call) -> Answer:
    """List the shares, those with a snapshot once for each before the share itself."""
    request = call.request
    include = _include(request, {"metadata", "snapshots"})
    prefix, marker = request.query.get("prefix", ""), request.query.get("marker", "")
    listed: list[tuple[Share, str]] = []
    for name in sorted(call.account.shares):
        share = call.account.shares[name]
        if "snapshots" in include:
            listed += [(share.snapshots[moment], moment) for moment in sorted(share.snapshots)]
        listed.append((share, ""))
    start = f"/{call.account.name}/"
    listed = [
        (share, moment)
        for share, moment in listed
        if share.name.startswith(prefix) and (not marker or start + share.name >= marker)
    ]
    page, after = _page(request, listed)
    told = "".join(_share(share, moment, "metadata" in include) for share, moment in page)
    following = f"{start}{after[0].name}" if after else ""
    return xml(
        f"<EnumerationResults ServiceEndpoint={quoteattr(_endpoint(call))}>{_asked(request)}"
        f"<Shares>{told}</Shares>{_element('NextMarker', following)}</EnumerationResults>"
    )


def entries(call: Call) -> Answer:
    """List files and directories together, in the order of their names without case."""
    request = call.request
    share = call.share()
    directory = share.directory(request.path)
    include = _include(request, _PARTS)
    tells_ids = request.since(_TELLS_IDS) or include or request.flag("x-ms-file-extended-info")
    first = identity(_name_of(request.query.get("marker", "")))
    prefix = identity(request.query.get("prefix", ""))
    listed = [
        node
        for node in directory.in_order()
        if identity(node.name) >= first and identity(node.name).startswith(prefix)
    ]
    page, after = _page(request, listed)
    told = "".join(_entry(request, node, include, bool(tells_ids)) for node in page)
    directory_id = f"<DirectoryId>{directory.id}</DirectoryId>" if tells_ids else ""
    return xml(
        f"<EnumerationResults {_attributes(call)}>{_asked(request)}{directory_id}"
        f"{_wrapped('Entries', told)}{_element('NextMarker', _marker(after.name) if after else '')}"
        "</EnumerationResults>"
    )


def _attributes(call: Call) -> str:
    request = call.request
    told = f"ServiceEndpoint={quoteattr(_endpoint(call))} ShareName={quoteattr(request.share)}"
    if snapshot := request.query.get("sharesnapshot"):
        told += f" ShareSnapshot={quoteattr(snapshot)}"
    path = "/".join(request.path)
    if _needs_encoding(request, path):
        return f'{told} Encoded="true" DirectoryPath={quoteattr(quote(path, safe="/"))}'
    return f"{told} DirectoryPath={quoteattr(path)}"


def _needs_encoding(request: Request, text: str) -> bool:
    """Tell whether XML cannot hold a text as it is."""
    needs = not _NO_XML.isdisjoint(text)
    if needs and not request.since(_ENCODES_NAMES):
        raise unknown("a name that XML cannot hold, by a version that encodes none")
    return needs


def _asked(request: Request) -> str:
    """Repeat what was asked for."""
    names = {"prefix": "Prefix", "marker": "Marker", "maxresults": "MaxResults"}
    told = ""
    for name, tag in names.items():
        value = request.query.get(name, "")
        if value and name == "prefix" and _needs_encoding(request, value):
            told += f'<{tag} Encoded="true">{quote(value)}</{tag}>'
        elif value:
            told += f"<{tag}>{escape(value)}</{tag}>"
    return told


def _include(request: Request, known: set[str]) -> set[str]:
    asked = {part.strip().lower() for part in request.query.get("include", "").split(",") if part}
    if not asked <= known:
        raise unknown(f"include={','.join(sorted(asked - known))}")
    return asked


def _page(request: Request, listed: Sequence[Listed]) -> tuple[Sequence[Listed], Listed | None]:
    """Return what fits into the answer, and what comes after it."""
    given = request.query.get("maxresults", str(_MOST))
    if not given.isdecimal() or not given.isascii():
        raise Refused("InvalidQueryParameterValue", "maxresults")
    most = min(int(given), _MOST)
    if not most:
        raise Refused("OutOfRangeQueryParameterValue", "maxresults")
    return listed[:most], listed[most] if len(listed) > most else None


def _marker(name: str) -> str:
    text = base64.b64encode(name.encode()).decode().replace("=", "-")
    return f"1!{len(text)}!{text}"


def _name_of(marker: str) -> str:
    if not marker:
        return ""
    _, _, rest = marker.partition("!")
    length, _, text = rest.partition("!")
    try:
        if int(length) != len(text):
            raise ValueError
        return base64.b64decode(text.replace("-", "="), validate=True).decode()
    except (ValueError, binascii.Error):
        raise Refused("InvalidContinuationToken") from None


def _entry(request: Request, node: Node, include: set[str], tells_ids: bool) -> str:
    if _needs_encoding(request, node.name):
        told = f'<Name Encoded="true">{quote(node.name)}</Name>'
    else:
        told = f"<Name>{escape(node.name)}</Name>"
    if tells_ids:
        told += f"<FileId>{node.id}</FileId>"
    length = ""
    if isinstance(node, File):
        length = f"<Content-Length>{node.content.length}</Content-Length>"
    told += _wrapped("Properties", length + _moments(node, include))
    if "attributes" in include:
        told += f"<Attributes>{node.attributes}</Attributes>"
    if "permissionkey" in include:
        told += f"<PermissionKey>{node.permission}</PermissionKey>"
    tag = "File" if isinstance(node, File) else "Directory"
    return f"<{tag}>{told}</{tag}>"


def _moments(node: Node, include: set[str]) -> str:
    told = ""
    if "timestamps" in include:
        told += (
            f"<CreationTime>{times.iso(node.created)}</CreationTime>"
            f"<LastAccessTime>{times.iso(node.created)}</LastAccessTime>"
            f"<LastWriteTime>{times.iso(node.written)}</LastWriteTime>"
            f"<ChangeTime>{times.iso(node.changed)}</ChangeTime>"
            f"<Last-Modified>{times.http_date(node.modified)}</Last-Modified>"
        )
    if "etag" in include:
        told += f"<Etag>{times.etag(node.modified)}</Etag>"
    return told


def _share(share: Share, moment: str, tells_metadata: bool) -> str:
    told = f"<Name>{share.name}</Name>"
    if moment:
        told += f"<Snapshot>{moment}</Snapshot>"
    told += (
        f"<Properties><Last-Modified>{times.http_date(share.modified)}</Last-Modified>"
        f"<Etag>{times.etag(share.modified)}</Etag><Quota>{share.quota}</Quota></Properties>"
    )
    if tells_metadata and share.metadata:
        metadata = "".join(
            f"<{name}>{escape(value)}</{name}>" for name, value in share.metadata.items()
        )
        told += f"<Metadata>{metadata}</Metadata>"
    return f"<Share>{told}</Share>"


def _element(tag: str, text: str) -> str:
    return _wrapped(tag, escape(text))


def _wrapped(tag: str, inner: str) -> str:
    return f"<{tag}>{inner}</{tag}>" if inner else f"<{tag} />"


def _endpoint(call: Call) -> str:
    return f"http://{call.request.headers.get('host', '')}/{call.account.name}/"


_QUERY = frozenset({"prefix", "marker", "maxresults", "include"})

SHARES = Operation(shares, "service", "l", query=_QUERY)
ENTRIES = Operation(
    entries,
    "share",
    "l",
    frozenset({"x-ms-file-extended-info"}),
    _QUERY | {"sharesnapshot"},
)
