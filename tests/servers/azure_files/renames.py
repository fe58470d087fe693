"""Renames of files and directories, which keep what they are: id, creation and write time."""

from __future__ import annotations

from servers.azure_files import smb, sources
from servers.azure_files.directories import version_of
from servers.azure_files.errors import Refused, unknown
from servers.azure_files.names import identity
from servers.azure_files.operation import Call, Operation
from servers.azure_files.request import Answer
from servers.azure_files.tree import Directory, File, Node, files_below

_SOURCE_LEASE, _DESTINATION_LEASE = "x-ms-source-lease-id", "x-ms-destination-lease-id"


def rename_file(call: Call) -> Answer:
    """Give a file another name."""
    return _rename(call, File)


def rename_directory(call: Call) -> Answer:
    """Give a directory another name; what is in it comes along."""
    return _rename(call, Directory)


def _rename(call: Call, kind: type[Node]) -> Answer:
    request = call.request
    if not request.path:
        raise Refused("InvalidUri")
    replaces = request.flag("x-ms-file-rename-replace-if-exists")
    ignores_read_only = request.flag("x-ms-file-rename-ignore-readonly")
    share, path, node = sources.moved(call, request.header("x-ms-file-rename-source"))
    if not isinstance(node, kind):
        raise Refused("ResourceTypeMismatch")
    _check_source(call, node)
    parent = share.parent(request.path)
    _check_cycle(node, path, request.path)
    there = parent.get(request.path[-1])
    if there is node:
        raise unknown("a rename that changes nothing but the case of letters")
    _check_destination(call, there, replaces=replaces, ignores_read_only=ignores_read_only)
    changed = smb.of_changed(request, share, node, call.now())
    share.parent(path).take_out(node.name)
    node.name = request.path[-1]
    parent.put(node)
    smb.apply(node, changed)
    _set_extras(call, node)
    headers = {**version_of(node), **smb.headers_of(request, node)}
    return Answer(200, {**headers, "x-ms-request-server-encrypted": "true"})


def _check_source(call: Call, node: Node) -> None:
    if isinstance(node, File):
        call.leased(node, _SOURCE_LEASE)
    elif _SOURCE_LEASE in call.request.headers:
        raise unknown("a lease of a directory")
    elif any(file.lease and not file.lease.is_broken for file in files_below(node)):
        raise unknown("a rename of a directory in which a file is leased")


def _check_cycle(node: Node, path: tuple[str, ...], destination: tuple[str, ...]) -> None:
    """Refuse to move a directory into itself."""
    source = tuple(map(identity, path))
    below = tuple(map(identity, destination[: len(path)]))
    is_below = len(destination) > len(path) and below == source
    if isinstance(node, Directory) and is_below:
        raise unknown("a rename of a directory into itself")


def _check_destination(
    call: Call, there: Node | None, *, replaces: bool, ignores_read_only: bool
) -> None:
    if there is None:
        if _DESTINATION_LEASE in call.request.headers:
            raise Refused("LeaseNotPresentWithFileOperation")
        return
    # Only a file is ever replaced, by a file or by a directory.
    if not replaces or not isinstance(there, File):
        raise Refused("ResourceAlreadyExists")
    call.leased(there, _DESTINATION_LEASE)
    if there.is_read_only and not ignores_read_only:
        raise Refused("ReadOnlyAttribute")


def _set_extras(call: Call, node: Node) -> None:
    metadata = call.request.metadata()
    if metadata:
        node.metadata = metadata
    content_type = call.request.headers.get("x-ms-content-type")
    if content_type and isinstance(node, File):
        node.http["Content-Type"] = content_type


_HEADERS = smb.HEADERS | {
    "x-ms-file-rename-source",
    "x-ms-file-rename-replace-if-exists",
    "x-ms-file-rename-ignore-readonly",
    "x-ms-source-allow-trailing-dot",
    _SOURCE_LEASE,
    _DESTINATION_LEASE,
    "x-ms-meta-",
}

RENAME_FILE = Operation(
    rename_file, "object", "w", _HEADERS | {"x-ms-content-type"}, since="2021-04-10"
)
RENAME_DIRECTORY = Operation(rename_directory, "object", "w", _HEADERS, since="2021-04-10")
