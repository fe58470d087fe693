"""Runs whose state is kept while they go on: what the next one begins with, however this one ended."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from places import LocalPlace, Place, RemotePlace
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.exceptions import CancelledRun
from servers.faults import Fault
from small_stores import make_tree, tree

from prefect_datastores import (
    AzureBlobDatastore,
    DataReference,
    Datastore,
    Estimator,
    LocalDatastore,
    stage,
    staged,
)
from prefect_datastores.compute.job_variables import job_variables
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import (
    CheckpointError,
    CheckpointOvertaken,
    CheckpointUnstored,
    ConfigurationError,
    DatastoreError,
    DatastoreNotFound,
    MountError,
    ScriptFailed,
    WayUnavailable,
)
from prefect_datastores.estimator_parameters import parameters_of
from prefect_datastores.mounting import lease
from prefect_datastores.references import check_references
from prefect_datastores.settings import mounts_root
from prefect_datastores.staging.published import pointer_of
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.tasks import checkpoint, restore

pytest_plugins = ["workers"]
pytestmark = pytest.mark.usefixtures("prefect_api", "scratch")

WAIT = 90.0
SELDOM = 3600.0  # so that only the last one is made

# Begins with the step that it finds, says so, writes the next ones, and does as it is told.
TRAIN = """
import os, pathlib, signal, sys, time
root = pathlib.Path(os.environ["AZUREML_DATAREFERENCE_ckpt"])
assert root.samefile("checkpoints")

def save(step):
    for name in ("model", "optimizer"):
        (root / f"{name}.tmp").write_text(f"{name} {step}")
        (root / f"{name}.tmp").rename(root / name)
    (root / "kept").exists() or (root / "kept").write_text("always")

begun = {path.name: path.read_text() for path in root.iterdir()}
step = int(begun.get("model", "model 0").split()[1])
assert not begun or begun == {"model": f"model {step}", "optimizer": f"optimizer {step}", "kept": "always"}
with open(os.environ["LOG"], "a") as log:
    log.write(f"{step} ")
save(step + 1)
end = os.environ["END"]
if end == "wait":
    pathlib.Path(os.environ["SAVED"]).touch()
    while not os.path.exists(os.environ["SAVED"] + ".go"):
        time.sleep(0.05)
elif end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif end == "fail":
    sys.exit(3)
"""


@pytest.fixture
def register() -> Iterator[Callable[..., FileDatastore]]:
    """Registers places under names that no other test has."""
    made: list[str] = []

    def give(place: Place, *more: Any) -> FileDatastore:
        made.append(f"ds_{uuid.uuid4().hex[:12]}")
        return place.register(made[-1], *more)  # type: ignore[call-arg]

    yield give
    for each in made:
        with contextlib.suppress(DatastoreNotFound):
            Datastore.unregister(each)


@pytest.fixture
def local(new_place: Callable[[str], Place]) -> LocalPlace:
    """A folder."""
    made = new_place("local")
    assert isinstance(made, LocalPlace)
    return made


@pytest.fixture
def models(register: Callable[..., FileDatastore], local: LocalPlace) -> FileDatastore:
    """A folder as a datastore."""
    return register(local)


@pytest.fixture
def estimate(
    tmp_path: Path, register: Callable[..., FileDatastore], new_place: Callable[[str], Place]
) -> Callable[..., Estimator]:
    """Makes an estimator that trains, of which checkpoints are made."""
    outputs = (
        register(new_place("local")).path("out", "outputs").as_upload("outputs", allow_empty=True)
    )

    def make(models: FileDatastore, end: str, **more: Any) -> Estimator:
        folder = tmp_path / "src"
        folder.mkdir(exist_ok=True)
        (folder / "train.py").write_text(TRAIN)
        options = {"every": SELDOM, **more.pop("reference", {})}
        variables = {"END": end, "LOG": tmp_path / "log", "SAVED": tmp_path / "saved"}
        return Estimator(
            folder,
            entry_script="train.py",
            inputs=[
                models.path("ckpt/job", "ckpt").as_checkpoint("checkpoints", **options),
                *more.pop("inputs", []),
                outputs,
            ],
            environment_variables=variables,  # type: ignore[arg-type]
            **more,
        )

    return make


Estimate = Callable[..., Estimator]


def steps(tmp_path: Path) -> list[int]:
    """The steps with which the scripts began."""
    return [int(step) for step in (tmp_path / "log").read_text().split()]


def wait_for(condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + WAIT
    while not (found := condition()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)
    return found


def shown(place: Place, tmp_path: Path) -> dict[str, bytes | str]:
    """What readers see of the checkpoints."""
    folder = tmp_path / f"shown-{uuid.uuid4().hex}"
    with stage(
        data=place.datastore().path("ckpt/job").as_download(allow_empty=True, cache=False)
    ) as s:
        s.data.rename(folder)
    return tree(folder)


def state(step: int) -> dict[str, bytes | str]:
    return {
        "model": f"model {step}".encode(),
        "optimizer": f"optimizer {step}".encode(),
        "kept": b"always",
    }


def finished(place: Place) -> bool:
    standing = pointer_of(place.store, "ckpt/job")
    assert standing is not None
    return standing.pointer.finished


def names_of(run_id: Any) -> set[str]:
    with get_client(sync_client=True) as client:
        return {one.name for one in client.read_task_runs() if str(one.flow_run_id) == str(run_id)}


def no_thread_is_left() -> None:
    assert not [one for one in threading.enumerate() if one.name.startswith("pds-checkpoint")]


# However a script ends.


def test_the_next_run_goes_on_unless_the_last_one_came_to_a_good_end(
    kept: Place, register: Callable[..., FileDatastore], estimate: Estimate, tmp_path: Path
) -> None:
    models = register(kept)
    for end in ("kill", "fail"):
        with pytest.raises(ScriptFailed):
            estimate(models, end).run()
        assert not finished(kept)
    assert shown(kept, tmp_path) == state(2)
    estimate(models, "well").run()
    assert finished(kept)
    assert shown(kept, tmp_path) == state(3)
    estimate(models, "well").run()
    assert shown(kept, tmp_path) == state(1)
    estimate(models, "well", reference={"resume": "always"}).run()
    assert steps(tmp_path) == [0, 1, 2, 0, 1]
    no_thread_is_left()


def test_a_script_that_takes_too_long_is_gone_on_with(
    local: LocalPlace, models: FileDatastore, estimate: Estimate, tmp_path: Path
) -> None:
    with pytest.raises(ScriptFailed, match="longer than"):
        estimate(models, "wait", max_run_duration_seconds=4).run()
    assert shown(local, tmp_path) == state(1)
    estimate(models, "well").run()
    assert steps(tmp_path) == [0, 1]


def test_a_run_that_is_killed_leaves_its_newest_checkpoint(
    remote: RemotePlace,
    register: Callable[..., FileDatastore],
    estimate: Estimate,
    tmp_path: Path,
) -> None:
    models = register(remote)
    run = estimate(models, "wait", reference={"every": 0.2}).submit()
    wait_for((tmp_path / "saved").exists)
    wait_for(lambda: pointer_of(remote.store, "ckpt/job"))
    wait_for(lambda: shown(remote, tmp_path) == state(1))
    os.kill(run._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
    with pytest.raises(DatastoreError, match="code -9"):
        run.wait_for_completion()
    estimate(models, "well").run()
    assert steps(tmp_path) == [0, 1]
    assert shown(remote, tmp_path) == state(2)


def test_a_cancelled_run_stores_its_last_state(
    blob_place: Place, register: Callable[..., FileDatastore], estimate: Estimate, tmp_path: Path
) -> None:
    models = register(blob_place)
    run = estimate(models, "wait").submit()
    wait_for((tmp_path / "saved").exists)
    assert pointer_of(blob_place.store, "ckpt/job") is None
    asked = time.monotonic()
    run.cancel()
    with pytest.raises(CancelledRun):
        run.wait_for_completion()
    assert time.monotonic() - asked < 60
    assert shown(blob_place, tmp_path) == state(1)
    assert not finished(blob_place)


IN_PROCESS = """
import sys
from prefect_datastores import Estimator
from prefect_datastores.estimator_spec import EstimatorSpec
Estimator.from_spec(EstimatorSpec.model_validate_json(sys.argv[1])).run()
"""


def test_a_terminated_run_stores_its_last_state(
    local: LocalPlace, models: FileDatastore, estimate: Estimate, tmp_path: Path
) -> None:
    """As a worker ends one that is cancelled."""
    spec = estimate(models, "wait").spec.model_dump_json()
    process = subprocess.Popen([sys.executable, "-c", IN_PROCESS, spec])
    wait_for((tmp_path / "saved").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    assert shown(local, tmp_path) == state(1)


def test_a_worker_that_cancels_a_deployed_run_lets_it_store_its_last_state(
    share_place: RemotePlace,
    register: Callable[..., FileDatastore],
    estimate: Estimate,
    models: FileDatastore,
    pool: str,
    worker: Path,
    tmp_path: Path,
) -> None:
    est = estimate(register(share_place), "wait", source_directory_data_store=models.name)
    est.spec = est.spec.model_copy(update={"name": f"train-{uuid.uuid4().hex[:8]}"})
    deployed = est.deploy("nightly", pool)
    run = deployed.run(ckpt={"path": "ckpt/job"})
    wait_for((tmp_path / "saved").exists)
    run.cancel()
    wait_for(lambda: run.get_status() == "Cancelled")
    wait_for(lambda: pointer_of(share_place.store, "ckpt/job"))
    assert shown(share_place, tmp_path) == state(1)
    assert list(worker.iterdir()) == []
    (tmp_path / "saved.go").touch()
    assert deployed.run().wait_for_completion() == "Completed"
    assert steps(tmp_path) == [0, 1]
    assert finished(share_place)


# What people see.


def test_what_was_kept_is_shown_by_the_run(
    local: LocalPlace,
    models: FileDatastore,
    estimate: Estimate,
    caplog: pytest.LogCaptureFixture,
) -> None:
    est = estimate(models, "fail")
    uri = f"{models.name}:ckpt/job"
    assert f"checkpoint  {uri}" in str(est.plan())
    assert "begins empty, stored every 3600 s" in str(est.plan())
    logging.getLogger("prefect").propagate = True
    with caplog.at_level(logging.INFO):
        first = est.as_flow()(return_state=True)
    names = names_of(first.state_details.flow_run_id)
    assert {f"restore {uri}", "run train.py", f"checkpoint {uri}"} <= names
    assert f"{uri} begins empty: there is no checkpoint yet." in caplog.text
    standing = pointer_of(local.store, "ckpt/job")
    assert standing is not None
    generation = standing.pointer.generation
    assert f"Checkpoint {generation} of {uri}: 3 files (" in caplog.text
    assert standing.pointer.holder is not None
    assert str(first.state_details.flow_run_id) in standing.pointer.holder.name
    assert "begins with 3 files" in str(est.plan())
    assert json.dumps(est.plan().to_dict())
    caplog.clear()
    with caplog.at_level(logging.INFO):
        estimate(models, "well").run()
    assert f"{uri} begins with the checkpoint {generation}." in caplog.text
    assert "2 files (" in caplog.text
    assert "1 unchanged" in caplog.text
    assert "begins empty" in str(est.plan())


# Flows.


def test_a_retry_goes_on_where_the_try_before_failed(
    kept: Place, register: Callable[..., FileDatastore]
) -> None:
    models, begun = register(kept), list[Any]()

    @task
    def fit(folder: Path) -> None:
        begun.append(tree(folder))
        (folder / f"step-{len(begun)}").write_text("x")
        if len(begun) < 3:
            raise ValueError("not yet")

    @flow(retries=2)
    def train() -> None:
        with stage(ckpt=models.path("ckpt/job").as_checkpoint(every=SELDOM)) as s:
            fit(s.ckpt)

    train()
    assert begun == [{}, {"step-1": b"x"}, {"step-1": b"x", "step-2": b"x"}]
    assert finished(kept)
    no_thread_is_left()


def test_a_retry_gets_back_what_the_same_run_finished(models: FileDatastore) -> None:
    """What comes after the training failed, and it is not to begin anew; nor is the next run to go on with it."""
    begun = list[Any]()

    @flow(retries=1)
    def train(fails: bool) -> None:
        with stage(ckpt=models.path("ckpt/job").as_checkpoint(every=SELDOM)) as s:
            begun.append(tree(s.ckpt))
            (s.ckpt / "done").write_text("x")
        if fails and len(begun) == 1:
            raise ValueError("a step after it")

    train(fails=True)
    assert begun == [{}, {"done": b"x"}]
    train(fails=False)
    assert begun[2:] == [{}]


def test_a_stage_keeps_what_changes_while_the_block_goes_on(
    local: LocalPlace, models: FileDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reference = models.path("ckpt/job").as_checkpoint("mine", every=0.2, exclude="*.log")

    @flow
    def train() -> Any:
        with stage(ckpt=reference) as s:
            assert s.ckpt == tmp_path / "mine"
            (s.ckpt / "model").write_text("1")
            (s.ckpt / "a.log").write_text("1")
            wait_for(lambda: pointer_of(local.store, "ckpt/job"))
            assert shown(local, tmp_path) == {"model": b"1"}
            (s.ckpt / "model").write_text("22")
            wait_for(lambda: shown(local, tmp_path) == {"model": b"22"})
            raise KeyError("the end")

    ended = train(return_state=True)
    with pytest.raises(KeyError):
        ended.result()
    uri = f"{models.name}:ckpt/job"
    assert {f"restore {uri}", f"checkpoint {uri}"} <= names_of(ended.state_details.flow_run_id)
    # What lies there is not what was kept: it is set aside, and nothing of it is lost.
    with stage(ckpt=reference) as s:
        assert tree(s.ckpt) == {"model": b"22"}
    (aside,) = tmp_path.glob("mine.aside-*")
    assert tree(aside) == {"model": b"22", "a.log": b"1"}
    no_thread_is_left()


def test_checkpoints_are_read_by_a_mount(local: LocalPlace, models: FileDatastore) -> None:
    files = {"model": b"m" * 300_000, "sub/a": b"a", "sub/deep/b": b"b"}
    with stage(ckpt=models.path("ckpt/job").as_checkpoint(every=SELDOM)) as s:
        make_tree(s.ckpt, files)
    with stage(
        all=models.path("ckpt/job").as_mount(),
        below=models.path("ckpt/job/sub").as_mount(),
        above=models.path("ckpt").as_mount(),
    ) as s:
        assert tree(s.all) == files
        assert tree(s.below) == {"a": b"a", "deep/b": b"b"}
        assert tree(s.above / "job") == files


def test_stages_of_every_form_keep_checkpoints(
    local: LocalPlace, models: FileDatastore, tmp_path: Path
) -> None:
    reference = models.path("ckpt/job").as_checkpoint(every=SELDOM)

    async def fails() -> None:
        async with stage(ckpt=reference) as s:
            (s.ckpt / "model").write_text("async")
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        asyncio.run(fails())
    assert shown(local, tmp_path) == {"model": b"async"}

    async def is_cancelled() -> None:
        async with stage(ckpt=reference) as s:
            (s.ckpt / "model").write_text("cancelled")
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(is_cancelled())
    assert shown(local, tmp_path) == {"model": b"cancelled"}

    @flow
    async def trains() -> Any:
        async with stage(ckpt=reference) as s:
            found = tree(s.ckpt)
            (s.ckpt / "model").write_text("of a flow")
            raise KeyError(found)

    with pytest.raises(KeyError, match="cancelled"):
        asyncio.run(trains())
    assert shown(local, tmp_path) == {"model": b"of a flow"}

    @task
    @staged(ckpt=reference)
    def fit(ckpt: Path) -> dict[str, bytes | str]:
        return tree(ckpt)

    assert fit() == {"model": b"of a flow"}
    assert finished(local)

    with pytest.raises(KeyboardInterrupt), stage(ckpt=reference) as s:
        (s.ckpt / "model").write_text("interrupted")
        raise KeyboardInterrupt
    assert shown(local, tmp_path) == {"model": b"interrupted"}
    no_thread_is_left()


def test_a_restore_without_an_owner_is_refused(models: FileDatastore, tmp_path: Path) -> None:
    reference = models.path("ckpt/job").as_checkpoint()
    with pytest.raises(CheckpointError, match="Nobody would make"):
        restore.fn(reference, tmp_path / "x")
    with pytest.raises(CheckpointError, match="Nobody would make"):
        checkpoint.fn(reference)


# Two runs, and a service that is away.


def test_a_run_that_is_overtaken_ends_and_says_by_whom(
    local: LocalPlace, models: FileDatastore, estimate: Estimate, tmp_path: Path, scratch: Path
) -> None:
    run = estimate(models, "wait").submit()
    wait_for((tmp_path / "saved").exists)
    with stage(ckpt=models.path("ckpt/job").as_checkpoint(every=SELDOM)) as s:
        (s.ckpt / "model").write_text("of another")
    (tmp_path / "saved.go").touch()
    with pytest.raises(
        DatastoreError, match=rf"CheckpointOvertaken: .* process {os.getpid()} of .* stored"
    ):
        run.wait_for_completion()
    assert shown(local, tmp_path) == {"model": b"of another"}
    (tmp_path / "saved.go").unlink()
    # While it goes on, its script is stopped.
    (tmp_path / "saved").unlink()
    with stage(ckpt=models.path("ckpt/job").as_checkpoint(every=SELDOM, resume="always")) as s:
        waiting = threading.Event()
        caught: list[Exception] = []

        def train() -> None:
            try:
                estimate(models, "wait", reference={"every": 1.5}, keep="never").run()
            except Exception as error:  # noqa: BLE001
                caught.append(error)
            waiting.set()

        thread = threading.Thread(target=train)
        thread.start()
        try:
            wait_for((tmp_path / "saved").exists)
            _store(local, s.ckpt)
        finally:
            assert waiting.wait(WAIT)
            thread.join()
    assert isinstance(caught[0], CheckpointOvertaken)
    assert "somebody else" in caught[0].holder
    assert tree(Path(caught[0].folder)) == state(1)


def _store(place: Place, folder: Path) -> None:
    """Make a checkpoint, as another run does."""
    from prefect_datastores.staging.checkpoint import Checkpoint
    from prefect_datastores.staging.generations import Holder

    other = Checkpoint("ckpt/job", folder.parent / "other", Holder("somebody else"), quiet=0.0)
    other.restore(place.store)
    (folder.parent / "other/theirs").write_text("x")
    assert other.store(place.store) is not None


def test_a_last_state_that_cannot_be_stored_fails_the_run_and_is_kept(
    remote: RemotePlace,
    register: Callable[..., FileDatastore],
    estimate: Estimate,
    tmp_path: Path,
    scratch: Path,
) -> None:
    denied = Fault(r"^PUT ", "answer", times=None, status=403)
    with remote.through(is_known=False) as way:
        models = register(remote, way.ports)
        with (
            pytest.raises(CheckpointUnstored) as caught,
            stage(
                ckpt=models.path("ckpt/job").as_checkpoint(every=0.2),
            ) as s,
        ):
            (s.ckpt / "model").write_text("1")
            wait_for(lambda: pointer_of(remote.store, "ckpt/job"))
            way.proxy.fail_by(denied)
            (s.ckpt / "model").write_text("22")
            # The script goes on, and is told nothing.
            wait_for(lambda: way.proxy.count(denied.match) > 2)
        assert caught.value.folder in str(caught.value)
        assert Path(caught.value.folder).is_relative_to(scratch)
        assert tree(Path(caught.value.folder)) == {"model": b"22"}
        assert not finished(remote)
        way.proxy.fail_by()
        with stage(ckpt=models.path("ckpt/job").as_checkpoint(every=SELDOM)) as s:
            assert tree(s.ckpt) == {"model": b"1"}


def test_a_run_whose_last_state_cannot_be_stored_stores_no_result(
    share_place: RemotePlace,
    local: LocalPlace,
    register: Callable[..., FileDatastore],
    estimate: Estimate,
    tmp_path: Path,
) -> None:
    with share_place.through(is_known=False) as way:
        result = register(local).path("results").as_upload("checkpoints/model")
        est = estimate(register(share_place, way.ports), "wait", inputs=[result])
        caught: list[Exception] = []

        def train() -> None:
            try:
                est.run()
            except CheckpointUnstored as error:
                caught.append(error)

        thread = threading.Thread(target=train)
        thread.start()
        try:
            wait_for((tmp_path / "saved").exists)
            way.proxy.fail_by(Fault(r"^PUT ", "answer", times=None, status=403))
        finally:
            (tmp_path / "saved.go").touch()
            thread.join(WAIT)
    assert isinstance(caught[0], CheckpointUnstored)
    assert tree(Path(caught[0].folder)) == state(1)
    assert not list(local.root.iterdir())


def test_a_run_whose_mount_failed_is_gone_on_with(
    local: LocalPlace, models: FileDatastore, estimate: Estimate, tmp_path: Path
) -> None:
    make_tree(local.root / "data", {"a": b"a"})
    data = models.path("data", "data").as_mount()

    def kill_the_mount_when(saved: Path) -> None:
        wait_for(saved.exists)
        (found,) = lease.mounts(mounts_root())
        assert found.lease is not None
        os.kill(found.lease.pid, signal.SIGKILL)
        (tmp_path / "saved.go").touch()

    killer = threading.Thread(target=kill_the_mount_when, args=(tmp_path / "saved",))
    killer.start()
    with pytest.raises(MountError, match="ended before its time"):
        estimate(models, "wait", inputs=[data]).run()
    killer.join()
    assert not finished(local)
    with (
        pytest.raises(MountError),
        stage(ckpt=models.path("ckpt/job").as_checkpoint(every=SELDOM), data=data) as s,
    ):
        assert tree(s.ckpt) == state(1)
        (s.ckpt / "model").write_text("model 2")
        kill_the_mount_when(tmp_path / "saved")
    assert not finished(local)
    with stage(ckpt=models.path("ckpt/job").as_checkpoint(every=SELDOM)) as s:
        assert tree(s.ckpt) == {**state(1), "model": b"model 2"}
    assert finished(local)


def test_what_can_never_be_kept_is_refused_before_the_script(
    kept: Place, register: Callable[..., FileDatastore], estimate: Estimate, tmp_path: Path
) -> None:
    models = register(kept)
    (tmp_path / "single").mkdir()
    (tmp_path / "single/x").write_text("x")
    upload(kept.store, folder_source(tmp_path / "single"), "ckpt/job", "replace")
    with pytest.raises(ConfigurationError, match="stored singly"):
        estimate(models, "well").run()
    with pytest.raises(ConfigurationError, match="stored singly"):
        estimate(models, "well").plan()
    assert not (tmp_path / "log").exists()


# Values.


def test_a_reference_to_checkpoints_is_a_value() -> None:
    raw = DataReference(datastore="raw").path("ckpt")
    made = raw.as_checkpoint("checkpoints", every=5, exclude="*.log", resume="always")
    assert (made.mode, made.path_on_compute, made.every) == ("checkpoint", "checkpoints", 5.0)
    assert (made.exclude, made.resume) == (("*.log",), "always")
    assert DataReference.model_validate_json(made.model_dump_json()) == made
    assert raw.as_checkpoint().every == 60.0
    for every in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match="every"):
            raw.as_checkpoint(every=every)
    with pytest.raises(ConfigurationError, match="resume"):
        raw.as_checkpoint(resume="never")  # type: ignore[arg-type]


def test_checkpoints_in_one_another_are_refused() -> None:
    raw = DataReference(datastore="raw")
    one = raw.path("ckpt").as_checkpoint()
    for other in (raw.path("ckpt/job"), raw, raw.path("ckpt", "named")):
        with pytest.raises(ConfigurationError, match="checkpoints in one another"):
            check_references([one, other.as_checkpoint()])
    with pytest.raises(ConfigurationError, match="would both be at"):
        check_references([raw.path("a").as_checkpoint("x"), raw.path("b").as_checkpoint("x")])
    check_references([one, raw.path("ckpt2").as_checkpoint()])


def test_a_deployment_offers_the_place_of_checkpoints(
    models: FileDatastore, estimate: Estimate
) -> None:
    spec = estimate(models, "well").spec
    parameters = parameters_of(spec, references=True)
    form = parameters.signature().parameters["ckpt"].annotation
    assert set(form.model_fields) == {"datastore", "path"}
    assert "checkpoints" in form.model_fields["path"].description
    filled = form.model_validate({"path": "ckpt/other"})
    changed = parameters.changed({"ckpt": filled}).inputs[0]
    assert (changed.path_on_datastore, changed.mode, changed.every) == (
        "ckpt/other",
        "checkpoint",
        SELDOM,
    )
    assert form.model_validate(models.path("b").as_checkpoint()).path == "b"


def test_a_compute_that_cannot_keep_is_refused_and_another_place_named() -> None:
    folder = LocalDatastore(root="/srv/models")
    with pytest.raises(WayUnavailable, match=r"place for checkpoints .* kind AzureBlob"):
        stage(folder.path("ckpt").as_checkpoint(), compute_target="kubernetes")
    blobs = AzureBlobDatastore(account_name="contoso", container_name="models")
    stage(blobs.path("ckpt").as_checkpoint(), compute_target="kubernetes")


def test_a_container_can_write_to_a_folder_of_checkpoints(
    models: FileDatastore, local: LocalPlace
) -> None:
    variables = job_variables("docker", [models.path("ckpt").as_checkpoint()])
    assert variables["volumes"] == [f"{local.root}:{local.root}"]
