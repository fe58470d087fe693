"""Objects on their way here: pinned, verified, flushed, and given their names; small ones asked for ahead."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import closing
from typing import Literal

from prefect_datastores.errors import (
    DatastoreError,
    IntegrityError,
    ObjectExists,
    PartLost,
    TransferCancelled,
)
from prefect_datastores.files import Folder
from prefect_datastores.staging.cache import Cache, Entry
from prefect_datastores.staging.digest import RunningDigest, md5_of_file
from prefect_datastores.staging.engine import Done, Lanes
from prefect_datastores.staging.keeping import Keep, nanoseconds_of, to_attribute
from prefect_datastores.staging.plan import Fetch, Overwrite
from prefect_datastores.staging.report import ObjectRow
from prefect_datastores.staging.resume import Receiving, Resumption, key_of
from prefect_datastores.stores.base import (
    ObjectInfo,
    ObjectStore,
    Pending,
    part_size,
    stored_digest,
)

SMALL = 128 * 1024
"""Bytes up to which an object's request is what takes time, and not its content."""
_LOST = 10  # times that another process may take the part file of one object away


class _Damaged(IntegrityError):
    """What arrived has another digest than the one stored with it."""


def _no_digest(name: str, store: ObjectStore) -> IntegrityError:
    held = f"No MD5 is stored with {name!r}"
    mend = "Store it again, as every upload by this package stores one, or leave require_digest out"
    if not store.capabilities.stores_digest:
        held = f"{store.url} keeps no MD5 of anything, so none of {name!r}"
        mend = "Leave require_digest out for this datastore"
    return IntegrityError(
        f"{held}, and require_digest=True asks for one; it was not kept. {mend}: its length alone is checked then."
    )


class Fetching:
    """Brings the objects of one download here, each as its plan says; used by many threads."""

    def __init__(
        self,
        store: ObjectStore,
        folder: Folder,
        resumption: Resumption,
        cache: Cache | None,
        wait: Callable[[], None],
        *,
        overwrite: Overwrite,
        require_digest: bool,
        keep: Keep,
    ) -> None:
        """Bring nothing yet; `wait` returns when the plan is found to be good, before anything gets its name."""
        self._store, self._folder, self._overwrite = store, folder, overwrite
        self._keep_times, self._require_digest = keep.times, require_digest
        self._kind = store.capabilities.properties if keep.properties else ""
        self._resumption, self._cache, self._failed = resumption, cache, False
        self._wait, capabilities = wait, store.capabilities
        self._begins_ahead, self._lists_digest = (
            capabilities.begins_ahead,
            capabilities.lists_digest,
        )
        self._small = min(SMALL, capabilities.part_size)

    def __enter__(self) -> Fetching:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._resumption.close(finished=kind is None and not self._failed)

    def begin(self, item: Fetch, lanes: Lanes) -> _Begun | None:
        """Ask for a small object, so that others can be asked for before it comes."""
        info = item.info
        if not self._begins_ahead or item.verdict != "move" or not 0 < info.size <= self._small:
            return None
        if self._lacks_digest(info) or self._kind:  # properties are one request more
            return None
        if self._cache is not None and self._cache.holds(self._store.url, info):
            return None
        memory = lanes.memory.take_ahead(info.size)
        if memory is None:
            return None
        try:
            reading = self._store.begin_read(item.name, 0, memory, pin=info.etag or None)
        except BaseException:
            lanes.memory.give_ahead(memory)
            raise
        return _Begun(self, item, lanes, memory, reading)

    def fetch(self, item: Fetch, lanes: Lanes, begun: _Begun | None = None) -> Done:
        """Bring an object here; `begun` is what was asked for already. A small one is settled later."""
        row = ObjectRow(
            item.info.name, str(item.path), item.info.size, "moved", "length", item.detail
        )
        if item.verdict == "keep":
            return row._replace(action="skipped", verified="")
        if self._lacks_digest(item.info) and item.info.size:
            raise _no_digest(item.info.name, self._store)
        if item.verdict == "compare" and self._is_same(item, lanes):
            lanes.progress.moved(item.info.size)
            return row._replace(action="unchanged", verified="md5")
        moving = self._filled(item, lanes, begun)
        return self.settle(moving, row) if item.info.size > SMALL else _Settling(self, moving, row)

    def settle(self, moving: _Moving, row: ObjectRow) -> ObjectRow:
        """Give an object that is here its name, once it is on the disk."""
        lost = 0
        while True:
            try:
                self._publish(moving)
                break
            except ObjectExists as error:
                if self._overwrite == "skip":
                    return row._replace(action="skipped", verified="", detail=str(error))
                raise
            except PartLost:  # another process took it away
                lost += 1
                if lost > _LOST:
                    raise
            moving.lanes.progress.moved(-moving.item.info.size)
            moving = self._filled(moving.item, moving.lanes, None)
        verified: Literal["md5", "length"] = "md5" if moving.digest else "length"
        return row._replace(verified=verified, cached=moving.cached)

    def _lacks_digest(self, info: ObjectInfo) -> bool:
        """Tell whether a digest is required, and there is none."""
        return self._require_digest and self._lists_digest and info.digest is None

    def _is_same(self, item: Fetch, lanes: Lanes) -> bool:
        """Compare digests; without one at the service nothing can be said, so it is fetched again."""
        stored = stored_digest(self._store, item.info)
        if stored is None:
            return False
        fd = self._folder.open_read(item.path)
        try:
            return md5_of_file(fd, lanes.cancellation) == stored
        finally:
            os.close(fd)

    def _filled(self, item: Fetch, lanes: Lanes, begun: _Begun | None) -> _Moving:
        """Fetch an object, once more where it was damaged on its way."""
        try:
            return self._fill_once(item, lanes, begun)
        except _Damaged:
            lanes.progress.moved(-item.info.size)
            return self._fill_once(item, lanes, None)

    def _fill_once(self, item: Fetch, lanes: Lanes, begun: _Begun | None) -> _Moving:
        kept = self._cache if item.info.etag else None
        entry = kept.entry(self._store.url, item.info) if kept is not None else None
        try:
            moving = _Moving(item, lanes, self._receive(item, entry), entry)
        except BaseException:
            if entry is not None:
                entry.close()
            raise
        try:
            if not (entry and entry.gave(moving.receiving.part)):
                came = begun.take(moving) if begun is not None and not moving.cached else None
                digest = self._fill(moving, came)
                # What is known before counts; else what came with the bytes, unless all of it was here.
                if item.info.digest is not None or not moving.was_told:
                    moving.digest = stored_digest(self._store, item.info)
                if moving.digest not in {None, digest}:
                    raise _Damaged(
                        f"{item.info.name!r} arrived with another MD5 than the one stored with it; it was not "
                        "published. It was damaged on its way, or stored damaged."
                    )
            if self._require_digest and moving.digest is None and item.info.size:
                moving.digest = self._required_digest(item)
            moving.receiving.part.seal(
                nanoseconds_of(item.info.modified)
                if self._keep_times and item.info.modified is not None
                else None,
                read_only=entry is not None and entry.links and not self._kind,
                attribute=self._attribute(item),
            )
        except BaseException as error:
            if entry and isinstance(error, _Damaged):
                entry.forget()
            self.give_up(moving, error)
            raise
        return moving

    def _attribute(self, item: Fetch) -> bytes | None:
        """Return what the file is to have of the object's properties."""
        if not self._kind:
            return None
        told = self._store.properties(item.name, pin=item.info.etag or None)
        return to_attribute(self._kind, told)

    def _check_told(self, moving: _Moving) -> None:
        """Fetch no more of an object whose first bytes came without the digest that is required."""
        if self._require_digest and moving.was_told and moving.digest is None:
            raise _no_digest(moving.item.info.name, self._store)

    def _required_digest(self, item: Fetch) -> bytes:
        digest = stored_digest(self._store, item.info)
        if digest is None:
            raise _no_digest(item.info.name, self._store)
        return digest

    def _publish(self, moving: _Moving) -> None:
        entry, part = moving.entry, moving.receiving.part
        try:
            part.flush()
            if entry and not moving.cached:
                entry.add(part, shares=not self._kind)
            self._wait()
            moving.lanes.cancellation.check()
            moving.receiving.publish(replace=self._overwrite in {"replace", "if_changed"})
        except BaseException as error:
            self.give_up(moving, error)
            raise
        moving.close()

    def give_up(self, moving: _Moving, error: BaseException) -> None:
        """Leave what the next transfer can go on with, and nothing else."""
        moving.receiving.give_up(error)
        moving.close()
        self._failed = not isinstance(error, (_Damaged, PartLost)) or self._failed

    def _receive(self, item: Fetch, entry: Entry | None) -> Receiving:
        """Open the part file of an object: the entry of the cache itself, one left earlier, or a new one."""
        size = item.info.size
        # The time of the entry itself tells whether anybody wrote to it, and others are given it as well.
        links = entry if not (self._keep_times or self._kind) else None
        if links and (taken := links.link_into(self._folder.workspace())):
            return Receiving(self._folder.part_file(item.path, size, taken))
        step = part_size(self._store.capabilities, size)
        # An object of one part is fetched as quickly as looked for, and what has no version is never the same.
        worth = size > step and item.info.etag
        return self._resumption.receive(
            item.path, size, key_of(item.name, item.info.etag, size, step) if worth else None
        )

    def _fill(self, moving: _Moving, came: memoryview | None) -> bytes:
        """Bring all parts to their places, and return the MD5 of them; `came` is the only one."""
        item, lanes, receiving, entry = moving.item, moving.lanes, moving.receiving, moving.entry
        if came is not None:
            receiving.came(0, came)
            lanes.progress.moved(len(came))
            return hashlib.md5(came, usedforsecurity=False).digest()
        wants_digest = item.info.digest is not None or not self._lists_digest
        digest = RunningDigest(receiving.part.read_at, lanes.cancellation, lanes.memory.give)

        def bring(offset: int, memory: memoryview) -> None:
            lanes.cancellation.check()
            if receiving.has(offset, memory):
                return
            if not (entry and entry.read_into(offset, memory)):
                told = self._store.read_into(item.name, offset, memory, pin=item.info.etag or None)
                if wants_digest:
                    moving.tell(told)
                    self._check_told(moving)
            receiving.came(offset, memory)

        def one(offset: int, memory: memoryview) -> None:
            came = False
            try:
                bring(offset, memory)
                came = True
            finally:
                if not (came and wants_digest):
                    lanes.memory.give(memory)
            if wants_digest:
                digest.came(offset, memory)

        step = part_size(self._store.capabilities, item.info.size)
        with closing(digest), lanes.memory.lying(digest.give_up):
            lanes.each_part(item.info.size, step, one)
        return digest.result()


class _Moving:
    """An object on its way: its part file, and its place in the cache."""

    def __init__(
        self, item: Fetch, lanes: Lanes, receiving: Receiving, entry: Entry | None
    ) -> None:
        self.item, self.lanes, self.receiving, self.entry = item, lanes, receiving, entry
        self.cached = entry is not None and entry.fd is not None
        self.digest = item.info.digest
        self.was_told = item.info.digest is not None
        """Whether it is known which digest the service holds, if any."""

    def tell(self, digest: bytes | None) -> None:
        """Take note of the digest that the service told with its bytes; a listing's comes first."""
        if not self.was_told:
            self.digest, self.was_told = digest, True

    def close(self) -> None:
        """Let go of the entry of the cache."""
        if self.entry is not None:
            self.entry.close()


class _Settling:
    """A small object that is here, and that the disk is given together with others."""

    def __init__(self, fetching: Fetching, moving: _Moving, row: ObjectRow) -> None:
        self._fetching, self._row = fetching, row
        self._moving: _Moving | None = moving
        self._fault: DatastoreError | None = None

    is_under_way = True

    def go_on(self) -> bool:
        """Tell that nothing follows."""
        return False

    def begin_flush(self) -> None:
        """Have the disk begin with the object."""
        if self._moving is not None:
            self._moving.receiving.part.begin_flush()

    def flush(self) -> None:
        """Return when the disk has the object, or said why not: a second flush would not say it again."""
        if self._moving is not None:
            try:
                self._moving.receiving.part.flush()
            except DatastoreError as fault:
                self._fault = fault

    def finish(self) -> ObjectRow:
        """Give the object its name, and return its row."""
        moving, self._moving = self._moving, None
        assert moving is not None, "An object is settled once."
        if self._fault is not None:
            self._fetching.give_up(moving, self._fault)
            raise self._fault
        return self._fetching.settle(moving, self._row)

    def drop(self) -> None:
        """Leave nothing of it."""
        if self._moving is not None:
            self._fetching.give_up(self._moving, TransferCancelled("It was not settled."))
            self._moving = None


class _Begun:
    """A small object that was asked for, and is still to come."""

    def __init__(
        self,
        fetching: Fetching,
        item: Fetch,
        lanes: Lanes,
        memory: memoryview,
        reading: Pending[bytes | None],
    ) -> None:
        self._fetching, self._item, self._lanes = fetching, item, lanes
        self._memory: memoryview | None = memory
        self._reading: Pending[bytes | None] | None = reading

    @property
    def is_under_way(self) -> bool:
        """Whether it was really asked for."""
        return self._reading is not None and self._reading.is_under_way

    def take(self, moving: _Moving) -> memoryview | None:
        """Return the content once it came, and None where it was taken already."""
        reading, self._reading = self._reading, None
        if reading is None:
            return None
        moving.tell(reading.finish())
        return self._memory

    def go_on(self) -> bool:
        """Tell that nothing follows."""
        return False

    def finish(self) -> Done:
        """Bring the object here."""
        return self._fetching.fetch(self._item, self._lanes, self)

    def drop(self) -> None:
        """Do not wait for it, unless it came; its memory is given back."""
        if self._reading is not None:
            self._reading.drop()
        if self._memory is not None:
            self._lanes.memory.give_ahead(self._memory)
        self._reading = self._memory = None
