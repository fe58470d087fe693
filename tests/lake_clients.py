"""Ways to ask the tests' data lake: by requests of our own, and by Microsoft's SDK."""

import email.utils
import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from azure.core.pipeline.transport import RequestsTransport
from azure.storage.filedatalake import DataLakeServiceClient
from servers.data_lake import DataLake

from prefect_datastores.stores.signing import KeySigner, Query, Request, Signer

VERSION = "2024-11-04"


@dataclass(frozen=True)
class Reply:
    """What the service answered; its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of an error, which header and body agree about."""
        code = self.headers.get("x-ms-error-code", "")
        if self.body.startswith(b"{"):
            assert json.loads(self.body)["error"]["code"] == code
        elif self.body and code:
            assert re.search(b"<Error><Code>([^<]*)</Code>", self.body)[1].decode() == code  # type: ignore[index]
        return code

    @property
    def outcome(self) -> tuple[int, str]:
        """Status and code."""
        return self.status, self.code

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Asker:
    """Asks about one filesystem, signed by the key unless told otherwise."""

    lake: DataLake
    filesystem: str
    signer: Signer | None = None

    def blob(self, method: str, path: str = "", query: Query = (), **more: Any) -> Reply:
        """Ask the Blob endpoint."""
        return self._ask("blob", method, path, query, **more)

    def dfs(self, method: str, path: str = "", query: Query = (), **more: Any) -> Reply:
        """Ask the DFS endpoint."""
        return self._ask("dfs", method, path, query, **more)

    def make_file(self, path: str, content: bytes = b"x") -> str:
        """Store a blob, and return its ETag."""
        reply = self.blob("PUT", path, headers={"x-ms-blob-type": "BlockBlob"}, body=content)
        assert reply.status == 201, reply
        return reply.headers["etag"]

    def make_directory(self, path: str) -> str:
        """Make a directory, and return its ETag."""
        reply = self.dfs("PUT", path, (("resource", "directory"),))
        assert reply.status == 201, reply
        return reply.headers["etag"]

    def rename(self, path: str, to: str, mode: str = "", **headers: str) -> Reply:
        """Rename a path; underscores in the names of headers stand for dashes."""
        source = f"/{self.filesystem}/{quote(path)}"
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        query = (("mode", mode),) if mode else ()
        return self.dfs("PUT", to, query, headers={"x-ms-rename-source": source, **given})

    def content(self, path: str) -> bytes | None:
        """Return what a file holds; None where there is none."""
        reply = self.blob("GET", path)
        assert reply.status in {200, 404}, reply
        return reply.body if reply.status == 200 else None

    def names(self, prefix: str = "", *, shows: str = "") -> list[str]:
        """Return the names in a flat listing of the Blob endpoint."""
        query: Query = (("restype", "container"), ("comp", "list"), ("prefix", prefix))
        reply = self.blob("GET", query=(*query, *((("showonly", shows),) if shows else ())))
        assert reply.status == 200, reply
        return re.findall("<Blob><Name>([^<]*)</Name>", reply.body.decode())

    def _ask(
        self,
        endpoint: Literal["blob", "dfs"],
        method: str,
        path: str,
        query: Query,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Reply:
        url = self.lake.blob_url if endpoint == "blob" else self.lake.dfs_url
        address = urlsplit(url)
        place = f"{address.path}/{self.filesystem}".rstrip("/")
        full = f"{place}/{quote(path, safe='~/')}" if path else place
        given = {
            "x-ms-date": email.utils.formatdate(usegmt=True),
            "x-ms-version": VERSION,
            **(headers or {}),
        }
        signer = self.signer or KeySigner(self.lake.account, self.lake.key)
        target, signed = signer.sign(Request(method, full, query, given, len(body)))
        connection = http.client.HTTPConnection(address.netloc, timeout=10)
        try:
            connection.request(method, target, body or None, dict(signed))
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, told, answer.read())
        finally:
            connection.close()


class _Hosts(RequestsTransport):
    """Leads the service's host names to the ports of this machine."""

    def __init__(self, lake: DataLake) -> None:
        super().__init__()
        self._ports = {"blob": lake.blob_port, "dfs": lake.dfs_port}
        self._host = lake.host

    def send(self, request: Any, **options: Any) -> Any:
        """Send a request to the port, under the name that it was signed for."""
        asked = urlsplit(request.url)
        port = self._ports[asked.netloc.split(".")[1]]
        request.headers["Host"] = asked.netloc
        request.url = asked._replace(netloc=f"{self._host}:{port}").geturl()
        return super().send(request, **options)


def sdk(lake: DataLake, credential: Any = None, **options: Any) -> DataLakeServiceClient:
    """Return Microsoft's client of the account, which takes one endpoint's host from the other's."""
    return DataLakeServiceClient(
        f"http://{lake.account}.dfs.core.windows.net",
        credential=credential or lake.key,
        transport=_Hosts(lake),
        retry_total=0,
        **options,
    )
