"""The process of one mount: mounts, serves, and unmounts when it is told to, or its parent is gone."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from prefect_datastores.circles import rarely_looked_for
from prefect_datastores.errors import DatastoreError, MountError, ObjectNotFound
from prefect_datastores.mounting import device, lease
from prefect_datastores.mounting.contents import Contents
from prefect_datastores.mounting.exchangeable import Exchangeable
from prefect_datastores.mounting.pending import Unstored
from prefect_datastores.mounting.session import Session
from prefect_datastores.mounting.space import Space
from prefect_datastores.mounting.statistics import Statistics
from prefect_datastores.mounting.systems import Changing, Reading, recover
from prefect_datastores.mounting.talk import (
    Failed,
    MakeStore,
    Ready,
    Renew,
    Storing,
    Tell,
    Told,
    Unmount,
    Wanted,
    receive,
    send,
)
from prefect_datastores.mounting.tree import Place
from prefect_datastores.names import folder_prefix
from prefect_datastores.redaction import scrub
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.published import lies_in_published, where
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.limit import Rates, allowance_of
from prefect_datastores.stores.retry import Retry, RetryPolicy, patient

_log = logging.getLogger("prefect_datastores.mounting")
_GRACE_SECONDS = 5.0
_HEARTBEAT_SECONDS = 5.0
_PATIENT = RetryPolicy(tries=20, unreachable_tries=20, longest_pause=5.0, deadline=120.0)
"""A service that is away for a while is no reason for a training of days to fail."""


class _Scrubbed(logging.Formatter):
    """Writes lines without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))


def main() -> int:
    """Serve what the parent asks for, on the first two descriptors; return an exit code."""
    reading, writing = os.dup(0), os.dup(1)
    parent = os.getppid()
    _keep_apart()
    wanted = receive(reading)
    if not isinstance(wanted, Wanted):
        return 1
    os.environ.update(wanted.environment)
    try:
        with rarely_looked_for():
            _Mount(wanted, reading, writing, parent).run()
    except Exception as error:  # noqa: BLE001 - the parent is told
        known = (
            error
            if isinstance(error, DatastoreError)
            else MountError(scrub(f"{type(error).__name__}: {error}"))
        )
        if known is not error:
            _log.exception("The mount failed.")
        with contextlib.suppress(OSError):
            send(writing, Failed(known))
        return 1
    return 0


def _keep_apart() -> None:
    """Let nothing that is printed get among the frames, and write to the log instead."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Scrubbed("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in ("azure", "urllib3", "msal"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _Mount:
    """One mount, from its beginning to its end."""

    def __init__(self, wanted: Wanted, reading: int, writing: int, parent: int) -> None:
        self._wanted, self._reading, self._writing = wanted, reading, writing
        self._parent = parent
        self._statistics = Statistics()
        self._wake, self._woken = os.pipe()
        self._stop = Cancellation()

    def run(self) -> None:
        """Mount, serve, and return when it is unmounted."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: os.write(self._woken, b"."))
        wanted = self._wanted
        store = Exchangeable(self._opened(wanted.make))
        if wanted.drafts_root is not None:
            recover(store, wanted.drafts_root)
        place = _place(store, wanted)
        contents = Contents(store, _space(wanted), self._statistics)
        system: Reading | Changing = (
            Reading(store, place, contents, wanted.consistency, self._statistics)
            if wanted.read_only
            else Changing(store, place, contents, wanted, self._statistics)
        )
        fd, grace = self._mount(system), 0.0
        unstored: Sequence[Unstored] = ()
        try:
            lease.write(wanted.lease, lease.mine(wanted.title, wanted.point))
            session = system.session(fd)
            serving = threading.Thread(
                target=self._serve, args=(session,), name="pds-mount", daemon=True
            )
            serving.start()
            _log.info("Mounted %s at %s.", wanted.title, wanted.point)
            name = place.single.name.rpartition("/")[2] if place.single is not None else ""
            send(self._writing, Ready(name))
            grace = self._wait(store)
        finally:
            is_free = self._unmount(grace)
            unstored = system.finish(self._storing, is_free=is_free)
            os.close(fd)
            system.close(keep=bool(unstored))
            self._stop.cancel()  # or what is fetched ahead would be tried again, though nobody reads it
            contents.close()
            store.close()
        _log.info("Unmounted %s: %s", wanted.title, self._statistics.to_dict())
        with contextlib.suppress(OSError):
            send(self._writing, Told(self._statistics.to_dict(), tuple(unstored)))

    def _opened(self, make: MakeStore) -> ObjectStore:
        rates, policy = self._wanted.rates, replace(_PATIENT, sleep=self._stop.pause)
        allowance = None if rates == Rates() else allowance_of(rates)
        return patient(make(), policy, allowance=allowance, tell=self._tried)

    def _tried(self, retry: Retry) -> None:
        if not self._stop.requested:
            _log.warning("Try %d of %s: %s", retry.attempt, retry.what, retry.error)

    def _mount(self, system: Reading | Changing) -> int:
        """Mount; nothing of what was begun for it is left where that fails."""
        wanted = self._wanted
        try:
            return device.mount(wanted.point, source=wanted.title, read_only=wanted.read_only)
        except BaseException:
            system.close(keep=False)
            raise

    def _storing(self, files: int, size: int) -> None:
        _log.info("%d files (%d bytes) are still to be stored.", files, size)
        with contextlib.suppress(OSError):
            send(self._writing, Storing(files, size))

    def _serve(self, session: Session) -> None:
        session.serve()
        with contextlib.suppress(OSError):
            os.write(self._woken, b".")  # unmounted by somebody else

    def _wait(self, store: Exchangeable) -> float:
        """Do what the parent says until it is over; return how long an unmount may take."""
        died = _end_of(self._parent)
        poll = select.poll()
        for fd in (self._reading, self._wake, *([died] if died is not None else [])):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(_HEARTBEAT_SECONDS * 1000)}
            with contextlib.suppress(OSError):
                os.utime(self._wanted.lease)
                lease.write_numbers(self._wanted.lease, self._statistics.to_dict())
            if died in ready or os.getppid() != self._parent:
                _log.warning("The run that mounted it is gone.")
                return 0.0
            if self._wake in ready:
                return _GRACE_SECONDS
            if self._reading not in ready:
                continue
            said = receive(self._reading)
            if said is None:
                _log.warning("The run that mounted it let go of it.")
                return 0.0
            if isinstance(said, Unmount):
                return said.grace
            if isinstance(said, Renew):
                store.exchange(self._opened(said.make))
            if isinstance(said, Tell):
                send(self._writing, Told(self._statistics.to_dict()))

    def _unmount(self, grace: float) -> bool:
        """Unmount; False where it was taken away from somebody who used it."""
        point, until = self._wanted.point, time.monotonic() + grace
        while not device.unmount(point):
            if time.monotonic() >= until:
                _log.warning("%s is in use still, and is taken away.", point)
                device.unmount(point, detach=True)
                return False
            time.sleep(0.05)
        return True


def _place(store: ObjectStore, wanted: Wanted) -> Place:
    """Find out what is mounted; nothing there is an error unless that is allowed."""
    store.check_root()
    try:
        single, prefix = where(store, wanted.path)
    except ObjectNotFound:
        if not wanted.allow_empty:
            raise
        single, prefix = None, folder_prefix(wanted.path)
    is_published = not wanted.read_only and lies_in_published(store, wanted.path)
    return Place(prefix, single, is_published)


def _space(wanted: Wanted) -> Space | None:
    if wanted.cache_root is None:
        return None
    try:
        return Space(wanted.cache_root, wanted.cache_bytes)
    except OSError as error:
        _log.warning("There is no cache at %s: %s", wanted.cache_root, error)
        return None


def _end_of(pid: int) -> int | None:
    """Return a descriptor that can be read once a process is gone; None where the kernel has none."""
    opened: Callable[[int], int] | None = getattr(os, "pidfd_open", None)
    with contextlib.suppress(OSError):
        return opened(pid) if opened is not None else None
    return None
