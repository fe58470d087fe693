"""Who may ask the tests' data lake for what: every signature is checked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.storage.blob import (
    AccountSasPermissions,
    ResourceTypes,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)
from azure.storage.filedatalake import generate_directory_sas, generate_file_system_sas
from lake_clients import Asker, sdk
from servers.data_lake import TOKEN, DataLake

from prefect_datastores.stores.signing import KeySigner, NoSigner, Request, SasSigner, TokenSigner

HOUR = timedelta(hours=1)


def moment(away: timedelta) -> datetime:
    return datetime.now(timezone.utc) + away


@pytest.fixture
def asker(data_lake: DataLake, filesystem: str) -> Asker:
    return Asker(data_lake, filesystem)


@pytest.fixture
def flat_asker(flat_data_lake: DataLake) -> Iterator[Asker]:
    asker = Asker(flat_data_lake, "flat")
    assert asker.blob("PUT", query=(("restype", "container"),)).status == 201
    yield asker
    assert asker.blob("DELETE", query=(("restype", "container"),)).status == 202


def outcomes(asker: Asker) -> set[tuple[int, str]]:
    """What comes of asking both endpoints for what the credential may not do."""
    return {asker.blob("HEAD", "a").outcome, asker.dfs("HEAD", "a").outcome}


def test_a_wrong_key_is_refused_by_both_endpoints(asker: Asker) -> None:
    asker.make_file("a")
    wrong = Asker(asker.lake, asker.filesystem, KeySigner(asker.lake.account, "d3Jvbmc="))
    assert outcomes(wrong) == {(403, "AuthenticationFailed")}
    body = wrong.blob("GET", "a").body
    assert b"<AuthenticationErrorDetail>The MAC signature found" in body
    other = Asker(asker.lake, asker.filesystem, KeySigner("other", asker.lake.key))
    assert outcomes(other) == {(403, "AuthenticationFailed")}
    assert outcomes(Asker(asker.lake, asker.filesystem, NoSigner())) == {
        (401, "NoAuthenticationInformation")
    }


def test_a_request_that_was_changed_on_its_way_is_refused(asker: Asker) -> None:
    class Changing(KeySigner):
        def sign(self, request: Any) -> Any:
            target, headers = super().sign(request)
            return target.replace("/a", "/b"), headers

    changing = Changing(asker.lake.account, asker.lake.key)
    wrong = Asker(asker.lake, asker.filesystem, changing)
    assert wrong.dfs("HEAD", "a").outcome == (403, "AuthenticationFailed")


def test_a_request_of_yesterday_is_refused(asker: Asker) -> None:
    old = {"x-ms-date": "Mon, 02 Nov 2020 10:00:00 GMT"}
    assert asker.blob("GET", "a", headers=old).outcome == (403, "AuthenticationFailed")


def container_sas(asker: Asker, permission: str, ends: timedelta = HOUR) -> Asker:
    lake = asker.lake
    token = generate_container_sas(
        lake.account,
        asker.filesystem,
        lake.key,
        permission=permission,
        expiry=moment(ends),
    )
    return Asker(lake, asker.filesystem, SasSigner(token))


def token_of(holder: Asker) -> str:
    """The SAS that somebody signs by."""
    assert holder.signer is not None
    return holder.signer.sign(Request("GET", "", (), {}))[0].removeprefix("?")


def test_a_sas_allows_what_it_says(asker: Asker) -> None:
    asker.make_file("a", b"content")
    reader = container_sas(asker, "r")
    assert reader.content("a") == b"content"
    blob = {"x-ms-blob-type": "BlockBlob"}
    denied = (403, "AuthorizationPermissionMismatch")
    assert reader.blob("PUT", "b", headers=blob, body=b"x").outcome == denied
    assert reader.blob("DELETE", "a").outcome == denied
    listing = (("restype", "container"), ("comp", "list"))
    assert reader.blob("GET", query=listing).outcome == denied
    assert container_sas(asker, "l").blob("GET", query=listing).status == 200
    assert reader.blob("DELETE", query=(("restype", "container"),)).outcome == denied
    creator = container_sas(asker, "c")
    assert creator.blob("PUT", "new", headers=blob, body=b"x").status == 201
    refused = creator.blob("PUT", "new", headers=blob, body=b"x")
    assert refused.outcome == (403, "UnauthorizedBlobOverwrite")


def test_a_sas_that_is_over_or_forged_is_refused(asker: Asker) -> None:
    asker.make_file("a")
    over = container_sas(asker, "r", -HOUR)
    assert outcomes(over) == {(403, "AuthenticationFailed")}
    assert b"Signature not valid in the specified time frame" in over.blob("GET", "a").body
    good = container_sas(asker, "r")
    assert isinstance(good.signer, SasSigner)
    forged = good.signer._token.replace("sp=r", "sp=rw")
    assert outcomes(Asker(asker.lake, asker.filesystem, SasSigner(forged))) == {
        (403, "AuthenticationFailed")
    }


def test_a_sas_for_less_is_good_for_no_more(asker: Asker) -> None:
    for name in ("dir/a", "dir/sub/a", "other"):
        asker.make_file(name)
    lake = asker.lake
    shared: dict[str, Any] = {"permission": "r", "expiry": moment(HOUR)}
    of_one = generate_blob_sas(
        lake.account, asker.filesystem, "dir/a", account_key=lake.key, **shared
    )
    of_directory = generate_directory_sas(lake.account, asker.filesystem, "dir", lake.key, **shared)
    one = Asker(lake, asker.filesystem, SasSigner(of_one))
    below = Asker(lake, asker.filesystem, SasSigner(of_directory))
    allowed = {
        name: (one.blob("HEAD", name).status, below.dfs("HEAD", name).status)
        for name in ("dir/a", "dir/sub/a", "other")
    }
    assert allowed == {"dir/a": (200, 200), "dir/sub/a": (403, 200), "other": (403, 403)}


def test_a_sas_for_the_account_is_for_kinds_of_resources(asker: Asker) -> None:
    lake = asker.lake
    token = generate_account_sas(
        lake.account,
        lake.key,
        ResourceTypes(object=True),
        AccountSasPermissions(read=True, write=True, list=True),
        moment(HOUR),
    )
    holder = Asker(lake, asker.filesystem, SasSigner(token))
    holder.make_file("a", b"x")
    assert holder.content("a") == b"x"
    listed = holder.blob("GET", query=(("restype", "container"), ("comp", "list")))
    assert listed.outcome == (403, "AuthorizationResourceTypeMismatch")
    assert holder.dfs("GET", "a").body == b"x"


def test_a_rename_by_a_sas_is_signed_for_its_source_as_well(
    data_lake: DataLake, asker: Asker
) -> None:
    asker.make_file("source", b"content")
    token = generate_file_system_sas(
        data_lake.account,
        asker.filesystem,
        data_lake.key,
        permission="rwd",
        expiry=moment(HOUR),
    )
    holder = Asker(data_lake, asker.filesystem, SasSigner(token))
    assert holder.rename("source", "to").outcome == (403, "AuthenticationFailed")
    with sdk(data_lake, token) as service:
        file = service.get_file_client(asker.filesystem, "source")
        file.rename_file(f"{asker.filesystem}/to")
    assert (asker.content("source"), asker.content("to")) == (None, b"content")


def test_a_copy_by_a_sas_reads_its_source_by_one_in_its_address(asker: Asker) -> None:
    asker.make_file("source", b"content")
    address = f"{asker.lake.blob_url}/{asker.filesystem}/source"
    writer, reader = (container_sas(asker, rights) for rights in ("w", "r"))
    for query, outcome in (
        ("", (403, "CannotVerifyCopySource")),
        (f"?{token_of(writer)}", (403, "AuthorizationPermissionMismatch")),
        (f"?{token_of(reader)}", (202, "")),
    ):
        headers = {"x-ms-copy-source": f"{address}{query}"}
        assert writer.blob("PUT", "to", headers=headers).outcome == outcome
    assert asker.content("to") == b"content"
    told = asker.blob("HEAD", "to").headers["x-ms-copy-source"]
    assert told == address  # no signature


class Tokens:
    """A credential that has one token."""

    def __init__(self, token: str) -> None:
        self.token = token

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken(self.token, int(moment(HOUR).timestamp()))


def test_a_token_is_taken_where_the_account_was_told_of_it(flat_asker: Asker) -> None:
    lake = flat_asker.lake
    flat_asker.make_file("a")
    for token, expected in ((TOKEN, {(200, "")}), ("other", {(401, "InvalidAuthenticationInfo")})):
        signer = TokenSigner(Tokens(token), lake.blob_url)  # type: ignore[arg-type]
        assert outcomes(Asker(lake, flat_asker.filesystem, signer)) == expected


def test_the_kind_of_namespace_is_told_to_a_sas_and_to_a_token_in_ways_of_their_own(
    asker: Asker, flat_asker: Asker
) -> None:
    information = (("restype", "account"), ("comp", "properties"))
    of_filesystem = (("resource", "filesystem"),)
    denied = (403, "AuthorizationPermissionMismatch")
    holder = container_sas(asker, "r")
    assert holder.blob("GET", query=information).headers["x-ms-is-hns-enabled"] == "true"
    assert holder.dfs("HEAD", query=of_filesystem).outcome == denied
    signer = TokenSigner(Tokens(TOKEN), flat_asker.lake.blob_url)  # type: ignore[arg-type]
    bearer = Asker(flat_asker.lake, flat_asker.filesystem, signer)
    assert bearer.blob("GET", query=information).outcome == denied
    told = bearer.dfs("HEAD", query=of_filesystem)
    assert told.headers["x-ms-namespace-enabled"] == "false"
