"""What a reference asks for, done by the engine: fetched before a script, stored after it."""

from __future__ import annotations

import contextlib
import secrets
from functools import cache
from pathlib import Path

from prefect_datastores.compute.native import native_place
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.registry import resolve
from prefect_datastores.errors import (
    ConfigurationError,
    MountUnavailable,
    ObjectExists,
    ObjectNotFound,
)
from prefect_datastores.linked import check_kind
from prefect_datastores.mounting import device
from prefect_datastores.names import ObjectName, join, matcher, normal_path
from prefect_datastores.references import DataReference
from prefect_datastores.settings import cache_limits, journals_root, native_mounts
from prefect_datastores.staging import download as downloading
from prefect_datastores.staging import publish as publishing
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.checkpoint import may_checkpoint
from prefect_datastores.staging.generations import Publication
from prefect_datastores.staging.keeping import Keep
from prefect_datastores.staging.progress import Progress
from prefect_datastores.staging.published import refuse_published
from prefect_datastores.staging.report import TransferReport
from prefect_datastores.staging.upload import upload as upload_files
from prefect_datastores.staging.walk import Source, files_source, folder_source


def as_reference(value: DataReference | FileDatastore) -> DataReference:
    """Return a reference; a bare datastore means all of it, mounted, as in Azure ML.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(value, FileDatastore):
        return value.path()
    if isinstance(value, DataReference):
        return value
    raise ConfigurationError(
        f"{value!r} is no datastore and no reference; use datastore.path(...).as_download() and the like."
    )


def as_available(reference: DataReference) -> DataReference:
    """Return the reference in the mode that it will have here; a mount may fall back to download.

    One that falls back to be read directly stays a mount, which is a link then.

    Raises:
        MountUnavailable: it is to be mounted, which cannot be done, and has no fallback, or none that can
            be had.
    """
    if reference.mode != "mount" or native_place(reference) is not None:
        return reference
    reason = why_not_mounted()
    if reason is None:
        return reference
    if reference.fallback == "download":
        return as_fetched(reference)
    if reference.fallback == "direct":
        check_kind(reference)
        return reference
    natively = (
        " Or as_mount(consistency='latest'): the compute itself mounted the share."
        if reference.datastore in native_mounts()
        else ""
    )
    raise MountUnavailable(
        f"{reference.uri!r} is to be mounted, and cannot be: {reason} Use as_download(), or "
        "as_mount(fallback='download'), which gives the script the same paths."
        f"{natively}"
    )


@cache
def why_not_mounted() -> str | None:
    """Say why nothing can be mounted here; None where it can."""
    return device.probe()


def as_fetched(reference: DataReference) -> DataReference:
    """Return a reference to what is to be mounted as one that is downloaded; any other as it is."""
    if reference.mode != "mount":
        return reference
    return reference.as_download(allow_empty=reference.allow_empty, cache=reference.cache)


def download_request(reference: DataReference) -> downloading.DownloadRequest:
    """Return what the reference asks the engine for."""
    return downloading.DownloadRequest(
        path=reference.path_on_datastore,
        include=reference.include,
        exclude=reference.exclude,
        overwrite=reference.overwrite,
        allow_empty=reference.allow_empty,
        keep_times=reference.keep_times,
        keep_properties=reference.keep_properties,
        require_digest=reference.require_digest,
    )


def kept(reference: DataReference) -> Keep:
    """Return what of times and properties the reference asks to keep."""
    return Keep(times=reference.keep_times, properties=reference.keep_properties)


def fetch(
    reference: DataReference,
    folder: Path,
    *,
    cancellation: Cancellation | None = None,
    progress: Progress | None = None,
) -> tuple[Path, TransferReport]:
    """Download what a reference names; return its local path, the file or the folder, and the report.

    Raises:
        ConfigurationError: the reference is an upload.
        DatastoreError: as `staging.download.download` says.
    """
    wanted = as_fetched(reference)
    if wanted.mode == "upload":
        raise ConfigurationError(f"{wanted.uri!r} is to be uploaded; it cannot be downloaded.")
    cancellation = cancellation or Cancellation()
    with resolve(wanted).open_store(cancellation, progress, need="read") as store:
        report = downloading.download(
            store,
            folder,
            download_request(wanted),
            cancellation=cancellation,
            progress=progress,
            cache=cache_limits(wanted=wanted.cache),
        )
    place = wanted.path_on_datastore
    is_file = len(report.rows) == 1 and report.rows[0].name == place
    return folder / place.rpartition("/")[2] if is_file else folder, report


def deliver(
    source: Path,
    reference: DataReference,
    *,
    cancellation: Cancellation | None = None,
    progress: Progress | None = None,
) -> TransferReport:
    """Upload a file or a folder to the place of a reference.

    Raises:
        ObjectNotFound: there is nothing to upload, and `allow_empty` is not set.
        DatastoreError: as `staging.upload.upload` says, or `staging.publish.publish` for a folder
            that is published at once.
    """
    found, target = upload_source(source, reference)
    cancellation, datastore = cancellation or Cancellation(), resolve(reference)
    with datastore.open_store(cancellation, progress, need="write") as store:
        if reference.publish == "atomic" and source.is_dir():
            return publishing.publish(
                store,
                found,
                target,
                reference.overwrite,
                cancellation=cancellation,
                progress=progress,
                reopen=datastore.open_store,
                keep=kept(reference),
            )
        return upload_files(
            store,
            found,
            target,
            reference.overwrite,
            cancellation=cancellation,
            progress=progress,
            journals=journals_root(),
            keep=kept(reference),
        )


def take_back(reference: DataReference, publication: Publication) -> bool:
    """Have the folder of a reference show what it showed before a publish; tell whether it showed that still.

    Raises:
        DatastoreError: as `staging.publish.take_back` says.
    """
    with resolve(reference).open_store() as store:
        return publishing.take_back(store, publication)


def upload_source(path: Path, reference: DataReference) -> tuple[Source, str]:
    """Return the files to upload from `path`, and where in the datastore they go.

    Raises:
        ObjectNotFound: there is nothing, and `allow_empty` is not set.
    """
    if path.is_dir():
        source, target = (
            folder_source(path, reference.include, reference.exclude),
            reference.path_on_datastore,
        )
    elif path.exists():
        chosen = matcher(reference.include, reference.exclude).match(path.name)
        source = files_source([path] if chosen else [], path.parent)
        target = upload_folder(path.name, reference)
    else:
        source, target = files_source([], None), reference.path_on_datastore
    if not source.files and not reference.allow_empty:
        what = "has no files" if path.exists() else "does not exist"
        raise ObjectNotFound(
            f"Nothing to upload to {reference.uri!r}: {path} {what}. Write it in the script, mend path_on_compute, "
            "or say allow_empty=True if that is fine."
        )
    return source, target


def upload_folder(file_name: str, reference: DataReference) -> str:
    """Return the folder in the datastore that an uploaded file comes into."""
    folder, _, last = reference.path_on_datastore.rpartition("/")
    return folder if last == file_name else reference.path_on_datastore


def preflight(reference: DataReference, *, seconds: float = 0.0) -> None:
    """Return when a transfer has a chance, so that no work is done for nothing.

    Of a download, what the credential says of itself. Of an upload, of checkpoints, and of a mount that is
    written to, the right to write is tried too, by a write that nobody sees; the right to look at what is there is needed unless it is replaced
    anyway. `seconds` is how long what comes before it may take.

    Raises:
        DatastoreError: the container is missing, the credential is refused, ended or lacks a right,
            the name is refused, or what is there cannot be added to, or published over, or is no place for
            checkpoints.
    """
    datastore = resolve(reference)
    if reference.mode == "upload":
        datastore.check_credential("write", seconds=seconds)
        _try_upload(datastore, reference)
        return
    if reference.mode == "checkpoint":
        datastore.check_credential("read", seconds=seconds)
        datastore.check_credential("write", seconds=seconds)
        with datastore.open_store() as store:
            may_checkpoint(store, reference.path_on_datastore)
            store.check_write(ObjectName(_probe(reference)))
        return
    datastore.check_credential("read")
    if not reference.read_only:
        datastore.check_credential("write")
        with datastore.open_store() as store:
            store.check_write(ObjectName(_probe(reference)))


def _probe(reference: DataReference) -> str:
    """Return a name in the place of a reference that nothing has."""
    name = f".prefect-datastores-probe-{secrets.token_hex(6)}"
    return join(reference.path_on_datastore, name)


def _try_upload(datastore: FileDatastore, reference: DataReference) -> None:
    file = reference.path_on_compute.rpartition("/")[2]
    normal_path(join(reference.path_on_datastore, file))
    with datastore.open_store() as store:
        kept(reference).check(store, at_once=reference.publish == "atomic" and not file)
        probe = _probe(reference)
        if reference.overwrite != "replace":
            with contextlib.suppress(ObjectNotFound):
                store.head(ObjectName(probe))
        store.check_write(ObjectName(probe))
        if reference.publish == "each":
            refuse_published(store, upload_folder(file, reference))
        elif not file:  # a path that is named may be one file, which is an upload like any other
            publishing.may_publish(store, reference.path_on_datastore, reference.overwrite)
        if reference.overwrite == "fail" and file:
            name = ObjectName(join(upload_folder(file, reference), file))
            with contextlib.suppress(ObjectNotFound):
                store.head(name)
                raise ObjectExists(
                    f"{store.url}/{name} exists already and overwrite is 'fail'; nothing was started."
                )
