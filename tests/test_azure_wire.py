"""What is signed and what is read, against the SDK's own hand and an XML parser's.

Signing in and faults are those of all of Azure Storage, tried with blobs; listings and block lists are
the Blob service's own. Pages of a share's listings are in `test_entries.py`.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
from contextlib import closing
from datetime import datetime, timezone
from typing import Any
from xml.sax.saxutils import escape

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.transport import HttpRequest
from azure.storage.blob import ContainerClient
from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.azurite import Azurite
from servers.wire import ok, says, wire

from prefect_datastores.errors import (
    AuthenticationFailed,
    IntegrityError,
    TransferError,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.stores import listing, signing
from prefect_datastores.stores.base import Page
from prefect_datastores.stores.blob import BlobStore
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.stores.signing import KeySigner, Request
from prefect_datastores.testing import content_of, put

KEY = base64.b64encode(b"a key of the account").decode()
HEADERS = {
    "x-ms-date": "Tue, 24 Nov 2026 22:31:07 GMT",
    "x-ms-version": "2024-11-04",
    "x-ms-blob-type": "BlockBlob",
    "Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg==",
    "Content-Type": "application/xml",
    "If-Match": '"0x8D"',
    "If-None-Match": "*",
}

# -- signatures ---------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True)
@given(
    method=st.sampled_from(["GET", "PUT", "HEAD", "DELETE"]),
    name=st.text("abc %é/~+&=", min_size=1, max_size=12),
    query=st.dictionaries(
        st.sampled_from(["comp", "restype", "prefix", "marker", "blockid", "maxresults"]),
        st.text("ab /+=&é", min_size=1, max_size=8),
    ),
    chosen=st.sets(st.sampled_from(sorted(HEADERS))),
    length=st.integers(0, 2),
)
def test_a_request_is_signed_as_the_sdk_signs_it(
    method: str, name: str, query: dict[str, str], chosen: set[str], length: int
) -> None:
    from urllib.parse import quote

    headers = {key: HEADERS[key] for key in chosen} | {"x-ms-date": HEADERS["x-ms-date"]}
    request = Request(
        method, f"/account/c/{quote(name, safe='~/')}", tuple(query.items()), headers, length
    )
    target, signed = KeySigner("account", KEY).sign(request)

    theirs = HttpRequest(method, f"http://127.0.0.1:10000{target}", headers=dict(headers))
    if length:
        theirs.headers["Content-Length"] = str(length)
    SharedKeyCredentialPolicy("account", KEY).on_request(
        PipelineRequest(theirs, PipelineContext(None))
    )
    assert signed["Authorization"] == theirs.headers["Authorization"]


@pytest.mark.parametrize("key", ["not base64!", "abc", "ключ"])
def test_a_key_that_is_none_is_told_before_any_request(key: str) -> None:
    with pytest.raises(AuthenticationFailed, match="cut off or mistyped") as caught:
        BlobStore("https://account.example", "container", account_key=key)
    assert key not in str(caught.value)


class Tokens:
    """A credential that counts what it is asked for."""

    def __init__(self, *, lasts: float = 3600) -> None:
        self.asked: list[dict[str, Any]] = []
        self.lasts = lasts

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        self.asked.append({"scopes": scopes, **options})
        ends = datetime.now(timezone.utc).timestamp() + self.lasts
        return AccessToken(f"token-number-{len(self.asked)}", int(ends))


EMPTY = ok(b"<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>")
TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"
REFUSED = ok(
    b"",
    "x-ms-error-code: InvalidAuthenticationInfo",
    f"WWW-Authenticate: Bearer authorization_uri=https://login.microsoftonline.com/{TENANT}/oauth2/authorize",
    status="401 Unauthorized",
)


def test_a_token_is_asked_for_once_and_renewed_before_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for lasts, again, times in ((3600, 0, 1), (200, 0, 3), (200, 3600, 1), (-1, 3600, 3)):
        monkeypatch.setattr(signing, "_AGAIN_SECONDS", again)
        tokens = Tokens(lasts=lasts)
        with wire(says(EMPTY)) as heard:
            url = f"http://127.0.0.1:{heard.port}/account"
            with closing(BlobStore(url, "container", token=tokens)) as store:  # type: ignore[arg-type]
                for _ in range(3):
                    store.check_root()
        assert len(tokens.asked) == times
        assert f"Authorization: Bearer token-number-{times}" in heard.heads[-1]
    assert tokens.asked[0] == {"scopes": ("https://storage.azure.com/.default",)}


def test_a_token_that_cannot_be_renewed_yet_is_used_until_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Away(Tokens):
        def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            token = super().get_token(*scopes, **options)
            if len(self.asked) == 2:
                raise ClientAuthenticationError("The identity endpoint is away.")
            return token

    monkeypatch.setattr(signing, "_AGAIN_SECONDS", 0)
    tokens = Away(lasts=200)
    with wire(says(EMPTY)) as heard:
        url = f"http://127.0.0.1:{heard.port}/account"
        with closing(BlobStore(url, "container", token=tokens)) as store:  # type: ignore[arg-type]
            for _ in range(3):
                store.check_root()
    numbers = [head.partition("token-number-")[2][0] for head in heard.heads]
    assert numbers == ["1", "1", "3"]


def test_a_token_that_is_refused_is_renewed_once_for_the_tenant_that_was_named() -> None:
    tokens = Tokens()
    with wire(says(REFUSED, EMPTY)) as heard:
        url = f"http://127.0.0.1:{heard.port}/account"
        with closing(BlobStore(url, "container", token=tokens)) as store:  # type: ignore[arg-type]
            store.check_root()
    assert [asked.get("tenant_id") for asked in tokens.asked] == [None, TENANT]
    assert len(heard.heads) == 2


def test_a_token_that_is_always_refused_is_an_error_after_two_requests() -> None:
    with wire(says(REFUSED)) as heard:
        url = f"http://127.0.0.1:{heard.port}/account"
        with closing(BlobStore(url, "container", token=Tokens())) as store:  # type: ignore[arg-type]
            with pytest.raises(AuthenticationFailed, match="sign-in is not accepted"):
                store.check_root()
    assert len(heard.heads) == 2


def test_a_sign_in_that_gives_no_token_says_why() -> None:
    class Broken(Tokens):
        def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            raise ClientAuthenticationError("AADSTS7000215: Invalid client secret.\nTrace ID: x")

    with closing(BlobStore("http://127.0.0.1:9/account", "c", token=Broken())) as store:  # type: ignore[arg-type]
        with pytest.raises(
            AuthenticationFailed, match=r"failed before it was asked: AADSTS7000215"
        ):
            store.check_root()


def test_an_object_of_one_part_travels_under_the_digest_that_is_kept(
    azurite: Azurite, container: ContainerClient
) -> None:
    name, content = ObjectName("a"), content_of(5000)
    with closing(
        BlobStore(azurite.url, container.container_name, account_key=azurite.key)
    ) as store:
        put(store, name, content)
        writing = store.begin_write(name, len(content))
        writing.write_part(0, 0, memoryview(b"x" + content[1:]))  # as memory that went bad
        with pytest.raises(IntegrityError, match="damaged on its way"):
            writing.commit(hashlib.md5(content).digest())
        assert store.head(name).digest == hashlib.md5(content).digest()


def test_what_the_service_says_is_in_the_error() -> None:
    said = b"<?xml?><Error><Code>InvalidHeader</Code><Message>The value for x &lt; y.\nRequestId:1</Message></Error>"
    with wire(says(ok(said, status="400 Bad"))) as heard:
        with closing(BlobStore(f"http://127.0.0.1:{heard.port}/account", "c")) as store:
            with pytest.raises(
                TransferError, match=r"400: The value for x < y\. \(InvalidHeader\)"
            ):
                store.check_root()


# -- listings -------------------------------------------------------------------------------------------


def both(body: bytes) -> tuple[Page | None, Page]:
    return listing._quick(body.decode("utf-8-sig")), listing._thorough(body)


def test_a_real_page_is_read_alike_by_pattern_and_parser(
    azurite: Azurite, container: ContainerClient
) -> None:
    names = ["a b", "a&b<c>'\"", "%41", "é/日本", "deep/er/x", "x" * 200, "~!@#$^*()_+|;?"]
    pages: list[bytes] = []
    with closing(
        BlobStore(azurite.url, container.container_name, account_key=azurite.key)
    ) as store:
        for size, name in enumerate(names):
            put(store, name, content_of(size))
        container.upload_blob("folder", b"", metadata={"Hdi_isfolder": "true"})
        container.upload_blob("none/", b"")
        real = store._service.request

        def keep(*args: Any, **options: Any) -> Any:
            answer = real(*args, **options)
            pages.append(answer.body)
            return answer

        store._service.request = keep  # type: ignore[method-assign]
        objects = list(list_objects(store, ""))
        store.list_page("", limit=3)
        folded = store.list_page("", recursive=False)
    assert {info.name for info in objects if not info.is_marker} == set(names)
    assert {info.name for info in objects if info.is_marker} == {"folder", "none/"}
    assert set(folded.folders) == {"deep", "é", "none"}
    assert len(pages) == 3
    for body in pages:
        quick, thorough = both(body)
        assert quick == thorough
        assert listing.page_of(body) == thorough


def blob(
    name: str = "n", *, size: str = "5", etag: str = "0x8D", md5: str = "", more: str = ""
) -> str:
    return (
        f"<Blob><Name>{name}</Name><Properties><Creation-Time>Mon, 23 Nov 2026 00:00:00 GMT</Creation-Time>"
        f"<Last-Modified>Tue, 24 Nov 2026 22:31:07 GMT</Last-Modified><Etag>{etag}</Etag>"
        f"<Content-Length>{size}</Content-Length><Content-Type>x</Content-Type><Content-Encoding/>"
        f"<Content-MD5>{md5}</Content-MD5>{more}</Properties><OrMetadata/></Blob>"
    )


def page(*inside: str, marker: str = "") -> bytes:
    return (
        '\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="https://a/" '
        f'ContainerName="c"><Prefix>p</Prefix><Blobs>{"".join(inside)}</Blobs>'
        f"<NextMarker>{marker}</NextMarker></EnumerationResults>"
    ).encode()


NAMES = st.text(
    st.characters(
        min_codepoint=1, exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"
    ),
    min_size=1,
    max_size=20,
)


@settings(deadline=None, derandomize=True)
@given(
    names=st.lists(NAMES, max_size=5),
    folders=st.lists(NAMES, max_size=3),
    size=st.integers(0, 2**45),
    quoted=st.booleans(),
    marker=NAMES | st.just(""),
)
def test_pattern_and_parser_agree(
    names: list[str], folders: list[str], size: int, quoted: bool, marker: str
) -> None:
    md5 = base64.b64encode(hashlib.md5(b"").digest()).decode()
    etag = '"0x8D"' if quoted else "0x8D"
    inside = [blob(escape(name), size=str(size), etag=etag, md5=md5) for name in names]
    inside += [f"<BlobPrefix><Name>{escape(name)}/</Name></BlobPrefix>" for name in folders]
    quick, thorough = both(page(*inside, marker=escape(marker)))
    assert quick == thorough
    assert [info.name for info in thorough.objects] == names
    assert all((info.size, info.etag) == (size, '"0x8D"') for info in thorough.objects)
    assert all(info.digest == hashlib.md5(b"").digest() for info in thorough.objects)
    assert (thorough.folders, thorough.marker) == (tuple(folders), marker or None)


@pytest.mark.parametrize(
    "inside",
    [
        blob("a&#65;"),
        blob('x</Name><Name Encoded="true">a%EF%BF%BEb'),
        blob("<![CDATA[a<b]]>"),
        blob("a").replace("<Etag>0x8D</Etag>", "") + blob("b"),
        blob("a") + blob("b").replace("<Content-Length>5</Content-Length>", ""),
        blob("a").replace("<Last-Modified>", "<Etag>1</Etag><Last-Modified>"),
        "<!-- <Blob> -->" + blob("a"),
    ],
)
def test_what_the_pattern_does_not_know_is_left_to_the_parser(inside: str) -> None:
    body = page(inside)
    quick = listing._quick(body.decode("utf-8-sig"))
    try:
        thorough: Page | None = listing._thorough(body)
    except IntegrityError:
        thorough = None
    assert quick is None or quick == thorough


def test_an_encoded_name_is_decoded() -> None:
    encoded = blob("x").replace("<Name>x", '<Name Encoded="true">a%EF%BF%BEb%25')
    (info,) = listing.page_of(page(encoded)).objects
    assert info.name == "a\ufffeb%"
    folder = '<BlobPrefix><Name Encoded="true">a%EF%BF%BEb%25/</Name></BlobPrefix>'
    assert listing.page_of(page(folder)).folders == ("a\ufffeb%",)


@pytest.mark.parametrize("before", ["<Content-Length>", "<Content-Type>", "</Properties>"])
def test_a_folder_of_a_hierarchical_account_is_a_marker(before: str) -> None:
    of_datalake = "<Owner/><Group />" + "<ResourceType>directory</ResourceType>"
    folder = blob("folder", size="0").replace(before, of_datalake + before)
    quick, thorough = both(page(folder, blob("file", size="0"), blob("full", size="1")))
    assert quick == thorough
    assert [info.is_marker for info in thorough.objects] == [True, False, False]


def test_a_digest_that_stands_elsewhere_is_not_overlooked() -> None:
    md5 = base64.b64encode(hashlib.md5(b"").digest()).decode()
    element = f"<Content-MD5>{md5}</Content-MD5>"
    late = blob("a").replace("<Content-MD5></Content-MD5>", "<Cache-Control />" + element)
    early = blob("b").replace("<Content-MD5></Content-MD5>", "")
    early = early.replace("<Content-Length>", element + "<Content-Length>")
    none = blob("c").replace("<Content-MD5></Content-MD5>", "<Content-MD5 />")
    found = listing.page_of(page(late, early, none)).objects
    assert [info.digest for info in found] == [hashlib.md5(b"").digest()] * 2 + [None]


def test_metadata_may_have_the_names_of_elements() -> None:
    named = "<Metadata><Blob>x</Blob><Etag>y</Etag></Metadata>"
    body = page(blob("a").replace("<OrMetadata/>", named), blob("b"))
    assert listing.page_of(body) == listing.page_of(page(blob("a"), blob("b")))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Sign in</html>",
        page(blob())[:-5],
        b"<Other></Other>",
        page(blob("n")).replace(b"<Name>n", b"<Name>\xff"),
        page(blob(size="many")),
        page(blob().replace("<Etag>0x8D</Etag>", "")),
        b'<!DOCTYPE x [<!ENTITY a "b">]>' + page(blob("&a;"))[3:].partition(b"?>")[2],
    ],
)
def test_what_is_no_listing_is_an_error_and_never_empty(body: bytes) -> None:
    with pytest.raises(IntegrityError, match="listing cannot be read"):
        listing.page_of(body)


@pytest.mark.parametrize(
    "text",
    [
        "Tue, 24 Nov 2026 22:31:07 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Thu, 29 Feb 2024 23:59:59 GMT",
    ],
)
def test_a_time_is_read_as_it_is_meant(text: str) -> None:
    assert listing.time_of(text) == email.utils.parsedate_to_datetime(text).timestamp()


@pytest.mark.parametrize(
    "text", ["", "yesterday", "Tue, 24 Nix 2026 22:31:07 GMT", "Tue, 24 Nov 2026"]
)
def test_a_time_that_is_none_is_unknown(text: str) -> None:
    assert listing.time_of(text) is None
