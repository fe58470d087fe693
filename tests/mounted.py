"""What tests of mounts have in common: stores of each kind, a root that is empty at the end, and mounts."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import ContainerClient
from servers.azure_files import AzureFiles
from servers.azurite import Azurite
from servers.data_lake import DataLake
from servers.faults import FaultyProxy, faulty

from prefect_datastores.errors import MountError
from prefect_datastores.mounting import lease
from prefect_datastores.mounting.mount import Mount, mount
from prefect_datastores.mounting.talk import MakeStore, Wanted
from prefect_datastores.processes import started
from prefect_datastores.stores.blob import BlobStore
from prefect_datastores.stores.data_lake import DataLakeStore
from prefect_datastores.stores.local import LocalStore
from prefect_datastores.stores.share import ShareStore
from prefect_datastores.testing import put


@pytest.fixture(params=["blob", "share", "lake", "local"])
def make(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    azurite: Azurite,
    azure_files: AzureFiles,
    data_lake: DataLake,
) -> MakeStore:
    """What makes an empty store of each kind."""
    if request.param == "local":
        (tmp_path / "store").mkdir()
        return partial(LocalStore, tmp_path / "store")
    if request.param == "share":
        share = request.getfixturevalue("share")
        return partial(ShareStore, azure_files.url, share, account_key=azure_files.key)
    if request.param == "lake":
        name = request.getfixturevalue("filesystem")
        given = {"dfs_url": data_lake.dfs_url, "account_key": data_lake.key}
        return partial(DataLakeStore, data_lake.blob_url, name, **given)
    return blobs(azurite, request.getfixturevalue("container"))


def blobs(azurite: Azurite, container: ContainerClient, url: str = "") -> MakeStore:
    signs = {"account_name": azurite.account, "account_key": azurite.key}
    return partial(BlobStore, url or azurite.url, str(container.container_name), **signs)


def through(azurite: Azurite, container: ContainerClient, proxy: FaultyProxy) -> MakeStore:
    return blobs(azurite, container, f"http://127.0.0.1:{proxy.port}/{azurite.account}")


@pytest.fixture
def blob(azurite: Azurite, container: ContainerClient) -> MakeStore:
    return blobs(azurite, container)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """The root of the mounts of a test; nothing is left in it."""
    made = tmp_path / "mounts"
    yield made
    left = [path.name for path in made.iterdir()] if made.exists() else []
    for found in lease.mounts(made):
        with contextlib.suppress(MountError, OSError):
            lease.remove(found.folder)
    assert left == []


def fill(make: MakeStore, files: dict[str, bytes]) -> None:
    with closing(make()) as store:
        for name, content in files.items():
            put(store, name, content)


def wanted(make: MakeStore, path: str = "", cache: Path | None = None, **more: Any) -> Wanted:
    return Wanted(make, path, f"test:{path}", cache_root=cache, **more)


@contextlib.contextmanager
def mounted(make: MakeStore, root: Path, path: str = "", **more: Any) -> Iterator[Mount]:
    made = mount(wanted(make, path, **more), root)
    try:
        yield made
    finally:
        made.unmount()


def errno_of(do: Callable[[], object]) -> int:
    with pytest.raises(OSError) as e:
        do()
    return e.value.errno or 0


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def serving(made: Mount) -> int:
    """The process that serves a mount."""
    found = lease.read(made.log.parent / lease.LEASE)
    assert found is not None
    return found.pid


def wait_for_the_end(pid: int) -> None:
    eventually(lambda: started(pid) < 0)


def run(*command: object, **more: Any) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **more
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def proxy(azurite: Azurite) -> Iterator[FaultyProxy]:
    with faulty(azurite.host, azurite.port) as made:
        yield made


def cached(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".index"]
