"""What is fetched before anybody asks for it: what readers want next, and never much more."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from pathlib import Path

import pytest
from azure.storage.blob import ContainerClient
from hypothesis import given
from hypothesis import strategies as st
from mounted import eventually, fill, mounted, proxy, root, through
from servers.azurite import Azurite
from servers.faults import Fault, FaultyProxy

from prefect_datastores.mounting.ahead import FolderPattern, Patience, Pattern
from prefect_datastores.mounting.blocks import BLOCK
from prefect_datastores.testing import content_of

__all__ = ["proxy", "root"]

MIB = 2**20


def names_of(count: int) -> list[str]:
    return [f"{number:07}" for number in range(count)]


@given(
    st.integers(1, 3000),
    st.lists(st.tuples(st.integers(0, 2999), st.integers(0, 200)), max_size=60),
)
def test_no_file_is_wanted_twice_nor_one_that_was_opened(
    count: int, opens: list[tuple[int, int]]
) -> None:
    names, seen = names_of(count), set[str]()
    pattern = FolderPattern(names)
    for place, most in opens:
        opened = names[place % count]
        wanted = pattern.wanted(opened, most)
        seen.add(opened)
        assert len(wanted) <= most
        assert len(set(wanted)) == len(wanted)
        assert not seen & set(wanted)
        assert set(wanted) <= set(names)
        seen |= set(wanted)


@pytest.mark.parametrize("count", [1000, 100_000])
def test_who_opens_files_in_order_gets_those_that_follow(count: int) -> None:
    names = names_of(count)
    pattern = FolderPattern(names)
    assert pattern.wanted(names[500], 64) == []  # one alone says nothing
    assert pattern.wanted(names[501], 64) == names[502:566]
    assert pattern.wanted(names[502], 64) == names[566:630]


def test_of_few_files_all_are_wanted_whatever_the_order() -> None:
    names = names_of(100)
    pattern = FolderPattern(names)
    pattern.wanted(names[90], 100)
    assert pattern.wanted(names[80], 100) == [*names[81:90], *names[91:], *names[:80]]


def misses(names: list[str], opens: list[str], usual: int = 4096) -> tuple[int, int]:
    """How many opens nobody had foretold, and how many names were wanted."""
    pattern, said, missed = FolderPattern(names, usual), set[str](), 0
    for name in opens:
        missed += name not in said
        said |= set(pattern.wanted(name, 128))
    return missed, len(said)


def test_who_opens_all_of_very_many_at_random_hardly_waits() -> None:
    names = names_of(10_000)
    opens = random.Random(1).sample(names, len(names))
    assert misses(names, opens)[0] < 1200
    # Whose files lie together waits less still.
    together = random.Random(1).sample(names[3000:4000], 1000)
    assert misses(names, together)[0] < 150


def test_who_opens_a_few_of_very_many_at_random_is_brought_few() -> None:
    names = names_of(1_000_000)
    opens = random.Random(1).sample(names, 1000)
    assert misses(names, opens)[1] < 6 * len(opens)
    assert misses(names, opens, MIB)[1] < 2 * len(opens)


def test_reads_in_order_or_by_a_stride_are_not_at_random() -> None:
    pattern = Pattern(1000 * MIB)
    told = []
    for offset in (0, 1, 2, 500, 900, 100, 200, 300, 400, 40, 77):
        pattern.wanted(offset * MIB, 4096)
        told.append(pattern.is_at_random)
    assert told == [False] * 3 + [True] * 4 + [False] * 2 + [True] * 2


def test_patience_lasts_as_long_as_all_would_take() -> None:
    now = 0.0
    patience = Patience(512 * MIB, lambda: now)
    for turn in range(1, 201):
        began = patience.began()
        now += 0.02
        assert patience.is_over(began) == (turn in {50, 100, 150, 200})


def test_who_reads_at_random_for_long_gets_all(
    azurite: Azurite, container: ContainerClient, proxy: FaultyProxy, root: Path, tmp_path: Path
) -> None:
    made, data = through(azurite, container, proxy), content_of(32 * BLOCK)
    fill(made, {"data": data})
    proxy.fail_by(Fault("GET", "pass", times=None, meanwhile=lambda: time.sleep(0.02)))
    with mounted(made, root, cache=tmp_path / "cache") as at:
        with (at.path / "data").open("rb", buffering=0) as file:
            fd = file.fileno()
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            for block in (20, 3, 29, 11, 25):
                assert os.pread(fd, 10, block * BLOCK + 5) == data[block * BLOCK + 5 :][:10]
            eventually(lambda: at.numbers()["bytes_fetched"] == len(data))

            def read_all(place: int) -> None:
                for block in random.Random(1).sample(range(32), 32):
                    offset = block * BLOCK + place
                    assert os.pread(fd, 10, offset) == data[offset:][:10]

            read_all(0)  # what came last may still be on its way to the cache
            before = at.numbers()
            read_all(BLOCK // 2)
            after = at.numbers()
    assert (after["bytes_fetched"], after["errors"]) == (len(data), 0)
    assert after["reads"] - before["reads"] == 32
    assert after["hits"] - before["hits"] == after["reads"] - before["reads"]


def test_what_is_fetched_ahead_does_not_hold_up_the_end(
    azurite: Azurite, container: ContainerClient, proxy: FaultyProxy, root: Path, tmp_path: Path
) -> None:
    # More than was asked for, however far ahead that came, when the first 32 MiB are read.
    made, data = through(azurite, container, proxy), content_of(160 * MIB)
    fill(made, {"data": data})
    with (
        mounted(made, root, cache=tmp_path / "cache") as at,
        (at.path / "data").open("rb", buffering=0) as file,
    ):
        read = bytearray()
        while len(read) < 32 * MIB:
            read += file.read(MIB)
        assert read == data[: len(read)]
        proxy.fail_by(Fault("GET", "hang", times=None))

        def read_on() -> None:
            with contextlib.suppress(OSError):
                while file.read(MIB):
                    pass

        reader = threading.Thread(target=read_on, daemon=True)
        reader.start()
        eventually(lambda: proxy.count("GET") >= 8)
        at.unmount(0.0)  # it says how it ended: it was not given up
        reader.join(60.0)
        assert not reader.is_alive()


def test_without_a_cache_nobody_is_brought_what_could_not_stay(
    azurite: Azurite, container: ContainerClient, proxy: FaultyProxy, root: Path
) -> None:
    made, data = through(azurite, container, proxy), content_of(32 * BLOCK)
    fill(made, {"data": data})
    proxy.fail_by(Fault("GET", "pass", times=None, meanwhile=lambda: time.sleep(0.02)))
    with mounted(made, root) as at, (at.path / "data").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for block in (20, 3, 29, 11, 25):
            os.pread(file.fileno(), 10, block * BLOCK + 5)
        time.sleep(0.5)
        assert at.numbers()["bytes_fetched"] == 5 * BLOCK
