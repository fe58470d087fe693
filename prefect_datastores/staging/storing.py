"""Files on their way to a store: read once, committed whole while they hold still; small ones sent ahead."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future

from prefect_datastores.disk import local_error, read_attribute
from prefect_datastores.errors import (
    ObjectExists,
    PartLost,
    SourceChanged,
)
from prefect_datastores.files import Folder
from prefect_datastores.names import (
    ObjectName,
    RelativePath,
)
from prefect_datastores.staging.digest import md5_of_file
from prefect_datastores.staging.engine import Lanes
from prefect_datastores.staging.fetching import SMALL
from prefect_datastores.staging.keeping import NOTHING, Keep, from_attribute, to_microseconds
from prefect_datastores.staging.plan import (
    Overwrite,
    Send,
    SourceFile,
)
from prefect_datastores.staging.report import ObjectRow
from prefect_datastores.staging.resume import Resumption, Sending
from prefect_datastores.stores.base import (
    NO_EXTRAS,
    Extras,
    ObjectInfo,
    ObjectStore,
    Pending,
    Writing,
    part_size,
    stored_digest,
)

_OVERTAKEN = 3  # times that another writer of the same object may come first
_LOST = 10  # times that another process may take the part file of one object away


def store_file(
    store: ObjectStore,
    folder: Folder,
    path: RelativePath,
    name: ObjectName,
    lanes: Lanes,
    *,
    replaces: ObjectInfo | None,
) -> ObjectInfo:
    """Store one file of a folder whole: over the version `replaces`, or only where nothing is.

    Raises:
        ObjectExists: something else stands there.
        SourceChanged: the file was written to meanwhile.
        DatastoreError: the service failed.
    """
    sending = Storing(store, folder, "if_changed" if replaces else "fail", None, NOTHING)
    fd = folder.open_read(path)
    try:
        size = os.fstat(fd).st_size
        item = Send(SourceFile(path, path, size), name, "move", replaces)
        return sending.move(item, fd, lanes)
    finally:
        os.close(fd)


class Storing:
    """Stores the files of one upload, each as its plan says; used by many threads."""

    def __init__(
        self,
        store: ObjectStore,
        folder: Folder,
        overwrite: Overwrite,
        resumption: Resumption | None,
        keep: Keep,
    ) -> None:
        """Store nothing yet; without `resumption`, nothing that was begun is gone on with."""
        self._store, self._folder, self._overwrite = store, folder, overwrite
        self._resumption, self._failed = resumption, False
        self._keep = keep

    def __enter__(self) -> Storing:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._resumption is not None:
            self._resumption.close(finished=kind is None and not self._failed)

    def fail(self) -> None:
        """Take note that what is left is of use to the next transfer."""
        self._failed = True

    def begin(self, item: Send, lanes: Lanes) -> _Begun | None:
        """Send a small file, so that others can be sent before the service answers."""
        size, capabilities = item.source.size, self._store.capabilities
        if not capabilities.commits_ahead or item.verdict != "move" or self._keep.properties:
            return None
        if size > min(SMALL, capabilities.part_size):
            return None
        memory = lanes.memory.take_ahead(size)
        if memory is None:
            return None
        committing = None
        try:
            committing = self._begin_commit(item, memory, lanes)
        except BaseException:
            self._failed = True
            raise
        finally:
            if committing is None:
                lanes.memory.give_ahead(memory)
        return _Begun(self, item, lanes, memory, *committing) if committing is not None else None

    def _begin_commit(
        self, item: Send, memory: memoryview, lanes: Lanes
    ) -> tuple[Writing, Pending[ObjectInfo]] | None:
        """Read a file and send it, where it has the length that it had; its version does not change then."""
        fd = self._folder.open_read(item.source.path)
        try:
            before = os.fstat(fd)
            if before.st_size != len(memory):
                return None
            writing = self._begin(item, fd, before)
            digest = self._send_only_part(writing, item, fd, memory)
            self._check(item, fd, before, lanes)
        finally:
            os.close(fd)
        return writing, writing.begin_commit(digest)

    def send(self, item: Send, lanes: Lanes, begun: _Begun | None = None) -> ObjectRow:
        """Store a file; `begun` is what was sent already."""
        row = ObjectRow(
            item.name, str(item.source.relative), item.source.size, "moved", "md5", item.detail
        )
        if item.verdict == "keep":
            return row._replace(action="skipped", verified="")
        try:
            info = self._stored(item, lanes, begun)
        except ObjectExists as error:
            if self._overwrite == "skip":
                return row._replace(action="skipped", verified="", detail=str(error))
            raise
        if info is None:
            return row._replace(action="unchanged")
        return row._replace(size=info.size, verified="md5" if info.digest else "length")

    def _stored(self, item: Send, lanes: Lanes, begun: _Begun | None) -> ObjectInfo | None:
        """Return what is stored now, or None where it was the same before."""
        if begun is not None:
            try:
                return begun.take()
            except ObjectExists:  # another writer came first
                if self._overwrite != "replace":
                    raise
            except PartLost:  # it is begun again
                pass
        fd = self._folder.open_read(item.source.path)
        try:
            if item.verdict == "compare" and self._is_same(item, fd, lanes):
                lanes.progress.moved(item.source.size)
                return None
            return self.move(item, fd, lanes)
        finally:
            os.close(fd)

    def _is_same(self, item: Send, fd: int, lanes: Lanes) -> bool:
        stored = stored_digest(self._store, item.replaces) if item.replaces else None
        return stored is not None and md5_of_file(fd, lanes.cancellation) == stored

    def move(self, item: Send, fd: int, lanes: Lanes) -> ObjectInfo:
        """Send once more what another writer's commit of the same name, or its clearing up, took away."""
        overtaken = lost = 0
        while True:
            try:
                return self._move(item, fd, lanes)
            except ObjectExists:  # noqa: PERF203 - few turns
                overtaken += 1
                if self._overwrite != "replace" or overtaken > _OVERTAKEN:
                    raise
            except PartLost:
                lost += 1
                if lost > _LOST:
                    raise

    def _move(self, item: Send, fd: int, lanes: Lanes) -> ObjectInfo:
        before = os.fstat(fd)
        size, step = before.st_size, part_size(self._store.capabilities, before.st_size)
        writing = self._begin(item, fd, before)
        sending = self._sending(writing, item, size, step)
        try:
            if size > step:
                sending.begin()
                digest = self._send_parts(sending, item, fd, size, step, lanes)
                info = self._commit(writing, item, fd, before, digest, lanes)
            else:
                # The only part may be sent with the commit, so its bytes are held until then.
                with lanes.memory.holding(size) as memory:
                    digest = self._send_only_part(writing, item, fd, memory)
                    info = self._commit(writing, item, fd, before, digest, lanes)
                lanes.progress.moved(size)
        except BaseException as error:
            self._failed = True
            sending.give_up(error)
            raise
        sending.end()
        return info

    def _commit(
        self,
        writing: Writing,
        item: Send,
        fd: int,
        before: os.stat_result,
        digest: bytes,
        lanes: Lanes,
    ) -> ObjectInfo:
        self._check(item, fd, before, lanes)
        return writing.commit(digest)

    @staticmethod
    def _check(item: Send, fd: int, before: os.stat_result, lanes: Lanes) -> None:
        """Return when what was read may be stored."""
        if _version(before) != _version(os.fstat(fd)):
            raise _changed(item)
        lanes.cancellation.check()

    def _begin(self, item: Send, fd: int, before: os.stat_result) -> Writing:
        size, extras = before.st_size, self._extras(item, fd, before)
        replaces = item.replaces.etag if item.replaces is not None else None
        if self._overwrite == "if_changed" and replaces is not None:
            return self._store.begin_write(item.name, size, replaces=replaces, extras=extras)
        if_absent = self._overwrite != "replace"
        return self._store.begin_write(item.name, size, if_absent=if_absent, extras=extras)

    def _extras(self, item: Send, fd: int, before: os.stat_result) -> Extras:
        """Return what the object is to have beside its content."""
        if self._keep == NOTHING:
            return NO_EXTRAS
        properties = None
        if self._keep.properties:
            kind = self._store.capabilities.properties
            value = read_attribute(fd, item.source.path)
            properties = from_attribute(value, kind, item.source.relative)
        modified = to_microseconds(before.st_mtime_ns) if self._keep.times else None
        return Extras(modified, properties, keeps_properties=self._keep.properties)

    def _sending(self, writing: Writing, item: Send, size: int, step: int) -> Sending:
        """Return what writes down the parts of an object; one part alone is sent as quickly as looked for."""
        resumption = self._resumption if size > step else None
        return Sending(writing, resumption, name=item.name, size=size, step=step)

    @staticmethod
    def _send_only_part(writing: Writing, item: Send, fd: int, memory: memoryview) -> bytes:
        _read(item, fd, 0, memory)
        if memory:
            writing.write_part(0, 0, memory)
        return hashlib.md5(memory, usedforsecurity=False).digest()

    @staticmethod
    def _send_parts(
        sending: Sending, item: Send, fd: int, size: int, step: int, lanes: Lanes
    ) -> bytes:
        """Read the file once, in order, for the digest; send its parts as they come, many at once."""
        digest, broken = hashlib.md5(usedforsecurity=False), threading.Event()
        sent: list[Future[None]] = []

        def look(part: Future[None]) -> None:
            if not part.cancelled() and part.exception():
                broken.set()

        try:
            for index, offset in enumerate(range(0, size, step)):
                memory = lanes.memory.take(min(step, size - offset))
                try:
                    _read(item, fd, offset, memory)
                    digest.update(memory)
                    until = digest.hexdigest()
                    there = sending.has(index, offset, len(memory), until)
                except BaseException:
                    lanes.memory.give(memory)
                    raise
                if there:
                    lanes.progress.moved(len(memory))
                    lanes.memory.give(memory)
                    continue
                work = _part(sending, index, offset, memory, until, lanes)
                sent.append(lanes.send_part(memory, work))
                sent[-1].add_done_callback(look)
                if broken.is_set():  # the rest would be sent for nothing
                    break
        except BaseException:
            lanes.drop(sent)
            raise
        lanes.gather(sent)
        return digest.digest()


class _Begun:
    """A small file that was sent, and of which the service says later whether it is stored."""

    def __init__(
        self,
        sending: Storing,
        item: Send,
        lanes: Lanes,
        memory: memoryview,
        writing: Writing,
        committing: Pending[ObjectInfo],
    ) -> None:
        self._sending, self._item, self._lanes = sending, item, lanes
        self._memory, self._writing, self._committing = memory, writing, committing
        self._open = True

    @property
    def is_under_way(self) -> bool:
        """Whether it was really sent."""
        return self._committing.is_under_way

    def go_on(self) -> bool:
        """Make the next request, where several are needed."""
        return self._committing.go_on()

    def take(self) -> ObjectInfo:
        """Return what is stored."""
        try:
            info = self._committing.finish()
        except BaseException:
            self._writing.abort()
            raise
        self._lanes.progress.moved(info.size)
        return info

    def finish(self) -> ObjectRow:
        """Return the row of the file."""
        try:
            return self._sending.send(self._item, self._lanes, self)
        except BaseException:
            self._sending.fail()
            raise

    def drop(self) -> None:
        """Do not wait for the answer; the memory of the content is given back."""
        if self._open:
            self._open = False
            self._committing.drop()
            self._lanes.memory.give_ahead(self._memory)


def _part(
    sending: Sending, index: int, offset: int, data: memoryview, until: str, lanes: Lanes
) -> Callable[[], None]:
    def work() -> None:
        lanes.cancellation.check()
        sending.writing.write_part(index, offset, data)
        sending.sent(offset, until)
        lanes.progress.moved(len(data))

    return work


def _read(item: Send, fd: int, offset: int, memory: memoryview) -> None:
    """Fill the memory with what the file has at `offset`."""
    done = 0
    while done < len(memory):
        try:
            got = os.preadv(fd, [memory[done:]], offset + done)
        except OSError as error:
            raise local_error(error, item.source.path) from error
        if not got:
            raise _changed(item)
        done += got


def _version(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _changed(item: Send) -> SourceChanged:
    return SourceChanged(
        f"The local file {item.source.relative} changed while it was read; nothing of it was stored. "
        "Upload it when its writer is done."
    )
