"""Shows progress: as a bar in a terminal, as an artifact of a Prefect run, as lines of a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger
from prefect.runtime import task_run

from prefect_datastores.errors import ServiceBusy
from prefect_datastores.staging.progress import Progress, Silent, Tally
from prefect_datastores.staging.report import ObjectRow
from prefect_datastores.stores.retry import Retry

_ARTIFACT_SECONDS = 1.0  # an update takes 24 ms of the server's time
_FIRST_SECONDS = 0.25  # what is over by then is shown once, at its end
_LINE_SECONDS = 10.0


def display_for(show: bool) -> Progress:
    """Return what shows progress here: in a Prefect run, in a terminal, or in a log."""
    if not show:
        return Silent()
    if TaskRunContext.get() or FlowRunContext.get():
        return ArtifactProgress()
    return TerminalProgress() if sys.stderr.isatty() else Silent()


def run_log() -> Any:
    """Return the run's logger inside a run, the package's outside."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger("prefect_datastores")


def retry_teller(progress: Progress) -> Callable[[Retry], None]:
    """Return what tells people of the retries of one transfer, from whatever thread.

    Each is counted, and is a line for who looks for it; that the service asks to wait is a warning,
    once.
    """
    log = run_log()  # the threads of a transfer do not know their run
    first = threading.Semaphore(1)

    def tell(retry: Retry) -> None:
        progress.retried()
        log.debug(
            "Try %d to %s failed: %s Next in %.1f s.",
            *(retry.attempt, retry.what, retry.error, retry.pause),
        )
        throttled = isinstance(retry.error, ServiceBusy) and retry.error.throttled
        if throttled and first.acquire(blocking=False):
            log.warning(
                "The service asks to wait, so all requests of this transfer pause and then begin "
                "slowly: %s",
                retry.error,
            )

    return tell


class TerminalProgress:
    """One bar on stderr; nothing of it remains on stdout."""

    def __init__(self) -> None:
        """Draw nothing before `begin`."""
        from rich.console import Console  # noqa: PLC0415 - only where a person looks
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TextColumn("{task.fields[objects]} objects{task.fields[again]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tally = Tally()
        self._task: Any = None

    def begin(self, title: str, objects: int, size: int) -> None:
        """Draw the bar."""
        self._tally = Tally(title, objects, size, retries=self._tally.retries)
        self._bar.start()
        self._task = self._bar.add_task(
            title, total=size or None, objects=f"0/{objects}", again=self._tally.again
        )

    def grow(self, objects: int, size: int) -> None:
        """Make the bar longer."""
        self._tally.objects, self._tally.size = objects, size
        self._bar.update(self._task, total=size or None)

    def moved(self, size: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, size)

    def finished(self, row: ObjectRow) -> None:
        """Count the object."""
        self._tally.add(objects=1)
        self._bar.update(self._task, objects=f"{self._tally.objects_done}/{self._tally.objects}")

    def retried(self) -> None:
        """Count the retry."""
        self._tally.add(retries=1)
        if self._task is not None:
            self._bar.update(self._task, again=self._tally.again)

    def end(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()


class ArtifactProgress:
    """A progress artifact of the run, updated at most once a second, and log lines now and then.

    A server that does not answer costs the picture, never the transfer.
    """

    def __init__(self) -> None:
        """Make nothing before `begin`."""
        self._logger = get_run_logger()
        # First what it is of: a card of the run's page shows the beginning only.
        self._of = f"{task_run.name}: " if task_run.name else ""
        self._tally = Tally()
        self._artifact: Any = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, title: str, objects: int, size: int) -> None:
        """Make the artifact, and keep it fresh, from a thread of its own."""
        import contextvars  # noqa: PLC0415

        self._tally = Tally(title, objects, size, retries=self._tally.retries)
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=lambda: context.run(self._refresh), name="pds-progress", daemon=True
        )
        self._thread.start()

    def grow(self, objects: int, size: int) -> None:
        """Take note of what is to be counted."""
        self._tally.objects, self._tally.size = objects, size

    def moved(self, size: int) -> None:
        """Count the bytes."""
        self._tally.add(size=size)

    def finished(self, row: ObjectRow) -> None:
        """Count the object."""
        self._tally.add(objects=1)

    def retried(self) -> None:
        """Count the retry."""
        self._tally.add(retries=1)

    def end(self) -> None:
        """Show the last state."""
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._publish()

    def _refresh(self) -> None:
        said, shown, pause = time.monotonic(), "", _FIRST_SECONDS
        while not self._stop.wait(pause):
            pause = _ARTIFACT_SECONDS
            if (line := self._tally.line()) != shown:
                shown = line
                self._publish()
            if time.monotonic() - said >= _LINE_SECONDS:
                said = time.monotonic()
                self._logger.info("%s: %s", self._tally.title, line)

    def _publish(self) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact  # noqa: PLC0415

        tally = self._tally
        text = f"{self._of}{tally.line()} ({tally.title})"
        try:
            if self._artifact is None:
                self._artifact = create_progress_artifact(
                    tally.percent, description=text, _sync=True
                )  # type: ignore[call-arg]
            else:
                update_progress_artifact(
                    self._artifact, tally.percent, description=text, _sync=True
                )  # type: ignore[call-arg]
        except Exception as error:  # noqa: BLE001 - whatever the server's trouble is, the data comes first
            self._logger.debug("The progress artifact could not be updated: %s", error)
