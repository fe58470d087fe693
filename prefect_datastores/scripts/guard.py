"""Stands between a run and its script, and ends the script when the run is gone.

Run as a program of its own (`python -I -S guard.py FD -- COMMAND...`), with nothing but the
standard library, in a session of its own: a worker that cancels a run signals the whole process
group of the run, and a kill -9 of the run signals nobody. FD is the reading end of a pipe that the
run holds open; its end means that the script has to go, because the run says so or is no more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time

_GRACE_SECONDS = 5.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def _prctl(option: int, value: int) -> None:
    """Ask the kernel for help where it is Linux; elsewhere the pipe alone has to do."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _descendants() -> list[int]:
    """Return all processes below this one, those included that left its group or their parent."""
    children: dict[int, list[int]] = {}
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - pathlib takes 20 ms to import
    except OSError:
        return []
    for pid in pids:
        with contextlib.suppress(OSError, IndexError, ValueError):
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
                fields = file.read().rpartition(b")")[2].split()
            if fields[0] != b"Z":
                children.setdefault(int(fields[1]), []).append(pid)
    found, todo = [], [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _signal_all(number: int) -> None:
    for pid in _descendants():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _end(script: subprocess.Popen[bytes]) -> None:
    """Ask everything below to end, and kill what has not when the grace is over."""
    if sys.platform != "linux":
        os.killpg(0, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            script.wait(_GRACE_SECONDS)
        os.killpg(0, signal.SIGKILL)
    _signal_all(signal.SIGTERM)
    until = time.monotonic() + _GRACE_SECONDS
    while _descendants() and time.monotonic() < until:
        script.poll()
        time.sleep(0.02)
    while _descendants():
        _signal_all(signal.SIGKILL)
        script.poll()
        time.sleep(0.02)


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code, or 128 and the signal that ended it."""
    lifeline, command = int(arguments[0]), arguments[2:]
    parent = os.getppid()
    # A handler, not SIG_IGN: what is ignored stays ignored in the script.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    script = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        # This process has one thread here, so code between fork and exec is safe.
        preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
    )
    over_read, over_write = os.pipe()

    def wait() -> None:
        script.wait()
        os.write(over_write, b".")

    threading.Thread(target=wait, daemon=True).start()
    while True:
        ready, _, _ = select.select([lifeline, over_read], [], [], 1.0)
        if over_read in ready:
            break
        if lifeline in ready or os.getppid() != parent:
            _end(script)
            break
    code = script.wait()
    if _descendants():  # what the script left running would hold its output open
        _end(script)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
