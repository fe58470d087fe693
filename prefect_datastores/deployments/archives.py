"""A snapshot as one file: the same bytes for the same content, and never believed before it was compared.

It is a ZIP archive without compression, so that its bytes depend on the content alone (no version of a
library has a say in them), and so that what it unpacks to is never larger than itself.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prefect_datastores.disk import local_error
from prefect_datastores.errors import (
    DatastoreError,
    IntegrityError,
    NameCollision,
    SourceChanged,
)
from prefect_datastores.names import RelativePath

_STEP = 2**20
_NO_TIME = (1980, 1, 1, 0, 0, 0)  # the first that the format can tell
_UNIX = 3
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PLAIN, _EXECUTABLE = 0o644, 0o755


@dataclass(frozen=True)
class Snapshot:
    """What a source directory held: known by `digest`, whenever and wherever it was taken."""

    digest: str
    files: int
    bytes: int


@dataclass(frozen=True)
class Member:
    """One file of a snapshot: its name, and where its content is read."""

    name: str
    path: Path


class _Digest:
    """SHA-256 over modes, lengths, contents and names, in the order of whole names."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256(b"prefect-datastores snapshot 1\n")
        self.files = self.bytes = 0

    def add(self, name: str, executable: bool, size: int, content: bytes) -> None:
        self.files, self.bytes = self.files + 1, self.bytes + size
        mode = _EXECUTABLE if executable else _PLAIN
        self._digest.update(f"{mode:o} {size} {content.hex()} {name}\0".encode())

    def snapshot(self) -> Snapshot:
        return Snapshot(self._digest.hexdigest(), self.files, self.bytes)


def pack(members: Iterable[Member], archive: Path) -> Snapshot:
    """Write files into a new archive and return what it holds; times and owners leave no trace.

    Of permissions, whether the owner may execute the file is kept.

    Raises:
        UnsafeName: a name that no store may see.
        SourceChanged: a file changed while it was read.
        AccessError, LocalDiskFull: a file cannot be read, or the archive not be written.
    """
    digest = _Digest()
    with (
        _named(archive),
        _opened(archive, 0o600) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as written,
    ):
        for member in sorted(members, key=lambda member: member.name):
            with _named(member.path):
                _add(written, member, digest)
    return digest.snapshot()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except DatastoreError:
        raise
    except OSError as error:
        raise local_error(error, path) from error


def _add(written: zipfile.ZipFile, member: Member, digest: _Digest) -> None:
    name, content = str(RelativePath(member.name)), hashlib.sha256()
    # Nothing waits for the other end of what became a FIFO meanwhile.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(member.path, flags), "rb") as file:
        before = os.fstat(file.fileno())
        executable = bool(before.st_mode & stat.S_IXUSR)
        info = zipfile.ZipInfo(name, _NO_TIME)
        info.create_system, info.file_size = _UNIX, before.st_size
        mode = _EXECUTABLE if executable else _PLAIN
        info.external_attr = (stat.S_IFREG | mode) << 16
        size = 0
        with written.open(info, "w") as target:
            while chunk := file.read(_STEP):
                content.update(chunk)
                size += target.write(chunk)
        after = os.fstat(file.fileno())
    if size != before.st_size or _version(after) != _version(before):
        raise SourceChanged(f"{member.path} changed while it was read. Run it again.")
    digest.add(name, executable, size, content.digest())


def _version(info: os.stat_result) -> tuple[int, int, int, bool]:
    return info.st_ino, info.st_size, info.st_mtime_ns, stat.S_ISREG(info.st_mode)


def unpack(archive: Path, digest: str, folder: Path) -> Snapshot:
    """Give `folder`, which is new, the content of an archive, once it is known to be that of `digest`.

    Nothing is written outside of a new folder beside it, which gets its name when all of it is there
    and was compared; so nobody sees a part of a snapshot, or another one.

    Raises:
        IntegrityError: the archive is damaged, or holds something else; nothing of it is left.
        UnsafeName, NameCollision: a name in it cannot be a file here; nothing of it is left.
        AccessError, LocalDiskFull: the folder cannot be written.
    """
    with _named(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        found = _unpacked(archive, aside)
        if found.digest != digest:
            raise IntegrityError(
                f"The archive {archive.name} is not the snapshot {digest[:12]}: its content has the digest "
                f"{found.digest[:12]}. Deploy again, which replaces it."
            )
        with _named(folder):
            aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return found


def _unpacked(archive: Path, aside: Path) -> Snapshot:
    digest = _Digest()
    damaged = f"The archive {archive.name} is damaged"
    try:
        with archive.open("rb") as file, zipfile.ZipFile(file) as opened:
            for info in opened.infolist():
                mode = info.external_attr >> 16
                plain = not info.flag_bits & 1 and info.compress_type == zipfile.ZIP_STORED
                if not plain or not stat.S_ISREG(mode):
                    raise IntegrityError(f"{damaged}: {info.filename!r} is no plain file.")
                with opened.open(info) as source:
                    _take(source, info.filename, bool(mode & stat.S_IXUSR), aside, digest)
    except DatastoreError:
        raise
    except Exception as error:  # noqa: BLE001 - what `zipfile` says of bytes that are none has many types
        raise IntegrityError(f"{damaged}: {error}. Deploy again, which replaces it.") from None
    return digest.snapshot()


def _take(source: IO[bytes], name: str, executable: bool, aside: Path, digest: _Digest) -> None:
    # The name was checked, the folder is new and has no link in it: there is no way out of it.
    place = aside.joinpath(*RelativePath(name))
    content, size = hashlib.sha256(), 0
    with _named(place):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            target = _opened(place, 0o777 if executable else 0o666)
        except (FileExistsError, NotADirectoryError):
            raise NameCollision(
                f"{name!r} and another file of the snapshot would be one on this disk. Rename one of them."
            ) from None
    with target:
        while chunk := source.read(_STEP):
            content.update(chunk)
            with _named(place):
                size += target.write(chunk)
        with _named(place):
            target.flush()
    digest.add(name, executable, size, content.digest())


def _opened(path: Path, mode: int) -> IO[bytes]:
    return os.fdopen(os.open(path, _NEW, mode), "wb")
