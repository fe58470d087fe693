"""Files below one folder, written whole or not at all, and never outside of it.

A `Folder` is opened once; every file in it is reached component by component relative to that
handle and without following symbolic links, so that neither a listed name nor a link planted in
the folder (before or during a transfer) leads elsewhere. A file appears under its name only when
it is complete: `PartFile` is written in the transfer's workspace and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect_datastores.disk import (
    NO_FOLLOW,
    NO_HARD_LINKS,
    Shown,
    keeps_attribute,
    read_attribute,
    refuse_folder,
    set_attribute,
    translated,
)
from prefect_datastores.errors import (
    FolderNotEmpty,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    UnsafeName,
)
from prefect_datastores.names import NameRules, RelativePath
from prefect_datastores.part_files import PartFile
from prefect_datastores.renames import can_exchange, exchange, rename_to_new
from prefect_datastores.workspaces import Abandoned, Workspace, abandoned, is_part, new_name

_KEPT = 16  # directories whose handles are kept for the next file in them


def _read_umask() -> int:
    """Read the umask without setting it, which other threads would see."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


class Folder:
    """A local folder held by a descriptor; all access goes below it and follows no link."""

    def __init__(self, root: Path, *, create: bool = False) -> None:
        """Open `root`, making it first when `create` is set.

        Raises:
            ObjectNotFound: it does not exist and `create` is not set.
            AccessError: it cannot be made or opened.
        """
        self.root = root
        with translated(root):
            if create:
                root.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.mode = 0o666 & ~_read_umask()
        """What a new file may be used for."""
        self._touched: set[tuple[str, ...]] = set()
        self._lock = threading.Lock()
        self._workspace: Workspace | None = None
        self._lost: list[Workspace] = []
        self._kept: dict[tuple[str, ...], int] = {}

    def close(self) -> None:
        """Let go of the descriptor, and of the workspace unless something in it is kept."""
        for workspace in (self._workspace, *self._lost):
            if workspace is not None:
                workspace.close()
        self._workspace, self._lost = None, []
        self.forget_kept()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _directory(self, parts: tuple[str, ...], *, create: bool = False) -> Iterator[int]:
        if not parts:
            yield self._fd
            return
        fd = os.dup(self._fd)
        try:
            for depth, part in enumerate(parts, 1):
                fd, parent = self._step(fd, part, self.shown(parts[:depth]), create), fd
                os.close(parent)
            yield fd
        finally:
            os.close(fd)

    @staticmethod
    def _step(fd: int, part: str, shown: object, create: bool) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | NO_FOLLOW
        try:
            return os.open(part, flags, dir_fd=fd)
        except FileNotFoundError:
            if not create:
                raise
        except NotADirectoryError as error:
            # Linux answers ENOTDIR, not ELOOP, to O_DIRECTORY | O_NOFOLLOW on a link.
            if stat.S_ISLNK(os.stat(part, dir_fd=fd, follow_symlinks=False).st_mode):
                raise UnsafeName(
                    f"A symbolic link stands at {shown}; it is not followed."
                ) from error
            raise PlaceTaken(f"A file stands at {shown}, where a folder is needed.") from error
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, dir_fd=fd)
        return os.open(part, flags, dir_fd=fd)

    def shown(self, path: tuple[str, ...]) -> Shown:
        """Return the path as people know it; for messages, never for access."""
        return Shown(self.root, path)

    def stat(self, path: RelativePath) -> os.stat_result | None:
        """Return what stands at `path` itself (a link is not followed), or None."""
        try:
            with translated(self.shown(path)), self._directory(path[:-1]) as fd:
                return os.stat(path[-1], dir_fd=fd, follow_symlinks=False)
        except (ObjectNotFound, PlaceTaken):  # nothing there, or a file where a folder would be
            return None

    def is_empty(self) -> bool:
        """Tell whether nothing stands in the folder but what transfers keep for themselves."""
        # Opened anew: descriptors that `dup` made share one position in the directory.
        with translated(self.root):
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | NO_FOLLOW, dir_fd=self._fd)
            try:
                with os.scandir(fd) as entries:
                    return all(is_part(entry.name) for entry in entries)
            finally:
                os.close(fd)

    def entries(self, path: tuple[str, ...]) -> list[tuple[str, os.stat_result]]:
        """Return the names in a directory, and what stands at each (links are not followed).

        Raises:
            ObjectNotFound: nothing is there.
            PlaceTaken: a file is there.
            UnsafeName: a link is there, or above.
        """
        found = []
        with translated(self.shown(path)), self._directory(path) as shared:
            # Opened anew: descriptors that `dup` made share one position in the directory.
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | NO_FOLLOW, dir_fd=shared)
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        with contextlib.suppress(FileNotFoundError):
                            found.append((entry.name, entry.stat(follow_symlinks=False)))
            finally:
                os.close(fd)
        return found

    def open_read(self, path: RelativePath) -> int:
        """Open a regular file for reading; the caller closes the descriptor.

        Raises:
            ObjectNotFound: nothing is there.
            UnsafeName: a link or something that is no regular file is there.
        """
        with translated(self.shown(path)), self._directory(path[:-1]) as directory:
            # O_NONBLOCK: opening a FIFO would wait for a writer forever.
            fd = os.open(path[-1], os.O_RDONLY | os.O_NONBLOCK | NO_FOLLOW, dir_fd=directory)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise UnsafeName(f"{self.shown(path)} is not a regular file.")
        return fd

    def make_directory(self, path: RelativePath) -> bool:
        """Make the directory and those above it; tell whether it was not there."""
        is_new, shown = True, self.shown(path)
        with translated(shown), self._directory(path[:-1], create=True) as parent:
            try:
                os.mkdir(path[-1], dir_fd=parent)
            except FileExistsError:
                is_new = False
                os.close(self._step(parent, path[-1], shown, create=False))
            self.touch(path[:-1])
        return is_new

    def directory(self, path: RelativePath) -> tuple[os.stat_result, bytes | None]:
        """Return what the disk tells of a directory, and what is kept with it.

        Raises:
            ObjectNotFound: none is there.
        """
        with translated(self.shown(path)), self._directory(path) as fd:
            return os.fstat(fd), read_attribute(fd, self.shown(path))

    def describe_directory(
        self, path: RelativePath, modified: int | None = None, *, attribute: bytes | None = None
    ) -> None:
        """Give a directory its time in nanoseconds, and what is kept with it beside what it has.

        Raises:
            ObjectNotFound: none is there.
            TransferError: the disk does not keep that much beside a directory.
        """
        shown = self.shown(path)
        with translated(shown), self._directory(path) as fd:
            if attribute is not None:
                set_attribute(fd, attribute, shown)
            if modified is not None:
                os.utime(fd, ns=(modified, modified))

    def remove(self, path: RelativePath) -> None:
        """Remove one file.

        Raises:
            ObjectNotFound: nothing is there.
        """
        with translated(self.shown(path)), self._directory(path[:-1]) as fd:
            os.unlink(path[-1], dir_fd=fd)
            self.touch(path[:-1])

    def move(self, path: RelativePath, to: RelativePath, *, if_absent: bool) -> None:
        """Give a file another name, in place of a file that has it, unless `if_absent`; make the folders above it.

        It is one step, but where a disk can give no name that must be new: there both names are the
        file's for a moment.

        Raises:
            ObjectNotFound: nothing stands at `path`.
            ObjectExists: the name is taken, and was to be new.
            PlaceTaken: a folder stands at `to`, or a file where a folder is needed.
        """
        shown = self.shown(to)
        with (
            translated(shown),
            self._directory(path[:-1]) as source,
            self._directory(to[:-1], create=True) as target,
        ):
            refuse_folder(to[-1], target, shown)
            try:
                if if_absent:
                    self._move_to_new(path[-1], source, to[-1], target)
                else:
                    self._move_over(path, source, to, target)
            except FileExistsError as error:
                raise ObjectExists(f"{shown} exists already.") from error
            except IsADirectoryError as error:
                raise PlaceTaken(f"A folder stands at {shown}.") from error
            self.touch(path[:-1])
            self.touch(to[:-1])

    @staticmethod
    def _move_to_new(name: str, source: int, to: str, target: int) -> None:
        if rename_to_new(name, source, to, target):
            return
        try:
            os.link(name, to, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS or error.errno == errno.EXDEV:
                raise
            # An empty file takes the name, so that nobody else does; it gives way in one step.
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | NO_FOLLOW
            os.close(os.open(to, flags, 0o600, dir_fd=target))
            try:
                os.rename(name, to, src_dir_fd=source, dst_dir_fd=target)
            except BaseException:
                os.unlink(to, dir_fd=target)
                raise
            return
        os.unlink(name, dir_fd=source)

    @staticmethod
    def _move_over(path: RelativePath, source: int, to: RelativePath, target: int) -> None:
        os.rename(path[-1], to[-1], src_dir_fd=source, dst_dir_fd=target)
        # A rename of one name of a file to another of it does nothing.
        if _is_linked(path, source, to, target):
            os.unlink(path[-1], dir_fd=source)

    def swaps_folders(self) -> bool:
        """Find out by trying whether two folders can take each other's name in one step."""
        workspace = self.workspace()
        names = (workspace.new_part(), workspace.new_part())
        with translated(self.root):
            for name in names:
                os.mkdir(name, 0o700, dir_fd=workspace.fd)
            try:
                return can_exchange(workspace.fd, *names)
            finally:
                for name in names:
                    os.rmdir(name, dir_fd=workspace.fd)

    @contextmanager
    def alone_in(self, path: tuple[str, ...]) -> Iterator[None]:
        """Keep others out who ask for this folder in the same way, where the disk can; make it first."""
        with translated(self.shown(path)), self._directory(path, create=True) as shared:
            # Opened anew: a lock is its descriptor's, and not shared with other threads.
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | NO_FOLLOW, dir_fd=shared)
            try:
                with contextlib.suppress(OSError):  # a disk without locks
                    fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)

    def move_folder(self, path: RelativePath, to: RelativePath, *, swap: bool) -> None:
        """Give a folder another name in one step; with `swap`, what stands there gets the old one.

        An empty folder gives way. The folders above `to` are made.

        Raises:
            ObjectNotFound: nothing stands at `path`, or at `to` where they are to be swapped.
            PlaceTaken: something stands at `to`, and they are not to be swapped.
        """
        with (
            translated(self.shown(to)),
            self._directory(path[:-1]) as source,
            self._directory(to[:-1], create=not swap) as target,
        ):
            if swap:
                exchange(path[-1], source, to[-1], target)
            else:
                self._move(path[-1], source, to, target)
            self.touch(path[:-1])
            self.touch(to[:-1])
        self.forget_kept()  # a handle leads to where its folder is now

    def _move(self, name: str, source: int, to: RelativePath, target: int) -> None:
        try:
            os.rename(name, to[-1], src_dir_fd=source, dst_dir_fd=target)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
            raise PlaceTaken(f"Something stands at {self.shown(to)} already.") from error

    def remove_empty_folder(self, path: RelativePath) -> None:
        """Remove a folder in which nothing is.

        Raises:
            FolderNotEmpty: something is in it.
            ObjectNotFound: nothing is there, or no folder.
        """
        shown = self.shown(path)
        with translated(shown), self._directory(path[:-1]) as parent:
            try:
                os.rmdir(path[-1], dir_fd=parent)
            except NotADirectoryError as error:
                raise ObjectNotFound(f"{shown} is no folder.") from error
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                raise FolderNotEmpty(f"Something is in the folder {shown}.") from error
            self.touch(path[:-1])
        self.forget_kept()

    def remove_folder(self, path: RelativePath) -> None:
        """Remove a folder with all that is in it, following no link; nothing there is fine."""
        try:
            with translated(self.shown(path)), self._directory(path[:-1]) as parent:
                for _, folders, files, fd in os.fwalk(path[-1], topdown=False, dir_fd=parent):
                    for name in files:
                        os.unlink(name, dir_fd=fd)
                    for name in folders:
                        _remove_entry(name, fd)
                os.rmdir(path[-1], dir_fd=parent)
                self.touch(path[:-1])
        except ObjectNotFound:
            return
        finally:
            self.forget_kept()

    def workspace(self) -> Workspace:
        """Return the hidden folder of this transfer; it is made when it is first asked for.

        What a kill left here and nobody can go on with is removed then.
        """
        made = self._workspace
        if made is not None:  # so it is for all files but the first, and none waits for another
            return made
        with self._lock:
            if self._workspace is None:
                with self.abandoned() as left:
                    for other in left:
                        if other.journal() is None:
                            other.remove()
                with translated(self.root):
                    self._workspace = Workspace(self._fd)
            return self._workspace

    @contextmanager
    def abandoned(self) -> Iterator[list[Abandoned]]:
        """Give the workspaces that transfers left here which ended before their work did."""
        with translated(self.root), abandoned(self._fd) as found:
            yield found

    def part_file(
        self, path: RelativePath, size: int, taken: tuple[str, int] | None = None
    ) -> PartFile:
        """Open a part file for `path`, with room for `size` bytes.

        `taken` is the name and descriptor of one that was taken over into the workspace.

        Raises:
            LocalDiskFull: the disk has no room for it.
            PlaceTaken: a folder stands there, or a file where a folder is needed.
        """
        workspace = self.workspace()
        try:
            directory = self.open_place(path)
        except BaseException:
            if taken:
                os.close(taken[1])
            raise
        with translated(self.shown(path)):
            try:
                return PartFile(self, path, directory, size, workspace, taken)
            except FileNotFoundError:
                self._lose(workspace)
        return self.part_file(path, size)

    def _lose(self, workspace: Workspace) -> None:
        """Begin a new workspace: somebody who took this transfer for dead removed the one it had."""
        with self._lock:
            if self._workspace is workspace:
                self._lost.append(workspace)
                self._workspace = None

    def open_place(self, path: RelativePath, *, create: bool = False) -> int | None:
        """Open the directory where a file is to be; None where there is none yet."""
        shown, parts = self.shown(path), path[:-1]
        with translated(shown):
            with self._lock:
                kept = os.dup(self._kept[parts]) if parts in self._kept else None
            if kept is None:
                try:
                    with self._directory(parts, create=create) as directory:
                        kept = os.dup(directory)
                except FileNotFoundError:
                    if create:
                        raise
                    return None
                self._keep(parts, kept)
            try:
                refuse_folder(path[-1], kept, shown)
            except BaseException:
                os.close(kept)
                raise
            return kept

    def _keep(self, parts: tuple[str, ...], directory: int) -> None:
        """Keep a handle of a directory for the next file in it: a listing gives them together."""
        with self._lock:
            if parts not in self._kept:
                if len(self._kept) >= _KEPT:
                    os.close(self._kept.pop(next(iter(self._kept))))
                self._kept[parts] = os.dup(directory)

    def forget_kept(self) -> None:
        """Open each directory anew for the next file in it."""
        with self._lock:
            kept, self._kept = self._kept, {}
        for directory in kept.values():
            os.close(directory)

    def touch(self, directory: tuple[str, ...]) -> None:
        """Have a directory flushed with the others, as it got or lost a name."""
        # A flush takes the whole set away, so one that is in it is flushed after this.
        if directory not in self._touched:
            with self._lock:
                self._touched.add(directory)

    def flush(self) -> None:
        """Flush every directory that got or lost a name since the last flush."""
        with self._lock:
            touched, self._touched = self._touched, set()
        for directory in touched:
            # The folders above may be new as well; their names are flushed with them.
            for depth in range(len(directory), -1, -1):
                parts = directory[:depth]
                if depth < len(directory) and parts in touched:
                    break
                with (
                    contextlib.suppress(FileNotFoundError),
                    translated(Shown(self.root, parts)),
                    self._directory(parts) as fd,
                ):
                    os.fsync(fd)

    def rules(self) -> NameRules:
        """Find out by trying what this file system makes of case and of Unicode forms."""
        name, _, suffix = new_name().rpartition(".")
        probe, other_case, decomposed = (
            f"{name}{ending}.{suffix}" for ending in ("\u00e9a", "\u00e9A", "e\u0301a")
        )
        with translated(self.root):
            os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=self._fd))
            try:
                return NameRules(
                    case_sensitive=not self._has(other_case),
                    normalizes_unicode=self._has(decomposed),
                )
            finally:
                os.unlink(probe, dir_fd=self._fd)

    def keeps_attributes(self) -> bool:
        """Find out by trying whether something can be kept with a file beside its content."""
        probe = new_name()
        with translated(self.root):
            fd = os.open(
                probe, os.O_CREAT | os.O_EXCL | os.O_RDWR | NO_FOLLOW, 0o600, dir_fd=self._fd
            )
            try:
                return keeps_attribute(fd)
            finally:
                os.close(fd)
                os.unlink(probe, dir_fd=self._fd)

    def _has(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def free_bytes(self) -> int:
        """Return the bytes that this process may still write on the folder's disk."""
        usage = os.fstatvfs(self._fd)
        return usage.f_bavail * usage.f_frsize


def _is_linked(path: RelativePath, source: int, to: RelativePath, target: int) -> bool:
    """Tell whether two names, which are not one to a disk that knows no case, are those of one file."""
    if unicodedata.normalize("NFC", str(path)).casefold() == (
        unicodedata.normalize("NFC", str(to)).casefold()
    ):
        return False
    with contextlib.suppress(FileNotFoundError):
        one = os.stat(path[-1], dir_fd=source, follow_symlinks=False)
        other = os.stat(to[-1], dir_fd=target, follow_symlinks=False)
        return os.path.samestat(one, other)
    return False


def _remove_entry(name: str, directory: int) -> None:
    """Remove an empty folder, or a link to one."""
    if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=directory)
    else:
        os.rmdir(name, dir_fd=directory)
