"""Checkpoints made again and again by a thread, and a last one when the script has ended."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from prefect_datastores.errors import CheckpointOvertaken
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.checkpoint import Checkpoint
from prefect_datastores.staging.progress import Progress
from prefect_datastores.staging.report import TransferReport
from prefect_datastores.stores.base import ObjectStore

_HURRY_SECONDS = 20.0  # a cancel leaves about 30, of which the script takes some
_LOOK_SECONDS = 0.5

Opened = Callable[[Cancellation], AbstractContextManager[ObjectStore]]


class Continuous:
    """Makes checkpoints of a folder while others write to it; `begin`, then `end`, from any thread.

    A checkpoint that cannot be made is told and tried again after the next interval. One that
    another run overtook is `lost`, and nothing more is stored.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        opened: Opened,
        every: float,
        *,
        stored: Callable[[TransferReport], None] = lambda _: None,
        failed: Callable[[Exception], None] = lambda _: None,
        hurry: float = _HURRY_SECONDS,
    ) -> None:
        """Store nothing yet.

        Args:
            checkpoint: what knows the folder and the place.
            opened: opens the store, with a cancellation that breaks its requests.
            every: the seconds between two looks at the folder.
            stored: is told of each checkpoint.
            failed: is told of each that could not be made, but for the last.
            hurry: the seconds that the last one has after a cancel.
        """
        self._checkpoint, self._opened, self._every = checkpoint, opened, every
        self._tell_stored, self._tell_failed, self._seconds = stored, failed, hurry
        self._over, self._hurried = threading.Event(), threading.Event()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._stop: Cancellation | None = None
        self._is_last = False
        self._progress: Progress | None = None
        self._timer: threading.Timer | None = None
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._report: TransferReport | None = None
        self.made = 0
        """How many checkpoints were made."""
        self.lost: CheckpointOvertaken | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """What knows the folder and the place."""
        return self._checkpoint

    def begin(self) -> None:
        """Begin to look at the folder."""
        # Its lines are the run's.
        run = partial(contextvars.copy_context().run, self._run)
        self._thread = threading.Thread(target=run, name="pds-checkpoint", daemon=True)
        self._thread.start()

    def end(self, progress: Progress | None = None) -> TransferReport | None:
        """Make the last checkpoint; return the report of the newest one, None where none was made.

        `progress` is that of the last one.

        No thread is left. After `hurry`, or when a signal comes meanwhile, it has no more than the
        seconds that a cancel leaves.

        Raises:
            CheckpointOvertaken: another run stored a checkpoint.
            DatastoreError, OSError: the last one could not be made.
        """
        self._progress = progress
        self._over.set()
        try:
            self._wait()
        except BaseException:
            self.hurry()
            self._wait()
            raise
        if self._error is not None:
            raise self._error
        return self._report

    def finish(self) -> None:
        """Mark the newest checkpoint as finished.

        Raises:
            DatastoreError: that could not be done.
        """
        with self._opened(Cancellation()) as store:
            self._checkpoint.finish(store)

    def _wait(self) -> None:
        if self._thread is None:
            return
        # A signal does not wake the main thread from a wait without an end; and where it interrupts `join`,
        # Python 3.11 takes the thread for one that has ended.
        while not self._ended.wait(_LOOK_SECONDS):
            pass
        self._thread.join()

    @property
    def fault(self) -> Exception | None:
        """Why the last one was not made, once it is over."""
        return self._error

    def hurry(self) -> None:
        """Leave off what is under way, and give the last one its seconds."""
        self._over.set()
        with self._lock:
            if self._hurried.is_set():
                return
            self._hurried.set()
            if self._stop is not None:
                self._bound(self._stop, last=self._is_last)

    def _bound(self, stop: Cancellation, *, last: bool) -> None:
        if not last:
            stop.cancel()
            return
        self._timer = threading.Timer(self._seconds, stop.cancel)
        self._timer.daemon = True
        self._timer.start()

    def _run(self) -> None:
        try:
            self._make_all()
        finally:
            self._ended.set()

    def _make_all(self) -> None:
        while not self._over.wait(self._every):
            self._try()
            if self.lost is not None:
                self._error = self.lost
                return
        try:
            self._make(last=True)
        except Exception as error:  # noqa: BLE001 - raised by `end` in the thread that waits
            self._error = error

    def _try(self) -> None:
        try:
            self._make(last=False)
        except CheckpointOvertaken as error:
            self.lost = error
        except Exception as error:  # noqa: BLE001 - the script goes on; the last one tells of it
            if not self._hurried.is_set():
                self._tell_failed(error)

    def _make(self, *, last: bool) -> None:
        if not self._checkpoint.differs():  # nobody is asked for anything
            return
        with self._stoppable(last=last) as stop, self._opened(stop) as store:
            progress = self._progress if last else None
            report = self._checkpoint.store(store, last=last, cancellation=stop, progress=progress)
        if report is not None:
            self.made, self._report = self.made + 1, report
            self._tell_stored(report)

    @contextmanager
    def _stoppable(self, *, last: bool) -> Iterator[Cancellation]:
        stop = Cancellation()
        with self._lock:
            self._stop, self._is_last = stop, last
            if self._hurried.is_set():
                self._bound(stop, last=last)
        try:
            yield stop
        finally:
            with self._lock:
                self._stop = None
                if self._timer is not None:
                    self._timer.cancel()
