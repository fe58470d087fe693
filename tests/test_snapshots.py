"""A source directory as a snapshot: the same for the same content, stored once, and never another one."""

import hashlib
import os
import pickle
import shutil
import stat
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from places import Place, RemotePlace

from prefect_datastores.deployments.archives import Member, Snapshot, pack, unpack
from prefect_datastores.deployments.carrying import SNAPSHOTS, pull, push
from prefect_datastores.deployments.ignoring import ignored_in
from prefect_datastores.deployments.sources import take_snapshot
from prefect_datastores.errors import (
    ConfigurationError,
    IntegrityError,
    NameCollision,
    ObjectNotFound,
    SnapshotTooLarge,
    SourceChanged,
    UnsafeName,
)
from prefect_datastores.settings import SnapshotLimits, snapshot_limits
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.testing import names_below, put

ROOMY = SnapshotLimits(10_000, 2**30)


def make(folder: Path, **files: str) -> Path:
    """A folder with files in it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """A source directory."""
    return make(tmp_path / "src", **{"train.py": "print(1)", "pkg/__init__.py": "", "run.sh": "#!"})


@pytest.fixture
def take(tmp_path: Path) -> Callable[..., tuple[Snapshot, Path]]:
    """Takes snapshots, each into an archive of its own."""
    archives: list[Path] = []

    def taken(directory: Path, **options: Any) -> tuple[Snapshot, Path]:
        archives.append(tmp_path / f"{len(archives)}.zip")
        limits = options.pop("limits", ROOMY)
        return take_snapshot(directory, archives[-1], limits, **options), archives[-1]

    return taken


def names(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        return opened.namelist()


# -- which files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ignore_files", "kept"),
    [
        ({}, ["a.log", "b.txt", "c.csv", "sub/a.log", "sub/c.csv"]),
        ({".dockerignore": "*.log"}, ["b.txt", "c.csv", "sub/a.log", "sub/c.csv"]),
        ({".gitignore": "*.log", ".dockerignore": "*.csv"}, ["b.txt", "c.csv", "sub/c.csv"]),
        (
            {".amlignore": "*.txt", ".gitignore": "*.log", ".dockerignore": "*.csv"},
            ["a.log", "c.csv", "sub/a.log", "sub/c.csv"],
        ),
        # One that is empty counts all the same.
        (
            {".amlignore": "", ".gitignore": "*"},
            ["a.log", "b.txt", "c.csv", "sub/a.log", "sub/c.csv"],
        ),
    ],
    ids=["none", "docker", "git before docker", "aml before git", "empty aml"],
)
def test_one_ignore_file_counts_and_amls_replaces_the_others(
    ignore_files: dict[str, str], kept: list[str], tmp_path: Path, take: Any
) -> None:
    folder = make(
        tmp_path / "s", **dict.fromkeys(["a.log", "b.txt", "c.csv", "sub/a.log", "sub/c.csv"], "x")
    )
    make(folder, **ignore_files)
    _, archive = take(folder)
    assert [name for name in names(archive) if name not in ignore_files] == kept


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ("# a comment\n\n/a\n", ["b/a", "b/c.x", "d.x"]),
        ("a\n", ["b/c.x", "d.x"]),
        ("b/\n", ["a", "d.x"]),
        ("*.x\n!d.x\n", ["a", "b/a", "d.x"]),
        # As in Git: what lies in a folder that is left out is not taken in again.
        ("b/\n!b/a\n", ["a", "d.x"]),
        ("b/*\n!b/a\n", ["a", "b/a", "d.x"]),
        ("**/a\n", ["b/c.x", "d.x"]),
    ],
)
def test_gits_syntax(lines: str, kept: list[str], tmp_path: Path, take: Any) -> None:
    folder = make(tmp_path / "s", **dict.fromkeys(["a", "b/a", "b/c.x", "d.x"], "x"))
    make(folder, **{".amlignore": lines})
    assert [name for name in names(take(folder)[1]) if name != ".amlignore"] == kept


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ("a\n", ["b/a", "b/c.x", "d.x"]),
        ("./a/\n", ["b/a", "b/c.x", "d.x"]),
        ("**/a\n", ["b/c.x", "d.x"]),
        ("*.x\n", ["a", "b/a", "b/c.x"]),
        ("b\n!b/a\n", ["a", "b/a", "d.x"]),
        ("*\n!d.x\n", ["d.x"]),
    ],
)
def test_dockers_syntax(lines: str, kept: list[str], tmp_path: Path, take: Any) -> None:
    folder = make(tmp_path / "s", **dict.fromkeys(["a", "b/a", "b/c.x", "d.x"], "x"))
    make(folder, **{".dockerignore": lines})
    assert [name for name in names(take(folder)[1]) if name != ".dockerignore"] == kept


def test_a_line_that_is_no_pattern_is_named(src: Path) -> None:
    make(src, **{".amlignore": "fine\n!\n"})
    with pytest.raises(ConfigurationError, match=r"amlignore has a line that is no pattern"):
        ignored_in(src)


def test_what_is_never_source_needs_no_ignore_file(src: Path, take: Any) -> None:
    before, _ = take(src, at_the_top=["outputs"])
    never = [".git/config", "pkg/__pycache__/x.pyc", "x.pyc", ".venv/bin/python", "outputs/model"]
    make(src, **dict.fromkeys(never, "x"))
    assert take(src, at_the_top=["outputs"])[0] == before
    make(src, **{"pkg/outputs": "a module's own"})
    assert "pkg/outputs" in names(take(src, at_the_top=["outputs"])[1])


def test_the_scratch_space_in_a_source_is_none_of_it(src: Path, take: Any) -> None:
    before, _ = take(src)
    make(src, **{"home/scratch/runs/x": "x"})
    (src / "shown").symlink_to(src / "home/scratch/runs")
    assert take(src, leave_out=src / "home/scratch")[0] == before
    assert take(src)[0] != before


def test_a_folder_that_is_left_out_is_not_looked_into(src: Path, take: Any) -> None:
    make(src, **{".gitignore": "closed/"})
    (src / "closed").mkdir()
    os.mkfifo(src / "closed/pipe")  # which could not be part of a snapshot
    assert "closed" not in " ".join(names(take(src)[1]))


def test_a_script_that_is_left_out_is_refused(src: Path, take: Any) -> None:
    make(src, **{".amlignore": "*.py"})
    with pytest.raises(
        ConfigurationError, match=r"train\.py would not be part.*\.amlignore leaves"
    ):
        take(src, needs="train.py")


def test_nothing_at_all_is_refused(tmp_path: Path, take: Any) -> None:
    make(tmp_path / "s", **{".dockerignore": "*"})
    for folder, why in (("s", r"no files that \.dockerignore leaves in"), ("no", "does not exist")):
        with pytest.raises(ConfigurationError, match=why):
            take(tmp_path / folder)


# -- limits ---------------------------------------------------------------------------------------------


def test_the_limits_are_azure_mls_and_settings_raise_them(monkeypatch: Any) -> None:
    assert snapshot_limits() == SnapshotLimits(2_000, 300 * 2**20)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_SNAPSHOT_FILES", "3")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_SNAPSHOT_MEGABYTES", "0.5")
    assert snapshot_limits() == SnapshotLimits(3, 2**19)


def test_a_source_that_is_too_large_names_what_makes_it_so(src: Path, take: Any) -> None:
    exact = SnapshotLimits(3, sum(file.stat().st_size for file in src.rglob("*.*")))
    take(src, limits=exact)
    for limits in (SnapshotLimits(2, exact.bytes), SnapshotLimits(3, exact.bytes - 1)):
        with pytest.raises(SnapshotTooLarge, match="3 files of 10 B in all"):
            take(src, limits=limits)
    make(src, **{f"data/{number}.bin": "x" * number for number in range(2000, 2010)})
    with pytest.raises(SnapshotTooLarge) as refused:
        take(src, limits=exact)
    assert refused.value.largest[:2] == (("data/2009.bin", 2009), ("data/2008.bin", 2008))
    said = str(refused.value)
    assert "data/2009.bin (2.0 KiB)" in said
    assert "Most files are in data (10)." in said
    assert ".amlignore" in said
    assert "PREFECT_INTEGRATIONS_DATASTORES_SNAPSHOT_MEGABYTES" in said
    assert pickle.loads(pickle.dumps(refused.value)).largest == refused.value.largest


# -- the digest -----------------------------------------------------------------------------------------


def test_the_digest_is_of_names_modes_and_contents_alone(
    src: Path, take: Any, tmp_path: Path
) -> None:
    first, archive = take(src)
    other = tmp_path / "elsewhere"
    # Made in another order, at another time, by another umask.
    for name in ("run.sh", "pkg/__init__.py", "train.py"):
        make(other, **{name: (src / name).read_text()})
        (other / name).chmod(0o600)
        os.utime(other / name, (0, 0))
    (other / "empty folder").mkdir()
    again, same = take(other)
    assert again == first
    assert same.read_bytes() == archive.read_bytes()

    seen = {first.digest}
    for change in (
        lambda: (src / "run.sh").chmod(0o755),
        lambda: (src / "train.py").write_text("print(2)"),
        lambda: (src / "train.py").rename(src / "other.py"),
        lambda: make(src, new=""),
    ):
        change()
        digest = take(src)[0].digest
        assert digest not in seen
        seen.add(digest)


def test_the_digest_of_a_release_stays(tmp_path: Path, take: Any) -> None:
    """Who deployed by an older version finds the same source under the same name."""
    folder = make(tmp_path / "s", **{"a.py": "x = 1\n", "ä/b": ""})
    (folder / "a.py").chmod(0o755)
    text = hashlib.sha256(b"x = 1\n").hexdigest()
    nothing = hashlib.sha256().hexdigest()
    said = f"prefect-datastores snapshot 1\n755 6 {text} a.py\x00644 0 {nothing} ä/b\x00"
    assert take(folder)[0] == Snapshot(hashlib.sha256(said.encode()).hexdigest(), 2, 6)


def test_a_file_that_changes_while_it_is_read_is_not_taken(
    src: Path, take: Any, monkeypatch: Any
) -> None:
    (src / "train.py").write_text("x" * 3 * 2**20)
    real = zipfile.ZipFile.open

    def changing(self: Any, name: Any, mode: str = "r", **more: Any) -> Any:
        if mode == "w" and name.filename == "train.py":
            with (src / "train.py").open("a") as file:
                file.write("y")
        return real(self, name, mode, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(zipfile.ZipFile, "open", changing)
    with pytest.raises(SourceChanged, match=r"train\.py changed while it was read"):
        take(src)


# -- links and what is no file --------------------------------------------------------------------------


def test_links_in_the_source_are_what_they_lead_to(src: Path, take: Any, tmp_path: Path) -> None:
    (src / "linked.py").symlink_to("train.py")
    (src / "other").symlink_to(src / "pkg")
    (src / "pkg/up").symlink_to(src)
    (src / "nowhere").symlink_to("not there")
    (src / "itself").symlink_to("itself")
    make(src, **{"one/x": "x", "two/y": "y"})
    (src / "one/two").symlink_to(src / "two")
    (src / "two/one").symlink_to(src / "one")
    snapshot, archive = take(src)
    assert names(archive) == [
        *("linked.py", "one/two/y", "one/x", "other/__init__.py", "pkg/__init__.py", "run.sh"),
        *("train.py", "two/one/x", "two/y"),
    ]
    unpack(archive, snapshot.digest, tmp_path / "out")
    assert (tmp_path / "out/linked.py").read_text() == "print(1)"
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_link_out_of_the_source_is_refused_and_can_be_ignored(
    is_folder: bool, src: Path, take: Any, tmp_path: Path
) -> None:
    before, _ = take(src)
    outside = make(tmp_path / "private", secret="s")
    (src / "leads").symlink_to(outside if is_folder else outside / "secret")
    with pytest.raises(ConfigurationError, match=r"link .*leads leads out of the source directory"):
        take(src)
    make(src, **{".amlignore": ".amlignore\nleads\n"})
    assert take(src)[0] == before


def test_a_source_may_itself_be_reached_by_a_link(src: Path, take: Any, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(src)
    assert take(tmp_path / "here")[0] == take(src)[0]


def test_a_pipe_is_no_source(src: Path, take: Any) -> None:
    os.mkfifo(src / "pipe")
    with pytest.raises(ConfigurationError, match=r"pipe is no file"):
        take(src)


def test_a_name_that_no_store_may_see_is_refused(src: Path, take: Any) -> None:
    make(src, **{"a\\b": "x"})
    with pytest.raises(UnsafeName, match="backslash"):
        take(src)


# -- unpacked -------------------------------------------------------------------------------------------


def test_what_comes_out_is_what_went_in(src: Path, take: Any, tmp_path: Path) -> None:
    (src / "run.sh").chmod(0o700)
    (src / "large").write_bytes(os.urandom(3 * 2**20 + 1))
    snapshot, archive = take(src)
    out = tmp_path / "deep/out"
    assert unpack(archive, snapshot.digest, out) == snapshot
    mask = os.umask(0)
    os.umask(mask)
    for path in (path for path in src.rglob("*") if path.is_file()):
        came = out / path.relative_to(src)
        assert came.read_bytes() == path.read_bytes()
        mode = stat.S_IMODE(came.stat().st_mode)
        assert mode == (0o777 if path.name == "run.sh" else 0o666) & ~mask
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def archive_of(path: Path, *entries: tuple[str, bytes, int], **options: Any) -> Path:
    """An archive as somebody else makes it."""
    with zipfile.ZipFile(path, "w", **options) as opened:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, mode << 16
            info.compress_type = opened.compression
            opened.writestr(info, content)
    return path


REGULAR = stat.S_IFREG | 0o644


@pytest.mark.parametrize(
    ("entries", "options", "error"),
    [
        ([("../out.py", b"x", REGULAR)], {}, UnsafeName),
        ([("/etc/out.py", b"x", REGULAR)], {}, UnsafeName),
        ([("a/../../out.py", b"x", REGULAR)], {}, UnsafeName),
        ([("link", b"/etc/passwd", stat.S_IFLNK | 0o777)], {}, IntegrityError),
        ([("folder/", b"", stat.S_IFDIR | 0o755)], {}, IntegrityError),
        ([("a", b"x" * 10_000, REGULAR)], {"compression": zipfile.ZIP_DEFLATED}, IntegrityError),
        ([("b", b"x", REGULAR), ("a", b"x", REGULAR)], {}, IntegrityError),
        ([("a", b"x", REGULAR), ("a/b", b"x", REGULAR)], {}, NameCollision),
        ([("other.py", b"x", REGULAR)], {}, IntegrityError),
    ],
    ids=["up", "absolute", "up inside", "link", "folder", "compressed", "order", "both", "other"],
)
def test_a_hostile_archive_writes_nothing(
    entries: Any, options: Any, error: type[Exception], tmp_path: Path
) -> None:
    archive = archive_of(tmp_path / "a.zip", *entries, **options)
    with pytest.raises(error):
        unpack(archive, "0" * 64, tmp_path / "in/out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "in"]


def test_a_damaged_archive_is_never_taken_for_a_snapshot(
    src: Path, take: Any, tmp_path: Path
) -> None:
    snapshot, archive = take(src)
    whole = archive.read_bytes()
    for number in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[number] ^= 0x55
        archive.write_bytes(damaged)
        out = tmp_path / f"out{number}"
        try:
            unpack(archive, snapshot.digest, out)
        except (IntegrityError, UnsafeName):
            assert not out.exists()
        else:  # a byte of the archive that says nothing of what is in it
            assert {
                path.relative_to(out): path.read_bytes()
                for path in out.rglob("*")
                if path.is_file()
            } == {
                path.relative_to(src): path.read_bytes()
                for path in src.rglob("*")
                if path.is_file()
            }
            shutil.rmtree(out)
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        archive.write_bytes(whole[:length])
        with pytest.raises(IntegrityError):
            unpack(archive, snapshot.digest, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_members_are_packed_in_the_order_of_names(tmp_path: Path) -> None:
    make(tmp_path, a="1", b="2")
    one = pack([Member("x", tmp_path / "a"), Member("b", tmp_path / "b")], tmp_path / "1.zip")
    two = pack([Member("b", tmp_path / "b"), Member("x", tmp_path / "a")], tmp_path / "2.zip")
    assert one == two
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


# -- in a datastore ---------------------------------------------------------------------------------------


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_SCRATCH_ROOT", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def stored(place: Place) -> dict[str, str]:
    return {info.name: info.etag for info in list_objects(place.store, "")}


def test_a_snapshot_is_stored_once_and_comes_back(
    kept: Place, src: Path, tmp_path: Path, scratch: Path
) -> None:
    (src / "run.sh").chmod(0o755)
    datastore = kept.datastore()
    snapshot = push(datastore, src)
    once = stored(kept)
    assert list(once) == [f"{SNAPSHOTS}/{snapshot.digest}.zip"]
    assert push(datastore, src) == snapshot
    assert stored(kept) == once

    pull(datastore, snapshot.digest, tmp_path / "out")
    assert (tmp_path / "out/train.py").read_text() == "print(1)"
    assert os.access(tmp_path / "out/run.sh", os.X_OK)
    assert not os.access(tmp_path / "out/train.py", os.X_OK)

    (src / "train.py").write_text("print(2)")
    push(datastore, src)
    assert len(stored(kept)) == 2
    assert once.items() <= stored(kept).items()
    assert not any(path.is_file() for path in scratch.rglob("*"))


def test_what_is_damaged_in_the_datastore_is_refused_and_mended_by_the_next_push(
    kept: Place, src: Path, tmp_path: Path, scratch: Path
) -> None:
    datastore = kept.datastore()
    snapshot = push(datastore, src)
    name = f"{SNAPSHOTS}/{snapshot.digest}.zip"
    whole = bytes(datastore.read_path(name))
    for damaged in (whole.replace(b"print(1)", b"print(7)"), whole[:-3], b""):
        assert damaged != whole
        put(kept.store, name, damaged)
        with pytest.raises(IntegrityError):
            pull(datastore, snapshot.digest, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        push(datastore, src)
        assert datastore.read_path(name) == whole
    pull(datastore, snapshot.digest, tmp_path / "out")


def test_another_snapshot_under_the_name_is_refused(
    tmp_path: Path, src: Path, blob_place: RemotePlace, scratch: Path
) -> None:
    datastore = blob_place.datastore()
    mine = push(datastore, src)
    theirs = push(datastore, make(tmp_path / "theirs", **{"train.py": "evil"}))
    put(
        blob_place.store,
        f"{SNAPSHOTS}/{mine.digest}.zip",
        bytes(datastore.read_path(f"{SNAPSHOTS}/{theirs.digest}.zip")),
    )
    with pytest.raises(IntegrityError, match="is not the snapshot"):
        pull(datastore, mine.digest, tmp_path / "out")


def test_many_push_one_snapshot_at_once(
    kept: Place, src: Path, tmp_path: Path, scratch: Path
) -> None:
    (src / "large").write_bytes(os.urandom(5 * 2**20))
    begin, made, faults = threading.Barrier(6), [], []

    def work() -> None:
        datastore = kept.datastore()
        begin.wait()
        try:
            made.append(push(datastore, src))
        except Exception as error:  # noqa: BLE001 - looked at below
            faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(set(made)) == 1
    assert list(stored(kept)) == [f"{SNAPSHOTS}/{made[0].digest}.zip"]
    pull(kept.datastore(), made[0].digest, tmp_path / "out")
    assert (tmp_path / "out/large").read_bytes() == (src / "large").read_bytes()


def test_a_snapshot_that_is_gone_says_so(
    kept: Place, src: Path, tmp_path: Path, scratch: Path
) -> None:
    datastore = kept.datastore()
    with pytest.raises(
        ObjectNotFound, match=r"snapshot 0{12} of the source is not in .*Deploy again"
    ):
        pull(datastore, "0" * 64, tmp_path / "out")
    for wrong in ("", "../../x", "0" * 63, "A" * 64):
        with pytest.raises(ConfigurationError, match="is no snapshot"):
            pull(datastore, wrong, tmp_path / "out")


def test_what_is_too_large_is_not_stored(
    src: Path, scratch: Path, blob_place: RemotePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_SNAPSHOT_FILES", "2")
    with pytest.raises(SnapshotTooLarge):
        push(blob_place.datastore(), src)
    assert names_below(blob_place.store) == []
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_SNAPSHOT_FILES", "3")
    push(blob_place.datastore(), src)
