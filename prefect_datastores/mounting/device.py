"""`/dev/fuse`: mounting and unmounting, as root by the kernel's own calls, else by `fusermount3`."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from prefect_datastores.errors import MountError, MountUnavailable

DEVICE = Path("/dev/fuse")
KIND = "fuse.prefect-datastores"
_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MNT_DETACH = 2
_FUSERMOUNT_SECONDS = 10.0


def fault() -> str | None:
    """Say why nothing can be mounted here, and what mends it; None where it can. Nothing is mounted."""
    if sys.platform != "linux":
        return f"mounting needs Linux, and this is {sys.platform}."
    if not DEVICE.exists():
        return (
            f"{DEVICE} is missing. On a machine of your own: `modprobe fuse`. In Docker: `--device /dev/fuse --cap-add "
            "SYS_ADMIN`; in Kubernetes: a privileged container, or a device plugin that gives /dev/fuse."
        )
    if not _may_mount() and not _fusermount():
        return (
            "this user may not mount, and `fusermount3`, which mounts for users, is not installed. Debian and "
            "Ubuntu: `apt-get install fuse3`. In Docker as root: `--cap-add SYS_ADMIN`."
        )
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return (
            f"{DEVICE} cannot be opened ({error.strerror}). In a container: `--device /dev/fuse`; elsewhere it is open "
            f"to all, and `chmod 666 {DEVICE}` makes it so."
        )
    return None


def probe() -> str | None:
    """Say the same after trying it: some containers have the device and the right, and forbid the call."""
    reason = fault()
    if reason is not None:
        return reason
    with tempfile.TemporaryDirectory(prefix="pds-probe-") as folder:
        point = Path(folder).resolve() / "mnt"
        point.mkdir()
        try:
            os.close(mount(point, source="probe"))
        except MountUnavailable as error:
            return str(error)
        finally:
            with contextlib.suppress(MountError):
                unmount(point, detach=True)
    return None


def _may_mount() -> bool:
    """Tell whether this process has CAP_SYS_ADMIN."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> 21 & 1)
    return False


def _fusermount() -> str | None:
    return shutil.which("fusermount3")


def mount(point: Path, *, source: str, read_only: bool = True) -> int:
    """Mount at an empty folder, and return the descriptor by which the file system is served.

    Raises:
        MountUnavailable: it cannot be done here; the message says why.
    """
    reason = fault()
    if reason is not None:
        raise MountUnavailable(f"Nothing can be mounted at {point}: {reason}")
    if not _may_mount():
        return _by_fusermount(point, source, read_only=read_only)
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if read_only else 0)
    mode = stat.S_IFMT(point.stat().st_mode)
    options = f"fd={fd},rootmode={mode:o},user_id={os.getuid()},group_id={os.getgid()},default_permissions"
    try:
        _call("mount", source.encode(), bytes(point), KIND.encode(), flags, options.encode())
    except OSError as error:
        os.close(fd)
        hint = (
            " The container has CAP_SYS_ADMIN, but its profile forbids it: `--security-opt apparmor=unconfined`."
            if error.errno in {errno.EACCES, errno.EPERM}
            else ""
        )
        raise MountUnavailable(
            f"Nothing can be mounted at {point}: {error.strerror}.{hint}"
        ) from error
    return fd


def _by_fusermount(point: Path, source: str, *, read_only: bool) -> int:
    """Have the set-uid program of libfuse mount, and take the descriptor that it sends."""
    program = _fusermount()
    assert program is not None, "Looked for before."
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    # A comma parts options, unless a backslash stands before it.
    named = source.replace("\\", "\\\\").replace(",", "\\,")
    options = f"fsname={named},subtype=prefect-datastores,default_permissions,nosuid,nodev"
    options += ",ro" if read_only else ""
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", options, "--", str(point)],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            timeout=_FUSERMOUNT_SECONDS,
            check=False,
        )
        theirs.close()
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise MountUnavailable(f"Nothing can be mounted at {point}: {said}.")
        fds = array.array("i")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(fds.itemsize))
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: fds.itemsize])
    if not fds:
        raise MountUnavailable(
            f"Nothing can be mounted at {point}: fusermount3 sent no descriptor."
        )
    os.set_inheritable(fds[0], False)
    return int(fds[0])


def unmount(point: Path, *, detach: bool = False) -> bool:
    """Unmount; False where it is in use. With `detach` it is gone at once, and ends with its last user.

    Nothing mounted there is fine.

    Raises:
        MountError: it cannot be unmounted.
    """
    if not is_mounted(point):
        return True
    try:
        if _may_mount():
            _call("umount2", bytes(point), _MNT_DETACH if detach else 0)
            return True
        return _unmounted_by_fusermount(point, detach=detach)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        if error.errno == errno.EINVAL:  # somebody else was faster
            return True
        raise MountError(f"{point} cannot be unmounted: {error.strerror}.") from error


def _unmounted_by_fusermount(point: Path, *, detach: bool) -> bool:
    program = _fusermount() or "fusermount3"
    lazily = ["-z"] if detach else []
    done = subprocess.run(
        [program, "-u", *lazily, "--", str(point)],
        capture_output=True,
        timeout=_FUSERMOUNT_SECONDS,
        check=False,
    )
    if done.returncode and is_mounted(point):
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        if "busy" in said.lower():
            return False
        raise MountError(f"{point} cannot be unmounted: {said}.")
    return True


def is_mounted(point: Path) -> bool:
    """Tell whether a file system of this package is mounted at a folder, served or not."""
    # mountinfo writes blanks as \040; asking the folder itself would hang or fail where nobody serves it.
    wanted = (
        str(point)
        .replace("\\", "\\134")
        .replace(" ", "\\040")
        .replace("\t", "\\011")
        .replace("\n", "\\012")
    )
    with contextlib.suppress(OSError):
        for line in (
            Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            fields, _, more = line.partition(" - ")
            if fields.split(" ")[4] == wanted and more.startswith(KIND):
                return True
    return False


def _call(name: str, *arguments: bytes | int) -> None:
    """Call a function of the C library that sets errno."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
