"""The test server of Azure Files answers as the service does, and says so where it does not know."""

from collections.abc import Iterator

import pytest
from files_client import FilesClient, asking
from servers.azure_files import AzureFiles


@pytest.fixture
def files(azure_files: AzureFiles, share: str) -> Iterator[FilesClient]:
    """A client of a new share."""
    with asking(azure_files, share) as client:
        yield client


def test_a_file_is_made_of_zeros_and_written_by_ranges(files: FilesClient) -> None:
    assert files.create("/a", 10).outcome == (201, "")
    assert files.put("/a", 2, b"data").outcome == (201, "")
    read = files("GET", "/a")
    assert (read.status, read.body) == (200, b"\0\0data\0\0\0\0")
