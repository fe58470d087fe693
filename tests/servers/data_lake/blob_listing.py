"""Pages of List Blobs and List Containers, as XML."""

import base64
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from servers.data_lake.calls import Answer, Call, http_date
from servers.data_lake.namespace import Directory, Entry, File, Filesystem, Node
from servers.data_lake.operations import Asked
from servers.data_lake.refusals import Refusal, unknown

_MOST = 5000
_MARKER = re.compile(r"2!(\d+)!(.*)", re.DOTALL)
_NOT_IN_XML = re.compile("[\ufffe\uffff]")
_SHOWN: dict[str, Callable[[Entry], bool]] = {
    "": lambda _: True,
    "files": lambda entry: isinstance(entry.node, File),
    "directories": lambda entry: isinstance(entry.node, Directory),
}


def marker_of(name: str) -> str:
    """Return what asks for all that comes after a name."""
    encoded = base64.b64encode(name.encode()).decode()
    return f"2!{len(encoded)}!{encoded}"


def name_of(marker: str) -> str:
    """Return the name that a marker stands for.

    Raises:
        Refusal: the service never gave it, or only a part was kept.
    """
    found = _MARKER.fullmatch(marker)
    if not found:
        raise Refusal("InvalidQueryParameterValue", "marker")
    if int(found[1]) != len(found[2]):
        raise Refusal("InvalidInput", "marker")
    return base64.b64decode(found[2]).decode()


def list_blobs(asked: Asked) -> Answer:
    """List Blobs: one page."""
    call, account = asked.call, asked.account
    prefix, delimiter = call.query.get("prefix", ""), call.query.get("delimiter", "")
    marker, limit = call.query.get("marker", ""), call.limit("maxresults", _MOST)
    shows = call.query.get("showonly", "")
    if shows not in _SHOWN or (shows and not account.hierarchical):
        raise unknown(f"showonly={shows}")
    entries = asked.filesystem.namespace.entries(
        prefix, delimiter=delimiter, after=name_of(marker) if marker else ""
    )
    page, following = page_of(filter(_SHOWN[shows], entries), limit)
    lister = _Lister(call, hierarchical=account.hierarchical)
    body = (
        '\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint='
        f"{quoteattr(f'http://{account.name}.blob.core.windows.net/')} "
        f"ContainerName={quoteattr(call.filesystem)}>"
        f"{_echoes(call, limit)}"
        f"<Blobs>{''.join(map(lister.element, page))}</Blobs>{_next(following)}"
        "</EnumerationResults>"
    )
    return Answer(200, {"Content-Type": "application/xml"}, body.encode())


def page_of(entries: Iterator[Entry], limit: int) -> tuple[list[Entry], str]:
    """Return a page, and the name after which the next one begins; "" where this is the last."""
    page: list[Entry] = []
    for entry in entries:
        if len(page) == limit:
            return page, page[-1].name
        page.append(entry)
    return page, ""


def list_containers(asked: Asked) -> Answer:
    """List Containers: one page."""
    call, account = asked.call, asked.account
    prefix, marker = call.query.get("prefix", ""), call.query.get("marker", "")
    limit, after = call.limit("maxresults", _MOST), name_of(marker) if marker else ""
    shows = _shows_metadata(call)
    names = [n for n in sorted(account.filesystems) if n.startswith(prefix) and n > after]
    held = [(name, account.filesystems[name]) for name in names[:limit]]
    listed = "".join(_container(*one, shows_metadata=shows) for one in held)
    following = names[limit - 1] if len(names) > limit else ""
    body = (
        '\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint='
        f"{quoteattr(f'http://{account.name}.blob.core.windows.net/')}>{_echoes(call, limit)}"
        f"<Containers>{listed}</Containers>{_next(following)}</EnumerationResults>"
    )
    return Answer(200, {"Content-Type": "application/xml"}, body.encode())


def _container(name: str, filesystem: Filesystem, *, shows_metadata: bool) -> str:
    metadata = _metadata(filesystem.metadata) if shows_metadata else ""
    return (
        f"<Container><Name>{escape(name)}</Name><Properties>"
        f"<Last-Modified>{http_date(filesystem.modified)}</Last-Modified>"
        f'<Etag>"{filesystem.etag}"</Etag><LeaseStatus>unlocked</LeaseStatus>'
        f"<LeaseState>available</LeaseState></Properties>{metadata}</Container>"
    )


def _metadata(named: dict[str, str]) -> str:
    written = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in named.items())
    return f"<Metadata>{written}</Metadata>" if written else "<Metadata />"


def _shows_metadata(call: Call) -> bool:
    included = set(filter(None, call.query.get("include", "").split(",")))
    if included - {"metadata"}:
        raise unknown(f"include={call.query['include']}")
    return "metadata" in included


def _echoes(call: Call, limit: int) -> str:
    """Return what was asked for, as the answer repeats it."""
    asked = [("prefix", "Prefix"), ("marker", "Marker"), ("delimiter", "Delimiter")]
    elements = [
        f"<{element}>{escape(call.query[name])}</{element}>"
        for name, element in asked
        if call.query.get(name)
    ]
    if "maxresults" in call.query:
        elements.insert(len(elements), f"<MaxResults>{limit}</MaxResults>")
    return "".join(elements)


def _next(name: str) -> str:
    return f"<NextMarker>{marker_of(name)}</NextMarker>" if name else "<NextMarker />"


class _Lister:
    """Writes the elements of one listing."""

    def __init__(self, call: Call, *, hierarchical: bool) -> None:
        self._shows_metadata = _shows_metadata(call)
        # Documented: "for version 2020-10-02 and later, for accounts with a hierarchical namespace".
        self._shows_type = hierarchical and call.version >= "2020-10-02"

    def element(self, entry: Entry) -> str:
        """Return the element of one entry."""
        name = f"<Name>{escape(entry.name)}</Name>"
        if _NOT_IN_XML.search(entry.name):
            name = f'<Name Encoded="true">{quote(entry.name, safe="")}</Name>'
        if entry.is_folded and not (entry.node and self._shows_type):
            return f"<BlobPrefix>{name}</BlobPrefix>"
        assert entry.node is not None
        if entry.is_folded:
            return f"<BlobPrefix>{name}{self._properties(entry.node)}</BlobPrefix>"
        metadata = _metadata(metadata_of(entry.node)) if self._shows_metadata else ""
        return f"<Blob>{name}{self._properties(entry.node)}{metadata}<OrMetadata /></Blob>"

    def _properties(self, node: Node) -> str:
        is_directory = isinstance(node, Directory)
        given, content_type = node.properties, "" if is_directory else "application/octet-stream"
        elements = [
            ("Creation-Time", http_date(node.created)),
            ("Last-Modified", http_date(node.modified)),
            ("Etag", node.etag),
            *([("ResourceType", "directory" if is_directory else "file")] * self._shows_type),
            ("Content-Length", str(len(node.content) if isinstance(node, File) else 0)),
            ("Content-Type", given.get("Content-Type", content_type)),
            ("Content-Encoding", given.get("Content-Encoding", "")),
            ("Content-Language", given.get("Content-Language", "")),
            ("Content-CRC64", ""),
            ("Content-MD5", given.get("Content-MD5", "")),
            ("Cache-Control", given.get("Cache-Control", "")),
            ("Content-Disposition", given.get("Content-Disposition", "")),
            ("BlobType", "BlockBlob"),
            ("AccessTier", "Hot"),
            ("AccessTierInferred", "true"),
            ("LeaseStatus", "unlocked"),
            ("LeaseState", "available"),
            ("ServerEncrypted", "true"),
        ]
        written = "".join(
            f"<{name}>{escape(value)}</{name}>" if value else f"<{name} />"
            for name, value in elements
        )
        return f"<Properties>{written}</Properties>"


def metadata_of(node: Node) -> dict[str, str]:
    """Return a node's metadata as the Blob endpoint shows them; directories are known by them."""
    mark = {"hdi_isfolder": "true"} if isinstance(node, Directory) else {}
    return {**node.metadata, **mark}
