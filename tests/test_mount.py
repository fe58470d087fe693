"""Mounted data as programs see it: the same as downloaded, of one version, gone after any end."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from azure.storage.blob import ContainerClient
from mounted import (
    blob,
    blobs,
    cached,
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
from servers.faults import Fault, FaultyProxy, faulty
from small_stores import make_tree, tree

from prefect_datastores.errors import (
    AuthenticationFailed,
    MountError,
    ObjectNotFound,
)
from prefect_datastores.mounting import device, lease
from prefect_datastores.mounting.blocks import BLOCK
from prefect_datastores.mounting.mount import mount
from prefect_datastores.mounting.talk import MakeStore, Wanted
from prefect_datastores.staging.publish import publish
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.local import LocalStore
from prefect_datastores.testing import content_of, put

__all__ = ["blob", "make", "proxy", "root"]

LARGE = content_of(3 * 2**20 + 12_345)
FILES = {
    "a.txt": b"a",
    "empty": b"",
    "large.bin": LARGE,
    "sub/b.txt": b"b",
    "sub/deep/er/c.bin": content_of(100_000),
    "sub.txt": b"beside",
    "names/blank and ümlaut.txt": b"name",
}


def readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return False
    return True


# -- what is there ----------------------------------------------------------------------------------


def test_a_mounted_folder_is_what_a_download_would_be(
    make: MakeStore, root: Path, tmp_path: Path
) -> None:
    fill(
        make, {f"data/{name}": content for name, content in FILES.items()} | {"database": b"beside"}
    )
    for cache in (tmp_path / "cache", None, tmp_path / "cache"):
        with mounted(make, root, "data", cache=cache) as made:
            assert tree(made.path) == FILES
            assert sorted(os.listdir(made.path)) == sorted({name.split("/")[0] for name in FILES})
            sizes = {name: (made.path / name).stat().st_size for name in FILES}
            assert sizes == {name: len(content) for name, content in FILES.items()}
            numbers = made.numbers()
        assert not made.path.exists()
    # The last time all of it was here from the first.
    assert (numbers["bytes_fetched"], numbers["errors"]) == (0, 0)


def test_a_mounted_file_is_that_file(make: MakeStore, root: Path) -> None:
    fill(make, {"data/large.bin": LARGE, "data/large.bin.old": b"old"})
    with mounted(make, root, "data/large.bin") as made:
        assert made.path.name == "large.bin"
        assert made.path.read_bytes() == LARGE
        assert os.listdir(made.path.parent) == ["large.bin"]


def test_all_of_a_datastore_can_be_mounted(make: MakeStore, root: Path) -> None:
    fill(make, FILES)
    with mounted(make, root) as made:
        assert tree(made.path) == FILES


def test_what_is_not_there_is_no_mount(make: MakeStore, root: Path) -> None:
    fill(make, {"database": b"x"})
    with pytest.raises(ObjectNotFound, match="There is nothing at"):
        mount(wanted(make, "data"), root)
    with mounted(make, root, "data", allow_empty=True) as made:
        assert os.listdir(made.path) == []


def test_a_published_folder_shows_its_generation(
    make: MakeStore, root: Path, tmp_path: Path
) -> None:
    with closing(make()) as store:
        for turn in ("one", "two"):
            source = folder_source(
                make_tree(tmp_path / turn, {"model": turn.encode(), "sub/x": b"x"})
            )
            publish(store, source, "top/models", "replace")
    shown = {"model": b"two", "sub/x": b"x"}
    for path, below in (("", "top/models"), ("top/models", ""), ("top/models/sub", None)):
        with mounted(make, root, path) as made:
            if below is None:
                assert tree(made.path) == {"x": b"x"}
            else:
                assert tree(made.path / below) == shown


def test_names_that_no_file_can_have_are_not_seen(
    root: Path, azurite: Azurite, container: ContainerClient
) -> None:
    container.upload_blob("good", b"good")
    container.upload_blob("n" * 256, b"too long")
    container.upload_blob("folder//x", b"a folder without a name")
    container.upload_blob("both", b"an object")
    container.upload_blob("both/below", b"and a folder")
    with mounted(blobs(azurite, container), root) as made:
        assert tree(made.path) == {"good": b"good", "both/below": b"and a folder"}
        assert os.listdir(made.path / "folder") == []
        assert "is not shown" in made.log.read_text()


# -- what is read -------------------------------------------------------------------------------------


def test_any_range_is_what_the_object_has_there(
    make: MakeStore, root: Path, tmp_path: Path
) -> None:
    fill(make, {"large": LARGE})
    chosen = random.Random(7)
    with (
        mounted(make, root, cache=tmp_path / "cache") as made,
        (made.path / "large").open("rb") as file,
    ):
        for _ in range(300):
            begin, size = (
                chosen.randrange(len(LARGE) + 10),
                chosen.choice([1, 17, 4096, BLOCK, 2**21]),
            )
            assert os.pread(file.fileno(), size, begin) == LARGE[begin : begin + size]


def test_a_random_read_fetches_little(root: Path, tmp_path: Path) -> None:
    size = 100 * 2**30
    (tmp_path / "store").mkdir()
    with (tmp_path / "store/huge").open("wb") as file:
        file.truncate(size)
    with mounted(partial(LocalStore, tmp_path / "store"), root, cache=tmp_path / "cache") as made:
        with (made.path / "huge").open("rb") as file:
            for _ in range(100):
                assert os.pread(file.fileno(), 4096, random.randrange(2**20, size - 4096)) == bytes(
                    4096
                )
        assert made.numbers()["bytes_fetched"] < 100e6


def test_many_readers_of_one_file_fetch_it_once(
    blob: MakeStore, root: Path, tmp_path: Path
) -> None:
    fill(blob, {"large": LARGE, "small": b"small"})
    with mounted(blob, root, cache=tmp_path / "cache") as made:
        given = ["sha256sum", str(made.path / "large"), str(made.path / "small")]
        readers = [subprocess.Popen(given, stdout=subprocess.PIPE, text=True) for _ in range(8)]
        assert len({reader.communicate()[0] for reader in readers}) == 1
        assert made.numbers()["bytes_fetched"] == len(LARGE) + len(b"small")


def test_a_file_that_is_here_is_read_by_the_kernel_itself(
    blob: MakeStore, root: Path, tmp_path: Path
) -> None:
    fill(blob, {"large": LARGE})
    with mounted(blob, root, cache=tmp_path / "cache") as made:
        assert (made.path / "large").read_bytes() == LARGE
        served = made.numbers()["bytes_served"]
        with (made.path / "large").open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert (made.path / "large").read_bytes() == LARGE
        assert made.numbers()["bytes_served"] == served


def test_the_small_files_of_a_folder_are_fetched_ahead(blob: MakeStore, root: Path) -> None:
    files = {f"folder/{number:03}": f"file {number}".encode() for number in range(200)}
    fill(blob, files)
    with mounted(blob, root, "folder") as made:
        for number in range(3):
            (made.path / f"{number:03}").read_bytes()
        eventually(lambda: made.numbers()["requests"] >= 100)
        assert made.numbers()["opened"] == 3
        assert tree(made.path) == {
            name.partition("/")[2]: content for name, content in files.items()
        }
        assert made.numbers()["requests"] == 200  # each once


def test_nothing_can_be_changed(make: MakeStore, root: Path) -> None:
    fill(make, {"a": b"a", "sub/b": b"b"})
    with mounted(make, root) as made:
        path = made.path
        refused: list[Callable[[], object]] = [
            lambda: (path / "new").write_bytes(b"x"),
            lambda: (path / "a").write_bytes(b"x"),
            lambda: (path / "a").open("ab"),
            (path / "a").unlink,
            (path / "folder").mkdir,
            (path / "sub").rmdir,
            lambda: (path / "a").rename(path / "b"),
            lambda: (path / "link").symlink_to("a"),
            lambda: os.link(path / "a", path / "hard"),
            lambda: (path / "a").chmod(0o777),
            lambda: os.utime(path / "a", (1, 1)),
            lambda: os.truncate(path / "a", 0),
            lambda: os.setxattr(path / "a", "user.x", b"x"),
        ]
        assert [errno_of(do) for do in refused] == [errno.EROFS] * len(refused)
        assert tree(path) == {"a": b"a", "sub/b": b"b"}


def test_what_is_not_there_is_told_as_by_a_disk(blob: MakeStore, root: Path) -> None:
    fill(blob, {"a": b"a", "sub/b": b"b"})
    with mounted(blob, root) as made:
        assert errno_of((made.path / "nothing").read_bytes) == errno.ENOENT
        assert errno_of((made.path / "a/below").read_bytes) == errno.ENOTDIR
        assert errno_of((made.path / "sub").read_bytes) == errno.EISDIR
        assert errno_of(lambda: os.listdir(made.path / "a")) == errno.ENOTDIR
        assert errno_of(lambda: os.getxattr(made.path / "a", "user.x")) in {
            errno.ENODATA,
            errno.EOPNOTSUPP,
        }


# -- one version --------------------------------------------------------------------------------------


def change(make: MakeStore, name: str, content: bytes) -> None:
    with closing(make()) as store:
        put(store, name, content)


def test_an_open_file_never_shows_two_versions(make: MakeStore, root: Path) -> None:
    fill(make, {"data": LARGE})
    with mounted(make, root) as made, (made.path / "data").open("rb", buffering=0) as file:
        assert file.read(10) == LARGE[:10]
        change(make, "data", bytes(len(LARGE)))
        seen = bytearray(LARGE[:10])
        try:
            while piece := file.read(2**20):
                seen += piece
        except OSError as error:
            number = error.errno
        assert number == errno.ESTALE
        assert LARGE.startswith(seen)
        assert len(seen) < len(LARGE)
        # A pinned mount shows no other one, and does not pretend that it has the old.
        assert errno_of((made.path / "data").read_bytes) == errno.ESTALE


def test_the_latest_version_is_shown_by_the_next_open(make: MakeStore, root: Path) -> None:
    fill(make, {"data": LARGE, "sub/x": b"old"})
    with mounted(make, root, consistency="latest") as made:
        assert (made.path / "data").read_bytes() == LARGE
        assert (made.path / "sub/x").read_bytes() == b"old"
        with (made.path / "data").open("rb", buffering=0) as before:
            change(make, "data", b"new")
            change(make, "sub/x", b"newer")
            change(make, "sub/y", b"more")
            time.sleep(1.2)
            assert (made.path / "data").read_bytes() == b"new"
            assert (made.path / "sub/x").read_bytes() == b"newer"
            assert sorted(os.listdir(made.path / "sub")) == ["x", "y"]
            assert before.read(100) == LARGE[:100]
            with closing(make()) as store:
                store.delete(
                    next(info for info in store.list_page("").objects if info.name == "data").name
                )  # type: ignore[arg-type]
            time.sleep(1.2)
            assert not (made.path / "data").exists()


# -- faults -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["answer", "reset", "truncate", "drop"])
def test_a_service_that_fails_for_a_while_is_asked_again(
    azurite: Azurite, container: ContainerClient, proxy: FaultyProxy, root: Path, action: Any
) -> None:
    make = through(azurite, container, proxy)
    fill(make, FILES)
    proxy.fail_by(Fault("GET", action, times=4))
    with mounted(make, root) as made:
        assert tree(made.path) == FILES
    assert proxy.count("GET") > 4


def test_a_service_that_is_away_for_a_while_is_waited_for(
    azurite: Azurite, container: ContainerClient, root: Path
) -> None:
    fill(blobs(azurite, container), {"large": LARGE, "small": b"small"})
    with faulty(azurite.host, azurite.port) as first:
        port = first.port
        made = mount(wanted(through(azurite, container, first)), root)
        assert sorted(os.listdir(made.path)) == ["large", "small"]
        first.fail_by(Fault("GET", "drop", times=None))  # kept connections break,
        first.server_close()  # and nobody listens for others any more
        reader = subprocess.Popen(
            ["cat", made.path / "small", made.path / "large"], stdout=subprocess.PIPE
        )
        time.sleep(20)
        eventually(lambda: "Try 3 of" in made.log.read_text())
    with FaultyProxy((azurite.host, azurite.port), (), port=port) as again:
        serving = threading.Thread(target=again.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        try:
            assert reader.communicate(timeout=60)[0] == b"small" + LARGE
            made.unmount()
        finally:
            again.shutdown()
            serving.join()


def test_a_damaged_small_file_is_an_error_and_no_content(
    azurite: Azurite, container: ContainerClient, proxy: FaultyProxy, root: Path
) -> None:
    make = through(azurite, container, proxy)
    fill(make, {"small": b"content"})

    def damage(reply: Any) -> Any:
        return type(reply)(reply.status, reply.headers, b"damaged")

    proxy.fail_by(Fault("GET .*small", "change", times=None, change=damage))
    with mounted(make, root) as made:
        assert errno_of((made.path / "small").read_bytes) == errno.EIO
        assert "MD5" in made.log.read_text()
        proxy.fail_by()
        assert (made.path / "small").read_bytes() == b"content"


def test_a_reader_can_be_interrupted_while_the_service_hangs(
    azurite: Azurite, container: ContainerClient, proxy: FaultyProxy, root: Path
) -> None:
    make = through(azurite, container, proxy)
    fill(make, {"large": LARGE})
    with mounted(make, root) as made:
        os.listdir(made.path)
        proxy.fail_by(Fault("GET .*large", "hang", times=None))
        reader = subprocess.Popen(["cat", made.path / "large"], stdout=subprocess.DEVNULL)
        while not proxy.count("GET .*large"):
            time.sleep(0.02)
        reader.kill()
        reader.wait(10)
        proxy.fail_by()


def test_a_refused_credential_is_eacces_until_a_new_one_comes(
    azurite: Azurite, container: ContainerClient, root: Path, tmp_path: Path
) -> None:
    right = blobs(azurite, container)
    fill(right, {"a": b"a", "sub/b": b"b"})
    wrong = partial(right.func, *right.args, **{**right.keywords, "account_key": "d3Jvbmc="})  # type: ignore[attr-defined]
    with pytest.raises(AuthenticationFailed):
        mount(wanted(wrong), root)
    with mounted(right, root) as made:
        assert os.listdir(made.path / "sub") == ["b"]
        made.renew(wrong)
        made.numbers()  # what is said is heard in order
        assert errno_of((made.path / "sub/b").read_bytes) == errno.EACCES
        assert errno_of((made.path / "a").read_bytes) == errno.EACCES
        assert "d3Jvbmc=" not in made.log.read_text()
        made.renew(right)
        eventually(lambda: readable(made.path / "a"))
        assert (made.path / "a").read_bytes() == b"a"


def test_a_damaged_cache_is_fetched_again(blob: MakeStore, root: Path, tmp_path: Path) -> None:
    fill(blob, FILES)
    cache = tmp_path / "cache"
    with mounted(blob, root, cache=cache) as made:
        assert tree(made.path) == FILES
    for path in cached(cache):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with mounted(blob, root, cache=cache) as made:
        assert tree(made.path) == FILES
        assert made.numbers()["bytes_fetched"] > 0
        # And while it is mounted.
        (large,) = [path for path in cached(cache) if path.stat().st_size == len(LARGE)]
        with large.open("r+b") as file:
            file.seek(BLOCK + 5)
            file.write(b"damaged")
        with (made.path / "large.bin").open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert file.read() == LARGE


def test_a_cache_that_is_nonsense_is_none(blob: MakeStore, root: Path, tmp_path: Path) -> None:
    fill(blob, FILES)
    cache = tmp_path / "cache"
    with mounted(blob, root, cache=cache) as made:
        assert tree(made.path) == FILES
    for path in cache.rglob("*"):
        if path.is_file():
            path.write_bytes(b"nonsense" * 100)
    with mounted(blob, root, cache=cache) as made:
        assert tree(made.path) == FILES


def test_a_cache_is_bounded(blob: MakeStore, root: Path, tmp_path: Path) -> None:
    files = {f"{number}": content_of(2 * 2**20 + number) for number in range(10)}
    fill(blob, files)
    cache, most = tmp_path / "cache", 6 * 2**20

    def held() -> int:
        return sum(path.stat().st_blocks * 512 for path in cache.rglob("*") if path.is_file())

    for _ in range(2):
        with mounted(blob, root, cache=cache, cache_bytes=most) as made:
            for name, content in files.items():
                assert (made.path / name).read_bytes() == content
                assert held() <= most + 2**20
    assert 0 < held() <= most + 2**20


def test_the_cache_is_for_its_owner_alone(blob: MakeStore, root: Path, tmp_path: Path) -> None:
    fill(blob, FILES)
    with mounted(blob, root, cache=tmp_path / "cache") as made:
        assert tree(made.path) == FILES
        for path in (tmp_path / "cache", root, *cached(tmp_path / "cache")):
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_full_disk_is_no_fault(blob: MakeStore, root: Path, tmp_path: Path) -> None:
    fill(blob, FILES)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        with mounted(blob, root, cache=small / "cache", cache_bytes=2**30) as made:
            assert tree(made.path) == FILES
    finally:
        subprocess.run(["umount", small], check=True)


# -- the end ------------------------------------------------------------------------------------------


def test_a_killed_server_is_told_and_leaves_nothing(blob: MakeStore, root: Path) -> None:
    fill(blob, {"a": b"a"})
    made = mount(wanted(blob), root)
    os.kill(serving(made), signal.SIGKILL)
    wait_for_the_end(serving(made))
    assert errno_of((made.path / "a").read_bytes) in {errno.ENOTCONN, errno.ECONNABORTED}
    with pytest.raises(MountError, match="ended before its time"):
        made.unmount()
    assert not device.is_mounted(made.path)


PROGRAM = """
import os, pickle, sys, time
from pathlib import Path
from prefect_datastores.mounting.mount import mount
wanted, root, forks = pickle.load(open(sys.argv[1], "rb"))
made = mount(wanted, root)
if forks and os.fork() == 0:  # a worker's child that holds the pipes open
    time.sleep(60)
    os._exit(0)
print(made.path, flush=True)
time.sleep(60)
"""


def started(
    wanted: Wanted, root: Path, tmp_path: Path, *, forks: bool = False
) -> tuple[subprocess.Popen[str], Path]:
    """A process that mounts, and where."""
    (tmp_path / "wanted").write_bytes(pickle.dumps((wanted, root, forks)))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "wanted")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.parametrize("forks", [False, True])
def test_a_mount_goes_when_its_parent_is_killed(
    blob: MakeStore, root: Path, tmp_path: Path, forks: bool
) -> None:
    fill(blob, {"a": b"a"})
    process, path = started(wanted(blob), root, tmp_path, forks=forks)
    children = psutil.Process(process.pid).children()
    assert (path / "a").read_bytes() == b"a"
    pid = lease.read(path.parent / lease.LEASE).pid  # type: ignore[union-attr]
    process.kill()
    process.wait()
    wait_for_the_end(pid)
    assert not device.is_mounted(path)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    assert lease.clean(root) == [path.parent]


def test_what_a_power_cut_left_is_cleaned_by_the_next_mount(
    blob: MakeStore, root: Path, tmp_path: Path
) -> None:
    fill(blob, {"a": b"a"})
    process, path = started(wanted(blob), root, tmp_path)
    pid = lease.read(path.parent / lease.LEASE).pid  # type: ignore[union-attr]
    os.kill(pid, signal.SIGSTOP)  # so that it cannot tidy up after its parent
    process.kill()
    process.wait()
    os.kill(pid, signal.SIGKILL)
    wait_for_the_end(pid)
    assert device.is_mounted(path)
    with mounted(blob, root) as made:
        assert (made.path / "a").read_bytes() == b"a"
        assert not device.is_mounted(path)
        assert not path.parent.exists()


def test_a_mount_that_is_in_use_goes_all_the_same(blob: MakeStore, root: Path) -> None:
    fill(blob, {"large": LARGE})
    made = mount(wanted(blob), root)
    with (made.path / "large").open("rb", buffering=0) as file:
        assert file.read(1) == LARGE[:1]
        made.unmount(grace=0.2)
        assert not device.is_mounted(made.path)
        assert errno_of(lambda: os.pread(file.fileno(), 2**20, 2 * 2**20)) in {
            errno.ENOTCONN,
            errno.ECONNABORTED,
            errno.EIO,
        }


def test_many_mounts_leave_no_process_and_no_descriptor(root: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/a").write_bytes(b"a")
    make = partial(LocalStore, tmp_path / "store")
    me = psutil.Process()
    before, threads = me.num_fds(), me.num_threads()
    children = len(me.children())
    for _ in range(50):
        batch = [mount(wanted(make), root) for _ in range(4)]
        for made in batch:
            assert (made.path / "a").read_bytes() == b"a"
            made.unmount()
    assert (me.num_fds(), len(me.children())) == (before, children)
    assert me.num_threads() <= threads
    assert str(root) not in Path("/proc/self/mountinfo").read_text()
    assert list(root.iterdir()) == []


def test_nobody_sees_a_secret(blob: MakeStore, azurite: Azurite, root: Path) -> None:
    fill(blob, {"a": b"a"})
    with mounted(blob, root) as made:
        (made.path / "a").read_bytes()
        shown = Path(f"/proc/{serving(made)}")
        for file in (shown / "environ", shown / "cmdline", made.log, made.log.parent / lease.LEASE):
            assert azurite.key.encode() not in file.read_bytes()
        assert azurite.key not in Path("/proc/self/mountinfo").read_text()
        assert azurite.key not in repr(wanted(blob))


# -- programs -----------------------------------------------------------------------------------------


def test_programs_read_a_mount_as_they_read_a_disk(
    blob: MakeStore, root: Path, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "source", FILES)
    with sqlite3.connect(source / "base.db") as base:
        base.execute("create table numbers (value)")
        base.executemany("insert into numbers values (?)", ((number,) for number in range(10_000)))
    base.close()
    with zipfile.ZipFile(source / "archive.zip", "w") as archive:
        archive.writestr("inside", LARGE)
    np.arange(1_000_000, dtype=np.float64).tofile(source / "array")
    run("git", "init", "-q", source / "clone")
    make_tree(source / "clone", {"file": b"content"})
    git = ("git", "-C", source / "clone", "-c", "user.name=n", "-c", "user.email=e@example.test")
    run(*git, "add", ".")
    run(*git, "commit", "-q", "-m", "m")
    fill(
        blob,
        {
            path.relative_to(source).as_posix(): path.read_bytes()
            for path in source.rglob("*")
            if path.is_file()
        },
    )
    with mounted(blob, root, cache=tmp_path / "cache") as made:
        path = made.path
        run("cp", "-a", path, tmp_path / "copied")
        assert run("diff", "-r", source, tmp_path / "copied", "--exclude=.git") == ""
        (tmp_path / "untarred").mkdir()
        run("sh", "-c", f"tar -C '{path}' -cf - . | tar -C '{tmp_path}/untarred' -xf -")
        assert tree(tmp_path / "untarred") == tree(source)
        with closing(sqlite3.connect(f"file:{path}/base.db?mode=ro&immutable=1", uri=True)) as base:
            assert base.execute("select sum(value) from numbers").fetchone() == (49_995_000,)
        with zipfile.ZipFile(path / "archive.zip") as archive:
            assert archive.read("inside") == LARGE
        array = np.memmap(path / "array", dtype=np.float64, mode="r")
        assert float(array[::1000].sum()) == float(np.arange(0, 1_000_000, 1000).sum())
        del array
        there = ("git", "-c", f"safe.directory={path}/clone", "-C", path / "clone")
        assert run(*there, "log", "--format=%s").strip() == "m"
        assert run(*there, "status", "--porcelain") == ""


LOADER = """
import multiprocessing, sys
from pathlib import Path
def load(path): return len(Path(path).read_bytes())
if __name__ == "__main__":
    files = sorted(map(str, Path(sys.argv[1]).iterdir())) * 2
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        print(sum(pool.map(load, files)))
"""


def test_the_processes_of_a_loader_read_a_mount(
    blob: MakeStore, root: Path, tmp_path: Path
) -> None:
    fill(blob, {f"{number:03}": content_of(1000 + number) for number in range(100)})
    (tmp_path / "loader.py").write_text(LOADER)
    with mounted(blob, root) as made:
        assert int(run(sys.executable, tmp_path / "loader.py", made.path)) == 2 * sum(
            range(1000, 1100)
        )
        assert made.numbers()["bytes_fetched"] == sum(range(1000, 1100))


# -- where nothing can be mounted ---------------------------------------------------------------------

AS_NOBODY = """
import os, shutil
from prefect_datastores.mounting import device
os.setgid(65534); os.setuid(65534)
os.environ["PATH"] = "/nonexistent"
print(device.fault())
print(device.probe())
"""


def test_who_may_not_mount_is_told_why_and_what_mends_it() -> None:
    for line in run(sys.executable, "-c", AS_NOBODY).splitlines():
        assert "apt-get install fuse3" in line
    assert device.fault() is None
    assert device.probe() is None


@pytest.fixture
def device_for_all() -> Iterator[None]:
    """`/dev/fuse` as udev makes it, which this machine may have otherwise."""
    before = device.DEVICE.stat().st_mode
    device.DEVICE.chmod(0o666)
    yield
    device.DEVICE.chmod(before & 0o777)


@pytest.mark.usefixtures("device_for_all")
def test_who_is_not_root_mounts_by_fusermount(tmp_path: Path) -> None:
    """The set-uid program of Debian's fuse3, which the Makefile installs."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        place = Path(folder)
        make_tree(place / "source, with a comma", FILES)
        (place / "wanted").write_bytes(
            pickle.dumps(
                (
                    wanted(
                        partial(LocalStore, place / "source, with a comma"), "", place / "cache"
                    ),
                    place / "mounts",
                    False,
                )
            )
        )
        run("chown", "-R", "65534:65534", place)
        # It may read everything, as Python may be where nobody else looks, and nothing more than others.
        caps = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
        who = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *caps)
        process = subprocess.Popen(
            [*who, sys.executable, "-c", PROGRAM, str(place / "wanted")],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HOME": folder},
        )
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        assert device.is_mounted(path)
        # Nobody else looks into it, not even root.
        assert errno_of(lambda: os.listdir(path)) == errno.EACCES
        read = ["sh", "-c", 'cd "$1" && tar -cf - . ', "sh", str(path)]
        packed = subprocess.run(
            read, user=65534, group=65534, capture_output=True, check=True
        ).stdout
        (tmp_path / "packed").mkdir()
        subprocess.run(["tar", "-C", tmp_path / "packed", "-xf", "-"], input=packed, check=True)
        assert tree(tmp_path / "packed") == FILES
        process.kill()
        process.wait()
        eventually(lambda: not device.is_mounted(path))
