"""Peak memory and time of moving a 2 GiB folder up and down, beside the SDK used one file at a time.

Run it with `.venv/bin/python benchmarks/memory.py` after `make azurite`; it prints the table that
`benchmarks/RESULTS.md` holds. Each line is a process of its own, and all run in turn against one
Azurite, which is the slower part: read the memory and the ratios, not the seconds.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
MIB = 2**20


def ours(direction: str, where: dict[str, str], folder: Path) -> None:
    """Move the folder with this package."""
    from prefect_datastores import AccountKey, AzureBlobDatastore, LocalDatastore

    if "root" in where:
        datastore: LocalDatastore | AzureBlobDatastore = LocalDatastore(root=where["root"])
    else:
        auth = AccountKey(account_key=where["key"])
        datastore = AzureBlobDatastore(
            account_name=where["account"],
            container_name=where["container"],
            endpoint=where["endpoint"],
            protocol="http",
            auth=auth,
        )
    if direction == "up":
        datastore.upload(folder, "data", show_progress=False)
    else:
        datastore.download(folder, "data", show_progress=False)


def sdk(direction: str, where: dict[str, str], folder: Path) -> None:
    """Move the folder with azure-storage-blob in the usual loop: one file after another, whole."""
    from azure.storage.blob import ContainerClient

    url = f"http://{where['endpoint']}/{where['account']}"
    credential = {"account_name": where["account"], "account_key": where["key"]}
    with ContainerClient(url, where["container"], credential=credential) as container:
        if direction == "up":
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                name = f"sdk/{file.relative_to(folder)}"
                container.upload_blob(name, file.read_bytes(), overwrite=True)
            return
        for blob in container.list_blobs(name_starts_with="sdk/"):
            target = folder / blob.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(container.download_blob(blob.name).readall())


CLIENTS: dict[str, Callable[[str, dict[str, str], Path], None]] = {"ours": ours, "sdk": sdk}


def child(client: str, direction: str, where: str, folder: str) -> None:
    """Do one line of the table and print what it took."""
    began = time.monotonic()
    CLIENTS[client](direction, json.loads(where), Path(folder))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = time.monotonic() - began
    peak = usage.ru_maxrss / 1024 if sys.platform == "linux" else usage.ru_maxrss / MIB
    print(json.dumps({"peak": peak, "seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime}))


def write_folder(folder: Path) -> None:
    """Write one file of 1 GiB and 256 of 4 MiB, of bytes that no file system shortens."""
    block = os.urandom(4 * MIB)
    folder.mkdir()
    with (folder / "large.bin").open("wb") as file:
        for _ in range(256):
            file.write(block)
    for index in range(256):
        (folder / f"{index:03}.bin").write_bytes(block)


def measured(client: str, direction: str, where: dict[str, str], folder: Path) -> dict[str, float]:
    """Run one line in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, client, direction, json.dumps(where), str(folder)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def main() -> None:
    """Print the table."""
    sys.path.insert(0, str(ROOT / "tests"))
    from azure.storage.blob import BlobServiceClient
    from servers import azurite as azurite_server

    print("| store | client | direction | peak memory, MiB | seconds | CPU seconds |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        write_folder(work / "source")
        server = azurite_server.start(work)
        try:
            server.server.wait_until_ready()
            name = f"bench-{uuid.uuid4().hex}"
            credential = {"account_name": server.account, "account_key": server.key}
            BlobServiceClient(server.url, credential=credential).create_container(name)
            blob = {
                "account": server.account,
                "key": server.key,
                "container": name,
                "endpoint": f"{server.host}:{server.port}",
            }
            (work / "store").mkdir()
            lines = [("local folder", "ours", {"root": str(work / "store")})]
            lines += [("Azurite", client, blob) for client in CLIENTS]
            for store, client, where in lines:
                for direction in ("up", "down"):
                    folder = work / ("source" if direction == "up" else f"{store}-{client}")
                    took = measured(client, direction, where, folder)
                    print(
                        f"| {store} | {client} | {direction} | {took['peak']:.0f} | {took['seconds']:.1f} "
                        f"| {took['cpu']:.1f} |",
                        flush=True,
                    )
        finally:
            server.server.stop()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(*sys.argv[1:])
    else:
        main()
