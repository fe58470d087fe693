"""Azure Files by REST, as strict as the service: in memory, on this machine only.

It does what recorded sessions of the service, its documentation and its specification show, and refuses
everything else: with 501, or with 400 where a condition is given, and a line in its log. These answers are guesses,
as nothing was found that shows them:

* 409 `ResourceTypeMismatch` for a file that is a directory, and the other way round;
* 401 `NoAuthenticationInformation` where nothing signs a request, and which right a shared access signature needs
  for a lease or a rename;
* the codes for a name that is too long, for a range of more than 4 MiB and for a body of another length than its range;
* that a read-only file is not deleted, and that a prefix of a listing has no case;
* `FileInvalidPermission` for a permission of more than 8 KiB in a header (that it is refused there is documented) and of
  more than 64 KiB in a body (as long as Windows lets a security descriptor be), and that only the owner of the account
  reads and makes permissions: a signature for the share that may write and delete can make them, by the documentation;
* that attributes, moments and permission that a rename is given are those of the file from the moment it has its name:
  the documentation says that they are set, and the recordings that all is one step.
"""

import base64
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from servers.processes import Server, free_port

_TESTS = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class AzureFiles:
    """Where a running server is, and what opens it."""

    server: Server
    port: int
    token: str = ""
    """The bearer token that it takes; "" for none."""
    host: str = "127.0.0.1"
    account: str = "filesaccount"
    key: str = base64.b64encode(bytes(range(64))).decode()

    @property
    def url(self) -> str:
        """The address of the account."""
        return f"http://{self.host}:{self.port}/{self.account}"

    @property
    def connection_string(self) -> str:
        """The same, with the key, as Microsoft's clients and rclone take it."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={self.account};AccountKey={self.key};"
            f"FileEndpoint={self.url}"
        )


def start(folder: Path, *, token: str = "", name: str = "azure-files") -> AzureFiles:
    """Start it, with its log in `folder`; with `token`, that opens it as well."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "servers.azure_files",
        f"--port={port}",
        f"--account={AzureFiles.account}",
        f"--key={AzureFiles.key}",
        f"--token={token}",
    ]
    probe = f"http://{AzureFiles.host}:{port}/"
    log = folder / f"{name}.log"
    env = {**os.environ, "PYTHONPATH": str(_TESTS)}
    return AzureFiles(Server.start(command, probe=probe, log=log, env=env), port, token)
