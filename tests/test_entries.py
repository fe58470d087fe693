"""Pages of a file share's listings: the patterns and the parser read them alike, and none reads what is no page."""

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stores import SmallShareStore

from prefect_datastores.errors import IntegrityError
from prefect_datastores.names import ObjectName
from prefect_datastores.stores import entries
from prefect_datastores.stores.entries import Entries, ranges_of
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.stores.share import ShareStore
from prefect_datastores.testing import put

WRITTEN = "2026-11-24T22:31:07.1234567Z"
NAMES = st.text(
    st.characters(
        min_codepoint=1, exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"
    ),
    min_size=1,
    max_size=20,
)


def file(name: str, size: str = "5", etag: str = '"0x8D"', more: str = "") -> str:
    return (
        f"<File><Name>{name}</Name><FileId>1</FileId><Properties><Content-Length>{size}</Content-Length>"
        f"<CreationTime>{WRITTEN}</CreationTime><LastAccessTime>{WRITTEN}</LastAccessTime>"
        f"<LastWriteTime>{WRITTEN}</LastWriteTime><ChangeTime>{WRITTEN}</ChangeTime>"
        f"<Last-Modified>Tue, 24 Nov 2026 22:31:07 GMT</Last-Modified><Etag>{etag}</Etag>{more}</Properties></File>"
    )


def folder(name: str) -> str:
    return (
        f"<Directory><Name>{name}</Name><FileId>2</FileId><Properties><LastWriteTime>{WRITTEN}</LastWriteTime>"
        '<Etag>"0x8E"</Etag></Properties></Directory>'
    )


def page(*inside: str, marker: str = "") -> bytes:
    return (
        '\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="https://a/" '
        f'ShareName="s" DirectoryPath="d"><Entries>{"".join(inside)}</Entries>'
        f"<NextMarker>{marker}</NextMarker></EnumerationResults>"
    ).encode()


def both(body: bytes) -> tuple[Entries | None, Entries]:
    return entries._quick(body.decode("utf-8-sig")), entries._thorough(body)


@settings(deadline=None, derandomize=True)
@given(
    names=st.lists(NAMES, max_size=5),
    folders=st.lists(NAMES, max_size=3),
    size=st.integers(0, 2**42),
    quoted=st.booleans(),
    marker=NAMES | st.just(""),
)
def test_pattern_and_parser_agree(
    names: list[str], folders: list[str], size: int, quoted: bool, marker: str
) -> None:
    etag = '"0x8D"' if quoted else "0x8D"
    inside = [file(escape(name), str(size), etag) for name in names]
    inside[1:1] = [folder(escape(name)) for name in folders]  # as the service mixes them
    quick, thorough = both(page(*inside, marker=escape(marker)))
    assert quick == thorough
    assert [tuple(found) for found in thorough.files] == [
        (name, size, '"0x8D"', WRITTEN) for name in names
    ]
    assert (thorough.folders, thorough.marker) == (folders, marker or None)


def test_a_page_of_a_server_is_read_alike(share_store: SmallShareStore) -> None:
    pages: list[bytes] = []
    for name in ["a b", "a&b'c", "%41", "é日本", "deep/er/x", "x" * 200, "~!@#$^()_+;"]:
        put(share_store, f"in/{name}", name.encode())
    real = share_store.service.request

    def keep(*args: Any, **options: Any) -> Any:
        answer = real(*args, **options)
        pages.append(answer.body)
        return answer

    share_store.service.request = keep  # type: ignore[method-assign]
    assert len(list(list_objects(share_store, ""))) == 7
    share_store.list_page("in/", recursive=False, limit=2)
    assert len(pages) == 5
    for body in pages:
        quick, thorough = both(body)
        assert quick == thorough


@pytest.mark.parametrize(
    "inside",
    [
        file("a&#65;"),
        file('x</Name><Name Encoded="true">a%EF%BF%BEb'),
        file("<![CDATA[a<b]]>"),
        file("a", etag="").replace("<Etag></Etag>", "") + file("b"),
        file("a") + file("b").replace("<Content-Length>5</Content-Length>", ""),
        file("a").replace("<LastWriteTime>", "<Etag>1</Etag><LastWriteTime>"),
        "<!-- <File> -->" + file("a"),
        file("a")
        .replace('<Etag>"0x8D"</Etag>', "")
        .replace("<CreationTime>", "<Etag>1</Etag><CreationTime>"),
    ],
)
def test_what_the_pattern_does_not_know_is_left_to_the_parser(inside: str) -> None:
    body = page(inside)
    quick = entries._quick(body.decode("utf-8-sig"))
    try:
        thorough: Entries | None = entries._thorough(body)
    except IntegrityError:
        thorough = None
    assert quick is None or quick == thorough


def test_an_encoded_name_is_decoded() -> None:
    encoded = file("x").replace("<Name>x", '<Name Encoded="true">a%EF%BF%BEb%25')
    assert entries.entries_of(page(encoded)).files[0].name == "a\ufffeb%"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Sign in</html>",
        page(file("a"))[:-5],
        b"<Other></Other>",
        page(file("n")).replace(b"<Name>n", b"<Name>\xff"),
        page(file("a", size="many")),
        page("<File><Properties></Properties></File>"),
        page("<Directory><Properties></Properties></Directory>"),
    ],
)
def test_what_is_no_listing_is_an_error_and_never_empty(body: bytes) -> None:
    with pytest.raises(IntegrityError, match="listing cannot be read"):
        entries.entries_of(body)


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ("<Ranges />", []),
        (" 0-9 20-29", [(0, 10), (20, 30)]),
        (" 10-19 0-9 5-7", [(0, 20)]),
        ("<html/>", []),
    ],
)
def test_ranges_are_joined(told: str, found: list[tuple[int, int]]) -> None:
    inside = re.sub(r" (\d+)-(\d+)", r"<Range><Start>\1</Start><End>\2</End></Range>", told)
    assert ranges_of(f"<Ranges>{inside}</Ranges>".encode()) == found


def test_a_moment_is_read_as_it_is_meant() -> None:
    moment = entries.moment_of(WRITTEN)
    expected = datetime(2026, 11, 24, 22, 31, 7, 123457, tzinfo=timezone.utc).timestamp()
    assert moment == pytest.approx(expected, abs=1e-6)
    assert entries.moment_of("yesterday") is None


@pytest.fixture
def wide(share_store: SmallShareStore) -> Iterator[ShareStore]:
    """A share of several folders."""
    for number in range(40):
        put(share_store, f"{number:02}/a", b"1")
    with closing(share_store):
        yield share_store


def test_many_folders_are_listed_in_order_and_a_listing_that_is_left_asks_no_more(
    wide: SmallShareStore,
) -> None:
    listing = list_objects(wide, "")
    assert next(listing).name == "00/a"
    listing.close()  # type: ignore[attr-defined]
    assert [info.name for info in list_objects(wide, "")] == [f"{n:02}/a" for n in range(40)]
    wide.delete(ObjectName("07/a"))
    assert [info.name for info in list_objects(wide, "07/")] == ["07/"]
