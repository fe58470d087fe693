"""HTTP/1.1 to one host over kept connections, one request at a time on each, from many threads.

The requests of a transfer are many and alike, so this does only what they need: a head is split
and not parsed as mail, and a body goes from the socket into the caller's own memory. Nothing is
tried again here (`retry.py` does), no redirect is followed (it would carry a signature elsewhere),
and no body is decoded.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from prefect_datastores.errors import (
    ConfigurationError,
    DatastoreError,
    EndpointUnreachable,
    IntegrityError,
    ServiceBusy,
)
from prefect_datastores.redaction import scrub
from prefect_datastores.stores.network import address_of, proxy_for, tls_context

_log = logging.getLogger("prefect_datastores.http")

_HEAD_ROOM = 64 * 1024
_BODY_LIMIT = 256 * 2**20  # of a body that is kept whole: a page of a listing, an error
_JOINED = 16 * 1024  # a body up to this length is sent with its head in one go
_SLICE = 64 * 1024
_IDLE_SECONDS = 45.0  # services and the proxies before them close what is idle for longer
_NO_BODY = {204, 304}


@dataclass(frozen=True)
class Timeouts:
    """Seconds to connect in, and seconds without a byte after which a request has stalled."""

    connect: float = 15.0
    stall: float = 60.0


@dataclass(frozen=True)
class Head:
    """The status and headers of an answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    version: str = "HTTP/1.1"


@dataclass(frozen=True)
class Answer(Head):
    """A whole answer; `body` is empty where it went into the caller's memory."""

    body: bytes = b""


Receive = Callable[[Head], "memoryview | None"]
"""Says, knowing the head, which memory takes the body; None has it returned as `Answer.body`."""


class _ClosedEarly(Exception):
    """The other side closed the connection before it answered anything."""


class HttpClient:
    """Requests to the host of one URL; connections are kept, and used by one thread at a time."""

    def __init__(self, url: str, timeouts: Timeouts | None = None) -> None:
        """Name the host; nothing is connected before the first request.

        Raises:
            ConfigurationError: the URL names no host, or the proxy of the environment cannot be used.
        """
        split = urlsplit(url)
        self._url, self._timeouts = url, timeouts or Timeouts()
        self._host, self._port = address_of(split)
        self._netloc = split.netloc
        self._origin = f"{split.scheme}://{split.netloc}"
        self._proxy = proxy_for(split)
        self._tls = tls_context() if split.scheme == "https" else None
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._lock = threading.Lock()
        self._closed = self._interrupted = self._reached = False

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | memoryview = b"",
        receive: Receive | None = None,
    ) -> Answer:
        """Send one request and return its whole answer, whatever its status.

        `target` is the path and query as they go over the wire.

        Raises:
            EndpointUnreachable: the host does not exist, nobody answers, or the certificate is wrong.
            ServiceBusy: the connection broke or stalled; whether the request was carried out is unknown.
            IntegrityError: what came is no HTTP, or longer than was announced.
        """
        head = self._head(method, target, headers, len(body))
        began = time.monotonic()
        answer = self._exchange(method, head, body, receive)
        if _log.isEnabledFor(logging.DEBUG):
            milliseconds = (time.monotonic() - began) * 1000
            shown = scrub(f"{method} {self._origin}{target}")
            _log.debug("%s: %d, %.0f ms", shown, answer.status, milliseconds)
        return answer

    def _head(self, method: str, target: str, headers: Mapping[str, str], length: int) -> bytes:
        if self._proxy is not None and self._tls is None:  # a plain proxy wants to know where to go
            target = f"{self._origin}{target}"
            headers = {**self._proxy.headers, **headers}
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if length or method not in {"GET", "HEAD", "DELETE"}:
            lines.append(f"Content-Length: {length}")
        if any("\r" in line or "\n" in line for line in lines):
            raise ConfigurationError("A line break in a request's head is refused.")
        try:
            return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        except UnicodeEncodeError:  # which would show all of it
            raise ConfigurationError(
                "A request's head has a character that it cannot hold; is the SAS token whole?"
            ) from None

    def _exchange(
        self, method: str, head: bytes, body: bytes | memoryview, receive: Receive | None
    ) -> Answer:
        connection = self._take()
        try:
            answer, keep = connection.exchange(method, head, body, receive)
        except _ClosedEarly:
            self._drop(connection)
            raise self._broken("it was closed without an answer") from None
        except TimeoutError:
            self._drop(connection)
            raise self._broken(f"nothing came for {self._timeouts.stall:g} s") from None
        except OSError as error:
            self._drop(connection)
            if isinstance(error, DatastoreError):
                raise
            raise self._broken(_reason(error)) from None
        except BaseException:
            self._drop(connection)
            raise
        if keep and not self._closed:
            self._idle.append(connection)
        else:
            self._drop(connection)
        return answer

    def _broken(self, why: str) -> ServiceBusy:
        return ServiceBusy(f"The connection to {self._url} broke: {why}.")

    def _take(self) -> _Connection:
        if self._interrupted:
            raise self._broken("it was interrupted")
        while True:
            try:
                connection = self._idle.pop()  # the last used is the least likely to be closed
            except IndexError:
                return self._connect()
            if connection.is_usable():
                return connection
            self._drop(connection)

    def _connect(self) -> _Connection:
        where = self._proxy.address if self._proxy else (self._host, self._port)
        try:
            plain = socket.create_connection(where, timeout=self._timeouts.connect)
        except socket.gaierror as error:
            what = f"proxy {where[0]}" if self._proxy else f"host of {self._url}"
            if error.errno == socket.EAI_AGAIN:
                raise self._unreachable(f"The {what} cannot be resolved at the moment.") from None
            raise self._unreachable(
                f"The {what} does not exist. Check the account name and the endpoint."
            ) from None
        except OSError as error:
            through = f" (through the proxy {where[0]}:{where[1]})" if self._proxy else ""
            raise self._unreachable(
                f"Nobody answers at {self._url}{through}: {_reason(error)}."
            ) from None
        try:
            connection = _Connection(self._secured(plain), self._timeouts.stall)
        except BaseException:
            plain.close()
            raise
        with self._lock:
            self._open.add(connection)
            self._reached = True
        if self._interrupted:  # while it was made
            connection.interrupt()
        return connection

    def _secured(self, plain: socket.socket) -> socket.socket:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            return plain
        try:
            if self._proxy is not None:
                self._proxy.open_tunnel(plain, self._host, self._port)
            return self._tls.wrap_socket(plain, server_hostname=self._host)
        except ssl.SSLCertVerificationError as error:
            raise EndpointUnreachable(
                f"The certificate of {self._url} is not accepted: {error.verify_message}. A company's own authority is "
                "named by the variable SSL_CERT_FILE."
            ) from None
        except OSError as error:
            if isinstance(error, EndpointUnreachable):
                raise
            raise self._unreachable(
                f"No secure connection to {self._url}: {_reason(error)}."
            ) from None

    def _unreachable(self, message: str) -> DatastoreError:
        """Return the error of a connection that was not made; one that once was may be again."""
        return ServiceBusy(message) if self._reached else EndpointUnreachable(message)

    def _drop(self, connection: _Connection) -> None:
        with self._lock:
            self._open.discard(connection)
        connection.close()

    def _drop_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._drop(self._idle.pop())

    def interrupt(self) -> None:
        """Break the connections in use, and make no other; requests raise `ServiceBusy`.

        It takes no lock, so that a signal's handler can call it.
        """
        self._interrupted = True
        for connection in tuple(self._open):
            connection.interrupt()

    def close(self) -> None:
        """Close what is idle now, and what is in use when it is done."""
        self._closed = True
        self._drop_idle()


class _Connection:
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
        self._at = self._end = 0  # what was received and not yet taken
        self._used = time.monotonic()

    def is_usable(self) -> bool:
        """Tell whether the other side still keeps it, and has sent nothing that nobody asked for."""
        return time.monotonic() - self._used < _IDLE_SECONDS and not self._poll.poll(0)

    def interrupt(self) -> None:
        with contextlib.suppress(OSError):
            # Not `SSLSocket.shutdown`: it goes on without TLS, under the thread that uses it.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def exchange(
        self, method: str, head: bytes, body: bytes | memoryview, receive: Receive | None
    ) -> tuple[Answer, bool]:
        """Send a request, and return its answer and whether the connection can take another."""
        self._at = self._end = 0
        keep = True
        try:
            self._send(head, body)
        except (BrokenPipeError, ConnectionResetError):
            keep = False  # a service that refuses a request may say why before it has all of it
        answered = self._read_head()
        while answered.status < 200:  # noqa: PLR2004 - 1xx: the answer itself follows
            answered = self._read_head()
        content = b""
        if method != "HEAD" and answered.status not in _NO_BODY:
            target = receive(answered) if receive else None
            content = self._read_body(answered.headers, target)
            keep = keep and _has_end(answered.headers)
        self._used = time.monotonic()
        keep = keep and answered.version == "HTTP/1.1"
        keep = keep and answered.headers.get("connection", "").lower() != "close"
        return Answer(
            answered.status, answered.headers, body=content
        ), keep and self._at == self._end

    def _send(self, head: bytes, body: bytes | memoryview) -> None:
        if len(body) <= _JOINED:
            self._socket.sendall(head + bytes(body) if body else head)
        elif self._plain:
            done = self._socket.sendmsg([head, body])
            if done < len(head):
                self._socket.sendall(head[done:])
                done = len(head)
            self._socket.sendall(memoryview(body)[done - len(head) :])
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
        got = self._receive(memoryview(self._room)[self._end :])
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
                raise _ClosedEarly
            seen = max(self._at, self._at + waiting - len(mark) + 1)
        taken = bytes(self._room[self._at : found])
        self._at = found + len(mark)
        return taken

    def _read_head(self) -> Head:
        try:
            first, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        except ConnectionResetError:
            raise _ClosedEarly from None
        version, _, rest = first.partition(" ")
        if version not in {"HTTP/1.1", "HTTP/1.0"} or not rest[:3].isdigit():
            raise IntegrityError(f"What answered does not speak HTTP/1.1: {first[:40]!r}.")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return Head(int(rest[:3]), headers, version)

    def _read_body(self, headers: Mapping[str, str], target: memoryview | None) -> bytes:
        """Return the body, or nothing once it is in `target`, which it has to fill."""
        if "content-length" in headers and "transfer-encoding" not in headers:
            length = _length(headers["content-length"])
            if target is None:
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
        target[:known] = memoryview(self._room)[self._at : self._at + known]
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


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _has_end(headers: Mapping[str, str]) -> bool:
    """Tell whether a body says itself where it ends; otherwise the connection ends with it."""
    return "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower()


def _length(announced: str) -> int:
    if not announced.isdigit():
        raise IntegrityError(f"An answer announces a length of {announced[:20]!r}.")
    return int(announced)


def _check_length(length: int) -> None:
    if length > _BODY_LIMIT:
        raise IntegrityError(f"An answer has {length} bytes or more, which is far too many.")


def _expect(length: int, target: memoryview) -> None:
    if length != len(target):
        raise IntegrityError(f"{length} bytes came where {len(target)} were asked for.")
