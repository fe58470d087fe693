"""What the kernel and a file system say to each other over `/dev/fuse`, as bytes. Pure.

Numbers and shapes are those of `include/uapi/linux/fuse.h`, version 7.40 (Linux 6.9).
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from typing import NamedTuple

MAJOR, MINOR, OLDEST_MINOR = 7, 40, 31

# Requests.
LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK = 8, 9, 10, 11, 12, 13
OPEN, READ, WRITE, STATFS, RELEASE, FSYNC = 14, 15, 16, 17, 18, 20
SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT = 21, 22, 23, 24, 25, 26
OPENDIR, READDIR, RELEASEDIR, FSYNCDIR = 27, 28, 29, 30
ACCESS, CREATE, INTERRUPT, DESTROY, BATCH_FORGET = 34, 35, 36, 38, 42
FALLOCATE, READDIRPLUS, RENAME2, LSEEK, COPY_FILE_RANGE = 43, 44, 45, 46, 47

# What is agreed upon at the beginning.
ASYNC_READ, BIG_WRITES = 1 << 0, 1 << 5
DO_READDIRPLUS = 1 << 13
PARALLEL_DIROPS, MAX_PAGES, INIT_EXT = 1 << 18, 1 << 22, 1 << 30
EXPLICIT_INVAL_DATA, PASSTHROUGH = 1 << 25, 1 << 37

# How a file is opened.
KEEP_CACHE, CACHE_DIR, NOFLUSH, PASSTHROUGH_OPEN = 1 << 1, 1 << 3, 1 << 5, 1 << 7

# Requests to the device itself: _IOW(229, 1, struct fuse_backing_map), _IOW(229, 2, uint32_t).
BACKING_OPEN, BACKING_CLOSE = 0x4010E501, 0x4004E502

LARGEST_READ = 2**20
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SECTOR = 512

_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_INIT_IN = struct.Struct("<IIII")
_INIT_IN_2 = struct.Struct("<I")
_INIT_OUT = struct.Struct("<IIIIHHIIHHIIH22x")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_ATTR_OUT = struct.Struct("<QII")
_OPEN_IN = struct.Struct("<II")
_OPEN_OUT = struct.Struct("<QIi")
_READ_IN = struct.Struct("<QQIIQII")
_HANDLE_IN = struct.Struct("<Q")  # with which RELEASE, FLUSH and FSYNC begin
_FORGET_IN = struct.Struct("<Q")
_BATCH_IN = struct.Struct("<II")
_ONE_FORGET = struct.Struct("<QQ")
_WRITE_IN = struct.Struct("<QQIIQII")
_WRITE_OUT = struct.Struct("<II")
_SETATTR_IN = struct.Struct("<IIQQQQQQIIIIIIII")
_MKNOD_IN = struct.Struct("<IIII")
_MKDIR_IN = struct.Struct("<II")
_RENAME_IN = struct.Struct("<Q")
_RENAME2_IN = struct.Struct("<QII")
_CREATE_IN = struct.Struct("<IIII")
_FALLOCATE_IN = struct.Struct("<QQQII")
_SET_MODE, _SET_OWNER, _SET_GROUP, _SET_SIZE, _SET_MODIFIED = 1, 2, 4, 8, 32
_SET_MODIFIED_NOW = 256
_DIRENT = struct.Struct("<QQII")
_STATFS = struct.Struct("<QQQQQIII4x24x")
BACKING_MAP = struct.Struct("<iIQ")

HEADER, REPLY = _IN.size, _OUT.size
FOREVER = 10**9
"""Seconds for which the kernel may believe what cannot change."""


class Request(NamedTuple):
    """One question of the kernel; `body` is what comes after the header."""

    opcode: int
    unique: int
    node: int
    pid: int
    body: memoryview


class Attributes(NamedTuple):
    """What `stat` tells of a file or folder; times are in seconds since the epoch."""

    node: int
    mode: int
    size: int
    modified: float
    links: int = 1
    owner: int = 0
    group: int = 0


class Read(NamedTuple):
    """A range of an open file that is asked for."""

    handle: int
    offset: int
    size: int


class Change(NamedTuple):
    """Attributes that are to be other ones; None stays as it is."""

    size: int | None = None
    mode: int | None = None
    owner: int | None = None
    group: int | None = None
    modified: float | None = None


def request_of(buffer: memoryview) -> Request:
    """Return the request that a read of the device gave."""
    length, opcode, unique, node, _, _, pid, _, _ = _IN.unpack_from(buffer)
    return Request(opcode, unique, node, pid, buffer[HEADER:length])


def reply(unique: int, size: int = 0, error: int = 0) -> bytes:
    """Return the head of an answer; `error` is an errno."""
    return _OUT.pack(REPLY + size, -error, unique)


def init_of(body: memoryview) -> tuple[int, int, int, int]:
    """Return the kernel's major and minor version, its read-ahead, and what it can do."""
    major, minor, ahead, flags = _INIT_IN.unpack_from(body)
    more = _INIT_IN_2.unpack_from(body, _INIT_IN.size)[0] if flags & INIT_EXT else 0
    return major, minor, ahead, flags | more << 32


def init_reply(minor: int, flags: int, *, background: int, stack_depth: int) -> bytes:
    """Return what the file system takes of it."""
    return _INIT_OUT.pack(
        MAJOR,
        min(minor, MINOR),
        LARGEST_READ,
        flags & 0xFFFFFFFF,
        background,
        background * 3 // 4,
        LARGEST_READ,
        1,  # times are told to the nanosecond
        LARGEST_READ // _PAGE,
        0,
        flags >> 32,
        stack_depth,
        0,
    )


def _attributes(of: Attributes) -> bytes:
    seconds = int(of.modified)
    part = int((of.modified - seconds) * 1e9)
    return _ATTR.pack(
        of.node,
        of.size,
        -(-of.size // _SECTOR),
        *(seconds, seconds, seconds, part, part, part),
        *(of.mode, of.links, of.owner, of.group),
        0,
        _PAGE,
        0,
    )


def attr_reply(of: Attributes, valid: int) -> bytes:
    """Return what `stat` asks for; the kernel may believe it for so many seconds."""
    return _ATTR_OUT.pack(valid, 0, 0) + _attributes(of)


def entry_reply(of: Attributes | None, valid: int) -> bytes:
    """Return what stands under a name; None says for as long that nothing does."""
    if of is None:
        return _ENTRY.pack(0, 0, valid, 0, 0, 0) + bytes(_ATTR.size)
    return _ENTRY.pack(of.node, 0, valid, valid, 0, 0) + _attributes(of)


def name_of(body: memoryview) -> bytes:
    """Return the name that is asked for."""
    return bytes(body).partition(b"\0")[0]


def open_flags_of(body: memoryview) -> int:
    """Return how a file is to be opened, as for open(2)."""
    return int(_OPEN_IN.unpack_from(body)[0])


def open_reply(handle: int, flags: int, backing: int = 0) -> bytes:
    """Return an open file; `backing` is what the kernel reads instead of asking."""
    return _OPEN_OUT.pack(handle, flags, backing)


def read_of(body: memoryview) -> Read:
    """Return the range that is asked for."""
    handle, offset, size, _, _, _, _ = _READ_IN.unpack_from(body)
    return Read(handle, offset, size)


def write_of(body: memoryview) -> tuple[Read, memoryview]:
    """Return the range of an open file that is written, and with what."""
    handle, offset, size, _, _, _, _ = _WRITE_IN.unpack_from(body)
    begin = _WRITE_IN.size
    return Read(handle, offset, size), body[begin : begin + size]


def write_reply(size: int) -> bytes:
    """Return how much was written."""
    return _WRITE_OUT.pack(size, 0)


def change_of(body: memoryview, now: float) -> Change:
    """Return which attributes are to be other ones."""
    valid, _, _, size, _, _, modified, _, _, part, _, mode, _, owner, group, _ = (
        _SETATTR_IN.unpack_from(body)
    )
    when = now if valid & _SET_MODIFIED_NOW else modified + part / 1e9
    return Change(
        size if valid & _SET_SIZE else None,
        mode if valid & _SET_MODE else None,
        owner if valid & _SET_OWNER else None,
        group if valid & _SET_GROUP else None,
        when if valid & _SET_MODIFIED else None,
    )


def made_of(request: Request) -> tuple[bytes, int]:
    """Return the name and the mode of what is to be made."""
    shape = {MKNOD: _MKNOD_IN, MKDIR: _MKDIR_IN, CREATE: _CREATE_IN}[request.opcode]
    fields = shape.unpack_from(request.body)
    return name_of(request.body[shape.size :]), fields[1 if request.opcode == CREATE else 0]


def renamed_of(request: Request) -> tuple[bytes, int, bytes, int]:
    """Return the name that goes, the folder and the name that come, and flags as of renameat2(2)."""
    shape = _RENAME2_IN if request.opcode == RENAME2 else _RENAME_IN
    fields = shape.unpack_from(request.body)
    old, new, _ = bytes(request.body[shape.size :]).split(b"\0", 2)
    return old, fields[0], new, fields[1] if len(fields) > 1 else 0


def allocated_of(body: memoryview) -> tuple[Read, int]:
    """Return a range of an open file for which room is wanted, and the mode of fallocate(2)."""
    handle, offset, size, mode, _ = _FALLOCATE_IN.unpack_from(body)
    return Read(handle, offset, size), mode


def handle_of(body: memoryview) -> int:
    """Return the open file that is closed, or to be stored."""
    return int(_HANDLE_IN.unpack_from(body)[0])


def forgotten(request: Request) -> Sequence[tuple[int, int]]:
    """Return how many lookups of which nodes the kernel gives back."""
    if request.opcode == FORGET:
        return [(request.node, _FORGET_IN.unpack_from(request.body)[0])]
    count, _ = _BATCH_IN.unpack_from(request.body)
    begin = _BATCH_IN.size
    pairs = request.body[begin : begin + count * _ONE_FORGET.size]
    return list(_ONE_FORGET.iter_unpack(pairs))


def line_length(name: bytes, *, plus: bool) -> int:
    """Return how long one line of a folder is, which may have attributes in it."""
    size = _DIRENT.size + len(name)
    return size + -size % 8 + (_ENTRY.size + _ATTR.size if plus else 0)


def directory_entry(node: int, offset: int, name: bytes, mode: int) -> bytes:
    """Return one line of a folder; the next one is asked for by `offset`."""
    size = _DIRENT.size + len(name)
    padding = -size % 8
    return _DIRENT.pack(node, offset, len(name), stat.S_IFMT(mode) >> 12) + name + bytes(padding)


def directory_entry_plus(of: Attributes, offset: int, name: bytes, valid: int) -> bytes:
    """Return the same with what `stat` would tell, which counts as a lookup."""
    return entry_reply(of, valid) + directory_entry(of.node, offset, name, of.mode)


def directory_entry_known(of: Attributes, offset: int, name: bytes) -> bytes:
    """Return a line among those with attributes that is no lookup: `.` and `..`."""
    nothing = bytes(_ENTRY.size + _ATTR.size)
    return nothing + directory_entry(of.node, offset, name, of.mode)


def directory_entry_gone(offset: int, name: bytes, mode: int) -> bytes:
    """Return a line among those with attributes for what was there when the folder was opened."""
    return directory_entry_known(Attributes(0xFFFFFFFF, mode, 0, 0.0), offset, name)


def statfs_reply(total: int, free: int, files: int) -> bytes:
    """Return how large the file system is, in bytes."""
    return _STATFS.pack(total // _PAGE, free // _PAGE, free // _PAGE, files, 0, _PAGE, 255, _PAGE)
