"""The files of a source directory, within limits, and the archive that holds them."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prefect_datastores.deployments.archives import Member, Snapshot, pack
from prefect_datastores.deployments.ignoring import IGNORE_FILES, Ignored, ignored_in
from prefect_datastores.disk import local_error
from prefect_datastores.errors import ConfigurationError, SnapshotTooLarge
from prefect_datastores.settings import SnapshotLimits
from prefect_datastores.staging.report import human_bytes, plural

_SHOWN = 5


@dataclass(frozen=True)
class _File:
    name: str
    path: Path
    size: int


def take_snapshot(
    directory: Path,
    archive: Path,
    limits: SnapshotLimits,
    *,
    at_the_top: Iterable[str] = (),
    needs: str = "",
    leave_out: Path | None = None,
) -> Snapshot:
    """Write the source files of a directory into a new archive; the same source gives the same digest.

    Left out is what the ignore file at its root says, and what is never source. A link to something
    in the directory is that file, or that folder; one that leads nowhere, or back to a folder that
    it is in, is left out. Empty folders are not kept. `at_the_top` are names at the root to leave out,
    `needs` is a file that must not be left out, and `leave_out` a folder that may lie in the directory
    and is none of it.

    Raises:
        ConfigurationError: the directory does not exist or has no file, or not the one that is needed;
            a link leads out of it, or something in it is no file.
        SnapshotTooLarge: it has more than the limits allow; the message says which files are large.
        SourceChanged, AccessError, UnsafeName: a file cannot be taken.
    """
    root = directory.expanduser().absolute()
    if not root.is_dir():
        raise ConfigurationError(f"The source directory {root} does not exist.")
    ignored = ignored_in(root, at_the_top)
    real = root.resolve()
    walk = _Walk(real, ignored, leave_out.resolve() if leave_out else None)
    files = list(walk.files(real, "", ()))
    if not files:
        left_out = f" that {ignored.file} leaves in" if ignored.file else ""
        raise ConfigurationError(f"The source directory {root} has no files{left_out}.")
    if needs and all(file.name != needs for file in files):
        raise ConfigurationError(
            f"{needs} would not be part of the snapshot of {root}: {ignored.file or 'its name'} leaves it out."
        )
    _check(root, files, limits, ignored)
    return pack((Member(file.name, file.path) for file in files), archive)


@dataclass(frozen=True)
class _Walk:
    root: Path
    ignored: Ignored
    leave_out: Path | None

    def files(self, folder: Path, shown: str, left: tuple[Path, ...]) -> Iterator[_File]:
        """Give what is in a folder; `left` are those in which a link led here."""
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise local_error(error, folder) from error
        for entry in found:
            name, path = f"{shown}{entry.name}", Path(entry.path)
            if entry.is_symlink():
                yield from self._linked(path, name, (*left, folder))
            elif entry.is_dir(follow_symlinks=False):
                if path != self.leave_out and not self.ignored.folder_is(name):
                    yield from self.files(path, f"{name}/", left)
            elif not self.ignored.file_is(name):
                yield _file(path, name)

    def _linked(self, path: Path, name: str, left: tuple[Path, ...]) -> Iterator[_File]:
        if self.ignored.file_is(name) or self.ignored.folder_is(name):
            return
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):  # it leads nowhere, or to itself
            return
        if self.leave_out is not None and target.is_relative_to(self.leave_out):
            return
        if not target.is_relative_to(self.root):
            raise ConfigurationError(
                f"The link {path} leads out of the source directory, to {target}, and only what is in the directory "
                f"becomes part of a snapshot. Copy it in, or name it in {self.ignored.file or IGNORE_FILES[0]}."
            )
        if not target.is_dir():
            yield _file(target, name)
        # A folder in which the link is would hold itself, and so would two that link to each other.
        elif not any(folder.is_relative_to(target) for folder in left):
            yield from self.files(target, f"{name}/", left)


def _file(path: Path, name: str) -> _File:
    try:
        info = path.stat(follow_symlinks=False)
    except OSError as error:
        raise local_error(error, path) from error
    if not stat.S_ISREG(info.st_mode):
        raise ConfigurationError(
            f"{path} is no file, and cannot be part of a snapshot. Name it in {IGNORE_FILES[0]}."
        )
    return _File(name, path, info.st_size)


def _check(root: Path, files: list[_File], limits: SnapshotLimits, ignored: Ignored) -> None:
    size = sum(file.size for file in files)
    if len(files) <= limits.files and size <= limits.bytes:
        return
    largest = sorted(files, key=lambda file: (-file.size, file.name))[:_SHOWN]
    shown = ", ".join(f"{file.name} ({human_bytes(file.size)})" for file in largest)
    folder, count = Counter(file.name.partition("/")[0] for file in files).most_common(1)[0]
    most = f" Most files are in {folder} ({count:,})." if count > 1 else ""
    raise SnapshotTooLarge(
        f"The source directory {root} has {plural(len(files), 'file')} of {human_bytes(size)} in all, and a snapshot "
        f"takes {limits.files:,} files of {human_bytes(limits.bytes)}. The largest: {shown}.{most} Name what is no "
        f"source in {root / (ignored.file or IGNORE_FILES[0])}, keep data in a datastore, or raise the limits by "
        "PREFECT_INTEGRATIONS_DATASTORES_SNAPSHOT_FILES and PREFECT_INTEGRATIONS_DATASTORES_SNAPSHOT_MEGABYTES.",
        largest=tuple((file.name, file.size) for file in largest),
    )
