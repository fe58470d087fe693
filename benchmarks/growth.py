"""Cost as work grows: planning, downloading and uploading 1,000 to 1,000,000 tiny objects.

    .venv/bin/python benchmarks/growth.py [--write] [--most N] [--only plan down up]

Each line is a process of its own, against the stand-in server, whose containers of copies hold a
million objects without having them. Time and CPU are of the work alone, without imports; memory is
the peak of the whole process, and what the work added to it. Files are in memory where the machine
has /dev/shm. `--write` puts the table into `RESULTS.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import results
from peers import ACCOUNT, KEY
from transfer import ROOT, prepare, standin

SIZES = (1_000, 10_000, 100_000, 1_000_000)
MOST = {"plan": 1_000_000, "down": 1_000_000, "up": 100_000}
LENGTH = 64
ABOUT = """\
Each line is a process of its own, against `benchmarks/standin.c` on the same cores, all files in memory. Time and CPU
are of the work, without imports; memory is the peak of the process, and what the work added to it. Downloads are made
without the cache."""

HEADER = """\
| work | objects | seconds | microseconds an object | CPU microseconds an object | peak MiB | added MiB |
|---|---|---|---|---|---|---|"""


def child(work: str, port: str, count: int, folder: Path) -> None:
    """Do one line of the table in this process, and print what it took."""
    from prefect_datastores import AccountKey, AzureBlobDatastore
    from prefect_datastores.staging.download import DownloadRequest, plan

    store = AzureBlobDatastore(
        account_name=ACCOUNT,
        container_name="uploads" if work == "up" else f"copies-{count}",
        auth=AccountKey(account_key=KEY),
        protocol="http",
        endpoint=f"127.0.0.1:{port}",
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began, cpu = time.perf_counter(), time.process_time()
    if work == "plan":
        with store.open_store() as opened:
            plan(opened, folder, DownloadRequest())
    elif work == "down":
        store.download(folder, overwrite="replace", cache=False, show_progress=False)
    else:
        store.upload(folder, "data", overwrite="replace", show_progress=False)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - began,
                "cpu": time.process_time() - cpu,
                "before": before,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


def line(work: str, port: str, count: int, folder: Path) -> str:
    """Run one line in a process of its own, and return it."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", work, port, str(count), str(folder)],
        check=False,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PREFECT_HOME": str(folder.parent / "prefect"),
        },
    )
    if done.returncode:
        print(done.stderr[-800:], file=sys.stderr)
        return f"| {work} | {count:,} | failed | | | | |"
    took = json.loads(done.stdout.splitlines()[-1])
    each, cpu = took["seconds"] / count * 1e6, took["cpu"] / count * 1e6
    return (
        f"| {work} | {count:,} | {took['seconds']:.2f} | {each:.0f} | {cpu:.0f} | {took['peak']:.0f} "
        f"| {took['peak'] - took['before']:.0f} |"
    )


def plant(port: str) -> None:
    """Put the object that all copies are of."""
    sys.path.insert(0, str(ROOT))
    from prefect_datastores.stores.blob import BlobStore
    from prefect_datastores.testing import content_of, put

    store = BlobStore(f"http://127.0.0.1:{port}/{ACCOUNT}", "pattern", account_key=KEY)
    put(store, "pattern", content_of(LENGTH))
    store.close()


def make(folder: Path, count: int) -> None:
    """Write files, a thousand in each folder."""
    for number in range(count):
        place = folder / f"{number // 1000:06}"
        if not number % 1000:
            place.mkdir(parents=True)
        (place / f"{number % 1000:03}.bin").write_bytes(b"%064d" % number)


def measure(given: argparse.Namespace, scratch: Path) -> Iterator[str]:
    """Give the lines of the table."""
    for work in given.only:
        with standin(0, 0) as port:
            plant(port)
            for count in [one for one in SIZES if one <= min(given.most, MOST[work])]:
                folder = scratch / "files"
                if work == "up":
                    make(folder, count)
                yield line(work, port, count, folder)
                shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Print the table, and write it where that is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--most", type=int, default=SIZES[-1], help="largest number of objects")
    parser.add_argument("--only", nargs="+", choices=[*MOST], default=[*MOST])
    given = parser.parse_args()
    prepare(peers=False)
    made = results.made_by(
        ".venv/bin/python benchmarks/growth.py", f"objects of {LENGTH} bytes, no added latency,"
    )
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    print(f"{made}\n\n{HEADER}", flush=True)
    lines = []
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        for one in measure(given, Path(folder)):
            print(one, flush=True)
            lines.append(one)
    if given.write:
        results.write(
            "growth", "Cost as work grows", "\n".join([made, "", ABOUT, "", HEADER, *lines])
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
    else:
        main()
