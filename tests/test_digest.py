"""The MD5 of a file whose parts come in any order, and the memory that they wait in."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_stores import Around

from prefect_datastores.errors import TransferCancelled, TransferError
from prefect_datastores.names import ObjectName
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.digest import RunningDigest
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.engine import Limits
from prefect_datastores.stores.memory import MemoryStore
from prefect_datastores.testing import content_of, md5_of, put

STEP = 1000


class Given:
    """Parts of a content, and which of them were given back."""

    def __init__(self, size: int) -> None:
        self.content = content_of(size)
        self.given: list[memoryview] = []
        self.read: list[int] = []
        self.cancellation = Cancellation()
        self.digest = RunningDigest(self.read_at, self.cancellation, self.given.append)

    def read_at(self, offset: int, length: int) -> bytes:
        self.read.append(offset)
        return self.content[offset : offset + length]

    def parts(self) -> list[tuple[int, memoryview]]:
        view = memoryview(self.content)
        return [(at, view[at : at + STEP]) for at in range(0, len(view), STEP)]

    def is_all_given(self) -> bool:
        return sorted(map(bytes, self.given)) == sorted(bytes(part) for _, part in self.parts())


@given(st.integers(0, 20 * STEP), st.randoms(use_true_random=False), st.data())
def test_parts_in_any_order_make_the_digest_of_the_whole(
    size: int, order: random.Random, data: st.DataObject
) -> None:
    """Each part's memory is given once, and what was given before its time is read back."""
    there = Given(size)
    parts = there.parts()
    order.shuffle(parts)
    for offset, part in parts:
        there.digest.came(offset, part)
        if data.draw(st.booleans()):
            there.digest.give_up()
    assert there.digest.result() == md5_of(there.content)
    there.digest.close()
    assert there.is_all_given()


def test_parts_of_many_threads_make_the_digest_of_the_whole() -> None:
    there = Given(500 * STEP)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda part: there.digest.came(*part), there.parts()))
    assert there.digest.result() == md5_of(there.content)
    assert there.is_all_given()


def test_what_lies_longest_is_given_up_first() -> None:
    there = Given(4 * STEP)
    first, second, third, last = there.parts()
    there.digest.came(*last)
    there.digest.came(*second)
    there.digest.came(*third)
    assert there.digest.give_up()
    assert there.given == [last[1]]
    there.digest.came(*first)
    assert not there.digest.give_up()
    assert there.read == [3 * STEP]
    assert there.digest.result() == md5_of(there.content)


def test_a_digest_that_is_not_wanted_any_more_keeps_no_memory() -> None:
    there = Given(3 * STEP)
    for part in there.parts()[1:]:
        there.digest.came(*part)
    there.cancellation.cancel()
    with pytest.raises(TransferCancelled):
        there.digest.came(*there.parts()[0])
    there.digest.close()
    assert there.is_all_given()


def test_a_part_that_is_gone_from_the_file_is_an_error() -> None:
    there = Given(2 * STEP)
    first, last = there.parts()
    there.digest.came(*last)
    there.digest.close()
    there.content = there.content[:STEP]
    with pytest.raises(TransferError, match="gone"):
        there.digest.came(*first)


def test_a_part_that_is_late_does_not_wait_for_memory_that_the_others_hold(tmp_path: Path) -> None:
    """All memory lies with parts that wait for the first one, which comes when most others have."""
    came, most = [0], threading.Event()

    class Late(Around):
        def read_into(self, name: ObjectName, offset: int, *given: Any, **more: Any) -> None:
            if not offset:
                assert most.wait(60)
            self.inner.read_into(name, offset, *given, **more)
            came[0] += 1
            if came[0] > 12:
                most.set()

    store, content = MemoryStore(), content_of(20 * 64 * 1024)
    put(store, "large", content)
    limits = Limits(parts=4, bytes_in_flight=4 * store.capabilities.part_size)
    assert len(content) > 12 * store.capabilities.part_size
    download(Late(store), tmp_path, DownloadRequest(), limits=limits)  # type: ignore[arg-type]
    assert (tmp_path / "large").read_bytes() == content
