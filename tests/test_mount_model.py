"""A mount beside a read-only folder of the same files: every operation gives the same result, or the same errno."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_stores import make_tree

from prefect_datastores.mounting.mount import mount
from prefect_datastores.mounting.talk import Wanted
from prefect_datastores.stores.local import LocalStore
from prefect_datastores.testing import content_of

LARGE = 3 * 2**20 + 777
FILES = {
    "a": b"a",
    "empty": b"",
    "large": content_of(LARGE),
    "dir/b": b"bb",
    "dir/c": content_of(70_000),
    "dir/deep/er/d": b"d",
    "dir.x": b"beside",
    "ümläut ∞": b"name",
}
STEPS = 40


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The folder, and the mount."""
    place = tmp_path_factory.mktemp("model")
    source = make_tree(place / "source", FILES)
    folder = place / "folder"
    folder.mkdir()
    subprocess.run(["mount", "--bind", source, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    made = mount(
        Wanted(partial(LocalStore, source), "", "model", cache_root=place / "cache"),
        place / "mounts",
    )
    yield folder, made.path
    made.unmount()
    subprocess.run(["umount", folder], check=True)


NAMES = st.sampled_from(
    [
        *("a", "empty", "large", "dir", "dir/b", "dir/c", "dir/deep", "dir/deep/er", "dir.x"),
        *("dir/deep/er/d", "ümläut ∞", "", ".", "dir/..", "dir/../a", "dir/./b", "dir//c"),
        *("nothing", "dir/nothing", "a/below", "A", "dir/", "a/", "n" * 255, "n" * 256),
    ]
)
OFFSETS = st.one_of(
    st.integers(0, LARGE + 10), st.sampled_from([0, 1, 4095, 4096, 2**19, 2**20, LARGE - 1, LARGE])
)
SIZES = st.sampled_from([0, 1, 7, 4096, 4097, 2**17, 2**19, 2**20 + 3])
FLAGS = st.sampled_from(
    [
        *(os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND),
        *(os.O_RDONLY | os.O_DIRECTORY, os.O_RDONLY | os.O_NOFOLLOW, os.O_WRONLY | os.O_CREAT),
        *(os.O_WRONLY | os.O_CREAT | os.O_EXCL, os.O_RDONLY | os.O_CREAT, os.O_PATH),
    ]
)
Step = Callable[[Path], Any]


def opened(flags: int, use: Callable[[int], Any]) -> Step:
    def step(path: Path) -> Any:
        fd = os.open(path, flags)
        try:
            return use(fd)
        finally:
            os.close(fd)

    return step


def read(offset: int, size: int) -> Step:
    return opened(os.O_RDONLY, lambda fd: os.pread(fd, size, offset))


def read_in_order(offset: int, size: int) -> Step:
    def use(fd: int) -> Any:
        os.lseek(fd, offset, os.SEEK_SET)
        parts = [os.read(fd, size) for _ in range(3)]
        return parts, os.lseek(fd, 0, os.SEEK_CUR), os.lseek(fd, 0, os.SEEK_END)

    return opened(os.O_RDONLY, use)


def mapped(offset: int, size: int) -> Step:
    def use(fd: int) -> Any:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
            return len(memory), bytes(memory[offset : offset + size])

    return opened(os.O_RDONLY, use)


def told(path: Path) -> Any:
    found = os.stat(path)
    is_folder = os.path.isdir(path)
    return is_folder, None if is_folder else (
        found.st_size,
        found.st_nlink,
        -(-found.st_size // 512),
    )


def kinds(path: Path) -> Any:
    with os.scandir(path) as entries:
        return sorted((one.name, one.is_dir(), one.is_file(), one.is_symlink()) for one in entries)


def below(path: Path) -> Any:
    return sorted(
        (os.path.relpath(top, path), sorted(folders), sorted(files))
        for top, folders, files in os.walk(path)
    )


def may(mode: int) -> Step:
    return lambda path: os.access(path, mode)


STEP = st.one_of(
    st.builds(read, OFFSETS, SIZES),
    st.builds(read_in_order, OFFSETS, SIZES),
    st.builds(mapped, OFFSETS, SIZES),
    st.builds(opened, FLAGS, st.just(lambda fd: None)),
    st.builds(may, st.sampled_from([os.F_OK, os.R_OK, os.W_OK])),
    st.sampled_from(
        [
            *(
                told,
                kinds,
                below,
                lambda path: sorted(os.listdir(path)),
                os.unlink,
                os.rmdir,
                os.mkdir,
            ),
            lambda path: os.readlink(path),
            lambda path: os.rename(path, path.with_name("other")),
            lambda path: os.symlink("a", path),
            lambda path: os.truncate(path, 1),
            lambda path: os.chmod(path, 0o600),
            lambda path: os.utime(path, (1, 1)),
            lambda path: os.mkfifo(path),
            lambda path: os.statvfs(path).f_namemax,
            lambda path: os.pathconf(path, "PC_NAME_MAX"),
        ]
    ),
)


def result(step: Step, root: Path, name: str) -> Any:
    path = Path(f"{root}/{name}") if name[-1:] not in {"/", "."} else root / name
    try:
        return step(path)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    except ValueError as error:
        return str(error)


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(st.tuples(STEP, NAMES), min_size=STEPS, max_size=2 * STEPS))
def test_a_mount_is_as_a_read_only_folder(
    both: tuple[Path, Path], steps: list[tuple[Step, str]]
) -> None:
    folder, mounted = both
    for step, name in steps:
        assert result(step, mounted, name) == result(step, folder, name), name
