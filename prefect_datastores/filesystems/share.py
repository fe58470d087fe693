"""Azure file shares as a file system of fsspec."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from glob import has_magic
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractFileSystem
from fsspec.utils import isfilelike

from prefect_datastores.errors import (
    ConfigurationError,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    SourceChanged,
)
from prefect_datastores.filesystems.content import ShareContent
from prefect_datastores.filesystems.files import ShareFile
from prefect_datastores.filesystems.lanes import PART, beside, files_lane
from prefect_datastores.filesystems.places import os_error


class AzureFileShareFileSystem(ShareContent):
    """The file shares of a storage account; used by many threads at once.

    A file is read from one version, and written whole or not at all; a copy is made by the
    service, and a move is a rename.
    """

    # -- writing -----------------------------------------------------------------------------------

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ShareFile:
        return ShareFile(
            self, path, mode, block_size, autocommit, cache_options=cache_options, **kwargs
        )

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Store bytes as a file; with `mode="create"` only where none is."""
        with self.open(path, "xb" if mode == "create" else "wb", **kwargs) as file:
            file.write(value)

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        """Make an empty file; with `truncate=False` one that is there is only marked as written now."""
        path = self._strip_protocol(path)
        if truncate or not self.exists(path):
            self.pipe_file(path, b"", **kwargs)
            return
        share, name = self.place(self.file_info(path)["name"])
        now = {"x-ms-file-last-write-time": "now"}
        share.ask("touch", lambda: share.plain.describe(name, now))
        self.invalidate_cache(path)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Have the service copy a file, of one version, whole or not at all; of a folder, make the folder.

        Raises:
            SourceChanged: it changed while it was copied.
        """
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        info = self.info(path1)
        if info["type"] == "directory":
            self.makedirs(path2, exist_ok=True)
            return
        (share, name), (to_share, to) = self.place(path1), self.place(path2)
        writing = to_share.plain.begin_growing(to)
        source = share.plain.service.signed_url(name)
        try:
            to_share.ask("copy", lambda: writing.begin_as(source, info["size"]))
            if self.info(path1).get("etag") != info["etag"]:
                raise SourceChanged(f"{path1} changed while it was copied.")
            to_share.ask("commit", writing.commit)
        except (ObjectExists, PlaceTaken):
            writing.abort()
            code = errno.EISDIR if self.isdir(path2) else errno.ENOTDIR
            raise os_error(code, path2) from None
        except BaseException:
            writing.abort()
            raise
        self.invalidate_cache(path2)

    # -- many files -----------------------------------------------------------------------------

    def get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Fetch files and folders, many at once."""
        pairs = self._pairs("get", rpath, lpath, recursive=recursive, maxdepth=maxdepth)
        self._each(self.get_file, pairs, callback, kwargs)

    def put(
        self,
        lpath: Any,
        rpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Store files and folders, many at once."""
        pairs = self._pairs("put", lpath, rpath, recursive=recursive, maxdepth=maxdepth)
        self._each(self.put_file, pairs, callback, kwargs)

    def copy(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        on_error: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Have the service copy files and folders, many at once.

        `on_error="ignore"`, the default with `recursive`, leaves out what vanishes meanwhile.
        """
        ignores = (on_error or ("ignore" if recursive else "raise")) == "ignore"

        def copy_one(pair: tuple[str, str]) -> None:
            with contextlib.suppress(*([FileNotFoundError] if ignores else [])):
                self.cp_file(*pair, **kwargs)

        pairs = self._pairs("copy", path1, path2, recursive=recursive, maxdepth=maxdepth)
        beside(files_lane(), copy_one, pairs)

    def _pairs(self, method: str, one: Any, other: Any, **kwargs: Any) -> list[tuple[Any, Any]]:
        """Return from where to where each file goes, by fsspec's own rules for the paths of a copy.

        They need a name before the first slash, so paths in one share are made those of the account.
        """
        pairs: list[tuple[Any, Any]] = []
        planner = self._of_account()
        for name in ("get_file", "put_file", "cp_file"):
            setattr(planner, name, lambda source, to, **_: pairs.append((source, to)))
        if method != "put":
            one = self._in_account(one)
        if method != "get":
            other = self._in_account(other)
        getattr(AbstractFileSystem, method)(planner, one, other, **kwargs)
        return [
            (
                source if method == "put" else self._in_share(source),
                to if method == "get" else self._in_share(to),
            )
            for source, to in pairs
        ]

    def _each(
        self,
        move: Callable[..., None],
        pairs: list[tuple[Any, Any]],
        callback: Any,
        kwargs: dict[str, Any],
    ) -> None:
        callback.set_size(len(pairs))

        def move_one(pair: tuple[Any, Any]) -> None:
            with callback.branched(*pair) as child:
                move(*pair, callback=child, **kwargs)
            callback.relative_update(1)

        beside(files_lane(), move_one, pairs)

    def get_file(
        self,
        rpath: str,
        lpath: Any,
        callback: Any = DEFAULT_CALLBACK,
        outfile: Any = None,
        **_: Any,
    ) -> None:
        """Fetch a file of one version, compared with its MD5; a local file is whole or as it was."""
        path = self._strip_protocol(rpath)
        outfile = lpath if outfile is None and isfilelike(lpath) else outfile
        try:
            share, name = target = self.place(path)
            info = share.store.head(name)
        except (ObjectNotFound, IsADirectoryError):
            if self.info(path)["type"] != "directory" or outfile is not None:
                raise os_error(errno.EISDIR, path) from None
            Path(lpath).mkdir(parents=True, exist_ok=True)
            return
        callback.set_size(info.size)
        with _whole(lpath) if outfile is None else contextlib.nullcontext(outfile) as out:
            for part in self.stream(target, info):
                out.write(part)
                callback.relative_update(len(part))

    def put_file(
        self,
        lpath: Any,
        rpath: str,
        callback: Any = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        """Store a local file, whole or not at all; of a folder, make the folder."""
        source = Path(lpath)
        if source.is_dir():
            self.makedirs(rpath, exist_ok=True)
            return
        with source.open("rb") as content:
            callback.set_size(os.fstat(content.fileno()).st_size)
            with self.open(rpath, "xb" if mode == "create" else "wb", **kwargs) as out:
                while part := content.read(PART):
                    out.write(part)
                    callback.relative_update(len(part))

    # -- moving ---------------------------------------------------------------------------------

    def mv(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Give files and folders another name, each in one step; a file that is there is replaced.

        What goes to a folder that is there, goes into it. Between two shares it is copied and deleted.
        """
        if maxdepth is not None:
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)
            return
        are_two = isinstance(path1, str) and isinstance(path2, str)
        if are_two and (not has_magic(path1) or self.exists(path1)):
            source, to = self._strip_protocol(path1), self._strip_protocol(path2)
            is_other = source.casefold() != to.casefold()
            if is_other and (path2.endswith("/") or self.isdir(to)):
                to = "/".join(filter(None, (to, source.rpartition("/")[2])))
            self._move(source, to)
            return
        gone: list[str] = []
        for pair in self._pairs("copy", path1, path2, recursive=recursive):
            source, to = self._strip_protocol(list(pair))
            if not any(f"{source}/".startswith(folder) for folder in gone):  # it went along
                self._move(source, to)
                gone.append(f"{source}/")

    def _move(self, source: str, to: str) -> None:
        if source == to:
            return
        info = self.info(source)
        is_folder = info["type"] == "directory"
        (share, name), (to_share, target) = self.place(source), self.place(to)
        if share is not to_share:
            self.copy(source, to, recursive=is_folder, on_error="raise")
            self.rm(source, recursive=is_folder)
            return
        if f"{to}/".casefold().startswith(f"{source}/".casefold()):
            raise ConfigurationError(
                f"{source} cannot be moved to {to}: it would lie in itself, or names that differ only in the "
                "case of letters are one here."
            )
        stands = share.ask("look", lambda: share.plain.stat(name, is_folder=is_folder))
        file_id = stands.get("x-ms-file-id", "")

        def is_moved() -> bool:
            with contextlib.suppress(ObjectNotFound):
                there = share.plain.stat(target, is_folder=is_folder)
                return bool(file_id) and there.get("x-ms-file-id") == file_id
            return False

        def rename() -> None:
            share.plain.rename(name, target, replace=not is_folder, is_folder=is_folder)

        share.change("rename", rename, done=is_moved)
        self.invalidate_cache(source)
        self.invalidate_cache(to)


@contextlib.contextmanager
def _whole(lpath: Any) -> Iterator[BinaryIO]:
    """Give a file beside the local one, which takes its place when it is whole."""
    path = Path(lpath)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():  # a device, or a pipe
        with path.open("wb") as out:
            yield out
        return
    part = path.with_name(f".pds-{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as out:
            yield out
        part.replace(path.resolve() if path.is_symlink() else path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
