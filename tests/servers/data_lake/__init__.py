"""An Azure storage account with a hierarchical namespace (Data Lake Storage Gen2), for tests.

One namespace behind two endpoints, as the service has two hosts: blobs and DFS. All is in memory,
each request is one step, signatures are checked, and what is not known here is refused: 501, the
code `NotImplementedByTestServer`, and a line in the log. How each behaviour is known, and which
are guesses, is in FACTS.md.
"""

import base64
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from servers.processes import Server, free_port

TOKEN = "a-token-of-somebody"
"""What a test may tell an account to take for a good token."""

_TESTS = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class DataLake:
    """Where a running account is, and what opens it."""

    server: Server
    blob_port: int
    dfs_port: int
    host: str = "127.0.0.1"
    account: str = "lake"
    key: str = base64.b64encode(b"the key of an account that only tests have").decode()

    @property
    def blob_url(self) -> str:
        """The address of the account at the Blob endpoint."""
        return f"http://{self.host}:{self.blob_port}/{self.account}"

    @property
    def dfs_url(self) -> str:
        """The address of the account at the DFS endpoint."""
        return f"http://{self.host}:{self.dfs_port}/{self.account}"


def start(
    folder: Path, *, flat: bool = False, tokens: Sequence[str] = (), name: str = "data-lake"
) -> DataLake:
    """Start an account, with its log in `folder`.

    With `flat` it has no hierarchical namespace; `tokens` are those that it takes for good ones.
    """
    blob_port, dfs_port = free_port(), free_port()
    command = [
        *(sys.executable, "-m", "servers.data_lake"),
        *("--blob-port", str(blob_port), "--dfs-port", str(dfs_port)),
        *("--account", DataLake.account, "--key", DataLake.key),
        *(["--flat"] if flat else []),
        *(argument for token in tokens for argument in ("--token", token)),
    ]
    # The last port that is opened tells that both are.
    probe = f"http://{DataLake.host}:{dfs_port}/{DataLake.account}"
    server = Server.start(
        command,
        probe=probe,
        log=folder / f"{name}.log",
        env={**os.environ, "PYTHONPATH": str(_TESTS)},
    )
    return DataLake(server, blob_port, dfs_port)
