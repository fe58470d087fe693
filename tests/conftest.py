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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from azure.storage.blob import ContainerClient
from servers import azure_files as azure_files_server
from servers import azurite as azurite_server
from servers import data_lake as data_lake_server
from servers import postgres, prefect_server
from servers.azure_files import AzureFiles
from servers.azurite import Azurite
from servers.data_lake import DataLake
from servers.prefect_server import PrefectServer

_MEMORY, _ROOM = Path("/dev/shm"), 2**30


def _folder_of_servers() -> Path:
    """Keep the servers in memory where there is room.

    What they write there waits for none of the gigabytes that tests write and flush at the same time.
    """
    roomy = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK)
    roomy = roomy and shutil.disk_usage(_MEMORY).free >= _ROOM
    folder = Path(tempfile.mkdtemp(prefix="prefect-datastores-", dir=_MEMORY if roomy else None))
    folder.chmod(0o711)  # the database is not root's
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
            database = postgres.start(folder)
            servers = (
                azurite_server.start(folder),
                prefect_server.start(folder, database=database.url),
                azure_files_server.start(folder, token="a-token-of-the-tests"),
                data_lake_server.start(folder, tokens=[data_lake_server.TOKEN]),
            )
        except FileNotFoundError as missing:
            raise pytest.UsageError(str(missing)) from missing
        # At exit, and not sooner: Prefect still sends logs and events when its process ends.
        for running in (database, *servers):
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


# Places of each kind; `places` is imported after the assertions of the contract are rewritten.

_KINDS = ("memory", "local", "blob", "share", "lake")


@pytest.fixture
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Makes new, empty places of a kind, as many as are wanted."""
    import places

    with ExitStack() as stack:

        def make(kind: str) -> places.Place:
            if kind == "memory":
                made: places.Place = places.MemoryPlace()
            elif kind == "local":
                made = places.LocalPlace(tmp_path / f"place-{uuid.uuid4().hex}")
            elif kind == "flat lake":  # whose server only few tests need
                server = request.getfixturevalue("flat_data_lake")
                made = places.FlatLakePlace(server, f"test-{uuid.uuid4().hex}")
            else:
                server = request.getfixturevalue(places.SERVERS[kind])
                made = places.REMOTE[kind](server, f"test-{uuid.uuid4().hex}")
            stack.callback(made.remove)
            return made

        yield make


@pytest.fixture
def blob_place(new_place: Callable[[str], Any]) -> Any:
    """A new, empty blob container."""
    return new_place("blob")


@pytest.fixture
def share_place(new_place: Callable[[str], Any]) -> Any:
    """A new, empty file share."""
    return new_place("share")


@pytest.fixture
def lake_place(new_place: Callable[[str], Any]) -> Any:
    """A new, empty filesystem with a hierarchical namespace."""
    return new_place("lake")


@pytest.fixture
def flat_place(new_place: Callable[[str], Any]) -> Any:
    """A new, empty filesystem without a hierarchical namespace."""
    return new_place("flat lake")


def _place(request: pytest.FixtureRequest, new_place: Callable[[str], Any]) -> Any:
    """The one of that kind that a test knows by other fixtures as well."""
    kind: str = request.param
    return new_place(kind) if kind in _KINDS[:2] else request.getfixturevalue(f"{kind}_place")


@pytest.fixture(params=_KINDS)
def place(request: pytest.FixtureRequest, new_place: Callable[[str], Any]) -> Any:
    """A new, empty place of each kind."""
    return _place(request, new_place)


@pytest.fixture(params=_KINDS[1:])
def kept(request: pytest.FixtureRequest, new_place: Callable[[str], Any]) -> Any:
    """One of each kind that outlives a process, and of which there are datastores."""
    return _place(request, new_place)


@pytest.fixture(params=_KINDS[2:])
def remote(request: pytest.FixtureRequest, new_place: Callable[[str], Any]) -> Any:
    """One of each kind over the wire."""
    return _place(request, new_place)


@pytest.fixture
def store(place: Any) -> Any:
    """A new, empty store of each kind, of short parts."""
    return place.store


@pytest.fixture
def container(blob_place: Any) -> Iterator[ContainerClient]:
    """The blob container, as Microsoft's client."""
    account, key = blob_place.server.account, blob_place.server.key
    credential = {"account_name": account, "account_key": key}
    with ContainerClient(blob_place.server.url, blob_place.name, credential=credential) as client:
        yield client


@pytest.fixture
def share(share_place: Any) -> str:
    """The name of the share."""
    return share_place.name


@pytest.fixture
def filesystem(lake_place: Any) -> str:
    """The name of the filesystem."""
    return lake_place.name


@pytest.fixture
def blob_store(blob_place: Any) -> Any:
    """The blob container as a store of short parts."""
    return blob_place.store


@pytest.fixture
def share_store(share_place: Any) -> Any:
    """The share as a store of short parts."""
    return share_place.store


@pytest.fixture
def lake_store(lake_place: Any) -> Any:
    """The filesystem as a store of short parts."""
    return lake_place.store


@pytest.fixture
def no_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without the device, as most containers are."""
    from prefect_datastores import transfers
    from prefect_datastores.mounting import device

    monkeypatch.setattr(device, "DEVICE", tmp_path / "no-such-device")
    transfers.why_not_mounted.cache_clear()
    yield
    transfers.why_not_mounted.cache_clear()
