"""Filesystems of a data lake: the contract of a store over both kinds of namespace, and what only they have."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.storage.blob import BlobServiceClient, generate_container_sas
from servers.data_lake import TOKEN, DataLake
from servers.data_lake.blob_listing import marker_of
from servers.faults import Fault, FaultyProxy, faulty
from small_stores import PART, SmallDataLakeStore, make_tree

from prefect_datastores.errors import (
    AccessDenied,
    AuthenticationFailed,
    ContainerNotFound,
    CredentialExpired,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    PlaceTaken,
    ServiceBusy,
    SourceChanged,
    UnsafeName,
)
from prefect_datastores.names import NameRules, ObjectName
from prefect_datastores.staging.publish import publish
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.azure import fault_of
from prefect_datastores.stores.base import ObjectInfo, ObjectStore
from prefect_datastores.stores.connection import Answer, Headers
from prefect_datastores.stores.limit import Allowance, Rates
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.stores.retry import RetryPolicy, patient
from prefect_datastores.stores.unfinished import Unfinished
from prefect_datastores.testing import (
    StoreContract,
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
ROOMY = Rates(requests_per_second=1e5, bytes_per_second=1e9)


def opened(lake: DataLake, filesystem: str) -> SmallDataLakeStore:
    return SmallDataLakeStore(lake.blob_url, filesystem, dfs_url=lake.dfs_url, account_key=lake.key)


def missing(lake: DataLake) -> Iterator[SmallDataLakeStore]:
    """A filesystem that does not exist; it is deleted where a test makes it."""
    name = f"missing-{uuid.uuid4().hex}"
    with closing(opened(lake, name)) as store:
        yield store
    with BlobServiceClient(
        lake.blob_url, credential={"account_name": lake.account, "account_key": lake.key}
    ) as service:
        for made in service.list_containers(name_starts_with=name):
            service.delete_container(made.name)


@pytest.fixture
def missing_lake_store(data_lake: DataLake) -> Iterator[ObjectStore]:
    yield from missing(data_lake)


@pytest.fixture
def flat_store(flat_data_lake: DataLake) -> Iterator[SmallDataLakeStore]:
    """A new, empty filesystem without a hierarchical namespace."""
    for store in missing(flat_data_lake):
        store.create_root()
        yield store


@pytest.fixture
def missing_flat_store(flat_data_lake: DataLake) -> Iterator[ObjectStore]:
    yield from missing(flat_data_lake)


class TestDataLakeStore(StoreContract):
    @pytest.fixture
    def store(self, lake_store: ObjectStore) -> ObjectStore:
        return lake_store

    @pytest.fixture
    def missing_store(self, missing_lake_store: ObjectStore) -> ObjectStore:
        return missing_lake_store


class TestFlatDataLakeStore(StoreContract):
    @pytest.fixture
    def store(self, flat_store: ObjectStore) -> ObjectStore:
        return flat_store

    @pytest.fixture
    def missing_store(self, missing_flat_store: ObjectStore) -> ObjectStore:
        return missing_flat_store


class TestPatientDataLakeStore(StoreContract):
    @pytest.fixture
    def store(self, lake_store: ObjectStore) -> ObjectStore:
        return patient(lake_store, AT_ONCE, allowance=Allowance(ROOMY))

    @pytest.fixture
    def missing_store(self, missing_lake_store: ObjectStore) -> ObjectStore:
        return patient(missing_lake_store, AT_ONCE, allowance=Allowance(ROOMY))


# What kind of namespace there is.

OF_ACCOUNT, OF_FILESYSTEM, OF_ACCESS = "restype=account", "resource=filesystem", "getAccessControl"


class Token:
    """A credential whose token the server takes."""

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return AccessToken(TOKEN, 2**40)


def refuses(match: str) -> Fault:
    code = {"x-ms-error-code": "AuthorizationPermissionMismatch"}
    return Fault(match, "answer", times=None, status=403, headers=code)


class Seen:
    """A filesystem through a proxy before each of the two endpoints."""

    def __init__(self, store: SmallDataLakeStore, blob: FaultyProxy, dfs: FaultyProxy) -> None:
        self.store, self.blob, self.dfs = store, blob, dfs

    def asked(self) -> list[str]:
        """In which ways the kind of namespace was asked for."""
        requests = [*self.blob.requests, *self.dfs.requests]
        ways = (OF_ACCOUNT, OF_FILESYSTEM, OF_ACCESS)
        return [way for request in requests for way in ways if way in request]


@contextmanager
def seen(lake: DataLake, filesystem: str, *faults: Fault, **sign_in: Any) -> Iterator[Seen]:
    """Open a filesystem whose endpoints fail as told."""
    with ExitStack() as stack:
        blob = stack.enter_context(faulty(lake.host, lake.blob_port, *faults))
        dfs = stack.enter_context(faulty(lake.host, lake.dfs_port, *faults))
        store = SmallDataLakeStore(
            f"http://127.0.0.1:{blob.port}/{lake.account}",
            filesystem,
            dfs_url=f"http://127.0.0.1:{dfs.port}/{lake.account}",
            **(sign_in or {"account_key": lake.key}),
        )
        yield Seen(stack.enter_context(closing(store)), blob, dfs)


def sas(lake: DataLake, filesystem: str, permission: str) -> str:
    end = datetime.now(timezone.utc) + timedelta(hours=1)
    made = generate_container_sas(
        lake.account, filesystem, account_key=lake.key, permission=permission, expiry=end
    )
    return str(made)


@pytest.fixture(params=["hierarchical", "flat"])
def place(request: pytest.FixtureRequest) -> tuple[DataLake, str, bool]:
    """An account, a new filesystem of it, and whether it is hierarchical."""
    if request.param == "hierarchical":
        lake, name = request.getfixturevalue("data_lake"), request.getfixturevalue("filesystem")
        return lake, name, True
    store = request.getfixturevalue("flat_store")
    return request.getfixturevalue("flat_data_lake"), store.url.rpartition("/")[2], False


@pytest.mark.parametrize("sign_in", ["key", "sas", "token"])
def test_the_kind_of_namespace_is_asked_for_once_in_the_way_that_the_credential_may(
    place: tuple[DataLake, str, bool], sign_in: str
) -> None:
    lake, name, is_hierarchical = place
    given: dict[str, Any] = {
        "key": {"account_key": lake.key},
        "sas": {"sas_token": sas(lake, name, "rcwdl")},
        "token": {"token": Token()},
    }[sign_in]
    with seen(lake, name, **given) as one:
        assert one.asked() == []
        told = at_once([lambda: one.store.capabilities] * 4)
        assert {each.has_folders for each in told} == {is_hierarchical}  # type: ignore[attr-defined]
        put(one.store, "a/b", b"content")
        assert names_below(one.store) == ["a/b"]
        assert not one.store.swaps_folders()
        assert one.asked() == [OF_FILESYSTEM if sign_in == "token" else OF_ACCOUNT]


@pytest.mark.parametrize("sign_in", [{"token": Token()}, {}])
def test_a_way_that_is_refused_is_followed_by_the_next(
    place: tuple[DataLake, str, bool], sign_in: dict[str, Any]
) -> None:
    lake, name, is_hierarchical = place
    ways = [refuses(OF_ACCOUNT), refuses(OF_FILESYSTEM)]
    with seen(lake, name, *ways, **sign_in) as one:
        assert one.store.capabilities.has_folders == is_hierarchical
        assert one.asked()[-1] == OF_ACCESS


def test_an_answer_that_does_not_tell_is_followed_by_the_next(
    place: tuple[DataLake, str, bool],
) -> None:
    lake, name, is_hierarchical = place
    with seen(lake, name, Fault(OF_ACCOUNT, "answer", status=200)) as one:
        assert one.store.capabilities.has_folders == is_hierarchical
        assert one.asked() == [OF_ACCOUNT, OF_FILESYSTEM]


def test_a_flat_account_with_what_the_dfs_endpoint_does_not_go_with_is_flat(
    flat_data_lake: DataLake, flat_store: ObjectStore
) -> None:
    code = {"x-ms-error-code": "EndpointUnsupportedAccountFeatures"}
    fault = Fault("resource=", "answer", status=409, headers=code)
    name = flat_store.url.rpartition("/")[2]
    with seen(flat_data_lake, name, fault, token=Token()) as one:
        assert not one.store.capabilities.has_folders


def test_no_kind_of_namespace_is_assumed_where_none_is_told(
    data_lake: DataLake, filesystem: str
) -> None:
    ways = [refuses(way) for way in (OF_ACCOUNT, OF_FILESYSTEM, OF_ACCESS)]
    with seen(data_lake, filesystem, *ways) as one:
        for attempt in (
            lambda: one.store.capabilities,
            lambda: list(list_objects(one.store, "")),
            one.store.name_rules,
        ):
            with pytest.raises(AccessDenied):
                attempt()
        one.blob.fail_by()
        one.dfs.fail_by()
        assert one.store.capabilities.has_folders


def test_asking_for_the_kind_of_namespace_is_tried_again(
    data_lake: DataLake, filesystem: str
) -> None:
    with seen(data_lake, filesystem, Fault(OF_ACCOUNT, "answer")) as one:
        assert patient(one.store, AT_ONCE).capabilities.has_folders
        assert one.asked() == [OF_ACCOUNT, OF_ACCOUNT]


def test_a_wrong_key_and_a_missing_filesystem_are_told_as_that(
    data_lake: DataLake, filesystem: str
) -> None:
    with seen(data_lake, filesystem, account_key="d3Jvbmc=") as one:
        with pytest.raises(AuthenticationFailed):
            one.store.check_root()
        assert len(one.asked()) == 1
    with seen(data_lake, "no-such-filesystem", token=Token()) as one:
        with pytest.raises(ContainerNotFound):
            one.store.check_root()


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
    data_lake: DataLake, filesystem: str, sign_in: str
) -> None:
    by_sas = sign_in == "sas"
    given: dict[str, Any] = (
        {"sas_token": sas(data_lake, filesystem, "rcwdl")} if by_sas else {"token": Token()}
    )
    with seen(data_lake, filesystem, **given) as one:
        put(one.store, f"{ODD}/a", b"content")
        put(one.store, "b/c")
        one.store.move_folder(ObjectName(ODD), ObjectName(f"new/{ODD}"))
        assert get(one.store, f"new/{ODD}/a") == b"content"
        one.store.remove_folder(ObjectName("new"))
        assert names_below(one.store) == ["b/c"]


@pytest.mark.parametrize("action", ["lose", "drop"])
def test_a_rename_that_was_not_answered_is_known_where_it_was_done(
    data_lake: DataLake, filesystem: str, action: Any
) -> None:
    with seen(data_lake, filesystem, Fault("PUT .*mode=legacy", action, times=2)) as one:
        put(one.store, "old/a", b"content")
        store = patient(one.store, AT_ONCE)
        if action == "lose":
            store.move_folder(ObjectName("old"), ObjectName("new"))
            assert names_below(store) == ["new/a"]
            return
        with pytest.raises(ServiceBusy):
            store.move_folder(ObjectName("old"), ObjectName("new"))
        assert names_below(store) == ["old/a"]


@pytest.mark.parametrize("action", ["lose", "drop"])
def test_a_removal_that_was_not_answered_is_asked_for_again(
    data_lake: DataLake, filesystem: str, action: Any
) -> None:
    with seen(data_lake, filesystem, Fault("DELETE .*recursive=true", action)) as one:
        put(one.store, "old/a")
        patient(one.store, AT_ONCE).remove_folder(ObjectName("old"))
        assert names_below(one.store) == []


def test_a_folder_is_removed_however_many_requests_it_takes(
    data_lake: DataLake, filesystem: str
) -> None:
    more = Fault(
        "DELETE .*recursive=true",
        "answer",
        times=2,
        status=202,
        headers={"x-ms-continuation": marker_of("old/a")},
    )
    with seen(data_lake, filesystem, more) as one:
        put(one.store, "old/a")
        put(one.store, "old/b/c")
        # One that repeats itself would never end.
        with pytest.raises(IntegrityError, match="repeats itself"):
            one.store.remove_folder(ObjectName("old"))
        one.dfs.fail_by(Fault(**{**vars(more), "times": 1}))
        one.store.remove_folder(ObjectName("old"))
        assert [request.count("continuation=") for request in one.dfs.requests] == [0, 1]
        assert names_below(one.store) == []


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
def theirs(lake_store: SmallDataLakeStore) -> str:
    """The version of such a file, `sub/a`."""
    ask = lake_store._dfs.request
    ask("PUT", "sub/a", (("resource", "file"),))
    ask("PATCH", "sub/a", (("action", "append"), ("position", "0")), {}, b"theirs")
    ask("PATCH", "sub/a", (("action", "flush"), ("position", "6")))
    return lake_store.head(ObjectName("sub/a")).etag


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
    data_lake: DataLake, filesystem: str, theirs: str, match: str, action: Any
) -> None:
    with seen(data_lake, filesystem, Fault(match, action)) as one:
        committed = put(patient(one.store, AT_ONCE), "sub/a", LARGE, replaces=theirs)
        assert one.store.head(ObjectName("sub/a")).etag == committed.etag
        assert get(one.store, "sub/a") == LARGE


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
    data_lake: DataLake, filesystem: str, tmp_path: Path, wrong: str, publishes: bool
) -> None:
    source = folder_source(make_tree(tmp_path / "source", {"fine": b"1", wrong: b"2"}))
    with seen(data_lake, filesystem) as one:
        with pytest.raises(UnsafeName, match="names that are refused"):
            (publish if publishes else upload)(one.store, source, "top", "replace")
        assert one.blob.count("PUT") == one.dfs.count("PUT") == 0


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


def test_a_sas_that_ended_is_told_by_the_dfs_endpoint_too(
    data_lake: DataLake, filesystem: str
) -> None:
    message = "Signature not valid in the specified time frame: Start [x] - Expiry [y]"
    error = {"error": {"code": "AuthenticationFailed", "message": message}}
    fault = Fault("DELETE", "answer", status=403, body=json.dumps(error).encode())
    with seen(data_lake, filesystem, fault, sas_token=sas(data_lake, filesystem, "rcwdl")) as one:
        put(one.store, "a")
        with pytest.raises(CredentialExpired):
            one.store.delete(ObjectName("a"))
