"""Owner, group, permissions and access control list of a path, as text and as values."""

import re
from dataclasses import dataclass, field, replace

from servers.data_lake.refusals import Refusal, unknown

SUPERUSER = "$superuser"
_UMASK = 0o027
_BITS = re.compile(r"[r-][w-][x-]")
_SYMBOLIC = re.compile(r"([r-][w-][x-])([r-][w-][x-])([r-][w-][xtT-])\+?")
_OCTAL = re.compile(r"[01]?[0-7]{3}")
_FIRST = {"user": 0, "group": 1, "mask": 2, "other": 3}

_FLAGS = (4, 2, 1)
_MOST_ENTRIES = 32
_ID = re.compile(r"[A-Za-z0-9$@._#-]{1,256}")

Key = tuple[str, str]
_BASE = {("user", ""), ("group", ""), ("other", "")}


def _text(bits: int) -> str:
    return "".join(
        letter if bits & flag else "-" for letter, flag in zip("rwx", _FLAGS, strict=True)
    )


def _bits(text: str) -> int:
    return sum(flag for letter, flag in zip(text, _FLAGS, strict=True) if letter not in "-T")


@dataclass(frozen=True)
class Access:
    """Who owns a path, and who may do what with it; nobody is kept from anything by it here.

    `defaults` are what is made in a directory begins with.
    """

    entries: dict[Key, int]
    owner: str = SUPERUSER
    group: str = SUPERUSER
    sticky: bool = False
    defaults: dict[Key, int] = field(default_factory=dict)

    @classmethod
    def of_new(cls, permissions: str, umask: str, *, directory: bool) -> "Access":
        """Return what a new path has: all that it is given but what the umask takes away."""
        if umask and not _OCTAL.fullmatch(umask):
            raise Refusal("InvalidHeaderValue", "x-ms-umask")
        hidden = int(umask, 8) if umask else _UMASK
        given, sticky = (
            mode_of(permissions) if permissions else (0o777 if directory else 0o666, False)
        )
        return cls(_entries_of(given & ~hidden), sticky=sticky)

    @property
    def is_extended(self) -> bool:
        """Whether there is more than owner, group and the others."""
        return len(self.entries) > 3 or bool(self.defaults)

    @property
    def permissions(self) -> str:
        """Permissions as `ls` shows them."""
        middle = self.entries.get(("mask", ""), self.entries["group", ""])
        others = _text(self.entries["other", ""])
        if self.sticky:
            others = others[:2] + ("t" if others[2] == "x" else "T")
        mark = "+" if self.is_extended else ""
        return f"{_text(self.entries['user', ''])}{_text(middle)}{others}{mark}"

    @property
    def acl(self) -> str:
        """The list, in the order in which the service writes it."""
        return ",".join(
            f"{before}{scope}:{name}:{_text(bits)}"
            for before, entries in (("", self.entries), ("default:", self.defaults))
            for (scope, name), bits in sorted(
                entries.items(), key=lambda item: (_FIRST[item[0][0]], item[0][1])
            )
        )

    def with_permissions(self, text: str) -> "Access":
        """Return the same with other permissions."""
        if self.is_extended:
            raise unknown("permissions over an access control list that names users")
        mode, sticky = mode_of(text)
        return replace(self, entries=_entries_of(mode), sticky=sticky)

    def with_acl(self, entries: dict[Key, int], defaults: dict[Key, int] | None = None) -> "Access":
        """Return the same with another list, and other defaults."""
        if not set(entries) >= _BASE:
            raise Refusal("InvalidHeaderValue", "x-ms-acl lacks an entry")
        if defaults and not set(defaults) >= _BASE:
            raise unknown("default entries without those of owner, group and others")
        return replace(self, entries=_masked(entries), defaults=_masked(defaults or {}))

    def modified(self, entries: dict[Key, int]) -> "Access":
        """Return the same with some entries more, or others."""
        kept = {key: bits for key, bits in self.entries.items() if key != ("mask", "")}
        return replace(self, entries=_masked({**kept, **entries}))

    def without(self, keys: list[Key]) -> "Access":
        """Return the same without some entries."""
        if any(not name and scope != "mask" for scope, name in keys):
            raise Refusal("InvalidHeaderValue", "the entries of owner, group and others stay")
        gone = {*keys, ("mask", "")}
        kept = {key: bits for key, bits in self.entries.items() if key not in gone}
        return replace(self, entries=_masked(kept))


def check_name(name: str) -> str:
    """Return who is to be owner or group, or "" for the same as before; refuse what names nobody."""
    if name and not _ID.fullmatch(name):
        raise Refusal("InvalidHeaderValue", "an owner or a group")
    return name


def mode_of(text: str) -> tuple[int, bool]:
    """Read permissions in either of their forms."""
    if _OCTAL.fullmatch(text):
        return int(text[-3:], 8), len(text) == 4 and text[0] == "1"
    found = _SYMBOLIC.fullmatch(text)
    if not found or text.endswith("+"):
        raise Refusal("InvalidHeaderValue", "x-ms-permissions")
    user, group, other = (_bits(part) for part in found.groups())
    return user << 6 | group << 3 | other, found[3][2] in "tT"


def acl_of(text: str) -> dict[Key, int]:
    """Read an access control list."""
    entries: dict[Key, int] = {}
    if text.count(",") >= _MOST_ENTRIES:
        raise Refusal("InvalidInput", "more entries than an access control list may have")
    for key, bits in _split(text, parts=3):
        if key[1] and not _ID.fullmatch(key[1]):
            raise Refusal("InvalidHeaderValue", "x-ms-acl")
        if not _BITS.fullmatch(bits) or key in entries:
            raise Refusal("InvalidHeaderValue", "x-ms-acl")
        entries[key] = _bits(bits)
    return entries


def split_defaults(text: str) -> tuple[str, str]:
    """Return the entries of a list, and its default ones as such a list."""
    entries = text.split(",")
    defaults = [entry for entry in entries if entry.startswith("default:")]
    others = [entry for entry in entries if not entry.startswith("default:")]
    return ",".join(others), ",".join(entry.removeprefix("default:") for entry in defaults)


def keys_of(text: str) -> list[Key]:
    """Read what of an access control list is to be removed."""
    return [key for key, _ in _split(text, parts=2)]


def _split(text: str, *, parts: int) -> list[tuple[Key, str]]:
    found = []
    for entry in text.split(","):
        if entry.startswith("default:") or entry == "default":
            raise unknown("default entries of an access control list")
        scope, _, rest = entry.partition(":")
        name, _, bits = rest.partition(":")
        if scope not in _FIRST or (bits and parts == 2):
            raise Refusal("InvalidHeaderValue", "x-ms-acl")
        found.append(((scope, name), bits))
    return found


def _entries_of(mode: int) -> dict[Key, int]:
    return {("user", ""): mode >> 6 & 7, ("group", ""): mode >> 3 & 7, ("other", ""): mode & 7}


def _masked(entries: dict[Key, int]) -> dict[Key, int]:
    """Add the mask that a list with names has: all that any of them may, unless it is given."""
    named = [bits for (scope, name), bits in entries.items() if name or scope == "group"]
    if ("mask", "") in entries or not any(name for _, name in entries):
        return entries
    mask = 0
    for bits in named:
        mask |= bits
    return {**entries, ("mask", ""): mask}
