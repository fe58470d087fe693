"""One transfer by one client, as a program of its own: `peers.py CLIENT WAY PORT FOLDER NAME FIGURES`.

Each is used as its own documentation tells people in a hurry to use it, many transfers at once.
`transfer.py` runs these one after another and measures the processes; seconds and CPU of the work
itself, from the end of the client's imports to the end of its last call, are written to FIGURES.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ACCOUNT, CONTAINER = "account", "bench"
KEY = "a2V5IG9mIHRoZSBzdGFuZC1pbg=="
AT_ONCE, PARTS = 64, 16


began: list[float] = []


def begin() -> None:
    """Take note that the client is imported, and its work begins."""
    began[:] = [time.perf_counter(), time.process_time()]


def files(folder: Path) -> list[Path]:
    """Every file below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def ours(way: str, port: str, folder: Path, name: str) -> None:
    """Use this package as its README says."""
    from prefect_datastores import AccountKey, AzureBlobDatastore

    begin()
    store = AzureBlobDatastore(
        account_name=ACCOUNT,
        container_name=CONTAINER,
        auth=AccountKey(account_key=KEY),
        protocol="http",
        endpoint=f"127.0.0.1:{port}",
    )
    if way == "up":
        store.upload(folder, name, overwrite="replace", show_progress=False)
    elif way == "down":
        store.download(folder, name, overwrite="replace", show_progress=False)
    else:
        print(len(store.list_objects(name)))


def sdk(way: str, port: str, folder: Path, name: str) -> None:
    """Use azure-storage-blob from threads."""
    from azure.storage.blob import ContainerClient

    begin()
    credential = {"account_name": ACCOUNT, "account_key": KEY}
    url = f"http://127.0.0.1:{port}/{ACCOUNT}"
    client = ContainerClient(
        url,
        CONTAINER,
        credential=credential,
        max_single_put_size=4 * 2**20,
        max_block_size=4 * 2**20,
    )

    def up(path: Path) -> None:
        with path.open("rb") as file:
            client.upload_blob(
                f"{name}/{path.relative_to(folder)}", file, overwrite=True, max_concurrency=PARTS
            )

    def down(blob: str) -> None:
        target = folder / blob
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            client.download_blob(blob, max_concurrency=PARTS).readinto(file)

    with client, ThreadPoolExecutor(16) as threads:
        if way == "up":
            list(threads.map(up, files(folder)))
        elif way == "down":
            list(threads.map(down, client.list_blob_names(name_starts_with=f"{name}/")))
        else:
            print(sum(1 for _ in client.list_blobs(name_starts_with=f"{name}/")))


def obstore(way: str, port: str, folder: Path, name: str) -> None:
    """Use obstore with asyncio."""
    import obstore as api
    from obstore.store import AzureStore

    begin()
    store = AzureStore(
        CONTAINER,
        account_name=ACCOUNT,
        account_key=KEY,
        endpoint=f"http://127.0.0.1:{port}/{ACCOUNT}",
        client_options={"allow_http": True},
    )

    async def up(path: Path) -> None:
        target = f"{name}/{path.relative_to(folder)}"
        await api.put_async(store, target, path, max_concurrency=PARTS)

    async def down(meta: Any) -> None:
        target = folder / meta["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        step = 8 * 2**20
        if meta["size"] <= step:
            target.write_bytes(await (await api.get_async(store, meta["path"])).bytes_async())
            return
        with target.open("wb") as file:
            file.truncate(meta["size"])
            together = asyncio.Semaphore(PARTS)

            async def part(start: int) -> None:
                async with together:
                    end = min(start + step, meta["size"])
                    data = await api.get_range_async(store, meta["path"], start=start, end=end)
                    import os

                    os.pwrite(file.fileno(), data, start)

            await asyncio.gather(*map(part, range(0, meta["size"], step)))

    async def all_of(work: Callable[[Any], Coroutine[Any, Any, None]], items: list[Any]) -> None:
        together = asyncio.Semaphore(AT_ONCE)

        async def one(item: Any) -> None:
            async with together:
                await work(item)

        await asyncio.gather(*map(one, items))

    if way == "up":
        asyncio.run(all_of(up, files(folder)))
        return
    found = [meta for page in api.list(store, f"{name}/", chunk_size=5000) for meta in page]
    if way == "down":
        asyncio.run(all_of(down, found))
    else:
        print(len(found))


def adlfs(way: str, port: str, folder: Path, name: str) -> None:
    """Use adlfs through fsspec."""
    from adlfs import AzureBlobFileSystem

    begin()
    where = f"http://127.0.0.1:{port}/{ACCOUNT}"
    given = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={where};"
    system = AzureBlobFileSystem(connection_string=given, max_concurrency=PARTS)
    if way == "up":
        system.put(f"{folder}/", f"{CONTAINER}/{name}/", recursive=True)
    elif way == "down":
        system.get(f"{CONTAINER}/{name}/", f"{folder}/{name}/", recursive=True)
    else:
        print(len(system.find(f"{CONTAINER}/{name}")))


def prefect_azure(way: str, port: str, folder: Path, name: str) -> None:
    """Use the storage block of Prefect's own integration."""
    from prefect_azure import AzureBlobStorageContainer, AzureBlobStorageCredentials

    begin()
    where = f"http://127.0.0.1:{port}/{ACCOUNT}"
    given = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={where};"
    container = AzureBlobStorageContainer(
        container_name=CONTAINER, credentials=AzureBlobStorageCredentials(connection_string=given)
    )
    if way == "up":
        container.upload_from_folder(folder, name, overwrite=True)
    else:
        container.download_folder_to_path(name, folder)


CLIENTS = {
    "ours": ours,
    "sdk": sdk,
    "obstore": obstore,
    "adlfs": adlfs,
    "prefect-azure": prefect_azure,
}

if __name__ == "__main__":
    _, chosen, direction, at, place, called, figures = sys.argv
    CLIENTS[chosen](direction, at, Path(place), called)
    seconds, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    Path(figures).write_text(json.dumps({"seconds": seconds, "cpu": cpu}))
