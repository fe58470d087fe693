"""Data is there when a block begins, results are stored when it ends well; each move is a task run.

Where it comes from and goes to is a place of each kind. What is about this machine's side alone, and
takes a flow run, is tried with one.
"""

import asyncio
import copy
import inspect
import pickle
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from oracle import fill, stored
from places import LocalPlace, Place
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.futures import wait
from prefect.runtime import flow_run
from servers.faults import Fault
from small_stores import make_tree

from prefect_datastores import (
    DataReference,
    Datastore,
    download,
    stage,
    staged,
    upload,
)
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import (
    ConfigurationError,
    ContainerNotFound,
    DatastoreNotFound,
    MountUnavailable,
    NameCollision,
    ObjectNotFound,
)
from prefect_datastores.names import ObjectName
from prefect_datastores.settings import scratch_root
from prefect_datastores.stage import Staged
from prefect_datastores.testing import put

pytestmark = pytest.mark.usefixtures("prefect_api", "here")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and scratch space of the test's own."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_SCRATCH_ROOT", str(tmp_path / "scratch"))
    return folder


KINDS = ("local", "blob", "share", "lake")
RAW = {
    "mnist/train.csv": b"1,2\n",
    "mnist/deep/test.csv": b"3,4\n",
    "mnist2/other.csv": b"5,6\n",
    "notes.txt": b"read me\n",
}
of_one_kind = pytest.mark.parametrize("kind", ["local"])


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of every place of a test."""
    made: str = request.param
    return made


@pytest.fixture
def raw_place(new_place: Callable[[str], Any], kind: str) -> Place:
    """A place with a few files."""
    made: Place = new_place(kind)
    fill(made.store, RAW)
    return made


@pytest.fixture
def raw(raw_place: Place) -> FileDatastore:
    """A datastore with a few files."""
    return raw_place.datastore()


@pytest.fixture
def models(new_place: Callable[[str], Any], kind: str) -> FileDatastore:
    """An empty datastore."""
    made: Place = new_place(kind)
    return made.datastore()


@pytest.fixture
def endless(raw_place: Any) -> Iterator[FileDatastore]:
    """The files of `raw`, and one, `large/zeros`, that is longer on its way than any test."""
    with ExitStack() as stack:
        if isinstance(raw_place, LocalPlace):
            (raw_place.root / "large").mkdir()
            with (raw_place.root / "large/zeros").open("wb") as file:
                file.truncate(8 * 2**30)
            yield raw_place.datastore()
        else:
            put(raw_place.store, "large/zeros", bytes(2**20))
            hangs = Fault(r"GET \S+/large/zeros", "hang", times=None)
            yield raw_place.datastore(stack.enter_context(raw_place.through(hangs)).ports)


@pytest.fixture
def registered(raw_place: Place) -> Iterator[str]:
    """The name by which `raw` is registered, which no other test has."""
    name = f"ds_{uuid.uuid4().hex[:12]}"
    raw_place.register(name)
    yield name
    Datastore.unregister(name)


def held(datastore: FileDatastore) -> dict[str, str]:
    """What a datastore holds."""
    with datastore.open_store() as store:
        return {name: content.decode() for name, content in stored(store).items()}


def forget(datastore: FileDatastore, name: str) -> None:
    """Delete an object, which need not be there."""
    with datastore.open_store() as store:
        if name in stored(store):
            store.delete(ObjectName(name))


def files(folder: Path) -> dict[str, str]:
    """The content of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def ask(path: str, run_id: str, **more: Any) -> Any:
    body = {"flow_runs": {"id": {"any_": [run_id]}}, **more}
    with get_client(sync_client=True) as client:
        return client.request("POST", path, json=body).json()


def task_runs(run_id: str) -> dict[str, dict[str, Any]]:
    """The task runs of a flow run by their names, once the server knows the end of each."""
    until = time.monotonic() + 60
    while True:
        runs = ask("/task_runs/filter", run_id)
        if all(run["state_type"] not in {"PENDING", "RUNNING"} for run in runs):
            return {run["name"]: run for run in runs}
        assert time.monotonic() < until, runs
        time.sleep(0.1)


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pds-")]


def left_in_scratch() -> list[Path]:
    return [path for path in scratch_root().rglob("*") if path.is_file()]


MNIST = {"deep/test.csv": "3,4\n", "train.csv": "1,2\n"}


# -- the tasks ------------------------------------------------------------------------------------


def test_a_folder_is_downloaded_as_its_content_and_a_file_as_itself(
    raw: FileDatastore, here: Path
) -> None:
    @flow
    def stage_both() -> tuple[Path, Path, Path]:
        return (
            download(raw.path("mnist").as_download(), here / "folder"),
            download(raw.path("notes.txt").as_download(), here / "file"),
            download(raw.path("mnist").as_download("data/digits")),
        )

    folder, file, default = stage_both()
    assert (folder, files(folder)) == (here / "folder", MNIST)
    assert (file, file.read_text()) == (here / "file/notes.txt", "read me\n")
    assert (default, files(default)) == (here / "data/digits", MNIST)


def test_globs_choose_what_is_downloaded(raw: FileDatastore, here: Path) -> None:
    @flow
    def some() -> None:
        download(raw.as_download(include=["*.csv"], exclude=["mnist2"]), here / "csv")

    some()
    assert files(here / "csv") == {f"mnist/{name}": text for name, text in MNIST.items()}


def test_what_is_to_be_mounted_can_be_downloaded_as_well(raw: FileDatastore, here: Path) -> None:
    @flow
    def fetched() -> list[Path]:
        references = (raw.path("mnist"), raw.path("mnist").as_mount())
        return [download(each, here / f"{n}") for n, each in enumerate(references)]

    assert [files(path) for path in fetched()] == [MNIST, MNIST]


@pytest.mark.usefixtures("no_mounts")
def test_a_mount_falls_back_to_the_same_paths_or_says_that_it_cannot(raw: FileDatastore) -> None:
    with stage(data=raw.path("mnist").as_mount(fallback="download")) as s:
        assert files(s.data) == MNIST
        assert not s.data.is_symlink()
    for without in (raw.path("mnist"), raw.path("mnist").as_mount(), raw):
        with pytest.raises(MountUnavailable, match=r"Use as_download\(\).*fallback='download'"):
            with stage(data=without):
                pytest.fail("the block ran")


def test_what_is_to_be_uploaded_is_not_downloaded(raw: FileDatastore) -> None:
    with pytest.raises(ConfigurationError, match="is to be uploaded; it cannot be downloaded"):
        download.fn(raw.path("mnist").as_upload("x"))


def test_nothing_there_is_an_error_that_says_where(raw: FileDatastore, here: Path) -> None:
    @flow
    def missing(reference: DataReference) -> Path:
        return download(reference, here / "data")

    says = f"nothing at 'mnis' in {re.escape(raw.url)}.*allow_empty=True"
    with pytest.raises(ObjectNotFound, match=says):
        missing(raw.path("mnis").as_download())
    with pytest.raises(ObjectNotFound, match=r"include=\['\*.png'\]"):
        download(raw.path("mnist").as_download(include=["*.png"]), here / "data")
    nothing = download(raw.path("mnis").as_download(allow_empty=True), here / "data")
    assert files(nothing) == {}


def test_a_folder_and_a_file_are_uploaded(models: FileDatastore, here: Path) -> None:
    (here / "out/deep").mkdir(parents=True)
    (here / "out/model.pkl").write_text("model")
    (here / "out/deep/log").write_text("log")

    @flow
    def store() -> list[int]:
        return [
            upload(here / "out", models.path("run").as_upload()).count,
            upload(here / "out/model.pkl", models.path("best").as_upload()).count,
            upload(here / "out/model.pkl", models.path("last/model.pkl").as_upload()).count,
            upload("out/model.pkl", models.as_upload()).count,
        ]

    assert store() == [2, 1, 1, 1]
    assert held(models) == {
        "best/model.pkl": "model",
        "last/model.pkl": "model",
        "model.pkl": "model",
        "run/deep/log": "log",
        "run/model.pkl": "model",
    }


@of_one_kind
def test_a_missing_source_is_an_error_unless_it_may_be_empty(
    models: FileDatastore, here: Path
) -> None:
    (here / "empty").mkdir()

    @flow
    def store(source: Path, reference: DataReference) -> int:
        return upload(source, reference).count

    with pytest.raises(
        ObjectNotFound, match=r"Nothing to upload to .*:best': .*/gone does not exist"
    ):
        store(here / "gone", models.path("best").as_upload())
    with pytest.raises(ObjectNotFound, match=r"/empty has no files"):
        store(here / "empty", models.path("best").as_upload())
    for source in (here / "empty", here / "gone"):
        assert store(source, models.path("best").as_upload(allow_empty=True)) == 0


def test_a_task_run_is_named_by_its_reference_and_tells_what_it_did(
    registered: str, here: Path
) -> None:
    name = registered
    (here / "new.txt").write_text("new")

    @flow
    def both() -> str:
        reference = Datastore.get(name).path("mnist")
        download(reference.as_download(), here / "data")
        upload.submit(here / "new.txt", reference.path("new").as_upload()).result()
        return str(flow_run.id)

    run_id = both()
    runs = task_runs(run_id)
    assert set(runs) == {f"download {name}:mnist", f"upload {name}:mnist/new"}
    assert {run["state_type"] for run in runs.values()} == {"COMPLETED"}

    progress = [item for item in ask("/artifacts/filter", run_id) if item["type"] == "progress"]
    assert {item["task_run_id"] for item in progress} == {run["id"] for run in runs.values()}
    assert [item["data"] for item in progress] == [100.0, 100.0]
    begun = f"download {name}:mnist: 2/2 objects, 8 B of 8 B"
    assert any(item["description"].startswith(begun) for item in progress)

    logged = {"logs": {"flow_run_id": {"any_": [run_id]}}}
    until = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while True:
            lines = [
                line["message"]
                for line in client.request("POST", "/logs/filter", json=logged).json()
            ]
            if sum("objects (" in line or "object (" in line for line in lines) == 2:
                break
            assert time.monotonic() < until, lines
            time.sleep(0.2)
    assert any(line.startswith(f"download {name}:mnist: 2 objects (8 B) in") for line in lines)
    assert any(line.startswith(f"upload {name}:mnist/new: 1 object (3 B) in") for line in lines)


def test_progress_of_what_need_not_be_moved_ends_at_100_as_well(
    raw: FileDatastore, here: Path
) -> None:
    @flow
    def again() -> str:
        for overwrite in ("replace", "skip", "if_changed"):
            download(raw.path("mnist").as_download(overwrite=overwrite), here / "data")
        download(raw.path("none").as_download(allow_empty=True), here / "none")
        return str(flow_run.id)

    made = ask("/artifacts/filter", again())
    assert [item["data"] for item in made if item["type"] == "progress"] == [100.0] * 4


def test_a_reference_alone_is_found_by_its_datastores_name(registered: str, here: Path) -> None:
    name = registered

    @flow
    def fetch(reference: DataReference) -> Path:
        return download(reference, here / "data")

    reference = DataReference(datastore=name, path_on_datastore="mnist", mode="download")
    assert files(fetch(reference)) == MNIST
    assert files(fetch(reference.model_dump(mode="json"))) == MNIST  # type: ignore[arg-type]
    with pytest.raises(DatastoreNotFound, match=f"'no_{name}'"):
        fetch(DataReference(datastore=f"no_{name}", mode="download"))


def test_one_file_of_each_kind_is_staged_as_itself(raw: FileDatastore) -> None:
    with stage(one=raw.path("mnist/train.csv").as_mount(fallback="download")) as s:
        assert (s.one.name, s.one.read_text()) == ("train.csv", "1,2\n")


# -- stage ----------------------------------------------------------------------------------------


def use(s: Staged) -> None:
    """What every block of these tests does."""
    assert files(s.data) == MNIST
    (s.model / "model.pkl").write_text("model")


def references(raw: FileDatastore, models: FileDatastore, **when: Any) -> dict[str, Any]:
    return {
        "data": raw.path("mnist").as_download(),
        "model": models.path("churn").as_upload(**when),
    }


def in_a_flow(body: Callable[[], None]) -> None:
    flow(body)()


def in_a_task(body: Callable[[], None]) -> None:
    @flow
    def outer() -> None:
        task(body).submit().result()

    outer()


def outside(body: Callable[[], None]) -> None:
    body()


_WAYS: list[tuple[Callable[..., None], str]] = [
    *((outside, kind) for kind in KINDS),
    *((in_a_flow, kind) for kind in ("local", "share")),
    *((in_a_task, kind) for kind in ("blob", "lake")),
]
each_way = pytest.mark.parametrize(
    ("way", "kind"), _WAYS, ids=[f"{way.__name__}-{kind}" for way, kind in _WAYS]
)
"""Calls a function in a flow, in a task, or without Prefect; with places of each kind."""


@each_way
def test_a_block_finds_its_data_and_its_results_are_stored(
    way: Any, raw: FileDatastore, models: FileDatastore
) -> None:
    seen: list[Staged] = []

    def body() -> None:
        with stage(**references(raw, models)) as s:
            seen.append(s)
            use(s)
            assert held(models) == {}

    way(body)
    assert held(models) == {"churn/model.pkl": "model"}
    assert seen[0].reports["model"].count == 1
    assert left_in_scratch() == []
    assert not seen[0].data.exists()


def test_an_async_block_does_the_same(raw: FileDatastore, models: FileDatastore) -> None:
    @flow
    async def train() -> str:
        async with stage(**references(raw, models)) as s:
            use(s)
        return str(flow_run.id)

    async def without_prefect() -> None:
        async with stage(**references(raw, models)) as s:
            use(s)

    run_id = asyncio.run(train())
    assert held(models) == {"churn/model.pkl": "model"}
    assert {run["task_key"].partition("-")[0] for run in task_runs(run_id).values()} == {
        *("download", "upload"),
    }
    forget(models, "churn/model.pkl")
    asyncio.run(without_prefect())
    assert held(models) == {"churn/model.pkl": "model"}
    assert left_in_scratch() == []


@pytest.mark.parametrize(
    ("when", "after_success", "after_failure", "kind"),
    [
        ("success", True, False, "local"),
        ("success", True, False, "share"),
        ("always", True, True, "blob"),
        ("failure", False, True, "lake"),
    ],
)
def test_the_outcome_decides_what_is_uploaded(
    when: str,
    after_success: bool,
    after_failure: bool,
    raw: FileDatastore,
    models: FileDatastore,
) -> None:
    @flow
    def train(fails: bool) -> None:
        with stage(**references(raw, models, when=when)) as s:
            use(s)
            if fails:
                raise ZeroDivisionError("a bad model")

    train(fails=False)
    assert bool(held(models)) == after_success
    forget(models, "churn/model.pkl")
    with pytest.raises(ZeroDivisionError, match="a bad model"):
        train(fails=True)
    assert bool(held(models)) == after_failure
    assert left_in_scratch() == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_a_block_that_is_interrupted_uploads_nothing(
    interruption: type[BaseException], models: FileDatastore
) -> None:
    def interrupted() -> None:
        with stage(model=models.path("churn").as_upload(when="always")) as s:
            (s.model / "model.pkl").write_text("half a model")
            raise interruption

    with pytest.raises(interruption):
        interrupted()
    assert held(models) == {}
    assert left_in_scratch() == []


@each_way
def test_an_upload_that_fails_after_a_failure_does_not_hide_it(
    way: Any, raw: FileDatastore, models: FileDatastore
) -> None:
    def body() -> None:
        with stage(model=models.path("churn").as_upload("never.pkl", when="always")):
            raise ZeroDivisionError("the block's own error")

    with pytest.raises(ZeroDivisionError, match="the block's own error"):
        way(body)


@each_way
def test_a_result_that_was_never_written_is_an_error(way: Any, models: FileDatastore) -> None:
    def nothing() -> None:
        with stage(model=models.path("churn").as_upload("never.pkl")):
            pass

    def empty() -> None:
        with stage(model=models.path("churn").as_upload()):
            pass

    with pytest.raises(ObjectNotFound, match=r"never.pkl does not exist"):
        way(nothing)
    with pytest.raises(ObjectNotFound, match=r"has no files"):
        way(empty)


@each_way
def test_an_upload_that_cannot_work_is_refused_before_the_block(
    way: Any, raw: FileDatastore, new_place: Callable[[str], Any], kind: str
) -> None:
    there: Place = new_place(kind)
    gone = there.datastore()
    there.destroy()
    ran: list[str] = []

    def body() -> None:
        with stage(data=raw.path("mnist").as_download(), model=gone.path("x").as_upload()):
            ran.append("block")

    with pytest.raises(ContainerNotFound, match="does not exist"):
        way(body)
    assert ran == []
    assert left_in_scratch() == []


@each_way
def test_a_download_that_fails_stops_the_others_and_leaves_nothing(
    way: Any, endless: FileDatastore
) -> None:
    ran: list[str] = []
    runs: list[str] = []

    def body() -> None:
        runs.append(str(flow_run.id or ""))
        with stage(
            wrong=endless.path("no such thing").as_download(),
            large=endless.path("large").as_download(),
        ):
            ran.append("block")

    with pytest.raises(ObjectNotFound, match="nothing at 'no such thing'"):
        way(body)
    assert ran == []
    assert our_threads() == []
    assert left_in_scratch() == []
    if way is in_a_flow:
        messages = {name: run["state"]["message"] for name, run in task_runs(runs[0]).items()}
        assert "The transfer was cancelled." in messages[f"download {endless.name}:large"]


def test_data_with_a_path_on_compute_is_there_and_stays(
    raw: FileDatastore, models: FileDatastore, here: Path, tmp_path: Path
) -> None:
    def work(folder: Path | None) -> None:
        with stage(
            working_directory=folder,
            data=raw.path("mnist").as_download("in"),
            model=models.path("churn").as_upload("./out/model.pkl"),
        ) as s:
            base = folder or here
            assert (s.data, s.model) == (base / "in", base / "out/model.pkl")
            s.model.parent.mkdir(parents=True)
            s.model.write_text("model")

    work(None)
    assert files(here) == {"out/model.pkl": "model", **{f"in/{k}": v for k, v in MNIST.items()}}
    work(tmp_path / "elsewhere")
    assert "in/train.csv" in files(tmp_path / "elsewhere")
    assert held(models) == {"churn/model.pkl": "model"}


def test_references_by_position_have_their_own_names(
    raw: FileDatastore, models: FileDatastore
) -> None:
    data = raw.path("mnist", "digits").as_download()
    with stage(data, models.path("churn", "model").as_upload()) as s:
        assert list(s) == ["digits", "model"]
        assert s["digits"] == s.digits
        assert files(s.digits) == MNIST
        (s.model / "x").write_text("x")
    with pytest.raises(NameCollision, match="data_reference_name="):
        stage(data, raw.path("mnist2", "digits").as_download())
    with pytest.raises(NameCollision, match="share a name"):
        stage(data, digits=raw.path("mnist2").as_download())
    with pytest.raises(ConfigurationError, match="is no datastore and no reference"):
        stage(data="raw/mnist")  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_mounts")
def test_a_mount_without_fallback_is_refused_before_anything_moves(raw: FileDatastore) -> None:
    with (
        pytest.raises(MountUnavailable),
        stage(data=raw.path("mnist").as_download("data"), mounted=raw.path("mnist2").as_mount()),
    ):
        pytest.fail("the block ran")
    assert files(Path.cwd()) == {}


def test_the_environment_of_a_script_names_every_place(
    raw: FileDatastore, models: FileDatastore
) -> None:
    data = raw.path("mnist", "Digits").as_download()
    with stage(data=data, model=models.path("m", "model").as_upload(allow_empty=True)) as s:
        assert s.environment() == {
            "AZUREML_DATAREFERENCE_Digits": str(s.data),
            "DATASTORE_DIGITS": str(s.data),
            "AZUREML_DATAREFERENCE_model": str(s.model),
            "DATASTORE_MODEL": str(s.model),
        }
        with pytest.raises(AttributeError, match=r"Nothing is staged as 'modle'.* data, model"):
            _ = s.modle


@of_one_kind
def test_all_that_is_staged_can_be_handed_to_a_task(raw: FileDatastore) -> None:
    @task
    def names(s: Staged) -> list[str]:
        return sorted(files(s.data))

    @flow
    def count() -> list[str]:
        with stage(data=raw.path("mnist").as_download()) as s:
            for same in (pickle.loads(pickle.dumps(s)), copy.copy(s), copy.deepcopy(s)):
                assert dict(same) == dict(s)
            return names.submit(s).result()

    assert count() == sorted(MNIST)


def test_a_task_that_uses_the_data_holds_the_upload_back(
    raw: FileDatastore, models: FileDatastore
) -> None:
    @task
    def fit(data: Path, model: Path) -> int:
        (model / "model.pkl").write_text(f"{len(files(data))} files")
        return len(files(data))

    @flow
    def train() -> str:
        with stage(**references(raw, models)) as s:
            assert fit.submit(s.data, s.model).result() == 2
        return str(flow_run.id)

    runs = task_runs(train())
    assert held(models) == {"churn/model.pkl": "2 files"}
    by_kind = {run["task_key"].partition("-")[0]: run for run in runs.values()}
    assert by_kind["download"]["end_time"] <= by_kind["fit"]["start_time"]
    assert by_kind["fit"]["end_time"] <= by_kind["upload"]["start_time"]


# -- staged ---------------------------------------------------------------------------------------


@of_one_kind
def test_a_staged_flow_gets_paths_that_are_not_its_parameters(
    raw: FileDatastore, models: FileDatastore
) -> None:
    @flow
    @staged(data=raw.path("mnist").as_download(), model=models.path("churn").as_upload())
    def train(data: Path, rate: float, model: Path, epochs: int = 3) -> tuple[int, float, int]:
        (model / "model.pkl").write_text("model")
        return len(files(data)), rate, epochs

    assert list(train.parameters.properties) == ["rate", "epochs"]
    assert train.parameters.required == ["rate"]
    assert list(inspect.signature(train.fn).parameters) == ["rate", "epochs"]
    assert train(0.1) == (2, 0.1, 3)
    assert train(rate="0.5", epochs=1) == (2, 0.5, 1)  # type: ignore[call-arg, arg-type]
    assert held(models) == {"churn/model.pkl": "model"}
    with pytest.raises(TypeError, match="data"):
        train(0.1, data=Path())  # type: ignore[call-arg]


@of_one_kind
def test_a_staged_task_is_called_in_every_way(raw: FileDatastore) -> None:
    @task
    @staged(data=raw.path("mnist").as_download())
    def count(factor: int, data: Path, offset: int = 0) -> int:
        return factor * len(files(data)) + offset

    @flow
    def calls() -> list[int]:
        submitted = count.submit(3, offset=1)
        mapped = count.map([4, 5], offset=[0, 1])
        wait([submitted, *mapped])
        return [
            count(1),
            count(factor=2),
            count(2, 7),
            submitted.result(),
            *(future.result() for future in mapped),
            count.fn(10),
        ]

    assert calls() == [2, 4, 11, 7, 8, 11, 20]
    assert list(inspect.signature(count.fn).parameters) == ["factor", "offset"]
    assert left_in_scratch() == []


def test_staged_async_functions_are_awaited(raw: FileDatastore, models: FileDatastore) -> None:
    @task
    @staged(data=raw.path("mnist").as_download())
    async def count(factor: int, data: Path) -> int:
        await asyncio.sleep(0)
        return factor * len(files(data))

    @flow
    @staged(model=models.path("churn").as_upload())
    async def train(rate: float, *, model: Path) -> int:
        (model / "model.pkl").write_text("model")
        return await count(2) + count.submit(factor=1).result()

    assert train.isasync
    assert count.isasync
    assert list(train.parameters.properties) == ["rate"]
    assert asyncio.run(train(0.1)) == 6
    assert held(models) == {"churn/model.pkl": "model"}


def test_a_staged_function_may_take_anything(raw: FileDatastore) -> None:
    @staged(data=raw.path("mnist").as_download())
    def plain(first: int, /, *rest: int, data: Path, **more: int) -> tuple[Any, ...]:
        return first, rest, len(files(data)), more

    assert plain(1, 2, 3, x=4) == (1, (2, 3), 2, {"x": 4})


def test_a_staged_function_without_the_parameter_is_refused(raw: FileDatastore) -> None:
    with pytest.raises(ConfigurationError, match=r"train\(\) has no parameter 'dta'"):

        @staged(dta=raw.path("mnist").as_download())
        def train(data: Path) -> None:
            raise AssertionError


@of_one_kind
def test_a_failed_staged_flow_publishes_nothing(raw: FileDatastore, models: FileDatastore) -> None:
    @flow
    @staged(model=models.path("churn").as_upload())
    def train(model: Path) -> None:
        (model / "model.pkl").write_text("half a model")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()  # type: ignore[call-arg]
    assert held(models) == {}


def test_words_of_the_staged_paths_are_no_keywords(raw: FileDatastore) -> None:
    for word in ("values", "environment", "reports"):
        with pytest.raises(ConfigurationError, match="choose another keyword"):
            stage(**{word: raw.path("mnist").as_download()})


def test_a_cancelled_async_block_stops_and_leaves_nothing(
    tmp_path: Path, endless: FileDatastore
) -> None:
    scratch = tmp_path / "scratch" / "stages"

    async def cancel_while_it_enters() -> None:
        async def enter() -> None:
            async with stage(data=endless.path("large").as_download()):
                pytest.fail("it was cancelled before it was there")

        running = asyncio.create_task(enter())
        while not list(scratch.rglob("*.part")):
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancel_while_it_enters())
    assert list(scratch.glob("*")) == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("pds-")] == []


def test_a_stage_that_could_not_be_entered_can_be_entered_later(
    raw: FileDatastore, raw_place: Place
) -> None:
    later = stage(data=raw.path("later").as_download())
    with pytest.raises(ObjectNotFound):
        later.__enter__()
    put(raw_place.store, "later/x", b"x")
    with later as paths:
        assert files(paths.data) == {"x": "x"}


def test_a_generator_has_its_data_until_its_end(raw: FileDatastore, models: FileDatastore) -> None:
    references: dict[str, Any] = {
        "data": raw.path("mnist").as_download(),
        "model": models.path("m").as_upload(),
    }

    @staged(**references)
    def lines(data: Path, model: Path) -> Iterator[str]:
        for name, text in files(data).items():
            yield text
            (model / Path(name).name).write_text(text)

    @staged(**references)
    async def alines(data: Path, model: Path) -> Any:
        for text in files(data).values():
            yield text
        (model / "async").write_text("x")

    async def all_of() -> list[str]:
        return [line async for line in alines()]

    assert sorted(lines()) == ["1,2\n", "3,4\n"]
    assert sorted(asyncio.run(all_of())) == ["1,2\n", "3,4\n"]
    assert set(held(models)) == {"m/train.csv", "m/test.csv", "m/async"}


def test_an_upload_of_nothing_is_an_error_unless_it_is_allowed(
    models: FileDatastore, here: Path
) -> None:
    source = make_tree(here, {"notes.txt": b"read me"})
    with pytest.raises(ObjectNotFound, match="no files that the globs choose"):
        models.upload(source, include="*.cvs")
    assert models.upload(source, include="*.cvs", allow_empty=True).count == 0
    with pytest.raises(ObjectNotFound, match=r"notes\.txt has no files"):
        with stage(note=models.as_upload("notes.txt", include=["*.csv"])):
            pass
