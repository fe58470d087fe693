"""Snapshots in a datastore: each is one object there, named by its digest and stored once."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.deployments.archives import Snapshot, unpack
from prefect_datastores.deployments.sources import take_snapshot
from prefect_datastores.disk import local_error
from prefect_datastores.errors import ConfigurationError, ObjectNotFound
from prefect_datastores.names import ObjectName, join, normal_path
from prefect_datastores.references import DataReference
from prefect_datastores.settings import scratch_root, snapshot_limits
from prefect_datastores.stores.base import ObjectInfo, ObjectStore, part_size, stored_digest
from prefect_datastores.transfers import fetch

SNAPSHOTS = "azureml-snapshots"
"""The folder of a datastore in which the sources are."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def push(
    datastore: FileDatastore,
    directory: Path,
    *,
    at_the_top: Iterable[str] = (),
    needs: str = "",
) -> Snapshot:
    """Store the source of a directory in a datastore, unless it is there, and return what it is.

    It is seen whole or not at all, by whoever else stores or fetches the same. `at_the_top` are names
    at the root that are no source, and `needs` is a file that must be.

    Raises:
        SnapshotTooLarge: the source has more than the settings allow.
        ConfigurationError: the directory is missing, empty, or has something that is no source, or what
            is needed is left out.
        DatastoreError: the datastore does not take it.
    """
    with _aside() as aside:
        snapshot, archive = archived(directory, aside, at_the_top=at_the_top, needs=needs)
        _store(datastore, archive)
    return snapshot


def archived(
    directory: Path, aside: Path, *, at_the_top: Iterable[str] = (), needs: str = ""
) -> tuple[Snapshot, Path]:
    """Write the source of a directory into the folder `aside`, as the file that a datastore gets.

    Raises:
        DatastoreError: as `push` says of the directory.
    """
    archive = aside / "snapshot.zip"
    snapshot = take_snapshot(
        directory,
        archive,
        snapshot_limits(),
        at_the_top=at_the_top,
        needs=needs,
        leave_out=scratch_root(),
    )
    return snapshot, archive.rename(archive.with_name(_name(snapshot.digest)))


def pull(datastore: FileDatastore, digest: str, folder: Path) -> Snapshot:
    """Give `folder`, which is new, the content of a snapshot, compared with its digest.

    Raises:
        ObjectNotFound: the datastore does not have it.
        IntegrityError: it is damaged, or something else; nothing of it is left.
        DatastoreError: it cannot be fetched, or not be written.
    """
    with _aside() as aside:
        try:
            archive, _ = fetch(reference_to(datastore, digest), aside)
        except ObjectNotFound as error:
            raise missing(datastore, digest) from error
        return unpack(archive, digest, folder)


def fetch_folder(datastore: FileDatastore, path: str, folder: Path) -> None:
    """Give a local folder what a folder of a datastore holds now.

    Raises:
        ObjectNotFound: nothing is there.
        DatastoreError: it cannot be fetched whole.
    """
    place = normal_path(path)
    fetch(datastore.path(place).as_download(overwrite="replace"), folder)


def reference_to(datastore: FileDatastore, digest: str) -> DataReference:
    """Return a reference to the object that a snapshot is.

    Raises:
        ConfigurationError: the digest is none.
    """
    if not _DIGEST.fullmatch(digest):
        raise ConfigurationError(
            f"{digest!r} is no snapshot: it is named by the 64 hexadecimal digits of its digest."
        )
    return datastore.path(join(SNAPSHOTS, _name(digest)), "source").as_download()


def missing(datastore: FileDatastore, digest: str) -> ObjectNotFound:
    """Return the error for a snapshot that is not there."""
    return ObjectNotFound(
        f"The snapshot {digest[:12]} of the source is not in {datastore.url} (as {SNAPSHOTS}/{_name(digest)}). "
        "Deploy again, which stores it."
    )


@contextmanager
def _aside() -> Iterator[Path]:
    """Give a folder of the scratch space for an archive."""
    root = scratch_root() / "snapshots"
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = tempfile.TemporaryDirectory(dir=root)
    except OSError as error:
        raise local_error(error, root) from error
    with made as name:
        yield Path(name)


def _name(digest: str) -> str:
    return f"{digest}.zip"


def _store(datastore: FileDatastore, archive: Path) -> None:
    name = ObjectName(join(SNAPSHOTS, archive.name))
    with datastore.open_store(need="write") as store:
        try:
            stored = store.head(name)
        except ObjectNotFound:
            rule = "skip"  # for who comes first: what others store meanwhile is the same
        else:
            if _is_same(store, stored, archive):
                return
            rule = "replace"  # damaged, or not a snapshot
    datastore.upload_files([archive], archive.parent, SNAPSHOTS, rule, show_progress=False)


def _is_same(store: ObjectStore, stored: ObjectInfo, archive: Path) -> bool:
    """Compare by the digest that the service holds; where it holds none, by what it has."""
    if stored.size != archive.stat().st_size:
        return False
    held = stored_digest(store, stored)
    with archive.open("rb") as file:
        if held is not None:
            digest = hashlib.md5(usedforsecurity=False)
            while chunk := file.read(2**20):
                digest.update(chunk)
            return digest.digest() == held
        step = part_size(store.capabilities, stored.size)
        for offset in range(0, stored.size, step):
            content = bytearray(min(step, stored.size - offset))
            store.read_into(ObjectName(stored.asked), offset, memoryview(content), pin=stored.etag)
            if file.read(len(content)) != content:
                return False
    return True
