"""What earlier transfers left unfinished in a folder, taken over; and what this one leaves, if it must."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
import zlib
from collections.abc import Mapping
from contextlib import ExitStack

from prefect_datastores.errors import (
    AccessError,
    DatastoreError,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    PartLost,
    PlaceTaken,
    SourceChanged,
    UnsafeName,
)
from prefect_datastores.files import Folder
from prefect_datastores.names import RelativePath
from prefect_datastores.part_files import PartFile
from prefect_datastores.staging.journal import (
    Journal,
    Unfinished,
    origin_of,
    tell_unwritable,
    unfinished,
)
from prefect_datastores.stores.base import Writing
from prefect_datastores.workspaces import Abandoned

_KEPT_SECONDS = 7 * 24 * 3600.0  # as long as the service keeps the blocks of an upload
_LEAVES_NOTHING = (
    *(SourceChanged, IntegrityError, ObjectNotFound, ObjectExists),
    *(PartLost, PlaceTaken, UnsafeName),
)
"""Faults after which what came of an object is of no use to anybody."""

_log = logging.getLogger("prefect_datastores.staging")


def key_of(name: str, version: str, size: int, step: int) -> str:
    """Return what two transfers of one version in parts of one length have in common."""
    return json.dumps([name, version, size, step])


class Resumption:
    """The unfinished objects of earlier transfers with one origin; used by many threads at once.

    It trusts no lock: a part file is taken by a rename, which only one can do.
    """

    def __init__(self, folder: Folder, origin: str) -> None:
        """Look for what is left in the folder."""
        self._folder, self._origin = folder, origin
        self._journal: Journal | None = None
        self._writes = True
        self._lock = threading.Lock()
        self._left: list[tuple[Abandoned, dict[str, Unfinished]]] = []
        with ExitStack() as opened:
            for other in opened.enter_context(folder.abandoned()):
                self._look_at(other)
            self._opened = opened.pop_all()

    def _look_at(self, other: Abandoned) -> None:
        content = other.journal()
        if content is None:
            return
        found = unfinished(content, self._origin)
        if found is not None:
            self._left.append((other, found))
        elif origin_of(content) in {None, self._origin}:
            _log.warning(
                "What an interrupted transfer left cannot be used; all of it is moved anew."
            )
            other.remove()
        elif time.time() - other.touched > _KEPT_SECONDS:
            other.remove()

    def begin(self, key: str, place: str, parts: dict[int, str]) -> None:
        """Write down that an object is begun, and what is there of it."""
        with self._lock:
            if self._journal is None and self._writes:
                try:
                    fd = self._folder.workspace().open_journal()
                except (OSError, DatastoreError) as error:
                    self._writes = False
                    tell_unwritable(error)
                else:
                    self._journal = Journal(fd, self._origin)
        if self._journal is not None:
            self._journal.begin(Unfinished(key, place, parts))

    def done(self, key: str, offset: int, digest: str) -> None:
        """Write down that a part of it is in its place."""
        if self._journal is not None:
            self._journal.done(key, offset, digest)

    def end(self, key: str) -> None:
        """Write down that nothing is left to be done for it."""
        if self._journal is not None:
            self._journal.end(key)

    def sent(self, key: str) -> list[tuple[str, dict[int, str]]]:
        """Return the writings of an object that were begun, once: their tokens, and the digests of their parts."""
        found: dict[str, dict[int, str]] = {}
        for _, item in self._take(key):
            if item.place:
                found.setdefault(item.place, {})
            for offset, text in item.parts.items():
                token, _, digest = text.partition(" ")
                found.setdefault(token, {})[offset] = digest
        return sorted(found.items(), key=lambda pair: -len(pair[1]))

    def _take(self, key: str) -> list[tuple[Abandoned, Unfinished]]:
        with self._lock:
            return [
                (other, item)
                for other, found in self._left
                if (item := found.pop(key, None)) is not None
            ]

    def receive(self, path: RelativePath, size: int, key: str | None) -> Receiving:
        """Open the part file of an object; one without a key is not worth to be gone on with."""
        if key is None:
            return Receiving(self._folder.part_file(path, size))
        taken, parts = self._taken(key)
        part = self._folder.part_file(path, size, taken)
        self.begin(key, part.name, parts)
        return Receiving(part, (self, key), parts)

    def _taken(self, key: str) -> tuple[tuple[str, int] | None, dict[int, str]]:
        """Take over the part file that has most of an object, once; and what it is told to have.

        The journal of one that took it over before and was interrupted says as much as the one it
        was taken from, where it is no more: the next is looked at.
        """
        for other, item in sorted(self._take(key), key=lambda pair: -len(pair[1].parts)):
            workspace = self._folder.workspace()
            name = workspace.new_part()
            fd = other.take(item.place, workspace, name)
            if fd is not None:
                return (name, fd), dict(item.parts)
        return None, {}

    @property
    def writes(self) -> bool:
        """Whether anything is written down."""
        return self._journal is not None

    def leave(self) -> None:
        """Keep what is written down for the next transfer."""
        if self._journal is not None:
            self._folder.workspace().keep()

    def close(self, *, finished: bool) -> None:
        """Let go of what is left; once all is finished, nothing of it is wanted any more."""
        if finished:
            for other, _ in self._left:
                other.remove()
        self._opened.close()
        if self._journal is not None:
            self._journal.close()


class Receiving:
    """One object that comes in parts, some of which may be there already."""

    def __init__(
        self,
        part: PartFile,
        journal: tuple[Resumption, str] | None = None,
        there: dict[int, str] | None = None,
    ) -> None:
        """Go on with a part file; `there` has the checksums of its parts, believed of none."""
        self.part, self._journal, self._there = part, journal, there or {}

    def has(self, offset: int, memory: memoryview) -> bool:
        """Fill the memory with a part that is there; tell whether it is, as it was written."""
        expected = self._there.get(offset)
        return (
            expected is not None
            and self.part.read_into(offset, memory)
            and _checksum(memory) == expected
        )

    def came(self, offset: int, memory: memoryview) -> None:
        """Bring a part to its place."""
        self.part.write_at(offset, memory)
        if self._journal is not None:
            resumption, key = self._journal
            self._there[offset] = _checksum(memory)
            resumption.done(key, offset, self._there[offset])

    def publish(self, *, replace: bool) -> None:
        """Give the file its name, as `PartFile.publish` does."""
        self.part.publish(replace=replace)
        self._end()

    def give_up(self, error: BaseException) -> None:
        """Leave what the next transfer can go on with, and nothing else."""
        if self._there and not isinstance(error, _LEAVES_NOTHING):
            self.part.leave()
        else:
            self.part.discard()
            self._end()

    def _end(self) -> None:
        if self._journal is not None:
            self._journal[0].end(self._journal[1])


class Sending:
    """One object that is sent in parts, some of which the service may hold already.

    A part is known by the digest of all that comes before its end, so that it is used only where
    this file and the one that it was read from are the same up to there.
    """

    def __init__(
        self,
        writing: Writing,
        resumption: Resumption | None = None,
        *,
        name: str = "",
        size: int = 0,
        step: int = 1,
    ) -> None:
        """Name the object, and the length of its parts; without a journal nothing is gone on with."""
        self.writing, self._resumption = writing, resumption
        self._key, self._size, self._step = key_of(name, "", size, step), size, step
        self._there: dict[int, str] = {}
        self._kept: dict[int, tuple[str, str]] = {}

    def begin(self) -> None:
        """Find out which parts of earlier writings are still there, and take them over."""
        if self._resumption is None:
            return
        for token, parts in self._resumption.sent(self._key):
            self._take_over(token, parts)
        if not self._kept:
            self.writing.make_ready()
        self._there = {offset: " ".join(known) for offset, known in self._kept.items()}
        if self.writing.token:
            self._resumption.begin(self._key, self.writing.token, self._there)
        else:
            self._resumption = None

    def _take_over(self, token: str, parts: Mapping[int, str]) -> None:
        assert self._resumption is not None
        after = self.writing.token_after(token)
        # Before it is done, or a kill in between would leave what no journal tells of.
        self._there = {offset: f"{after} {digest}" for offset, digest in parts.items()}
        self._there |= {offset: " ".join(known) for offset, known in self._kept.items()}
        self._resumption.begin(self._key, after, self._there)
        lengths = {at // self._step: min(self._step, self._size - at) for at in parts}
        # One that may only write cannot ask; then all is sent anew.
        with contextlib.suppress(AccessError):
            for index in self.writing.take_over(token, lengths):
                offset = index * self._step
                self._kept.setdefault(offset, (after, parts[offset]))

    def has(self, index: int, offset: int, length: int, digest: str) -> bool:
        """Tell whether the service holds the part, which ends the content that has this digest."""
        token, known = self._kept.get(offset, ("", ""))
        if known != digest:
            return False
        self.writing.keep_part(index, length, token)
        return True

    def sent(self, offset: int, digest: str) -> None:
        """Write down that the service holds the part."""
        if self._resumption is not None:
            self._there[offset] = f"{self.writing.token} {digest}"
            self._resumption.done(self._key, offset, self._there[offset])

    def end(self) -> None:
        """Write down that nothing is left to be done."""
        if self._resumption is not None:
            self._resumption.end(self._key)

    def give_up(self, error: BaseException) -> None:
        """Leave what the next transfer can go on with, and nothing else."""
        resumption = self._resumption
        is_told = resumption is not None and resumption.writes and bool(self._there)
        keep = is_told and not isinstance(error, _LEAVES_NOTHING)
        self.writing.abort(keep=keep)
        # Last, or a kill in between would leave what no journal tells of.
        if keep and resumption is not None:
            resumption.leave()
        else:
            self.end()


def _checksum(memory: memoryview) -> str:
    """Return what tells a part that was torn, or flushed by half, from the whole one."""
    return f"{zlib.crc32(memory):08x}"
