"""What a run would move, before a byte moves."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from prefect_datastores.datastores.registry import resolve
from prefect_datastores.errors import ObjectNotFound
from prefect_datastores.references import DataReference
from prefect_datastores.staging import download
from prefect_datastores.staging.checkpoint import may_checkpoint
from prefect_datastores.staging.plan import Overwrite
from prefect_datastores.staging.published import where
from prefect_datastores.staging.report import human_bytes, plural
from prefect_datastores.transfers import as_available, download_request, preflight


@dataclass(frozen=True)
class PlannedReference:
    """One reference of a plan; what an upload will hold is not known before the script ran."""

    direction: Literal["download", "mount", "upload", "checkpoint"]
    reference: str
    url: str
    objects: int | None
    bytes: int | None
    overwrite: Overwrite
    when: str
    read_only: bool = True
    """Whether a mount can be read only."""


@dataclass(frozen=True)
class EstimatorPlan:
    """All references of a run, and the room on the disk that takes the downloads."""

    references: tuple[PlannedReference, ...]
    free_bytes: int

    @property
    def _downloads(self) -> list[PlannedReference]:
        return [item for item in self.references if item.direction == "download"]

    @property
    def objects(self) -> int:
        """Objects to be downloaded."""
        return sum(item.objects or 0 for item in self._downloads)

    @property
    def bytes(self) -> int:
        """Bytes to be downloaded."""
        return sum(item.bytes or 0 for item in self._downloads)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "references": [asdict(item) for item in self.references],
            "free_bytes": self.free_bytes,
        }

    def __str__(self) -> str:
        """Give the plan as a few lines to read."""
        lines = []
        for item in self.references:
            if item.direction == "mount":
                what = "fetched as it is read"
                what += "" if item.read_only else ", stored as it is written"
            elif item.direction == "checkpoint":
                begins = "begins empty"
                if item.objects is not None:
                    begins = f"begins with {plural(item.objects, 'file')}, {human_bytes(item.bytes or 0)}"
                what = f"{begins}, stored {item.when}"
            elif item.direction == "download":
                what = f"{plural(item.objects or 0, 'object')}, {human_bytes(item.bytes or 0)}"
            else:
                what = f"on {item.when}" if item.when != "always" else "always"
            lines.append(f"{item.direction:8}  {item.reference:30}  {what}  ({item.url})")
        room = f"{human_bytes(self.free_bytes)} free"
        lines.append(
            f"total     {plural(self.objects, 'object')}, {human_bytes(self.bytes)}; {room}"
        )
        return "\n".join(lines)


def plan_references(references: Iterable[DataReference], disk: Path) -> EstimatorPlan:
    """List what is to be downloaded and try what is to be uploaded to; nothing is moved.

    Raises:
        DatastoreError: something could not work; the message says what.
    """
    planned = [_planned(as_available(reference)) for reference in references]
    existing = next(folder for folder in (disk, *disk.parents) if folder.exists())
    return EstimatorPlan(tuple(planned), shutil.disk_usage(existing).free)


def _planned(reference: DataReference) -> PlannedReference:
    datastore = resolve(reference)
    url = f"{datastore.url}/{reference.path_on_datastore}".rstrip("/")
    if reference.mode == "upload":
        preflight(reference)
        return PlannedReference(
            "upload", reference.uri, url, None, None, reference.overwrite, reference.when
        )
    if reference.mode == "checkpoint":
        return _planned_checkpoint(reference, url)
    if reference.mode == "mount":
        preflight(reference)
        single = None
        with datastore.open_store(need="read") as store:
            try:
                single = where(store, reference.path_on_datastore)[0]
            except ObjectNotFound:
                if reference.read_only and not reference.allow_empty:
                    raise
        count, size = (1, single.size) if single is not None else (None, None)
        rule, read_only = reference.overwrite, reference.read_only
        return PlannedReference("mount", reference.uri, url, count, size, rule, "during", read_only)
    request = download_request(reference)
    with datastore.open_store(need="read") as store:
        made = download.plan(store, Path("/nonexistent"), request)
    return PlannedReference(
        "download", reference.uri, url, len(made.fetches), made.size, reference.overwrite, "before"
    )


def _planned_checkpoint(reference: DataReference, url: str) -> PlannedReference:
    preflight(reference)
    count = size = None
    with resolve(reference).open_store(need="read") as store:
        standing = may_checkpoint(store, reference.path_on_datastore)
    if standing is not None and (reference.resume == "always" or not standing.pointer.finished):
        count, size = standing.pointer.count, standing.pointer.size
    when = f"every {reference.every:g} s"
    return PlannedReference(
        "checkpoint", reference.uri, url, count, size, reference.overwrite, when
    )
