"""Folders of a flat namespace that stay while nothing is in them: markers, as Azure's own tools write them.

A marker is an empty blob under the folder's name with the metadata `hdi_isfolder=true` (hadoop-azure,
azcopy, blobfuse). Other clients write an empty blob whose name ends in a slash; it is read and removed,
and never written. In an account with a hierarchical namespace such a blob is the directory itself.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from prefect_datastores.errors import (
    FolderNotEmpty,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    SourceChanged,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.azure import AzureService
from prefect_datastores.stores.base import ObjectInfo
from prefect_datastores.stores.listed import list_objects

if TYPE_CHECKING:
    from prefect_datastores.stores.blob import BlobStore

_MARKER = {
    "x-ms-blob-type": "BlockBlob",
    "x-ms-meta-hdi_isfolder": "true",
    "If-None-Match": "*",
}
_TURNS = 3  # in each of which somebody else removed what the one before found


def make_marker(store: BlobStore, service: AzureService, name: ObjectName) -> None:
    """Write a marker where no blob is; one that is there already is fine.

    Raises:
        PlaceTaken: another blob has the name.
    """
    for turn in range(1, _TURNS + 1):
        try:
            service.request("PUT", name, (), _MARKER)
        except (ObjectExists, SourceChanged):
            try:
                if store.head(name).is_marker:
                    return
            except ObjectNotFound:
                if turn < _TURNS:
                    continue
                raise
            raise PlaceTaken(
                f"An object stands at {service.url}/{name}, where a folder is to be."
            ) from None
        return


def remove_marker(store: BlobStore, service: AzureService, name: ObjectName) -> None:
    """Delete the marker of a folder with nothing in it, in either form; while it is the one that was seen.

    What others put into the folder between the look and this stays, and so does the folder then.

    Raises:
        FolderNotEmpty: something is in it.
        ObjectNotFound: there is no marker.
    """
    below, slashed = _first_below(store, name), f"{name}/"
    if any(info.name != slashed or not info.is_marker for info in below):
        raise FolderNotEmpty(f"Something is in the folder {service.url}/{name}; it was left.")
    markers = [*below, *_marker_at(store, name)]
    if not markers:
        raise ObjectNotFound(f"There is no empty folder {service.url}/{name}.")
    for marker in markers:
        service.request("DELETE", marker.name, headers={"If-Match": marker.etag})


def _first_below(store: BlobStore, name: ObjectName) -> list[ObjectInfo]:
    try:
        return list(list_objects(store, f"{name}/", limit=2))
    except PlaceTaken:  # a hierarchical namespace lists nothing below a file
        return []


def _marker_at(store: BlobStore, name: ObjectName) -> list[ObjectInfo]:
    with contextlib.suppress(ObjectNotFound):
        info = store.head(name)
        return [info] if info.is_marker else []
    return []
