"""What a credential may not, or may not any more, is said before bytes move, and which part is wrong."""

from __future__ import annotations

import base64
import email.utils
import logging
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.storage.blob import (
    AccountSasPermissions,
    ContainerClient,
    ContainerSasPermissions,
    ResourceTypes,
    generate_account_sas,
    generate_container_sas,
)
from pydantic import SecretStr
from servers.azurite import Azurite
from servers.wire import ok, says, wire

from prefect_datastores import AzureBlobDatastore, ConnectionString, SasToken, stage
from prefect_datastores.datastores.check import check_store
from prefect_datastores.errors import (
    AccessDenied,
    AuthenticationFailed,
    CredentialExpired,
    DatastoreError,
    FirewallDenied,
    ObjectNotFound,
)
from prefect_datastores.stores.blob import BlobStore
from prefect_datastores.stores.sas import CLOCKS_DIFFER, SharedAccess, read_sas
from prefect_datastores.transfers import fetch, preflight

HOUR = 3600.0
NOW = datetime(2026, 11, 25, 12, tzinfo=timezone.utc).timestamp()
SIGNATURE = "c2lnbmF0dXJlLXRoYXQtbm9ib2R5LW1heS1zZWU="


# -- what a token says ------------------------------------------------------------------------------


def token_of(**fields: str) -> str:
    given = {"sv": "2024-11-04", **fields, "sig": SIGNATURE}
    return "&".join(f"{key}={value}" for key, value in given.items())


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-25T12:00:00Z", NOW),
        ("2026-11-25T12%3A00%3A00Z", NOW),
        ("2026-11-25T12:00Z", NOW),
        ("2026-11-25T12:00:00.0000000Z", NOW),
        ("2026-11-25", NOW - 12 * HOUR),
        ("2026-13-25", None),
        ("soon", None),
        ("", None),
    ],
)
def test_the_time_of_a_token_is_read_in_each_form(text: str, moment: float | None) -> None:
    assert read_sas(token_of(se=text)).ends == moment
    assert read_sas(token_of(st=text)).starts == moment


def test_a_token_that_the_sdk_made_is_read(azurite: Azurite) -> None:
    ends = datetime(2030, 1, 2, 3, 4, tzinfo=timezone.utc)
    token = generate_account_sas(
        azurite.account,
        azurite.key,
        resource_types=ResourceTypes(container=True, object=True),
        permission=AccountSasPermissions(read=True, list=True),
        expiry=ends,
        start=datetime(2020, 1, 1, tzinfo=timezone.utc),
        protocol="https",
    )
    read = read_sas(f"?{token}")
    assert (read.permissions, read.services, read.resource_types) == ("rl", "b", "co")
    assert (read.ends, read.protocol) == (ends.timestamp(), "https")
    assert str(read) == "read, list; until 2030-01-02 03:04 UTC"


def test_a_token_of_a_stored_policy_is_left_to_the_service() -> None:
    read = read_sas(token_of(si="policy", sr="c"))
    assert read == SharedAccess()
    assert read.fault("write", "blob", "https") is None
    assert str(read) == "a stored policy says what it allows"


@pytest.mark.parametrize(
    ("fields", "need", "kind", "says_"),
    [
        ({"se": "2026-11-25T11:00Z"}, "", CredentialExpired, r"ended at 2026-11-25 11:00 UTC"),
        ({"st": "2026-11-25T13:00Z"}, "", CredentialExpired, r"begins at 2026-11-25 13:00 UTC"),
        ({"sp": "rl"}, "write", AccessDenied, r"lacks the right to write.*it has: read, list"),
        ({"sp": "wl"}, "read", AccessDenied, r"lacks the right to read.*it has: write, list"),
        ({"sp": ""}, "read", AccessDenied, "it has: none"),
        ({"sp": "rw", "ss": "qt"}, "", AccessDenied, r"for other services .*ss=qt"),
        ({"sp": "rw", "srt": "sc"}, "read", AccessDenied, r"not for objects \(srt=sc\)"),
        ({"sp": "rw", "spr": "https"}, "", AccessDenied, r"for https only"),
    ],
)
def test_what_a_token_cannot_do_is_told(
    fields: dict[str, str], need: Any, kind: type[DatastoreError], says_: str
) -> None:
    fault = read_sas(token_of(**fields)).fault(need, "blob", "http", NOW)
    assert type(fault) is kind
    with pytest.raises(kind, match=says_):
        raise fault


@pytest.mark.parametrize(
    ("fields", "need"),
    [
        ({"sp": "c"}, "write"),
        ({"sp": "w"}, "write"),
        ({"sp": "r"}, "read"),
        ({"sp": "r", "ss": "bf", "srt": "o", "spr": "https,http"}, "read"),
        ({"sp": "r", "se": "2026-11-25T11:50Z"}, "read"),
        ({"sp": "r", "st": "2026-11-25T12:10Z"}, "read"),
    ],
    ids=str,
)
def test_what_may_work_is_left_to_the_service(fields: dict[str, str], need: Any) -> None:
    """Clocks differ: what is over for less than a quarter of an hour may not be over there."""
    assert CLOCKS_DIFFER == 900
    assert read_sas(token_of(**fields)).fault(need, "blob", "http", NOW) is None


# -- before any byte moves --------------------------------------------------------------------------


def named(**fields: str) -> dict[str, Any]:
    """Both ways to give a token; in one that ended, its account is asked by nobody."""
    token = SecretStr(token_of(**fields))
    whole = SecretStr(
        f"BlobEndpoint=http://127.0.0.1:9/account1;SharedAccessSignature={token_of(**fields)}"
    )
    return {
        "token": SasToken(sas_token=token),
        "connection string": ConnectionString(connection_string=whole),
    }


def nobody_there(auth: Any) -> AzureBlobDatastore:
    return AzureBlobDatastore(
        account_name="account1",
        container_name="data",
        auth=auth,
        endpoint="http://127.0.0.1:9/account1",
    )


@pytest.mark.parametrize("way", ["token", "connection string"])
@pytest.mark.parametrize(
    ("fields", "kind"),
    [({"sp": "rwl", "se": "2020-01-01"}, CredentialExpired), ({"sp": "l"}, AccessDenied)],
    ids=["ended", "without the right"],
)
def test_nothing_is_asked_for_with_a_token_that_cannot_work(
    way: str, fields: dict[str, str], kind: type[DatastoreError], tmp_path: Path
) -> None:
    store = nobody_there(named(**fields)[way])
    (tmp_path / "up").mkdir()
    (tmp_path / "up/x").write_text("x")
    attempts: list[Callable[[], Any]] = [
        lambda: store.upload(tmp_path / "up"),
        lambda: store.upload(tmp_path / "up", publish="atomic"),
        lambda: store.download(tmp_path / "down"),
        lambda: store.read_path("x"),
        lambda: store.write_path("x", b"x"),
        lambda: store.put_directory(str(tmp_path / "up")),
        lambda: store.get_directory("x", str(tmp_path / "down")),
        lambda: fetch(store.path("x").as_download(), tmp_path / "down"),
        lambda: preflight(store.path("x").as_download()),
        lambda: preflight(store.path("x").as_upload()),
    ]
    for attempt in attempts:
        with pytest.raises(kind, match="nothing was moved") as refused:
            attempt()
        assert SIGNATURE not in str(refused.value)
    assert not (tmp_path / "down").exists()


def test_a_stage_with_a_token_that_cannot_work_begins_nothing(
    azurite: Azurite, container: ContainerClient, tmp_path: Path
) -> None:
    """Not even the download that would work."""
    container.upload_blob("in/x", b"x")
    good = signed(azurite, container, "rl")
    ended = nobody_there(named(sp="rwl", se="2020-01-01")["token"])
    for bad in (ended.path("out").as_upload(), ended.path("in").as_download()):
        with pytest.raises(CredentialExpired):
            with stage(
                working_directory=tmp_path, data=good.path("in").as_download("here"), other=bad
            ):
                raise AssertionError("the block ran")
        assert not (tmp_path / "here").exists()


def signed(
    azurite: Azurite, container: ContainerClient, rights: str, *, lasts: timedelta | None = None
) -> AzureBlobDatastore:
    token = generate_container_sas(
        azurite.account,
        container.container_name,
        account_key=azurite.key,
        permission=ContainerSasPermissions.from_string(rights),
        start=datetime.now(timezone.utc) - timedelta(days=1),
        expiry=datetime.now(timezone.utc) + (lasts or timedelta(days=1)),
    )
    return AzureBlobDatastore(
        account_name=azurite.account,
        container_name=container.container_name,
        auth=SasToken(sas_token=SecretStr(token)),
        protocol="http",
        endpoint=f"{azurite.host}:{azurite.port}",
    )


def test_a_token_that_ends_soon_is_a_warning_and_works(
    azurite: Azurite, container: ContainerClient, caplog: pytest.LogCaptureFixture
) -> None:
    soon = signed(azurite, container, "rwl", lasts=timedelta(minutes=14))
    later = signed(azurite, container, "rwl")
    with caplog.at_level(logging.WARNING):
        later.write_path("x", b"x")
        later.check_credential("write", seconds=HOUR)
        assert caplog.text == ""
        later.check_credential("write", seconds=48 * HOUR)
        assert "what takes longer fails" in caplog.text
        caplog.clear()
        soon.write_path("x", b"x")
    assert f"The SAS token of {soon.url} ends at" in caplog.text
    assert "sig=" not in caplog.text


def test_a_check_says_what_a_token_allows(azurite: Azurite, container: ContainerClient) -> None:
    store = signed(azurite, container, "rl")
    checks = store.check()
    assert checks[0].detail.startswith("SAS token: read, list; until 20")
    assert "the SAS token lacks the right to write" in checks[3].detail


# -- which part is wrong ----------------------------------------------------------------------------


def refusal(code: str, message: str, *, status: str = "403 Forbidden", date: float = 0.0) -> bytes:
    """An answer as the service is documented to give it."""
    stamp = email.utils.formatdate(time.time() + date, usegmt=True)
    body = (
        f'\ufeff<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{message}\n'
        f"RequestId:ad7a75b2-201e-0032-20d4-23e8a6000000\nTime:2026-11-25T12:00:00Z</Message></Error>"
    ).encode()
    return ok(body, f"x-ms-error-code: {code}", f"Date: {stamp}", status=status)


class Token:
    """A credential that gives a token at once."""

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return AccessToken("a-token-of-nobody", int(time.time()) + 3600)


KEY = {"account_key": base64.b64encode(b"a key of the account").decode()}
SAS = {"sas_token": token_of(sp="rwl")}
TOKEN: dict[str, Any] = {"token": Token()}
NOT_AUTHENTICATED = (
    "Server failed to authenticate the request. Make sure the value of Authorization header is "
    "formed correctly including the signature."
)
NOT_AUTHORIZED = "This request is not authorized to perform this operation"


@pytest.mark.parametrize(
    ("answer", "sign_in", "kind", "says_"),
    [
        (
            partial(refusal, "AuthenticationFailed", NOT_AUTHENTICATED),
            KEY,
            AuthenticationFailed,
            "the account key is not accepted. Check that it belongs to this account and is whole",
        ),
        (
            partial(refusal, "AuthenticationFailed", NOT_AUTHENTICATED, date=2 * HOUR),
            KEY,
            AuthenticationFailed,
            r"This machine's clock is 1[12]\d minutes behind the service's: set it right",
        ),
        (
            partial(refusal, "AuthenticationFailed", NOT_AUTHENTICATED, date=-HOUR),
            TOKEN,
            AuthenticationFailed,
            r"This machine's clock is 6\d minutes ahead of the service's: set it right",
        ),
        (
            partial(
                refusal,
                "AuthenticationFailed",
                "Signature not valid in the specified time frame: Start [...] - Expiry [...]",
            ),
            SAS,
            CredentialExpired,
            "the SAS token is outside its time. Make a new one",
        ),
        (
            partial(
                refusal,
                "AuthenticationFailed",
                "Signature not valid in the specified time frame: Start [...] - Expiry [...]",
                date=-HOUR,
            ),
            SAS,
            CredentialExpired,
            r"outside its time. This machine's clock is 6\d minutes ahead",
        ),
        (
            partial(refusal, "AuthorizationFailure", f"{NOT_AUTHORIZED}."),
            KEY,
            FirewallDenied,
            "the account's firewall .* does not let this machine in. Have an owner",
        ),
        (
            partial(
                refusal,
                "AuthorizationFailure",
                NOT_AUTHORIZED.replace(" to", " by network security perimeter to"),
            ),
            TOKEN,
            FirewallDenied,
            "the account's firewall",
        ),
        (
            partial(refusal, "AuthorizationFailure", f"{NOT_AUTHORIZED}."),
            SAS,
            FirewallDenied,
            "does not let this machine in, or the SAS token is not for this",
        ),
        (
            partial(
                refusal,
                "AuthorizationSourceIPMismatch",
                f"{NOT_AUTHORIZED} using this source IP 1.2.",
            ),
            SAS,
            FirewallDenied,
            r"for other addresses than this machine's \(sip\)",
        ),
        (
            partial(
                refusal,
                "AuthorizationPermissionMismatch",
                f"{NOT_AUTHORIZED} using this permission.",
            ),
            TOKEN,
            AccessDenied,
            "lacks the right to list. Have an owner grant .*'Storage Blob Data Reader'",
        ),
        (
            partial(
                refusal,
                "AuthorizationPermissionMismatch",
                f"{NOT_AUTHORIZED} using this permission.",
            ),
            SAS,
            AccessDenied,
            "the SAS token lacks the right to list",
        ),
        (
            partial(
                refusal, "AuthorizationServiceMismatch", f"{NOT_AUTHORIZED} using this service."
            ),
            SAS,
            AccessDenied,
            r"for other services of the account \(ss\)",
        ),
        (
            partial(
                refusal,
                "AuthorizationResourceTypeMismatch",
                f"{NOT_AUTHORIZED} using this resource.",
            ),
            SAS,
            AccessDenied,
            "Make one with srt=co",
        ),
        (
            partial(
                refusal, "AuthorizationProtocolMismatch", f"{NOT_AUTHORIZED} using this protocol."
            ),
            SAS,
            AccessDenied,
            "for https only",
        ),
        (
            partial(
                refusal,
                "KeyBasedAuthenticationNotPermitted",
                "Key based authentication is not permitted on this storage account.",
            ),
            KEY,
            AuthenticationFailed,
            "takes neither keys nor what is signed by one. Sign in by an identity",
        ),
        (
            partial(refusal, "AccountIsDisabled", "The specified account is disabled."),
            KEY,
            AccessDenied,
            "the account is disabled",
        ),
        (
            partial(
                refusal,
                "PublicAccessNotPermitted",
                "Public access is not permitted on this storage account.",
                status="409 Conflict",
            ),
            {},
            AuthenticationFailed,
            "allows no anonymous access; give a credential",
        ),
        (
            partial(
                refusal, "NoAuthenticationInformation", NOT_AUTHENTICATED, status="401 Unauthorized"
            ),
            {},
            AuthenticationFailed,
            "does not allow anonymous access",
        ),
        (
            partial(
                refusal,
                "ResourceNotFound",
                "The specified resource does not exist.",
                status="404 Not Found",
            ),
            {},
            ObjectNotFound,
            "does not exist, or allows no anonymous access",
        ),
    ],
    ids=lambda value: value.args[0] if isinstance(value, partial) else "",
)
def test_a_refusal_names_what_is_wrong(
    answer: Callable[[], bytes], sign_in: dict[str, Any], kind: type[DatastoreError], says_: str
) -> None:
    with wire(says(answer())) as heard:
        with closing(BlobStore(f"http://127.0.0.1:{heard.port}/a", "c", **sign_in)) as store:
            with pytest.raises(kind, match=says_) as refused:
                store.check_root()
    assert type(refused.value) is kind
    for secret in (SIGNATURE, KEY["account_key"], "a-token-of-nobody"):
        assert secret not in str(refused.value)


def test_the_right_that_is_missing_is_named_by_what_was_tried(
    azurite: Azurite, container: ContainerClient
) -> None:
    from prefect_datastores.names import ObjectName

    container.upload_blob("x", b"x")
    buffer = memoryview(bytearray(1))
    name = ObjectName("x")
    tries: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "list": ("rw", lambda store: store.list_page("")),
        "read": ("lw", lambda store: store.read_into(name, 0, buffer, pin=None)),
        "write": ("rl", lambda store: store.check_write(name)),
        "delete": ("rlw", lambda store: store.delete(name)),
    }
    for right, (others, attempt) in tries.items():
        with closing(signed(azurite, container, others)._connect()) as store:
            with pytest.raises(AccessDenied, match=f"the SAS token lacks the right to {right}"):
                attempt(store)


def test_a_wrong_key_is_no_firewall_whatever_is_asked(
    azurite: Azurite, container: ContainerClient
) -> None:
    """Azurite says one code for both, and an answer to HEAD has no words."""
    from prefect_datastores.names import ObjectName

    with closing(BlobStore(azurite.url, container.container_name, **KEY)) as store:
        for attempt in (store.check_root, lambda: store.head(ObjectName("x"))):
            with pytest.raises(AuthenticationFailed, match="the account key is not accepted"):
                attempt()


def test_a_firewall_is_no_fault_of_the_sign_in_but_nothing_else_is_tried() -> None:
    with wire(says(refusal("AuthorizationFailure", f"{NOT_AUTHORIZED}."))) as heard:
        checks = check_store(BlobStore(f"http://127.0.0.1:{heard.port}/a", "c", **KEY))
    assert [check.outcome for check in checks] == ["failed", *["not tried"] * 3]
    assert "firewall" in checks[0].detail
    assert len(heard.heads) == 1
