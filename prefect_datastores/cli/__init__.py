"""`prefect-datastores`: datastores from a shell."""

from prefect_datastores.cli.commands import main

__all__ = ["main"]
