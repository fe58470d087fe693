"""One open file of a share: read from the version that was opened, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import sys
from collections import deque
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile

from prefect_datastores.errors import FolderMissing, ObjectExists, PlaceTaken, SourceChanged
from prefect_datastores.filesystems.account import OpenShare
from prefect_datastores.filesystems.folders import above
from prefect_datastores.filesystems.lanes import AHEAD, PART, parts_lane
from prefect_datastores.filesystems.places import os_error
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import Writing
from prefect_datastores.stores.share_writing import GrowingWriting

if TYPE_CHECKING:
    from prefect_datastores.filesystems.share import AzureFileShareFileSystem

_log = logging.getLogger(__name__)


class ShareFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """A file of a share.

    Reading keeps to the version that was opened: once the file is changed, it is an error. What is
    written appears when the file is closed; closed because of an exception, it leaves nothing.
    """

    fs: AzureFileShareFileSystem
    buffer: io.BytesIO

    def __init__(
        self,
        fs: AzureFileShareFileSystem,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_type: str = "readahead",
        cache_options: dict[str, Any] | None = None,
        pin: str | None = None,
        **_: Any,
    ) -> None:
        """Open a file; with `pin`, an ETag, only that version of it.

        Raises:
            FileNotFoundError, IsADirectoryError: there is no file to read.
            FileExistsError: there is one, and the mode is "xb".
            SourceChanged: it is another version than `pin`.
        """
        self._target = fs.place(path)
        details = _details(fs, path, mode)
        if pin is not None and details is not None and details["etag"] != pin:
            raise SourceChanged(f"{path} is another version than the one that was opened before.")
        reads = mode == "rb" and details is not None
        super().__init__(
            fs,
            path,
            mode,
            (block_size or PART) if reads else PART,
            autocommit,
            cache_type,
            cache_options,
            size=details["size"] if reads and details else None,
            **({"pin": details["etag"]} if reads and details else {}),
        )
        self._details = details
        self._writer: _Writer | None = None
        if not reads:
            self._during = sys.exc_info()[1]
            kept = details if mode == "ab" else None
            self._writer = _Writer(fs, path, self._target, kept, is_new=details is None, mode=mode)
            self.loc = kept["size"] if kept else 0

    # -- reading --------------------------------------------------------------------------------

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.content(self._target, self.kwargs["pin"], start, min(end, self.size))

    # -- writing --------------------------------------------------------------------------------

    def write(self, data: Any) -> int:
        """Take bytes; they are on their way once there are enough for a part."""
        view = memoryview(data).cast("B")
        for at in range(0, len(view), PART):
            super().write(view[at : at + PART])
        return len(view)

    def _upload_chunk(self, final: bool = False) -> bool:
        assert self._writer is not None
        taken = self._writer.take(self.buffer.getbuffer(), final=final)
        rest = self.buffer.getbuffer()[taken:].tobytes()
        self.offset += taken
        self.buffer = io.BytesIO()
        self.buffer.write(rest)
        return False  # the buffer was taken care of

    def close(self) -> None:
        """Let go of what was read; give what was written its name, unless an exception is on its way."""
        if self.closed or self._writer is None:
            super().close()
            return
        reason = sys.exc_info()[1]
        if reason is not None and reason is not self._during:
            self._abandon(reason)
            return
        try:
            super().close()
            if self.autocommit:
                self.commit()
        except BaseException:
            self.discard()
            raise

    def commit(self) -> None:
        """Give what was written its name."""
        if self._writer is not None and not self._writer.is_over:
            self._writer.commit()
            self.fs.invalidate_cache(self.path)

    def discard(self) -> None:
        """Leave nothing of what was written."""
        if self._writer is not None:
            self._writer.discard()

    def _abandon(self, reason: BaseException) -> None:
        self.closed = True
        self.discard()
        _log.warning(
            "%s was not stored: it was closed because of %s.", self.path, type(reason).__name__
        )

    def __exit__(self, kind: object, reason: BaseException | None, trace: object) -> None:
        """Close the file; after an exception, leave nothing of it."""
        if reason is not None and self._writer is not None and not self.closed:
            self._abandon(reason)
        else:
            self.close()

    def __del__(self) -> None:
        """Leave nothing of a file that was never closed."""
        writer = getattr(self, "_writer", None)
        if writer is not None and not self.closed:
            self.closed = True
            writer.discard()


def _details(fs: AzureFileShareFileSystem, path: str, mode: str) -> dict[str, Any] | None:
    """Return what stands at a path, as far as the mode has to know."""
    if mode == "rb":
        return fs.file_info(path)
    if mode not in {"ab", "xb"}:
        return None
    try:
        found = fs.file_info(path)
    except FileNotFoundError:
        return None
    if mode == "xb":
        raise os_error(errno.EEXIST, path)
    return found


class _Writer:
    """The content of one file on its way, in parts of which a few are under way."""

    def __init__(
        self,
        fs: AzureFileShareFileSystem,
        path: str,
        target: tuple[OpenShare, ObjectName],
        kept: dict[str, Any] | None,
        *,
        is_new: bool,
        mode: str,
    ) -> None:
        self._fs, self._path = fs, path
        self._share, self._name = target
        self._kept = kept
        self._is_new = is_new and mode in {"ab", "xb"}
        self._at = kept["size"] if kept else 0
        self._digest = hashlib.md5(usedforsecurity=False)
        self._writing: Writing | None = None
        self._growing: GrowingWriting | None = None
        self._asked: deque[Future[None]] = deque()
        self._count = 0
        self.is_over = False

    def take(self, content: memoryview, *, final: bool) -> int:
        """Send what makes whole parts, and all at the end; return how much that was."""
        if final and self._growing is None and self._kept is None and len(content) <= PART:
            self._digest.update(content)
            self._send_whole(content)
            return len(content)
        if self._growing is None:
            self._begin()
        whole = len(content) if final else len(content) - len(content) % PART
        for at in range(0, whole, PART):
            self._send(bytes(content[at : min(at + PART, whole)]))
        return whole

    def _send_whole(self, content: memoryview) -> None:
        store = self._share.store
        writing = store.begin_write(self._name, len(content), if_absent=self._is_new)
        self._writing = writing
        if content:
            writing.write_part(0, 0, content)

    def _begin(self) -> None:
        kept = self._kept
        growing = self._share.plain.begin_growing(
            self._name, replaces=kept["etag"] if kept else None, if_absent=self._is_new
        )
        self._growing = growing
        if kept:
            source = self._share.plain.service.signed_url(self._name)
            size = kept["size"]
            self._share.ask("copy", lambda: growing.begin_as(source, size))

    def _send(self, part: bytes) -> None:
        growing = self._growing
        assert growing is not None
        while len(self._asked) >= AHEAD:
            self._asked.popleft().result()
        index, offset = self._count, self._at
        self._count += 1
        self._at += len(part)

        def send() -> None:
            view = memoryview(part)

            def write() -> None:
                growing.write_part(index, offset, view)

            self._share.ask("write a part", write, size=len(view))

        self._asked.append(parts_lane().submit(send))
        self._digest.update(part)

    def commit(self) -> None:
        while self._asked:
            self._asked.popleft().result()
        # Of what a file had before, only the service knows the content.
        digest = None if self._kept else self._digest.digest()
        growing, writing = self._growing, self._writing
        try:
            if growing is not None:
                self._share.ask("commit", lambda: growing.commit(digest))
            elif writing is not None:
                writing.commit(self._digest.digest())
        except (ObjectExists, PlaceTaken):
            if self._share.is_there(self._name, is_folder=True):
                raise os_error(errno.EISDIR, self._path) from None
            raise
        except FolderMissing:
            raise above(self._share, self._name, self._path) from None
        self.is_over = True

    def discard(self) -> None:
        if self.is_over:
            return
        self.is_over = True
        for one in self._asked:
            one.cancel()
        wait(self._asked)
        for writing in (self._growing, self._writing):
            if writing is not None:
                writing.abort()
