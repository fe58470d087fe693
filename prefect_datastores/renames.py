"""A name that nobody has is given in one step, or two names take each other's place, where the system can do that."""

from __future__ import annotations

import ctypes
import errno
import os

_NO_REPLACE, _EXCHANGE = 1, 2  # linux/fs.h: RENAME_NOREPLACE, RENAME_EXCHANGE
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


def exchange(one: str, one_directory: int, other: str, other_directory: int) -> None:
    """Give each of two names what the other one had; nobody sees anything between.

    Raises:
        OSError: it was not done; ENOSYS where the system has no such call, EINVAL where the disk has not.
    """
    _rename(one, one_directory, other, other_directory, _EXCHANGE)


def rename_to_new(name: str, directory: int, to: str, to_directory: int) -> bool:
    """Give a file another name in one step where nothing has it; tell whether the system can do that.

    Raises:
        FileExistsError: something has the name.
        OSError: it was not done for another reason.
    """
    try:
        _rename(name, directory, to, to_directory, _NO_REPLACE)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def can_exchange(directory: int, one: str, other: str) -> bool:
    """Tell by doing it whether two names in a directory can be exchanged; both exist."""
    try:
        exchange(one, directory, other, directory)
    except OSError:
        return False
    return True


def _rename(one: str, one_directory: int, other: str, other_directory: int, flag: int) -> None:
    call = _renameat2()
    if call(one_directory, os.fsencode(one), other_directory, os.fsencode(other), flag):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _renameat2() -> ctypes._NamedFuncPointer:
    library = ctypes.CDLL(None, use_errno=True)
    try:
        call = library.renameat2  # glibc 2.28, musl 1.2.6; macOS has none
    except AttributeError:
        raise OSError(errno.ENOSYS, "the system cannot exchange two names") from None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return call
