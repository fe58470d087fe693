"""One kept connection of HTTP/1.1: a request is sent, and its answer received into the caller's memory."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar, overload

from prefect_datastores.errors import IntegrityError, ServiceBusy

_HEAD_ROOM = 64 * 1024
_BODY_LIMIT = 256 * 2**20  # of a body that is kept whole: a page of a listing, an error
_JOINED = 16 * 1024  # a body up to this length is sent with its head in one go
_SLICE = 64 * 1024
_IDLE_SECONDS = 45.0  # services and the proxies before them close what is idle for longer
_NO_BODY = {204, 304}
_END = b"\r\n\r\n"
_VERSIONS = ("HTTP/1.1 ", "HTTP/1.0 ")

Other = TypeVar("Other")


class Headers(Mapping[str, str]):
    """The headers of an answer by name in lower case; of two with one name the last counts.

    A header is looked for when it is asked for: an answer has twenty, of which three are.
    """

    __slots__ = ("_lower", "_text")

    def __init__(self, text: str) -> None:
        """Take a head without its end."""
        # Latin-1 has no character whose lower case is longer, so that places are the same in both.
        self._text, self._lower = text, text.lower()

    def __getitem__(self, name: str) -> str:
        mark = f"\r\n{name}:"
        found = self._lower.rfind(mark)
        if found < 0:
            raise KeyError(name)
        start = found + len(mark)
        end = self._text.find("\r\n", start)
        return self._text[start : end if end >= 0 else None].strip()

    def __contains__(self, name: object) -> bool:
        return f"\r\n{name}:" in self._lower

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, /, default: str | Other) -> str | Other: ...
    def get(self, name: str, /, default: str | Other | None = None) -> str | Other | None:
        """Return a header, or the default where there is none."""
        return self[name] if f"\r\n{name}:" in self._lower else default

    def __iter__(self) -> Iterator[str]:
        lines = self._lower.split("\r\n")[1:]
        return iter(dict.fromkeys(line.partition(":")[0] for line in lines if ":" in line))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Head(NamedTuple):
    """The status and headers of an answer."""

    status: int
    headers: Headers
    version: str


class Answer(NamedTuple):
    """A whole answer; `body` is empty where it went into the caller's memory."""

    status: int
    headers: Headers
    body: bytes


Receive = Callable[[Head], "memoryview | None"]
"""Says, knowing the head, which memory takes the body; None has it returned as `Answer.body`."""


class ClosedEarly(Exception):
    """The other side closed the connection before it answered anything."""


class Connection:
    """One socket, and the memory into which heads are received."""

    def __init__(self, sock: socket.socket, stall: float) -> None:
        self._socket, self._plain = sock, not isinstance(sock, ssl.SSLSocket)
        if self._plain:
            # The kernel's own timeout: with Python's each call would be two.
            sock.setblocking(True)
            limit = struct.pack("ll", int(stall), int(stall % 1 * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        else:
            sock.settimeout(stall)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._room = bytearray(_HEAD_ROOM)
        self._view = memoryview(self._room)
        self._at = self._end = 0  # what was received and not yet taken
        self._used = time.monotonic()
        self._refused = False

    def is_usable(self) -> bool:
        """Tell whether the other side still keeps it, and has sent nothing that nobody asked for."""
        if time.monotonic() - self._used > _IDLE_SECONDS:
            return False
        return not self._poll.poll(0) or (not self._plain and self._has_tickets_only())

    def _has_tickets_only(self) -> bool:
        """Tell whether what came is TLS's own, as the session tickets of a new connection are; read it."""
        stall = self._socket.gettimeout()
        self._socket.settimeout(0)
        try:
            self._socket.recv(1)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        finally:
            self._socket.settimeout(stall)
        return False

    def interrupt(self) -> None:
        """Wake the thread that waits for it, which then finds it at its end."""
        with contextlib.suppress(OSError):
            # Not `SSLSocket.shutdown`: it goes on without TLS, under the thread that uses it.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def send(self, head: bytes, body: bytes | memoryview) -> None:
        """Send a request; its answer is received before the next one is sent."""
        self._at = self._end = 0
        self._refused = False
        try:
            self._send(head, body)
        except (BrokenPipeError, ConnectionResetError):
            self._refused = (
                True  # a service that refuses a request may say why before it has all of it
            )

    def receive(self, method: str, receive: Receive | None) -> tuple[Answer, bool]:
        """Return the answer to the request that was sent, and whether the connection can take another."""
        status, headers, version = answered = self._read_head()
        while status < 200:  # noqa: PLR2004 - 1xx: the answer itself follows
            status, headers, version = answered = self._read_head()
        content = b""
        keep = not self._refused
        if method != "HEAD" and status not in _NO_BODY:
            content = self._read_body(headers, receive(answered) if receive else None)
            keep = keep and _has_end(headers)
        self._used = time.monotonic()
        keep = keep and self._at == self._end and version == "HTTP/1.1"
        keep = keep and headers.get("connection", "").lower() != "close"
        return Answer(status, headers, content), keep

    def _send(self, head: bytes, body: bytes | memoryview) -> None:
        if not body:
            self._socket.sendall(head)
        elif self._plain:
            done = self._socket.sendmsg((head, body))
            if done < len(head):
                self._socket.sendall(head[done:])
                done = len(head)
            if done < len(head) + len(body):
                self._socket.sendall(memoryview(body)[done - len(head) :])
        elif len(body) <= _JOINED:
            self._socket.sendall(head + bytes(body))
        else:
            self._socket.sendall(head)
            view = memoryview(body)
            # Slices, because Python's timeout is for all of a call, however well it goes on.
            for at in range(0, len(view), _SLICE):
                self._socket.sendall(view[at : at + _SLICE])

    def _receive(self, into: memoryview) -> int:
        """Receive some bytes, or 0 at the end; as many as there is room for where that is quick."""
        try:
            if self._plain and len(into) > _HEAD_ROOM:
                return self._socket.recv_into(into, 0, socket.MSG_WAITALL)
            return self._socket.recv_into(into)
        except BlockingIOError:  # how a kernel's timeout shows
            raise TimeoutError from None
        except ssl.SSLEOFError:
            return 0

    def _more(self) -> int:
        """Receive more behind what is there already."""
        if self._at == self._end:
            self._at = self._end = 0
        elif self._end == len(self._room):
            if self._at == 0:
                raise IntegrityError("An answer has a head, or a line, that is far too long.")
            rest = self._room[self._at : self._end]
            self._room[: len(rest)], self._at, self._end = rest, 0, len(rest)
        got = self._receive(self._view[self._end :] if self._end else self._view)
        self._end += got
        return got

    def _until(self, mark: bytes) -> bytes:
        """Return what comes before `mark`, and step over it."""
        seen = self._at
        while (found := self._room.find(mark, seen, self._end)) < 0:
            waiting = self._end - self._at
            if not self._more():
                if waiting:
                    raise ServiceBusy("The connection broke in the middle of an answer.")
                raise ClosedEarly
            seen = max(self._at, self._at + waiting - len(mark) + 1)
        taken = bytes(self._room[self._at : found])
        self._at = found + len(mark)
        return taken

    def _read_head(self) -> Head:
        try:
            text = self._until(_END).decode("latin-1")
        except ConnectionResetError:
            raise ClosedEarly from None
        if not text.startswith(_VERSIONS) or not text[9:12].isdecimal():
            shown = text.partition("\r\n")[0][:40]
            raise IntegrityError(f"What answered does not speak HTTP/1.1: {shown!r}.")
        return Head(int(text[9:12]), Headers(text), text[:8])

    def _read_body(self, headers: Mapping[str, str], target: memoryview | None) -> bytes:
        """Return the body, or nothing once it is in `target`, which it has to fill."""
        announced = headers.get("content-length")
        if announced is not None and "transfer-encoding" not in headers:
            length = _length(announced)
            if target is None:
                if not length:
                    return b""
                _check_length(length)
                content = bytearray(length)
                self._fill(memoryview(content))
                return bytes(content)
            _expect(length, target)
            self._fill(target)
            return b""
        content = self._read_chunks() if _has_end(headers) else self._read_rest()
        if target is None:
            return bytes(content)
        _expect(len(content), target)
        target[:] = content
        return b""

    def _fill(self, target: memoryview) -> None:
        known = min(self._end - self._at, len(target))
        if known:
            target[:known] = self._view[self._at : self._at + known]
            self._at += known
        while known < len(target):
            got = self._receive(target[known:])
            if not got:
                raise ServiceBusy(f"A body ended after {known} of {len(target)} bytes.")
            known += got

    def _read_chunks(self) -> bytearray:
        content = bytearray()
        try:
            while size := int(self._until(b"\r\n").partition(b";")[0], 16):
                start = len(content)
                _check_length(start + size)
                content += bytes(size)
                with memoryview(content) as view:
                    self._fill(view[start:])
                self._until(b"\r\n")
        except ValueError:
            raise IntegrityError("A body came in chunks of no length.") from None
        while self._until(b"\r\n"):  # trailers
            pass
        return content

    def _read_rest(self) -> bytearray:
        content = bytearray()
        while self._at < self._end or self._more():
            content += self._room[self._at : self._end]
            self._at = self._end
            _check_length(len(content))
        return content


def _has_end(headers: Mapping[str, str]) -> bool:
    """Tell whether a body says itself where it ends; otherwise the connection ends with it."""
    return "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower()


def _length(announced: str) -> int:
    if not announced.isdecimal():
        raise IntegrityError(f"An answer announces a length of {announced[:20]!r}.")
    return int(announced)


def _check_length(length: int) -> None:
    if length > _BODY_LIMIT:
        raise IntegrityError(f"An answer has {length} bytes or more, which is far too many.")


def _expect(length: int, target: memoryview) -> None:
    if length != len(target):
        raise IntegrityError(f"{length} bytes came where {len(target)} were asked for.")
