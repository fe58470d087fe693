"""Checkpoints: states of a local folder, kept at a place as generations, each whole or not there at all.

A generation is a list of files and where below the place their contents are (`generations.py`), so that what did
not change is named again and not sent again. It is shown by one conditional write of the folder's
pointer, over the generation that this run knows: two runs on one place never mix theirs.

What is removed lay there, and was no part of what is shown, before that write: whoever stores something
on the ground of an older generation cannot show it any more.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefect_datastores.errors import (
    ConfigurationError,
    DatastoreError,
    IntegrityError,
    ObjectNotFound,
    SourceChanged,
    StageFailed,
)
from prefect_datastores.names import ObjectName, folder_prefix, join, normal_path
from prefect_datastores.staging.aside import (
    Staging,
    delete_all,
    new_ledger,
    remove,
    write_object,
)
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.claim import Claim
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.generations import (
    DATA,
    LONGEST_HOLDER,
    Holder,
    Listed,
    Pointer,
    list_of,
    list_to_bytes,
    new_generation,
)
from prefect_datastores.staging.observed import Observed, Seen, SeenFile, Stamp, different
from prefect_datastores.staging.plan import check_names
from prefect_datastores.staging.progress import Progress, Silent
from prefect_datastores.staging.publish import may_hold
from prefect_datastores.staging.published import Standing, files_of, listed
from prefect_datastores.staging.report import ObjectRow, TransferReport
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import Source
from prefect_datastores.stores.base import ObjectInfo, ObjectStore
from prefect_datastores.stores.listed import list_objects

_log = logging.getLogger("prefect_datastores.staging")

Resume = Literal["unfinished", "always"]

TEMPORARY = ("*.tmp", ".~*")
"""What writers call a file or folder that is not done; no part of any generation."""

_QUIET_SECONDS = 1.0
_TURNS = 4  # times that a folder may change while it is stored
_LAST_TURNS = 10
_NEWER = 5  # generations that may come while one is brought
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class _Content:
    """Content that the place has, `at` a name below `.pds-data/`; `etag` where its version is known."""

    at: str
    size: int
    md5: bytes
    etag: str = ""


@dataclass(frozen=True)
class Restored:
    """What a run begins with: a `generation` and the report of its download, or an empty folder and why."""

    generation: str = ""
    report: TransferReport | None = None
    reason: str = ""
    set_aside: Path | None = None
    """Where that is which lay in the folder before, and was something else."""


def may_checkpoint(store: ObjectStore, place: str) -> Standing | None:
    """Return the pointer that stands at a place, or None, where checkpoints may be made there.

    Raises:
        ConfigurationError: objects lie in it singly, or it, or a folder above it, was published at once.
        PlaceTaken: an object stands there.
    """
    standing = may_hold(store, place)
    if standing is not None and standing.pointer.holder is None:
        raise ConfigurationError(
            f"Nothing was moved: {store.url}/{place} was published at once, and is no place for checkpoints. "
            "Name another folder."
        )
    return standing


class Checkpoint:
    """A local folder and the place of its generations; used by one thread at a time."""

    def __init__(
        self,
        place: str,
        folder: Path,
        holder: Holder,
        *,
        exclude: Iterable[str] = (),
        resume: Resume = "unfinished",
        quiet: float = _QUIET_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Ask for nothing yet.

        Args:
            place: the folder in the store.
            folder: the folder here.
            holder: who makes the generations.
            exclude: globs of names that are no part of them, beside `TEMPORARY`.
            resume: "unfinished" begins with a generation unless its script came to a good end, "always"
                with any.
            quiet: how long nothing may have changed in the folder before it is stored, in seconds.
            clock: tells the time since the epoch.
        """
        # Beyond that a name is cut off where it is stored, and would be another one.
        self._holder = Holder(holder.name[:LONGEST_HOLDER], holder.run, holder.attempt)
        self._place, self._folder = normal_path(place), folder
        self._observed = Observed(folder, (*TEMPORARY, *exclude), quiet, clock)
        self._resume, self._clock = resume, clock
        self._data = f"{folder_prefix(self._place)}{DATA}/"
        self._claim = Claim(self._place)
        self._files: list[Listed] = []  # of the generation that is shown
        self._known: dict[str, tuple[Stamp, _Content]] = {}
        self._contents: dict[
            tuple[int, bytes], _Content
        ] = {}  # what the place has, as far as is known
        self._looked_at: dict[str, tuple[Stamp, _Content]] = {}
        self._began_anew = True

    @property
    def generation(self) -> str:
        """The generation that the place shows and that the folder had last; "" for none."""
        return "" if self._began_anew else self._claim.generation or ""

    # -- before the script --------------------------------------------------------------------

    def restore(
        self,
        store: ObjectStore,
        *,
        cancellation: Cancellation | None = None,
        progress: Progress | None = None,
    ) -> Restored:
        """Bring the newest whole generation into the folder, and nothing else; empty where there is none.

        Raises:
            IntegrityError: neither the newest generation nor the one before it is whole.
            StageFailed: a file could not be brought.
            DatastoreError: as `may_checkpoint` says.
        """
        stop = cancellation or Cancellation()
        for turn in range(_NEWER):
            self._claim.standing = may_checkpoint(store, self._place)
            try:
                return self._restore(store, self._claim.standing, stop, progress or Silent())
            except (IntegrityError, SourceChanged, ObjectNotFound, StageFailed):
                if stop.requested or turn == _NEWER - 1 or self._claim.is_shown(store):
                    raise
        raise AssertionError

    def _restore(
        self, store: ObjectStore, standing: Standing | None, stop: Cancellation, progress: Progress
    ) -> Restored:
        if (reason := self._reason_to_begin(standing)) is not None:
            with contextlib.suppress(ObjectNotFound, IntegrityError):
                # The next generation does not remove what the one before it is made of.
                self._files = (
                    files_of(store, self._place, standing.pointer.generation) if standing else []
                )
            aside = self._make_room(())
            return Restored(reason=reason, set_aside=aside)
        assert standing is not None
        generation, infos = self._newest_whole(store, standing.pointer)
        self._files = [
            Listed(*_names(info, self._place, self._data), info.size, info.digest or b"")
            for info in infos
        ]
        aside = self._make_room(self._files)
        request = DownloadRequest(self._place, overwrite="if_changed", allow_empty=True)
        report = download(
            store, self._folder, request, cancellation=stop, progress=progress, shown=infos
        )
        etags = {info.asked: info.etag for info in infos}
        contents = {
            file.name: _Content(file.at, file.size, file.md5, etags[self._data + file.at])
            for file in self._files
        }
        self._know(self._observed.scan(everything=True), contents)
        self._began_anew = False
        return Restored(generation, report, set_aside=aside)

    def _reason_to_begin(self, standing: Standing | None) -> str | None:
        """Say why nothing is brought; None where something is."""
        if standing is None:
            return "there is no checkpoint yet"
        pointer, by = standing.pointer, standing.pointer.holder
        assert by is not None
        if pointer.finished and self._resume != "always" and not self._holder.again(by):
            return f"{by.name} came to a good end with {pointer.generation}"
        return None

    def _newest_whole(
        self, store: ObjectStore, pointer: Pointer
    ) -> tuple[str, Sequence[ObjectInfo]]:
        try:
            return pointer.generation, listed(store, self._place, pointer.generation)
        except (IntegrityError, ObjectNotFound) as error:
            before = pointer.previous
            if before is None or not self._claim.is_shown(store):
                raise
            try:
                found = listed(store, self._place, before)
            except ObjectNotFound:
                raise error from None
            _log.warning(
                "The checkpoint %s of %s is not whole any more, and the one before it is taken: %s",
                *(pointer.generation, self._claim.url(store), error),
            )
            return before, found

    def _make_room(self, files: Iterable[Listed]) -> Path | None:
        """Have a folder in which nothing else is than files of the generation; return where the rest is then."""
        wanted = {file.name: file for file in files}
        folder, aside = self._folder, None
        if folder.exists() and not self._is_made_of(wanted):
            aside = folder.with_name(f"{folder.name}.aside-{new_generation(self._clock())}")
            folder.rename(aside)
        folder.mkdir(parents=True, exist_ok=True)
        return aside

    def _is_made_of(self, wanted: Mapping[str, Listed]) -> bool:
        """Tell whether all that is in the folder is to be there: a part of it, where bringing it was cut off."""
        if not self._folder.is_dir():
            return False
        try:
            seen, stop = self._observed.scan(everything=True), Cancellation()
            return not self._observed.ignored and all(
                name in wanted
                and wanted[name].size == file.stamp.size
                and wanted[name].md5 == self._observed.md5_of(file, stop)
                for name, file in seen.items()
            )
        except DatastoreError:  # no generation has what this is
            return False

    # -- while the script runs, and after it --------------------------------------------------

    def differs(self) -> bool:
        """Tell whether the folder is another one than the last generation; nobody is asked for anything."""
        return self._folder.is_dir() and self._differs(self._observed.scan())

    def store(
        self,
        store: ObjectStore,
        *,
        last: bool = False,
        cancellation: Cancellation | None = None,
        progress: Progress | None = None,
    ) -> TransferReport | None:
        """Make a generation of what the folder has; None where nothing changed since the last one.

        It is of one moment: what changes while it is stored is stored again. `last` says that nobody
        writes there any more.

        Raises:
            CheckpointOvertaken: another run's generation is shown now, which stays.
            SourceChanged: the folder does not hold still.
            StageFailed: a file could not be stored.
            IntegrityError: what is stored is not what was sent; it is sent anew the next time.
            DatastoreError: the service failed, or a name is refused.
        """
        stop, began = cancellation or Cancellation(), time.monotonic()
        changing = ""
        for _ in range(_LAST_TURNS if last else _TURNS):
            if (
                not self._folder.is_dir()
            ):  # renamed just now, or removed: no state that anybody would want
                return None
            seen = self._observed.scan() if last else self._observed.scan_when_quiet(stop)
            if not self._differs(seen):
                return None
            self._check(store)
            generation = new_generation(self._clock())
            contents, sent = self._stored(store, seen, generation, stop, progress or Silent())
            changing = self._compare(seen, self._observed.scan(), contents)
            if not changing and len(contents) == len(seen):
                return self._make(store, seen, generation, contents, sent, began)
            stop.pause(_PAUSE_SECONDS)
        raise self._observed.unsettled(changing)

    def finish(self, store: ObjectStore) -> None:
        """Mark what is shown as finished: a later run begins anew. Nothing to do where this run stored nothing.

        Raises:
            CheckpointOvertaken: another run's generation is shown now.
            DatastoreError: the service failed.
        """
        standing = self._claim.standing
        if standing is None or self._began_anew or standing.pointer.finished:
            return
        pointer = standing.pointer
        made = Pointer(
            pointer.generation,
            pointer.count,
            pointer.size,
            pointer.previous,
            holder=self._holder,
            finished=True,
        )
        self._point(store, made)

    # -- what is there ------------------------------------------------------------------------

    def _differs(self, seen: Seen) -> bool:
        return {name: file.stamp for name, file in seen.items()} != {
            name: stamp for name, (stamp, _) in self._known.items()
        }

    def _compare(self, seen: Seen, now: Seen, contents: Mapping[str, _Content]) -> str:
        """Return the name of a file that is not as it was; what is, need not be looked at again."""
        for name, content in contents.items():
            if name in now and now[name].stamp == seen[name].stamp:
                self._looked_at[name] = (seen[name].stamp, content)
        return different(seen, now)

    def _know(self, seen: Seen, contents: Mapping[str, _Content]) -> None:
        self._known = {name: (file.stamp, contents[name]) for name, file in seen.items()}
        self._contents = {(one.size, one.md5): one for one in contents.values()}
        self._looked_at = dict(self._known)

    # -- storing it ---------------------------------------------------------------------------

    def _check(self, store: ObjectStore) -> None:
        """Return while the place shows what this run knows; before anything is sent for nothing."""
        if (mine := self._claim.check(store)) is not None:
            # First: what the next generation removes is no part of this one.
            self._files = files_of(store, self._place, mine.pointer.generation)
            self._claim.take(mine)
            self._began_anew = False

    def _point(self, store: ObjectStore, pointer: Pointer) -> None:
        self._claim.write(store, pointer)
        self._began_anew = False

    def _stored(
        self,
        store: ObjectStore,
        seen: Seen,
        generation: str,
        stop: Cancellation,
        progress: Progress,
    ) -> tuple[dict[str, _Content], Mapping[str, ObjectRow]]:
        """Have the contents of the files at the place; return them, and the rows of what was sent.

        One that changed meanwhile is missing among them.
        """
        contents: dict[str, _Content] = {}
        source = Source(self._folder)
        for name, file in seen.items():
            try:
                held = self._held(name, file, stop)
            except FileNotFoundError:  # it is gone by now
                continue
            if held is not None:
                contents[name] = held
            else:
                source.files.append(file.source)
        sent, rows = self._send(store, source, generation, stop, progress, seen)
        return {**contents, **sent}, rows

    def _held(self, name: str, file: SeenFile, stop: Cancellation) -> _Content | None:
        """Return the content of a file, where the place has it already."""
        stamp, content = self._looked_at.get(name, (None, None))
        if content is None or stamp != file.stamp:
            if all(size != file.stamp.size for size, _ in self._contents):
                return None
            return self._contents.get((file.stamp.size, self._observed.md5_of(file, stop)))
        # What turned out to be gone at the place is not among the contents any more.
        return self._contents.get((content.size, content.md5))

    def _send(
        self,
        store: ObjectStore,
        source: Source,
        generation: str,
        stop: Cancellation,
        progress: Progress,
        seen: Seen,
    ) -> tuple[dict[str, _Content], Mapping[str, ObjectRow]]:
        if not source.files:
            return {}, {}
        place, ledger = self._data + generation, new_ledger()
        check_names(source.files, place, store.name_rules())
        staging = Staging(store, self._place, place, ledger)
        mine = Cancellation()  # an engine that fails cancels what it was given
        sent: dict[str, _Content] = {}
        rows: Sequence[ObjectRow] = ()
        try:
            with stop.calling(mine.cancel):
                rows = upload(
                    staging, source, self._place, "replace", cancellation=mine, progress=progress
                ).rows
        except StageFailed as error:
            if not self._changed_since(seen, [row.path for row in error.report.failed]):
                raise
        finally:
            for entry in ledger:
                at = entry.name[len(self._data) :]
                made = _Content(at, entry.size, entry.digest, entry.etag)
                sent[at[len(generation) + 1 :]] = self._contents[made.size, made.md5] = made
        return sent, {row.path: row for row in rows}

    def _changed_since(self, seen: Seen, names: Iterable[str]) -> bool:
        """Tell whether all of these files are others now than they were."""
        now = self._observed.scan()
        return all(name not in now or now[name].stamp != seen[name].stamp for name in names)

    def _make(
        self,
        store: ObjectStore,
        seen: Seen,
        generation: str,
        contents: Mapping[str, _Content],
        sent: Mapping[str, ObjectRow],
        began: float,
    ) -> TransferReport | None:
        """Show a generation whose contents are all there."""
        files = [
            Listed(name, contents[name].at, contents[name].size, contents[name].md5)
            for name in seen
        ]
        if not self._began_anew and _same(
            files, self._files
        ):  # they were written anew as they were
            self._know(seen, contents)
            return None
        there = {info.name: info for info in list_objects(store, self._data)}
        self._verify(store, there, contents)
        before = self._claim.generation
        name = ObjectName(join(self._place, list_of(generation)))
        write_object(store, name, list_to_bytes(generation, files))
        size = sum(file.size for file in files)
        pointer = Pointer(generation, len(files), size, before, holder=self._holder)
        self._point(store, pointer)
        wanted = {self._data + file.at for file in (*files, *self._files)}
        wanted |= {join(self._place, list_of(one)) for one in (generation, before) if one}
        self._files = files
        self._know(seen, contents)
        self._remove(store, there, wanted)
        prefix = folder_prefix(self._place)
        rows = [
            sent.get(file.name)
            or ObjectRow(f"{prefix}{file.name}", file.name, file.size, "unchanged", "md5")
            for file in files
        ]
        rows += self._observed.ignored
        seconds = time.monotonic() - began
        return TransferReport(True, str(self._folder), self._claim.url(store), rows, seconds)

    def _verify(
        self,
        store: ObjectStore,
        there: Mapping[str, ObjectInfo],
        contents: Mapping[str, _Content],
    ) -> None:
        """Return when the place has all contents, those that were stored long ago as well."""
        key, by_etag = store.name_rules().key, not store.capabilities.lists_digest
        stored = {key(name): info for name, info in there.items()}
        wrong = [
            (name, content)
            for name, content in contents.items()
            if not _is_there(stored.get(key(self._data + content.at)), content, by_etag=by_etag)
        ]
        for _, content in wrong:
            self._contents.pop((content.size, content.md5), None)
        if wrong:
            raise IntegrityError(
                f"No checkpoint was made at {self._claim.url(store)}: the content of {wrong[0][0]!r} is not there as it was "
                "sent. It is sent anew with the next one."
            )

    # -- what is not needed any more ----------------------------------------------------------

    def _remove(self, store: ObjectStore, there: Iterable[str], wanted: Collection[str]) -> None:
        """Remove what lay there before this generation was shown, and is no part of it or of the one before.

        What could not be removed is with the next one.
        """
        unwanted = [name for name in there if name not in wanted]
        try:
            if not unwanted or not self._claim.is_shown(store):
                return
            folders: set[str] = set()
            if store.capabilities.has_folders:
                needed = {self._generation_of(name) for name in wanted}
                folders = {self._generation_of(name) for name in unwanted} - needed
                for folder in folders - {""}:
                    remove(store, self._data + folder)
            delete_all(
                store,
                (
                    name
                    for name in unwanted
                    if not name.endswith("/") and self._generation_of(name) not in folders - {""}
                ),
            )
        except (DatastoreError, OSError) as error:
            _log.warning(
                "Old checkpoints of %s could not be removed: %s", self._claim.url(store), error
            )

    def _generation_of(self, name: str) -> str:
        """Return in the folder of which generation an object lies; "" for a list."""
        folder, deeper, _ = name[len(self._data) :].partition("/")
        return folder if deeper else ""


def _names(info: ObjectInfo, place: str, data: str) -> tuple[str, str]:
    return info.name[len(folder_prefix(place)) :], info.asked[len(data) :]


def _same(one: Iterable[Listed], other: Iterable[Listed]) -> bool:
    return {(file.name, file.size, file.md5) for file in one} == {
        (file.name, file.size, file.md5) for file in other
    }


def _is_there(found: ObjectInfo | None, content: _Content, *, by_etag: bool) -> bool:
    if found is None or found.size != content.size:
        return False
    if by_etag and content.etag and found.etag != content.etag:
        return False
    return found.digest in {None, content.md5}
