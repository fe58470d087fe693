"""What could not be moved: its row in the report, and the error that tells people."""

from __future__ import annotations

from prefect_datastores.errors import DatastoreError, StageFailed, TransferCancelled
from prefect_datastores.staging.report import Action, ObjectRow, TransferReport, plural

_SHOWN = 5


def failed_row(name: str, path: str, size: int, error: DatastoreError) -> ObjectRow:
    """Return the row of an object that was not moved."""
    action: Action = "cancelled" if isinstance(error, TransferCancelled) else "failed"
    return ObjectRow(name, path, size, action, detail=str(error))


def raise_failures(report: TransferReport) -> None:
    """Return when every object of the report is well.

    Raises:
        StageFailed: one is not.
    """
    if not report.failed:
        return
    failed = report.of("failed")
    shown = "\n  ".join(f"{row.name}: {row.detail}" for row in failed[:_SHOWN])
    more = f"\n  ... and {len(failed) - _SHOWN} more." if len(failed) > _SHOWN else ""
    untried = (
        f" {plural(len(report.of('cancelled')), 'object')} not tried."
        if report.of("cancelled")
        else ""
    )
    raise StageFailed(
        f"The {report.direction} from {report.source} to {report.destination} failed for "
        f"{len(failed)} of {plural(len(report.rows), 'object')}.{untried}\n  {shown}{more}",
        report,
    )
