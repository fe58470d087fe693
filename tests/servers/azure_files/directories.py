"""Directories: made, looked at, changed, and deleted once they are empty."""

from servers.azure_files import smb, times
from servers.azure_files.errors import Refused
from servers.azure_files.operation import Call, Operation
from servers.azure_files.request import Answer
from servers.azure_files.tree import Directory, Node

_META = frozenset({"x-ms-meta-"})
_SNAPSHOT = frozenset({"sharesnapshot"})


def create(call: Call) -> Answer:
    """Make a directory in one that is there."""
    request = call.request
    share = call.changed_share()
    if not request.path:
        raise Refused("ResourceAlreadyExists")
    parent, name = share.parent(request.path), request.path[-1]
    if parent.get(name) is not None:
        raise Refused("ResourceAlreadyExists")
    given = smb.of_new(request, share, call.now(), is_directory=True)
    directory = Directory(
        name,
        given.attributes,
        given.created,
        given.written,
        given.changed,
        given.modified,
        given.permission,
        request.metadata(),
    )
    parent.put(directory)
    return Answer(201, _changed(call, directory, tells_smb=True))


def properties(call: Call) -> Answer:
    """Tell what is known of a directory."""
    directory = call.share().directory(call.request.path)
    return Answer(
        200,
        {
            **version_of(directory),
            **smb.headers_of(call.request, directory),
            **metadata_of(directory),
            "x-ms-server-encrypted": "true",
        },
    )


def delete(call: Call) -> Answer:
    """Remove an empty directory."""
    path = call.request.path
    share = call.changed_share()
    directory = share.directory(path)
    if not path:
        raise Refused("InvalidUri")
    if directory.entries:
        raise Refused("DirectoryNotEmpty")
    if directory.is_read_only:
        raise Refused("ReadOnlyAttribute")
    share.parent(path).take_out(directory.name)
    return Answer(202)


def metadata(call: Call) -> Answer:
    """Tell the metadata of a directory."""
    directory = call.share().directory(call.request.path)
    return Answer(200, {**version_of(directory), **metadata_of(directory)})


def set_metadata(call: Call) -> Answer:
    """Replace the metadata of a directory."""
    directory = call.changed_share().directory(call.request.path)
    directory.metadata = call.request.metadata()
    directory.changed = directory.modified = call.now()
    return Answer(200, _changed(call, directory, tells_smb=False))


def set_properties(call: Call) -> Answer:
    """Set the properties that Windows knows."""
    share = call.changed_share()
    directory = share.directory(call.request.path)
    smb.change(call.request, share, directory, call.now())
    return Answer(200, _changed(call, directory, tells_smb=True))


def version_of(node: Node) -> dict[str, str]:
    """Return the headers that tell which version it is."""
    return {"ETag": times.etag(node.modified), "Last-Modified": times.http_date(node.modified)}


def metadata_of(node: Node) -> dict[str, str]:
    """Return the headers that tell its metadata."""
    return {f"x-ms-meta-{name}": value for name, value in node.metadata.items()}


def _changed(call: Call, directory: Directory, *, tells_smb: bool) -> dict[str, str]:
    told = smb.headers_of(call.request, directory) if tells_smb else {}
    return {**version_of(directory), **told, "x-ms-request-server-encrypted": "true"}


CREATE = Operation(create, "object", "cw", _META | smb.HEADERS)
PROPERTIES = Operation(properties, "object", "r", query=_SNAPSHOT)
DELETE = Operation(delete, "object", "d", query=_SNAPSHOT)
METADATA = Operation(metadata, "object", "r", query=_SNAPSHOT)
SET_METADATA = Operation(set_metadata, "object", "w", _META, _SNAPSHOT)
SET_PROPERTIES = Operation(set_properties, "object", "w", smb.HEADERS, _SNAPSHOT)
