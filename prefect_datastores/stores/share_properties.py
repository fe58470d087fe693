"""What a share keeps of a file beside its content: times, attributes and permission, as headers have them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

from prefect_datastores.errors import TransferError

KIND = "azure_files"
"""Of a file and of a folder alike; a folder's attributes have `Directory` among them."""
WRITTEN = "x-ms-file-last-write-time"
CHANGED = "x-ms-file-change-time"
ATTRIBUTES = "x-ms-file-attributes"
CREATED = "x-ms-file-creation-time"
PERMISSION = "x-ms-file-permission"
PERMISSION_KEY = "x-ms-file-permission-key"

_FLAGS = frozenset(
    {
        *("ReadOnly", "Hidden", "System", "Archive", "Temporary", "Offline"),
        *("NotContentIndexed", "NoScrubData", "None"),
    }
)
_DIRECTORY = "Directory"
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z", re.ASCII)
# A security descriptor as text; a line break would end the header that it is in.
_DESCRIPTOR = re.compile(r"[OGDS]:[\x20-\x7e]*")
_LONGEST_DESCRIPTOR = 64 * 1024  # a descriptor in Windows' own form is no longer
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FIRST = datetime(1601, 1, 1, tzinfo=timezone.utc)  # from which Windows counts
_SECOND = 10**9


def moment_text(nanoseconds: int) -> str:
    """Return a time since the epoch as headers have it, without what is finer than 100 nanoseconds.

    Raises:
        TransferError: files of a share cannot have it.
    """
    seconds, rest = divmod(nanoseconds, _SECOND)
    try:
        moment = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        moment = None
    if moment is None or moment < _FIRST:
        raise TransferError(
            f"A file of a share cannot have the time {seconds} (seconds since 1970): it is before the year 1601, or "
            "after 9999. Give the local file another time, or leave keep_times out."
        )
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest // 100:07d}Z"


def checked(
    properties: Mapping[str, str], where: str, *, of_folder: bool = False
) -> dict[str, str]:
    """Return properties that can be those of a file (or folder) of a share, and that nothing else hides in.

    Raises:
        TransferError: they cannot.
    """
    found = dict(properties)
    flags = {flag.strip(" ") for flag in found.get("attributes", "None").split("|")}
    descriptor = found.get("permission", "D:")
    if (
        not found.keys() <= {"attributes", "created", "permission"}
        or not flags <= (_FLAGS | {_DIRECTORY} if of_folder else _FLAGS)
        or not _MOMENT.fullmatch(found.get("created", "2000-01-01T00:00:00Z"))
        or not _DESCRIPTOR.fullmatch(descriptor)
        or len(descriptor) > _LONGEST_DESCRIPTOR
    ):
        raise TransferError(
            f"The properties for {where} are none that a {'folder' if of_folder else 'file'} of a share can have; "
            "they were not used. Leave "
            "keep_properties out, or, where a local file has them, download it once more with keep_properties=True."
        )
    return found


def told_properties(
    headers: Mapping[str, str], descriptor: str, where: str, *, of_folder: bool = False
) -> dict[str, str]:
    """Return the properties that an answer tells of a file or a folder; its permission is `descriptor`."""
    told = {
        "attributes": headers.get(ATTRIBUTES, ""),
        "created": headers.get(CREATED, ""),
        "permission": descriptor,  # the service is known to say "" for some
    }
    found = {name: text for name, text in told.items() if text}
    return checked(found, where, of_folder=of_folder)


def same_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what gives a file of the same share the properties that an answer tells of another."""
    wanted = (ATTRIBUTES, CREATED, PERMISSION_KEY)
    return {name: headers[name] for name in wanted if headers.get(name)}
