"""Data that lies on this machine already, given to a script where it lies, where nothing can be mounted."""

from __future__ import annotations

import os
from pathlib import Path

from prefect_datastores.datastores.registry import resolve
from prefect_datastores.errors import MountUnavailable, ObjectNotFound
from prefect_datastores.references import DataReference
from prefect_datastores.staging.generations import DATA, POINTER
from prefect_datastores.staging.published import pointer_of, where
from prefect_datastores.stores.base import ObjectStore


def check_kind(reference: DataReference) -> None:
    """Return where a reference's datastore is a folder of this machine; nothing is asked.

    Raises:
        MountUnavailable: it is none, so that nothing of it has a path here.
    """
    _root_of(reference)


def place_of(reference: DataReference) -> Path | None:
    """Return the file or folder that a reference names; None where nothing is there, and that is allowed.

    Raises:
        MountUnavailable: the datastore is no folder of this machine, or what lies there has other names
            than a mount would show.
        ObjectNotFound: nothing is there.
    """
    root = _root_of(reference)
    with resolve(reference).open_store(need="read") as store:
        store.check_root()
        try:
            single, prefix = where(store, reference.path_on_datastore)
        except ObjectNotFound:
            if not reference.allow_empty:
                raise
            return None
        if single is not None:
            return root / single.asked
        if (generation := _generation_of(store, prefix)) is not None:
            prefix = f"{prefix}{DATA}/{generation}/"
        _refuse_generations(reference, store, root, root / prefix)
        return root / prefix


def _root_of(reference: DataReference) -> Path:
    datastore = resolve(reference)
    if datastore.local_root is None:
        raise MountUnavailable(
            f"{reference.uri!r} cannot be mounted here, and has no path of this machine by which it could be read "
            f"directly: it is in {datastore.url}. Use as_mount(fallback='download'), which gives the script the same "
            "paths, or open it by the file system that `datastore.filesystem()` returns."
        )
    return datastore.local_root


def _generation_of(store: ObjectStore, prefix: str) -> str | None:
    """Return which generation of a published folder is shown; None where its files lie in itself."""
    standing = pointer_of(store, prefix.rstrip("/"))
    if standing is None or standing.pointer.in_place:
        return None
    if standing.pointer.holder is not None:
        raise MountUnavailable(
            f"{store.url}/{prefix} cannot be mounted here, and not be read directly: it has checkpoints, whose files lie "
            "under other names. Use as_mount(fallback='download')."
        )
    return standing.pointer.generation


def _refuse_generations(
    reference: DataReference, store: ObjectStore, root: Path, place: Path
) -> None:
    for folder, below, names in os.walk(place):
        if DATA in below:
            below.remove(DATA)
        prefix = Path(folder).relative_to(root).as_posix()
        if POINTER in names and _generation_of(store, prefix) is not None:
            raise MountUnavailable(
                f"{reference.uri!r} cannot be mounted here, and not be read directly: {folder} was published at once, "
                "and its files lie under other names than a mount shows. Use as_mount(fallback='download')."
            )
