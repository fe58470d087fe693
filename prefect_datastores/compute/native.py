"""Shares that the compute itself mounted: found by what the job variables say of them."""

from __future__ import annotations

from pathlib import Path

from prefect_datastores.errors import MountUnavailable, ObjectNotFound
from prefect_datastores.references import DataReference
from prefect_datastores.settings import native_mounts


def native_place(reference: DataReference) -> Path | None:
    """Return where the compute has mounted what a reference names; None where it did not.

    It shows what is there now, to whoever reads: it serves only those who ask for that.
    """
    if reference.mode != "mount" or reference.consistency != "latest":
        return None
    root = native_mounts().get(reference.datastore)
    return root / reference.path_on_datastore if root is not None else None


def use_native(reference: DataReference, place: Path, link: Path | None) -> Path:
    """Return the path of what the compute mounted; with `link`, a link there leads to it.

    As with every mount, a file stands in a folder of its own, under its own name.

    Raises:
        MountUnavailable: nothing is mounted where the job variables say it is.
        ObjectNotFound: the share is there, and what the reference names is not.
    """
    root = native_mounts()[reference.datastore]
    if not root.is_dir():
        raise MountUnavailable(
            f"{reference.uri!r} is to be mounted by the compute at {root}, and no such folder is there: look at the "
            "volumes of the run's container, and at the template of its work pool."
        )
    if not place.exists() or (
        place.is_dir() and not reference.allow_empty and not any(place.iterdir())
    ):
        raise ObjectNotFound(f"There is nothing at {reference.uri!r}, which is mounted at {root}.")
    if link is None:
        return place
    at = link / place.name if place.is_file() else link
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(place)
    return at
