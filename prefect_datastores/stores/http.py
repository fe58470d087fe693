"""HTTP/1.1 to one host over kept connections, one request at a time on each, from many threads.

The requests of a transfer are many and alike, so this does only what they need: a head is split
and not parsed as mail, and a body goes from the socket into the caller's own memory. Nothing is
tried again here (`retry.py` does), no redirect is followed (it would carry a signature elsewhere),
and no body is decoded.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from prefect_datastores.disk import descriptor_limit
from prefect_datastores.errors import (
    ConfigurationError,
    DatastoreError,
    EndpointUnreachable,
    ServiceBusy,
    TransferError,
)
from prefect_datastores.redaction import scrub
from prefect_datastores.stores.connection import Answer, ClosedEarly, Connection, Receive
from prefect_datastores.stores.network import address_of, proxy_for, tls_context

_log = logging.getLogger("prefect_datastores.http")
# Connections that are made ahead, and the threads that make them.
_FEW_MORE, _MOST_MORE, _MAKERS = 16, 256, 16
_MAKER_SECONDS = 1.0  # how long a client that is closed waits for one
_WITHOUT_BODY = {"GET", "HEAD", "DELETE"}


@dataclass(frozen=True)
class Timeouts:
    """Seconds to connect in, and seconds without a byte after which a request has stalled."""

    connect: float = 15.0
    stall: float = 60.0


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
        self.origin = f"{split.scheme}://{split.netloc}"
        self._proxy = proxy_for(split)
        self._tls = tls_context() if split.scheme == "https" else None
        self._to_proxy = self._proxy if self._tls is None else None
        self._host_line = f" HTTP/1.1\r\nHost: {split.netloc}\r\n"
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._lock = threading.Lock()
        # Connections that are being made beside: all of them, and those that no thread began with.
        self._making = self._wanted = 0
        self._makers: list[threading.Thread] = []
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
        return self.begin(method, target, headers, body).finish(receive)

    def is_ready(self) -> bool:
        """Tell whether a request could be sent at once; if not, connections are made meanwhile.

        A new one takes two or three round trips. Who begins many requests one after another should
        not wait for each, so others make as many more as there are, and a few at first.
        """
        if self._idle:
            return True
        with self._lock:
            there = len(self._open) + self._making
            wanted = min(max(_FEW_MORE, len(self._open)), _most_connections() - there)
            if self._making or wanted <= 0 or not self._reached or self._closed:
                return False
            self._making = self._wanted = wanted
            self._makers = []
            try:
                for _ in range(min(wanted, _MAKERS)):
                    maker = threading.Thread(
                        target=self._make_some, name="pds-connect", daemon=True
                    )
                    maker.start()
                    self._makers.append(maker)
            except RuntimeError:  # the machine gives no more; those that run do all the work
                if not self._makers:
                    self._making = self._wanted = 0
        return False

    def _make_some(self) -> None:
        """Make some of the connections that are wanted; what fails is told to who really needs one."""
        while True:
            with self._lock:
                if not self._wanted:
                    return
                self._wanted -= 1
            try:
                connection = self._connect()
            except (DatastoreError, OSError):
                connection = None
            with self._lock:
                self._making -= 1
                if connection is not None and not self._closed:
                    self._idle.append(connection)
                    continue
                self._making -= self._wanted
                self._wanted = 0
            if connection is not None:
                self.drop(connection)

    def begin(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | memoryview = b""
    ) -> Exchange:
        """Send one request; its answer comes to who finishes it, so that one thread may have many under way.

        Raises:
            DatastoreError: as `send` says.
        """
        head = self._head(method, target, headers, len(body))
        connection = self._take()
        with _Breaking(self, connection):
            connection.send(head, body)
        debug = _log.isEnabledFor(logging.DEBUG)
        shown = scrub(f"{method} {self.origin}{target}") if debug else ""
        return Exchange(self, connection, method, shown)

    def _head(self, method: str, target: str, headers: Mapping[str, str], length: int) -> bytes:
        if self._to_proxy is not None:  # a plain proxy wants to know where to go
            target = f"{self.origin}{target}"
            headers = {**self._to_proxy.headers, **headers}
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        if length or method not in _WITHOUT_BODY:
            lines.append(f"Content-Length: {length}\r\n")
        head = f"{method} {target}{self._host_line}{''.join(lines)}\r\n"
        breaks = len(lines) + 3  # the request's line, the host's, and the empty one
        if head.count("\r") != breaks or head.count("\n") != breaks:
            raise ConfigurationError("A line break in a request's head is refused.")
        try:
            return head.encode("latin-1")
        except UnicodeEncodeError:  # which would show all of it
            raise ConfigurationError(
                "A request's head has a character that it cannot hold; is the SAS token whole?"
            ) from None

    def answer(self, connection: Connection, method: str, receive: Receive | None) -> Answer:
        """Return the answer to a request that was begun on a connection, and keep that if it can be kept."""
        with _Breaking(self, connection):
            answer, keep = connection.receive(method, receive)
        if keep and not self._closed:
            self._idle.append(connection)
        else:
            self.drop(connection)
        return answer

    def told(self, error: BaseException) -> ServiceBusy | None:
        """Return what a fault of a connection is for others; None where it says that itself."""
        if isinstance(error, ClosedEarly):
            return self._broken("it was closed without an answer")
        if isinstance(error, TimeoutError):
            return self._broken(f"nothing came for {self._timeouts.stall:g} s")
        if isinstance(error, OSError) and not isinstance(error, DatastoreError):
            return self._broken(_reason(error))
        return None

    def _broken(self, why: str) -> ServiceBusy:
        return ServiceBusy(f"The connection to {self._url} broke: {why}.")

    def _take(self) -> Connection:
        if self._interrupted:
            raise self._broken("it was interrupted")
        while True:
            try:
                connection = self._idle.pop()  # the last used is the least likely to be closed
            except IndexError:
                return self._connect()
            if connection.is_usable():
                return connection
            self.drop(connection)

    def _connect(self) -> Connection:
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
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                raise TransferError(
                    f"No connection to {self._url}: {_reason(error)}. Raise the limit of open files (ulimit -n)."
                ) from None
            raise self._unreachable(
                f"Nobody answers at {self._url}{through}: {_reason(error)}."
            ) from None
        try:
            connection = Connection(self._secured(plain), self._timeouts.stall)
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

    def drop(self, connection: Connection) -> None:
        """Close a connection that is of no use any more."""
        with self._lock:
            self._open.discard(connection)
        connection.close()

    def _drop_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self.drop(self._idle.pop())

    def interrupt(self) -> None:
        """Break the connections in use, and make no other; requests raise `ServiceBusy`.

        It takes no lock, so that a signal's handler can call it.
        """
        self._interrupted = True
        self._wanted = 0
        for connection in tuple(self._open):
            connection.interrupt()

    def close(self) -> None:
        """Close what is idle now, and what is in use when it is done."""
        self._closed = True
        with self._lock:
            self._making -= self._wanted
            self._wanted, makers, self._makers = 0, self._makers, []
        until = time.monotonic() + _MAKER_SECONDS
        for maker in makers:
            maker.join(max(0.0, until - time.monotonic()))
        self._drop_idle()


class Exchange:
    """A request that was sent, and whose answer is still to come."""

    __slots__ = ("_began", "_client", "_connection", "_method", "_shown")

    def __init__(self, client: HttpClient, connection: Connection, method: str, shown: str) -> None:
        """Take over the connection, on which nothing else is sent meanwhile; `shown` is for the log."""
        self._client, self._method, self._shown = client, method, shown
        self._connection: Connection | None = connection
        self._began = time.monotonic() if shown else 0.0

    def finish(self, receive: Receive | None = None) -> Answer:
        """Wait for the answer and return it, whatever its status; it raises what `send` raises."""
        connection, self._connection = self._connection, None
        assert connection is not None, "An answer comes once."
        answer = self._client.answer(connection, self._method, receive)
        if self._shown:
            milliseconds = (time.monotonic() - self._began) * 1000
            _log.debug("%s: %d, %.0f ms", self._shown, answer.status, milliseconds)
        return answer

    def drop(self) -> None:
        """Do not wait for the answer; whether the request is carried out is unknown."""
        if self._connection is not None:
            self._client.drop(self._connection)
            self._connection = None


class _Breaking:
    """Lets go of a connection in which something went wrong, and says it in our own errors."""

    __slots__ = ("_client", "_connection")

    def __init__(self, client: HttpClient, connection: Connection) -> None:
        self._client, self._connection = client, connection

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            self._client.drop(self._connection)
            if (told := self._client.told(error)) is not None:
                raise told from None


def _most_connections() -> int:
    return min(_MOST_MORE, descriptor_limit() // 4)


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
