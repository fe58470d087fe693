"""Reads pages of Azure Files' listings of a directory, by patterns or by the parser, and of a file's ranges."""

from __future__ import annotations

import re
from calendar import timegm
from functools import lru_cache
from typing import NamedTuple

from prefect_datastores.stores.pages import (
    Reader,
    is_usual,
    marker_of,
    plain,
    quoted,
    text_of,
    unreadable,
)

_REST = r"(?:<(?!/|{0})[^<>]*(?:/>|>[^<]*</[^<>]*>))*?"
# Between what is wanted stand whole elements, so that no match leaves its entry.
_FILE = re.compile(
    r"<File><Name>([^<]*)</Name>"
    + _REST.format("Name|Properties")
    + "<Properties>"
    + _REST.format("LastWriteTime|Etag|Content-Length")
    + r"<Content-Length>([0-9]+)</Content-Length>"
    + _REST.format("LastWriteTime|Etag")
    + r"<LastWriteTime>([^<]*)</LastWriteTime>"
    + _REST.format("Etag")
    + r"<Etag>([^<]*)</Etag>"
)
_FOLDER = re.compile(r"<Directory><Name>([^<]*)</Name>")
_RANGE = re.compile(rb"<Range>\s*<Start>(\d+)</Start>\s*<End>(\d+)</End>\s*</Range>")
_MOMENT = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?Z")


class File(NamedTuple):
    """A file as a listing shows it."""

    name: str
    size: int
    etag: str
    written: str


class Entries(NamedTuple):
    """What stands in a directory, by its own names; `marker` asks for the next page."""

    files: list[File]
    folders: list[str]
    marker: str | None


def entries_of(body: bytes) -> Entries:
    """Return what a page lists.

    Raises:
        IntegrityError: it is no page of a listing, or was cut.
    """
    return _quick(text_of(body)) or _thorough(body)


def _quick(text: str) -> Entries | None:
    """Read a page by the patterns, or return None where it is not as always."""
    if not is_usual(text):
        return None
    files = [
        File(plain(name), int(size), quoted(etag), written)
        for name, size, written, etag in _FILE.findall(text)
    ]
    folders = [plain(name) for name in _FOLDER.findall(text)]
    if len(files) != text.count("</File>") or len(folders) != text.count("</Directory>"):
        return None
    return Entries(files, folders, marker_of(text, "</Entries>"))


@lru_cache(maxsize=1024)
def moment_of(text: str) -> float | None:
    """Return a moment as in `2026-11-24T22:31:07.1234567Z` in seconds since the epoch."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        return None
    *parts, fraction = found.groups()
    year, month, day, hour, minute, second = map(int, parts)
    return timegm((year, month, day, hour, minute, second)) + float(fraction or 0)


def ranges_of(body: bytes) -> list[tuple[int, int]]:
    """Return what a list of written ranges names, joined: each first byte, and the one after the last."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted((int(first), int(last) + 1) for first, last in _RANGE.findall(body)):
        if joined and first <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return joined


def _thorough(body: bytes) -> Entries:
    reader = _Reader()
    reader.read(body)
    return Entries(reader.files, reader.folders, reader.marker)


class _Reader(Reader):
    """Takes what the parser finds of files and directories."""

    entries, inside = frozenset({"File", "Directory"}), "Entries"

    def __init__(self) -> None:
        super().__init__()
        self.files: list[File] = []
        self.folders: list[str] = []

    def entry(self, tag: str) -> None:
        if tag == "Directory":
            self.folders.append(self.name())
        else:
            self.files.append(self._file())

    def _file(self) -> File:
        found, name = self.found, self.name()
        try:
            size, etag = int(found["Properties/content-length"]), found["Properties/etag"]
            return File(name, size, quoted(etag), found["Properties/lastwritetime"])
        except (KeyError, ValueError):
            raise unreadable(
                f"the file {name!r} has no length, ETag or time of its last write"
            ) from None
