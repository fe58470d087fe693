"""adlfs, opened as a block says; its file system of blobs and data lakes, and no environment's."""

from __future__ import annotations

from typing import Any

from adlfs import AzureBlobFileSystem

from prefect_datastores.stores.identity import AsyncCredential


class ConfiguredBlobFileSystem(AzureBlobFileSystem):  # type: ignore[misc]  # adlfs has no types
    """adlfs, signed in by what it is given alone.

    adlfs itself lets AZURE_STORAGE_CONNECTION_STRING take the place of whatever it is given, and
    AZURE_STORAGE_ACCOUNT_KEY that of a token or a connection string for files that are opened.
    """

    def __init__(
        self,
        *,
        account_name: str,
        account_url: str,
        account_key: str | None = None,
        sas_token: str | None = None,
        token: Any = None,
        **options: Any,
    ) -> None:
        """Open an account: with a key, a SAS token or what gets tokens, and anonymously with none."""
        self._only = (
            None if token else _connection_string(account_name, account_url, account_key, sas_token)
        )
        super().__init__(
            account_name=account_name,
            account_host=account_url.partition("://")[2],
            connection_string=self._only,
            credential=AsyncCredential(token) if token else None,
            anon=not (account_key or sas_token or token),
            **options,
        )

    def do_connect(self) -> None:
        """Connect, without what the environment says."""
        self.connection_string = self._only
        self.account_key = self.sas_token = self.sync_credential = None
        super().do_connect()


def _connection_string(account: str, url: str, key: str | None, sas: str | None) -> str:
    """Return the one form in which adlfs takes an address of any kind."""
    said = [f"AccountName={account}", f"BlobEndpoint={url}"]
    said += [f"AccountKey={key}"] if key else []
    said += [f"SharedAccessSignature={sas.lstrip('?')}"] if sas else []
    return ";".join(said)
