"""Publish: a whole folder becomes visible in one step, or nothing of it does, and can be taken back.

A generation is stored where nobody looks, compared with what was sent, and then shown: by one
conditional write of the folder's pointer, or, where the store swaps folders, by one exchange.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import pairwise
from typing import Any

from prefect_datastores.circles import rarely_looked_for
from prefect_datastores.errors import (
    ConfigurationError,
    DatastoreError,
    EndpointUnreachable,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    ServiceBusy,
    SourceChanged,
    TransferCancelled,
)
from prefect_datastores.files import Folder
from prefect_datastores.names import ObjectName, folder_prefix, join, normal_path, parents
from prefect_datastores.staging.aside import Staging, new_ledger, remove, verify, write_pointer
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.digest import md5_of_file
from prefect_datastores.staging.engine import Lanes, Limits, run
from prefect_datastores.staging.failures import failed_row
from prefect_datastores.staging.generations import (
    DATA,
    POINTER,
    Pointer,
    Publication,
    made_at,
    new_generation,
)
from prefect_datastores.staging.keeping import NOTHING, Keep
from prefect_datastores.staging.lookup import Lookup
from prefect_datastores.staging.plan import Overwrite, Send, check_names, plan_upload
from prefect_datastores.staging.progress import Progress, Silent
from prefect_datastores.staging.published import Standing, objects, pointer_of
from prefect_datastores.staging.report import ObjectRow, TransferReport
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import Source
from prefect_datastores.stores.base import (
    ObjectInfo,
    ObjectStore,
    stored_digest,
)
from prefect_datastores.stores.listed import list_objects

_log = logging.getLogger("prefect_datastores.staging")
_KEPT_SECONDS = 24 * 3600.0  # a reader of what a generation replaced has that time to end
_TIDY_SECONDS = 2.0  # after a cancel
_DELETES = 16
# A write whose answer nobody heard: the service may do it later, and what it shows must be there then.
_MAY_STILL_HAPPEN = (ServiceBusy, EndpointUnreachable, TransferCancelled)
_DELETED_AT_ONCE = 1000

Reopen = Callable[[Cancellation], AbstractContextManager[ObjectStore]]


def may_publish(store: ObjectStore, folder: str, overwrite: Overwrite) -> Standing | None:
    """Return the pointer that stands in a folder, or None, where the folder may be published.

    Raises:
        ObjectExists: `overwrite="fail"` and something is there.
        ConfigurationError: objects lie in it singly, a folder above it was published at once, or it has
            checkpoints.
        PlaceTaken: an object stands there.
    """
    standing = may_hold(store, folder, overwrite)
    if standing is not None and standing.pointer.holder is not None:
        raise ConfigurationError(
            f"Nothing was moved: {store.url}/{folder} has checkpoints, which as_checkpoint() alone makes. Publish to "
            "another folder."
        )
    return standing


def may_hold(store: ObjectStore, folder: str, overwrite: Overwrite = "replace") -> Standing | None:
    """Return the pointer that stands in a folder, or None, where generations of either kind may be in the folder.

    Raises:
        ObjectExists, ConfigurationError, PlaceTaken: as `may_publish` says.
    """
    shown = f"{store.url}/{folder}".rstrip("/")
    if folder:
        with contextlib.suppress(ObjectNotFound):
            if not store.head(ObjectName(folder)).is_marker:
                raise PlaceTaken(f"An object stands at {shown}, where a folder is to be published.")
    for above in (*parents(folder), *([""] if folder else [])):
        if pointer_of(store, above) is not None:
            raise ConfigurationError(
                f"Nothing was moved: {shown} lies in a folder that was published at once, {above or 'the root'!r}. "
                "Publish that folder, or one beside it."
            )
    standing = pointer_of(store, folder)
    in_place = standing is not None and standing.pointer.in_place
    single = None if in_place else _single(store, folder)
    if overwrite == "fail" and (standing or single):
        raise ObjectExists(f"Nothing was moved: {shown} exists already and overwrite is 'fail'.")
    if single:
        raise ConfigurationError(
            f"Nothing was moved: {shown} holds objects that were stored singly ({single!r} is one), and readers would "
            "see them beside what is published. Move or delete them, or publish to another folder."
        )
    return standing


def _single(store: ObjectStore, folder: str) -> str | None:
    """Return the name of an object in a folder that is no part of a publish, or None."""
    prefix = folder_prefix(folder)
    marker: str | None = None
    seen: set[str | None] = {None}
    while True:
        page = store.list_page(prefix, marker=marker, recursive=False, limit=1000)
        for info in page.objects:
            if not info.is_marker and info.name != prefix + POINTER:
                return info.name
        for name in page.folders:
            if name != prefix + DATA:
                for info in list_objects(store, f"{name}/", page_size=1000):
                    if not info.is_marker:
                        return info.name
        marker = page.marker
        if marker in seen:
            return None
        seen.add(marker)


@rarely_looked_for()
def publish(
    store: ObjectStore,
    source: Source,
    target: str,
    overwrite: Overwrite,
    *,
    limits: Limits | None = None,
    cancellation: Cancellation | None = None,
    progress: Progress | None = None,
    reopen: Reopen | None = None,
    clock: Callable[[], float] = time.time,
    keep: Keep = NOTHING,
) -> TransferReport:
    """Make the files of `source` the whole content of the folder `target`, in one step.

    Where there is no file, nothing is published. The report's `publication` is what `take_back`
    takes. `reopen` opens the store once more, to tidy up after a cancel. With `keep`, objects get the
    times of their files.

    Raises:
        StageFailed: a file failed; the others were tried, and the folder is as it was.
        ObjectExists: something is there and `overwrite="fail"`, or another publish came first.
        IntegrityError: what is stored is not what was sent; the folder is as it was.
        TransferCancelled: `cancellation` was set; the folder is as it was.
        ConfigurationError: properties are to be kept, or times that the service sets itself.
        DatastoreError: as `may_publish` and `upload` say.
    """
    keep.check(store, at_once=True)
    publishing = _Publishing(
        store,
        source,
        normal_path(target),
        limits or Limits(),
        cancellation or Cancellation(),
        reopen,
        clock,
        keep,
    )
    return publishing.run(overwrite, progress or Silent())


class _Publishing:
    """One publish of one folder."""

    def __init__(
        self,
        store: ObjectStore,
        source: Source,
        folder: str,
        limits: Limits,
        cancellation: Cancellation,
        reopen: Reopen | None,
        clock: Callable[[], float],
        keep: Keep,
    ) -> None:
        self._keep = keep
        self._store, self._source, self._folder = store, source, folder
        self._limits, self._cancellation = limits, cancellation
        self._reopen, self._clock = reopen, clock
        self._began = time.monotonic()
        self._generation = new_generation(clock())

    def run(self, overwrite: Overwrite, progress: Progress) -> TransferReport:
        rules = self._store.name_rules()
        check_names(self._source.files, self._folder, rules)
        if not self._source.files:
            return self._report(())
        standing = may_publish(self._store, self._folder, overwrite)
        if standing and overwrite == "skip":
            return self._report(self._kept())
        if standing and overwrite == "if_changed" and (rows := self._same()) is not None:
            return self._report(rows)
        by_swap = self._by_swap(standing)
        place = _place(self._folder, self._generation, in_place=by_swap)
        check_names(self._source.files, place, rules)
        ledger = new_ledger()
        staging = Staging(self._store, self._folder, place, ledger)
        try:
            report = upload(
                staging,
                self._source,
                self._folder,
                "replace",
                limits=self._limits,
                cancellation=self._cancellation,
                progress=progress,
                keep=self._keep,
            )
            count, size = verify(self._store, place, ledger)
            self._cancellation.check()
        except BaseException:
            self._tidy(lambda store: remove(store, place))
            raise
        before = standing.pointer if standing else None
        pointer = Pointer(
            self._generation, count, size, before.generation if before else None, by_swap
        )
        if by_swap:
            self._swap(pointer, standing, place)
        else:
            self._point(pointer, standing, place)
        self._sweep(place, pointer)
        publication = Publication(self._folder, pointer, before)
        return dataclasses.replace(
            report, seconds=time.monotonic() - self._began, publication=publication
        )

    def _by_swap(self, standing: Standing | None) -> bool:
        """Tell whether the folder itself is exchanged; the root has no folder beside it."""
        in_place = standing is not None and standing.pointer.in_place
        if not self._folder or (standing and not in_place):
            return False
        swaps = self._store.capabilities.has_folders and self._store.swaps_folders()
        if in_place and not swaps:
            raise ConfigurationError(
                f"Nothing was moved: {self._shown()} was published on a disk that could exchange two folders, and this "
                "one cannot. Publish to another folder, or delete this one."
            )
        return swaps

    def _shown(self) -> str:
        return f"{self._store.url}/{self._folder}".rstrip("/")

    # -- what need not be published -----------------------------------------------------------

    def _report(self, rows: Sequence[ObjectRow]) -> TransferReport:
        rows = (*rows, *self._source.ignored) if self._source.ignored else rows
        seconds = time.monotonic() - self._began
        return TransferReport(True, str(self._source.root), self._shown(), rows, seconds)

    def _kept(self) -> Sequence[ObjectRow]:
        made = plan_upload(self._source.files, self._folder, "replace", lambda _: None)
        return self._rows(made.sends, lambda item, _: _row(item, "skipped"))

    def _same(self) -> Sequence[ObjectRow] | None:
        """Return rows that say so where the folder shows just these files already."""
        count, lists_digest = 0, self._store.capabilities.lists_digest

        def counted(infos: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
            nonlocal count
            for info in infos:
                count += not info.is_marker
                yield info

        try:
            listing = counted(objects(self._store, folder_prefix(self._folder)))
            with closing(Lookup(listing, self._store.name_rules())) as there:
                made = plan_upload(self._source.files, self._folder, "if_changed", there)
        except (IntegrityError, SourceChanged):  # what cannot be read whole is published anew
            return None
        sends = made.sends
        if count != len(sends) or not all(
            item.verdict == "compare"
            and item.replaces
            and (item.replaces.digest or not lists_digest)
            for item in sends
        ):
            return None
        differs = threading.Event()

        def compare(item: Send, lanes: Lanes) -> ObjectRow:
            if not differs.is_set():
                fd = folder.open_read(item.source.path)
                try:
                    digest = md5_of_file(fd, lanes.cancellation)
                finally:
                    os.close(fd)
                if item.replaces is None or digest != stored_digest(self._store, item.replaces):
                    differs.set()
            return _row(item, "unchanged")

        with Folder(self._source.root) as folder:
            rows = self._rows(sends, compare)
        return None if differs.is_set() or any(row.action == "failed" for row in rows) else rows

    def _rows(
        self, sends: Sequence[Send], work: Callable[[Send, Lanes], ObjectRow]
    ) -> Sequence[ObjectRow]:
        return run(
            sends,
            work,
            lambda item, error: failed_row(
                item.name, str(item.source.relative), item.source.size, error
            ),
            limits=self._limits,
            cancellation=self._cancellation,
            progress=Silent(),
        )

    # -- showing it ---------------------------------------------------------------------------

    def _point(self, pointer: Pointer, standing: Standing | None, place: str) -> None:
        """Write the pointer, unless another one came since `standing` was read."""
        try:
            try:
                write_pointer(self._store, self._folder, pointer, standing)
            except ObjectExists:
                # On a disk the version of a file changes when another name of it goes, and no byte does.
                now = pointer_of(self._store, self._folder)
                if now is None or standing is None or now.pointer != standing.pointer:
                    raise
                write_pointer(self._store, self._folder, pointer, now)
        except ObjectExists as error:
            self._tidy(lambda store: remove(store, place))
            raise self._overtaken() from error
        except DatastoreError as error:
            with self._open() as store:
                now = pointer_of(store, self._folder)
            if now and now.pointer == pointer:  # only the answer was lost
                return
            if not isinstance(error, _MAY_STILL_HAPPEN):
                self._tidy(lambda store: remove(store, place))
            raise

    def _swap(self, pointer: Pointer, standing: Standing | None, place: str) -> None:
        """Give the staged folder the name, and what stood there since `standing` was read the other one."""
        staged, folder = ObjectName(place), ObjectName(self._folder)
        try:
            write_pointer(self._store, place, pointer, None)
            over = _version(self._folder, standing) if standing else None
            self._store.move_folder(staged, folder, over=over)
        except (PlaceTaken, ObjectExists) as error:
            self._tidy(lambda store: _remove_own(store, place, pointer))
            raise self._overtaken() from error
        except BaseException:
            self._tidy(lambda store: _remove_own(store, place, pointer))
            raise

    def _overtaken(self) -> ObjectExists:
        return ObjectExists(
            f"Another publish of {self._shown()} came first; it was left as it is, and nothing of this one was kept. "
            "Publish again if this content is to be the one."
        )

    # -- tidying up ---------------------------------------------------------------------------

    @contextmanager
    def _open(self) -> Iterator[ObjectStore]:
        """Give the store, opened once more for a short while where a cancel has closed it."""
        if self._reopen is None or not self._cancellation.requested:
            yield self._store
            return
        bound = Cancellation()
        timer = threading.Timer(_TIDY_SECONDS, bound.cancel)
        timer.daemon = True
        timer.start()
        try:
            with self._reopen(bound) as store:
                yield store
        finally:
            timer.cancel()

    def _tidy(self, work: Callable[[ObjectStore], None]) -> None:
        try:
            with self._open() as store:
                work(store)
        except (DatastoreError, OSError) as error:
            _log.warning(
                "What was not published to %s could not be removed; a publish after a day will do that: %s",
                self._shown(),
                error,
            )

    def _sweep(self, place: str, pointer: Pointer) -> None:
        """Remove the generations that nobody reads any more."""
        keep = {pointer.generation, pointer.previous}
        try:
            for name in _outlived(self._store, place.rpartition("/")[0], keep, self._clock()):
                self._cancellation.check()
                remove(self._store, name)
        except (DatastoreError, OSError) as error:
            _log.warning("Old generations of %s could not be removed: %s", self._shown(), error)


def _outlived(
    store: ObjectStore, data: str, keep: set[str | None], now: float
) -> Iterator[ObjectName]:
    """Give the generations in `data` whose end, and that of whoever could use them, is a day ago.

    One that was shown was so until the next one was made, at the least.
    """
    names = sorted(
        name.rpartition("/")[2]
        for name in store.list_page(f"{data}/", recursive=False, limit=1000).folders
    )
    times = [*map(made_at, names), None]
    for name, (made, following) in zip(names, pairwise(times), strict=True):
        if name in keep or made is None or max(made, following or made) > now - _KEPT_SECONDS:
            continue
        folder = ObjectName(join(data, name))
        touched = (info.modified or 0.0 for info in list_objects(store, f"{folder}/"))
        if max(touched, default=0.0) <= now - _KEPT_SECONDS:
            yield folder


def _place(folder: str, generation: str, *, in_place: bool) -> str:
    """Return where a generation is stored: in the folder, or beside it where it will be the folder."""
    return join(folder.rpartition("/")[0] if in_place else folder, DATA, generation)


def _row(item: Send, action: Any) -> ObjectRow:
    relative, verified = str(item.source.relative), "md5" if action == "unchanged" else ""
    return ObjectRow(item.name, relative, item.source.size, action, verified)  # type: ignore[arg-type]


def _version(folder: str, standing: Standing) -> tuple[ObjectName, str]:
    return ObjectName(join(folder, POINTER)), standing.etag


def _remove_own(store: ObjectStore, place: str, pointer: Pointer) -> None:
    """Remove a generation where it is stored, unless by now it is another one that stands there."""
    there = pointer_of(store, place)
    if there is None or there.pointer == pointer:
        remove(store, place)


# -- taking it back -------------------------------------------------------------------------------


def take_back(store: ObjectStore, publication: Publication) -> bool:
    """Have a folder show what it showed before a publish; tell whether it did show that publish still.

    What another publish showed since then stays.

    Raises:
        IntegrityError: what it showed before is gone; the folder is as it was.
        DatastoreError: the service failed.
    """
    folder, pointer = publication.folder, publication.pointer
    now = pointer_of(store, folder)
    if now is None or now.pointer != pointer:
        return False
    place = _place(folder, pointer.generation, in_place=pointer.in_place)
    if pointer.in_place:
        taken = _swap_back(store, publication, now, place)
    else:
        taken = _point_back(store, publication, now)
    if not taken:
        return False
    _remove_own(store, place, pointer)
    return True


def _point_back(store: ObjectStore, publication: Publication, now: Standing) -> bool:
    before = publication.before
    if before and before.count:
        there = f"{_place(publication.folder, before.generation, in_place=False)}/"
        if all(info.is_marker for info in list_objects(store, there, page_size=100)):
            raise _gone(store, publication)
    try:
        if before is None:
            store.delete(ObjectName(join(publication.folder, POINTER)), pin=now.etag)
        else:
            write_pointer(store, publication.folder, before, now)
    except (ObjectExists, ObjectNotFound, SourceChanged):
        return False
    return True


def _swap_back(store: ObjectStore, publication: Publication, now: Standing, place: str) -> bool:
    here, beside = ObjectName(publication.folder), ObjectName(place)
    if publication.before is None:
        store.move_folder(here, beside)
        out = pointer_of(store, place)
        if out is None or out.pointer != publication.pointer:
            store.move_folder(beside, here)  # another publish came between; it is put back
            return False
        return True
    old = pointer_of(store, place)
    if old is None or old.pointer != publication.before:
        raise _gone(store, publication)
    try:
        store.move_folder(beside, here, over=_version(here, now))
    except ObjectExists:
        return False
    return True


def _gone(store: ObjectStore, publication: Publication) -> IntegrityError:
    return IntegrityError(
        f"{store.url}/{publication.folder} cannot show again what it showed before {publication.pointer.generation}: "
        "that is gone. Publish it again."
    )
