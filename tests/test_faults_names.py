"""Names that would leave their place, collide, or stand for folders; `docs/faults.md` numbers them."""

import http.client
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from oracle import attempt, check, fill, stored
from places import BlobPlace, RemotePlace
from servers.faults import Fault, FaultyProxy, Reply
from small_stores import folders, make_tree, tree

from prefect_datastores.errors import NameCollision, UnsafeName
from prefect_datastores.files import Folder
from prefect_datastores.names import NameRules
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.plan import Overwrite
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.testing import names_below, put

RULES: list[Overwrite] = ["fail", "skip", "replace", "if_changed"]


def beside_listings(proxy: FaultyProxy) -> list[str]:
    """What was asked beside pages of a listing."""
    return [request for request in proxy.requests if "comp=list" not in request]


HARMLESS = ("%2e%2e/z", "%2F")
HOSTILE = {
    "%2E%2E%2Fx": "../x",
    "a%2F%2E%2E%2F%2E%2E%2Fy": "a/../../y",
    "%2Fabs": "/abs",
    "%2E%2E%5Cw": "..\\w",
    "c%2F%2E": "c/.",
}


def plant(place: BlobPlace, raw: str) -> None:
    """Store a blob under a name as it goes over the wire, which no SDK would send."""
    server = place.server
    with closing(http.client.HTTPConnection(server.host, server.port)) as connection:
        path = f"/{server.account}/{place.name}/{raw}?{place.sas()}"
        connection.request("PUT", path, b"planted", {"x-ms-blob-type": "BlockBlob"})
        assert connection.getresponse().status == 201


@pytest.mark.parametrize("rule", RULES)
def test_planted_names_are_all_told_and_nothing_is_written_anywhere(
    blob_place: BlobPlace, tmp_path: Path, rule: Overwrite
) -> None:
    """Only where there are no folders does the service itself hold such names."""
    for raw in (*HOSTILE, *map(quote, HARMLESS)):
        plant(blob_place, raw)
    destination = make_tree(tmp_path / "deep" / "er", {"old": b"old"})
    before = tree(tmp_path)
    with blob_place.through(sas_token=blob_place.sas()) as seen:
        listed = set(names_below(seen.store))
        # Azurite takes a backslash for a slash, as the service does.
        assert {*HARMLESS, "../x", "a/../../y", "/abs", "c/."} <= listed
        request = DownloadRequest(overwrite=rule)
        outcome = attempt(lambda: download(seen.store, destination, request))
        assert beside_listings(seen.proxy) == []
    assert isinstance(outcome.error, UnsafeName)
    for name in listed - set(HARMLESS):
        assert repr(name) in str(outcome.error)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("told", HOSTILE.values())
def test_a_hostile_name_in_a_listing_is_told_and_nothing_is_written_anywhere(
    remote: RemotePlace, tmp_path: Path, told: str
) -> None:
    put(remote.store, "harmless")
    destination = make_tree(tmp_path / "deep" / "er", {"old": b"old"})
    before = tree(tmp_path)

    def change(reply: Reply) -> Reply:
        assert b"<Name>harmless<" in reply.body
        named = f"<Name>{told}<".encode()
        return replace(reply, body=reply.body.replace(b"<Name>harmless<", named))

    with remote.through(Fault("comp=list", "change", times=None, change=change)) as seen:
        request = DownloadRequest(overwrite="replace")
        outcome = attempt(lambda: download(seen.store, destination, request))
        assert beside_listings(seen.proxy) == []
    assert isinstance(outcome.error, UnsafeName)
    assert repr(told) in str(outcome.error)
    assert tree(tmp_path) == before


def test_percent_signs_in_names_are_literal_on_both_sides(
    store: ObjectStore, tmp_path: Path
) -> None:
    new = dict.fromkeys(HARMLESS, b"planted")
    fill(store, new)
    assert stored(store) == new
    outcome = attempt(lambda: download(store, tmp_path / "to", DownloadRequest()))
    check(outcome, {}, new, tree(tmp_path / "to"))
    outcome = attempt(lambda: upload(store, folder_source(tmp_path / "to"), "", "replace"))
    assert outcome.actions == dict.fromkeys(new, "moved")
    assert stored(store) == new


WAYS_OUT = ["..", "../other/secret", "a/../../other/secret", "..\\other\\secret", "a\x00b"]


@pytest.mark.parametrize("path", WAYS_OUT)
def test_a_datastore_with_a_sas_asks_nothing_of_another_container(
    remote: RemotePlace, tmp_path: Path, path: str
) -> None:
    source = make_tree(tmp_path / "source", {"file": b"content"})
    with remote.through() as seen:
        store: Any = remote.datastore(seen.ports, auth={"sas_token": remote.sas()})
        for way in (
            lambda: store.path(path),
            lambda: store.download(tmp_path / "to", prefix=path),
            lambda: store.upload(source, path, overwrite="replace"),
            lambda: store.upload_files([source / "file"], source, path),
            lambda: store.read_path(path),
            lambda: store.write_path(path, b"content"),
            lambda: store.get_directory(path, str(tmp_path / "to")),
            lambda: store.put_directory(str(source), path),
            lambda: store.list_objects(path),
            lambda: store.exists(path),
        ):
            with pytest.raises(UnsafeName):
                way()
        assert seen.proxy.requests == []


# Names that would be one.

CAFES = {"caf\u00e9": b"1", "cafe\u0301": b"2"}
HELD = [
    # Only without folders is a file that is a folder too; shares do not tell cases apart.
    (["blob"], NameRules(), {"a": b"1", "a/b": b"2"}),
    (["blob", "lake"], NameRules(case_sensitive=False), {"A": b"1", "a": b"2"}),
    (["blob", "lake"], NameRules(case_sensitive=False), {"D/x": b"1", "d/y": b"2"}),
    (["blob", "lake"], NameRules(case_sensitive=False), {"stra\u00dfe": b"1", "STRASSE": b"2"}),
    (["blob", "lake", "share"], NameRules(normalizes_unicode=True), CAFES),
]
AS_ONE = [(kind, rules, content) for kinds, rules, content in HELD for kind in kinds]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("remote", "rules", "content"), AS_ONE, indirect=["remote"])
def test_objects_that_would_be_one_file_stop_a_download_before_any_byte(
    remote: RemotePlace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rules: NameRules,
    content: Mapping[str, bytes],
    rule: Overwrite,
) -> None:
    # As on a disk that takes such names for one; what a disk does is found by trying.
    monkeypatch.setattr(Folder, "rules", lambda _: rules)
    fill(remote.store, content)
    with remote.through() as seen:
        request = DownloadRequest(overwrite=rule)
        outcome = attempt(lambda: download(seen.store, tmp_path / "to", request))
        assert beside_listings(seen.proxy) == []
    assert isinstance(outcome.error, NameCollision)
    check(outcome, {}, dict(content), tree(tmp_path / "to"))


@pytest.mark.parametrize(
    ("remote", "cases"), [("blob", True), ("lake", True), ("share", False)], indirect=["remote"]
)
def test_names_that_differ_are_no_collision_where_the_disk_tells_them_apart(
    remote: RemotePlace, tmp_path: Path, cases: bool
) -> None:
    content = {**CAFES, **({"A": b"3", "a": b"4"} if cases else {})}
    fill(remote.store, content)
    with Folder(tmp_path) as folder:
        if folder.rules() != NameRules():
            pytest.skip("this disk takes some of them for one")
    outcome = attempt(lambda: download(remote.store, tmp_path / "to", DownloadRequest()))
    check(outcome, {}, content, tree(tmp_path / "to"))


# Files whose names no service holds.


@pytest.mark.parametrize("rule", RULES)
def test_files_that_no_object_can_be_are_refused_all_at_once(
    remote: RemotePlace, tmp_path: Path, rule: Overwrite
) -> None:
    long = "/".join(["y" * 200] * 4)
    content = {"x.": b"1", "x": b"2", "dir./f": b"3", long: b"4", "good": b"5"}
    source = make_tree(tmp_path / "source", content)
    with remote.through() as seen:
        outcome = attempt(lambda: upload(seen.store, folder_source(source), "z" * 250, rule))
        assert seen.proxy.requests == []
    assert isinstance(outcome.error, UnsafeName)
    for name in ("x.", "dir./f", long):
        assert f"{'z' * 250}/{name}" in str(outcome.error)
    assert "good" not in str(outcome.error)
    # Those that no store at all may see are told before there is a plan.
    make_tree(tmp_path / "other", {"a\\b": b"1", "a/b": b"2", "c\\d": b"3"})
    with pytest.raises(UnsafeName) as caught:
        folder_source(tmp_path / "other")
    assert repr("a\\b") in str(caught.value)
    assert repr("c\\d") in str(caught.value)


@pytest.mark.parametrize("remote", ["blob", "lake"], indirect=True)  # a share holds none either
def test_an_object_whose_component_no_disk_holds_stops_a_download(
    remote: RemotePlace, tmp_path: Path
) -> None:
    put(remote.store, "d/" + "x" * 256)
    put(remote.store, "good")
    with remote.through() as seen:
        outcome = attempt(lambda: download(seen.store, tmp_path / "to", DownloadRequest()))
        assert beside_listings(seen.proxy) == []
    assert isinstance(outcome.error, UnsafeName)
    assert tree(tmp_path / "to") == {}


def test_a_prefix_brings_its_own_files_empty_ones_and_folders_and_no_other(
    remote: RemotePlace, tmp_path: Path
) -> None:
    new = {"1": b"1", "empty": b"", "sub/empty": b""}
    fill(remote.store, {"p1/x": b"no", "p.txt": b"no", "q/p/x": b"no"})
    fill(remote.store, {f"p/{name}": data for name, data in new.items()})
    remote.make_folder("p/t")
    outcome = attempt(lambda: download(remote.store, tmp_path / "to", DownloadRequest("p")))
    check(outcome, {}, new, tree(tmp_path / "to"))
    assert folders(tmp_path / "to") == ["sub", "t"]
