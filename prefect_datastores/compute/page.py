"""The matrix as people and programs read it: lines for a terminal, a page of the documents, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from prefect_datastores.compute.matrix import (
    COMPUTES,
    KINDS,
    MATRIX,
    RETIRED,
    WAYS,
    Cell,
    Compute,
    Kind,
)

TITLES: dict[Kind, str] = {
    "AzureBlob": "Blob container",
    "AzureDataLakeGen2": "Data Lake Gen2",
    "AzureFile": "File share",
    "Local": "Local folder",
}
_MARKS = {"yes": "yes", "needs": "needs", "native": "native", "no": "-"}


def rows(computes: Sequence[Compute] = COMPUTES) -> list[tuple[str, ...]]:
    """Return a row for each compute and kind, below a row of heads."""
    heads = ("COMPUTE", "DATASTORE", *(way.upper() for way in WAYS))
    return [
        heads,
        *(
            (compute.name, kind, *(_MARKS[MATRIX[compute.name, kind, way].support] for way in WAYS))
            for compute in computes
            for kind in KINDS
        ),
    ]


def notes(compute: Compute) -> list[str]:
    """Return what the cells of a compute take, each said once."""
    said: dict[str, list[str]] = {}
    for kind in KINDS:
        for way in WAYS:
            cell = MATRIX[compute.name, kind, way]
            if cell.how:
                said.setdefault(_sentence(cell), []).append(f"{kind} {way}")
    return [f"{', '.join(cells)}: {how}" for how, cells in said.items()]


def _sentence(cell: Cell) -> str:
    if cell.support != "no":
        return cell.how
    return f"No: {cell.how}."


def as_values(computes: Sequence[Compute] = COMPUTES) -> dict[str, Any]:
    """Return everything as JSON values."""
    return {
        "computes": [
            {
                **asdict(compute),
                "datastores": {
                    kind: {way: asdict(MATRIX[compute.name, kind, way]) for way in WAYS}
                    for kind in KINDS
                },
            }
            for compute in computes
        ],
        "retired": [asdict(retired) for retired in RETIRED],
    }


def page() -> str:
    """Return the page of the documents, in Markdown."""
    parts = [_HEAD]
    for compute in COMPUTES:
        parts += [_section(compute)]
    parts.append("## Computes of Azure ML's first SDK\n")
    parts.append("| `compute_target` then | what became of it | instead |\n|---|---|---|")
    parts += [f"| {one.title} (`{one.name}`) | {one.status} | {one.instead} |" for one in RETIRED]
    return "\n".join(parts) + "\n"


_HEAD = """# Which compute can have which datastore, and how

Made by `prefect-datastores matrix --markdown` from the table in `prefect_datastores/compute/matrix.py`, which the checks of
`Estimator(compute_target=...)`, `stage(compute_target=...)` and the command line read as well.

* **yes**: works as it is.
* **needs**: works once the compute is given something; what, stands below the table. Job variables and templates of the
  work pools come from `prefect-datastores job-variables` and `prefect-datastores pool-template`.
* **native**: the compute itself mounts it. It shows what is there now, so it is for `as_mount(consistency="latest")`, and
  what SEMANTICS.md promises of a mount does not hold for it.
* **-**: does not work; what is defined so is refused when it is defined, by a message that names a way that works.
"""


def _section(compute: Compute) -> str:
    heads = " | ".join(WAYS)
    lines = [f"## {compute.title}\n", f"`compute_target={compute.name!r}`; {compute.flows}. "]
    lines[-1] += f"Known: {compute.known}."
    if compute.sources:
        lines[-1] += f" Sources: {', '.join(f'<{source}>' for source in compute.sources)}."
    lines += ["", f"| | {heads} |", f"|---|{'---|' * len(WAYS)}"]
    for kind in KINDS:
        marks = (_MARKS[MATRIX[compute.name, kind, way].support] for way in WAYS)
        lines.append(f"| {TITLES[kind]} | {' | '.join(marks)} |")
    lines.append("")
    lines += [f"* {note}" for note in notes(compute)]
    return "\n".join(lines) + "\n"
