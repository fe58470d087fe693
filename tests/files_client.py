"""Requests to Azure Files as they go over the wire, with nothing done for the one who asks."""

from __future__ import annotations

import email.utils
import http.client
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, unquote

from servers.azure_files import AzureFiles

from prefect_datastores.stores.signing import KeySigner, Request

VERSION = "2024-11-04"
_NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Reply:
    """What came back; the names of the headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def outcome(self) -> tuple[int, str]:
        """Status and error code; "" where there is no error."""
        return self.status, self.headers.get("x-ms-error-code", "")

    def __getitem__(self, name: str) -> str:
        return self.headers[name]

    @property
    def etag(self) -> str:
        return self.headers["etag"]

    @property
    def text(self) -> str:
        return self.body.decode()


class FilesClient:
    """Asks one server about one share, over one connection."""

    def __init__(self, server: AzureFiles, share: str, *, key: str = "") -> None:
        self.server, self.share = server, share
        self.signer = KeySigner(server.account, key or server.key)
        self._connection = http.client.HTTPConnection(server.host, server.port, timeout=30)

    def __call__(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] = _NONE,
        body: bytes = b"",
        *,
        version: str = VERSION,
        signs: bool = True,
    ) -> Reply:
        """Send a request; `path` is below the share, with its query, and encoded where it has to be."""
        return self.ask(method, f"/{self.share}{path}", headers, body, version=version, signs=signs)

    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] = _NONE,
        body: bytes = b"",
        *,
        version: str = VERSION,
        signs: bool = True,
    ) -> Reply:
        """Send a request about the account."""
        target = f"/{self.server.account}{target}"
        given = {"x-ms-date": email.utils.formatdate(usegmt=True), **headers}
        if version:
            given["x-ms-version"] = version
        if signs:
            path, _, asked = target.partition("?")
            fields = [field.partition("=") for field in asked.split("&") if field]
            query = tuple((name, unquote(value)) for name, _, value in fields)
            _, signed = self.signer.sign(Request(method, path, query, given, len(body)))
            given = dict(signed)
        if body or method == "PUT":
            given["Content-Length"] = str(len(body))
        self._connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in given.items():
            self._connection.putheader(name, value)
        self._connection.endheaders(body)
        answer = self._connection.getresponse()
        content = answer.read()
        return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, content)

    def close(self) -> None:
        self._connection.close()

    # What most tests need first.

    def create(self, path: str, length: int = 0, headers: Mapping[str, str] = _NONE) -> Reply:
        """Make a file of zeros."""
        needed = {"x-ms-type": "file", "x-ms-content-length": str(length)}
        return self("PUT", path, {**needed, **headers})

    def mkdir(self, path: str, headers: Mapping[str, str] = _NONE) -> Reply:
        return self("PUT", f"{path}?restype=directory", headers)

    def put(self, path: str, start: int, data: bytes, headers: Mapping[str, str] = _NONE) -> Reply:
        """Write a range."""
        needed = {"x-ms-write": "update", "x-ms-range": f"bytes={start}-{start + len(data) - 1}"}
        return self("PUT", f"{path}?comp=range", {**needed, **headers}, data)

    def store(self, path: str, data: bytes) -> Reply:
        """Make a file with its bytes."""
        made = self.create(path, len(data))
        assert made.status == 201, made.text
        return self.put(path, 0, data) if data else made

    def rename(self, source: str, path: str, headers: Mapping[str, str] = _NONE) -> Reply:
        """Give a file another name."""
        return self("PUT", f"{path}?comp=rename", {**self.renamed(source), **headers})

    def renamed(self, source: str) -> dict[str, str]:
        return {"x-ms-file-rename-source": self.address(source)}

    def address(self, path: str) -> str:
        return f"{self.server.url}/{self.share}{path}"

    def lease(self, path: str, action: str, headers: Mapping[str, str] = _NONE) -> Reply:
        return self("PUT", f"{path}?comp=lease", {"x-ms-lease-action": action, **headers})

    def names(self, path: str = "", query: str = "") -> str:
        return self("GET", f"{path}?restype=directory&comp=list{query}").text


@contextmanager
def asking(server: AzureFiles, share: str, *, key: str = "") -> Iterator[FilesClient]:
    """Have a client while a test runs."""
    client = FilesClient(server, share, key=key)
    try:
        yield client
    finally:
        client.close()


def encoded(name: str) -> str:
    """Return a name as it stands in an address."""
    return "/" + quote(name, safe="/")
