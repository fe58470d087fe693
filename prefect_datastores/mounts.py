"""Mounts of a run: begun for its references, and gone when the run is over, with a word on what was read."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext, TaskRunContext

from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.registry import Datastore, resolve
from prefect_datastores.display import run_log
from prefect_datastores.errors import (
    ConfigurationError,
    DatastoreError,
    MountError,
    ObjectNotFound,
    PlaceTaken,
)
from prefect_datastores.linked import place_of
from prefect_datastores.mounting import lease
from prefect_datastores.mounting.advice import summary, table
from prefect_datastores.mounting.mount import Mount, mount
from prefect_datastores.mounting.pending import Left, Unstored, left
from prefect_datastores.mounting.storing import Sender
from prefect_datastores.mounting.talk import Wanted
from prefect_datastores.redaction import scrub
from prefect_datastores.references import DataReference
from prefect_datastores.settings import mount_cache, mount_drafts_root, mounts_root, rates
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.report import human_bytes, plural
from prefect_datastores.transfers import preflight, why_not_mounted

_RENEW_SECONDS = 60.0


def mounted(
    reference: DataReference, stop: Cancellation | None = None, *, at: Path | None = None
) -> Mount:
    """Return a reference's place, mounted; whoever asked for it unmounts it. With `at`, at that empty folder.

    Raises:
        MountUnavailable: nothing can be mounted here.
        ObjectNotFound: nothing is there, and that is not allowed.
        DatastoreError: it cannot be opened.
    """
    datastore = resolve(reference)
    preflight(reference)
    cache = mount_cache() if reference.cache else None
    wanted = Wanted(
        make=datastore.store_maker(),
        path=reference.path_on_datastore,
        title=reference.uri,
        consistency=reference.consistency,
        cache_root=cache.root if cache else None,
        cache_bytes=cache.most if cache else None,
        allow_empty=reference.allow_empty or not reference.read_only,
        read_only=reference.read_only,
        drafts_root=mount_drafts_root(),
        rates=rates(),
    )
    return mount(wanted, mounts_root(), at=at, stop=(stop or Cancellation()).check)


@dataclass(frozen=True)
class StoredLate:
    """What came of the files that a killed mount had not stored."""

    title: str
    stored: tuple[str, ...] = ()
    unstored: tuple[Unstored, ...] = ()
    unclosed: tuple[Path, ...] = ()
    """Drafts that nobody closed: they stay for a week."""
    reason: str = ""
    """Why nothing of it could be tried."""


def store_left() -> list[StoredLate]:
    """Store what killed mounts of this machine left unstored, and tell of each what came of it.

    A file is stored on the condition of its writer: over the version that was opened, or only where
    nothing is.
    """
    sender, told = Sender(), list[StoredLate]()
    try:
        with left(mount_drafts_root()) as found:
            told += [_store_one(one, sender) for one in found]
    finally:
        sender.close()
    return told


def _store_one(one: Left, sender: Sender) -> StoredLate:
    unclosed = tuple(one.unclosed)
    try:
        datastore = Datastore.get(one.title.partition(":")[0])
        with datastore.open_store() as store:
            if store.url != one.url:
                raise ConfigurationError(f"The datastore of that name is {store.url} now.")
            stored, unstored = one.finish(store, sender.send)
            return StoredLate(one.title, tuple(stored), tuple(unstored), unclosed)
    except DatastoreError as error:
        return StoredLate(one.title, unclosed=(*unclosed, *one.drafts()), reason=str(error))


def _lead(link: Path, place: Path) -> None:
    """Have a link lead to a place; one that a killed run left there gives way.

    Raises:
        PlaceTaken: something else is there, or the mount of a run that goes on.
    """
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(place)
    except FileExistsError:
        there = link.readlink() if link.is_symlink() else None
        if there is None or not (there == place or lease.is_over(mounts_root(), there)):
            what = f"a link to {there}" if there else "something"
            raise PlaceTaken(
                f"{link} is to be a link to what is mounted, and {what} is there already. Remove it, or name another "
                "path_on_compute."
            ) from None
        link.unlink(missing_ok=True)
        link.symlink_to(place)


@dataclass
class _Held:
    """One mount of a scope."""

    reference: DataReference
    mount: Mount | None
    """None where it is a link alone."""
    link: Path | None


class Mounts:
    """The mounts of one scope, which its owner ends; used by many threads."""

    def __init__(self) -> None:
        """Mount nothing yet."""
        self._lock, self._held = threading.Lock(), list[_Held]()
        self._over = threading.Event()
        self._renewing: threading.Thread | None = None

    def add(self, reference: DataReference, link: Path | None, stop: Cancellation) -> Path:
        """Mount a reference and return its path; with `link`, a link there leads to it, or to the one file in it.

        Where nothing can be mounted, one that may be read directly is given where it lies.

        Raises:
            DatastoreError: as `mounted` says, and `place_of`.
        """
        if reference.fallback == "direct" and why_not_mounted() is not None:
            return self._linked(reference, link)
        made = mounted(reference, stop)
        try:
            if link is not None:
                # A file stands in a folder of its own, under its own name, as one that is downloaded.
                link = link / made.name if made.name else link
                _lead(link, made.path)
        except BaseException:
            made.unmount(0.0)
            raise
        with self._lock:
            self._held.append(_Held(reference, made, link))
            if self._renewing is None:
                self._renewing = threading.Thread(
                    target=self._renew, name="pds-mounts-renew", daemon=True
                )
                self._renewing.start()
        return link or made.path

    def _linked(self, reference: DataReference, link: Path | None) -> Path:
        place = place_of(reference)
        if place is None:
            if link is None:
                raise ObjectNotFound(f"There is nothing at {reference.uri!r}.")
            link.mkdir(parents=True)
            return link
        run_log().warning(
            "%s cannot be mounted here, and is read where it lies, at %s: what is there now is seen, and what is "
            "written there is written to the datastore.",
            *(reference.uri, place),
        )
        if link is None:
            return place
        link = link / place.name if place.is_file() else link
        _lead(link, place)
        with self._lock:
            self._held.append(_Held(reference, None, link))
        return link

    def close(self) -> None:
        """Unmount all, and say what was read.

        Raises:
            MountError: one was gone before its time, or what was written to it could not be stored;
                the others are unmounted all the same.
        """
        self._over.set()
        if self._renewing is not None:
            self._renewing.join()
        with self._lock:
            held, self._held = self._held, []
        fault: DatastoreError | None = None
        for one in reversed(held):
            try:
                if one.mount is not None:
                    numbers = one.mount.unmount(tell=partial(_tell_storing, one.reference))
                    _tell(one.reference, numbers)
            except DatastoreError as error:
                fault = fault or error
            if one.link is not None:
                with contextlib.suppress(OSError):
                    one.link.unlink()
        if fault is not None:
            raise fault

    def _renew(self) -> None:
        """Hand on a credential that somebody registered anew, so that a mount of days outlives the one before."""
        known = {id(one): _block_of(one.reference) for one in self._held}
        while not self._over.wait(_RENEW_SECONDS):
            with self._lock:
                held = list(self._held)
            for one in held:
                if one.mount is None:
                    continue
                with contextlib.suppress(Exception):  # a server that is away now says it later
                    now = Datastore.get(one.reference.datastore)
                    before = known.get(id(one))
                    known[id(one)] = now
                    if before is not None and now != before:
                        one.mount.renew(now.store_maker())


def _block_of(reference: DataReference) -> FileDatastore | None:
    return None if reference._unregistered is not None else resolve(reference)  # noqa: SLF001 - one thing


_scopes: dict[str, Mounts] = {}


@contextlib.contextmanager
def mounts_of(scope: str) -> Iterator[Mounts]:
    """Own what is mounted in a scope: it is gone when the block ends, however that is.

    The fault of a mount is raised unless the block fails already.
    """
    made = _scopes[scope] = Mounts()
    try:
        yield made
    except BaseException:
        _scopes.pop(scope, None)
        _close_quietly(made)
        raise
    _scopes.pop(scope, None)
    made.close()


def _close_quietly(made: Mounts) -> None:
    try:
        made.close()
    except DatastoreError as fault:
        run_log().error("A mount failed as well: %s", fault)


def in_scope(scope: str | None) -> Mounts:
    """Return the mounts of a scope.

    Raises:
        MountError: nobody here owns such a scope, so that nobody would unmount.
    """
    found = _scopes.get(scope or "")
    if found is None:
        raise MountError(
            "Nobody would end this mount: use `with stage(data=reference.as_mount())`, or an Estimator."
        )
    return found


def _tell_storing(reference: DataReference, files: int, size: int) -> None:
    run_log().info(
        "%s: %s (%s) still to be stored.", reference.uri, plural(files, "file"), human_bytes(size)
    )


def _tell(reference: DataReference, numbers: dict[str, int]) -> None:
    run_log().info("%s: %s", reference.uri, summary(numbers))
    if not (TaskRunContext.get() or FlowRunContext.get()):
        return
    make: Callable[..., Any] = create_markdown_artifact
    try:
        make(markdown=scrub(f"Mounted `{reference.uri}`\n\n{table(numbers)}"), _sync=True)
    except Exception as error:  # noqa: BLE001 - whatever the server's trouble is
        run_log().debug("The numbers of a mount could not be shown: %s", error)
