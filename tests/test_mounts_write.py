"""Mounts that scripts and flows write to: stored when the run goes on, and a run fails where one file is not."""

from __future__ import annotations

import contextlib
import json
import subprocess
import uuid
from pathlib import Path

import pytest
from small_stores import make_tree, tree
from test_mounts import (
    FILES,
    command,
    here,
    kill_the_server,
    local_at,
    no_mount_is_left,
    raw,
    said,
    store,
)

from prefect_datastores import DataReference, Datastore, Estimator, LocalDatastore, stage
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import ConfigurationError, MountError
from prefect_datastores.settings import mount_drafts_root

__all__ = ["here", "raw", "store"]
pytestmark = pytest.mark.usefixtures("prefect_api")

TRAIN = """
import json, os, sys
data, out = sys.argv[2], sys.argv[4]
os.makedirs(f"{out}/checkpoints/tmp-1")
with open(f"{out}/checkpoints/tmp-1/model", "w") as file:
    file.write("weights")
os.rename(f"{out}/checkpoints/tmp-1", f"{out}/checkpoints/1")
with open(f"{out}/metrics.json.tmp", "w") as file:
    json.dump(sorted(os.listdir(data)), file)
os.replace(f"{out}/metrics.json.tmp", f"{out}/metrics.json")
with open(f"{out}/log", "a") as file:
    file.write("a line\\n")
"""


def test_a_script_writes_to_what_is_mounted(store: FileDatastore, tmp_path: Path) -> None:
    make_tree(tmp_path / "src", {"train.py": TRAIN.encode()})
    est = Estimator(
        source_directory=str(tmp_path / "src"),
        entry_script="train.py",
        script_params={
            "--data": store.path("mnist").as_mount(),
            "--out": store.path("runs/7").as_mount(read_only=False),
        },
    )
    assert "stored as it is written" in str(est.plan())
    est.run()
    store.download(tmp_path / "got", "runs/7", show_progress=False)
    assert tree(tmp_path / "got/runs/7") == {
        "checkpoints/1/model": b"weights",
        "metrics.json": json.dumps(sorted({name.partition("/")[0] for name in FILES})).encode(),
        "log": b"a line\n",
    }
    no_mount_is_left()
    assert not any(mount_drafts_root().glob("*"))


def test_a_run_whose_files_are_not_all_stored_fails(tmp_path: Path) -> None:
    make_tree(tmp_path / "raw/mnist", FILES)
    raw = Datastore.register_local(f"raw_{uuid.uuid4().hex[:10]}", tmp_path / "raw")
    theirs = Path(raw.root) / "mnist/train.csv"
    with (
        pytest.raises(MountError, match=r"train\.csv: .*written by somebody else"),
        stage(data=raw.path("mnist").as_mount(read_only=False)) as s,
    ):
        file = (s.data / "train.csv").open("wb", buffering=0)
        file.write(b"mine")
        theirs.write_bytes(b"theirs")
        with contextlib.suppress(OSError):  # as scripts do that do not look
            file.close()
    assert theirs.read_bytes() == b"theirs"
    (draft,) = mount_drafts_root().glob("*/*.draft")
    assert draft.read_bytes() == b"mine"
    no_mount_is_left()
    (late,) = said("doctor")["late"]
    assert (late["stored"], late["unstored"][0]["draft"]) == ([], str(draft))
    for path in draft.parent.iterdir():
        path.unlink()
    draft.parent.rmdir()


def test_what_cannot_go_together_is_refused(raw: LocalDatastore) -> None:
    reference = raw.path("mnist")
    for options in ({"fallback": "download"}, {"consistency": "latest"}):
        with pytest.raises(ConfigurationError, match="read_only=False and"):
            reference.as_mount(read_only=False, **options)  # type: ignore[arg-type]
    made = reference.as_mount(read_only=False)
    again = DataReference.model_validate_json(made.model_dump_json())
    assert again.read_only is False


def test_who_may_not_write_is_told_before_anything_is_mounted(tmp_path: Path) -> None:
    missing = LocalDatastore(root=str(tmp_path / "missing"))
    with (
        pytest.raises(Exception, match="does not exist"),
        stage(out=missing.path("out").as_mount(read_only=False)),
    ):
        raise AssertionError("It was mounted.")
    no_mount_is_left()


def test_a_shell_writes_to_a_mount_and_the_doctor_stores_what_a_kill_left(
    tmp_path: Path, here: Path
) -> None:
    local_at(tmp_path / "raw")
    name = f"raw_{uuid.uuid4().hex[:10]}"
    Datastore.register_local(name, tmp_path / "raw")
    mounting = subprocess.Popen(
        command("mount", "--write", f"{name}:out", "data"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert mounting.stdout is not None
    assert "Ctrl-C ends it" in mounting.stdout.readline()
    (here / "data/a").write_bytes(b"a")
    assert tree(tmp_path / "raw") == {"out/a": b"a"}
    # A kill between the close of a file and its commit, as its record tells it.
    file = (here / "data/b").open("wb", buffering=0)
    file.write(b"b")
    drafts = mount_drafts_root().glob("*/*.draft")
    (draft,) = [path for path in drafts if path.read_bytes() == b"b"]
    kill_the_server()
    with contextlib.suppress(OSError):
        file.close()
    mounting.communicate(timeout=30)
    found = draft.stat()
    draft.with_suffix(".json").write_text(
        json.dumps(
            {
                "name": "out/b",
                "replaces": "",
                "size": found.st_size,
                "modified": found.st_mtime_ns,
                "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
                "synced": False,
            }
        )
    )
    (late,) = said("doctor")["late"]
    assert (late["title"], late["stored"], late["unstored"]) == (f"{name}:out", ["out/b"], [])
    assert tree(tmp_path / "raw") == {"out/a": b"a", "out/b": b"b"}
    assert said("doctor") == {"removed": [], "left": [], "late": [], "ended": []}
