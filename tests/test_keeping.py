"""Times and properties that are kept on request, through whole transfers.

Over every kind that has them: properties are those of file shares and data lakes; times, of shares and
local folders.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.storage.blob import generate_container_sas
from azure.storage.fileshare import generate_share_sas
from click.testing import CliRunner
from pydantic import SecretStr
from servers import sandbox
from servers.azure_files import AzureFiles
from servers.data_lake import TOKEN, DataLake
from servers.faults import Fault, FaultyProxy, faulty
from servers.prefect_server import PrefectServer
from small_stores import PART, SmallDataLakeStore, SmallShareStore, make_tree, tree

from prefect_datastores import AccountKey, AzureFileDatastore, Datastore
from prefect_datastores.cli import main
from prefect_datastores.disk import read_attribute
from prefect_datastores.errors import (
    AccessDenied,
    ConfigurationError,
    DatastoreError,
    IntegrityError,
    ObjectExists,
    SourceChanged,
    StageFailed,
    TransferError,
)
from prefect_datastores.files import Folder
from prefect_datastores.names import ObjectName, RelativePath
from prefect_datastores.staging.cache import CacheLimits
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.keeping import Keep, from_attribute, to_attribute
from prefect_datastores.staging.publish import publish
from prefect_datastores.staging.report import TransferReport
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores import access_control, share_properties
from prefect_datastores.stores.base import Extras, ObjectInfo, ObjectStore
from prefect_datastores.stores.blob import BlobStore
from prefect_datastores.stores.limit import Allowance, Rates
from prefect_datastores.stores.local import LocalStore
from prefect_datastores.stores.memory import MemoryStore
from prefect_datastores.stores.retry import RetryPolicy, patient
from prefect_datastores.testing import content_of, get, md5_of, names_below, parts_of, put
from prefect_datastores.transfers import preflight

ATTRIBUTE = "user.prefect_datastores.properties"
AT_ONCE = RetryPolicy(tries=3, first_pause=0.0, longest_pause=0.0)
ROOMY = Rates(requests_per_second=1e5, bytes_per_second=1e9)
PROPERTIES, TIMES = Keep(properties=True), Keep(times=True)
KEEPING = DownloadRequest(keep_properties=True, overwrite="replace")
SOMEBODY, FRIENDS = "11111111-2222-3333-4444-555555555555", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
OF_SHARE = {
    "attributes": "Hidden | Archive",
    "created": "2011-02-03T04:05:06.1234567Z",
    "permission": "O:BAG:SYD:(A;;FA;;;BA)(A;;FR;;;S-1-5-21-1-2-3-1001)",
}
OF_LAKE = {
    "owner": SOMEBODY,
    "group": FRIENDS,
    "permissions": "rw-r-----+",
    "acl": f"user::rw-,user:{FRIENDS}:r--,group::r--,mask::r--,other::---",
}
NEW = {"large": content_of(3 * PART + 5), "sub/small": b"small", "empty": b""}


@dataclass
class Kept:
    """A store, decorated as in a transfer, whose objects have properties; some that one can have."""

    store: ObjectStore
    bare: SmallShareStore | SmallDataLakeStore
    properties: Mapping[str, str]
    steps: Mapping[str, str]
    """Requests of a write that has properties, by what they do."""


@pytest.fixture(params=["share", "lake"])
def kept(request: pytest.FixtureRequest) -> Kept:
    bare = request.getfixturevalue(f"{request.param}_store")
    store = patient(bare, AT_ONCE, allowance=Allowance(ROOMY))
    if request.param == "share":
        return Kept(store, bare, OF_SHARE, {"content": "PUT .*unfinished", "name": "comp=rename"})
    steps = {
        "content": "PUT .*unfinished",
        "access": "PATCH .*setAccessControl",
        "name": "PUT .*mode=legacy",
    }
    return Kept(store, bare, OF_LAKE, steps)


@contextmanager
def through(
    kept: Kept, request: pytest.FixtureRequest
) -> Iterator[tuple[ObjectStore, list[FaultyProxy]]]:
    """Open the same by proxies, with retry."""
    with ExitStack() as stack:
        if isinstance(kept.bare, SmallShareStore):
            files: AzureFiles = request.getfixturevalue("azure_files")
            proxies = [stack.enter_context(faulty(files.host, files.port))]
            url = f"http://127.0.0.1:{proxies[0].port}/{files.account}"
            share = SmallShareStore(url, kept.bare.service.container, account_key=files.key)
            store: ObjectStore = stack.enter_context(closing(share))
        else:
            lake: DataLake = request.getfixturevalue("data_lake")
            ports = (lake.blob_port, lake.dfs_port)
            proxies = [stack.enter_context(faulty(lake.host, port)) for port in ports]
            blob, dfs = (f"http://127.0.0.1:{proxy.port}/{lake.account}" for proxy in proxies)
            name = request.getfixturevalue("filesystem")
            made = SmallDataLakeStore(blob, name, dfs_url=dfs, account_key=lake.key)
            store = stack.enter_context(closing(made))
        assert store.capabilities.properties
        yield patient(store, AT_ONCE), proxies


def put_with(
    store: ObjectStore, name: str, content: bytes, extras: Extras, **conditions: Any
) -> ObjectInfo:
    """Store an object that is given something beside its content; nothing is left of one that fails."""
    writing = store.begin_write(ObjectName(name), len(content), extras=extras, **conditions)
    try:
        for part in parts_of(store, content):
            writing.write_part(*part)
        return writing.commit(md5_of(content))
    except BaseException:
        writing.abort()
        raise


def of(store: ObjectStore, name: str) -> Mapping[str, str]:
    return store.properties(ObjectName(name), pin=None)


def sent(store: ObjectStore, source: Path, target: str = "", **more: Any) -> TransferReport:
    return upload(store, folder_source(source), target, **{"overwrite": "replace", **more})


def actions(report: TransferReport) -> dict[str, str]:
    return {row.path: row.action for row in report.rows}


def hidden(kept: Kept) -> list[str]:
    """What stands in the hidden folder."""
    page = kept.bare.list_page(".pds-unfinished/", recursive=False)
    return [info.name for info in page.objects if not info.is_marker]


@pytest.fixture
def flat_store(flat_data_lake: DataLake) -> Iterator[SmallDataLakeStore]:
    """A new filesystem without a hierarchical namespace."""
    lake, name = flat_data_lake, f"test-{uuid.uuid4().hex}"
    with closing(
        SmallDataLakeStore(lake.blob_url, name, dfs_url=lake.dfs_url, account_key=lake.key)
    ) as store:
        store.create_root()
        yield store
        store._service.request("DELETE", query=(("restype", "container"),))


# Properties, by the store.


@pytest.mark.parametrize("size", [0, 5, 2 * PART + 1])
def test_an_object_has_the_properties_that_it_is_given(kept: Kept, size: int) -> None:
    content = content_of(size)
    info = put_with(kept.store, "sub/new/a", content, Extras(properties=kept.properties))
    assert of(kept.store, "sub/new/a") == kept.properties
    assert get(kept.store, "sub/new/a") == content
    assert kept.store.head(ObjectName("sub/new/a")).etag == info.etag
    assert kept.store.head(ObjectName("sub/new/a")).digest == md5_of(content)
    assert hidden(kept) == []


def test_an_object_keeps_the_properties_of_what_it_replaces(kept: Kept) -> None:
    first = put_with(kept.store, "a", b"first", Extras(properties=kept.properties))
    keeps = Extras(keeps_properties=True)
    second = put_with(kept.store, "a", content_of(2 * PART), keeps, replaces=first.etag)
    assert of(kept.store, "a") == kept.properties
    put_with(kept.store, "a", b"", keeps)
    assert of(kept.store, "a") == kept.properties
    with pytest.raises(ObjectExists):
        put_with(kept.store, "a", b"late", keeps, replaces=second.etag)
    with pytest.raises(ObjectExists):
        put_with(kept.store, "a", b"new", keeps, if_absent=True)
    assert get(kept.store, "a") == b""
    assert hidden(kept) == []


def test_one_that_replaces_nothing_has_those_of_any_new_one(kept: Kept) -> None:
    put(kept.store, "plain", b"x")
    put_with(kept.store, "a", b"x", Extras(keeps_properties=True))
    without = {"created"}
    plain, new = of(kept.store, "plain"), of(kept.store, "a")
    assert {key: plain[key] for key in plain.keys() - without} == {
        key: new[key] for key in new.keys() - without
    }


def test_properties_are_those_of_one_version(kept: Kept) -> None:
    before = put(kept.store, "a", b"before")
    put(kept.store, "a", b"after")
    with pytest.raises(SourceChanged):
        kept.store.properties(ObjectName("a"), pin=before.etag)


WRONG_OF_SHARE = [
    {"attributes": "Archive\r\nx-ms-meta-a: b"},
    {"attributes": "Directory"},
    {"attributes": ""},
    {"created": "now"},
    {"created": "2011-02-03T04:05:06Z\n"},
    {"permission": "O:BAG:SYD:(A;;FA;;;BA)\n"},
    {"permission": "inherit"},
    {"permission": "D:" + "a" * 65536},
    {"owner": SOMEBODY},
]
WRONG_OF_LAKE = [
    {"owner": "a\r\nx-ms-meta-a: b"},
    {"owner": ""},
    {"group": "two words"},
    {"permissions": "rwxr-x--"},
    {"permissions": "0777"},
    {"acl": "user::rwx,"},
    {"acl": "user::rwx\n"},
    {"acl": "user::rwxs"},
    {"acl": "default:user::rwx"},
    {"attributes": "None"},
]


@pytest.mark.parametrize(
    ("checked", "wrong"),
    [
        *((share_properties.checked, wrong) for wrong in WRONG_OF_SHARE),
        *((access_control.checked, wrong) for wrong in WRONG_OF_LAKE),
    ],
)
def test_what_no_service_would_tell_is_never_sent(
    checked: Callable[[Mapping[str, str], str], object], wrong: dict[str, str]
) -> None:
    with pytest.raises(TransferError, match=r"(was|were) not used"):
        checked(wrong, "a place")


def test_what_is_wrong_is_refused_before_a_write_begins(kept: Kept) -> None:
    for wrong in WRONG_OF_SHARE if kept.properties is OF_SHARE else WRONG_OF_LAKE:
        with pytest.raises(TransferError, match=r"/a are none|/a is none"):
            kept.store.begin_write(ObjectName("a"), 1, extras=Extras(properties=wrong))


def test_a_permission_that_is_too_long_for_a_header_is_stored_before(
    share_store: SmallShareStore,
) -> None:
    entries = "".join(f"(A;;FR;;;S-1-5-21-1-2-3-{number})" for number in range(400))
    given = {**OF_SHARE, "permission": f"O:BAG:SYD:{entries}"}
    assert len(given["permission"]) > 8 * 1024
    put_with(share_store, "a", b"x", Extras(properties=given))
    assert of(share_store, "a") == given


# Properties, through transfers.


def test_properties_go_with_the_file_there_and_back(kept: Kept, tmp_path: Path) -> None:
    for name, content in NEW.items():
        put_with(kept.store, f"from/{name}", content, Extras(properties=kept.properties))
    got = tmp_path / "got"
    report = download(kept.store, got, DownloadRequest("from", keep_properties=True))
    assert set(actions(report).values()) == {"moved"}
    assert tree(got) == NEW
    value = json.loads(os.getxattr(got / "sub/small", ATTRIBUTE))
    kind = kept.store.capabilities.properties
    assert value == {"version": 1, "kind": kind, "properties": kept.properties}
    sent(kept.store, got, "to", keep=PROPERTIES)
    for name, content in NEW.items():
        assert of(kept.store, f"to/{name}") == kept.properties
        assert get(kept.store, f"to/{name}") == content
    assert hidden(kept) == []


@pytest.mark.parametrize("overwrite", ["replace", "if_changed"])
def test_an_upload_without_properties_of_its_own_keeps_those_that_are_there(
    kept: Kept, tmp_path: Path, overwrite: str
) -> None:
    for name in NEW:
        put_with(kept.store, name, b"old", Extras(properties=kept.properties))
    source = make_tree(tmp_path / "source", {**NEW, "more": b"more"})
    sent(kept.store, source, overwrite=overwrite, keep=PROPERTIES)
    for name, content in NEW.items():
        assert of(kept.store, name) == kept.properties
        assert get(kept.store, name) == content
    assert get(kept.store, "more") == b"more"


def test_what_is_the_same_is_left_as_it_is(kept: Kept, tmp_path: Path) -> None:
    put_with(kept.store, "a", b"same", Extras(properties=kept.properties))
    download(kept.store, tmp_path, KEEPING)
    put(kept.store, "b", b"same")
    (tmp_path / "b").write_bytes(b"same")
    os.setxattr(tmp_path / "b", ATTRIBUTE, os.getxattr(tmp_path / "a", ATTRIBUTE))
    os.removexattr(tmp_path / "a", ATTRIBUTE)
    before = of(kept.store, "b")
    report = sent(kept.store, tmp_path, overwrite="if_changed", keep=PROPERTIES)
    assert actions(report) == {"a": "unchanged", "b": "unchanged"}
    assert of(kept.store, "b") == before
    again = DownloadRequest(keep_properties=True, overwrite="if_changed")
    assert actions(download(kept.store, tmp_path, again)) == {"a": "unchanged", "b": "unchanged"}
    assert ATTRIBUTE not in os.listxattr(tmp_path / "a")


def test_properties_of_another_kind_of_service_are_none(
    share_store: SmallShareStore, lake_store: SmallDataLakeStore, tmp_path: Path
) -> None:
    put_with(lake_store, "a", b"of the lake", Extras(properties=OF_LAKE))
    download(lake_store, tmp_path, KEEPING)
    put_with(share_store, "a", b"old", Extras(properties=OF_SHARE))
    sent(share_store, tmp_path, keep=PROPERTIES)
    assert (get(share_store, "a"), of(share_store, "a")) == (b"of the lake", OF_SHARE)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"version":2,"kind":"azure_files","properties":{}}',
        b'{"version":1,"kind":"azure_files","properties":{"created":1}}',
        b'{"version":1,"kind":"azure_files","properties":{"created":"now\\r\\nx: y"}}',
    ],
)
def test_a_file_with_a_damaged_attribute_is_not_stored(
    share_store: SmallShareStore, tmp_path: Path, value: bytes
) -> None:
    put_with(share_store, "a", b"old", Extras(properties=OF_SHARE))
    os.setxattr(make_tree(tmp_path, {"a": b"new"}) / "a", ATTRIBUTE, value)
    with pytest.raises(StageFailed, match="keep_properties") as failed:
        sent(share_store, tmp_path, keep=PROPERTIES)
    assert actions(failed.value.report) == {"a": "failed"}
    assert (get(share_store, "a"), of(share_store, "a")) == (b"old", OF_SHARE)


@pytest.mark.parametrize("lost", [False, True])
def test_no_step_shows_new_content_without_its_properties(
    kept: Kept, tmp_path: Path, request: pytest.FixtureRequest, lost: bool
) -> None:
    """A write that ends at any of its steps leaves the old object, with what it had; one lost answer is got over."""
    content, other = content_of(2 * PART + 3), b"a short one"
    source = make_tree(tmp_path / "source", {"large": content, "small": other})
    with through(kept, request) as (store, proxies):
        for step, match in kept.steps.items():
            for name in ("large", "small"):
                put_with(kept.store, name, b"old", Extras(properties=kept.properties))
            times = 1 if lost else None
            for proxy in proxies:
                proxy.fail_by(Fault(match, "lose" if lost else "answer", times=times, status=500))
            try:
                sent(store, source, keep=PROPERTIES)
            except DatastoreError:
                assert not lost, step
                assert hidden(kept) == [], step
            assert sum(proxy.count(match) for proxy in proxies) > 0
            for name, new in (("large", content), ("small", other)):
                assert get(kept.store, name) == (new if lost else b"old"), step
                assert of(kept.store, name) == kept.properties
            for proxy in proxies:
                proxy.fail_by()


def test_what_got_other_properties_meanwhile_keeps_those(
    kept: Kept, request: pytest.FixtureRequest
) -> None:
    """Those count that the replaced object has at the end of a long write, and not at its beginning."""
    first = put_with(kept.store, "a", b"old", Extras(properties=kept.properties))
    extras, content = Extras(keeps_properties=True), content_of(2 * PART)
    writing = kept.store.begin_write(ObjectName("a"), len(content), extras=extras)
    for part in parts_of(kept.store, content):
        writing.write_part(*part)
    if isinstance(kept.bare, SmallShareStore):
        kept.bare.describe("a", {"x-ms-file-attributes": "System"})
        changed = {**kept.properties, "attributes": "System"}
    else:
        changed = {**kept.properties, "acl": kept.properties["acl"].replace("r--", "---")}
        kept.bare.give_access(ObjectName("a"), changed)
        changed["permissions"] = "rw-------+"
        assert kept.store.head(ObjectName("a")).etag == first.etag
    assert of(kept.store, "a") == changed
    writing.commit(md5_of(content))
    assert (get(kept.store, "a"), of(kept.store, "a")) == (content, changed)


def test_what_came_meanwhile_keeps_its_properties(
    kept: Kept, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Where nothing was to be replaced, and something is at the last moment, its properties are looked at first."""
    source = make_tree(tmp_path / "source", {"a": b"new"})

    def come() -> None:
        put_with(kept.store, "a", b"somebody else's", Extras(properties=kept.properties))

    with through(kept, request) as (store, proxies):
        for proxy in proxies:
            proxy.fail_by(Fault(r"PUT \S+/a(\?|$)", "pass", meanwhile=come))
        sent(store, source, keep=PROPERTIES)
        assert sum(proxy.count(r"PUT \S+/a(\?|$)") for proxy in proxies) == 2
    assert (get(kept.store, "a"), of(kept.store, "a")) == (b"new", kept.properties)


def test_a_file_that_is_marked_read_only_is_not_replaced(
    azure_files: AzureFiles, share: str, share_store: SmallShareStore, tmp_path: Path
) -> None:
    """Whatever was lost, one that gets the mark is known as its own; nobody else's gives way to it."""
    marked = {**OF_SHARE, "attributes": "ReadOnly | Archive"}
    with faulty(azure_files.host, azure_files.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/{azure_files.account}"
        with closing(SmallShareStore(url, share, account_key=azure_files.key)) as bare:
            for code in ("", "ReadOnlyAttribute"):
                proxy.fail_by(
                    Fault("comp=rename", "lose"),
                    *(
                        [
                            Fault(
                                "comp=rename",
                                "answer",
                                status=409,
                                headers={"x-ms-error-code": code},
                            )
                        ]
                        if code
                        else []
                    ),
                )
                name = f"a{code}"
                put_with(patient(bare, AT_ONCE), name, b"marked", Extras(properties=marked))
                assert (get(share_store, name), of(share_store, name)) == (b"marked", marked)
    source = make_tree(tmp_path / "source", {"a": b"new"})
    for keep in (Keep(), PROPERTIES):
        with pytest.raises(StageFailed, match="marked read-only; take the mark off"):
            sent(share_store, source, keep=keep)
    assert get(share_store, "a") == b"marked"


def lake_by(lake: DataLake, filesystem: str, permission: str) -> SmallDataLakeStore:
    """The filesystem as a SAS opens it that allows so much."""
    end = datetime.now(timezone.utc) + timedelta(hours=1)
    sas = generate_container_sas(
        lake.account, filesystem, account_key=lake.key, permission=permission, expiry=end
    )
    return SmallDataLakeStore(lake.blob_url, filesystem, dfs_url=lake.dfs_url, sas_token=sas)


def test_what_a_sas_lacks_for_access_control_is_named(
    data_lake: DataLake, filesystem: str, lake_store: SmallDataLakeStore
) -> None:
    """One that gives an object what it would have anyway needs no right to set it."""
    usual = put_with(lake_store, "usual", b"x", Extras()) and of(lake_store, "usual")
    for permission, may in (("racwdlme", False), ("racwdlmep", False), ("racwdlmepo", True)):
        with closing(lake_by(data_lake, filesystem, permission)) as store:
            put_with(store, "a", b"x", Extras(properties=usual))
            if may:
                put_with(store, "b", b"x", Extras(properties=OF_LAKE))
                continue
            with pytest.raises(AccessDenied, match="lacks the right to set access control"):
                put_with(store, "b", b"x", Extras(properties=OF_LAKE))
            assert "b" not in names_below(lake_store)
    assert (of(lake_store, "a"), of(lake_store, "b")) == (usual, OF_LAKE)
    page = lake_store.list_page(".pds-unfinished/", recursive=False)
    assert [info for info in page.objects if not info.is_marker] == []


class Token:
    """A credential whose token the server takes."""

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return AccessToken(TOKEN, 2**40)


def test_the_role_that_sets_access_control_is_named(data_lake: DataLake, filesystem: str) -> None:
    code = {"x-ms-error-code": "AuthorizationPermissionMismatch"}
    fault = Fault("setAccessControl", "answer", status=403, headers=code)
    with faulty(data_lake.host, data_lake.dfs_port, fault) as dfs:
        url = f"http://127.0.0.1:{dfs.port}/{data_lake.account}"
        with closing(
            SmallDataLakeStore(data_lake.blob_url, filesystem, dfs_url=url, token=Token())
        ) as store:
            with pytest.raises(AccessDenied, match="'Storage Blob Data Owner'"):
                put_with(store, "a", b"x", Extras(properties=OF_LAKE))


def test_a_permission_that_cannot_be_read_is_an_error(
    azure_files: AzureFiles, share: str, share_store: SmallShareStore
) -> None:
    """Never one that nobody has, and no key that is none."""
    long = {"permission": f"O:BAG:SYD:{'(A;;FR;;;WD)' * 800}"}
    put_with(share_store, "a", b"x", Extras())
    with faulty(azure_files.host, azure_files.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/{azure_files.account}"
        with closing(SmallShareStore(url, share, account_key=azure_files.key)) as store:
            for body in (b"", b"[]", b'{"permission": 1}', b"<html/>"):
                proxy.fail_by(Fault("GET .*filepermission", "answer", status=200, body=body))
                with pytest.raises(IntegrityError, match="cannot be read"):
                    of(store, "a")
            proxy.fail_by(Fault("PUT .*filepermission", "answer", status=201))
            with pytest.raises(IntegrityError, match="told no key"):
                put_with(store, "b", b"x", Extras(properties=long))
    assert names_below(share_store) == ["a"]


def test_what_a_sas_of_a_share_lacks_is_named(
    azure_files: AzureFiles, share: str, share_store: SmallShareStore, tmp_path: Path
) -> None:
    """It keeps what is there, as that needs no permission to be read."""
    put_with(share_store, "a", b"old", Extras(properties=OF_SHARE))
    end = datetime.now(timezone.utc) + timedelta(hours=1)
    sas = generate_share_sas(azure_files.account, share, azure_files.key, "rcwdl", expiry=end)
    with closing(SmallShareStore(azure_files.url, share, sas_token=sas)) as store:
        with pytest.raises(DatastoreError, match="lacks the right to read permissions of files"):
            download(store, tmp_path / "got", KEEPING)
        sent(store, make_tree(tmp_path / "source", {"a": b"new"}), keep=PROPERTIES)
    assert (get(share_store, "a"), of(share_store, "a")) == (b"new", OF_SHARE)


# Where there are none.


def test_a_store_without_properties_or_times_says_so_before_anything_moves(
    tmp_path: Path, flat_store: SmallDataLakeStore, lake_store: SmallDataLakeStore
) -> None:
    blob = BlobStore("http://127.0.0.1:9/account", "nobody-answers-there")
    local = LocalStore(tmp_path / "there-is-no-such-store")
    source = make_tree(tmp_path / "source", {"a": b"x"})
    for store in (blob, local, MemoryStore(exists=False), flat_store):
        with pytest.raises(ConfigurationError, match="has no attributes and no access control"):
            download(store, tmp_path / "got", DownloadRequest(keep_properties=True))
        with pytest.raises(ConfigurationError, match="has no attributes and no access control"):
            sent(store, source, keep=PROPERTIES)
        with pytest.raises(ConfigurationError, match="has no attributes"):
            store.begin_write(ObjectName("a"), 1, extras=Extras(keeps_properties=True))
    for store in (blob, flat_store, lake_store):
        with pytest.raises(ConfigurationError, match="sets the time of each object itself"):
            sent(store, source, keep=TIMES)
        with pytest.raises(ConfigurationError, match="sets the time"):
            publish(store, folder_source(source), "top", "replace", keep=TIMES)
        with pytest.raises(ConfigurationError, match="sets the time"):
            store.begin_write(ObjectName("a"), 1, extras=Extras(modified=1))
    assert not (tmp_path / "got").exists()


def test_a_folder_that_is_published_at_once_keeps_no_properties(kept: Kept, tmp_path: Path) -> None:
    source = folder_source(make_tree(tmp_path / "source", {"a": b"x"}))
    with pytest.raises(ConfigurationError, match="publish='atomic'"):
        publish(kept.store, source, "top", "replace", keep=PROPERTIES)


NO_ATTRIBUTES = {
    "system": "del os.setxattr",  # as on macOS
    # ramfs has none. Where nothing may be mounted, the system is without them.
    "disk": sandbox.TMPFS.replace('b"tmpfs"', 'b"ramfs"').replace('b"size=8m"', "None")
    + "try:\n    mount_small_disk(folder)\nexcept OSError:\n    del os.setxattr\n",
}
PROBE = """
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.disk import read_attribute
from prefect_datastores.files import Folder
from prefect_datastores.staging.keeping import check_disk
with Folder(folder) as opened:
    try:
        check_disk(opened)
        said = ""
    except ConfigurationError as error:
        said = str(error)
(folder / "file").write_bytes(b"x")
fd = os.open(folder / "file", os.O_RDONLY)
tell(said=said, has=read_attribute(fd, "file"), left=os.listdir(folder))
"""


@pytest.mark.parametrize("without", NO_ATTRIBUTES)
def test_a_disk_without_extended_attributes_is_told(tmp_path: Path, without: str) -> None:
    told = sandbox.run(f"{NO_ATTRIBUTES[without]}\n{PROBE}", tmp_path)
    assert "this system or its disk has none" in told["said"]
    assert "Nothing was moved" in told["said"]
    assert (told["has"], told["left"]) == (None, ["file"])


def test_properties_that_the_disk_does_not_hold_are_told(
    share_store: SmallShareStore, tmp_path: Path
) -> None:
    entries = "".join(f"(A;;FR;;;S-1-5-21-1-2-3-{number})" for number in range(2500))
    given = {**OF_SHARE, "permission": f"O:BAG:SYD:{entries[:65000]}"}
    put_with(share_store, "long", b"x", Extras(properties=given))
    put_with(share_store, "short", b"y", Extras(properties=OF_SHARE))
    with pytest.raises(StageFailed, match="bytes of properties") as failed:
        download(share_store, tmp_path, KEEPING)
    assert actions(failed.value.report) == {"long": "failed", "short": "moved"}
    assert tree(tmp_path) == {"short": b"y"}


# The cache, and what a transfer left.


@pytest.mark.parametrize("links", [False, True])
def test_properties_are_never_the_cache_s(kept: Kept, tmp_path: Path, links: bool) -> None:
    """What is taken from it later has none, and one that has them shares itself with nobody."""
    cache = CacheLimits(tmp_path / "cache", 2**30, links)
    content = content_of(2 * PART)
    put_with(kept.store, "a", content, Extras(properties=kept.properties))
    plain = DownloadRequest()
    for number, asked in enumerate([KEEPING, plain, KEEPING, plain]):
        report = download(kept.store, tmp_path / f"{number}", asked, cache=cache)
        file = tmp_path / f"{number}" / "a"
        assert file.read_bytes() == content
        assert [row.cached for row in report.rows] == [number > 0]
        assert (ATTRIBUTE in os.listxattr(file)) == (asked is KEEPING)
        if asked is KEEPING:
            assert file.stat().st_nlink == 1
            assert file.stat().st_mode & 0o200
    (entry,) = cache.root.glob("??/*")
    assert os.listxattr(entry) == []


def test_a_part_that_is_gone_on_with_has_only_what_is_asked_for(tmp_path: Path) -> None:
    with Folder(tmp_path) as folder:
        workspace = folder.workspace()
        name = workspace.new_part()
        fd = workspace.open_new(name)
        os.setxattr(fd, ATTRIBUTE, b"of another transfer")
        part = folder.part_file(RelativePath("a"), 0, (name, fd))
        part.publish(replace=True)
    assert os.listxattr(tmp_path / "a") == []


def test_an_attribute_is_read_as_it_was_written(tmp_path: Path) -> None:
    with Folder(tmp_path) as folder:
        part = folder.part_file(RelativePath("a"), 0)
        part.seal(attribute=to_attribute("kind", {"name": "value"}))
        part.publish(replace=True)
        fd = folder.open_read(RelativePath("a"))
        value = read_attribute(fd, "a")
        os.close(fd)
    assert from_attribute(value, "kind", "a") == {"name": "value"}
    assert from_attribute(value, "another", "a") is None
    assert from_attribute(None, "kind", "a") is None


# Times.

MOMENT = 1_500_000_000_123_456_789
KEPT_MOMENT = 1_500_000_000_123_456_000


@pytest.fixture(params=["memory", "local", "share"])
def timed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """A store of each kind that takes times, decorated."""
    if request.param == "memory":
        yield patient(MemoryStore(), AT_ONCE)
    elif request.param == "share":
        yield patient(request.getfixturevalue("share_store"), AT_ONCE)
    else:
        with closing(LocalStore(tmp_path / "store")) as store:
            store.create_root()
            yield patient(store, AT_ONCE)


@pytest.mark.parametrize("at_once", [False, True])
def test_times_are_kept_to_the_microsecond_there_and_back(
    timed: ObjectStore, tmp_path: Path, at_once: bool
) -> None:
    source = make_tree(tmp_path / "source", NEW)
    moments = {name: MOMENT - number * 10**15 for number, name in enumerate(sorted(NEW))}
    for name, moment in moments.items():
        os.utime(source / name, ns=(moment, moment))
    if at_once:
        publish(timed, folder_source(source), "top", "replace", keep=TIMES)
    else:
        sent(timed, source, "top", keep=TIMES)
    got = tmp_path / "got"
    download(timed, got, DownloadRequest("top", keep_times=True))
    for name, moment in moments.items():
        assert (got / name).stat().st_mtime_ns == moment // 1000 * 1000
    again = sent(timed, got, "again", keep=TIMES)
    assert again.count == len(NEW)
    download(timed, tmp_path / "once more", DownloadRequest("again", keep_times=True))
    for name in NEW:
        there = (tmp_path / "once more" / name).stat().st_mtime_ns
        assert there == (got / name).stat().st_mtime_ns


@pytest.mark.parametrize("seconds", [-(10**9) - 1, 0, 253402300799])
def test_odd_times_are_times(share_store: SmallShareStore, seconds: int) -> None:
    info = put_with(share_store, "a", b"x", Extras(modified=seconds * 10**9 + 100))
    assert share_store.head(ObjectName("a")).etag == info.etag
    assert info.modified == pytest.approx(seconds, abs=1e-4)


@pytest.mark.parametrize("seconds", [-11644473601, 253402300800, 10**15])
def test_a_time_that_no_file_of_a_share_has_is_refused_before_a_byte(
    share_store: SmallShareStore, seconds: int
) -> None:
    with pytest.raises(TransferError, match="cannot have the time"):
        share_store.begin_write(ObjectName("a"), 1, extras=Extras(modified=seconds * 10**9))


def test_a_digest_counts_while_it_is_of_what_has_the_time(share_store: SmallShareStore) -> None:
    """Whoever edits the file in place and gives it its time again has changed it all the same."""
    extras = Extras(modified=KEPT_MOMENT, properties=OF_SHARE)
    for size in (6, 2 * PART):
        before, name = content_of(size), ObjectName("a")
        info = put_with(share_store, "a", before, extras)
        (listed,) = (one for one in share_store.list_page("").objects if one.name == "a")
        assert listed.etag == info.etag == share_store.head(name).etag
        assert share_store.head(name).digest == md5_of(before)
        room = memoryview(bytearray(size))
        assert share_store.read_into(name, 0, room, pin=info.etag) == md5_of(before)
        headers = {"x-ms-write": "update", "x-ms-range": "bytes=0-0"}
        headers["x-ms-file-last-write-time"] = "preserve"
        share_store.service.request("PUT", "a", (("comp", "range"),), headers, b"!")
        edited = share_store.head(name)
        assert edited.modified == info.modified
        assert (edited.digest, edited.etag == info.etag) == (None, False)


def test_two_contents_of_one_time_are_two_versions(timed: ObjectStore) -> None:
    extras = Extras(modified=KEPT_MOMENT)
    first = put_with(timed, "a", b"first", extras)
    second = put_with(timed, "a", b"other", extras, replaces=first.etag)
    assert first.modified == second.modified
    assert first.etag != second.etag
    with pytest.raises(SourceChanged):
        timed.read_into(ObjectName("a"), 0, memoryview(bytearray(5)), pin=first.etag)


def test_what_is_the_same_keeps_its_time(timed: ObjectStore, tmp_path: Path) -> None:
    put_with(timed, "a", b"same", Extras(modified=KEPT_MOMENT))
    source = make_tree(tmp_path / "source", {"a": b"same"})
    os.utime(source / "a", ns=(0, 0))
    report = sent(timed, source, overwrite="if_changed", keep=TIMES)
    # Nobody knows that it is the same where no digest is kept.
    is_known = timed.capabilities.stores_digest
    assert actions(report) == {"a": "unchanged" if is_known else "moved"}
    modified = KEPT_MOMENT / 1e9 if is_known else 0.0
    assert timed.head(ObjectName("a")).modified == pytest.approx(modified, abs=1e-6)


# The faces.


def test_a_datastore_and_a_reference_keep_what_is_asked_for(
    azure_files: AzureFiles, share: str, share_store: SmallShareStore, tmp_path: Path
) -> None:
    made = AzureFileDatastore(
        account_name=azure_files.account,
        file_share_name=share,
        auth=AccountKey(account_key=SecretStr(azure_files.key)),
        protocol="http",
        endpoint=f"{azure_files.host}:{azure_files.port}",
    )
    put_with(share_store, "top/a", b"x", Extras(KEPT_MOMENT, OF_SHARE))
    kept: dict[str, Any] = {"keep_times": True, "keep_properties": True}
    made.download(tmp_path, "top", show_progress=False, **kept)
    made.upload(tmp_path / "top", "one", show_progress=False, **kept)
    made.upload_files([tmp_path / "top/a"], target_path="two", show_progress=False, **kept)
    for place in ("one", "two"):
        assert of(share_store, f"{place}/a") == OF_SHARE
        assert share_store.stat(f"{place}/a")["x-ms-file-last-write-time"] == (
            "2017-07-14T02:40:00.1234560Z"
        )
    reference = made.path("top").as_upload(**kept)
    assert (reference.keep_times, reference.keep_properties) == (True, True)
    with pytest.raises(ConfigurationError, match="publish='atomic'"):
        made.upload(tmp_path / "top", "three", show_progress=False, publish="atomic", **kept)


def test_the_command_line_keeps_what_is_asked_for(
    prefect_api: PrefectServer, tmp_path: Path
) -> None:
    name = f"kept_{os.getpid()}_{tmp_path.name[-1]}"
    Datastore.register_local(name, tmp_path / "store", overwrite=True)
    try:
        source = make_tree(tmp_path / "source", {"a": b"x"})
        os.utime(source / "a", ns=(MOMENT, MOMENT))

        def run(*command: str) -> tuple[int, str]:
            result = CliRunner().invoke(main, command)
            return result.exit_code, result.output

        assert run("upload", str(source), name, "--keep-times")[0] == 0
        assert (tmp_path / "store/a").stat().st_mtime_ns == KEPT_MOMENT
        assert run("download", name, str(tmp_path / "got"), "--keep-times")[0] == 0
        assert (tmp_path / "got/a").stat().st_mtime_ns == KEPT_MOMENT
        for command in (["upload", str(source), name], ["download", name, str(tmp_path / "got")]):
            code, said = run(*command, "--keep-properties")
            assert (code, "Nothing was moved" in said) == (2, True)
        place = Datastore.get(name).path()
        preflight(place.as_upload(keep_times=True))
        with pytest.raises(ConfigurationError, match="keep_properties"):
            preflight(place.as_upload(keep_properties=True))
    finally:
        Datastore.unregister(name)
