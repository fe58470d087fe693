"""What other work may wait for: events that an automation of Prefect can be triggered by."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event

from prefect_datastores.display import run_log
from prefect_datastores.redaction import scrub
from prefect_datastores.references import DataReference
from prefect_datastores.staging.report import TransferReport

PUBLISHED = "datastore.published"


def place_id(reference: DataReference) -> str:
    """Return the resource of an event about a place: `datastore://name/path`, as a URI has it.

    A trigger matches it, or all below a folder with a `*` at the end.
    """
    return f"datastore://{reference.datastore}/{quote(reference.path_on_datastore)}"


def tell_published(reference: DataReference, report: TransferReport) -> None:
    """Emit `datastore.published`, where there is a run, and anything is new.

    Its resource is the place, its payload says which datastore and path, how many objects and bytes are
    new, and the generation, where a folder was published at once. A server that does not answer costs
    the event, never the upload.
    """
    if not report.count or not (TaskRunContext.get() or FlowRunContext.get()):
        return
    payload: dict[str, Any] = {
        "datastore": reference.datastore,
        "path": reference.path_on_datastore,
        "url": scrub(report.destination),
        "publish": reference.publish,
        "objects": report.count,
        "bytes": report.bytes,
        "generation": report.publication.pointer.generation if report.publication else "",
    }
    resource = {
        "prefect.resource.id": place_id(reference),
        "prefect.resource.name": reference.uri,
        "prefect-datastores.datastore": reference.datastore,
        "prefect-datastores.path": reference.path_on_datastore,
    }
    try:
        emit_event(PUBLISHED, resource=resource, payload=payload)
    except Exception as error:  # noqa: BLE001 - whatever the server's trouble is
        run_log().debug("The event %s could not be emitted: %s", PUBLISHED, error)
