"""A mount that is written to beside a folder of a disk: every operation gives the same result, or the same errno."""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mounted import make, mounted
from small_stores import make_tree, tree

from prefect_datastores.mounting.talk import MakeStore
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.stores.local import LocalStore
from prefect_datastores.testing import content_of, get

__all__ = ["make"]

FILES = {
    "a": b"a",
    "empty": b"",
    "large": content_of(2**20 + 777),
    "dir/b": b"bb",
    "dir/c": content_of(70_000),
    "dir/deep/d": b"d",
}
USUAL = ["a", "b", "empty", "large", "dir/b", "dir/c", "dir/deep/d", "new/x"]
RARE = ["dir", "dir/deep", "new", "dir/new", "other", "ü ∞", "nothing/x", "a/below", "dir/deep/d/x"]
RARE += ["n" * 255, "n" * 256]
SLOTS = 3


@dataclass
class World:
    """A folder, and what is open in it."""

    root: Path
    handles: dict[int, int] = field(default_factory=dict)
    maps: dict[int, mmap.mmap] = field(default_factory=dict)

    def close(self) -> None:
        for slot in range(SLOTS):
            close(self, slot)


@dataclass(frozen=True)
class Step:
    """One operation, and how to say which."""

    text: str
    run: Callable[[World], Any] = field(repr=False)

    def __call__(self, world: World) -> Any:
        try:
            return self.run(world)
        except OSError as error:
            return errno.errorcode[error.errno or 0]


def at(what: str, name: str, use: Callable[[str], Any]) -> Step:
    """Do something with a name."""
    return Step(f"{what} {name}", lambda world: use(f"{world.root}/{name}"))


def on(what: str, slot: int, use: Callable[[int], Any]) -> Step:
    """Do something with an open file."""

    def run(world: World) -> Any:
        return use(world.handles[slot]) if slot in world.handles else "closed"

    return Step(f"{what} of {slot}", run)


def opened(name: str, slot: int, flags: int) -> Step:
    def run(world: World) -> Any:
        fd = os.open(f"{world.root}/{name}", flags, 0o640)
        close(world, slot)
        world.handles[slot] = fd
        return "opened"

    return Step(f"open {name} as {slot} with {flags:o}", run)


def close(world: World, slot: int) -> None:
    if slot in world.maps:
        world.maps.pop(slot).close()
    if slot in world.handles:
        os.close(world.handles.pop(slot))


def mapped(slot: int, offset: int, data: bytes) -> Step:
    """Write through a map."""

    def run(world: World) -> Any:
        if slot not in world.handles:
            return "closed"
        if slot not in world.maps:
            try:
                world.maps[slot] = mmap.mmap(world.handles[slot], 0)
            except ValueError as error:
                return str(error)
        memory = world.maps[slot]
        # The file may have become shorter than the map: touching that would be a SIGBUS.
        length = min(len(memory), os.fstat(world.handles[slot]).st_size)
        if offset + len(data) <= length:
            memory[offset : offset + len(data)] = data
        return bytes(memory[: min(length, 100)])

    return Step(f"map of {slot}: {len(data)} bytes at {offset}", run)


def saved(path: str, data: bytes) -> None:
    """Save as careful programs do: beside it, then over it."""
    with open(path + ".tmp", "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".tmp", path)


def told(found: os.stat_result) -> Any:
    is_folder = stat.S_ISDIR(found.st_mode)
    return found.st_mode, None if is_folder else (found.st_size, found.st_nlink)


def sought(fd: int, end: int) -> Any:
    # Where a folder ends is what each disk makes of it.
    return "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else os.lseek(fd, 0, end)


def touched(path: str, when: int) -> float:
    os.utime(path, (when, when))
    return os.stat(path).st_mtime


def renamed(name: str, to: str, use: Callable[[str, str], None]) -> Step:
    return Step(
        f"rename {name} to {to}",
        lambda world: use(f"{world.root}/{name}", f"{world.root}/{to}"),
    )


def everything(world: World) -> Any:
    return sorted(
        (os.path.relpath(top, world.root), sorted(folders), sorted(files))
        for top, folders, files in os.walk(world.root)
    )


OFFSETS = st.one_of(st.integers(0, 2**20 + 800), st.sampled_from([0, 1, 4095, 4096, 2**20]))
SIZES = st.sampled_from([0, 1, 7, 4096, 4097, 70_000, 2**20 + 5])
DATA = st.one_of(st.binary(max_size=20), st.sampled_from([content_of(5000), content_of(2**17 + 3)]))
NAME = st.one_of(st.sampled_from(USUAL), st.sampled_from(USUAL), st.sampled_from(RARE))
SLOT = st.integers(0, SLOTS - 1)
ACCESS = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR])
MORE = st.sampled_from(
    [
        *(0, 0, 0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_APPEND),
        *(os.O_CREAT | os.O_TRUNC, os.O_CREAT | os.O_APPEND, os.O_DIRECTORY, os.O_NOFOLLOW),
    ]
)


USED = st.sampled_from([os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_APPEND, os.O_RDONLY])


def handles(what: str, use: Callable[..., Any], *more: st.SearchStrategy[Any]) -> Any:
    return st.builds(
        lambda slot, *given: on(f"{what} {_shown(given)}", slot, lambda fd: use(fd, *given)),
        *(SLOT, *more),
    )


def paths(what: str, use: Callable[..., Any], *more: st.SearchStrategy[Any]) -> Any:
    return st.builds(
        lambda name, *given: at(f"{what} {_shown(given)}", name, lambda path: use(path, *given)),
        *(NAME, *more),
    )


def _shown(given: tuple[Any, ...]) -> str:
    return " ".join(f"{len(one)} bytes" if isinstance(one, bytes) else str(one) for one in given)


HANDLES = st.one_of(
    handles("pread", os.pread, SIZES, OFFSETS),
    handles("pwrite", os.pwrite, DATA, OFFSETS),
    handles("write", os.write, DATA),
    handles("read", os.read, SIZES),
    handles("ftruncate", os.ftruncate, OFFSETS),
    handles("allocate", os.posix_fallocate, OFFSETS, st.sampled_from([1, 5000])),
    handles("seek", sought, st.sampled_from([0, 1, 2])),
    handles("fsync", os.fsync),
    handles("fdatasync", os.fdatasync),
    handles("fstat", lambda fd: told(os.fstat(fd))),
    handles("dup and close", lambda fd: os.close(os.dup(fd))),
    st.builds(mapped, SLOT, OFFSETS, DATA),
)
CLOSES = st.one_of(
    st.builds(lambda slot: Step(f"close {slot}", lambda world: close(world, slot)), SLOT),
    st.builds(opened, NAME, SLOT, st.builds(lambda one, two: one | two, ACCESS, MORE)),
    st.builds(opened, st.sampled_from(USUAL), SLOT, USED),
    st.builds(opened, st.sampled_from(USUAL), SLOT, USED),
)
PATHS = st.one_of(
    paths("truncate", os.truncate, OFFSETS),
    paths("save", saved, DATA),
    paths("chmod", os.chmod, st.sampled_from([0o600, 0o755, 0o444])),
    paths("touch", touched, st.sampled_from([1, 1_700_000_000])),
    paths("unlink", os.unlink),
    paths("unlink", os.unlink),
    paths("rmdir", os.rmdir),
    paths("mkdir", os.mkdir),
    paths("mkdir", os.mkdir),
    paths("mknod", os.mknod),
    paths("stat", lambda path: told(os.stat(path))),
    paths("list", lambda path: sorted(os.listdir(path))),
    paths("read all of", lambda path: Path(path).read_bytes()),
    paths("readlink", os.readlink),
    paths("access", os.access, st.sampled_from([os.R_OK, os.W_OK])),
    paths("chown", lambda path: os.chown(path, os.getuid(), os.getgid())),
)
STEP = st.one_of(
    *(CLOSES,) * 2,
    *(HANDLES,) * 4,
    *(PATHS,) * 3,
    *(st.builds(renamed, NAME, NAME, st.sampled_from([os.rename, os.replace])),) * 2,
    st.sampled_from(
        [
            Step("names of everything", everything),
            Step("everything", lambda world: tree(world.root)),
        ]
    ),
)


_numbers = itertools.count()


@dataclass(frozen=True)
class Both:
    """A folder and a mount, and what the service has of the mount."""

    folder: Path
    mounted: Path
    stored: Callable[[str], dict[str, bytes]]


@contextlib.contextmanager
def both(make: MakeStore) -> Iterator[Both]:
    # In memory: a disk that is waited for at each commit would be most of the time.
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as held:
        place = Path(held)
        (place / "folder").mkdir()
        more = {"drafts_root": place / "drafts", "read_only": False, "allow_empty": True}
        with mounted(make, place / "mounts", cache=place / "cache", **more) as made:
            yield Both(place / "folder", made.path, partial(stored, make))
        assert not list((place / "drafts").iterdir())


def stored(make: MakeStore, folder: str) -> dict[str, bytes]:
    with closing(make()) as store:
        return {
            info.name[len(folder) + 1 :]: get(store, info.name)
            for info in list_objects(store, f"{folder}/")
            if not info.is_marker
        }


@pytest.fixture(scope="module")
def beside_a_folder() -> Iterator[Both]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as held:
        with both(partial(LocalStore, Path(held))) as made:
            yield made


def check(pair: Both, first: tuple[Step, ...], steps: list[Step]) -> None:
    """Do the same in both, and compare each result, and all that is there at the end."""
    name = str(next(_numbers))
    one, other = World(pair.folder / name), World(pair.mounted / name)
    for world in (one, other):
        make_tree(world.root, FILES)
    try:
        for step in (*first, *steps):
            expected = step(one)
            assert step(other) == expected, step.text
    finally:
        one.close()
        other.close()
    assert everything(other) == everything(one)
    expected = tree(one.root)
    assert tree(other.root) == expected
    # The service has all that was closed, and nothing else.
    assert pair.stored(name) == expected
    for world in (one, other):
        shutil.rmtree(world.root)
    assert pair.stored(name) == {}


FIRST = st.tuples(
    *(st.builds(opened, st.sampled_from(USUAL), st.just(slot), USED) for slot in range(SLOTS))
)
STEPS = st.lists(STEP, min_size=40, max_size=100)
CHECKS = [
    HealthCheck.function_scoped_fixture,
    HealthCheck.too_slow,
    HealthCheck.differing_executors,
]


@settings(max_examples=350, deadline=None, suppress_health_check=CHECKS)
@given(first=FIRST, steps=STEPS)
def test_a_mount_that_is_written_to_is_as_a_folder(
    beside_a_folder: Both, first: tuple[Step, ...], steps: list[Step]
) -> None:
    check(beside_a_folder, first, steps)


def test_it_is_so_over_every_service(make: MakeStore) -> None:
    with both(make) as pair:

        @settings(max_examples=12, deadline=None, suppress_health_check=CHECKS)
        @given(first=FIRST, steps=STEPS)
        def over_a_service(first: tuple[Step, ...], steps: list[Step]) -> None:
            check(pair, first, steps)

        over_a_service()
