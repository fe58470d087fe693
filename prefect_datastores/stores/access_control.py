"""Who owns a file of a data lake, and who may do what with it, as headers have it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from prefect_datastores.errors import TransferError

KIND = "azure_data_lake"

_HEADERS = {
    "owner": "x-ms-owner",
    "group": "x-ms-group",
    "permissions": "x-ms-permissions",
    "acl": "x-ms-acl",
}
# An object id, a name of the directory, or "$superuser"; a line break would end its header.
_NAME = r"[\x21-\x2b\x2d-\x39\x3b-\x7e]{1,256}"
_ENTRY = rf"(?:user|group|mask|other):(?:{_NAME})?:[r-][w-][x-]"
_DEFAULT = rf"(?:default:)?{_ENTRY}"  # what is made in a folder begins with those
_SHAPES = {
    "owner": re.compile(_NAME),
    "group": re.compile(_NAME),
    "permissions": re.compile(r"(?:[r-][w-][xsS-]){2}[r-][w-][xtT-]\+?"),
    "acl": re.compile(rf"{_ENTRY}(?:,{_ENTRY})*"),
}
_SHAPES_OF_FOLDER = {**_SHAPES, "acl": re.compile(rf"{_DEFAULT}(?:,{_DEFAULT})*")}


def checked(
    properties: Mapping[str, str], where: str, *, of_folder: bool = False
) -> dict[str, str]:
    """Return properties that can be those of a file (or folder) of a data lake, and that nothing else hides in.

    Raises:
        TransferError: they cannot.
    """
    found, shapes = dict(properties), _SHAPES_OF_FOLDER if of_folder else _SHAPES
    if not all(name in shapes and shapes[name].fullmatch(text) for name, text in found.items()):
        raise TransferError(
            f"The access control for {where} is none that a {'folder' if of_folder else 'file'} of a data lake can "
            "have; it was not used. Leave "
            "keep_properties out, or, where a local file has it, download it once more with keep_properties=True."
        )
    return found


def told_properties(
    headers: Mapping[str, str], where: str, *, of_folder: bool = False
) -> dict[str, str]:
    """Return what an answer tells of a file or a folder."""
    told = {name: headers.get(header, "") for name, header in _HEADERS.items()}
    found = {name: text for name, text in told.items() if text}
    return checked(found, where, of_folder=of_folder)


def changing_headers(wanted: Mapping[str, str], has: Mapping[str, str]) -> dict[str, str]:
    """Return what gives a file that has the one what is wanted; none where that is the same.

    Only who may do everything can give a file to another owner, so what is the same is not asked
    for. The list says all that the permissions do, and both together are refused.
    """
    what = "acl" if "acl" in wanted else "permissions"
    given = {
        name: wanted[name]
        for name in ("owner", "group", what)
        if name in wanted and wanted[name] != has.get(name)
    }
    if what == "permissions" and what in given:
        given[what] = given[what].removesuffix("+")
    return {_HEADERS[name]: text for name, text in given.items()}
