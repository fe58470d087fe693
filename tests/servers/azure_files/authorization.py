"""Who asks, and what they may do: account key, shared access signature, token."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from email.utils import parsedate_to_datetime

from servers.azure_files import shares, times
from servers.azure_files.errors import Refused, unknown
from servers.azure_files.operation import Grant, Level
from servers.azure_files.request import Request
from servers.azure_files.tree import Account

_SIGNED = (
    "content-encoding", "content-language", "content-length", "content-md5", "content-type",
    "date", "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range",
)  # fmt: skip
_SKEW_SECONDS = 15 * 60
_CHALLENGE = (
    "Bearer authorization_uri=https://login.microsoftonline.com/"
    "00000000-0000-0000-0000-000000000000/oauth2/authorize resource_id=https://storage.azure.com"
)
_LEVELS = {"service": "s", "share": "c", "object": "o"}


def grant_of(account: Account, request: Request, level: Level, needs: str) -> Grant:
    """Return what may be done, or refuse; `needs` is as an operation has it."""
    if request.account != account.name:
        raise Refused("AuthenticationFailed", f"There is no account {request.account}")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme == "SharedKey":
        _check_key(account, request, given)
        return Grant()
    if scheme == "Bearer":
        _check_token(account, request, given)
        return Grant()
    if scheme:
        raise unknown(f"the scheme {scheme}")
    if request.is_by_sas:
        grant = grant_of_sas(account, request, level)
        if not needs:
            raise Refused("AuthorizationFailure")
        grant.require(needs)
        return grant
    headers = {"WWW-Authenticate": _CHALLENGE} if account.token else {}
    raise Refused("NoAuthenticationInformation", headers=headers)


def _signature(key: str, text: str) -> str:
    digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def _check_key(account: Account, request: Request, given: str) -> None:
    name, _, signature = given.partition(":")
    _check_date(request)
    text = _text_to_sign(account, request)
    right = hmac.compare_digest(signature, _signature(account.key, text))
    if name != account.name or not right:
        raise Refused(
            "AuthenticationFailed",
            f"The MAC signature found in the HTTP request '{signature}' is not the same as any "
            f"computed signature. Server used following string to sign: '{text}'.",
        )


def _check_date(request: Request) -> None:
    given = request.headers.get("x-ms-date") or request.headers.get("date", "")
    try:
        moment = parsedate_to_datetime(given).timestamp()
    except (ValueError, TypeError):
        raise Refused("AuthenticationFailed", "No valid date is given") from None
    if abs(time.time() - moment) > _SKEW_SECONDS:
        raise Refused("AuthenticationFailed", f"Request date header too old: '{given}'")


def _text_to_sign(account: Account, request: Request) -> str:
    headers = dict(request.headers)
    if headers.get("content-length") == "0":
        headers["content-length"] = ""
    if "x-ms-date" in headers:
        headers["date"] = ""
    lines = [request.method, *(headers.get(name, "") for name in _SIGNED)]
    lines += [f"{name}:{headers[name]}" for name in sorted(headers) if name.startswith("x-ms-")]
    lines.append(f"/{account.name}{request.raw_path}")
    lines += [f"{name}:{request.query[name]}" for name in sorted(request.query)]
    return "\n".join(lines)


def _check_token(account: Account, request: Request, given: str) -> None:
    challenge = {"WWW-Authenticate": _CHALLENGE}
    if not account.token or not hmac.compare_digest(given, account.token):
        raise Refused("InvalidAuthenticationInfo", "Signature validation failed", headers=challenge)
    if not request.since("2022-11-02"):
        raise Refused("AuthenticationFailed", "This version takes no tokens")
    if request.header("x-ms-file-request-intent").lower() != "backup":
        raise Refused("InvalidHeaderValue", "x-ms-file-request-intent")


def grant_of_sas(account: Account, request: Request, level: Level) -> Grant:
    """Return what a shared access signature allows, or refuse one that is not right."""
    is_of_account = "ss" in request.query
    fields = dict(request.query)
    if fields.get("si") and not is_of_account:
        stored = shares.policy_of(account, request.share, fields["si"])
        for name, tag in (("sp", "Permission"), ("st", "Start"), ("se", "Expiry")):
            fields[name] = fields.get(name) or stored.get(tag, "")
    text = _account_text(account, request) if is_of_account else _service_text(account, request)
    if not hmac.compare_digest(fields["sig"], _signature(account.key, text)):
        raise Refused(
            "AuthenticationFailed",
            f"Signature did not match. String to sign used was {text}",
        )
    _check_moments(fields)
    if fields.get("spr", "https,http") != "https,http":
        raise Refused("AuthorizationProtocolMismatch")
    if fields.get("sip") and not _is_within(request.peer, fields["sip"]):
        raise Refused("AuthorizationSourceIPMismatch")
    if is_of_account:
        if "f" not in fields["ss"]:
            raise Refused("AuthorizationServiceMismatch")
        if _LEVELS[level] not in fields.get("srt", ""):
            raise Refused("AuthorizationResourceTypeMismatch")
    else:
        _check_resource(request, level)
    return Grant(fields.get("sp", ""))


def _check_resource(request: Request, level: Level) -> None:
    """Refuse what a signature for one share, or one file, is not for."""
    is_listing = request.query.get("restype") == "directory" and level == "share"
    if level == "service" or (level == "share" and not is_listing):
        raise Refused("AuthorizationFailure")
    if is_listing and request.query["sr"] != "s":
        raise Refused("AuthorizationResourceTypeMismatch")


def _service_text(account: Account, request: Request) -> str:
    get = request.query.get
    resource = get("sr", "")
    if resource not in {"s", "f"}:
        raise Refused("AuthenticationFailed", "sr is mandatory: s or f")
    place = f"/file/{account.name}/{request.share}"
    if resource == "f":
        place += "/" + "/".join(request.path)
    before = [get("sp", ""), get("st", ""), get("se", ""), place]
    after = (get(name, "") for name in ("si", "sip", "spr", "sv", "rscc", "rscd", "rsce", "rscl"))
    return "\n".join([*before, *after, get("rsct", "")])


def _account_text(account: Account, request: Request) -> str:
    names = ["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"]
    if request.query.get("sv", "") >= "2020-12-06":
        names.append("ses")
    return "\n".join([account.name, *(request.query.get(name, "") for name in names), ""])


def _check_moments(fields: dict[str, str]) -> None:
    now = time.time()
    start, end = (_seconds(fields.get(name, "")) for name in ("st", "se"))
    if end is None:
        raise Refused("AuthenticationFailed", "se is mandatory. Cannot be empty")
    if (start is not None and now < start) or now >= end:
        current = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now))
        raise Refused(
            "AuthenticationFailed",
            f"Signature not valid in the specified time frame: Start [{fields.get('st', '')}] - "
            f"Expiry [{fields['se']}] - Current [{current}]",
        )


def _seconds(text: str) -> float | None:
    if not text:
        return None
    ticks = times.parse(f"{text}T00:00Z" if len(text) == len("2000-01-01") else text)
    if ticks is None:
        raise Refused("AuthenticationFailed", f"{text} is no moment")
    return times.to_seconds(ticks)


def _is_within(peer: str, allowed: str) -> bool:
    first, _, last = allowed.partition("-")
    number = _number(peer)
    return _number(first) <= number <= _number(last or first)


def _number(address: str) -> tuple[int, ...]:
    return tuple(int(part) for part in address.split("."))
