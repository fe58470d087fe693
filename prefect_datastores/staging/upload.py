"""Upload: local files become objects, each whole, from a file that held still, or none."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from prefect_datastores.circles import rarely_looked_for
from prefect_datastores.errors import (
    AccessDenied,
    DatastoreError,
    UnsafeName,
)
from prefect_datastores.files import Folder
from prefect_datastores.names import (
    ObjectName,
    RelativePath,
    folder_prefix,
    join,
    normal_path,
)
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.engine import Limits, run
from prefect_datastores.staging.failures import failed_row, raise_failures
from prefect_datastores.staging.folders import Folders, Place, all_of, check_folders
from prefect_datastores.staging.generations import is_kept_for_publishing
from prefect_datastores.staging.keeping import NOTHING, Keep
from prefect_datastores.staging.lookup import Lookup
from prefect_datastores.staging.plan import (
    Overwrite,
    Send,
    UploadPlan,
    check_names,
    plan_upload,
)
from prefect_datastores.staging.progress import Progress, Silent
from prefect_datastores.staging.published import head, refuse_published
from prefect_datastores.staging.report import ObjectRow, TransferReport
from prefect_datastores.staging.resume import Resumption
from prefect_datastores.staging.storing import Storing
from prefect_datastores.staging.walk import Source
from prefect_datastores.stores.base import (
    ObjectStore,
)
from prefect_datastores.stores.listed import list_objects

_log = logging.getLogger("prefect_datastores.staging")
_FEW = 16  # files that are asked for one by one instead of listing the whole target


def plan(store: ObjectStore, source: Source, target: str, overwrite: Overwrite) -> UploadPlan:
    """Say what an upload would do; nothing is written.

    Raises:
        UnsafeName, NameCollision, ObjectExists: as `check_names` and `plan_upload` say.
        ConfigurationError: the folder was published at once.
    """
    # Names first: a bad one must not reach the service, not even in a question about it.
    rules = store.name_rules()
    check_names(source.files, target, rules)
    if is_kept_for_publishing(target.split("/")):
        raise UnsafeName(
            f"The folder {target!r} is kept for what is published at once; name another."
        )
    if overwrite == "replace":
        refuse_published(store, target)
        return plan_upload(source.files, target, overwrite, lambda _: None)
    if len(source.files) > _FEW:
        with (
            contextlib.suppress(AccessDenied),  # a SAS that may read but not list
            closing(Lookup(list_objects(store, folder_prefix(target)), rules)) as existing,
        ):
            refuse_published(store, target, existing)
            return plan_upload(source.files, target, overwrite, existing)
    refuse_published(store, target)
    return plan_upload(source.files, target, overwrite, partial(head, store))


@rarely_looked_for()
def upload(
    store: ObjectStore,
    source: Source,
    target: str,
    overwrite: Overwrite,
    *,
    limits: Limits | None = None,
    cancellation: Cancellation | None = None,
    progress: Progress | None = None,
    journals: Path | None = None,
    keep: Keep = NOTHING,
) -> TransferReport:
    """Store the files of `source` below `target`; return only when each is committed.

    With `keep`, objects get the times of the files, and the properties that files have of objects
    of the same kind of service; else, of what they replace. What is the same is left as it is. Where
    the service has folders, those get theirs, and empty ones are made.

    With `journals`, a folder of this user on this machine, an upload that was interrupted is gone
    on with where the service kept parts of it.

    Raises:
        StageFailed: a file failed; the others were tried, and the report has a row for each.
        TransferCancelled: `cancellation` was set; what is committed is whole.
        ConfigurationError: the service does not have what is to be kept.
        DatastoreError: as `plan` says.
    """
    keep.check(store)
    began, progress, target = time.monotonic(), progress or Silent(), normal_path(target)
    made = plan(store, source, target, overwrite)
    destination = f"{store.url}/{target}".rstrip("/")
    limits, cancellation = limits or Limits(), cancellation or Cancellation()
    with ExitStack() as opened:
        folder = opened.enter_context(Folder(source.root))
        folders = Folders(store, folder, keep, limits, cancellation)
        if folders.are_kept:
            check_folders(source.folders, target, store.name_rules())
        resumption = _resumption(opened, journals, destination) if journals else None
        progress.begin(f"Uploading to {store.url}", len(made.sends), made.size)
        with Storing(store, folder, overwrite, resumption, keep) as sending:
            rows = run(
                made.sends,
                sending.send,
                _failed,
                begin=sending.begin,
                limits=limits,
                cancellation=cancellation,
                progress=progress,
            )
        if folders.are_kept and (
            failed := _keep_folders(folders, source, target, made, rows, overwrite)
        ):
            rows = (*rows, *failed)
    everything = rows
    if source.ignored:
        everything = (*rows, *source.ignored)
    report = TransferReport(
        True, str(source.root), destination, everything, time.monotonic() - began
    )
    raise_failures(report)
    return report


def _keep_folders(
    folders: Folders,
    source: Source,
    target: str,
    made: UploadPlan,
    rows: Sequence[ObjectRow],
    overwrite: Overwrite,
) -> list[ObjectRow]:
    """Give the folders of an upload what is kept of them; return a row for each that failed."""
    is_kept = overwrite == "skip"  # what is there
    empty, failed = folders.make(
        (Place(RelativePath(path), ObjectName(join(target, path))) for path in source.folders),
        only_new=is_kept,
    )
    if is_kept:
        moved = (row for row in rows if row.action == "moved")
        found = (Place(RelativePath(row.path), ObjectName(row.name)) for row in moved)
    else:
        found = (Place(item.source.relative, item.name) for item in made.sends)
    return failed + folders.send(all_of(found, empty))


def _resumption(opened: ExitStack, journals: Path, destination: str) -> Resumption | None:
    try:
        folder = opened.enter_context(Folder(journals, create=True))
        return Resumption(folder, f"to {destination}")
    except DatastoreError as error:
        _log.warning("An interrupted upload could not be gone on with: %s", error)
        return None


def _failed(item: Send, error: DatastoreError) -> ObjectRow:
    return failed_row(item.name, str(item.source.relative), item.source.size, error)
