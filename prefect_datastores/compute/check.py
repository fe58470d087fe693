"""Whether what is defined can run where it is to run: said before anything is started or moved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prefect_datastores.compute.matrix import (
    KINDS,
    MATRIX,
    Cell,
    Compute,
    Kind,
    Way,
    find_compute,
    takes_everything,
    ways_that_work,
)
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.registry import resolve
from prefect_datastores.errors import ConfigurationError, WayUnavailable
from prefect_datastores.references import DataReference
from prefect_datastores.settings import this_compute

_DONE = {
    "download": "downloaded",
    "mount": "mounted",
    "upload": "uploaded to",
    "direct": "opened",
    "checkpoint": "a place for checkpoints",
}
_HOW = {
    "download": "as_download()",
    "mount": "as_mount()",
    "upload": "as_upload()",
    "direct": "direct(reference)",
    "checkpoint": "as_checkpoint()",
}


def kind_of(datastore: FileDatastore) -> Kind:
    """Return the kind of a datastore, as the matrix has it.

    Raises:
        ConfigurationError: the matrix does not know it.
    """
    for kind in KINDS:
        if datastore.datastore_type == kind:
            return kind
    raise ConfigurationError(
        f"Nobody said where {datastore.name!r} can be used: its kind, {datastore.datastore_type}, has no row in the "
        "matrix of computes."
    )


def check_way(
    compute: Compute, datastore: FileDatastore, way: Way, *, latest: bool = False
) -> Cell:
    """Return the cell of the matrix; `latest` says that what is there now may be shown.

    Raises:
        WayUnavailable: it cannot be had so; the message names a way that works.
    """
    kind = kind_of(datastore)
    cell = MATRIX[compute.name, kind, way]
    if cell.support in {"yes", "needs"} or (cell.support == "native" and latest):
        return cell
    what = f"The datastore {datastore.name!r} ({kind}) cannot be {_DONE[way]} on {compute.title}"
    if cell.support == "native":
        raise WayUnavailable(
            f"{what} as it was first seen, only as it is now: use as_mount(consistency='latest'), or as_download()."
        )
    raise WayUnavailable(f"{what}: {cell.how}. {_instead(compute, kind, way)}")


def _instead(compute: Compute, kind: Kind, way: Way) -> str:
    # What stores is no way to read, and the reverse.
    stores = way in {"upload", "checkpoint"}
    alike = {"upload", "checkpoint", "direct"} if stores else {"download", "mount", "direct"}
    works = [other for other in ways_that_work(compute, kind) if other in alike]
    if works:
        return f"Use {_HOW[works[0]]}."
    others = [kind for kind in KINDS if way in ways_that_work(compute, kind)]
    where = f"a datastore of kind {' or '.join(others)}, or " if others else ""
    return f"Use {where}compute_target='process', with a worker on the machine that has it."


def check_compute(compute_target: Any, references: Iterable[DataReference]) -> Compute:
    """Return the compute when all references can be had on it; a mount with a fallback may be a download.

    The kind of a datastore is asked for only where it matters.

    Raises:
        ConfigurationError: there is no such compute; of a retired one, what takes its place.
        WayUnavailable: one cannot be had so; the message names a way that works.
        DatastoreNotFound: a datastore whose kind matters is not registered.
    """
    compute = find_compute(compute_target)
    if takes_everything(compute):
        return compute
    for reference in references:
        check_reference(compute, reference)
    return compute


def check_reference(compute: Compute, reference: DataReference) -> Cell:
    """Return the cell that a reference uses on a compute.

    Raises:
        WayUnavailable, DatastoreNotFound: as `check_compute` says.
    """
    datastore = resolve(reference)
    latest = reference.consistency == "latest"
    try:
        return check_way(compute, datastore, reference.mode, latest=latest)
    except WayUnavailable:
        if reference.mode != "mount" or reference.fallback != "download":
            raise
        return check_way(compute, datastore, "download")


def check_here(compute_target: str) -> None:
    """Return when work for a compute may begin in this process.

    Raises:
        ConfigurationError: it is to run somewhere else.
    """
    compute, here = find_compute(compute_target), this_compute()
    if compute.name in {"local", "process"} or (here and find_compute(here) == compute):
        return
    raise ConfigurationError(
        f"compute_target={compute.name!r} is {compute.title}, and this is {_title(here)}: deploy `as_flow()` to a work "
        "pool there, or say compute_target='local' to run it here."
    )


def _title(here: str | None) -> str:
    return find_compute(here).title if here else "a process of this machine"
