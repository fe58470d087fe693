"""What a share, a directory and a file may be called, and which names are one."""

import re

from servers.azure_files.errors import Refused

_SHARE = re.compile(r"[a-z0-9](?:-?[a-z0-9])*")
_REFUSED = re.compile(r'[\x00-\x1f"\\/:|<>*?]')
_RESERVED = re.compile(r"(?:LPT[1-9]|COM[1-9]|PRN|AUX|NUL|CON|CLOCK\$)", re.IGNORECASE)
_LONGEST_NAME, _LONGEST_PATH, _DEEPEST = 255, 2048, 250

Path = tuple[str, ...]


def check_share(name: str) -> None:
    """Refuse a name that is none for a share."""
    if not 3 <= len(name) <= 63 or not _SHARE.fullmatch(name):
        raise Refused("InvalidResourceName")


def path_of(text: str, *, keeps_dots: bool) -> Path:
    """Return the components of a path; a slash at its end is dropped."""
    if not text:
        return ()
    if _units(text) > _LONGEST_PATH:
        raise Refused("InvalidFileOrDirectoryPathName")
    path = tuple(_component(part, keeps_dots) for part in text.removesuffix("/").split("/"))
    if len(path) > _DEEPEST:
        raise Refused("InvalidFileOrDirectoryPathName")
    return path


def _component(name: str, keeps_dots: bool) -> str:
    if not name:
        raise Refused("InvalidUri")
    kept = name if keeps_dots else name.rstrip(".")
    if kept.strip(".") == "" and len(kept) < 3:
        raise Refused("InvalidResourceName")
    if _REFUSED.search(kept) or _RESERVED.fullmatch(kept) or _units(kept) > _LONGEST_NAME:
        raise Refused("InvalidResourceName")
    return kept


def identity(name: str) -> str:
    """Return what names have in common that are one: letters count without their case.

    As on NTFS, each letter for itself: "ß" is no "SS".
    """
    return "".join(upper if len(upper := letter.upper()) == 1 else letter for letter in name)


def _units(text: str) -> int:
    """Count as Windows does, in UTF-16."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
