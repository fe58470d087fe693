"""Two names of one disk take each other's place in one step, where the system can do that."""

from __future__ import annotations

import ctypes
import errno
import os

_EXCHANGE = 2  # linux/fs.h: RENAME_EXCHANGE


def exchange(one: str, one_directory: int, other: str, other_directory: int) -> None:
    """Give each of two names what the other one had; nobody sees anything between.

    Raises:
        OSError: it was not done; ENOSYS where the system has no such call, EINVAL where the disk has not.
    """
    call = _renameat2()
    if call(one_directory, os.fsencode(one), other_directory, os.fsencode(other), _EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def can_exchange(directory: int, one: str, other: str) -> bool:
    """Tell by doing it whether two names in a directory can be exchanged; both exist."""
    try:
        exchange(one, directory, other, directory)
    except OSError:
        return False
    return True


def _renameat2() -> ctypes._NamedFuncPointer:
    library = ctypes.CDLL(None, use_errno=True)
    try:
        call = library.renameat2  # glibc 2.28, musl 1.2.6; macOS has none
    except AttributeError:
        raise OSError(errno.ENOSYS, "the system cannot exchange two names") from None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return call
