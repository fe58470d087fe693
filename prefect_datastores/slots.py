"""A slot of a global concurrency limit of Prefect, held while something is transferred."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from uuid import UUID

import httpx
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.runtime import task_run

from prefect_datastores.display import run_log
from prefect_datastores.errors import ConfigurationError, TransferError
from prefect_datastores.settings import DatastoresSettings
from prefect_datastores.staging.cancellation import Cancellation

# The server's least: a run that is killed keeps its slot no longer. Prefect renews it meanwhile.
_LEASE_SECONDS = 60.0
_LONGEST_PAUSE = 10.0
_LOCKED = 423


@contextmanager
def transfer_slot(cancellation: Cancellation) -> Iterator[None]:
    """Hold a slot of the limit that the settings name, from when there is one to the block's end.

    Raises:
        ConfigurationError: the limit does not exist.
        TransferError: Prefect's server neither gave a slot nor said that all are taken.
        TransferCancelled: the stop was asked for before there was one.
    """
    name = DatastoresSettings().concurrency_limit
    if name is None:
        yield
        return
    slot = _taken(name, cancellation)
    try:
        yield
    finally:
        try:
            slot.__exit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - what was transferred is there all the same
            run_log().warning(
                "The slot of the concurrency limit %r could not be given back, and is free in %.0f s "
                "by itself: %s",
                *(name, _LEASE_SECONDS, error),
            )


def _taken(name: str, cancellation: Cancellation) -> AbstractContextManager[None]:
    """Return a slot that is held, once there is one.

    Each wait is our own, not one in Prefect's queue, where a cancel is not heard.
    """
    waits = False
    while True:
        cancellation.check()
        holder = (
            ConcurrencyLeaseHolder(type="task_run", id=UUID(task_run.id)) if task_run.id else None
        )
        slot = concurrency(
            name,
            max_retries=0,
            lease_duration=_LEASE_SECONDS,
            strict=True,
            holder=holder,
            raise_on_lease_renewal_failure=False,
        )
        try:
            slot.__enter__()
        except ConcurrencySlotAcquisitionError as error:
            pause = _pause(name, error)
        else:
            return slot
        if not waits:
            run_log().info("Waiting for a slot of the concurrency limit %r.", name)
            waits = True
        cancellation.pause(pause)


def _pause(name: str, error: ConcurrencySlotAcquisitionError) -> float:
    """Return how long to wait for a slot where all are taken, and raise where that is not the reason."""
    cause = error.__cause__
    if cause is None:
        raise ConfigurationError(
            f"The concurrency limit {name!r} that PREFECT_INTEGRATIONS_DATASTORES_CONCURRENCY_LIMIT "
            f"names does not exist; nothing was transferred. Make it: "
            f"prefect gcl create {name} --limit 4, or unset the variable."
        ) from error
    if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == _LOCKED:
        return min(float(cause.response.headers.get("Retry-After", 1)), _LONGEST_PAUSE)
    raise TransferError(
        f"Prefect's server gave no slot of the concurrency limit {name!r}: {cause}. Nothing was "
        "transferred; see that the server answers, then run it again."
    ) from error
