"""What a transfer wrote down while it worked, so that the next one fetches only what is missing.

Append-only lines of a checksum and a JSON value. A kill can tear the last line only, which is left
out; anything else that is not as it was written makes all of it worth nothing. Nothing in it is
believed: a part that it names is compared, byte by byte through its checksum, before it is used.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT = 1

_log = logging.getLogger("prefect_datastores.staging")


@dataclass(frozen=True)
class Unfinished:
    """One object that was begun: what identifies its version, its part file or its token.

    `parts` has the digest of each part that was done, by its offset.
    """

    key: str
    place: str
    parts: Mapping[int, str] = field(default_factory=dict)


class Journal:
    """Writes to the end of one file; used by many threads at once.

    What cannot be written down fails nothing: the next transfer has to move more, that is all.
    """

    def __init__(self, fd: int, origin: str) -> None:
        """Begin with what the transfer is about; takes over the descriptor."""
        self._fd, self._writes = fd, True
        self._write({"format": FORMAT, "origin": origin})

    def begin(self, item: Unfinished) -> None:
        """Write down that an object is begun, with what is there of it already."""
        self._write({"begin": item.key, "place": item.place, "parts": dict(item.parts)})

    def done(self, key: str, offset: int, digest: str) -> None:
        """Write down that a part is in its place."""
        self._write({"key": key, "at": offset, "digest": digest})

    def end(self, key: str) -> None:
        """Write down that nothing is left to be done for an object."""
        self._write({"end": key})

    def _write(self, value: Any) -> None:
        if not self._writes:  # a line after one that is torn would make all of it worth nothing
            return
        line = _line(value)
        try:
            # One call to a file opened for appending: lines of several threads do not mix.
            if os.write(self._fd, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._writes = False
            tell_unwritable(error)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


def tell_unwritable(error: Exception) -> None:
    """Warn that a transfer goes on without a journal."""
    _log.warning(
        "What is done cannot be written down (%s); were this transfer interrupted, the next one would move more.",
        error,
    )


def _line(value: Any) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def unfinished(content: bytes, origin: str) -> dict[str, Unfinished] | None:
    """Return the objects that were begun and not ended, or None where nothing of it can be used.

    That is so for another `origin` or format, and for a file that is damaged before its last line.
    """
    lines = list(_values(content))
    if not lines or None in lines:
        return None
    head = lines[0]
    if head != {"format": FORMAT, "origin": origin}:
        return None
    found: dict[str, tuple[str, dict[int, str]]] = {}
    for line in lines[1:]:
        if "begin" in line:
            parts = {int(offset): digest for offset, digest in line["parts"].items()}
            found[line["begin"]] = (line["place"], parts)
        elif "end" in line:
            found.pop(line["end"], None)
        elif line["key"] in found:
            found[line["key"]][1][line["at"]] = line["digest"]
    return {key: Unfinished(key, place, parts) for key, (place, parts) in found.items()}


def origin_of(content: bytes) -> str | None:
    """Return what a journal is about, or None where it does not say."""
    head = next(_values(content.partition(b"\n")[0] + b"\n"), None)
    return head.get("origin") if isinstance(head, dict) else None


def _values(content: bytes) -> Iterator[Any]:
    """Give the value of each whole line; None for one that is not as it was written."""
    *whole, torn = content.split(b"\n")
    last = len(whole) - 1
    for number, line in enumerate(whole):
        checksum, _, text = line.partition(b" ")
        if checksum == b"%08x" % zlib.crc32(text) and text:
            yield json.loads(text)
        elif number < last or torn:
            yield None
