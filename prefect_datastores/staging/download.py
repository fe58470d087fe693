"""Download: objects of a store become files, each whole and of one version, or none."""

from __future__ import annotations

import dataclasses
import stat
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from prefect_datastores.circles import rarely_looked_for
from prefect_datastores.errors import (
    DatastoreError,
    LocalDiskFull,
    ObjectNotFound,
)
from prefect_datastores.files import Folder
from prefect_datastores.names import (
    NameRules,
    ObjectName,
    RelativePath,
    folder_prefix,
    matcher,
    normal_path,
)
from prefect_datastores.staging import published
from prefect_datastores.staging.cache import CacheLimits, opened
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.engine import Limits, run
from prefect_datastores.staging.failures import failed_row, raise_failures
from prefect_datastores.staging.fetching import Fetching
from prefect_datastores.staging.folders import Folders, Place, all_of, places
from prefect_datastores.staging.keeping import Keep, check_disk
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
from prefect_datastores.staging.report import ObjectRow, TransferReport, human_bytes
from prefect_datastores.staging.resume import Resumption
from prefect_datastores.staging.spool import Spool
from prefect_datastores.stores.base import (
    ObjectInfo,
    ObjectStore,
)


@dataclasses.dataclass(frozen=True)
class DownloadRequest:
    """What is wanted: the place in the store, where it goes, and by which rules.

    With `whole_names` a file keeps its name from the store's root (as `Datastore.download` of Azure
    ML lays out files); without, it is laid out relative to `path`. With `keep_times` a file gets the
    time at which the object was last changed at the service, and with `keep_properties` what the
    service keeps of the object beside its content, in an extended attribute; so do folders, where
    the service has such. With `require_digest` an object of
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
    keep_properties: bool = False

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
    store: ObjectStore,
    folder: Folder | None,
    request: DownloadRequest,
    shown: Iterable[ObjectInfo] | None = None,
) -> tuple[DownloadPlanning, Iterable[ObjectInfo]]:
    """Return what decides for each object of a listing, and the listing."""
    path = normal_path(request.path)
    single, listing = published.at(store, path) if shown is None else (None, shown)
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


@rarely_looked_for()
def download(
    store: ObjectStore,
    destination: Path,
    request: DownloadRequest,
    *,
    limits: Limits | None = None,
    cancellation: Cancellation | None = None,
    progress: Progress | None = None,
    cache: CacheLimits | None = None,
    shown: Iterable[ObjectInfo] | None = None,
) -> TransferReport:
    """Bring what `request` names below `destination`; return only when all of it is there, flushed.

    `shown` is what the folder there shows, where the caller knows it already.

    Raises:
        StageFailed: an object failed; the others were tried, and the report has a row for each.
        LocalDiskFull: the disk cannot hold the plan; nothing was written.
        TransferCancelled: `cancellation` was set; what came of large objects is kept for the next run.
        ConfigurationError: properties are to be kept, and the service or the disk has none.
        DatastoreError: as `plan` says.
    """
    began, progress = time.monotonic(), progress or Silent()
    cancellation = cancellation or Cancellation()
    source = f"{store.url}/{normal_path(request.path)}".rstrip("/")
    Keep(properties=request.keep_properties).check(store)
    with Folder(destination, create=True) as folder:
        if request.keep_properties:
            check_disk(folder)
        planning, listing = _planning(store, folder, request, shown)
        limits, keep = limits or Limits(), Keep(request.keep_times, request.keep_properties)
        folders, empty = Folders(store, folder, keep, limits, cancellation), places()

        def finish() -> None:
            made = _finished(planning, store, request)
            _check_room(made, folder)
            for directory in made.directories:
                is_new = folder.make_directory(directory)
                if folders.are_kept and (is_new or request.overwrite != "skip"):
                    empty.append(_place_of(directory, planning.prefix))

        def tell() -> None:
            progress.grow(len(planning.fetches), planning.size)

        planned = Planned(planning, listing, finish, tell, cancellation)
        title = f"Downloading from {store.url}"
        progress.begin(title, len(planning.fetches), planning.size)
        resumption = Resumption(folder, f"from {source}")
        with (
            planned,
            opened(cache if store.capabilities.is_remote else None) as shelf,
            Fetching(
                store,
                folder,
                resumption,
                shelf,
                planned.wait,
                overwrite=request.overwrite,
                require_digest=request.require_digest,
                keep=keep,
            ) as fetching,
        ):
            rows = run(
                planned,
                fetching.fetch,
                _failed,
                begin=fetching.begin,
                limits=limits,
                cancellation=cancellation,
                progress=progress,
            )
        if folders.are_kept and (failed := _keep_folders(folders, planning, rows, empty, request)):
            rows = (*rows, *failed)
        folder.flush()
    report = TransferReport(False, source, str(destination), rows, time.monotonic() - began)
    raise_failures(report)
    return report


def _keep_folders(
    folders: Folders,
    planning: DownloadPlanning,
    rows: Sequence[ObjectRow],
    empty: Spool[Place],
    request: DownloadRequest,
) -> list[ObjectRow]:
    """Give the folders of a download what is kept of them; return a row for each that failed."""
    if request.overwrite == "skip":
        moved = (row for row in rows if row.action == "moved")
        found = (Place(RelativePath(row.path), ObjectName(row.name)) for row in moved)
    else:
        found = (Place(item.path, item.name) for item in planning.fetches)
    return folders.receive(all_of(found, empty))


def _place_of(path: RelativePath, prefix: str) -> Place:
    return Place(path, ObjectName(f"{prefix}{path}"))


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
