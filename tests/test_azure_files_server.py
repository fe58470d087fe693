"""The test server of Azure Files answers as the service does, and says so where it does not know."""

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from files_client import FilesClient, asking, encoded
from servers.azure_files import AzureFiles

MIB = 2**20
OLD, LATER = "2018-11-09", "2021-06-08"
LEASE, OTHER = "11111111-2222-3333-4444-555555555555", "99999999-8888-7777-6666-555555555555"
MOMENT = "2022-03-10T10:14:30.5000000Z"


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def names_in(listing: str) -> list[str]:
    return re.findall(r"<Name>([^<]*)</Name>", listing)


@pytest.fixture
def files(azure_files: AzureFiles, share: str) -> Iterator[FilesClient]:
    """A client of a new share."""
    with asking(azure_files, share) as client:
        yield client


@pytest.fixture
def nowhere(azure_files: AzureFiles) -> Iterator[FilesClient]:
    """A client of a share that does not exist."""
    with asking(azure_files, "no-such-share") as client:
        yield client


# Shares.


def test_a_share_is_made_once_and_deleted_once(azure_files: AzureFiles) -> None:
    with asking(azure_files, "made-and-deleted") as files:
        made = files("PUT", "?restype=share", {"x-ms-share-quota": "7", "x-ms-meta-who": "me"})
        assert made.outcome == (201, "")
        assert files("PUT", "?restype=share").outcome == (409, "ShareAlreadyExists")
        told = files("GET", "?restype=share")
        assert (told["x-ms-share-quota"], told["x-ms-meta-who"]) == ("7", "me")
        assert told.etag == made.etag
        assert files("DELETE", "?restype=share").outcome == (202, "")
        for method in ("GET", "DELETE"):
            assert files(method, "?restype=share").outcome == (404, "ShareNotFound")


@pytest.mark.parametrize("name", ["ab", "Upper", "-start", "end-", "two--hyphens", "a.b", "a" * 64])
def test_a_share_has_a_name_of_few_characters(azure_files: AzureFiles, name: str) -> None:
    with asking(azure_files, name) as files:
        assert files("PUT", "?restype=share").outcome == (400, "InvalidResourceName")


def test_shares_are_listed_by_pages(azure_files: AzureFiles) -> None:
    made = [f"listed-{letter}" for letter in "abc"]
    with asking(azure_files, "") as files:
        for name in made:
            files.ask("PUT", f"/{name}?restype=share", {"x-ms-meta-is": name})
        first = files.ask("GET", "/?comp=list&prefix=listed-&maxresults=2&include=metadata")
        assert names_in(first.text) == made[:2]
        assert f"<Metadata><is>{made[0]}</is></Metadata>" in first.text
        marker = f"/{azure_files.account}/{made[2]}"
        assert f"<NextMarker>{marker}</NextMarker>" in first.text
        asked = f"/?comp=list&prefix=listed-&marker={marker.replace('/', '%2F')}"
        last = files.ask("GET", asked).text
        assert names_in(last) == made[2:]
        assert "<NextMarker />" in last
        for name in made:
            files.ask("DELETE", f"/{name}?restype=share")


def test_a_snapshot_stays_as_the_share_was(files: FilesClient) -> None:
    files.store("/a", b"before")
    moments = [files("PUT", "?restype=share&comp=snapshot")["x-ms-snapshot"] for _ in range(2)]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.0000000Z", each) for each in moments)
    assert moments[0] != moments[1]
    files.store("/a", b"after!")
    assert files("GET", f"/a?sharesnapshot={moments[0]}").body == b"before"
    assert files("DELETE", f"/a?sharesnapshot={moments[0]}").outcome == (
        400,
        "InvalidQueryParameterValue",
    )
    assert files("DELETE", "?restype=share").outcome == (409, "ShareHasSnapshots")
    for moment in moments:
        assert files("DELETE", f"?restype=share&sharesnapshot={moment}").status == 202


def test_what_is_stored_is_counted(files: FilesClient) -> None:
    files.store("/a", b"hello world")
    told = files("GET", "?restype=share&comp=stats").text
    assert "<ShareStats><ShareUsageBytes>11</ShareUsageBytes></ShareStats>" in told


def test_the_root_of_a_share_is_no_file(files: FilesClient) -> None:
    for method in ("HEAD", "GET", "DELETE"):
        assert files(method, "").outcome == (400, "InvalidQueryParameterValue")
    told = files("GET", "?restype=directory")
    assert (told.status, told["x-ms-file-id"], told["x-ms-file-attributes"]) == (
        200,
        "0",
        "Directory",
    )


# Where a path leads.


@pytest.mark.parametrize(
    ("method", "query"), [("GET", "?restype=directory"), ("HEAD", ""), ("GET", ""), ("DELETE", "")]
)
def test_the_share_is_looked_for_first_then_parents_then_the_end(
    files: FilesClient, nowhere: FilesClient, method: str, query: str
) -> None:
    assert nowhere(method, f"/a/b{query}").outcome == (404, "ShareNotFound")
    assert files(method, f"/a/b{query}").outcome == (404, "ParentNotFound")
    assert files(method, f"/a{query}").outcome == (404, "ResourceNotFound")


def test_nothing_is_made_without_its_parent(files: FilesClient) -> None:
    assert files.create("/a/b").outcome == (404, "ParentNotFound")
    assert files.mkdir("/a/b").outcome == (404, "ParentNotFound")
    files.create("/file")
    assert files.create("/file/b").outcome == (404, "ParentNotFound")


def test_the_slash_of_a_path_may_be_encoded(files: FilesClient) -> None:
    files.mkdir("/a")
    files.mkdir("/a%2Fb")
    files.create("/a%2Fb%2Fc")
    assert files("HEAD", "/a/b/c").status == 200


def test_names_are_kept_as_given_and_found_whatever_their_case(files: FilesClient) -> None:
    files.mkdir("/Folder")
    files.store(encoded("Folder/Ünïcode"), b"1")
    assert files("GET", encoded("FOLDER/üNÏCODE")).body == b"1"
    assert files.mkdir("/fOLDER").outcome == (409, "ResourceAlreadyExists")
    assert names_in(files.names("/folder")) == ["Ünïcode"]


def test_dots_at_the_end_of_a_name_are_dropped_unless_they_are_asked_for(
    files: FilesClient,
) -> None:
    allowed = {"x-ms-allow-trailing-dot": "true"}
    files.create("/a...")
    assert names_in(files.names()) == ["a"]
    assert files("HEAD", "/a..", allowed).outcome == (404, "ResourceNotFound")
    files.create("/a..", headers=allowed)
    assert names_in(files.names()) == ["a", "a.."]
    moved = files.rename("/a..", "/b.", {**allowed, "x-ms-source-allow-trailing-dot": "true"})
    assert moved.status == 200
    assert names_in(files.names()) == ["a", "b."]


@pytest.mark.parametrize("character", ['"', "\\", ":", "|", "<", ">", "*", "?", "\x01", "\x1f"])
def test_some_characters_are_in_no_name(files: FilesClient, character: str) -> None:
    name = encoded(f"a{character}b")
    assert files.create(name).outcome == (400, "InvalidResourceName")
    assert files.mkdir(name).outcome == (400, "InvalidResourceName")


@pytest.mark.parametrize("name", ["LPT1", "com9", "nul", "CON", ".", "..", "CLOCK$"])
def test_names_of_devices_are_reserved(files: FilesClient, name: str) -> None:
    assert files.create(encoded(name)).outcome == (400, "InvalidResourceName")


def test_names_and_paths_are_not_too_long(files: FilesClient) -> None:
    assert files.create("/" + "n" * 255).status == 201
    assert files.create("/" + "n" * 256).outcome == (400, "InvalidResourceName")
    # Counted as Windows does: this letter is two of its units.
    assert files.create(encoded("\U0001f600" * 128)).outcome == (400, "InvalidResourceName")
    long = "/".join(["d" * 200] * 11)
    assert files.create(f"/{long}").outcome == (400, "InvalidFileOrDirectoryPathName")
    deep = "/".join("d" * 251)
    assert files.create(f"/{deep}").outcome == (400, "InvalidFileOrDirectoryPathName")


# Directories.


def test_a_directory_is_deleted_once_it_is_empty(files: FilesClient) -> None:
    assert files.mkdir("/d").outcome == (201, "")
    files.create("/d/a")
    assert files("DELETE", "/d?restype=directory").outcome == (409, "DirectoryNotEmpty")
    files("DELETE", "/d/a")
    assert files("DELETE", "/d?restype=directory").outcome == (202, "")
    assert files("DELETE", "/d?restype=directory").outcome == (404, "ResourceNotFound")


def test_a_file_is_no_directory_and_a_directory_no_file(files: FilesClient) -> None:
    files.mkdir("/d")
    files.create("/f")
    assert files("GET", "/d").outcome == (409, "ResourceTypeMismatch")
    assert files("GET", "/f?restype=directory").outcome == (409, "ResourceTypeMismatch")
    assert files.create("/d").outcome == (409, "ResourceTypeMismatch")
    assert files.mkdir("/f").outcome == (409, "ResourceAlreadyExists")


def test_what_happens_in_a_directory_does_not_change_its_version(files: FilesClient) -> None:
    etag = files.mkdir("/d").etag
    files.create("/d/a")
    files("DELETE", "/d/a")
    assert files("GET", "/d?restype=directory").etag == etag


def test_the_properties_that_windows_knows_are_set_and_kept(files: FilesClient) -> None:
    made = files.mkdir("/d", {"x-ms-file-attributes": "ReadOnly|Directory"})
    assert made["x-ms-file-attributes"] == "ReadOnly | Directory"
    given = {"x-ms-file-attributes": "None", "x-ms-file-last-write-time": MOMENT}
    changed = files("PUT", "/d?restype=directory&comp=properties", given)
    assert changed["x-ms-file-attributes"] == "Directory"
    assert changed["x-ms-file-last-write-time"] == MOMENT
    assert changed["x-ms-file-creation-time"] == made["x-ms-file-creation-time"]
    assert changed.etag != made.etag


# Listings.


def test_files_and_directories_are_listed_together_without_regard_to_case(
    files: FilesClient,
) -> None:
    for name in ("b", "D"):
        files.mkdir(f"/{name}")
    for name in ("a", "C", "_"):
        files.create(f"/{name}", 5)
    listing = files.names()
    assert re.findall(r"<(File|Directory)><Name>([^<]*)<", listing) == [
        ("File", "a"),
        ("Directory", "b"),
        ("File", "C"),
        ("Directory", "D"),
        ("File", "_"),
    ]
    assert "<Properties><Content-Length>5</Content-Length></Properties>" in listing
    assert listing.startswith('\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults ')


def test_a_listing_comes_by_pages_whose_marker_is_the_next_name(files: FilesClient) -> None:
    for name in ("filea1", "filea2", "filea3"):
        files.create(f"/{name}")
    first = files.names(query="&maxresults=2")
    assert names_in(first) == ["filea1", "filea2"]
    assert "<MaxResults>2</MaxResults>" in first
    assert "<NextMarker>1!8!ZmlsZWEz</NextMarker>" in first
    files("DELETE", "/filea3")
    files.create("/filea4")
    last = files.names(query="&maxresults=2&marker=1%218%21ZmlsZWEz")
    assert names_in(last) == ["filea4"]
    assert "<Marker>1!8!ZmlsZWEz</Marker>" in last
    assert "<NextMarker />" in last
    wrong = files("GET", "?restype=directory&comp=list&marker=nonsense")
    assert wrong.outcome == (400, "InvalidContinuationToken")
    zero = files("GET", "?restype=directory&comp=list&maxresults=0")
    assert zero.outcome == (400, "OutOfRangeQueryParameterValue")


def test_a_listing_tells_what_is_asked_for(files: FilesClient) -> None:
    files.mkdir("/d")
    files.store("/d/a&b", b"12345")
    told = files("HEAD", encoded("d/a&b"))
    asked = "&include=Timestamps,Etag,Attributes,PermissionKey&prefix=a%26"
    listing = files.names("/d", asked)
    assert 'DirectoryPath="d"' in listing
    assert "<Prefix>a&amp;</Prefix>" in listing
    assert f"<Name>a&amp;b</Name><FileId>{told['x-ms-file-id']}</FileId>" in listing
    assert f"<LastWriteTime>{told['x-ms-file-last-write-time']}</LastWriteTime>" in listing
    assert f"<Last-Modified>{told['last-modified']}</Last-Modified>" in listing
    assert f"<Etag>{told.etag}</Etag></Properties><Attributes>Archive</Attributes>" in listing
    assert f"<PermissionKey>{told['x-ms-file-permission-key']}</PermissionKey>" in listing


def test_a_listing_tells_no_etag_that_was_not_asked_for(files: FilesClient) -> None:
    files.create("/a")
    assert "Etag" not in files.names()


def test_a_name_that_xml_cannot_hold_is_encoded(files: FilesClient) -> None:
    files.mkdir(encoded("d\ufffe"))
    files.create(encoded("d\ufffe/a\uffff"))
    listing = files.names(encoded("d\ufffe"))
    assert 'Encoded="true" DirectoryPath="d%EF%BF%BE"' in listing
    assert '<Name Encoded="true">a%EF%BF%BF</Name>' in listing


# Files.


def test_a_file_is_made_of_zeros_and_written_by_ranges(files: FilesClient) -> None:
    assert files.create("/a", 10).outcome == (201, "")
    written = files.put("/a", 2, b"data")
    assert written.outcome == (201, "")
    assert written["content-md5"] == md5(b"data")
    read = files("GET", "/a")
    assert (read.status, read.body) == (200, b"\0\0data\0\0\0\0")
    assert read["content-type"] == "application/octet-stream"


def test_a_file_that_is_there_is_replaced(files: FilesClient) -> None:
    first = files.store("/a", b"before")
    files("PUT", "/a?comp=metadata", {"x-ms-meta-is": "old"})
    made = files.create("/A", 3)
    assert made.etag != first.etag
    read = files("GET", "/a")
    assert read.body == b"\0\0\0"
    assert "x-ms-meta-is" not in read.headers
    assert names_in(files.names()) == ["A"]


@pytest.mark.parametrize("missing", ["x-ms-type", "x-ms-content-length"])
def test_a_file_needs_its_type_and_length(files: FilesClient, missing: str) -> None:
    headers = {"x-ms-type": "file", "x-ms-content-length": "1"}
    del headers[missing]
    assert files("PUT", "/a", headers).outcome == (400, "MissingRequiredHeader")


def test_new_versions_make_a_file_with_its_data(files: FilesClient) -> None:
    headers = {"x-ms-type": "file", "x-ms-content-length": "4", "Content-MD5": md5(b"data")}
    old = files("PUT", "/a", headers, b"data")
    assert old.outcome == (400, "InvalidHeaderValue")
    new = files("PUT", "/a", headers, b"data", version="2026-06-06")
    assert (new.status, new["content-md5"]) == (201, md5(b"data"))
    assert files("GET", "/a").body == b"data"
    damaged = files("PUT", "/a", headers, b"date", version="2026-06-06")
    assert damaged.outcome == (400, "Md5Mismatch")


def test_a_file_of_terabytes_takes_no_room(files: FilesClient) -> None:
    tebibyte = 2**40
    assert files.create("/a", 4 * tebibyte).status == 201
    assert files.create("/b", 4 * tebibyte + 1).status == 400
    files.put("/a", 3 * tebibyte, b"far")
    read = files("GET", "/a", {"x-ms-range": f"bytes={3 * tebibyte - 1}-{3 * tebibyte + 3}"})
    assert read.body == b"\0far\0"


def test_a_version_is_another_after_each_change(files: FilesClient) -> None:
    etags = [files.create("/a", 4).etag, files.put("/a", 0, b"data").etag]
    etags += [files.put("/a", 0, b"data").etag]
    etags += [files("PUT", "/a?comp=metadata", {"x-ms-meta-is": "new"}).etag]
    etags += [files("PUT", "/a?comp=properties", {"x-ms-content-length": "2"}).etag]
    etags += [files.rename("/a", "/b").etag]
    assert len(set(etags)) == len(etags)
    assert all(re.fullmatch(r'"0x8D[0-9A-F]{13}"', etag) for etag in etags)
    told = files("HEAD", "/b")
    assert told.etag == etags[-1]
    assert files("GET", "/b").etag == told.etag


def test_two_files_of_one_moment_of_creation_have_one_etag(files: FilesClient) -> None:
    given = {"x-ms-file-creation-time": MOMENT}
    made = files.create("/a", headers=given)
    assert files.create("/b", headers=given).etag == made.etag
    assert made["last-modified"] == "Thu, 10 Mar 2022 10:14:30 GMT"
    assert made["x-ms-file-change-time"] == MOMENT
    other = {"x-ms-file-last-write-time": MOMENT, "x-ms-file-change-time": MOMENT}
    assert files.create("/c", headers=other).etag != files.create("/d", headers=other).etag


def test_a_change_that_names_a_header_sets_them_all(files: FilesClient) -> None:
    files.create("/a", 4, {"x-ms-content-type": "text/plain", "x-ms-content-md5": md5(b"")})
    files("PUT", "/a?comp=properties", {"x-ms-content-length": "2"})
    resized = files("HEAD", "/a")
    assert (resized["content-length"], resized["content-type"]) == ("2", "text/plain")
    assert resized["content-md5"] == md5(b"")
    files("PUT", "/a?comp=properties", {"x-ms-content-disposition": "inline"})
    changed = files("HEAD", "/a")
    assert changed["content-disposition"] == "inline"
    assert not {"content-type", "content-md5"} & set(changed.headers)


def test_the_digest_of_a_whole_file_is_what_was_said_and_never_made(files: FilesClient) -> None:
    files.store("/a", b"data")
    assert "content-md5" not in files("GET", "/a").headers
    files("PUT", "/a?comp=properties", {"x-ms-content-md5": md5(b"else")})
    files.put("/a", 0, b"DATA")
    assert files("GET", "/a")["content-md5"] == md5(b"else")
    part = files("GET", "/a", {"x-ms-range": "bytes=0-1", "x-ms-range-get-content-md5": "true"})
    assert (part["content-md5"], part["x-ms-content-md5"]) == (md5(b"DA"), md5(b"else"))


def test_a_file_is_cut_off_and_made_longer_with_zeros(files: FilesClient) -> None:
    files.store("/a", b"12345678")
    for length in ("3", "6"):
        assert files("PUT", "/a?comp=properties", {"x-ms-content-length": length}).status == 200
    assert files("GET", "/a").body == b"123\0\0\0"


def test_a_read_only_file_is_not_written_and_not_deleted(files: FilesClient) -> None:
    files.create("/a", 4, {"x-ms-file-attributes": "ReadOnly"})
    assert files.put("/a", 0, b"data").outcome == (409, "ReadOnlyAttribute")
    assert files.create("/a", 4).outcome == (409, "ReadOnlyAttribute")
    assert files("DELETE", "/a").outcome == (409, "ReadOnlyAttribute")
    files("PUT", "/a?comp=properties", {"x-ms-file-attributes": "None"})
    assert files("DELETE", "/a").status == 202


def test_what_head_says_of_a_missing_file_has_no_length(files: FilesClient) -> None:
    told = files("HEAD", "/a")
    assert told.outcome == (404, "ResourceNotFound")
    assert "content-length" not in told.headers
    assert told["transfer-encoding"] == "chunked"


# Ranges.


def test_a_range_ends_with_the_file(files: FilesClient) -> None:
    files.store("/a", b"0123456789")
    read = files("GET", "/a", {"x-ms-range": "bytes=4-99"})
    assert (read.status, read.body, read["content-range"]) == (206, b"456789", "bytes 4-9/10")
    assert files("GET", "/a", {"Range": "bytes=8-"}).body == b"89"
    both = files("GET", "/a", {"Range": "bytes=8-", "x-ms-range": "bytes=0-0"})
    assert both.body == b"0"


@pytest.mark.parametrize("length", [0, 3])
def test_no_range_begins_behind_the_file(files: FilesClient, length: int) -> None:
    files.create("/a", length)
    read = files("GET", "/a", {"x-ms-range": f"bytes={length}-9"})
    assert read.outcome == (416, "InvalidRange")
    assert read["content-range"] == f"bytes */{length}"
    whole = files("GET", "/a")
    assert (whole.status, whole["content-length"]) == (200, str(length))


def test_a_range_of_more_than_4_mib_is_not_written(files: FilesClient) -> None:
    files.create("/a", 5 * MIB)
    assert files.put("/a", 0, bytes(4 * MIB)).status == 201
    assert files.put("/a", 0, bytes(4 * MIB + 1)).outcome == (413, "RequestBodyTooLarge")
    ask = {"x-ms-range": f"bytes=0-{4 * MIB}", "x-ms-range-get-content-md5": "true"}
    assert files("GET", "/a", ask).outcome == (400, "OutOfRangeInput")
    assert len(files("GET", "/a").body) == 5 * MIB


def test_a_range_is_written_within_the_file_and_whole(files: FilesClient) -> None:
    files.create("/a", 4)
    assert files.put("/a", 2, b"data").outcome == (416, "InvalidRange")
    headers = {"x-ms-write": "update", "x-ms-range": "bytes=0-3"}
    short = files("PUT", "/a?comp=range", headers, b"dat")
    assert short.outcome == (400, "InvalidHeaderValue")
    damaged = files.put("/a", 0, b"data", {"Content-MD5": md5(b"date")})
    assert damaged.outcome == (400, "Md5Mismatch")
    nonsense = files.put("/a", 0, b"data", {"Content-MD5": "nonsense"})
    assert nonsense.outcome == (400, "InvalidMd5")
    assert files("GET", "/a").body == bytes(4)


def test_ranges_that_were_written_are_told_and_those_cleared_are_not(files: FilesClient) -> None:
    files.create("/a", 4096)
    assert "<Ranges />" in files("GET", "/a?comp=rangelist").text
    for start in (0, 1024, 1536):
        files.put("/a", start, b"x" * 512)
    told = files("GET", "/a?comp=rangelist")
    assert told["x-ms-content-length"] == "4096"
    both = "<Range><Start>0</Start><End>511</End></Range><Range><Start>1024</Start><End>2047</End>"
    assert both in told.text
    cleared = files(
        "PUT", "/a?comp=range", {"x-ms-write": "clear", "x-ms-range": "bytes=1000-1535"}
    )
    assert cleared.status == 201
    assert "content-md5" not in cleared.headers
    told = files("GET", "/a?comp=rangelist")
    assert "<Start>0</Start><End>511</End></Range><Range><Start>1536</Start>" in told.text
    assert files("GET", "/a", {"x-ms-range": "bytes=1024-1537"}).body == bytes(512) + b"xx"


def test_a_write_tells_when_it_was_unless_that_is_to_be_kept(files: FilesClient) -> None:
    made = files.create("/a", 4)
    kept = files.put("/a", 0, b"data", {"x-ms-file-last-write-time": "preserve"})
    assert kept["x-ms-file-last-write-time"] == made["x-ms-file-last-write-time"]
    assert kept.etag != made.etag
    written = files.put("/a", 0, b"data")
    assert written["x-ms-file-last-write-time"] > made["x-ms-file-last-write-time"]
    told = files("HEAD", "/a")
    assert told["x-ms-file-change-time"] == written["x-ms-file-last-write-time"]


def test_old_versions_change_no_moment_but_that_of_the_etag(files: FilesClient) -> None:
    headers = {"x-ms-write": "update", "x-ms-range": "bytes=0-3"}
    files.create("/a", 4)
    before = files("HEAD", "/a")
    written = files("PUT", "/a?comp=range", headers, b"data", version="2019-02-02")
    assert "x-ms-file-last-write-time" not in written.headers
    after = files("HEAD", "/a")
    assert after["x-ms-file-change-time"] == before["x-ms-file-change-time"]
    assert after.etag == written.etag != before.etag
    assert "x-ms-file-id" not in files("HEAD", "/a", version=OLD).headers


def test_versions_in_between_demand_what_windows_knows(files: FilesClient) -> None:
    headers = {"x-ms-type": "file", "x-ms-content-length": "0"}
    for version in ("2019-02-02", "2021-04-10"):
        assert files("PUT", "/a", headers, version=version).outcome == (
            400,
            "MissingRequiredHeader",
        )
    for version in (OLD, LATER):
        assert files("PUT", "/a", headers, version=version).status == 201


def test_a_range_comes_from_another_file(files: FilesClient) -> None:
    files.store("/source", b"abcdefghijklmnop" * 32)
    files.create("/a", 1024)
    headers = {
        "x-ms-write": "update",
        "x-ms-copy-source": files.address("/source"),
        "x-ms-source-range": "bytes=0-511",
        "x-ms-range": "bytes=512-1023",
    }
    put = files("PUT", "/a?comp=range", headers)
    assert (put.status, put["x-ms-content-crc64"]) == (201, "EZA9hgZaRrQ=")
    assert files("GET", "/a").body == bytes(512) + b"abcdefghijklmnop" * 32
    long = {**headers, "x-ms-range": "bytes=0-513", "x-ms-source-range": "bytes=0-513"}
    assert files("PUT", "/a?comp=range", long).outcome == (409, "CannotVerifyCopySource")


# Renames.


def test_a_rename_keeps_what_the_file_is(files: FilesClient) -> None:
    files.mkdir("/d")
    files.store("/a", b"data")
    files("PUT", "/a?comp=metadata", {"x-ms-meta-is": "kept"})
    before = files("HEAD", "/a")
    moved = files.rename("/a", "/d/B")
    assert moved.status == 200
    for name in ("x-ms-file-id", "x-ms-file-creation-time", "x-ms-file-last-write-time"):
        assert moved[name] == before[name]
    assert moved["x-ms-file-parent-id"] != "0"
    assert moved["x-ms-file-change-time"] > before["x-ms-file-change-time"]
    assert moved.etag != before.etag
    after = files("GET", "/d/b")
    assert (after.body, after["x-ms-meta-is"], after.etag) == (b"data", "kept", moved.etag)
    assert files("HEAD", "/a").outcome == (404, "ResourceNotFound")


def test_a_rename_replaces_nothing_unless_it_is_told_to(files: FilesClient) -> None:
    files.store("/a", b"new")
    files.store("/b", b"old")
    assert files.rename("/a", "/b").outcome == (409, "ResourceAlreadyExists")
    assert files("GET", "/b").body == b"old"
    replaces = {"x-ms-file-rename-replace-if-exists": "true"}
    assert files.rename("/a", "/B", replaces).status == 200
    assert files("GET", "/b").body == b"new"
    assert names_in(files.names()) == ["B"]
    files.mkdir("/d")
    assert files.rename("/b", "/d", replaces).outcome == (409, "ResourceAlreadyExists")


def test_a_rename_needs_its_source_and_the_parent_it_goes_to(files: FilesClient) -> None:
    files.create("/a")
    assert files.rename("/a", "/d/a").outcome == (404, "ParentNotFound")
    assert files.rename("/b", "/c").outcome == (404, "ResourceNotFound")
    assert files.rename("/d/b", "/c").outcome == (404, "ParentNotFound")
    old = files("PUT", "/b?comp=rename", files.renamed("/a"), version="2021-02-12")
    assert old.status == 400


def test_a_read_only_file_is_replaced_if_that_is_said_as_well(files: FilesClient) -> None:
    files.create("/a")
    files.create("/b", headers={"x-ms-file-attributes": "ReadOnly"})
    replaces = {"x-ms-file-rename-replace-if-exists": "true"}
    assert files.rename("/a", "/b", replaces).outcome == (409, "ReadOnlyAttribute")
    ignores = {**replaces, "x-ms-file-rename-ignore-readonly": "true"}
    assert files.rename("/a", "/b", ignores).status == 200


def test_a_directory_takes_along_what_is_in_it(files: FilesClient) -> None:
    for name in ("/d", "/d/e", "/other"):
        files.mkdir(name)
    files.store("/d/e/a", b"data")
    before = files("GET", "/d?restype=directory")
    renamed = files("PUT", "/other/D?restype=directory&comp=rename", files.renamed("/d"))
    assert renamed.status == 200
    assert renamed["x-ms-file-id"] == before["x-ms-file-id"]
    assert files("GET", "/other/d/e/a").body == b"data"
    assert files("GET", "/d?restype=directory").outcome == (404, "ResourceNotFound")


def test_a_directory_is_moved_neither_into_itself_nor_with_a_leased_file(
    files: FilesClient,
) -> None:
    files.mkdir("/d")
    into = files("PUT", "/D/e?restype=directory&comp=rename", files.renamed("/d"))
    assert into.status == 501
    files.create("/d/a")
    files.lease("/d/a", "acquire", {"x-ms-proposed-lease-id": LEASE})
    moved = files("PUT", "/e?restype=directory&comp=rename", files.renamed("/d"))
    assert moved.status == 501
    files.lease("/d/a", "break")
    moved = files("PUT", "/e?restype=directory&comp=rename", files.renamed("/d"))
    assert moved.status == 200


def test_a_directory_replaces_a_file_but_no_directory(files: FilesClient) -> None:
    for name in ("/d", "/e"):
        files.mkdir(name)
    files.create("/f")
    headers = {**files.renamed("/d"), "x-ms-file-rename-replace-if-exists": "true"}
    onto = files("PUT", "/e?restype=directory&comp=rename", headers)
    assert onto.outcome == (409, "ResourceAlreadyExists")
    assert files("PUT", "/f?restype=directory&comp=rename", headers).status == 200
    assert re.findall(r"<(\w+)><Name>(\w)<", files.names()) == [
        ("Directory", "e"),
        ("Directory", "f"),
    ]


# Copies.


def test_a_copy_is_done_when_it_is_answered(files: FilesClient) -> None:
    files.store("/a", b"data")
    files("PUT", "/a?comp=metadata", {"x-ms-meta-is": "copied"})
    source = {"x-ms-copy-source": files.address("/a")}
    copied = files("PUT", "/b", source)
    assert (copied.status, copied["x-ms-copy-status"]) == (202, "success")
    read = files("GET", "/b")
    assert (read.body, read["x-ms-meta-is"]) == (b"data", "copied")
    assert (read["x-ms-copy-progress"], read["x-ms-copy-source"]) == ("4/4", files.address("/a"))
    given = {"x-ms-copy-action": "abort"}
    abort = files("PUT", f"/b?comp=copy&copyid={copied['x-ms-copy-id']}", given)
    assert abort.outcome == (409, "NoPendingCopyOperation")
    wrong = files("PUT", "/b?comp=copy&copyid=nonsense", given)
    assert wrong.outcome == (400, "InvalidQueryParameterValue")
    files.put("/b", 0, b"else")
    assert files("GET", "/a").body == b"data"


# Leases.


def test_a_leased_file_is_changed_only_by_who_has_the_lease(files: FilesClient) -> None:
    files.store("/a", b"data")
    etag = files("HEAD", "/a").etag
    leased = files.lease("/a", "acquire", {"x-ms-proposed-lease-id": LEASE})
    assert (leased.status, leased["x-ms-lease-id"], leased.etag) == (201, LEASE, etag)
    told = files("HEAD", "/a")
    assert (told["x-ms-lease-state"], told["x-ms-lease-status"]) == ("leased", "locked")
    assert told["x-ms-lease-duration"] == "infinite"
    changes = [
        ("PUT", "/a?comp=range", {"x-ms-write": "clear", "x-ms-range": "bytes=0-3"}),
        ("PUT", "/a?comp=metadata", {}),
        ("PUT", "/a?comp=properties", {"x-ms-content-length": "4"}),
        ("PUT", "/a", {"x-ms-type": "file", "x-ms-content-length": "4"}),
        ("DELETE", "/a", {}),
    ]
    for method, path, headers in changes:
        assert files(method, path, headers).outcome == (412, "LeaseIdMissing")
        other = files(method, path, {**headers, "x-ms-lease-id": OTHER})
        assert other.outcome == (412, "LeaseIdMismatchWithFileOperation")
    for method, path, headers in changes[:3]:
        assert files(method, path, {**headers, "x-ms-lease-id": LEASE}).status < 300


def test_a_leased_file_is_read_by_all(files: FilesClient) -> None:
    files.store("/a", b"data")
    files.lease("/a", "acquire", {"x-ms-proposed-lease-id": LEASE})
    assert files("GET", "/a").body == b"data"
    assert files("GET", "/a", {"x-ms-lease-id": LEASE}).body == b"data"
    wrong = files("GET", "/a", {"x-ms-lease-id": OTHER})
    assert wrong.outcome == (412, "LeaseIdMismatchWithFileOperation")


def test_the_id_of_a_lease_that_is_not_there_is_refused(files: FilesClient) -> None:
    files.create("/a", 4)
    given = {"x-ms-lease-id": LEASE}
    missing = (412, "LeaseNotPresentWithFileOperation")
    assert files.put("/a", 0, b"data", given).outcome == missing
    assert files.create("/a", 4, given).outcome == missing
    assert files("DELETE", "/a", given).outcome == missing


def test_a_lease_is_one_mans_until_it_is_released_or_broken(files: FilesClient) -> None:
    files.create("/a")
    mine, theirs = {"x-ms-proposed-lease-id": LEASE}, {"x-ms-proposed-lease-id": OTHER}
    assert files.lease("/a", "acquire", mine).status == 201
    assert files.lease("/a", "acquire", mine).status == 201
    assert files.lease("/a", "acquire", theirs).outcome == (409, "LeaseAlreadyPresent")
    held = {"x-ms-lease-id": LEASE}
    assert files.lease("/a", "change", {**held, **theirs}).status == 200
    wrong = files.lease("/a", "release", held)
    assert wrong.outcome == (409, "LeaseIdMismatchWithLeaseOperation")
    assert files.lease("/a", "release", {"x-ms-lease-id": OTHER}).status == 200
    files.lease("/a", "acquire", mine)
    broken = files.lease("/a", "break")
    assert (broken.status, broken["x-ms-lease-time"]) == (202, "0")
    assert files("HEAD", "/a")["x-ms-lease-state"] == "broken"
    assert files("DELETE", "/a", held).outcome == (412, "LeaseLost")
    assert files.lease("/a", "acquire", theirs).status == 201


def test_a_lease_of_a_file_has_no_end_to_renew(files: FilesClient) -> None:
    files.create("/a")
    timed = files.lease("/a", "acquire", {"x-ms-lease-duration": "15"})
    assert timed.outcome == (400, "InvalidHeaderValue")
    files.lease("/a", "acquire", {"x-ms-proposed-lease-id": LEASE})
    renewed = files.lease("/a", "renew", {"x-ms-lease-id": LEASE})
    assert renewed.outcome == (400, "InvalidHeaderValue")


def test_a_lease_goes_with_its_file(files: FilesClient) -> None:
    for name in ("/a", "/b"):
        files.create(name)
        files.lease(name, "acquire", {"x-ms-proposed-lease-id": LEASE})
    assert files.rename("/a", "/c").outcome == (412, "LeaseIdMissing")
    mine = {"x-ms-source-lease-id": LEASE}
    assert files.rename("/a", "/c", mine).status == 200
    assert files("HEAD", "/c")["x-ms-lease-state"] == "leased"
    replaces = {**mine, "x-ms-file-rename-replace-if-exists": "true"}
    assert files.rename("/c", "/b", replaces).outcome == (412, "LeaseIdMissing")
    both = {**replaces, "x-ms-destination-lease-id": LEASE}
    assert files.rename("/c", "/b", both).status == 200
    nothing = files.rename("/b", "/d", {**mine, "x-ms-destination-lease-id": LEASE})
    assert nothing.outcome == (412, "LeaseNotPresentWithFileOperation")


# What is refused because nobody may rely on it.


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/a", "If-Match"),
        ("HEAD", "/a", "If-None-Match"),
        ("DELETE", "/a", "If-Match"),
        ("PUT", "/b", "If-None-Match"),
        ("GET", "/a", "If-Modified-Since"),
        ("GET", "/a", "If-Range"),
        ("PUT", "/b", "x-ms-source-if-match"),
    ],
)
def test_no_condition_is_known(files: FilesClient, method: str, path: str, name: str) -> None:
    files.store("/a", b"data")
    needed = {"x-ms-type": "file", "x-ms-content-length": "0"} if method == "PUT" else {}
    refused = files(method, path, {**needed, name: "*"})
    assert refused.outcome == (400, "ConditionHeadersNotSupported")
    assert files("GET", "/a").body == b"data"
    assert files("HEAD", "/b").status == 404
    log = Path(files.server.server.log).read_text()
    assert f"/{files.share}{path}: ConditionHeadersNotSupported {name.lower()}" in log


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/a?comp=listhandles", {}),
        ("PUT", "/a?comp=hardlink", {}),
        ("GET", "?restype=service&comp=properties", {}),
        ("GET", "/a?unheard=of", {}),
        ("GET", "/a", {"x-ms-unheard": "of"}),
        ("GET", "/a", {"x-ms-range": "bytes=-3"}),
        ("GET", "/a", {"x-ms-structured-body": "XSM/1.0; properties=crc64"}),
        ("PUT", "?restype=share&comp=lease", {"x-ms-lease-action": "acquire"}),
        ("PUT", "/A?comp=rename", {"x-ms-file-rename-source": "/a"}),
    ],
)
def test_what_the_server_does_not_know_is_no_success(
    files: FilesClient, method: str, path: str, headers: dict[str, str]
) -> None:
    files.store("/a", b"data")
    if "x-ms-file-rename-source" in headers:
        headers = files.renamed("/a")
    refused = files(method, path, headers)
    assert refused.outcome == (501, "NotImplementedByTestServer")
    assert f"{files.share}{path.partition('?')[0]}: NotImplementedByTestServer" in (
        Path(files.server.server.log).read_text()
    )


def test_an_error_says_in_its_body_what_it_is(files: FilesClient) -> None:
    refused = files("GET", "/a", {"x-ms-client-request-id": "mine"})
    message = "The specified resource does not exist."
    assert re.fullmatch(
        '\ufeff<\\?xml version="1.0" encoding="utf-8"\\?><Error><Code>ResourceNotFound</Code>'
        rf"<Message>{message}\nRequestId:{refused['x-ms-request-id']}\n"
        r"Time:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z</Message></Error>",
        refused.text,
    )
    assert refused["content-type"] == "application/xml"
    assert refused["x-ms-client-request-id"] == "mine"


def test_a_body_without_a_length_is_refused(files: FilesClient) -> None:
    connection = files._connection
    connection.putrequest("PUT", f"/{files.server.account}/{files.share}?restype=share")
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    assert (answer.status, answer.headers["x-ms-error-code"]) == (411, "MissingContentLengthHeader")
