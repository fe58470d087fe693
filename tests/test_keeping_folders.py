"""Times and properties of folders, on request: both ways, and after all that goes into them.

Over every kind that has them: properties are those of file shares and data lakes, times those of
shares and local folders, and of data lakes in one direction.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import attempt, fill, plant_link, stored
from places import LocalPlace, Place, RemotePlace
from servers.faults import Fault
from small_stores import folders, make_tree, tree

from prefect_datastores.errors import (
    NameCollision,
    StageFailed,
    TransferError,
    UnsafeName,
)
from prefect_datastores.files import Folder
from prefect_datastores.names import ObjectName, RelativePath
from prefect_datastores.staging import spool
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.folders import Place as FolderPlace
from prefect_datastores.staging.folders import above
from prefect_datastores.staging.keeping import NOTHING, Keep, to_attribute
from prefect_datastores.staging.report import TransferReport
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.base import Extras, FolderInfo, ObjectStore
from prefect_datastores.testing import names_below

ATTRIBUTE = "user.prefect_datastores.properties"
PROPERTIES, TIMES, BOTH = Keep(properties=True), Keep(times=True), Keep(True, True)
SOMEBODY, FRIENDS = "11111111-2222-3333-4444-555555555555", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
GIVEN = {
    "share": {
        "attributes": "Hidden | Directory",
        "created": "2011-02-03T04:05:06.1234567Z",
        "permission": "O:BAG:SYD:(A;OICI;FA;;;BA)(A;OICI;FR;;;S-1-5-21-1-2-3-1001)",
    },
    "lake": {
        "owner": SOMEBODY,
        "group": FRIENDS,
        "permissions": "rwxr-x---+",
        "acl": f"user::rwx,user:{FRIENDS}:r-x,group::r-x,mask::r-x,other::---,"
        "default:user::rwx,default:group::r-x,default:other::---",
    },
}
MOMENT = 1_500_000_000_123_456_789
FILES = {"a/b/c/deep": b"deep", "a/b/file": b"file", "a-b/x": b"x", "top": b"top"}
FOLDERS = ["a", "a-b", "a/b", "a/b/c", "empty", "empty/er"]
"""Those of FILES, and two with nothing in them."""

with_properties = pytest.mark.parametrize("remote", ["share", "lake"], indirect=True)
with_times = pytest.mark.parametrize("kept", ["local", "share"], indirect=True)


def moments(names: list[str]) -> dict[str, int]:
    """A time for each."""
    return {name: MOMENT - number * 10**15 for number, name in enumerate(names)}


def info_of(store: ObjectStore, name: str) -> FolderInfo:
    return store.folder_info(ObjectName(name), properties=bool(store.capabilities.properties))


def give(store: ObjectStore, name: str, extras: Extras) -> None:
    store.give_folder(ObjectName(name), extras)


def sent(store: ObjectStore, source: Path, target: str = "", **more: Any) -> TransferReport:
    given = {"overwrite": "replace", "keep": PROPERTIES, **more}
    return upload(store, folder_source(source), target, **given)


def source_of(root: Path) -> Path:
    made = make_tree(root, FILES)
    (made / "empty/er").mkdir(parents=True)
    for name, moment in sorted(moments(FOLDERS).items(), reverse=True):
        os.utime(made / name, ns=(moment, moment))
    return made


def filled(place: Any) -> Any:
    """A place with FILES and FOLDERS below `from`."""
    fill(place.store, {f"from/{name}": content for name, content in FILES.items()})
    place.make_folder("from/empty/er")
    return place


def attribute_of(folder: Path) -> Any:
    return json.loads(os.getxattr(folder, ATTRIBUTE))


@with_properties
def test_properties_of_folders_go_there_and_back(remote: RemotePlace, tmp_path: Path) -> None:
    store, given = filled(remote).store, GIVEN[remote.kind]
    for name in FOLDERS:
        give(store, f"from/{name}", Extras(properties=given))
        assert info_of(store, f"from/{name}").properties == given
    got = tmp_path / "got"
    report = download(store, got, DownloadRequest("from", keep_properties=True))
    assert {row.action for row in report.rows} == {"moved"}
    assert len(report.rows) == len(FILES)
    kind = store.capabilities.properties
    assert folders(got) == FOLDERS
    for name in FOLDERS:
        assert attribute_of(got / name) == {"version": 1, "kind": kind, "properties": given}
    with pytest.raises(OSError):  # the destination itself is none of the transfer's
        os.getxattr(got, ATTRIBUTE)
    sent(store, got, "to")
    for name in FOLDERS:
        assert info_of(store, f"to/{name}").properties == given
    assert stored(store, "to/") == {f"to/{name}": content for name, content in FILES.items()}


@with_times
def test_times_of_folders_go_there_and_back(kept: Any, tmp_path: Path) -> None:
    source, store = source_of(tmp_path / "source"), kept.store
    sent(store, source, "top", keep=TIMES)
    for name, moment in moments(FOLDERS).items():
        assert info_of(store, f"top/{name}").modified == pytest.approx(moment / 1e9, abs=1e-6)
    got = tmp_path / "got"
    download(store, got, DownloadRequest("top", keep_times=True))
    assert folders(got) == FOLDERS
    assert tree(got) == FILES
    for name, moment in moments(FOLDERS).items():
        assert (got / name).stat().st_mtime_ns == moment // 1000 * 1000
    sent(store, got, "again", keep=TIMES)
    for name in FOLDERS:
        assert info_of(store, f"again/{name}").modified == info_of(store, f"top/{name}").modified


def test_folders_of_a_data_lake_give_their_times(lake_place: RemotePlace, tmp_path: Path) -> None:
    store = filled(lake_place).store
    download(store, tmp_path, DownloadRequest("from", keep_times=True))
    for name in FOLDERS:
        told = info_of(store, f"from/{name}").modified
        assert (tmp_path / name).stat().st_mtime == told


def test_where_folders_are_only_names_they_have_nothing(blob_store: Any, tmp_path: Path) -> None:
    fill(blob_store, FILES)
    download(blob_store, tmp_path, DownloadRequest(keep_times=True))
    assert tree(tmp_path) == FILES


SETS = {"share": r"PUT \S+restype=directory&comp=properties", "lake": "PATCH .*setAccessControl"}
ASKS = {"share": r"HEAD \S+restype=directory", "lake": r"HEAD \S+getAccessControl"}


@pytest.mark.parametrize("keep", [PROPERTIES, TIMES])
@with_properties
def test_what_is_kept_of_folders_is_set_last_and_the_deepest_first(
    remote: RemotePlace, tmp_path: Path, keep: Keep
) -> None:
    if keep.times and remote.kind == "lake":
        keep = PROPERTIES
    source = source_of(tmp_path / "source")
    value = to_attribute(remote.store.capabilities.properties, GIVEN[remote.kind])
    for name in FOLDERS:
        os.setxattr(source / name, ATTRIBUTE, value)
    with remote.through() as seen:
        sent(seen.store, source, keep=keep)
        requests = seen.proxy.requests
    writes = [one for one in requests if one.startswith(("PUT", "PATCH"))]
    sets = [one.split("?")[0] for one in writes[-len(FOLDERS) :]]
    assert all(one.startswith(("PUT", "PATCH")) for one in sets)
    assert seen.proxy.count(SETS[remote.kind]) == len(FOLDERS)
    named = [one.partition(f"/{remote.name}/")[2].rstrip("/") for one in sets]
    assert sorted(named) == FOLDERS
    depths = [name.count("/") for name in named]
    assert depths == sorted(depths, reverse=True)


@with_properties
def test_without_the_option_no_folder_is_asked_about_or_made(
    remote: RemotePlace, tmp_path: Path
) -> None:
    source = source_of(tmp_path / "source")
    value = to_attribute(remote.store.capabilities.properties, GIVEN[remote.kind])
    for name in FOLDERS:
        os.setxattr(source / name, ATTRIBUTE, value)
    with remote.through() as seen:
        sent(seen.store, source, keep=NOTHING)
        download(seen.store, tmp_path / "got", DownloadRequest())
        for match in (SETS[remote.kind], ASKS[remote.kind], "empty"):
            assert seen.proxy.count(match) == 0
    assert folders(tmp_path / "got") == [name for name in FOLDERS if "empty" not in name]
    assert all(not os.listxattr(tmp_path / "got" / name) for name in folders(tmp_path / "got"))


@with_properties
def test_folders_that_are_there_are_left_alone_under_skip(
    remote: RemotePlace, tmp_path: Path
) -> None:
    store, given = remote.store, GIVEN[remote.kind]
    fill(store, {"a/b/file": b"there"})
    remote.make_folder("empty")
    before = {name: info_of(store, name).properties for name in ("a/b", "empty")}
    source = make_tree(tmp_path / "source", {"a/b/file": b"mine", "new/file": b"new"})
    value = to_attribute(store.capabilities.properties, given)
    for name in ("empty", "another"):
        (source / name).mkdir()
    for name in ("a", "a/b", "new", "empty", "another"):
        os.setxattr(source / name, ATTRIBUTE, value)
    sent(store, source, overwrite="skip")
    assert {name: info_of(store, name).properties for name in before} == before
    for name in ("new", "another"):
        assert info_of(store, name).properties == given
    got = make_tree(tmp_path / "got", {"a/b/file": b"here"})
    (got / "empty").mkdir()
    download(store, got, DownloadRequest(overwrite="skip", keep_properties=True))
    for name in ("a/b", "empty"):
        assert os.listxattr(got / name) == []
    assert attribute_of(got / "new")["properties"] == given
    assert attribute_of(got / "another")["properties"] == given


@with_properties
def test_a_folder_is_brought_in_line_though_its_files_are_unchanged(
    remote: RemotePlace, tmp_path: Path
) -> None:
    """So a transfer that was killed before its folders leaves them to the next one."""
    store, given = filled(remote).store, GIVEN[remote.kind]
    got = tmp_path / "got"
    download(store, got, DownloadRequest("from"))
    give(store, "from/a", Extras(properties=given))
    again = download(store, got, DownloadRequest("from", keep_properties=True))
    assert {row.action for row in again.rows} == {"unchanged"}
    assert attribute_of(got / "a")["properties"] == given
    give(store, "from/a", Extras(properties=info_of(store, "from/a-b").properties))
    report = sent(store, got, "from", overwrite="if_changed")
    assert {row.action for row in report.rows} == {"unchanged"}
    assert info_of(store, "from/a").properties == given


@with_properties
@pytest.mark.parametrize("value", [b"{", to_attribute("of another kind", {"a": "b"})])
def test_a_folder_without_properties_that_can_be_read_is_left_as_it_is(
    remote: RemotePlace, tmp_path: Path, value: bytes
) -> None:
    store, source = remote.store, make_tree(tmp_path / "source", FILES)
    fill(store, FILES)
    before = info_of(store, "a/b").properties
    os.setxattr(source / "a/b", ATTRIBUTE, value)
    outcome = attempt(lambda: sent(store, source))
    is_damaged = value == b"{"
    assert isinstance(outcome.error, StageFailed) == is_damaged
    failed = {path for path, action in outcome.actions.items() if action == "failed"}
    assert failed == ({"a/b/"} if is_damaged else set())
    if is_damaged:
        assert "the folder was left as it is" in outcome.row("a/b/").detail
    assert info_of(store, "a/b").properties == before
    assert stored(store) == FILES


@with_properties
def test_what_no_folder_can_have_is_never_sent(remote: RemotePlace, tmp_path: Path) -> None:
    store = filled(remote).store
    wrong = {
        "share": [{"attributes": "Directory\r\nx: y"}, {"owner": "x"}, {"permission": "inherit"}],
        "lake": [{"acl": "default:user::rwx\r\n"}, {"acl": "other:user::rwx"}, {"attributes": "x"}],
    }
    for properties in wrong[remote.kind]:
        with pytest.raises(TransferError, match=r"none that a folder of a .* can have"):
            give(store, "from/a", Extras(properties=properties))


@with_properties
def test_a_service_that_refuses_to_tell_of_a_folder_fails_that_folder(
    remote: RemotePlace, tmp_path: Path
) -> None:
    filled(remote)
    match = ASKS[remote.kind].replace(r"\S+", r"\S+/from/a/b\?\S*")
    with remote.through(Fault(match, "answer", times=None, status=400)) as seen:
        request = DownloadRequest("from", keep_properties=True)
        outcome = attempt(lambda: download(seen.store, tmp_path / "got", request))
    assert {path for path, action in outcome.actions.items() if action != "moved"} == {"a/b/"}
    assert tree(tmp_path / "got") == FILES
    assert attribute_of(tmp_path / "got/a")["version"] == 1


@with_properties
def test_an_empty_folder_whose_making_was_not_answered_is_ours(
    remote: RemotePlace, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "empty").mkdir(parents=True)
    value = to_attribute(remote.store.capabilities.properties, GIVEN[remote.kind])
    os.setxattr(source / "empty", ATTRIBUTE, value)
    with remote.through(Fault(r"PUT \S+/empty\?", "lose")) as seen:
        sent(seen.store, source, overwrite="skip")
    assert info_of(remote.store, "empty").properties == GIVEN[remote.kind]


@pytest.mark.parametrize("kept", ["local", "share", "lake"], indirect=True)
def test_a_folder_where_an_object_stands_fails_alone(kept: Place, tmp_path: Path) -> None:
    fill(kept.store, {"empty": b"a file"})
    source = make_tree(tmp_path / "source", {"other": b"other"})
    (source / "empty").mkdir()
    keep = TIMES if kept.kind == "local" else PROPERTIES
    outcome = attempt(lambda: sent(kept.store, source, keep=keep))
    assert outcome.actions == {"other": "moved", "empty/": "failed"}
    assert stored(kept.store) == {"empty": b"a file", "other": b"other"}


def test_names_of_empty_folders_are_looked_at_before_anything_moves(
    share_store: Any, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "source", {"file": b"x"})
    (source / "not:possible").mkdir()
    with pytest.raises(UnsafeName, match="not:possible"):
        sent(share_store, source)
    (source / "not:possible").rmdir()
    for name in ("Same", "same"):
        (source / name).mkdir()
    with pytest.raises(NameCollision):
        sent(share_store, source)
    assert names_below(share_store) == []


def test_an_empty_folder_that_is_not_wanted_stops_nothing(share_store: Any, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", {"file": b"x"})
    (source / "not\\possible").mkdir()
    sent(share_store, source, keep=NOTHING)
    assert names_below(share_store) == ["file"]
    with pytest.raises(UnsafeName, match="possible"):
        sent(share_store, source)


def test_globs_choose_empty_folders_too(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    assert list(folder_source(source).folders) == ["empty/er"]
    assert list(folder_source(source, include=["*.csv"]).folders) == []
    assert list(folder_source(source, exclude=["empty"]).folders) == []
    assert list(folder_source(source, include=["empty"]).folders) == ["empty/er"]


def test_a_link_where_a_folder_was_is_not_followed(tmp_path: Path) -> None:
    outside = make_tree(tmp_path / "outside", {"x": b"x"})
    make_tree(tmp_path / "root", {"a/b/x": b"x"})
    plant_link(tmp_path / "root/a/b", outside)
    before = outside.stat().st_mtime_ns
    with Folder(tmp_path / "root") as folder:
        for act in (
            lambda: folder.describe_directory(RelativePath("a/b"), MOMENT, attribute=b"x"),
            lambda: folder.directory(RelativePath("a/b")),
        ):
            with pytest.raises(UnsafeName, match="symbolic link"):
                act()
    assert outside.stat().st_mtime_ns == before
    assert os.listxattr(outside) == []


# Which folders there are.


@given(
    st.lists(st.text("ab-", min_size=1, max_size=2), min_size=1, max_size=4).map("/".join)
    | st.just("x"),
    st.lists(
        st.lists(st.text("ab-", min_size=1, max_size=2), min_size=1, max_size=4).map("/".join),
        max_size=12,
        unique=True,
    ),
)
def test_every_folder_is_found_once_and_after_those_in_it(prefix: str, names: list[str]) -> None:
    found = [
        FolderPlace(RelativePath(name), ObjectName(f"{prefix}/{name}")) for name in sorted(names)
    ]
    given = list(above(found))
    wanted = {
        name.rsplit("/", depth)[0] for name in names for depth in range(1, name.count("/") + 1)
    }
    assert sorted(str(place.path) for place in given) == sorted(wanted)
    assert all(place.name == f"{prefix}/{place.path}" for place in given)
    for number, place in enumerate(given):
        assert not any(
            str(later.path).startswith(f"{place.path}/") for later in given[number + 1 :]
        )


def test_many_folders_are_on_disk(
    share_place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool.Spool.__init__, "__defaults__", (3,))
    monkeypatch.setattr(spool, "_BLOCK", 2)
    source = make_tree(
        tmp_path / "source", {f"{n}/{m}/x": b"x" for n in range(4) for m in range(3)}
    )
    for folder in folders(source):
        os.utime(source / folder, ns=(MOMENT, MOMENT))
    sent(share_place.store, source, keep=TIMES)
    download(share_place.store, tmp_path / "got", DownloadRequest(keep_times=True))
    times = {(tmp_path / "got" / name).stat().st_mtime_ns for name in folders(tmp_path / "got")}
    assert times == {MOMENT // 1000 * 1000}


def test_folders_of_a_local_datastore_have_their_times(
    new_place: Callable[[str], Any], tmp_path: Path
) -> None:
    place: LocalPlace = new_place("local")
    made = place.datastore()
    source = source_of(tmp_path / "source")
    made.upload(source, "top", show_progress=False, keep_times=True)
    made.download(tmp_path / "got", "top", show_progress=False, keep_times=True)
    for name, moment in moments(FOLDERS).items():
        for root in (place.root, tmp_path / "got"):
            assert (root / "top" / name).stat().st_mtime_ns == moment // 1000 * 1000
