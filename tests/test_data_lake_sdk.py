"""Microsoft's own clients of the tests' data lake, which know nothing of ours."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import ContainerClient
from azure.storage.filedatalake import DataLakeServiceClient, FileSystemClient
from lake_clients import Asker, sdk
from servers.data_lake import DataLake


@pytest.fixture
def asker(data_lake: DataLake, filesystem: str) -> Asker:
    return Asker(data_lake, filesystem)


@pytest.fixture
def lake(data_lake: DataLake, filesystem: str) -> Iterator[FileSystemClient]:
    """Microsoft's client of the filesystem."""
    with sdk(data_lake) as service:
        yield service.get_file_system_client(filesystem)


def test_hosts_of_the_service_and_paths_of_an_emulator_lead_to_one_account(
    data_lake: DataLake, asker: Asker
) -> None:
    asker.make_file("a", b"content")
    assert urlsplit(data_lake.dfs_url).path == f"/{data_lake.account}"
    with sdk(data_lake) as service:
        file = service.get_file_client(asker.filesystem, "a")
        assert file.download_file().readall() == b"content"
    with sdk(data_lake, "d3Jvbmc=") as service, pytest.raises(ClientAuthenticationError):
        service.get_file_client(asker.filesystem, "a").get_file_properties()


def test_the_sdk_makes_reads_renames_and_deletes(lake: FileSystemClient) -> None:
    directory = lake.create_directory("d/e", metadata={"hello": "world"})
    told = directory.get_directory_properties()
    assert told.metadata == {"hello": "world", "hdi_isfolder": "true"}
    assert (told.owner, told.permissions) == ("$superuser", "rwxr-x---")
    file = directory.create_file("f.txt")
    file.append_data(b"hello", 0)
    file.flush_data(5)
    assert file.download_file().readall() == b"hello"
    file.upload_data(b"again" * 1000, overwrite=True)
    etag = file.get_file_properties().etag
    moved = file.rename_file(f"{lake.file_system_name}/d/g.txt")
    assert moved.get_file_properties().etag == etag
    assert moved.download_file(offset=5, length=5).readall() == b"again"
    assert [(path.name, path.is_directory) for path in lake.get_paths()] == [
        ("d", True),
        ("d/e", True),
        ("d/g.txt", False),
    ]
    renamed = lake.get_directory_client("d").rename_directory(f"{lake.file_system_name}/moved")
    assert renamed.exists()
    assert [path.name for path in lake.get_paths("moved")] == ["moved/e", "moved/g.txt"]
    renamed.delete_directory()
    assert list(lake.get_paths()) == []
    with pytest.raises(ResourceNotFoundError):
        list(lake.get_paths("moved"))


def test_the_sdk_meets_conditions(lake: FileSystemClient) -> None:
    file = lake.create_file("file")
    with pytest.raises(ResourceExistsError):
        lake.create_file("file", match_condition=MatchConditions.IfMissing)
    with pytest.raises(ResourceModifiedError):
        file.upload_data(b"x", etag='"0x1"', match_condition=MatchConditions.IfNotModified)
    lake.create_file("other")
    with pytest.raises(ResourceExistsError):
        file.rename_file(
            f"{lake.file_system_name}/other", match_condition=MatchConditions.IfMissing
        )


def test_the_sdk_cannot_rename_over_a_directory_that_holds_something(
    lake: FileSystemClient,
) -> None:
    lake.create_file("full/file")
    directory = lake.create_directory("new")
    with pytest.raises(HttpResponseError) as caught:
        directory.rename_directory(f"{lake.file_system_name}/full")
    assert caught.value.error_code == "DirectoryNotEmpty"
    lake.create_directory("empty")
    assert directory.rename_directory(f"{lake.file_system_name}/empty").exists()


def test_the_sdk_sets_rights_here_and_on_all_below(lake: FileSystemClient) -> None:
    directory = lake.create_directory("d", permissions="0777", umask="0000")
    assert directory.get_access_control()["permissions"] == "rwxrwxrwx"
    for number in range(5):
        lake.create_file(f"d/{number}")
    acl = "user::rwx,group::r-x,other::---"
    done = directory.set_access_control_recursive(acl, batch_size=2)
    assert (done.counters.directories_successful, done.counters.files_successful) == (1, 5)
    assert directory.get_access_control()["acl"] == acl
    somebody = "4cf4e284-f6a8-4540-b53e-c3469af032dc"
    directory.update_access_control_recursive(f"user:{somebody}:rw-")
    told = lake.get_file_client("d/3").get_access_control()
    assert told["acl"] == f"user::rwx,user:{somebody}:rw-,group::r-x,mask::rwx,other::---"
    assert told["permissions"] == "rwxrwx---+"
    directory.remove_access_control_recursive(f"user:{somebody}")
    assert directory.get_access_control()["acl"] == acl
    directory.set_access_control(owner=somebody)
    assert directory.get_access_control()["owner"] == somebody


def test_the_sdk_lists_and_deletes_filesystems(data_lake: DataLake, filesystem: str) -> None:
    with sdk(data_lake) as service:
        assert isinstance(service, DataLakeServiceClient)
        assert filesystem in [held.name for held in service.list_file_systems()]
        with pytest.raises(ResourceExistsError):
            service.create_file_system(filesystem)
        with pytest.raises(ResourceNotFoundError):
            service.delete_file_system("no-such-filesystem")


def test_the_blob_sdk_moves_large_and_small(data_lake: DataLake, filesystem: str) -> None:
    content = bytes(range(256)) * 1000
    with ContainerClient(
        data_lake.blob_url,
        filesystem,
        {"account_name": data_lake.account, "account_key": data_lake.key},
        max_single_put_size=1,
        max_block_size=64 * 1024,
    ) as container:
        client = container.get_blob_client("dir/large")
        client.upload_blob(content)
        assert client.download_blob().readall() == content
        committed, staged = client.get_block_list("all")
        assert (len(committed), staged) == (4, [])
        copied = container.get_blob_client("copy")
        assert copied.start_copy_from_url(client.url)["copy_status"] == "success"
        assert copied.download_blob().readall() == content
        with pytest.raises(ResourceExistsError):
            container.upload_blob("copy", b"x")
        with pytest.raises(HttpResponseError):
            container.upload_blob("dir", b"x", overwrite=True)
        assert [blob.name for blob in container.list_blobs()] == ["copy", "dir", "dir/large"]
