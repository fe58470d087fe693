"""Mounts around scripts and flows: begun before, there during, gone after, whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psutil
import pytest
from azure.storage.blob import ContainerClient, generate_container_sas
from prefect import flow, task
from prefect.client.orchestration import get_client
from servers.azure_files import AzureFiles
from servers.azurite import Azurite
from servers.data_lake import DataLake
from small_stores import make_tree, tree

from prefect_datastores import (
    AzureBlobDatastore,
    AzureDataLakeGen2Datastore,
    AzureFileDatastore,
    DataReference,
    Datastore,
    Estimator,
    LocalDatastore,
    mount,
    mounts,
    stage,
    staged,
)
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import MountError, ObjectNotFound, PlaceTaken
from prefect_datastores.mounting import lease
from prefect_datastores.mounts import Mounts
from prefect_datastores.processes import started
from prefect_datastores.settings import mounts_root
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.testing import content_of

pytestmark = pytest.mark.usefixtures("prefect_api")

FILES = {"train.csv": b"1,2\n", "deep/test.csv": b"3,4\n", "large": content_of(2 * 2**20 + 7)}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of the test's own, below which nothing is mounted."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(params=["blob", "share", "lake", "local"])
def store(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    azurite: Azurite,
    azure_files: AzureFiles,
    data_lake: DataLake,
) -> FileDatastore:
    """A datastore of each kind, with some files."""
    made: FileDatastore
    if request.param == "local":
        made = local_at(tmp_path / "store")
    elif request.param == "share":
        made = AzureFileDatastore(
            account_name=azure_files.account,
            file_share_name=request.getfixturevalue("share"),
            auth={"account_key": azure_files.key},
            protocol="http",
            endpoint=f"{azure_files.host}:{azure_files.port}",
        )
    elif request.param == "lake":
        made = AzureDataLakeGen2Datastore(
            account_name=data_lake.account,
            container_name=request.getfixturevalue("filesystem"),
            auth={"account_key": data_lake.key},
            protocol="http",
            endpoint=f"{data_lake.host}:{data_lake.blob_port}",
            dfs_endpoint=f"{data_lake.host}:{data_lake.dfs_port}",
        )
    else:
        made = blobs(azurite, request.getfixturevalue("container"))
    made.upload(make_tree(tmp_path / "source", FILES), "mnist", show_progress=False)
    return made


def local_at(root: Path) -> LocalDatastore:
    root.mkdir(exist_ok=True)
    return LocalDatastore(root=str(root))


def blobs(azurite: Azurite, container: ContainerClient) -> AzureBlobDatastore:
    return AzureBlobDatastore(
        account_name=azurite.account,
        container_name=str(container.container_name),
        auth={"account_key": azurite.key},
        protocol="http",
        endpoint=f"{azurite.host}:{azurite.port}",
    )


@pytest.fixture
def raw(tmp_path: Path) -> LocalDatastore:
    """A folder with some files."""
    make_tree(tmp_path / "raw/mnist", FILES)
    return local_at(tmp_path / "raw")


def no_mount_is_left() -> None:
    assert [found.folder.name for found in lease.mounts(mounts_root())] == []


# -- stage ------------------------------------------------------------------------------------------


def test_a_mount_has_the_layout_of_a_download(store: FileDatastore) -> None:
    def at(path: str, name: str) -> DataReference:
        return store.path(path, name)

    with stage(
        a=at("mnist", "a").as_mount(),
        b=at("mnist", "b").as_download(),
        one=at("mnist/train.csv", "one").as_mount(),
        two=at("mnist/train.csv", "two").as_download(),
    ) as s:
        assert tree(s.a) == tree(s.b) == FILES
        assert (s.one.name, s.one.read_bytes()) == (s.two.name, s.two.read_bytes())
        assert s.a.is_symlink()
        assert mounts_root().resolve() in s.a.resolve().parents
        a = s.a
    assert not os.path.lexists(a)
    no_mount_is_left()


def test_a_bare_datastore_is_mounted_whole_as_in_azure_ml(raw: LocalDatastore) -> None:
    with stage(raw) as s:
        assert tree(s[raw.path().name] / "mnist") == FILES
    no_mount_is_left()


def test_a_mount_is_a_node_of_the_run_graph_and_says_what_was_read(raw: LocalDatastore) -> None:
    @task
    def fit(data: Path) -> int:
        return len((data / "train.csv").read_bytes())

    @flow
    def train() -> int:
        with stage(data=raw.path("mnist").as_mount()) as s:
            return fit.submit(s.data).result()

    state = train(return_state=True)
    assert state.result() == 4
    run_id = state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        names = [run.name for run in client.read_task_runs() if run.flow_run_id == run_id]
        assert f"mount {raw.name}:mnist" in names
        from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        shown = [str(found.data) for found in client.read_artifacts(artifact_filter=wanted)]
    assert any(f"Mounted `{raw.name}:mnist`" in text and "1 of 2" in text for text in shown)
    no_mount_is_left()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_mount_goes_when_the_block_fails(raw: LocalDatastore, kind: type[BaseException]) -> None:
    with pytest.raises(kind):
        with stage(data=raw.path("mnist").as_mount()) as s:
            assert (s.data / "train.csv").exists()
            raise kind("of the block")
    no_mount_is_left()


def test_one_reference_that_fails_leaves_no_mount_of_the_others(raw: LocalDatastore) -> None:
    with pytest.raises(ObjectNotFound):
        with stage(a=raw.path("mnist").as_mount(), b=raw.path("nothing").as_mount()):
            pytest.fail("the block ran")
    no_mount_is_left()


def kill_the_server() -> None:
    (found,) = lease.mounts(mounts_root())
    assert found.lease is not None
    os.kill(found.lease.pid, signal.SIGKILL)
    while started(found.lease.pid) >= 0:
        time.sleep(0.02)


def test_a_mount_that_died_fails_the_run(raw: LocalDatastore, tmp_path: Path) -> None:
    models = local_at(tmp_path / "models")
    with pytest.raises(MountError, match="ended before its time"):
        with stage(data=raw.path("mnist").as_mount(), model=models.path("m").as_upload()) as s:
            (s.model / "x").write_text("x")
            kill_the_server()
    no_mount_is_left()


def test_the_error_of_the_block_is_the_one_that_is_raised(raw: LocalDatastore) -> None:
    with pytest.raises(ValueError, match="of the block"):
        with stage(data=raw.path("mnist").as_mount()):
            kill_the_server()
            raise ValueError("of the block")
    no_mount_is_left()


def test_asynchronous_code_and_decorated_functions_get_mounts(raw: LocalDatastore) -> None:
    async def read() -> bytes:
        async with stage(data=raw.path("mnist").as_mount()) as s:
            return (s.data / "train.csv").read_bytes()

    @flow
    @staged(data=raw.path("mnist").as_mount())
    def length(data: Path) -> int:
        return len((data / "large").read_bytes())

    assert asyncio.run(read()) == FILES["train.csv"]
    assert length() == len(FILES["large"])
    no_mount_is_left()


def test_a_mount_without_an_owner_is_refused(raw: LocalDatastore) -> None:
    with pytest.raises(MountError, match="Nobody would end this mount"):
        mount.fn(raw.path("mnist"))
    no_mount_is_left()


def test_the_working_directory_of_a_run_can_be_deleted_beside_a_mount(
    raw: LocalDatastore, here: Path
) -> None:
    """As Prefect's worker does after a run: what is mounted is not in it."""
    import shutil

    with stage(data=raw.path("mnist").as_mount(), working_directory=here) as s:
        (here / "link").symlink_to(s.data)
        shutil.rmtree(here)
        assert tree(s.data) == FILES
    assert tree(Path(raw.root) / "mnist") == FILES
    here.mkdir()
    no_mount_is_left()


def test_a_credential_that_ended_is_replaced_by_one_that_is_registered_anew(
    azurite: Azurite, container: ContainerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "_RENEW_SECONDS", 0.2)
    container.upload_blob("mnist/first", b"first")
    container.upload_blob("mnist/second", b"second")
    ends = datetime.now(timezone.utc) + timedelta(seconds=4)
    given: dict[str, Any] = {
        "datastore_name": f"sas_{uuid.uuid4().hex[:10]}",
        "container_name": str(container.container_name),
        "account_name": azurite.account,
        "protocol": "http",
        "endpoint": f"{azurite.host}:{azurite.port}",
    }
    token = generate_container_sas(
        azurite.account,
        given["container_name"],
        account_key=azurite.key,
        permission="rl",
        expiry=ends,
    )
    raw = Datastore.register_azure_blob_container(**given, sas_token=token)

    def read(name: str) -> bytes | None:
        try:
            return (s.data / name).read_bytes()
        except PermissionError:
            return None

    with stage(data=raw.path("mnist").as_mount(cache=False)) as s:
        assert read("first") == b"first"
        wait(lambda: datetime.now(timezone.utc) > ends + timedelta(seconds=1), 20)
        assert read("second") is None
        log = (s.data.resolve().parent / lease.LOG).read_text()
        assert "EACCES" in log
        assert token not in log
        Datastore.register_azure_blob_container(**given, account_key=azurite.key, overwrite=True)
        wait(lambda: read("second") == b"second", 20)
    Datastore.unregister(raw.name)
    no_mount_is_left()


# -- the Estimator ------------------------------------------------------------------------------------

TRAIN = """
import argparse, json, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path)
data = parser.parse_args().data
rows = {path.relative_to(data).as_posix(): len(path.read_bytes()) for path in data.rglob("*") if path.is_file()}
pathlib.Path("outputs/seen.json").write_text(json.dumps(rows))
"""


@pytest.fixture
def results(tmp_path: Path) -> LocalDatastore:
    """What takes a run's outputs."""
    return Datastore.register_local(f"out_{uuid.uuid4().hex[:10]}", tmp_path / "results")


def test_a_script_reads_what_is_mounted(
    store: FileDatastore, results: LocalDatastore, tmp_path: Path
) -> None:
    make_tree(tmp_path / "src", {"train.py": TRAIN.encode()})
    est = Estimator(
        source_directory=str(tmp_path / "src"),
        entry_script="train.py",
        script_params={"--data": store.path("mnist").as_mount()},
        inputs=[results.path("run").as_upload("outputs")],
    )
    assert "fetched as it is read" in str(est.plan())
    est.run()
    seen = Path(results.root) / "run/seen.json"
    assert json.loads(seen.read_text()) == {name: len(content) for name, content in FILES.items()}
    no_mount_is_left()


SLEEP = "import os, pathlib, sys, time; print(os.listdir(sys.argv[2]), flush=True); time.sleep(120)"


@pytest.mark.parametrize("how", ["cancel", "kill"])
def test_a_submitted_run_that_ends_early_leaves_no_mount(
    results: LocalDatastore, tmp_path: Path, how: str
) -> None:
    make_tree(tmp_path / "raw/mnist", FILES)
    raw = Datastore.register_local(f"raw_{uuid.uuid4().hex[:10]}", tmp_path / "raw")
    make_tree(tmp_path / "src", {"train.py": SLEEP.encode()})
    est = Estimator(
        source_directory=str(tmp_path / "src"),
        entry_script="train.py",
        script_params={"--data": raw.path("mnist").as_mount()},
        inputs=[results.path("run").as_upload("outputs")],
    )
    run = est.submit()
    wait(lambda: any(found.lease for found in lease.mounts(mounts_root())), 90)
    (found,) = lease.mounts(mounts_root())
    assert found.lease is not None
    if how == "cancel":
        run.cancel()
    else:
        psutil.Process(psutil.Process(found.lease.pid).ppid()).kill()
    wait(lambda: started(found.lease.pid) < 0, 60)  # type: ignore[union-attr]
    lease.clean(mounts_root())
    no_mount_is_left()
    assert tree(tmp_path / "raw/mnist") == FILES


def wait(holds: Callable[[], Any], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


# -- the command line ---------------------------------------------------------------------------------


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "prefect_datastores.cli", *map(str, arguments)]


def said(*arguments: object) -> Any:
    done = subprocess.run(command(*arguments, "--json"), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("end", ["unmount", "interrupt"])
def test_a_shell_mounts_and_unmounts(tmp_path: Path, here: Path, end: str) -> None:
    make_tree(tmp_path / "raw/mnist", FILES)
    name = f"raw_{uuid.uuid4().hex[:10]}"
    Datastore.register_local(name, tmp_path / "raw")
    mounting = subprocess.Popen(
        command("mount", f"{name}:mnist", "data"), stdout=subprocess.PIPE, text=True
    )
    assert mounting.stdout is not None
    assert "Ctrl-C ends it" in mounting.stdout.readline()
    assert tree(here / "data") == FILES
    wait(lambda: any(one.get("opened") == len(FILES) for one in said("mounts")), 20)
    (one,) = said("mounts")
    assert (one["reference"], one["folder"]) == (f"{name}:mnist", str(here / "data"))
    assert said("doctor") == {"removed": [], "left": [], "late": [], "ended": []}
    if end == "unmount":
        assert said("unmount", "data") == {"unmounted": "data"}
    else:
        mounting.send_signal(signal.SIGINT)
    rest, _ = mounting.communicate(timeout=30)
    if end == "interrupt":
        assert mounting.returncode == 0
        assert f"Unmounted {name}:mnist: 3 files of" in rest
        assert not (here / "data").exists()
    assert said("mounts") == []
    assert tree(tmp_path / "raw/mnist") == FILES
    no_mount_is_left()


def test_what_cannot_be_mounted_is_told(tmp_path: Path, here: Path) -> None:
    make_tree(here / "full", {"x": b"x"})
    name = f"raw_{uuid.uuid4().hex[:10]}"
    Datastore.register_local(name, tmp_path / "raw")
    for arguments, code, says in (
        (("mount", name, "full"), 2, "is not empty"),
        (("mount", f"{name}:nothing", "data"), 3, "There is nothing at"),
        (("mount", "no_such_datastore", "data"), 3, "no_such_datastore"),
        (("unmount", "full"), 2, "Nothing of this package is mounted"),
    ):
        done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
        assert (done.returncode, says in done.stderr) == (code, True), done.stderr
        assert not (here / "data").exists()
    no_mount_is_left()


def test_the_link_of_a_run_that_was_killed_gives_way_and_nothing_else_does(
    raw: LocalDatastore, tmp_path: Path
) -> None:
    reference, link = raw.path("mnist").as_mount(), tmp_path / "place/data"
    killed, next_run, refused = Mounts(), Mounts(), Mounts()
    killed.add(reference, link, Cancellation())
    kill_the_server()
    assert tree(next_run.add(reference, link, Cancellation())) == FILES
    for place, what in ((link, "a link to"), (tmp_path / "raw", "something")):
        with pytest.raises(PlaceTaken, match=f"{place} is to be a link .* {what}"):
            refused.add(reference, place, Cancellation())
    assert tree(link) == FILES
    next_run.close()
    with pytest.raises(MountError):
        killed.close()
    no_mount_is_left()


def test_the_doctor_removes_what_a_kill_left(raw: LocalDatastore) -> None:
    with pytest.raises(MountError), stage(data=raw.path("mnist").as_mount()) as s:
        point = s.data.resolve()
        kill_the_server()
        assert said("mounts")[0]["served"] is False
        assert said("doctor") == {
            "removed": [str(point.parent)],
            "left": [],
            "late": [],
            "ended": [],
        }
    no_mount_is_left()
