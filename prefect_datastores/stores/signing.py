"""Ways to sign a request to Azure Storage: account key, shared access signature, token, or none.

By the documented protocol (Azure Storage: "Authorize with Shared Key"); blobs and file shares sign
alike. A signature goes into the request and nowhere else.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import re
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote, unquote, urlsplit

from prefect_datastores.errors import AuthenticationFailed, ConfigurationError
from prefect_datastores.redaction import guard_loggers, remember

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential

Query = tuple[tuple[str, str], ...]

_SCOPE = "https://storage.azure.com/.default"
_EARLY_SECONDS = 300  # a token is renewed before it ends, so that none ends on its way
_AGAIN_SECONDS = 30  # as long as it has not ended, it is not asked for with each request
_TENANT = re.compile(r"authorization_uri=\"?https://[^/]+/([0-9a-fA-F-]{36})")


class Request(NamedTuple):
    """A request before it is signed: `path` is encoded, the values of `query` are not."""

    method: str
    path: str
    query: Query
    headers: Mapping[str, str]
    length: int = 0

    @property
    def target(self) -> str:
        """The path and query as they go over the wire."""
        if not self.query:
            return self.path
        asked = "&".join([f"{key}={quote(value, safe='')}" for key, value in self.query])
        return f"{self.path}?{asked}"


class Signer(Protocol):
    """Makes a request one that the service accepts."""

    @property
    def title(self) -> str:
        """What signs, for messages."""

    def sign(self, request: Request) -> tuple[str, Mapping[str, str]]:
        """Return the target and the headers of the signed request."""

    def renew(self, challenge: str, refused: Mapping[str, str]) -> bool:
        """Take note that the service refused a request, and tell whether another try is worth it.

        `challenge` is what it said, `refused` the headers that `sign` gave.
        """


class NoSigner:
    """Signs nothing: containers with public access."""

    title = "sign-in"

    def sign(self, request: Request) -> tuple[str, Mapping[str, str]]:
        """Return the request as it is."""
        return request.target, request.headers

    def renew(self, challenge: str, refused: Mapping[str, str]) -> bool:
        """Say no: there is nothing to renew."""
        return False


class SasSigner:
    """Adds a shared access signature to the query."""

    title = "SAS token"

    def __init__(self, token: str) -> None:
        """Take the token, with or without its question mark."""
        self._token = token.strip().lstrip("?&")
        fields = dict(field.partition("=")[::2] for field in self._token.split("&"))
        for secret in (self._token, unquote(fields.get("sig", ""))):
            remember(secret)

    def sign(self, request: Request) -> tuple[str, Mapping[str, str]]:
        """Return the request with the token in its query."""
        joint = "&" if request.query else "?"
        return f"{request.target}{joint}{self._token}", request.headers

    def renew(self, challenge: str, refused: Mapping[str, str]) -> bool:
        """Say no: only its owner can make another."""
        return False


class KeySigner:
    """Signs with the account's key (Shared Key)."""

    title = "account key"

    def __init__(self, account: str, key: str) -> None:
        """Take the key as the portal shows it.

        Raises:
            AuthenticationFailed: it is no base64, so the service cannot have made it.
        """
        self._account = account
        remember(key)
        try:
            self._hmac = hmac.new(base64.b64decode(key, validate=True), digestmod=hashlib.sha256)
        except (binascii.Error, ValueError):
            raise AuthenticationFailed(
                f"The account key of {account} is cut off or mistyped: it is no base64. Copy it from the portal again."
            ) from None

    def sign(self, request: Request) -> tuple[str, Mapping[str, str]]:
        """Return the request with its signature among the headers."""
        method, path, query, headers, length = request
        given = {name.lower(): value for name, value in headers.items()}
        named = "\n".join(
            [f"{name}:{given[name]}" for name in sorted(given) if name[:5] == "x-ms-"]
        )
        asked = _asked(query) if query else ""
        get = given.get
        text = (
            f"{method}\n{get('content-encoding', '')}\n{get('content-language', '')}\n{length or ''}\n"
            f"{get('content-md5', '')}\n{get('content-type', '')}\n{get('date', '')}\n"
            f"{get('if-modified-since', '')}\n{get('if-match', '')}\n{get('if-none-match', '')}\n"
            f"{get('if-unmodified-since', '')}\n{get('range', '')}\n{named}\n/{self._account}{path}{asked}"
        )
        signature = self._hmac.copy()
        signature.update(text.encode())
        signed = base64.b64encode(signature.digest()).decode()
        authorization = f"SharedKey {self._account}:{signed}"
        return request.target, {**headers, "Authorization": authorization}

    def renew(self, challenge: str, refused: Mapping[str, str]) -> bool:
        """Say no: a key is right or wrong."""
        return False


def _asked(query: Query) -> str:
    """Return what is signed of a query: its names in lower case, whatever they are sent in."""
    lowered = sorted([(key.lower(), value) for key, value in query])
    return "".join([f"\n{key}:{value}" for key, value in lowered])


class TokenSigner:
    """Signs with a token of Microsoft Entra, renewed before it ends."""

    title = "sign-in"

    def __init__(self, credential: TokenCredential, account_url: str) -> None:
        """Take what gives tokens; none is asked for before the first request."""
        self._credential, self._account_url = credential, account_url
        self._token: AccessToken | None = None
        self._asked_at = 0.0
        self._tenant: str | None = None
        self._lock = threading.Lock()
        guard_loggers()

    def sign(self, request: Request) -> tuple[str, Mapping[str, str]]:
        """Return the request with the token among its headers.

        Raises:
            AuthenticationFailed: no token is given, whose reason the message has.
        """
        return request.target, {**request.headers, "Authorization": f"Bearer {self._current()}"}

    def _current(self) -> str:
        with self._lock:
            now = time.time()
            if self._token is None or self._token.expires_on <= now:
                return self._renewed(now)
            ends_soon = self._token.expires_on - _EARLY_SECONDS < now
            if ends_soon and now - self._asked_at >= _AGAIN_SECONDS:
                # One that cannot be had now may be had before this one ends.
                with contextlib.suppress(AuthenticationFailed):
                    return self._renewed(now)
            return self._token.token

    def _renewed(self, now: float) -> str:
        self._asked_at = now
        self._token = self._asked()
        remember(self._token.token)
        return self._token.token

    def _asked(self) -> AccessToken:
        from azure.core.exceptions import AzureError  # noqa: PLC0415 - only with a token

        options: dict[str, Any] = {"tenant_id": self._tenant} if self._tenant else {}
        try:
            return self._credential.get_token(_SCOPE, **options)
        except AzureError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise AuthenticationFailed(
                f"Signing in to {self._account_url} failed before it was asked: {reason}. Check the sign-in."
            ) from None
        except ValueError as error:
            raise ConfigurationError(f"The sign-in cannot be used: {error}") from None

    def renew(self, challenge: str, refused: Mapping[str, str]) -> bool:
        """Forget the token, and ask the tenant that the service named for the next one."""
        named = _TENANT.search(challenge)
        with self._lock:
            if self._token and refused["Authorization"] != f"Bearer {self._token.token}":
                return True  # of many threads that were refused, the first renewed it
            self._token = None
            self._tenant = named[1] if named else self._tenant
        return True


def signer_of(
    account_url: str,
    account_name: str | None = None,
    *,
    account_key: str | None = None,
    sas_token: str | None = None,
    token: TokenCredential | None = None,
) -> Signer:
    """Return what signs by the credential that is given; with none, nothing is signed.

    Raises:
        AuthenticationFailed: the account key is none.
    """
    if account_key:
        # A custom domain does not tell the account, which a key signs for.
        return KeySigner(account_name or _account_of(account_url), account_key)
    if sas_token:
        return SasSigner(sas_token)
    return TokenSigner(token, account_url) if token else NoSigner()


def _account_of(account_url: str) -> str:
    """Return the account: the path of an emulator's URL, else the host's first label."""
    split = urlsplit(account_url)
    return split.path.strip("/") or (split.hostname or "").partition(".")[0]
