"""Azurite, Microsoft's emulator of Azure's blob service."""

from dataclasses import dataclass
from pathlib import Path

from servers.identity import Tls
from servers.processes import Server, free_port

_TOOLS = Path(__file__).resolve().parents[2] / ".tools" / "azurite"


@dataclass(frozen=True)
class Azurite:
    """Where a running Azurite is, and what opens it."""

    server: Server
    port: int
    host: str = "127.0.0.1"
    protocol: str = "http"
    account: str = "devstoreaccount1"
    # Microsoft publishes it; it is the same in every Azurite.
    key: str = (
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    )

    @property
    def url(self) -> str:
        """The address of the account."""
        return f"{self.protocol}://{self.host}:{self.port}/{self.account}"


def start(folder: Path, tls: Tls | None = None) -> Azurite:
    """Start Azurite, with its log in `folder`; its blobs are in its memory.

    With `tls` it speaks https, and takes tokens as well.
    """
    bundle = _TOOLS / "azurite-blob.js"
    if not bundle.exists():
        raise FileNotFoundError("Azurite is not built: run `make azurite`")
    port = free_port()
    command = [
        str(_TOOLS / "node"),
        str(bundle),
        "--blobHost",
        Azurite.host,
        "--blobPort",
        str(port),
        "--silent",
        "--disableTelemetry",
        "--skipApiVersionCheck",
        "--inMemoryPersistence",
    ]
    protocol = "http"
    if tls:
        protocol = "https"
        command += ["--cert", str(tls.certificate), "--key", str(tls.key), "--oauth", "basic"]
    probe = f"{protocol}://{Azurite.host}:{port}/"
    server = Server.start(command, probe=probe, log=folder / "azurite.log")
    return Azurite(server, port, protocol=protocol)
