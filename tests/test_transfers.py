"""Downloads and uploads: what is moved, what is kept, what is refused, and what a fault leaves.

Over a store of each kind, but for what only names without folders can be (an object that is a folder
too, markers, a name of `..`), what one service alone says, and what is decided before any store is
asked (the local disk, the engine's threads, the report).
"""

import dataclasses
import http.client
import json
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import (
    ContainerClient,
    ContainerSasPermissions,
    generate_container_sas,
)
from oracle import fill, stored
from places import REMOTE, Place, RemotePlace
from servers import sandbox
from servers.azurite import Azurite
from servers.faults import Fault, faulty
from servers.wire import Heard, wire
from small_stores import (
    PART,
    Around,
    AroundWriting,
    SmallBlobStore,
    SmallLocalStore,
    folders,
    make_tree,
    tree,
)

from prefect_datastores import Anonymous, LocalDatastore
from prefect_datastores.errors import (
    AccessDenied,
    ConfigurationError,
    ContainerNotFound,
    DatastoreError,
    LocalDiskFull,
    NameCollision,
    ObjectExists,
    ObjectNotFound,
    StageFailed,
    TransferCancelled,
    TransferError,
    UnsafeName,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.staging import engine
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.download import plan as plan_of_download
from prefect_datastores.staging.engine import Limits
from prefect_datastores.staging.plan import Overwrite, overwrite_rule
from prefect_datastores.staging.progress import Silent
from prefect_datastores.staging.report import ObjectRow, TransferReport
from prefect_datastores.staging.upload import plan as plan_of_upload
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import files_source, folder_source
from prefect_datastores.stores.base import Capabilities, ObjectInfo, ObjectStore, Page, Writing
from prefect_datastores.stores.blob import BlobStore
from prefect_datastores.stores.memory import MemoryStore
from prefect_datastores.testing import content_of, get, md5_of, names_below, put
from prefect_datastores.transfers import fetch as fetch_reference
from prefect_datastores.workspaces import is_part

LARGE = content_of(3 * PART + 77)
CONTENT = {
    "a.txt": b"a",
    "empty": b"",
    ".hidden/.file": b"hidden",
    "nested/deep/er/file": b"deep",
    "nested/large": LARGE,
    "one part": content_of(PART),
    "caf\u00e9/\U0001f680 %41#?.txt": b"rocket",
    "two\nlines": b"newline",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "destination"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made)
        path.chmod(0o755)
        yield path
        path.chmod(0o755)


def send(
    store: ObjectStore,
    source: Path,
    target: str = "",
    overwrite: Overwrite = "fail",
    **more: Limits,
) -> TransferReport:
    return upload(store, folder_source(source), target, overwrite, **more)


def fetch(
    store: ObjectStore, destination: Path, path: str = "", **request: object
) -> TransferReport:
    return download(store, destination, DownloadRequest(path=path, **request))  # type: ignore[arg-type]


def actions(report: TransferReport) -> dict[str, str]:
    return {row.path: row.action for row in report.rows}


def digests_of(store: ObjectStore) -> bool:
    return store.capabilities.stores_digest


def no_part_file_below(root: Path) -> bool:
    return not any(is_part(path.name) for path in root.rglob("*"))


# What is moved.


def content_for(store: ObjectStore) -> dict[str, bytes]:
    """What a store can hold of `CONTENT`: a file share refuses some characters."""
    rules = store.name_rules()
    kept = {n: c for n, c in CONTENT.items() if not any(map(rules.fault, n.split("/")))}
    assert len(kept) >= len(CONTENT) - 2
    return kept


@pytest.mark.parametrize("target", ["", "some/where"])
def test_a_tree_comes_back_as_it_was_sent(
    store: ObjectStore, source: Path, destination: Path, target: str
) -> None:
    content = content_for(store)
    make_tree(source, content)
    sent = send(store, source, target)
    prefix = f"{target}/" if target else ""
    assert stored(store) == {f"{prefix}{name}": data for name, data in content.items()}
    fetched = fetch(store, destination, target)
    assert tree(destination) == content
    for report in (sent, fetched):
        assert set(actions(report).values()) == {"moved"}
        assert (report.count, report.bytes) == (len(content), sum(map(len, content.values())))
        assert {row.verified for row in report.rows} == {"md5" if digests_of(store) else "length"}
        assert len(report.unverified) == (0 if digests_of(store) else len(content))


def test_a_sparse_file_is_sent_with_its_zeros(store: ObjectStore, source: Path) -> None:
    with (source / "sparse").open("wb") as file:
        file.seek(2 * PART + 5)
        file.write(b"end")
    send(store, source)
    assert get(store, "sparse") == bytes(2 * PART + 5) + b"end"


def test_a_prefix_ends_at_a_boundary(store: ObjectStore, destination: Path) -> None:
    fill(store, {"p/1": b"1", "p/sub/2": b"2", "p1/3": b"3", "p.txt": b"4", "q/p/5": b"5"})
    assert fetch(store, destination, "p").count == 2
    assert tree(destination) == {"1": b"1", "sub/2": b"2"}


@pytest.mark.parametrize(
    "path", ["p/file", "./p/file", "/p/file", "p/./file", "p//file", "p/file/"]
)
def test_a_path_to_a_file_brings_that_file(
    store: ObjectStore, destination: Path, path: str
) -> None:
    fill(store, {"p/file": b"content", "p/file2": b"other", "p/other": b"other"})
    fetch(store, destination, path)
    assert tree(destination) == {"file": b"content"}


@pytest.mark.parametrize("path", ["p", "./p", "/p", "p/", "//p/."])
def test_a_folder_has_many_spellings(store: ObjectStore, destination: Path, path: str) -> None:
    fill(store, {"p/file": b"content", "p1": b"other"})
    fetch(store, destination, path)
    assert tree(destination) == {"file": b"content"}


def test_whole_names_lay_files_out_from_the_root(store: ObjectStore, destination: Path) -> None:
    fill(store, {"p/file": b"content", "p/sub/2": b"2", "q": b"other"})
    fetch(store, destination, "p", whole_names=True)
    assert tree(destination) == {"p/file": b"content", "p/sub/2": b"2"}
    fetch(store, destination / "one", "p/file", whole_names=True)
    assert tree(destination / "one") == {"p/file": b"content"}


def test_a_target_has_many_spellings(store: ObjectStore, source: Path) -> None:
    make_tree(source, {"file": b"content"})
    for target in ("./t", "/t", "t/", "t"):
        send(store, source, target, "replace")
    assert names_below(store) == ["t/file"]


def test_globs_choose_below_the_path(store: ObjectStore, source: Path, destination: Path) -> None:
    content = {"d/a.csv": b"1", "d/b/a.csv": b"2", "d/b/c.txt": b"3", "d/tmp/x.csv": b"4"}
    fill(store, content)
    report = fetch(store, destination, "d", include=("*.csv", "b/*.txt"), exclude=("tmp",))
    assert tree(destination) == {"a.csv": b"1", "b/a.csv": b"2", "b/c.txt": b"3"}
    assert report.count == 3
    make_tree(source, content)
    upload(store, folder_source(source, ["*.csv"], ["d/tmp", "d/a.*"]), "up", "fail")
    assert names_below(store, "up/") == ["up/d/b/a.csv"]


def test_nothing_there_is_an_error_unless_it_is_allowed(
    store: ObjectStore, destination: Path
) -> None:
    fill(store, {"p/file": b"content"})
    for path, include in (("missing", ()), ("p", ("*.csv",)), ("p/fil", ()), ("p/file/x", ())):
        with pytest.raises(ObjectNotFound, match="allow_empty"):
            fetch(store, destination, path, include=include)
        report = fetch(store, destination, path, include=include, allow_empty=True)
        assert (report.rows, report.count, report.bytes) == ((), 0, 0)
    assert tree(destination) == {}


def test_an_empty_source_folder_sends_nothing(store: ObjectStore, source: Path) -> None:
    assert send(store, source).rows == ()
    assert names_below(store) == []


def test_a_missing_container_is_never_empty(place: Place, destination: Path, source: Path) -> None:
    make_tree(source, {"file": b""})
    place.destroy()
    with pytest.raises(ContainerNotFound):
        fetch(place.store, destination, allow_empty=True)
    with pytest.raises(ContainerNotFound):
        send(place.store, source)
    with pytest.raises(ContainerNotFound):
        send(place.store, source, overwrite="replace")


def test_an_object_that_is_a_folder_too_is_refused(
    azurite: Azurite, blob_store: ObjectStore, destination: Path
) -> None:
    memory = MemoryStore()
    for store in (memory, blob_store):
        fill(store, {"d/a": b"file", "d/a/b": b"below", "d/c": b"other"})
        for path in ("d", "d/a", ""):
            with pytest.raises(NameCollision):
                fetch(store, destination, path)
    assert tree(destination) == {}


def test_markers_become_folders(
    blob_store: ObjectStore, container: ContainerClient, destination: Path
) -> None:
    container.upload_blob("d/lower", b"", metadata={"hdi_isfolder": "true"})
    container.upload_blob("d/upper", b"", metadata={"Hdi_isfolder": "True"})
    container.upload_blob("d/upper/file", b"content")
    container.upload_blob("d/slash/", b"")
    container.upload_blob("d/", b"")
    container.upload_blob("d/no marker", b"content", metadata={"hdi_isfolder": "true"})
    container.upload_blob("d/empty", b"", metadata={"hdi_isfolder": "false"})
    report = fetch(blob_store, destination, "d")
    assert tree(destination) == {"empty": b"", "no marker": b"content", "upper/file": b"content"}
    assert folders(destination) == ["lower", "slash", "upper"]
    assert report.count == 3


def test_an_object_that_ends_in_a_slash_and_has_content_cannot_be_a_file(
    blob_store: ObjectStore, container: ContainerClient, destination: Path
) -> None:
    container.upload_blob("d/slash/", b"content")
    with pytest.raises(UnsafeName, match="slash/"):
        fetch(blob_store, destination, "d")


def test_an_empty_folder_stays_one(kept: Any, destination: Path) -> None:
    put(kept.store, "file", b"beside")
    kept.make_folder("empty/er")
    fetch(kept.store, destination)
    assert folders(destination) == ["empty", "empty/er"]


def test_files_are_sent_by_their_place_below_a_root(store: ObjectStore, source: Path) -> None:
    make_tree(source, {"a/1": b"1", "a/b/2": b"2", "a/3": b"3"})
    (source / "a" / "link").symlink_to("3")
    files = [source / "a/1", source / "a/b/2", source / "a/link"]
    upload(store, files_source(files, source), "whole", "fail")
    upload(store, files_source(files, None), "common", "fail")
    assert stored(store) == {
        "common/1": b"1",
        "common/b/2": b"2",
        "common/link": b"3",
        "whole/a/1": b"1",
        "whole/a/b/2": b"2",
        "whole/a/link": b"3",
    }


@pytest.mark.parametrize("file", ["missing", "folder", "../outside", "link"])
def test_what_is_no_file_below_the_root_cannot_be_sent(source: Path, file: str) -> None:
    make_tree(source, {"folder/file": b""})
    make_tree(source.parent, {"outside": b"outside"})
    (source / "link").symlink_to(source.parent / "outside")
    with pytest.raises(ConfigurationError, match=file.removeprefix("../")):
        files_source([source / file], source)


@pytest.mark.parametrize(("path", "what"), [("missing", "does not exist"), ("file", "is a file")])
def test_what_is_no_folder_cannot_be_sent_as_one(source: Path, path: str, what: str) -> None:
    make_tree(source, {"file": b""})
    with pytest.raises(ConfigurationError, match=what):
        folder_source(source / path)


# What is kept.

OLD = {"same": b"same content", "same size": b"old content", "other size": b"old"}
NEW = {"same": b"same content", "same size": b"new content", "other size": b"newer", "new": b"!"}


def expected(rule: Overwrite, *, digests: bool) -> tuple[dict[str, bytes], dict[str, str]]:
    moved = dict.fromkeys(NEW, "moved")
    if rule == "skip":
        return {**NEW, **OLD}, {**moved, **dict.fromkeys(OLD, "skipped")}
    if rule == "if_changed" and digests:
        return NEW, {**moved, "same": "unchanged"}
    return NEW, moved


@pytest.mark.parametrize("rule", ["skip", "replace", "if_changed"])
def test_an_upload_over_old_objects(store: ObjectStore, source: Path, rule: Overwrite) -> None:
    fill(store, OLD)
    before = store.head(ObjectName("same")).etag
    report = send(store, make_tree(source, NEW), overwrite=rule)
    content, does = expected(rule, digests=digests_of(store))
    assert stored(store) == content
    assert actions(report) == does
    assert (store.head(ObjectName("same")).etag == before) == (does["same"] != "moved")
    details = {row.path: row.detail for row in report.rows if row.detail}
    assert details == (
        {"other size": "kept, though it has 3 bytes instead of 5"} if rule == "skip" else {}
    )


@pytest.mark.parametrize("rule", ["skip", "replace", "if_changed"])
def test_a_download_over_old_files(store: ObjectStore, destination: Path, rule: Overwrite) -> None:
    fill(store, NEW)
    before = (make_tree(destination, OLD) / "same").stat().st_ino
    report = fetch(store, destination, overwrite=rule)
    content, does = expected(rule, digests=digests_of(store))
    assert tree(destination) == content
    assert actions(report) == does
    assert ((destination / "same").stat().st_ino == before) == (does["same"] != "moved")
    details = {row.path: row.detail for row in report.rows if row.detail}
    assert details == (
        {"other size": "kept, though it has 3 bytes instead of 5"} if rule == "skip" else {}
    )


def test_fail_moves_nothing_when_anything_is_there(
    store: ObjectStore, source: Path, destination: Path
) -> None:
    fill(store, OLD)
    make_tree(source, NEW)
    with pytest.raises(ObjectExists, match=r"Nothing was moved.*3 of the files.*'same'"):
        send(store, source)
    assert stored(store) == OLD
    make_tree(destination, {"same": b"mine", "other": b"mine"})
    with pytest.raises(ObjectExists, match=r"Nothing was moved.*1 of the files.*'same'"):
        fetch(store, destination, overwrite="fail")
    assert tree(destination) == {"same": b"mine", "other": b"mine"}


def test_many_files_are_compared_by_one_listing(remote: RemotePlace, source: Path) -> None:
    make_tree(source, {f"{number:02}": b"%d" % number for number in range(30)})
    with remote.through() as seen:
        assert send(seen.bare, source, "t", "if_changed").count == 30
        (source / "07").write_bytes(b"seven")
        before = len(seen.proxy.requests)
        report = send(seen.bare, source, "t", "if_changed")
        after = seen.proxy.requests[before:]
    assert [row.path for row in report.of("moved")] == ["07"]
    assert len(report.of("unchanged")) == 29
    asked = Counter(request.split()[0] for request in after)
    assert asked["GET"] == 1
    # The digests that a listing does not tell are asked for one by one.
    assert asked["HEAD"] <= (0 if remote.store.capabilities.lists_digest else 30)
    assert set(asked) <= {"GET", "HEAD", "PUT"}


def test_a_second_run_moves_nothing(remote: RemotePlace, destination: Path) -> None:
    content = content_for(remote.store)
    fill(remote.store, content)
    fetch(remote.store, destination)
    times = {path: path.stat().st_mtime_ns for path in destination.rglob("*")}
    report = fetch(remote.store, destination)
    assert set(actions(report).values()) == {"unchanged"}
    assert report.count == report.bytes == 0
    assert {path: path.stat().st_mtime_ns for path in destination.rglob("*")} == times


def test_a_link_where_a_file_would_be_is_never_followed(
    store: ObjectStore, tmp_path: Path, destination: Path
) -> None:
    fill(store, {"file": b"content", "other": b"other"})
    make_tree(tmp_path, {"outside": b"outside"})
    destination.mkdir()
    (destination / "file").symlink_to(tmp_path / "outside")
    for rule in ("replace", "if_changed"):
        with pytest.raises(StageFailed, match="symbolic link") as caught:
            fetch(store, destination, overwrite=rule)
        assert actions(caught.value.report)["file"] == "failed"
    with pytest.raises(ObjectExists):
        fetch(store, destination, overwrite="fail")
    report = fetch(store, destination, overwrite="skip")
    assert report.rows[0].detail == "kept, though it is no regular file"
    assert (tmp_path / "outside").read_bytes() == b"outside"
    assert tree(destination) == {"file": f"-> {tmp_path / 'outside'}", "other": b"other"}


@pytest.mark.parametrize("rule", ["fail", "skip", "replace", "if_changed"])
def test_a_link_where_a_folder_would_be_stops_the_download(
    store: ObjectStore, tmp_path: Path, destination: Path, rule: Overwrite
) -> None:
    fill(store, {"a/file": b"content", "b": b"b"})
    make_tree(tmp_path, {"outside/file": b"outside"})
    destination.mkdir()
    (destination / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafeName, match="symbolic link"):
        fetch(store, destination, overwrite=rule)
    assert tree(tmp_path / "outside") == {"file": b"outside"}
    assert tree(destination) == {"a": f"-> {tmp_path / 'outside'}"}


@pytest.mark.parametrize(
    ("value", "rule"),
    [(True, "replace"), (False, "skip"), *((r, r) for r in ("fail", "skip", "if_changed"))],
)
def test_overwrite_is_one_idea(value: bool | str, rule: str) -> None:
    assert overwrite_rule(value) == rule


@pytest.mark.parametrize("value", ["", "yes", "Replace", None, 2])
def test_an_unknown_rule_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match="overwrite="):
        overwrite_rule(value)


def test_a_plan_writes_nothing(store: ObjectStore, source: Path, destination: Path) -> None:
    fill(store, OLD)
    make_tree(source, NEW)
    assert plan_of_upload(store, folder_source(source), "", "if_changed").size > 0
    made = plan_of_download(store, destination, DownloadRequest())
    assert made.size == sum(map(len, OLD.values()))
    assert not destination.exists()
    assert stored(store) == OLD


# What is refused.

HOSTILE = [
    *("../x", "a/../../y", "/abs", "a//b", "..", ".", "./x", "a/.."),
    *("..\\w", "a\\b", "a\x01b", "x" * 300, "d/" + "\u00e9" * 128),
]


@pytest.mark.parametrize("whole_names", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_in_a_listing_stops_the_download(
    tmp_path: Path, name: str, whole_names: bool
) -> None:
    store = MemoryStore()
    for prefix in ("", "d/"):
        store.put(f"{prefix}good", b"good")
        store.put(f"{prefix}{name}", b"bad")
    destination = make_tree(tmp_path / "deep" / "er", {"old": b"old"})
    before = tree(tmp_path)
    for path in ("", "d"):
        with pytest.raises(UnsafeName) as caught:
            fetch(store, destination, path, whole_names=whole_names)
        assert repr(name)[1:-1] in str(caught.value)
    assert tree(tmp_path) == before


def test_all_hostile_names_are_listed_at_once(destination: Path) -> None:
    store = MemoryStore()
    for name in HOSTILE:
        store.put(name, b"bad")
    with pytest.raises(UnsafeName) as caught:
        fetch(store, destination)
    assert all(repr(name) in str(caught.value) for name in HOSTILE)


def test_percent_signs_are_no_way_out(tmp_path: Path, store: ObjectStore) -> None:
    fill(store, {"%2e%2e/x": b"literal", "%2F": b"slash"})
    fetch(store, tmp_path / "destination")
    assert tree(tmp_path / "destination") == {"%2e%2e/x": b"literal", "%2F": b"slash"}


def sas_of(azurite: Azurite, container: ContainerClient) -> str:
    return generate_container_sas(
        azurite.account,
        container.container_name,
        account_key=azurite.key,
        permission=ContainerSasPermissions(read=True, write=True, list=True, delete=True),
        expiry=datetime.now(timezone.utc) + timedelta(hours=1),
    )


def plant(azurite: Azurite, container: ContainerClient, raw_name: str, sas: str) -> None:
    """Store a blob under a name as written, which no SDK would send."""
    connection = http.client.HTTPConnection(azurite.host, azurite.port)
    path = f"/{azurite.account}/{container.container_name}/{raw_name}?{sas}"
    connection.request("PUT", path, b"planted", {"x-ms-blob-type": "BlockBlob"})
    assert connection.getresponse().status == 201
    connection.close()


@pytest.mark.parametrize(
    ("raw", "listed"),
    [("%2E%2E%2Fx", "../x"), ("a%2F%2E%2E%2F%2E%2E%2Fy", "a/../../y"), ("a%2F%2Fb", "a//b")],
)
def test_a_hostile_name_planted_at_the_service_stops_the_download(
    azurite: Azurite, container: ContainerClient, tmp_path: Path, raw: str, listed: str
) -> None:
    sas = sas_of(azurite, container)
    plant(azurite, container, raw, sas)
    plant(azurite, container, "good", sas)
    destination = make_tree(tmp_path / "deep" / "er", {"old": b"old"})
    before = tree(tmp_path)
    with closing(SmallBlobStore(azurite.url, container.container_name, sas_token=sas)) as store:
        assert listed in names_below(store)
        with pytest.raises(UnsafeName) as caught:
            fetch(store, destination)
    assert repr(listed) in str(caught.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "path", ["..", "../other/secret", "a/../../other/secret", "a\\..\\b", "a\x00"]
)
def test_a_callers_way_out_is_refused_before_any_request(
    remote: RemotePlace, source: Path, destination: Path, path: str
) -> None:
    make_tree(source, {"file": b""})
    with remote.through() as seen:
        for attempt in (
            lambda: fetch(seen.bare, destination, path),
            lambda: plan_of_download(seen.bare, destination, DownloadRequest(path)),
            lambda: send(seen.bare, source, path, "replace"),
            lambda: seen.bare.head(ObjectName(path)),
        ):
            with pytest.raises(UnsafeName):
                attempt()
        assert seen.proxy.requests == []


def test_names_that_the_service_would_change_stop_the_upload(
    remote: RemotePlace, source: Path
) -> None:
    make_tree(source, {"x.": b"1", "x": b"2", "dir./f": b"3", "good": b"4"})
    with pytest.raises(UnsafeName) as caught:
        send(remote.store, source, overwrite="replace")
    assert "'x.'" in str(caught.value)
    assert "'dir./f'" in str(caught.value)
    assert names_below(remote.store) == []


def test_all_local_names_that_no_store_may_see_are_listed_at_once(source: Path) -> None:
    make_tree(source, {"a\\b": b"1", "c/d\\e": b"2", "f\x01": b"3", "good": b"4"})
    (source / os.fsdecode(b"not-\xff-unicode")).write_bytes(b"5")
    with pytest.raises(UnsafeName) as caught:
        folder_source(source)
    for name in ("a\\b", "c/d\\e", "f\x01", "not-\udcff-unicode"):
        assert repr(name) in str(caught.value)
    assert [str(file.relative) for file in folder_source(source, ["good"]).files] == ["good"]


def test_a_name_that_is_too_long_with_its_target_stops_the_upload(
    store: ObjectStore, source: Path
) -> None:
    make_tree(source, {"file": b"", "/".join(["y" * 200] * 3): b""})
    target = "/".join(["x" * 200] * 3)
    with pytest.raises(UnsafeName, match="longer than 1024 characters"):
        send(store, source, target, "replace")
    assert names_below(store) == []


# What cannot be a file.


def test_what_is_no_file_is_reported_and_not_followed(store: ObjectStore, source: Path) -> None:
    make_tree(source, {"file": b"content", "sub/inside": b"inside"})
    make_tree(source.parent, {"outside/secret": b"secret"})
    for link, target in {
        "a link inside": "sub/inside",
        "a link outside": "../outside/secret",
        "a link to a folder": "sub",
        "a link out to a folder": "../outside",
        "a link to nothing": "missing",
        "a link to itself": "a link to itself",
        "sub/a link up": "../file",
    }.items():
        (source / link).symlink_to(target)
    os.mkfifo(source / "fifo")
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(source)  # a socket's path is short
        try:
            bound.bind("socket")
        finally:
            os.chdir(here)
        report = send(store, source)
    assert stored(store) == {
        "file": b"content",
        "sub/inside": b"inside",
        "a link inside": b"inside",
        "sub/a link up": b"content",
    }
    assert {row.name: row.detail for row in report.of("ignored")} == {
        "a link outside": "a link that does not lead to a file below the source",
        "a link to a folder": "a link that does not lead to a file below the source",
        "a link out to a folder": "a link that does not lead to a file below the source",
        "a link to nothing": "a link that leads nowhere",
        "a link to itself": "a link that leads nowhere",
        "fifo": "not a regular file",
        "socket": "not a regular file",
    }
    assert (report.count, report.failed) == (4, ())


UNREADABLE = """
from prefect_datastores.errors import AccessError, StageFailed
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.memory import MemoryStore
{without_root}
store = MemoryStore()
try:
    folder_source(folder / "with folder")
except AccessError as error:
    message = str(error)
try:
    upload(store, folder_source(folder / "with file"), "", "fail")
except StageFailed as error:
    rows = {{row.name: row.action for row in error.report.rows}}
tell(message=message, rows=rows)
"""


def test_what_cannot_be_read_is_an_error_and_not_empty(open_folder: Path) -> None:
    make_tree(open_folder, {"with folder/locked/file": b"", "with file/locked": b"secret"})
    (open_folder / "with folder" / "locked").chmod(0o000)
    (open_folder / "with file" / "locked").chmod(0o000)
    told = sandbox.run(UNREADABLE.format(without_root=sandbox.WITHOUT_ROOT), open_folder)
    (open_folder / "with folder" / "locked").chmod(0o755)
    assert str(open_folder / "with folder" / "locked") in told["message"]
    assert told["rows"] == {"locked": "failed"}


# What goes wrong.


of_those_with_digests = pytest.mark.parametrize(
    "place", ["memory", "blob", "share", "lake"], indirect=True
)


@of_those_with_digests
@pytest.mark.parametrize("content", [b"", b"content", LARGE])
def test_a_wrong_digest_is_never_published(place: Any, destination: Path, content: bytes) -> None:
    place.plant("file", content, md5_of(b"something else"))
    place.plant("good", b"good", md5_of(b"good"))
    make_tree(destination, {"file": b"old content"})
    if not content and not place.store.capabilities.lists_digest:
        fetch(
            place.store, destination
        )  # nothing of it is asked for, and nothing of it can be wrong
        assert tree(destination) == {"file": b"", "good": b"good"}
        return
    with pytest.raises(StageFailed, match="another MD5") as caught:
        fetch(place.store, destination)
    assert actions(caught.value.report) == {"file": "failed", "good": "moved"}
    assert tree(destination) == {"file": b"old content", "good": b"good"}


@of_those_with_digests
def test_an_object_without_a_digest_is_moved_and_called_unverified(
    place: Any, destination: Path
) -> None:
    place.plant("file", b"content")
    report = fetch(place.store, destination)
    assert [row.verified for row in report.rows] == ["length"]
    assert "1 verified by length only" in report.summary()


@of_those_with_digests
@pytest.mark.parametrize("rule", ["skip", "replace", "if_changed"])
def test_an_object_without_a_digest_fails_where_one_is_required(
    place: Any, destination: Path, rule: Overwrite
) -> None:
    for name in ("bare", "large", "old", "empty"):
        place.plant(name, {"large": LARGE, "empty": b""}.get(name, b"content"))
    place.plant("good", b"good", md5_of(b"good"))
    make_tree(destination, {"old": b"content"})
    counting = Failing(place.store, "none is bad", TransferError(""))
    with pytest.raises(StageFailed, match=r"require_digest=True asks for one.*Store it again") as e:
        fetch(counting, destination, overwrite=rule, require_digest=True)
    kept = "skipped" if rule == "skip" else "failed"
    assert actions(e.value.report) == {
        **dict.fromkeys(("bare", "large"), "failed"),
        **dict.fromkeys(("empty", "good"), "moved"),
        "old": kept,
    }
    if place.store.capabilities.lists_digest:
        assert counting.asked == ["good"]
    assert tree(destination) == {"old": b"content", "empty": b"", "good": b"good"}
    assert no_part_file_below(destination)


def test_a_local_folder_holds_no_digest_that_could_be_required(
    tmp_path: Path, destination: Path
) -> None:
    make_tree(tmp_path / "store", {"file": b"content", "empty": b""})
    store = LocalDatastore(root=str(tmp_path / "store"))
    with pytest.raises(
        StageFailed, match=r"keeps no MD5 of anything.*Leave require_digest out"
    ) as e:
        store.download(destination, require_digest=True, show_progress=False)
    assert actions(e.value.report) == {"file": "failed", "empty": "moved"}
    with pytest.raises(StageFailed, match="keeps no MD5 of anything"):
        fetch_reference(store.path("file").as_download(require_digest=True), destination)
    assert tree(destination) == {"empty": b""}


class MeddlingWriting(AroundWriting):
    """Changes a local file after the first part of it was sent."""

    def __init__(self, inner: Writing, meddle: Callable[[], None]) -> None:
        super().__init__(inner)
        self.meddle = meddle

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        super().write_part(index, offset, data)
        if index == 0:
            self.meddle()


class Meddling(Around):
    """Changes a local file while it is uploaded."""

    def __init__(self, inner: ObjectStore, meddle: Callable[[], None]) -> None:
        super().__init__(inner)
        self.meddle = meddle

    def begin_write(self, name: ObjectName, size: int, **conditions: object) -> Writing:
        return MeddlingWriting(self.inner.begin_write(name, size, **conditions), self.meddle)  # type: ignore[arg-type]


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewrite(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("content", [b"small", LARGE])
@pytest.mark.parametrize("change", [append, rewrite, cut])
def test_a_file_that_changes_while_it_is_read_is_not_stored(
    store: ObjectStore, source: Path, content: bytes, change: Callable[[Path], None]
) -> None:
    put(store, "file", b"old")
    make_tree(source, {"file": content})
    meddling: ObjectStore = Meddling(store, lambda: change(source / "file"))
    with pytest.raises(StageFailed, match="changed while it was read") as caught:
        send(meddling, source, overwrite="replace")
    assert actions(caught.value.report) == {"file": "failed"}
    assert stored(store) == {"file": b"old"}


class ChangingStore(Around):
    """Calls `change` once, after the first part of an object was read."""

    def __init__(self, inner: ObjectStore, change: Callable[[], object]) -> None:
        super().__init__(inner)
        self.changes = [change]
        self.lock = threading.Lock()

    def read_into(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> None:
        with self.lock:
            self.inner.read_into(name, offset, buffer, pin=pin)
            if self.changes:
                self.changes.pop()()


def test_an_object_that_is_replaced_meanwhile_is_not_published(
    store: ObjectStore, destination: Path
) -> None:
    put(store, "file", LARGE)
    make_tree(destination, {"file": b"old"})
    changing: ObjectStore = ChangingStore(store, lambda: put(store, "file", LARGE[::-1]))
    with pytest.raises(StageFailed, match=r"version|changed") as caught:
        fetch(changing, destination)
    assert actions(caught.value.report) == {"file": "failed"}
    assert tree(destination) == {"file": b"old"}
    fetch(changing, destination)
    assert tree(destination) == {"file": LARGE[::-1]}


def test_an_object_that_is_deleted_meanwhile_leaves_the_old_file(
    store: ObjectStore, destination: Path
) -> None:
    put(store, "file", LARGE)
    make_tree(destination, {"file": b"old"})
    changing: ObjectStore = ChangingStore(store, lambda: store.delete(ObjectName("file")))
    with pytest.raises(StageFailed):
        fetch(changing, destination)
    assert tree(destination) == {"file": b"old"}


class Failing(Around):
    """Fails for one object, and counts what it is asked."""

    def __init__(self, inner: ObjectStore, bad: str, error: Exception) -> None:
        super().__init__(inner)
        self.bad, self.error = bad, error
        self.asked: list[str] = []

    def read_into(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> bytes | None:
        self.asked.append(name)
        if name == self.bad:
            raise self.error
        return self.inner.read_into(name, offset, buffer, pin=pin)

    def begin_write(self, name: ObjectName, size: int, **conditions: object) -> Writing:
        self.asked.append(name)
        if name == self.bad:
            raise self.error
        return self.inner.begin_write(name, size, **conditions)  # type: ignore[arg-type]


FOUR = {"a": b"1", "bad": b"2", "c": LARGE, "d": b"4"}


@pytest.mark.parametrize(
    "error", [TransferError("It broke."), ObjectNotFound("It broke."), OSError("It broke.")]
)
def test_one_failing_object_does_not_stop_the_others(
    store: ObjectStore, source: Path, destination: Path, error: Exception
) -> None:
    make_tree(source, FOUR)
    failing: ObjectStore = Failing(store, "bad", error)
    with pytest.raises(StageFailed, match=r"failed for 1 of 4 objects\.\n  bad: .*It broke") as up:
        send(failing, source, overwrite="replace")
    assert names_below(store) == ["a", "c", "d"]
    put(store, "bad", b"2")
    with pytest.raises(
        StageFailed, match=r"failed for 1 of 4 objects\.\n  bad: .*It broke"
    ) as down:
        fetch(failing, destination)
    assert tree(destination) == {name: FOUR[name] for name in "acd"}
    for caught in (up, down):
        report = caught.value.report
        assert actions(report) == {"a": "moved", "bad": "failed", "c": "moved", "d": "moved"}
        assert [row.path for row in report.failed] == ["bad"]
        assert report.bytes == len(LARGE) + 2


@pytest.mark.parametrize("kind", [AccessDenied, ContainerNotFound, LocalDiskFull])
def test_a_fault_that_the_next_object_would_meet_stops_the_rest(
    store: ObjectStore, destination: Path, kind: type[DatastoreError]
) -> None:
    fill(store, FOUR)
    failing: Any = Failing(store, "bad", kind("No."))
    with pytest.raises(StageFailed, match="2 objects not tried") as caught:
        download(failing, destination, DownloadRequest(), limits=Limits(files=1))
    report = caught.value.report
    assert actions(report) == {"a": "moved", "bad": "failed", "c": "cancelled", "d": "cancelled"}
    assert failing.asked == ["a", "bad"]


def test_a_fault_that_nobody_thought_of_is_raised_and_leaves_nothing(
    store: ObjectStore, destination: Path
) -> None:
    fill(store, FOUR)
    failing: Any = Failing(store, "bad", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        fetch(failing, destination)
    assert tree(destination).items() <= FOUR.items()
    assert engine_threads() == []
    store.delete(ObjectName("bad"))
    fetch(store, destination)
    assert no_part_file_below(destination)


def engine_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pds-")]


class Cancelling(Around):
    """Asks for the stop in the middle of an object."""

    def __init__(self, inner: ObjectStore, after: int) -> None:
        super().__init__(inner)
        self.after, self.cancellation = after, Cancellation()
        self.lock = threading.Lock()

    def tick(self) -> None:
        with self.lock:
            self.after -= 1
            if self.after == 0:
                self.cancellation.cancel()

    def read_into(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> None:
        self.inner.read_into(name, offset, buffer, pin=pin)
        self.tick()

    def begin_write(self, name: ObjectName, size: int, **conditions: object) -> Writing:
        return MeddlingWriting(self.inner.begin_write(name, size, **conditions), self.tick)  # type: ignore[arg-type]


@pytest.mark.parametrize("after", [1, 2, 5])
@pytest.mark.parametrize("limits", [Limits(), Limits(files=1, parts=1, bytes_in_flight=PART)])
def test_a_cancelled_download_leaves_whole_files_only(
    store: ObjectStore, destination: Path, after: int, limits: Limits
) -> None:
    new = {f"{number}": content_of(2 * PART + 1, f"{number}") for number in range(6)}
    old = dict.fromkeys(new, b"old")
    fill(store, new)
    make_tree(destination, old)
    cancelling = Cancelling(store, after)
    with pytest.raises(TransferCancelled):
        download(
            cancelling,
            destination,
            DownloadRequest(overwrite="replace"),
            limits=limits,
            cancellation=cancelling.cancellation,
        )
    assert engine_threads() == []
    left = tree(destination)
    assert left.keys() == new.keys()
    assert all(content in (old[name], new[name]) for name, content in left.items())
    assert list(left.values()).count(b"old") > 0
    fetch(store, destination)
    assert tree(destination) == new
    assert no_part_file_below(destination)


@pytest.mark.parametrize("after", [1, 2, 5])
@pytest.mark.parametrize("limits", [Limits(), Limits(files=1, parts=1, bytes_in_flight=PART)])
def test_a_cancelled_upload_commits_whole_objects_only(
    store: ObjectStore, source: Path, tmp_path: Path, after: int, limits: Limits
) -> None:
    new = {f"{number}": content_of(2 * PART + 1, f"{number}") for number in range(6)}
    make_tree(source, new)
    cancelling = Cancelling(store, after)
    with pytest.raises(TransferCancelled):
        upload(
            cancelling,
            folder_source(source),
            "",
            "replace",
            limits=limits,
            cancellation=cancelling.cancellation,
        )
    assert engine_threads() == []
    found = stored(store)
    assert found.keys() < new.keys()
    assert all(new[name] == content for name, content in found.items())
    if isinstance(store, SmallLocalStore):
        store.close()
        assert no_part_file_below(store.root)


def test_what_was_cancelled_before_it_began_moves_nothing(
    store: ObjectStore, destination: Path
) -> None:
    cancellation = Cancellation()
    fill(store, FOUR)
    cancellation.cancel()
    with pytest.raises(TransferCancelled):
        download(store, destination, DownloadRequest(), cancellation=cancellation)
    assert tree(destination) == {}


def test_a_part_larger_than_the_budget_goes_alone(
    store: ObjectStore, source: Path, destination: Path
) -> None:
    make_tree(source, content_for(store))
    limits = Limits(files=3, parts=2, bytes_in_flight=1)
    send(store, source, limits=limits)
    download(store, destination, DownloadRequest(), limits=limits)
    assert tree(destination) == content_for(store)


class Huge(Around):
    """Lists objects as larger than any disk."""

    def list_page(self, prefix: str, **options: object) -> Page:
        return self.huge(self.inner.list_page(prefix, **options))  # type: ignore[arg-type]

    def page_by_component(self, prefix: str, *, marker: str | None = None) -> Page:
        return self.huge(self.inner.page_by_component(prefix, marker=marker))

    @staticmethod
    def huge(page: Page) -> Page:
        objects = tuple(
            info if info.is_marker else info._replace(size=2**60) for info in page.objects
        )
        return dataclasses.replace(page, objects=objects)


def test_a_plan_that_the_disk_cannot_hold_moves_nothing(
    store: ObjectStore, destination: Path
) -> None:
    fill(store, {"d/a": b"1", "d/b": b"2"})
    listed: Any = Huge(store)
    huge: Any = Failing(listed, "", OSError())
    with pytest.raises(LocalDiskFull, match=r"Nothing was moved: .* TiB .* free"):
        fetch(huge, destination, "d")
    assert huge.asked == []
    assert tree(destination) == {}


SMALL_DISK = """
import hashlib
from prefect_datastores.errors import LocalDiskFull, StageFailed
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.stores.memory import MemoryStore
{limit}
def store_of(size):
    store, content = MemoryStore(), os.urandom(size)
    store.put("large", content, hashlib.md5(content).digest())
    return store
store = store_of(5 * 2**20)
first = download(store, folder, DownloadRequest()).rows[0].action
again = download(store, folder, DownloadRequest()).rows[0].action
before = (folder / "large").read_bytes()
try:
    download(store_of(9 * 2**20), folder, DownloadRequest())
except (LocalDiskFull, StageFailed) as error:
    message = str(error)
tell(
    first=first,
    again=again,
    message=message,
    names=os.listdir(folder),
    kept=(folder / "large").read_bytes() == before,
)
"""


@pytest.mark.parametrize("disk", sandbox.SMALL_DISKS)
def test_a_small_disk_holds_what_it_can_and_keeps_what_it_has(disk: str, destination: Path) -> None:
    destination.mkdir()
    told = sandbox.run(SMALL_DISK.format(limit=sandbox.SMALL_DISKS[disk]), destination)
    assert (told["first"], told["again"], told["kept"]) == ("moved", "unchanged", True)
    assert told["names"] == ["large"]
    assert str(destination) in told["message"]


# Two at once.

TOGETHER = """
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
source, rule = sys.argv[3:]
store = opened()
store.check_root()
wait()
for _ in range(4):
    if source:
        upload(store, folder_source(Path(source)), "", rule)
    else:
        download(store, folder, DownloadRequest(overwrite=rule))
tell(done=True)
"""


def test_two_processes_download_to_one_place(kept: Place, destination: Path) -> None:
    content = {f"d{number % 3}/{number}": content_of(PART + 1, f"{number}") for number in range(9)}
    fill(kept.store, content)
    destination.mkdir()
    program = kept.opened_by() + TOGETHER
    told = sandbox.run_together(program, destination, ("", "replace"), ("", "if_changed"))
    assert told == [{"done": True}] * 2
    assert tree(destination) == content


def test_two_processes_upload_to_one_place(kept: Place, tmp_path: Path) -> None:
    names = ["1", "d/2", "d/3"]
    sources = [
        make_tree(tmp_path / who, {name: content_of(2 * PART + 1, who) for name in names})
        for who in ("one", "other")
    ]
    program = kept.opened_by() + TOGETHER
    told = sandbox.run_together(program, tmp_path, *((str(each), "replace") for each in sources))
    assert told == [{"done": True}] * 2
    found = stored(kept.store)
    assert list(found) == names
    assert all(
        content in (tree(sources[0])[name], tree(sources[1])[name])
        for name, content in found.items()
    )


class Overtaking(Around):
    """Another writer commits the same object first, once."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.begun = 0

    def begin_write(self, name: ObjectName, size: int, **conditions: object) -> Writing:
        self.begun += 1
        writing = self.inner.begin_write(name, size, **conditions)  # type: ignore[arg-type]
        return writing if self.begun > 1 else Overtaken(writing, self.inner, name)


class Overtaken(AroundWriting):
    """Commits after another writer did."""

    def __init__(self, inner: Writing, store: ObjectStore, name: ObjectName) -> None:
        super().__init__(inner)
        self.store, self.name = store, name

    def commit(self, digest: bytes) -> ObjectInfo:
        put(self.store, self.name, content_of(2 * PART, "theirs"))
        return super().commit(digest)


def test_an_upload_whose_parts_another_writer_dropped_sends_them_again(
    store: ObjectStore, source: Path
) -> None:
    make_tree(source, {"file": LARGE})
    overtaking = Overtaking(store)
    report = send(overtaking, source, overwrite="replace")
    assert actions(report) == {"file": "moved"}
    assert get(store, "file") == LARGE
    # Only the service drops the parts of others.
    assert overtaking.begun == (2 if isinstance(store, BlobStore) else 1)


@pytest.mark.parametrize("rule", ["fail", "skip", "if_changed"])
@pytest.mark.parametrize("there", [True, False])
def test_an_upload_never_replaces_what_came_meanwhile(
    store: ObjectStore, source: Path, rule: Overwrite, there: bool
) -> None:
    make_tree(source, {"file": LARGE})
    if there and rule == "if_changed":
        put(store, "file", b"old")
    overtaking = Overtaking(store)
    if rule == "skip":
        assert actions(send(overtaking, source, overwrite=rule)) == {"file": "skipped"}
    else:
        with pytest.raises(StageFailed):
            send(overtaking, source, overwrite=rule)
    assert get(store, "file") == content_of(2 * PART, "theirs")


# The report.

ROWS = (
    ObjectRow("a", "a", 10, "moved", "md5"),
    ObjectRow("b", "b", 5, "moved", "length"),
    ObjectRow("c", "c", 100, "unchanged", "md5"),
    ObjectRow("d", "d", 1000, "skipped", "", "kept, though it has 1 bytes instead of 1000"),
    ObjectRow("e", "e", 0, "ignored", "", "not a regular file"),
    ObjectRow("f", "f", 7, "failed", "", "It broke."),
    ObjectRow("g", "g", 7, "cancelled", "", "Stopped."),
)


def test_a_report_sums_what_was_moved() -> None:
    report = TransferReport(False, "memory://m", "/tmp/d", ROWS, 2.0)
    assert (report.count, report.bytes) == (2, 15)
    assert [row.name for row in report.failed] == ["f", "g"]
    assert [row.name for row in report.unverified] == ["b"]
    assert report.summary() == (
        "Downloaded 2 objects (15 B) in 2.0 s, 8 B/s; 1 unchanged; 1 skipped; 1 ignored; 1 failed; "
        "1 cancelled; 1 verified by length only."
    )


def test_a_report_is_json() -> None:
    report = TransferReport(True, "/tmp/s", "memory://m", ROWS, 1.23456)
    told = json.loads(json.dumps(report.to_dict()))
    assert {key: told[key] for key in ("direction", "source", "destination", "count", "bytes")} == {
        "direction": "upload",
        "source": "/tmp/s",
        "destination": "memory://m",
        "count": 2,
        "bytes": 15,
    }
    assert told["seconds"] == 1.235
    assert told["actions"] == {"moved": 2} | dict.fromkeys(
        ("unchanged", "skipped", "ignored", "failed", "cancelled"), 1
    )
    assert told["unverified"] == 1
    assert [tuple(row.values()) for row in told["objects"]] == [tuple(row) for row in ROWS]


def test_a_stages_error_carries_its_report_through_a_pickle(destination: Path) -> None:
    store = MemoryStore()
    fill(store, FOUR)
    with pytest.raises(StageFailed) as caught:
        fetch(Failing(store, "bad", TransferError("It broke.")), destination)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.report) == (str(caught.value), caught.value.report)


# What stands in the way is never taken for what was to be there.


@pytest.mark.parametrize("rule", ["skip", "replace", "if_changed"])
def test_a_file_where_a_folder_is_needed_fails_the_transfer(
    store: ObjectStore, source: Path, destination: Path, rule: Overwrite
) -> None:
    fill(store, {"a/b": b"new"})
    make_tree(destination, {"a": b"a file"})
    with pytest.raises(StageFailed, match=r"A file stands at .*/a, where a folder is needed"):
        fetch(store, destination, overwrite=rule)
    assert tree(destination) == {"a": b"a file"}
    make_tree(source, {"a/b": b"new"})
    with closing(SmallLocalStore(destination)) as local:
        with pytest.raises(StageFailed, match="where a folder is needed"):
            send(local, source, overwrite=rule)
    assert tree(destination) == {"a": b"a file"}


@pytest.mark.parametrize("rule", ["skip", "replace", "if_changed"])
def test_a_folder_where_a_file_would_be_fails_the_transfer(
    store: ObjectStore, destination: Path, rule: Overwrite
) -> None:
    fill(store, {"a": b"new"})
    make_tree(destination, {"a/b": b"below"})
    reading = Around(store)
    reading.read_into = lambda *_, **__: pytest.fail("was read for nothing")  # type: ignore[attr-defined]
    with pytest.raises(StageFailed, match=r"A folder stands at .*/a, where a file is to be"):
        fetch(reading, destination, overwrite=rule)  # type: ignore[arg-type]
    assert tree(destination) == {"a/b": b"below"}


def test_a_refusal_of_a_new_object_is_never_taken_for_one_that_is_there(source: Path) -> None:
    make_tree(source, {"new": b"1"})
    said = {"x-ms-error-code": "BlobImmutableDueToPolicy"}
    missing = {"x-ms-error-code": "BlobNotFound"}
    faults = (
        Fault("HEAD", "answer", times=None, status=404, headers=missing),
        Fault("PUT", "answer", times=None, status=409, headers=said),
    )
    with faulty("127.0.0.1", 9, *faults) as proxy:
        store = SmallBlobStore(f"http://127.0.0.1:{proxy.port}/a", "container")
        with closing(store), pytest.raises(StageFailed, match=r"failed with 409.*BlobImmutable"):
            send(store, source, overwrite="skip")


def test_a_leased_object_is_told_as_one(
    source: Path, container: ContainerClient, blob_store: ObjectStore
) -> None:
    make_tree(source, {"leased": b"new"})
    container.upload_blob("leased", b"old")
    lease = container.get_blob_client("leased").acquire_lease()
    rules: list[Overwrite] = ["replace", "if_changed"]
    for rule in rules:
        with pytest.raises(StageFailed, match=r"leased is leased by somebody.*LeaseIdMissing"):
            send(blob_store, source, overwrite=rule)
    assert get(blob_store, "leased") == b"old"
    lease.break_lease(0)


def test_a_file_that_may_not_be_read_does_not_stop_the_others(open_folder: Path) -> None:
    make_tree(open_folder, {f"{n:02}": b"x" for n in range(30)})
    (open_folder / "03").chmod(0)
    script = (
        sandbox.WITHOUT_ROOT
        + """
from prefect_datastores.errors import StageFailed
try:
    upload(MemoryStore(), folder_source(folder), "", "fail", limits=Limits(files=2))
except StageFailed as failed:
    tell(**{action: len(failed.report.of(action)) for action in ("moved", "failed", "cancelled")})
"""
    )
    head = """
from prefect_datastores.staging.engine import Limits
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.memory import MemoryStore
"""
    told = sandbox.run(head + script, open_folder)
    assert told == {"moved": 29, "failed": 1, "cancelled": 0}


def test_an_upload_whose_part_is_refused_sends_few_more(source: Path) -> None:
    make_tree(source, {"large": content_of(PART) * 400})
    tried: list[int] = []

    class Refusing(AroundWriting):
        def write_part(self, index: int, offset: int, data: memoryview) -> None:
            tried.append(index)
            raise AccessDenied("No.")

    class Store(Around):
        capabilities = Capabilities(kind="small", stores_digest=True, part_size=PART)

        def begin_write(self, *given: Any, **more: Any) -> Writing:
            return Refusing(self.inner.begin_write(*given, **more))

    with pytest.raises(StageFailed, match="No"):
        send(Store(MemoryStore()), source)  # type: ignore[arg-type]
    assert len(tried) < 100


def test_one_glob_may_come_alone(store: ObjectStore, source: Path, destination: Path) -> None:
    make_tree(source, {"a.csv": b"1", "b.bin": b"2"})
    upload(store, folder_source(source, "*.csv", "x"), "", "fail")
    assert names_below(store) == ["a.csv"]
    fill(store, {"b.bin": b"2"})
    fetch(store, destination, include="*.csv")
    assert tree(destination) == {"a.csv": b"1"}


# As many threads as are worth while.


@pytest.mark.parametrize("most", [1, 8])
def test_objects_that_are_waited_for_are_waited_for_together(destination: Path, most: int) -> None:
    waiting, peak, lock = [0], [0], threading.Lock()

    class Slow(Around):
        def read_into(self, *given: Any, **more: Any) -> None:
            with lock:
                waiting[0] += 1
                peak[0] = max(peak[0], waiting[0])
            time.sleep(0.02)
            with lock:
                waiting[0] -= 1
            self.inner.read_into(*given, **more)

    store = MemoryStore()
    fill(store, {f"{n:02}": b"x" for n in range(60)})
    limits = Limits(files=most)
    download(Slow(store), destination, DownloadRequest(), limits=limits)  # type: ignore[arg-type]
    assert len(tree(destination)) == 60
    assert peak[0] == most


@pytest.mark.parametrize("kind", REMOTE)
def test_a_cancelled_transfer_waits_for_no_answer(
    kind: str, source: Path, destination: Path
) -> None:
    """A service that takes a request and says nothing is left within moments, in both directions."""
    make_tree(source, {"up": b"x"})
    silent: list[socket.socket] = []

    def say_nothing(sock: socket.socket, heard: Heard) -> None:
        heard.take(sock)
        silent.append(sock)
        while sock.recv(65536):
            pass

    with wire(say_nothing) as heard:
        at = f"127.0.0.1:{heard.port}"
        endpoints = {"endpoint": at} | ({"dfs_endpoint": at} if kind == "lake" else {})
        store = REMOTE[kind].block_elsewhere(auth=Anonymous(), protocol="http", **endpoints)
        for way in (
            lambda opened, stop: upload(
                opened, folder_source(source), "", "replace", cancellation=stop
            ),
            lambda opened, stop: download(
                opened, destination, DownloadRequest(), cancellation=stop
            ),
        ):
            stop, asked = Cancellation(), len(silent)
            threading.Thread(
                target=lambda asked=asked, stop=stop: (
                    _until(lambda: len(silent) > asked),
                    stop.cancel(),
                )
            ).start()
            began = time.monotonic()
            with store.open_store(stop) as opened, pytest.raises(TransferCancelled):
                way(opened, stop)
            assert time.monotonic() - began < 30  # a stall alone takes 60 s
    assert tree(destination) == {}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pds-")]


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def test_no_row_is_lost_whatever_threads_come_and_go() -> None:
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(20):
            rows = engine.run(
                range(300),
                _quick_or_slow,
                lambda item, error: pytest.fail(str(error)),
                limits=Limits(),
                cancellation=Cancellation(),
                progress=Silent(),
            )
            assert [row.name for row in rows] == [str(n) for n in range(300)]
    finally:
        sys.setswitchinterval(switch)


def _quick_or_slow(item: int, _: engine.Lanes) -> ObjectRow:
    if item % 50 < 40:
        time.sleep(0.002)
    return ObjectRow(str(item), str(item), 1, "moved")


def test_ctrl_c_ends_what_prefect_fetches_too(remote: RemotePlace, destination: Path) -> None:
    """The answer to the one object never comes, and Prefect's methods have no cancellation to give."""
    put(remote.store, "x", b"1")

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    hangs = Fault(r"GET \S+/x(\?|$)", "hang", times=None, at="first", meanwhile=interrupt)
    with remote.through(hangs) as seen:
        store: Any = remote.datastore(seen.ports)
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            store.get_directory(local_path=str(destination))
        assert time.monotonic() - began < 15  # the proxy hangs for longer
    assert tree(destination) == {}


def test_names_that_a_place_takes_for_one_are_one_object(
    share_store: ObjectStore, source: Path, tmp_path: Path
) -> None:
    """A share tells no upper case from lower: what is the same is not sent again, and what differs replaces it."""
    make_tree(source, {f"Model/{n}.PKL": b"new" if n == 3 else b"same" for n in range(20)})
    for number in range(20):
        put(share_store, f"model/{number}.pkl", b"same")
    report = send(share_store, source, overwrite="if_changed")
    assert [row.name for row in report.rows if row.action == "moved"] == ["Model/3.PKL"]
    assert {row.action for row in report.rows if row.name != "Model/3.PKL"} == {"unchanged"}
    assert get(share_store, "model/3.pkl") == b"new"
    assert len(stored(share_store)) == 20
    assert {row.action for row in send(share_store, source, overwrite="skip").rows} == {"skipped"}
    with pytest.raises(ObjectExists):
        send(share_store, source, overwrite="fail")


@pytest.mark.parametrize("character", ['"', ":", "|", "<", ">", "*", "?", "\t"])
def test_what_a_share_refuses_is_found_in_the_plan(
    share_store: ObjectStore, source: Path, character: str
) -> None:
    make_tree(source, {"fine": b"1", f"sub/not{character}fine": b"2"})
    with pytest.raises(UnsafeName, match="which the service refuses"):
        send(share_store, source)
    assert stored(share_store) == {}
