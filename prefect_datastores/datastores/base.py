"""What every file-holding datastore is: a Prefect block that stages data by the engine."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, get_args

from prefect.filesystems import WritableDeploymentStorage, WritableFileSystem
from pydantic import ConfigDict

from prefect_datastores.circles import rarely_looked_for
from prefect_datastores.datastores.check import Check, check_store
from prefect_datastores.datastores.dispatch import either_way
from prefect_datastores.display import display_for, retry_teller
from prefect_datastores.errors import ConfigurationError, MountUnavailable, ObjectNotFound
from prefect_datastores.names import (
    ObjectName,
    datastore_name,
    folder_prefix,
    globs,
    normal_path,
)
from prefect_datastores.references import (
    Consistency,
    DataReference,
    Fallback,
    Publish,
    When,
    checked_reference,
)
from prefect_datastores.settings import cache_limits, journals_root, rates
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.keeping import Keep
from prefect_datastores.staging.plan import overwrite_rule
from prefect_datastores.staging.progress import Progress, Silent
from prefect_datastores.staging.publish import publish as publish_folder
from prefect_datastores.staging.published import at, inside, objects
from prefect_datastores.staging.report import TransferReport
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import Source, files_source, folder_source
from prefect_datastores.stores.base import ObjectInfo, ObjectStore, Writing, part_size
from prefect_datastores.stores.limit import Rates, allowance_of
from prefect_datastores.stores.retry import RetryPolicy, patient
from prefect_datastores.stores.sas import Need


class FileDatastore(WritableFileSystem, WritableDeploymentStorage, ABC):
    """A named connection to a place that holds files; data goes in and out whole and verified.

    Works wherever Prefect takes a storage block: `result_storage=`, `flow.from_source(...)`.
    """

    # ABC among the bases keeps this class out of Prefect's catalog of blocks.
    # An error of pydantic shows what it was given, a secret too.
    model_config = ConfigDict(hide_input_in_errors=True)
    datastore_type: ClassVar[str] = ""

    @abstractmethod
    def _connect(self) -> ObjectStore:
        """Return the store, as it is, without retry."""

    def store_maker(self) -> Callable[[], ObjectStore]:
        """Return what makes the store in another process: it can be pickled, and a secret is in it.

        Raises:
            MountUnavailable: this kind of datastore can be opened in its own process alone.
        """
        raise MountUnavailable(f"{self.url} cannot be mounted: another process cannot open it.")

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the datastore is; never with a secret."""

    @property
    def local_root(self) -> Path | None:
        """The folder of this machine that the datastore is; None where it is none."""
        return None

    @property
    def sign_in(self) -> str:
        """How the datastore signs in, in a word."""
        return "none"

    @property
    def name(self) -> str:
        """The datastore's name; of one that is not registered, a name made from its place."""
        if self._block_document_name:
            return datastore_name(self._block_document_name)
        return "unregistered_" + hashlib.sha256(self.url.encode()).hexdigest()[:8]

    def check_credential(self, need: Need = "", *, seconds: float = 0.0) -> None:
        """Return unless the credential says of itself that it cannot do what is needed; nobody is asked.

        One that ends within `seconds`, or soon, is a warning: nobody knows how long a stage takes.

        Raises:
            CredentialExpired: its time is over, or has not begun.
            AccessDenied: it lacks a right.
        """

    @property
    def credential_says(self) -> str:
        """What the credential says of itself, for people; never a secret."""
        return ""

    @contextmanager
    def open_store(
        self,
        cancellation: Cancellation | None = None,
        progress: Progress | None = None,
        *,
        need: Need = "",
    ) -> Iterator[ObjectStore]:
        """Open the store, with retry, backpressure and the limits of the settings, for a while.

        A credential that cannot do what is needed, as it says itself, is refused here: all that moves
        bytes comes by.

        A cancellation breaks the requests under way and ends the pauses between tries, so that
        nothing of a transfer waits for the service any more. `progress` is told of retries.
        """
        self.check_credential(need)
        stop, wanted = cancellation or Cancellation(), rates()
        store = patient(
            self._connect(),
            RetryPolicy(sleep=stop.pause),
            allowance=None if wanted == Rates() else allowance_of(wanted),
            tell=retry_teller(progress or Silent()),
        )
        with closing(store), stop.calling(store.interrupt):
            yield store

    # -- for other libraries --------------------------------------------------------------------

    @abstractmethod
    def filesystem(self, **options: Any) -> Any:
        """Return a file system of fsspec in which the datastore is, for pandas, dask and the like.

        It signs in as the datastore does, and reads and writes directly: nothing is staged, and the
        promises are its own. `filesystem_path` says where something of the datastore is in it. What
        was published at once is seen as it is stored. As with any file system of fsspec, its
        pickles hold the credential. `options` go to the file system as they are.

        Raises:
            ConfigurationError: a package is missing, or the way to sign in cannot be used.
        """

    @abstractmethod
    def filesystem_path(self, path: str | None = None) -> str:
        """Return where a place of the datastore is in its `filesystem`.

        Raises:
            UnsafeName: the path has a `..`.
        """

    # -- references ---------------------------------------------------------------------------

    def path(
        self, path: str | None = None, data_reference_name: str | None = None
    ) -> DataReference:
        """Return a reference to a file or folder; `./bar`, `/bar` and `bar` are the same place.

        Raises:
            UnsafeName: the path has a `..`.
            ConfigurationError: the name cannot be part of a variable.
        """
        reference = checked_reference(
            {
                "datastore": self.name,
                "path_on_datastore": path or "",
                "data_reference_name": data_reference_name or "",
            }
        )
        if self._block_document_name is None:
            reference._unregistered = self  # noqa: SLF001 - the block and its values are one thing
        return reference

    def as_mount(
        self,
        *,
        fallback: Fallback | None = None,
        consistency: Consistency = "pinned",
        read_only: bool = True,
    ) -> DataReference:
        """Return a reference to all of the datastore, mounted while the script runs."""
        return self.path().as_mount(fallback=fallback, consistency=consistency, read_only=read_only)

    def as_download(
        self,
        path_on_compute: str | None = None,
        overwrite: bool | str = "if_changed",
        **options: Any,
    ) -> DataReference:
        """Return a reference to all of the datastore, downloaded before the script runs."""
        return self.path().as_download(path_on_compute, overwrite, **options)

    def as_upload(
        self,
        path_on_compute: str | None = None,
        overwrite: bool | str = "if_changed",
        *,
        when: When = "success",
        publish: Publish = "each",
        **options: Any,
    ) -> DataReference:
        """Return a reference to the datastore's root, uploaded to after the script ran."""
        return self.path().as_upload(
            path_on_compute, overwrite, when=when, publish=publish, **options
        )

    # -- transfers ----------------------------------------------------------------------------

    def upload(
        self,
        src_dir: str | Path,
        target_path: str | None = None,
        overwrite: bool | str = False,
        show_progress: bool = True,
        *,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        allow_empty: bool = False,
        publish: Publish = "each",
        keep_times: bool = False,
        keep_properties: bool = False,
    ) -> TransferReport:
        """Store every file of a folder, hidden ones too; each appears whole or not at all.

        Args:
            src_dir: the folder.
            target_path: the place in the datastore; None for the root.
            overwrite: "fail", "skip", "replace", "if_changed"; True is replace, False is skip.
            show_progress: show a bar in a terminal, or a progress artifact in a Prefect run.
            include: globs of names to take; none takes all.
            exclude: globs of names to leave out.
            allow_empty: accept that there is nothing to upload.
            publish: "each" file is seen when it is stored, or "atomic": the folder has all of the new
                content at once and nothing else, or what it had.
            keep_times: give objects the times at which their files were last changed; of file shares
                and local folders.
            keep_properties: give objects the attributes and access control that a download kept with
                their files; where there are none, those of the objects that they replace. Of file
                shares, and of data lakes with a hierarchical namespace.

        Raises:
            ObjectNotFound: there is nothing to upload.
            StageFailed: a file failed; the report in it has a row for each.
            ConfigurationError: `src_dir` is no folder, or the service does not have what is to be kept.
            UnsafeName, NameCollision: names that the service cannot hold; nothing was moved.
            ObjectExists: `overwrite="fail"` and something is there; nothing was moved. Or another
                atomic publish came first.
        """
        source = folder_source(Path(src_dir), globs(include), globs(exclude))
        if not source.files and not allow_empty:
            chosen = " that the globs choose" if globs(include) or globs(exclude) else ""
            raise ObjectNotFound(
                f"Nothing to upload: {src_dir} has no files{chosen}. Say allow_empty=True if that is fine."
            )
        keep = Keep(times=keep_times, properties=keep_properties)
        return self._upload(source, target_path, overwrite, show_progress, publish, keep)

    def upload_files(
        self,
        files: Iterable[str | Path],
        relative_root: str | Path | None = None,
        target_path: str | None = None,
        overwrite: bool | str = False,
        show_progress: bool = True,
        *,
        keep_times: bool = False,
        keep_properties: bool = False,
    ) -> TransferReport:
        """Store single files, named relative to `relative_root` or to their common folder.

        `keep_times` and `keep_properties` are as for `upload`.

        Raises:
            ConfigurationError: a file is missing or lies outside of `relative_root`, or the service does
                not have what is to be kept.
            StageFailed, UnsafeName, NameCollision, ObjectExists: as for `upload`.
        """
        source = files_source(files, relative_root)
        keep = Keep(times=keep_times, properties=keep_properties)
        return self._upload(source, target_path, overwrite, show_progress, "each", keep)

    def _upload(
        self,
        source: Source,
        target: str | None,
        overwrite: bool | str,
        show: bool,
        publish: Publish,
        keep: Keep,
    ) -> TransferReport:
        rule = overwrite_rule(overwrite)
        if publish not in get_args(Publish):
            raise ConfigurationError(f"publish={publish!r} is refused: use 'each' or 'atomic'.")
        stop, progress = Cancellation(), display_for(show)
        with self.open_store(stop, progress, need="write") as store:
            if publish == "atomic":
                return publish_folder(
                    store,
                    source,
                    target or "",
                    rule,
                    cancellation=stop,
                    progress=progress,
                    reopen=self.open_store,
                    keep=keep,
                )
            return upload(
                store,
                source,
                target or "",
                rule,
                cancellation=stop,
                progress=progress,
                journals=journals_root(),
                keep=keep,
            )

    def download(
        self,
        target_path: str | Path,
        prefix: str | None = None,
        overwrite: bool | str = False,
        show_progress: bool = True,
        *,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        allow_empty: bool = False,
        cache: bool = True,
        keep_times: bool = False,
        keep_properties: bool = False,
        require_digest: bool = False,
    ) -> TransferReport:
        """Fetch a file or a folder below `target_path`, each file whole and of one version.

        Files keep their whole names, as in Azure ML: `prefix="foo"` gives `target_path/foo/...`.

        Args:
            target_path: the local folder; it is made when it is missing.
            prefix: the file or folder in the datastore; `foo` never matches `foobar`.
            overwrite: "fail", "skip", "replace", "if_changed"; True is replace, False is skip.
            show_progress: show a bar in a terminal, or a progress artifact in a Prefect run.
            include: globs of names to take; none takes all.
            exclude: globs of names to leave out.
            allow_empty: accept that nothing matches.
            cache: take what this machine has of an earlier download, and keep this one for later.
            keep_times: give files the times at which their objects were last changed.
            keep_properties: keep attributes and access control of each object with its file, for an upload
                that is to give them to an object again. Of file shares, and of data lakes with a
                hierarchical namespace; the disk needs extended attributes.
            require_digest: fail what the service holds no MD5 of, instead of checking its length alone.

        Raises:
            ObjectNotFound: nothing matches.
            StageFailed: a file failed; the report in it has a row for each.
            UnsafeName, NameCollision: names that cannot be files here; nothing was moved.
            ObjectExists: `overwrite="fail"` and something is there; nothing was moved.
            ConfigurationError: the service or the disk does not have what is to be kept.
        """
        request = DownloadRequest(
            path=prefix or "",
            include=globs(include),
            exclude=globs(exclude),
            overwrite=overwrite_rule(overwrite),
            allow_empty=allow_empty,
            whole_names=True,
            keep_times=keep_times,
            keep_properties=keep_properties,
            require_digest=require_digest,
        )
        stop, progress = Cancellation(), display_for(show_progress)
        with self.open_store(stop, progress, need="read") as store:
            return download(
                store,
                Path(target_path),
                request,
                cancellation=stop,
                progress=progress,
                cache=cache_limits(wanted=cache),
            )

    @rarely_looked_for()
    def list_objects(
        self, path: str | None = None, *, limit: int | None = None
    ) -> list[ObjectInfo]:
        """Return what is at a path and below it, in name order; a published folder's under the names it shows."""
        place = normal_path(path)
        with self.open_store() as store:
            found = list(islice(objects(store, folder_prefix(place), page_size=limit), limit))
            if not found and place:
                found = list(islice(at(store, place)[1], limit))
                if not found:
                    raise ObjectNotFound(f"There is nothing at {place!r} in {store.url}.")
        return found

    def check(self, *, write: bool = True) -> list[Check]:
        """Try to sign in, list, read and write, and return what worked and how long it took."""
        return check_store(self._connect(), write=write, says=self.credential_says)

    # -- what Prefect asks of a storage block ---------------------------------------------------

    @either_way
    def read_path(self, path: str) -> bytes:  # type: ignore[override]
        """Return the content of one object.

        Raises:
            ObjectNotFound: it does not exist.
        """
        name = ObjectName(normal_path(path))
        with self.open_store(need="read") as store:
            info = _info(store, name)
            content = bytearray(info.size)
            step = part_size(store.capabilities, info.size)
            for offset in range(0, info.size, step):
                store.read_into(
                    ObjectName(info.asked),
                    offset,
                    memoryview(content)[offset : offset + step],
                    pin=info.etag,
                )
        return bytes(content)

    @either_way
    def write_path(self, path: str, content: bytes) -> None:  # type: ignore[override]
        """Store one object, in place of any that was there."""
        with self.open_store(need="write") as store:
            writing = store.begin_write(ObjectName(normal_path(path)), len(content))
            _write_all(writing, content, part_size(store.capabilities, len(content)))

    @either_way
    def get_directory(self, from_path: str | None = None, local_path: str | None = None) -> None:  # type: ignore[override]
        """Fetch a folder (the root when None) into a local one (the working directory when None)."""
        request = DownloadRequest(path=from_path or "", overwrite="replace")
        stop = Cancellation()
        with self.open_store(stop, need="read") as store:
            place = Path(local_path or ".")
            download(store, place, request, cancellation=stop, cache=cache_limits())

    @either_way
    def put_directory(  # type: ignore[override]
        self,
        local_path: str | None = None,
        to_path: str | None = None,
        ignore_file: str | None = None,
    ) -> int:
        """Store a local folder, without what the ignore file names; return the count of files."""
        source = folder_source(Path(local_path or "."))
        if ignore_file:
            from prefect.utilities.filesystem import filter_files  # noqa: PLC0415

            patterns = Path(ignore_file).read_text(encoding="utf-8").splitlines()
            kept = filter_files(str(source.root), ignore_patterns=patterns, include_dirs=False)
            source.keep(lambda file: str(file.relative) in kept)
        stop = Cancellation()
        with self.open_store(stop, need="write") as store:
            return upload(store, source, to_path or "", "replace", cancellation=stop).count

    def exists(self, path: str) -> bool:
        """Tell whether an object is there; anything but a clear no of the service is an error."""
        with self.open_store() as store:
            try:
                _info(store, ObjectName(normal_path(path)))
            except ObjectNotFound:
                return False
        return True


def _info(store: ObjectStore, name: ObjectName) -> ObjectInfo:
    """Return what is known of an object, or of that which a published folder shows under the name."""
    try:
        return store.head(name)
    except ObjectNotFound:
        shown = inside(store, name)
        if shown is None:
            raise
        return shown


def _write_all(writing: Writing, content: bytes, step: int) -> None:
    view = memoryview(content)
    try:
        for index, offset in enumerate(range(0, len(content), step)):
            writing.write_part(index, offset, view[offset : offset + step])
        writing.commit(hashlib.md5(content, usedforsecurity=False).digest())
    except BaseException:
        writing.abort()
        raise
