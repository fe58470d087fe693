"""What pages of all listings of Azure Storage share: they are read by patterns, and by a parser where not as always.

A parser takes longer over a page than the network does. The patterns know the order in which the
service writes; a page in which they do not find everything is read by the parser.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote
from xml.parsers import expat
from xml.sax.saxutils import unescape

from prefect_datastores.errors import IntegrityError

_END = "</EnumerationResults>"
_MARKER = re.compile(r"<NextMarker>([^<]*)</NextMarker>")
_ENTITIES = {"&quot;": '"', "&apos;": "'"}


def text_of(body: bytes) -> str:
    """Return the text of a page.

    Raises:
        IntegrityError: it is no text, or was cut.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise unreadable(f"it is no UTF-8 at byte {error.start}") from None
    if not text.rstrip().endswith(_END):
        raise unreadable("it has no end")
    return text


def is_usual(text: str) -> bool:
    """Tell whether a page has nothing that only a parser knows: numbered characters, comments, line ends."""
    # One character is found much quicker than two.
    has_numbers = "&" in text and "&#" in text
    return not (has_numbers or "\r" in text or ("!" in text and "<!" in text))


def plain(text: str) -> str:
    """Return the text that an element of a usual page stands for."""
    return unescape(text, _ENTITIES) if "&" in text else text


def marker_of(text: str, last: str) -> str | None:
    """Return what asks for the page after a usual one; it stands behind the last `last`."""
    found = _MARKER.search(text, text.rfind(last) + 1)
    return (plain(found[1]) or None) if found else None


def quoted(etag: str) -> str:
    """Return an ETag as headers have it; a listing gives it bare."""
    return etag if etag[:1] == '"' else f'"{etag}"'


class Reader(ABC):
    """Reads a page by the parser; a kind of listing says what its elements are."""

    entries: frozenset[str]
    """The elements that stand for an object or a folder."""
    inside: str
    """The element in which they are."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.marker: str | None = None
        self.found: dict[str, str] = {}
        self._path: list[str] = []
        self._text: list[str] = []
        self._is_listing = self._encoded = False

    def read(self, body: bytes) -> None:
        """Read all of a page.

        Raises:
            IntegrityError: it is no page of a listing.
        """
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.StartDoctypeDeclHandler = _refuse
        try:
            parser.Parse(body, True)
        except expat.ExpatError as error:
            raise unreadable(expat.errors.messages[error.code]) from None
        if not self._is_listing:
            raise unreadable("it is another document")

    @abstractmethod
    def entry(self, tag: str) -> None:
        """Take what was found of an object or a folder: its `Name`, and the rest by `Parent/element`."""

    def name(self) -> str:
        """Return the name that was found."""
        if "Name" not in self.found:
            raise unreadable("an entry has no name")
        return self.found["Name"]

    def _begin(self, tag: str, attributes: Mapping[str, str]) -> None:
        if not self._path:
            self._is_listing = tag == "EnumerationResults"
        if tag in self.entries and self._path[-1:] == [self.inside]:
            self.found = {}  # metadata may have such names as well
        self._path.append(tag)
        self._text.clear()
        if tag == "Name":
            self._encoded = attributes.get("Encoded") == "true"

    def _end(self, tag: str) -> None:
        text = "".join(self._text)
        self._text.clear()
        self._path.pop()
        parent = self._path[-1] if self._path else ""
        if tag == "NextMarker" and len(self._path) == 1:
            self.marker = text or None
        elif tag == "Name" and parent in self.entries:
            self.found["Name"] = unquote(text) if self._encoded else text
        elif tag in self.entries and parent == self.inside:
            self.entry(tag)
        else:
            self.found[f"{parent}/{tag.lower()}"] = text


def _refuse(*_: Any) -> None:
    raise unreadable("it declares a document type")


def unreadable(why: str) -> IntegrityError:
    """Return the error that a page cannot be read."""
    return IntegrityError(f"The service's listing cannot be read: {why}.")
