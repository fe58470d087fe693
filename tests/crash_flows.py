"""Flows that stay where a download, an upload and a mount that is read are all in progress, or one of the first two
as a step of the estimator's own. A worker loads them from this file.

As a program it runs the flow in its own process (`run JSON`), or serves it (`serve NAME`).
"""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow

from prefect_datastores import Datastore, Estimator, stage
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.stores.blob import BlobStore
from prefect_datastores.tasks import cancellation_scope, download, results, upload

PART = 256 * 1024
SIZE = 6 * PART
EATEN = 300 * 2**20
SCRIPT = f"""
import os, subprocess, sys, time
folder, data = sys.argv[2], sys.argv[4:]
open("outputs/large", "wb").write(b"n" * {SIZE})
if data:
    other = [sys.executable, "-c", "import time; time.sleep(600)"]
    beside = subprocess.Popen(other, start_new_session=True)
    with open(os.path.join(data[0], "large"), "rb") as file:
        while not os.path.exists(folder + "/over") and file.seek(0) == 0 and file.read({PART}):
            if not os.path.exists(folder + "/script"):
                open(folder + "/script~", "w").write(f"{{os.getpid()}} {{beside.pid}}")
                os.rename(folder + "/script~", folder + "/script")
            if os.path.exists(folder + "/script-eats"):
                eaten = b"x" * {EATEN}
            time.sleep(0.1)
"""


def short_parts() -> Any:
    """How blobs are moved in these flows."""
    return replace(BlobStore.flat, part_size=PART)


def _begin(given: dict[str, Any]) -> Path:
    BlobStore.flat = short_parts()
    folder = Path(given["folder"])
    threading.Thread(target=_end_as_told, args=(folder,), daemon=True).start()
    (folder / "engine~").write_text(str(os.getpid()))
    (folder / "engine~").rename(folder / "engine")
    return folder


def _end_as_told(folder: Path) -> None:
    eaten = b""
    while not eaten:
        if (folder / "exits").exists():
            os._exit(3)
        if (folder / "eats").exists():
            eaten = b"x" * EATEN
        time.sleep(0.2)


def _move_beside(given: dict[str, Any], store: FileDatastore, scope: str) -> dict[str, Any]:
    """Begin a download and an upload that go on beside the rest of a flow."""
    folder, key = Path(given["folder"]), given["key"]
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new/large").write_bytes(b"n" * SIZE)
    data = store.path(f"data/{key}").as_download(cache=False)
    new = store.path(f"out/{key}").as_upload(overwrite="replace")
    return {
        "download": download.submit(data, folder / "data", scope=scope),
        "upload": upload.submit(folder / "new", new, scope=scope),
    }


@flow(name="crash-sync")
def work(given: dict[str, Any]) -> None:
    """Stay at one stage of an estimator's run, which is a flow below this one, or with all in progress."""
    folder, key = _begin(given), given["key"]
    (folder / "src").mkdir(exist_ok=True)
    (folder / "src/stay.py").write_text(SCRIPT)
    store = Datastore.get(given["store"])
    data = store.path(f"data/{key}", "data").as_download(str(folder / "data"), cache=False)
    read = store.path(f"read/{key}", "data").as_mount(cache=False)
    to = store.path(f"out/{key}").as_upload("outputs", overwrite="replace")
    given_data, inputs = {
        "all": ([read], []),
        "download": ([data], []),
        "upload": ([], [to]),
    }[given["stage"]]
    with cancellation_scope() as (scope, _):
        beside = _move_beside(given, store, scope) if given["stage"] == "all" else {}
        Estimator(
            folder / "src",
            entry_script="stay.py",
            script_params={"--folder": str(folder), "--data": given_data},
            inputs=inputs,
            keep=given["keep"],
        ).run()
        results(beside, stops=scope)


@flow(name="crash-async")
async def awork(given: dict[str, Any]) -> None:
    """Stay in a block of asynchronous code, with all in progress."""
    folder, key = _begin(given), given["key"]
    store = await asyncio.to_thread(Datastore.get, given["store"])
    data = store.path(f"read/{key}", "data").as_mount(cache=False)
    with cancellation_scope() as (scope, _):
        _move_beside(given, store, scope)
        async with stage(working_directory=folder, data=data) as s:
            while True:
                await asyncio.to_thread((s.data / "large").read_bytes)
                (folder / "script").touch()
                await asyncio.sleep(0.2)


if __name__ == "__main__":
    # A shell starts what runs in its background deaf to Ctrl-C, and so are its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[1] == "serve":
        work.serve(sys.argv[2])
    else:
        work(json.loads(sys.argv[2]))
