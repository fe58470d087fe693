"""One request as the operations see it, and their answer."""

import base64
import binascii
import email.utils
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

from servers.data_lake.refusals import Refusal, unknown

Scope = Literal["account", "filesystem", "path"]


@dataclass
class Answer:
    """What is sent back."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Call:
    """What was asked; names of headers are in lower case, `metadata` has its names as sent."""

    method: str
    encoded_path: str
    account: str
    filesystem: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    metadata: Mapping[str, str]
    body: bytes

    @property
    def scope(self) -> Scope:
        """What the request is about."""
        if not self.filesystem:
            return "account"
        return "path" if self.path else "filesystem"

    @property
    def version(self) -> str:
        """The service version that was asked for, as its date; a SAS may name it."""
        return self.headers.get("x-ms-version") or self.query.get("sv", "")

    def header(self, name: str) -> str:
        """Return a header, or nothing."""
        return self.headers.get(name, "")

    def flag(self, name: str) -> bool | None:
        """Return a parameter that is true or false; None where it is not given."""
        value = self.query.get(name)
        if value is None:
            return None
        if value.lower() not in {"true", "false"}:
            raise Refusal("InvalidQueryParameterValue", name)
        return value.lower() == "true"

    def limit(self, name: str, most: int) -> int:
        """Return how many are asked for: at least one, and never more than the service gives."""
        text = self.query.get(name)
        if text is None:
            return most
        if not text.isascii() or not text.lstrip("-").isdigit():
            raise Refusal("InvalidQueryParameterValue", name)
        if int(text) < 1:
            raise Refusal("OutOfRangeQueryParameterValue", name)
        return min(int(text), most)

    def check_body(self) -> None:
        """Compare the body with the digest that was sent along."""
        if "content-md5" in self.headers:
            same_digest(self.headers["content-md5"], self.body)


def same_digest(given: str, content: bytes) -> None:
    """Raise unless a digest is that of the content."""
    try:
        digest = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("InvalidMd5") from None
    if len(digest) != hashlib.md5(usedforsecurity=False).digest_size:
        raise Refusal("InvalidMd5")
    if digest != md5(content):
        raise Refusal("Md5Mismatch")


def md5(content: bytes) -> bytes:
    """Return the digest of bytes."""
    return hashlib.md5(content, usedforsecurity=False).digest()


def base64_md5(content: bytes) -> str:
    """Return the digest of bytes as headers have it."""
    return base64.b64encode(md5(content)).decode()


def http_date(seconds: float) -> str:
    """Return a time as headers have it."""
    return email.utils.formatdate(seconds, usegmt=True)


def seconds_of(date: str) -> float:
    """Read a time as headers have it."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        raise Refusal("InvalidHeaderValue", "a date") from None


def pairs_of(query: str) -> dict[str, str]:
    """Read a query; values of one name are joined, as they are signed."""
    found: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        key, _, value = pair.partition("=")
        key, value = unquote(key), unquote(value)
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


def range_of(call: Call, size: int) -> tuple[int, int] | None:
    """Return the first byte that is wanted, and the one after the last; None for all of them."""
    text = call.header("x-ms-range") or call.header("range")
    if not text:
        return None
    unit, _, span = text.partition("=")
    first, _, last = span.partition("-")
    if unit != "bytes" or not first.isdigit() or (last and not last.isdigit()):
        raise unknown(f"the range {text}")
    if int(first) >= size or (last and int(last) < int(first)):
        raise Refusal("InvalidRange", headers={"Content-Range": f"bytes */{size}"})
    return int(first), min(int(last) + 1, size) if last else size


def now() -> float:
    """Return the time."""
    return time.time()
