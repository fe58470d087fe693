"""Places for data, one class a kind: as stores of short parts, as datastores, and through a proxy that fails."""

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from azure.storage.blob import generate_container_sas
from servers.azure_files import AzureFiles
from servers.azurite import Azurite
from servers.data_lake import TOKEN, DataLake
from servers.faults import Fault, FaultyProxy, faulty
from small_stores import (
    PART,
    SmallBlobStore,
    SmallDataLakeStore,
    SmallLocalStore,
    SmallShareStore,
)

from prefect_datastores import (
    AccountKey,
    AzureBlobDatastore,
    AzureDataLakeGen2Datastore,
    AzureFileDatastore,
    Datastore,
    LocalDatastore,
)
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import ContainerNotFound
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.azure import AzureService
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.http import Timeouts
from prefect_datastores.stores.memory import MemoryStore
from prefect_datastores.stores.retry import RetryingStore, RetryPolicy
from prefect_datastores.stores.share_writing import md5_text

TRIES = 3
_OTHERS = ("small", "sub/other", "empty")


@dataclass(frozen=True)
class Step:
    """A kind of request in an upload: which, of what files, whether it shows one, and has a body.

    A file is `begun_anew` where that request finds nothing, as somebody may have taken it away; and
    what it shows `is_known` even where no answer to it ever comes, as it is looked at first.
    """

    match: str
    files: Sequence[str] = ("large",)
    shows: bool = False
    has_body: bool = True
    begun_anew: int = 0
    is_known: bool = False


def _renames(name: str) -> Step:
    """Return the request that shows a file of a share."""
    match = rf"PUT \S+/{name}\?comp=rename"
    return Step(match, (name,), shows=True, has_body=False, begun_anew=10, is_known=True)


class Place:
    """An empty place of one kind, which is gone with `remove`."""

    kind: ClassVar[str]
    store: ObjectStore

    def datastore(self) -> FileDatastore:
        """Return a block of it that is not registered."""
        raise NotImplementedError

    def register(self, name: str) -> FileDatastore:
        """Register a block of it, as people do."""
        raise NotImplementedError

    def opened_by(self, part_size: int = PART) -> str:
        """Return the code that defines `Store`, of short parts, and `opened()`, for another process."""
        arguments, options = self.opening()
        (kind,) = type(self.store).__bases__
        told = capabilities_of(self.store)
        return f"""
from dataclasses import replace
from {kind.__module__} import {kind.__name__}
class Store({kind.__name__}):
    {told} = replace({kind.__name__}.{told}, part_size={part_size})
def opened():
    return Store(*{arguments!r}, **{options!r})
"""

    def opening(self) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Return what its store is made of."""
        raise NotImplementedError

    def destroy(self) -> None:
        """Remove what holds the objects."""
        raise NotImplementedError

    def remove(self) -> None:
        """Leave nothing behind."""
        self.store.close()


class MemoryPlace(Place):
    """Of this process alone: no block knows it, and no other process."""

    kind = "memory"

    store: MemoryStore

    def __init__(self) -> None:
        self.store = MemoryStore()

    def plant(self, name: str, content: bytes, digest: bytes | None = None) -> None:
        """Store an object with any digest or none."""
        self.store.put(name, content, digest)

    def destroy(self) -> None:
        self.store = MemoryStore(exists=False)


class LocalPlace(Place):
    """A new folder."""

    kind = "local"

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.root, self.store = root, SmallLocalStore(root)

    def datastore(self) -> LocalDatastore:
        return LocalDatastore(root=str(self.root))

    def register(self, name: str) -> LocalDatastore:
        return Datastore.register_local(name, self.root)

    def opening(self) -> tuple[tuple[str, ...], dict[str, Any]]:
        return (str(self.root),), {}

    def make_folder(self, name: str) -> None:
        """Make an empty folder."""
        (self.root / name).mkdir(parents=True)

    def destroy(self) -> None:
        shutil.rmtree(self.root)


@dataclass
class Through:
    """A place seen through a proxy that fails as told, with retry; its pauses take no time."""

    bare: ObjectStore
    store: RetryingStore
    proxy: FaultyProxy
    ports: Sequence[int]
    pauses: list[float] = field(default_factory=list)


class RemotePlace(Place):
    """A container of an account on a server of this machine."""

    steps: ClassVar[Mapping[str, Step]] = {
        "part": Step(r"PUT \S+/large\?\S*comp=block&"),
        "commit": Step(r"PUT \S+/large\?\S*comp=blocklist", shows=True),
        "small": Step(r"PUT \S+/small(\?|$)", ("small",), shows=True),
    }
    "Requests by which files `large` and `small` are uploaded."
    rights_to_write: ClassVar[str] = "cw"
    over_dfs: ClassVar[Collection[str]] = ()
    "Those over a file that the DFS endpoint wrote."
    empty_listing: ClassVar[bytes] = (
        b"<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>"
    )
    store: Any
    token: str
    "One that the server takes."
    small: ClassVar[Callable[..., Any]]
    block: ClassVar[Callable[..., FileDatastore]]
    registration: ClassVar[Callable[..., FileDatastore]]
    command: ClassVar[str] = "azure-blob"
    resource: ClassVar[str] = "container"
    with_all: ClassVar[Mapping[str, str]] = {}
    "What has it removed with its snapshots."
    name_field: ClassVar[str] = "container_name"
    argument: ClassVar[str] = "container_name"
    option: ClassVar[str] = "container"
    "How a block, its registration and the command line call the container."
    service_of_url: ClassVar[str] = "blob"
    services: ClassVar[Sequence[str]] = ("BlobEndpoint",)
    "What a connection string calls the endpoints, in the order of `ports`."

    def __init__(self, server: Any, name: str) -> None:
        self.server, self.name = server, name
        self.store = self.open()
        self.store.create_root()

    @property
    def ports(self) -> tuple[int, ...]:
        """Where the account listens."""
        return (self.server.port,)

    @property
    def service(self) -> AzureService:
        """What sends single requests about the container."""
        return self.store._service

    def opening(
        self, ports: Sequence[int] = (), **sign_in: Any
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        account = self.server.account
        urls = [f"http://{self.server.host}:{port}/{account}" for port in ports or self.ports]
        options = self._addresses(urls[1:], sign_in or {"account_key": self.server.key})
        return (urls[0], self.name), options

    def _addresses(self, _: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
        """Name the addresses beside the first."""
        return options

    def open(self, ports: Sequence[int] = (), **sign_in: Any) -> Any:
        """Open it another time, by the account's key unless told otherwise."""
        arguments, options = self.opening(ports, **sign_in)
        return type(self).small(*arguments, **options)

    def connection(self, ports: Sequence[int] = ()) -> dict[str, Any]:
        """Return what a block, or its registration, is told beside a sign-in."""
        host, (port, *_) = self.server.host, ports or self.ports
        return {
            "account_name": self.server.account,
            self.name_field: self.name,
            "protocol": "http",
            "endpoint": f"{host}:{port}",
        }

    def datastore(self, ports: Sequence[int] = (), **more: Any) -> FileDatastore:
        given = {**self.connection(ports), "auth": self.auth(), **more}
        return type(self).block(**given)

    def auth(self) -> AccountKey:
        """Return the sign-in of a block."""
        return AccountKey(account_key=self.server.key)

    def register(self, name: str, ports: Sequence[int] = (), **more: Any) -> FileDatastore:
        given = {**self.connection(ports), "account_key": self.server.key}
        given[self.argument] = given.pop(self.name_field)
        return type(self).registration(None, name, **{**given, **more})

    @classmethod
    def register_elsewhere(cls, name: str, **more: Any) -> FileDatastore:
        """Register one of this kind at an account that nobody has."""
        given = {cls.argument: "data", "account_name": "account1", **more}
        return cls.registration(None, name, **given)

    @classmethod
    def block_elsewhere(cls, **more: Any) -> FileDatastore:
        """Return a block of this kind at an account that nobody has."""
        return cls.block(**{cls.name_field: "data", "account_name": "account1", **more})

    def sas(self, permission: str = "rcwdl", hours: int = 1) -> str:
        """Return a token for the container."""
        return str(
            generate_container_sas(
                self.server.account,
                self.name,
                account_key=self.server.key,
                permission=permission,
                expiry=datetime.now(timezone.utc) + timedelta(hours=hours),
            )
        )

    def good_sign_in(self) -> str:
        """Return the header that signs in by a token, or a SAS where the server knows no tokens."""
        return f"Bearer {self.token}"

    def plant(self, name: str, content: bytes, digest: bytes | None = None) -> None:
        """Store an object as another client does, with any digest or none."""
        given = {"x-ms-blob-content-md5": md5_text(digest)} if digest else {}
        blocks = b"<BlockList></BlockList>"
        if content:
            self.service.request("PUT", name, (("comp", "block"), ("blockid", "MQ==")), {}, content)
            blocks = b"<BlockList><Latest>MQ==</Latest></BlockList>"
        self.service.request("PUT", name, (("comp", "blocklist"),), given, blocks)

    def make_folder(self, name: str) -> None:
        """Make an empty folder, or what stands for one."""
        self.service.request("PUT", f"{name}/", headers={"x-ms-blob-type": "BlockBlob"})

    def asks(self, step: str) -> str:
        """Return the pattern of a kind of request."""
        return self.steps[step].match

    @contextmanager
    def through(
        self,
        *faults: Fault,
        stall: float = 30.0,
        tries: int = TRIES,
        page_size: int = 0,
        takes_any_token: bool = False,
        is_known: bool = True,
        **sign_in: Any,
    ) -> Iterator[Through]:
        """Open it through a proxy before all of its endpoints; `stall` is how long nothing may come.

        What can be asked once is asked before any fault, unless `is_known` is False.
        """
        pauses: list[float] = []
        policy = RetryPolicy(tries=tries, sleep=pauses.append, jitter=lambda: 0.0)
        signs_by = self.good_sign_in() if takes_any_token else ""
        with ExitStack() as stack:
            proxy = stack.enter_context(faulty(self.server.host, self.ports[0], signs_by=signs_by))
            others = [
                stack.enter_context(faulty(self.server.host, port, signs_by=signs_by, first=proxy))
                for port in self.ports[1:]
            ]
            ports = [proxy.port, *(other.port for other in others)]
            bare = stack.enter_context(closing(self.open(ports, **sign_in)))
            for service in vars(bare).values():
                if isinstance(service, AzureService):
                    service._http._timeouts = Timeouts(stall=stall)
            if page_size:
                told = capabilities_of(bare)
                setattr(bare, told, replace(getattr(bare, told), page_size=page_size))
            if is_known:
                assert bare.capabilities
            proxy.fail_by(*faults)
            yield Through(bare, RetryingStore(bare, policy), proxy, ports, pauses)

    def destroy(self) -> None:
        query, headers = (("restype", self.resource),), self.with_all
        # A connection that nobody used for seconds may be closed while this is sent.
        delete = partial(self.service.request, "DELETE", query=query, headers=headers)
        RetryPolicy().call("remove it", delete)

    def remove(self) -> None:
        with suppress(ContainerNotFound):
            self.destroy()
        super().remove()


class BlobPlace(RemotePlace):
    """A blob container."""

    kind = "blob"
    server: Azurite
    small, block = SmallBlobStore, AzureBlobDatastore
    registration = Datastore.register_azure_blob_container

    def good_sign_in(self) -> str:
        return self.sas()


class LakePlace(RemotePlace):
    """A filesystem with a hierarchical namespace, at both endpoints."""

    kind = "lake"
    server: DataLake
    token = TOKEN
    has_folders = True
    small, block = SmallDataLakeStore, AzureDataLakeGen2Datastore
    registration = Datastore.register_azure_data_lake_gen2
    command, argument, option = "azure-data-lake-gen2", "filesystem", "filesystem"
    services = ("BlobEndpoint", "DfsEndpoint")
    steps: ClassVar[Mapping[str, Step]] = {
        **RemotePlace.steps,
        "part aside": Step(r"PUT \S+unfinished/\w+\?\S*comp=block&"),
        "commit aside": Step(r"PUT \S+unfinished/\w+\?\S*comp=blocklist"),
        "rename": Step(r"PUT \S+/large\?mode=legacy", shows=True, has_body=False),
    }
    over_dfs = ("part aside", "commit aside", "rename")

    @property
    def ports(self) -> tuple[int, ...]:
        return self.server.blob_port, self.server.dfs_port

    def _addresses(self, others: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
        return {"dfs_url": others[0], **options}

    def connection(self, ports: Sequence[int] = ()) -> dict[str, Any]:
        _, dfs = ports or self.ports
        return {**super().connection(ports), "dfs_endpoint": f"{self.server.host}:{dfs}"}

    def make_folder(self, name: str) -> None:
        self.store._dfs.request("PUT", name, (("resource", "directory"),))

    def plant_by_dfs(self, name: str, content: bytes) -> None:
        """Store a file as Spark does: made, appended to and flushed at the DFS endpoint."""
        ask = self.store._dfs.request
        ask("PUT", name, (("resource", "file"),))
        ask("PATCH", name, (("action", "append"), ("position", "0")), {}, content)
        ask("PATCH", name, (("action", "flush"), ("position", str(len(content)))))


class FlatLakePlace(LakePlace):
    """A filesystem without one."""

    kind = "flat lake"
    has_folders = False
    make_folder = RemotePlace.make_folder


class SharePlace(RemotePlace):
    """A file share."""

    kind = "share"
    server: AzureFiles
    small, block = SmallShareStore, AzureFileDatastore
    registration = Datastore.register_azure_file_share
    command, name_field, argument = "azure-file", "file_share_name", "file_share_name"
    option, resource, service_of_url = "share", "share", "file"
    services = ("FileEndpoint",)
    with_all: ClassVar[Mapping[str, str]] = {"x-ms-delete-snapshots": "include"}
    rights_to_write = "cwd"  # what is unfinished is deleted
    steps: ClassVar[Mapping[str, Step]] = {
        "file": Step(r"PUT \S+unfinished/\w+$", ("large", *_OTHERS), has_body=False),
        "part": Step("comp=range", begun_anew=10),
        "properties": Step("comp=properties", ("large",), has_body=False, begun_anew=10),
        "commit": _renames("large"),
        "small": _renames("small"),
    }
    empty_listing = b"<EnumerationResults><Entries/><NextMarker/></EnumerationResults>"

    @property
    def service(self) -> AzureService:
        return self.store.service

    @property
    def token(self) -> str:
        return self.server.token

    def sas(self, permission: str = "rcwdl", hours: int = 1) -> str:
        from azure.storage.fileshare import generate_share_sas  # takes half a second

        end = datetime.now(timezone.utc) + timedelta(hours=hours)
        account, key = self.server.account, self.server.key
        return str(generate_share_sas(account, self.name, key, permission, expiry=end))

    def make_folder(self, name: str) -> None:
        self.store.make_folder(ObjectName(name))

    def plant(self, name: str, content: bytes, digest: bytes | None = None) -> None:
        given = {"x-ms-type": "file", "x-ms-content-length": str(len(content))}
        given |= {"x-ms-content-md5": md5_text(digest)} if digest else {}
        self.service.request("PUT", name, headers=given, body=content)


def capabilities_of(store: object) -> str:
    """Return the name under which a store keeps what it can do, where that can be another for a test."""
    return "flat" if hasattr(store, "flat") else "capabilities"


REMOTE = {"blob": BlobPlace, "share": SharePlace, "lake": LakePlace}
"""Kinds over the wire."""
SERVERS = {"blob": "azurite", "share": "azure_files", "lake": "data_lake"}
"""The fixture of the server of each."""
