"""Filesystems of a data lake: the contract of a store over both kinds of namespace, and what only they have."""

from __future__ import annotations

import json
import re
import time
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.storage.blob import BlobServiceClient
from places import LakePlace, Through
from servers.data_lake import TOKEN, DataLake
from servers.data_lake.blob_listing import marker_of
from servers.faults import Fault, Reply
from small_stores import PART, Around, AroundWriting, SmallDataLakeStore, make_tree

from prefect_datastores.errors import (
    AccessDenied,
    AccessError,
    AuthenticationFailed,
    ContainerNotFound,
    CredentialExpired,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    ServiceBusy,
    SourceChanged,
    StageFailed,
    UnsafeName,
)
from prefect_datastores.names import NameRules, ObjectName
from prefect_datastores.staging.engine import Limits
from prefect_datastores.staging.publish import publish
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.azure import fault_of
from prefect_datastores.stores.base import ObjectInfo, ObjectStore
from prefect_datastores.stores.connection import Answer, Headers
from prefect_datastores.stores.data_lake import DataLakeStore
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.stores.retry import RetryPolicy, patient
from prefect_datastores.stores.unfinished import Unfinished
from prefect_datastores.testing import (
    at_once,
    begin,
    content_of,
    get,
    md5_of,
    names_below,
    parts_of,
    put,
)

AT_ONCE = RetryPolicy(tries=2, first_pause=0.0, longest_pause=0.0)


@pytest.fixture
def flat_store(flat_place: LakePlace) -> SmallDataLakeStore:
    """A new, empty filesystem without a hierarchical namespace."""
    return flat_place.store


# What kind of namespace there is.

OF_ACCOUNT, OF_FILESYSTEM, OF_ACCESS = "restype=account", "resource=filesystem", "getAccessControl"


class Token:
    """A credential whose token the server takes."""

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return AccessToken(TOKEN, 2**40)


def refuses(match: str) -> Fault:
    code = {"x-ms-error-code": "AuthorizationPermissionMismatch"}
    return Fault(match, "answer", times=None, status=403, headers=code)


def asked(seen: Through) -> list[str]:
    """In which ways the kind of namespace was asked for."""
    ways = (OF_ACCOUNT, OF_FILESYSTEM, OF_ACCESS)
    return [way for request in seen.proxy.requests for way in ways if way in request]


@pytest.fixture(params=["lake", "flat"])
def either(request: pytest.FixtureRequest) -> LakePlace:
    """A filesystem of either kind of namespace."""
    return request.getfixturevalue(f"{request.param}_place")


@pytest.mark.parametrize("sign_in", ["key", "sas", "token"])
def test_the_kind_of_namespace_is_asked_for_once_in_the_way_that_the_credential_may(
    either: LakePlace, sign_in: str
) -> None:
    given: dict[str, Any] = {
        "key": {"account_key": either.server.key},
        "sas": {"sas_token": either.sas()},
        "token": {"token": Token()},
    }[sign_in]
    with either.through(**given, is_known=False) as one:
        assert asked(one) == []
        told = at_once([lambda: one.bare.capabilities] * 4)
        assert {each.has_folders for each in told} == {either.has_folders}  # type: ignore[attr-defined]
        put(one.bare, "a/b", b"content")
        assert names_below(one.bare) == ["a/b"]
        assert not one.bare.swaps_folders()
        assert asked(one) == [OF_FILESYSTEM if sign_in == "token" else OF_ACCOUNT]


@pytest.mark.parametrize("sign_in", [{"token": Token()}, {}])
def test_a_way_that_is_refused_is_followed_by_the_next(
    either: LakePlace, sign_in: dict[str, Any]
) -> None:
    ways = [refuses(OF_ACCOUNT), refuses(OF_FILESYSTEM)]
    with either.through(*ways, **sign_in, is_known=False) as one:
        assert one.bare.capabilities.has_folders == either.has_folders
        assert asked(one)[-1] == OF_ACCESS


def test_an_answer_that_does_not_tell_is_followed_by_the_next(
    either: LakePlace,
) -> None:
    with either.through(Fault(OF_ACCOUNT, "answer", status=200), is_known=False) as one:
        assert one.bare.capabilities.has_folders == either.has_folders
        assert asked(one) == [OF_ACCOUNT, OF_FILESYSTEM]


def test_a_flat_account_with_what_the_dfs_endpoint_does_not_go_with_is_flat(
    flat_place: LakePlace,
) -> None:
    code = {"x-ms-error-code": "EndpointUnsupportedAccountFeatures"}
    fault = Fault("resource=", "answer", status=409, headers=code)
    with flat_place.through(fault, token=Token(), is_known=False) as one:
        assert not one.bare.capabilities.has_folders


def test_no_kind_of_namespace_is_assumed_where_none_is_told(lake_place: LakePlace) -> None:
    ways = [refuses(way) for way in (OF_ACCOUNT, OF_FILESYSTEM, OF_ACCESS)]
    with lake_place.through(*ways, is_known=False) as one:
        for attempt in (
            lambda: one.bare.capabilities,
            lambda: list(list_objects(one.bare, "")),
            one.bare.name_rules,
        ):
            with pytest.raises(AccessDenied):
                attempt()
        one.proxy.fail_by()
        assert one.bare.capabilities.has_folders


def test_asking_for_the_kind_of_namespace_is_tried_again(lake_place: LakePlace) -> None:
    with lake_place.through(Fault(OF_ACCOUNT, "answer"), is_known=False) as one:
        assert patient(one.bare, AT_ONCE).capabilities.has_folders
        assert asked(one) == [OF_ACCOUNT, OF_ACCOUNT]


def test_a_wrong_key_and_a_missing_filesystem_are_told_as_that(lake_place: LakePlace) -> None:
    with lake_place.through(account_key="d3Jvbmc=", is_known=False) as one:
        with pytest.raises(AuthenticationFailed):
            one.bare.check_root()
        assert len(asked(one)) == 1
    lake_place.destroy()
    with lake_place.through(token=Token(), is_known=False) as one:
        with pytest.raises(ContainerNotFound):
            one.bare.check_root()


# Folders.


def markers(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.name for info in list_objects(store, prefix) if info.is_marker]


def test_a_folder_is_a_marker_only_while_it_is_empty(lake_store: SmallDataLakeStore) -> None:
    put(lake_store, "a/b/c")
    put(lake_store, "a-b")
    assert [info.name for info in list_objects(lake_store, "")] == ["a-b", "a/b/c"]
    lake_store.delete(ObjectName("a/b/c"))
    assert markers(lake_store) == markers(lake_store, "a/b/") == ["a/b/"]
    assert [info.name for info in list_objects(lake_store, "a/b")] == ["a/b/"]
    assert names_below(lake_store, "a/b/nothing/") == []
    with pytest.raises(ObjectNotFound):
        lake_store.head(ObjectName("a/b"))


def test_a_marker_of_a_flat_namespace_is_one(
    flat_data_lake: DataLake, flat_store: SmallDataLakeStore
) -> None:
    name = flat_store.url.rpartition("/")[2]
    with BlobServiceClient(flat_data_lake.blob_url, credential=flat_data_lake.key) as service:
        service.get_blob_client(name, "folder").upload_blob(b"", metadata={"hdi_isfolder": "true"})
    put(flat_store, "folder/a")
    assert markers(flat_store) == ["folder"]
    assert flat_store.head(ObjectName("folder")).is_marker


def test_an_empty_folder_is_no_object_to_delete(lake_store: SmallDataLakeStore) -> None:
    version = put(lake_store, "a/b").etag
    lake_store.delete(ObjectName("a/b"), pin=version)
    for pin in (None, version):
        with pytest.raises(ObjectNotFound):
            lake_store.delete(ObjectName("a"), pin=pin)
    assert markers(lake_store) == ["a/"]


def test_a_file_is_no_folder_to_rename_or_remove(lake_store: SmallDataLakeStore) -> None:
    put(lake_store, "a/file", b"kept")
    put(lake_store, "b", b"b")
    with pytest.raises(ObjectNotFound):
        lake_store.move_folder(ObjectName("a/file"), ObjectName("b"))
    lake_store.remove_folder(ObjectName("a/file"))
    lake_store.check_write(ObjectName("a/file/probe"))  # before a file is uploaded over `a/file`
    assert get(lake_store, "a/file") == b"kept"
    assert get(lake_store, "b") == b"b"


def test_a_folder_is_renamed_only_to_where_nothing_is(lake_store: SmallDataLakeStore) -> None:
    put(lake_store, "old/a", b"a")
    put(lake_store, "file", b"file")
    for taken in ("file", "file/below", "old/below", "old"):
        with pytest.raises(PlaceTaken):
            lake_store.move_folder(ObjectName("old"), ObjectName(taken))
    put(lake_store, "empty/x")
    lake_store.delete(ObjectName("empty/x"))
    lake_store.move_folder(ObjectName("old"), ObjectName("empty"))  # which gives way
    lake_store.move_folder(ObjectName("empty"), ObjectName("new/deep/er"))
    assert names_below(lake_store) == ["file", "new/deep/er/a"]
    assert get(lake_store, "new/deep/er/a") == b"a"


ODD = "caf\u00e9 %41#?&+\U0001f680"


@pytest.mark.parametrize("sign_in", ["sas", "token"])
def test_a_folder_is_renamed_and_removed_by_a_sas_and_by_a_token(
    lake_place: LakePlace, sign_in: str
) -> None:
    by_sas = sign_in == "sas"
    given: dict[str, Any] = {"sas_token": lake_place.sas()} if by_sas else {"token": Token()}
    with lake_place.through(**given, is_known=False) as one:
        put(one.bare, f"{ODD}/a", b"content")
        put(one.bare, "b/c")
        one.bare.move_folder(ObjectName(ODD), ObjectName(f"new/{ODD}"))
        assert get(one.bare, f"new/{ODD}/a") == b"content"
        one.bare.remove_folder(ObjectName("new"))
        assert names_below(one.bare) == ["b/c"]


@pytest.mark.parametrize("action", ["lose", "drop"])
def test_a_rename_that_was_not_answered_is_known_where_it_was_done(
    lake_place: LakePlace, action: Any
) -> None:
    with lake_place.through(Fault("PUT .*mode=legacy", action, times=2), is_known=False) as one:
        put(one.bare, "old/a", b"content")
        store = patient(one.bare, AT_ONCE)
        if action == "lose":
            store.move_folder(ObjectName("old"), ObjectName("new"))
            assert names_below(store) == ["new/a"]
            return
        with pytest.raises(ServiceBusy):
            store.move_folder(ObjectName("old"), ObjectName("new"))
        assert names_below(store) == ["old/a"]


@pytest.mark.parametrize("action", ["lose", "drop"])
def test_a_removal_that_was_not_answered_is_asked_for_again(
    lake_place: LakePlace, action: Any
) -> None:
    with lake_place.through(Fault("DELETE .*recursive=true", action), is_known=False) as one:
        put(one.bare, "old/a")
        patient(one.bare, AT_ONCE).remove_folder(ObjectName("old"))
        assert names_below(one.bare) == []


def test_a_folder_is_removed_however_many_requests_it_takes(lake_place: LakePlace) -> None:
    more = Fault(
        "DELETE .*recursive=true",
        "answer",
        times=2,
        status=202,
        headers={"x-ms-continuation": marker_of("old/a")},
    )
    with lake_place.through(more, is_known=False) as one:
        put(one.bare, "old/a")
        put(one.bare, "old/b/c")
        # One that repeats itself would never end.
        with pytest.raises(IntegrityError, match="repeats itself"):
            one.bare.remove_folder(ObjectName("old"))
        one.proxy.fail_by(Fault(**{**vars(more), "times": 1}))
        one.bare.remove_folder(ObjectName("old"))
        assert [r.count("continuation=") for r in one.proxy.requests if r.startswith("DELETE")] == [
            0,
            1,
        ]
        assert names_below(one.bare) == []


def test_what_is_deleted_or_read_is_the_version_that_was_meant(
    lake_store: SmallDataLakeStore,
) -> None:
    old = put(lake_store, "a", b"old").etag
    put(lake_store, "a", b"new")
    with pytest.raises(SourceChanged):
        lake_store.delete(ObjectName("a"), pin=old)
    room = memoryview(bytearray(3))
    with pytest.raises(SourceChanged):
        lake_store.begin_read(ObjectName("a"), 0, room, pin=old).finish()
    put(lake_store, "folder/x")
    with pytest.raises(ObjectNotFound):
        lake_store.begin_read(ObjectName("folder"), 0, room, pin=None).finish()


# Files that the other endpoint wrote, as Spark and azcopy do: made, appended to, flushed.

LARGE = content_of(3 * PART + 5)
HIDDEN = ".pds-unfinished/"


@pytest.fixture
def theirs(lake_place: LakePlace) -> str:
    """The version of such a file, `sub/a`."""
    lake_place.plant_by_dfs("sub/a", b"theirs")
    return lake_place.store.head(ObjectName("sub/a")).etag


@pytest.mark.parametrize("content", [b"", b"ours", LARGE], ids=["empty", "small", "large"])
def test_a_file_of_the_other_endpoint_is_replaced_by_a_whole_one(
    lake_store: SmallDataLakeStore, theirs: str, content: bytes
) -> None:
    assert get(lake_store, "sub/a") == b"theirs"
    lake_store.check_write(ObjectName("sub/a"))
    writing = begin(lake_store, "sub/a", content, replaces=theirs)
    assert get(lake_store, "sub/a") == b"theirs"
    committed = writing.commit(md5_of(content))
    writing.abort()
    assert get(lake_store, "sub/a") == content
    head = lake_store.head(ObjectName("sub/a"))
    assert (committed.name, committed.etag) == ("sub/a", head.etag)
    assert head.digest == md5_of(content)
    assert names_below(lake_store) == ["sub/a"]
    assert [name for name in names_below(lake_store, HIDDEN) if name != HIDDEN] == []
    put(lake_store, "sub/a", LARGE, replaces=committed.etag)  # which is one of ours now


@pytest.mark.parametrize("condition", [{"replaces": '"0x1"'}, {"if_absent": True}])
def test_a_file_of_the_other_endpoint_is_kept_where_another_one_is_to_be_replaced(
    lake_store: SmallDataLakeStore, theirs: str, condition: dict[str, Any]
) -> None:
    writing = begin(lake_store, "sub/a", LARGE, **condition)
    with pytest.raises(ObjectExists):
        writing.begin_commit(md5_of(LARGE)).finish()
    writing.abort()
    assert lake_store.head(ObjectName("sub/a")).etag == theirs
    assert [name for name in names_below(lake_store, HIDDEN) if name != HIDDEN] == []


@pytest.mark.parametrize("action", ["lose", "drop"])
@pytest.mark.parametrize("match", ["PUT .*mode=legacy", "PUT .*comp=blocklist"])
def test_a_replacement_that_was_not_answered_is_gone_on_with(
    lake_place: LakePlace, theirs: str, match: str, action: Any
) -> None:
    with lake_place.through(Fault(match, action), is_known=False) as one:
        committed = put(patient(one.bare, AT_ONCE), "sub/a", LARGE, replaces=theirs)
        assert one.bare.head(ObjectName("sub/a")).etag == committed.etag
        assert get(one.bare, "sub/a") == LARGE


def test_parts_may_come_from_many_threads_over_a_file_of_the_other_endpoint(
    lake_store: SmallDataLakeStore, theirs: str
) -> None:
    writing = lake_store.begin_write(ObjectName("sub/a"), len(LARGE))
    parts = parts_of(lake_store, LARGE)
    at_once(lambda part=part: writing.write_part(*part) for part in parts)  # type: ignore[misc]
    writing.commit(md5_of(LARGE))
    assert get(lake_store, "sub/a") == LARGE


def test_what_killed_uploads_left_is_removed_once() -> None:
    deleted: list[str] = []
    listed = [
        ObjectInfo(f"{HIDDEN}{name}", 1, "", modified=modified)
        for name, modified in (("old", 0.0), ("unknown", None), ("new", time.time()))
    ]
    unfinished = Unfinished(lambda: listed, deleted.append)
    unfinished.sweep()
    unfinished.sweep()
    assert deleted == [f"{HIDDEN}old"]
    names = {unfinished.new_name() for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith(HIDDEN) for name in names)


# Names, signatures, errors.


def test_the_rules_of_names_are_those_of_the_namespace(
    lake_store: SmallDataLakeStore, flat_store: SmallDataLakeStore
) -> None:
    for store, most in ((lake_store, 61), (flat_store, 255)):
        rules = store.name_rules()
        fine = ["d"] * most
        assert rules.path_fault(fine) is None
        put(store, "/".join(fine), b"deep")
        assert get(store, "/".join(fine)) == b"deep"
        assert rules.path_fault([*fine, "d"]) == (
            f"has {most + 1} components, and the service takes {most}"
        )
        for wrong in ("tab\t", "new\nline", "\x7f", "dots.", "..."):
            assert rules.path_fault(["fine", wrong]) is not None
        assert rules.path_fault(["Case", "e\u0301", ".hidden"]) is None
    assert NameRules().path_fault(["d"] * 1000) is None


@pytest.mark.parametrize("publishes", [False, True])
@pytest.mark.parametrize("wrong", ["tab\t", "\x7f", "dots.", "/".join("d" * 61)])
def test_a_name_that_cannot_be_stops_an_upload_before_the_first_byte(
    lake_place: LakePlace, tmp_path: Path, wrong: str, publishes: bool
) -> None:
    source = folder_source(make_tree(tmp_path / "source", {"fine": b"1", wrong: b"2"}))
    with lake_place.through(is_known=False) as one:
        with pytest.raises(UnsafeName, match="names that are refused"):
            (publish if publishes else upload)(one.bare, source, "top", "replace")
        assert one.proxy.count("PUT") == 0


def test_names_of_a_query_are_signed_in_lower_case(lake_store: SmallDataLakeStore) -> None:
    put(lake_store, "a")
    query = (("resource", "filesystem"), ("recursive", "true"), ("maxResults", "1"))
    paths = json.loads(lake_store._dfs.request("GET", query=query).body)["paths"]
    assert [path["name"] for path in paths] == ["a"]


def test_an_error_of_the_dfs_endpoint_is_read() -> None:
    def read(body: bytes, head: str = "HTTP/1.1 403 Forbidden") -> tuple[str, str]:
        fault = fault_of(Answer(403, Headers(head), body))
        return fault.code, fault.message

    error = {"code": "SomeCode", "message": "What is wrong.\nRequestId:1\nTime:2"}
    assert read(json.dumps({"error": error}).encode()) == ("SomeCode", "What is wrong.")
    assert read(b'{"error": {}}') == read(b'{"error": "x"}') == read(b"{") == ("", "")
    assert read(b"{}", "HTTP/1.1 403 x\r\nx-ms-error-code: Told") == ("Told", "")
    assert read(b"<Error><Code>A</Code><Message>B\nC</Message></Error>") == ("A", "B")


def test_a_sas_that_ended_is_told_by_the_dfs_endpoint_too(lake_place: LakePlace) -> None:
    message = "Signature not valid in the specified time frame: Start [x] - Expiry [y]"
    error = {"error": {"code": "AuthenticationFailed", "message": message}}
    fault = Fault("DELETE", "answer", status=403, body=json.dumps(error).encode())
    with lake_place.through(fault, sas_token=lake_place.sas(), is_known=False) as one:
        put(one.bare, "a")
        with pytest.raises(CredentialExpired):
            one.bare.delete(ObjectName("a"))


def interrupted(store: ObjectStore, tmp_path: Path, most: int) -> None:
    """Begin to upload `sub/a`, and break after some parts; what is done is written down."""

    class Breaking(Around):
        def begin_write(self, name: ObjectName, size: int, **more: Any) -> Any:
            writing, left = self.inner.begin_write(name, size, **more), iter(range(most))

            class Counted(AroundWriting):
                def write_part(self, *part: Any) -> None:
                    if next(left, None) is None:
                        raise ServiceBusy("It broke.")
                    super().write_part(*part)

            return Counted(writing)

    with pytest.raises(StageFailed, match="It broke"):
        send(Breaking(store), tmp_path)


def send(store: ObjectStore, tmp_path: Path) -> None:
    source = folder_source(make_tree(tmp_path / "source", {"a": LARGE}))
    upload(store, source, "sub", "replace", limits=Limits(parts=1), journals=tmp_path / "journals")


@pytest.mark.parametrize("before", [True, False])
def test_an_upload_that_broke_ends_well_over_a_file_of_the_other_endpoint(
    lake_place: LakePlace, tmp_path: Path, before: bool
) -> None:
    """Whether the file stood there before, or came since: what is kept elsewhere is sent again."""
    if before:
        lake_place.plant_by_dfs("sub/a", b"theirs")
    interrupted(lake_place.store, tmp_path, 2)
    lake_place.plant_by_dfs("sub/a", b"theirs")
    send(lake_place.store, tmp_path)
    assert get(lake_place.store, "sub/a") == LARGE


def test_a_file_that_comes_by_the_other_endpoint_between_two_parts_is_told(
    lake_place: LakePlace,
) -> None:
    """The part that was sent before is lost, so that nothing can be committed."""
    writing = lake_place.store.begin_write(ObjectName("sub/a"), len(LARGE))
    first, *others = parts_of(lake_place.store, LARGE)
    writing.write_part(*first)
    lake_place.plant_by_dfs("sub/a", b"theirs")
    for part in others:
        writing.write_part(*part)
    with pytest.raises(ObjectExists):
        writing.commit(md5_of(LARGE))
    writing.abort()
    assert get(lake_place.store, "sub/a") == b"theirs"


def test_a_folder_is_seen_as_empty_however_many_pages_that_takes(lake_place: LakePlace) -> None:
    """The service may give a page with nothing on it, and a marker of the next."""
    lake_place.make_folder("a/b")

    def nothing_yet(reply: Reply) -> Reply:
        body = re.sub(rb"<Blobs>.*</Blobs>", b"<Blobs></Blobs>", reply.body)
        marker = b"<NextMarker>" + marker_of("a").encode() + b"</NextMarker>"
        body = re.sub(rb"<NextMarker ?/>|<NextMarker>.*</NextMarker>", marker, body)
        return replace(reply, body=body)

    for skip in range(4):
        with lake_place.through(Fault("comp=list", "change", skip=skip, change=nothing_yet)) as one:
            assert markers(one.bare, "a/b/") == ["a/b/"], skip


@pytest.mark.parametrize("kind", ["lake", "flat lake"])
def test_a_public_filesystem_is_listed_and_read_by_anybody(new_place: Any, kind: str) -> None:
    place = new_place(kind)
    server, name = place.server, f"public-{uuid.uuid4().hex}"
    given = {"dfs_url": server.dfs_url}
    with closing(DataLakeStore(server.blob_url, name, account_key=server.key, **given)) as owner:
        access = {"x-ms-blob-public-access": "container"}
        owner._service.request("PUT", query=(("restype", "container"),), headers=access)
        for each in ("a/b", "a-b", "a/c/d", "e"):
            put(owner, each, each.encode())
        with closing(DataLakeStore(server.blob_url, name, **given)) as anybody:
            anybody.check_root()
            assert names_below(anybody) == ["a-b", "a/b", "a/c/d", "e"]
            assert [get(anybody, each) for each in ("a/b", "e")] == [b"a/b", b"e"]
            with pytest.raises(AccessError):
                put(anybody, "f", b"f")
        owner._service.request("DELETE", query=(("restype", "container"),))
