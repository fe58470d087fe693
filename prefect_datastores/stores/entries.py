"""Reads a page of Azure Files' List Directories and Files: by a pattern where it is as always, else by a parser.

As with pages of blobs (`listing.py`), a page in which the pattern does not find every entry is read
by the parser, and the two are tested against each other.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote
from xml.parsers import expat
from xml.sax.saxutils import unescape

from prefect_datastores.errors import IntegrityError

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
_MARKER = re.compile(r"<NextMarker>([^<]*)</NextMarker>")
_END = "</EnumerationResults>"
_ENTITIES = {"&quot;": '"', "&apos;": "'"}
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
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(f"it is no UTF-8 at byte {error.start}") from None
    if not text.rstrip().endswith(_END):
        raise _unreadable("it has no end")
    return _quick(text) or _thorough(body)


def _quick(text: str) -> Entries | None:
    """Read a page by the patterns, or return None where it is not as always."""
    has_entities = "&" in text
    if (has_entities and "&#" in text) or "\r" in text or ("!" in text and "<!" in text):
        return None
    files = [
        File(_plain(name), int(size), quoted(etag), written)
        for name, size, written, etag in _FILE.findall(text)
    ]
    folders = [_plain(name) for name in _FOLDER.findall(text)]
    if len(files) != text.count("</File>") or len(folders) != text.count("</Directory>"):
        return None
    marker = _MARKER.search(text, text.rfind("</Entries>") + 1)
    return Entries(files, folders, _plain(marker[1]) or None if marker else None)


def _plain(text: str) -> str:
    return unescape(text, _ENTITIES) if "&" in text else text


def quoted(etag: str) -> str:
    """Return an ETag in quotes, as headers have it and listings may not."""
    return etag if etag[:1] == '"' else f'"{etag}"'


@lru_cache(maxsize=1024)
def moment_of(text: str) -> float | None:
    """Return a moment as in `2026-11-24T22:31:07.1234567Z` in seconds since the epoch."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        return None
    *parts, fraction = found.groups()
    year, month, day, hour, minute, second = map(int, parts)
    return timegm((year, month, day, hour, minute, second)) + float(fraction or 0)


def _thorough(body: bytes) -> Entries:
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.begin
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.take
    parser.StartDoctypeDeclHandler = reader.refuse
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise _unreadable(expat.errors.messages[error.code]) from None
    if not reader.is_listing:
        raise _unreadable("it is another document")
    return Entries(reader.files, reader.folders, reader.marker or None)


class _Reader:
    """Takes what the parser finds."""

    def __init__(self) -> None:
        self.files: list[File] = []
        self.folders: list[str] = []
        self.marker = ""
        self.is_listing = False
        self._path: list[str] = []
        self._found: dict[str, str] = {}
        self._text: list[str] = []
        self._encoded = False

    def refuse(self, *_: Any) -> None:
        raise _unreadable("it declares a document type")

    def begin(self, tag: str, attributes: Mapping[str, str]) -> None:
        if not self._path:
            self.is_listing = tag == "EnumerationResults"
        self._path.append(tag)
        self._text.clear()
        if tag in {"File", "Directory"}:
            self._found = {}
        if tag == "Name":
            self._encoded = attributes.get("Encoded") == "true"

    def take(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        text = "".join(self._text)
        self._text.clear()
        self._path.pop()
        parent = self._path[-1] if self._path else ""
        if tag == "NextMarker" and len(self._path) == 1:
            self.marker = text
        elif tag == "Name" and parent in {"File", "Directory"}:
            self._found["Name"] = unquote(text) if self._encoded else text
        elif parent == "Properties":
            self._found[tag] = text
        elif tag == "Directory" and parent == "Entries":
            self.folders.append(self._name())
        elif tag == "File" and parent == "Entries":
            self.files.append(self._file())

    def _file(self) -> File:
        found = self._found
        try:
            size, etag = int(found["Content-Length"]), quoted(found["Etag"])
            return File(self._name(), size, etag, found["LastWriteTime"])
        except (KeyError, ValueError):
            raise _unreadable(
                f"the file {self._name()!r} has no length, ETag or time of its last write"
            ) from None

    def _name(self) -> str:
        if "Name" not in self._found:
            raise _unreadable("an entry has no name")
        return self._found["Name"]


def _unreadable(why: str) -> IntegrityError:
    return IntegrityError(f"The service's listing cannot be read: {why}.")
