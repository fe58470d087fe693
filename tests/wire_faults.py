"""Faults of the wire and of the service by name, and what is to come of each."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from servers.faults import Action, Fault, Reply

CUTS: list[Action] = ["reset", "truncate", "stall", "hang"]
PLACES = ["first", "middle", "last"]
XML = b'<?xml version="1.0" encoding="utf-8"?><Error><Code>InternalError</Code></Error>'


@dataclass(frozen=True)
class Named:
    """A fault, whether one that happens once is got over, and with how many bytes a request tells."""

    fault: Fault
    passes: bool


def _flip(reply: Reply) -> Reply:
    """One bit in the middle of the body is another."""
    at = len(reply.body) // 2
    flipped = bytes([reply.body[at] ^ 1])
    return replace(reply, body=reply.body[:at] + flipped + reply.body[at + 1 :])


def _short(reply: Reply) -> Reply:
    """The body is short by a byte, and all headers say so too."""
    body = reply.body[:-1]
    span, _, whole = reply.headers["content-range"].rpartition("/")
    first, _, last = span.rpartition("-")
    spans = {"content-range": f"{first}-{int(last) - 1}/{int(whole) - 1}"}
    return replace(reply, headers={**reply.headers, **spans}, body=body)


def _other_range(reply: Reply) -> Reply:
    """The range is one byte further on."""
    first, last, whole = map(int, re.findall(r"\d+", reply.headers["content-range"]))
    spans = {"content-range": f"bytes {first + 1}-{last + 1}/{whole}"}
    return replace(reply, headers={**reply.headers, **spans})


def _no_range(reply: Reply) -> Reply:
    """Which range it is, is not said."""
    headers = {k: v for k, v in reply.headers.items() if k.lower() != "content-range"}
    return replace(reply, headers=headers)


def _as_xml(reply: Reply) -> Reply:
    """The head is right, and the body is an error of the service."""
    return replace(reply, headers={**reply.headers, "content-type": "application/xml"}, body=XML)


def _xml_of_that_length(reply: Reply) -> Reply:
    """The same, as long as what it stands for."""
    return replace(_as_xml(reply), body=XML[: len(reply.body)].ljust(len(reply.body)))


def _all_of_it(reply: Reply) -> Reply:
    """The range was not looked at: 200, and more than was asked for."""
    return replace(_no_range(reply), status=200, body=reply.body * 2)


def _cut_xml(reply: Reply) -> Reply:
    return replace(reply, body=reply.body[: len(reply.body) * 2 // 3])


def _changed(change: Callable[[Reply], Reply]) -> Fault:
    return Fault("", "change", change=change)


def _said(status: int, code: str = "") -> Fault:
    return Fault("", "answer", status=status, headers={"x-ms-error-code": code} if code else {})


def _cut(action: Action, at: str) -> Fault:
    return Fault("", action, at=at)  # type: ignore[arg-type]


_ALWAYS: dict[str, Named] = {
    "the request is lost": Named(Fault("", "drop"), passes=True),
    "the answer is lost": Named(Fault("", "lose"), passes=True),
    **{
        f"{status}": Named(_said(status, code), passes=True)
        for status, code in ((500, "InternalError"), (503, "ServerBusy"), (429, ""), (408, ""))
    },
    "503 and a pause": Named(replace(_said(503), headers={"Retry-After": "1"}), passes=True),
    **{
        f"{status} {code}": Named(_said(status, code), passes=False)
        for status, code in (
            (400, "InvalidHeaderValue"),
            (403, "AuthorizationPermissionMismatch"),
            (403, "AuthenticationFailed"),
            (404, "BlobNotFound"),
            (404, ""),
            (409, "BlobImmutableDueToPolicy"),
            (412, "ConditionNotMet"),
        )
    },
}

READING: dict[str, Named] = {
    **_ALWAYS,
    **{
        f"{action} at the {at} byte": Named(_cut(action, at), passes=True)
        for action in CUTS
        for at in PLACES
    },
    "one bit is another": Named(_changed(_flip), passes=True),
    "short, and all headers agree": Named(_changed(_short), passes=True),
    "another range": Named(_changed(_other_range), passes=True),
    "no range": Named(_changed(_no_range), passes=True),
    "200 for a range": Named(_changed(_all_of_it), passes=True),
    "206 with an error in XML": Named(_changed(_as_xml), passes=True),
    "206 with an error in XML of that length": Named(_changed(_xml_of_that_length), passes=True),
}
"""What may happen to a request for a part of an object."""

LISTING: dict[str, Named] = {
    **{name: named for name, named in _ALWAYS.items() if not name.startswith("404")},
    **{f"{action} in the middle": Named(_cut(action, "middle"), passes=True) for action in CUTS},
    "XML that is cut": Named(_changed(_cut_xml), passes=True),
    "XML that is none": Named(_changed(lambda _: Reply(200, {}, b"<html/>")), passes=True),
    "nothing": Named(_changed(lambda _: Reply(200, {}, b"")), passes=True),
}
"""What may happen to a request for a page of a listing."""

WRITING: dict[str, Named] = {
    **_ALWAYS,
    "damaged on its way": Named(Fault("", "damage"), passes=True),
}
"""What may happen to a request that stores a part, or commits."""


def at(fault: Fault, match: str, *, times: int | None = 1, skip: int = 0) -> Fault:
    """Return a fault of the requests that have `match` in them."""
    return replace(fault, match=match, times=times, skip=skip)
