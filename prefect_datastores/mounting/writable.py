"""What a mount that is written to answers to who asks for names and attributes, and changes them.

The service has each change when its answer is given: names at once, contents when a file is closed.
Within one folder the kernel asks for one change after the other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator

from prefect_datastores.errors import FolderNotEmpty, ObjectNotFound, UnsafeName
from prefect_datastores.mounting.answers import Answer
from prefect_datastores.mounting.faults import Faults, Refused
from prefect_datastores.mounting.folders import LONGEST, Listing
from prefect_datastores.mounting.kernel import FOREVER, Attributes, Change
from prefect_datastores.mounting.moving import move_folder
from prefect_datastores.mounting.statistics import Statistics
from prefect_datastores.mounting.working import File, Folder, Node, WorkingTree
from prefect_datastores.mounting.writing import Handle, Writing
from prefect_datastores.names import MAX_OBJECT_NAME, NameRules, ObjectName
from prefect_datastores.staging.generations import is_kept_for_publishing
from prefect_datastores.stores.base import ObjectInfo, ObjectStore
from prefect_datastores.workspaces import is_part

_NEW = ObjectInfo("", 0, "")
_NO_REPLACE = 1  # RENAME_NOREPLACE


class WritableOperations:
    """A file system over a store; used by many threads."""

    valid_seconds = FOREVER
    """All changes come through the kernel, which knows of them."""

    def __init__(
        self, store: ObjectStore, tree: WorkingTree, writing: Writing, statistics: Statistics
    ) -> None:
        """Serve a tree, and what is in its files."""
        self._store, self._tree, self._writing = store, tree, writing
        self._statistics, self.faults = statistics, Faults()
        self._owner, self._group, self._began = os.getuid(), os.getgid(), time.time()
        self._rules: NameRules | None = None

    # -- names and attributes -------------------------------------------------------------------

    def look_up(self, parent: int, name: bytes) -> Attributes | None:
        """Return what stands under a name, a lookup more; None where nothing does."""
        folder = self._folder(parent)
        if len(name) > LONGEST:
            raise Refused(errno.ENAMETOOLONG)
        node = self._children(folder).get(os.fsdecode(name))
        return self.attributes(self._tree.looked_up(node)) if node is not None else None

    def is_ready(self, folder: int) -> bool:
        """Tell whether a folder can be looked into at once."""
        node = self._node(folder)
        return isinstance(node, File) or node.children is not None

    def forget(self, number: int, lookups: int) -> None:
        """Take note that lookups were given back."""
        try:
            self._tree.forget(self._tree.node(number), lookups)
        except KeyError:
            return

    def stat(self, number: int) -> Attributes:
        """Return what is known of a node."""
        return self.attributes(self._node(number))

    def attributes(self, node: Node) -> Attributes:
        """Return what is known of a node."""
        owner, group = self._owner, self._group
        if isinstance(node, Folder):
            mode, modified = stat.S_IFDIR | node.mode, node.modified or self._began
            return Attributes(node.id, mode, 0, modified, 2, owner, group)
        mode, links = stat.S_IFREG | node.mode, int(node.is_linked)
        return Attributes(node.id, mode, node.size, node.time or self._began, links, owner, group)

    def listing(self, number: int) -> Listing:
        """Return what a folder holds."""
        children = self._children(self._folder(number))
        return {name: None if isinstance(node, Folder) else _NEW for name, node in children.items()}

    def entry(self, folder: int, name: str, listing: Listing) -> Attributes | None:
        """Return what a listing showed under a name, a lookup more; None where it is gone."""
        node = self._children(self._folder(folder)).get(name)
        if node is None or isinstance(node, Folder) != (listing[name] is None):
            return None
        return self.attributes(self._tree.looked_up(node))

    def parent(self, number: int) -> Attributes:
        """Return the folder above; of the root, the root."""
        folder = self._folder(number)
        return self.attributes(folder.parent or folder)

    def room(self) -> tuple[int, int, int]:
        """Return bytes in all, free bytes, and files: of the disk on which a file lies until it is closed."""
        total, free = self._writing.room()
        return total, free, self._statistics.to_dict()["files_listed"]

    def change(self, number: int, wanted: Change) -> Attributes:
        """Give a node other attributes; all but the length are for as long as it is mounted."""
        node = self._node(number)
        if wanted.owner not in {None, self._owner} or wanted.group not in {None, self._group}:
            raise Refused(errno.EPERM)
        if wanted.size is not None:
            self._resize(node, wanted.size)
        if wanted.mode is not None:
            node.mode = stat.S_IMODE(wanted.mode)
        if wanted.modified is not None:
            node.modified = wanted.modified
        return self.attributes(node)

    def _resize(self, node: Node, size: int) -> None:
        if isinstance(node, Folder):
            raise Refused(errno.EISDIR)
        self._check_thawed(node.parent, single=node)
        with self.faults.told(f"give another length to {node.object_name!r}"):
            self._writing.resize(node, size)

    # -- making and removing --------------------------------------------------------------------

    def create(
        self, parent: int, name: bytes, mode: int, *, exclusive: bool
    ) -> tuple[Attributes, int]:
        """Make a file that the service has once it is closed; return it, a lookup more, and its handle."""
        folder = self._folder(parent)
        found = self._children(folder).get(os.fsdecode(name))
        if found is not None and (exclusive or isinstance(found, Folder)):
            raise Refused(errno.EEXIST)
        self._check_thawed(folder)
        file = found if isinstance(found, File) else self._new_file(folder, name, mode)
        self._tree.looked_up(file)
        return self.attributes(file), self._writing.open(file, writes=True)

    def make_file(self, parent: int, name: bytes, mode: int) -> Attributes:
        """Make an empty file, a lookup more."""
        if not stat.S_ISREG(mode):
            raise Refused(errno.EPERM)
        file = self._new_file(self._folder(parent), name, mode)
        try:
            with self.faults.told(f"make {file.object_name!r}"), self._writing.using(file):
                self._writing.store(file)
        except Refused:
            self._tree.unlink(file)
            self._writing.forget(file)
            raise
        return self.attributes(self._tree.looked_up(file))

    def _new_file(self, folder: Folder, name: bytes, mode: int) -> File:
        text = self._new_name(folder, name)
        file = self._tree.new_file(folder, text, None)
        try:
            with self.faults.told(f"make {file.object_name!r}"):
                self._writing.begin(file)
        except Refused:
            self._tree.unlink(file)
            raise
        file.mode = stat.S_IMODE(mode)
        folder.modified = time.time()
        return file

    def make_folder(self, parent: int, name: bytes, mode: int) -> Attributes:
        """Make a folder, a lookup more."""
        above = self._folder(parent)
        text = self._new_name(above, name)
        with self._writing.gate.passing(), self.faults.told(f"make the folder {text!r}"):
            self._store.make_folder(ObjectName(above.prefix + text))
            made = self._tree.new_folder(above, text)
        made.children, made.stands, made.mode = {}, True, stat.S_IMODE(mode)
        above.modified = made.modified = time.time()
        return self.attributes(self._tree.looked_up(made))

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a file; who has it open goes on with it."""
        folder, file = self._folder(parent), self._found(parent, name)
        if isinstance(file, Folder):
            raise Refused(errno.EISDIR)
        self._check_thawed(folder)
        with self.faults.told(f"remove {file.object_name!r}"):
            self._writing.hold(file)
            with self._writing.gate.passing(), file.lock:
                self._leave_standing(folder)
                self._delete(file)
                self._tree.unlink(file)
        self._writing.forget(file)
        folder.modified = time.time()

    def _delete(self, file: File) -> None:
        """Delete what the service has of a file, if that is what it was when it was seen."""
        if file.info is None:
            return
        with contextlib.suppress(ObjectNotFound):
            self._store.delete(ObjectName(file.object_name), pin=file.info.etag)
        file.info = None

    def remove_folder(self, parent: int, name: bytes) -> None:
        """Remove a folder with nothing in it."""
        above, folder = self._folder(parent), self._found(parent, name)
        if isinstance(folder, File):
            raise Refused(errno.ENOTDIR)
        self._check_thawed(above)
        if self._children(folder):
            raise Refused(errno.ENOTEMPTY)
        with (
            self._writing.gate.passing(),
            self.faults.told(f"remove the folder {folder.object_name!r}"),
        ):
            self._leave_standing(above)
            self._remove_empty(folder)
            self._tree.unlink(folder)
        above.modified = time.time()

    def _remove_empty(self, folder: Folder) -> None:
        try:
            self._store.remove_empty_folder(ObjectName(folder.object_name))
        except ObjectNotFound:  # it was no more than the beginning of names
            pass
        except FolderNotEmpty:
            folder.children = None  # somebody else put something there
            raise Refused(errno.ENOTEMPTY) from None

    def _leave_standing(self, folder: Folder) -> None:
        """See that a folder outlives the last name in it, which is to go."""
        if folder.stands or self._store.capabilities.has_folders or folder.children is None:
            return
        if len(folder.children) == 1 and folder.object_name:
            self._store.make_folder(ObjectName(folder.object_name))
            folder.stands = True

    # -- other names ----------------------------------------------------------------------------

    def rename(self, parent: int, name: bytes, to: int, new: bytes, flags: int = 0) -> None:
        """Give a file or folder another name; a file that stands there is replaced by the whole of it."""
        if flags & ~_NO_REPLACE:
            raise Refused(errno.EINVAL)
        folder, place, node = self._folder(parent), self._folder(to), self._found(parent, name)
        standing = self._children(place).get(os.fsdecode(new))
        if standing is node:
            return
        if standing is not None and flags & _NO_REPLACE:
            raise Refused(errno.EEXIST)
        text = self._new_name(place, new, besides=standing)
        self._check_thawed(folder)
        if isinstance(node, File):
            self._rename_file(node, folder, place, text, standing)
        else:
            self._rename_folder(node, folder, place, text, standing)
        folder.modified = place.modified = time.time()

    def _rename_file(
        self, file: File, folder: Folder, place: Folder, text: str, standing: Node | None
    ) -> None:
        if isinstance(standing, Folder):
            raise Refused(errno.EISDIR)
        with self.faults.told(f"rename {file.object_name!r}"):
            if standing is not None:
                self._writing.hold(standing)
            with self._writing.gate.passing(), _locked(file, standing):
                if folder is not place:
                    self._leave_standing(folder)
                self._move(file, ObjectName(place.prefix + text), standing)
                if standing is not None:
                    self._tree.unlink(standing)
                    standing.info = None
                self._tree.rename(file, place, text)
        if standing is not None:
            self._writing.forget(standing)

    def _move(self, file: File, to: ObjectName, standing: File | None) -> None:
        """Have the service move what it has of a file; of one that it has not yet, only the name is another."""
        there = standing.info if standing is not None else None
        if file.info is None:
            file.info = there
            return
        file.info = self._store.move(
            ObjectName(file.object_name),
            to,
            pin=file.info.etag,
            replaces=there.etag if there is not None else None,
            if_absent=there is None,
        )

    def _rename_folder(
        self, node: Folder, folder: Folder, place: Folder, text: str, standing: Node | None
    ) -> None:
        if isinstance(standing, File):
            raise Refused(errno.ENOTDIR)
        if standing is not None and self._children(standing):
            raise Refused(errno.ENOTEMPTY)
        name, to = ObjectName(node.object_name), ObjectName(place.prefix + text)
        with self._writing.gate.alone(), self.faults.told(f"rename the folder {name!r}"):
            if folder is not place:
                self._leave_standing(folder)
            moved = move_folder(self._store, name, to)
            if standing is not None:
                self._tree.unlink(standing)
            self._tree.rename(node, place, text)
            self._tree.renamed_below(node, moved)

    # -- files ----------------------------------------------------------------------------------

    def open(self, number: int, flags: int) -> int:
        """Open a file."""
        file = self._node(number)
        if isinstance(file, Folder):
            raise Refused(errno.EISDIR)
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        if writes:
            self._check_thawed(file.parent, single=file)
        return self._writing.open(file, writes=writes)

    def read(self, handle: int, offset: int, size: int, answer: Answer) -> None:
        """Give what is at a place in an open file to `answer`, at once or later."""
        self._handle(handle)
        self._writing.read(handle, offset, size, answer)

    def write(self, handle: int, offset: int, data: memoryview, *, wait: bool) -> bool:
        """Write at a place in an open file; False where that takes time, and is not waited for."""
        file = self._handle(handle).file
        with self.faults.told(f"write to {file.object_name!r}"):
            if wait:
                self._writing.write(file, offset, data)
                return True
            return self._writing.write_at_once(file, offset, data)

    def allocate(self, handle: int, offset: int, size: int, mode: int) -> None:
        """Have room for a range of an open file."""
        if mode:
            raise Refused(errno.EOPNOTSUPP)
        file = self._handle(handle).file
        with self.faults.told(f"make room for {file.object_name!r}"):
            self._writing.allocate(file, offset, size)

    def flush(self, handle: int) -> None:
        """Have the service store what was written by a handle that is being closed."""
        opened = self._handle(handle)
        if opened.writes:
            self._store_now(opened.file, synced=False)

    def sync(self, handle: int) -> None:
        """Have the service store what was written; nothing of it is lost by a power cut from then on."""
        self._store_now(self._handle(handle).file, synced=True)

    def _store_now(self, file: File, *, synced: bool) -> None:
        if file.is_changed:
            with self.faults.told(f"store {file.object_name!r}"):
                self._writing.store(file, synced=synced)

    def close(self, handle: int) -> None:
        """Close a file."""
        self._writing.close(handle)

    # -- what stands in the way -----------------------------------------------------------------

    def _node(self, number: int) -> Node:
        try:
            return self._tree.node(number)
        except KeyError:
            raise Refused(errno.ESTALE) from None

    def _folder(self, number: int) -> Folder:
        node = self._node(number)
        if isinstance(node, File):
            raise Refused(errno.ENOTDIR)
        return node

    def _children(self, folder: Folder) -> dict[str, Node]:
        if folder.children is None:
            with self.faults.told(f"list {folder.prefix!r}"):
                return self._tree.children(folder)
        return folder.children

    def _found(self, parent: int, name: bytes) -> Node:
        node = self._children(self._folder(parent)).get(os.fsdecode(name))
        if node is None:
            raise Refused(errno.ENOENT)
        return node

    def _handle(self, number: int) -> Handle:
        try:
            return self._writing.handle(number)
        except KeyError:
            raise Refused(errno.EBADF) from None

    @staticmethod
    def _check_thawed(folder: Folder, *, single: File | None = None) -> None:
        if folder.is_frozen and not (single is not None and folder.holds_one):
            raise Refused(errno.EROFS)

    def _new_name(self, folder: Folder, name: bytes, *, besides: Node | None = None) -> str:
        """Return a name that something new can have in a folder."""
        self._check_thawed(folder)
        if not folder.is_linked:
            raise Refused(errno.ENOENT)
        if len(name) > LONGEST:
            raise Refused(errno.ENAMETOOLONG)
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise Refused(errno.EILSEQ) from None
        if is_part(text) or is_kept_for_publishing((text,)):
            raise Refused(errno.EPERM)
        whole = folder.prefix + text
        if len(whole) > MAX_OBJECT_NAME:
            raise Refused(errno.ENAMETOOLONG)
        rules = self._name_rules()
        try:
            ObjectName(whole)
        except UnsafeName:
            raise Refused(errno.EINVAL) from None
        if rules.path_fault(whole.split("/")) is not None:
            raise Refused(errno.EINVAL)
        if self._standing(folder, text, rules) - {None, besides}:
            raise Refused(errno.EEXIST)
        return text

    def _standing(self, folder: Folder, text: str, rules: NameRules) -> set[Node | None]:
        """Return what the service takes for what has a name, by whatever name it is known."""
        children = self._children(folder)
        if rules.case_sensitive and not rules.normalizes_unicode:
            return {children.get(text)}
        key = rules.key(text)
        return {node for name, node in children.items() if rules.key(name) == key}

    def _name_rules(self) -> NameRules:
        if self._rules is None:
            with self.faults.told("ask for the rules of names"):
                self._rules = self._store.name_rules()
        return self._rules


@contextlib.contextmanager
def _locked(*files: File | None) -> Iterator[None]:
    """Hold the locks of files, in the order in which everybody takes them."""
    with contextlib.ExitStack() as held:
        for file in sorted(filter(None, files), key=lambda one: one.id):
            held.enter_context(file.lock)
        yield
