"""The shares of an account."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING

from prefect_datastores.stores.azure import AzureService
from prefect_datastores.stores.retry import RetryPolicy
from prefect_datastores.stores.share import headers_of
from prefect_datastores.stores.signing import signer_of

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

_SHARE = re.compile(r"<Share><Name>([^<]*)</Name>")
_MARKER = re.compile(r"<NextMarker>([^<]+)</NextMarker>")


def share_names(
    account_url: str,
    account_name: str | None = None,
    *,
    account_key: str | None = None,
    sas_token: str | None = None,
    token: TokenCredential | None = None,
) -> list[str]:
    """Return the names of all shares, in order; the right to list them is of the account."""
    signer = signer_of(
        account_url, account_name, account_key=account_key, sas_token=sas_token, token=token
    )
    service = AzureService(account_url, "", signer, headers_of(by_token=token is not None))
    names: list[str] = []
    marker = ""
    try:
        while True:
            asked = (("comp", "list"), *((("marker", marker),) if marker else ()))
            body = _page(service, asked)
            names += _SHARE.findall(body)
            found = _MARKER.search(body)
            if found is None:
                return sorted(names)
            marker = unescape(found[1])
    finally:
        service.close()


def _page(service: AzureService, asked: tuple[tuple[str, str], ...]) -> str:
    answer = RetryPolicy().call("list the shares", lambda: service.request("GET", "", asked))
    return answer.body.decode("utf-8-sig")
