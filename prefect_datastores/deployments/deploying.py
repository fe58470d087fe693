"""A flow is deployed: everything about it is looked at first, and one name is one deployment."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import WorkPool
from prefect.client.schemas.schedules import construct_schedule
from prefect.exceptions import ObjectNotFound, ParameterTypeError, PrefectHTTPStatusError
from prefect.schedules import Cron, Interval, RRule, Schedule
from prefect.settings import PREFECT_DEPLOYMENTS_DEFAULT_WORK_POOL_NAME, PREFECT_UI_URL
from prefect.utilities.callables import ParameterSchema
from pydantic import BaseModel

from prefect_datastores.datastores.registration import as_configuration_error
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.references import DataReference
from prefect_datastores.runs import Run

_NOT_IN_NAMES = set("/%&<>")


@dataclass(frozen=True)
class Deployed:
    """A deployment as it is at the server; `url` is its page, where people press Run."""

    id: str
    name: str
    """As `prefect deployment run` takes it: flow/deployment."""
    url: str
    snapshot: str
    """The digest of the source that it runs."""

    def run(self, **parameters: Any) -> Run:
        """Ask for a run, which a worker of the pool takes up, and return at once.

        Raises:
            ConfigurationError: a parameter is refused; the message says which.
        """
        # Importing it imports a client of Docker, which who only reads a datastore does not need.
        from prefect.deployments import run_deployment  # noqa: PLC0415

        ask: Any = run_deployment  # its signature hides that it can be called from anywhere
        try:
            given = {key: _plain(value) for key, value in parameters.items()}
            made = ask(self.id, parameters=given, timeout=0, _sync=True)
        except PrefectHTTPStatusError as error:
            raise ConfigurationError(f"{self.name} does not take that: {_detail(error)}") from None
        return Run(made.id)


def deploy_flow(
    flow: Flow[..., Any],
    name: str,
    *,
    work_pool_name: str,
    schedule: Schedule | None,
    parameters: Mapping[str, Any] | None,
    datastores: Iterable[str],
    **options: Any,
) -> str:
    """Deploy a flow that says itself where its code is; return the deployment's id.

    Where a parameter is a form with a datastore, `datastores` are those to choose from.

    A deployment of that name is changed into this one: schedules, parameters and code are those
    that are given now, and no others.

    Raises:
        ConfigurationError: the name or an option is refused.
    """
    from prefect.deployments.runner import DeploymentApplyError  # noqa: PLC0415 - as for `run`

    make: Any = flow.to_deployment
    try:
        deployment = make(
            name,
            schedule=schedule,
            parameters=dict(parameters or {}),
            work_pool_name=work_pool_name,
            _sync=True,
            **{key: value for key, value in options.items() if value is not None},
        )
        _offer(deployment._parameter_openapi_schema, sorted(datastores))  # noqa: SLF001 - no other way
        return str(deployment.apply(work_pool_name=work_pool_name, _sync=True))
    except ConfigurationError:
        raise
    except PrefectHTTPStatusError as error:
        raise ConfigurationError(f"{name!r} cannot be deployed: {_detail(error)}") from None
    except (ValueError, DeploymentApplyError) as error:
        raise ConfigurationError(f"{name!r} cannot be deployed: {error}") from None


def find_pool(name: str | None) -> WorkPool:
    """Return a work pool as the server has it; the one of Prefect's settings without a name.

    Raises:
        ConfigurationError: there is none of that name; the message names those that there are.
    """
    chosen = name or PREFECT_DEPLOYMENTS_DEFAULT_WORK_POOL_NAME.value()
    with get_client(sync_client=True) as client:
        if chosen:
            with contextlib.suppress(ObjectNotFound):
                return client.read_work_pool(chosen)
        pools = sorted(pool.name for pool in client.read_work_pools())
    what = f"There is no work pool {chosen!r}" if chosen else "No work_pool_name was given"
    known = f"There are: {', '.join(pools)}." if pools else "There is none yet."
    raise ConfigurationError(
        f"{what}. {known} `prefect work-pool create --type process {chosen or 'NAME'}` makes one whose workers run "
        "what they take up on their own machine."
    )


def one_schedule(
    *,
    cron: str | None,
    interval: float | dt.timedelta | None,
    rrule: str | None,
    schedule: Schedule | None,
    timezone: str | None,
) -> Schedule | None:
    """Return the one schedule that was given, or None.

    Raises:
        ConfigurationError: two were given, or it is none; or a timezone without one that it is of.
    """
    given = {"cron": cron, "interval": interval, "rrule": rrule, "schedule": schedule}
    chosen = [key for key, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise ConfigurationError(f"Two schedules were given, {' and '.join(chosen)}; give one.")
    if timezone is not None and chosen in ([], ["schedule"]):
        raise ConfigurationError("timezone is that of cron, interval or rrule, and none was given.")
    if schedule is not None or not chosen:
        return schedule
    (kind,) = chosen
    try:
        # The server would refuse a timezone, when the source is stored already.
        with as_configuration_error(f"{kind}={given[kind]!r} is no schedule: "):
            step = None if interval is None else _positive(interval)
            construct_schedule(interval=step, cron=cron, rrule=rrule, timezone=timezone)
            if step is not None:
                return Interval(step, timezone=timezone)
            if cron is not None:
                return Cron(cron, timezone=timezone)
            return RRule(rrule or "", timezone=timezone)
    except ConfigurationError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{kind}={given[kind]!r} is no schedule: {error}") from None


def _positive(interval: float | dt.timedelta) -> dt.timedelta:
    step = interval if isinstance(interval, dt.timedelta) else dt.timedelta(seconds=interval)
    if step <= dt.timedelta():
        raise ConfigurationError(f"interval={interval!r} is no schedule: it has to be more than 0.")
    return step


def check_name(name: str) -> None:
    """Return when a deployment can have a name.

    Raises:
        ConfigurationError: Prefect would refuse it.
    """
    if not name or set(name) & _NOT_IN_NAMES:
        raise ConfigurationError(
            f"The name {name!r} cannot be deployed: it must not be empty, or have one of {' '.join(sorted(_NOT_IN_NAMES))}."
        )


def page_of(deployment_id: str) -> str:
    """Return the page of a deployment in Prefect's UI."""
    return f"{PREFECT_UI_URL.value() or ''}/deployments/deployment/{deployment_id}"


def checked_parameters(flow: Flow[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as a deployment keeps them, when the flow takes them.

    Raises:
        ConfigurationError: it has none of that name, or the value is of the wrong type.
    """
    known = list(flow.parameters.properties)
    if unknown := sorted(set(given) - set(known)):
        raise ConfigurationError(
            f"The flow {flow.name!r} has no parameter {unknown[0]!r}; it has: {', '.join(known) or 'none'}."
        )
    try:
        checked = flow.validate_parameters(dict(given))
    except ParameterTypeError as error:
        raise ConfigurationError(f"A parameter of {flow.name!r} is refused: {error}") from None
    return {key: _plain(checked[key]) for key in given}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; of a reference, what a form asks for."""
    if isinstance(value, DataReference):
        form = {"datastore": value.datastore, "path": value.path_on_datastore}
        return form if value.mode in {"upload", "checkpoint"} else {**form, "mode": value.mode}
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _offer(schema: ParameterSchema, datastores: list[str]) -> None:
    for form in (schema.definitions or {}).values():
        if field := form.get("properties", {}).get("datastore"):
            field["enum"] = datastores


def _detail(error: Any) -> str:
    try:
        return str(error.response.json().get("detail") or error)
    except (ValueError, AttributeError):
        return str(error)
