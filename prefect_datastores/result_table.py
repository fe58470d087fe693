"""What a transfer did to each object, as a table in Prefect's pages."""

from __future__ import annotations

from itertools import chain, islice
from typing import TypedDict

from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.runtime import task_run

from prefect_datastores.display import run_log
from prefect_datastores.redaction import scrub
from prefect_datastores.staging.report import Action, ObjectRow, TransferReport, human_bytes

MOST_ROWS = 100
_LONGEST_CELL = 400
# What a person has to look at comes first.
_ORDER: tuple[Action, ...] = (
    *("failed", "cancelled", "skipped", "ignored"),
    *("moved", "unchanged"),
)


class TableRow(TypedDict):
    """One object; the keys are the heads of the columns."""

    object: str
    outcome: str
    size: str
    checked: str
    why: str


def table_rows(report: TransferReport) -> list[TableRow]:
    """Return a row for each object that is worth a look, failures first, none with a secret."""
    chosen = chain.from_iterable(report.of(action) for action in _ORDER)
    return [_row(row) for row in islice(chosen, MOST_ROWS)]


def in_short(report: TransferReport) -> str:
    """Return a transfer's sums in one line, which begins with the name of its task run where it has one."""
    return f"{task_run.name}: {report.sums()}" if task_run.name else report.summary()


def table_description(report: TransferReport) -> str:
    """Return what stands above the table: the sums, the two ends, and what is left out."""
    more = len(report.rows) - MOST_ROWS
    left_out = f"\n\n{more} more objects are not shown." if more > 0 else ""
    return scrub(
        f"{in_short(report)}\n\nFrom `{report.source}` to `{report.destination}`.{left_out}"
    )


def show_table(report: TransferReport) -> None:
    """Make the table an artifact of the run, where there is a run, and anything to show.

    A server that does not answer costs the table, never the transfer.
    """
    if not report.rows or not (TaskRunContext.get() or FlowRunContext.get()):
        return
    try:
        create_table_artifact(
            table_rows(report),  # type: ignore[arg-type]
            description=table_description(report),
            _sync=True,  # type: ignore[call-arg]
        )
    except Exception as error:  # noqa: BLE001 - whatever the server's trouble is
        run_log().debug("The table of the result could not be made: %s", error)


def _row(row: ObjectRow) -> TableRow:
    return {
        "object": _cell(row.name),
        "outcome": row.action,
        "size": human_bytes(row.size),
        "checked": row.verified,
        "why": _cell(row.detail),
    }


def _cell(text: str) -> str:
    text = scrub(text)
    return text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…"
