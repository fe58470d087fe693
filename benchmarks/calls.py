"""What one request of each kind costs this process, without the engine and its files.

    .venv/bin/python benchmarks/calls.py [--calls N]

One thread asks the stand-in server again and again. Both are held on one core where the system lets
them: between two cores that have nothing else to do, waking the other side costs more than the
request, and not the same every time.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peers import ACCOUNT, CONTAINER, KEY
from transfer import ROOT, prepare, standin

sys.path.insert(0, str(ROOT))
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.base import Writing
from prefect_datastores.stores.blob import BlobStore

MIB = 2**20
SMALL, LARGE, LISTED = 4096, 4 * MIB, 5000


def measured(call: Callable[[int], object], calls: int) -> tuple[float, float]:
    """Return the microseconds and CPU microseconds of a call."""
    call(0)
    began, cpu = time.perf_counter(), time.process_time()
    for number in range(calls):
        call(number)
    used = time.process_time() - cpu
    return (time.perf_counter() - began) / calls * 1e6, used / calls * 1e6


def kinds(store: BlobStore) -> dict[str, tuple[Callable[[int], object], int]]:
    """Return each kind of request, and what share of the calls it is made."""
    data = memoryview(os.urandom(LARGE))
    into = memoryview(bytearray(LARGE))
    names = [ObjectName(f"data/{number:06}.bin") for number in range(LISTED)]

    def put(name: ObjectName, size: int) -> str:
        writing = store.begin_write(name, size)
        writing.write_part(0, 0, data[:size])
        return writing.commit(digests[size]).etag

    digests = {
        n: hashlib.md5(data[:n], usedforsecurity=False).digest() for n in (SMALL, MIB, LARGE)
    }
    etags = [put(name, SMALL) for name in names]
    wholes = {size: (name := ObjectName(f"{size}"), put(name, size)) for size in (MIB, LARGE)}
    blocks: Writing = store.begin_write(ObjectName("blocks"), 2 * LARGE)

    def read(number: int) -> None:
        at = number % LISTED
        store.read_into(names[at], 0, into[:SMALL], pin=etags[at])

    def write(number: int) -> None:
        at = number % LISTED
        etags[at] = put(names[at], SMALL)

    def read_whole(size: int) -> Callable[[int], object]:
        name, etag = wholes[size]
        return lambda _: store.read_into(name, 0, into[:size], pin=etag)

    return {
        "read 4 KiB": (read, 1),
        "write 4 KiB": (write, 1),
        "look (HEAD)": (lambda number: store.head(names[number % LISTED]), 1),
        "read 1 MiB": (read_whole(MIB), 10),
        "read 4 MiB": (read_whole(LARGE), 50),
        "write 1 MiB": (lambda _: put(ObjectName("1"), MIB), 50),
        "write a block of 4 MiB": (lambda _: blocks.write_part(0, 0, data), 100),
        f"list {LISTED:,}": (lambda _: store.list_page("data/"), 200),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=10_000)
    given = parser.parse_args()
    prepare(peers=False)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print("| request | microseconds | CPU microseconds |\n|---|---|---|")
    with standin(0, 0) as port:
        store = BlobStore(f"http://127.0.0.1:{port}/{ACCOUNT}", CONTAINER, account_key=KEY)
        for kind, (call, share) in kinds(store).items():
            wall, cpu = measured(call, max(10, given.calls // share))
            print(f"| {kind} | {wall:.0f} | {cpu:.0f} |", flush=True)


if __name__ == "__main__":
    main()
