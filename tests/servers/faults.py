"""A proxy that fails as it is told, in front of a server that does not."""

import contextlib
import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

_NOW_OR_NEVER = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_OF_HEAD = "x-length"  # the length that an answer to HEAD tells, without any body; "" for none
_STALL_SECONDS = 0.2
_LONGEST_HANG_SECONDS = 20

Action = Literal[
    "answer", "reset", "truncate", "stall", "hang", "drop", "lose", "damage", "change", "pass"
]


@dataclass(frozen=True)
class Reply:
    """What a server answered; its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def nothing() -> None:
    """Happen to nobody."""


@dataclass(frozen=True)
class Fault:
    """What happens to requests whose `METHOD /path?query` has `match` in it.

    With `token`, only to those that sign in by it. The first `skip` of them pass, the next `times`
    (None: all) meet the fault:

    * `answer`: `status`, `headers` and `body`; the server behind sees nothing;
    * `reset`, `truncate`, `stall`, `hang`: the true body until `at` (its first byte, its middle, its
      last byte), then a reset, an end, a pause and an end, or nothing until the client leaves; the
      true length was announced;
    * `drop`: a reset; the server behind sees nothing;
    * `lose`: the server behind does it, and its answer gets lost;
    * `damage`: one bit of what is sent to the server behind is another;
    * `change`: what the server behind answered, as `change` makes it;
    * `pass`: nothing.

    Before any of it, `meanwhile` happens.
    """

    match: str
    action: Action
    skip: int = 0
    times: int | None = 1
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    at: Literal["first", "middle", "last"] = "middle"
    change: Callable[[Reply], Reply] = lambda reply: reply
    meanwhile: Callable[[], object] = nothing
    token: str = ""


class FaultyProxy(ThreadingHTTPServer):
    """Relays to `upstream`; `requests` is what it was asked, in order.

    With `signs_by`, a SAS or a whole header, it takes any token for good, and signs in to the server
    behind by that. With `first`, the faults are that proxy's, and so is what was
    asked: a service that has two endpoints fails as one.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        upstream: tuple[str, int],
        faults: tuple[Fault, ...],
        signs_by: str = "",
        first: "FaultyProxy | None" = None,
        port: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", port), _Relay)
        self.upstream, self.signs_by, self.first = upstream, signs_by, first or self
        self.requests: list[str]
        self.to_reset: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.fail_by(*faults)

    @property
    def port(self) -> int:
        return self.server_address[1]

    def fail_by(self, *faults: Fault) -> None:
        """Fail by these from now on, or not at all; what was asked is forgotten."""
        with self._lock:
            self.faults, self._met, self.requests = faults, [0] * len(faults), []

    def count(self, match: str = "") -> int:
        """How many requests had `match` in them."""
        return sum(bool(re.search(match, request)) for request in self.requests)

    def fault_of(self, request: str, authorization: str = "") -> Fault:
        """Take note of a request, and say what happens to it."""
        with self._lock:
            self.requests.append(request)
            for index, fault in enumerate(self.faults):
                if re.search(fault.match, request) and fault.token in authorization:
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
        authorization = self.headers.get("Authorization", "")
        fault = self.server.first.fault_of(f"{self.command} {self.path}", authorization)
        fault.meanwhile()
        if fault.action == "answer":
            self.reply(Reply(fault.status, fault.headers, fault.body))
            return
        if fault.action == "drop":
            self.reset()
            return
        if fault.action == "damage":
            sent = bytes([sent[0] ^ 1]) + sent[1:]
        answer = self.ask(sent)
        if fault.action in {"pass", "damage"}:
            self.reply(answer)
        elif fault.action == "change":
            self.reply(fault.change(answer))
        else:
            self.break_off(fault, answer)

    def break_off(self, fault: Fault, answer: Reply) -> None:
        self.close_connection = True
        if fault.action == "lose":
            return
        length = len(answer.body)
        self.reply(answer, sent={"first": 0, "middle": length // 2, "last": length - 1}[fault.at])
        if fault.action == "reset":
            self.reset()
        elif fault.action == "stall":
            time.sleep(_STALL_SECONDS)
        elif fault.action == "hang":
            self.connection.settimeout(_LONGEST_HANG_SECONDS)
            with contextlib.suppress(OSError):
                self.connection.recv(1)

    def reset(self) -> None:
        self.close_connection = True
        self.server.to_reset.add(self.connection)

    # The names that the base class asks for.
    do_GET = do_PUT = do_HEAD = do_POST = do_PATCH = do_DELETE = relay  # noqa: N815

    def ask(self, sent: bytes) -> Reply:
        # The headers go on as they came, `Host` too; the path as it was written.
        path, unwanted, sign_in = self.path, {"connection"}, self.server.signs_by
        if sign_in:
            unwanted.add("authorization")
        if sign_in and not sign_in.startswith("Bearer "):
            path += ("&" if "?" in path else "?") + sign_in
        connection = http.client.HTTPConnection(*self.server.upstream, timeout=30)
        connection.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in unwanted:
                connection.putheader(name, value)
        if sign_in.startswith("Bearer "):
            connection.putheader("Authorization", sign_in)
        connection.endheaders(sent)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        if self.command == "HEAD" and answer.headers["Content-Length"]:
            headers[_OF_HEAD] = answer.headers["Content-Length"]
        return Reply(answer.status, headers, body)

    def reply(self, answer: Reply, sent: int | None = None) -> None:
        self.send_response_only(answer.status)
        length = answer.headers.get(_OF_HEAD, str(len(answer.body)))
        for name, value in answer.headers.items():
            if name.lower() not in {*_OF_THE_CONNECTION, _OF_HEAD}:
                self.send_header(name, value)
        if length:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:sent])


@contextmanager
def faulty(
    host: str, port: int, *faults: Fault, signs_by: str = "", first: FaultyProxy | None = None
) -> Iterator[FaultyProxy]:
    """Run a proxy in front of a server."""
    with FaultyProxy((host, port), faults, signs_by, first) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
