"""A proxy that fails as it is told, in front of a server that does not."""

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

_NOW_OR_NEVER = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_STALL_SECONDS = 0.2


@dataclass(frozen=True)
class Fault:
    """What happens to requests whose `METHOD /path?query` has `match` in it.

    The first `skip` of them pass, the next `times` (None: all) meet the fault:

    * `answer`: `status`, `headers` and `body`; the server behind sees nothing;
    * `reset`, `truncate`, `stall`: half of the true body, then a reset, an end, or a pause and an
      end; the true length was announced;
    * `lose`: the server behind does it, and its answer gets lost;
    * `damage`: one bit of what is sent to the server behind is another;
    * `pass`: nothing.
    """

    match: str
    action: Literal["answer", "reset", "truncate", "stall", "lose", "damage", "pass"]
    skip: int = 0
    times: int | None = 1
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class FaultyProxy(ThreadingHTTPServer):
    """Relays to `upstream`; `requests` is what it was asked, in order."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: tuple[str, int], faults: tuple[Fault, ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.upstream, self.faults = upstream, faults
        self.requests: list[str] = []
        self.to_reset: set[socket.socket] = set()
        self._met = [0] * len(faults)
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def count(self, match: str = "") -> int:
        """How many requests had `match` in them."""
        return sum(bool(re.search(match, request)) for request in self.requests)

    def fault_of(self, request: str) -> Fault:
        """Take note of a request, and say what happens to it."""
        with self._lock:
            self.requests.append(request)
            for index, fault in enumerate(self.faults):
                if re.search(fault.match, request):
                    self._met[index] += 1
                    turn = self._met[index] - fault.skip
                    if turn > 0 and (fault.times is None or turn <= fault.times):
                        return fault
        return Fault("", "pass")

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        if request in self.to_reset:
            self.to_reset.discard(request)
            request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOW_OR_NEVER)
            request.close()
        else:
            super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that leaves is what these tests are about."""


class _Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def log_message(self, *_: object) -> None:
        pass

    def relay(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault_of(f"{self.command} {self.path}")
        if fault.action == "answer":
            self.reply(fault.status, fault.headers, fault.body)
            return
        if fault.action == "damage":
            sent = bytes([sent[0] ^ 1]) + sent[1:]
        status, headers, body = self.ask(sent)
        if fault.action in {"pass", "damage"}:
            self.reply(status, headers, body)
            return
        self.close_connection = True
        if fault.action == "lose":
            return
        self.reply(status, headers, body, sent=len(body) // 2)
        if fault.action == "reset":
            self.server.to_reset.add(self.connection)
        elif fault.action == "stall":
            self.wfile.flush()
            time.sleep(_STALL_SECONDS)

    # The names that the base class asks for.
    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = relay  # noqa: N815

    def ask(self, sent: bytes) -> tuple[int, Mapping[str, str], bytes]:
        # The headers go on as they came, `Host` too; the path as it was written.
        connection = http.client.HTTPConnection(*self.server.upstream, timeout=30)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "connection":
                connection.putheader(name, value)
        connection.endheaders(sent)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        headers = dict(answer.getheaders())
        if self.command == "HEAD" and answer.headers["Content-Length"]:
            headers["X-Length"] = answer.headers["Content-Length"]
        return answer.status, headers, body

    def reply(
        self, status: int, headers: Mapping[str, str], body: bytes, sent: int | None = None
    ) -> None:
        self.send_response_only(status)
        length = headers.get("X-Length", str(len(body)))
        for name, value in headers.items():
            if name.lower() not in _OF_THE_CONNECTION and name != "X-Length":
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])


@contextmanager
def faulty(host: str, port: int, *faults: Fault) -> Iterator[FaultyProxy]:
    """Run a proxy in front of a server."""
    with FaultyProxy((host, port), faults) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
