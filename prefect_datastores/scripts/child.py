"""Starts a script under the guard, hands on its output line by line, and tells how it ended."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Literal

from prefect_datastores.errors import ConfigurationError, ScriptFailed, TransferCancelled
from prefect_datastores.scripts import guard

Stream = Literal["stdout", "stderr"]
_TAIL_LINES = 20
_LONGEST_LINE = 64 * 1024
_STOP_SECONDS = 8.0  # more than the guard's own grace

# What signs this process in somewhere is not the script's to see; `environment_variables` of the
# Estimator hands on what a script needs.
_WITHHELD = re.compile(
    r"PREFECT_\w*(?:KEY|TOKEN|SECRET|PASSWORD|AUTH_STRING|HEADERS|CONNECTION_URL)"
    r"|AZURE_(?:CLIENT_SECRET|CLIENT_CERTIFICATE_PASSWORD|PASSWORD)"
    r"|AZURE_STORAGE_(?:KEY|CONNECTION_STRING|SAS_TOKEN)"
)


def script_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without what signs it in, and with `variables`."""
    inherited = {key: value for key, value in os.environ.items() if not _WITHHELD.fullmatch(key)}
    return {**inherited, "PYTHONUNBUFFERED": "1", **variables}


def run_script(
    command: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str],
    on_line: Callable[[Stream, str], None],
    stop_requested: Callable[[], bool],
    seconds: float | None = None,
) -> None:
    """Run a command to its end; nothing of it runs any more when this returns or raises.

    Every line of its output is given to `on_line`, from two threads.

    Raises:
        ScriptFailed: it ended with another code than 0, or took longer than `seconds`.
        TransferCancelled: `stop_requested` said so.
    """
    reading, writing = os.pipe()
    lifeline = _Lifeline(writing)
    tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(reading), "--", *command],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=[reading],
        )
    except OSError as error:
        lifeline.cut()
        raise ConfigurationError(
            f"The script cannot be started in {directory}: {error.strerror}."
        ) from error
    finally:
        os.close(reading)
    readers = [
        _reader("stdout", process.stdout, on_line, None),
        _reader("stderr", process.stderr, on_line, tail),
    ]
    try:
        _wait(process, stop_requested, seconds)
    finally:
        lifeline.cut()
        _make_sure(process)
        for reader in readers:
            reader.join(_STOP_SECONDS)
    if process.returncode:
        raise _failure(command, process.returncode, tuple(tail))


class _Lifeline:
    """The end of the pipe whose closing ends the script."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def cut(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _wait(
    process: subprocess.Popen[bytes], stop_requested: Callable[[], bool], seconds: float | None
) -> None:
    until = time.monotonic() + seconds if seconds else None
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
            return
        if stop_requested():
            raise TransferCancelled("The script was stopped because its run was cancelled.")
        if until and time.monotonic() > until:
            raise ScriptFailed(
                f"The script ran longer than max_run_duration_seconds={seconds:g} and was stopped.",
                exit_code=-1,
            )


def _make_sure(process: subprocess.Popen[bytes]) -> None:
    """Wait for the guard; kill its group should it hang, or have been killed itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    if process.returncode is None or process.returncode < 0:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reader(
    stream: Stream,
    pipe: IO[bytes] | None,
    on_line: Callable[[Stream, str], None],
    tail: collections.deque[str] | None,
) -> threading.Thread:
    def read() -> None:
        if pipe is None:
            return
        with pipe:
            while raw := pipe.readline(_LONGEST_LINE):
                # Of a line that a progress bar wrote over, the last state counts.
                line = raw.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]
                if tail is not None:
                    tail.append(line)
                on_line(stream, line)

    thread = threading.Thread(target=read, name=f"pds-{stream}", daemon=True)
    thread.start()
    return thread


def _failure(command: Sequence[str], code: int, tail: tuple[str, ...]) -> ScriptFailed:
    how = f"exit code {code}"
    number = code - 128 if code > 128 else -code  # noqa: PLR2004 - a shell's way to tell a signal
    with contextlib.suppress(ValueError):
        if number > 0:
            how += f" ({signal.Signals(number).name}{', often: out of memory' if number == signal.SIGKILL else ''})"
    shown = "\n  ".join(tail) if tail else "(it wrote nothing to stderr)"
    script = next((part for part in command if part.endswith(".py")), command[0])
    return ScriptFailed(
        f"The script {Path(script).name} failed with {how}. The end of its stderr:\n  {shown}",
        exit_code=code,
        tail=tail,
    )
