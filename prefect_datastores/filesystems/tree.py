"""What is in a share: listings, and what each file and folder is."""

from __future__ import annotations

import contextlib
import errno
import hashlib
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from prefect_datastores.errors import ObjectNotFound, UnsafeName
from prefect_datastores.filesystems.lanes import beside, parts_lane
from prefect_datastores.filesystems.places import SharePlaces, os_error
from prefect_datastores.stores.base import ObjectInfo
from prefect_datastores.stores.entries import moment_of

Details = dict[str, Any]


class ShareTree(SharePlaces):
    """Listings of shares; they are all that is cached, for a few seconds."""

    def ls(self, path: str, detail: bool = True, refresh: bool = False, **_: Any) -> list[Any]:
        """Return what is in a folder, in name order; of a file, the file.

        Raises:
            FileNotFoundError: nothing is there.
        """
        path = self._strip_protocol(path)
        entries = None if refresh else self.dircache.get(path)
        if entries is None:
            before = self._changes
            entries = self._listed(path)
            # What was changed meanwhile may be missing, and a file is no folder's listing.
            if before == self._changes and not _is_itself(entries, path):
                self.dircache[path] = entries
        return [dict(entry) if detail else entry["name"] for entry in entries]

    def _listed(self, path: str) -> list[Details]:
        share, name = self.share_of(path)
        if share is None:
            return [_folder(found) for found in self.opened.share_names()]
        if name:
            with contextlib.suppress(UnsafeName):
                name = self.place(path)[1]
        prefix, begin = (f"{name}/", len(name) + 1) if name else ("", 0)
        shown = f"{path}/" if path else ""
        found: list[Details] = []
        is_there, marker = not name, None
        while True:
            page = share.store.list_page(prefix, marker=marker, recursive=False)
            is_there = is_there or bool(page.objects or page.folders)
            files = [info for info in page.objects if not info.is_marker]
            found += [_file(shown + info.name[begin:], info) for info in files]
            found += [_folder(shown + folder[begin:]) for folder in page.folders]
            marker = page.marker
            if marker is None:
                break
        return sorted(found, key=lambda entry: entry["name"]) if is_there else [self.info(path)]

    def info(self, path: str, **_: Any) -> Details:
        """Return what a file or folder is, by asking the service.

        Raises:
            FileNotFoundError: nothing is there.
        """
        path = self._strip_protocol(path)
        share, name = self.share_of(path)
        if share is None:
            return _folder(path)
        try:
            if name:
                checked = self.place(path)[1]
                with contextlib.suppress(ObjectNotFound):
                    return _file(path, share.store.head(checked))
            share.ask("look", lambda: share.plain.stat(name, is_folder=True))
        except (ObjectNotFound, UnsafeName):  # nothing has a name that nothing can have
            raise os_error(errno.ENOENT, path) from None
        return _folder(path)

    def file_info(self, path: str) -> Details:
        """Return what a file is.

        Raises:
            IsADirectoryError, FileNotFoundError: there is none.
        """
        found = self.info(path)
        if found["type"] != "file":
            raise os_error(errno.EISDIR, path)
        return found

    def exists(self, path: str, **_: Any) -> bool:
        """Tell whether something is there; anything but a clear no of the service is an error."""
        return self._type(path) is not None

    def isfile(self, path: str) -> bool:
        """Tell whether it is a file."""
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        """Tell whether it is a folder."""
        return self._type(path) == "directory"

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return None

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        refresh: bool = False,
        **_: Any,
    ) -> Any:
        """Return all below a path, many folders at once; one that vanishes meanwhile is left out.

        Raises:
            OSError: a folder could not be listed, so that the answer would not be whole.
        """
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        path = self._strip_protocol(path)
        found: dict[str, Details] = {}
        if withdirs and path and self.isdir(path):
            found[path] = _folder(path)
        folders = [path]
        while folders and (maxdepth is None or maxdepth > 0):

            def listed(folder: str) -> list[Details]:
                try:
                    return self.ls(folder, refresh=refresh)
                except FileNotFoundError:
                    return []

            entries = [one for below in beside(parts_lane(), listed, folders) for one in below]
            folders = [one["name"] for one in entries if one["type"] == "directory"]
            found.update({one["name"]: one for one in entries if withdirs or one["type"] == "file"})
            maxdepth = None if maxdepth is None else maxdepth - 1
        return {name: found[name] for name in sorted(found)} if detail else sorted(found)

    def du(
        self,
        path: str,
        total: bool = True,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the bytes below a path, or those of each file."""
        below = self.find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True, **kwargs)
        sizes = {name: entry["size"] for name, entry in below.items()}
        return sum(sizes.values()) if total else sizes

    def created(self, path: str) -> datetime | None:
        """Return when a file or folder was made."""
        return self._moment(path, "x-ms-file-creation-time")

    def modified(self, path: str) -> datetime | None:
        """Return when a file or folder was last written."""
        return self._moment(path, "x-ms-file-last-write-time")

    def _moment(self, path: str, header: str) -> datetime | None:
        found = self.info(path)
        share, name = self.share_of(found["name"])
        if share is None:
            return None
        is_folder = found["type"] == "directory"
        told = share.ask("look", lambda: share.plain.stat(name, is_folder=is_folder))
        return _moment(moment_of(told.get(header, "")))

    def ukey(self, path: str) -> str:
        """Return what stands for a file's version: another one has another."""
        return str(self.file_info(path)["etag"])

    def checksum(self, path: str) -> int:
        """Return the same as a number."""
        return int(hashlib.sha256(self.ukey(path).encode()).hexdigest(), 16)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget the listings of a path, of all above and below it; of all paths where None is given."""
        super().invalidate_cache(path)
        self._changes += 1
        if path is None:
            self.dircache.clear()
            return
        changed = f"{self._strip_protocol(path)}/".casefold()
        for listed in list(self.dircache):
            known = f"{listed}/".casefold()
            if not listed or known.startswith(changed) or changed.startswith(known):
                with contextlib.suppress(KeyError):  # another thread was quicker
                    del self.dircache[listed]


def _is_itself(entries: Iterable[Details], path: str) -> bool:
    return any(entry["name"] == path for entry in entries)


def _file(path: str, info: ObjectInfo) -> Details:
    return {
        "name": path,
        "size": info.size,
        "type": "file",
        "etag": info.etag,
        "mtime": _moment(info.modified),
    }


def _folder(path: str) -> Details:
    return {"name": path, "size": 0, "type": "directory"}


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
