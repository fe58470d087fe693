"""Flows that stay at a download, at a mount that is read, or at an upload. A worker loads them from this file.

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
from prefect_datastores.stores.blob import BlobStore

PART = 256 * 1024
SIZE = 6 * PART
EATEN = 300 * 2**20
SCRIPT = f"""
import os, subprocess, sys, time
what, folder = sys.argv[1:3]
open("outputs/large", "wb").write(b"n" * {SIZE})
if what == "mount":
    other = [sys.executable, "-c", "import time; time.sleep(600)"]
    beside = subprocess.Popen(other, start_new_session=True)
    with open(os.path.join(sys.argv[3], "large"), "rb") as file:
        while file.seek(0) == 0 and file.read({PART}):
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


@flow(name="crash-sync")
def work(given: dict[str, Any]) -> None:
    """Stay at one stage of an estimator's run, which is a flow below this one."""
    folder, what, key = _begin(given), given["stage"], given["key"]
    (folder / "src").mkdir(exist_ok=True)
    (folder / "src/stay.py").write_text(SCRIPT)
    store = Datastore.get(given["store"])
    data = store.path(f"data/{key}", "data")
    ways = {
        "download": [data.as_download(str(folder / "data"), cache=False)],
        "mount": [data.as_mount(cache=False)],
        "upload": [],
    }
    Estimator(
        folder / "src",
        entry_script="stay.py",
        script_params={what: [str(folder), *ways[what]]},
        inputs=[store.path(f"out/{key}").as_upload("outputs", overwrite="replace")],
        keep=given["keep"],
    ).run()


@flow(name="crash-async")
async def awork(given: dict[str, Any]) -> None:
    """Stay at one stage of a block of asynchronous code."""
    folder, what, key = _begin(given), given["stage"], given["key"]
    store = await asyncio.to_thread(Datastore.get, given["store"])
    data = store.path(f"data/{key}", "data")
    ways = {
        "download": data.as_download("data", cache=False),
        "mount": data.as_mount(cache=False),
        "upload": store.path(f"out/{key}").as_upload("new", overwrite="replace"),
    }
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new/large").write_bytes(b"n" * SIZE)
    async with stage(working_directory=folder, data=ways[what]) as s:
        while what == "mount":
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
