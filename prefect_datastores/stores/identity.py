"""What gets tokens: the identity of the machine, and any other one beside an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential


def machine_identity() -> TokenCredential:
    """Return what gets tokens of a workload's or managed identity, or a person's az login."""
    from azure.identity import DefaultAzureCredential  # noqa: PLC0415 - 0.4 s

    return DefaultAzureCredential()


class AsyncCredential:
    """Gets tokens as another credential does, and waits for it beside the event loop."""

    def __init__(self, credential: TokenCredential) -> None:
        """Take what gets tokens."""
        self._credential = credential

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """Return a token; a renewed one where the last has ended."""
        return await asyncio.to_thread(self._credential.get_token, *scopes, **options)

    async def close(self) -> None:
        """Do nothing: the credential is another's."""

    async def __aenter__(self) -> AsyncCredential:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing, as `close`."""
