"""The disk that mounts of one machine may use together, whoever of them begins, ends, idles or is killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from azure.storage.blob import ContainerClient
from mounted import blobs, eventually, fill, mounted, root, serving, wanted
from servers.azurite import Azurite
from small_stores import make_tree, tree

from prefect_datastores.errors import MountError
from prefect_datastores.mounting import space
from prefect_datastores.mounting.blocks import BLOCK
from prefect_datastores.mounting.bound import Bound
from prefect_datastores.mounting.mount import Mount, mount
from prefect_datastores.mounting.space import Evictable, Space
from prefect_datastores.mounting.talk import MakeStore
from prefect_datastores.stores.local import LocalStore
from prefect_datastores.testing import content_of

__all__ = ["root"]

MOST = 8 * 2**20
SLACK = 2**20
"""Indices, and what the disk rounds up."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def blob(azurite: Azurite, container: ContainerClient) -> MakeStore:
    made = blobs(azurite, container)
    fill(
        made,
        {f"{who}/{number}": content_of(2 * 2**20 + number) for who in "ab" for number in range(5)},
    )
    return made


def of(who: str) -> dict[str, bytes]:
    return {f"{number}": content_of(2 * 2**20 + number) for number in range(5)}


def held(cache: Path, *mounts: Mount) -> int:
    """What all have on the disk, in files with a name and in those without."""
    paths = [path for path in cache.rglob("*") if path.is_file()] if cache.exists() else []
    return sum(sizes([*paths, *(path for made in mounts for path in opened(made, cache))]).values())


def opened(made: Mount, cache: Path) -> list[Path]:
    """The files of the cache that a mount's process has open."""
    found = []
    for path in Path(f"/proc/{serving(made)}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(path.readlink()).startswith(str(cache)):
                found.append(path)
    return found


def sizes(paths: list[Path]) -> dict[tuple[int, int], int]:
    found: dict[tuple[int, int], int] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            of_file = path.stat()
            found[of_file.st_dev, of_file.st_ino] = of_file.st_blocks * 512
    return found


def test_two_mounts_have_one_bound(blob: MakeStore, root: Path, cache: Path) -> None:
    """Different files, and the same: what one has, the other fetches for itself meanwhile."""
    more: dict[str, Any] = {"cache": cache, "cache_bytes": MOST}
    with mounted(blob, root, "a", **more) as a, mounted(blob, root, "b", **more) as b:
        with mounted(blob, root, "a", **more) as again:
            most = 0
            for number in range(5):
                for made in (a, b, again):
                    content = (made.path / f"{number}").read_bytes()
                    assert content == content_of(2 * 2**20 + number)
                    most = max(most, held(cache, a, b, again))
            assert MOST // 2 < most <= MOST + SLACK
    assert 0 < held(cache) <= MOST + SLACK


def test_an_idle_mount_gives_way_to_another(
    blob: MakeStore, root: Path, cache: Path, tmp_path: Path
) -> None:
    content = content_of(8 * 2**20) * 12  # more than a mount has in memory
    source = make_tree(tmp_path / "source", {"large": content})
    more: dict[str, Any] = {"cache": cache, "cache_bytes": MOST}
    with mounted(blob, root, "a", **more) as a:
        assert tree(a.path) == of("a")
        assert held(cache, a) > MOST * 3 // 4
        with mounted(partial(LocalStore, source), root, **more) as b:

            def has_its_part() -> bool:
                with (b.path / "large").open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    assert file.read() == content
                assert held(cache, a, b) <= MOST + SLACK
                return sum(sizes(opened(b, cache)).values()) > MOST // 3

            eventually(has_its_part, 60)
        assert tree(a.path) == of("a")


def test_a_killed_mount_takes_no_room_from_others(blob: MakeStore, root: Path, cache: Path) -> None:
    more: dict[str, Any] = {"cache": cache, "cache_bytes": MOST}
    killed = mount(wanted(blob, "a", **more), root)
    with mounted(blob, root, "b", **more) as b:
        assert tree(killed.path) == of("a")
        process = psutil.Process(serving(killed))
        os.kill(process.pid, signal.SIGKILL)
        with contextlib.suppress(MountError):
            killed.unmount()
        assert held(cache, b) > MOST // 2
        # What it had is what earlier mounts left: the oldest of it goes.
        assert tree(b.path) == of("b")
        assert MOST // 2 < held(cache, b) <= MOST + SLACK
        assert len(list((cache / ".mounts").glob("*.mount"))) == 1
    with mounted(blob, root, "a", **more) as a:
        assert tree(a.path) == of("a")
        assert held(cache, a) <= MOST + SLACK
    assert list((cache / ".mounts").glob("*.mount")) == []


def test_what_a_killed_mount_wrote_and_nobody_knows_of_is_not_on_the_disk(
    blob: MakeStore, root: Path, cache: Path
) -> None:
    killed = mount(wanted(blob, "a", cache=cache), root)
    with (killed.path / "0").open("rb") as file:  # open, so that nothing is written down
        file.read()
        os.kill(serving(killed), signal.SIGKILL)
    with contextlib.suppress(MountError):
        killed.unmount()
    assert held(cache) > 2**20
    with mounted(blob, root, "a", cache=cache) as a, (a.path / "0").open("rb"):
        assert held(cache, a) < 2**20


# -- the numbers ----------------------------------------------------------------------------------------


class Counted(Evictable):
    """Takes blocks, and counts those that were dropped."""

    def __init__(self, space: Space) -> None:
        self.space, self.taken, self.dropped = space, 0, 0

    def evict(self, key: object) -> None:
        self.dropped += 1

    def take(self) -> bool:
        done = self.space.take(self.taken, BLOCK, self)
        self.taken += done
        return done

    @property
    def held(self) -> int:
        return self.taken - self.dropped


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Counted]]:
    """Two that have 64 blocks together."""
    monkeypatch.setattr(space, "_GIVE_SECONDS", 0.02)
    made = [Space(tmp_path, 64 * BLOCK) for _ in range(2)]
    yield [Counted(one) for one in made]
    for one in made:
        one.close()


def test_one_takes_all_and_gives_half_of_it_to_who_lacks_it(two: list[Counted]) -> None:
    one, other = two
    while not one.dropped:
        assert one.take()
    assert one.held == 64
    assert not other.take()

    def halved() -> bool:
        other.take()
        assert one.held + other.held <= 64
        return other.held >= 30

    eventually(halved)
    for _ in range(100):  # and no more than that, though it lacks room still
        other.take()
        time.sleep(0.001)
    assert 28 <= one.held <= 34
    assert one.held + other.held <= 64


def test_bytes_that_were_given_back_can_be_taken_by_others(tmp_path: Path) -> None:
    one, other = (Bound(tmp_path / "numbers", 100, lambda most: 0) for _ in range(2))
    assert one.more(60) == 60
    assert other.more(60) == 0
    one.less(30)
    assert other.more(60) == 60
    assert (one.more(10), one.more(10)) == (10, 0)
    other.close(0)
    assert one.more(50) >= 50
    one.close(0)
    with pytest.raises(OSError):
        one.more(1)


def test_what_was_left_gives_way_and_is_counted_once(tmp_path: Path) -> None:
    left, asked = [90], list[int]()

    def trim(most: int) -> int:
        asked.append(most)
        left[0] = min(left[0], most)
        return left[0]

    one = Bound(tmp_path / "numbers", 100, trim)
    assert asked == [75]
    assert one.more(20) >= 20
    assert left == [75]
    assert one.more(40) >= 40
    assert left[0] <= 100 - 60
    with one.taking_over() as take_over:
        take_over(left[0], left[0])
    before = left[0]
    assert one.more(80) == 0
    one.close(before)
    other = Bound(tmp_path / "numbers", 100, trim)
    assert other.more(100 - before) >= 100 - before
    other.close(0)


DIES = """
import os, sys
from pathlib import Path
from prefect_datastores.mounting.bound import Bound
assert Bound(Path(sys.argv[1]), 100, lambda most: 0).more(70) == 70
os._exit(0)
"""


def test_the_number_of_a_dead_process_is_what_it_left(tmp_path: Path) -> None:
    left, numbers = [0], tmp_path / "numbers"
    one = Bound(numbers, 100, lambda most: left[0])
    subprocess.run([sys.executable, "-c", DIES, str(numbers)], check=True)
    assert len(list(numbers.glob("*.mount"))) == 2
    left[0] = 70
    assert one.more(50) == 0
    left[0] = 10
    assert one.more(50) >= 50
    assert len(list(numbers.glob("*.mount"))) == 1
    one.close(0)


def test_who_waits_for_the_numbers_is_alone_with_them(tmp_path: Path) -> None:
    one = Bound(tmp_path / "numbers", 100, lambda most: 0)
    fd = os.open(tmp_path / "numbers/left", os.O_RDWR)
    with one.taking_over():
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    one.close(0)
