"""Contents of a mount that is written to: read from the service or from a draft, changed in a draft, stored on close."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_datastores.disk import local_error
from prefect_datastores.errors import DatastoreError
from prefect_datastores.mounting.answers import Answer
from prefect_datastores.mounting.beside import Beside
from prefect_datastores.mounting.contents import Contents, Opened
from prefect_datastores.mounting.drafts import Desk, Draft
from prefect_datastores.mounting.gate import Gate
from prefect_datastores.mounting.pending import Drafts, Unstored
from prefect_datastores.mounting.smalls import SMALL
from prefect_datastores.mounting.statistics import Statistics
from prefect_datastores.mounting.storing import Sender
from prefect_datastores.mounting.working import File
from prefect_datastores.names import ObjectName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect_datastores.stores.base import ObjectInfo, ObjectStore

_log = logging.getLogger("prefect_datastores.mounting")
_AT_ONCE = 8
MOST_KEPT = 2**30
"""Bytes of drafts that are stored and stay for who reads them next."""
_TELL_SECONDS = 1.0


@dataclass(eq=False)
class Handle:
    """An open file."""

    file: File
    writes: bool
    opened: Opened | None = None
    """How a version is read of which there is no draft."""


class Writing:
    """What is in the files of one mount; used by many threads."""

    def __init__(
        self,
        store: ObjectStore,
        contents: Contents,
        drafts: Drafts,
        statistics: Statistics,
        *,
        most_kept: int = MOST_KEPT,
    ) -> None:
        """Begin with nothing changed."""
        self._store, self._contents, self._drafts = store, contents, drafts
        self._statistics, self._most_kept = statistics, most_kept
        self._desk, self._sender = Desk(drafts, store, contents), Sender()
        self._beside = Beside(contents)
        self.gate = Gate()
        """Passed by what changes one name at the service; what changes many is in it alone."""
        self._lock = threading.Lock()
        self._handles: dict[int, Handle] = {}
        self._next = 1
        self._kept: OrderedDict[int, File] = OrderedDict()
        self._kept_bytes = 0
        self._seen: set[int] = set()
        self._late = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pds-mount-store")

    # -- opening --------------------------------------------------------------------------------

    def open(self, file: File, *, writes: bool) -> int:
        """Return an open file."""
        self._use(file, writes=writes)
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._handles[number] = Handle(file, writes)
            is_first = file.id not in self._seen
            self._seen.add(file.id)
        self._statistics.opened(file.size, is_first=is_first)
        if is_first and not writes and file.draft is None and 0 < file.size <= SMALL:
            self._fetch_beside(file)
        return number

    def _fetch_beside(self, file: File) -> None:
        children = file.parent.children or {}

        def info_of(name: str) -> ObjectInfo | None:
            node = children.get(name)
            return node.info if isinstance(node, File) and node.draft is None else None

        self._beside.opened(
            file.parent.id,
            file.name,
            info_of,
            lambda: {name: info_of(name) for name in sorted(children)},
        )

    def handle(self, number: int) -> Handle:
        """Return an open file.

        Raises:
            KeyError: there is none of that number.
        """
        return self._handles[number]

    def close(self, number: int) -> None:
        """Close a file: what was written through a map after its descriptor was closed is stored now."""
        with self._lock:
            handle = self._handles.pop(number, None)
        if handle is None:
            return
        if handle.opened is not None:
            self._contents.close_file(handle.opened)
        self._leave(handle.file, writes=handle.writes)

    def _use(self, file: File, *, writes: bool) -> None:
        with self._lock:
            file.users += 1
            file.writers += writes
            if self._kept.pop(file.id, None) is not None and file.draft is not None:
                self._kept_bytes -= file.draft.size

    def _leave(self, file: File, *, writes: bool) -> None:
        gone: list[Draft] = []
        with self._lock:
            file.users -= 1
            file.writers -= writes
            if file.users or file.draft is None:
                is_left = file.is_changed and file.is_linked and not file.writers
            elif not file.is_linked:
                gone.append(file.draft)
                file.draft, is_left = None, False
            else:
                is_left = file.is_changed
                if not is_left:
                    gone += self._keep(file, file.draft)
        for draft in gone:
            draft.remove()
        if writes and is_left and file.fault is None:
            self._late.submit(self._store_late, file)

    def _keep(self, file: File, draft: Draft) -> list[Draft]:
        """Keep the draft of a file that is stored, for who reads it next; return those that go for it."""
        self._kept[file.id] = file
        self._kept_bytes += draft.size
        gone: list[Draft] = []
        while self._kept_bytes > self._most_kept:
            _, oldest = self._kept.popitem(last=False)
            if oldest.draft is not None:
                self._kept_bytes -= oldest.draft.size
                gone.append(oldest.draft)
                oldest.draft = None
        return gone

    def _make_room(self) -> bool:
        """Let go of all copies that are there to be read alone; tell whether there were any."""
        with self._lock:
            gone = [file.draft for file in self._kept.values() if file.draft is not None]
            for file in self._kept.values():
                file.draft = None
            self._kept.clear()
            self._kept_bytes = 0
        for draft in gone:
            draft.remove()
        return bool(gone)

    @contextmanager
    def using(self, file: File) -> Iterator[None]:
        """Keep what is in a file from being let go of meanwhile."""
        self._use(file, writes=False)
        try:
            yield
        finally:
            self._leave(file, writes=False)

    def forget(self, file: File) -> None:
        """Let go of what is kept of a file that has no name any more; who has it open keeps it."""
        with self._lock:
            draft = file.draft
            if file.users or draft is None:
                return
            if self._kept.pop(file.id, None) is not None:
                self._kept_bytes -= draft.size
            file.draft = None
        draft.remove()

    # -- reading and writing --------------------------------------------------------------------

    def read(self, number: int, offset: int, size: int, answer: Answer) -> None:
        """Give what is at a place to `answer`, at once or later."""
        handle = self._handles[number]
        file = handle.file
        draft = file.draft
        if draft is not None:
            answer([draft.read(offset, size)])
            return
        info = file.info
        if info is None:
            answer(())
            return
        try:
            opened = self._opened(handle, info)
        except DatastoreError as error:
            answer(error)
            return
        self._contents.read(opened, offset, size, answer)

    def _opened(self, handle: Handle, info: ObjectInfo) -> Opened:
        """Return how the version that a file is now is read."""
        opened = handle.opened
        if opened is None or opened.info is not info:
            if opened is not None:
                handle.opened = None
                self._contents.close_file(opened)
            opened = handle.opened = self._contents.open(info)
        return opened

    def write_at_once(self, file: File, offset: int, data: memoryview) -> bool:
        """Write where nobody has to be waited for; tell whether it is done.

        Raises:
            OSError: the disk is full.
        """
        if not file.lock.acquire(blocking=False):
            return False
        try:
            if file.draft is None:
                return False
            self._write(file, file.draft, offset, data)
            return True
        finally:
            file.lock.release()

    def write(self, file: File, offset: int, data: memoryview) -> None:
        """Write into an open file, once its content is here.

        Raises:
            OSError: the disk is full.
            DatastoreError: what was in it could not be had.
        """
        with file.lock:
            self._write(file, self._draft_of(file), offset, data)

    def _write(self, file: File, draft: Draft, offset: int, data: memoryview) -> None:
        self._change(file, draft)
        file.modified = time.time()
        try:
            draft.write(offset, data)
        except OSError as error:
            if error.errno != errno.ENOSPC or not self._make_room():
                raise
            draft.write(offset, data)

    @staticmethod
    def _change(file: File, draft: Draft) -> None:
        """Take note that a file is to have what the service does not, before it has."""
        if not file.is_changed:
            draft.change()
            file.is_changed = True

    def resize(self, file: File, size: int) -> None:
        """Give a file another length; of one that nobody has open to write, the service has it then.

        Raises:
            OSError, DatastoreError: as `write` and `store` say.
        """
        with self.using(file):
            with file.lock:
                file.modified = time.time()
                if file.size != size:
                    self._resize(file, size)
            if not file.writers:
                self.store(file)

    def _resize(self, file: File, size: int) -> None:
        is_new = file.draft is None
        draft = self._draft_of(file, nothing=size == 0)
        try:
            self._change(file, draft)
        except OSError:
            if is_new:  # it may be empty, and the file is not
                file.draft = None
                draft.remove()
            raise
        draft.truncate(size)

    def allocate(self, file: File, offset: int, size: int) -> None:
        """Make a file at least so long, and see that the disk has room for it.

        Raises:
            OSError, DatastoreError: as `write` says.
        """
        with file.lock:
            draft = self._draft_of(file)
            self._change(file, draft)
            draft.allocate(offset, size)

    def begin(self, file: File) -> None:
        """Give a new file its empty content.

        Raises:
            DatastoreError: the disk takes none.
        """
        file.draft, file.modified = self._desk.new(), time.time()
        self._change(file, file.draft)

    def hold(self, file: File) -> None:
        """Have the content of a file here that somebody has open, as the service will have none soon.

        Raises:
            DatastoreError: it could not be had.
        """
        if file.users:
            with file.lock:
                self._draft_of(file)

    def _draft_of(self, file: File, *, nothing: bool = False) -> Draft:
        """Return the draft of a file, with its content unless that is not wanted; its lock is held."""
        if file.draft is None:
            info = file.info
            draft = self._desk.new() if info is None or nothing else self._desk.copy_of(info)
            file.draft = draft
        return file.draft

    # -- storing --------------------------------------------------------------------------------

    def store(self, file: File, *, synced: bool = False) -> None:
        """Return when the service has a file as it is here; with `synced`, the disk has it before.

        Raises:
            DatastoreError: it does not. The draft stays, and is tried again at the end of the mount.
        """
        with self.gate.passing(), file.lock:
            draft = file.draft
            if draft is None or not (file.is_changed and file.is_linked):
                return
            try:
                self._store_draft(file, draft, synced=synced)
            except BaseException as error:
                file.fault = error
                raise
            file.is_changed, file.fault = False, None

    def _store_draft(self, file: File, draft: Draft, *, synced: bool) -> None:
        name, path = ObjectName(file.object_name), self._drafts.path(draft.number)
        replaces = file.info.etag if file.info is not None else ""
        try:
            if synced:
                draft.sync()
            self._drafts.begin(draft.number, name, replaces, synced=synced)
        except OSError as error:
            raise local_error(error, path) from error
        file.info = self._sender.send(self._store, path, name, file.info)
        self._statistics.stored(draft.size)
        self._drafts.end(draft.number)

    def _store_late(self, file: File) -> None:
        try:
            with self.using(file):
                self.store(file)
        except DatastoreError as error:
            _log.error("%r is not stored yet: %s", file.object_name, error)
        except BaseException:  # noqa: BLE001 - said, and tried again at the end
            _log.exception("%r is not stored yet.", file.object_name)

    def finish(
        self,
        files: list[File],
        seconds: float,
        tell: Callable[[int, int], None],
        *,
        is_free: bool,
    ) -> list[Unstored]:
        """Store what is not stored yet, for so long; return what could not be.

        `tell` hears now and then how many files and bytes are left. What somebody has open to
        write is not stored: nobody said that it is whole. Where it `is_free`, nobody has, though
        the kernel did not come to say so.
        """
        until = time.monotonic() + seconds
        waiting = {
            self._late.submit(self._store_late, file): file
            for file in files
            if file.is_changed and file.is_linked and (is_free or not file.writers)
        }
        left = set(waiting)
        while left and (rest := until - time.monotonic()) > 0:
            left = wait(left, min(rest, _TELL_SECONDS)).not_done
            if left:
                tell(len(left), sum(waiting[one].size for one in left))
        if left:
            self._sender.close()
            self._store.interrupt()
        return [
            Unstored(file.object_name, _reason(file, is_free), self._drafts.path(file.draft.number))
            for file in files
            if file.is_changed and file.is_linked and file.draft is not None
        ]

    def close_all(self, *, keep: bool) -> None:
        """Store nothing any more; with `keep`, leave the drafts for who stores them later."""
        self._late.shutdown(wait=False, cancel_futures=True)
        self._sender.close()
        self._drafts.close(keep=keep)

    def room(self) -> tuple[int, int]:
        """Return the bytes of the disk that drafts are on, in all and free."""
        found = os.statvfs(self._drafts.folder)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


def _reason(file: File, is_free: bool) -> str:
    if file.writers and not is_free:
        return "a program had it open to write, and did not close it"
    if file.fault is None:
        return "there was no time left to store it"
    return str(file.fault) if isinstance(file.fault, DatastoreError) else repr(file.fault)
