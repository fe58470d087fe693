"""Where nothing can be mounted, `fallback="direct"` gives what lies on this machine at the same paths, without a copy."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from places import RemotePlace
from small_stores import make_tree, tree

from prefect_datastores import Datastore, Estimator, LocalDatastore, mount, stage
from prefect_datastores.errors import MountError, MountUnavailable, ObjectNotFound
from prefect_datastores.mounting import lease
from prefect_datastores.settings import mounts_root
from prefect_datastores.stores.local import LocalStore

pytestmark = pytest.mark.usefixtures("prefect_api")

FILES = {"train.csv": b"1,2\n", "deep/test.csv": b"3,4\n"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def raw(tmp_path: Path) -> LocalDatastore:
    make_tree(tmp_path / "raw/mnist", FILES)
    return LocalDatastore(root=str(tmp_path / "raw"))


@pytest.mark.usefixtures("no_mounts")
def test_what_lies_here_is_given_as_it_lies(raw: LocalDatastore) -> None:
    with stage(
        a=raw.path("mnist", "a").as_mount(fallback="direct"),
        b=raw.path("mnist", "b").as_download(),
        one=raw.path("mnist/train.csv", "one").as_mount(fallback="direct"),
        two=raw.path("mnist/train.csv", "two").as_download(),
        all=raw.as_mount(fallback="direct"),
    ) as s:
        assert tree(s.a) == tree(s.b) == tree(s.all / "mnist") == FILES
        assert (s.one.name, s.one.read_bytes()) == (s.two.name, s.two.read_bytes())
        assert s.a.resolve() == Path(raw.root) / "mnist"
        (Path(raw.root) / "mnist/new").write_bytes(b"new")
        assert (s.a / "new").read_bytes() == b"new"
        paths = [s.a, s.one, s.all]
    assert not any(path.is_symlink() or path.exists() for path in paths)
    assert tree(Path(raw.root) / "mnist") == {**FILES, "new": b"new"}


def test_what_can_be_mounted_is_mounted(raw: LocalDatastore) -> None:
    with stage(data=raw.path("mnist").as_mount(fallback="direct")) as s:
        assert tree(s.data) == FILES
        assert mounts_root().resolve() in s.data.resolve().parents
        assert len(lease.mounts(mounts_root())) == 1


@pytest.mark.usefixtures("no_mounts")
def test_what_is_not_there_is_said_or_is_empty(raw: LocalDatastore, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound, match="There is nothing at"):
        with stage(data=raw.path("mnis").as_mount(fallback="direct")):
            pytest.fail("the block ran")
    with stage(data=raw.path("mnis").as_mount(fallback="direct", allow_empty=True)) as s:
        assert tree(s.data) == {}
        (s.data / "x").write_bytes(b"x")
    assert not (tmp_path / "raw/mnis").exists()


@pytest.mark.usefixtures("no_mounts")
def test_what_lies_elsewhere_is_refused_before_anything_moves(
    remote: RemotePlace, raw: LocalDatastore, tmp_path: Path
) -> None:
    far = remote.datastore().path("x").as_mount(fallback="direct")
    says = r"no path of this machine .*fallback='download'.*filesystem\(\)"
    with pytest.raises(MountUnavailable, match=says):
        with stage(data=raw.path("mnist").as_download("data"), far=far):
            pytest.fail("the block ran")
    assert tree(Path.cwd()) == {}
    make_tree(tmp_path / "src", {"train.py": b"pass"})
    est = Estimator(source_directory=str(tmp_path / "src"), entry_script="train.py", inputs=[far])
    for way in (est.plan, est.run, est.submit):
        with pytest.raises(MountUnavailable, match=says):
            way()


@pytest.fixture
def in_generations(raw: LocalDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that was published on a disk that cannot exchange folders, as those of macOS."""
    monkeypatch.setattr(LocalStore, "swaps_folders", lambda _: False)
    source = make_tree(tmp_path / "source", FILES)
    raw.upload(source, "models/best", publish="atomic", show_progress=False)
    assert not (Path(raw.root) / "models/best/train.csv").exists()


@pytest.mark.usefixtures("no_mounts", "in_generations")
def test_a_published_folder_is_its_generation(raw: LocalDatastore) -> None:
    with stage(
        a=raw.path("models/best", "a").as_mount(fallback="direct"),
        b=raw.path("models/best/deep", "b").as_mount(fallback="direct"),
        one=raw.path("models/best/train.csv", "one").as_mount(fallback="direct"),
    ) as s:
        assert tree(s.a) == FILES
        assert tree(s.b) == {"test.csv": FILES["deep/test.csv"]}
        assert (s.one.name, s.one.read_bytes()) == ("train.csv", FILES["train.csv"])
    with pytest.raises(MountUnavailable, match=r"was published at once.*fallback='download'"):
        with stage(data=raw.path("models").as_mount(fallback="direct")):
            pytest.fail("the block ran")


SCRIPT = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path)
data = parser.parse_args().data
rows = {path.relative_to(data).as_posix(): path.read_text() for path in data.rglob("*") if path.is_file()}
pathlib.Path("outputs/seen.json").write_text(json.dumps(rows))
"""


@pytest.mark.usefixtures("no_mounts")
def test_a_script_reads_what_lies_here_and_its_end_takes_nothing_away(tmp_path: Path) -> None:
    make_tree(tmp_path / "raw/mnist", FILES)
    make_tree(tmp_path / "src", {"train.py": SCRIPT.encode()})
    raw = Datastore.register_local(f"raw_{uuid.uuid4().hex[:10]}", tmp_path / "raw")
    results = Datastore.register_local(f"out_{uuid.uuid4().hex[:10]}", tmp_path / "results")
    est = Estimator(
        source_directory=str(tmp_path / "src"),
        entry_script="train.py",
        script_params={"--data": raw.path("mnist").as_mount(fallback="direct")},
        inputs=[results.path("run").as_upload("outputs")],
    )
    assert "mount" in str(est.plan())
    est.run()
    seen = json.loads((tmp_path / "results/run/seen.json").read_text())
    assert seen == {name: content.decode() for name, content in FILES.items()}
    assert tree(tmp_path / "raw/mnist") == FILES


@pytest.mark.usefixtures("no_mounts")
def test_a_link_needs_an_owner_as_well(raw: LocalDatastore) -> None:
    with pytest.raises(MountError, match="Nobody would end this mount"):
        mount.fn(raw.path("mnist").as_mount(fallback="direct"))
