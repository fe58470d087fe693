"""File shares: registered, signed in to in each way, and whole through every fault of the wire."""

import base64
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.storage.fileshare import generate_share_sas
from click.testing import CliRunner
from oracle import TRIES, attempt, check, through
from pydantic import SecretStr
from servers.azure_files import AzureFiles
from servers.faults import Fault
from servers.prefect_server import PrefectServer
from small_stores import PART, SmallShareStore, make_tree
from wire_faults import LISTING, READING, WRITING, at

from prefect_datastores import AccountKey, AzureFileDatastore, Datastore, SasToken
from prefect_datastores.cli import main
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import (
    AccessDenied,
    AuthenticationFailed,
    ConfigurationError,
    ContainerNotFound,
    DatastoreNotFound,
    ObjectExists,
    ObjectNotFound,
    SourceChanged,
    StageFailed,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.stores.share import ShareStore
from prefect_datastores.testing import content_of, get, md5_of, put

STALL = 0.5
OLD = {"large": b"old", "kept": b"kept"}
NEW = {"large": content_of(3 * PART + 5), "sub/small": b"small", "empty": b""}
REPLACE = DownloadRequest(overwrite="replace")


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".pds-" not in str(path.relative_to(root))
    }


def stored(store: ObjectStore) -> dict[str, bytes]:
    return {
        info.name: get(store, info.name) for info in list_objects(store, "") if not info.is_marker
    }


# Registered, and signed in to.


@pytest.fixture
def place(azure_files: AzureFiles, share: str) -> dict[str, Any]:
    """What register_azure_file_share needs."""
    return {
        "file_share_name": share,
        "account_name": azure_files.account,
        "account_key": azure_files.key,
        "protocol": "http",
        "endpoint": f"{azure_files.host}:{azure_files.port}",
    }


@pytest.fixture
def name(prefect_api: PrefectServer) -> Iterator[str]:
    made = f"fs_{uuid.uuid4().hex[:12]}"
    yield made
    with suppress(DatastoreNotFound):
        Datastore.unregister(made)


def test_a_registered_share_is_found_and_works(
    name: str, place: dict[str, Any], tmp_path: Path
) -> None:
    made = Datastore.register_azure_file_share("workspace", name, **place)
    found = Datastore.get("workspace", name)
    assert isinstance(found, AzureFileDatastore)
    assert found.model_dump() == made.model_dump()
    assert (found.datastore_type, found.container_name) == ("AzureFile", place["file_share_name"])
    found.write_path("sub/x", b"data")
    assert made.read_path("sub/x") == b"data"
    source = make_tree(tmp_path / "source", {"a.txt": b"a", "deep/er/b": content_of(100_000)})
    made.upload(source, "top", show_progress=False)
    assert made.download(tmp_path / "got", "top", show_progress=False).count == 2
    assert tree(tmp_path / "got" / "top") == tree(source)
    assert {check.outcome for check in made.check()} == {"ok"}
    assert Datastore.list()[name].datastore_type == "AzureFile"


def test_a_share_is_made_where_that_is_wanted(name: str, place: dict[str, Any]) -> None:
    place["file_share_name"] = f"made-{uuid.uuid4().hex}"
    with pytest.raises(ContainerNotFound):
        Datastore.register_azure_file_share(None, name, **place)
    made = Datastore.register_azure_file_share(None, name, **place, create_if_not_exists=True)
    assert made.list_objects() == []
    with closing(made._connect()) as store:
        assert isinstance(store, ShareStore)
        store.service.request("DELETE", query=(("restype", "share"),))


def test_the_defaults_are_those_of_the_original(name: str) -> None:
    made = Datastore.register_azure_file_share(None, name, "data", "account1", skip_validation=True)
    assert made.url == "https://account1.file.core.windows.net/data"
    with pytest.raises(ConfigurationError, match="Two ways"):
        Datastore.register_azure_file_share(None, name, "d-1", "account1", "sv=1&sig=x", "a2V5")


@pytest.mark.parametrize("wrong", ["Upper", "a", "two--dashes", "with_underscore", "x" * 64])
def test_a_name_that_no_share_can_have_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="is refused"):
        AzureFileDatastore(account_name="account1", file_share_name=wrong)


def test_a_share_is_registered_by_the_command_line(name: str, place: dict[str, Any]) -> None:
    given = ["register", "azure-file", name, "--account", place["account_name"]]
    given += ["--share", place["file_share_name"], "--endpoint", place["endpoint"]]
    variables = {"PREFECT_DATASTORES_ACCOUNT_KEY": place["account_key"]}
    result = CliRunner().invoke(main, [*given, "--protocol", "http"], env=variables)
    assert result.exit_code == 0, result.output
    assert "/filesaccount/" in result.output
    assert place["account_key"] not in result.output
    assert isinstance(Datastore.get(name), AzureFileDatastore)


def test_a_wrong_key_is_told(place: dict[str, Any], name: str) -> None:
    place["account_key"] = "d3Jvbmc="
    with pytest.raises(AuthenticationFailed) as e:
        Datastore.register_azure_file_share(None, name, **place)
    assert "d3Jvbmc=" not in str(e.value)


def sas(azure_files: AzureFiles, share: str, permission: str) -> str:
    return str(
        generate_share_sas(
            azure_files.account,
            share,
            azure_files.key,
            permission,
            expiry=datetime.now(timezone.utc) + timedelta(hours=1),
        )
    )


def test_a_sas_does_what_it_allows(azure_files: AzureFiles, share: str, tmp_path: Path) -> None:
    def by(permission: str) -> FileDatastore:
        return AzureFileDatastore(
            account_name=azure_files.account,
            file_share_name=share,
            auth=SasToken(sas_token=SecretStr(sas(azure_files, share, permission))),
            protocol="http",
            endpoint=f"{azure_files.host}:{azure_files.port}",
        )

    source = make_tree(tmp_path / "source", NEW)
    by("rcwdl").upload(source, "", show_progress=False)
    assert by("rl").download(tmp_path / "got", show_progress=False).count == len(NEW)
    assert tree(tmp_path / "got") == NEW
    with pytest.raises(AccessDenied):
        by("rl").upload(source, "other", show_progress=False)


class Token:
    """A credential whose token the server takes."""

    def __init__(self, token: str) -> None:
        self.token = token

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        assert scopes == ("https://storage.azure.com/.default",)
        return AccessToken(self.token, 2**40)


def test_a_token_opens_a_share(azure_files: AzureFiles, share: str) -> None:
    token: Any = Token(azure_files.token)
    with closing(ShareStore(azure_files.url, share, token=token)) as store:
        put(store, "a/b", b"content")
        assert stored(store) == {"a/b": b"content"}


def test_a_role_that_is_missing_is_one_for_files(azure_files: AzureFiles, share: str) -> None:
    fault = Fault(
        "comp=list",
        "answer",
        status=403,
        headers={"x-ms-error-code": "AuthorizationPermissionMismatch"},
    )
    token = Token(azure_files.token)
    with through(azure_files, share, fault, kind=SmallShareStore, token=token) as seen:
        with pytest.raises(AccessDenied, match="'Storage File Data Privileged Reader'"):
            seen.store.check_root()


def test_secrets_are_not_shown(place: dict[str, Any]) -> None:
    key = place.pop("account_key")
    made = AzureFileDatastore(**place, auth=AccountKey(account_key=SecretStr(key)))
    assert key not in repr(made)
    assert key not in str(made.model_dump())


# Names.


def test_names_that_end_in_a_dot_are_kept_where_that_is_allowed(
    azure_files: AzureFiles, share: str
) -> None:
    def by(*, dots: bool) -> ShareStore:
        return ShareStore(
            azure_files.url, share, account_key=azure_files.key, allow_trailing_dots=dots
        )

    with closing(by(dots=True)) as store:
        put(store, "sub./a.", b"dots")
        assert stored(store) == {"sub./a.": b"dots"}
        assert store.name_rules().fault("a.") is None
    with closing(by(dots=False)) as plain:
        assert plain.name_rules().fault("a.") is not None


def test_only_whole_files_of_one_version_are_read(share_store: SmallShareStore) -> None:
    before = put(share_store, "a", b"before")
    renewed = put(share_store, "A", b"behind")
    assert renewed.etag != before.etag
    with pytest.raises(SourceChanged):
        share_store.read_into(ObjectName("a"), 0, memoryview(bytearray(6)), pin=before.etag)


def test_the_digest_comes_with_the_bytes(share_store: SmallShareStore) -> None:
    put(share_store, "a", b"content")
    room = memoryview(bytearray(3))
    assert share_store.read_into(ObjectName("a"), 2, room, pin=None) == md5_of(b"content")


def edited_by_another(store: SmallShareStore, name: str, content: bytes) -> None:
    """Change a file in place, as SMB clients do; the service keeps the MD5 that was stored with it."""
    headers = {"x-ms-write": "update", "x-ms-range": f"bytes=0-{len(content) - 1}"}
    store.service.request("PUT", name, (("comp", "range"),), headers, content)
    assert "content-md5" in store.service.request("HEAD", name).headers


def test_a_digest_that_a_file_outlived_is_not_believed(
    share_store: SmallShareStore, tmp_path: Path
) -> None:
    """What was edited in place afterwards comes as it is, and is never taken for what it was."""
    for size in (6, 2 * PART):
        before, after = content_of(size), content_of(size, "edited")
        mine = make_tree(tmp_path / f"mine-{size}", {"a": before})
        upload(share_store, folder_source(mine), "", "replace")
        assert share_store.head(ObjectName("a")).digest == md5_of(before)
        edited_by_another(share_store, "a", after)
        assert share_store.head(ObjectName("a")).digest is None
        report = download(share_store, mine, DownloadRequest(overwrite="if_changed"))
        assert [(row.action, row.verified) for row in report.rows] == [("moved", "length")]
        assert tree(mine) == {"a": after}
        make_tree(mine, {"a": before})
        report = upload(share_store, folder_source(mine), "", "if_changed")
        assert [row.action for row in report.rows] == ["moved"]
        assert stored(share_store) == {"a": before}


def test_a_digest_of_another_client_verifies_and_decides_nothing(
    share_store: SmallShareStore, tmp_path: Path
) -> None:
    """Nobody knows whether it is of what the file is now: bytes that differ are refused, and all is compared."""
    headers = {"x-ms-type": "file", "x-ms-content-length": "3"}
    stored_md5 = base64.b64encode(md5_of(b"new")).decode()
    share_store.service.request(
        "PUT", "a", headers={**headers, "x-ms-content-md5": stored_md5}, body=b"new"
    )
    assert share_store.head(ObjectName("a")).digest is None
    mine = make_tree(tmp_path / "mine", {"a": b"new"})
    report = download(share_store, mine, DownloadRequest(overwrite="if_changed"))
    assert [(row.action, row.verified) for row in report.rows] == [("moved", "md5")]
    edited_by_another(share_store, "a", b"bad")
    with pytest.raises(StageFailed, match="another MD5"):
        download(share_store, tmp_path / "theirs", REPLACE)
    assert tree(tmp_path / "theirs") == {}


def test_what_is_unfinished_is_listed_nowhere(share_store: SmallShareStore) -> None:
    writing = share_store.begin_write(ObjectName("sub/a"), 2 * PART)
    writing.write_part(0, 0, memoryview(bytes(PART)))
    assert list(list_objects(share_store, "")) == []
    assert share_store.list_page("", recursive=False).folders == ()
    writing.abort()
    hidden = share_store.list_page(".pds-unfinished/", recursive=False)
    assert [info.name for info in hidden.objects if not info.is_marker] == []


def test_what_killed_uploads_left_is_removed_after_a_week(share_store: SmallShareStore) -> None:
    put(share_store, "first", b"")
    for number, written in enumerate(["2020-01-01T00:00:00.0000000Z", "now"]):
        headers = {"x-ms-type": "file", "x-ms-content-length": "9"}
        headers |= {"x-ms-file-last-write-time": written, "x-ms-file-creation-time": "now"}
        headers |= {"x-ms-file-attributes": "none", "x-ms-file-permission": "inherit"}
        share_store.service.request("PUT", f".pds-unfinished/{number}", headers=headers)
    with closing(
        SmallShareStore(
            share_store.service.account_url,
            share_store.service.container,
            account_key=AzureFiles.key,
        )
    ) as later:
        put(later, "second", b"")
    left = share_store.list_page(".pds-unfinished/", recursive=False).objects
    assert [info.name for info in left] == [".pds-unfinished/1"]


# Faults.


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "destination"


@pytest.mark.parametrize("fault", READING)
def test_a_fault_of_a_read_is_got_over_or_told(
    azure_files: AzureFiles,
    share: str,
    share_store: SmallShareStore,
    destination: Path,
    fault: str,
) -> None:
    for key, content in NEW.items():
        put(share_store, key, content)
    named, of_large = READING[fault], r"GET \S+/large(\?|$)"
    with through(azure_files, share, stall=STALL, kind=SmallShareStore) as seen:
        for times in (None, 1):
            make_tree(destination, OLD)
            seen.proxy.fail_by(at(named.fault, of_large, times=times, skip=1))
            outcome = attempt(lambda: download(seen.store, destination, REPLACE))
            check(outcome, OLD, NEW, tree(destination))
            got_over = named.passes and times == 1
            assert outcome.row("large").action == ("moved" if got_over else "failed")
        seen.proxy.fail_by()
        download(seen.store, destination, REPLACE)
    assert not list(destination.glob(".pds-*"))


@pytest.mark.parametrize("fault", LISTING)
def test_a_fault_of_a_listing_is_got_over_or_told(
    azure_files: AzureFiles,
    share: str,
    share_store: SmallShareStore,
    destination: Path,
    fault: str,
) -> None:
    for key, content in NEW.items():
        put(share_store, key, content)
    named = LISTING[fault]
    with through(azure_files, share, stall=STALL, kind=SmallShareStore) as seen:
        for times in (None, 1):
            make_tree(destination, OLD)
            seen.proxy.fail_by(at(named.fault, r"/sub\?\S*comp=list", times=times))
            outcome = attempt(lambda: download(seen.store, destination, REPLACE))
            check(outcome, OLD, NEW, tree(destination))
            got_over = named.passes and times == 1
            assert (outcome.error is None) == got_over


@pytest.mark.parametrize("what", ["comp=range", "comp=properties", "comp=rename", "unfinished/"])
@pytest.mark.parametrize("fault", [name for name in WRITING if name != "damaged on its way"])
def test_a_fault_of_a_write_is_got_over_or_told(
    azure_files: AzureFiles,
    share: str,
    share_store: SmallShareStore,
    tmp_path: Path,
    what: str,
    fault: str,
) -> None:
    """Whatever is lost, what stands at a name is the old file or the new one, whole."""
    source = folder_source(make_tree(tmp_path / "source", NEW))
    named = WRITING[fault]
    with through(azure_files, share, stall=STALL, kind=SmallShareStore) as seen:
        for times in (None, 1):
            for key in stored(share_store):
                share_store.delete(ObjectName(key))
            for key, content in OLD.items():
                put(share_store, key, content)
            seen.proxy.fail_by(at(named.fault, rf"PUT \S+{what}", times=times))
            outcome = attempt(lambda: upload(seen.store, source, "", "replace"))
            # Where no answer to a rename comes, nobody can tell.
            unheard = set(NEW) if what == "comp=rename" and "lost" in fault else set()
            check(outcome, OLD, NEW, stored(share_store), unheard=unheard)
            if named.passes and times == 1:
                assert outcome.error is None
                assert stored(share_store) == {**OLD, **NEW}
            # Each of the three is tried so often, and begun anew where its unfinished file was taken away.
            assert seen.proxy.count(rf"PUT \S+{what}") <= 3 * 11 * TRIES


def test_a_rename_whose_answer_is_lost_makes_one_new_file(
    azure_files: AzureFiles, share: str, share_store: SmallShareStore
) -> None:
    """The second try meets its own file, and knows it by its id."""
    for size in (10, 2 * PART):
        with through(azure_files, share, kind=SmallShareStore) as seen:
            seen.proxy.fail_by(Fault("comp=rename", "lose", times=1))
            content = content_of(size)
            info = put(seen.store, f"new-{size}", content, if_absent=True)
            assert info.etag == share_store.head(ObjectName(f"new-{size}")).etag
            assert get(share_store, f"new-{size}") == content
            assert seen.proxy.count("comp=rename") == 2
            with pytest.raises(ObjectExists):
                put(seen.store, f"new-{size}", b"other", if_absent=True)


def test_what_is_gone_is_told(share_store: SmallShareStore) -> None:
    with pytest.raises(ObjectNotFound):
        get(share_store, "nothing/here")
    assert list(list_objects(share_store, "nothing/")) == []
