"""What a run of an estimator costs beyond its script, beside a bare flow that runs the same script.

    .venv/bin/python benchmarks/overhead.py [--write] [--rounds N]

Prefect's own server with SQLite, Azurite as the store, data in the cache already, a script that does
nothing but note when it began and ended. Each run is a process of its own: called, as `python train.py`
does it, and taken up by a process worker. `--write` puts the table into `RESULTS.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import results

ROOT = Path(__file__).parent.parent
SCRIPT = """\
import time
began = time.time()
import json, pathlib, sys
pathlib.Path("outputs").mkdir(exist_ok=True)
pathlib.Path("outputs/metrics.json").write_text('{"accuracy": 1}')
pathlib.Path(sys.argv[2]).write_text(json.dumps([began, time.time()]))
"""
BARE = """\
import subprocess, sys
from prefect import flow

@flow
def bare(script: str, notes: str) -> None:
    subprocess.run([sys.executable, script, "--notes", notes], check=True)
"""
PARTS = {
    "process, imports": "from the process's start until the flow is called; by a worker until it runs",
    "flow's start": "until the run is Running",
    "preflight, source": "until the download begins",
    "download": "one object, which the cache has",
    "script's start": "until its first line",
    "script": "",
    "script's end": "until the upload begins",
    "upload": "one object",
    "results, flow's end": "until the run is Completed",
    "process's end": "",
}
KINDS = ("estimator, called", "bare flow, called", "estimator, worker", "bare flow, worker")
ABOUT = """\
Medians of seconds. Prefect's own server with SQLite and Azurite are on the same cores; each run is a process of its
own. A run by a worker begins when the worker takes it up, and ends when it is Completed; its source is a snapshot, whose
download is part of the row "preflight, source". "Beyond the script" is all but the script, and has to be less than 3 s;
"the run" is that without the process around it: from the call, or from Running, until Completed. What the bare flow
takes is Prefect's own, as are the task runs and artifacts that it does not have."""


def estimator(folder: Path) -> Any:
    """Return the estimator of all runs."""
    from prefect_datastores import Datastore, Estimator

    data = Datastore.get("data")
    return Estimator(
        folder / "source",
        entry_script="train.py",
        name="overhead",
        script_params={
            "--notes": str(folder / "notes.json"),
            "--data": data.path("in").as_download(),
        },
        inputs=[data.path("out").as_upload("outputs")],
    )


def child(kind: str, folder: Path) -> None:
    """Call a flow in this process, and print its run's id and when it was called and over."""
    if kind == "estimator":
        call: Any = estimator(folder).run
        called = time.time()
        run_id = call(notes=str(folder / "notes.json"))["run_id"]
    else:
        sys.path.insert(0, str(folder))
        from bare import bare  # type: ignore[import-not-found]

        called = time.time()
        state = bare(str(folder / "source/train.py"), str(folder / "notes.json"), return_state=True)
        run_id = str(state.state_details.flow_run_id)
    print(json.dumps({"run_id": run_id, "called": called}))


def run_called(kind: str, folder: Path) -> dict[str, float]:
    """Call a flow in a process of its own, and return what each part took."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, __file__, "--child", kind, str(folder)],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
    )
    ended = time.time()
    told = json.loads(done.stdout.splitlines()[-1])
    marks = marks_of(told["run_id"], folder, kind)
    return parts({"began": began, "called": told["called"], **marks, "ended": ended})


def run_by_worker(kind: str, deployment: str, folder: Path) -> dict[str, float]:
    """Have a worker run a deployment, and return what each part took."""
    from prefect.deployments import run_deployment

    given = {"notes": str(folder / "notes.json")}
    if kind == "bare":
        given["script"] = str(folder / "source/train.py")
    made: Any = run_deployment(deployment, parameters=given, poll_interval=0.2)
    assert made.state.is_completed(), made.state
    marks = marks_of(str(made.id), folder, kind)
    return parts({"began": marks["pending"], "called": marks["running"], **marks})


def marks_of(run_id: str, folder: Path, kind: str) -> dict[str, float]:
    """Return when each step of a run was, by its states and what the script noted."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    asked = uuid.UUID(run_id)
    began, ended = json.loads((folder / "notes.json").read_text())
    marks = {"script began": began, "script ended": ended}
    with get_client(sync_client=True) as client:
        for state in client.read_flow_run_states(asked):
            marks.setdefault(state.type.value.lower(), state.timestamp.timestamp())
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[asked]))
        until = time.monotonic() + 30
        found: list[Any] = []  # the server has them from events, which come later
        while kind == "estimator" and len(found) < 3 and time.monotonic() < until:
            time.sleep(0.1)
            found = [
                each
                for each in client.read_task_runs(flow_run_filter=chosen)
                if each.end_time is not None
            ]
    for each in sorted(found, key=lambda each: each.start_time):  # the source comes before the data
        what = each.name.partition(" ")[0]
        marks[f"{what} began"] = each.start_time.timestamp()
        marks[f"{what} ended"] = each.end_time.timestamp()
    return marks


def parts(marks: dict[str, float]) -> dict[str, float]:
    """Return the seconds of each part; what a bare flow does not have is left out."""
    ends = {
        "process, imports": "called",
        "flow's start": "running",
        "preflight, source": "download began",
        "download": "download ended",
        "script's start": "script began",
        "script": "script ended",
        "script's end": "upload began",
        "upload": "upload ended",
        "results, flow's end": "completed",
        "process's end": "ended",
    }
    took, before = {}, marks["began"]
    for part, mark in ends.items():
        if mark in marks:
            took[part], before = marks[mark] - before, marks[mark]
    script = took["script"]
    took["beyond the script"] = before - marks["began"] - script
    took["the run"] = marks["completed"] - marks["called"] - script
    return took


@contextmanager
def surroundings(folder: Path) -> Iterator[None]:
    """Have a server and a store with data, and this process be a client of them."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    # Where it is exported, each process would compile the package anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ |= {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "DO_NOT_TRACK": "1",
    }
    from servers import azurite as azurite_server
    from servers import prefect_server

    store, server = azurite_server.start(folder), prefect_server.start(folder)
    try:
        store.server.wait_until_ready()
        server.server.wait_until_ready()
        os.environ["PREFECT_API_URL"] = server.api_url
        fill(folder, store)
        yield
    finally:
        server.server.stop()
        store.server.stop()


def fill(folder: Path, store: Any) -> None:
    """Register the datastore with an object in it, and write the source."""
    from azure.storage.blob import BlobServiceClient

    from prefect_datastores import Datastore

    (folder / "source").mkdir()
    (folder / "source/train.py").write_text(SCRIPT)
    (folder / "bare.py").write_text(BARE)
    credential = {"account_name": store.account, "account_key": store.key}
    BlobServiceClient(store.url, credential=credential).create_container("data")
    data: Any = Datastore.register_azure_blob_container(
        datastore_name="data",
        container_name="data",
        account_name=store.account,
        account_key=store.key,
        protocol="http",
        endpoint=f"{store.host}:{store.port}",
    )
    data.write_path("in/part.csv", b"1,2,3\n" * 1000)


@contextmanager
def worker(folder: Path) -> Iterator[dict[str, str]]:
    """Have a process worker, and give the two deployments that it runs."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        client.create_work_pool(
            WorkPoolCreate(name="pool", type="process", base_job_template=template)
        )
    deployed = estimator(folder).deploy("estimator", "pool")
    source: Any = flow.from_source(source=str(folder), entrypoint="bare.py:bare")
    source.deploy("bare", work_pool_name="pool", print_next_steps=False, ignore_warnings=True)
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "pool"],
            cwd=folder,
            env={**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield {"estimator": deployed.id, "bare": "bare/bare"}
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def measure(rounds: int, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Return what the parts of all runs took; the first of each kind fills caches and is left out."""
    took: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with worker(folder) as deployments:
        for turn in range(rounds + 1):
            for kind in KINDS:
                what, how = kind.split()[0].strip(","), kind.split(", ")[1]
                one = (
                    run_called(what, folder)
                    if how == "called"
                    else run_by_worker(what, deployments[what], folder)
                )
                if turn:
                    took[kind].append(one)
                print(f"{kind}: {one['beyond the script']:.2f}", file=sys.stderr, flush=True)
    return took


def table(took: dict[str, list[dict[str, float]]]) -> str:
    """Return medians, a column for each kind of run."""
    lines = [f"| part | {' | '.join(KINDS)} |", f"|---|{'---|' * len(KINDS)}"]

    def cell(kind: str, part: str) -> str:
        found = [one[part] for one in took[kind] if part in one]
        return f"{statistics.median(found):.2f}" if found else ""

    for part in (*PARTS, "beyond the script", "the run"):
        about = f", {PARTS[part]}" if PARTS.get(part) else ""
        lines.append(f"| {part}{about} | {' | '.join(cell(kind, part) for kind in KINDS)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write it where that is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    from importlib.metadata import version

    made = results.made_by(
        f".venv/bin/python benchmarks/overhead.py --rounds {given.rounds}",
        f"Prefect {version('prefect')},",
    )
    with tempfile.TemporaryDirectory() as folder, surroundings(Path(folder)):
        text = table(measure(given.rounds, Path(folder)))
    print(f"{made}\n\n{text}")
    if given.write:
        results.write(
            "overhead",
            "What a run costs beyond its script",
            "\n".join([made, "", ABOUT, "", text]),
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
