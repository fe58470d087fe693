"""HTTP/1.1: requests come in, are carried out one at a time, and are answered."""

from __future__ import annotations

import sys
import traceback
import uuid
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from servers.azure_files import authorization, routes, times
from servers.azure_files.errors import Refused, body_of, unknown
from servers.azure_files.operation import Call, Operation
from servers.azure_files.request import Answer, Request
from servers.azure_files.tree import Account

_LARGEST_BODY = 64 << 20
_LOUD = {"NotImplementedByTestServer", "ConditionHeadersNotSupported"}


class FilesServer(ThreadingHTTPServer):
    """The server of one account."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, account: Account) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.account = account

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away; a fault of the server was told before."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: FilesServer

    def version_string(self) -> str:
        return "Windows-Azure-File/1.0 Microsoft-HTTPAPI/2.0"

    def log_message(self, *_: object) -> None:
        """Log no requests; what is refused as unknown is told by `serve`."""

    def serve(self) -> None:
        request_id = str(uuid.uuid4())
        try:
            self._send(self._answer(), request_id)
        except Refused as refused:
            if refused.code in _LOUD:
                self._tell(str(refused))
            self._refuse(refused, request_id)
        except OSError:
            self.close_connection = True
        except Exception:  # noqa: BLE001  no fault may end as a success
            self._tell(traceback.format_exc())
            self._refuse(unknown("a fault of the test server"), request_id)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = do_PATCH = do_OPTIONS = serve  # noqa: N815

    def _answer(self) -> Answer:
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            if name.lower() in headers:
                raise unknown(f"the header {name}, twice")
            headers[name.lower()] = value.strip()
        body = self._body(headers)
        peer = self.client_address[0]
        request = Request.parse(self.command, self.path, headers, body, peer)
        account = self.server.account
        if not request.raw_path.strip("/"):
            raise Refused("InvalidUri")
        with account.lock:
            operation = self._operation(account, request)
            grant = authorization.grant_of(account, request, operation.level, operation.needs)
            return operation.run(Call(account, request, grant))

    @staticmethod
    def _operation(account: Account, request: Request) -> Operation:
        """Find the operation; who is nobody is told that, and not what is known here."""
        try:
            return routes.operation_of(request)
        except Refused:
            authorization.grant_of(account, request, "object", "racwdl")
            raise

    def _body(self, headers: dict[str, str]) -> bytes:
        if "transfer-encoding" in headers:
            self.close_connection = True
            raise unknown("a body in chunks")
        if self.command == "PUT" and "content-length" not in headers:
            self.close_connection = True
            raise Refused("MissingContentLengthHeader")
        length = int(headers.get("content-length", "0"))
        if length > _LARGEST_BODY:
            self.close_connection = True
            raise Refused("RequestBodyTooLarge")
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionResetError
        return body

    def _refuse(self, refused: Refused, request_id: str) -> None:
        time = times.iso(times.Clock().now())
        headers = {"x-ms-error-code": refused.code, **refused.headers}
        body = body_of(refused, request_id, time)
        headers["Content-Type"] = "application/xml"
        answer = Answer(refused.status, headers, body)
        if self.command == "HEAD":  # as the service: neither a body nor its length
            del headers["Content-Type"]
            answer = Answer(refused.status, headers, is_chunked=True)
        self._send(answer, request_id, refused.message)

    def _send(self, answer: Answer, request_id: str, reason: str = "") -> None:
        self.send_response(answer.status, reason or None)
        version = self.headers.get("x-ms-version")
        told = {**answer.headers, "x-ms-request-id": request_id}
        if version:
            told["x-ms-version"] = version
        if given := self.headers.get("x-ms-client-request-id"):
            told["x-ms-client-request-id"] = given
        for name, value in told.items():
            self.send_header(name, value)
        if answer.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            length = len(answer.body) if answer.length is None else answer.length
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(answer)
        self.wfile.flush()

    def _send_body(self, answer: Answer) -> None:
        if not answer.is_chunked:
            self.wfile.write(answer.body)
            return
        if answer.body:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(answer.body), answer.body))
        self.wfile.write(b"0\r\n\r\n")

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(timestamp, usegmt=True)

    def _tell(self, what: str) -> None:
        line = f"{self.command} {self.path.partition('?')[0]}: {what}"
        print(line, file=sys.stderr, flush=True)
