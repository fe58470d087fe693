"""HTTP/1.1 around the operations of an endpoint: addresses, bodies, errors and what is logged."""

import ipaddress
import json
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import unquote
from xml.sax.saxutils import escape

from servers.data_lake.calls import Answer, Call, http_date, now, pairs_of
from servers.data_lake.names import path_of
from servers.data_lake.namespace import Account
from servers.data_lake.operations import Operation, answer_by
from servers.data_lake.refusals import NotModified, Refusal

_METADATA = "x-ms-meta-"


@dataclass(frozen=True)
class Endpoint:
    """One of the two hosts of an account."""

    kind: Literal["blob", "dfs"]
    server_name: str
    operations: Sequence[Operation]
    missing: str
    """The code for a filesystem that does not exist."""


class Service(ThreadingHTTPServer):
    """An endpoint of an account, on a port of this machine."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, endpoint: Endpoint, account: Account) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.endpoint, self.account = endpoint, account

    def handle_error(self, request: object, client_address: object) -> None:
        """Tell of faults of ours, not of clients that leave."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # the head and the body leave together
    server: Service

    def version_string(self) -> str:
        return f"{self.server.endpoint.server_name} Microsoft-HTTPAPI/2.0"

    def log_message(self, *_: object) -> None:
        pass

    def do(self) -> None:
        body = self._received()
        request_id = str(uuid.uuid4())
        try:
            call = self._call(body)
            operations, account = self.server.endpoint.operations, self.server.account
            answer = answer_by(operations, call, account, missing=self.server.endpoint.missing)
        except NotModified:
            answer = Answer(304, {"x-ms-error-code": "ConditionNotMet"})
        except Refusal as refusal:
            answer = self._refused(refusal, request_id)
        self._send(answer, request_id)

    # The names that the base class asks for.
    do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_POST = do  # noqa: N815

    def _received(self) -> bytes:
        length = self.headers.get("Content-Length")
        if length is None and self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._received_chunks()
        return self.rfile.read(int(length or 0))

    def _received_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _call(self, body: bytes) -> Call:
        target, _, query = self.path.partition("?")
        filesystem, path = self._place(target)
        account = self.server.account
        try:
            decoded = unquote(path, errors="strict")
            pairs = pairs_of(query)
        except UnicodeDecodeError:
            raise Refusal("InvalidUri", "a name that is no UTF-8") from None
        return Call(
            method=self.command,
            encoded_path=target,
            account=account.name,
            filesystem=unquote(filesystem),
            path=self._path_of(decoded),
            query=pairs,
            headers={name.lower(): value for name, value in self.headers.items()},
            metadata=_metadata_of(self.headers),
            body=body,
        )

    def _path_of(self, decoded: str) -> str:
        """Return the path; the DFS endpoint knows a filesystem's root by a slash as well."""
        if not decoded or (decoded == "/" and self.server.endpoint.kind == "dfs"):
            return ""
        return path_of(decoded, hierarchical=self.server.account.hierarchical)

    def _place(self, target: str) -> tuple[str, str]:
        """Return filesystem and path; the account is the host's first label, or leads the path."""
        rest = target.removeprefix("/")
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if _is_address(host):
            named, _, rest = rest.partition("/")
        else:
            named, _, kind = host.partition(".")
            if kind.partition(".")[0] != self.server.endpoint.kind:
                raise Refusal("InvalidUri", f"the host {host} is another endpoint's")
        if named != self.server.account.name:
            raise Refusal("InvalidUri", f"no account {named!r} is here")
        filesystem, _, path = rest.partition("/")
        return filesystem, path

    def _refused(self, refusal: Refusal, request_id: str) -> Answer:
        print(f"{self.command} {self.path.partition('?')[0]}: {refusal}", flush=True)
        moment = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")
        text = f"{refusal.message}\nRequestId:{request_id}\nTime:{moment}"
        headers = {"x-ms-error-code": refusal.code, **refusal.headers}
        if self.server.endpoint.kind == "dfs":
            body = json.dumps({"error": {"code": refusal.code, "message": text}}).encode()
            headers["Content-Type"] = "application/json;charset=utf-8"
        else:
            detail = _detail(refusal)
            body = (
                '\ufeff<?xml version="1.0" encoding="utf-8"?>'
                f"<Error><Code>{refusal.code}</Code><Message>{escape(text)}</Message>{detail}</Error>"
            ).encode()
            headers["Content-Type"] = "application/xml"
        return Answer(refusal.status, headers, body)

    def _send(self, answer: Answer, request_id: str) -> None:
        self.send_response_only(answer.status)
        asked_id = self.headers.get("x-ms-client-request-id")
        headers = {
            "Server": self.version_string(),
            "Date": http_date(now()),
            "x-ms-request-id": request_id,
            **({"x-ms-client-request-id": asked_id} if asked_id else {}),
            "x-ms-version": self.headers.get("x-ms-version", "2021-08-06"),
            "Content-Length": str(len(answer.body)),
            **answer.headers,
        }
        if answer.status == 304:
            del headers["Content-Length"]
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and answer.status != 304:
            self.wfile.write(answer.body)
        self.wfile.flush()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host == "localhost"
    return True


def _metadata_of(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name[len(_METADATA) :]: value
        for name, value in headers.items()
        if name.lower().startswith(_METADATA)
    }


def _detail(refusal: Refusal) -> str:
    """Return the element that says more; only refused signatures have one on the service."""
    if not refusal.detail:
        return ""
    name = "AuthenticationErrorDetail" if refusal.status == 403 else "TestServerDetail"
    return f"<{name}>{escape(refusal.detail)}</{name}>"
