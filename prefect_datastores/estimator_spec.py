"""What an estimator is, as values that travel to where it runs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_datastores.references import DataReference

Keep = Literal["failed", "always", "never"]
Value = DataReference | bool | int | float | str


class EstimatorSpec(BaseModel):
    """All that an estimator is, as values: JSON-able and free of secrets."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    name: str
    source_directory: str
    entry_script: str
    script_params: dict[str, Value | list[Value] | None] = Field(default_factory=dict)
    inputs: tuple[DataReference, ...] = ()
    environment_variables: dict[str, str] = Field(default_factory=dict)
    source_directory_data_store: str | None = None
    snapshot: str | None = None
    """The digest under which that datastore has the source; None where it is a folder of this machine."""
    max_run_duration_seconds: float | None = None
    keep: Keep = "failed"
    compute_target: str = "local"

    def references(self) -> list[DataReference]:
        """Return each reference once, those of `script_params` too."""
        given = [item for value in self.script_params.values() for item in items_of(value)]
        found = [*self.inputs, *(item for item in given if isinstance(item, DataReference))]
        return list({reference.model_dump_json(): reference for reference in found}.values())


def items_of(value: Any) -> list[Any]:
    """Return the values of a script's parameter, which may be one or a list."""
    return value if isinstance(value, list) else [value]
