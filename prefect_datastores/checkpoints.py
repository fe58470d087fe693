"""Checkpoints of a run: restored before its script, made while it runs, and a last one when it has ended."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.runtime import flow_run

from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.registry import resolve
from prefect_datastores.display import run_log
from prefect_datastores.errors import (
    CheckpointError,
    CheckpointOvertaken,
    CheckpointUnstored,
    DatastoreError,
)
from prefect_datastores.references import DataReference
from prefect_datastores.settings import scratch_root
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.checkpoint import Checkpoint, Restored
from prefect_datastores.staging.continuous import Continuous
from prefect_datastores.staging.generations import Holder
from prefect_datastores.staging.progress import Progress
from prefect_datastores.staging.report import TransferReport, human_bytes, plural
from prefect_datastores.stores.base import ObjectStore


def this_run() -> Holder:
    """Return who makes checkpoints here: the flow run, or this process."""
    if flow_run.id:
        return Holder(
            f"flow run {flow_run.name!r} ({flow_run.id})", str(flow_run.id), flow_run.run_count or 0
        )
    return Holder(f"process {os.getpid()} of {platform.node()}")


class _Kept:
    """The folder of one reference, and what is told of it."""

    def __init__(self, reference: DataReference, folder: Path, holder: Holder) -> None:
        self.reference, self.folder = reference, folder
        self.checkpoint = Checkpoint(
            reference.path_on_datastore,
            folder,
            holder,
            exclude=reference.exclude,
            resume=reference.resume,
            quiet=min(1.0, reference.every / 2),
        )
        self.continuous = Continuous(
            self.checkpoint,
            self.opened,
            reference.every,
            stored=self._stored,
            failed=self._failed,
        )
        self.is_over = False
        self._datastore: FileDatastore | None = None
        self._said = ""
        self._log = run_log()  # the thread outlives the task that begins it

    @contextmanager
    def opened(self, stop: Cancellation, progress: Progress | None = None) -> Iterator[ObjectStore]:
        """Open the store by the credential that is registered now, or by the last one that was known."""
        try:
            self._datastore = resolve(self.reference)
        except Exception:
            if self._datastore is None:
                raise
        with self._datastore.open_store(stop, progress, need="write") as store:
            yield store

    def _stored(self, report: TransferReport) -> None:
        self._said = ""
        self._log.info(
            "Checkpoint %s of %s: %s (%s) sent in %.1f s, %d unchanged.",
            self.checkpoint.generation,
            self.reference.uri,
            plural(report.count, "file"),
            human_bytes(report.bytes),
            report.seconds,
            report.actions.get("unchanged", 0),
        )
        for row in report.of("ignored"):
            self._log.debug("Not in the checkpoint: %s is %s.", row.name, row.detail)

    def _failed(self, error: Exception) -> None:
        if (text := str(error)) != self._said:  # and not again with each interval
            self._said = text
            self._log.warning(
                "No checkpoint of %s was made; the next try is in %g s: %s",
                *(self.reference.uri, self.reference.every, text),
            )

    def keep_here(self, error: Exception) -> CheckpointError:
        """Have the folder stay on this machine; return the error that says where."""
        place = self.folder
        if place.is_relative_to(scratch_root()):  # which is removed with the run
            with contextlib.suppress(OSError):
                kept = scratch_root() / "unstored" / uuid.uuid4().hex / place.name
                kept.parent.mkdir(parents=True, mode=0o700)
                place = place.rename(kept)
        message = f"The last state of {self.reference.uri!r} was not stored: {error} It is kept on this machine: {place}"
        if isinstance(error, CheckpointOvertaken):
            return CheckpointOvertaken(message, holder=error.holder, folder=str(place))
        return CheckpointUnstored(message, folder=str(place))


class Checkpoints:
    """The checkpoints of one scope, which its owner ends; used by many threads."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._lock, self._kept = threading.Lock(), dict[str, _Kept]()

    @property
    def lost(self) -> CheckpointOvertaken | None:
        """What another run did, once it has stored a checkpoint at one of the places."""
        return next(
            (one.continuous.lost for one in self._kept.values() if one.continuous.lost), None
        )

    def restore(
        self,
        reference: DataReference,
        folder: Path,
        stop: Cancellation,
        progress: Progress | None = None,
    ) -> Restored:
        """Bring the newest checkpoint into a folder, and nothing else.

        Raises:
            DatastoreError: as `Checkpoint.restore` says.
        """
        kept = _Kept(reference, folder, this_run())
        with kept.opened(stop, progress) as store:
            restored = kept.checkpoint.restore(store, cancellation=stop, progress=progress)
        with self._lock:
            self._kept[reference.uri] = kept
        return restored

    def begin(self) -> None:
        """Begin to make checkpoints of all that were restored."""
        for kept in self._kept.values():
            kept.continuous.begin()

    def end(
        self, reference: DataReference, progress: Progress | None = None
    ) -> TransferReport | None:
        """Make the last checkpoint; return the report of the newest one, None where none was made.

        Raises:
            CheckpointOvertaken: another run stored a checkpoint there.
            CheckpointUnstored: it could not be made; the message says where the folder is kept.
        """
        return self._end(self._kept[reference.uri], progress)

    def _end(self, kept: _Kept, progress: Progress | None = None) -> TransferReport | None:
        if kept.is_over:
            return None
        kept.is_over = True
        try:
            return kept.continuous.end(progress)
        except (DatastoreError, OSError) as error:
            raise kept.keep_here(error) from error
        except BaseException:
            # A signal: what was to be stored is so by now, or is kept.
            if (fault := kept.continuous.fault) is not None:
                run_log().error("%s", kept.keep_here(fault))
            raise

    def finish(self) -> None:
        """Mark all as finished, so that a later run begins anew.

        Raises:
            DatastoreError: that could not be done.
        """
        for kept in self._kept.values():
            kept.continuous.finish()

    def leave(self) -> None:
        """End what was not ended, in the seconds that a cancel leaves; a fault is told, and not raised."""
        left = [kept for kept in self._kept.values() if not kept.is_over]
        for kept in left:
            kept.continuous.hurry()
        for kept in left:
            with _fault_told():
                self._end(kept)


@contextmanager
def _fault_told() -> Iterator[None]:
    try:
        yield
    except DatastoreError as fault:
        run_log().error("%s", fault)


_scopes: dict[str, Checkpoints] = {}


@contextmanager
def checkpoints_of(scope: str) -> Iterator[Checkpoints]:
    """Own the checkpoints of a scope: the last ones are made when the block ends, however that is."""
    made = _scopes[scope] = Checkpoints()
    try:
        yield made
    finally:
        _scopes.pop(scope, None)
        made.leave()


def checkpoints_in(scope: str | None) -> Checkpoints:
    """Return the checkpoints of a scope.

    Raises:
        CheckpointError: nobody here owns such a scope, so that nobody would make any.
    """
    found = _scopes.get(scope or "")
    if found is None:
        raise CheckpointError(
            "Nobody would make these checkpoints: use `with stage(ckpt=reference.as_checkpoint())`, or an Estimator."
        )
    return found


def tell_restored(uri: str, restored: Restored) -> None:
    """Say what a run begins with."""
    log = run_log()
    if restored.set_aside is not None:
        log.warning("What lay in the folder for %s is set aside: %s", uri, restored.set_aside)
    if restored.reason:
        log.info("%s begins empty: %s.", uri, restored.reason)
    else:
        log.info("%s begins with the checkpoint %s.", uri, restored.generation)
