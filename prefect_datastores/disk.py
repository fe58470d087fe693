"""What the local disk refuses, said in our errors, and what it keeps of a file beside its content."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
from pathlib import Path
from typing import NamedTuple

from prefect_datastores.errors import (
    AccessError,
    DatastoreError,
    LocalDiskFull,
    ObjectNotFound,
    PlaceTaken,
    TransferError,
    UnsafeName,
)

NO_HARD_LINKS = {
    *(errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV),
}
"""What a disk says that gives no file another name, or not this one."""

NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC
"""How each file is opened."""

_WORTH_RESERVING = 64 * 1024  # bytes; a smaller file is written as quickly as reserved
_ATTRIBUTE = "user.prefect_datastores.properties"
_HAS_ATTRIBUTES = hasattr(os, "setxattr")  # not on macOS
_NO_ATTRIBUTE = {errno.ENODATA, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}
_TOO_LONG = {errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EDQUOT}


def descriptor_limit() -> int:
    """Return how many files and connections this process may have open; macOS gives 256."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**20 if limit == resource.RLIM_INFINITY else limit


def local_error(error: OSError, path: object) -> DatastoreError:
    """Translate an error of the local disk into one of ours that names the path."""
    reason = error.strerror or type(error).__name__
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return LocalDiskFull(f"No room for {path}: {reason}. Free some space, then run it again.")
    if error.errno == errno.EFBIG:
        return LocalDiskFull(f"No file of that size can be at {path}: {reason}.")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return AccessError(f"The local path {path} cannot be used: {reason}.")
    if error.errno == errno.ENOENT:
        return ObjectNotFound(f"The local path {path} does not exist.")
    if error.errno == errno.ELOOP:
        return UnsafeName(f"A symbolic link stands at {path}; it is not followed.")
    return TransferError(f"The local path {path} failed: {reason}.")


def read_attribute(fd: int, path: object) -> bytes | None:
    """Return what was kept with a file beside its content, or None."""
    if not _HAS_ATTRIBUTES:
        return None
    try:
        return os.getxattr(fd, _ATTRIBUTE)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTE:
            return None
        raise local_error(error, path) from error


def set_attribute(fd: int, value: bytes, shown: object) -> None:
    """Keep something with a file beside its content.

    Raises:
        TransferError: the disk does not keep that much.
    """
    try:
        os.setxattr(fd, _ATTRIBUTE, value)
    except OSError as error:
        if error.errno not in _TOO_LONG | _NO_ATTRIBUTE:
            raise
        raise TransferError(
            f"{shown} has {len(value)} bytes of properties, and its disk does not keep them with it "
            f"({error.strerror}): ext4 keeps about 4 KiB, XFS and btrfs more. Use another disk, or leave "
            "keep_properties out for this object."
        ) from error


def remove_attribute(fd: int) -> None:
    """Keep nothing with a file beside its content."""
    if _HAS_ATTRIBUTES:
        with contextlib.suppress(OSError):
            os.removexattr(fd, _ATTRIBUTE)


def keeps_attribute(fd: int) -> bool:
    """Find out by trying whether the disk keeps something with a file beside its content."""
    if not _HAS_ATTRIBUTES:
        return False
    try:
        os.setxattr(fd, _ATTRIBUTE, b"?")
        return os.getxattr(fd, _ATTRIBUTE) == b"?"
    except OSError as error:
        if error.errno in {*_NO_ATTRIBUTE, errno.EPERM, errno.EACCES}:
            return False
        raise


class Shown(NamedTuple):
    """A path in a message; made a text only where there is one."""

    root: Path
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.root.joinpath(*self.parts))


class translated:  # noqa: N801 - used as a statement, many times for each file: a generator takes longer
    """Raises our errors in place of those of the disk."""

    __slots__ = ("_path",)

    def __init__(self, path: object) -> None:
        """Name what the errors are about."""
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, DatastoreError):
            raise local_error(error, self._path) from error


def refuse_folder(name: str, directory: int, shown: object) -> None:
    """Return unless what stands at a name can never give way to a file."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            raise PlaceTaken(f"A folder stands at {shown}, where a file is to be written.")
        if stat.S_ISLNK(mode):
            raise UnsafeName(f"A symbolic link stands at {shown}; it is not replaced or followed.")


def reserve(fd: int, size: int) -> None:
    """Reserve the blocks now, so that a full disk shows before the first byte."""
    if size < _WORTH_RESERVING:
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except (AttributeError, OSError) as error:
        # macOS has no posix_fallocate; some file systems refuse it: then only the length is set.
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        os.ftruncate(fd, size)
