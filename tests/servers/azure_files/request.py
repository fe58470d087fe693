"""A request as it came, taken apart; and the answer to it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote_to_bytes

from servers.azure_files.errors import Refused, unknown
from servers.azure_files.names import Path, path_of

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_META = "x-ms-meta-"
_META_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

VERSIONS = (
    "2014-02-14", "2015-02-21", "2015-04-05", "2015-07-08", "2015-12-11", "2016-05-31",
    "2017-04-17", "2017-07-29", "2017-11-09", "2018-03-28", "2018-11-09", "2019-02-02",
    "2019-07-07", "2019-10-10", "2019-12-12", "2020-02-10", "2020-04-08", "2020-06-12",
    "2020-08-04", "2020-10-02", "2020-12-06", "2021-02-12", "2021-04-10", "2021-06-08",
    "2021-08-06", "2021-10-04", "2021-12-02", "2022-11-02", "2023-01-03", "2023-05-03",
    "2023-08-03", "2023-11-03", "2024-02-04", "2024-05-04", "2024-08-04", "2024-11-04",
    "2025-01-05", "2025-05-05", "2025-07-05", "2025-11-05", "2026-02-06", "2026-04-06",
    "2026-06-06", "2026-10-06", "2027-03-07",
)  # fmt: skip


def decoded(text: str) -> str:
    """Return what is percent-encoded."""
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise Refused("InvalidUri") from None


@dataclass(frozen=True)
class Request:
    """One request; the names of its headers and of its query's parameters are in lower case."""

    method: str
    raw_path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    peer: str

    @classmethod
    def parse(
        cls, method: str, target: str, headers: Mapping[str, str], body: bytes, peer: str
    ) -> Request:
        """Take the target apart; what is in its path is looked at when it is asked for."""
        raw_path, _, raw_query = target.partition("?")
        query: dict[str, str] = {}
        for field_ in filter(None, raw_query.split("&")):
            name, _, value = field_.partition("=")
            key = decoded(name).lower()
            if key in query:
                raise unknown(f"the query's {key}, twice")
            query[key] = decoded(value)
        return cls(method, raw_path, query, headers, body, peer)

    @cached_property
    def _parts(self) -> tuple[str, str, str]:
        account, _, rest = self.raw_path.removeprefix("/").partition("/")
        share, _, path = rest.partition("/")
        return decoded(account), decoded(share), path

    @property
    def account(self) -> str:
        """The account that the address names."""
        return self._parts[0]

    @property
    def share(self) -> str:
        """The share, or "" where the request is about the account."""
        return self._parts[1]

    @cached_property
    def path(self) -> Path:
        """The path in the share."""
        keeps = self.flag("x-ms-allow-trailing-dot")
        return path_of(decoded(self._parts[2]), keeps_dots=keeps)

    @property
    def has_path(self) -> bool:
        """Whether it is about more than the share, whose root has no path."""
        return bool(self._parts[2])

    @property
    def is_by_sas(self) -> bool:
        """Whether a shared access signature signs it."""
        return "sig" in self.query

    @property
    def version(self) -> str:
        """The version of the protocol that it speaks."""
        given = self.headers.get("x-ms-version", "")
        if not given and self.is_by_sas:
            given = self.query.get("sv", "")
        if not given:
            raise Refused("MissingRequiredHeader", "x-ms-version")
        if given not in VERSIONS:
            raise Refused("InvalidHeaderValue", "x-ms-version")
        return given

    def since(self, version: str) -> bool:
        """Whether its version is this one or a later one."""
        return self.version >= version

    def header(self, name: str) -> str:
        """Return a header that has to be there."""
        value = self.headers.get(name, "")
        if not value:
            raise Refused("MissingRequiredHeader", name)
        return value

    def flag(self, name: str) -> bool:
        """Return what is true or false."""
        value = self.headers.get(name, "false").lower()
        if value not in {"true", "false"}:
            raise Refused("InvalidHeaderValue", name)
        return value == "true"

    def number(self, name: str, most: int) -> int:
        """Return a number that has to be there."""
        value = self.header(name)
        if not (value.isascii() and value.isdecimal()) or int(value) > most:
            raise Refused("InvalidHeaderValue", name)
        return int(value)

    def metadata(self) -> dict[str, str]:
        """Return the metadata that it brings."""
        found = {}
        for name, value in self.headers.items():
            if name.startswith(_META):
                key = name.removeprefix(_META)
                if not key:
                    raise Refused("EmptyMetadataKey")
                if not _META_NAME.fullmatch(key):
                    raise Refused("InvalidMetadata")
                found[key] = value
        return found

    def range(self, name: str = "x-ms-range") -> tuple[int, int | None] | None:
        """Return the first and the last byte that it names, the last being None for the end."""
        text = self.headers.get(name, "")
        if not text and name == "x-ms-range":
            text = self.headers.get("range", "")
        if not text:
            return None
        found = _RANGE.fullmatch(text)
        if not found:
            raise unknown(f"the range {text!r}")
        first, last = int(found[1]), int(found[2]) if found[2] else None
        if last is not None and last < first:
            raise Refused("InvalidHeaderValue", name)
        return first, last

    def closed_range(self, name: str = "x-ms-range") -> tuple[int, int]:
        """Return a range that has to be there, with its end."""
        found = self.range(name)
        if found is None:
            raise Refused("MissingRequiredHeader", name)
        first, last = found
        if last is None:
            raise Refused("InvalidHeaderValue", name)
        return first, last

    def checked_md5(self) -> str:
        """Return the body's MD5; refuse the body where it is not the one that was announced."""
        digest = md5(self.body)
        given = self.headers.get("content-md5", "")
        if given:
            try:
                is_one = len(base64.b64decode(given, validate=True)) == 16
            except binascii.Error:
                is_one = False
            if not is_one:
                raise Refused("InvalidMd5")
            if given != digest:
                raise Refused("Md5Mismatch")
        return digest


@dataclass
class Answer:
    """What is sent back; `length` is announced where no body is sent, as HEAD has it."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    is_chunked: bool = False


def md5(data: bytes) -> str:
    """Return the digest as headers hold it."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def xml(text: str) -> Answer:
    """Answer with a document; the service sends it in chunks, with a byte order mark."""
    body = f'\ufeff<?xml version="1.0" encoding="utf-8"?>{text}'.encode()
    return Answer(200, {"Content-Type": "application/xml"}, body, is_chunked=True)
