"""Objects for the tests of a store: made, stored, read and listed in one call."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from prefect_datastores.errors import (
    DatastoreError,
    ObjectExists,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import (
    NO_EXTRAS,
    Extras,
    ObjectInfo,
    ObjectStore,
    Page,
    Writing,
    part_size,
)
from prefect_datastores.stores.listed import list_objects

MOMENT = 1_234_567_890
"""Some time, in seconds since the epoch."""

THREADS = 8
"""How many work at once where many do."""

_MOST_PAGES = 1000

ODD_NAMES = (
    "a b",
    " leading",
    "trailing ",
    "%20",
    "%41",
    "%2e%2e",
    "100%",
    "#",
    "?a=b&c",
    "a+b",
    "a&b<c>\"'",
    "a;b=c,d",
    "[x]{y}(z)",
    "~$@!*|^`",
    "a:b",
    "tab\there",
    "two\nlines",
    "ends with a newline\n",
    "caf\u00e9",
    "\u65e5\u672c\u8a9e",
    "\U0001f680",
    "\u200b",
    ".hidden",
    "..two-dots",
    "...",
    "-rf",
    "deep/er/and/deeper.txt",
    "x" * 255,
)
"""Names that look harmful, are none, and come back as they were given."""


def content_of(size: int, seed: str = "") -> bytes:
    """Return bytes that repeat nowhere, so that no part can stand in for another."""
    return hashlib.shake_128(f"{seed}-{size}".encode()).digest(size)


def md5_of(content: bytes) -> bytes:
    """Return the digest with which an object is committed."""
    return hashlib.md5(content, usedforsecurity=False).digest()


def parts_of(store: ObjectStore, content: bytes) -> list[tuple[int, int, memoryview]]:
    """Cut an object into the arguments of its `write_part` calls."""
    step = part_size(store.capabilities, len(content))
    return [
        (index, offset, memoryview(content)[offset : offset + step])
        for index, offset in enumerate(range(0, len(content), step))
    ]


def begin(
    store: ObjectStore,
    name: str,
    content: bytes,
    *,
    replaces: str | None = None,
    if_absent: bool = False,
    extras: Extras = NO_EXTRAS,
) -> Writing:
    """Write all parts of an object, and leave the commit to the caller."""
    writing = store.begin_write(
        ObjectName(name), len(content), replaces=replaces, if_absent=if_absent, extras=extras
    )
    for part in parts_of(store, content):
        writing.write_part(*part)
    return writing


def put(
    store: ObjectStore,
    name: str,
    content: bytes = b"x",
    *,
    replaces: str | None = None,
    if_absent: bool = False,
    extras: Extras = NO_EXTRAS,
) -> ObjectInfo:
    """Store a whole object."""
    writing = begin(store, name, content, replaces=replaces, if_absent=if_absent, extras=extras)
    return writing.commit(md5_of(content))


def get(store: ObjectStore, name: str) -> bytes:
    """Read a whole object, part by part, from one version."""
    info = store.head(ObjectName(name))
    content = bytearray(info.size)
    for _, offset, part in parts_of(store, bytes(content)):
        buffer = memoryview(content)[offset : offset + len(part)]
        store.read_into(info_name(info), offset, buffer, pin=info.etag)
    return bytes(content)


def info_name(info: ObjectInfo) -> ObjectName:
    """Return the checked name of a listed object."""
    return ObjectName(info.name)


def names_below(store: ObjectStore, prefix: str = "") -> list[str]:
    """Return the names of all objects below a prefix."""
    return [info.name for info in list_objects(store, prefix)]


def pages(
    store: ObjectStore, prefix: str = "", *, limit: int, recursive: bool = True
) -> list[Page]:
    """Return every page of a listing; one that would not end fails the test."""
    found = [store.list_page(prefix, limit=limit, recursive=recursive)]
    while (marker := found[-1].marker) is not None:
        found.append(store.list_page(prefix, marker=marker, limit=limit, recursive=recursive))
        assert len(found) < _MOST_PAGES, "the listing does not end"
    return found


def at_once(work: Iterable[Callable[[], object]]) -> list[object]:
    """Run everything in threads that begin together; give results, and our errors as results."""
    calls = list(work)
    gate = threading.Barrier(len(calls))

    def one(call: Callable[[], object]) -> object:
        gate.wait()
        try:
            return call()
        except DatastoreError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(one, calls))


def sizes(store: ObjectStore) -> dict[str, int]:
    """Return sizes that a store treats apart, by what they are."""
    step = store.capabilities.part_size
    return {"empty": 0, "one byte": 1, "one part": step, "many parts": 2 * step + 3}


def folders_in(store: ObjectStore, prefix: str) -> set[str]:
    """Return the folders right below a prefix, whether they are told as such or by a marker."""
    page = store.list_page(prefix, recursive=False)
    marked = {info.name.removesuffix("/") for info in page.objects if info.is_marker}
    return {*page.folders, *(name for name in marked if f"{name}/" != prefix)}


def one_won(done: Sequence[object], store: ObjectStore, name: str = "a") -> None:
    """Assert that one of many wrote an object, and that the others heard that it is there."""
    won = [number for number, result in enumerate(done) if isinstance(result, str)]
    lost = [result for result in done if isinstance(result, ObjectExists)]
    assert len(won) == 1
    assert len(lost) == len(done) - 1
    assert get(store, name) == str(won[0]).encode()
