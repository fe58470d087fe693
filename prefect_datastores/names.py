"""Names: remote names, local paths, and the one bridge between them. No I/O.

`ObjectName` and `RelativePath` can only be made by checking, and stores and files take nothing
else, so an unchecked name cannot reach either. Python's own SDKs resolve dot segments on the
client: with a SAS, blob `../other/secret` reads another container. That is why names are refused
here, in both directions, before any client sees them.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prefect_datastores.errors import ConfigurationError, NameCollision, UnsafeName

MAX_OBJECT_NAME = 1024
"""Characters in a blob's name (Azure Storage: naming and referencing containers and blobs)."""

MAX_COMPONENT_BYTES = 255
"""Bytes in one component of a local path (NAME_MAX of ext4, xfs, apfs)."""

_DATASTORE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,253}[a-z0-9])?")
_CONTAINER_NAME = re.compile(r"[a-z0-9](?:-?[a-z0-9])*")
_ACCOUNT_NAME = re.compile(r"[a-z0-9]{3,24}")
_LONGEST_SHOWN = 60  # what is longer may be a key that stands in the wrong place
_REFERENCE_NAME = re.compile(r"[A-Za-z0-9_]+")


def _component_fault(component: str) -> str | None:
    """Say why a component can stand in no name, local or remote; None when it can."""
    if component in {"", ".", ".."}:
        return f"it has the component {component!r}"
    if "\\" in component:
        return "it has a backslash, which the service turns into '/'"
    if any(ord(char) < ord(" ") and char not in "\t\n\r" for char in component):
        return "it has a control character"
    if any(char in "\ufffe\uffff" or "\ud800" <= char <= "\udfff" for char in component):
        return "it has a character that XML cannot carry"
    return None


class ObjectName(str):
    """A remote name that is safe to put into a request: relative, `/`-separated, no dot segments."""

    __slots__ = ()

    def __new__(cls, raw: str) -> ObjectName:
        """Check `raw`.

        Raises:
            UnsafeName: it is empty, absolute, too long, or has a component no store may see.
        """
        fault = (
            f"it is longer than {MAX_OBJECT_NAME} characters"
            if len(raw) > MAX_OBJECT_NAME
            else None
        )
        fault = fault or next(filter(None, map(_component_fault, raw.split("/"))), None)
        if fault:
            raise UnsafeName(f"The object name {raw!r} is refused: {fault}.")
        return super().__new__(cls, raw)


class RelativePath(tuple[str, ...]):
    """Components of a local path below a root; each can stand on its own in a directory."""

    __slots__ = ()

    def __new__(cls, raw: str) -> RelativePath:
        """Split `raw` at `/` and check each component.

        Raises:
            UnsafeName: the path is absolute, climbs, or has a component a disk cannot hold.
        """
        parts = raw.split("/")
        for part in parts:
            fault = _component_fault(part)
            if not fault and len(part.encode()) > MAX_COMPONENT_BYTES:
                fault = f"a component is longer than {MAX_COMPONENT_BYTES} bytes"
            if fault:
                raise UnsafeName(f"The name {raw!r} cannot become a local file: {fault}.")
        return super().__new__(cls, parts)

    def __str__(self) -> str:
        """Give the path with `/`."""
        return "/".join(self)

    def __getnewargs__(self) -> tuple[str]:
        return (str(self),)


def normal_path(raw: str | None) -> str:
    """Return the place in a datastore that `raw` means; `./bar`, `/bar`, `bar/` and `bar` are one.

    Raises:
        UnsafeName: a component is `..`, or no store may see it.
    """
    parts = [part for part in (raw or "").split("/") if part not in {"", "."}]
    return ObjectName("/".join(parts)) if parts else ""


def folder_prefix(path: str) -> str:
    """Return the prefix of everything below `path`; it ends at a path boundary."""
    return f"{path}/" if path else ""


def join(*parts: str) -> str:
    """Join places in a datastore; empty ones vanish."""
    return "/".join(part for part in parts if part)


def datastore_name(raw: str) -> str:
    """Return the one spelling of a datastore's name: lower case, `_` for `-`.

    Azure ML's names are lower-case letters, digits and underscores, a Prefect block's are
    lower-case letters, digits and dashes: `my_data`, `my-data` and `My_Data` are one datastore.

    Raises:
        ConfigurationError: no Azure ML workspace and no Prefect server would take the name.
    """
    lowered = raw.lower() if isinstance(raw, str) else ""
    if not _DATASTORE_NAME.fullmatch(lowered):
        raise ConfigurationError(
            f"The datastore name {raw!r} is refused: use 1 to 255 letters, digits and '_' "
            "('-' is taken for '_'), and begin and end with a letter or digit."
        )
    return lowered.replace("-", "_")


def is_datastore_name(raw: str) -> bool:
    """Tell whether `datastore_name` takes it."""
    return _DATASTORE_NAME.fullmatch(raw.lower()) is not None


def block_name(name: str) -> str:
    """Return the name of the Prefect block document that holds datastore `name`."""
    return datastore_name(name).replace("_", "-")


def container_name(raw: str) -> str:
    """Check the name of a blob container or file share.

    Raises:
        ConfigurationError: the service would answer 400 to it.
    """
    valid = 3 <= len(raw) <= 63 and _CONTAINER_NAME.fullmatch(raw)  # noqa: PLR2004
    if not valid and raw not in {"$root", "$web", "$logs"}:
        raise ConfigurationError(
            f"The container name {raw!r} is refused: use 3 to 63 lower-case letters, digits and "
            "single dashes, and begin and end with a letter or digit."
        )
    return raw


def account_name(raw: str) -> str:
    """Check the name of a storage account.

    Raises:
        ConfigurationError: no storage account can have it.
    """
    if not _ACCOUNT_NAME.fullmatch(raw):
        shown = repr(raw) if len(raw) <= _LONGEST_SHOWN else f"of {len(raw)} characters"
        raise ConfigurationError(
            f"The account name {shown} is refused: a storage account has 3 to 24 lower-case "
            "letters and digits (the name alone, without '.blob.core.windows.net')."
        )
    return raw


def reference_name(raw: str) -> str:
    """Check a name given to a reference: it becomes part of an environment variable.

    Raises:
        ConfigurationError: a shell could not expand the variable.
    """
    if not _REFERENCE_NAME.fullmatch(raw):
        raise ConfigurationError(
            f"The reference name {raw!r} is refused: it becomes part of an environment variable, "
            "so use letters, digits and '_' only."
        )
    return raw


def default_reference_name(datastore: str, path: str) -> str:
    """Return the datastore's name at its root, else a slug of both that is always the same.

    A path of letters, digits, `_` and `/` reads as itself (`raw`, `mnist/train` gives
    `raw_mnist_train`); any other gets eight digits of a digest, so that `a-b` and `a.b` differ.
    """
    if not path:
        return datastore
    slug = re.sub(r"[^A-Za-z0-9_]", "_", path)
    if re.search(r"[^A-Za-z0-9_/]", path):
        slug += "_" + hashlib.sha256(path.encode()).hexdigest()[:8]
    return f"{datastore}_{slug}"


@dataclass(frozen=True)
class NameRules:
    """What a place (a file system, a service) makes of names; decides which names are one."""

    case_sensitive: bool = True
    normalizes_unicode: bool = False
    strips_trailing_dots: bool = False
    refused_characters: frozenset[str] = frozenset()
    most_components: int | None = None

    def fault(self, component: str) -> str | None:
        """Say why the place cannot hold a component as it is; None when it can."""
        if self.strips_trailing_dots and component.endswith("."):
            return "has a component that ends in '.', which the service strips"
        found = "".join(sorted(self.refused_characters.intersection(component)))
        return f"has {found!r}, which the service refuses" if found else None

    def path_fault(self, path: Sequence[str]) -> str | None:
        """Say why the place cannot hold a name of these components; None when it can."""
        if self.most_components is not None and len(path) > self.most_components:
            return f"has {len(path)} components, and the service takes {self.most_components}"
        return next(filter(None, map(self.fault, path)), None)

    def key(self, component: str) -> str:
        """Return what the place files the component under."""
        if self.normalizes_unicode:
            component = unicodedata.normalize("NFC", component)
        return component if self.case_sensitive else component.casefold()

    def takes_for_one(self, name: str, other: str) -> bool:
        """Tell whether the place files two names under one."""
        return self._keys(name) == self._keys(other)

    def _keys(self, name: str) -> list[str]:
        parts = name.split("/")
        return [self.key(part.rstrip(".") if self.strips_trailing_dots else part) for part in parts]


@dataclass
class NameCheck:
    """Collects every name of one plan that cannot be represented or would collide.

    Add all names first, then `raise_faults`: people get the whole list, not one name a try.
    """

    rules: NameRules
    _files: dict[tuple[str, ...], str] = field(default_factory=dict)
    _folders: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    unsafe: list[str] = field(default_factory=list)
    collisions: list[str] = field(default_factory=list)

    def refuse(self, fault: UnsafeName) -> None:
        """Take note of a name that could not even be made."""
        self.unsafe.append(str(fault))

    def add(self, path: tuple[str, ...], *, folder: bool = False) -> None:
        """Take note of one more file, or folder, of the plan."""
        key = tuple(map(self.rules.key, path))
        shown = "/".join(path)
        if not folder:
            self._look(path, shown)
            if (other := self._files.get(key)) is not None:
                self.collisions.append(f"{other!r} and {shown!r} would be one file.")
            elif key in self._folders:
                self.collisions.append(f"{shown!r} would be a file and a folder at once.")
            self._files[key] = shown
        for depth in range(len(key) if folder else len(key) - 1, 0, -1):
            known = self._folders.get(key[:depth])
            if known == path[:depth]:
                break
            if known is not None:
                names = f"{'/'.join(known)!r} and {'/'.join(path[:depth])!r}"
                self.collisions.append(f"The folders {names} would be one.")
                break
            if key[:depth] in self._files:
                where = "/".join(path[:depth])
                self.collisions.append(f"{where!r} would be a file and a folder at once.")
            self._folders[key[:depth]] = path[:depth]

    def _look(self, path: tuple[str, ...], shown: str) -> None:
        if fault := self.rules.path_fault(path):
            self.unsafe.append(f"The name {shown!r} {fault}.")

    def raise_faults(self, where: str) -> None:
        """Raise when any name was refused.

        Raises:
            UnsafeName: some names cannot be represented.
            NameCollision: all can, but some would be one file.
        """
        if self.unsafe:
            raise UnsafeName(
                _listed(f"Nothing was moved: {where} has names that are refused.", self.unsafe)
            )
        if self.collisions:
            raise NameCollision(
                _listed(f"Nothing was moved: {where} has names that collide.", self.collisions)
            )


class OutOfOrder(Exception):
    """A name came after one that is greater."""


@dataclass
class OrderedNameCheck(NameCheck):
    """The same for names that come in order, at a place that tells all of them apart: keeps nothing.

    A name can collide only with one that it begins with, and those come right before it.
    """

    _begun: list[str] = field(default_factory=list)
    _last: str = ""

    def add(self, path: tuple[str, ...], *, folder: bool = False) -> None:
        """Take note of one more file, or folder, of the plan.

        Raises:
            OutOfOrder: another one that is greater came before; nothing can be said of this one.
        """
        shown = "/".join(path)
        if shown < self._last:
            raise OutOfOrder
        self._last = shown
        while self._begun and not shown.startswith(self._begun[-1]):
            self._begun.pop()
        for other in self._begun:
            if other == shown and not folder:
                self.collisions.append(f"{other!r} and {shown!r} would be one file.")
            elif other == shown or shown[len(other)] == "/":
                self.collisions.append(f"{other!r} would be a file and a folder at once.")
                self._begun.remove(other)  # said once
                break
        if not folder:
            self._look(path, shown)
            self._begun.append(shown)


def name_check(rules: NameRules) -> NameCheck:
    """Return a check for names that come in order, by as little memory as the place allows."""
    exact = rules.case_sensitive and not rules.normalizes_unicode
    return (OrderedNameCheck if exact else NameCheck)(rules)


def _listed(head: str, faults: list[str], most: int = 20) -> str:
    rest = len(faults) - most
    more = [f"... and {rest} more."] if rest > 0 else []
    return "\n  ".join([head, *faults[:most], *more])


def parents(path: str) -> Iterator[str]:
    """Give the folders that `path` lies in, nearest first, without the root."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def globs(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return the globs that were given; one may come alone."""
    return (given,) if isinstance(given, str) else tuple(given)


def matcher(include: Iterable[str], exclude: Iterable[str]) -> re.Pattern[str]:
    """Compile globs into one pattern over relative names.

    `*` and `?` stay within a component, `**` crosses them; a pattern without `/` matches the last
    component at any depth, and a pattern that names a folder takes all below it. No `include`
    means everything; `exclude` wins.
    """
    wanted = "|".join(map(_glob, globs(include)))
    unwanted = "|".join(map(_glob, globs(exclude)))
    refuse = rf"(?!(?:{unwanted})\Z)" if unwanted else ""
    return re.compile(rf"{refuse}(?:{wanted})\Z" if wanted else rf"{refuse}.*\Z", re.DOTALL)


def _glob(pattern: str) -> str:
    anchored = "/" in pattern.rstrip("/")
    pattern = pattern.strip("/")
    out = "" if anchored else "(?:.*/)?"
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            out, at = out + ".*", at + 2
        elif pattern[at] == "[" and (close := _class_end(pattern, at)) > 0:
            out, at = out + _class(pattern[at + 1 : close]), close + 1
        else:
            char = pattern[at]
            out, at = out + {"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char)), at + 1
    return out + "(?:/.*)?"


def _class_end(pattern: str, at: int) -> int:
    """Return where the class ends that begins at `at`, or -1; a `]` that comes first is in it."""
    return pattern.find("]", at + (3 if pattern.startswith("[!", at) else 2))


def _class(body: str) -> str:
    escaped = re.sub(r"[\\\[\]^&~|]", r"\\\g<0>", body.removeprefix("!")).replace("--", r"-\-")
    made = f"(?!/)[{'^' if body.startswith('!') else ''}{escaped}]"
    try:
        re.compile(made)
    except re.error:  # a range that ends before it begins
        return "(?!)"
    return made
