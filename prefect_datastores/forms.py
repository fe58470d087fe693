"""What Prefect's forms need to be told of the models that they show."""

from __future__ import annotations

from typing import Any


def in_order(schema: dict[str, Any]) -> None:
    """Keep a model's fields in their order, which a server on PostgreSQL forgets.

    Prefect stores schemas as `jsonb`, which puts short keys first, and its pages go by `position`. Prefect gives that
    to the fields of blocks and to a flow's parameters (3.8.8), and to no model within them.
    """
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


def not_prefilled(schema: dict[str, Any]) -> None:
    """Keep a field's default out of Prefect's form.

    The form that edits a block (3.8.8) writes every default of the schema over the block's own
    value, unless the page was just reloaded: saving it would reset the way to sign in.
    """
    schema.pop("default", None)
