"""Time of reading data through a mount, beside `rclone mount`, `fsspec.fuse` and plain local files, in one run.

    make venv fuse && .venv/bin/python benchmarks/mounts.py [--write] [--latency 0 20]

All mount what `standin.c` has on the same cores. Each line is one program (dd, tar, ls, find, or a few
lines of Python) that reads a fresh mount ("cold") or what was read before ("warm"); rclone is tuned as its
manual says for reading. `fsspec.fuse` is over adlfs, with mfusepy in the place of fusepy, which knows
libfuse 2 alone; it is installed into `.tools/bench` and needs libfuse 3. "local" is the same program over
plain files. Needs root, or `fusermount3`.
`--write` puts the table into `RESULTS.md`.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]
import results  # noqa: E402
from transfer import (  # noqa: E402
    ACCOUNT,
    CONTAINER,
    KEY,
    TOOLS,
    environment,
    make,
    prepare,
    python_of,
    run,
    standin,
    versions,
)

from prefect_datastores.mounting.mount import mount  # noqa: E402
from prefect_datastores.mounting.talk import Wanted  # noqa: E402
from prefect_datastores.stores.blob import BlobStore  # noqa: E402

MIB = 2**20
LARGE, MANY = 1024 * MIB, 10_000
RATE = 60  # MiB a second of each connection, where there is latency
MOST, SHORTER = 300.0, {"fsspec": 20.0}
FSSPEC = "fsspec-fuse"
"""The environment of fsspec.fuse."""

MOUNTED_BY_FSSPEC = """
import sys
import mfusepy
sys.modules["fuse"] = mfusepy
from adlfs import AzureBlobFileSystem
from fsspec.fuse import run
run(AzureBlobFileSystem(connection_string=sys.argv[1]), sys.argv[2], sys.argv[3])
"""
RANDOM = """
import os, random, sys
path, size, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
fd = os.open(path, os.O_RDONLY)
length, chosen = os.fstat(fd).st_size, random.Random(1)
for _ in range(count):
    assert len(os.pread(fd, size, chosen.randrange(0, length - size))) == size
"""
MAPPED = """
import mmap, os, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
    total = sum(memory[at] for at in range(0, len(memory), 4096))
"""
SHUFFLED = """
import os, random, sys
from concurrent.futures import ThreadPoolExecutor
folder = sys.argv[1]
names = sorted(os.listdir(folder))[:1000]
random.Random(1).shuffle(names)
def read(name):
    with open(os.path.join(folder, name), "rb") as file:
        return len(file.read())
with ThreadPoolExecutor(4) as threads:
    assert sum(threads.map(read, names)) == 4096 * len(names)
"""


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def shell(text: str) -> list[str]:
    return ["sh", "-c", text]


Program = Callable[[Path], list[str]]
ON_LARGE: dict[str, Program] = {
    "1 GiB in order, cold": lambda at: ["dd", f"if={at}/000000.bin", "of=/dev/null", "bs=1M"],
    "1 GiB in order, again": lambda at: ["dd", f"if={at}/000000.bin", "of=/dev/null", "bs=1M"],
    "1 GiB by 4 streams, warm": lambda at: shell(
        "".join(
            f"dd if={at}/000000.bin of=/dev/null bs=1M count=256 skip={skip} & "
            for skip in (0, 256, 512, 768)
        )
        + "wait"
    ),
    "20,000 x 4 KiB at random, warm": lambda at: python(RANDOM, at / "000000.bin", 4096, 20_000),
    "2,000 x 128 KiB at random, warm": lambda at: python(RANDOM, at / "000000.bin", 2**17, 2000),
    "1 GiB mapped, warm": lambda at: python(MAPPED, at / "000000.bin"),
}
ON_LARGE_SMALL: dict[str, Program] = {
    "100 x 4 KiB at random, cold": lambda at: python(RANDOM, at / "000000.bin", 4096, 100)
}
ON_LARGE_MIDDLE: dict[str, Program] = {
    "100 x 128 KiB at random, cold": lambda at: python(RANDOM, at / "000000.bin", 2**17, 100)
}
ON_LARGE_MAPPED: dict[str, Program] = {
    "1 GiB mapped, cold": lambda at: python(MAPPED, at / "000000.bin")
}
ON_MANY_NAMES: dict[str, Program] = {
    "find in 10,000, cold": lambda at: ["find", str(at), "-type", "f", "-size", "+1k"],
    "find in 10,000, again": lambda at: ["find", str(at), "-type", "f", "-size", "+1k"],
}
ON_MANY: dict[str, Program] = {
    "ls -l of 10,000, cold": lambda at: ["ls", "-lR", str(at)],
    "ls -l of 10,000, again": lambda at: ["ls", "-lR", str(at)],
    "tar of 10,000 x 4 KiB, cold": lambda at: shell(f"tar -C {at} -cf - . | cat > /dev/null"),
    "tar of 10,000 x 4 KiB, again": lambda at: shell(f"tar -C {at} -cf - . | cat > /dev/null"),
}
ON_MANY_FRESH: dict[str, Program] = {
    "1,000 of 10,000 x 4 KiB by 4 readers in random order, cold": lambda at: python(SHUFFLED, at)
}
GROUPS = (
    ("large", ON_LARGE),
    ("large", ON_LARGE_SMALL),
    ("large", ON_LARGE_MIDDLE),
    ("large", ON_LARGE_MAPPED),
    ("many", ON_MANY_NAMES),
    ("many", ON_MANY),
    ("many", ON_MANY_FRESH),
)
ABOUT = f"""\
Against `benchmarks/standin.c` on the same cores. Cold is a new mount with an empty cache; what is called "again" or
"warm" follows it on the same mount, in the order of the table. With latency, each connection has {RATE} MiB/s. "-" is a
program that took longer than {MOST:.0f} s, with fsspec {SHORTER["fsspec"]:.0f} s, or failed. `ours` is `as_mount()` as it comes; rclone
mounts with `--vfs-cache-mode full`, read-ahead and 16 chunk streams. `fsspec.fuse` is over adlfs, as both come, with
mfusepy. "local" are plain files, which know no latency."""
HEADER = """\
| latency | work | ours | rclone mount | fsspec.fuse | local | ours / rclone | ours / fsspec | ours / local |
|---|---|---|---|---|---|---|---|---|"""


@contextmanager
def ours(port: str, name: str, scratch: Path) -> Iterator[Path]:
    """Mount by this package."""
    url = f"http://127.0.0.1:{port}/{ACCOUNT}"
    opened = functools.partial(BlobStore, url, CONTAINER, account_name=ACCOUNT, account_key=KEY)
    wanted = Wanted(opened, name, "bench", cache_root=scratch / "cache", cache_bytes=4 * 2**30)
    made = mount(wanted, scratch / "mounts")
    try:
        yield made.path
    finally:
        made.unmount()
        shutil.rmtree(scratch / "cache")


@contextmanager
def rclone(port: str, name: str, scratch: Path) -> Iterator[Path]:
    """Mount by rclone, as its manual says for reading."""
    point, cache = scratch / "rclone", scratch / "rclone-cache"
    point.mkdir()
    options = [
        *("--read-only", "--vfs-cache-mode", "full", "--cache-dir", str(cache)),
        *("--vfs-read-ahead", "64M", "--vfs-read-chunk-streams", "16"),
        *("--vfs-read-chunk-size", "4M", "--buffer-size", "16M", "--transfers", "64"),
        *("--dir-cache-time", "24h", "--attr-timeout", "24h", "--vfs-fast-fingerprint"),
        *("--max-read-ahead", "1M", "--async-read"),
    ]
    program = str(TOOLS / "venv/bin/rclone")
    serving = subprocess.Popen(
        [program, "mount", f"az:{CONTAINER}/{name}", str(point), *options],
        env=environment("rclone", port, scratch),
    )
    try:
        while not os.path.ismount(point):
            assert serving.poll() is None, "rclone ended"
            time.sleep(0.05)
        yield point
    finally:
        serving.terminate()
        serving.wait()
        point.rmdir()
        shutil.rmtree(cache, ignore_errors=True)


@contextmanager
def fsspec(port: str, name: str, scratch: Path) -> Iterator[Path]:
    """Mount by fsspec, over adlfs."""
    point = scratch / "fsspec"
    point.mkdir()
    where = f"http://127.0.0.1:{port}/{ACCOUNT}"
    given = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={where};"
    serving = subprocess.Popen(
        [python_of(FSSPEC), "-c", MOUNTED_BY_FSSPEC, given, f"{CONTAINER}/{name}", str(point)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not os.path.ismount(point):
            assert serving.poll() is None, "fsspec.fuse ended"
            time.sleep(0.05)
        yield point
    finally:
        subprocess.run(["fusermount3", "-u", "-z", str(point)], check=True)
        serving.terminate()
        serving.wait()
        point.rmdir()


def install_fsspec() -> None:
    """Install fsspec.fuse and what it needs, unless it is there."""
    ready = TOOLS / FSSPEC / "ready"
    if not ready.exists():
        venv.create(TOOLS / FSSPEC, with_pip=True, clear=True)
        pip = [python_of(FSSPEC), "-m", "pip", "install", "-q", "adlfs", "mfusepy"]
        subprocess.run(pip, check=True)
        ready.touch()


def versions_of_fsspec() -> str:
    """Name the versions of what mounts by fsspec."""
    asked = "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in ('fsspec', 'mfusepy')), sep=', ')"
    told = subprocess.run(
        [python_of(FSSPEC), "-c", asked], check=True, capture_output=True, text=True
    )
    return told.stdout.strip()


@contextmanager
def local(_: str, name: str, scratch: Path) -> Iterator[Path]:
    """Use plain files."""
    yield scratch / name


CLIENTS = {"ours": ours, "rclone": rclone, "fsspec": fsspec, "local": local}


def seconds_of(command: list[str], client: str) -> float | None:
    """Return what a program takes; None where that is too long, or a peer's mount failed it."""
    began = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # In a session of its own: a shell that is ended leaves those that it started.
    running = subprocess.Popen(command, start_new_session=True, **quiet)
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        os.killpg(running.pid, signal.SIGKILL)

    # Not by `wait(timeout)`, which looks every 50 ms.
    clock = threading.Timer(SHORTER.get(client, MOST), stop)
    clock.start()
    code = running.wait()
    took = time.perf_counter() - began
    clock.cancel()
    if stopped.is_set():
        return None
    assert code == 0 or client == "fsspec", command
    return took if code == 0 else None


def measure(scratch: Path, latencies: list[int], clients: list[str], only: str) -> list[str]:
    """Return the lines of the table, of those clients and of the programs that have `only` in their title."""
    lines = [HEADER]
    make(scratch / "large", 1, LARGE)
    make(scratch / "many", MANY, 4096)
    for latency in latencies:
        with standin(latency, RATE if latency else 0) as port:
            for name in ("large", "many"):
                run("ours", "up", port, scratch / name, name, scratch)
            for name, every in GROUPS:
                programs = {title: program for title, program in every.items() if only in title}
                took: dict[str, dict[str, float | None]] = {title: {} for title in programs}
                for client in clients if programs else ():
                    with CLIENTS[client](port, name, scratch) as at:
                        for title, program in programs.items():
                            took[title][client] = seconds_of(program(at), client)
                lines += [_line(latency, title, found) for title, found in took.items()]
                print(*lines[len(lines) - len(took) :], sep="\n", flush=True)
    return lines


def _line(latency: int, title: str, took: dict[str, float | None]) -> str:
    mine = took.get("ours")

    def ratio(other: float | None) -> str:
        return f"{mine / other:.2f}" if mine and other else "-"

    others = [took.get(client) for client in CLIENTS if client != "ours"]
    shown = [f"{one:.2f}" if one else "-" for one in (mine, *others)]
    cells = [f"{latency} ms", title, *shown, *map(ratio, others)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, and write it where that is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--latency", nargs="+", type=int, default=[0, 20])
    parser.add_argument("--clients", nargs="+", choices=list(CLIENTS), default=list(CLIENTS))
    parser.add_argument("--only", default="", help="programs with this in their title")
    given = parser.parse_args()
    prepare()
    install_fsspec()
    memory = Path("/dev/shm")
    made = results.made_by(
        ".venv/bin/python benchmarks/mounts.py", f"{versions()}, {versions_of_fsspec()}"
    )
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as scratch:
        table = "\n".join(measure(Path(scratch), given.latency, given.clients, given.only))
    if given.write:
        results.write("mounts", "Mounts beside `rclone mount`", f"{made}\n\n{ABOUT}\n\n{table}")


if __name__ == "__main__":
    main()
