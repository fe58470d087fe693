"""Prefect's own server."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from servers.processes import Server, free_port

_HOST = "127.0.0.1"


@dataclass(frozen=True)
class PrefectServer:
    """Where a running Prefect server is."""

    server: Server
    port: int

    @property
    def ui_url(self) -> str:
        """The address of its pages."""
        return f"http://{_HOST}:{self.port}"

    @property
    def api_url(self) -> str:
        """The address that PREFECT_API_URL takes."""
        return f"{self.ui_url}/api"


def start(
    folder: Path, python: str = sys.executable, database: str = "", port: int = 0
) -> PrefectServer:
    """Start the Prefect that `python` has, with its log in `folder`, and its data there or in the database."""
    port = port or free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= {
        "PREFECT_HOME": str(folder / "prefect-server"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
    }
    if database:
        env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
    command = [python, "-m", "prefect", "server", "start", "--host", _HOST, "--port", str(port)]
    probe = f"http://{_HOST}:{port}/api/health"
    server = Server.start(command, probe=probe, log=folder / "prefect-server.log", env=env)
    return PrefectServer(server, port)
