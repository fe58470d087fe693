"""Finds the local files of an upload, and what cannot be one."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prefect_datastores.disk import local_error
from prefect_datastores.errors import ConfigurationError, UnsafeName
from prefect_datastores.names import NameCheck, NameRules, RelativePath, matcher
from prefect_datastores.staging.plan import SourceFile, source_files
from prefect_datastores.staging.report import ObjectRow
from prefect_datastores.staging.spool import Spool
from prefect_datastores.workspaces import is_part


@dataclass
class Source:
    """Files below `root` in the order of their whole names, and rows for what is there but is not transferred.

    `folders` are those with nothing in them, by names that nobody looked at yet.
    """

    root: Path
    files: Spool[SourceFile] = field(default_factory=source_files)
    folders: Spool[str] = field(default_factory=lambda: Spool(str, str))
    ignored: list[ObjectRow] = field(default_factory=list)

    def keep(self, wanted: Callable[[SourceFile], bool]) -> None:
        """Leave out all files but the wanted ones."""
        files, self.files = self.files, source_files()
        for file in filter(wanted, files):
            self.files.append(file)

    def ignore(self, relative: str, why: str) -> None:
        """Take note of something that will not be transferred."""
        self.ignored.append(ObjectRow(relative, relative, 0, "ignored", detail=why))


def folder_source(root: Path, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> Source:
    """Find every regular file below `root`, hidden ones too.

    A link to a file below `root` is that file under the link's name; any other link, and every
    socket, FIFO or device, is reported and not followed.

    Raises:
        ConfigurationError: `root` is no folder.
        UnsafeName: a file has a name that no store may see.
        AccessError: a folder cannot be read; it is not taken for an empty one.
    """
    if not root.is_dir():
        what = "is a file; use upload_files for files" if root.exists() else "does not exist"
        raise ConfigurationError(f"The source folder {root} {what}.")
    source, match, check = Source(root), matcher(include, exclude), NameCheck(NameRules())
    for relative, path in _walk(root, "", matcher((), exclude)):
        is_empty_folder = relative.endswith("/")
        if not match.match(relative.rstrip("/")):
            continue
        if is_part(path.name):
            source.ignore(relative, "what an interrupted transfer left")
            continue
        try:
            if is_empty_folder:
                source.folders.append(relative[:-1])
            else:
                _take(source, relative, path)
        except UnsafeName as fault:
            check.refuse(fault)
    check.raise_faults("the source")
    return source


def _walk(folder: Path, shown: str, wanted: re.Pattern[str]) -> Iterator[tuple[str, Path]]:
    """Give what is there in the order of whole names: a folder sorts by its name with a `/`.

    A folder is given itself, by that name, where nothing is in it. Into one that is left out with all
    below it nobody looks.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                f"{entry.name}/" if _is_folder(entry) else entry.name for entry in entries
            )
    except OSError as error:
        raise local_error(error, folder) from error
    if not found and shown:
        yield shown, folder
    for name in found:
        if name.endswith("/"):
            if wanted.match(f"{shown}{name[:-1]}"):
                yield from _walk(folder / name[:-1], f"{shown}{name}", wanted)
        else:
            yield f"{shown}{name}", folder / name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and not is_part(entry.name)


def _take(source: Source, relative: str, path: Path) -> None:
    is_link = False
    try:
        info = path.lstat()
        is_link = stat.S_ISLNK(info.st_mode)
        opened = RelativePath(relative)
        if is_link:
            target, root = path.resolve(strict=True), source.root.resolve()
            if not target.is_file() or not target.is_relative_to(root):
                source.ignore(relative, "a link that does not lead to a file below the source")
                return
            opened, info = RelativePath(target.relative_to(root).as_posix()), target.stat()
        elif not stat.S_ISREG(info.st_mode):
            source.ignore(relative, "not a regular file")
            return
        source.files.append(SourceFile(opened, RelativePath(relative), info.st_size))
    except (OSError, RuntimeError) as error:
        if is_link:  # RuntimeError: a loop of links, Python 3.12 and before
            source.ignore(relative, "a link that leads nowhere")
        elif isinstance(error, OSError):
            raise local_error(error, path) from error
        else:
            raise


def files_source(files: Iterable[str | Path], relative_root: str | Path | None) -> Source:
    """Take the given files; their names are relative to `relative_root`, or to their common folder.

    Raises:
        ConfigurationError: one is missing, is no file, or lies outside of `relative_root`.
    """
    paths = [Path(file).absolute() for file in files]
    for path in paths:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise ConfigurationError(f"The file {path} {what}.")
    if relative_root is not None:
        root = Path(os.path.normpath(Path(relative_root).absolute()))
    elif paths:
        root = Path(os.path.commonpath([path.parent for path in paths]))
    else:
        root = Path.cwd()
    source = Source(root)
    for path in paths:
        normal = Path(os.path.normpath(path))
        if not normal.is_relative_to(root):
            raise ConfigurationError(f"The file {path} does not lie below relative_root {root}.")
        relative = RelativePath(normal.relative_to(root).as_posix())
        info = path.stat()
        opened = relative
        if stat.S_ISLNK(path.lstat().st_mode):
            resolved = path.resolve()
            if not resolved.is_relative_to(root.resolve()):
                raise ConfigurationError(
                    f"The file {path} is a link out of {root}; name the file itself."
                )
            opened = RelativePath(resolved.relative_to(root.resolve()).as_posix())
        source.files.append(SourceFile(opened, relative, info.st_size))
    return source
