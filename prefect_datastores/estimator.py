"""The Estimator: a training script with the data it needs, as a Prefect flow."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from prefect import Flow, State
from prefect import flow as prefect_flow
from prefect.schedules import Schedule

from prefect_datastores.compute.check import check_compute, check_here
from prefect_datastores.compute.job_variables import for_pool
from prefect_datastores.compute.matrix import find_compute
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.registry import Datastore, resolve_elsewhere
from prefect_datastores.deployments.deploying import (
    Deployed,
    check_name,
    checked_parameters,
    deploy_flow,
    find_pool,
    one_schedule,
    page_of,
)
from prefect_datastores.deployments.estimators import ENTRYPOINT, EstimatorStorage
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.estimator_parameters import Parameters, parameter_name, parameters_of
from prefect_datastores.estimator_run import EstimatorRun, with_outputs
from prefect_datastores.estimator_spec import EstimatorSpec, Keep
from prefect_datastores.names import normal_path
from prefect_datastores.plans import EstimatorPlan, plan_references
from prefect_datastores.references import DataReference, check_references
from prefect_datastores.runs import Run, start_in_background
from prefect_datastores.scripts.source import copy_source
from prefect_datastores.settings import scratch_root
from prefect_datastores.transfers import as_available, as_reference


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
            source_directory_data_store: the datastore that carries the source to the run, as a snapshot
                within limits; without one it is copied on this machine, and a deployment takes the
                workspace's default.
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
        if spec.snapshot is not None:  # its source is in a datastore, and not on this machine
            made = cls.__new__(cls)
            made.spec, made._carrier = spec, None  # noqa: SLF001 - one of this class
            return made
        values = {key: getattr(spec, key) for key in EstimatorSpec.model_fields}
        del values["snapshot"]
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
        """Return a flow of this estimator; scalars of `script_params` are its parameters.

        It can be deployed and served as any flow: a worker needs this package and the datastores, as
        the source travels as a snapshot through `source_directory_data_store`. What is deployed has
        the references as parameters as well.
        """
        return self._flow(parameters_of(self.spec, references=self.spec.snapshot is not None))

    def _flow(self, parameters: Parameters) -> Flow[..., dict[str, Any]]:
        def body(*args: Any, **kwargs: Any) -> dict[str, Any] | State[Any]:
            bound = signature.bind(*args, **kwargs)
            return EstimatorRun(parameters.changed(bound.arguments), self._carrier).run()

        signature = parameters.signature()
        body.__signature__ = signature  # type: ignore[attr-defined]
        body.__name__ = body.__qualname__ = parameter_name(self.name) or "estimator"
        about = f"Runs {self.spec.entry_script} with its data staged around it."
        lines = [f"    {name}: {text}" for name, text in parameters.descriptions().items()]
        body.__doc__ = "\n".join([about, "", "Args:", *lines])  # where Prefect looks for its form
        # A flow may return a state as well, which its type cannot say.
        made: Flow[..., dict[str, Any]] = prefect_flow(name=self.name, description=about)(
            cast("Any", body)
        )
        # Where `flow.from_source` says it; that would write the flow to a file and load it again.
        made._storage = EstimatorStorage(self.spec, self._carrier)  # noqa: SLF001
        made._entrypoint = ENTRYPOINT  # noqa: SLF001
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
            resolve_elsewhere(reference, "a submitted run")
        if self._carrier is not None:
            resolve_elsewhere(self._carrier.path(), "a submitted run")
        folder = scratch_root() / "submitted" / uuid4().hex
        folder.mkdir(parents=True, mode=0o700)
        # What runs is what was there when it was submitted.
        source = folder / "source"
        try:
            spec = self.spec
            if spec.snapshot is None:
                copy_source(Path(spec.source_directory), source, leave_out=scratch_root())
                spec = spec.model_copy(update={"source_directory": str(source)})
            return start_in_background(self.as_flow(), spec.model_dump_json(), folder, parameters)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def deploy(
        self,
        name: str,
        work_pool_name: str | None = None,
        *,
        cron: str | None = None,
        interval: float | timedelta | None = None,
        rrule: str | None = None,
        schedule: Schedule | None = None,
        timezone: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        job_variables: Mapping[str, Any] | None = None,
        work_queue_name: str | None = None,
        concurrency_limit: int | None = None,
        paused: bool | None = None,
        tags: Sequence[str] | None = None,
        description: str | None = None,
    ) -> Deployed:
        """Deploy under a name: from then on it is run by a schedule, by Prefect's UI, and by workers.

        The source is stored in `source_directory_data_store` (the workspace's default datastore when
        None) as a snapshot of what `.amlignore`, else `.gitignore` or `.dockerignore`, leaves in,
        without `outputs`; the same source is stored once. A worker needs this package and the
        datastores. Deploying under the same name again changes the deployment: source, schedule and
        parameters are those of now.

        Args:
            name: the name of the deployment.
            work_pool_name: the pool whose workers run it; that of Prefect's settings when None.
            cron: when it runs, as "0 2 * * *".
            interval: or each so many seconds, or as a timedelta.
            rrule: or by a rule of RFC 5545.
            schedule: or by a schedule of `prefect.schedules`.
            timezone: where the schedule's time is, as "Europe/Berlin"; UTC when None.
            parameters: other values for scalars of `script_params`, by the flow's parameters, and
                references for other data than that of the references.
            job_variables: what the pool's type takes, as `{"image": ...}`; what the data of the run
                needs on such a pool (docs/matrix.md) is added.
            work_queue_name: a queue of the pool.
            concurrency_limit: how many of its runs go on at once.
            paused: whether the schedule waits.
            tags: labels of the deployment and its runs.
            description: for its page.

        Raises:
            ConfigurationError: the pool does not exist, two schedules were given, or one is none; a
                parameter is unknown or of the wrong type; a datastore is not registered.
            WayUnavailable: such a pool cannot have that data so; the message names a way that works.
            SnapshotTooLarge: the source has more than a snapshot takes; nothing was deployed.
            DatastoreError: the source cannot be stored; nothing was deployed.
        """
        check_name(name)
        when = one_schedule(
            cron=cron, interval=interval, rrule=rrule, schedule=schedule, timezone=timezone
        )
        pool = find_pool(work_pool_name)
        for reference in self.spec.references():
            resolve_elsewhere(reference, "a worker")
        template = pool.base_job_template
        variables = for_pool(pool.type, template, self.spec.references(), job_variables)
        form = self._flow(parameters_of(self.spec, references=True))
        given = checked_parameters(form, parameters or {})
        # Nothing was stored up to here.
        spec = EstimatorStorage(self.spec, self._carrier).stored()
        deployed = deploy_flow(
            Estimator.from_spec(spec).as_flow(),
            name,
            work_pool_name=pool.name,
            schedule=when,
            parameters=given,
            datastores=Datastore.list(),
            version=hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:12],
            job_variables=variables or None,
            work_queue_name=work_queue_name,
            concurrency_limit=concurrency_limit,
            paused=paused,
            tags=list(tags) if tags else None,
            description=description,
        )
        return Deployed(deployed, f"{self.name}/{name}", page_of(deployed), spec.snapshot or "")


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
