"""Paths at the DFS endpoint: made, renamed, read and deleted."""

from urllib.parse import unquote

from servers.data_lake import conditions
from servers.data_lake.access import Access
from servers.data_lake.blob_listing import marker_of, name_of
from servers.data_lake.calls import Answer, base64_md5, http_date, pairs_of, range_of
from servers.data_lake.dfs_filesystems import properties_of, told_properties
from servers.data_lake.names import path_of
from servers.data_lake.namespace import Directory, File, Filesystem, Node
from servers.data_lake.operations import Asked, version_of
from servers.data_lake.refusals import Refusal, unknown
from servers.data_lake.signatures import sas_rights

CONTENT = {
    f"x-ms-{name.lower()}": name
    for name in (
        *("Cache-Control", "Content-Type", "Content-Encoding", "Content-Language"),
        "Content-Disposition",
    )
}
_SAFE = {"x-ms-request-server-encrypted": "true"}
_MOST_CHECKED = 5000


def create_path(asked: Asked) -> Answer:
    """Path - Create: a file over whatever file was there, or a directory.

    That a directory which is there stays as it is, with all in it, is a guess.
    """
    call = asked.call
    wants_directory = call.query["resource"] == "directory"
    if wants_directory and not asked.account.hierarchical:
        raise unknown("a directory in a flat namespace")
    old = asked.filesystem.namespace.find_beside(call.path, "PathConflict")
    conditions.check_write(call.headers, old, taken="PathAlreadyExists")
    if old is not None and isinstance(old, Directory) != wants_directory:
        raise Refusal("PathConflict", "a file and a directory cannot have one name")
    if old is not None:
        asked.rights.check_overwrite()
    if isinstance(old, Directory):
        return Answer(201, {**version_of(old), **_SAFE})
    asked.filesystem.namespace.check_new(call.path)
    made = _new_node(asked, wants_directory=wants_directory)
    asked.filesystem.namespace.put(call.path, made)
    asked.filesystem.staged.pop(call.path, None)
    return Answer(201, {**version_of(made), **_SAFE})


def _new_node(asked: Asked, *, wants_directory: bool) -> Node:
    call = asked.call
    access = Access.of_new(
        call.header("x-ms-permissions"), call.header("x-ms-umask"), directory=wants_directory
    )
    etag, metadata = asked.account.stamps.new(), properties_of(call) or {}
    properties = content_headers(asked)
    if wants_directory:
        return Directory(etag, access, metadata=metadata, properties=properties)
    return File(etag, access, metadata=metadata, properties=properties, is_of_dfs=True)


def content_headers(asked: Asked) -> dict[str, str]:
    """Return what the request says about the content."""
    given = asked.call.headers
    return {name: given[header] for header, name in CONTENT.items() if header in given}


# -- renaming ---------------------------------------------------------------------------------------


def rename_path(asked: Asked) -> Answer:
    """Path - Create with `x-ms-rename-source`: one step, whatever is below.

    The version stays that of the source (recorded). `mode=legacy` replaces an empty directory, and
    the default, `posix`, moves a directory into one that is there (both recorded or reported).
    """
    call, account = asked.call, asked.account
    if not account.hierarchical:
        raise unknown("a rename in a flat namespace")
    mode = call.query.get("mode", "posix")
    if mode not in {"legacy", "posix"}:
        raise Refusal("InvalidQueryParameterValue", "mode")
    held, source_path = _source(asked)
    source = held.namespace.find(source_path)
    if source is None:
        raise Refusal("SourcePathNotFound")
    conditions.check_source(call.headers, source)
    to = _destination(asked, source, source_path, held, mode)
    if (changed := properties_of(call)) is not None:
        source.metadata = changed
    held.namespace.remove(source_path)
    asked.filesystem.namespace.put(to, source)
    return Answer(201, version_of(source))


def _source(asked: Asked) -> tuple[Filesystem, str]:
    """Return where the source is; who signs in by a SAS signs for the source too (a guess)."""
    account = asked.account
    given, _, query = asked.call.header("x-ms-rename-source").partition("?")
    if not given.startswith("/") or not given.isascii():
        raise Refusal("InvalidSourceUri", "it is /filesystem/path, percent-encoded")
    filesystem, _, path = given.removeprefix("/").partition("/")
    filesystem, path = unquote(filesystem), unquote(path)
    if not path:
        raise Refusal("InvalidSourceUri", "it names no path")
    path = path_of(path, hierarchical=True)
    if not asked.rights.is_all:
        rights = sas_rights(_signed(query), filesystem, path, account)
        rights.require("md", "o", by_container=True)
    if filesystem not in account.filesystems:
        raise Refusal("FilesystemNotFound")
    return account.filesystems[filesystem], path


def _signed(query: str) -> dict[str, str]:
    fields = pairs_of(query)
    if "sig" not in fields:
        raise Refusal("AuthenticationFailed", "x-ms-rename-source has no SAS of its own")
    return fields


def _destination(asked: Asked, source: Node, path: str, held: Filesystem, mode: str) -> str:
    """Return the path that the source gets, where it may have it."""
    to, namespace = asked.call.path, asked.filesystem.namespace
    is_same = held is asked.filesystem
    if is_same and (f"{to}/").startswith(f"{path}/"):
        raise Refusal("InvalidRenameSourcePath")
    target = namespace.find_beside(to, "InvalidDestinationPath")
    conditions.check_write(asked.call.headers, target, taken="PathAlreadyExists")
    above = namespace.find(to.rpartition("/")[0])
    if above is None:
        raise Refusal("RenameDestinationParentPathNotFound")
    if not isinstance(above, Directory):
        raise Refusal("InvalidDestinationPath")
    if target is None:
        return to
    asked.rights.check_overwrite()
    if isinstance(target, Directory) != isinstance(source, Directory):
        raise Refusal("InvalidSourceOrDestinationResourceType")
    if not isinstance(target, Directory):
        return to
    if mode == "legacy":
        if target.children:
            raise Refusal("DirectoryNotEmpty")
        return to
    inside = path.rpartition("/")[2]
    if inside in target.children:
        raise Refusal("PathAlreadyExists", "in the directory that is the destination")
    return f"{to}/{inside}"


# -- reading ----------------------------------------------------------------------------------------


def get_properties(asked: Asked) -> Answer:
    """Path - Get Properties, without an action and with `getStatus`."""
    node = _found(asked)
    conditions.check_read(asked.call.headers, node)
    size = len(node.content) if isinstance(node, File) else 0
    told = _described(asked, node)
    if asked.call.query.get("action") != "getStatus":
        told |= told_properties(node.metadata)
    return Answer(200, {**told, "Content-Length": str(size)})


def read_path(asked: Asked) -> Answer:
    """Path - Read."""
    node = _found(asked)
    conditions.check_read(asked.call.headers, node)
    if not isinstance(node, File):
        raise Refusal("ResourceTypeMismatch")
    told = {**_described(asked, node), **told_properties(node.metadata)}
    span = range_of(asked.call, len(node.content))
    if span is None:
        return Answer(200, told, node.content)
    part = node.content[span[0] : span[1]]
    if whole := told.pop("Content-MD5", ""):
        told["x-ms-content-md5"] = whole
    if asked.call.header("x-ms-range-get-content-md5").lower() == "true":
        told["Content-MD5"] = base64_md5(part)
    told["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{len(node.content)}"
    return Answer(206, told, part)


def _found(asked: Asked) -> Node:
    node = asked.find()
    if node is None:
        raise Refusal("PathNotFound")
    return node


def _described(asked: Asked, node: Node) -> dict[str, str]:
    told = {
        "Content-Type": "application/octet-stream",
        **node.properties,
        **version_of(node),
        "Accept-Ranges": "bytes",
        "x-ms-resource-type": "directory" if isinstance(node, Directory) else "file",
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-server-encrypted": "true",
        "x-ms-creation-time": http_date(node.created),
    }
    if asked.account.hierarchical:
        told |= access_of(node)
    return told


def access_of(node: Node) -> dict[str, str]:
    """Return the headers that tell who may do what."""
    return {
        "x-ms-owner": node.access.owner,
        "x-ms-group": node.access.group,
        "x-ms-permissions": node.access.permissions,
    }


# -- deleting ---------------------------------------------------------------------------------------


def delete_path(asked: Asked) -> Answer:
    """Path - Delete: a file, or a directory with all below it in one step.

    With `paginated` the service checks the rights of so many paths a request, and deletes when all
    are checked (documented); then there are continuations. Else there are none.
    """
    call, node = asked.call, _found(asked)
    conditions.check_write(call.headers, node)
    recursive, paginated = call.flag("recursive"), call.flag("paginated")
    if isinstance(node, Directory):
        if recursive is None:
            raise Refusal("MissingRequiredQueryParameter", "recursive")
        if node.children and not recursive:
            raise Refusal("DirectoryNotEmpty")
        if paginated and (following := _checked_until(asked)):
            return Answer(202, {"x-ms-continuation": marker_of(following)})
    elif recursive:
        raise Refusal("InvalidQueryParameterValue", "recursive is of directories")
    asked.filesystem.namespace.remove(call.path)
    asked.filesystem.staged.pop(call.path, None)
    return Answer(200)


def _checked_until(asked: Asked) -> str:
    """Return the last path whose rights this request checks, or "" where all are checked."""
    continuation = asked.call.query.get("continuation", "")
    after = name_of(continuation) if continuation else ""
    left = asked.filesystem.namespace.entries(f"{asked.call.path}/", delimiter="", after=after)
    names = [entry.name for entry in left]
    return names[_MOST_CHECKED - 1] if len(names) > _MOST_CHECKED else ""
