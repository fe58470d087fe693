"""What goes wrong while people read a mount: they get the right bytes, later perhaps, or an error, and never others."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import ContainerClient
from mounted import (
    blobs,
    cached,
    errno_of,
    eventually,
    fill,
    make,
    mounted,
    proxy,
    root,
    through,
)
from servers.azurite import Azurite
from servers.faults import Fault, FaultyProxy, Reply
from small_stores import tree

from prefect_datastores.mounting.blocks import BLOCK, Blocks
from prefect_datastores.mounting.space import Space
from prefect_datastores.mounting.talk import MakeStore
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import ObjectInfo
from prefect_datastores.testing import content_of

__all__ = ["make", "proxy", "root"]

LARGE = content_of(3 * 2**20 + 12_345)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# -- the service --------------------------------------------------------------------------------------

READER = """
import hashlib, os, sys
for folder, _, names in sorted(os.walk(sys.argv[1])):
    for name in sorted(names):
        with open(os.path.join(folder, name), "rb") as file:
            print(hashlib.md5(file.read()).hexdigest(), flush=True)
"""


def test_readers_outlive_a_storm_of_refusals(
    azurite: Azurite, container: ContainerClient, proxy: FaultyProxy, root: Path, cache: Path
) -> None:
    """Every request is answered by 503 for a while, then every other one, while several read all of it."""
    made = through(azurite, container, proxy)
    files = {f"{number}": content_of(2 * 2**20 + number) for number in range(6)}
    files |= {f"small/{number:02}": content_of(1000 + number) for number in range(40)}
    fill(made, files)
    right = [hashlib.md5(content).hexdigest() for _, content in sorted(files.items())]
    with mounted(made, root, cache=cache) as at:
        proxy.fail_by(Fault("GET", "answer", times=None))
        command = ["python3", "-c", READER, str(at.path)]
        readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        eventually(lambda: proxy.count("GET") >= 6, 60)
        assert all(reader.poll() is None for reader in readers)
        proxy.fail_by(*(Fault("GET", "answer", skip=2 * turn) for turn in range(10)))
        assert [reader.communicate(timeout=120)[0].split() for reader in readers] == [right] * 4
        assert all(reader.returncode == 0 for reader in readers)
        assert proxy.count("GET") > 20
        assert at.numbers()["errors"] == 0


def test_a_file_that_is_deleted_while_it_is_open_ends_in_an_error(
    make: MakeStore, root: Path, cache: Path
) -> None:
    data = content_of(12 * 2**20)  # more than is read ahead at first
    fill(make, {"data": data, "here": LARGE[: 2 * 2**20], "beside": b"beside"})
    with mounted(make, root, cache=cache) as made:
        assert (made.path / "here").read_bytes() == LARGE[: 2 * 2**20]
        with (made.path / "data").open("rb", buffering=0) as file:
            seen = file.read(10)
            with closing(make()) as store:
                store.delete(ObjectName("data"))
                store.delete(ObjectName("here"))
            with pytest.raises(OSError) as e:
                while piece := file.read(2**20):
                    seen += piece
        assert e.value.errno == errno.ESTALE
        assert len(seen) < len(data)
        assert data.startswith(seen)
        # What is here stays readable, as the mount is pinned, and others are none the worse for it.
        assert (made.path / "here").read_bytes() == LARGE[: 2 * 2**20]
        assert (made.path / "beside").read_bytes() == b"beside"


def test_a_disk_that_becomes_full_costs_no_reader_anything(
    azurite: Azurite, container: ContainerClient, root: Path, tmp_path: Path
) -> None:
    made = blobs(azurite, container)
    files = {f"{number}": content_of(2 * 2**20 + number) for number in range(4)}
    files |= {f"small/{number}": content_of(50_000 + number) for number in range(20)}
    fill(made, files)
    disk = tmp_path / "disk"
    disk.mkdir()
    # A mount leaves 256 MiB free.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=320m", "tmpfs", disk], check=True)
    try:
        for _ in range(2):
            with mounted(made, root, cache=disk / "cache", cache_bytes=2**30) as at:
                assert (at.path / "0").read_bytes() == files["0"]
                assert cached(disk / "cache")
                with contextlib.suppress(OSError), (disk / "filling").open("ab") as filling:
                    while True:  # somebody else's
                        filling.write(bytes(2**20))
                assert os.statvfs(disk).f_bavail == 0
                assert tree(at.path) == files
                assert at.numbers()["errors"] == 0
        (disk / "filling").unlink()
        with mounted(made, root, cache=disk / "cache", cache_bytes=2**30) as at:
            assert tree(at.path) == files
    finally:
        subprocess.run(["umount", disk], check=True)


# -- the whole ----------------------------------------------------------------------------------------


def indices(cache: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes().partition(b"\n")[0]) for path in cache.rglob("*.index")]


def is_verified(cache: Path) -> bool:
    found = indices(cache)
    return bool(found) and all(one["verified"] for one in found)


def test_what_was_read_whole_is_compared_with_the_md5_of_the_service(
    make: MakeStore, root: Path, cache: Path
) -> None:
    """Once for each version: the next mount knows that it was, and what it was compared with."""
    fill(make, {"data": LARGE})
    with closing(make()) as store:
        has_digest = store.capabilities.stores_digest
    with mounted(make, root, cache=cache) as made:
        assert (made.path / "data").read_bytes() == LARGE
        if has_digest:
            eventually(lambda: is_verified(cache))
        assert made.numbers()["errors"] == 0
    (found,) = indices(cache)
    digest = hashlib.md5(LARGE).hexdigest() if has_digest else None  # a local folder keeps none
    assert (found["digest"], found["verified"]) == (digest, has_digest)
    with mounted(make, root, cache=cache) as made:
        assert (made.path / "data").read_bytes() == LARGE
        assert made.numbers()["bytes_fetched"] == 0
    assert indices(cache) == [found]


def test_what_a_mount_had_no_time_to_compare_the_next_one_does(
    azurite: Azurite, container: ContainerClient, root: Path, cache: Path
) -> None:
    made = blobs(azurite, container)
    fill(made, {"data": LARGE})
    with mounted(made, root, cache=cache) as at:
        assert (at.path / "data").read_bytes() == LARGE
    assert [one["verified"] for one in indices(cache)] == [False]
    with mounted(made, root, cache=cache) as at, (at.path / "data").open("rb"):
        eventually(lambda: is_verified(cache))


def test_a_large_file_that_came_damaged_is_an_error_from_then_on(
    azurite: Azurite, container: ContainerClient, proxy: FaultyProxy, root: Path, cache: Path
) -> None:
    made = through(azurite, container, proxy)
    fill(made, {"large": LARGE, "other": LARGE[::-1]})
    proxy.fail_by(Fault("GET .*large", "change", change=one_bit_is_another))
    with mounted(made, root, cache=cache) as at:
        assert (at.path / "other").read_bytes() == LARGE[::-1]
        seen = (at.path / "large").read_bytes()
        assert len(seen) == len(LARGE)
        assert seen != LARGE  # which nobody could know before all of it was here
        with (at.path / "large").open("rb", buffering=0) as before:
            eventually(lambda: "another MD5" in at.log.read_text())
            eventually(lambda: errno_of_open(at.path / "large") == errno.EIO)
            assert (
                before.read() == b""
            )  # the kernel had the file itself, which has nothing in it any more
        assert errno_of((at.path / "large").read_bytes) == errno.EIO
        assert at.numbers()["errors"] == 1
        assert (at.path / "other").read_bytes() == LARGE[::-1]
        assert [path.stat().st_size for path in cached(cache) if path.stat().st_size >= BLOCK] == [
            len(LARGE)
        ]
    with mounted(made, root, cache=cache) as at:
        assert (at.path / "large").read_bytes() == LARGE
        eventually(lambda: is_verified(cache) and len(indices(cache)) == 2)


def one_bit_is_another(reply: Reply) -> Reply:
    return Reply(reply.status, reply.headers, bytes([reply.body[0] ^ 1]) + reply.body[1:])


def errno_of_open(path: Path) -> int:
    try:
        path.open("rb").close()
    except OSError as error:
        return error.errno or 0
    return 0


def test_a_damaged_cache_is_no_damaged_file(
    azurite: Azurite, container: ContainerClient, root: Path, cache: Path
) -> None:
    """What the disk changed before the whole was compared is fetched again, and is then what it should be."""
    made = blobs(azurite, container)
    fill(made, {"data": LARGE})
    with mounted(made, root, cache=cache) as at:
        assert (at.path / "data").read_bytes() == LARGE
    (large,) = [path for path in cached(cache) if path.stat().st_size == len(LARGE)]
    with large.open("r+b") as file:
        file.seek(BLOCK + 5)
        file.write(b"damaged")
    with mounted(made, root, cache=cache) as at:
        with (at.path / "data").open("rb") as file:
            time.sleep(1.5)  # so that it may be compared
            assert file.read() == LARGE
        eventually(lambda: is_verified(cache))
        assert (at.path / "data").read_bytes() == LARGE
        numbers = at.numbers()
        assert (numbers["errors"], 0 < numbers["bytes_fetched"] <= 2 * BLOCK) == (0, True)


def test_a_block_that_comes_with_another_content_is_compared_again(tmp_path: Path) -> None:
    space, content = Space(tmp_path, 2**30), content_of(2 * BLOCK)
    blocks = Blocks(space, "0" * 64, ObjectInfo("x", 2 * BLOCK, "etag"))
    try:
        for block in range(2):
            assert blocks.keep(block, memoryview(content)[block * BLOCK :][:BLOCK])
        blocks.note_verified()
        blocks.evict(("0" * 64, 1))
        assert not blocks.is_whole
        blocks.keep(1, memoryview(content)[BLOCK:])
        assert blocks.is_verified
        blocks.evict(("0" * 64, 1))
        blocks.keep(1, memoryview(bytes(BLOCK)))
        assert not blocks.is_verified
    finally:
        blocks.close()
        space.close()


def test_a_mount_whose_cache_cannot_be_made_has_none(
    azurite: Azurite, container: ContainerClient, root: Path, tmp_path: Path
) -> None:
    made = blobs(azurite, container)
    fill(made, {"data": LARGE, "small": b"small"})
    (tmp_path / "file").write_bytes(b"no folder")
    with mounted(made, root, cache=tmp_path / "file/cache") as at:
        assert tree(at.path) == {"data": LARGE, "small": b"small"}
        assert "There is no cache" in at.log.read_text()
