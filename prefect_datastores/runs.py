"""A submitted run: followed by its id, wherever it runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow, State
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import CancelledRun
from prefect.settings import PREFECT_UI_URL, get_current_settings
from prefect.states import Cancelled, Cancelling, Crashed, Pending

from prefect_datastores.errors import DatastoreError, ScriptFailed

_POLL_SECONDS = 1.0
_LOG_PAGE = 200


class Run:
    """A flow run that goes on by itself; this only looks at it."""

    def __init__(
        self, run_id: UUID, process: subprocess.Popen[bytes] | None = None, log: Path | None = None
    ) -> None:
        """Name the run; `process` is the one that was started for it, if any."""
        self.id = str(run_id)
        self._process, self._log = process, log

    @property
    def url(self) -> str:
        """The run's page in Prefect's UI."""
        return f"{PREFECT_UI_URL.value() or ''}/runs/flow-run/{self.id}"

    def get_status(self) -> str:
        """Return the name of the run's state: Pending, Running, Completed, Failed, ..."""
        with get_client(sync_client=True) as client:
            return self._state(client).name or ""

    def cancel(self) -> None:
        """Ask for the run's end; its script is stopped within seconds."""
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(self.id), Cancelling(), force=False)

    def wait_for_completion(self, show_output: bool = False, *, raise_on_error: bool = True) -> str:
        """Wait for the end and return the final state's name; `show_output` prints the run's logs.

        Raises:
            ScriptFailed: the script failed; the message has the end of its stderr.
            CancelledRun: it was cancelled.
            DatastoreError: it failed otherwise, or crashed; the message says why.
        """
        shown = 0
        with get_client(sync_client=True) as client:
            while True:
                state = self._state(client)
                if show_output:
                    shown = self._print_logs(client, shown)
                if state.is_final():
                    break
                time.sleep(_POLL_SECONDS)
            if show_output:
                time.sleep(_POLL_SECONDS)  # the last lines of a log come after the state
                self._print_logs(client, shown)
        if self._process is not None:
            self._process.wait()
        if raise_on_error:
            _raise_for(state)
        return state.name or ""

    def _state(self, client: SyncPrefectClient) -> State[Any]:
        # Asked before the server: a process that has ended has told its last state.
        code = self._process.poll() if self._process else None
        state = client.read_flow_run(UUID(self.id)).state
        if code is None or (state is not None and state.is_final()):
            return state or Pending()
        said = (
            self._log.read_text(errors="replace")[-2000:]
            if self._log and self._log.exists()
            else ""
        )
        crashed: State[Any] = Crashed(message=f"The run's process ended with code {code}. {said}")
        client.set_flow_run_state(UUID(self.id), crashed, force=True)
        return crashed

    def _print_logs(self, client: SyncPrefectClient, shown: int) -> int:
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(self.id)]))
        while page := client.read_logs(
            wanted, limit=_LOG_PAGE, offset=shown, sort=LogSort.TIMESTAMP_ASC
        ):
            for line in page:
                print(line.message)  # noqa: T201 - what show_output asks for
            shown += len(page)
        return shown


def confirm_cancellation(run_id: UUID) -> None:
    """Say that a run is cancelled when that was asked for while nobody looked: no worker says it."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run_id).state
        if state is not None and state.type is StateType.CANCELLING:
            client.set_flow_run_state(
                run_id, Cancelled(message="Cancelled from Prefect."), force=True
            )


def _raise_for(state: State[Any]) -> None:
    if state.is_failed():
        message = state.message or "The run failed."
        # The error itself is in the run's process; its type stands in the message.
        failed = f"{ScriptFailed.__name__}: " in message
        raise ScriptFailed(message, exit_code=-1) if failed else DatastoreError(message)
    if state.is_cancelled():
        raise CancelledRun(state.message or "The run was cancelled.")
    if state.is_crashed():
        raise DatastoreError(state.message or "The run crashed.")


def start_in_background(
    flow: Flow[..., Any], spec: str, folder: Path, parameters: Mapping[str, Any]
) -> Run:
    """Make a flow run and start a process for it that outlives this one, and removes `folder`."""
    checked = flow.validate_parameters(dict(parameters))
    with get_client(sync_client=True) as client:
        created = client.create_flow_run(flow, parameters=checked, state=Pending())
    log = folder.parent / f"{created.id}.log"
    (folder / "spec.json").write_text(spec, encoding="utf-8")
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect_datastores.submitted", str(folder), str(created.id)],
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Run(created.id, process, log)
