"""From a listing to a plan. Pure: no request is made and no file is touched here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from prefect_datastores.errors import ConfigurationError, ObjectExists, UnsafeName
from prefect_datastores.names import (
    NameCheck,
    NameRules,
    ObjectName,
    OutOfOrder,
    RelativePath,
    join,
    name_check,
)
from prefect_datastores.staging.generations import is_kept_for_publishing
from prefect_datastores.staging.spool import Spool
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


class Fetch(NamedTuple):
    """One object to be downloaded: `name` is asked for, `path` is written."""

    info: ObjectInfo
    name: ObjectName
    path: RelativePath
    verdict: Verdict
    detail: str = ""


def _plain(info: ObjectInfo) -> tuple[Any, ...]:
    """Return the values; marshal knows texts, and no names that are checked."""
    name, *others, stored_as = info
    return (str(name), *others, str(stored_as))


def _pack_fetch(item: Fetch) -> tuple[Any, ...]:
    return (_plain(item.info), str(item.path), item.verdict, item.detail)


def _unpack_fetch(packed: tuple[Any, ...]) -> Fetch:
    info, path, verdict, detail = packed
    made = ObjectInfo(*info)
    return Fetch(made, ObjectName(made.asked), RelativePath(path), verdict, detail)


@dataclass(frozen=True)
class DownloadPlan:
    """What a download will do; `size` is the bytes that may have to be moved, `needed` those of new content."""

    fetches: Sequence[Fetch]
    directories: Sequence[RelativePath]
    size: int
    needed: int


class DownloadPlanning:
    """Decides for one object of a listing after the other, by little memory."""

    def __init__(
        self,
        selection: Selection,
        rules: NameRules,
        overwrite: Overwrite,
        size_at: Callable[[RelativePath], int | None],
    ) -> None:
        """Begin with nothing.

        `rules` are those of the destination's file system; `size_at` tells the length of the file
        that stands at a path, `NO_FILE` or `FOLDER` where something else does, or None.
        """
        self._selection, self._rules = selection, rules
        self._overwrite, self._size_at = overwrite, size_at
        self._check = name_check(rules)
        self._taken = _Taken("The destination")
        self.prefix = "" if selection.whole_names else selection.prefix
        """What comes before the path of an object in its name."""
        self.fetches = Spool(_pack_fetch, _unpack_fetch)
        self.directories: Spool[RelativePath] = Spool(str, RelativePath)
        self.size = self.needed = 0

    def add(self, info: ObjectInfo) -> None:
        """Decide for one more object."""
        relative = self._selection.relative(info.name)
        wanted = relative.rstrip("/") if info.is_marker else relative
        if (info.is_marker and not wanted) or not self._selection.match.match(wanted):
            return
        shown = info.name if self._selection.whole_names else relative
        try:
            path = RelativePath(shown.rstrip("/") if info.is_marker else shown)
            fetch = None if info.is_marker else self._fetch(info, path)
        except UnsafeName as fault:
            self._check.refuse(fault)
            return
        try:
            self._check.add(path, folder=info.is_marker)
        except OutOfOrder:
            self._check_again()
            self._check.add(path, folder=info.is_marker)
        if fetch is None:
            self.directories.append(path)
        else:
            self.fetches.append(fetch)

    def _fetch(self, info: ObjectInfo, path: RelativePath) -> Fetch:
        existing = self._size_at(path)
        if existing is not None and self._overwrite == "fail":
            self._taken.add(str(path))
        verdict, detail = _verdict(existing, info.size, self._overwrite)
        fetch = Fetch(info, ObjectName(info.asked), path, verdict, detail)
        self.size += info.size if verdict != "keep" else 0
        self.needed += info.size if verdict == "move" else 0
        return fetch

    def _check_again(self) -> None:
        """Check all names that came, and those to come, as one must where they have no order."""
        check = NameCheck(self._rules, unsafe=self._check.unsafe)
        for directory in self.directories:
            check.add(directory, folder=True)
        for fetch in self.fetches:
            check.add(fetch.path)
        self._check = check

    def finish(self) -> DownloadPlan:
        """Return the whole plan.

        Raises:
            UnsafeName: a name would leave the destination or cannot be a file.
            NameCollision: two objects would be one file.
            ObjectExists: `overwrite="fail"` and a file is there.
        """
        self._check.raise_faults("the listing")
        self._taken.refuse()
        return DownloadPlan(self.fetches, self.directories, self.size, self.needed)


@dataclass(frozen=True)
class SourceFile:
    """One local file to be uploaded: opened at `path` below the source, called `relative`."""

    path: RelativePath
    relative: RelativePath
    size: int


def source_files() -> Spool[SourceFile]:
    """Return an empty sequence for the files of a source."""
    return Spool(
        lambda file: (str(file.path), str(file.relative), file.size),
        lambda packed: SourceFile(RelativePath(packed[0]), RelativePath(packed[1]), packed[2]),
    )


class Send(NamedTuple):
    """One file to be uploaded as `name`; `replaces` is what stands there now."""

    source: SourceFile
    name: ObjectName
    verdict: Verdict
    replaces: ObjectInfo | None = None
    detail: str = ""


def _pack_send(item: Send) -> tuple[Any, ...]:
    file, replaced = item.source, item.replaces
    source = (str(file.path), str(file.relative), file.size)
    return (source, str(item.name), item.verdict, replaced and _plain(replaced), item.detail)


def _unpack_send(packed: tuple[Any, ...]) -> Send:
    (path, relative, size), name, verdict, replaced, detail = packed
    return Send(
        SourceFile(RelativePath(path), RelativePath(relative), size),
        ObjectName(name),
        verdict,
        replaced and ObjectInfo(*replaced),
        detail,
    )


@dataclass(frozen=True)
class UploadPlan:
    """What an upload will do; `size` is the bytes that may have to be moved."""

    sends: Sequence[Send]
    size: int


def check_names(files: Iterable[SourceFile], target: str, rules: NameRules) -> None:
    """Return when every file can be an object below `target`; `rules` are those of the service.

    Raises:
        UnsafeName: the service cannot hold a name as it is.
        NameCollision: two files would be one object.
    """
    try:
        _check_names(files, target, name_check(rules))
    except OutOfOrder:
        _check_names(files, target, NameCheck(rules))


def _check_names(files: Iterable[SourceFile], target: str, check: NameCheck) -> None:
    for file in files:
        if is_kept_for_publishing(file.relative):
            check.refuse(
                UnsafeName(
                    f"The name {str(file.relative)!r} is kept for published folders; leave it out."
                )
            )
            continue
        try:
            check.add(tuple(ObjectName(join(target, str(file.relative))).split("/")))
        except UnsafeName as fault:
            check.refuse(fault)
    check.raise_faults("the source")


def plan_upload(
    files: Iterable[SourceFile],
    target: str,
    overwrite: Overwrite,
    existing: Callable[[ObjectName], ObjectInfo | None],
) -> UploadPlan:
    """Decide for every local file, before a byte moves; `existing` tells what stands at a name.

    Raises:
        ObjectExists: `overwrite="fail"` and an object is there.
    """
    sends = Spool(_pack_send, _unpack_send)
    taken, size = _Taken("The datastore"), 0
    for file in files:
        name = ObjectName(join(target, str(file.relative)))
        found = existing(name)
        if found is not None and overwrite == "fail":
            taken.add(name)
        verdict, detail = _verdict(found.size if found else None, file.size, overwrite)
        sends.append(Send(file, name, verdict, found, detail))
        size += file.size if verdict != "keep" else 0
    taken.refuse()
    return UploadPlan(sends, size)


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


@dataclass
class _Taken:
    """The names that are there already, where none may be."""

    where: str
    shown: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.shown) < _SHOWN:
            self.shown.append(name)

    def refuse(self) -> None:
        if self.count:
            shown = ", ".join(map(repr, self.shown)) + (", ..." if self.count > _SHOWN else "")
            raise ObjectExists(
                f"Nothing was moved: {self.where} has {self.count} of the files already ({shown}) and overwrite is "
                "'fail'."
            )
