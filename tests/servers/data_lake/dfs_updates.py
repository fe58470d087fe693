"""Path - Update at the DFS endpoint: content that is appended and flushed, properties, rights."""

import json
from dataclasses import replace

from servers.data_lake import conditions
from servers.data_lake.access import Access, acl_of, check_name, keys_of, split_defaults
from servers.data_lake.blob_listing import marker_of, name_of
from servers.data_lake.calls import Answer, Call, base64_md5
from servers.data_lake.dfs_filesystems import JSON, properties_of
from servers.data_lake.dfs_paths import access_of, content_headers
from servers.data_lake.namespace import Directory, Entry, Node
from servers.data_lake.operations import Asked, file_at, version_of
from servers.data_lake.refusals import Refusal, unknown

_SAFE = {"x-ms-request-server-encrypted": "true"}
_MOST_CHANGED = 2000


def append(asked: Asked) -> Answer:
    """Append data that nobody sees before it is flushed."""
    call, node = asked.call, file_at(asked, "PathNotFound")
    call.check_body()
    if not call.body:
        raise Refusal("InvalidHeaderValue", "nothing is appended")
    node.appended[_position(call)] = call.body
    return Answer(202, {"Content-MD5": base64_md5(call.body), **_SAFE})


def flush(asked: Asked) -> Answer:
    """Make what was appended, up to a position, part of the file.

    What the Blob endpoint wrote is not added to (the text of InvalidFlushOperation says so).
    """
    call, node = asked.call, file_at(asked, "PathNotFound")
    conditions.check_write(call.headers, node)
    if not node.is_of_dfs:
        raise Refusal("InvalidFlushOperation")
    end, content = _position(call), node.content
    while len(content) < end and len(content) in node.appended:
        content += node.appended.pop(len(content))
    if len(content) != end:
        raise Refusal("InvalidFlushPosition")
    if not call.flag("retainUncommittedData"):
        node.appended.clear()
    call.flag("close")
    node.content = content
    node.properties |= content_headers(asked)
    node.properties.pop("Content-MD5", None)
    if given := call.header("x-ms-content-md5"):
        node.properties["Content-MD5"] = given
    node.change(asked.account.stamps.new())
    return Answer(200, {**version_of(node), "x-ms-request-server-encrypted": "false"})


def _position(call: Call) -> int:
    text = call.query.get("position", "")
    if not text:
        raise Refusal("MissingRequiredQueryParameter", "position")
    if not text.isascii() or not text.isdigit():
        raise Refusal("InvalidQueryParameterValue", "position")
    return int(text)


def set_properties(asked: Asked) -> Answer:
    """Set what is told about the content, and the metadata, which replace the old ones."""
    node = _found(asked)
    conditions.check_write(asked.call.headers, node)
    node.properties |= content_headers(asked)
    if (given := properties_of(asked.call)) is not None:
        node.metadata = given
    node.change(asked.account.stamps.new())
    return Answer(200, version_of(node))


def get_access_control(asked: Asked) -> Answer:
    """Get owner, group, permissions and access control list; of hierarchical namespaces only."""
    node = _found_in_tree(asked)
    conditions.check_read(asked.call.headers, node)
    asked.call.flag("upn")
    return Answer(200, {**version_of(node), **access_of(node), "x-ms-acl": node.access.acl})


def set_access_control(asked: Asked) -> Answer:
    """Set them; the version stays (recorded)."""
    call, node = asked.call, _found_in_tree(asked)
    conditions.check_write(call.headers, node)
    permissions, acl = call.header("x-ms-permissions"), call.header("x-ms-acl")
    owner, group = check_name(call.header("x-ms-owner")), check_name(call.header("x-ms-group"))
    if (permissions and acl) or not (permissions or acl or owner or group):
        raise Refusal("InvalidHeaderValue", "either permissions or an access control list")
    for rights, is_asked in (("p", permissions or acl), ("o", owner or group)):
        if is_asked:
            asked.rights.require(rights, "o", by_container=True)
    changed = node.access
    if permissions:
        changed = changed.with_permissions(permissions)
    if acl:
        entries, defaults = split_defaults(acl)
        if defaults and not isinstance(node, Directory):
            raise unknown("default entries for a file")
        changed = changed.with_acl(acl_of(entries), acl_of(defaults) if defaults else None)
    node.access = replace(changed, owner=owner or changed.owner, group=group or changed.group)
    return Answer(200, {**version_of(node), "x-ms-namespace-enabled": "true"})


def set_access_control_recursive(asked: Asked) -> Answer:
    """Set, modify or remove entries of a directory and all below it, so many a request."""
    call, node = asked.call, _found_in_tree(asked)
    change, acl = call.query.get("mode", ""), call.header("x-ms-acl")
    if change not in {"set", "modify", "remove"} or not acl:
        raise Refusal("InvalidHeaderValue", "mode and x-ms-acl")
    limit, continuation = call.limit("maxRecords", _MOST_CHANGED), call.query.get("continuation")
    after = name_of(continuation) if continuation else ""
    call.flag("forceFlag")
    changed = [] if after else [Entry(call.path, node)]
    below = f"{call.path}/" if call.path else ""
    left = asked.filesystem.namespace.entries(below, delimiter="", after=after)
    changed = [*changed, *(left if isinstance(node, Directory) else ())]
    for entry in changed[:limit]:
        assert entry.node is not None
        entry.node.access = _changed(entry.node.access, change, acl)
    directories = sum(isinstance(entry.node, Directory) for entry in changed[:limit])
    done = {
        "directoriesSuccessful": directories,
        "failedEntries": [],
        "failureCount": 0,
        "filesSuccessful": len(changed[:limit]) - directories,
    }
    goes_on = {}
    if len(changed) > limit:
        goes_on = {"x-ms-continuation": marker_of(changed[limit - 1].name)}
    told = {**JSON, **goes_on, "x-ms-namespace-enabled": "true"}
    return Answer(200, told, json.dumps(done).encode())


def _changed(access: Access, change: str, acl: str) -> Access:
    if change == "set":
        return access.with_acl(acl_of(acl))
    if change == "modify":
        return access.modified(acl_of(acl))
    return access.without(keys_of(acl))


def _found(asked: Asked) -> Node:
    node = asked.find()
    if node is None:
        raise Refusal("PathNotFound")
    return node


def _found_in_tree(asked: Asked) -> Node:
    if not asked.account.hierarchical:
        raise Refusal("HierarchicalNamespaceNotEnabled")
    return _found(asked)
