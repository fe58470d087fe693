"""The file system of Azure file shares: what is promised beyond what every file system of fsspec does."""

import hashlib
import io
import json
import pickle
import posixpath
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from azure.core.credentials import AccessToken
from azure.identity import ClientSecretCredential
from azure.storage.fileshare import ShareClient
from fsspec.core import url_to_fs
from servers.azure_files import AzureFiles

from prefect_datastores.errors import (
    AccessDenied,
    AuthenticationFailed,
    ConfigurationError,
    DatastoreError,
    IntegrityError,
    ServiceBusy,
    SourceChanged,
    UnsafeName,
)
from prefect_datastores.filesystems import AzureFileShareFileSystem
from prefect_datastores.filesystems import lanes as lanes_module
from prefect_datastores.stores.limit import Allowance
from prefect_datastores.stores.share import ShareStore

PART = lanes_module.PART
HIDDEN = ".pds-unfinished"


@pytest.fixture(autouse=True)
def _registered() -> None:
    for name in ("azurefile", "azfile"):
        fsspec.register_implementation(name, AzureFileShareFileSystem, clobber=True)


@pytest.fixture
def options(azure_files: AzureFiles) -> dict[str, Any]:
    return {
        "account_name": azure_files.account,
        "account_key": azure_files.key,
        "account_url": azure_files.url,
    }


@pytest.fixture
def fs(options: dict[str, Any], share: str) -> AzureFileShareFileSystem:
    return AzureFileShareFileSystem(**options, share_name=share, skip_instance_cache=True)


@pytest.fixture
def sdk(azure_files: AzureFiles, share: str) -> Iterator[ShareClient]:
    credential = {"account_name": azure_files.account, "account_key": azure_files.key}
    with ShareClient(azure_files.url, share, credential=credential) as client:
        yield client


def unfinished(fs: AzureFileShareFileSystem) -> list[str]:
    """What lies in the hidden folder, where nothing should stay."""
    return fs.ls(HIDDEN, detail=False, refresh=True) if fs.exists(HIDDEN) else []


def some_bytes(count: int) -> bytes:
    block = bytes(range(251)) * 4096
    return (block * (count // len(block) + 1))[:count]


# -- addresses ----------------------------------------------------------------------------------


def test_an_address_opens_a_file(options: dict[str, Any], share: str) -> None:
    with fsspec.open(f"azurefile://{share}/folder/a.txt", "w", **options) as file:
        file.write("text")
    with fsspec.open(f"azfile://{share}/folder/a.txt", "r", **options) as file:
        assert file.read() == "text"
    fs, path = url_to_fs(f"azurefile://{share}/folder", **options)
    assert path == f"{share}/folder"
    assert fs.ls(path, detail=False) == [f"{share}/folder/a.txt"]
    assert share in fs.ls("", detail=False)
    assert fs.isdir("")
    assert fs.unstrip_protocol(path) == f"azurefile://{share}/folder"


def test_paths_in_a_share_are_relative_to_it(
    fs: AzureFileShareFileSystem, options: dict[str, Any], share: str
) -> None:
    fs.pipe_file("folder/a.txt", b"text")
    for path in ("folder", "/folder/", "./folder", "folder//", f"azurefile://{share}/folder"):
        assert fs.ls(path, detail=False) == ["folder/a.txt"]
    assert fs.unstrip_protocol("folder/a.txt") == f"azurefile://{share}/folder/a.txt"
    whole = AzureFileShareFileSystem(**options)
    assert whole.cat_file(fs.unstrip_protocol("folder/a.txt")) == b"text"
    with pytest.raises(ConfigurationError, match="another share"):
        fs.cat_file("azurefile://another-share/folder/a.txt")


def test_no_protocol_of_ours_is_taken_by_another() -> None:
    from fsspec.registry import known_implementations

    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    specs = text.partition('[project.entry-points."fsspec.specs"]')[2].partition("[tool")[0]
    for name in AzureFileShareFileSystem.protocol:
        assert f'{name} = "prefect_datastores.filesystems:AzureFileShareFileSystem"' in specs
        known = known_implementations.get(name, {}).get("class", "prefect_datastores")
        assert known.startswith("prefect_datastores")


# -- what opens it ------------------------------------------------------------------------------


class Token:
    """Gives the token that the server takes."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *_: str, **__: Any) -> Any:
        return AccessToken(self._token, 2**40)


def sas_of(azure_files: AzureFiles) -> str:
    from azure.storage.fileshare import AccountSasPermissions, ResourceTypes, generate_account_sas

    return generate_account_sas(
        azure_files.account,
        azure_files.key,
        ResourceTypes(service=True, container=True, object=True),
        AccountSasPermissions(read=True, write=True, delete=True, list=True, create=True),
        datetime.now(timezone.utc) + timedelta(hours=1),
    )


@pytest.mark.parametrize("way", ["key", "sas", "token", "connection string", "endpoint"])
def test_every_way_to_sign_in_reads_writes_copies_and_moves(
    azure_files: AzureFiles, share: str, way: str
) -> None:
    account = {"account_name": azure_files.account, "account_url": azure_files.url}
    given: dict[str, dict[str, Any]] = {
        "key": {**account, "account_key": azure_files.key},
        "sas": {**account, "sas_token": sas_of(azure_files)},
        "token": {**account, "credential": Token(azure_files.token)},
        "connection string": {"connection_string": azure_files.connection_string},
        "endpoint": {
            "account_name": azure_files.account,
            "endpoint": azure_files.url,
            "account_key": azure_files.key,
        },
    }
    fs = AzureFileShareFileSystem(**given[way])
    fs.pipe_file(f"{share}/a/b.txt", b"text")
    fs.cp_file(f"{share}/a/b.txt", f"{share}/copy.txt")
    fs.mv(f"{share}/copy.txt", f"{share}/moved.txt")
    assert fs.cat_file(f"{share}/moved.txt") == b"text"
    assert share in fs.ls("", detail=False)
    fs.rm(f"{share}/a", recursive=True)
    assert fs.find(share) == [f"{share}/moved.txt"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "Give the account"),
        ({"account_name": "acme", "account_key": "aa==", "sas_token": "sig=b"}, "one way to sign"),
        ({"account_name": "acme", "credential": "a-key"}, "get_token"),
        ({"account_url": "https://acme.file.core.windows.net/?sig=abc"}, "without"),
        ({"connection_string": "AccountName=acme"}, "neither AccountKey"),
        ({"account_name": "No_Name"}, "3 to 24"),
    ],
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        AzureFileShareFileSystem(**wrong)


def test_a_credential_of_the_other_kind_is_refused() -> None:
    class Async:
        async def get_token(self, *_: str) -> None:
            pass

    with pytest.raises(ConfigurationError, match=r"azure\.identity\.aio"):
        AzureFileShareFileSystem("acme", credential=Async())


def test_the_machine_signs_in_where_nothing_is_given(
    azure_files: AzureFiles, share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("azure.identity.DefaultAzureCredential", lambda: Token(azure_files.token))
    fs = AzureFileShareFileSystem(
        azure_files.account, account_url=azure_files.url, skip_instance_cache=True
    )
    assert fs.ls(share) == []


def test_no_secret_is_shown_without_being_asked_for(azure_files: AzureFiles, share: str) -> None:
    text = azure_files.connection_string
    sas = sas_of(azure_files)
    for fs in (
        AzureFileShareFileSystem("acme", account_key=azure_files.key, share_name=share),
        AzureFileShareFileSystem("acme", sas_token=sas),
        AzureFileShareFileSystem(connection_string=text),
    ):
        shown = [
            *(repr(fs), str(fs), fs.to_json(), str(fs.to_dict()), repr(fs.storage_options)),
            *(repr(fs.__reduce__()), repr(pickle.loads(pickle.dumps(fs))), repr(vars(fs))),
            repr(fs._account),
        ]
        signature = sas.partition("sig=")[2]
        for secret in (azure_files.key, sas, signature):
            assert not [one for one in shown if secret in one]
        asked = fs.to_json(include_password=True)
        assert azure_files.key in asked or json.dumps(sas) in asked
        assert AzureFileShareFileSystem.from_json(asked) == fs


def test_a_credential_that_is_an_object_is_left_out_of_texts(azure_files: AzureFiles) -> None:
    fs = AzureFileShareFileSystem("acme", credential=Token(azure_files.token))
    assert "credential" not in fs.to_dict()
    assert azure_files.token not in fs.to_json()
    with pytest.raises(TypeError):
        fs.to_json(include_password=True)


def test_two_keys_are_two_file_systems(azure_files: AzureFiles) -> None:
    one = AzureFileShareFileSystem(account_name="acme", account_key=azure_files.key)
    again = fsspec.filesystem("azurefile", **one.storage_options)
    other_key = azure_files.key[:-4] + "AA=="
    other = AzureFileShareFileSystem(account_name="acme", account_key=other_key)
    assert one is again
    assert one != other
    assert pickle.loads(pickle.dumps(one)) == one
    assert pickle.loads(pickle.dumps(other)) == other


# -- names --------------------------------------------------------------------------------------

ODD = ["with space.txt", "per%20cent.txt", "hash#1.txt", "a+b&c=d.txt", "~tilde'.txt", "späße ☃.txt",
    "[x].txt", "{1}.txt", ".hidden", "semi;colon,comma.txt", "日本.txt"]  # fmt: skip


def test_odd_names_come_back_as_they_are(fs: AzureFileShareFileSystem, sdk: ShareClient) -> None:
    for name in ODD:
        fs.pipe_file(f"odd {name}/{name}", name.encode())
    assert fs.find("") == sorted(f"odd {name}/{name}" for name in ODD)
    for name in ODD:
        path = f"odd {name}/{name}"
        assert fs.cat_file(path) == name.encode()
        assert fs.info(path)["name"] == path
        assert sdk.get_file_client(path).download_file().readall() == name.encode()
        fs.cp_file(path, f"copies/{name}")
        fs.mv(f"copies/{name}", f"moved/{name}")
    assert fs.ls("moved", detail=False) == sorted(f"moved/{name}" for name in ODD)


@pytest.mark.parametrize(
    "name", ["a/../b", "..", "../other/a", "a\\b", "a:b", "a*b", "ends.", "a/ends./b"]
)
def test_names_that_cannot_be_are_never_written(fs: AzureFileShareFileSystem, name: str) -> None:
    with pytest.raises(UnsafeName):
        fs.pipe_file(name, b"text")
    with pytest.raises(UnsafeName):
        fs.mkdir(name)
    assert not fs.exists(name)
    with pytest.raises(FileNotFoundError):
        fs.info(name)
    assert fs.find("") == []


def test_names_are_found_whatever_the_case_of_their_letters(fs: AzureFileShareFileSystem) -> None:
    fs.pipe_file("Folder/Data.CSV", b"text")
    assert fs.cat_file("folder/data.csv") == b"text"
    assert fs.ls("FOLDER", detail=False) == ["FOLDER/Data.CSV"]
    fs.pipe_file("folder/data.csv", b"other")
    assert fs.find("") == ["Folder/Data.CSV"] or fs.find("") == ["Folder/data.csv"]
    assert fs.cat_file("Folder/Data.CSV") == b"other"
    with pytest.raises(FileExistsError):
        fs.mkdir("FOLDER")
    with pytest.raises(ConfigurationError, match="case"):
        fs.mv("Folder/data.csv", "Folder/DATA.csv")
    fs.ls("folder")
    fs.pipe_file("FOLDER/more.txt", b"")
    assert "folder/more.txt" in fs.ls("folder", detail=False)  # the listing that was kept is gone


# -- reading ------------------------------------------------------------------------------------


def test_slices_are_those_of_the_bytes(fs: AzureFileShareFileSystem) -> None:
    content = some_bytes(3 * PART + 17)
    fs.pipe_file("a", content)
    fs.pipe_file("empty", b"")
    for start, end in [(None, None), (0, 10), (5, None), (-7, None), (None, -7), (PART - 3, PART + 3),
        (10, 5), (0, 10**12), (10**12, None), (-(10**12), 4)]:  # fmt: skip
        assert fs.cat_file("a", start, end) == content[start:end]
        assert fs.cat_file("empty", start, end) == b""
    assert fs.head("a", 5) == content[:5]
    assert fs.tail("a", 5) == content[-5:]


def test_a_large_file_is_read_by_many_ranges_at_once(
    fs: AzureFileShareFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = some_bytes(6 * PART + 1)
    fs.pipe_file("large", content)
    meeting = threading.Barrier(4)
    read = ShareStore.read_into

    def read_together(self: ShareStore, name: Any, offset: int, *args: Any, **kwargs: Any) -> Any:
        if offset < 4 * PART:
            meeting.wait(60)  # is broken unless four of them are under way
        return read(self, name, offset, *args, **kwargs)

    monkeypatch.setattr(ShareStore, "read_into", read_together)
    assert fs.cat_file("large") == content


def test_ranges_are_read_at_once_and_say_what_failed(
    fs: AzureFileShareFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs.pipe({"a": b"0123456789", "b": b"abcdefghij"})
    found = fs.cat_ranges(["a", "missing", "b", "a"], [0, 0, -2, 4], [2, 2, None, 100])
    assert [found[0], *found[2:]] == [b"01", b"ij", b"456789"]
    assert isinstance(found[1], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(["a", "missing"], 0, 2, on_error="raise")
    with pytest.raises(ValueError, match="one length"):
        fs.cat_ranges(["a"], [0, 1], [1])
    meeting = threading.Barrier(3)
    read = ShareStore.read_into

    def read_together(self: ShareStore, *args: Any, **kwargs: Any) -> Any:
        meeting.wait(60)
        return read(self, *args, **kwargs)

    monkeypatch.setattr(ShareStore, "read_into", read_together)
    assert fs.cat_ranges(["a", "a", "b"], [0, 1, 2], [1, 2, 3]) == [b"0", b"1", b"c"]


def test_an_open_file_is_of_the_version_that_was_opened(fs: AzureFileShareFileSystem) -> None:
    fs.pipe_file("a", some_bytes(3 * PART))
    with fs.open("a", block_size=1024) as file:
        assert file.read(100) == some_bytes(100)
        fs.pipe_file("a", b"x" * (3 * PART))
        file.seek(2 * PART)
        with pytest.raises(SourceChanged):
            file.read(100)


def test_a_file_that_changes_while_it_is_fetched_leaves_the_local_one(
    fs: AzureFileShareFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs.pipe_file("a", some_bytes(3 * PART))
    (tmp_path / "a").write_text("before")
    head = ShareStore.head

    def change_after(self: ShareStore, name: Any) -> Any:
        found = head(self, name)
        monkeypatch.undo()
        fs.pipe_file("a", b"x" * (3 * PART))
        return found

    monkeypatch.setattr(ShareStore, "head", change_after)
    with pytest.raises(SourceChanged):
        fs.get_file("a", str(tmp_path / "a"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"


def test_what_is_not_as_its_md5_says_is_not_fetched(
    fs: AzureFileShareFileSystem, sdk: ShareClient, tmp_path: Path
) -> None:
    from azure.storage.fileshare import ContentSettings

    wrong = bytearray(hashlib.md5(b"other").digest())
    sdk.get_file_client("a").upload_file(
        b"text", content_settings=ContentSettings(content_md5=wrong)
    )
    with pytest.raises(IntegrityError, match="MD5"):
        fs.get_file("a", str(tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_pickled_while_open_stays_of_its_version(
    fs: AzureFileShareFileSystem,
) -> None:
    fs.pipe_file("a", b"0123456789")
    with fs.open("a") as file:
        file.seek(4)
        kept = pickle.dumps(file)
    assert pickle.loads(kept).read() == b"456789"
    fs.pipe_file("a", b"abcdefghij")
    with pytest.raises(SourceChanged):
        pickle.loads(kept)


def test_many_threads_read_and_write_with_one_file_system(fs: AzureFileShareFileSystem) -> None:
    content = some_bytes(PART + 5)

    def work(number: int) -> bool:
        path = f"folder {number % 3}/{number}"
        with fs.open(path, "wb") as file:
            file.write(content)
            file.write(str(number).encode())
        with fs.open(path) as file:
            whole = file.read()
        return whole == content + str(number).encode() and path in fs.find("")

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(24)))
    assert len(fs.find("")) == 24
    assert unfinished(fs) == []


# -- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 5 * PART, 17 * PART + 3])
def test_a_file_appears_whole_when_it_is_closed(
    fs: AzureFileShareFileSystem, sdk: ShareClient, size: int
) -> None:
    content = some_bytes(size)
    with fs.open("folder/a", "wb") as file:
        for at in range(0, size, 3 * PART // 2 + 1):
            file.write(content[at : at + 3 * PART // 2 + 1])
        assert file.tell() == size
        assert not fs.exists("folder/a")
    stored = sdk.get_file_client("folder/a")
    properties = stored.get_file_properties()
    assert properties.size == size
    assert bytes(properties.content_settings.content_md5) == hashlib.md5(content).digest()
    assert stored.download_file().readall() == content
    assert unfinished(fs) == []


@pytest.mark.parametrize("size", [10, 3 * PART])
@pytest.mark.parametrize("mode", ["wb", "xb", "w"])
def test_an_exception_leaves_nothing(fs: AzureFileShareFileSystem, size: int, mode: str) -> None:
    def fail() -> None:
        with fs.open("a", mode) as file:
            file.write("x" * size if mode == "w" else b"x" * size)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert fs.find("") == []
    assert unfinished(fs) == []


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_an_exception_leaves_nothing_by_address_too(
    options: dict[str, Any],
    share: str,
    fs: AzureFileShareFileSystem,
    mode: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fs.pipe_file("a", b"before")

    def fail() -> None:
        with fsspec.open(f"azurefile://{share}/a", mode, **options) as file:
            file.write("x" * 10 if mode == "w" else b"x" * 10)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert fs.cat_file("a") == b"before"
    assert "was not stored" in caplog.text


def test_a_file_that_is_written_while_an_exception_is_handled_is_stored(
    fs: AzureFileShareFileSystem,
) -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError as error:
        with fs.open("report", "w") as file:
            file.write(type(error).__name__)
    assert fs.cat_file("report") == b"ZeroDivisionError"


def test_a_file_that_is_never_closed_leaves_nothing(fs: AzureFileShareFileSystem) -> None:
    file = fs.open("a", "wb")
    file.write(b"x" * (2 * PART))
    del file
    assert fs.find("") == []
    assert unfinished(fs) == []


def test_a_part_that_cannot_be_written_fails_the_file_and_leaves_the_one_before(
    fs: AzureFileShareFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs.pipe_file("a", b"before")

    def fail(*_: Any) -> None:
        raise AccessDenied("the right to write ended")

    monkeypatch.setattr(ShareStore, "write_range", fail)
    with pytest.raises(PermissionError):
        fs.pipe_file("a", b"x" * (3 * PART))
    assert fs.cat_file("a") == b"before"
    assert unfinished(fs) == []


def test_only_a_new_file_is_made_by_x(fs: AzureFileShareFileSystem) -> None:
    with fs.open("a", "xb") as file:
        file.write(b"ours")
        fs.pipe_file("b", b"")
    with pytest.raises(FileExistsError):
        fs.open("a", "xb")
    file = fs.open("c", "xb")
    file.write(b"ours")
    fs.pipe_file("c", b"theirs")
    with pytest.raises(FileExistsError):
        file.close()
    assert fs.cat(["a", "c"]) == {"a": b"ours", "c": b"theirs"}
    assert unfinished(fs) == []


@pytest.mark.parametrize("before", [None, 0, 10, 2 * PART + 7])
@pytest.mark.parametrize("more", [0, 5, PART + 5])
def test_what_is_appended_shows_at_once(
    fs: AzureFileShareFileSystem, before: int | None, more: int
) -> None:
    first, second = some_bytes(before or 0), b"y" * more
    if before is not None:
        fs.pipe_file("a", first)
    with fs.open("a", "ab") as file:
        assert file.tell() == len(first)
        file.write(second)
        assert fs.exists("a") == (before is not None)
    assert fs.cat_file("a") == first + second
    assert unfinished(fs) == []


def test_nothing_is_appended_to_a_file_that_changed(fs: AzureFileShareFileSystem) -> None:
    fs.pipe_file("a", b"before")
    file = fs.open("a", "ab")
    file.write(b" and after")
    fs.pipe_file("a", b"theirs")
    with pytest.raises(FileExistsError):
        file.close()
    assert fs.cat_file("a") == b"theirs"
    assert unfinished(fs) == []


def test_files_of_a_transaction_appear_together_or_not(fs: AzureFileShareFileSystem) -> None:
    with fs.transaction:
        fs.pipe_file("a", b"small")
        with fs.open("b", "wb") as file:
            file.write(b"x" * (2 * PART))
        assert fs.find("") == []
    assert fs.find("", detail=False) == ["a", "b"]

    def fail() -> None:
        with fs.transaction:
            fs.pipe_file("a", b"other")
            with fs.open("c", "wb") as file:
                file.write(b"x" * (2 * PART))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert fs.cat_file("a") == b"small"
    assert fs.find("") == ["a", "b"]
    assert unfinished(fs) == []


def test_a_rename_whose_answer_was_lost_is_not_an_error(
    fs: AzureFileShareFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs.pipe({"a": b"text", "folder/b": b"text"})
    renaming, lost = ShareStore.renaming, []

    def lose(self: ShareStore, name: str, to: str, **kwargs: Any) -> Any:
        told = yield from renaming(self, name, to, **kwargs)
        if to not in lost:
            lost.append(to)
            raise ServiceBusy("the connection broke")
        return told

    monkeypatch.setattr(ShareStore, "renaming", lose)
    fs.mv("a", "moved")
    fs.mv("folder", "other")
    with fs.open("written", "wb") as file:
        file.write(b"x" * (PART + 1))
    assert lost == ["moved", "other", "written"]
    assert fs.find("") == ["moved", "other/b", "written"]


# -- folders, copies and moves ------------------------------------------------------------------


def test_folders_are_made_and_removed_one_by_one(fs: AzureFileShareFileSystem) -> None:
    with pytest.raises(FileNotFoundError):
        fs.mkdir("a/b", create_parents=False)
    fs.mkdir("a/b")
    fs.pipe_file("file", b"")
    assert fs.info("a/b") == {"name": "a/b", "size": 0, "type": "directory"}
    assert fs.ls("a") == [fs.info("a/b")]
    assert fs.ls("a/b") == []
    with pytest.raises(FileExistsError):
        fs.mkdir("a/b")
    with pytest.raises(FileExistsError):
        fs.makedirs("a/b")
    fs.makedirs("a/b", exist_ok=True)
    with pytest.raises(FileExistsError):
        fs.makedirs("file", exist_ok=True)
    with pytest.raises(NotADirectoryError):
        fs.mkdir("file/below")
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir("a")
    with pytest.raises(NotADirectoryError):
        fs.rmdir("file")
    with pytest.raises(FileNotFoundError):
        fs.rmdir("missing")
    fs.rmdir("a/b")
    fs.rmdir("a")
    assert fs.find("", withdirs=True) == ["file"]


def test_errors_are_those_of_a_disk(fs: AzureFileShareFileSystem, share: str) -> None:
    fs.pipe_file("folder/file", b"text")
    for work in (fs.info, fs.ls, fs.cat_file, fs.rm_file, fs.rm, fs.created, fs.ukey, fs.open):
        with pytest.raises(FileNotFoundError):
            work("missing")
    for work in (fs.cat_file, fs.rm_file, fs.rm, fs.open, fs.ukey):
        with pytest.raises(IsADirectoryError):
            work("folder")
    with pytest.raises(IsADirectoryError):
        fs.pipe_file("folder", b"text")
    with pytest.raises(NotADirectoryError):
        fs.pipe_file("folder/file/below", b"text")
    with pytest.raises(IsADirectoryError):
        fs.pipe_file("", b"text")
    for path in ("", "/"):
        with pytest.raises(PermissionError):
            fs.rm(path, recursive=True)
    assert fs.ls("folder/file") == [fs.info("folder/file")]
    assert fs.find("folder/file") == ["folder/file"]
    assert fs.find("missing") == []
    assert unfinished(fs) == []


def test_what_is_not_known_is_not_said_to_be_absent(options: dict[str, Any], share: str) -> None:
    wrong = AzureFileShareFileSystem(**{**options, "account_key": "AAAA" * 22})
    for work in (wrong.exists, wrong.isfile, wrong.isdir, wrong.find, wrong.glob):
        with pytest.raises(AuthenticationFailed):
            work(f"{share}/a*" if work == wrong.glob else f"{share}/a")
    with pytest.raises(PermissionError):
        wrong.cat_file(f"{share}/a")
    right = AzureFileShareFileSystem(**options)
    assert not right.exists("no-such-share/a")
    with pytest.raises(FileNotFoundError):
        right.ls("no-such-share")
    with pytest.raises(DatastoreError):
        right.pipe_file("no-such-share/a", b"")


def test_a_share_is_made_like_a_folder(options: dict[str, Any], share: str) -> None:
    fs = AzureFileShareFileSystem(**options)
    with pytest.raises(FileExistsError):
        fs.mkdir(share)
    fs.makedirs(share, exist_ok=True)
    fs.mkdir(f"{share}-more")
    assert fs.ls(f"{share}-more") == []
    with pytest.raises(PermissionError):
        fs.rm(f"{share}-more", recursive=True)
    fs.pipe_file(f"{share}/a", b"text")
    fs.mv(f"{share}/a", f"{share}-more/a")  # between shares: a copy by the service, and a delete
    assert not fs.exists(f"{share}/a")
    assert fs.cat_file(f"{share}-more/a") == b"text"


def test_a_copy_is_made_by_the_service(
    fs: AzureFileShareFileSystem, sdk: ShareClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = some_bytes(2 * PART + 1)
    fs.pipe({"a": content, "b": b"other"})

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("no content travels")

    for name in ("read_into", "begin_read", "write_range"):
        monkeypatch.setattr(ShareStore, name, never)
    fs.cp_file("a", "new/folder/copy")
    fs.cp_file("a", "b")
    monkeypatch.undo()
    properties = sdk.get_file_client("new/folder/copy").get_file_properties()
    assert bytes(properties.content_settings.content_md5) == hashlib.md5(content).digest()
    assert fs.cat_file("new/folder/copy") == fs.cat_file("b") == content
    with pytest.raises(IsADirectoryError):
        fs.cp_file("a", "new")
    assert unfinished(fs) == []


def test_a_file_that_changes_while_it_is_copied_is_an_error(
    fs: AzureFileShareFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs.pipe({"a": b"text", "b": b"before"})
    copy = ShareStore.copy

    def change_after(self: ShareStore, *args: Any) -> Any:
        told = copy(self, *args)
        fs.pipe_file("a", b"changed")
        return told

    monkeypatch.setattr(ShareStore, "copy", change_after)
    with pytest.raises(SourceChanged):
        fs.cp_file("a", "b")
    assert fs.cat_file("b") == b"before"
    assert unfinished(fs) == []


def test_a_move_is_one_step(fs: AzureFileShareFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    fs.pipe({"folder/a": b"a", "folder/deep/b": b"b", "c": b"c", "d": b"d"})

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is copied or deleted")

    for name in ("copy", "delete", "read_into"):
        monkeypatch.setattr(ShareStore, name, never)
    fs.mv("folder", "new/place")
    fs.mv("c", "d")  # replaced
    fs.mv("d", "new/")  # into it
    monkeypatch.undo()
    assert fs.find("") == ["new/d", "new/place/a", "new/place/deep/b"]
    assert fs.cat_file("new/d") == b"c"
    fs.mkdir("there")
    fs.mv("new/place", "there")
    assert fs.find("there") == ["there/place/a", "there/place/deep/b"]
    fs.mv("there/place/*", "flat/", recursive=True)
    assert fs.find("") == ["flat/a", "flat/deep/b", "new/d"]
    fs.mv(["flat/a", "flat/deep/b"], ["1", "2"])
    assert fs.cat(["1", "2"]) == {"1": b"a", "2": b"b"}
    with pytest.raises(FileNotFoundError):
        fs.mv("missing", "x")
    with pytest.raises(ConfigurationError, match="in itself"):
        fs.mv("new", "new/below")


def test_a_tree_is_removed_with_all_below_it(fs: AzureFileShareFileSystem) -> None:
    for number in range(30):
        fs.pipe_file(f"tree/{number % 4}/{number % 3}/{number}", b"")
    fs.mkdir("tree/empty/deep")
    fs.pipe_file("treetop", b"")
    with pytest.raises(IsADirectoryError):
        fs.rm("tree")
    fs.rm("tree", recursive=True)
    assert fs.find("", withdirs=True) == ["treetop"]
    fs.pipe({"a1": b"", "a2": b"", "b": b""})
    fs.rm("a*")
    assert fs.find("") == ["b", "treetop"]


def test_find_walk_and_glob_see_the_same(fs: AzureFileShareFileSystem) -> None:
    files = [f"data/{day}/{part}.csv" for day in range(5) for part in range(4)]
    for file in files:
        fs.pipe_file(file, b"12345")
    assert fs.find("data") == sorted(files)
    walked = [posixpath.join(at, one) for at, _, found in fs.walk("data") for one in found]
    assert sorted(walked) == sorted(files)
    assert fs.glob("data/*/1.csv") == [f"data/{day}/1.csv" for day in range(5)]
    assert fs.glob("data/**/3.csv") == [f"data/{day}/3.csv" for day in range(5)]
    assert fs.find("", maxdepth=1, withdirs=True) == ["data"]
    assert fs.find("data", maxdepth=1, withdirs=True) == ["data", *(f"data/{n}" for n in range(5))]
    assert fs.du("data") == 100
    assert fs.du("data/0", total=False) == {f"data/0/{part}.csv": 5 for part in range(4)}
    assert all(fs.find("data", detail=True)[file] == fs.info(file) for file in files)
    assert HIDDEN not in fs.ls("", detail=False)


def test_a_tree_that_cannot_be_listed_is_an_error(
    fs: AzureFileShareFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs.pipe_file("a/b/c", b"")
    listed = ShareStore.list_page

    def fail(self: ShareStore, prefix: str, **kwargs: Any) -> Any:
        if prefix == "a/b/":
            raise AccessDenied("the right to list is missing")
        return listed(self, prefix, **kwargs)

    monkeypatch.setattr(ShareStore, "list_page", fail)
    with pytest.raises(PermissionError):
        fs.find("")


def test_listings_are_kept_until_something_changes(
    fs: AzureFileShareFileSystem, sdk: ShareClient, options: dict[str, Any], share: str
) -> None:
    keeps = AzureFileShareFileSystem(
        **options, share_name=share, listings_expiry_time=None, skip_instance_cache=True
    )
    keeps.pipe_file("folder/a", b"")
    assert keeps.ls("folder", detail=False) == ["folder/a"]
    sdk.get_directory_client("folder").upload_file("b", b"")
    assert keeps.ls("folder", detail=False) == ["folder/a"]
    assert keeps.ls("folder", detail=False, refresh=True) == ["folder/a", "folder/b"]
    assert keeps.exists("folder/b")
    for work, expected in [
        (lambda: keeps.pipe_file("folder/c", b""), ["a", "b", "c"]),
        (lambda: keeps.mv("folder/c", "folder/d"), ["a", "b", "d"]),
        (lambda: keeps.cp_file("folder/d", "folder/e"), ["a", "b", "d", "e"]),
        (lambda: keeps.rm("folder/d"), ["a", "b", "e"]),
        (lambda: keeps.touch("folder/f"), ["a", "b", "e", "f"]),
        (lambda: keeps.mkdir("folder/g"), ["a", "b", "e", "f", "g"]),
    ]:
        work()
        assert keeps.ls("folder", detail=False) == [f"folder/{name}" for name in expected]
    keeps.ls("folder")[0]["name"] = "spoilt"
    assert keeps.ls("folder")[0]["name"] == "folder/a"


def test_versions_and_moments_are_told(fs: AzureFileShareFileSystem) -> None:
    fs.pipe_file("a", b"text")
    info, before = fs.info("a"), fs.checksum("a")
    assert info["size"] == 4
    assert info["mtime"] == fs.modified("a")
    assert fs.created("a") <= fs.modified("a")
    assert fs.ukey("a") == info["etag"]
    assert fs.ls("")[0] == info
    fs.touch("a", truncate=False)
    assert fs.cat_file("a") == b"text"
    assert fs.modified("a") > info["mtime"]
    assert fs.checksum("a") != before
    fs.touch("a")
    assert fs.size("a") == 0
    fs.mkdir("folder")
    assert isinstance(fs.created("folder"), datetime)


# -- files of this machine ----------------------------------------------------------------------


def test_trees_go_and_come_at_once(fs: AzureFileShareFileSystem, tmp_path: Path) -> None:
    source = tmp_path / "source"
    contents = {f"{n % 3}/{n}.bin": some_bytes(n * PART // 4) for n in range(14)}
    for name, content in contents.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    (source / "empty").mkdir()
    told: list[tuple[str, int]] = []

    class Tells(fsspec.Callback):
        def relative_update(self, inc: int = 1) -> None:
            told.append(("done", inc))

    fs.put(str(source), "tree", recursive=True, callback=Tells())
    assert sum(count for _, count in told) == len(fs.find("tree", withdirs=True))
    assert {name.removeprefix("tree/"): fs.cat_file(name) for name in fs.find("tree")} == contents
    assert fs.isdir("tree/empty")
    fs.get("tree", str(tmp_path / "back"), recursive=True)
    back = {
        path.relative_to(tmp_path / "back").as_posix(): path.read_bytes()
        for path in (tmp_path / "back").rglob("*")
        if path.is_file()
    }
    assert back == contents
    assert (tmp_path / "back" / "empty").is_dir()
    assert unfinished(fs) == []


def test_all_of_a_share_is_fetched(fs: AzureFileShareFileSystem, tmp_path: Path) -> None:
    fs.pipe({"a": b"1", "folder/b": b"2"})
    fs.get("", str(tmp_path / "new"), recursive=True)
    fs.get("", str(tmp_path), recursive=True)
    for root in (tmp_path, tmp_path / "new"):
        assert (root / "a").read_bytes() == b"1"
        assert (root / "folder/b").read_bytes() == b"2"


def test_a_file_is_fetched_into_one_that_is_open(fs: AzureFileShareFileSystem) -> None:
    fs.pipe_file("a", some_bytes(2 * PART + 1))
    held = io.BytesIO()
    fs.get_file("a", held)
    assert held.getvalue() == some_bytes(2 * PART + 1)
    fs.mkdir("folder")
    with pytest.raises(IsADirectoryError):
        fs.get_file("folder", held)


def test_a_file_is_not_put_over_another_unless_it_may(
    fs: AzureFileShareFileSystem, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"ours")
    fs.pipe_file("a", b"theirs")
    with pytest.raises(FileExistsError):
        fs.put_file(str(tmp_path / "a"), "a", mode="create")
    assert fs.cat_file("a") == b"theirs"
    fs.put_file(tmp_path / "a", "a")
    assert fs.cat_file("a") == b"ours"


# -- processes ----------------------------------------------------------------------------------


def test_a_file_system_that_was_pickled_reads(fs: AzureFileShareFileSystem) -> None:
    fs.pipe_file("a", b"text")
    again = pickle.loads(pickle.dumps(fs))
    assert again is not fs
    assert again.cat_file("a") == b"text"
    assert again.share_name == fs.share_name


class Locked:
    """A credential that cannot be pickled."""

    def __init__(self, token: str = "") -> None:
        self.lock, self.token = threading.Lock(), token

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken(self.token, 2**40)


def test_what_makes_a_credential_goes_to_another_process(
    fs: AzureFileShareFileSystem, azure_files: AzureFiles, share: str
) -> None:
    fs.pipe_file("a", b"text")
    where = {"account_url": azure_files.url, "share_name": share}
    given = partial(Locked, azure_files.token)
    sent = AzureFileShareFileSystem(azure_files.account, credential=given, **where)
    assert sent.cat_file("a") == b"text"
    again = pickle.loads(pickle.dumps(sent))
    assert again.cat_file("a") == b"text"
    assert azure_files.token not in repr(sent) + repr(sent.storage_options)
    with pytest.raises(ConfigurationError, match="get_token"):
        AzureFileShareFileSystem("acme", credential=dict, share_name="data").ls("")


def test_a_credential_that_cannot_be_pickled_is_told() -> None:
    fs = AzureFileShareFileSystem("acme", credential=Locked("secret"))
    with pytest.raises(ConfigurationError, match=r"partial\(Locked, \.\.\.\)") as told:
        pickle.dumps(fs)
    assert "secret" not in str(told.value)


def test_a_credential_of_azure_identity_goes_along() -> None:
    credential = ClientSecretCredential("tenant", "client", "secret")
    fs = AzureFileShareFileSystem("acme", credential=credential)
    again = pickle.loads(pickle.dumps(fs))
    assert isinstance(again._account.credential, ClientSecretCredential)
    assert again.fsid == fs.fsid


def test_every_request_waits_for_its_share_of_the_limits(
    azure_files: AzureFiles, share: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waited: list[tuple[int, int]] = []
    monkeypatch.setattr(
        Allowance, "wait", lambda _, requests, size, __: waited.append((requests, size))
    )
    fs = AzureFileShareFileSystem(
        *(azure_files.account,),
        account_key=azure_files.key,
        account_url=azure_files.url,
        share_name=share,
        requests_per_second=1e9,
        megabytes_per_second=1e9,
    )
    assert fs._account.allowance() is pickle.loads(pickle.dumps(fs))._account.allowance()
    content = some_bytes(PART + 5)
    for does, size in (
        (lambda: fs.pipe_file("a", content), len(content)),
        (lambda: fs.pipe_file("b", b"small"), 5),
        (lambda: fs.cat_file("a"), len(content)),
        (lambda: fs.get_file("a", str(tmp_path / "a")), len(content)),
        (lambda: fs.cp_file("a", "c"), 0),
        (lambda: fs.mv("c", "d"), 0),
        (lambda: fs.makedirs("e/f"), 0),
        (lambda: fs.rmdir("e/f"), 0),
        (lambda: fs.find(""), 0),
        (lambda: fs.touch("d", truncate=False), 0),
        (lambda: fs.rm_file("a"), 0),
    ):
        waited.clear()
        does()
        assert sum(requests for requests, _ in waited) > 0
        assert sum(moved for _, moved in waited) == size
    with pytest.raises(ConfigurationError, match="nothing would ever move"):
        AzureFileShareFileSystem("acme", requests_per_second=0)


FORKED = """
import multiprocessing, sys
from prefect_datastores.filesystems import AzureFileShareFileSystem

name, key, url, share = sys.argv[1:]
fs = AzureFileShareFileSystem(account_name=name, account_key=key, account_url=url, share_name=share)
content = fs.cat_file("a")  # connections and threads are there now

def work():
    assert fs.cat_file("a") == content

child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join(60)
sys.exit(child.exitcode)
"""


def test_a_process_that_was_forked_connects_by_itself(
    fs: AzureFileShareFileSystem, azure_files: AzureFiles, share: str
) -> None:
    """In a program of its own: what a fork makes of the threads of others is not the matter here."""
    fs.pipe_file("a", some_bytes(3 * PART))
    place = [azure_files.account, azure_files.key, azure_files.url, share]
    command = [sys.executable, "-c", FORKED, *place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
