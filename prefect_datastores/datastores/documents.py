"""Datastores as the Prefect server holds them: block documents, and a variable for the default."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import ValidationError

from prefect_datastores.datastores.azure_blob import AzureBlobDatastore
from prefect_datastores.datastores.azure_data_lake_gen2 import AzureDataLakeGen2Datastore
from prefect_datastores.datastores.azure_file import AzureFileDatastore
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.local import LocalDatastore
from prefect_datastores.errors import DatastoreNotFound
from prefect_datastores.names import block_name, datastore_name, is_datastore_name

KINDS: tuple[type[FileDatastore], ...] = (
    AzureBlobDatastore,
    AzureDataLakeGen2Datastore,
    AzureFileDatastore,
    LocalDatastore,
)
_DEFAULT_VARIABLE = "prefect_datastores_default"
_PAGE = 200


@dataclass(frozen=True)
class DatastoreInfo:
    """A registered datastore as a list shows it: without secrets, so it cannot move data."""

    name: str
    datastore_type: str
    url: str
    sign_in: str
    is_default: bool = False


def documents(
    client: SyncPrefectClient, name: str | None = None, *, secrets: bool = False
) -> list[BlockDocument]:
    """Return the documents of all datastores, or of those with one name, whatever their kind."""
    slugs = [kind.get_block_type_slug() for kind in KINDS]
    found: list[BlockDocument] = []
    while True:
        body = {
            "block_documents": {
                "is_anonymous": {"eq_": False},
                **({"name": {"any_": [block_name(name)]}} if name else {}),
            },
            "block_types": {"slug": {"any_": slugs}},
            "include_secrets": secrets,
            "limit": _PAGE,
            "offset": len(found),
        }
        answer = client.request("POST", "/block_documents/filter", json=body)
        page = [BlockDocument.model_validate(item) for item in answer.json()]
        found += page
        if len(page) < _PAGE:
            # Prefect takes names that no datastore has (`-x`); such a block is none of ours.
            return [document for document in found if is_datastore_name(document.name or "")]


def kind_of(document: BlockDocument) -> type[FileDatastore]:
    """Return the class whose document it is."""
    slug = document.block_type.slug if document.block_type else ""
    return next(kind for kind in KINDS if kind.get_block_type_slug() == slug)


def not_found(client: SyncPrefectClient, name: str) -> DatastoreNotFound:
    """Return the error that says which names there are."""
    names = sorted(datastore_name(document.name) for document in documents(client) if document.name)
    known = f"Registered are: {', '.join(names)}." if names else "None is registered yet."
    return DatastoreNotFound(f"No datastore is registered as {name!r}. {known}")


def info_of(document: BlockDocument, default: str) -> DatastoreInfo:
    """Describe a document without its secrets."""
    name = datastore_name(document.name or "")
    kind = kind_of(document)
    try:
        # The values have their secrets masked, which is well enough to say where it is.
        block = kind.model_validate(document.data)
        url, sign_in = block.url, block.sign_in
    except ValidationError:
        url, sign_in = "(incomplete: edit the block)", ""
    return DatastoreInfo(name, kind.datastore_type, url, sign_in, name == default)


def default_name(client: SyncPrefectClient) -> str | None:
    """Return the name of the datastore that was made the default, or None."""
    variable = client.read_variable_by_name(_DEFAULT_VARIABLE)
    return str(variable.value) if variable else None


def set_default(client: SyncPrefectClient, name: str) -> None:
    """Keep the name of the default datastore."""
    try:
        client.request(
            "PATCH",
            "/variables/name/{name}",
            path_params={"name": _DEFAULT_VARIABLE},
            json={"value": name},
        )
    except PrefectHTTPStatusError as error:
        if error.response.status_code != HTTPStatus.NOT_FOUND:
            raise
        client.request("POST", "/variables/", json={"name": _DEFAULT_VARIABLE, "value": name})
