"""Who may do what on the test server of Azure Files: its signatures are really checked."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from azure.storage.fileshare import (
    AccessPolicy,
    ShareClient,
    generate_account_sas,
    generate_file_sas,
    generate_share_sas,
)
from files_client import FilesClient, asking
from servers.azure_files import AzureFiles

HOUR = dt.timedelta(hours=1)
WRONG_KEY = "d3Jvbmc="
INTENT = {"x-ms-file-request-intent": "backup"}


def now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


@pytest.fixture
def files(azure_files: AzureFiles, share: str) -> Iterator[FilesClient]:
    """A client of a new share, in which there is a file "a"."""
    with asking(azure_files, share) as client:
        client.store("/a", b"data")
        yield client


def of_share(files: FilesClient, permission: str, **more: Any) -> str:
    """Sign for the whole share."""
    server = files.server
    given = {"expiry": now() + HOUR, **more}
    return generate_share_sas(server.account, files.share, server.key, permission, **given)


def of_file(files: FilesClient, permission: str, *path: str) -> str:
    """Sign for one file."""
    server = files.server
    return generate_file_sas(
        server.account,
        files.share,
        list(path),
        server.key,
        permission=permission,
        expiry=now() + HOUR,
    )


def of_account(files: FilesClient, permission: str, types: str, **more: Any) -> str:
    """Sign for the account."""
    server = files.server
    given = {"resource_types": types, "permission": permission, "expiry": now() + HOUR, **more}
    return generate_account_sas(server.account, server.key, **given)


def by(files: FilesClient, sas: str, method: str, path: str, **headers: str) -> tuple[int, str]:
    """Ask by a shared access signature."""
    joint = "&" if "?" in path else "?"
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return files(method, f"{path}{joint}{sas}", given, signs=False).outcome


OK, MADE, ACCEPTED = (200, ""), (201, ""), (202, "")
MISMATCH = (403, "AuthorizationPermissionMismatch")
NEW = {"x_ms_type": "file", "x_ms_content_length": "0"}
CLEAR = {"x_ms_write": "clear", "x_ms_range": "bytes=0-1"}


# Keys.


def test_a_wrong_key_is_refused_and_told_what_was_signed(
    azure_files: AzureFiles, share: str
) -> None:
    with asking(azure_files, share, key=WRONG_KEY) as files:
        refused = files("GET", "?restype=share")
    assert refused.outcome == (403, "AuthenticationFailed")
    assert "<AuthenticationErrorDetail>The MAC signature found in the HTTP request" in refused.text
    # In a path the account stands twice: as itself, and as a part of the address.
    signed = f"/{azure_files.account}/{azure_files.account}/{share}\nrestype:share"
    assert signed in refused.text


@pytest.mark.parametrize("name", ["x-ms-range", "x-ms-client-request-id", "Range", "Content-Type"])
def test_a_header_that_was_changed_after_signing_is_found(files: FilesClient, name: str) -> None:
    sign = files.signer.sign

    def tampered(request: Any) -> Any:
        target, headers = sign(request)
        return target, {**headers, name: "bytes=0-1"}

    files.signer.sign = tampered  # type: ignore[method-assign]
    assert files("GET", "/a").outcome == (403, "AuthenticationFailed")


@pytest.mark.parametrize("days", [-1, 1])
def test_a_date_that_is_far_off_is_refused(files: FilesClient, days: int) -> None:
    moment = now() + dt.timedelta(days=days)
    stale = {"x-ms-date": moment.strftime("%a, %d %b %Y %H:%M:%S GMT")}
    refused = files("GET", "/a", stale)
    assert refused.outcome == (403, "AuthenticationFailed")
    assert "Request date header too old" in refused.text


def test_nobody_in_particular_may_nothing(files: FilesClient) -> None:
    for path in ("/a", "/missing", "?restype=share", "/a?unheard=of"):
        refused = files("GET", path, signs=False)
        assert refused.outcome == (401, "NoAuthenticationInformation")
    assert files.ask("GET", "/?comp=list", signs=False).status == 401


def test_another_account_is_not_known(files: FilesClient) -> None:
    connection = files._connection
    connection.request(
        "GET", "/otheraccount/share?restype=share", headers={"x-ms-version": "2024-11-04"}
    )
    answer = connection.getresponse()
    answer.read()
    assert answer.headers["x-ms-error-code"] == "AuthenticationFailed"


@pytest.mark.parametrize(
    ("version", "code"), [("", "MissingRequiredHeader"), ("2000-01-01", "InvalidHeaderValue")]
)
def test_a_version_is_one_of_the_service(files: FilesClient, version: str, code: str) -> None:
    assert files("GET", "/a", version=version).outcome == (400, code)


# Signatures for a share.


@pytest.mark.parametrize(
    ("permission", "method", "path", "headers", "outcome"),
    [
        ("r", "GET", "/a", {}, OK),
        ("w", "GET", "/a", {}, MISMATCH),
        ("r", "HEAD", "/a", {}, OK),
        ("l", "GET", "?restype=directory&comp=list", {}, OK),
        ("r", "GET", "?restype=directory&comp=list", {}, MISMATCH),
        ("c", "PUT", "/b", NEW, MADE),
        ("w", "PUT", "/b", NEW, MADE),
        ("r", "PUT", "/b", NEW, MISMATCH),
        ("c", "PUT", "/a", NEW, MISMATCH),
        ("w", "PUT", "/a", NEW, MADE),
        ("c", "PUT", "/a?comp=range", CLEAR, MISMATCH),
        ("w", "PUT", "/a?comp=range", CLEAR, MADE),
        ("w", "PUT", "/d?restype=directory", {}, MADE),
        ("r", "PUT", "/d?restype=directory", {}, MISMATCH),
        ("d", "DELETE", "/a", {}, ACCEPTED),
        ("rcwl", "DELETE", "/a", {}, MISMATCH),
    ],
)
def test_a_signature_allows_what_it_names(
    files: FilesClient,
    permission: str,
    method: str,
    path: str,
    headers: dict[str, str],
    outcome: tuple[int, str],
) -> None:
    assert by(files, of_share(files, permission), method, path, **headers) == outcome


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "?restype=share"),
        ("GET", "?restype=share"),
        ("DELETE", "?restype=share"),
        ("GET", "?restype=share&comp=acl"),
    ],
)
def test_a_signature_for_a_share_is_not_for_the_share_itself(
    files: FilesClient, method: str, path: str
) -> None:
    refused = by(files, of_share(files, "rcwdl"), method, path)
    assert refused == (403, "AuthorizationFailure")


def test_a_signature_for_one_share_opens_no_other(files: FilesClient) -> None:
    sas = of_share(files, "r")
    other = files.ask("GET", f"/another-share/a?{sas}", signs=False)
    assert other.outcome == (403, "AuthenticationFailed")
    assert "Signature did not match" in other.text


def test_a_signature_for_one_file_opens_no_other(files: FilesClient) -> None:
    files.mkdir("/d")
    files.store("/d/b", b"b")
    sas = of_file(files, "rw", "d", "b")
    assert by(files, sas, "GET", "/d/b") == OK
    assert by(files, sas, "GET", "/a") == (403, "AuthenticationFailed")
    listing = by(files, sas, "GET", "/d?restype=directory&comp=list")
    assert listing[0] == 403


def test_what_was_signed_cannot_be_changed(files: FilesClient) -> None:
    sas = of_share(files, "r").replace("sp=r", "sp=rd")
    assert by(files, sas, "DELETE", "/a") == (403, "AuthenticationFailed")


@pytest.mark.parametrize(
    "times",
    [
        {"expiry": "2001-01-01T00:00:00Z"},
        {"start": "2098-01-01T00:00:00Z", "expiry": "2099-01-01T00:00:00Z"},
    ],
)
def test_a_signature_has_its_time(files: FilesClient, times: dict[str, str]) -> None:
    sas = of_share(files, "r", **times)
    refused = files("GET", f"/a?{sas}", signs=False)
    assert refused.outcome == (403, "AuthenticationFailed")
    assert "Signature not valid in the specified time frame" in refused.text


def test_a_signature_may_be_for_secure_connections_and_some_addresses(files: FilesClient) -> None:
    secure = of_share(files, "r", protocol="https")
    assert by(files, secure, "GET", "/a") == (403, "AuthorizationProtocolMismatch")
    elsewhere = of_share(files, "r", ip="10.1.1.1")
    assert by(files, elsewhere, "GET", "/a") == (403, "AuthorizationSourceIPMismatch")
    here = of_share(files, "r", ip="127.0.0.1-127.0.0.9")
    assert by(files, here, "GET", "/a") == OK


def test_a_signature_may_set_headers_of_the_answer(files: FilesClient) -> None:
    sas = of_share(files, "r", content_type="text/odd")
    assert files("GET", f"/a?{sas}", signs=False)["content-type"] == "text/odd"


def test_a_stored_policy_says_what_its_signatures_may(files: FilesClient) -> None:
    server = files.server
    credential = {"account_name": server.account, "account_key": server.key}
    policy = AccessPolicy(permission="r", expiry=now() + HOUR, start=now() - HOUR)
    with ShareClient(server.url, files.share, credential=credential) as client:
        client.set_share_access_policy({"readers": policy})
        told = client.get_share_access_policy()
    assert [each.id for each in told["signed_identifiers"]] == ["readers"]
    sas = generate_share_sas(server.account, files.share, server.key, policy_id="readers")
    assert by(files, sas, "GET", "/a") == OK
    assert by(files, sas, "DELETE", "/a") == MISMATCH
    files("PUT", "?restype=share&comp=acl")
    assert by(files, sas, "GET", "/a") == (403, "AuthenticationFailed")


def test_a_source_needs_a_signature_of_its_own(files: FilesClient) -> None:
    sas = of_share(files, "rw")
    address = files.address("/a")
    bare = by(files, sas, "PUT", "/b?comp=rename", x_ms_file_rename_source=address)
    assert bare == (403, "AuthenticationFailed")
    signed = f"{address}?{sas}"
    assert by(files, sas, "PUT", "/c", x_ms_copy_source=signed) == ACCEPTED
    renamed = by(files, sas, "PUT", "/b?comp=rename", x_ms_file_rename_source=signed)
    assert renamed == OK


# Signatures for the account.


@pytest.mark.parametrize(
    ("permission", "types", "path", "outcome"),
    [
        ("r", "o", "/a", OK),
        ("r", "c", "/a", (403, "AuthorizationResourceTypeMismatch")),
        ("r", "c", "?restype=share", OK),
        ("r", "o", "?restype=share", (403, "AuthorizationResourceTypeMismatch")),
        ("l", "c", "?restype=directory&comp=list", OK),
        ("w", "o", "/a", MISMATCH),
        ("rwdlc", "sco", "?restype=share&comp=acl", (403, "AuthorizationFailure")),
    ],
)
def test_an_account_signature_names_kinds_of_things(
    files: FilesClient, permission: str, types: str, path: str, outcome: tuple[int, str]
) -> None:
    assert by(files, of_account(files, permission, types), "GET", path) == outcome


def test_an_account_signature_lists_shares(files: FilesClient) -> None:
    sas = of_account(files, "l", "s")
    listed = files.ask("GET", f"/?comp=list&{sas}", signs=False)
    assert f"<Name>{files.share}</Name>" in listed.text


def test_an_account_signature_names_services(files: FilesClient) -> None:
    sas = of_account(files, "r", "o", services="b")
    assert by(files, sas, "GET", "/a") == (403, "AuthorizationServiceMismatch")


# Tokens.


def test_a_token_opens_all_to_who_says_what_for(files: FilesClient) -> None:
    bearer = {"Authorization": f"Bearer {files.server.token}"}
    read = files("GET", "/a", {**bearer, **INTENT}, signs=False)
    assert read.body == b"data"
    bare = files("GET", "/a", bearer, signs=False)
    assert bare.outcome == (400, "MissingRequiredHeader")
    assert "<HeaderName>x-ms-file-request-intent</HeaderName>" in bare.text
    old = files("GET", "/a", {**bearer, **INTENT}, signs=False, version="2021-06-08")
    assert old.outcome == (403, "AuthenticationFailed")


def test_a_wrong_token_is_told_where_to_get_one(files: FilesClient) -> None:
    refused = files("GET", "/a", {"Authorization": "Bearer nonsense", **INTENT}, signs=False)
    assert refused.outcome == (401, "InvalidAuthenticationInfo")
    assert refused["www-authenticate"].startswith("Bearer authorization_uri=https://login.")
