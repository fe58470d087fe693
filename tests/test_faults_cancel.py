"""Runs that are ended in the middle of a transfer, by a signal or in Prefect; `docs/faults.md` numbers them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from oracle import fill, stored
from places import RemotePlace
from servers.faults import Fault, FaultyProxy
from small_stores import PART, make_tree, tree

from prefect_datastores.testing import content_of

pytestmark = pytest.mark.usefixtures("prefect_api")

LARGE = content_of(3 * PART + 77)
NEW = {"large": LARGE, "small": b"new and small", "sub/other": b"other", "empty": b""}
OLD = {"large": b"old", "small": b"old and small", "kept": b"kept"}
SECONDS = 2.0
"""After a request to stop, all that a transfer has is given back within this time."""

STEPS = {"blob": 1, "share": 2, "lake": 2}
"""A stop takes a second, so that of those that differ in little each second one is tried."""

# Runs what it is told, line by line, and tells how each run ended and what it left.
RUNS = """
import json, os, signal, sys, threading, time
import psutil
from dataclasses import replace
from prefect import flow
import prefect_datastores
from prefect_datastores import stage
from prefect_datastores.stores.blob import BlobStore
from prefect_datastores.stores.share import ShareStore

BlobStore.flat = replace(BlobStore.flat, part_size=int(sys.argv[2]))
ShareStore.capabilities = replace(ShareStore.capabilities, part_size=int(sys.argv[2]))
kind, place = json.loads(sys.argv[1])
store = getattr(prefect_datastores, kind)(**place)
data = store.path("data")
raised = []

@flow
def run(way, place):
    # Taken where the fault leaves our code: what Prefect tells its server then is not ours.
    try:
        if way == "download":
            moved = data.as_download(place, overwrite="replace", cache=False)
        else:
            moved = data.as_upload(place, overwrite="replace")
        with stage(data=moved):
            pass
    finally:
        until = time.monotonic() + 5
        while (left := our_threads()) and time.monotonic() < until:
            time.sleep(0.01)
        raised[:] = [time.monotonic(), left]

def our_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pds-")]

def still_open():
    # Files of ours, and connections to the service.
    me, ports = psutil.Process(), json.loads(sys.argv[4])
    files = [file.path for file in me.open_files() if file.path.startswith(sys.argv[3])]
    return files + [str(c.raddr) for c in me.net_connections("tcp") if c.raddr and c.raddr.port in ports]

# What Prefect hands the signal on to when it has told its server; unless set, it ends the process.
signal.signal(signal.SIGTERM, lambda *_: None)
print("ready", flush=True)
for line in sys.stdin:
    way, place = json.loads(line)
    try:
        run(way, place)
        ended = ""
    except BaseException as error:
        ended = type(error).__name__
    print("told", json.dumps({"ended": ended, "at": raised[0], "threads": raised[1], "open": still_open()}), flush=True)
"""


class Runs:
    """A process that runs transfers of a container, seen through a proxy, as flows."""

    def __init__(self, process: "subprocess.Popen[str]", proxy: FaultyProxy) -> None:
        self._process, self.proxy = process, proxy
        self.asked_at: float | None = None

    def stop(self) -> None:
        """Ask the process for its end, as a worker does."""
        self.asked_at = time.monotonic()
        self._process.send_signal(signal.SIGTERM)

    def run(self, way: str, place: Path) -> dict[str, Any]:
        """Run one transfer, and return what came of it, and how long it took to stop if it was asked to."""
        self.asked_at = None
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([way, str(place)]) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("told "):
                told: dict[str, Any] = json.loads(line.partition(" ")[2])
                assert (told["threads"], told["open"]) == ([], [])
                assert (told["ended"] == "TerminationSignal") == (self.asked_at is not None), told
                told["took"] = told["at"] - self.asked_at if self.asked_at else None
                return told
        raise AssertionError("the process ended")


@contextmanager
def runs(remote: RemotePlace, root: Path) -> Iterator[Runs]:
    with remote.through() as seen:
        auth = {"auth": {"account_key": remote.server.key}}
        told = [remote.block.__name__, {**remote.connection(seen.ports), **auth}]
        with subprocess.Popen(
            [
                sys.executable,
                "-c",
                RUNS,
                json.dumps(told),
                str(PART),
                str(root),
                json.dumps(seen.ports),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PREFECT_INTEGRATIONS_DATASTORES_SCRATCH_ROOT": str(root / "scratch"),
            },
        ) as process:
            assert process.stdout
            while process.stdout.readline() != "ready\n":
                assert process.poll() is None
            try:
                yield Runs(process, seen.proxy)
            finally:
                process.kill()


def test_a_download_that_is_terminated_at_any_request_ends_at_once_and_is_gone_on_with(
    remote: RemotePlace, tmp_path: Path
) -> None:
    fill(remote.store, {f"data/{name}": content for name, content in NEW.items()})
    destination = tmp_path / "destination"
    times = []
    with runs(remote, tmp_path) as running:
        assert running.run("download", destination)["ended"] == ""
        requests = len(running.proxy.requests)
        assert requests > 5
        for request in range(0, requests, STEPS[remote.kind]):
            make_tree(destination, OLD)
            # No answer comes to its end any more, and neither does the run unless it is stopped.
            running.proxy.fail_by(
                Fault("", "hang", skip=request, times=1, meanwhile=running.stop),
                Fault("", "hang", skip=request, times=None),
            )
            told = running.run("download", destination)
            times += [told["took"]] if told["took"] is not None else []
            found = tree(destination)
            assert found.keys() == OLD.keys() | NEW.keys()
            assert all(content in (OLD.get(n), NEW.get(n)) for n, content in found.items())
            assert len(list(destination.glob(".pds-*/*.part"))) <= 1
        running.proxy.fail_by()
        assert running.run("download", destination)["ended"] == ""
    assert tree(destination) == {**OLD, **NEW}
    assert not list(destination.glob(".pds-*"))
    # Parts that came are not moved again, so that the last requests are not made.
    assert len(times) > 4 / STEPS[remote.kind]
    assert max(times) < SECONDS


def test_an_upload_that_is_terminated_at_any_request_commits_whole_objects_and_is_gone_on_with(
    remote: RemotePlace, tmp_path: Path
) -> None:
    source, times = make_tree(tmp_path / "source", NEW), []
    old, new = ({f"data/{name}": data for name, data in of.items()} for of in (OLD, NEW))
    with runs(remote, tmp_path) as running:
        assert running.run("upload", source)["ended"] == ""
        requests = len(running.proxy.requests)
        assert requests > 5
        for request in range(0, requests, STEPS[remote.kind]):
            fill(remote.store, old)
            running.proxy.fail_by(
                Fault("", "lose", skip=request, times=1, meanwhile=running.stop),
                Fault("", "lose", skip=request, times=None),
            )
            told = running.run("upload", source)
            times += [told["took"]] if told["took"] is not None else []
            found = stored(remote.store)
            assert found.keys() == old.keys() | new.keys()
            assert all(content in (old.get(n), new.get(n)) for n, content in found.items())
        running.proxy.fail_by()
        assert running.run("upload", source)["ended"] == ""
    assert stored(remote.store) == {**old, **new}
    # Parts that came are not moved again, so that the last requests are not made.
    assert len(times) > 4 / STEPS[remote.kind]
    assert max(times) < SECONDS
