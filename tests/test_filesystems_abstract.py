"""fsspec's own tests of a file system, over a share: with paths in the account, and in the share."""

import posixpath
from collections.abc import Callable

import pytest
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)
from servers.azure_files import AzureFiles

from prefect_datastores.filesystems import AzureFileShareFileSystem


class ShareFixtures(AbstractFixtures):
    """A share that is empty, and is so again."""

    @pytest.fixture(params=["account", "share"])
    def fs(
        self, request: pytest.FixtureRequest, azure_files: AzureFiles, share: str
    ) -> AzureFileShareFileSystem:
        return AzureFileShareFileSystem(
            azure_files.account,
            account_key=azure_files.key,
            account_url=azure_files.url,
            share_name=share if request.param == "share" else None,
            skip_instance_cache=True,
        )

    @pytest.fixture
    def fs_path(self, fs: AzureFileShareFileSystem, share: str) -> str:
        return "" if fs.share_name else share

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return posixpath.join


class TestCopy(AbstractCopyTests, ShareFixtures):
    pass


class TestGet(AbstractGetTests, ShareFixtures):
    pass


class TestPut(AbstractPutTests, ShareFixtures):
    pass


class TestOpen(AbstractOpenTests, ShareFixtures):
    pass


class TestPipe(AbstractPipeTests, ShareFixtures):
    pass
