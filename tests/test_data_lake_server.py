"""The tests' own data lake: what a hierarchical namespace does, and that it lets no one off."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from lake_clients import Asker, Reply
from servers.data_lake import DataLake, dfs_paths
from servers.data_lake.access import Access
from servers.data_lake.calls import Call
from servers.data_lake.namespace import Account, File
from servers.data_lake.operations import Asked
from servers.data_lake.rights import ALL


@pytest.fixture
def asker(data_lake: DataLake, filesystem: str) -> Asker:
    return Asker(data_lake, filesystem)


@pytest.fixture
def flat_asker(flat_data_lake: DataLake) -> Iterator[Asker]:
    asker = Asker(flat_data_lake, "flat")
    assert asker.blob("PUT", query=(("restype", "container"),)).status == 201
    yield asker
    assert asker.blob("DELETE", query=(("restype", "container"),)).status == 202


# -- what kind of namespace it is -------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "any/path"])
def test_the_account_says_that_its_namespace_is_hierarchical(asker: Asker, path: str) -> None:
    query = (("restype", "account"), ("comp", "properties"))
    reply = asker.blob("GET", path, query)
    assert (reply.status, reply.headers["x-ms-is-hns-enabled"]) == (200, "true")
    assert asker.blob("HEAD", path, query).headers["x-ms-is-hns-enabled"] == "true"
    told = asker.dfs("HEAD", query=(("resource", "filesystem"),))
    assert (told.status, told.headers["x-ms-namespace-enabled"]) == (200, "true")


def test_a_flat_account_says_so_in_each_of_the_ways(flat_asker: Asker) -> None:
    query = (("restype", "account"), ("comp", "properties"))
    assert flat_asker.blob("GET", query=query).headers["x-ms-is-hns-enabled"] == "false"
    told = flat_asker.dfs("HEAD", query=(("resource", "filesystem"),))
    assert told.headers["x-ms-namespace-enabled"] == "false"
    access = flat_asker.dfs("HEAD", query=(("action", "getAccessControl"),))
    assert access.outcome == (400, "HierarchicalNamespaceNotEnabled")


def test_a_flat_account_has_no_directories_and_no_renames(flat_asker: Asker) -> None:
    for name in ("a", "a/b", "a/b/c", "a-b", "double//slash"):
        flat_asker.make_file(name)
    assert flat_asker.names() == ["a", "a-b", "a/b", "a/b/c", "double//slash"]
    assert flat_asker.blob("HEAD", "double").outcome == (404, "BlobNotFound")
    assert flat_asker.dfs("PUT", "dir", (("resource", "directory"),)).status == 501
    assert flat_asker.rename("a", "z").status == 501
    listed = flat_asker.blob(
        "GET", query=(("restype", "container"), ("comp", "list"), ("delimiter", "/"))
    )
    assert re.findall("<BlobPrefix><Name>([^<]*)</Name></BlobPrefix>", listed.body.decode()) == [
        "a/",
        "double/",
    ]
    assert b"ResourceType" not in listed.body


# -- directories ------------------------------------------------------------------------------------


def test_a_file_makes_the_directories_above_it_and_leaves_them(asker: Asker) -> None:
    asker.make_file("a/b/c.txt", b"content")
    assert asker.names() == ["a", "a/b", "a/b/c.txt"]
    assert asker.names(shows="files") == ["a/b/c.txt"]
    assert asker.names(shows="directories") == ["a", "a/b"]
    head = asker.blob("HEAD", "a/b")
    assert (head.status, head.headers["content-length"]) == (200, "0")
    assert head.headers["x-ms-meta-hdi_isfolder"] == "true"
    assert head.headers["x-ms-resource-type"] == "directory"
    assert asker.blob("HEAD", "a/b/c.txt").headers["x-ms-resource-type"] == "file"
    assert asker.blob("DELETE", "a/b/c.txt").status == 202
    assert asker.names() == ["a", "a/b"]


def test_an_old_service_version_tells_directories_by_metadata_only(asker: Asker) -> None:
    asker.make_directory("a")
    old = {"x-ms-version": "2019-12-12"}
    head = asker.blob("HEAD", "a", headers=old)
    assert head.headers["x-ms-meta-hdi_isfolder"] == "true"
    assert "x-ms-resource-type" not in head.headers
    query = (("restype", "container"), ("comp", "list"))
    assert b"ResourceType" not in asker.blob("GET", query=query, headers=old).body
    named = asker.blob("GET", query=(*query, ("include", "metadata")), headers=old)
    assert b"<Metadata><hdi_isfolder>true</hdi_isfolder></Metadata>" in named.body


def test_a_listing_goes_through_a_directory_before_what_stands_beside_it(asker: Asker) -> None:
    for name in ("A/dat1", "A-B/dat2", "A-B-C", "A.C/dat3", "AB/AB", "AB/dat4", "AB.txt", "ABC"):
        asker.make_file(name)
    expected = ["A", "A/dat1", "A-B", "A-B/dat2", "A-B-C", "A.C", "A.C/dat3", "AB", "AB/AB"]
    assert asker.names() == [*expected, "AB/dat4", "AB.txt", "ABC"]
    listed = asker.dfs("GET", query=(("resource", "filesystem"), ("recursive", "true"))).json
    assert [row["name"] for row in listed["paths"]] == asker.names()


def test_directories_are_folded_with_their_properties(asker: Asker) -> None:
    for name in ("board/a.txt", "board/nested/c.txt", "board/z.txt"):
        asker.make_file(name)
    query = (("restype", "container"), ("comp", "list"), ("prefix", "board/"), ("delimiter", "/"))
    body = asker.blob("GET", query=query).body.decode()
    names = re.findall("<(Blob|BlobPrefix)><Name>([^<]*)</Name>", body)
    assert names == [
        ("Blob", "board/a.txt"),
        ("BlobPrefix", "board/nested/"),
        ("Blob", "board/z.txt"),
    ]
    folded = re.search("<BlobPrefix>.*</BlobPrefix>", body)
    assert folded
    assert "<ResourceType>directory</ResourceType>" in folded[0]
    etag = asker.blob("HEAD", "board/nested").headers["etag"].strip('"')
    assert f"<Etag>{etag}</Etag>" in folded[0]
    assert asker.blob("GET", query=(*query[:-1], ("delimiter", "-"))).status == 400


def test_pages_of_any_length_give_everything_once(asker: Asker) -> None:
    names = ["a", "a/b", "a/b/1", "a/b/2", "a/c", "b", "b/1", "b-1"]
    for name in ("a/b/1", "a/b/2", "a/c", "b/1", "b-1"):
        asker.make_file(name)
    for endpoint in ("blob", "dfs"):
        for limit in (1, 2, 3, 5, 8, 9):
            assert [n for page in pages(asker, endpoint, limit) for n in page] == names


def pages(asker: Asker, endpoint: str, limit: int) -> Iterator[list[str]]:
    marker = ""
    while True:
        if endpoint == "blob":
            query = [("restype", "container"), ("comp", "list"), ("maxresults", str(limit))]
            query += [("marker", marker)] if marker else []
            body = asker.blob("GET", query=tuple(query)).body.decode()
            names = re.findall("<Blob><Name>([^<]*)</Name>", body)
            found = re.search("<NextMarker>([^<]*)</NextMarker>", body)
            marker = found[1] if found else ""
        else:
            query = [("resource", "filesystem"), ("recursive", "true"), ("maxResults", str(limit))]
            query += [("continuation", marker)] if marker else []
            reply = asker.dfs("GET", query=tuple(query))
            names = [row["name"] for row in reply.json["paths"]]
            marker = reply.headers.get("x-ms-continuation", "")
        assert len(names) <= limit
        yield names
        if not marker:
            return


def test_a_marker_that_was_not_given_is_refused(asker: Asker) -> None:
    for name in "abc":
        asker.make_file(name)
    query = (("restype", "container"), ("comp", "list"))
    body = asker.blob("GET", query=(*query, ("maxresults", "1"))).body.decode()
    good = re.search("<NextMarker>([^<]*)</NextMarker>", body)[1]  # type: ignore[index]
    for marker, code in (("invented", "InvalidQueryParameterValue"), (good[:-2], "InvalidInput")):
        assert asker.blob("GET", query=(*query, ("marker", marker))).outcome == (400, code)
    for limit in ("0", "-1"):
        reply = asker.blob("GET", query=(*query, ("maxresults", limit)))
        assert reply.outcome == (400, "OutOfRangeQueryParameterValue")


def test_a_prefix_that_leads_through_a_file_is_an_error(asker: Asker) -> None:
    asker.make_file("a/file")
    assert asker.names("a/fi") == ["a/file"]
    assert asker.names("nothing/") == []
    query = (("restype", "container"), ("comp", "list"), ("prefix", "a/file/"))
    assert asker.blob("GET", query=query).status == 409


def test_nothing_stands_below_a_file_or_takes_a_directorys_place(asker: Asker) -> None:
    asker.make_file("dir/file")
    blob = {"x-ms-blob-type": "BlockBlob"}
    for path in ("dir", "dir/file/below"):
        assert asker.blob("PUT", path, headers=blob, body=b"x").status == 409
        block = (("comp", "block"), ("blockid", "AAAA"))
        assert asker.blob("PUT", path, block, body=b"x").status == 409
        reply = asker.dfs("PUT", path, (("resource", "file"),))
        assert reply.outcome == (409, "PathConflict")
    for path in ("dir/file", "dir/file/below"):
        reply = asker.dfs("PUT", path, (("resource", "directory"),))
        assert reply.outcome == (409, "PathConflict")
    assert asker.blob("HEAD", "dir/file/below").outcome == (404, "BlobNotFound")
    assert asker.names() == ["dir", "dir/file"]


def test_a_directory_is_deleted_by_the_blob_endpoint_when_nothing_is_in_it(asker: Asker) -> None:
    asker.make_file("dir/file")
    assert asker.blob("DELETE", "dir").outcome == (409, "DirectoryIsNotEmpty")
    asker.blob("DELETE", "dir/file")
    told = {"x-ms-delete-snapshots": "include"}
    refused = asker.blob("DELETE", "dir", headers=told)
    assert refused.outcome == (400, "OperationNotSupportedOnDirectory")
    assert asker.blob("DELETE", "dir").status == 202
    assert asker.names() == []


def test_a_directory_is_deleted_by_the_dfs_endpoint_with_all_in_it(asker: Asker) -> None:
    asker.make_file("dir/sub/file")
    refused = asker.dfs("DELETE", "dir", (("recursive", "false"),))
    assert refused.outcome == (409, "DirectoryNotEmpty")
    assert asker.dfs("DELETE", "dir").status == 400
    assert asker.dfs("DELETE", "missing", (("recursive", "true"),)).outcome == (404, "PathNotFound")
    done = asker.dfs("DELETE", "dir", (("recursive", "true"),))
    assert (done.status, done.headers.get("x-ms-continuation")) == (200, None)
    assert asker.names() == []


def test_a_paginated_delete_is_one_step_once_all_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dfs_paths, "_MOST_CHECKED", 2)
    account = Account("lake", b"key", hierarchical=True, tokens=frozenset())
    tree = account.make_filesystem("fs", {}).namespace
    for number in range(5):
        file = File(account.stamps.new(), Access.of_new("", "", directory=False))
        tree.put(f"dir/{number}", file)
    query, seen = {"recursive": "true", "paginated": "true"}, []
    statuses = []
    while not seen or seen[-1]:
        call = Call("DELETE", "", "lake", "fs", "dir", query, {}, {}, b"")
        answer = dfs_paths.delete_path(Asked(call, account, ALL))
        seen.append(answer.headers.get("x-ms-continuation", ""))
        statuses.append(answer.status)
        query = {**query, "continuation": seen[-1]}
        assert (tree.find("dir") is None) == (seen[-1] == "")
    assert statuses == [202, 202, 200]


def copied(asker: Asker, source: str, to: str, query: str = "", **headers: str) -> Reply:
    """Copy a blob; underscores in the names of headers stand for dashes."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    address = f"{asker.lake.blob_url}/{asker.filesystem}/{source}{query}"
    return asker.blob("PUT", to, headers={"x-ms-copy-source": address, **given})


@pytest.mark.parametrize("kind", ["asker", "flat_asker"])
def test_a_blob_is_copied_on_conditions_of_both_and_says_so(
    request: pytest.FixtureRequest, kind: str
) -> None:
    asker: Asker = request.getfixturevalue(kind)
    etag = asker.make_file("source", b"content")
    there = asker.make_file("there")
    wrong = copied(asker, "source", "there", x_ms_source_if_match='"0x1"')
    assert wrong.outcome == (412, "SourceConditionNotMet")
    wrong = copied(asker, "source", "there", If_Match=etag)
    assert wrong.outcome == (412, "ConditionNotMet")
    wrong = copied(asker, "source", "there", If_None_Match="*")
    assert wrong.outcome == (409, "BlobAlreadyExists")
    assert copied(asker, "missing", "there").outcome == (404, "BlobNotFound")
    assert copied(asker, "source", "there", "?" + "x" * 2048).status == 400
    assert asker.content("there") == b"x"
    done = copied(asker, "source", "there", x_ms_source_if_match=etag, If_Match=there)
    assert (done.status, done.headers["x-ms-copy-status"]) == (202, "success")
    told = asker.blob("HEAD", "there").headers
    assert told["etag"] == done.headers["etag"]
    assert told["x-ms-copy-id"] == done.headers["x-ms-copy-id"]
    assert told["x-ms-copy-source"].endswith(f"/{asker.filesystem}/source")
    assert told["x-ms-copy-completion-time"] == told["last-modified"]
    asker.make_file("there")
    assert "x-ms-copy-id" not in asker.blob("HEAD", "there").headers


def test_an_empty_blob_that_says_so_is_a_directory(asker: Asker) -> None:
    says = {"x-ms-blob-type": "BlockBlob", "x-ms-meta-hdi_isfolder": "true"}
    assert asker.blob("PUT", "dir/sub", headers=says).status == 201
    assert asker.names(shows="directories") == ["dir", "dir/sub"]
    again = asker.blob("PUT", "dir/sub", headers={**says, "If-None-Match": "*"})
    assert again.outcome == (409, "BlobAlreadyExists")
    asker.make_file("dir/sub/below")
    assert asker.names() == ["dir", "dir/sub", "dir/sub/below"]


@pytest.mark.parametrize(
    ("name", "stored"), [("a//b", "a/b"), ("a./b.", "a/b"), ("..a", "..a"), (" a /b", " a /b")]
)
def test_names_are_stored_as_the_service_stores_them(asker: Asker, name: str, stored: str) -> None:
    asker.make_file(name)
    assert asker.names(shows="files") == [stored]
    assert asker.content(name) == asker.content(stored) == b"x"


@pytest.mark.parametrize(
    "name", ["tab\t", "new\nline", "\x7f", "a/...", "x" * 1025, "a/" * 61 + "a"]
)
def test_names_that_the_service_does_not_take_are_refused(asker: Asker, name: str) -> None:
    reply = asker.blob("PUT", name, headers={"x-ms-blob-type": "BlockBlob"}, body=b"x")
    assert reply.status == 400
    assert asker.names() == []


def test_names_differ_by_case_and_by_form(asker: Asker) -> None:
    names = ["case", "Case", "e\u0301", "\u00e9", "%41", "A", "\u65e5", "a&b<c>", "100%"]
    for name in names:
        asker.make_file(name, name.encode())
    assert {name: asker.content(name) for name in names} == {n: n.encode() for n in names}


def test_a_listing_of_paths_is_as_the_service_writes_it(asker: Asker) -> None:
    asker.make_file("dir/file", b"12345")
    query = (("resource", "filesystem"), ("recursive", "true"))
    rows = json.loads(asker.dfs("GET", query=query).body)["paths"]
    assert rows[0]["isDirectory"] == "true"
    assert "isDirectory" not in rows[1]
    assert rows[1]["contentLength"] == "5"
    assert asker.blob("HEAD", "dir/file").headers["etag"] == f'"{rows[1]["etag"]}"'
    missing = asker.dfs("GET", query=(*query, ("directory", "missing")))
    assert missing.outcome == (404, "PathNotFound")
    assert asker.dfs("GET", query=(("resource", "filesystem"),)).status == 400
    gone = Asker(asker.lake, "no-such-filesystem")
    assert gone.dfs("GET", query=query).outcome == (404, "FilesystemNotFound")
    listed = gone.blob("GET", query=(("restype", "container"), ("comp", "list")))
    assert listed.outcome == (404, "ContainerNotFound")


# -- renames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["", "posix", "legacy"])
def test_a_rename_moves_a_whole_tree_and_keeps_every_version(asker: Asker, mode: str) -> None:
    etag = asker.make_file("old/sub/file", b"content")
    directory = asker.blob("HEAD", "old").headers
    asker.make_directory("new")
    reply = asker.rename("old", "new/place", mode)
    assert (reply.status, reply.headers["etag"]) == (201, directory["etag"])
    assert asker.names() == ["new", "new/place", "new/place/sub", "new/place/sub/file"]
    moved = asker.blob("HEAD", "new/place/sub/file").headers
    assert (moved["etag"], asker.content("new/place/sub/file")) == (etag, b"content")
    assert asker.blob("HEAD", "new/place").headers["last-modified"] == directory["last-modified"]


def test_a_rename_needs_a_source_and_a_directory_to_go_to(asker: Asker) -> None:
    asker.make_file("file")
    assert asker.rename("missing", "to").outcome == (404, "SourcePathNotFound")
    reply = asker.rename("file", "no/such/place")
    assert reply.outcome == (404, "RenameDestinationParentPathNotFound")
    assert asker.rename("file", "file/below").outcome == (409, "InvalidRenameSourcePath")
    asker.make_file("other")
    assert asker.rename("other", "file/below").outcome == (409, "InvalidDestinationPath")
    asker.make_directory("dir/sub")
    for to in ("dir", "dir/sub/below"):
        assert asker.rename("dir", to).outcome == (409, "InvalidRenameSourcePath")
    for source in ("relative/path", "/only-a-filesystem", f"/{asker.filesystem}/\u00e9"):
        headers = {"x-ms-rename-source": source.encode().decode("latin-1")}
        assert asker.dfs("PUT", "to", headers=headers).outcome == (400, "InvalidSourceUri")
    headers = {"x-ms-rename-source": "/no-such-filesystem/path"}
    assert asker.dfs("PUT", "to", headers=headers).outcome == (404, "FilesystemNotFound")


def test_a_rename_replaces_a_file_by_a_file_in_one_step(asker: Asker) -> None:
    new = asker.make_file("new", b"new")
    asker.make_file("place", b"old")
    assert asker.rename("new", "place").status == 201
    assert (asker.names(), asker.content("place")) == (["place"], b"new")
    assert asker.blob("HEAD", "place").headers["etag"] == new


def test_a_rename_puts_no_file_over_a_directory_and_no_directory_over_a_file(asker: Asker) -> None:
    asker.make_file("file")
    asker.make_directory("dir")
    for source, to in (("file", "dir"), ("dir", "file")):
        reply = asker.rename(source, to, "legacy")
        assert reply.outcome == (409, "InvalidSourceOrDestinationResourceType")


def test_the_legacy_mode_replaces_an_empty_directory_and_no_other(asker: Asker) -> None:
    asker.make_file("new/file")
    asker.make_directory("empty")
    asker.make_file("full/old")
    assert asker.rename("new", "full", "legacy").outcome == (409, "DirectoryNotEmpty")
    assert asker.rename("new", "empty", "legacy").status == 201
    assert asker.names() == ["empty", "empty/file", "full", "full/old"]


def test_the_posix_mode_moves_a_directory_into_one_that_is_there(asker: Asker) -> None:
    asker.make_file("new/file")
    asker.make_file("full/old")
    assert asker.rename("new", "full").status == 201
    assert asker.names(shows="files") == ["full/new/file", "full/old"]
    asker.make_directory("new")
    assert asker.rename("new", "full", "posix").outcome == (409, "PathAlreadyExists")


def test_a_rename_keeps_to_its_conditions(asker: Asker) -> None:
    source = asker.make_file("source", b"new")
    place = asker.make_file("place", b"old")
    reply = asker.rename("source", "place", If_None_Match="*")
    assert reply.outcome == (409, "PathAlreadyExists")
    reply = asker.rename("source", "place", If_Match='"0x1"')
    assert reply.outcome == (412, "ConditionNotMet")
    reply = asker.rename("source", "place", x_ms_source_if_match='"0x1"')
    assert reply.outcome == (412, "SourceConditionNotMet")
    assert asker.content("place") == b"old"
    reply = asker.rename("source", "place", If_Match=place, x_ms_source_if_match=source)
    assert reply.status == 201
    assert asker.content("place") == b"new"
    assert asker.rename("place", "new", If_None_Match="*").status == 201


def test_of_many_renames_to_one_place_one_is_done(asker: Asker) -> None:
    for number in range(8):
        asker.make_file(f"staged/{number}/mark", str(number).encode())
    outcomes: list[int] = []

    def publish(number: int) -> None:
        reply = asker.rename(f"staged/{number}", "place", "legacy", If_None_Match="*")
        outcomes.append(reply.status)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [201] + [409] * 7
    assert len(asker.names("staged/", shows="files")) == 7


# -- two endpoints, one file ------------------------------------------------------------------------


def write_by_dfs(asker: Asker, path: str, content: bytes) -> None:
    assert asker.dfs("PUT", path, (("resource", "file"),)).status == 201
    appended = (("action", "append"), ("position", "0"))
    assert asker.dfs("PATCH", path, appended, body=content).status == 202
    flushed = (("action", "flush"), ("position", str(len(content))))
    assert asker.dfs("PATCH", path, flushed).status == 200


def test_no_blocks_go_into_a_file_of_the_dfs_endpoint(asker: Asker) -> None:
    write_by_dfs(asker, "file", b"content")
    block = (("comp", "block"), ("blockid", "AAAA"))
    refused = asker.blob("PUT", "file", block, body=b"x")
    assert refused.outcome == (409, "BlobOperationNotSupported")
    body = b"<BlockList/>"
    refused = asker.blob("PUT", "file", (("comp", "blocklist"),), body=body)
    assert refused.outcome == (409, "BlobOperationNotSupported")
    seen = asker.blob("GET", "file", (("comp", "blocklist"), ("blocklisttype", "all")))
    assert b"<CommittedBlocks />" in seen.body
    asker.make_file("file", b"over it")
    assert asker.content("file") == b"over it"


def test_nothing_is_appended_to_what_the_blob_endpoint_wrote(asker: Asker) -> None:
    asker.make_file("file", b"blob")
    appended = (("action", "append"), ("position", "4"))
    assert asker.dfs("PATCH", "file", appended, body=b"more").status == 202
    flushed = asker.dfs("PATCH", "file", (("action", "flush"), ("position", "8")))
    assert flushed.outcome == (409, "InvalidFlushOperation")
    assert asker.content("file") == b"blob"


def test_what_is_appended_is_seen_when_it_is_flushed(asker: Asker) -> None:
    write_by_dfs(asker, "dir/file", b"first")
    for position, part in ((10, b"third"), (5, b"other")):
        query = (("action", "append"), ("position", str(position)))
        assert asker.dfs("PATCH", "dir/file", query, body=part).status == 202
    assert asker.content("dir/file") == b"first"
    wrong = (("action", "flush"), ("position", "16"))
    assert asker.dfs("PATCH", "dir/file", wrong).outcome == (400, "InvalidFlushPosition")
    query = (("action", "append"), ("position", "5"))
    digest = {"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}
    refused = asker.dfs("PATCH", "dir/file", query, body=b"x", headers=digest)
    assert refused.outcome == (400, "Md5Mismatch")
    for condition in ({"If-Match": '"0x1"'}, {"If-None-Match": "*"}):
        flush = (("action", "flush"), ("position", "5"))
        refused = asker.dfs("PATCH", "dir/file", flush, headers=condition)
        assert refused.outcome == (412, "ConditionNotMet")


def test_a_version_changes_with_content_and_metadata_and_not_with_rights(asker: Asker) -> None:
    first = asker.make_file("file", b"x")
    second = asker.make_file("file", b"x")
    named = asker.blob("PUT", "file", (("comp", "metadata"),), headers={"x-ms-meta-Key": "v"})
    rights = (("action", "setAccessControl"),)
    allowed = asker.dfs("PATCH", "file", rights, headers={"x-ms-permissions": "0600"})
    assert len({first, second, named.headers["etag"]}) == 3
    assert allowed.headers["etag"] == named.headers["etag"]
    told = asker.dfs("HEAD", "file").headers
    assert (told["x-ms-permissions"], told["x-ms-properties"]) == ("rw-------", "Key=dg==")


# -- what is not known ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "method", "query", "headers"),
    [
        ("blob", "PUT", "comp=snapshot", {}),
        ("blob", "PUT", "comp=lease", {"x-ms-lease-action": "acquire"}),
        ("blob", "PUT", "comp=tags", {}),
        ("blob", "PUT", "", {"x-ms-blob-type": "PageBlob"}),
        ("blob", "GET", "snapshot=2020", {}),
        ("blob", "GET", "", {"x-ms-lease-id": "some"}),
        ("blob", "GET", "", {"x-ms-range": "bytes=-3"}),
        ("blob", "GET", "", {"x-ms-range": "bytes=0-1", "x-ms-range-get-content-crc64": "true"}),
        ("blob", "PUT", "", {"x-ms-blob-type": "BlockBlob", "x-ms-meta-hdi_isfolder": "true"}),
        ("dfs", "POST", "", {"x-ms-lease-action": "acquire"}),
        ("dfs", "PATCH", "action=setExpiry", {}),
        ("dfs", "PUT", "resource=file", {"x-ms-expiry-option": "NeverExpire"}),
        ("dfs", "PATCH", "action=setAccessControl", {"x-ms-acl": "default:user::rwx"}),
    ],
)
def test_what_the_server_does_not_know_it_refuses_and_logs(
    asker: Asker, endpoint: str, method: str, query: str, headers: dict[str, str]
) -> None:
    asker.make_file("known")
    pairs = tuple(tuple(pair.split("=")) for pair in query.split("&") if pair)
    ask = asker.blob if endpoint == "blob" else asker.dfs
    reply = ask(method, "known", pairs, headers=headers)  # type: ignore[arg-type]
    assert reply.outcome == (501, "NotImplementedByTestServer")
    log = Path(asker.lake.server.log).read_text(encoding="utf-8")
    assert f"{asker.filesystem}/known: 501 NotImplementedByTestServer" in log
    assert asker.content("known") == b"x"
