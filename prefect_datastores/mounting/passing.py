"""Has the kernel itself read the files that are whole in the cache, where it can: at the speed of the disk."""

from __future__ import annotations

import contextlib
import fcntl
import logging

from prefect_datastores.mounting import kernel
from prefect_datastores.mounting.contents import Opened
from prefect_datastores.mounting.fetching_large import Version
from prefect_datastores.mounting.kernel import Request
from prefect_datastores.mounting.operations import Operations
from prefect_datastores.mounting.session import Session
from prefect_datastores.mounting.tree import Node

_log = logging.getLogger("prefect_datastores.mounting")
_STACK_DEPTH = 2  # FILESYSTEM_MAX_STACK_DEPTH: the cache may itself lie on an overlay


class ReadingSession(Session):
    """One mount that is only read."""

    def __init__(self, fd: int, operations: Operations) -> None:
        """Take the descriptor of a mount that nobody serves yet."""
        super().__init__(fd, operations)
        self._contents = operations
        self._backing: dict[int, _Backing] = {}
        self._plain: dict[int, int] = {}
        self._ways: dict[int, _Way] = {}
        self.passes_through = False

    def _more(self, minor: int, flags: int) -> tuple[int, int]:
        if minor < kernel.MINOR or not flags & kernel.PASSTHROUGH:
            return 0, 0
        self.passes_through = True
        return kernel.PASSTHROUGH, _STACK_DEPTH

    def _open_file(self, request: Request) -> None:
        handle = self._operations.open(request.node, kernel.open_flags_of(request.body))
        node, opened = self._contents.opened(handle)
        way = self._way_of(node, opened)
        self._ways[handle] = way
        flags = kernel.NOFLUSH | (kernel.PASSTHROUGH_OPEN if way.backing else kernel.KEEP_CACHE)
        self._answer(request, kernel.open_reply(handle, flags, way.backing))

    def _way_of(self, node: Node, opened: Opened) -> _Way:
        """Have the kernel read the file of a whole version itself; while one does so, all who open it do."""
        version = opened.version
        with self._lock:
            backing = self._backing.get(node.id)
            if backing is None and version is not None and self._may_pass_through(node, version):
                backing = self._make_backing(node, version)
            if backing is None:
                self._plain[node.id] = self._plain.get(node.id, 0) + 1
                return _Way(node.id, 0)
            backing.users += 1
            return _Way(node.id, backing.number)

    def _may_pass_through(self, node: Node, version: Version) -> bool:
        # The kernel refuses to open a file in both ways at once.
        return (
            self.passes_through
            and not self._plain.get(node.id)
            and version.blocks.may_be_handed_out
        )

    def _make_backing(self, node: Node, version: Version) -> _Backing | None:
        asked = bytearray(kernel.BACKING_MAP.pack(version.blocks.fd, 0, 0))
        try:
            number = fcntl.ioctl(
                self._fd, kernel.BACKING_OPEN, asked
            )  # an int, as it may be written to
        except OSError as error:
            self.passes_through = False
            _log.info("Files are not handed to the kernel: %s", error.strerror)
            return None
        version.blocks.pins += 1
        made = self._backing[node.id] = _Backing(number, version)
        return made

    def _release(self, request: Request) -> None:
        way = self._ways.pop(kernel.handle_of(request.body), None)
        if way is not None:
            self._leave(way)
        super()._release(request)

    def _leave(self, way: _Way) -> None:
        with self._lock:
            if not way.backing:
                self._plain[way.node] -= 1
                if not self._plain[way.node]:
                    del self._plain[way.node]
                return
            backing = self._backing[way.node]
            backing.users -= 1
            if backing.users:
                return
            del self._backing[way.node]
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._fd, kernel.BACKING_CLOSE, backing.number.to_bytes(4, "little"))
        backing.version.blocks.pins -= 1


class _Way:
    """How an open file is read: by asking, or, with a number, by the kernel itself."""

    __slots__ = ("backing", "node")

    def __init__(self, node: int, backing: int) -> None:
        self.node, self.backing = node, backing


class _Backing:
    """A file that the kernel reads itself."""

    def __init__(self, number: int, version: Version) -> None:
        self.number, self.version, self.users = number, version, 0
