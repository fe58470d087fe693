"""Folders made and removed, and files deleted."""

from __future__ import annotations

import errno
from typing import Any

from prefect_datastores.errors import (
    FolderMissing,
    FolderNotEmpty,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
)
from prefect_datastores.filesystems.account import OpenShare
from prefect_datastores.filesystems.lanes import beside, files_lane, parts_lane
from prefect_datastores.filesystems.places import os_error
from prefect_datastores.filesystems.tree import Details, ShareTree
from prefect_datastores.names import ObjectName, parents


class ShareFolders(ShareTree):
    """Folders are things of their own: they are made, stay when empty, and are removed."""

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Make a folder, or a share.

        Raises:
            FileExistsError: something is there.
            FileNotFoundError: the folder above it is missing, and was not to be made.
            NotADirectoryError: a file is above it.
        """
        path = self._strip_protocol(path)
        share, name = self.share_of(path)
        if not name:
            if share is None or self.exists(path):
                raise os_error(errno.EEXIST, path)
            share.store.create_root()
        else:
            share, name = self.place(path)
            self._make_folder(share, name, path, with_parents=create_parents)
        self.invalidate_cache(path)

    def _make_folder(
        self, share: OpenShare, name: ObjectName, path: str, *, with_parents: bool
    ) -> None:
        try:
            share.change(
                "make the folder",
                lambda: share.plain.make_new_folder(name, with_parents=with_parents),
                done=lambda: share.is_there(name, is_folder=True),
            )
        except ObjectExists:
            raise os_error(errno.EEXIST, path) from None
        except FolderMissing:
            raise above(share, name, path) from None

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder and all above it; with `exist_ok`, one that is there is fine."""
        try:
            self.mkdir(path)
        except FileExistsError:
            if not (exist_ok and self.isdir(path)):
                raise

    def rmdir(self, path: str) -> None:
        """Remove a folder.

        Raises:
            OSError: something is in it (ENOTEMPTY).
            FileNotFoundError, NotADirectoryError: it is none.
        """
        path = self._strip_protocol(path)
        share, name = self._place_to_remove(path)
        try:
            share.change(
                "remove the folder",
                lambda: share.plain.remove_empty_folder(name),
                done=lambda: True,  # it is not there, and that was wanted
            )
        except FolderNotEmpty:
            raise os_error(errno.ENOTEMPTY, path) from None
        except ObjectNotFound:
            code = errno.ENOTDIR if share.is_there(name, is_folder=False) else errno.ENOENT
            raise os_error(code, path) from None
        self.invalidate_cache(path)

    def rm_file(self, path: str) -> None:
        """Delete one file.

        Raises:
            FileNotFoundError, IsADirectoryError: it is none.
        """
        path = self._strip_protocol(path)
        share, name = self._place_to_remove(path)
        try:
            share.store.delete(name)
        except (ObjectNotFound, PlaceTaken):
            code = errno.EISDIR if share.is_there(name, is_folder=True) else errno.ENOENT
            raise os_error(code, path) from None
        self.invalidate_cache(path)

    _rm = rm_file

    def rm(
        self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None
    ) -> None:
        """Delete files; with `recursive`, folders with all below them. A share itself stays.

        Raises:
            IsADirectoryError: it is a folder, and `recursive` was not given.
        """
        found: dict[str, Details] = {}
        for one in self.expand_path(path):
            self._place_to_remove(one)
            info = found[one] = self.info(one)
            if info["type"] == "directory":
                if not recursive:
                    raise os_error(errno.EISDIR, one)
                found |= self.find(one, maxdepth, withdirs=True, detail=True, refresh=True)
        beside(parts_lane(), self.rm_file, [n for n, e in found.items() if e["type"] == "file"])
        by_depth: dict[int, list[str]] = {}
        for name, entry in found.items():
            if entry["type"] == "directory":
                by_depth.setdefault(name.count("/"), []).append(name)
        for depth in sorted(by_depth, reverse=True):
            beside(files_lane(), self.rmdir, by_depth[depth])

    def _place_to_remove(self, path: str) -> tuple[OpenShare, ObjectName]:
        """Return where something is that may be removed: a whole share is not, by a slip of a path."""
        share, name = self.share_of(path)
        if share is None or not name:
            raise PermissionError(
                errno.EPERM, "A whole share is not removed by a file system", path or "/"
            )
        return self.place(path)


def above(share: OpenShare, name: ObjectName, path: str) -> OSError:
    """Return the error for a name whose folder is missing: none is there, or a file is."""
    is_file = any(share.is_there(folder, is_folder=False) for folder in parents(name))
    return os_error(errno.ENOTDIR if is_file else errno.ENOENT, path)
