"""What the commands share: what they print, as text or JSON, and how they end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import click
import httpx
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL

from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import (
    AccessError,
    ConfigurationError,
    ContainerNotFound,
    DatastoreError,
    DatastoreNotFound,
    ObjectNotFound,
)

Command = TypeVar("Command", bound=Callable[..., Any])

FAILED, USAGE, NOT_FOUND, REFUSED = 1, 2, 3, 4
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def _exit_code(error: BaseException) -> int:
    if isinstance(error, (DatastoreNotFound, ObjectNotFound, ContainerNotFound)):
        return NOT_FOUND
    if isinstance(error, AccessError):
        return REFUSED
    return USAGE if isinstance(error, ConfigurationError) else FAILED


def errors_told(command: Command) -> Command:
    """End with a message and an exit code instead of a trace."""

    @wraps(command)
    def told(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except httpx.TransportError as error:
            server = PREFECT_API_URL.value() or "the local server"
            told_error = DatastoreError(f"Prefect's server does not answer at {server}: {error}")
            _tell(told_error, json_wanted=bool(kwargs.get("as_json")))
            sys.exit(FAILED)
        except (DatastoreError, PrefectException) as error:
            _tell(error, json_wanted=bool(kwargs.get("as_json")))
            sys.exit(_exit_code(error))

    return told  # type: ignore[return-value]


def _tell(error: Exception, *, json_wanted: bool) -> None:
    if json_wanted:
        click.echo(json.dumps({"error": type(error).__name__, "message": str(error)}))
    click.echo(f"Error: {error}", err=True)


def print_value(value: Any, text: str, *, json_wanted: bool) -> None:
    """Print a value as JSON where that is wanted, else the text."""
    click.echo(json.dumps(value, indent=2, default=str) if json_wanted else text)


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as columns of text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def described(datastore: FileDatastore) -> dict[str, Any]:
    """Return what people are told of a datastore; no secret is in it."""
    return {
        "name": datastore.name,
        "type": datastore.datastore_type,
        "url": datastore.url,
        "sign_in": datastore.sign_in,
    }
