"""From a listing to a plan. Pure: no request is made and no file is touched here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from prefect_datastores.errors import ConfigurationError, ObjectExists, UnsafeName
from prefect_datastores.names import NameCheck, NameRules, ObjectName, RelativePath, join
from prefect_datastores.stores.base import ObjectInfo

Overwrite = Literal["fail", "skip", "replace", "if_changed"]
Verdict = Literal["move", "keep", "compare"]
_SHOWN = 10

NO_FILE, FOLDER = -1, -2
"""The lengths of a link or special file, and of a folder, that stand where a file would be."""


def overwrite_rule(value: bool | str) -> Overwrite:
    """Return the rule that `value` means; `True` is replace and `False` is skip, as in Azure ML.

    Raises:
        ConfigurationError: it is none of the rules.
    """
    rules: dict[bool | str, Overwrite] = {
        True: "replace",
        False: "skip",
        "fail": "fail",
        "skip": "skip",
        "replace": "replace",
        "if_changed": "if_changed",
    }
    if value not in rules:
        raise ConfigurationError(
            f"overwrite={value!r} is refused: use 'fail', 'skip', 'replace' or 'if_changed' "
            "(True means 'replace', False means 'skip')."
        )
    return rules[value]


@dataclass(frozen=True)
class Selection:
    """Which objects below a place are meant, and what they are called at the destination.

    `prefix` ends at a path boundary; names are matched, and files are laid out, relative to it,
    or by their whole name with `whole_names`.
    """

    prefix: str
    match: re.Pattern[str]
    whole_names: bool = False

    def relative(self, name: str) -> str:
        """Return the name below the prefix."""
        return name[len(self.prefix) :]


@dataclass(frozen=True)
class Fetch:
    """One object to be downloaded: `name` is asked for, `path` is written."""

    info: ObjectInfo
    name: ObjectName
    path: RelativePath
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True)
class DownloadPlan:
    """What a download will do."""

    fetches: tuple[Fetch, ...]
    directories: tuple[RelativePath, ...]

    @property
    def size(self) -> int:
        """Bytes that may have to be moved."""
        return sum(item.info.size for item in self.fetches if item.verdict != "keep")


def plan_download(
    listing: Iterable[ObjectInfo],
    selection: Selection,
    rules: NameRules,
    overwrite: Overwrite,
    size_at: Callable[[RelativePath], int | None],
) -> DownloadPlan:
    """Decide for every object of the listing, before a byte moves.

    `rules` are those of the destination's file system; `size_at` tells the length of the file
    that stands at a path, `NO_FILE` or `FOLDER` where something else does, or None.

    Raises:
        UnsafeName: a name would leave the destination or cannot be a file.
        NameCollision: two objects would be one file.
        ObjectExists: `overwrite="fail"` and a file is there.
    """
    check = NameCheck(rules)
    fetches: list[Fetch] = []
    directories: list[RelativePath] = []
    taken: list[str] = []
    for info in listing:
        relative = selection.relative(info.name)
        wanted = relative.rstrip("/") if info.is_marker else relative
        if (info.is_marker and not wanted) or not selection.match.match(wanted):
            continue
        shown = info.name if selection.whole_names else relative
        try:
            path = RelativePath(shown.rstrip("/") if info.is_marker else shown)
            if info.is_marker:
                directories.append(path)
            else:
                existing = size_at(path)
                taken += [str(path)] if existing is not None and overwrite == "fail" else []
                verdict, detail = _verdict(existing, info.size, overwrite)
                fetches.append(Fetch(info, ObjectName(info.name), path, verdict, detail))
            check.add(path, folder=info.is_marker)
        except UnsafeName as fault:
            check.refuse(fault)
    check.raise_faults("the listing")
    _refuse_taken(taken, "The destination")
    return DownloadPlan(tuple(fetches), tuple(directories))


@dataclass(frozen=True)
class SourceFile:
    """One local file to be uploaded: opened at `path` below the source, called `relative`."""

    path: RelativePath
    relative: RelativePath
    size: int


@dataclass(frozen=True)
class Send:
    """One file to be uploaded as `name`; `replaces` is what stands there now."""

    source: SourceFile
    name: ObjectName
    verdict: Verdict
    replaces: ObjectInfo | None = None
    detail: str = ""


@dataclass(frozen=True)
class UploadPlan:
    """What an upload will do."""

    sends: tuple[Send, ...]

    @property
    def size(self) -> int:
        """Bytes that may have to be moved."""
        return sum(item.source.size for item in self.sends if item.verdict != "keep")


def plan_upload(
    files: Iterable[SourceFile],
    target: str,
    rules: NameRules,
    overwrite: Overwrite,
    existing: Mapping[str, ObjectInfo],
) -> UploadPlan:
    """Decide for every local file, before a byte moves.

    `rules` are those of the service; `existing` holds what stands below `target` now.

    Raises:
        UnsafeName: the service cannot hold a name as it is.
        NameCollision: two files would be one object.
        ObjectExists: `overwrite="fail"` and an object is there.
    """
    check = NameCheck(rules)
    sends: list[Send] = []
    taken: list[str] = []
    for file in files:
        try:
            name = ObjectName(join(target, str(file.relative)))
        except UnsafeName as fault:
            check.refuse(fault)
            continue
        check.add(tuple(name.split("/")))
        found = existing.get(name)
        taken += [name] if found is not None and overwrite == "fail" else []
        verdict, detail = _verdict(found.size if found else None, file.size, overwrite)
        sends.append(Send(file, name, verdict, found, detail))
    check.raise_faults("the source")
    _refuse_taken(taken, "The datastore")
    return UploadPlan(tuple(sends))


def _verdict(existing: int | None, size: int, overwrite: Overwrite) -> tuple[Verdict, str]:
    if existing is None or overwrite in {"replace", "fail"}:
        return "move", ""
    if overwrite == "skip" and existing != FOLDER:  # writing there says what is wrong
        if existing == NO_FILE:
            return "keep", "kept, though it is no regular file"
        return (
            "keep",
            "" if existing == size else f"kept, though it has {existing} bytes instead of {size}",
        )
    return ("compare" if existing == size else "move"), ""


def _refuse_taken(taken: list[str], where: str) -> None:
    if taken:
        shown = ", ".join(map(repr, taken[:_SHOWN])) + (", ..." if len(taken) > _SHOWN else "")
        raise ObjectExists(
            f"Nothing was moved: {where} has {len(taken)} of the files already ({shown}) and overwrite is 'fail'."
        )
