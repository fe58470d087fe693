"""Download: objects of a store become files, each whole and of one version, or none."""

from __future__ import annotations

import dataclasses
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from prefect_datastores.errors import (
    DatastoreError,
    IntegrityError,
    LocalDiskFull,
    ObjectExists,
    ObjectNotFound,
    PartLost,
    StageFailed,
    TransferCancelled,
)
from prefect_datastores.files import Folder
from prefect_datastores.names import (
    NameRules,
    RelativePath,
    folder_prefix,
    matcher,
    normal_path,
)
from prefect_datastores.staging import published
from prefect_datastores.staging.cache import Cache, CacheLimits, Entry, opened
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.digest import RunningDigest, md5_of_file
from prefect_datastores.staging.engine import Lanes, Limits, run
from prefect_datastores.staging.plan import (
    FOLDER,
    NO_FILE,
    DownloadPlan,
    DownloadPlanning,
    Fetch,
    Overwrite,
    Selection,
)
from prefect_datastores.staging.planned import Planned
from prefect_datastores.staging.progress import Progress, Silent
from prefect_datastores.staging.report import Action, ObjectRow, TransferReport, human_bytes, plural
from prefect_datastores.staging.resume import Receiving, Resumption, key_of
from prefect_datastores.stores.base import ObjectInfo, ObjectStore, part_size

_SHOWN = 5
_LOST = 10  # times that another process may take the part file of one object away


@dataclasses.dataclass(frozen=True)
class DownloadRequest:
    """What is wanted: the place in the store, where it goes, and by which rules.

    With `whole_names` a file keeps its name from the store's root (as `Datastore.download` of Azure
    ML lays out files); without, it is laid out relative to `path`. With `keep_times` a file gets the
    time at which the object was last changed at the service. With `require_digest` an object of
    which the service holds no MD5 fails, unless it is empty: then its length says all.
    """

    path: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    overwrite: Overwrite = "if_changed"
    allow_empty: bool = False
    whole_names: bool = False
    keep_times: bool = False
    require_digest: bool = False

    def selection(self, prefix: str) -> Selection:
        """Return the selection below `prefix`."""
        return Selection(
            "" if self.whole_names else prefix,
            matcher(self.include, self.exclude),
            self.whole_names,
        )


def plan(store: ObjectStore, destination: Path, request: DownloadRequest) -> DownloadPlan:
    """Say what a download would do; nothing is written, and `destination` need not exist.

    Raises:
        ObjectNotFound: nothing matches, and `allow_empty` is not set.
        UnsafeName, NameCollision, ObjectExists: as `DownloadPlanning.finish` says.
    """
    if destination.is_dir():
        with Folder(destination) as folder:
            return _plan(store, folder, request)
    return _plan(store, None, request)


def _plan(store: ObjectStore, folder: Folder | None, request: DownloadRequest) -> DownloadPlan:
    planning, listing = _planning(store, folder, request)
    for info in listing:
        planning.add(info)
    return _finished(planning, store, request)


def _planning(
    store: ObjectStore, folder: Folder | None, request: DownloadRequest
) -> tuple[DownloadPlanning, Iterable[ObjectInfo]]:
    """Return what decides for each object of a listing, and the listing."""
    path = normal_path(request.path)
    single, listing = published.at(store, path)
    prefix = folder_prefix(path.rpartition("/")[0] if single else path)
    # Where nothing stands, there is nothing to look for.
    holds = folder if folder and not folder.is_empty() else None

    def size_at(path: RelativePath) -> int | None:
        found = holds.stat(path) if holds else None
        if found is None:
            return None
        if stat.S_ISREG(found.st_mode):
            return found.st_size
        return FOLDER if stat.S_ISDIR(found.st_mode) else NO_FILE

    rules = folder.rules() if folder else NameRules()
    selection = request.selection(prefix)
    return DownloadPlanning(selection, rules, request.overwrite, size_at), listing


def _finished(
    planning: DownloadPlanning, store: ObjectStore, request: DownloadRequest
) -> DownloadPlan:
    made = planning.finish()
    if not made.fetches and not made.directories and not request.allow_empty:
        globs = f" that matches include={list(request.include)} exclude={list(request.exclude)}"
        raise ObjectNotFound(
            f"There is nothing at {normal_path(request.path) or 'the root'!r} in {store.url}"
            f"{globs if request.include or request.exclude else ''}. "
            "Check the path, or say allow_empty=True if that is fine."
        )
    return made


def download(
    store: ObjectStore,
    destination: Path,
    request: DownloadRequest,
    *,
    limits: Limits | None = None,
    cancellation: Cancellation | None = None,
    progress: Progress | None = None,
    cache: CacheLimits | None = None,
) -> TransferReport:
    """Bring what `request` names below `destination`; return only when all of it is there, flushed.

    Raises:
        StageFailed: an object failed; the others were tried, and the report has a row for each.
        LocalDiskFull: the disk cannot hold the plan; nothing was written.
        TransferCancelled: `cancellation` was set; what came of large objects is kept for the next run.
        DatastoreError: as `plan` says.
    """
    began, progress = time.monotonic(), progress or Silent()
    cancellation = cancellation or Cancellation()
    source = f"{store.url}/{normal_path(request.path)}".rstrip("/")
    with Folder(destination, create=True) as folder:
        planning, listing = _planning(store, folder, request)

        def finish() -> None:
            made = _finished(planning, store, request)
            _check_room(made, folder)
            for directory in made.directories:
                folder.make_directory(directory)

        def tell() -> None:
            progress.grow(len(planning.fetches), planning.size)

        planned = Planned(planning, listing, finish, tell, cancellation)
        title = f"Downloading from {store.url}"
        progress.begin(title, len(planning.fetches), planning.size)
        resumption = Resumption(folder, f"from {source}")
        with (
            planned,
            opened(cache if store.capabilities.is_remote else None) as shelf,
            _Fetching(store, folder, request, resumption, shelf, planned.wait) as fetching,
        ):
            rows = run(
                planned,
                fetching.fetch,
                _failed,
                limits=limits or Limits(),
                cancellation=cancellation,
                progress=progress,
            )
        folder.flush()
    report = TransferReport(False, source, str(destination), rows, time.monotonic() - began)
    raise_failures(report)
    return report


def raise_failures(report: TransferReport) -> None:
    """Return when every object of the report is well.

    Raises:
        StageFailed: one is not.
    """
    if not report.failed:
        return
    failed = report.of("failed")
    shown = "\n  ".join(f"{row.name}: {row.detail}" for row in failed[:_SHOWN])
    more = f"\n  ... and {len(failed) - _SHOWN} more." if len(failed) > _SHOWN else ""
    untried = (
        f" {plural(len(report.of('cancelled')), 'object')} not tried."
        if report.of("cancelled")
        else ""
    )
    raise StageFailed(
        f"The {report.direction} from {report.source} to {report.destination} failed for "
        f"{len(failed)} of {plural(len(report.rows), 'object')}.{untried}\n  {shown}{more}",
        report,
    )


def _check_room(made: DownloadPlan, folder: Folder) -> None:
    # What is to be compared has its length already, and most often its content.
    free = folder.free_bytes()
    if made.needed > free:
        raise LocalDiskFull(
            f"Nothing was moved: {human_bytes(made.needed)} are to be downloaded to {folder.root}, "
            f"whose disk has {human_bytes(free)} free."
        )


def _failed(item: Fetch, error: DatastoreError) -> ObjectRow:
    return failed_row(item.info.name, str(item.path), item.info.size, error)


def failed_row(name: str, path: str, size: int, error: DatastoreError) -> ObjectRow:
    """Return the row of an object that was not moved."""
    action: Action = "cancelled" if isinstance(error, TransferCancelled) else "failed"
    return ObjectRow(name, path, size, action, detail=str(error))


class _Damaged(IntegrityError):
    """What arrived has another digest than the one stored with it."""


def _no_digest(name: str, store: ObjectStore) -> IntegrityError:
    held = f"No MD5 is stored with {name!r}"
    mend = "Store it again, as every upload by this package stores one, or leave require_digest out"
    if not store.capabilities.stores_digest:
        held = f"{store.url} keeps no MD5 of anything, so none of {name!r}"
        mend = "Leave require_digest out for this datastore"
    return IntegrityError(
        f"{held}, and require_digest=True asks for one; it was not fetched. {mend}: its length alone is checked then."
    )


class _Fetching:
    """Fetches one object at a time; used by many threads."""

    def __init__(
        self,
        store: ObjectStore,
        folder: Folder,
        request: DownloadRequest,
        resumption: Resumption,
        cache: Cache | None,
        wait: Callable[[], None],
    ) -> None:
        self._store, self._folder, self._overwrite = store, folder, request.overwrite
        self._keep_times, self._require_digest = request.keep_times, request.require_digest
        self._resumption, self._cache, self._failed = resumption, cache, False
        self._wait = wait

    def __enter__(self) -> _Fetching:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._resumption.close(finished=kind is None and not self._failed)

    def fetch(self, item: Fetch, lanes: Lanes) -> ObjectRow:
        row = ObjectRow(
            item.info.name, str(item.path), item.info.size, "moved", "length", item.detail
        )
        if item.verdict == "keep":
            return dataclasses.replace(row, action="skipped", verified="")
        if self._require_digest and item.info.digest is None and item.info.size:
            raise _no_digest(item.info.name, self._store)
        if item.verdict == "compare" and self._is_same(item, lanes):
            lanes.progress.moved(item.info.size)
            return dataclasses.replace(row, action="unchanged", verified="md5")
        try:
            cached = self._move(item, lanes)
        except ObjectExists as error:
            if self._overwrite == "skip":
                return dataclasses.replace(row, action="skipped", verified="", detail=str(error))
            raise
        return dataclasses.replace(
            row, verified="md5" if item.info.digest else "length", cached=cached
        )

    def _is_same(self, item: Fetch, lanes: Lanes) -> bool:
        """Compare digests; without one at the service nothing can be said, so it is fetched again."""
        if item.info.digest is None:
            return False
        fd = self._folder.open_read(item.path)
        try:
            return md5_of_file(fd, lanes.cancellation) == item.info.digest
        finally:
            os.close(fd)

    def _move(self, item: Fetch, lanes: Lanes) -> bool:
        """Fetch an object, and tell whether it was in the cache.

        It is tried again where it was damaged on its way, or its part file was taken away.
        """
        damaged = lost = 0
        while True:
            try:
                if self._cache is None or not item.info.etag:
                    return self._move_once(item, lanes, None)
                with self._cache.entry(self._store.url, item.info) as entry:
                    return self._move_once(item, lanes, entry)
            except _Damaged:
                damaged += 1
                if damaged > 1:
                    raise
            except PartLost:
                lost += 1
                if lost > _LOST:
                    raise
            lanes.progress.moved(-item.info.size)

    def _move_once(self, item: Fetch, lanes: Lanes, entry: Entry | None) -> bool:
        receiving = self._receive(item, entry)
        cached = entry is not None and entry.fd is not None
        try:
            if not (entry and entry.gave(receiving.part)):
                digest = self._fill(receiving, item, entry, lanes)
                if item.info.digest not in {None, digest}:
                    raise _Damaged(
                        f"{item.info.name!r} arrived with another MD5 than the one stored with it; it was not "
                        "published. It was damaged on its way, or stored damaged."
                    )
            times = (item.info.modified,) * 2 if self._keep_times and item.info.modified else None
            receiving.part.flush(times, read_only=entry is not None and entry.links)
            if entry and not cached:
                entry.add(receiving.part)
            self._wait()
            lanes.cancellation.check()
            receiving.publish(replace=self._overwrite in {"replace", "if_changed"})
        except BaseException as error:
            if entry and isinstance(error, _Damaged):
                entry.forget()
            receiving.give_up(error)
            self._failed = not isinstance(error, (_Damaged, PartLost)) or self._failed
            raise
        return cached

    def _receive(self, item: Fetch, entry: Entry | None) -> Receiving:
        """Open the part file of an object: the entry of the cache itself, one left earlier, or a new one."""
        size = item.info.size
        # The time of the entry itself tells whether anybody wrote to it.
        links = entry if not self._keep_times else None
        if links and (taken := links.link_into(self._folder.workspace())):
            return Receiving(self._folder.part_file(item.path, size, taken))
        step = part_size(self._store.capabilities, size)
        # An object of one part is fetched as quickly as looked for, and what has no version is never the same.
        worth = size > step and item.info.etag
        return self._resumption.receive(
            item.path, size, key_of(item.name, item.info.etag, size, step) if worth else None
        )

    def _fill(self, receiving: Receiving, item: Fetch, entry: Entry | None, lanes: Lanes) -> bytes:
        """Bring all parts to their places, and return the MD5 of what came."""
        digest = RunningDigest(receiving.part.read_at, lanes.cancellation)

        def one(offset: int, memory: memoryview) -> None:
            lanes.cancellation.check()
            if not receiving.has(offset, memory):
                if not (entry and entry.read_into(offset, memory)):
                    self._store.read_into(item.name, offset, memory, pin=item.info.etag or None)
                receiving.came(offset, memory)
            if item.info.digest is not None:
                digest.came(offset, memory)

        step = part_size(self._store.capabilities, item.info.size)
        lanes.each_part(item.info.size, step, one)
        return digest.result()
