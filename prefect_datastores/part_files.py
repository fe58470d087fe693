"""A file that is being written: it gets its name when it is whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path
from typing import Protocol

from prefect_datastores.disk import (
    NO_FOLLOW,
    NO_HARD_LINKS,
    Shown,
    read_attribute,
    refuse_folder,
    remove_attribute,
    reserve,
    set_attribute,
    translated,
)
from prefect_datastores.errors import ObjectExists, PartLost
from prefect_datastores.names import RelativePath
from prefect_datastores.workspaces import Workspace, new_name

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_ADVISES = hasattr(os, "posix_fadvise")  # not on macOS


class Around(Protocol):
    """The folder that a file is to be in, as far as the file asks for it."""

    mode: int
    """What a new file may be used for, as the umask has it."""

    def shown(self, path: tuple[str, ...]) -> Shown:
        """Return a path as people see it."""

    def open_place(self, path: RelativePath, *, create: bool = False) -> int | None:
        """Open the directory of a file."""

    def touch(self, directory: tuple[str, ...]) -> None:
        """Have a directory flushed with the others."""

    def forget_kept(self) -> None:
        """Open each directory anew."""


class PartFile:
    """One file being written; it has no name of its own until `publish`."""

    def __init__(
        self,
        folder: Around,
        path: RelativePath,
        directory: int | None,
        size: int,
        workspace: Workspace,
        taken: tuple[str, int] | None,
    ) -> None:
        """Make the file in the workspace, or go on with one; takes over the descriptor `directory`.

        It is that of the file's place; where there is none yet, it is made when the file is published.
        """
        self._folder, self._path, self._place = folder, path, directory
        self._workspace = workspace
        self._open = True
        self._sealed = self._flushed = False
        self._is_taken = taken is not None
        try:
            self.name, self.fd = taken or self._new()
        except BaseException:
            if directory is not None:
                os.close(directory)
            raise
        if taken is None:
            try:
                reserve(self.fd, size)
            except BaseException:
                self.discard()
                raise

    def _directory(self) -> int:
        if self._place is None:
            self._place = self._folder.open_place(self._path, create=True)
        assert self._place is not None
        return self._place

    def _new(self) -> tuple[str, int]:
        name = self._workspace.new_part()
        return name, self._workspace.open_new(name)

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """Write all of `data` at `offset`; several threads may write different places.

        Raises:
            LocalDiskFull: the disk is full.
        """
        with translated(self._folder.shown(self._path)):
            while data:
                written = os.pwrite(self.fd, data, offset)
                data, offset = data[written:], offset + written

    def read_at(self, offset: int, size: int) -> bytes:
        """Read back what was written, to digest it."""
        with translated(self._folder.shown(self._path)):
            return os.pread(self.fd, size, offset)

    def read_into(self, offset: int, memory: memoryview) -> bool:
        """Fill the memory with what was written at `offset`; tell whether there is as much."""
        with translated(self._folder.shown(self._path)):
            return os.preadv(self.fd, [memory], offset) == len(memory)

    def clone(self, source: int) -> bool:
        """Share the content of another file of the same disk, where the disk can; tell whether it does."""
        try:
            fcntl.ioctl(self.fd, _FICLONE, source)
        except OSError:
            return False
        return True

    def link_to(self, path: str) -> bool:
        """Give the file one more name, in place of any that is there; tell whether the disk can."""
        try:
            try:
                os.link(self.name, path, src_dir_fd=self._workspace.fd)
            except FileExistsError:
                Path(path).unlink(missing_ok=True)
                os.link(self.name, path, src_dir_fd=self._workspace.fd)
        except OSError as error:
            if error.errno in NO_HARD_LINKS:
                return False
            raise
        return True

    def seal(
        self,
        modified: int | None = None,
        *,
        read_only: bool = False,
        attribute: bytes | None = None,
    ) -> None:
        """Give the file its mode, and its time in nanoseconds; nothing is written after that.

        `attribute` is kept with it beside its content, and read by `read_attribute`.

        Raises:
            TransferError: the disk does not keep that much beside a file.
        """
        with translated(self._folder.shown(self._path)):
            mode = self._folder.mode
            if attribute is not None:
                set_attribute(self.fd, attribute, self._folder.shown(self._path))
            elif self._is_taken:  # whose writer may have kept something
                remove_attribute(self.fd)
            os.fchmod(self.fd, mode & 0o555 if read_only else mode)
            if modified is not None:
                os.utime(self.fd, ns=(modified, modified))
        self._sealed = True

    def begin_flush(self) -> None:
        """Have the disk begin with the file.

        Where it has begun with all of some files before the first is flushed, and none gets its name
        meanwhile, that flush brings the others along: 0.25 ms for a file of 4 KiB on ext4, where
        one after another takes 0.6 ms.
        """
        if _ADVISES:
            with contextlib.suppress(OSError):
                # What is on the disk needs no memory, so the kernel begins to write the rest.
                os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def flush(self) -> None:
        """Return when the disk has all that was written."""
        if self._flushed:
            return
        if not self._sealed:
            self.seal()
        with translated(self._folder.shown(self._path)):
            os.fsync(self.fd)
        self._flushed = True

    def publish(self, *, replace: bool) -> None:
        """Flush the file and give it its name in one step; the old file stands until then.

        The directory is flushed by `Folder.flush`, once for all its files.

        Raises:
            ObjectExists: the name is taken and `replace` is not set.
        """
        shown, name = self._folder.shown(self._path), self._path[-1]
        try:
            self.flush()
            with translated(shown):
                if replace:
                    refuse_folder(name, self._directory(), shown)
                    self._rename(name)
                else:
                    self._publish_new(shown)
                self._folder.touch(self._path[:-1])
        except BaseException:
            self.discard()
            raise
        self._close()

    def _rename(self, name: str) -> None:
        source, directory = self._workspace.fd, self._directory()
        try:
            os.rename(self.name, name, src_dir_fd=source, dst_dir_fd=directory)
        except FileNotFoundError as error:
            raise self._lost() from error
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy_over(name)

    def _lost(self) -> PartLost:
        where = self._folder.shown(self._path)
        self._folder.forget_kept()  # it may be the directory that is gone
        return PartLost(f"The unfinished {where} was taken away while it was written.")

    def _copy_over(self, name: str) -> None:
        """Give the file its name on another disk, which a folder below the root may be."""
        beside = new_name()
        fd = os.open(
            beside, os.O_CREAT | os.O_EXCL | os.O_RDWR | NO_FOLLOW, 0o600, dir_fd=self._directory()
        )
        try:
            with os.fdopen(os.dup(self.fd), "rb") as read, os.fdopen(fd, "wb") as written:
                read.seek(0)
                shutil.copyfileobj(read, written, 2**20)
                written.flush()
                info = os.fstat(self.fd)
                os.fchmod(fd, stat.S_IMODE(info.st_mode))
                os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))
                if (attribute := read_attribute(self.fd, self.name)) is not None:
                    set_attribute(fd, attribute, self._folder.shown(self._path))
                os.fsync(fd)
            os.rename(beside, name, src_dir_fd=self._directory(), dst_dir_fd=self._directory())
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=self._directory())
            raise
        os.unlink(self.name, dir_fd=self._workspace.fd)

    def _publish_new(self, shown: object) -> None:
        name, directory = self._path[-1], self._directory()
        try:
            # A hard link fails when the name is taken; a rename would replace it.
            os.link(self.name, name, src_dir_fd=self._workspace.fd, dst_dir_fd=directory)
        except FileExistsError as error:
            refuse_folder(name, directory, shown)
            raise ObjectExists(f"{shown} exists already.") from error
        except FileNotFoundError as error:
            raise self._lost() from error
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            self._reserve_name(shown)
            self._rename(name)
            return
        os.unlink(self.name, dir_fd=self._workspace.fd)

    def _reserve_name(self, shown: object) -> None:
        """Take the name with an empty file where there are no hard links (SMB, exFAT, some FUSE)."""
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | NO_FOLLOW
        try:
            os.close(os.open(self._path[-1], flags, 0o600, dir_fd=self._directory()))
        except FileExistsError as error:
            raise ObjectExists(f"{shown} exists already.") from error

    def discard(self) -> None:
        """Remove the part file; nothing of it remains."""
        if self._open:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.name, dir_fd=self._workspace.fd)
            self._close()

    def leave(self) -> None:
        """Let go of the part file, and keep it for a transfer that goes on with it."""
        if self._open:
            self._workspace.keep()
            self._close()

    def _close(self) -> None:
        self._open = False
        os.close(self.fd)
        if self._place is not None:
            os.close(self._place)
