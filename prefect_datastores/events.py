"""What other work may wait for: events that an automation of Prefect can be triggered by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from urllib.parse import quote

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event

from prefect_datastores.display import run_log
from prefect_datastores.redaction import scrub
from prefect_datastores.references import DataReference
from prefect_datastores.staging.report import TransferReport

PUBLISHED = "datastore.published"


def place_id(datastore: str, path: str) -> str:
    """Return the resource of an event about a place: `datastore://name/path`, as a URI has it.

    A trigger matches it, or all below a folder with a `*` at the end.
    """
    return f"datastore://{datastore}/{quote(path)}"


@dataclass(frozen=True)
class Stored:
    """What an upload stored, in a few words: a report may be of a million objects."""

    datastore: str
    path: str
    url: str
    publish: str
    objects: int
    bytes: int
    generation: str

    @classmethod
    def of(cls, reference: DataReference, report: TransferReport) -> Stored:
        """Say it of an upload to the place of a reference; no secret is in it."""
        published = report.publication
        return cls(
            datastore=reference.datastore,
            path=reference.path_on_datastore,
            url=scrub(report.destination),
            publish=reference.publish,
            objects=report.count,
            bytes=report.bytes,
            generation=published.pointer.generation if published else "",
        )


def tell_published(stored: Stored) -> None:
    """Emit `datastore.published`, where there is a run, and anything is new.

    Its resource is the place, its payload what `Stored` has. A server that does not answer costs the
    event, never the upload.
    """
    if not stored.objects or not (TaskRunContext.get() or FlowRunContext.get()):
        return
    resource = {
        "prefect.resource.id": place_id(stored.datastore, stored.path),
        "prefect.resource.name": f"{stored.datastore}:{stored.path}",
        "prefect-datastores.datastore": stored.datastore,
        "prefect-datastores.path": stored.path,
    }
    try:
        emit_event(PUBLISHED, resource=resource, payload=asdict(stored))
    except Exception as error:  # noqa: BLE001 - whatever the server's trouble is
        run_log().debug("The event %s could not be emitted: %s", PUBLISHED, error)
