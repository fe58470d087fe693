"""The main job: a script is trained on staged data, and what it made is stored."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from places import BlobPlace, Place, RemotePlace
from prefect.client.orchestration import get_client
from prefect.exceptions import CancelledRun, ParameterTypeError
from prefect.states import Cancelling
from servers.azurite import Azurite
from servers.faults import Fault
from small_stores import PART

from prefect_datastores import (
    DataReference,
    Datastore,
    Estimator,
    LocalDatastore,
)
from prefect_datastores import azureml as v1
from prefect_datastores.deployments.carrying import push
from prefect_datastores.errors import (
    AccessDenied,
    AuthenticationFailed,
    ConfigurationError,
    ContainerNotFound,
    DatastoreError,
    DatastoreNotFound,
    MountUnavailable,
    NameCollision,
    ObjectNotFound,
    ScriptFailed,
    UnsafeName,
)
from prefect_datastores.estimator_spec import EstimatorSpec
from prefect_datastores.stores.blob import BlobStore
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.testing import content_of, names_below, put

pytestmark = pytest.mark.usefixtures("prefect_api", "scratch")

# One server, one default: tests that touch it run one after another.
the_default = pytest.mark.xdist_group("the default datastore")

# Says who it is, starts a process that left its session, and stays.
LONG = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)
with open(os.environ['STARTED'] + '.part', 'w') as file:
    file.write(f"{os.environ['AZUREML_RUN_ID']} {os.getpid()} {child.pid}")
os.rename(os.environ['STARTED'] + '.part', os.environ['STARTED'])
print('training', flush=True)
time.sleep(600)
"""

# Writes what it was given where it can be looked at.
TELL = """
import json, os, sys
with open('outputs/told.json', 'w') as file:
    json.dump({'argv': sys.argv[1:], 'environ': dict(os.environ), 'cwd': os.getcwd()}, file)
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scratch space of the test's own, here and in the processes that it starts."""
    folder = tmp_path / "scratch"
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_SCRATCH_ROOT", str(folder))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a source directory with a script."""

    def make(code: str) -> Path:
        folder = tmp_path / "src"
        folder.mkdir(exist_ok=True)
        (folder / "train.py").write_text(textwrap.dedent(code))
        return folder

    return make


@pytest.fixture
def name() -> Iterator[Callable[[], str]]:
    """Gives names that no other test has; they are forgotten afterwards."""
    made: list[str] = []

    def give() -> str:
        made.append(f"ds_{uuid.uuid4().hex[:12]}")
        return made[-1]

    yield give
    for each in made:
        with contextlib.suppress(DatastoreNotFound):
            Datastore.unregister(each)


@pytest.fixture
def local(tmp_path: Path, name: Callable[[], str]) -> Callable[..., LocalDatastore]:
    """Registers folders with files in them."""

    def make(**files: str) -> LocalDatastore:
        chosen = name()
        root = tmp_path / chosen
        root.mkdir()
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content)
        return Datastore.register_local(chosen, root)

    return make


@pytest.fixture
def results(local: Callable[..., LocalDatastore]) -> LocalDatastore:
    """Where the scripts' outputs go, so that the workspace's default is not touched."""
    return local()


@pytest.fixture
def estimate(source: Callable[[str], Path], results: LocalDatastore) -> Callable[..., Estimator]:
    """Makes an estimator whose outputs go to `results`, whatever the outcome."""

    def make(code: str, *inputs: Any, **options: Any) -> Estimator:
        outputs = results.path("out", "outputs").as_upload(
            "outputs", allow_empty=True, when="always"
        )
        return Estimator(
            source(code), entry_script="train.py", inputs=[*inputs, outputs], **options
        )

    return make


@pytest.fixture
def default(local: Callable[..., LocalDatastore]) -> Iterator[LocalDatastore]:
    """The workspace's default datastore for the length of a test: only in tests of `the_default`."""
    made = local()
    Datastore.set_default(made.name)
    yield made
    Datastore.set_default("workspaceblobstore")


def files(folder: str | Path) -> dict[str, str]:
    """The content of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def told(results: LocalDatastore) -> dict[str, Any]:
    """What a script said that tells all."""
    said: dict[str, Any] = json.loads(results.read_path("out/told.json"))
    return said


def ask(method: str, path: str, **more: Any) -> Any:
    with get_client(sync_client=True) as client:
        return client.request(method, path, **more).json()


def wait_for(condition: Callable[[], Any], seconds: float = 90) -> Any:
    """What the condition gives, once it gives something."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.1)
    return found


def state_of(run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = ask("GET", f"/flow_runs/{run_id}")["state"]
    return found


def final_state(run_id: str) -> dict[str, Any]:
    final = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
    found: dict[str, Any] = wait_for(
        lambda: state if (state := state_of(run_id))["type"] in final else None
    )
    return found


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(*pids: int) -> None:
    wait_for(lambda: all(map(is_gone, pids)))


def graph_of(run_id: str) -> tuple[dict[str, dict[str, Any]], dict[str, set[str]]]:
    """The nodes of the run graph as the server gives it, and the labels that each depends on."""
    body = {"flow_runs": {"id": {"any_": [run_id]}}}

    def finished() -> list[dict[str, Any]] | None:
        runs: list[dict[str, Any]] = ask("POST", "/task_runs/filter", json=body)
        return runs if all(run["end_time"] for run in runs) else None

    runs = wait_for(finished)
    graph = ask("GET", f"/flow_runs/{run_id}/graph-v2")
    labels = {node_id: node["label"] for node_id, node in graph["nodes"]}
    nodes = {node["label"]: node for _, node in graph["nodes"]}
    parents = {
        node["label"]: {labels[edge["id"]] for edge in node["parents"]}
        for _, node in graph["nodes"]
    }
    inputs = {
        run["name"]: {
            labels[each["id"]]
            for given in run["task_inputs"].values()
            for each in given
            if each["input_type"] == "task_run"
        }
        for run in runs
    }
    assert inputs == parents
    return nodes, parents


# -- the main job ---------------------------------------------------------------------------------


DOCUMENTED = """
import os, pickle
one, two = os.environ['DATASTORE_{one}'], os.environ['AZUREML_DATAREFERENCE_{two}_foo']
found = [
    sorted(os.path.relpath(os.path.join(folder, name), root) for folder, _, names in os.walk(root) for name in names)
    for root in (one, two)
]
print('found', found)
with open('bar.pkl', 'wb') as file:
    pickle.dump(found, file)
with open('outputs/metrics.json', 'w') as file:
    file.write('1')
"""


@the_default
@pytest.mark.parametrize("kind", ["blob", "share", "lake"])
@pytest.mark.parametrize("way", ["run", "submit"])
def test_the_example_of_the_original_documentation_runs_as_written(
    way: str,
    kind: str,
    new_place: Callable[[str], Place],
    name: Callable[[], str],
    source: Callable[[str], Path],
    default: LocalDatastore,
    scratch: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A share, or a filesystem of a data lake, takes the place of a container."""
    datastore1, datastore2, datastore3 = (new_place(kind).register(name()) for _ in range(3))
    for datastore, names in (
        (datastore1, ["a.txt", "sub/b.txt"]),
        (datastore2, ["foo/c.txt", "foobar/d"]),
    ):
        for each in names:
            datastore.write_path(each, each.encode())
    code = DOCUMENTED.format(one=datastore1.name.upper(), two=datastore2.name)

    est = Estimator(
        source_directory=str(source(code)),
        compute_target="local",
        entry_script="train.py",
        inputs=[
            datastore1.as_download(),
            datastore2.path("./foo").as_download(),
            datastore3.as_upload(path_on_compute="./bar.pkl"),
        ],
    )
    if way == "run":
        result = est.run()
        run_id = result["run_id"]
        outputs = f"runs/train/{run_id}"
        assert result["outputs"] == f"{default.name}:{outputs}"
        assert result["stored"] == {f"{datastore3.name}:": 1, f"{default.name}:{outputs}": 1}
    else:
        run = est.submit()
        assert run.wait_for_completion(show_output=True) == "Completed"
        assert "found [['a.txt', 'sub/b.txt'], ['c.txt']]" in capfd.readouterr().out.splitlines()
        run_id = run.id
        outputs = f"runs/train/{run_id}"
        assert run.get_status() == "Completed"
        assert run.url.endswith(f"/runs/flow-run/{run_id}")

    import pickle

    assert [info.name for info in datastore3.list_objects()] == ["bar.pkl"]
    assert pickle.loads(datastore3.read_path("bar.pkl")) == [["a.txt", "sub/b.txt"], ["c.txt"]]
    assert files(default.root) == {f"{outputs}/metrics.json": "1"}

    nodes, parents = graph_of(run_id)
    one, two = f"download {datastore1.name}:", f"download {datastore2.name}:foo"
    script = "run train.py"
    bar, default_outputs = f"upload {datastore3.name}:", f"upload {default.name}:{outputs}"
    assert parents == {
        one: set(),
        two: set(),
        script: {one, two},
        bar: {script},
        default_outputs: {script},
    }
    assert {node["state_type"] for node in nodes.values()} == {"COMPLETED"}
    for download in (one, two):
        assert nodes[download]["end_time"] <= nodes[script]["start_time"]
    for upload in (bar, default_outputs):
        assert nodes[script]["end_time"] <= nodes[upload]["start_time"]
    assert files(scratch / "runs") == {}


@the_default
def test_code_for_azure_ml_runs_with_other_imports(
    azurite: Azurite,
    blob_place: BlobPlace,
    name: Callable[[], str],
    source: Callable[[str], Path],
    default: LocalDatastore,
) -> None:
    my_datastore, container_name = name(), blob_place.name

    ws = v1.Workspace.from_config(path="./config.json")
    v1.Datastore.register_azure_blob_container(
        workspace=ws,
        datastore_name=my_datastore,
        container_name=container_name,
        account_name=azurite.account,
        account_key=azurite.key,
        create_if_not_exists=True,
        endpoint=f"{azurite.host}:{azurite.port}",
        protocol="http",
    )
    datastore = v1.Datastore.get(ws, my_datastore)
    assert ws.datastores[my_datastore].datastore_type == "AzureBlob"
    assert azurite.key not in repr(ws.datastores)
    ws.set_default_datastore(my_datastore)
    assert ws.get_default_datastore().name == my_datastore

    data = source("print('not run')")
    datastore.upload(src_dir=str(data), target_path="data", overwrite=True, show_progress=True)
    code = f"import sys, os\nassert os.listdir(sys.argv[2]) == ['train.py'], sys.argv\n{TELL}"
    script_params = {"--data": datastore.path("data").as_download(), "--lr": 0.1}
    est = v1.Estimator(
        source_directory=str(source(code)),
        script_params=script_params,
        compute_target="local",
        entry_script="train.py",
    )
    run = v1.Experiment(ws, "my-experiment").submit(est)
    assert run.wait_for_completion(show_output=False) == "Completed"
    stored = datastore.list_objects(f"runs/my-experiment/{run.id}")
    assert [info.name.rpartition("/")[2] for info in stored] == ["told.json"]
    assert ask("GET", f"/flow_runs/{run.id}")["parameters"] == {"lr": 0.1}


# -- arguments and variables -----------------------------------------------------------------------


def test_script_params_become_arguments_as_in_azure_ml(
    estimate: Callable[..., Estimator], local: Callable[..., LocalDatastore], results: Any
) -> None:
    data, other = local(**{"mnist/train.csv": "1,2"}), local(x="x")
    mnist, whole = data.path("mnist").as_download(), other.as_download()
    est = estimate(
        TELL,
        whole,
        script_params={
            "--data": mnist,
            "--all": [mnist, other.path("x", "one").as_download(), "last"],
            "--list": [1, "a", 2.5, None, ""],
            "--flag": None,
            "--bare": "",
            "--zero": 0,
            "--false": False,
            "--true": True,
            "--rate": 0.1,
            "--file": f"{mnist}/train.csv",
            "--braces": "${AZUREML_DATAREFERENCE_" + other.name + "}/x",
            "--unknown": f"{whole}_unknown and $HOME",
            "--path": Path("relative/path"),
            "positional": "x y",
        },
    )
    result = est.run()
    said = told(results)
    paths = {
        reference: said["environ"][f"AZUREML_DATAREFERENCE_{reference}"]
        for reference in (mnist.name, other.name, "one")
    }
    assert said["argv"] == [
        *("--data", paths[mnist.name]),
        *("--all", paths[mnist.name], paths["one"], "last"),
        *("--list", "1", "a", "2.5"),
        "--flag",
        "--bare",
        *("--zero", "0"),
        *("--false", "False"),
        *("--true", "True"),
        *("--rate", "0.1"),
        *("--file", f"{paths[mnist.name]}/train.csv"),
        *("--braces", f"{paths[other.name]}/x"),
        *("--unknown", f"{whole}_unknown and $HOME"),
        *("--path", "relative/path"),
        *("positional", "x y"),
    ]
    assert paths["one"].endswith("/x")
    assert result["run_id"] == said["environ"]["AZUREML_RUN_ID"]


def test_variables_tell_a_script_where_all_is(
    estimate: Callable[..., Estimator],
    local: Callable[..., LocalDatastore],
    results: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_secret")
    monkeypatch.setenv("INHERITED", "yes")
    data = local(**{"a/x.csv": "1"})
    est = estimate(
        TELL,
        data.path("a").as_download(),
        data.path("a", "here").as_download("input/a"),
        data.path("a", "mounted").as_mount(fallback="download"),
        results.path("model", "model").as_upload(allow_empty=True),
        environment_variables={"OWN": "1", "EPOCHS": 3, "DATASTORE_HERE": "own wins"},
    )
    est.run()
    said = told(results)
    environ = said["environ"]
    slug = f"{data.name}_a"
    assert environ[f"AZUREML_DATAREFERENCE_{slug}"] == environ[f"DATASTORE_{slug.upper()}"]
    assert environ["AZUREML_DATAREFERENCE_here"] == f"{said['cwd']}/input/a"
    assert environ["AZUREML_DATAREFERENCE_mounted"] == environ["DATASTORE_MOUNTED"]
    assert environ["AZUREML_DATAREFERENCE_model"] == environ["DATASTORE_MODEL"]
    assert environ["AZUREML_DATAREFERENCE_outputs"] == f"{said['cwd']}/outputs"
    assert (environ["OWN"], environ["EPOCHS"], environ["INHERITED"]) == ("1", "3", "yes")
    assert environ["DATASTORE_HERE"] == "own wins"
    assert "PREFECT_API_KEY" not in environ


def test_scalars_are_typed_parameters_of_the_flow_that_can_be_changed(
    estimate: Callable[..., Estimator], local: Callable[..., LocalDatastore], results: Any
) -> None:
    est = estimate(
        TELL,
        script_params={
            "--lr": 0.1,
            "--epochs": 3,
            "--fast": False,
            "--net-name": "small",
            "--lambda": 0.5,
            "--data": local(x="x").as_download(),
            "--flag": None,
        },
    )
    flow = est.as_flow()
    schema = flow.parameters.model_dump()["properties"]
    assert {key: (value["type"], value["default"]) for key, value in schema.items()} == {
        "lr": ("number", 0.1),
        "epochs": ("integer", 3),
        "fast": ("boolean", False),
        "net_name": ("string", "small"),
        "lambda_": ("number", 0.5),
    }
    assert not flow.parameters.required
    flow(epochs="5", lr=0.2)
    argv = told(results)["argv"]
    assert argv[:10] == [
        *("--lr", "0.2", "--epochs", "5", "--fast", "False", "--net-name", "small"),
        *("--lambda", "0.5"),
    ]
    est.run(net_name="large", lambda_=1)
    assert told(results)["argv"][:10] == [
        *("--lr", "0.1", "--epochs", "3", "--fast", "False", "--net-name", "large"),
        *("--lambda", "1.0"),
    ]
    with pytest.raises(ParameterTypeError, match="epochs"):
        est.run(epochs="many")
    with pytest.raises(ParameterTypeError, match="lr"):
        est.submit(lr="fast")


# -- outputs ---------------------------------------------------------------------------------------


OUTPUTS = """
import os
os.makedirs('outputs/plots')
for name in ('outputs/model.pkl', 'outputs/plots/a.png', 'elsewhere.txt'):
    with open(name, 'w') as file:
        file.write(name)
"""


@the_default
def test_outputs_go_to_the_default_datastore_unless_they_are_an_upload(
    source: Callable[[str], Path], default: LocalDatastore, local: Callable[..., LocalDatastore]
) -> None:
    estimator = Estimator(source(OUTPUTS), entry_script="train.py", name="digits")
    (planned,) = estimator.plan().references
    assert (planned.direction, planned.reference) == ("upload", f"{default.name}:runs/digits")
    result = estimator.run()
    place = f"runs/digits/{result['run_id']}"
    kept = {
        f"{place}/model.pkl": "outputs/model.pkl",
        f"{place}/plots/a.png": "outputs/plots/a.png",
    }
    assert files(default.root) == kept
    assert result["outputs"] == f"{default.name}:{place}"

    models = local()
    explicit = Estimator(
        source(OUTPUTS),
        entry_script="train.py",
        inputs=[models.path("best").as_upload("./outputs/")],
    ).run()
    assert explicit["outputs"] == f"{models.name}:best"
    assert files(models.root) == {
        "best/model.pkl": "outputs/model.pkl",
        "best/plots/a.png": "outputs/plots/a.png",
    }
    assert files(default.root) == kept

    part = Estimator(
        source(OUTPUTS),
        entry_script="train.py",
        inputs=[models.path("part").as_upload("outputs/model.pkl")],
    ).run()
    assert models.read_path("part/model.pkl") == b"outputs/model.pkl"
    assert len(files(f"{default.root}/runs/train/{part['run_id']}")) == 2

    silent = Estimator(source("print('no outputs')"), entry_script="train.py").run()
    assert files(f"{default.root}/runs/train/{silent['run_id']}") == {}
    Estimator(source("raise SystemExit(0)"), entry_script="train.py").run()


@pytest.mark.parametrize(
    ("code", "stored"), [(0, ["always", "success"]), (3, ["always", "failure"])]
)
def test_the_outcome_of_the_script_decides_what_is_stored(
    code: int,
    stored: list[str],
    estimate: Callable[..., Estimator],
    local: Callable[..., LocalDatastore],
) -> None:
    models = local()
    est = estimate(
        f"""
        import sys
        for when in ('success', 'always', 'failure'):
            open(when, 'w').write(when)
        sys.exit({code})
        """,
        *(
            models.path(when, when).as_upload(when, when=when)  # type: ignore[arg-type]
            for when in ("success", "always", "failure")
        ),
    )
    if code:
        with pytest.raises(ScriptFailed, match="exit code 3"):
            est.run()
    else:
        est.run()
    assert files(models.root) == {when: when for when in stored}


def test_an_upload_without_a_path_on_compute_has_a_folder_of_its_own(
    estimate: Callable[..., Estimator], local: Callable[..., LocalDatastore]
) -> None:
    models = local()
    code = """
    import os, sys
    assert os.listdir(sys.argv[2]) == []
    open(os.path.join(sys.argv[2], 'model.pkl'), 'w').write('model')
    """
    estimate(code, script_params={"--model": models.path("m").as_upload()}).run()
    assert files(models.root) == {"m/model.pkl": "model"}


# -- what fails, fails clearly ---------------------------------------------------------------------


def test_a_failed_script_fails_the_run_with_the_end_of_its_stderr(
    estimate: Callable[..., Estimator], scratch: Path
) -> None:
    est = estimate(
        """
        import sys
        print('fine so far')
        for number in range(30):
            print(f'complaint {number}', file=sys.stderr)
        sys.exit(3)
        """
    )
    with pytest.raises(
        ScriptFailed, match=r"The script train\.py failed with exit code 3"
    ) as failed:
        est.run()
    assert failed.value.exit_code == 3
    message = str(failed.value)
    assert message.endswith("complaint 28\n  complaint 29")
    assert "complaint 9\n" not in message
    assert "fine so far" not in message
    (run,) = [path.name for path in (scratch / "runs").iterdir()]
    state = state_of(run)
    assert state["type"] == "FAILED"
    assert "exit code 3" in state["message"]
    assert "complaint 29" in state["message"]


def test_a_submitted_run_that_fails_says_why(estimate: Callable[..., Estimator]) -> None:
    run = estimate("raise ValueError('no such digit')").submit()
    with pytest.raises(ScriptFailed, match="ValueError: no such digit"):
        run.wait_for_completion()
    assert run.wait_for_completion(raise_on_error=False) == "Failed"


def test_a_missing_script_source_or_compute_is_refused_when_it_is_defined(
    source: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = source("")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"entry_script": "other.py"}, r"The entry_script 'other.py' does not exist in .*/src"),
        ({"entry_script": ""}, r"The entry_script '' does not exist"),
        ({"entry_script": "."}, r"The entry_script '.' does not exist"),
        ({"source_directory": tmp_path / "gone"}, r"The source_directory .*/gone does not exist"),
        (
            {"compute_target": "gpu-cluster"},
            r"compute_target='gpu-cluster' is not available.*local",
        ),
        ({"inputs": ["raw"]}, r"'raw' is no datastore and no reference"),
        ({"script_params": {"--x": object()}}, r"script_params\['--x'\] is object"),
        ({"script_params": {"--x": [1, {}]}}, r"script_params\['--x'\] is dict"),
    ]
    for values, says in wrong:
        with pytest.raises(ConfigurationError, match=says):
            Estimator(**{"source_directory": folder, "entry_script": "train.py", **values})
    with pytest.raises(UnsafeName, match=r"'\.\./train\.py' is refused"):
        Estimator(folder, entry_script="../train.py")


def test_names_that_collide_and_paths_that_escape_are_refused_when_defined(
    source: Callable[[str], Path], local: Callable[..., LocalDatastore]
) -> None:
    data = local(x="x")
    folder = source("")
    for inputs, params in (
        ([data.as_download(), data.as_upload("out")], {}),
        ([data.as_download()], {"--out": data.as_upload("out")}),
        ([data.path("a_b").as_download(), data.path("a/b").as_download()], {}),
    ):
        with pytest.raises(NameCollision, match=r"share the name .*data_reference_name="):
            Estimator(folder, entry_script="train.py", inputs=inputs, script_params=params)
    with pytest.raises(ConfigurationError, match="would both be at 'in'"):
        Estimator(
            folder,
            entry_script="train.py",
            inputs=[data.path("a").as_download("in"), data.path("b").as_download("in")],
        )
    for escape in (
        lambda: data.path("../other"),
        lambda: data.as_download("../../etc"),
        lambda: data.as_upload("x/../../y"),
    ):
        with pytest.raises(UnsafeName, match=r"has the component '\.\.'"):
            escape()


def marks(tmp_path: Path) -> str:
    """A script that leaves a mark, by which it is seen that it ran."""
    return f"open({str(tmp_path / 'ran')!r}, 'w').write('yes')"


@pytest.mark.usefixtures("no_mounts")
def test_what_can_never_work_is_refused_before_the_script_runs(
    estimate: Callable[..., Estimator],
    local: Callable[..., LocalDatastore],
    remote: RemotePlace,
    tmp_path: Path,
) -> None:
    data, place = local(**{"foobar/x": "x"}), remote.connection()
    gone = remote.block(**{**place, remote.name_field: "not-there"}, auth=remote.auth())
    wrong = remote.datastore(auth={"account_key": "d3Jvbmcga2V5IQ=="})
    cases: list[tuple[DataReference, type[DatastoreError], str]] = [
        (data.path("foo").as_download(), ObjectNotFound, "nothing at 'foo' in .*allow_empty=True"),
        (data.as_download(include=["*.csv"]), ObjectNotFound, r"include=\['\*.csv'\]"),
        (data.as_mount(), MountUnavailable, "no-such-device is missing.* Use as_download"),
        (gone.path("x").as_upload("y"), ContainerNotFound, "container 'not-there' does not exist"),
        (gone.path("x").as_download(), ContainerNotFound, "container 'not-there' does not exist"),
        (wrong.path("x").as_upload("y"), AuthenticationFailed, "account key is not accepted"),
    ]
    for reference, kind, says in cases:
        est = estimate(marks(tmp_path), reference)
        with pytest.raises(kind, match=says):
            est.plan()
        with pytest.raises(kind, match=says):
            est.run()
    assert not (tmp_path / "ran").exists()
    assert files(tmp_path / data.name) == {"foobar/x": "x"}


@pytest.mark.usefixtures("no_mounts")
def test_a_bare_datastore_is_a_mount_which_is_refused_where_there_are_none(
    estimate: Callable[..., Estimator], local: Callable[..., LocalDatastore], tmp_path: Path
) -> None:
    est = estimate(marks(tmp_path), local(x="x").path("x").as_download("in"), local(y="y"))
    for way in (est.run, est.plan, est.submit):
        with pytest.raises(MountUnavailable, match=r"as_mount\(fallback='download'\)"):
            way()
    assert not (tmp_path / "ran").exists()
    assert not list(tmp_path.rglob("in/x"))


def test_a_result_that_was_not_written_is_an_error(
    estimate: Callable[..., Estimator], local: Callable[..., LocalDatastore]
) -> None:
    models = local()
    est = estimate("pass", models.path("best").as_upload("model.pkl"))
    with pytest.raises(
        ObjectNotFound, match=r"Nothing to upload to '.*:best': .*/model.pkl does not"
    ):
        est.run()
    est = estimate("pass", models.path("best").as_upload("model.pkl", allow_empty=True))
    assert est.run()["stored"][f"{models.name}:best"] == 0


def test_a_datastore_that_is_not_registered_runs_here_but_is_not_submitted(
    estimate: Callable[..., Estimator], tmp_path: Path, results: LocalDatastore
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/x").write_text("x")
    data = LocalDatastore(root=str(tmp_path / "data"))
    est = estimate(TELL, script_params={"--data": data.as_download()})
    est.run()
    assert told(results)["argv"][0] == "--data"
    with pytest.raises(ConfigurationError, match="is not registered, so a submitted run cannot"):
        est.submit()


def test_a_script_that_takes_too_long_is_stopped_and_fails_the_run(
    estimate: Callable[..., Estimator], tmp_path: Path
) -> None:
    est = estimate(
        LONG,
        max_run_duration_seconds=3,
        environment_variables={"STARTED": tmp_path / "started"},
    )
    with pytest.raises(ScriptFailed, match="longer than max_run_duration_seconds=3"):
        est.run()
    _, *pids = (tmp_path / "started").read_text().split()
    wait_until_gone(*map(int, pids))


# -- the end of a run, whoever wants it --------------------------------------------------------------


IN_PROCESS = """
import sys
from prefect_datastores import Estimator
from prefect_datastores.estimator_spec import EstimatorSpec
Estimator.from_spec(EstimatorSpec.model_validate_json(sys.argv[1])).run()
"""


@pytest.fixture
def long(
    estimate: Callable[..., Estimator], tmp_path: Path
) -> tuple[Estimator, Callable[[], tuple[str, list[int]]]]:
    """An estimator whose script goes on, and what waits for the script and tells its processes."""
    started = tmp_path / "started"

    def wait() -> tuple[str, list[int]]:
        wait_for(started.exists)
        run_id, *pids = started.read_text().split()
        return run_id, [int(pid) for pid in pids]

    return estimate(LONG, environment_variables={"STARTED": started}), wait


def test_a_submitted_run_is_cancelled_with_its_script(long: Any, capfd: Any) -> None:
    est, started = long
    run = est.submit()
    run_id, pids = started()
    assert run_id == run.id
    assert run.get_status() == "Running"
    run.cancel()
    with pytest.raises(CancelledRun, match=r"Cancelled from Prefect\. The script was stopped"):
        run.wait_for_completion(show_output=True)
    assert run.get_status() == "Cancelled"
    wait_until_gone(*pids)
    assert "training" in capfd.readouterr().out


def test_a_run_that_is_cancelled_before_it_began_does_not_begin(
    estimate: Callable[..., Estimator], tmp_path: Path
) -> None:
    run = estimate(marks(tmp_path)).submit()
    run.cancel()
    with pytest.raises(CancelledRun):
        run.wait_for_completion()
    assert run.get_status() == "Cancelled"
    assert not (tmp_path / "ran").exists()


def test_a_run_that_is_cancelled_while_it_ends_does_not_hang(
    estimate: Callable[..., Estimator], tmp_path: Path
) -> None:
    """The script is over before anybody looks for the cancellation again."""
    code = """
    import os, time
    open(os.environ['STARTED'], 'w').close()
    while not os.path.exists(os.environ['CANCELLED']):
        time.sleep(0.01)
    """
    variables = {"STARTED": tmp_path / "started", "CANCELLED": tmp_path / "cancelled"}
    run = estimate(code, environment_variables=variables).submit()
    wait_for((tmp_path / "started").exists)
    run.cancel()
    (tmp_path / "cancelled").touch()
    assert run.wait_for_completion(raise_on_error=False) == "Cancelled"


def test_a_run_in_this_process_is_cancelled_by_the_api(long: Any) -> None:
    est, started = long
    with subprocess.Popen(
        [sys.executable, "-c", IN_PROCESS, est.spec.model_dump_json()],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        run_id, pids = started()
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run_id, Cancelling())
        _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "CancelledRun" in errors
    assert state_of(run_id)["type"] == "CANCELLED"
    wait_until_gone(*pids)


def test_a_run_that_is_cancelled_while_data_comes_lets_go_of_the_service(
    estimate: Callable[..., Estimator],
    name: Callable[[], str],
    remote: RemotePlace,
    scratch: Path,
    tmp_path: Path,
) -> None:
    """The service takes the request for the data, and never ends its answer."""
    put(remote.store, "data/large", b"content")
    never = Fault(r"GET \S+/data/large", "hang", times=None)
    with remote.through(never) as seen:
        data = remote.register(name(), seen.ports)
        run = estimate(marks(tmp_path), data.path("data").as_download(), keep="never").submit()
        wait_for(lambda: seen.proxy.count(never.match))

        def connected() -> bool:
            with contextlib.suppress(psutil.Error):
                open_ones = psutil.Process(run._process.pid).net_connections("tcp")
                return any(one.raddr and one.raddr.port in seen.ports for one in open_ones)
            return False

        assert connected()
        run.cancel()
        asked = time.monotonic()
        wait_for(lambda: not connected())
        took = time.monotonic() - asked
        with pytest.raises(CancelledRun):
            run.wait_for_completion()
    assert took < 2 + 2  # the run looks every two seconds, and then has two
    assert run.get_status() == "Cancelled"
    assert not (tmp_path / "ran").exists()
    assert not list(scratch.rglob(".pds-*"))


def test_a_terminated_run_takes_its_script_with_it(long: Any) -> None:
    est, started = long
    process = subprocess.Popen([sys.executable, "-c", IN_PROCESS, est.spec.model_dump_json()])
    run_id, pids = started()
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) != 0
    wait_until_gone(*pids)
    assert final_state(run_id)["type"] == "CRASHED"


def test_a_killed_run_takes_its_script_with_it(long: Any) -> None:
    est, started = long
    run = est.submit()
    run_id, pids = started()
    below = [child.pid for child in psutil.Process(run._process.pid).children(recursive=True)]
    assert set(pids) <= set(below)
    os.kill(run._process.pid, signal.SIGKILL)
    wait_until_gone(*below)
    with pytest.raises(DatastoreError, match="is gone and did not say why"):
        run.wait_for_completion()
    assert state_of(run_id)["type"] == "CRASHED"


# -- the run's folder and the source -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "after_success", "after_failure"),
    [("failed", False, True), ("always", True, True), ("never", False, False)],
)
def test_the_folder_of_a_run_is_kept_when_it_is_wanted(
    keep: str,
    after_success: bool,
    after_failure: bool,
    estimate: Callable[..., Estimator],
    scratch: Path,
) -> None:
    def kept() -> list[str]:
        return sorted(path.name for path in scratch.rglob("half.txt"))

    code = "open('half.txt', 'w').write('x')"
    estimate(code, keep=keep).run()
    assert bool(kept()) == after_success
    before = len(kept())
    with pytest.raises(ScriptFailed):
        estimate(f"{code}\nraise SystemExit(1)", keep=keep).run()
    assert (len(kept()) > before) == after_failure


def test_a_script_runs_in_a_copy_of_its_source(
    estimate: Callable[..., Estimator], source: Callable[[str], Path], results: Any
) -> None:
    folder = source("")
    (folder / "pkg").mkdir()
    (folder / "pkg/__init__.py").write_text("ANSWER = 42\n")
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("secret")
    before = files(folder)
    estimate(
        """
        import os, pkg
        assert not os.path.exists('.git')
        open('outputs/answer', 'w').write(str(pkg.ANSWER))
        open('pkg/changed', 'w').write('x')
        """
    ).run()
    assert results.read_path("out/answer") == b"42"
    assert {**files(folder), "train.py": ""} == before


def test_a_source_that_a_datastore_carries_is_stored_once(
    estimate: Callable[..., Estimator],
    source: Callable[[str], Path],
    remote: RemotePlace,
    name: Callable[[], str],
    results: Any,
) -> None:
    carrier: Any = remote.register(name())
    folder = source("")
    (folder / "pkg").mkdir()
    (folder / "pkg/__init__.py").write_text("ANSWER = 42\n")
    (folder / "pkg/__pycache__").mkdir()
    (folder / "pkg/__pycache__/x.pyc").write_text("x")
    code = "import pkg\nopen('outputs/answer', 'w').write(str(pkg.ANSWER))"

    def stored() -> dict[str, str]:
        return {info.name: info.etag for info in list_objects(remote.store, "")}

    first = estimate(code, source_directory_data_store=carrier).run()
    (snapshot,) = once = stored()
    assert re.fullmatch(r"azureml-snapshots/[0-9a-f]{64}\.zip", snapshot)
    with zipfile.ZipFile(io.BytesIO(carrier.read_path(snapshot))) as archive:
        assert archive.namelist() == ["pkg/__init__.py", "train.py"]
    assert results.read_path("out/answer") == b"42"

    estimate(code, source_directory_data_store=carrier.name).run()
    assert stored() == once
    estimate(code + "\n", source_directory_data_store=carrier).run()
    assert len(stored()) == 2

    _, parents = graph_of(first["run_id"])
    assert parents["download source"] == {"upload source"}
    assert parents["run train.py"] == {"download source"}
    assert parents[f"upload {results.name}:out"] == {"run train.py"}


def test_a_run_and_a_deployment_of_one_source_share_its_snapshot(
    estimate: Callable[..., Estimator],
    source: Callable[[str], Path],
    local: Callable[..., LocalDatastore],
) -> None:
    folder, carrier = source("pass"), local()
    (folder / "tool.sh").write_text("#!/bin/sh\n")
    (folder / "tool.sh").chmod(0o755)
    (folder / ".gitignore").write_text("*.csv\n")
    (folder / "large.csv").write_text("x")
    est = estimate("pass", source_directory_data_store=carrier)
    est.run()
    (stored,) = carrier.list_objects()
    assert stored.name == f"azureml-snapshots/{push(carrier, folder).digest}.zip"


def test_a_spec_is_json_without_secrets_and_makes_the_same_estimator(
    estimate: Callable[..., Estimator],
    remote: RemotePlace,
    name: Callable[[], str],
) -> None:
    data: Any = remote.register(name())
    est = estimate(
        "pass",
        data.path("a").as_download(include=["*.csv"]),
        script_params={"--data": data.path("b").as_download(), "--list": [1, True, "x"], "--n": 1},
        environment_variables={"A": "b"},
        max_run_duration_seconds=5,
        keep="never",
        source_directory_data_store=data,
    )
    text = est.spec.model_dump_json()
    assert remote.server.key not in text
    assert EstimatorSpec.model_validate_json(text) == est.spec
    assert Estimator.from_spec(est.spec).spec == est.spec
    kinds = [type(item) for item in EstimatorSpec.model_validate_json(text).script_params["--list"]]
    assert kinds == [int, bool, str]


def test_a_plan_says_what_would_move_before_it_moves(
    estimate: Callable[..., Estimator], local: Callable[..., LocalDatastore], tmp_path: Path
) -> None:
    data = local(**{"a/x.csv": "12345", "a/y.csv": "1", "b/z.txt": "123"})
    est = estimate(
        marks(tmp_path),
        data.path("a").as_download(),
        data.path("b/z.txt", "z").as_mount(),
        data.path("b", "b").as_mount(),
    )
    plan = est.plan()
    assert [(item.direction, item.objects, item.bytes) for item in plan.references] == [
        ("download", 2, 6),
        ("mount", 1, 3),
        ("mount", None, None),
        ("upload", None, None),
    ]
    assert (plan.objects, plan.bytes) == (2, 6)
    assert plan.free_bytes > 0
    assert f"download  {data.name}:a" in str(plan)
    assert f"mount     {data.name}:b" in str(plan)
    assert "total     2 objects, 6 B;" in str(plan)
    assert json.loads(json.dumps(plan.to_dict()))["references"][0]["url"].endswith("/a")
    assert not (tmp_path / "ran").exists()


def test_two_results_for_one_place_are_both_stored(
    estimate: Callable[..., Estimator], local: Callable[..., LocalDatastore], tmp_path: Path
) -> None:
    models = local()
    one = models.path("m", "one").as_upload("a.txt")
    two = models.path("m", "two").as_upload("b.txt")
    script = "for name in ('a.txt', 'b.txt'): open(name, 'w').write(name)"
    result = estimate(script, one, two).run()
    assert result["stored"][f"{models.name}:m"] == 2
    stored = {path.name: path.read_text() for path in (Path(models.root) / "m").iterdir()}
    assert stored == {"a.txt": "a.txt", "b.txt": "b.txt"}


def test_a_run_that_prefect_tries_again_begins_anew(
    estimate: Callable[..., Estimator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "tried"
    monkeypatch.setenv("MARK", str(mark))
    flow = estimate(
        """
        import os, pathlib, sys
        mark = pathlib.Path(os.environ['MARK'])
        sys.exit(0 if mark.exists() else mark.touch() or 1)
        """
    ).as_flow()
    result = flow.with_options(retries=1)()
    assert result["run_id"]
    assert mark.exists()


def test_a_run_that_prefect_tries_again_goes_on_with_its_downloads(
    estimate: Callable[..., Estimator],
    name: Callable[[], str],
    blob_place: RemotePlace,
    scratch: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BlobStore, "flat", replace(BlobStore.flat, part_size=PART))
    put(blob_place.store, "data/large", content_of(8 * PART))

    def parts_are_there() -> bool:
        journals = scratch.rglob("data/*/.pds-*/journal")
        return any(journal.read_bytes().count(b"\n") > 5 for journal in journals)

    # The last but one part is refused, when most of the others are there.
    match = r"GET \S+/data/large"
    once = Fault(match, "answer", status=403, skip=6, meanwhile=lambda: wait_for(parts_are_there))
    with blob_place.through(once) as seen:
        data = blob_place.register(name(), seen.ports)
        code = "import os; assert os.listdir(os.environ['DATASTORE_DATA']) == ['large']"
        est = estimate(code, data.path("data", "data").as_download(cache=False))
        assert est.as_flow().with_options(retries=1)()["run_id"]
        assert seen.proxy.count(match) <= 8 + 4


def test_a_result_that_may_not_replace_what_is_there_is_refused_before_the_script(
    estimate: Callable[..., Estimator], local: Callable[..., LocalDatastore], tmp_path: Path
) -> None:
    models = local(**{"m/model.pkl": "good"})
    started = tmp_path / "started"
    refused = models.path("m").as_upload("model.pkl", overwrite="fail")
    with pytest.raises(
        DatastoreError, match=r"m/model\.pkl exists already and overwrite is 'fail'"
    ):
        estimate(f"open({str(started)!r}, 'w')", refused).run()
    assert not started.exists()
    assert (Path(models.root) / "m/model.pkl").read_text() == "good"


def test_a_source_whose_carrier_is_missing_says_so(
    source: Callable[[str], Path], local: Callable[..., LocalDatastore]
) -> None:
    carrier = local()
    Path(carrier.root).rmdir()
    estimator = Estimator(
        source("pass"), entry_script="train.py", source_directory_data_store=carrier.name
    )
    with pytest.raises(ContainerNotFound, match="does not exist"):
        estimator.run()


def test_what_an_earlier_run_left_in_the_source_is_no_result(
    estimate: Callable[..., Estimator],
    source: Callable[[str], Path],
    local: Callable[..., LocalDatastore],
    results: LocalDatastore,
) -> None:
    folder, models = source(""), local()
    for old in ("outputs/model.pkl", "deep/best.pkl", "logs/log.txt"):
        (folder / old).parent.mkdir(exist_ok=True)
        (folder / old).write_text("last week's")
    best = models.path("best").as_upload("deep/best.pkl")
    with pytest.raises(ObjectNotFound, match=r"best\.pkl does not exist"):
        estimate("pass", best).run()
    assert files(models.root) == files(results.root) == {}

    # What the script does write is a result, with what lies beside it.
    logs = models.path("logs").as_upload("logs")
    estimate("for f in ('deep/best.pkl', 'logs/new'): open(f, 'w').write('new')", best, logs).run()
    assert files(models.root) == {
        "best/best.pkl": "new",
        "logs/log.txt": "last week's",
        "logs/new": "new",
    }
    assert (folder / "outputs/model.pkl").read_text() == "last week's"


def test_a_source_that_holds_the_scratch_space_is_not_copied_into_itself(
    estimate: Callable[..., Estimator],
    source: Callable[[str], Path],
    results: LocalDatastore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scratch = source("") / "home" / "scratch"
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_SCRATCH_ROOT", str(scratch))
    code = "import os; open('outputs/seen', 'w').write(str(os.listdir('home')))"
    for _ in range(2):
        estimate(code, keep="always").run()
    assert results.read_path("out/seen") == b"[]"


def test_a_source_that_cannot_be_copied_says_why(
    estimate: Callable[..., Estimator], source: Callable[[str], Path]
) -> None:
    os.mkfifo(source("") / "pipe")
    with pytest.raises(ConfigurationError, match=r"cannot be copied to .*\n.*/pipe: .*named pipe"):
        estimate("pass").run()


def test_a_carried_source_has_what_a_copied_one_has(
    estimate: Callable[..., Estimator],
    source: Callable[[str], Path],
    local: Callable[..., LocalDatastore],
    results: LocalDatastore,
    tmp_path: Path,
) -> None:
    (tmp_path / "elsewhere.py").write_text("ANSWER = 42\n")
    (source("") / "linked.py").symlink_to(tmp_path / "elsewhere.py")
    code = "import linked; open('outputs/answer', 'w').write(str(linked.ANSWER))"
    for carrier in (None, local()):
        estimate(code, source_directory_data_store=carrier).run()
        assert results.read_path("out/answer") == b"42"


def test_a_credential_without_the_rights_is_refused_before_the_script(
    estimate: Callable[..., Estimator],
    remote: RemotePlace,
    tmp_path: Path,
) -> None:
    def signed(rights: str) -> Any:
        return remote.datastore(auth={"sas_token": remote.sas(rights)})

    writes = remote.rights_to_write
    code = marks(tmp_path) + "; open('m', 'w').write('x')"
    for rights, rule in (
        ("rl", "replace"),
        ("rl", "if_changed"),
        (writes, "if_changed"),
        (writes, "skip"),
    ):
        with pytest.raises(AccessDenied, match="lacks the right"):
            estimate(code, signed(rights).path("m").as_upload("m", overwrite=rule)).run()
    assert not (tmp_path / "ran").exists()
    assert names_below(remote.store) == []
    estimate(code, signed(writes).path("m").as_upload("m", overwrite="replace")).run()
    estimate(code, signed(f"r{writes}").path("m").as_upload("m")).run()
    assert names_below(remote.store) == ["m"]


def test_a_submitted_run_has_the_source_of_when_it_was_submitted(
    estimate: Callable[..., Estimator],
    source: Callable[[str], Path],
    results: LocalDatastore,
    scratch: Path,
) -> None:
    run = estimate("open('outputs/which', 'w').write('first')").submit()
    source("open('outputs/which', 'w').write('second')")
    run.wait_for_completion()
    assert results.read_path("out/which") == b"first"
    assert [path.suffix for path in (scratch / "submitted").iterdir()] == [".log"]


@pytest.mark.filterwarnings("ignore:Field name")
def test_parameters_that_prefect_keeps_for_itself_stay_arguments(
    estimate: Callable[..., Estimator], results: LocalDatastore
) -> None:
    given = {"--wait-for": "a", "--return-state": "b", "--_x": "c", "--model-config": "d"}
    given |= {"--copy": "e", "--json": "f", "--model-name": "g"}
    est = estimate(TELL, script_params=given)
    assert set(est.as_flow().parameters.properties) == {"copy", "json", "model_name"}
    est.run(model_name="other")
    argv = told(results)["argv"]
    assert argv == [part for pair in {**given, "--model-name": "other"}.items() for part in pair]


def test_a_compute_target_of_any_kind_is_refused_alike(source: Callable[[str], Path]) -> None:
    for target in ({"gpu": 1}, ["gpu"], "gpu", 3):
        with pytest.raises(ConfigurationError, match="compute_target"):
            Estimator(source("pass"), entry_script="train.py", compute_target=target)


def test_links_in_a_source_that_lead_back_up_are_left_out(
    estimate: Callable[..., Estimator], source: Callable[[str], Path], results: LocalDatastore
) -> None:
    folder = source("")
    (folder / "pkg").mkdir()
    (folder / "pkg/up").symlink_to(folder)
    (folder / "here").symlink_to(folder / "pkg")
    (folder / "itself").symlink_to("itself")
    code = "import os; open('outputs/seen', 'w').write(' '.join(sorted(os.listdir('.'))))"
    estimate(code).run()
    assert results.read_path("out/seen") == b"here outputs pkg train.py"
