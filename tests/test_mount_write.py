"""Mounts that are written to: a file is stored whole when it is closed, or somebody hears why not; no kill loses one."""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from azure.storage.blob import ContainerClient
from mounted import (
    blob,
    errno_of,
    eventually,
    fill,
    make,
    mounted,
    proxy,
    root,
    run,
    serving,
    through,
    wait_for_the_end,
    wanted,
)
from servers.azurite import Azurite
from servers.faults import Fault, FaultyProxy
from small_stores import make_tree, tree

from prefect_datastores.errors import MountError
from prefect_datastores.mounting.mount import Mount, mount
from prefect_datastores.mounting.pending import left
from prefect_datastores.mounting.storing import Sender
from prefect_datastores.mounting.talk import MakeStore
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.publish import publish
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.stores.local import LocalStore
from prefect_datastores.testing import content_of, get, put

__all__ = ["blob", "make", "proxy", "root"]

Refusing = Callable[[dict[str, bytes]], Mount]
LARGE = content_of(9 * 2**20 + 12_345)


@pytest.fixture
def drafts(tmp_path: Path) -> Path:
    return tmp_path / "drafts"


@contextlib.contextmanager
def writing(
    make: MakeStore, root: Path, drafts: Path, path: str = "", **more: Any
) -> Iterator[Mount]:
    given = {"drafts_root": drafts, "read_only": False, "allow_empty": True, **more}
    with mounted(make, root, path, **given) as made:
        yield made
    assert [*drafts.iterdir()] == []


def stored(make: MakeStore, prefix: str = "") -> dict[str, bytes]:
    with closing(make()) as store:
        return {
            info.name: get(store, info.name)
            for info in list_objects(store, prefix)
            if not info.is_marker
        }


def folders(make: MakeStore) -> set[str]:
    """The folders that stand at the service while nothing is in them."""
    with closing(make()) as store:
        return {info.name.rstrip("/") for info in list_objects(store, "") if info.is_marker}


# -- contents -----------------------------------------------------------------------------------------


def test_a_file_is_stored_whole_when_it_is_closed(
    make: MakeStore, root: Path, drafts: Path
) -> None:
    with writing(make, root, drafts) as made:
        with (made.path / "a").open("wb") as file:
            file.write(LARGE)
            file.flush()
            assert stored(make) == {}  # nobody sees half of it
        assert stored(make) == {"a": LARGE}
        with closing(make()) as store:
            info = store.head(ObjectName("a"))
            assert (info.digest is not None) == store.capabilities.stores_digest
        with (made.path / "a").open("r+b") as file:
            file.seek(5 * 2**20)
            file.write(b"changed")
            file.flush()
            os.fsync(file.fileno())
            changed = LARGE[: 5 * 2**20] + b"changed" + LARGE[5 * 2**20 + 7 :]
            assert stored(make) == {"a": changed}  # as asked for
            file.truncate(10)
        assert stored(make) == {"a": changed[:10]}
        with (made.path / "a").open("ab") as file:
            file.write(b"end")
        os.truncate(made.path / "a", 12)
        (made.path / "empty").touch()
        assert stored(make) == {"a": changed[:10] + b"en", "empty": b""}
        numbers = made.numbers()
        assert numbers["files_stored"] == 6
        assert numbers["errors"] == 0


def test_a_file_of_the_service_is_changed_in_place(
    make: MakeStore, root: Path, drafts: Path, tmp_path: Path
) -> None:
    fill(make, {"sub/large": LARGE, "sub/small": b"small"})
    with writing(make, root, drafts, "sub", cache=tmp_path / "cache") as made:
        reading = os.open(made.path / "large", os.O_RDONLY)
        assert os.pread(reading, 100, 2**20) == LARGE[2**20 : 2**20 + 100]
        for name in ("large", "small"):
            with (made.path / name).open("r+b") as file:
                file.write(b"new")
        assert os.pread(reading, 5, 0) == b"new" + LARGE[3:5]  # who has it open sees it too
        os.close(reading)
        assert (made.path / "small").read_bytes() == b"newll"
    assert stored(make) == {"sub/large": b"new" + LARGE[3:], "sub/small": b"newll"}


def test_what_is_written_through_a_map_is_stored(blob: MakeStore, root: Path, drafts: Path) -> None:
    fill(blob, {"a": bytes(10_000)})
    with writing(blob, root, drafts) as made:
        fd = os.open(made.path / "a", os.O_RDWR)
        memory = mmap.mmap(fd, 0)
        os.close(fd)
        memory[5000:5003] = b"map"
        memory.close()
        expected = bytes(5000) + b"map" + bytes(4997)
        eventually(lambda: stored(blob) == {"a": expected})


def test_each_close_of_a_duplicate_stores_what_is_there(
    blob: MakeStore, root: Path, drafts: Path
) -> None:
    """As a shell does, before the program behind `>` has written anything."""
    with writing(blob, root, drafts) as made:
        fd = os.open(made.path / "a", os.O_CREAT | os.O_WRONLY)
        os.close(os.dup(fd))
        assert stored(blob) == {"a": b""}
        os.write(fd, b"content")
        assert stored(blob) == {"a": b""}
        os.close(fd)
        assert stored(blob) == {"a": b"content"}


def test_what_was_written_is_read_from_here(blob: MakeStore, root: Path, drafts: Path) -> None:
    with writing(blob, root, drafts) as made:
        (made.path / "a").write_bytes(LARGE)
        assert (made.path / "a").read_bytes() == LARGE
        assert made.numbers()["bytes_fetched"] == 0


# -- names --------------------------------------------------------------------------------------------


def test_names_are_the_service_s_at_once(make: MakeStore, root: Path, drafts: Path) -> None:
    fill(make, {"d/a": b"a", "d/b": b"b", "e/only": b"only"})
    with writing(make, root, drafts) as made:
        path = made.path
        os.mkdir(path / "new")
        os.mkdir(path / "new/empty")
        assert "new/empty" in folders(make)
        os.rename(path / "d/a", path / "new/a")
        os.replace(path / "d/b", path / "new/a")
        assert stored(make) == {"new/a": b"b", "e/only": b"only"}
        assert os.listdir(path / "d") == []
        os.unlink(path / "e/only")
        os.rmdir(path / "new/empty")
        assert (path / "e").is_dir()
        assert {"d", "e"} <= folders(make)  # what stood here stands there
        os.rmdir(path / "e")
        assert stored(make) == {"new/a": b"b"}
        assert "e" not in folders(make)
        assert errno_of(lambda: os.rmdir(path / "new")) == errno.ENOTEMPTY
        assert errno_of(lambda: os.rmdir(path / "nothing")) == errno.ENOENT
    with mounted(make, root) as made:
        assert sorted(os.listdir(made.path)) == ["d", "new"]


def test_a_folder_gets_another_name(make: MakeStore, root: Path, drafts: Path) -> None:
    files = {f"run/{name}": name.encode() for name in ("a", "deep/b", "deep/c")}
    fill(make, files)
    with writing(make, root, drafts) as made:
        reading = os.open(made.path / "run/deep/b", os.O_RDONLY)
        os.mkdir(made.path / "run/empty")
        os.rename(made.path / "run", made.path / "best")
        assert os.read(reading, 10) == b"deep/b"
        os.close(reading)
        (made.path / "best/deep/c").write_bytes(b"after")
        assert sorted(os.listdir(made.path / "best")) == ["a", "deep", "empty"]
    assert stored(make) == {"best/a": b"a", "best/deep/b": b"deep/b", "best/deep/c": b"after"}
    assert "best/empty" in folders(make)


def test_who_has_a_file_open_keeps_it(make: MakeStore, root: Path, drafts: Path) -> None:
    fill(make, {"large": LARGE, "other": b"other", "third": b"third"})
    with writing(make, root, drafts) as made:
        fds = [os.open(made.path / name, os.O_RDWR) for name in ("large", "other")]
        os.unlink(made.path / "large")
        os.rename(made.path / "third", made.path / "other")
        assert stored(make) == {"other": b"third"}
        assert os.pread(fds[0], 10, 8 * 2**20) == LARGE[8 * 2**20 :][:10]
        assert os.fstat(fds[0]).st_nlink == 0
        os.pwrite(fds[1], b"lost", 0)
        assert os.pread(fds[1], 10, 0) == b"lostr"
        for fd in fds:
            os.close(fd)
    assert stored(make) == {"other": b"third"}


def exchange(one: Path, other: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(-100, bytes(one), -100, bytes(other), 2):
        raise OSError(ctypes.get_errno(), "renameat2")


# -- what is refused ----------------------------------------------------------------------------------


def test_what_no_object_can_be_is_refused(make: MakeStore, root: Path, drafts: Path) -> None:
    fill(make, {"a": b"a", "b": b"b"})
    with writing(make, root, drafts) as made:
        path = made.path

        for number, do in {
            errno.EPERM: [
                lambda: os.symlink("a", path / "link"),
                lambda: os.link(path / "a", path / "link"),
                lambda: os.mkfifo(path / "fifo"),
                lambda: os.chown(path / "a", os.getuid() + 1, -1),
                lambda: (path / ".pds-current").touch(),
                lambda: os.mkdir(path / ".pds-data"),
                lambda: os.rename(path / "a", path / ".pds-0.part"),
            ],
            errno.EOPNOTSUPP: [
                lambda: os.setxattr(path / "a", "user.x", b"x"),
                lambda: os.open(path, os.O_TMPFILE | os.O_RDWR),
            ],
            errno.EINVAL: [lambda: exchange(path / "a", path / "b")],
            errno.ENAMETOOLONG: [lambda: (path / ("n" * 256)).touch()],
            errno.EILSEQ: [lambda: os.mkdir(os.fsencode(path) + b"/\xff")],
        }.items():
            for one in do:
                assert errno_of(one) == number
        folder = path / "/".join(["n" * 250] * 4)
        folder.mkdir(parents=True)
        assert errno_of((folder / ("n" * 250)).touch) == errno.ENAMETOOLONG
    assert stored(make) == {"a": b"a", "b": b"b"}


def test_a_published_folder_is_not_changed(
    make: MakeStore, root: Path, drafts: Path, tmp_path: Path
) -> None:
    source = folder_source(make_tree(tmp_path / "source", {"a": b"a", "sub/b": b"b"}))
    with closing(make()) as store:
        publish(store, source, "out", "replace")
    with writing(make, root, drafts) as made:
        for do in (
            lambda: (made.path / "out/new").touch(),
            lambda: (made.path / "out/a").write_bytes(b"x"),
            lambda: os.truncate(made.path / "out/a", 0),
            lambda: os.unlink(made.path / "out/sub/b"),
            lambda: os.mkdir(made.path / "out/sub/new"),
            lambda: os.rename(made.path / "out/a", made.path / "elsewhere"),
        ):
            assert errno_of(do) == errno.EROFS
        assert tree(made.path / "out") == {"a": b"a", "sub/b": b"b"}
        (made.path / "beside").write_bytes(b"beside")
    for path in ("out", "out/sub"):
        with writing(make, root, drafts, path) as made:
            assert errno_of((made.path / "new").touch) == errno.EROFS


def test_one_file_that_is_mounted_alone_is_written_to(
    make: MakeStore, root: Path, drafts: Path
) -> None:
    fill(make, {"sub/a": b"a", "sub/b": b"b"})
    with writing(make, root, drafts, "sub/a") as made:
        made.path.write_bytes(b"new")
        for do in (
            lambda: (made.path.parent / "other").touch(),
            lambda: os.unlink(made.path),
            lambda: os.rename(made.path, made.path.parent / "other"),
        ):
            assert errno_of(do) == errno.EROFS
    assert stored(make) == {"sub/a": b"new", "sub/b": b"b"}


def test_two_names_that_are_one_at_the_service_are_refused(
    make: MakeStore, root: Path, drafts: Path
) -> None:
    fill(make, {"Data": b"old", "other": b"other"})
    with closing(make()) as store:
        is_one = not store.name_rules().case_sensitive
    with writing(make, root, drafts) as made:
        if is_one:
            assert errno_of((made.path / "DATA").touch) == errno.EEXIST
            assert errno_of((made.path / "data").mkdir) == errno.EEXIST
            for name in ("other", "Data"):
                do = partial(os.rename, made.path / name, made.path / "DATA")
                assert errno_of(do) == errno.EEXIST
        else:
            os.rename(made.path / "other", made.path / "DATA")
            assert (made.path / "Data").read_bytes() == b"old"
    assert stored(make) == {"Data": b"old", "other" if is_one else "DATA": b"other"}


# -- programs -----------------------------------------------------------------------------------------


def test_programs_write_to_a_mount_as_to_a_disk(
    blob: MakeStore, root: Path, drafts: Path, tmp_path: Path
) -> None:
    files = {"a": b"a", "sub/b": content_of(100_000), "sub/empty": b"", "sub/deep/c": LARGE}
    source = make_tree(tmp_path / "source", files)
    with writing(blob, root, drafts) as made:
        path = made.path
        run("cp", "-a", source, path / "copied")
        run("rsync", "-a", f"{source}/", path / "synced")
        os.mkdir(path / "untarred")
        run("sh", "-c", f"tar -C '{source}' -cf - . | tar -C '{path}/untarred' -xf -")
        for name in ("copied", "synced", "untarred"):
            assert tree(path / name) == files
            assert run("rsync", "-ain", f"{source}/", path / name) == ""  # times and modes as well
        run("sed", "-i", "s/a/A/", path / "copied/a")
        run("sh", "-c", f"echo more >> '{path}/copied/a'")
        run("git", "init", "-q", path / "clone")
        shutil.copy(source / "sub/b", path / "clone/b")
        given = ("-c", "user.name=n", "-c", "user.email=e@example.test")
        git = ("git", "-c", f"safe.directory={path}/clone", "-C", path / "clone", *given)
        run(*git, "add", ".")
        run(*git, "commit", "-q", "-m", "first")
        run(*git, "mv", "b", "c")
        run(*git, "commit", "-q", "-a", "-m", "second")
        run(*git, "gc", "-q")
        assert run(*git, "log", "--format=%s").split() == ["second", "first"]
        assert run(*git, "fsck") == ""
        with closing(sqlite3.connect(path / "base.db")) as base:
            for _ in range(3):
                with base:
                    base.execute("create table if not exists numbers (value)")
                    base.executemany("insert into numbers values (?)", ((n,) for n in range(1000)))
            assert base.execute("select sum(value) from numbers").fetchone() == (3 * 499_500,)
        array = np.lib.format.open_memmap(path / "array.npy", "w+", np.float64, (100_000,))
        array[:] = np.arange(100_000)
        array.flush()
        del array
        shutil.make_archive(str(path / "archive"), "zip", source)
        expected = tree(path)
    # Whatever is read here is what the service has.
    found = stored(blob)
    assert found == expected
    assert found["copied/a"] == b"Amore\n"
    (tmp_path / "base.db").write_bytes(found["base.db"])
    with closing(sqlite3.connect(tmp_path / "base.db")) as base:
        assert base.execute("pragma integrity_check").fetchone() == ("ok",)


FIO = """
[global]
directory={folder}
verify=crc32c
verify_fatal=1
verify_state_save=0
end_fsync=1
fallocate=none
group_reporting
[sequential]
rw=write
bs=128k
size=16m
[random]
rw=randwrite
bs=4k
size=4m
stonewall
[mixed]
rw=randrw
bssplit=512/20:4k/50:64k/30
size=4m
numjobs=2
stonewall
[mapped]
rw=randwrite
ioengine=mmap
bs=4k
size=4m
stonewall
"""


def test_what_fio_writes_is_what_it_reads(
    blob: MakeStore, root: Path, drafts: Path, tmp_path: Path
) -> None:
    with writing(blob, root, drafts) as made:
        (tmp_path / "jobs").write_text(FIO.format(folder=made.path))
        told = run("fio", "--output-format=json", tmp_path / "jobs", cwd=tmp_path)
        jobs = json.loads(told[told.index("{") :])["jobs"]
        assert [job["error"] for job in jobs] == [0] * len(jobs)
        assert sum(job["write"]["io_bytes"] for job in jobs) > 26 * 2**20
        assert sum(job["read"]["io_bytes"] for job in jobs) > 26 * 2**20
        expected = tree(made.path)
    assert stored(blob) == expected


# Of other parts of the kernel, which no file system hears of; with thousands of folders before they begin; or
# by flushes of the whole system, for which every neighbour waits.
NOT_FILES = "bind-mount,binderfs,procfs,ioprio,eventfd,chdir,dnotify,inotify,fanotify,fcntl,dup,lease,handle,io,iomix"


def test_stressors_find_nothing(root: Path, drafts: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with writing(partial(LocalStore, tmp_path / "store"), root, drafts) as made:
        done = subprocess.run(
            [
                *("stress-ng", "--class", "filesystem", "--seq", "1", "--timeout", "1"),
                *("--exclude", NOT_FILES, "--temp-path", made.path, "--verify", "--no-rand-seed"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        # Some find that there are no such links, and no attributes: "no resource", and no failure.
        assert done.returncode in {0, 3}, said
        assert "successful run completed" in said
        assert " fail: " not in said
        for stressor in ("link", "symlink", "xattr", "fiemap", "verity"):
            assert stressor in said
        assert is_served(made)
        assert os.listdir(made.path) == ["still"]


def is_served(made: Mount) -> bool:
    (made.path / "still").write_bytes(b"here")
    return (made.path / "still").read_bytes() == b"here"


# -- faults -------------------------------------------------------------------------------------------


@pytest.fixture
def seen(azurite: Azurite, container: ContainerClient, proxy: FaultyProxy) -> MakeStore:
    """What makes the store, seen through the proxy."""
    return through(azurite, container, proxy)


@pytest.fixture
def refused(seen: MakeStore, proxy: FaultyProxy, root: Path, drafts: Path) -> Refusing:
    """Mounts, and writes files that the service takes none of, as each `close` says."""

    def write(files: dict[str, bytes]) -> Mount:
        more = {"drafts_root": drafts, "read_only": False, "allow_empty": True}
        made = mount(wanted(seen, **more), root)
        proxy.fail_by(Fault("PUT", "answer", status=403, times=None))
        for name, content in files.items():
            file = (made.path / name).open("wb")
            file.write(content)
            assert errno_of(file.close) == errno.EACCES
        return made

    return write


def test_a_version_of_somebody_else_is_never_overwritten(
    make: MakeStore, root: Path, drafts: Path
) -> None:
    fill(make, {"a": b"seen", "gone": b"gone"})
    made = mount(wanted(make, drafts_root=drafts, read_only=False), root)
    files = [(made.path / name).open("r+b", buffering=0) for name in ("a", "gone")]
    files += [(made.path / "new").open("wb", buffering=0)]
    for file in files:
        file.write(b"mine")
    with closing(make()) as store:
        put(store, "a", b"theirs")
        put(store, "new", b"theirs")
        store.delete(ObjectName("gone"))
    for file in files:
        assert errno_of(file.close) == errno.ESTALE
    assert errno_of(lambda: os.unlink(made.path / "a")) == errno.ESTALE
    assert stored(make) == {"a": b"theirs", "new": b"theirs"}
    with pytest.raises(MountError, match="not all stored") as e:
        made.unmount()
    # Nothing is lost: it says where what was written is.
    kept = sorted(drafts.glob("*/*.draft"))
    assert [path.read_bytes() for path in kept] == [b"mine", b"mine", b"mine"]
    for path in kept:
        assert str(path) in str(e.value)
    assert stored(make) == {"a": b"theirs", "new": b"theirs"}
    # And the next mount does not overwrite it either.
    with mounted(make, root, drafts_root=drafts) as made:
        assert tree(made.path) == {"a": b"theirs", "new": b"theirs"}
    assert sorted(drafts.glob("*/*.draft")) == kept


def test_a_commit_that_fails_is_told_by_close_and_made_good_at_the_end(
    blob: MakeStore, drafts: Path, proxy: FaultyProxy, refused: Refusing
) -> None:
    made = refused({"a": b"content"})
    assert (made.path / "a").read_bytes() == b"content"
    assert stored(blob) == {}
    proxy.fail_by()
    made.unmount()
    assert stored(blob) == {"a": b"content"}
    assert [*drafts.iterdir()] == []


def test_what_cannot_be_stored_fails_the_mount_and_is_stored_by_the_next(
    blob: MakeStore,
    seen: MakeStore,
    root: Path,
    drafts: Path,
    proxy: FaultyProxy,
    refused: Refusing,
) -> None:
    made = refused({"a": b"a", "b": b"b"})
    with pytest.raises(MountError, match=r"a: .*\n.*b: "):
        made.unmount()
    proxy.fail_by()
    assert stored(blob) == {}
    put_beside = content_of(10)
    fill(blob, {"b": put_beside})
    # Another store's drafts are nobody else's business; the same place takes them, but for what is there now.
    with mounted(seen, root, drafts_root=drafts) as made:
        assert tree(made.path) == {"a": b"a", "b": put_beside}
    assert [path.read_bytes() for path in drafts.glob("*/*.draft")] == [b"b"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_a_kill_interrupted_is_stored_by_the_next_mount(
    blob: MakeStore, seen: MakeStore, root: Path, drafts: Path, proxy: FaultyProxy, moment: str
) -> None:
    fill(blob, {"old": b"old"})
    made = mount(wanted(seen, drafts_root=drafts, read_only=False), root)
    file = (made.path / "old").open("wb")
    file.write(LARGE)
    kill = partial(os.kill, serving(made), signal.SIGKILL)
    if moment == "before":
        proxy.fail_by(Fault("PUT .*comp=blocklist", "drop", times=None, meanwhile=kill))
    else:  # it was stored, and nobody could say so
        proxy.fail_by(Fault("PUT .*comp=blocklist", "lose", times=None, meanwhile=kill))
    assert errno_of(file.close) in {errno.ENOTCONN, errno.ECONNABORTED}
    with pytest.raises(MountError, match="ended before its time"):
        made.unmount()
    proxy.fail_by()
    with mounted(seen, root, drafts_root=drafts) as made:
        assert (made.path / "old").stat().st_size == len(LARGE)
    assert stored(blob) == {"old": LARGE}
    assert [*drafts.iterdir()] == []


def test_what_nobody_closed_is_not_stored_and_not_lost(
    blob: MakeStore, root: Path, drafts: Path
) -> None:
    fill(blob, {"half": b"before"})
    made = mount(wanted(blob, drafts_root=drafts, read_only=False), root)
    file = (made.path / "half").open("wb", buffering=0)
    file.write(b"half of it")
    os.kill(serving(made), signal.SIGKILL)
    wait_for_the_end(serving(made))
    with pytest.raises(MountError):
        made.unmount()
    assert errno_of(file.close) in {errno.ENOTCONN, errno.ECONNABORTED}
    with mounted(blob, root, drafts_root=drafts):
        pass
    assert stored(blob) == {"half": b"before"}
    with left(drafts) as found:
        (one,) = found
        assert [path.read_bytes() for path in one.unclosed] == [b"half of it"]
    # After a week nobody will want it any more.
    os.utime(one.unclosed[0], (1, 1))
    with mounted(blob, root, drafts_root=drafts):
        pass
    assert [*drafts.iterdir()] == []


def test_a_draft_that_is_not_what_was_closed_is_not_stored(
    blob: MakeStore, drafts: Path, refused: Refusing
) -> None:
    made = refused(dict.fromkeys(("touched", "torn", "unsynced"), b"content"))
    with pytest.raises(MountError):
        made.unmount()
    records = sorted(drafts.glob("*/*.json"))[:3]
    os.utime(records[0].with_suffix(".draft"), (1, 1))
    records[1].with_suffix(".draft").write_bytes(b"conte")
    values = json.loads(records[2].read_text())
    records[2].write_text(json.dumps({**values, "boot": "another"}))
    with closing(blob()) as store, left(drafts) as found:
        done, undone = found[0].finish(store, Sender().send)
    assert done == []
    assert ["after it was closed" in one.reason for one in undone] == [True, True, False]
    assert "started anew" in undone[2].reason
    assert stored(blob) == {}
    # What reached the disk is as good as before.
    records[2].write_text(json.dumps({**values, "boot": "another", "synced": True}))
    with closing(blob()) as store, left(drafts) as found:
        assert found[0].finish(store, Sender().send)[0] == ["unsynced"]


def test_who_writes_when_the_mount_goes_is_told(blob: MakeStore, root: Path, drafts: Path) -> None:
    fill(blob, {"a": b"before"})
    made = mount(wanted(blob, drafts_root=drafts, read_only=False), root)
    file = (made.path / "a").open("wb", buffering=0)
    file.write(b"not closed")
    with pytest.raises(MountError, match="a: a program had it open to write"):
        made.unmount(0.1)
    with contextlib.suppress(OSError):
        file.close()
    assert stored(blob) == {"a": b"before"}
    assert [path.read_bytes() for path in drafts.glob("*/*.draft")] == [b"not closed"]


def test_the_end_waits_for_what_is_to_be_stored_and_tells_of_it(
    blob: MakeStore, proxy: FaultyProxy, refused: Refusing
) -> None:
    made = refused({"a": b"content"})
    proxy.fail_by(Fault("PUT", "drop", times=None))  # away, and back in two seconds
    threading.Timer(2.0, proxy.fail_by).start()
    told: list[tuple[int, int]] = []
    made.unmount(tell=lambda files, size: told.append((files, size)))
    assert set(told) == {(1, 7)}
    assert stored(blob) == {"a": b"content"}


def test_a_mount_stores_what_was_written_when_its_parent_is_gone(
    blob: MakeStore, drafts: Path, proxy: FaultyProxy, refused: Refusing
) -> None:
    made = refused({"a": b"content"})
    proxy.fail_by()
    os.kill(serving(made), signal.SIGTERM)  # as when the run is gone
    wait_for_the_end(serving(made))
    assert stored(blob) == {"a": b"content"}
    with contextlib.suppress(MountError):
        made.unmount()
    assert [*drafts.iterdir()] == []


def test_a_full_disk_is_told_to_who_writes(blob: MakeStore, root: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=True)
    try:
        with mounted(
            blob, root, drafts_root=small / "drafts", read_only=False, allow_empty=True
        ) as made:
            file = (made.path / "a").open("wb", buffering=0)
            with pytest.raises(OSError) as e:
                for _ in range(8):
                    file.write(bytes(2**20))
            assert e.value.errno == errno.ENOSPC
            file.truncate(3)
            file.close()
            for _ in range(3):  # what is stored makes room for what is not
                (made.path / "c").write_bytes(LARGE[: 3 * 2**20])
            assert os.statvfs(made.path).f_bavail > 0
            (made.path / "b").write_bytes(b"room again")
        assert stored(blob) == {"a": bytes(3), "b": b"room again", "c": LARGE[: 3 * 2**20]}
    finally:
        subprocess.run(["umount", small], check=True)


def test_many_write_at_once(blob: MakeStore, root: Path, drafts: Path) -> None:
    script = 'import sys; [open(f"{sys.argv[1]}/{sys.argv[2]}-{n}", "wb").write(bytes([n]) * 1000 * n) for n in range(50)]'
    with writing(blob, root, drafts) as made:
        running = [
            subprocess.Popen(["python3", "-c", script, str(made.path), str(number)])
            for number in range(4)
        ]
        assert [one.wait() for one in running] == [0] * 4
        expected = {
            f"{number}-{n}": bytes([n]) * 1000 * n for number in range(4) for n in range(50)
        }
        assert tree(made.path) == expected
    assert stored(blob) == expected


def test_drafts_are_for_their_owner_alone_and_hold_no_secret(
    blob: MakeStore, azurite: Azurite, root: Path, drafts: Path
) -> None:
    with writing(blob, root, drafts) as made:
        file = (made.path / "a").open("wb")
        file.write(b"content")
        file.flush()
        for path in drafts.rglob("*"):
            assert path.stat().st_mode & 0o077 == 0
            if path.is_file():
                assert azurite.key.encode() not in path.read_bytes()
        file.close()


def test_a_mount_that_is_read_has_no_drafts(blob: MakeStore, root: Path, drafts: Path) -> None:
    fill(blob, {"a": b"a"})
    with writing(blob, root, drafts) as made:
        assert (made.path / "a").read_bytes() == b"a"
        assert [path.name for path in drafts.glob("*/*")] == ["owner.json"]


def test_the_small_files_of_a_folder_are_fetched_ahead(
    blob: MakeStore, root: Path, drafts: Path
) -> None:
    files = {f"data/{number:03}": content_of(1000 + number) for number in range(60)}
    fill(blob, files)
    with writing(blob, root, drafts, "data") as made:
        for name in sorted(os.listdir(made.path))[:2]:
            (made.path / name).read_bytes()
        eventually(lambda: made.numbers()["requests"] == len(files))
        (made.path / "050").write_bytes(b"changed")
        expected = {name[5:]: data for name, data in files.items()}
        assert tree(made.path) == {**expected, "050": b"changed"}
        assert made.numbers()["bytes_fetched"] == sum(map(len, files.values()))
