"""What only file shares have: their names, their digests, and what is unfinished."""

import base64
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from oracle import stored
from places import SharePlace
from servers.azure_files import AzureFiles
from servers.faults import Fault
from servers.prefect_server import PrefectServer
from small_stores import PART, SmallShareStore, make_tree, tree

from prefect_datastores import AzureFileDatastore, Datastore
from prefect_datastores.errors import (
    ConfigurationError,
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
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.stores.share import ShareStore
from prefect_datastores.testing import content_of, get, md5_of, put

NEW = {"large": content_of(3 * PART + 5), "sub/small": b"small", "empty": b""}
REPLACE = DownloadRequest(overwrite="replace")


@pytest.fixture
def name(prefect_api: PrefectServer) -> Iterator[str]:
    made = f"fs_{uuid.uuid4().hex[:12]}"
    yield made
    with suppress(DatastoreNotFound):
        Datastore.unregister(made)


def test_the_defaults_are_those_of_the_original(name: str) -> None:
    made = Datastore.register_azure_file_share(None, name, "data", "account1", skip_validation=True)
    assert made.url == "https://account1.file.core.windows.net/data"
    with pytest.raises(ConfigurationError, match="Two ways"):
        Datastore.register_azure_file_share(None, name, "d-1", "account1", "sv=1&sig=x", "a2V5")


@pytest.mark.parametrize("wrong", ["Upper", "a", "two--dashes", "with_underscore", "x" * 64])
def test_a_name_that_no_share_can_have_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="is refused"):
        AzureFileDatastore(account_name="account1", file_share_name=wrong)


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


def test_a_rename_whose_answer_is_lost_makes_one_new_file(
    share_place: SharePlace, share_store: SmallShareStore
) -> None:
    """The second try meets its own file, and knows it by its id."""
    for size in (10, 2 * PART):
        with share_place.through() as seen:
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
