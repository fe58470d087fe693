"""Prefect's own local server, for as long as the demo runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from prefect_datastores.errors import DatastoreError

PORT = 4242
_START_SECONDS = 120.0  # the first start makes the database, which takes 20 s on two slow cores


@contextlib.contextmanager
def local_server(home: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Run a server whose database is below `home`; give its UI, and the environment of its clients.

    Raises:
        DatastoreError: it does not start; the message has the end of its log.
    """
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "prefect",
                "server",
                "start",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            env=_environment(home, address),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # In a session of its own, so that Ctrl-C ends a run before it ends the server; nobody but this
    # process ends it then, which SIGTERM alone would not let it do.
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        _wait_until_ready(server, address, log)
        yield address, {**_own_environment(home), "PREFECT_API_URL": f"{address}/api"}
    finally:
        _stop(server)
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _own_environment(home: Path) -> dict[str, str]:
    """Return this process's environment without the Prefect, server or database, that it may name."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return {**inherited, "PREFECT_HOME": str(home)}


def _environment(home: Path, address: str) -> dict[str, str]:
    return {
        **_own_environment(home),
        # The pages ask port 4200 otherwise, whatever `--port` says.
        "PREFECT_UI_API_URL": f"{address}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }


def _free_port() -> int:
    for wanted in (PORT, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", wanted))
            return int(probe.getsockname()[1])
    raise DatastoreError("No port of this machine is free.")


def _wait_until_ready(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(f"{address}/api/health", timeout=2).close()  # noqa: S310 - our own
            return
        time.sleep(0.2)
    raise DatastoreError(
        f"Prefect's server did not start:\n{log.read_text(errors='replace')[-2000:]}"
    )


def _stop(server: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
            return
