"""Gives a folder another name: in one step where folders are things of their own, else object by object."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from prefect_datastores.errors import DatastoreError, FolderNotEmpty, ObjectNotFound
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import ObjectInfo, ObjectStore
from prefect_datastores.stores.listed import list_objects

_log = logging.getLogger("prefect_datastores.mounting")
_AT_ONCE = 16


def move_folder(
    store: ObjectStore, name: ObjectName, to: ObjectName
) -> Mapping[str, ObjectInfo] | None:
    """Give a folder another name; None where all below it are the same versions still, else what they are, by old name.

    Object by object, others see some of it under either name meanwhile. Should one fail, those that
    were moved go back; after a kill, each is whole under one of the names.

    Raises:
        DatastoreError: it could not be moved, or not all of it.
    """
    if store.capabilities.has_folders:
        store.move_folder(name, to)
        return None
    objects: list[ObjectInfo] = []
    markers = [name]
    for info in list_objects(store, f"{name}/"):
        if info.is_marker:
            markers.append(ObjectName(info.name.rstrip("/")))
        else:
            objects.append(info)
    begin = len(name)
    for marker in markers:
        store.make_folder(ObjectName(to + marker[begin:]))
    moved = _moved(
        store, objects, {info.name: ObjectName(to + info.name[begin:]) for info in objects}
    )
    for marker in sorted(markers, reverse=True):  # what is in a folder goes before it
        with contextlib.suppress(ObjectNotFound, FolderNotEmpty):
            store.remove_empty_folder(marker)
    return moved


def _moved(
    store: ObjectStore, objects: list[ObjectInfo], names: Mapping[str, ObjectName]
) -> Mapping[str, ObjectInfo]:
    done: dict[str, ObjectInfo] = {}

    def move(info: ObjectInfo) -> None:
        name = ObjectName(info.name)
        done[name] = store.move(name, names[name], pin=info.etag, if_absent=True)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pds-mount-move") as threads:
        moves = [threads.submit(move, info) for info in objects]
    faults = [fault for one in moves if (fault := one.exception()) is not None]
    if not faults:
        return done
    for name, info in done.items():
        _take_back(store, names[name], ObjectName(name), info)
    raise faults[0]


def _take_back(store: ObjectStore, name: ObjectName, to: ObjectName, info: ObjectInfo) -> None:
    try:
        store.move(name, to, pin=info.etag, if_absent=True)
    except DatastoreError as error:
        _log.error("%r is at %r now: %s", str(to), str(name), error)
