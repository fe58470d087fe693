"""What a shared access signature says of itself: what it allows, on what, and from when to when.

It is read before bytes move, so that a stage that cannot end well does not begin. The service has the
last word: a stored access policy may say what the token does not, and clocks differ.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal
from urllib.parse import parse_qsl

from prefect_datastores.errors import AccessDenied, CredentialExpired, DatastoreError

Need = Literal["", "read", "write"]

CLOCKS_DIFFER = 15 * 60.0
"""Seconds by which clocks may differ: what is over for less is left to the service to refuse."""

_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?)?Z?")
_LETTERS: dict[Need, str] = {"read": "r", "write": "wc"}
_SERVICES = {"blob": "b", "dfs": "b", "file": "f"}
_RIGHTS = {
    "r": "read",
    "a": "add",
    "c": "create",
    "w": "write",
    "d": "delete",
    "l": "list",
    "x": "delete versions",
    "t": "tags",
    "m": "move",
    "e": "execute",
    "i": "set immutability",
    "y": "delete for ever",
    "f": "find by tags",
    "o": "own",
    "p": "set access",
    "u": "update",
}


@dataclass(frozen=True)
class SharedAccess:
    """What a token says; None or "" where it says nothing, because a stored policy does."""

    permissions: str | None = None
    services: str = ""
    resource_types: str = ""
    starts: float | None = None
    ends: float | None = None
    protocol: str = ""

    def fault(
        self, need: Need, service: str, protocol: str, now: float | None = None
    ) -> DatastoreError | None:
        """Return why the token cannot do what is needed, or None where it does not say."""
        now = time.time() if now is None else now
        if self.ends is not None and self.ends < now - CLOCKS_DIFFER:
            return CredentialExpired(
                f"The SAS token ended at {said(self.ends)}: nothing was moved. Make a new one."
            )
        if self.starts is not None and self.starts > now + CLOCKS_DIFFER:
            return CredentialExpired(
                f"The SAS token begins at {said(self.starts)}: nothing was moved. Wait, or make one for now."
            )
        why = self._lack(need, service, protocol)
        return AccessDenied(f"The SAS token {why}: nothing was moved.") if why else None

    def _lack(self, need: Need, service: str, protocol: str) -> str:
        if self.protocol == "https" and protocol != "https":
            return "is for https only (spr), and the datastore speaks http"
        letter = _SERVICES.get(service, "")
        if self.services and letter not in self.services:
            return f"is for other services of the account (ss={self.services}); make one for {service} ({letter})"
        if not need:
            return ""
        if self.resource_types and "o" not in self.resource_types:
            return f"is not for objects (srt={self.resource_types}); make one with srt=co"
        wanted = _LETTERS[need]
        if self.permissions is not None and not set(wanted) & set(self.permissions):
            has = ", ".join(_RIGHTS.get(right, right) for right in self.permissions) or "none"
            return f"lacks the right to {need} (sp); it has: {has}"
        return ""

    def __str__(self) -> str:
        """Say what it allows and until when, for people."""
        parts = []
        if self.permissions is not None:
            parts.append(", ".join(_RIGHTS.get(right, right) for right in self.permissions))
        if self.ends is not None:
            parts.append(f"until {said(self.ends)}")
        return "; ".join(parts) or "a stored policy says what it allows"


def read_sas(token: str) -> SharedAccess:
    """Return what a token says of itself; what cannot be read is as if it were not said."""
    fields = dict(parse_qsl(token.strip().lstrip("?&"), keep_blank_values=True))
    return SharedAccess(
        fields.get("sp"),
        fields.get("ss", ""),
        fields.get("srt", ""),
        _seconds(fields.get("st", "")),
        _seconds(fields.get("se", "")),
        fields.get("spr", ""),
    )


def said(moment: float) -> str:
    """Return a time as people write it."""
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _seconds(text: str) -> float | None:
    found = _TIME.fullmatch(text)
    if not found:
        return None
    try:
        year, month, day, hour, minute, second = (int(part or 0) for part in found.groups())
        moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None
