"""Waits until a run's process is gone, and becomes what makes good what that left, if it left anything.

Run as a program of its own (`python -I -S watcher.py FD PID`), with nothing but the standard library,
in a session of its own: a worker that cancels a run signals the whole process group of the run, and
one that is stopped kills it. FD is the reading end of a pipe that the process PID holds open. The
first line on it says, as JSON, which note stands there while something would be left, and which
command to become; by the pipe, because it has the environment in which the server can be reached.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys


def main(arguments: list[str]) -> None:
    """Wait, and become the command if the note is there still."""
    lifeline, parent = int(arguments[0]), int(arguments[1])
    said = b""
    while True:
        ready, _, _ = select.select([lifeline], [], [], 1.0)
        if ready:
            came = os.read(lifeline, 65536)
            said += came
            if not came:
                break
        elif os.getppid() != parent:  # a process that it forked holds the pipe open
            break
    with contextlib.suppress(ValueError, FileNotFoundError):
        wanted = json.loads(said)
        os.stat(wanted["note"])  # noqa: PTH116 - pathlib takes 20 ms to import
        os.execve(wanted["command"][0], wanted["command"], wanted["environment"])  # noqa: S606 - there is no shell


if __name__ == "__main__":
    main(sys.argv[1:])
