"""Shows progress: as a bar in a terminal, as an artifact of a Prefect run, as lines of a log."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext

from prefect_datastores.staging.progress import Progress, Silent, Tally
from prefect_datastores.staging.report import ObjectRow

_ARTIFACT_SECONDS = 1.0  # an update takes 24 ms of the server's time
_LINE_SECONDS = 10.0


def display_for(show: bool) -> Progress:
    """Return what shows progress here: in a Prefect run, in a terminal, or in a log."""
    if not show:
        return Silent()
    if TaskRunContext.get() or FlowRunContext.get():
        return ArtifactProgress()
    return TerminalProgress() if sys.stderr.isatty() else Silent()


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
            TextColumn("{task.fields[objects]} objects"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tally = Tally()
        self._task: Any = None

    def begin(self, title: str, objects: int, size: int) -> None:
        """Draw the bar."""
        self._tally = Tally(title, objects, size)
        self._bar.start()
        self._task = self._bar.add_task(title, total=size or None, objects=f"0/{objects}")

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

    def end(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()


class ArtifactProgress:
    """A progress artifact of the run, updated at most once a second, and log lines now and then.

    A server that does not answer costs the picture, never the transfer.
    """

    def __init__(self) -> None:
        """Make nothing before `begin`."""
        from prefect.logging import get_run_logger  # noqa: PLC0415

        self._logger = get_run_logger()
        self._tally = Tally()
        self._artifact: Any = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, title: str, objects: int, size: int) -> None:
        """Make the artifact and keep it fresh from a thread of its own."""
        import contextvars  # noqa: PLC0415

        self._tally = Tally(title, objects, size)
        self._publish()
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

    def end(self) -> None:
        """Show the last state."""
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._publish()

    def _refresh(self) -> None:
        said = time.monotonic()
        shown = self._tally.line()
        while not self._stop.wait(_ARTIFACT_SECONDS):
            if (line := self._tally.line()) != shown:
                shown = line
                self._publish()
            if time.monotonic() - said >= _LINE_SECONDS:
                said = time.monotonic()
                self._logger.info("%s: %s", self._tally.title, line)

    def _publish(self) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact  # noqa: PLC0415

        tally = self._tally
        text = f"{tally.line()} ({tally.title})"
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
