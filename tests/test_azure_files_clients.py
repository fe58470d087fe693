"""Clients that know nothing of our package use the test server of Azure Files as they use the service."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.fileshare import ShareClient, generate_share_sas
from servers.azure_files import AzureFiles

MIB = 2**20
_SECONDS = 120

Run = Callable[..., str]


@pytest.fixture
def rclone(azure_files: AzureFiles, share: str, tmp_path: Path) -> Run:
    """Run rclone; "there:" is the share."""
    found = Path(sys.executable).with_name("rclone")
    program = str(found) if found.exists() else shutil.which("rclone")
    assert program, "rclone is not installed: run `make venv`"
    configuration = tmp_path / "rclone.conf"
    configuration.touch()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "RCLONE_CONFIG": str(configuration),
        "RCLONE_CONFIG_THERE_TYPE": "azurefiles",
        "RCLONE_CONFIG_THERE_CONNECTION_STRING": azure_files.connection_string,
        "RCLONE_CONFIG_THERE_SHARE_NAME": share,
        "RCLONE_RETRIES": "1",
        "RCLONE_LOW_LEVEL_RETRIES": "1",
    }

    def run(*arguments: str) -> str:
        ran = subprocess.run(
            [program, *arguments],
            check=False,
            env=env,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with files of several sizes and odd names."""
    folder = tmp_path / "source"
    contents = {
        "empty": b"",
        "small.txt": b"hello",
        "with space/ünïcode/größe": b"x" * 1000,
        "large": os.urandom(9 * MIB + 7),
        "100%/a+b&c=d#e": b"%20",
    }
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def client(azure_files: AzureFiles, share: str) -> Iterator[ShareClient]:
    """Microsoft's client of a new share."""
    credential = {"account_name": azure_files.account, "account_key": azure_files.key}
    with ShareClient(azure_files.url, share, credential=credential) as made:
        yield made


# rclone.


def test_rclone_copies_up_and_finds_everything_as_it_was(
    rclone: Run, source: Path, tmp_path: Path
) -> None:
    rclone("copy", str(source), "there:up")
    rclone("check", "--download", str(source), "there:up")
    rclone("copy", "there:up", str(tmp_path / "back"))
    for path in source.rglob("*"):
        if path.is_file():
            assert (tmp_path / "back" / path.relative_to(source)).read_bytes() == path.read_bytes()


def test_rclone_lists_what_is_there(rclone: Run, source: Path) -> None:
    rclone("copy", str(source), "there:up")
    listed = {
        line.split(None, 3)[3]: int(line.split()[0])
        for line in rclone("lsl", "there:up").splitlines()
    }
    assert listed == {
        str(path.relative_to(source)): path.stat().st_size
        for path in source.rglob("*")
        if path.is_file()
    }
    assert "up/with space/ünïcode/\n" in rclone("lsf", "--recursive", "there:")


def test_rclone_moves_and_deletes(rclone: Run, source: Path) -> None:
    rclone("copy", str(source), "there:up")
    rclone("moveto", "there:up/large", "there:moved/to/here")
    assert rclone("lsf", "--recursive", "--files-only", "there:moved") == "to/here\n"
    assert "large" not in rclone("lsf", "there:up")
    rclone("moveto", "there:up", "there:elsewhere")
    rclone("check", "--download", str(source / "100%"), "there:elsewhere/100%")
    rclone("delete", "there:moved")
    assert rclone("lsf", "--recursive", "there:moved") == "to/\n"
    rclone("purge", "there:elsewhere")
    assert rclone("lsf", "there:") == "moved/\n"


def test_rclone_replaces_what_has_changed(rclone: Run, source: Path) -> None:
    rclone("copy", str(source), "there:up")
    (source / "small.txt").write_bytes(b"other, and longer")
    rclone("copy", str(source), "there:up")
    assert rclone("cat", "there:up/small.txt") == "other, and longer"


# Microsoft's client.


def test_the_sdk_uploads_and_downloads(client: ShareClient) -> None:
    content = os.urandom(9 * MIB + 1)
    client.create_directory("d")
    file = client.get_directory_client("d").upload_file(
        "große Datei", content, max_concurrency=4, metadata={"is": "mine"}
    )
    assert file.download_file(max_concurrency=4).readall() == content
    assert file.download_file(offset=5, length=10).readall() == content[5:15]
    told = file.get_file_properties()
    assert (told.size, told.metadata, told.name) == (len(content), {"is": "mine"}, "große Datei")


def test_the_sdk_lists_by_pages(client: ShareClient) -> None:
    names = [f"file-{number}" for number in range(5)]
    for name in names:
        client.get_file_client(name).create_file(7)
    client.create_directory("folder")
    pages = client.list_directories_and_files(
        include=["timestamps", "etag"], results_per_page=2
    ).by_page()
    listed = [list(page) for page in pages]
    assert [len(page) for page in listed] == [2, 2, 2]
    entries = [entry for page in listed for entry in page]
    assert sorted(entry.name for entry in entries) == [*names, "folder"]
    assert [entry.name for entry in entries if entry.is_directory] == ["folder"]
    assert (entries[0].name, entries[0].size) == ("file-0", 7)
    assert entries[0].etag == client.get_file_client("file-0").get_file_properties().etag


def test_the_sdk_renames_files_and_directories(client: ShareClient) -> None:
    client.create_directory("d").upload_file("a", b"data")
    client.get_directory_client("d").rename_directory("e")
    client.get_file_client("e/a").rename_file("b")
    assert client.get_file_client("b").download_file().readall() == b"data"
    client.get_file_client("c").create_file(1)
    with pytest.raises(ResourceExistsError):
        client.get_file_client("c").rename_file("b")
    client.get_file_client("c").rename_file("b", overwrite=True)
    assert client.get_file_client("b").get_file_properties().size == 1


def test_the_sdk_leases(client: ShareClient) -> None:
    file = client.get_file_client("a")
    file.create_file(4)
    lease = file.acquire_lease()
    with pytest.raises(HttpResponseError, match="no lease ID was specified"):
        file.upload_range(b"data", offset=0, length=4)
    file.upload_range(b"data", offset=0, length=4, lease=lease)
    lease.release()
    file.delete_file()
    with pytest.raises(ResourceNotFoundError):
        file.get_file_properties()


def test_the_sdk_copies_clears_and_tells_ranges(client: ShareClient) -> None:
    file = client.get_file_client("a")
    file.upload_file(b"x" * 2048)
    file.clear_range(512, 512)
    written = [(each["start"], each["end"]) for each in file.list_ranges()]
    assert written == [(0, 511), (1024, 2047)]
    copy = client.get_file_client("b")
    assert copy.start_copy_from_url(file.url)["copy_status"] == "success"
    assert copy.download_file().readall() == file.download_file().readall()


def test_the_sdk_signs_in_by_a_signature(azure_files: AzureFiles, client: ShareClient) -> None:
    client.get_file_client("a").upload_file(b"data")
    sas = generate_share_sas(
        azure_files.account,
        client.share_name,
        azure_files.key,
        permission="rl",
        expiry="2099-01-01T00:00:00Z",
    )
    with ShareClient(azure_files.url, client.share_name, credential=sas) as reader:
        assert [entry.name for entry in reader.list_directories_and_files()] == ["a"]
        assert reader.get_file_client("a").download_file().readall() == b"data"
        with pytest.raises(HttpResponseError, match="AuthorizationPermissionMismatch"):
            reader.get_file_client("a").delete_file()


def test_the_sdk_takes_snapshots(azure_files: AzureFiles, client: ShareClient) -> None:
    client.get_file_client("a").upload_file(b"before")
    moment = client.create_snapshot()["snapshot"]
    client.get_file_client("a").upload_file(b"after")
    credential = {"account_name": azure_files.account, "account_key": azure_files.key}
    with ShareClient(azure_files.url, client.share_name, moment, credential=credential) as then:
        assert then.get_file_client("a").download_file().readall() == b"before"
