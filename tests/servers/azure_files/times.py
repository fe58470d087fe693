"""Moments as the service counts them: in tenths of a microsecond since the year 1."""

import datetime as dt
import re
import time
from email.utils import formatdate

from servers.azure_files.errors import Refused

_EPOCH = 62_135_596_800  # seconds from the year 1 to 1970
_SECOND = 10_000_000
_ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,7}))?)?Z")


class Clock:
    """Tells the time, and no moment twice; it is asked with the account's lock held."""

    def __init__(self) -> None:
        self._last = 0

    def now(self) -> int:
        """Return the moment, which is later than any that was told."""
        self._last = max(self._last + 1, time.time_ns() // 100 + _EPOCH * _SECOND)
        return self._last


def iso(ticks: int) -> str:
    """Write a moment as the headers of SMB and the listings do."""
    seconds, rest = divmod(ticks, _SECOND)
    moment = dt.datetime.fromtimestamp(seconds - _EPOCH, dt.timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:07d}Z"


def http_date(ticks: int) -> str:
    """Write a moment as `Last-Modified` does."""
    return formatdate(ticks // _SECOND - _EPOCH, usegmt=True)


def etag(ticks: int) -> str:
    """Return the ETag of what was changed at a moment: it is that moment, and nothing else."""
    return f'"0x{ticks:X}"'


def parse(text: str) -> int | None:
    """Read a moment; None where it is none."""
    found = _ISO.fullmatch(text)
    if not found:
        return None
    try:
        moment = dt.datetime.fromisoformat(f"{found[1]}:{found[2] or '00'}+00:00")
    except ValueError:
        return None
    return (int(moment.timestamp()) + _EPOCH) * _SECOND + int((found[3] or "").ljust(7, "0"))


def of_header(name: str, text: str) -> int:
    """Read the moment that a header holds."""
    ticks = parse(text)
    if ticks is None:
        raise Refused("InvalidHeaderValue", name)
    return ticks


def to_seconds(ticks: int) -> float:
    """Return a moment as Unix time."""
    return ticks / _SECOND - _EPOCH
