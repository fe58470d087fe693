"""Names that would leave their place, collide, or stand for folders; `docs/faults.md` numbers them."""

import http.client
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from azure.storage.blob import ContainerClient, ContainerSasPermissions, generate_container_sas
from oracle import attempt, check, stored, through
from servers.azurite import Azurite
from servers.faults import FaultyProxy
from small_stores import SmallBlobStore, folders, make_tree, tree

from prefect_datastores import AzureBlobDatastore
from prefect_datastores.errors import NameCollision, UnsafeName
from prefect_datastores.files import Folder
from prefect_datastores.names import NameRules
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.plan import Overwrite
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.testing import names_below, put

RULES: list[Overwrite] = ["fail", "skip", "replace", "if_changed"]


@pytest.fixture
def direct(azurite: Azurite, container: ContainerClient) -> Iterator[SmallBlobStore]:
    with closing(
        SmallBlobStore(azurite.url, container.container_name, account_key=azurite.key)
    ) as store:
        yield store


@pytest.fixture
def sas(azurite: Azurite, container: ContainerClient) -> str:
    return generate_container_sas(
        azurite.account,
        container.container_name,
        account_key=azurite.key,
        permission=ContainerSasPermissions(read=True, write=True, list=True, delete=True),
        expiry=datetime.now(timezone.utc) + timedelta(hours=1),
    )


def beside_listings(proxy: FaultyProxy) -> list[str]:
    """What was asked beside pages of a listing."""
    return [request for request in proxy.requests if "comp=list" not in request]


def plant(azurite: Azurite, container: ContainerClient, raw: str, sas: str) -> None:
    """Store a blob under a name as it goes over the wire, which no SDK would send."""
    with closing(http.client.HTTPConnection(azurite.host, azurite.port)) as connection:
        path = f"/{azurite.account}/{container.container_name}/{raw}?{sas}"
        connection.request("PUT", path, b"planted", {"x-ms-blob-type": "BlockBlob"})
        assert connection.getresponse().status == 201


HOSTILE = {
    "%2E%2E%2Fx": "../x",
    "a%2F%2E%2E%2F%2E%2E%2Fy": "a/../../y",
    "%2Fabs": "/abs",
    "%2E%2E%5Cw": "..\\w",
    "c%2F%2E": "c/.",
}
HARMLESS = {"%252e%252e%2Fz": "%2e%2e/z", "%252F": "%2F"}


@pytest.mark.parametrize("rule", RULES)
def test_planted_names_are_all_told_and_nothing_is_written_anywhere(
    azurite: Azurite, container: ContainerClient, sas: str, tmp_path: Path, rule: Overwrite
) -> None:
    for raw in (*HOSTILE, *HARMLESS):
        plant(azurite, container, raw, sas)
    destination = make_tree(tmp_path / "deep" / "er", {"old": b"old"})
    before = tree(tmp_path)
    with through(azurite, container, sas_token=sas) as seen:
        listed = set(names_below(seen.store))
        # Azurite takes a backslash for a slash, as the service does.
        assert {*HARMLESS.values(), "../x", "a/../../y", "/abs", "c/."} <= listed
        request = DownloadRequest(overwrite=rule)
        outcome = attempt(lambda: download(seen.store, destination, request))
        assert beside_listings(seen.proxy) == []
    assert isinstance(outcome.error, UnsafeName)
    for name in listed - set(HARMLESS.values()):
        assert repr(name) in str(outcome.error)
    assert tree(tmp_path) == before


def test_percent_signs_in_names_are_literal_on_both_sides(
    azurite: Azurite,
    container: ContainerClient,
    direct: SmallBlobStore,
    sas: str,
    tmp_path: Path,
) -> None:
    for raw in HARMLESS:
        plant(azurite, container, raw, sas)
    new = dict.fromkeys(HARMLESS.values(), b"planted")
    outcome = attempt(lambda: download(direct, tmp_path / "to", DownloadRequest()))
    check(outcome, {}, new, tree(tmp_path / "to"))
    outcome = attempt(lambda: upload(direct, folder_source(tmp_path / "to"), "", "replace"))
    assert outcome.actions == dict.fromkeys(new, "moved")
    assert stored(direct) == new


WAYS_OUT = ["..", "../other/secret", "a/../../other/secret", "..\\other\\secret", "a\x00b"]


@pytest.mark.parametrize("path", WAYS_OUT)
def test_a_datastore_with_a_sas_asks_nothing_of_another_container(
    azurite: Azurite, container: ContainerClient, sas: str, tmp_path: Path, path: str
) -> None:
    source = make_tree(tmp_path / "source", {"file": b"content"})
    with through(azurite, container) as seen:
        store = AzureBlobDatastore(
            account_name=azurite.account,
            container_name=container.container_name,
            auth={"sas_token": sas},
            protocol="http",
            endpoint=f"127.0.0.1:{seen.proxy.port}",
        )
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

AS_ONE = [
    (NameRules(), {"a": b"1", "a/b": b"2"}),
    (NameRules(case_sensitive=False), {"A": b"1", "a": b"2"}),
    (NameRules(case_sensitive=False), {"D/x": b"1", "d/y": b"2"}),
    (NameRules(normalizes_unicode=True), {"caf\u00e9": b"1", "cafe\u0301": b"2"}),
    (NameRules(case_sensitive=False), {"stra\u00dfe": b"1", "STRASSE": b"2"}),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("rules", "content"), AS_ONE)
def test_objects_that_would_be_one_file_stop_a_download_before_any_byte(
    azurite: Azurite,
    container: ContainerClient,
    direct: SmallBlobStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rules: NameRules,
    content: Mapping[str, bytes],
    rule: Overwrite,
) -> None:
    # As on a disk that takes such names for one; what a disk does is found by trying.
    monkeypatch.setattr(Folder, "rules", lambda _: rules)
    for name, data in content.items():
        put(direct, name, data)
    with through(azurite, container) as seen:
        request = DownloadRequest(overwrite=rule)
        outcome = attempt(lambda: download(seen.store, tmp_path / "to", request))
        assert beside_listings(seen.proxy) == []
    assert isinstance(outcome.error, NameCollision)
    check(outcome, {}, dict(content), tree(tmp_path / "to"))


def test_names_that_differ_are_no_collision_where_the_disk_tells_them_apart(
    direct: SmallBlobStore, tmp_path: Path
) -> None:
    content = {"A": b"1", "a": b"2", "caf\u00e9": b"3", "cafe\u0301": b"4"}
    for name, data in content.items():
        put(direct, name, data)
    with Folder(tmp_path) as folder:
        if folder.rules() != NameRules():
            pytest.skip("this disk takes some of them for one")
    outcome = attempt(lambda: download(direct, tmp_path / "to", DownloadRequest()))
    check(outcome, {}, content, tree(tmp_path / "to"))


# Files whose names no service holds.


@pytest.mark.parametrize("rule", RULES)
def test_files_that_no_object_can_be_are_refused_all_at_once(
    azurite: Azurite, container: ContainerClient, tmp_path: Path, rule: Overwrite
) -> None:
    long = "/".join(["y" * 200] * 4)
    content = {"x.": b"1", "x": b"2", "dir./f": b"3", long: b"4", "good": b"5"}
    source = make_tree(tmp_path / "source", content)
    with through(azurite, container) as seen:
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


def test_an_object_whose_component_no_disk_holds_stops_a_download(
    azurite: Azurite, container: ContainerClient, direct: SmallBlobStore, tmp_path: Path
) -> None:
    put(direct, "d/" + "x" * 256)
    put(direct, "good")
    with through(azurite, container) as seen:
        outcome = attempt(lambda: download(seen.store, tmp_path / "to", DownloadRequest()))
        assert beside_listings(seen.proxy) == []
    assert isinstance(outcome.error, UnsafeName)
    assert tree(tmp_path / "to") == {}


def test_a_prefix_brings_its_own_files_empty_ones_and_folders_and_no_other(
    container: ContainerClient, direct: SmallBlobStore, tmp_path: Path
) -> None:
    new = {"1": b"1", "empty": b"", "sub/empty": b""}
    for name, data in {"p1/x": b"no", "p.txt": b"no", "q/p/x": b"no"}.items():
        put(direct, name, data)
    for name, data in new.items():
        put(direct, f"p/{name}", data)
    container.upload_blob("p/t/", b"")
    container.upload_blob("p/marked", b"", metadata={"Hdi_isfolder": "true"})
    outcome = attempt(lambda: download(direct, tmp_path / "to", DownloadRequest("p")))
    check(outcome, {}, new, tree(tmp_path / "to"))
    assert folders(tmp_path / "to") == ["marked", "sub", "t"]
