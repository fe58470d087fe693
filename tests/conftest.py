"""One server of each kind for all the tests of a run, whatever worker runs them."""
# ruff: noqa: E402  Prefect reads its settings when it is first imported: they come first here

import os
import tempfile
from pathlib import Path

for _name in [name for name in os.environ if name.startswith(("AZURE_", "PREFECT_"))]:
    del os.environ[_name]
_FOLDER = Path(tempfile.mkdtemp(prefix="prefect-datastores-"))
os.environ |= {
    "PREFECT_HOME": str(_FOLDER / "home"),
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "DO_NOT_TRACK": "1",
}

import atexit
import pickle
import shutil
import signal
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import BlobServiceClient, ContainerClient
from servers import azure_files as azure_files_server
from servers import azurite as azurite_server
from servers import data_lake as data_lake_server
from servers import prefect_server
from servers.azure_files import AzureFiles
from servers.azurite import Azurite
from servers.data_lake import DataLake
from servers.prefect_server import PrefectServer

_MEMORY, _ROOM = Path("/dev/shm"), 2**30


def _folder_of_servers() -> Path:
    """Keep the servers in memory where there is room.

    Their database flushes with every change, and would wait for the gigabytes that other tests
    write and flush at the same time.
    """
    roomy = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK)
    roomy = roomy and shutil.disk_usage(_MEMORY).free >= _ROOM
    folder = Path(tempfile.mkdtemp(prefix="prefect-datastores-", dir=_MEMORY if roomy else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# A shell starts what runs in its background deaf to Ctrl-C, and so are its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
pytest.register_assert_rewrite("prefect_datastores.testing")
_SERVERS = pytest.StashKey[tuple[Azurite, PrefectServer, AzureFiles, DataLake]]()
_RUNS_NO_TEST = ("collectonly", "help", "version", "markers", "showfixtures", "setupplan")


def pytest_configure(config: pytest.Config) -> None:
    """Start the servers, once per run; the fixtures wait for them, so other tests need not."""
    if hasattr(config, "workerinput"):
        servers = pickle.loads(config.workerinput["servers"])
    elif any(config.getoption(name, False) for name in _RUNS_NO_TEST):
        return
    else:
        try:
            folder = _folder_of_servers()
            servers = (
                azurite_server.start(folder),
                prefect_server.start(folder),
                azure_files_server.start(folder, token="a-token-of-the-tests"),
                data_lake_server.start(folder, tokens=[data_lake_server.TOKEN]),
            )
        except FileNotFoundError as missing:
            raise pytest.UsageError(str(missing)) from missing
        # At exit, and not sooner: Prefect still sends logs and events when its process ends.
        for running in servers:
            atexit.register(running.server.stop)
    config.stash[_SERVERS] = servers
    os.environ["PREFECT_API_URL"] = servers[1].api_url


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist where the servers are."""
    node.workerinput["servers"] = pickle.dumps(node.config.stash[_SERVERS])


@pytest.fixture(scope="session")
def azurite(pytestconfig: pytest.Config) -> Azurite:
    """The run's Azurite, ready."""
    running = pytestconfig.stash[_SERVERS][0]
    running.server.wait_until_ready()
    return running


@pytest.fixture(scope="session")
def prefect_api(pytestconfig: pytest.Config) -> PrefectServer:
    """The run's Prefect server, ready; PREFECT_API_URL names it."""
    running = pytestconfig.stash[_SERVERS][1]
    running.server.wait_until_ready()
    return running


@pytest.fixture
def container(azurite: Azurite) -> Iterator[ContainerClient]:
    """A new, empty blob container."""
    with _new_container(azurite.url, azurite.account, azurite.key) as made:
        yield made


@contextmanager
def _new_container(url: str, account: str, key: str) -> Iterator[ContainerClient]:
    credential = {"account_name": account, "account_key": key}
    with BlobServiceClient(url, credential=credential) as service:
        made = service.get_container_client(f"test-{uuid.uuid4().hex}")
        # The SDK asks again where an answer is late, and finds what it made; nobody else has the name.
        with suppress(ResourceExistsError):
            made.create_container()
        yield made
        made.delete_container()


@pytest.fixture(scope="session")
def azure_files(pytestconfig: pytest.Config) -> AzureFiles:
    """The run's server of Azure Files, ready; it takes its key and its token."""
    running = pytestconfig.stash[_SERVERS][2]
    running.server.wait_until_ready()
    return running


@pytest.fixture(scope="session")
def data_lake(pytestconfig: pytest.Config) -> DataLake:
    """The run's account with a hierarchical namespace, ready."""
    running = pytestconfig.stash[_SERVERS][3]
    running.server.wait_until_ready()
    return running


@pytest.fixture
def share(azure_files: AzureFiles) -> Iterator[str]:
    """The name of a new, empty share."""
    from azure.storage.fileshare import ShareServiceClient  # takes half a second of every worker

    credential = {"account_name": azure_files.account, "account_key": azure_files.key}
    with ShareServiceClient(azure_files.url, credential=credential) as service:
        made = service.create_share(f"test-{uuid.uuid4().hex}")
        yield made.share_name
        made.delete_share(delete_snapshots=True)


@pytest.fixture
def share_store(azure_files: AzureFiles, share: str) -> Iterator[Any]:
    """A new, empty share as a store of short parts."""
    from small_stores import SmallShareStore  # after the assertions of the contract are rewritten

    with closing(SmallShareStore(azure_files.url, share, account_key=azure_files.key)) as store:
        yield store


@pytest.fixture(scope="session")
def flat_data_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataLake]:
    """An account without a hierarchical namespace, which takes a token; for a few tests only."""
    folder = tmp_path_factory.mktemp("flat-data-lake")
    running = data_lake_server.start(folder, flat=True, tokens=[data_lake_server.TOKEN])
    try:
        running.server.wait_until_ready()
        yield running
    finally:
        running.server.stop()


@pytest.fixture
def filesystem(data_lake: DataLake) -> Iterator[str]:
    """The name of a new, empty filesystem of the data lake."""
    with _new_container(data_lake.blob_url, data_lake.account, data_lake.key) as made:
        yield str(made.container_name)


@pytest.fixture
def lake_store(data_lake: DataLake, filesystem: str) -> Iterator[Any]:
    """A new, empty filesystem with a hierarchical namespace as a store of short parts."""
    from small_stores import (
        SmallDataLakeStore,
    )  # after the assertions of the contract are rewritten

    with closing(
        SmallDataLakeStore(
            data_lake.blob_url, filesystem, dfs_url=data_lake.dfs_url, account_key=data_lake.key
        )
    ) as store:
        yield store
