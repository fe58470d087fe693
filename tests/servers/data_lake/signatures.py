"""Who asks: signatures of the account's key, shared access signatures, and tokens, all checked.

By the documented protocol ("Authorize with Shared Key", "Create an account SAS", "Create a service
SAS"). A SAS of a user's delegation and stored access policies are not known here.
"""

import base64
import contextlib
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime, timezone

from servers.data_lake.calls import Call, now, seconds_of
from servers.data_lake.namespace import Account
from servers.data_lake.refusals import Refusal, unknown
from servers.data_lake.rights import ALL, OF_TOKEN, Rights

_LATEST_SECONDS = 15 * 60
_SAS_FIELDS = frozenset(
    [
        "sv",
        "ss",
        "srt",
        "sp",
        "st",
        "se",
        "spr",
        "sig",
        "sr",
        "sdd",
        "rscc",
        "rscd",
        "rsce",
        "rscl",
        "rsct",
    ]
)
_NOT_KNOWN = ("si", "sip", "ses", "skoid", "saoid", "suoid", "scid", "sduoid")
_STANDARD = (
    *("content-encoding", "content-language", "content-length", "content-md5", "content-type"),
    *("date", "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"),
)
_CHALLENGE = {
    "WWW-Authenticate": "Bearer authorization_uri=https://login.microsoftonline.com/"
    "00000000-0000-0000-0000-000000000000/oauth2/authorize resource_id=https://storage.azure.com"
}


def rights_of(call: Call, account: Account) -> Rights:
    """Return what a request may do, or raise because nobody knows who asks."""
    if "sig" in call.query:
        return sas_rights(call.query, call.filesystem, call.path, account)
    scheme, _, credential = call.header("authorization").partition(" ")
    if scheme == "SharedKey":
        _check_key(call, account, credential)
        return ALL
    if scheme == "Bearer":
        if credential not in account.tokens:
            raise Refusal("InvalidAuthenticationInfo", headers=_CHALLENGE)
        return OF_TOKEN
    if scheme:
        raise Refusal("InvalidAuthenticationInfo", headers=_CHALLENGE)
    raise Refusal("NoAuthenticationInformation", headers=_CHALLENGE)


def _check_key(call: Call, account: Account, credential: str) -> None:
    date = call.header("x-ms-date") or call.header("date")
    if not date or abs(seconds_of(date) - now()) > _LATEST_SECONDS:
        raise Refusal("AuthenticationFailed", f"Request date header not acceptable: {date!r}")
    name, _, signature = credential.partition(":")
    text = _text_of_request(call, account.name)
    if name != account.name or not _is_signed(text, signature, account):
        raise Refusal(
            "AuthenticationFailed",
            "The MAC signature found in the HTTP request is not the same as any computed "
            f"signature. Server used following string to sign: {text!r}.",
        )


def _text_of_request(call: Call, account: str) -> str:
    given = {name: call.header(name) for name in _STANDARD}
    if given["content-length"] == "0":
        given["content-length"] = ""
    if "x-ms-date" in call.headers:
        given["date"] = ""
    named = [
        f"{name}:{' '.join(value.split())}\n"
        for name, value in sorted(call.headers.items())
        if name.startswith("x-ms-")
    ]
    lowered = {key.lower(): value for key, value in call.query.items()}
    asked = [f"\n{key}:{value}" for key, value in sorted(lowered.items())]
    standard = "".join(f"{given[name]}\n" for name in _STANDARD)
    path = call.encoded_path
    return f"{call.method}\n{standard}{''.join(named)}/{account}{path}{''.join(asked)}"


def _is_signed(text: str, signature: str, account: Account) -> bool:
    digest = hmac.new(account.key, text.encode(), hashlib.sha256).digest()
    return hmac.compare_digest(base64.b64encode(digest).decode(), signature)


def sas_parameters(query: Mapping[str, str]) -> frozenset[str]:
    """Return the names of a query's parameters that belong to a SAS."""
    return _SAS_FIELDS & set(query) if "sig" in query else frozenset()


def sas_rights(fields: Mapping[str, str], filesystem: str, path: str, account: Account) -> Rights:
    """Return what a SAS allows for a path; raise where it is not signed for it, or is over."""
    for name in _NOT_KNOWN:
        if name in fields:
            raise unknown(f"a SAS with {name}")
    text = (
        _text_of_account_sas(fields, account.name)
        if "ss" in fields
        else _text_of_service_sas(fields, filesystem, path, account.name)
    )
    if not _is_signed(text, fields["sig"], account):
        raise Refusal(
            "AuthenticationFailed",
            f"Signature did not match. String to sign used was {text!r}",
        )
    _check_time(fields)
    if fields.get("spr", "https,http") == "https":
        raise Refusal("AuthorizationProtocolMismatch")
    if "ss" not in fields:
        return Rights(fields.get("sp", ""), resource=fields.get("sr", ""))
    if "b" not in fields["ss"]:
        raise Refusal("AuthorizationServiceMismatch")
    return Rights(fields.get("sp", ""), resource_types=fields.get("srt", ""))


def _text_of_account_sas(fields: Mapping[str, str], account: str) -> str:
    names = ["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"]
    if fields.get("sv", "") >= "2020-12-06":
        names.append("ses")
    return "".join(f"{line}\n" for line in (account, *(fields.get(name, "") for name in names)))


def _text_of_service_sas(
    fields: Mapping[str, str], filesystem: str, path: str, account: str
) -> str:
    version, resource = fields.get("sv", ""), fields.get("sr", "")
    if version < "2018-11-09":
        raise unknown(f"a SAS of version {version}")
    if resource not in {"b", "c", "d"}:
        raise unknown(f"a SAS for the resource {resource}")
    place = f"/blob/{account}/{filesystem}"
    if resource == "b":
        place += f"/{path}"
    if resource == "d":
        place += "".join(f"/{part}" for part in path.split("/")[: int(fields.get("sdd", "0"))])
    lines = [
        *(fields.get(name, "") for name in ("sp", "st", "se")),
        place,
        *(fields.get(name, "") for name in ("si", "sip", "spr", "sv", "sr")),
        "",  # the time of a snapshot
        *([fields.get("ses", "")] if version >= "2020-12-06" else []),
        *(fields.get(name, "") for name in ("rscc", "rscd", "rsce", "rscl", "rsct")),
    ]
    return "\n".join(lines)


def _check_time(fields: Mapping[str, str]) -> None:
    begins, ends, current = fields.get("st", ""), fields.get("se", ""), now()
    if not ends:
        raise Refusal("AuthenticationFailed", "Signed expiry is missing.")
    if (begins and _moment(begins) > current) or _moment(ends) <= current:
        shown = datetime.fromtimestamp(current, timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
        raise Refusal(
            "AuthenticationFailed",
            "Signature not valid in the specified time frame: "
            f"Start [{begins}] - Expiry [{ends}] - Current [{shown}]",
        )


def _moment(text: str) -> float:
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d"):
        with contextlib.suppress(ValueError):
            return datetime.strptime(text, form).replace(tzinfo=timezone.utc).timestamp()
    raise Refusal("AuthenticationFailed", f"{text!r} is no time.")
