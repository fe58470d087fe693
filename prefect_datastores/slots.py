"""A slot of a global concurrency limit of Prefect, held while something is transferred."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from uuid import UUID

from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError, concurrency
from prefect.runtime import task_run

from prefect_datastores.display import run_log
from prefect_datastores.errors import ConfigurationError, TransferCancelled, TransferError
from prefect_datastores.settings import DatastoresSettings
from prefect_datastores.staging.cancellation import Cancellation

# The server's least: a run that is killed keeps its slot no longer. Prefect renews it meanwhile.
_LEASE_SECONDS = 60.0
_SILENT_SECONDS = 2.0


@contextlib.contextmanager
def transfer_slot(cancellation: Cancellation) -> Iterator[None]:
    """Hold a slot of the limit that the settings name, from when there is one to the block's end.

    Raises:
        ConfigurationError: the limit does not exist.
        TransferError: Prefect's server gave no slot, nor a reason to wait for one.
        TransferCancelled: the stop was asked for before there was one.
    """
    name = DatastoresSettings().concurrency_limit
    if name is None:
        yield
        return
    slot = _Slot(name)
    slot.take(cancellation)
    try:
        yield
    finally:
        slot.give_back()


class _Slot:
    """A slot that is waited for and held by a loop of its own.

    Prefect's wait for a slot can be cancelled as a coroutine, and in no other way.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._held: Future[None] = Future()
        self._over = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._hold())
        self._thread = threading.Thread(target=self._run, name="pds-slot", daemon=True)

    def take(self, cancellation: Cancellation) -> None:
        """Return when the slot is held."""
        self._thread.start()
        try:
            with cancellation.calling(self._cancel):
                if not wait({self._held}, timeout=_SILENT_SECONDS).done:
                    run_log().info("Waiting for a slot of the concurrency limit %r.", self._name)
                self._held.result()
        except CancelledError:
            self.give_back()
            raise TransferCancelled("The transfer was cancelled.") from None
        except ConcurrencySlotAcquisitionError as error:
            self.give_back()
            raise self._refused(error) from error
        except BaseException:
            self._cancel()
            self.give_back()
            raise

    def give_back(self) -> None:
        """Return when the slot is given back; a second time changes nothing."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    def _cancel(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nothing to cancel
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def _hold(self) -> None:
        run = task_run.id
        async with concurrency(
            self._name,
            lease_duration=_LEASE_SECONDS,
            strict=True,
            holder=ConcurrencyLeaseHolder(type="task_run", id=UUID(run)) if run else None,
            # A transfer that goes on without its slot is better than one that is broken off.
            raise_on_lease_renewal_failure=False,
        ):
            self._held.set_result(None)
            await self._over.wait()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            if not self._held.done():
                self._held.set_exception(CancelledError())
        except Exception as error:  # noqa: BLE001 - it is raised where the slot is waited for
            if not self._held.done():
                self._held.set_exception(error)
                return
            run_log().warning(  # what was transferred is there all the same
                "The slot of the concurrency limit %r could not be given back, and is free in %.0f s "
                "by itself: %s",
                *(self._name, _LEASE_SECONDS, error),
            )

    def _refused(self, error: ConcurrencySlotAcquisitionError) -> Exception:
        if error.__cause__ is None:
            return ConfigurationError(
                f"The concurrency limit {self._name!r} that PREFECT_INTEGRATIONS_DATASTORES_CONCURRENCY_LIMIT "
                "names does not exist; nothing was transferred. Make it: "
                f"prefect gcl create {self._name} --limit 4, or unset the variable."
            )
        return TransferError(
            f"Prefect's server gave no slot of the concurrency limit {self._name!r}: {error.__cause__}. "
            "Nothing was transferred; see that the server answers, then run it again."
        )
