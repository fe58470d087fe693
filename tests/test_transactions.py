"""Flows that publish folders at once: what a failure, a rollback and a run in vain leave for readers."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import Place
from prefect import flow, task
from prefect.transactions import transaction

from prefect_datastores import (
    DataReference,
    Datastore,
    Estimator,
    LocalDatastore,
    download,
    stage,
    upload,
)
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import ConfigurationError, ObjectExists, ObjectNotFound
from prefect_datastores.references import When

pytestmark = pytest.mark.usefixtures("prefect_api", "here")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and scratch space of the test's own."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_SCRATCH_ROOT", str(tmp_path / "scratch"))
    return folder


@pytest.fixture
def models(kept: Place) -> FileDatastore:
    """An empty datastore that is not registered, so that a rollback has to know it."""
    return kept.datastore()


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[LocalDatastore]:
    """A local datastore with a name of its own."""
    name = f"ds_{uuid.uuid4().hex[:12]}"
    yield Datastore.register_local(name, tmp_path / "registered")
    Datastore.unregister(name)


def made(here: Path, name: str, **files: str) -> Path:
    folder = here / name
    folder.mkdir(exist_ok=True)
    for file, content in files.items():
        (folder / file).write_text(content)
    return folder


def seen(datastore: FileDatastore, path: str = "churn") -> dict[str, str]:
    """What readers of a folder see."""
    try:
        infos = datastore.list_objects(path)
    except ObjectNotFound:
        return {}
    return {
        info.name[len(path) + 1 :]: datastore.read_path(info.name).decode()  # type: ignore[union-attr]
        for info in infos
        if not info.is_marker
    }


class Worse(Exception):
    """The new model is worse than the old one."""


@pytest.mark.parametrize("how", ["called", "submitted"])
@pytest.mark.parametrize("first", [True, False])
def test_a_rollback_shows_the_old_folder_again(
    models: FileDatastore, here: Path, how: str, first: bool
) -> None:
    place = models.path("churn").as_upload(publish="atomic")
    if not first:
        upload(made(here, "old", model="old", gone="gone"), place)
    before = seen(models)
    during: list[dict[str, str]] = []

    @flow
    def train() -> None:
        with transaction():
            new = made(here, "new", model="new")
            if how == "called":
                upload(new, place)
            else:
                upload.submit(new, place).result()
            during.append(seen(models))
            raise Worse

    with pytest.raises(Worse):
        train()
    assert during == [{"model": "new"}]
    assert seen(models) == before == ({} if first else {"model": "old", "gone": "gone"})
    upload(here / "new", place)
    assert seen(models) == {"model": "new"}


def test_a_transaction_that_ends_well_leaves_what_was_published(
    models: FileDatastore, here: Path
) -> None:
    place = models.path("churn").as_upload(publish="atomic")

    @flow
    def train(model: str, *, worse: bool = False) -> None:
        with transaction():
            upload(made(here, "out", model=model), place)
        if worse:
            raise Worse

    train("one")
    with pytest.raises(Worse):
        train("two", worse=True)
    assert seen(models) == {"model": "two"}


def test_a_rollback_leaves_what_another_run_published_since(
    models: FileDatastore, here: Path
) -> None:
    place = models.path("churn").as_upload(publish="atomic")

    @flow
    def train() -> None:
        with transaction():
            upload(made(here, "mine", model="mine"), place)
            models.upload(made(here, "other", model="other"), "churn", True, publish="atomic")
            raise Worse

    with pytest.raises(Worse):
        train()
    assert seen(models) == {"model": "other"}


def test_a_rollback_leaves_single_files_and_what_was_unchanged(
    models: FileDatastore, here: Path
) -> None:
    out = made(here, "out", model="model")
    atomic = models.path("churn").as_upload(publish="atomic", overwrite="skip")
    upload(out, atomic)

    @flow
    def train() -> None:
        with transaction():
            upload(out, models.path("each").as_upload())
            assert upload(out, atomic).publication is None
            raise Worse

    with pytest.raises(Worse):
        train()
    assert seen(models) == seen(models, "each") == {"model": "model"}


def test_what_a_stage_published_is_taken_back_with_its_transaction(
    models: FileDatastore, here: Path
) -> None:
    place = models.path("churn").as_upload(publish="atomic")
    upload(made(here, "old", model="old"), place)

    @task
    def check(references: list[DataReference]) -> None:
        assert references
        raise Worse

    @flow
    def train() -> None:
        with transaction():
            with stage(model=place, log=models.path("log").as_upload(publish="atomic")) as s:
                made(s.model.parent, s.model.name, model="new")
                made(s.log.parent, s.log.name, log="log")
            assert seen(models) == {"model": "new"}
            check([place])

    with pytest.raises(Worse):
        train()
    assert seen(models) == {"model": "old"}
    assert seen(models, "log") == {}


# The example of the design: a bad model is never published, a good one at once.


def test_a_flow_author_publishes_a_model_at_once_or_not_at_all(
    registered: LocalDatastore, models: FileDatastore, here: Path
) -> None:
    raw = registered
    raw.upload(made(here, "data", **{"part.parquet": "1\n2\n", "notes.txt": "no"}), "day=1")
    raw.upload(made(here, "reference", **{"codes.csv": "7"}), "reference")

    @task
    def fit(data: Path, ref: Path, model: Path, *, good: bool) -> int:
        rows = (data / "part.parquet").read_text().splitlines()
        assert not (data / "notes.txt").exists()
        (model / "model.txt").write_text(f"{len(rows)} {(ref / 'codes.csv').read_text()}")
        if not good:
            raise Worse
        (model / "metrics.txt").write_text("good")
        return len(rows)

    @flow
    def churn(day: str, *, good: bool = True) -> int:
        with stage(
            data=raw.path(f"day={day}").as_download(include=["*.parquet"]),
            ref=raw.path("reference").as_mount(fallback="download"),
            model=models.path(f"churn/{day}").as_upload(publish="atomic"),
        ) as s:
            score = fit.submit(s.data, s.ref, s.model, good=good)
            return score.result()

    with pytest.raises(Worse):
        churn("1", good=False)
    assert seen(models, "churn/1") == {}
    assert churn("1") == 2
    model = {"model.txt": "2 7", "metrics.txt": "good"}
    assert seen(models, "churn/1") == model
    with pytest.raises(Worse):
        churn("1", good=False)
    assert seen(models, "churn/1") == model
    assert churn("1") == 2
    assert seen(models, "churn/1") == model


def test_the_outcome_decides_whether_a_folder_is_published(
    models: FileDatastore, here: Path
) -> None:
    def fail(when: When) -> None:
        with stage(out=models.path(when).as_upload(publish="atomic", when=when)) as s:
            made(s.out.parent, s.out.name, log=when)
            raise Worse

    for when, failed in (("success", False), ("failure", True), ("always", True)):
        with pytest.raises(Worse):
            fail(when)  # type: ignore[arg-type]
        assert seen(models, when) == ({"log": when} if failed else {})


def test_what_can_never_be_published_is_refused_before_any_work(
    models: FileDatastore, here: Path
) -> None:
    out = made(here, "out", model="model")
    models.upload(out, "single")
    models.upload(out, "atomic", publish="atomic")
    for reference, error in (
        (models.path("single").as_upload(publish="atomic"), ConfigurationError),
        (models.path("atomic").as_upload(), ConfigurationError),
        (models.path("atomic").as_upload("out/model"), ConfigurationError),
        (models.path("atomic/sub").as_upload(publish="atomic"), ConfigurationError),
        (models.path("atomic").as_upload(publish="atomic", overwrite="fail"), ObjectExists),
    ):
        with pytest.raises(error), stage(out=reference):
            pytest.fail("the block began")
    with stage(out=models.path("single").as_upload("out/model", publish="atomic")):
        made(here, "out", model="a single file is seen at once by itself")
    assert seen(models, "single") == {"model": "a single file is seen at once by itself"}


def test_a_file_of_a_published_folder_is_downloaded_as_itself(
    models: FileDatastore, here: Path
) -> None:
    models.upload(made(here, "out", model="model", log="log"), "churn", publish="atomic")
    path = download(models.path("churn/model").as_download(), here / "file")
    assert path == here / "file/model"
    assert path.read_text() == "model"
    folder = download(models.path("churn").as_download(), here / "folder")
    assert folder == here / "folder"
    assert sorted(item.name for item in folder.iterdir()) == ["log", "model"]


def test_an_estimator_publishes_what_its_script_made(models: FileDatastore, here: Path) -> None:
    (here / "src").mkdir()
    (here / "src/train.py").write_text(
        "import os, pathlib, sys\n"
        "out = pathlib.Path(os.environ['AZUREML_DATAREFERENCE_model'])\n"
        "(out / 'model').write_text(sys.argv[2])\n"
        "sys.exit(sys.argv[2] == 'bad')\n"
    )
    estimator = Estimator(
        here / "src",
        entry_script="train.py",
        script_params={"--kind": "good"},
        inputs=[
            models.path("churn", "model").as_upload(publish="atomic"),
            models.path("outputs").as_upload("outputs", allow_empty=True),
        ],
    )
    again = Estimator.from_spec(
        type(estimator.spec).model_validate_json(estimator.spec.model_dump_json())
    )
    assert again.spec.inputs[0].publish == "atomic"
    estimator.run()
    with pytest.raises(Exception, match="exit code 1"):
        estimator.run(kind="bad")
    assert seen(models) == {"model": "good"}


def test_the_command_line_publishes_a_folder(registered: LocalDatastore, here: Path) -> None:
    made(here, "out", model="model")
    for _ in range(2):
        command = ("upload", "out", f"{registered.name}:churn", "--publish", "atomic")
        done = subprocess.run(
            [sys.executable, "-m", "prefect_datastores.cli", *command],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "published at once as 2" in done.stdout
    assert seen(registered) == {"model": "model"}
    command = ("upload", "out", f"{registered.name}:churn")
    done = subprocess.run(
        [sys.executable, "-m", "prefect_datastores.cli", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert 'Say publish="atomic"' in done.stderr


def test_how_a_reference_publishes_travels_with_it(
    registered: LocalDatastore,
) -> None:
    reference = registered.path("x").as_upload(publish="atomic")
    assert DataReference.model_validate_json(reference.model_dump_json()) == reference
    assert reference.path("y").publish == "atomic"
    assert registered.as_upload(publish="atomic").publish == "atomic"
    assert registered.as_upload().publish == "each"
    with pytest.raises(ConfigurationError, match="publish='some' is refused"):
        registered.path("x").as_upload(publish="some")  # type: ignore[arg-type]
