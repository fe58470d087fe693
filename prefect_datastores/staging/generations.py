"""What a folder that is published at once is made of, as names and values. Pure: no request is made here.

Each publish is a *generation*. Where folders are but names, its objects lie below
`<folder>/.pds-data/<generation>/`, and one small object, the *pointer* `<folder>/.pds-current`, says
which generation the folder shows. Where the store swaps folders, the new one is made beside the old
one, in `<folder's parent>/.pds-data/<generation>`, and takes its place; its pointer says "."
"""

from __future__ import annotations

import json
import re
import secrets
import time
from calendar import timegm
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prefect_datastores.errors import IntegrityError

POINTER, DATA = ".pds-current", ".pds-data"
"""The pointer sorts before the data, so that whoever reads a listing meets it first."""

LONGEST_POINTER = 4096
_GENERATION = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
_TIME = "%Y%m%dT%H%M%S"
_FORMAT = 1


def is_kept_for_publishing(components: Iterable[str]) -> bool:
    """Tell whether a name has a component that stands for a pointer or for generations."""
    return any(component in {POINTER, DATA} for component in components)


def new_generation(now: float) -> str:
    """Return a name that no other generation has; names sort by the time at which they were made."""
    return f"{time.strftime(_TIME, time.gmtime(now))}-{secrets.token_hex(4)}"


def made_at(generation: str) -> float | None:
    """Return when a generation was begun, in seconds since the epoch; None where it is none."""
    if not _GENERATION.fullmatch(generation):
        return None
    try:
        return float(timegm(time.strptime(generation.partition("-")[0], _TIME)))
    except ValueError:
        return None


@dataclass(frozen=True)
class Pointer:
    """What a folder shows: `count` objects of `size` bytes in all, in place of the generation `previous`.

    With `in_place` they lie in the folder itself.
    """

    generation: str
    count: int
    size: int
    previous: str | None = None
    in_place: bool = False

    def to_bytes(self) -> bytes:
        """Return the content of the pointer's object."""
        values = {
            "format": _FORMAT,
            "generation": self.generation,
            "at": self._at(),
            "count": self.count,
            "bytes": self.size,
            "previous": self.previous,
        }
        return json.dumps(values, indent=1).encode() + b"\n"

    def _at(self) -> str:
        return "." if self.in_place else f"{DATA}/{self.generation}"

    @staticmethod
    def from_bytes(content: bytes, where: str) -> Pointer:
        """Read the content of the pointer's object; `where` names it in messages.

        Raises:
            IntegrityError: it is damaged, hostile, or of a later format.
        """
        try:
            values: Any = json.loads(content)
            found_format = values.pop("format")
            at = values.pop("at")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise damaged(where, "it is no JSON of a pointer") from error
        if found_format != _FORMAT:
            raise damaged(
                where, f"it has the format {found_format!r}, which this version cannot read"
            )
        try:
            made = Pointer(size=values.pop("bytes"), **values, in_place=at == ".")
        except (TypeError, KeyError) as error:
            raise damaged(where, "it has other fields than a pointer") from error
        numbers = (made.count, made.size)
        if any(type(number) is not int or number < 0 for number in numbers):
            raise damaged(where, "its count or bytes are no numbers")
        names = (made.generation, made.generation if made.previous is None else made.previous)
        if not all(type(name) is str and _GENERATION.fullmatch(name) for name in names):
            raise damaged(where, "it names no generation")
        if at != made._at():
            raise damaged(where, "it leads elsewhere than to its generation")
        return made


def damaged(where: str, why: str) -> IntegrityError:
    """Return the error of a pointer that cannot be followed."""
    return IntegrityError(
        f"{where} says what its folder shows, and is damaged: {why}. Nothing of the folder was read. "
        "Publish the folder again once the damaged object is removed; the data is beside it."
    )


@dataclass(frozen=True)
class Publication:
    """One publish that was made: what `folder` shows by it, and what it showed before."""

    folder: str
    pointer: Pointer
    before: Pointer | None = None
