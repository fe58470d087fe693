"""One run of an estimator: its source, its data, its script and what it made, as a flow's body."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import State, allow_failure, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled

from prefect_datastores.checkpoints import Checkpoints, checkpoints_of
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.registry import Datastore
from prefect_datastores.deployments.archives import unpack
from prefect_datastores.deployments.carrying import archived, missing, reference_to
from prefect_datastores.display import run_log
from prefect_datastores.errors import ObjectNotFound
from prefect_datastores.estimator_spec import EstimatorSpec, items_of
from prefect_datastores.mounts import mounts_of
from prefect_datastores.names import join
from prefect_datastores.references import DataReference, When
from prefect_datastores.results_page import show_results
from prefect_datastores.scripts.child import run_script, script_environment
from prefect_datastores.scripts.source import (
    OUTPUTS,
    Stamp,
    copy_source,
    forget_unless_written,
    stamp,
)
from prefect_datastores.settings import scratch_root
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.report import TransferReport
from prefect_datastores.supervision.watched import watched
from prefect_datastores.tasks import (
    as_they_end,
    cancellation_scope,
    checkpoint,
    download,
    mount,
    restore,
    results,
    upload,
    upload_of,
)
from prefect_datastores.transfers import as_available, preflight
from prefect_datastores.workspaces import is_part

_VARIABLE = re.compile(
    r"\$(?:AZUREML_DATAREFERENCE_(?P<bare>\w+)|\{AZUREML_DATAREFERENCE_(?P<braced>\w+)\})", re.ASCII
)
_WATCH_SECONDS = 2.0
_DATA = "data"


def with_outputs(references: list[DataReference], name: str, run_id: str) -> list[DataReference]:
    """Return the uploads among the references, and that of `outputs/` to the default datastore.

    An upload of `outputs` among the references takes its place.
    """
    uploads = [reference for reference in references if reference.mode == "upload"]
    if any(reference.path_on_compute == OUTPUTS for reference in uploads):
        return uploads
    called = "run_outputs"
    while called in {reference.name for reference in references}:
        called += "_"
    place = Datastore.get_default().path(join("runs", name, run_id), called)
    return [*uploads, place.as_upload(OUTPUTS, allow_empty=True)]


@task(name="script", task_run_name="run {name}", cache_policy=NO_CACHE, persist_result=False)
def _script(
    name: str,
    arguments: list[str],
    directory: Path,
    variables: dict[str, str],
    seconds: float | None,
    cancelled: Any,
) -> None:
    log = run_log()
    shown = shlex.join([name, *arguments])
    log.info("Running %s in %s", shown, directory)
    run_script(
        [sys.executable, name, *arguments],
        directory=directory,
        environment=script_environment(variables),
        on_line=lambda _, line: log.info("%s", line),
        stop_requested=cancelled,
        seconds=seconds,
    )


# Their own names are 64 digits long, which say nobody anything.
_fetch_archive = download.with_options(task_run_name="download source")
_send_archive = upload.with_options(task_run_name="upload source")


class EstimatorRun:
    """One run: what is staged where, and in which order. Owned by the flow's body."""

    def __init__(self, spec: EstimatorSpec, carrier: FileDatastore | None) -> None:
        """Name the run's folder; nothing is moved yet."""
        self._spec, self._carrier = spec, carrier
        self._id = str(flow_run.id)
        self._root = scratch_root() / "runs" / self._id
        self._code = self._root / "code"
        self._references = [as_available(reference) for reference in spec.references()]
        self._downloads = [
            reference for reference in self._references if reference.mode == "download"
        ]
        self._mounts = [reference for reference in self._references if reference.mode == "mount"]
        self._checkpoints = [
            reference for reference in self._references if reference.mode == "checkpoint"
        ]
        self._uploads: list[DataReference] = []
        self._came: dict[str, Stamp] = {}  # what lay with the source where results are to be

    def run(self) -> dict[str, Any] | State[Any]:
        """Return where the outputs are, or the state of a run that was cancelled from Prefect."""
        with (
            watched(self._root, keep=self._spec.keep != "never"),
            cancellation_scope() as (scope, cancellation),
            mounts_of(scope) as mounts,
            checkpoints_of(scope) as kept,
            _watch(self._id, cancellation) as was_cancelled,
        ):
            try:
                result = self._run(scope, kept, lambda: cancellation.requested)
                mounts.close()  # what was written to them is a result as well
                kept.finish()
            except BaseException as error:
                self._leave(failed=True)
                # The server takes no other end than this for a run that is to be cancelled.
                if isinstance(error, Exception) and was_cancelled():
                    return Cancelled(message=f"Cancelled from Prefect. {error}")
                raise
            self._leave(failed=False)
            if was_cancelled():
                return Cancelled(message="Cancelled from Prefect when all was done already.")
        return result

    def _run(self, scope: str, kept: Checkpoints, cancelled: Callable[[], bool]) -> dict[str, Any]:
        self._uploads = with_outputs(self._references, self._spec.name, self._id)
        outputs = next(item for item in self._uploads if item.path_on_compute == OUTPUTS)
        for reference in (*self._downloads, *self._mounts, *self._checkpoints, *self._uploads):
            preflight(reference, seconds=self._spec.max_run_duration_seconds or 0.0)
        source = self._bring_source(scope)
        futures = {
            reference.name: download.submit(reference, self._place(reference), scope=scope)
            for reference in self._downloads
        } | {
            reference.name: mount.submit(reference, self._place(reference), scope=scope)
            for reference in self._mounts
        }
        # Called, not submitted: this process makes the next ones.
        restored = {
            reference.name: restore(reference, self._place(reference), scope=scope)
            for reference in self._checkpoints
        }
        paths: dict[str, Path] = results(futures, stops=scope) | restored
        paths |= {reference.name: self._make_upload_place(reference) for reference in self._uploads}
        kept.begin()
        state = _script(
            self._spec.entry_script,
            self._arguments(paths),
            self._code,
            self._variables(paths),
            self._spec.max_run_duration_seconds,
            lambda: cancelled() or kept.lost is not None,
            wait_for=[*source, *futures.values()],
            return_state=True,
        )
        unstored = None
        if cancelled():
            kept.leave()
        else:
            unstored = self._keep_last(state, scope)
        succeeded = state.is_completed() and unstored is None
        stored = self._store(state, paths, scope, "success" if succeeded else "failure")
        error = state.result(raise_on_failure=False)
        if unstored is not None and (error is None or kept.lost is not None):
            error = unstored
        if error is not None:
            # The way through Prefect's engine tells nobody anything.
            raise error.with_traceback(None)
        return {"run_id": self._id, "outputs": outputs.uri, "stored": stored}

    def _keep_last(self, state: State[Any], scope: str) -> Exception | None:
        """Make the last checkpoints; return the first fault."""
        first: Exception | None = None
        for reference in self._checkpoints:
            ended = checkpoint(
                reference, scope=scope, wait_for=[allow_failure(state)], return_state=True
            )
            fault = None if ended.is_completed() else ended.result(raise_on_failure=False)
            if isinstance(fault, Exception):
                run_log().error("%s", fault)
                first = first or fault
        return first

    def _bring_source(self, scope: str) -> list[PrefectFuture[Any]]:
        """Copy the source to where it runs; return the task run that brought it, if one did."""
        _begin_anew(self._root)
        source = Path(self._spec.source_directory)
        brought: list[PrefectFuture[Any]] = []
        if self._spec.snapshot is not None:
            brought = [self._fetch_source(self._find_carrier(), self._spec.snapshot, scope)]
        elif self._spec.source_directory_data_store is not None:
            brought = [self._carry_source(source, scope)]
        else:
            copy_source(source, self._code, leave_out=scratch_root())
        (self._code / OUTPUTS).mkdir(exist_ok=True)
        self._came = {
            reference.name: stamp(self._place(reference))
            for reference in self._uploads
            if not Path(reference.path_on_compute).is_absolute()
        }
        return brought

    def _carry_source(self, source: Path, scope: str) -> PrefectFuture[Any]:
        """Send the source through its datastore; return the task run that brought it."""
        store, copy, aside = self._find_carrier(), self._root / "copy", self._root / "snapshot"
        copy_source(source, copy, leave_out=scratch_root())
        aside.mkdir()
        snapshot, archive = archived(copy, aside, needs=self._spec.entry_script)
        there = reference_to(store, snapshot.digest)
        sent = _send_archive.submit(archive, there.as_upload(), scope=scope)
        results({"source": sent})
        shutil.rmtree(copy)
        shutil.rmtree(aside)
        return self._fetch_source(store, snapshot.digest, scope, wait_for=[sent])

    def _fetch_source(
        self, store: FileDatastore, digest: str, scope: str, wait_for: Any = None
    ) -> PrefectFuture[Any]:
        """Give the script's folder a snapshot; return the task run that brought it."""
        aside = self._root / "snapshot"
        fetched = _fetch_archive.submit(
            reference_to(store, digest),
            aside,
            scope=scope,
            wait_for=wait_for,
            return_state=False,
        )
        try:
            (archive,) = results({"source": fetched}).values()
        except ObjectNotFound as error:
            raise missing(store, digest) from error
        unpack(archive, digest, self._code)
        shutil.rmtree(aside)
        return fetched

    def _find_carrier(self) -> FileDatastore:
        name = self._spec.source_directory_data_store
        if self._carrier is not None:
            return self._carrier
        return Datastore.get(name) if name else Datastore.get_default()

    def _place(self, reference: DataReference) -> Path:
        if reference.path_on_compute:
            return self._code / reference.path_on_compute
        return self._root / _DATA / reference.name

    def _make_upload_place(self, reference: DataReference) -> Path:
        place = self._place(reference)
        # A script writes to a place of its own without making it; a path that was named may be
        # a file, so only what it lies in is made.
        (place if not reference.path_on_compute else place.parent).mkdir(
            parents=True, exist_ok=True
        )
        return place

    def _arguments(self, paths: Mapping[str, Path]) -> list[str]:
        """Flatten `script_params` as Azure ML does, with the references' paths in them."""
        arguments: list[str] = []
        for key, value in self._spec.script_params.items():
            given = [item for item in items_of(value) if item is not None and item != ""]
            arguments += [key, *(self._expanded(item, paths) for item in given)]
        return arguments

    def _expanded(self, value: object, paths: Mapping[str, Path]) -> str:
        if isinstance(value, DataReference):
            return str(paths[value.name])

        def path(variable: re.Match[str]) -> str:
            name = variable["braced"] or variable["bare"]
            return str(paths.get(name, variable[0]))

        return _VARIABLE.sub(path, str(value))

    def _variables(self, paths: Mapping[str, Path]) -> dict[str, str]:
        staged = {
            variable: str(paths[reference.name])
            for reference in (
                *(*self._downloads, *self._mounts),
                *(*self._checkpoints, *self._uploads),
            )
            for variable in reference.variables()
        }
        return {"AZUREML_RUN_ID": self._id, **staged, **self._spec.environment_variables}

    def _store(
        self, state: State[Any], paths: Mapping[str, Path], scope: str, outcome: When
    ) -> dict[str, int]:
        """Upload what is due after this outcome, and return the count of objects for each place."""
        due = [reference for reference in self._uploads if reference.when in {outcome, "always"}]
        for reference in due:
            if before := self._came.get(reference.name):
                forget_unless_written(paths[reference.name], before)
        sources = [*self._downloads, *self._mounts, *self._checkpoints]
        futures = {
            reference.name: upload_of(reference, sources).submit(
                paths[reference.name],
                reference,
                scope=scope,
                wait_for=[allow_failure(state)],
                return_state=False,
            )
            for reference in due
        }
        for _ in as_they_end(futures.values()):
            pass
        self._show(futures, paths)
        if outcome == "failure":  # the script's error is what people need to see
            return {}
        stored: dict[str, int] = {}
        for reference in due:
            count = futures[reference.name].result().count
            stored[reference.uri] = stored.get(reference.uri, 0) + count
        return stored

    def _show(self, uploads: Mapping[str, PrefectFuture[Any]], paths: Mapping[str, Path]) -> None:
        """Show what the script left in `outputs/`, where that is stored."""
        outputs = next(item for item in self._uploads if item.path_on_compute == OUTPUTS)
        if (future := uploads.get(outputs.name)) is None:
            return
        # A future's own state is what the server knows of it, which comes later.
        report = future.result(raise_on_failure=False)
        if isinstance(report, TransferReport):
            show_results(
                self._spec.name,
                paths[outputs.name],
                uri=outputs.uri,
                url=report.destination,
                stored=report.count,
            )

    def _leave(self, *, failed: bool) -> None:
        if self._spec.keep == "always" or (failed and self._spec.keep == "failed"):
            if self._root.exists():
                run_log().info("The run's folder is kept: %s", self._root)
        else:
            shutil.rmtree(self._root, ignore_errors=True)


def _begin_anew(root: Path) -> None:
    """Make a run's folder, without what an earlier try of the run left but for the parts of its downloads."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in root.iterdir():
        if path.name != _DATA or path.is_symlink():
            _remove(path)
            continue
        for place in path.iterdir():
            if place.is_symlink() or not place.is_dir():  # a link leads to what was mounted
                _remove(place)
                continue
            for inside in place.iterdir():
                if not is_part(inside.name):
                    _remove(inside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _watch(run_id: str, cancellation: Cancellation) -> Iterator[Callable[[], bool]]:
    """Cancel when somebody cancels the run in Prefect: no worker looks after a run in a plain process.

    Gives what tells whether somebody did, up to now.
    """
    over, cancelled = threading.Event(), threading.Event()

    def look(client: SyncPrefectClient) -> bool:
        with contextlib.suppress(Exception):  # a server that is away now says it later
            state = client.read_flow_run(UUID(run_id)).state
            if state and state.type in {StateType.CANCELLING, StateType.CANCELLED}:
                cancelled.set()
        return cancelled.is_set()

    def look_again_and_again() -> None:
        with get_client(sync_client=True) as client:
            while not over.wait(_WATCH_SECONDS):
                if look(client):
                    cancellation.cancel()
                    return

    def was_cancelled() -> bool:
        with get_client(sync_client=True) as client:
            return cancelled.is_set() or look(client)

    thread = threading.Thread(target=look_again_and_again, name="pds-watch", daemon=True)
    thread.start()
    try:
        yield was_cancelled
    finally:
        over.set()
        thread.join()
