"""What can be changed of each run of an estimator: the parameters of its flow, as people fill them in."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from prefect_datastores.errors import ConfigurationError
from prefect_datastores.estimator_spec import EstimatorSpec
from prefect_datastores.forms import in_order
from prefect_datastores.names import datastore_name, normal_path
from prefect_datastores.references import DataReference, checked_reference

# What Prefect and pydantic keep for themselves stays an argument of the script alone.
_RESERVED = {"wait_for", "return_state", "model_config"}


class DataForm(BaseModel):
    """A reference as a small form: which data, and how it reaches the script.

    Each reference has a form of its own, whose fields begin with what it is; a reference is taken in
    its place.
    """

    # No discriminator and no key of one value: Prefect's page shows that as a text to edit.
    model_config = ConfigDict(extra="forbid", json_schema_extra=in_order)

    datastore: str
    path: str

    @model_validator(mode="before")
    @classmethod
    def _of_reference(cls, value: Any) -> Any:
        if not isinstance(value, DataReference):
            return value
        if value._unregistered is not None:  # noqa: SLF001 - values of one thing
            raise ConfigurationError(
                f"The datastore of {value.uri!r} is not registered; save it first."
            )
        given = {
            "datastore": value.datastore,
            "path": value.path_on_datastore,
            "mode": value.mode,
        }
        return {key: given[key] for key in given if key in cls.model_fields}

    @field_validator("datastore")
    @classmethod
    def _datastore_name(cls, value: str) -> str:
        return datastore_name(value)

    @field_validator("path")
    @classmethod
    def _normal_path(cls, value: str) -> str:
        return str(normal_path(value))


@dataclass(frozen=True)
class Parameters:
    """The parameters of an estimator's flow, by name."""

    spec: EstimatorSpec
    scalars: Mapping[str, str]
    """The key in `script_params` of each."""
    references: Mapping[str, DataReference]

    def signature(self) -> inspect.Signature:
        """Return the signature of the flow: all have defaults, and are given by name."""
        values = [(name, self.spec.script_params[key]) for name, key in self.scalars.items()]
        forms = [(name, _form(name, item)) for name, item in self.references.items()]
        keyword_only = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature(
            [
                inspect.Parameter(name, keyword_only, default=value, annotation=type(value))
                for name, value in [
                    *values,
                    *((name, form.model_validate({})) for name, form in forms),
                ]
            ]
        )

    def changed(self, given: Mapping[str, Any]) -> EstimatorSpec:
        """Return the estimator with the values of a run.

        A reference keeps its name, and with it the script's variable, whatever place it is of now.

        Raises:
            ConfigurationError: a value is refused.
        """
        params = dict(self.spec.script_params)
        params |= {key: given[name] for name, key in self.scalars.items() if name in given}
        new = {
            _key(reference): _filled(reference, given[name])
            for name, reference in self.references.items()
            if name in given
        }

        def current(item: Any) -> Any:
            return new.get(_key(item), item) if isinstance(item, DataReference) else item

        return self.spec.model_copy(
            update={
                "script_params": {
                    key: [current(item) for item in value]
                    if isinstance(value, list)
                    else current(value)
                    for key, value in params.items()
                },
                "inputs": tuple(map(current, self.spec.inputs)),
            }
        )


def parameters_of(spec: EstimatorSpec, *, references: bool) -> Parameters:
    """Return what can be changed of a run: scalars of `script_params`, and references where that is wanted.

    A reference in `script_params` has its key's name, one that is among the inputs alone its own.
    """
    scalars = {
        name: key
        for key, value in spec.script_params.items()
        if isinstance(value, (bool, int, float, str))
        and value != ""
        and (name := parameter_name(key))
    }
    found: dict[str, DataReference] = {}
    if references:
        seen: set[str] = set()
        for name, reference in _named(spec):
            free = name and name not in scalars and name not in found
            if free and _key(reference) not in seen:
                found[name] = reference
                seen.add(_key(reference))
    return Parameters(spec, scalars, found)


def _named(spec: EstimatorSpec) -> Iterator[tuple[str, DataReference]]:
    for key, value in spec.script_params.items():
        if isinstance(value, DataReference):
            yield parameter_name(key), value
    for reference in spec.references():
        yield parameter_name(reference.name), reference


def parameter_name(key: str) -> str:
    """Return the name of a parameter for an argument of a script; "" where it cannot be one."""
    name = re.sub(r"\W", "_", key.lstrip("-"))
    if keyword.iskeyword(name):  # --lambda is common, and lambda is no name in Python
        name += "_"
    usable = name.isidentifier() and name not in _RESERVED and not name.startswith("_")
    return name if usable else ""


def _form(name: str, reference: DataReference) -> type[DataForm]:
    """Return the form of one reference, which begins with what it is."""
    stores = reference.mode in {"upload", "checkpoint"}
    about = {"upload": "the results go", "checkpoint": "the checkpoints are"}.get(
        reference.mode, "the data is"
    )
    fields: dict[str, Any] = {
        "datastore": (
            str,
            Field(
                reference.datastore,
                title="Datastore",
                description="The name of a registered datastore.",
            ),
        ),
        "path": (
            str,
            Field(
                reference.path_on_datastore,
                title="Path",
                description=f"The file or folder in it where {about}; empty for all of it.",
            ),
        ),
    }
    # A mount shows all files, whatever the globs of a download choose.
    if not stores and not (reference.include or reference.exclude):
        fields["mode"] = (
            Literal["download", "mount"],
            Field(reference.mode, title="Mode", description="How the data reaches the script."),
        )
    return create_model(name, __base__=DataForm, **fields)


def _filled(reference: DataReference, form: Any) -> DataReference:
    return checked_reference(
        {
            **reference.model_dump(),
            "data_reference_name": reference.name,
            "datastore": form.datastore,
            "path_on_datastore": form.path,
            "mode": getattr(form, "mode", reference.mode),
        }
    )


def _key(reference: DataReference) -> str:
    return reference.model_dump_json()
