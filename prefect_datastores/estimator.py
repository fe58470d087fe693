"""The Estimator: a training script with the data it needs, as a Prefect flow."""

from __future__ import annotations

import contextlib
import inspect
import keyword
import re
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast
from uuid import UUID, uuid4

from prefect import Flow, State, allow_failure, task
from prefect import flow as prefect_flow
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.states import Cancelled
from pydantic import BaseModel, ConfigDict, Field

from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.registry import Datastore, resolve
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.names import join, normal_path
from prefect_datastores.plans import EstimatorPlan, plan_references
from prefect_datastores.references import DataReference, check_references
from prefect_datastores.runs import Run, start_in_background
from prefect_datastores.scripts.child import run_script, script_environment
from prefect_datastores.scripts.source import (
    OUTPUTS,
    Stamp,
    copy_source,
    digest_of,
    forget_unless_written,
    stamp,
)
from prefect_datastores.settings import scratch_root
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.tasks import cancellation_scope, download, results, run_log, upload
from prefect_datastores.transfers import as_available, as_reference, preflight

Keep = Literal["failed", "always", "never"]
Value = DataReference | bool | int | float | str
_VARIABLE = re.compile(
    r"\$(?:AZUREML_DATAREFERENCE_(?P<bare>\w+)|\{AZUREML_DATAREFERENCE_(?P<braced>\w+)\})", re.ASCII
)
# What Prefect and pydantic keep for themselves stays an argument of the script alone.
_RESERVED = {"wait_for", "return_state", "model_config"}
_WATCH_SECONDS = 2.0
_SNAPSHOTS = "azureml-snapshots"


class EstimatorSpec(BaseModel):
    """All that an estimator is, as values: JSON-able and free of secrets."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    name: str
    source_directory: str
    entry_script: str
    script_params: dict[str, Value | list[Value] | None] = Field(default_factory=dict)
    inputs: tuple[DataReference, ...] = ()
    environment_variables: dict[str, str] = Field(default_factory=dict)
    source_directory_data_store: str | None = None
    max_run_duration_seconds: float | None = None
    keep: Keep = "failed"

    def references(self) -> list[DataReference]:
        """Return each reference once, those of `script_params` too."""
        given = [item for value in self.script_params.values() for item in _items(value)]
        found = [*self.inputs, *(item for item in given if isinstance(item, DataReference))]
        return list({reference.model_dump_json(): reference for reference in found}.values())


class Estimator:
    """A script, its parameters and its data; runs as a flow with one task run per input and upload.

    The script runs in a copy of `source_directory`, as a child process that ends with the run. It
    finds each reference by the variables `AZUREML_DATAREFERENCE_<name>` and `DATASTORE_<NAME>`, and
    in its arguments where `script_params` hold references. What it writes to `outputs/` is uploaded
    to the workspace's default datastore, unless an upload of `outputs` is among the inputs.
    """

    def __init__(
        self,
        source_directory: str | Path,
        *,
        entry_script: str,
        script_params: Mapping[str, Any] | None = None,
        compute_target: Any = "local",
        inputs: Sequence[DataReference | FileDatastore] | None = None,
        environment_variables: Mapping[str, str] | None = None,
        source_directory_data_store: str | FileDatastore | None = None,
        max_run_duration_seconds: float | None = None,
        name: str | None = None,
        keep: Keep = "failed",
    ) -> None:
        """Define the run; nothing is moved and nothing starts.

        Args:
            source_directory: the folder with the script and all it imports.
            entry_script: the script, relative to `source_directory`.
            script_params: arguments by name; a reference becomes its path, a list several values,
                None or "" a bare flag.
            compute_target: where it runs; "local" is this machine.
            inputs: references (or datastores) to download before and upload after the script.
            environment_variables: more variables for the script.
            source_directory_data_store: the datastore that carries the source to the run; without
                one it is copied on this machine.
            max_run_duration_seconds: the script is stopped after that time and the run fails.
            name: the flow's name; the script's own name when None.
            keep: whether the run's folder stays afterwards: "failed" (when it failed), "always", "never".

        Raises:
            ConfigurationError: the source or the script is missing, or an argument cannot work.
            NameCollision: two references would share a variable.
        """
        if compute_target not in (None, "local"):
            raise ConfigurationError(
                f"compute_target={compute_target!r} is not available; use 'local', which is the machine that runs "
                "the flow, and choose that machine by the work pool of a deployment."
            )
        if max_run_duration_seconds is not None and max_run_duration_seconds <= 0:
            raise ConfigurationError("max_run_duration_seconds must be more than 0.")
        source, script = Path(source_directory).expanduser().absolute(), normal_path(entry_script)
        if not source.is_dir():
            raise ConfigurationError(f"The source_directory {source} does not exist.")
        if not script or not (source / script).is_file():
            raise ConfigurationError(
                f"The entry_script {entry_script!r} does not exist in {source}."
            )
        carrier = source_directory_data_store
        self._carrier = carrier if isinstance(carrier, FileDatastore) else None
        self.spec = EstimatorSpec(
            name=name or Path(script).stem,
            source_directory=str(source),
            entry_script=script,
            script_params={
                key: _parameter(key, value) for key, value in (script_params or {}).items()
            },
            inputs=tuple(map(as_reference, inputs or ())),
            environment_variables={
                key: str(value) for key, value in (environment_variables or {}).items()
            },
            source_directory_data_store=carrier.name
            if isinstance(carrier, FileDatastore)
            else carrier,
            max_run_duration_seconds=max_run_duration_seconds,
            keep=keep,
        )
        check_references(self.spec.references())

    @classmethod
    def from_spec(cls, spec: EstimatorSpec) -> Estimator:
        """Return the estimator that a spec describes."""
        values = {key: getattr(spec, key) for key in EstimatorSpec.model_fields}
        return cls(values.pop("source_directory"), **values)

    @property
    def name(self) -> str:
        """The name of the flow."""
        return self.spec.name

    def plan(self) -> EstimatorPlan:
        """Say what a run would move, before a byte moves; `print` it to read it.

        Raises:
            DatastoreError: something could not work: nothing matches, a name is refused, the
                credential is, a mount has no fallback.
        """
        return plan_references(self.spec.references(), scratch_root())

    def as_flow(self) -> Flow[..., dict[str, Any]]:
        """Return a flow of this estimator; scalars of `script_params` are its parameters."""

        def body(*args: Any, **kwargs: Any) -> dict[str, Any] | State[Any]:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            changed = {parameters[name]: value for name, value in bound.arguments.items()}
            spec = self.spec.model_copy(
                update={"script_params": {**self.spec.script_params, **changed}}
            )
            return _EstimatorRun(spec, self._carrier).run()

        parameters = {
            name: key
            for key, value in self.spec.script_params.items()
            if isinstance(value, (bool, int, float, str))
            and value != ""
            and (name := _parameter_name(key))
            and name not in _RESERVED
            and not name.startswith("_")
        }
        signature = inspect.Signature(
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=self.spec.script_params[key],
                    annotation=type(self.spec.script_params[key]),
                )
                for name, key in parameters.items()
            ]
        )
        body.__signature__ = signature  # type: ignore[attr-defined]
        body.__name__ = body.__qualname__ = _parameter_name(self.name) or "estimator"
        body.__doc__ = f"Runs {self.spec.entry_script} with its data staged around it."
        # A flow may return a state as well, which its type cannot say.
        made: Flow[..., dict[str, Any]] = prefect_flow(name=self.name)(cast("Any", body))
        return made

    def run(self, **parameters: Any) -> dict[str, Any]:
        """Run here and now; return where the outputs are, once all is stored.

        Raises:
            ScriptFailed: the script ended with an error; its last lines are in the message.
            StageFailed: data could not be moved.
            CancelledRun: the run was cancelled from Prefect.
        """
        result: dict[str, Any] = self.as_flow()(**parameters)
        return result

    def submit(self, **parameters: Any) -> Run:
        """Start a flow run in a process of its own and return at once.

        Raises:
            ConfigurationError: a datastore is not registered, so that another process cannot find it.
            MountUnavailable: a reference is a mount without fallback.
        """
        for reference in map(as_available, self.spec.references()):
            resolve(reference)
            if reference._unregistered is not None:  # noqa: SLF001 - values of one thing
                raise ConfigurationError(
                    f"The datastore of {reference.uri!r} is not registered, so a submitted run cannot find it: "
                    "save it first, or use run()."
                )
        if self._carrier is not None and self._carrier.path()._unregistered is not None:  # noqa: SLF001
            raise ConfigurationError(
                "The source_directory_data_store is not registered, so a submitted run cannot find it: "
                "save it first, or use run()."
            )
        folder = scratch_root() / "submitted" / uuid4().hex
        folder.mkdir(parents=True, mode=0o700)
        # What runs is what was there when it was submitted.
        source = folder / "source"
        try:
            copy_source(Path(self.spec.source_directory), source, leave_out=scratch_root())
            spec = self.spec.model_copy(update={"source_directory": str(source)})
            return start_in_background(self.as_flow(), spec.model_dump_json(), folder, parameters)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _parameter(key: str, value: Any) -> Any:
    if isinstance(value, (DataReference, FileDatastore)):
        return as_reference(value)
    if isinstance(value, (list, tuple)):
        return [_parameter(key, item) for item in value if item is not None]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise ConfigurationError(
        f"script_params[{key!r}] is {type(value).__name__}; use scalars, lists and references."
    )


def _parameter_name(key: str) -> str:
    name = re.sub(r"\W", "_", key.lstrip("-"))
    if keyword.iskeyword(name):  # --lambda is common, and lambda is no name in Python
        name += "_"
    return name if name.isidentifier() else ""


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


class _EstimatorRun:
    """One run: what is staged where, and in which order. Owned by the flow's body."""

    def __init__(self, spec: EstimatorSpec, carrier: FileDatastore | None) -> None:
        self._spec, self._carrier = spec, carrier
        self._id = str(flow_run.id)
        self._root = scratch_root() / "runs" / self._id
        self._code = self._root / "code"
        self._references = [as_available(reference) for reference in spec.references()]
        self._downloads = [
            reference for reference in self._references if reference.mode == "download"
        ]
        self._uploads = [reference for reference in self._references if reference.mode == "upload"]
        self._came: dict[str, Stamp] = {}  # what lay with the source where results are to be

    def run(self) -> dict[str, Any] | State[Any]:
        with (
            cancellation_scope() as (scope, cancellation),
            _watch(self._id, cancellation) as was_cancelled,
        ):
            try:
                result = self._run(scope, lambda: cancellation.requested)
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

    def _run(self, scope: str, cancelled: Any) -> dict[str, Any]:
        outputs = self._with_default_outputs()
        for reference in self._uploads:
            preflight(reference)
        source = self._bring_source(scope)
        futures = {
            reference.name: download.submit(reference, self._place(reference), scope=scope)
            for reference in self._downloads
        }
        paths: dict[str, Path] = results(futures, as_completed(list(futures.values())), stops=scope)
        paths |= {reference.name: self._make_upload_place(reference) for reference in self._uploads}
        state = _script(
            self._spec.entry_script,
            self._arguments(paths),
            self._code,
            self._variables(paths),
            self._spec.max_run_duration_seconds,
            cancelled,
            wait_for=[*source, *futures.values()],
            return_state=True,
        )
        stored = self._store(state, paths, scope)
        if (error := state.result(raise_on_failure=False)) is not None:
            # The way through Prefect's engine tells nobody anything.
            raise error.with_traceback(None)
        return {"run_id": self._id, "outputs": outputs.uri if outputs else None, "stored": stored}

    def _with_default_outputs(self) -> DataReference | None:
        """Add the upload of `outputs/`, unless the inputs have one already."""
        for reference in self._uploads:
            if reference.path_on_compute == OUTPUTS:
                return reference
        store = Datastore.get_default()
        name = "run_outputs"
        while name in {reference.name for reference in self._references}:
            name += "_"
        outputs = store.path(f"runs/{self._spec.name}/{self._id}", name).as_upload(
            OUTPUTS, allow_empty=True
        )
        self._uploads.append(outputs)
        return outputs

    def _bring_source(self, scope: str) -> list[PrefectFuture[Any]]:
        """Copy the source to where it runs; return the task run that brought it, if one did."""
        shutil.rmtree(self._root, ignore_errors=True)  # of an earlier try of the same run
        self._root.mkdir(parents=True, mode=0o700)
        source = Path(self._spec.source_directory)
        brought: list[PrefectFuture[Any]] = []
        if self._spec.source_directory_data_store is None:
            copy_source(source, self._code, leave_out=scratch_root())
        else:
            copy = self._root / "source"
            copy_source(source, copy, leave_out=scratch_root())
            store = self._carrier or Datastore.get(self._spec.source_directory_data_store)
            place = store.path(join(_SNAPSHOTS, digest_of(copy)), "source")
            sent = upload.submit(copy, place.as_upload(), scope=scope)
            sent.result()
            fetched = download.submit(
                place.as_download(), self._code, scope=scope, wait_for=[sent], return_state=False
            )
            fetched.result()
            brought.append(fetched)
            shutil.rmtree(copy)
        (self._code / OUTPUTS).mkdir(exist_ok=True)
        self._came = {
            reference.name: stamp(self._place(reference))
            for reference in self._uploads
            if not Path(reference.path_on_compute).is_absolute()
        }
        return brought

    def _place(self, reference: DataReference) -> Path:
        if reference.path_on_compute:
            return self._code / reference.path_on_compute
        return self._root / "data" / reference.name

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
            given = [item for item in _items(value) if item is not None and item != ""]
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
            for reference in (*self._downloads, *self._uploads)
            for variable in reference.variables()
        }
        return {"AZUREML_RUN_ID": self._id, **staged, **self._spec.environment_variables}

    def _store(self, state: State[Any], paths: Mapping[str, Path], scope: str) -> dict[str, int]:
        """Upload what is due after this outcome, and return the count of objects for each place."""
        outcome = "success" if state.is_completed() else "failure"
        due = [reference for reference in self._uploads if reference.when in {outcome, "always"}]
        for reference in due:
            if before := self._came.get(reference.name):
                forget_unless_written(paths[reference.name], before)
        futures = {
            reference.name: upload.submit(
                paths[reference.name],
                reference,
                scope=scope,
                wait_for=[allow_failure(state)],
                return_state=False,
            )
            for reference in due
        }
        for future in futures.values():
            future.wait()
        if outcome == "failure":  # the script's error is what people need to see
            return {}
        stored: dict[str, int] = {}
        for reference in due:
            count = futures[reference.name].result().count
            stored[reference.uri] = stored.get(reference.uri, 0) + count
        return stored

    def _leave(self, *, failed: bool) -> None:
        if self._spec.keep == "always" or (failed and self._spec.keep == "failed"):
            if self._root.exists():
                run_log().info("The run's folder is kept: %s", self._root)
        else:
            shutil.rmtree(self._root, ignore_errors=True)


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
