"""The identity of the machine, for who names no other way to sign in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential


def machine_identity() -> TokenCredential:
    """Return what gets tokens of a workload's or managed identity, or a person's az login."""
    from azure.identity import DefaultAzureCredential  # noqa: PLC0415 - 0.4 s

    return DefaultAzureCredential()
