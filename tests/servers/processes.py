"""Servers that run as child processes while the tests run."""

import ctypes
import http.client
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

_PR_SET_PDEATHSIG = 1
# Looked up before any fork, after which little is safe to do.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

# What this process started, and so can stop. A worker knows the servers too, but started none.
_children: dict[int, subprocess.Popen[bytes]] = {}


class ServerError(Exception):
    """A server died, or was not ready in time."""


def free_port() -> int:
    """A port that nothing listens on now.

    It is not one of the ports that the system hands to outgoing connections: one of those could
    be taken by a client before the server, which needs seconds to start, asks for it.
    """
    for _ in range(100):
        port = random.randint(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise ServerError("no port is free between 20000 and 32000")


@dataclass(frozen=True)
class Server:
    """A server, as the process that started it and the test workers know it."""

    pid: int
    log: str
    probe: str
    """An address that answers once the server is ready, where it speaks HTTP."""

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        probe: str = "",
        log: Path,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> "Server":
        """Start it, and do not wait for it.

        Call this in the main thread: Linux ends the server with the thread that started it.
        """
        with log.open("wb") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                user=user,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  one system call, looked up before
            )
        _children[child.pid] = child
        return cls(child.pid, str(log), probe)

    def wait_until_ready(self, timeout: float = 90) -> None:
        """Return once it answers; raise ServerError, with the end of its log, if it never does."""
        deadline = time.monotonic() + timeout
        while not _answers(self.probe):
            if not self._is_running():
                raise ServerError(f"The server died early. Its log ends:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"No answer for {timeout} s. Its log ends:\n{self._log_tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it and what it started."""
        child = _children.pop(self.pid)
        for sent in (signal.SIGTERM, signal.SIGKILL):
            if child.poll() is None:
                os.killpg(child.pid, sent)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                continue
            return

    def _is_running(self) -> bool:
        try:
            return bool(psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def _log_tail(self) -> str:
        return "\n".join(Path(self.log).read_text(errors="replace").splitlines()[-30:])


def _die_with_parent() -> None:
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _answers(url: str) -> bool:
    address = urlsplit(url)
    connection = (
        http.client.HTTPSConnection(
            address.netloc, timeout=2, context=ssl._create_unverified_context()
        )
        if address.scheme == "https"
        else http.client.HTTPConnection(address.netloc, timeout=2)
    )
    try:
        connection.request("GET", address.path)
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
