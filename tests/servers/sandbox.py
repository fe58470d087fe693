"""Runs a piece of Python in a process of its own: on a small disk, without root's rights, killed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[2] / "prefect_datastores"

# A mount in a mount namespace of its own: it is gone with the process, however that ends. Defines
# `mount_small_disk(folder)`, which raises OSError where nothing may be mounted.
TMPFS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUSER, REC_PRIVATE = 0x20000, 0x10000000, 0x4000 | 0x40000
uid, gid = os.getuid(), os.getgid()
def checked(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def write(name, text):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
def mount_small_disk(folder):
    if uid:
        checked(libc.unshare(NEWNS | NEWUSER))
        write("setgroups", "deny"); write("uid_map", f"0 {uid} 1"); write("gid_map", f"0 {gid} 1")
    else:
        checked(libc.unshare(NEWNS))
    checked(libc.mount(None, b"/", None, REC_PRIVATE, None))
    checked(libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=8m"))
"""

# What a process may write to one file; nobody has to allow this.
_FILE_SIZE_LIMIT = (
    "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8 * 2**20, 8 * 2**20))\n"
)

SMALL_DISKS = {
    "tmpfs": f"{TMPFS}try:\n    mount_small_disk(folder)\nexcept OSError:\n    {_FILE_SIZE_LIMIT}",
    "file size limit": _FILE_SIZE_LIMIT,
}
"""Ways to have room for 8 MiB only, run before the script; `folder` names the place."""

WITHOUT_ROOT = """
import os
if not os.getuid():
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
"""
"""Run after the imports, which another user may not be able to read."""

# The package's own `__init__` imports Prefect, which takes seconds; the engines know no Prefect.
_HEAD = """
import json, os, signal, sys, types
from pathlib import Path
sys.modules["prefect_datastores"] = types.ModuleType("prefect_datastores")
sys.modules["prefect_datastores"].__path__ = [sys.argv[1]]
folder = Path(sys.argv[2])
def tell(**facts):
    print(json.dumps(facts), flush=True)
def wait():
    print("ready", flush=True)
    sys.stdin.readline()
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def start(script: str, folder: Path, *more: str) -> "subprocess.Popen[str]":
    """Start a script; it has `folder`, `tell(**facts)` and `die()`."""
    return subprocess.Popen(
        [sys.executable, "-c", _HEAD + script, str(_PACKAGE), str(folder), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]", timeout: float = 60) -> dict[str, Any]:
    """Return what the script told; a script that fails fails the test with its traceback."""
    told, complaint = process.communicate(timeout=timeout)
    assert process.returncode == 0, complaint
    return json.loads(told)


def run_together(script: str, folder: Path, *arguments: tuple[str, ...]) -> list[dict[str, Any]]:
    """Run a script once for each of the arguments, at once; each calls `wait()` first."""
    processes = [start(script, folder, *more) for more in arguments]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [finish(process) for process in processes]


def run(script: str, folder: Path, *more: str, timeout: float = 60) -> dict[str, Any]:
    """Run a script to its end."""
    return finish(start(script, folder, *more), timeout)


def run_until_killed(script: str, folder: Path) -> None:
    """Run a script that ends by `die()`, which no handler and no `finally` survives."""
    process = start(script, folder)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == -9, complaint
