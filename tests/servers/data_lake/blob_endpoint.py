"""The Blob endpoint: containers, and which operations there are."""

from servers.data_lake import blob_reading as reading
from servers.data_lake import blob_writing as writing
from servers.data_lake import conditions
from servers.data_lake.blob_listing import list_blobs, list_containers
from servers.data_lake.calls import Answer
from servers.data_lake.names import check_container
from servers.data_lake.operations import Asked, Operation, version_of
from servers.data_lake.refusals import Refusal, unknown
from servers.data_lake.service import Endpoint

_WHERE = ("range", "x-ms-range", "x-ms-range-get-content-md5")
_INFORMATION = {"restype": "account", "comp": "properties"}
_OF_CONTAINER = {"restype": "container"}
_WRITES = (*conditions.NAMES, *writing.CONTENT)


def get_account_information(asked: Asked) -> Answer:
    """Get Account Information: also what tells a hierarchical namespace from a flat one.

    The service knows it by key and SAS; a token needs a role that those who read data have not.
    """
    hierarchical = "true" if asked.account.hierarchical else "false"
    return Answer(
        200,
        {
            "x-ms-sku-name": "Standard_LRS",
            "x-ms-account-kind": "StorageV2",
            "x-ms-is-hns-enabled": hierarchical,
        },
    )


def create_container(asked: Asked) -> Answer:
    """Create Container; unlike the service's, the name of a deleted one is free at once."""
    name = asked.call.filesystem
    check_container(name)
    if name in asked.account.filesystems:
        raise Refusal("ContainerAlreadyExists")
    access = asked.call.header("x-ms-blob-public-access")
    if access not in {"", "container"}:
        raise unknown(f"the public access {access!r}")
    if access:
        asked.account.public.add(name)
    return Answer(201, version_of(asked.account.make_filesystem(name, dict(asked.call.metadata))))


def get_container_properties(asked: Asked) -> Answer:
    """Get Container Properties."""
    named = {f"x-ms-meta-{key}": value for key, value in asked.filesystem.metadata.items()}
    return Answer(
        200,
        {
            **version_of(asked.filesystem),
            **named,
            "x-ms-lease-status": "unlocked",
            "x-ms-lease-state": "available",
            "x-ms-has-immutability-policy": "false",
            "x-ms-has-legal-hold": "false",
        },
    )


def delete_container(asked: Asked) -> Answer:
    """Delete Container."""
    del asked.account.filesystems[asked.call.filesystem]
    return Answer(202)


def _of_containers() -> list[Operation]:
    return [
        *(
            Operation(method, scope, get_account_information, _INFORMATION, by_token=False)
            for method in ("GET", "HEAD")
            for scope in ("account", "filesystem", "path")
        ),
        Operation(
            "GET",
            "account",
            list_containers,
            {"comp": "list"},
            query=("prefix", "marker", "maxresults", "include"),
            needs="l",
            by_container_sas=False,
        ),
        Operation(
            "PUT",
            "filesystem",
            create_container,
            _OF_CONTAINER,
            headers=("x-ms-blob-public-access",),
            keeps_metadata=True,
            needs="cw",
            by_container_sas=False,
            makes_filesystem=True,
        ),
        *(
            Operation(
                method,
                "filesystem",
                get_container_properties,
                _OF_CONTAINER,
                needs="r",
                by_container_sas=False,
            )
            for method in ("GET", "HEAD")
        ),
        Operation(
            "DELETE",
            "filesystem",
            delete_container,
            _OF_CONTAINER,
            needs="d",
            by_container_sas=False,
        ),
        Operation(
            "GET",
            "filesystem",
            list_blobs,
            {"restype": "container", "comp": "list"},
            query=("prefix", "delimiter", "marker", "maxresults", "include", "showonly"),
            needs="l",
            is_public=True,
        ),
    ]


def _of_blobs() -> list[Operation]:
    return [
        Operation(
            "HEAD",
            "path",
            reading.get_blob_properties,
            headers=conditions.NAMES,
            needs="r",
            is_public=True,
        ),
        Operation(
            "GET",
            "path",
            reading.get_blob,
            headers=(*conditions.NAMES, *_WHERE),
            needs="r",
            is_public=True,
        ),
        Operation(
            "PUT",
            "path",
            writing.copy_blob,
            marked_by="x-ms-copy-source",
            headers=(*conditions.NAMES, *conditions.SOURCE_NAMES),
            keeps_metadata=True,
            needs="cw",
        ),
        Operation(
            "PUT",
            "path",
            writing.put_blob,
            headers=(*_WRITES, "x-ms-blob-type"),
            keeps_metadata=True,
            has_body=True,
            needs="cw",
        ),
        Operation(
            "PUT",
            "path",
            writing.set_blob_metadata,
            {"comp": "metadata"},
            headers=conditions.NAMES,
            keeps_metadata=True,
            needs="w",
        ),
        Operation(
            "DELETE",
            "path",
            writing.delete_blob,
            headers=(*conditions.NAMES, "x-ms-delete-snapshots"),
            needs="d",
        ),
    ]


def _of_blocks() -> list[Operation]:
    return [
        Operation(
            "PUT",
            "path",
            writing.put_block,
            {"comp": "block"},
            query=("blockid",),
            has_body=True,
            needs="cw",
        ),
        Operation(
            "PUT",
            "path",
            writing.put_block_list,
            {"comp": "blocklist"},
            headers=_WRITES,
            keeps_metadata=True,
            has_body=True,
            needs="cw",
        ),
        Operation(
            "GET",
            "path",
            writing.get_block_list,
            {"comp": "blocklist"},
            query=("blocklisttype",),
            needs="r",
        ),
    ]


ENDPOINT = Endpoint(
    "blob",
    "Windows-Azure-Blob/1.0",
    [*_of_containers(), *_of_blobs(), *_of_blocks()],
    "ContainerNotFound",
)
