"""Serves the kernel: reads its requests from `/dev/fuse`, asks the file system, and writes the answers."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from prefect_datastores.errors import DatastoreError
from prefect_datastores.mounting import kernel
from prefect_datastores.mounting.answers import Answer, Parts
from prefect_datastores.mounting.faults import Faults, Refused
from prefect_datastores.mounting.folders import Listing
from prefect_datastores.mounting.kernel import Request

_log = logging.getLogger("prefect_datastores.mounting")
_THREADS = 2
_SLOW_THREADS = 16
_BACKGROUND = 64
# Not READDIRPLUS_AUTO: who reads all names before the first attributes (`find`) would ask for those one by one.
_WANTED = (
    kernel.ASYNC_READ
    | kernel.BIG_WRITES
    | kernel.DO_READDIRPLUS
    | kernel.PARALLEL_DIROPS
    | kernel.MAX_PAGES
    | kernel.EXPLICIT_INVAL_DATA
    | kernel.INIT_EXT
)
_NO_ENTRIES = (".", "..")
"""What each folder shows first."""
_LOOKING = {kernel.LOOKUP, kernel.OPENDIR}
_UNANSWERED = {kernel.FORGET, kernel.BATCH_FORGET, kernel.INTERRUPT}
_CHANGES = {
    *(kernel.SETATTR, kernel.SYMLINK, kernel.MKNOD, kernel.MKDIR, kernel.UNLINK, kernel.RMDIR),
    *(kernel.RENAME, kernel.RENAME2, kernel.LINK, kernel.WRITE, kernel.CREATE, kernel.SETXATTR),
    *(kernel.REMOVEXATTR, kernel.FALLOCATE, kernel.COPY_FILE_RANGE),
}


class FileSystem(Protocol):
    """What a session asks; each refusal is a `Refused`."""

    faults: Faults

    @property
    def valid_seconds(self) -> int:
        """For how long what was told of names and attributes holds."""

    def look_up(self, parent: int, name: bytes) -> kernel.Attributes | None:
        """Return what stands under a name, a lookup more; None where nothing does."""

    def is_ready(self, folder: int) -> bool:
        """Tell whether a folder can be looked into at once."""

    def forget(self, node: int, lookups: int) -> None:
        """Take note that lookups were given back."""

    def stat(self, node: int) -> kernel.Attributes:
        """Return what is known of a node."""

    def listing(self, folder: int) -> Listing:
        """Return what a folder holds."""

    def entry(self, folder: int, name: str, listing: Listing) -> kernel.Attributes | None:
        """Return what a listing showed under a name, a lookup more; None where it is gone."""

    def parent(self, folder: int) -> kernel.Attributes:
        """Return the folder above; of the root, the root."""

    def room(self) -> tuple[int, int, int]:
        """Return bytes in all, free bytes, and files."""

    def open(self, number: int, flags: int) -> int:
        """Open a file."""

    def read(self, handle: int, offset: int, size: int, answer: Answer) -> None:
        """Give what is at a place in an open file to `answer`, at once or later."""

    def close(self, handle: int) -> None:
        """Close a file."""


class Session:
    """One mount as the kernel sees it."""

    def __init__(self, fd: int, operations: FileSystem) -> None:
        """Take the descriptor of a mount that nobody serves yet."""
        self._fd, self._operations = fd, operations
        self._lock = threading.Lock()
        self._waiting: set[int] = set()
        self._interrupted: set[int] = set()
        self._slow = ThreadPoolExecutor(_SLOW_THREADS, thread_name_prefix="pds-mount-look")
        self._listings: dict[int, tuple[Listing, list[str]]] = {}
        self._next = 1
        self._refusals = dict.fromkeys(_CHANGES, errno.EROFS)
        self._answers: dict[int, Callable[[Request], None]] = {
            kernel.LOOKUP: self._look_up,
            kernel.GETATTR: self._stat,
            kernel.OPEN: self._open_file,
            kernel.READ: self._read,
            kernel.RELEASE: self._release,
            kernel.OPENDIR: self._open_folder,
            kernel.READDIR: self._read_folder,
            kernel.READDIRPLUS: self._read_folder,
            kernel.RELEASEDIR: self._release_folder,
            kernel.STATFS: self._room,
            kernel.FLUSH: self._nothing,
            kernel.FSYNC: self._nothing,
            kernel.FSYNCDIR: self._nothing,
            kernel.DESTROY: self._nothing,
        }

    def serve(self) -> None:
        """Answer until the mount is gone."""
        threads = [
            threading.Thread(target=self._serve, name="pds-mount-serve", daemon=True)
            for _ in range(_THREADS - 1)
        ]
        self._begin()
        for thread in threads:
            thread.start()
        self._serve()
        for thread in threads:
            thread.join()
        self._slow.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> None:
        """Agree with the kernel on how the two talk."""
        buffer = memoryview(bytearray(kernel.LARGEST_READ + 4096))
        request = self._next_request(buffer)
        if request is None:
            return
        major, minor, _, flags = kernel.init_of(request.body)
        if major != kernel.MAJOR or minor < kernel.OLDEST_MINOR:
            _log.error(
                "The kernel speaks FUSE %d.%d, which is too old: Linux 5.4 is needed.", major, minor
            )
            self._refuse(request, errno.EPROTO)
            return
        more, depth = self._more(minor, flags)
        body = kernel.init_reply(
            minor, _WANTED & flags | more, background=_BACKGROUND, stack_depth=depth
        )
        self._answer(request, body)

    def _more(self, minor: int, flags: int) -> tuple[int, int]:
        """Return what is agreed upon beyond what all sessions do, and how deep file systems may be stacked."""
        return 0, 0

    def _serve(self) -> None:
        buffer = memoryview(bytearray(kernel.LARGEST_READ + 4096))
        while (request := self._next_request(buffer)) is not None:
            self._told(request, self._dispatch)

    def _told(self, request: Request, answer: Callable[[Request], None]) -> None:
        """Answer, or say what is wrong."""
        try:
            answer(request)
        except Refused as refused:
            self._refuse(request, refused.number)
        except Exception:  # noqa: BLE001 - a program that waits for ever is worse than one that is told
            _log.exception("A request of the kernel (%d) failed.", request.opcode)
            self._refuse(request, errno.EIO)

    def _next_request(self, buffer: memoryview) -> Request | None:
        while True:
            try:
                length = os.readv(self._fd, [buffer])
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.EINTR, errno.EAGAIN}:
                    continue  # it was interrupted before it was read
                return None  # unmounted: ENODEV
            if length < kernel.HEADER:
                return None
            return kernel.request_of(buffer)

    def _dispatch(self, request: Request) -> None:
        answer = self._answers.get(request.opcode)
        if answer is not None:
            if request.opcode in _LOOKING and not self._operations.is_ready(request.node):
                self._later(request, answer)  # so that nobody else waits for the service
            else:
                answer(request)
        elif request.opcode in _UNANSWERED:
            self._take_note(request)
        else:
            raise Refused(self._refusals.get(request.opcode, errno.ENOSYS))

    def _later(self, request: Request, answer: Callable[[Request], None]) -> None:
        """Answer in another thread; who asked may be interrupted meanwhile."""
        with self._lock:
            self._waiting.add(request.unique)
        kept = request._replace(body=memoryview(bytes(request.body)))
        self._slow.submit(self._told, kept, answer)

    def _take_note(self, request: Request) -> None:
        if request.opcode == kernel.INTERRUPT:
            self._interrupt(int.from_bytes(request.body[:8], "little"))
            return
        for node, lookups in kernel.forgotten(request):
            self._operations.forget(node, lookups)

    def _answer(self, request: Request, *parts: bytes | memoryview) -> None:
        self._write(request.unique, *parts)

    def _write(self, unique: int, *parts: bytes | memoryview) -> None:
        if not self._is_wanted(unique):
            return
        head = kernel.reply(unique, sum(map(len, parts)))
        with contextlib.suppress(OSError):  # nobody waits any more
            os.writev(self._fd, [head, *parts])

    def _is_wanted(self, unique: int) -> bool:
        """Tell whether somebody waits for the answer still, and take note that it comes."""
        with self._lock:
            if unique in self._interrupted:
                self._interrupted.discard(unique)
                return False
            self._waiting.discard(unique)
            return True

    def _refuse(self, request: Request, number: int) -> None:
        if not self._is_wanted(request.unique):
            return
        with contextlib.suppress(OSError):
            os.write(self._fd, kernel.reply(request.unique, error=number))

    def _nothing(self, request: Request) -> None:
        self._answer(request)

    # -- names and attributes -------------------------------------------------------------------

    def _look_up(self, request: Request) -> None:
        found = self._operations.look_up(request.node, kernel.name_of(request.body))
        valid = self._operations.valid_seconds
        if found is None and not valid:
            raise Refused(errno.ENOENT)
        self._answer(request, kernel.entry_reply(found, valid))

    def _stat(self, request: Request) -> None:
        found = self._operations.stat(request.node)
        self._answer(request, kernel.attr_reply(found, kernel.FOREVER))

    def _room(self, request: Request) -> None:
        self._answer(request, kernel.statfs_reply(*self._operations.room()))

    # -- folders --------------------------------------------------------------------------------

    def _open_folder(self, request: Request) -> None:
        listing = self._operations.listing(request.node)
        with self._lock:
            handle, self._next = self._next, self._next + 1
            self._listings[handle] = (listing, [*_NO_ENTRIES, *listing])
        flags = kernel.KEEP_CACHE | kernel.CACHE_DIR if self._operations.valid_seconds else 0
        self._answer(request, kernel.open_reply(handle, flags))

    def _read_folder(self, request: Request) -> None:
        asked = kernel.read_of(request.body)
        listing, names = self._listings[asked.handle]
        plus = request.opcode == kernel.READDIRPLUS
        out, room = [], asked.size
        for place in range(asked.offset, len(names)):
            raw = names[place].encode()
            room -= kernel.line_length(raw, plus=plus)
            if room < 0:  # before a lookup is counted that nobody is told of
                break
            out.append(self._line(request.node, listing, raw, place, plus=plus))
        self._answer(request, b"".join(out))

    def _line(self, node: int, listing: Listing, raw: bytes, place: int, *, plus: bool) -> bytes:
        """Return a line of a folder; the next one is asked for by the place after it."""
        after = place + 1
        if place < len(_NO_ENTRIES):
            of = self._operations.parent(node) if place else self._operations.stat(node)
            if plus:
                return kernel.directory_entry_known(of, after, raw)
            return kernel.directory_entry(of.node, after, raw, of.mode)
        name = raw.decode()
        mode = 0o040000 if listing[name] is None else 0o100000
        if not plus:
            return kernel.directory_entry(0xFFFFFFFF, after, raw, mode)
        found = self._operations.entry(node, name, listing)
        if found is None:
            return kernel.directory_entry_gone(after, raw, mode)
        return kernel.directory_entry_plus(found, after, raw, self._operations.valid_seconds)

    def _release_folder(self, request: Request) -> None:
        self._listings.pop(kernel.handle_of(request.body), None)
        self._answer(request)

    # -- files ----------------------------------------------------------------------------------

    def _open_file(self, request: Request) -> None:
        handle = self._operations.open(request.node, kernel.open_flags_of(request.body))
        self._answer(request, kernel.open_reply(handle, kernel.KEEP_CACHE | kernel.NOFLUSH))

    def _read(self, request: Request) -> None:
        asked = kernel.read_of(request.body)
        unique = request.unique
        with self._lock:
            self._waiting.add(unique)

        def answer(content: Parts | DatastoreError) -> None:
            if isinstance(content, DatastoreError):
                self._refuse(request, self._operations.faults.errno_of(content, "read"))
            else:
                self._write(unique, *content)

        self._operations.read(asked.handle, asked.offset, asked.size, answer)

    def _interrupt(self, unique: int) -> None:
        """Let a reader go that was interrupted: what it asked for is fetched for others all the same."""
        with self._lock:
            if unique not in self._waiting:
                return
            self._waiting.discard(unique)
            self._interrupted.add(unique)
        with contextlib.suppress(OSError):
            os.write(self._fd, kernel.reply(unique, error=errno.EINTR))

    def _release(self, request: Request) -> None:
        handle = kernel.handle_of(request.body)
        self._answer(request)
        self._operations.close(handle)
