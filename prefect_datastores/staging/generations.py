"""What a folder that is published at once is made of, as names and values. Pure: no request is made here.

Each publish is a *generation*. Where folders are but names, its objects lie below
`<folder>/.pds-data/<generation>/`, and one small object, the *pointer* `<folder>/.pds-current`, says
which generation the folder shows. Where the store swaps folders, the new one is made beside the old
one, in `<folder's parent>/.pds-data/<generation>`, and takes its place; its pointer says "."

A generation of a checkpoint is a *list*, `<folder>/.pds-data/<generation>.list`: the names of its files, and
for each the object below `.pds-data/` that has its content, of this generation or of an earlier one.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from calendar import timegm
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from prefect_datastores.errors import ConfigurationError, IntegrityError

POINTER, DATA = ".pds-current", ".pds-data"
"""The pointer sorts before the data, so that whoever reads a listing meets it first."""

LONGEST_POINTER = 4096
_GENERATION = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
_TIME = "%Y%m%dT%H%M%S"
_FORMAT, _LISTED_FORMAT = 1, 2
_LIST_FORMAT = 1
_MD5 = re.compile(r"[0-9a-f]{32}")
LONGEST_LIST = 64 * 2**20
LONGEST_HOLDER = 300


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
class Holder:
    """Who makes the generations of a checkpoint, as people know it; and which try of which run that is."""

    name: str
    run: str = ""
    attempt: int = 0

    def again(self, other: Holder) -> bool:
        """Tell whether this is a later try of the run that the other one was."""
        return bool(self.run) and self.run == other.run and self.attempt > other.attempt


@dataclass(frozen=True)
class Pointer:
    """What a folder shows: `count` objects of `size` bytes in all, in place of the generation `previous`.

    With `in_place` they lie in the folder itself. With `holder` the generation is a list, that of a
    checkpoint; `finished` says that its script came to a good end.
    """

    generation: str
    count: int
    size: int
    previous: str | None = None
    in_place: bool = False
    holder: Holder | None = None
    finished: bool = False

    def to_bytes(self) -> bytes:
        """Return the content of the pointer's object."""
        values: dict[str, Any] = {
            "format": _LISTED_FORMAT if self.holder else _FORMAT,
            "generation": self.generation,
            "at": self._at(),
            "count": self.count,
            "bytes": self.size,
            "previous": self.previous,
        }
        if self.holder is not None:
            values |= {
                "by": self.holder.name,
                "run": self.holder.run,
                "attempt": self.holder.attempt,
                "finished": self.finished,
            }
        return json.dumps(values, indent=1).encode() + b"\n"

    def _at(self) -> str:
        if self.holder is not None:
            return list_of(self.generation)
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
        if found_format not in {_FORMAT, _LISTED_FORMAT}:
            raise damaged(
                where, f"it has the format {found_format!r}, which this version cannot read"
            )
        try:
            holder = _holder(values) if found_format == _LISTED_FORMAT else None
            finished = values.pop("finished") if holder else False
            made = Pointer(
                size=values.pop("bytes"),
                **values,
                in_place=at == ".",
                holder=holder,
                finished=finished,
            )
        except (TypeError, KeyError) as error:
            raise damaged(where, "it has other fields than a pointer") from error
        numbers = (made.count, made.size, holder.attempt if holder else 0)
        if any(type(number) is not int or number < 0 for number in numbers):
            raise damaged(where, "its count or bytes are no numbers")
        names = (made.generation, made.generation if made.previous is None else made.previous)
        if not all(type(name) is str and _GENERATION.fullmatch(name) for name in names):
            raise damaged(where, "it names no generation")
        if at != made._at():
            raise damaged(where, "it leads elsewhere than to its generation")
        said = (holder.name, holder.run) if holder else ()
        if type(finished) is not bool or not all(type(text) is str for text in said):
            raise damaged(where, "it does not say whose it is")
        return made


def _holder(values: dict[str, Any]) -> Holder:
    return Holder(values.pop("by"), values.pop("run"), values.pop("attempt"))


# -- lists ----------------------------------------------------------------------------------------


def list_of(generation: str) -> str:
    """Return where in a folder the list of a generation is."""
    return f"{DATA}/{generation}.list"


class Listed(NamedTuple):
    """One file of a generation that is a list: its `name`, and the object `at` below `.pds-data/` that it is."""

    name: str
    at: str
    size: int
    md5: bytes


def list_to_bytes(generation: str, files: Iterable[Listed]) -> bytes:
    """Return the content of a list's object: a line for each file, and at the end the MD5 of all before.

    Raises:
        ConfigurationError: they are too many.
    """
    lines = [json.dumps({"format": _LIST_FORMAT, "generation": generation})]
    lines += [
        json.dumps([file.name, file.at, file.size, file.md5.hex()], separators=(",", ":"))
        for file in files
    ]
    content = ("\n".join(lines) + "\n").encode()
    if len(content) > LONGEST_LIST:
        raise ConfigurationError(
            f"A checkpoint of {len(lines) - 1} files is more than can be kept: their list would have "
            f"{len(content)} bytes. Pack them into fewer files, or leave some out with `exclude`."
        )
    return content + f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}\n".encode()


def list_from_bytes(content: bytes, generation: str, where: str) -> list[Listed]:
    """Read the content of a list's object; `where` names it in messages.

    Raises:
        IntegrityError: it is damaged, hostile, or of another generation or a later format.
    """
    body, said = content[:-33], content[-33:]
    if said != f"{hashlib.md5(body, usedforsecurity=False).hexdigest()}\n".encode():
        raise damaged(where, "it is not as it was written")
    try:
        head, *lines = map(json.loads, body.splitlines())
        if head != {"format": _LIST_FORMAT, "generation": generation}:
            raise damaged(where, "it is the list of something else")
        return [_listed(*line) for line in lines]
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(where, "it is no list of files") from error


def _listed(name: str, at: str, size: int, md5: str) -> Listed:
    generation, _, below = at.partition("/")
    is_whole = type(name) is str and type(size) is int and size >= 0 and bool(name and below)
    if not (is_whole and _GENERATION.fullmatch(generation) and _MD5.fullmatch(md5)):
        raise ValueError(name)
    return Listed(name, at, size, bytes.fromhex(md5))


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
