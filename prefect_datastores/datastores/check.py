"""Finds out what a connection can do by doing it: sign in, list, read, write."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from prefect_datastores.errors import (
    AuthenticationFailed,
    ContainerNotFound,
    CredentialExpired,
    DatastoreError,
    EndpointUnreachable,
    FirewallDenied,
    ObjectNotFound,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.report import human_bytes
from prefect_datastores.stores.base import ObjectInfo, ObjectStore

_NO_SIGN_IN = (
    *(AuthenticationFailed, CredentialExpired, EndpointUnreachable, FirewallDenied),
    ObjectNotFound,  # said of a container's listing: the account is none of those that are there
)
_SAMPLE = 64 * 1024


Step = Literal["sign in", "list", "read", "write"]


@dataclass(frozen=True)
class Check:
    """One thing that was tried; `seconds` is what it took."""

    step: Step
    outcome: Literal["ok", "failed", "not tried"]
    seconds: float
    detail: str = ""


def check_store(store: ObjectStore, *, write: bool = True, says: str = "") -> list[Check]:
    """Try each step on a store without retry; a step that needs a failed one is not tried.

    `says` is what the credential says of itself, which is told with the sign-in.

    The write check stores one small object and deletes it again, where the right to delete is there.
    """
    with closing(store):
        found: list[ObjectInfo] = []
        listed, error = _tried("list", lambda: _list(store, found))
        if isinstance(error, _NO_SIGN_IN):
            return [
                Check("sign in", "failed", listed.seconds, str(error)),
                Check("list", "not tried", 0.0),
                Check("read", "not tried", 0.0),
                Check("write", "not tried", 0.0),
            ]
        checks = [Check("sign in", "ok", listed.seconds, says), listed]
        if isinstance(error, ContainerNotFound):
            return [*checks, Check("read", "not tried", 0.0), Check("write", "not tried", 0.0)]
        readable = [info for info in found if info.size and not info.is_marker]
        if readable:
            checks.append(_tried("read", lambda: _read(store, readable[0]))[0])
        else:
            why = "nothing could be listed" if error else "there is no object to read"
            checks.append(Check("read", "not tried", 0.0, why))
        checks.append(
            _tried("write", lambda: _write(store))[0] if write else Check("write", "not tried", 0.0)
        )
        return checks


def _tried(step: Step, attempt: Callable[[], str]) -> tuple[Check, DatastoreError | None]:
    began = time.monotonic()
    try:
        detail = attempt()
    except DatastoreError as error:
        return Check(step, "failed", time.monotonic() - began, str(error)), error
    return Check(step, "ok", time.monotonic() - began, detail), None


def _list(store: ObjectStore, found: list[ObjectInfo]) -> str:
    found.extend(store.list_page("", limit=20).objects)
    return f"{len(found)} of the first 20 objects" if found else "it is empty"


def _read(store: ObjectStore, info: ObjectInfo) -> str:
    buffer = memoryview(bytearray(min(info.size, _SAMPLE)))
    store.read_into(ObjectName(info.name), 0, buffer, pin=info.etag)
    return f"{human_bytes(len(buffer))} of {info.name!r}"


def _write(store: ObjectStore) -> str:
    name, content = ObjectName(f".prefect-datastores-check-{secrets.token_hex(6)}"), b"check\n"
    writing = store.begin_write(name, len(content), if_absent=True)
    writing.write_part(0, 0, memoryview(content))
    info = writing.commit(hashlib.md5(content, usedforsecurity=False).digest())
    try:
        store.delete(name, pin=info.etag)
    except DatastoreError as error:
        return f"one small object; it could not be deleted and is still there, {name!r}: {error}"
    return "one small object, and deleted it"
