"""A server that says on the wire just what a test has it say, and a proxy for plain and secure HTTP."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Talk = Callable[[socket.socket, "Heard"], None]
_SECONDS = 10


@dataclass
class Heard:
    """What a server was asked, and over how many connections."""

    port: int = 0
    connections: int = 0
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)

    def take(self, sock: socket.socket) -> str:
        """Receive one request and return its head; "" at the end of the connection."""
        data = b""
        while b"\r\n\r\n" not in data:
            got = sock.recv(65536)
            if not got:
                return ""
            data += got
        head, _, body = data.partition(b"\r\n\r\n")
        text = head.decode()
        length = next(
            (
                int(line.partition(":")[2])
                for line in text.splitlines()
                if line.lower().startswith("content-length:")
            ),
            0,
        )
        while len(body) < length:
            body += sock.recv(65536)
        self.heads.append(text)
        self.bodies.append(body)
        return text


def says(*answers: bytes) -> Talk:
    """Answer the requests of a connection in turn, the last answer for ever; b"" hangs up."""

    def talk(sock: socket.socket, heard: Heard) -> None:
        left = list(answers)
        while heard.take(sock):
            answer = left.pop(0) if len(left) > 1 else left[0]
            if not answer:
                return
            sock.sendall(answer)

    return talk


def ok(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
    """An answer of known length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextmanager
def wire(
    talk: Talk, *, tls: ssl.SSLContext | None = None, family: int = socket.AF_INET
) -> Iterator[Heard]:
    """Run a server that talks as told on each of its connections."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family) as listening:
        listening.bind((host, 0))
        listening.listen(64)
        heard = Heard(listening.getsockname()[1])
        over = threading.Event()
        threads: list[threading.Thread] = []

        def serve(sock: socket.socket) -> None:
            with sock:
                sock.settimeout(_SECONDS)
                try:
                    secured = tls.wrap_socket(sock, server_side=True) if tls else sock
                    with secured:
                        talk(secured, heard)
                except (OSError, ssl.SSLError) as error:
                    heard.faults.append(error)

        def accept() -> None:
            while not over.is_set():
                if select.select([listening], [], [], 0.05)[0]:
                    sock, _ = listening.accept()
                    heard.connections += 1
                    threads.append(threading.Thread(target=serve, args=(sock,), daemon=True))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield heard
        finally:
            over.set()
            accepting.join()


def proxy(sock: socket.socket, heard: Heard) -> None:
    """Be a proxy: `CONNECT host:port` makes a tunnel, `GET http://host:port/path` is passed on."""
    head = heard.take(sock)
    method, target, _ = head.split("\r\n", maxsplit=1)[0].split(" ")
    place = target if method == "CONNECT" else target.partition("://")[2].partition("/")[0]
    host, _, port = place.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port))) as behind:
        if method == "CONNECT":
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = "/" + target.partition("://")[2].partition("/")[2]
            behind.sendall(head.replace(target, path, 1).encode() + b"\r\n\r\n" + heard.bodies[-1])
        ends = {sock: behind, behind: sock}
        with contextlib.suppress(OSError):
            while True:
                for ready in select.select(list(ends), [], [], _SECONDS)[0]:
                    if not (data := ready.recv(65536)):
                        return
                    ends[ready].sendall(data)
