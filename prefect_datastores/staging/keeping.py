"""What is kept of an object beside its content, when that is asked for: times and properties.

A local file has the properties of its object in one extended attribute, as JSON that says of which
kind of service they are. What is read from there is not trusted: the store looks at it once more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from prefect_datastores.errors import ConfigurationError, TransferError
from prefect_datastores.files import Folder
from prefect_datastores.stores.base import ObjectStore, check_kept

_VERSION = 1


@dataclass(frozen=True)
class Keep:
    """Which of it is asked for."""

    times: bool = False
    properties: bool = False

    def check(self, store: ObjectStore, *, at_once: bool = False) -> None:
        """Return when the store has what is to be kept; `at_once` is for a folder that is seen at once.

        Raises:
            ConfigurationError: it has not.
        """
        if self.times or self.properties:
            check_kept(store, times=self.times, properties=self.properties)
        if self.properties and at_once:
            raise ConfigurationError(
                "keep_properties=True cannot be had with publish='atomic': each publish makes new objects, which "
                "replace none whose properties could be kept. Leave one of the two out. Nothing was moved."
            )


NOTHING = Keep()


def check_disk(folder: Folder) -> None:
    """Return when the files of a folder can have properties.

    Raises:
        ConfigurationError: they cannot.
    """
    if not folder.keeps_attributes():
        raise ConfigurationError(
            f"keep_properties=True cannot be had in {folder.root}: properties are kept in an extended attribute of "
            "each file, and this system or its disk has none. Use a disk that has them (ext4, XFS, btrfs), or leave "
            "keep_properties out. Nothing was moved."
        )


def to_microseconds(nanoseconds: int) -> int:
    """Return a time without what is finer than a microsecond, which not every way of a time keeps."""
    return nanoseconds // 1000 * 1000


def nanoseconds_of(seconds: float) -> int:
    """Return the time that a store tells, to the microsecond, as finer ones are lost in its fraction."""
    return round(seconds * 1e6) * 1000


def to_attribute(kind: str, properties: Mapping[str, str]) -> bytes:
    """Return what a file is to have of its object's properties."""
    value = {"version": _VERSION, "kind": kind, "properties": dict(properties)}
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def from_attribute(
    value: bytes | None, kind: str, path: object, outcome: str = "the file was not stored"
) -> Mapping[str, str] | None:
    """Return the properties that a file or folder has of an object of that kind of service, or None.

    `outcome` says what becomes of it where they are damaged.

    Raises:
        TransferError: what the file has is damaged, or of a later version of this package.
    """
    if value is None:
        return None
    try:
        found = json.loads(value)
        version, of, properties = found["version"], found["kind"], found["properties"]
        is_whole = isinstance(properties, dict) and all(
            isinstance(text, str) for text in properties.values()
        )
    except (ValueError, KeyError, TypeError):
        version, of, is_whole = None, None, False
    if version != _VERSION or not is_whole:
        raise TransferError(
            f"The properties that are kept with {path} cannot be read; {outcome}. Download it once "
            "more with keep_properties=True, take the attribute user.prefect_datastores.properties off, or leave "
            "keep_properties out."
        )
    return properties if of == kind else None
