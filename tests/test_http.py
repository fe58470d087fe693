"""The client on the wire: what it sends, and what it makes of every kind of answer.

All kinds over the wire send by it, and it knows the protocol of none: so its peer is a plain socket.
"""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.wire import Heard, Talk, ok, proxy, says, wire

from prefect_datastores.errors import (
    ConfigurationError,
    DatastoreError,
    EndpointUnreachable,
    IntegrityError,
    ServiceBusy,
)
from prefect_datastores.redaction import MASK, scrub
from prefect_datastores.stores.connection import Head, Headers
from prefect_datastores.stores.http import HttpClient, Timeouts

QUICK = Timeouts(connect=10.0, stall=1.0)
LONGER = 2.5  # than a stall may be
BODY = bytes(range(256)) * 1024


@contextmanager
def client(heard: Heard, scheme: str = "http", host: str = "127.0.0.1") -> Iterator[HttpClient]:
    with closing(HttpClient(f"{scheme}://{host}:{heard.port}/account", QUICK)) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# -- a connection is kept ---------------------------------------------------------------------------


def test_requests_follow_one_another_on_one_connection() -> None:
    with wire(says(ok(b"one"), ok(b""), ok(b"three"))) as heard, client(heard) as http:
        assert [http.send("GET", "/a", {}).body for _ in range(3)] == [b"one", b"", b"three"]
        assert heard.connections == 1
    assert heard.heads[0] == f"GET /a HTTP/1.1\r\nHost: 127.0.0.1:{heard.port}"


def test_threads_have_a_connection_each_and_leave_it_to_others() -> None:
    with wire(says(ok(BODY))) as heard, client(heard) as http:
        bodies: list[bytes] = []
        together = threading.Barrier(4)

        def ask() -> None:
            together.wait()
            bodies.extend(http.send("GET", "/", {}).body for _ in range(5))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert bodies == [BODY] * 20
        assert heard.connections <= 4


def test_a_connection_that_was_closed_meanwhile_is_not_used() -> None:
    def once(sock: socket.socket, heard: Heard) -> None:
        heard.take(sock)
        sock.sendall(ok(b"answer"))

    with wire(once) as heard, client(heard) as http:
        for _ in range(3):
            assert http.send("PUT", "/", {}, b"body").body == b"answer"
            time.sleep(0.1)  # until the end of the connection has come
        assert heard.connections == 3


def test_requests_that_are_begun_together_have_connections_that_are_made_beside() -> None:
    with wire(says(ok(BODY))) as heard, client(heard) as http:
        assert not http.is_ready()
        assert heard.connections == 0  # nothing is known of the host yet
        http.send("GET", "/", {})
        begun = []
        while len(begun) < 20:
            if http.is_ready():
                begun.append(http.begin("GET", f"/{len(begun)}", {}))
            else:
                time.sleep(0.01)
        assert 20 <= len(http._open) <= 64
        assert [one.finish().body for one in begun[::2]] == [BODY] * 10
        for one in begun[1::2]:
            one.drop()
            one.drop()
        there = set(http._open)
        assert http.send("GET", "/", {}).body == BODY  # on one of those that were finished
        assert http._open <= there
    assert not http._open


def test_connections_that_cannot_be_made_beside_are_no_fault_of_anybody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> socket.socket:
        raise ConnectionRefusedError

    with wire(says(ok(b"x"))) as heard, client(heard) as http:
        http.send("GET", "/", {})
        held = http.begin("GET", "/", {})
        monkeypatch.setattr(socket, "create_connection", refuse)
        assert not http.is_ready()
        http.close()
        assert not [one for one in threading.enumerate() if one.name == "pds-connect"]
        assert held.finish().body == b"x"
        assert not http._open


def test_a_machine_without_threads_makes_no_connections_beside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with wire(says(ok(b"x"))) as heard, client(heard) as http:
        http.send("GET", "/", {})
        held = http.begin("GET", "/", {})
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            assert not http.is_ready()
        assert not http.is_ready()  # which makes some now
        while not http.is_ready():
            time.sleep(0.01)
        assert held.finish().body == b"x"


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"all", "Connection: close"),
        ok(b"all") + b"HTTP/1.1 200 more than was asked for",
        b"HTTP/1.1 200 OK\r\n\r\nall",
        ok(b"all").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_a_connection_that_cannot_be_trusted_is_not_kept(answer: bytes) -> None:
    def once(sock: socket.socket, heard: Heard) -> None:
        heard.take(sock)
        sock.sendall(answer)
        if b"Content-Length" in answer:
            heard.take(sock)

    with wire(once) as heard, client(heard) as http:
        assert http.send("GET", "/", {}).body == b"all"
        assert http.send("GET", "/", {}).body == b"all"
        assert heard.connections == 2


def test_a_closed_client_keeps_no_connection() -> None:
    with wire(says(ok(b"x"))) as heard:
        http = HttpClient(f"http://127.0.0.1:{heard.port}", QUICK)
        http.send("GET", "/", {})
        http.close()
        http.send("GET", "/", {})  # what is under way in a thread may still end well
        assert heard.connections == 2
        assert not http._idle
        assert not http._open


# -- bodies -----------------------------------------------------------------------------------------


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunks(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return CHUNKED + b"".join(b"%x;x=y\r\n%b\r\n" % (len(part), part) for part in parts)


@pytest.mark.parametrize("size", [1000, 65536, len(BODY)])
def test_a_body_in_chunks_is_put_together(size: int) -> None:
    answer = chunks(BODY, size) + b"0\r\nTrailer: x\r\n\r\n"
    with wire(says(answer)) as heard, client(heard) as http:
        assert http.send("GET", "/", {}).body == BODY
        assert http.send("GET", "/", {}).body == BODY
        assert heard.connections == 1


@settings(deadline=None, max_examples=40, derandomize=True)
@given(cuts=st.lists(st.integers(1, 400), max_size=6), size=st.integers(1, 90))
def test_an_answer_is_the_same_however_it_is_cut(cuts: list[int], size: int) -> None:
    whole = b"HTTP/1.1 100 Continue\r\n\r\n" + chunks(BODY[:300], size) + b"0\r\n\r\n"

    def talk(sock: socket.socket, heard: Heard) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        heard.take(sock)
        at = 0
        for cut in cuts:
            sock.sendall(whole[at : at + cut])
            time.sleep(0.002)
            at += cut
        sock.sendall(whole[at:])

    with wire(talk) as heard, client(heard) as http:
        assert http.send("GET", "/", {}).body == BODY[:300]


@pytest.mark.parametrize(
    "answer", [ok(BODY), chunks(BODY, 5000) + b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n" + BODY]
)
def test_a_body_goes_into_the_callers_memory(answer: bytes) -> None:
    def once(sock: socket.socket, heard: Heard) -> None:
        heard.take(sock)
        sock.sendall(answer)

    memory, heads = bytearray(len(BODY)), []

    def receive(head: Head) -> memoryview:
        heads.append(head.status)
        return memoryview(memory)

    with wire(once) as heard, client(heard) as http:
        assert http.send("GET", "/", {}, receive=receive).body == b""
    assert (memory, heads) == (BODY, [200])


@pytest.mark.parametrize("length", [0, len(BODY) - 1, len(BODY) + 1])
def test_a_body_of_another_length_than_the_memory_is_refused(length: int) -> None:
    with wire(says(ok(BODY))) as heard, client(heard) as http:
        with pytest.raises(IntegrityError, match=f"{len(BODY)} bytes came where {length} were"):
            http.send("GET", "/", {}, receive=lambda _: memoryview(bytearray(length)))
        assert not http._open


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1, len(BODY) * 40])
def test_what_is_sent_arrives(size: int) -> None:
    body = (BODY * 40)[:size]
    with wire(says(ok(), ok())) as heard, client(heard) as http:
        http.send("PUT", "/", {"X": "y"}, body)
        http.send("PUT", "/", {}, memoryview(body))
    assert heard.bodies == [body, body]
    assert all(f"Content-Length: {size}" in head for head in heard.heads)


def test_a_head_request_has_no_body_whatever_length_it_tells() -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\nETag: "x"\r\n\r\n'
    with wire(says(answer, ok(b"next"))) as heard, client(heard) as http:
        head = http.send("HEAD", "/", {})
        assert (head.headers["content-length"], head.headers["etag"], head.body) == (
            *("999", '"x"'),
            b"",
        )
        assert http.send("GET", "/", {}).body == b"next"
        assert heard.connections == 1


def test_a_refusal_that_comes_before_all_is_sent_is_told() -> None:
    def refuse(sock: socket.socket, heard: Heard) -> None:
        sock.recv(1000)
        sock.sendall(ok(b"<Code>ServerBusy</Code>", status="503 Busy"))
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 20):  # or the rest would reset the connection, and the answer with it
            pass

    with wire(refuse) as heard, client(heard) as http:
        assert http.send("PUT", "/", {}, BODY * 100).status == 503


# -- what is no good answer -------------------------------------------------------------------------


def hangs(sock: socket.socket, heard: Heard) -> None:
    heard.take(sock)
    time.sleep(LONGER)


def stalls(sock: socket.socket, heard: Heard) -> None:
    heard.take(sock)
    sock.sendall(ok(BODY)[: len(BODY) // 2])
    time.sleep(LONGER)


@pytest.mark.parametrize(
    ("talk", "kind", "says_why"),
    [
        (says(b""), ServiceBusy, "closed without an answer"),
        (says(b"HTTP/1.1 200 O"), ServiceBusy, "nothing came for 1 s"),
        (hangs, ServiceBusy, "nothing came for 1 s"),
        (stalls, ServiceBusy, "nothing came for 1 s"),
        (says(ok(BODY)[:5000]), ServiceBusy, "nothing came for 1 s"),
        (says(b"SSH-2.0-OpenSSH\r\n\r\n"), IntegrityError, "does not speak HTTP"),
        (says(b"HTTP/2 200 OK\r\n\r\n"), IntegrityError, "does not speak HTTP"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"), IntegrityError, "'many'"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), IntegrityError, "'-5'"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"), IntegrityError, "too m"),
        (says(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000), IntegrityError, "far too long"),
        (says(CHUNKED + b"xyz\r\n"), IntegrityError, "chunks of no length"),
        (says(CHUNKED + b"-5\r\n"), IntegrityError, "chunks of no length"),
        (says(CHUNKED + b"fffffffff\r\n"), IntegrityError, "too many"),
    ],
)
def test_what_is_no_good_answer_is_an_error_and_ends_the_connection(
    talk: Talk, kind: type[DatastoreError], says_why: str
) -> None:
    with wire(talk) as heard, client(heard) as http:
        with pytest.raises(kind, match=says_why):
            http.send("GET", "/", {})
        assert not http._open
        assert not http._idle
        assert heard.connections == 1  # nothing is tried again here


@pytest.mark.parametrize("cut", [1, 20, len(ok()) + 1, len(BODY) // 2, len(ok(BODY)) - 1])
@pytest.mark.parametrize("into", [True, False])
def test_an_answer_that_ends_early_is_never_whole(cut: int, into: bool) -> None:
    def talk(sock: socket.socket, heard: Heard) -> None:
        heard.take(sock)
        sock.sendall(ok(BODY)[:cut])

    memory = memoryview(bytearray(len(BODY)))
    with wire(talk) as heard, client(heard) as http, pytest.raises(ServiceBusy):
        http.send("GET", "/", {}, receive=(lambda _: memory) if into else None)


def test_a_slow_answer_that_goes_on_is_waited_for() -> None:
    answer = ok(b"0123456789")

    def slow(sock: socket.socket, heard: Heard) -> None:
        heard.take(sock)
        sock.sendall(answer[:-8])
        for at in range(-8, 0):  # longer together than a stall may be
            time.sleep(QUICK.stall / 5)
            sock.sendall(answer[at:][:1])

    with wire(slow) as heard, client(heard) as http:
        assert http.send("GET", "/", {}).body == b"0123456789"


LINES = st.sampled_from(
    [
        "ETag: a",
        "etag:b",
        "X-ETag: c",
        "ETag : d",
        " ETag: e",
        "ETagged: f",
        "X: etag: g",
        "no colon",
    ]
)


@settings(deadline=None, derandomize=True)
@given(lines=st.lists(LINES, max_size=6))
def test_a_header_is_found_as_if_all_were_read(lines: list[str]) -> None:
    pairs = [line.partition(":") for line in lines]
    read = {name.lower(): value.strip() for name, colon, value in pairs if colon}
    headers = Headers("\r\n".join(["HTTP/1.1 200 OK", *lines]))
    assert dict(headers) == read
    assert len(headers) == len(read)
    for name in ("etag", "x-etag", "x", "tag", "etag "):
        assert headers.get(name) == read.get(name)
        assert (name in headers) is (name in read)


def test_a_redirect_is_not_followed() -> None:
    moved = ok(b"", "Location: http://127.0.0.1:9/", status="302 Found")
    with wire(says(moved)) as heard, client(heard) as http:
        assert http.send("GET", "/?sig=secret", {}).status == 302


@pytest.mark.parametrize("header", [{"X": "a\r\nEvil: b"}, {"X\nEvil": "b"}])
def test_no_header_can_smuggle_another(header: dict[str, str]) -> None:
    with wire(says(ok())) as heard, client(heard) as http:
        with pytest.raises(ConfigurationError, match="line break"):
            http.send("GET", "/", header)
        assert heard.connections == 0


def test_an_interrupt_ends_what_waits() -> None:
    with wire(hangs) as heard, closing(HttpClient(f"http://127.0.0.1:{heard.port}")) as http:
        threading.Timer(0.2, http.interrupt).start()
        began = time.monotonic()
        with pytest.raises(ServiceBusy):
            http.send("GET", "/", {})
        assert time.monotonic() - began < 30  # the stall itself takes 60
        with pytest.raises(ServiceBusy, match="interrupted"):
            http.send("GET", "/", {})
        assert heard.connections == 1


# -- nobody there -----------------------------------------------------------------------------------


def test_a_host_that_does_not_exist_is_named() -> None:
    with closing(HttpClient("https://account.blob.nowhere.invalid")) as http:
        with pytest.raises(EndpointUnreachable, match=r"host of https://account\S+ does not exist"):
            http.send("GET", "/", {})


def test_a_port_where_nobody_listens_is_named() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/account"
        with closing(HttpClient(url)) as http:
            with pytest.raises(EndpointUnreachable, match=f"Nobody answers at {url}: Connection"):
                http.send("GET", "/", {})


@pytest.mark.parametrize("url", ["ftp://a/b", "https://", "https://a:port", "nothing", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        HttpClient(url)


def test_ipv6_is_spoken() -> None:
    with wire(says(ok(b"six")), family=socket.AF_INET6) as heard:
        with client(heard, host="[::1]") as http:
            assert http.send("GET", "/", {}).body == b"six"
    assert f"Host: [::1]:{heard.port}" in heard.heads[0]


# -- TLS --------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that the client trusts, as a company names its own."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return made


def served_by(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def test_tls_carries_the_same(authority: trustme.CA) -> None:
    tls = served_by(authority, "127.0.0.1")
    with wire(says(ok(BODY)), tls=tls) as heard, client(heard, "https") as http:
        memory = bytearray(len(BODY))
        for _ in range(3):
            http.send("PUT", "/", {}, BODY, receive=lambda _: memoryview(memory))
            assert memory == BODY
        assert heard.bodies == [BODY] * 3
        assert heard.connections == 1


def test_connections_that_are_made_beside_are_used_through_tls_too(authority: trustme.CA) -> None:
    """A new one holds session tickets that nobody asked for."""
    tls = served_by(authority, "127.0.0.1")
    with wire(says(ok(b"x")), tls=tls) as heard, client(heard, "https") as http:
        http.send("GET", "/", {})
        held = [http.begin("GET", "/", {})]
        while len(held) < 12:
            if http.is_ready():
                held.append(http.begin("GET", "/", {}))
            else:
                time.sleep(0.02)
        assert len(http._open) <= 17
        assert [one.finish().body for one in held] == [b"x"] * 12
        for _ in range(20):
            http.send("GET", "/", {})
        assert len(http._open) <= 17


def test_a_stall_and_an_end_are_seen_through_tls(authority: trustme.CA) -> None:
    tls = served_by(authority, "127.0.0.1")
    for talk in (hangs, stalls, says(b"")):
        with wire(talk, tls=tls) as heard, client(heard, "https") as http:
            with pytest.raises(ServiceBusy):
                http.send("GET", "/", {})


def test_a_slow_reader_that_goes_on_reading_is_waited_for_through_tls(
    authority: trustme.CA,
) -> None:
    size = 64 * 2**20  # far more than the buffers between the two hold

    def slow(sock: socket.socket, heard: Heard) -> None:
        sock.recv(1000)  # the head, which is a record of its own
        got, until = 0, time.monotonic() + LONGER
        while got < size and (more := len(sock.recv(64 * 1024))):
            got += more
            if time.monotonic() < until:
                time.sleep(0.002)
        sock.sendall(ok(b"all"))

    with wire(slow, tls=served_by(authority, "127.0.0.1")) as heard:
        with client(heard, "https") as http:
            began = time.monotonic()
            assert http.send("PUT", "/", {}, bytes(size)).body == b"all"
            assert time.monotonic() - began > QUICK.stall


def test_an_interrupt_never_takes_the_secrecy_from_a_connection(authority: trustme.CA) -> None:
    with wire(hangs, tls=served_by(authority, "127.0.0.1")) as heard:
        with client(heard, "https") as http:
            threading.Timer(0.1, http.interrupt).start()
            with pytest.raises(ServiceBusy):
                http.send("GET", "/", {})
            for connection in [*http._open, *http._idle]:
                assert connection._socket._sslobj is not None  # type: ignore[attr-defined]


def test_a_host_that_answered_once_is_busy_when_it_is_away(authority: trustme.CA) -> None:
    with wire(says(ok(b"x", "Connection: close"))) as heard, client(heard) as http:
        assert http.send("GET", "/", {}).body == b"x"
        away = http
    with pytest.raises(ServiceBusy, match="Nobody answers"):
        away.send("GET", "/", {})


def test_a_head_that_cannot_be_sent_does_not_show_itself() -> None:
    with wire(says(ok())) as heard, client(heard) as http:
        with pytest.raises(ConfigurationError) as caught:
            http.send("GET", "/?sig=sécret\u0142", {})
    assert caught.value.__cause__ is None
    assert "cret" not in str(caught.value)


def test_a_certificate_of_another_host_is_not_accepted(authority: trustme.CA) -> None:
    with wire(says(ok()), tls=served_by(authority, "other.example")) as heard:
        with client(heard, "https") as http:
            with pytest.raises(EndpointUnreachable, match="certificate of https"):
                http.send("GET", "/", {})
    assert heard.heads == []


def test_an_unknown_authority_is_not_accepted(authority: trustme.CA) -> None:
    with wire(says(ok()), tls=served_by(trustme.CA(), "127.0.0.1")) as heard:
        with client(heard, "https") as http:
            with pytest.raises(EndpointUnreachable, match="SSL_CERT_FILE"):
                http.send("GET", "/", {})
    assert heard.heads == []


def test_authorities_may_be_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    HttpClient("https://account.example").close()


def test_authorities_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/authority.pem")
    with pytest.raises(ConfigurationError, match=r"/nonexistent/authority\.pem"):
        HttpClient("https://account.example")


def test_what_does_not_speak_tls_is_told(authority: trustme.CA) -> None:
    with wire(says(ok())) as heard:
        address = f"https://127.0.0.1:{heard.port}"
        with closing(HttpClient(address, Timeouts(connect=1.0))) as http:
            with pytest.raises(EndpointUnreachable, match="No secure connection"):
                http.send("GET", "/", {})


# -- proxies ----------------------------------------------------------------------------------------


PASSWORD = "s3cret-of-the-proxy"


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_a_plain_request_goes_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with wire(says(ok(b"behind"))) as heard, wire(proxy) as seen:
        monkeypatch.setenv(variable, f"http://me:{PASSWORD}@127.0.0.1:{seen.port}")
        with client(heard) as http:
            assert http.send("PUT", "/a?b=c", {}, b"body").body == b"behind"
    assert seen.heads[0].startswith(f"PUT http://127.0.0.1:{heard.port}/a?b=c HTTP/1.1\r\n")
    token = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert f"Proxy-Authorization: Basic {token}" in seen.heads[0]
    assert heard.bodies == [b"body"]
    assert scrub(f"{PASSWORD} {token}") == f"{MASK} {MASK}"


def test_a_secure_request_goes_through_a_tunnel(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = served_by(authority, "127.0.0.1")
    with wire(says(ok(b"behind")), tls=tls) as heard, wire(proxy) as seen:
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{seen.port}")
        with client(heard, "https") as http:
            assert http.send("GET", "/secret", {}).body == b"behind"
            assert http.send("GET", "/secret", {}).body == b"behind"
    assert [head.split("\r\n")[0] for head in seen.heads] == [
        f"CONNECT 127.0.0.1:{heard.port} HTTP/1.1"
    ]
    assert len(heard.heads) == 2


def test_a_host_may_be_excepted_from_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with wire(says(ok(b"direct"))) as heard:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
        with client(heard) as http:
            assert http.send("GET", "/", {}).body == b"direct"


@pytest.mark.parametrize("answer", [ok(status="407 Proxy Authentication Required"), b""])
def test_a_proxy_that_refuses_is_named(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    with wire(says(answer)) as seen:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{seen.port}")
        with closing(HttpClient("https://account.example")) as http:
            with pytest.raises(EndpointUnreachable, match=r"proxy 127\.0\.0\.1 does not let"):
                http.send("GET", "/", {})


def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with closing(HttpClient("https://account.example")) as http:
        with pytest.raises(EndpointUnreachable, match=r"through the proxy 127\.0\.0\.1:9"):
            http.send("GET", "/", {})


def test_a_proxy_of_another_kind_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(ConfigurationError, match="socks5"):
        HttpClient("https://account.example")
