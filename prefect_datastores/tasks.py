"""Staging as Prefect tasks: one task run per reference and direction, files in parallel inside."""

from __future__ import annotations

import contextlib
import queue
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.assets import materialize
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run
from prefect.transactions import Transaction, get_transaction

from prefect_datastores.assets import asset_of
from prefect_datastores.checkpoints import checkpoints_in, tell_restored
from prefect_datastores.compute.native import native_place, use_native
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.display import display_for, run_log
from prefect_datastores.errors import StageFailed
from prefect_datastores.events import Stored, tell_published
from prefect_datastores.mounts import in_scope
from prefect_datastores.references import DataReference
from prefect_datastores.result_table import show_table
from prefect_datastores.slots import transfer_slot
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.report import TransferReport
from prefect_datastores.transfers import as_reference, deliver, fetch, take_back

_LOOK_SECONDS = 0.5
_PUBLISHED = "prefect_datastores.published"
_STORED = "prefect_datastores.stored"
_cancellations: dict[str, Cancellation] = {}


@contextlib.contextmanager
def cancellation_scope(
    cancellation: Cancellation | None = None,
) -> Iterator[tuple[str, Cancellation]]:
    """Give an id by which transfers of this process are stopped together.

    A flow's body owns the scope: the `finally` of a submitted task does not run when a run is
    cancelled, only the main thread unwinds. A task in another process does not find the id, and
    is ended with its process.
    """
    scope, cancellation = uuid.uuid4().hex, cancellation or Cancellation()
    _cancellations[scope] = cancellation
    try:
        yield scope, cancellation
    except BaseException:
        cancellation.cancel()
        raise
    finally:
        if not cancellation.requested:  # a task of it that begins only now is to end at once
            _cancellations.pop(scope, None)


def as_they_end(futures: Collection[Any]) -> Iterator[Any]:
    """Give each future once it has ended, those of Prefect and those of threads.

    A signal that the system hands to another thread does not wake the main one, in which Python
    has to handle it, from a wait without an end. So it looks up again and again.
    """
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for future in futures:
        future.add_done_callback(ended.put)
    for _ in futures:
        while True:
            with contextlib.suppress(queue.Empty):
                yield ended.get(timeout=_LOOK_SECONDS)
                break


def results(futures: Mapping[str, Any], *, stops: str | None = None) -> dict[str, Any]:
    """Return the results of tasks that run at once, when all are over.

    The first fault is raised, and stops the rest where `stops` names their cancellation scope.
    """
    fault: Exception | None = None
    for future in as_they_end(futures.values()):
        try:
            future.result()
        except Exception as error:  # noqa: BLE001, PERF203 - raised below
            fault = fault or error
            _cancellation(stops).cancel()
    if fault is not None:
        raise fault
    return {key: future.result() for key, future in futures.items()}


def _cancellation(scope: str | None) -> Cancellation:
    return _cancellations.get(scope or "", Cancellation())


def _task_run_name() -> str:
    given = dict(task_run.parameters)
    return f"{task_run.task_name} {as_reference(given['reference']).uri}"


@task(name="download", task_run_name=_task_run_name, cache_policy=NO_CACHE, persist_result=False)
def download(
    reference: DataReference | FileDatastore,
    target: str | Path | None = None,
    *,
    scope: str | None = None,
) -> Path:
    """Fetch what a reference names and return its local path: the file, or the folder.

    A folder's content is in `target` itself, a file is in it under its own name.

    Args:
        reference: what to fetch, in whatever mode.
        target: the local folder; None means the reference's `path_on_compute`, or its name, below
            the working directory.
        scope: the cancellation scope that stops it.

    Raises:
        ObjectNotFound: nothing is there.
        StageFailed: an object failed; the report in it has a row for each.
    """
    wanted = as_reference(reference)
    folder = (
        Path(target) if target is not None else Path.cwd() / (wanted.path_on_compute or wanted.name)
    )
    stop = _cancellation(scope)
    with transfer_slot(stop), _failure_told():
        path, report = fetch(wanted, folder, cancellation=stop, progress=display_for(True))
    _tell(report)
    return path


@task(name="mount", task_run_name=_task_run_name, cache_policy=NO_CACHE, persist_result=False)
def mount(
    reference: DataReference | FileDatastore,
    link: str | Path | None = None,
    *,
    scope: str | None = None,
) -> Path:
    """Mount what a reference names and return its local path: the file, or the folder.

    It is there until whoever owns the scope ends it: `stage(...)`, and the Estimator's run, do.

    Args:
        reference: what to mount, in whatever mode.
        link: where a symbolic link leads to it; None for none.
        scope: the scope whose owner unmounts it.

    Raises:
        MountUnavailable: nothing can be mounted here.
        MountError: there is no such scope.
        ObjectNotFound: nothing is there.
    """
    wanted, place = as_reference(reference), Path(link) if link is not None else None
    if (native := native_place(wanted)) is not None:
        path = use_native(wanted, native, place)
        run_log().info(
            "%s is mounted by the compute itself: it shows what is there now.", wanted.uri
        )
        return path
    path = in_scope(scope).add(wanted, place, _cancellation(scope))
    run_log().info("Mounted %s at %s", wanted.uri, path)
    return path


@task(name="restore", task_run_name=_task_run_name, cache_policy=NO_CACHE, persist_result=False)
def restore(reference: DataReference, folder: str | Path, *, scope: str | None = None) -> Path:
    """Bring the newest checkpoint of a reference into a folder, whole and nothing else; return the folder.

    Whoever owns the scope makes new ones of it: `stage(...)`, and the Estimator's run, do.

    Args:
        reference: where the checkpoints are.
        folder: the local folder.
        scope: the scope whose owner makes the next ones.

    Raises:
        CheckpointError: there is no such scope.
        IntegrityError: neither the newest checkpoint nor the one before it is whole.
        StageFailed: a file could not be brought.
    """
    stop, place = _cancellation(scope), Path(folder)
    with transfer_slot(stop), _failure_told():
        restored = checkpoints_in(scope).restore(reference, place, stop, display_for(True))
    tell_restored(reference.uri, restored)
    if restored.report is not None:
        _tell(restored.report)
    return place


@task(name="checkpoint", task_run_name=_task_run_name, cache_policy=NO_CACHE, persist_result=False)
def checkpoint(reference: DataReference, *, scope: str | None = None) -> TransferReport | None:
    """Make the last checkpoint of a reference; return the report of the newest one, None where none was made.

    Args:
        reference: where the checkpoints are.
        scope: the scope in which it was restored.

    Raises:
        CheckpointOvertaken: another run makes checkpoints there.
        CheckpointUnstored: it could not be made; the message says where the folder is kept.
    """
    report = checkpoints_in(scope).end(reference, display_for(True))
    if report is None:
        run_log().info("%s: nothing changed, and no checkpoint was made.", reference.uri)
    else:
        _tell(report)
    return report


@task(name="upload", task_run_name=_task_run_name, cache_policy=NO_CACHE, persist_result=False)
def upload(
    source: str | Path,
    reference: DataReference | FileDatastore,
    *,
    scope: str | None = None,
) -> TransferReport:
    """Store a file or a folder at the place of a reference.

    A folder's content comes below the reference's path. A file comes below it under its own name,
    or becomes the object itself where the path ends in that name already. In a transaction of
    Prefect that is rolled back, a folder that was published at once shows again what it showed before.

    Args:
        source: the local file or folder.
        reference: where it goes, and by which rules.
        scope: the cancellation scope that stops it.

    Raises:
        ObjectNotFound: `source` does not exist or is empty, and that is not allowed.
        StageFailed: a file failed; the report in it has a row for each.
    """
    stop, wanted = _cancellation(scope), as_reference(reference)
    with transfer_slot(stop), _failure_told():
        report = deliver(Path(source), wanted, cancellation=stop, progress=display_for(True))
    if current := get_transaction():
        current.set(_STORED, Stored.of(wanted, report))
        if report.publication:
            current.set(_PUBLISHED, (wanted, report.publication))
    _tell(report)
    return report


@upload.on_commit
def announce_upload(of: Transaction) -> None:
    """Say by an event that something is there: when it is there to stay, and not before."""
    stored = of.get(_STORED, None)
    if stored is not None:
        tell_published(stored)


# Prefect would say in the log of every upload that it ran.
announce_upload.log_on_run = False  # type: ignore[attr-defined]


@upload.on_rollback
def take_back_upload(of: Transaction) -> None:
    """Take back what an upload published at once; single files stay, as nobody knows what they replaced."""
    reference, publication = of.get(_PUBLISHED, (None, None))
    if publication is None:
        return
    place, generation = reference.uri, publication.pointer.generation
    if take_back(reference, publication):
        before = publication.before.generation if publication.before else "nothing"
        of.logger.info("%s shows %s again; %s was taken back.", place, before, generation)
    else:
        of.logger.warning("%s shows something else than %s by now, which stays.", place, generation)


def upload_of(
    reference: DataReference, sources: Iterable[DataReference]
) -> Task[..., TransferReport]:
    """Return the task `upload` for a reference, whose run says out of what the place was made."""
    makes = materialize(
        asset_of(reference),
        by="prefect-datastores",
        name="upload",
        task_run_name=_task_run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        asset_deps=list(map(asset_of, sources)),
        on_commit=[announce_upload],
        on_rollback=[take_back_upload],
    )
    return makes(upload.fn)


@contextlib.contextmanager
def _failure_told() -> Iterator[None]:
    """Show the table of a transfer of which an object failed: it says which, and why."""
    try:
        yield
    except StageFailed as error:
        show_table(error.report)
        raise


def _tell(report: TransferReport) -> None:
    show_table(report)
    log = run_log()
    log.info("%s", report.summary())
    for row in report.of("ignored"):
        log.warning("Not uploaded: %s is %s.", row.name, row.detail)
    if different := [row for row in report.of("skipped") if row.detail]:
        log.warning(
            "%d kept although they differ (overwrite='skip'), %r among them: %s.",
            len(different),
            different[0].name,
            different[0].detail,
        )
