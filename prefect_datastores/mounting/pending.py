"""What was written into a mount and is not stored yet: kept on the disk, so that a kill loses none of it.

Each writable mount has a folder of its own for its *drafts*, the files as they were written. Before
a draft is stored a record is written beside it, which is removed once the service has the whole. A
record that nobody works on any more is one that a kill interrupted: whoever finds it stores the
draft, on the same condition as its writer would have. A *copy* has what the service has, and is
there to be read, or to become a draft with the next change.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from prefect_datastores.errors import DatastoreError, ObjectExists, ObjectNotFound
from prefect_datastores.names import ObjectName
from prefect_datastores.processes import boot_id
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.digest import md5_of_file
from prefect_datastores.stores.base import ObjectInfo, ObjectStore, stored_digest

_OWNER, _RECORD, _DRAFT, _COPY = "owner.json", ".json", ".draft", ".copy"
_KEPT_SECONDS = 7 * 24 * 3600.0
"""For how long a file that its writer never closed is kept, as nobody but a person can tell what it is worth."""

Send = Callable[[ObjectStore, Path, ObjectName, "ObjectInfo | None"], ObjectInfo]
"""Stores a file over one version, or where nothing is."""


@dataclass(frozen=True)
class Record:
    """A draft that is to be stored, as it was when its writer closed it."""

    name: str
    replaces: str
    """The ETag of what it is written over; "" where it is to be new."""
    size: int
    modified: int
    """Nanoseconds; who wrote to it later did not close it."""
    boot: str
    synced: bool
    """It reached the disk, so that it is whole even after a power cut."""


@dataclass(frozen=True)
class Unstored:
    """A file whose last state the service does not have."""

    name: str
    reason: str
    draft: Path
    """Where that state is."""


class Drafts:
    """The drafts of one mount that lives; used by many threads."""

    def __init__(self, root: Path, title: str, url: str) -> None:
        """Make the folder.

        Raises:
            OSError: it cannot be made.
        """
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = root / secrets.token_hex(6)
        self.folder.mkdir(mode=0o700)
        # Held before it says whose it is, or somebody would take it for one that was left.
        self._owner = os.open(self.folder / _OWNER, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(self._owner, fcntl.LOCK_EX)
        os.write(self._owner, json.dumps({"title": title, "url": url}).encode())

    def path(self, number: int) -> Path:
        """Return where a draft is."""
        return self.folder / f"{number}{_DRAFT}"

    def copy(self, number: int) -> Path:
        """Return where a copy is."""
        return self.folder / f"{number}{_COPY}"

    def open_new(self, number: int) -> int:
        """Make an empty copy, and return its descriptor.

        Raises:
            OSError: the disk is full.
        """
        return os.open(self.copy(number), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def change(self, number: int) -> None:
        """Take note that a copy is to have what the service does not."""
        self.copy(number).rename(self.path(number))

    def begin(self, number: int, name: str, replaces: str, *, synced: bool) -> None:
        """Write down that a draft is to be stored as it is now.

        Raises:
            OSError: the disk is full.
        """
        found = self.path(number).stat()
        record = Record(name, replaces, found.st_size, found.st_mtime_ns, boot_id(), synced)
        _write(self.folder / f"{number}{_RECORD}", record, synced=synced)

    def end(self, number: int) -> None:
        """Take note that it is stored, so that it is a copy."""
        self.path(number).rename(self.copy(number))
        (self.folder / f"{number}{_RECORD}").unlink()

    def remove(self, number: int) -> None:
        """Remove a draft or a copy that nobody needs any more."""
        for path in (self.folder / f"{number}{_RECORD}", self.path(number), self.copy(number)):
            path.unlink(missing_ok=True)

    def close(self, *, keep: bool) -> None:
        """Let go of the folder; with `keep`, what is in it stays for whoever stores it later."""
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._owner)


def _write(path: Path, record: Record, *, synced: bool) -> None:
    beside = path.with_name(f"{path.name}.new")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(asdict(record), file)
        if synced:
            file.flush()
            os.fsync(file.fileno())
    beside.replace(path)


class Left:
    """The drafts of a mount that was killed, or could not store them; held by who looks at them."""

    def __init__(self, folder: Path, title: str, url: str) -> None:
        """Look for what is there."""
        self.folder, self.title, self.url = folder, title, url
        for copy in folder.glob(f"*{_COPY}"):
            copy.unlink()
        drafts = {_number(path): path for path in _drafts(folder)}
        records = dict(_records(folder))
        # One without a draft is of what was stored: the kill came between the two.
        self.records = {number: one for number, one in records.items() if number in drafts}
        self.unclosed = [path for number, path in drafts.items() if number not in records]

    def drafts(self) -> list[Path]:
        """Return the files that were closed and are not stored."""
        return [self.folder / f"{number}{_DRAFT}" for number in sorted(self.records)]

    def finish(self, store: ObjectStore, send: Send) -> tuple[list[str], list[Unstored]]:
        """Store what was closed, on the condition of its writer; return what is stored now, and what is not.

        What its writer never closed stays where it is, for a week.
        """
        stored: list[str] = []
        unstored: list[Unstored] = []
        for number, record in sorted(self.records.items()):
            draft = self.folder / f"{number}{_DRAFT}"
            reason = _fault(draft, record)
            if reason is None:
                reason = _stored(store, draft, record, send)
            if reason is not None:
                unstored.append(Unstored(record.name, reason, draft))
                continue
            stored.append(record.name)
            for path in (draft, draft.with_suffix(_RECORD)):
                path.unlink(missing_ok=True)
        for path in self.unclosed:
            if time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                path.unlink(missing_ok=True)
        if not unstored and not any(_drafts(self.folder)):
            shutil.rmtree(self.folder, ignore_errors=True)
        return stored, unstored


@contextlib.contextmanager
def left(root: Path) -> Iterator[list[Left]]:
    """Give the drafts below a root that no living mount has; nobody else looks at them meanwhile."""
    found: list[Left] = []
    with contextlib.ExitStack() as opened:
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            with contextlib.suppress(OSError, ValueError, KeyError):
                owner = opened.enter_context((folder / _OWNER).open("r+", encoding="utf-8"))
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                said = json.load(owner)
                found.append(Left(folder, said["title"], said["url"]))
        yield found


def _records(folder: Path) -> Iterator[tuple[int, Record]]:
    for path in folder.glob(f"*{_RECORD}"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            yield _number(path), Record(**json.loads(path.read_text(encoding="utf-8")))


def _drafts(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{_DRAFT}"))


def _number(path: Path) -> int:
    return int(path.name.partition(".")[0])


def _fault(draft: Path, record: Record) -> str | None:
    """Say why a draft is not what its writer closed; None where it is."""
    try:
        found = draft.stat()
    except OSError as error:
        return f"the draft cannot be read: {error.strerror}"
    if (found.st_size, found.st_mtime_ns) != (record.size, record.modified):
        return "it was written to after it was closed, and not closed again"
    if record.boot != boot_id() and not record.synced:
        return "the machine was started anew before it reached the disk for sure"
    return None


def _stored(store: ObjectStore, draft: Path, record: Record, send: Send) -> str | None:
    """Store a draft; say why it could not be, or None where the service has it."""
    name = ObjectName(record.name)
    replaces = ObjectInfo(record.name, 0, record.replaces) if record.replaces else None
    try:
        send(store, draft, name, replaces)
    except ObjectExists as error:
        # Perhaps this very draft: the kill came between its commit and the end of its record.
        return None if _is_there(store, draft, name) else str(error)
    except DatastoreError as error:
        return str(error)
    return None


def _is_there(store: ObjectStore, draft: Path, name: ObjectName) -> bool:
    try:
        info = store.head(name)
    except ObjectNotFound:
        return False
    expected = stored_digest(store, info)
    if info.size != draft.stat().st_size:
        return False
    fd = os.open(draft, os.O_RDONLY)
    try:
        return (expected or _digest_of(store, info)) == md5_of_file(fd, Cancellation())
    finally:
        os.close(fd)


def _digest_of(store: ObjectStore, info: ObjectInfo) -> bytes:
    """Return the MD5 of an object with which the service keeps none."""
    digest, name, step = hashlib.md5(usedforsecurity=False), ObjectName(info.asked), 4 * 2**20
    for offset in range(0, info.size, step):
        piece = memoryview(bytearray(min(step, info.size - offset)))
        store.read_into(name, offset, piece, pin=info.etag)
        digest.update(piece)
    return digest.digest()
