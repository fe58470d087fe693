"""Serves the kernel where it changes what is mounted: what takes time is done beside, and never broken off half way."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from prefect_datastores.mounting import kernel
from prefect_datastores.mounting.kernel import Request
from prefect_datastores.mounting.session import Session
from prefect_datastores.mounting.writable import WritableOperations

_THREADS = 32


class WritingSession(Session):
    """One mount that is written to."""

    def __init__(self, fd: int, operations: WritableOperations) -> None:
        """Take the descriptor of a mount that nobody serves yet."""
        super().__init__(fd, operations)
        self._changes = operations
        self._changing = ThreadPoolExecutor(_THREADS, thread_name_prefix="pds-mount-change")
        # What is not known at all the kernel does in another way, or says that nobody can.
        self._refusals = {kernel.SYMLINK: errno.EPERM, kernel.LINK: errno.EPERM}
        beside: dict[int, Callable[[Request], None]] = {
            kernel.CREATE: self._create,
            kernel.MKNOD: self._make_file,
            kernel.MKDIR: self._make_folder,
            kernel.UNLINK: self._unlink,
            kernel.RMDIR: self._remove_folder,
            kernel.RENAME: self._rename,
            kernel.RENAME2: self._rename,
            kernel.SETATTR: self._change,
            kernel.FALLOCATE: self._allocate,
            kernel.FLUSH: self._flush,
            kernel.FSYNC: self._sync,
        }
        for opcode, answer in beside.items():
            self._answers[opcode] = self._beside(answer)
        self._answers[kernel.WRITE] = self._write_file

    def _beside(self, answer: Callable[[Request], None]) -> Callable[[Request], None]:
        """Answer in a thread of its own, to its end: what was begun at the service cannot be taken back."""

        def later(request: Request) -> None:
            kept = request._replace(body=memoryview(bytes(request.body)))
            self._changing.submit(self._told, kept, answer)

        return later

    def serve(self) -> None:
        """Answer until the mount is gone."""
        super().serve()
        self._changing.shutdown(wait=False)

    # -- names ----------------------------------------------------------------------------------

    def _create(self, request: Request) -> None:
        name, mode = kernel.made_of(request)
        exclusive = bool(kernel.open_flags_of(request.body) & os.O_EXCL)
        made, handle = self._changes.create(request.node, name, mode, exclusive=exclusive)
        self._answer(request, self._entry(made), kernel.open_reply(handle, kernel.KEEP_CACHE))

    def _make_file(self, request: Request) -> None:
        name, mode = kernel.made_of(request)
        self._answer(request, self._entry(self._changes.make_file(request.node, name, mode)))

    def _make_folder(self, request: Request) -> None:
        name, mode = kernel.made_of(request)
        self._answer(request, self._entry(self._changes.make_folder(request.node, name, mode)))

    def _entry(self, made: kernel.Attributes) -> bytes:
        return kernel.entry_reply(made, self._operations.valid_seconds)

    def _unlink(self, request: Request) -> None:
        self._changes.unlink(request.node, kernel.name_of(request.body))
        self._answer(request)

    def _remove_folder(self, request: Request) -> None:
        self._changes.remove_folder(request.node, kernel.name_of(request.body))
        self._answer(request)

    def _rename(self, request: Request) -> None:
        old, folder, new, flags = kernel.renamed_of(request)
        self._changes.rename(request.node, old, folder, new, flags)
        self._answer(request)

    def _change(self, request: Request) -> None:
        changed = self._changes.change(request.node, kernel.change_of(request.body, time.time()))
        self._answer(request, kernel.attr_reply(changed, kernel.FOREVER))

    # -- files ----------------------------------------------------------------------------------

    def _open_file(self, request: Request) -> None:
        flags = kernel.open_flags_of(request.body)
        handle = self._operations.open(request.node, flags)
        no_flush = kernel.NOFLUSH if flags & os.O_ACCMODE == os.O_RDONLY else 0
        self._answer(request, kernel.open_reply(handle, kernel.KEEP_CACHE | no_flush))

    def _write_file(self, request: Request) -> None:
        place, data = kernel.write_of(request.body)
        if self._changes.write(place.handle, place.offset, data, wait=False):
            self._answer(request, kernel.write_reply(place.size))
        else:
            self._beside(self._write_and_wait)(request)

    def _write_and_wait(self, request: Request) -> None:
        place, data = kernel.write_of(request.body)
        self._changes.write(place.handle, place.offset, data, wait=True)
        self._answer(request, kernel.write_reply(place.size))

    def _allocate(self, request: Request) -> None:
        place, mode = kernel.allocated_of(request.body)
        self._changes.allocate(place.handle, place.offset, place.size, mode)
        self._answer(request)

    def _flush(self, request: Request) -> None:
        self._changes.flush(kernel.handle_of(request.body))
        self._answer(request)

    def _sync(self, request: Request) -> None:
        self._changes.sync(kernel.handle_of(request.body))
        self._answer(request)
