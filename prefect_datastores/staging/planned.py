"""A plan that is acted on while it still grows; nothing of it shows before all of it is known to be good."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from prefect_datastores.errors import TransferCancelled
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.plan import DownloadPlanning, Fetch
from prefect_datastores.stores.base import ObjectInfo

_AT_ONCE = 10_000  # objects whose listing is waited for before anything is begun
_LOOK_SECONDS = 0.2


class Planned:
    """The objects of a plan, as they become known; used by many threads at once.

    A short listing is planned whole before the first object is given. A long one is planned on in
    a thread of its own; whoever has an object ready asks by `wait` whether it may be published.
    """

    def __init__(
        self,
        planning: DownloadPlanning,
        listing: Iterable[ObjectInfo],
        finish: Callable[[], None],
        tell: Callable[[], None],
        cancellation: Cancellation,
    ) -> None:
        """Plan the first objects; `finish` is called with the last one, and may refuse it all.

        `tell` is called when a long plan is whole.

        Raises:
            DatastoreError: why the listing of a short plan failed, or why it was refused.
        """
        self._planning, self._listing, self._finish = planning, iter(listing), finish
        self._tell, self._cancellation = tell, cancellation
        self._grown = threading.Condition()
        self._whole = False
        self._fault: BaseException | None = None
        self._thread: threading.Thread | None = None
        if self._take(_AT_ONCE) < _AT_ONCE:
            self._finish()
            self._whole = True

    def _take(self, most: int) -> int:
        """Plan that many objects more, and return how many there were."""
        count = 0
        for info in self._listing:
            self._planning.add(info)
            count += 1
            if count == most:
                break
        return count

    def _take_rest(self) -> None:
        try:
            while self._take(1000):
                self._cancellation.check()
                with self._grown:
                    self._grown.notify_all()
            self._finish()
            self._tell()
        except BaseException as fault:  # noqa: BLE001 - raised in the threads that wait
            self._fault = fault
        with self._grown:
            self._whole = self._fault is None
            self._grown.notify_all()

    def __iter__(self) -> Iterator[Fetch]:
        """Give every object that is to be looked at, waiting for those that are not known yet.

        Raises:
            DatastoreError: why the rest of the plan cannot be had.
        """
        at = 0
        while True:
            whole = self._whole
            if chunk := self._planning.fetches.after(at):
                yield from chunk
                at += len(chunk)
            elif whole:
                return
            else:
                self._look_for(at)

    def wait(self) -> None:
        """Return when the whole plan is good.

        Raises:
            TransferCancelled: it is not, and whoever iterates hears why; or the stop was asked for.
        """
        if not self._whole:
            try:
                self._look_for(None)
            except TransferCancelled:
                raise
            except BaseException as fault:
                raise TransferCancelled("The rest of the plan was refused.") from fault

    def _look_for(self, index: int | None) -> None:
        """Return when there is an object of that index, or when the plan is whole."""
        with self._grown:
            while not self._whole and (index is None or len(self._planning.fetches) <= index):
                self._cancellation.check()
                if self._fault is not None:
                    raise self._fault
                self._grown.wait(_LOOK_SECONDS)

    def __enter__(self) -> Planned:
        if not self._whole:
            self._thread = threading.Thread(target=self._take_rest, name="pds-plan", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(_LOOK_SECONDS)  # so that a signal is heard meanwhile
