"""The Estimator: a training script with the data it needs, as a Prefect flow."""

from __future__ import annotations

import inspect
import keyword
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from prefect import Flow, State
from prefect import flow as prefect_flow

from prefect_datastores.compute.check import check_compute, check_here
from prefect_datastores.compute.matrix import find_compute
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.registry import resolve
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.estimator_run import EstimatorRun, with_outputs
from prefect_datastores.estimator_spec import EstimatorSpec, Keep
from prefect_datastores.names import normal_path
from prefect_datastores.plans import EstimatorPlan, plan_references
from prefect_datastores.references import DataReference, check_references
from prefect_datastores.runs import Run, start_in_background
from prefect_datastores.scripts.source import copy_source
from prefect_datastores.settings import scratch_root
from prefect_datastores.transfers import as_available, as_reference

# What Prefect and pydantic keep for themselves stays an argument of the script alone.
_RESERVED = {"wait_for", "return_state", "model_config"}


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
            compute_target: where it will run, as `prefect-datastores matrix` lists it: "local" is the
                process that runs the flow, others are the type of a deployment's work pool. What
                the references ask for is checked against that.
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
            WayUnavailable: the compute cannot have a datastore so; the message names a way that works.
        """
        compute = find_compute("local" if compute_target is None else compute_target)
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
            compute_target=compute.name,
        )
        check_references(self.spec.references())
        check_compute(compute.name, self.spec.references())

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
        references = [as_available(reference) for reference in self.spec.references()]
        downloads = [reference for reference in references if reference.mode != "upload"]
        uploads = with_outputs(references, self.spec.name, run_id="")
        return plan_references([*downloads, *uploads], scratch_root())

    def as_flow(self) -> Flow[..., dict[str, Any]]:
        """Return a flow of this estimator; scalars of `script_params` are its parameters."""

        def body(*args: Any, **kwargs: Any) -> dict[str, Any] | State[Any]:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            changed = {parameters[name]: value for name, value in bound.arguments.items()}
            spec = self.spec.model_copy(
                update={"script_params": {**self.spec.script_params, **changed}}
            )
            return EstimatorRun(spec, self._carrier).run()

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
            ConfigurationError: `compute_target` is somewhere else.
            CancelledRun: the run was cancelled from Prefect.
        """
        check_here(self.spec.compute_target)
        result: dict[str, Any] = self.as_flow()(**parameters)
        return result

    def submit(self, **parameters: Any) -> Run:
        """Start a flow run in a process of its own and return at once.

        Raises:
            ConfigurationError: a datastore is not registered, so that another process cannot find it;
                or `compute_target` is somewhere else.
            MountUnavailable: a reference is a mount without fallback.
        """
        check_here(self.spec.compute_target)
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
