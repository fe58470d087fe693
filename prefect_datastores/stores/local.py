"""A local folder as a store: the same promises as a service's, without one.

The ETag is made from inode, length and time of change, so that any rewrite is another version.
The MD5 is not kept anywhere, so reads are verified by length only and reports say so.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from prefect_datastores.disk import local_error
from prefect_datastores.errors import (
    ContainerNotFound,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    SourceChanged,
    UnsafeName,
)
from prefect_datastores.files import Folder
from prefect_datastores.names import NameRules, ObjectName, RelativePath
from prefect_datastores.part_files import PartFile
from prefect_datastores.stores.base import (
    NO_EXTRAS,
    Capabilities,
    Extras,
    FolderInfo,
    Later,
    NoComponents,
    NoProperties,
    ObjectInfo,
    Page,
    check_extras,
)
from prefect_datastores.stores.moving import both, check_move
from prefect_datastores.workspaces import is_part

Result = TypeVar("Result")


def _etag(info: os.stat_result) -> str:
    return f'"{info.st_ino:x}-{info.st_size:x}-{info.st_mtime_ns:x}-{info.st_ctime_ns:x}"'


def _info(name: str, info: os.stat_result) -> ObjectInfo:
    return ObjectInfo(name, info.st_size, _etag(info), modified=info.st_mtime)


class LocalStore(NoComponents, NoProperties):
    """Objects are the regular files below `root`; empty folders are markers; links are not seen."""

    # Each page walks the folder anew, so one page holds all but the largest.
    capabilities = Capabilities(
        kind="local",
        page_size=1_000_000,
        is_remote=False,
        has_folders=True,
        moves_in_one_step=True,
        keeps_times=True,
    )

    def __init__(self, root: Path) -> None:
        """Name the folder; nothing is touched before the first use."""
        self.root = Path(root).expanduser().absolute()
        self.url = self.root.as_uri()
        self._opened: Folder | None = None
        self._opening = threading.Lock()
        self._swaps: bool | None = None
        self._committing = [threading.Lock() for _ in range(64)]

    def _folder(self) -> Folder:
        with self._opening:
            if self._opened is None:
                try:
                    self._opened = Folder(self.root)
                except ObjectNotFound as error:
                    raise self._missing() from error
            return self._opened

    def _missing(self) -> ContainerNotFound:
        return ContainerNotFound(
            f"The folder {self.root} does not exist. Make it, or register the datastore with "
            "create_if_not_exists=True."
        )

    def committing(self, name: ObjectName) -> threading.Lock:
        """Return the lock under which a name is looked at and then given to another version."""
        return self._committing[hash(name) % len(self._committing)]

    def name_rules(self) -> NameRules:
        """Ask the disk by trying."""
        return self._folder().rules()

    def create_root(self) -> None:
        """Make the folder unless it exists."""
        Folder(self.root, create=True).close()

    def check_root(self) -> None:
        """Raise unless the folder exists and can be listed."""
        self._folder()
        try:
            os.scandir(self.root).close()
        except FileNotFoundError as error:
            raise self._missing() from error
        except OSError as error:
            raise local_error(error, self.root) from error

    def check_write(self, name: ObjectName) -> None:
        """Make a part file in the folder, and remove it."""
        self._folder().part_file(RelativePath(name.rpartition("/")[2]), 0).discard()

    def list_page(
        self, prefix: str, *, marker: str | None = None, recursive: bool = True, limit: int = 5000
    ) -> Page:
        """Return one page in name order."""
        objects: list[ObjectInfo] = []
        folders: list[str] = []
        last = ""
        start = prefix.rpartition("/")[0]
        for info in self._walk(RelativePath(start) if start else (), recursive, marker):
            if not info.name.startswith(prefix) or (marker is not None and info.name <= marker):
                continue
            if len(objects) + len(folders) == limit:
                return Page(tuple(objects), tuple(folders), last)
            if not recursive and info.is_marker:
                folders.append(info.name.removesuffix("/"))
            else:
                objects.append(info)
            last = info.name
        if not last:
            self.check_root()  # nothing is there; that is so only where the root is
        return Page(tuple(objects), tuple(folders))

    def _walk(
        self, start: tuple[str, ...], recursive: bool, marker: str | None
    ) -> Iterator[ObjectInfo]:
        """Walk in the order of whole names, as a flat service lists them.

        A folder sorts by its name with a `/`, so `a.txt` comes before what is in `a/`.
        """
        shown = "/".join(start) + "/" if start else ""
        try:
            found = self._folder().entries(start)
        except (ObjectNotFound, PlaceTaken, UnsafeName):  # gone, or a file or a link by now
            return
        keyed = {
            name + "/" if stat.S_ISDIR(info.st_mode) else name: info
            for name, info in found
            if not is_part(name)
        }
        for key in sorted(keyed):
            name = shown + key
            if stat.S_ISREG(keyed[key].st_mode):
                yield _info(name, keyed[key])
            elif not key.endswith("/"):
                continue
            elif not recursive:
                yield ObjectInfo(name, 0, "", is_marker=True)
            elif marker is None or not (name < marker and not marker.startswith(name)):
                yield from self._walk((*start, key[:-1]), recursive, marker)
        if not keyed and start and recursive:
            yield ObjectInfo(shown, 0, "", is_marker=True)

    def head(self, name: ObjectName) -> ObjectInfo:
        """Return what is known of one file."""
        fd = self._open(name)
        try:
            return _info(name, os.fstat(fd))
        finally:
            os.close(fd)

    def _etag_of(self, name: ObjectName) -> str:
        """Return the version of a file, "" where there is none."""
        found = self._standing(name)
        return found.etag if found is not None else ""

    def _open(self, name: ObjectName) -> int:
        path = RelativePath(name)
        found = self._folder().stat(path)
        if found is None or not stat.S_ISREG(found.st_mode):
            raise ObjectNotFound(f"{self.url} has no object {name!r}.")
        return self._folder().open_read(path)

    def read_into(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> None:
        """Fill `buffer` from one version."""
        fd = self._open(name)
        try:
            done = 0
            while done < len(buffer):
                got = os.preadv(fd, [buffer[done:]], offset + done)
                if not got:
                    break
                done += got
            if pin is not None and _etag(os.fstat(fd)) != pin:
                raise SourceChanged(f"{self.url}/{name} changed while it was read.")
            if done != len(buffer):
                raise IntegrityError(f"{self.url}/{name} ended at byte {offset + done}.")
        except OSError as error:
            if isinstance(error, (SourceChanged, IntegrityError)):
                raise
            raise local_error(error, self.root / name) from error
        finally:
            os.close(fd)

    def begin_read(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> Later[None]:
        """Read when it is wanted: no answer is waited for."""
        return Later(lambda: self.read_into(name, offset, buffer, pin=pin))

    def begin_write(
        self,
        name: ObjectName,
        size: int,
        *,
        replaces: str | None = None,
        if_absent: bool = False,
        extras: Extras = NO_EXTRAS,
    ) -> _LocalWriting:
        """Begin a file: its bytes go to a part file beside it."""
        check_extras(self, extras)
        part = self._folder().part_file(RelativePath(name), size)
        return _LocalWriting(self, name, part, size, replaces, if_absent, extras.modified)

    def delete(self, name: ObjectName, *, pin: str | None = None) -> None:
        """Delete one file."""
        info = self.head(name)
        if pin is not None and info.etag != pin:
            raise SourceChanged(f"{self.url}/{name} is another version than the one to delete.")
        folder = self._folder()
        folder.remove(RelativePath(name))
        folder.flush()

    def move(
        self,
        name: ObjectName,
        to: ObjectName,
        *,
        pin: str | None = None,
        replaces: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """Rename a file, which is another version by that; versions are compared before, under locks of this process.

        Raises:
            TransferError: the names are on two disks.
        """
        with both(self.committing(name), self.committing(to)):
            source = self.head(name)
            stands = self._standing(to) if replaces is not None or if_absent else None
            where = f"{self.url}/{to}"
            check_move(where, source, stands, pin=pin, replaces=replaces, if_absent=if_absent)
            folder = self._folder()
            if name != to:
                folder.move(RelativePath(name), RelativePath(to), if_absent=if_absent)
        folder.flush()
        return self.head(to)

    def _standing(self, name: ObjectName) -> ObjectInfo | None:
        """Return what is known of a file; None where there is none."""
        try:
            return self.head(name)
        except ObjectNotFound:
            return None

    def make_folder(self, name: ObjectName) -> bool:
        """Make a folder, and those above it."""
        folder = self._folder()
        is_new = folder.make_directory(RelativePath(name))
        folder.flush()
        return is_new

    def remove_empty_folder(self, name: ObjectName) -> None:
        """Remove a folder in which nothing is."""
        folder = self._folder()
        folder.remove_empty_folder(RelativePath(name))
        folder.flush()

    def swaps_folders(self) -> bool:
        """Ask the disk by trying."""
        if self._swaps is None:
            self._swaps = self._folder().swaps_folders()
        return self._swaps

    def move_folder(
        self, name: ObjectName, to: ObjectName, *, over: tuple[ObjectName, str] | None = None
    ) -> None:
        """Rename a folder, or exchange two."""
        folder, path, place = self._folder(), RelativePath(name), RelativePath(to)
        with folder.alone_in(place[:-1]):
            if over is not None and self._etag_of(over[0]) != over[1]:
                raise ObjectExists(f"{self.url}/{to} was replaced by somebody else.")
            folder.move_folder(path, place, swap=over is not None)
        folder.flush()

    def remove_folder(self, name: ObjectName) -> None:
        """Remove a folder with all below it."""
        folder = self._folder()
        folder.remove_folder(RelativePath(name))
        folder.flush()

    def folder_info(self, name: ObjectName, *, properties: bool) -> FolderInfo:
        """Return the time of a folder's last change; it has no properties."""
        info, _ = self._of_folder(name, self._folder().directory)
        return FolderInfo(info.st_mtime_ns / 1e9)

    def give_folder(self, name: ObjectName, extras: Extras) -> None:
        """Give a folder its time."""
        check_extras(self, extras)
        describe = self._folder().describe_directory
        self._of_folder(name, lambda path: describe(path, extras.modified))

    def _of_folder(self, name: ObjectName, act: Callable[[RelativePath], Result]) -> Result:
        """Do something to a folder; a file of the name is none."""
        try:
            return act(RelativePath(name))
        except PlaceTaken:
            raise ObjectNotFound(f"{self.url}/{name} is a file, and no folder.") from None

    def interrupt(self) -> None:
        """Do nothing: a call to the disk cannot be broken."""

    def close(self) -> None:
        """Let go of the folder."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


class _LocalWriting:
    token = ""  # a part file is gone with its writer

    def make_ready(self) -> None:
        pass

    def token_after(self, token: str) -> str:
        return token

    def take_over(self, token: str, parts: Mapping[int, int]) -> Collection[int]:
        return ()

    def keep_part(self, index: int, length: int, token: str) -> None:
        raise NotImplementedError

    def __init__(
        self,
        store: LocalStore,
        name: ObjectName,
        part: PartFile,
        size: int,
        replaces: str | None,
        if_absent: bool,
        modified: int | None,
    ) -> None:
        self._store, self._name, self._part, self._size = store, name, part, size
        self._replaces, self._if_absent, self._modified = replaces, if_absent, modified
        self._written: dict[int, int] = {}

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        self._part.write_at(offset, data)
        self._written[index] = len(data)

    def commit(self, digest: bytes) -> ObjectInfo:
        if sum(self._written.values()) != self._size:
            self.abort()
            raise IntegrityError(f"{self._store.url}/{self._name} was not written whole.")
        self._part.seal(self._modified)
        with self._store.committing(self._name):
            if self._replaces is not None:
                self._expect(self._replaces)
            self._part.publish(replace=not self._if_absent)
        self._store._folder().flush()  # noqa: SLF001 - one room, two classes
        return self._store.head(self._name)

    def begin_commit(self, digest: bytes) -> Later[ObjectInfo]:
        return Later(lambda: self.commit(digest))

    def _expect(self, etag: str) -> None:
        if self._store._etag_of(self._name) != etag:  # noqa: SLF001
            self.abort()
            raise ObjectExists(f"{self._store.url}/{self._name} was written by somebody else.")

    def abort(self, *, keep: bool = False) -> None:
        self._part.discard()
