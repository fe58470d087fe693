"""Programs and libraries of other people read a mount, and get what the source has, byte by byte or value by value."""

from __future__ import annotations

import random
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from mounted import blob, fill, mounted, run
from small_stores import make_tree, tree

from prefect_datastores.mounting.talk import MakeStore
from prefect_datastores.testing import content_of

__all__ = ["blob"]

THREADS = 4


def stored(make: MakeStore, source: Path) -> None:
    fill(
        make,
        {
            path.relative_to(source).as_posix(): path.read_bytes()
            for path in source.rglob("*")
            if path.is_file()
        },
    )


def test_rsync_copies_a_mount_and_finds_nothing_more_to_copy(
    blob: MakeStore, tmp_path: Path
) -> None:
    files = {
        "large.bin": content_of(3 * 2**20 + 12_345),
        "empty": b"",
        "names/blank and ümlaut.txt": b"name",
        **{f"many/{number:03}": content_of(1000 + number) for number in range(100)},
    }
    source = make_tree(tmp_path / "source", files)
    stored(blob, source)
    copied = tmp_path / "copied"
    with mounted(blob, tmp_path / "mounts", cache=tmp_path / "cache") as made:
        run("rsync", "-a", f"{made.path}/", copied)
        assert tree(copied) == files
        # By size and time, and by the content of each.
        for more in ((), ("--checksum",)):
            told = run("rsync", "-ai", *more, f"{made.path}/", copied)
            assert told == "", told
        # Of a file that differs only the part that does is written, by rsync's own sums of the mounted one.
        damaged = bytearray(files["large.bin"])
        damaged[2**20] ^= 1
        (copied / "large.bin").write_bytes(damaged)
        run("rsync", "-a", "--checksum", "--no-whole-file", f"{made.path}/", copied)
        assert tree(copied) == files
        # And as what is to be written to, where there would be nothing to do.
        assert run("rsync", "-rin", "--checksum", "--delete", f"{source}/", made.path) == ""


def test_hdf5_is_read_by_value_and_by_chunk(blob: MakeStore, tmp_path: Path) -> None:
    chosen = np.random.default_rng(7)
    plain = chosen.integers(0, 2**31, 300_000)
    packed = chosen.random((400, 1000))
    source = tmp_path / "source"
    source.mkdir()
    with h5py.File(source / "data.h5", "w") as file:
        file["plain"] = plain
        file.create_dataset("group/packed", data=packed, chunks=(40, 100), compression="gzip")
        file["group"].attrs["unit"] = "m/s"
    stored(blob, source)
    with mounted(blob, tmp_path / "mounts", cache=tmp_path / "cache") as made:
        path = made.path / "data.h5"
        assert path.read_bytes()[:4] == b"\x89HDF"
        with h5py.File(path, "r") as file:
            assert file["group"].attrs["unit"] == "m/s"
            assert np.array_equal(file["group/packed"][120:130, ::7], packed[120:130, ::7])
            assert np.array_equal(file["group/packed"][:], packed)
            assert np.array_equal(file["plain"][5::1000], plain[5::1000])
            assert np.array_equal(file["plain"][:], plain)
    with mounted(blob, tmp_path / "mounts") as made, h5py.File(made.path / "data.h5") as file:
        # In whatever order, with nothing kept on the disk.
        for row in random.Random(7).sample(range(400), 40):
            assert np.array_equal(file["group/packed"][row], packed[row])


@pytest.mark.parametrize("has_cache", [True, False])
def test_parquet_is_read_by_threads(blob: MakeStore, tmp_path: Path, has_cache: bool) -> None:
    chosen = np.random.default_rng(7)
    rows = 200_000
    table = pa.table(
        {
            "number": np.arange(rows),
            "value": chosen.random(rows),
            "name": [f"name {number % 1000}" for number in range(rows)],
        }
    )
    source = tmp_path / "source"
    source.mkdir()
    pq.write_table(table, source / "whole.parquet", row_group_size=10_000)
    pq.write_to_dataset(
        table.append_column("day", pa.array(np.arange(rows) % 5)),
        source / "days",
        partition_cols=["day"],
    )
    stored(blob, source)
    before = pa.cpu_count(), pa.io_thread_count()
    pa.set_cpu_count(THREADS)
    pa.set_io_thread_count(THREADS)
    try:
        cache = tmp_path / "cache" if has_cache else None
        with mounted(blob, tmp_path / "mounts", cache=cache) as made:
            path = made.path / "whole.parquet"
            assert path.stat().st_size > 2**20
            found = pq.read_table(path, use_threads=True, pre_buffer=True)
            assert found.equals(table)
            assert pq.read_table(path, columns=["value"], memory_map=True).equals(
                table.select(["value"])
            )
            with pq.ParquetFile(path) as file:
                assert file.read_row_group(17).equals(table.slice(170_000, 10_000))
            days = ds.dataset(made.path / "days", partitioning="hive")
            read = days.to_table(filter=ds.field("day") == 3, use_threads=True)
            assert read.sort_by("number")["value"].equals(
                table.filter(np.arange(rows) % 5 == 3)["value"]
            )
    finally:
        pa.set_cpu_count(before[0])
        pa.set_io_thread_count(before[1])
