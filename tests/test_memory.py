"""A folder of 2 GiB goes through in bounded memory: no file is ever held whole, and what is done with is gone."""

import gc
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient
from places import Place
from servers.azurite import Azurite

from prefect_datastores import AzureBlobDatastore, LocalDatastore
from prefect_datastores.circles import rarely_looked_for
from prefect_datastores.datastores.base import FileDatastore

MOST = 300 * 2**20
LARGE, SMALL, SMALL_FILES = 2**30, 4 * 2**20, 256
MORE = 200

# Tells the most memory that it ever had. Unlike `ru_maxrss`, which a child inherits from the
# process that started it, VmHWM begins anew with the program.
PROGRAM = """
import json, sys
from pathlib import Path
import prefect_datastores

kind, values, way, folder = sys.argv[1:]
store = getattr(prefect_datastores, kind)(**json.loads(values))
if way == "upload":
    report = store.upload(folder, "data", overwrite="replace", show_progress=False)
else:
    report = store.download(folder, prefix="data", overwrite="replace", show_progress=False)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(report.count, report.bytes, int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """2 GiB in one large and many small files; they are sparse, so they take no room."""
    folder = tmp_path / "source"
    folder.mkdir()
    sizes = {"large.bin": LARGE, **{f"small/{n:03}.bin": SMALL for n in range(SMALL_FILES)}}
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)
            # Each file has content of its own, at its end, where a part that is lost would show.
            file.seek(-len(name), os.SEEK_END)
            file.write(name.encode())
    return folder


@pytest.fixture
def container_name(azurite: Azurite) -> Iterator[str]:
    """A container that is gone afterwards: Azurite holds all of it in its own memory."""
    credential = {"account_name": azurite.account, "account_key": azurite.key}
    with BlobServiceClient(azurite.url, credential=credential) as service:
        made = service.create_container(f"test-{uuid.uuid4().hex}")
        yield made.container_name
        made.delete_container()


def move(store: FileDatastore, values: str, way: str, folder: Path) -> int:
    """Move the folder in a process of its own, and return the most memory that it had."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, type(store).__name__, values, way, str(folder)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    count, size, peak = map(int, done.stdout.split())
    assert (count, size) == (SMALL_FILES + 1, LARGE + SMALL_FILES * SMALL)
    print(f"{way} of {size / 2**30:.1f} GiB, {type(store).__name__}: {peak / 2**20:.0f} MiB")
    return peak


def there_and_back(store: FileDatastore, values: str, source: Path, target: Path) -> None:
    assert move(store, values, "upload", source) < MOST
    assert move(store, values, "download", target) < MOST
    sizes = {path.name: path.stat().st_size for path in (target / "data").rglob("*.bin")}
    assert sizes == {path.name: path.stat().st_size for path in source.rglob("*.bin")}
    for name in ("large.bin", "small/000.bin", "small/255.bin"):
        with (target / "data" / name).open("rb") as file:
            file.seek(-len(name), os.SEEK_END)
            assert file.read() == name.encode()


@pytest.mark.timeout(600)
def test_a_local_folder_of_2_gib_stays_below_300_mib(source: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    store = LocalDatastore(root=str(tmp_path / "root"))
    there_and_back(store, store.model_dump_json(), source, tmp_path / "target")


@pytest.mark.timeout(600)
def test_a_blob_container_of_2_gib_stays_below_300_mib(
    azurite: Azurite, container_name: str, source: Path, tmp_path: Path
) -> None:
    import json

    values = {
        "account_name": azurite.account,
        "container_name": container_name,
        "auth": {"account_key": azurite.key},
        "protocol": "http",
        "endpoint": f"{azurite.host}:{azurite.port}",
    }
    store = AzureBlobDatastore(**values)
    there_and_back(store, json.dumps(values), source, tmp_path / "target")


def circles_of(work: Callable[[], object]) -> int:
    """Return how many objects only the collector of circles gets rid of."""
    gc.collect()
    gc.disable()
    try:
        work()
        return gc.collect()
    finally:
        gc.enable()


def test_the_collector_looks_as_often_as_before_when_a_transfer_is_over(tmp_path: Path) -> None:
    before = gc.get_threshold()
    store = LocalDatastore(root=str(tmp_path))
    store.write_path("a", b"a")
    store.download(tmp_path / "came", show_progress=False)
    assert gc.get_threshold() == before
    with rarely_looked_for():
        seldom = gc.get_threshold()
        with rarely_looked_for():
            pass
        assert gc.get_threshold() == seldom
    assert seldom[0] > before[0] == gc.get_threshold()[0]


@pytest.mark.parametrize("chosen", [0, 50_000])
def test_who_set_the_collector_keeps_that(chosen: int) -> None:
    before = gc.get_threshold()
    try:
        gc.set_threshold(chosen)
        with rarely_looked_for():
            assert gc.get_threshold()[0] == chosen
        assert gc.get_threshold()[0] == chosen
        gc.set_threshold(*before)
        with rarely_looked_for():
            gc.set_threshold(chosen)
        assert gc.get_threshold()[0] == chosen
    finally:
        gc.set_threshold(*before)


@pytest.mark.parametrize("way", ["upload", "download", "list"])
def test_what_is_done_with_an_object_needs_no_collector(
    kept: Place, tmp_path: Path, way: str
) -> None:
    """Of circles there would be one a request, and the collector takes longer than the transfer."""
    store, few, many = kept.datastore(), tmp_path / "few", tmp_path / "many"
    for folder, count in ((few, 20), (many, 20 + MORE)):
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.bin").write_bytes(b"content")
        store.upload(folder, folder.name, show_progress=False)

    def work(folder: Path) -> None:
        if way == "upload":
            store.upload(folder, f"again/{folder.name}", show_progress=False)
        elif way == "download":
            store.download(tmp_path / "came", folder.name, cache=False, show_progress=False)
        else:
            assert store.list_objects(folder.name)

    work(few)  # what is made once
    of_few, of_many = (circles_of(lambda folder=folder: work(folder)) for folder in (few, many))  # type: ignore[misc]
    assert of_many - of_few < MORE // 2
