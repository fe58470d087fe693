"""The DFS endpoint: which operations it has."""

from servers.data_lake import conditions
from servers.data_lake import dfs_filesystems as filesystems
from servers.data_lake import dfs_paths as paths
from servers.data_lake import dfs_updates as updates
from servers.data_lake.operations import Operation
from servers.data_lake.service import Endpoint

_OF_FILESYSTEM = {"resource": "filesystem"}
_NEW = (*conditions.NAMES, *paths.CONTENT, "x-ms-properties")
_PERMISSIONS = ("x-ms-permissions", "x-ms-umask")
_ACCESS = ("x-ms-permissions", "x-ms-acl", "x-ms-owner", "x-ms-group")


def _of_filesystem() -> list[Operation]:
    return [
        Operation(
            "GET",
            "account",
            filesystems.list_filesystems,
            {"resource": "account"},
            query=("prefix", "continuation", "maxResults"),
            needs="l",
            by_container_sas=False,
        ),
        Operation(
            "PUT",
            "filesystem",
            filesystems.create_filesystem,
            _OF_FILESYSTEM,
            headers=("x-ms-properties",),
            needs="cw",
            by_container_sas=False,
            makes_filesystem=True,
        ),
        Operation(
            "HEAD",
            "filesystem",
            filesystems.get_filesystem_properties,
            _OF_FILESYSTEM,
            needs="r",
            by_container_sas=False,
        ),
        Operation(
            "DELETE",
            "filesystem",
            filesystems.delete_filesystem,
            _OF_FILESYSTEM,
            needs="d",
            by_container_sas=False,
        ),
        Operation(
            "GET",
            "filesystem",
            filesystems.list_paths,
            _OF_FILESYSTEM,
            query=("recursive", "directory", "continuation", "maxResults", "upn"),
            needs="l",
        ),
    ]


def _of_path() -> list[Operation]:
    return [
        Operation(
            "PUT",
            "path",
            paths.rename_path,
            marked_by="x-ms-rename-source",
            query=("mode",),
            headers=(*conditions.NAMES, *conditions.SOURCE_NAMES, "x-ms-properties"),
            needs="mcw",
        ),
        *(
            Operation(
                "PUT",
                "path",
                paths.create_path,
                {"resource": kind},
                headers=(*_NEW, *_PERMISSIONS),
                needs="cw",
            )
            for kind in ("file", "directory")
        ),
        Operation("HEAD", "path", paths.get_properties, headers=conditions.NAMES, needs="re"),
        Operation(
            "HEAD",
            "path",
            paths.get_properties,
            {"action": "getStatus"},
            headers=conditions.NAMES,
            query=("upn",),
            needs="re",
        ),
        *(
            Operation(
                "HEAD",
                scope,
                updates.get_access_control,
                {"action": "getAccessControl"},
                headers=conditions.NAMES,
                query=("upn",),
                needs="re",
            )
            for scope in ("path", "filesystem")
        ),
        Operation(
            "GET",
            "path",
            paths.read_path,
            headers=(*conditions.NAMES, "x-ms-range", "x-ms-range-get-content-md5"),
            needs="r",
        ),
        Operation(
            "DELETE",
            "path",
            paths.delete_path,
            headers=conditions.NAMES,
            query=("recursive", "continuation", "paginated"),
            needs="d",
        ),
    ]


def _of_updates() -> list[Operation]:
    return [
        Operation(
            "PATCH",
            "path",
            updates.append,
            {"action": "append"},
            query=("position",),
            has_body=True,
            needs="aw",
        ),
        Operation(
            "PATCH",
            "path",
            updates.flush,
            {"action": "flush"},
            query=("position", "retainUncommittedData", "close"),
            headers=(*conditions.NAMES, *paths.CONTENT, "x-ms-content-md5"),
            needs="aw",
        ),
        Operation(
            "PATCH",
            "path",
            updates.set_properties,
            {"action": "setProperties"},
            headers=_NEW,
            needs="w",
        ),
        *(
            Operation(
                "PATCH",
                scope,
                updates.set_access_control,
                {"action": "setAccessControl"},
                headers=(*conditions.NAMES, *_ACCESS),
                needs="po",
            )
            for scope in ("path", "filesystem")
        ),
        *(
            Operation(
                "PATCH",
                scope,
                updates.set_access_control_recursive,
                {"action": "setAccessControlRecursive"},
                query=("mode", "maxRecords", "continuation", "forceFlag"),
                headers=("x-ms-acl",),
                needs="p",
            )
            for scope in ("path", "filesystem")
        ),
    ]


ENDPOINT = Endpoint(
    "dfs",
    "Windows-Azure-HDFS/1.0",
    [*_of_filesystem(), *_of_path(), *_of_updates()],
    "FilesystemNotFound",
)
