"""A file that is written to: its content on the local disk, from the first change until the service has it."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading

from prefect_datastores.disk import local_error
from prefect_datastores.errors import DatastoreError, IntegrityError
from prefect_datastores.mounting.answers import Answer, Parts
from prefect_datastores.mounting.contents import Contents
from prefect_datastores.mounting.pending import Drafts
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.digest import md5_of_file
from prefect_datastores.stores.base import ObjectInfo, ObjectStore, stored_digest

_STEP, _AT_ONCE = 4 * 2**20, 8


class Draft:
    """One file's content: a copy of what the service has, until it is changed."""

    def __init__(self, drafts: Drafts, number: int, fd: int) -> None:
        """Take an empty copy."""
        self._drafts, self.number, self._fd = drafts, number, fd
        self.size = 0
        """Bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Return what is at a place; less at the end."""
        return os.pread(self._fd, size, offset)

    def write(self, offset: int, data: memoryview | bytes) -> None:
        """Write all of it at a place.

        Raises:
            OSError: the disk is full.
        """
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done
            self.size = max(self.size, offset)

    def truncate(self, size: int) -> None:
        """Give it another length; what is new is zeros."""
        os.ftruncate(self._fd, size)
        self.size = size

    def allocate(self, offset: int, size: int) -> None:
        """Have room for a range on the disk; the file grows to its end."""
        os.posix_fallocate(self._fd, offset, size)
        self.size = max(self.size, offset + size)

    def change(self) -> None:
        """Take note, on the disk, that it is to have what the service does not."""
        self._drafts.change(self.number)

    def sync(self) -> None:
        """Return when the disk has it."""
        os.fsync(self._fd)

    def digest(self) -> bytes:
        """Return the MD5 of it."""
        return md5_of_file(self._fd, Cancellation())

    def remove(self) -> None:
        """Let go of it for good."""
        os.close(self._fd)
        self._drafts.remove(self.number)


class Desk:
    """Where drafts are begun; used by many threads."""

    def __init__(self, drafts: Drafts, store: ObjectStore, contents: Contents) -> None:
        """Begin with nothing on it."""
        self._drafts, self._store, self._contents = drafts, store, contents
        self._numbers = itertools.count(1)

    def new(self) -> Draft:
        """Return an empty copy.

        Raises:
            LocalDiskFull, TransferError: the disk takes none.
        """
        number = next(self._numbers)
        try:
            return Draft(self._drafts, number, self._drafts.open_new(number))
        except OSError as error:
            raise local_error(error, self._drafts.copy(number)) from error

    def copy_of(self, info: ObjectInfo) -> Draft:
        """Return a copy of the whole of one version, checked as a download is.

        Raises:
            SourceChanged, ObjectNotFound: it is no longer there.
            DatastoreError: it could not be had.
        """
        draft = self.new()
        try:
            draft.truncate(info.size)
            _Filling(self._contents, draft, info).run()
            expected = stored_digest(self._store, info)
            if expected is not None and draft.digest() != expected:
                raise IntegrityError(
                    f"{info.name!r} arrived with another MD5 than the one stored with it. It was damaged on its way, "
                    "or stored damaged."
                )
        except OSError as error:
            draft.remove()
            if isinstance(error, DatastoreError):
                raise
            raise local_error(error, self._drafts.copy(draft.number)) from error
        except BaseException:
            draft.remove()
            raise
        return draft


class _Filling:
    """Brings a version into a draft, some ranges at once."""

    def __init__(self, contents: Contents, draft: Draft, info: ObjectInfo) -> None:
        self._contents, self._draft, self._info = contents, draft, info
        self._room = threading.BoundedSemaphore(_AT_ONCE)
        self._fault: Exception | None = None

    def run(self) -> None:
        """Return when all of it is there.

        Raises:
            OSError: the disk is full.
            DatastoreError: the service failed.
        """
        opened = self._contents.open(self._info)
        try:
            for offset in range(0, self._info.size, _STEP):
                self._room.acquire()
                if self._fault is not None:
                    self._room.release()
                    break
                self._contents.read(opened, offset, _STEP, self._answer(offset))
            for _ in range(_AT_ONCE):
                self._room.acquire()
        finally:
            self._contents.close_file(opened)
        if self._fault is not None:
            raise self._fault

    def _answer(self, offset: int) -> Answer:
        def came(content: Parts | DatastoreError) -> None:
            with contextlib.ExitStack() as done:
                done.callback(self._room.release)
                if isinstance(content, DatastoreError):
                    self._fault = content
                    return
                at = offset
                try:
                    for part in content:
                        self._draft.write(at, part)
                        at += len(part)
                except OSError as error:
                    self._fault = error

        return came
