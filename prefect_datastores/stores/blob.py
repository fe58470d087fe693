"""Block blobs of one container, by the Azure SDK."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from prefect_datastores.errors import (
    AccessDenied,
    AuthenticationFailed,
    ConfigurationError,
    ContainerNotFound,
    CredentialExpired,
    DatastoreError,
    EndpointUnreachable,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    ServiceBusy,
    SourceChanged,
    TransferError,
)
from prefect_datastores.names import NameRules, ObjectName
from prefect_datastores.redaction import guard_loggers, remember
from prefect_datastores.stores.base import Capabilities, ObjectInfo, Page

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.core.exceptions import HttpResponseError
    from azure.core.pipeline import PipelineResponse
    from azure.storage.blob import BlobProperties, ContainerClient

_PASSING = {408, 429, 500, 502, 503, 504}
_CONNECT_SECONDS, _READ_SECONDS = 15, 60
_BLOCK = 256 * 1024
_CONNECTIONS = 32
_RANGE = re.compile(r"bytes (\d+)-(\d+)/")


class BlobStore:
    """One container. Reads are pinned to an ETag, parts carry an MD5, commits are conditional."""

    capabilities = Capabilities(kind="Azure Blob Storage", stores_digest=True, part_size=4 * 2**20)

    def __init__(
        self,
        account_url: str,
        container: str,
        *,
        account_name: str | None = None,
        account_key: str | None = None,
        sas_token: str | None = None,
        token: TokenCredential | None = None,
    ) -> None:
        """Name the container; no request is made before the first use."""
        self.url = f"{account_url.rstrip('/')}/{container}"
        self._container_name = container
        sas_token = sas_token.lstrip("?") if sas_token else None
        self._credential: Any = account_key or sas_token or token
        self._is_sas = bool(sas_token)
        for secret in (account_key, sas_token, _signature_of(sas_token or "")):
            remember(secret or "")
        guard_loggers()
        self._account_url = account_url
        # A custom domain does not tell the account, which a key signs for.
        self._account = account_name or _account_of(account_url)
        self._client: ContainerClient | None = None
        self._opening = threading.Lock()

    def _container(self) -> ContainerClient:
        with self._opening:
            return self._opened()

    def _opened(self) -> ContainerClient:
        if self._client is None:
            from azure.core.pipeline.transport import RequestsTransport  # noqa: PLC0415
            from azure.storage.blob import ContainerClient  # noqa: PLC0415 - 0.7 s, only when used

            credential = self._credential
            if isinstance(credential, str) and not self._is_sas:
                credential = {"account_name": self._account, "account_key": credential}
            try:
                self._client = ContainerClient(
                    self._account_url,
                    self._container_name,
                    credential=credential,
                    retry_total=0,  # ours alone: see stores/retry.py
                    transport=RequestsTransport(
                        session=_session(),
                        connection_timeout=_CONNECT_SECONDS,
                        read_timeout=_READ_SECONDS,
                        # 4 KiB when unset: a thousand small objects for each part.
                        connection_data_block_size=_BLOCK,
                    ),
                    max_single_get_size=self.capabilities.part_size,
                    max_single_put_size=self.capabilities.part_size,
                )
            except ValueError as error:
                raise ConfigurationError(
                    f"The endpoint {self.url} cannot be used: {error}."
                ) from None
        return self._client

    def name_rules(self) -> NameRules:
        """Tell names by case, but not by dots at a component's end, which the service strips."""
        return NameRules(strips_trailing_dots=True)

    def create_root(self) -> None:
        """Make the container unless it exists."""
        with contextlib.suppress(ObjectExists), self._translated():
            self._container().create_container()

    def check_root(self) -> None:
        """Raise unless the container exists and can be listed."""
        self.list_page("", limit=1)

    def list_page(
        self, prefix: str, *, marker: str | None = None, recursive: bool = True, limit: int = 5000
    ) -> Page:
        """Return one page."""
        from azure.storage.blob import BlobPrefix  # noqa: PLC0415

        with self._translated(), _readable(self.url):
            client = self._container()
            options: dict[str, Any] = {
                "name_starts_with": prefix or None,
                "include": ["metadata"],
                "results_per_page": limit,
            }
            listing = (
                client.list_blobs(**options)
                if recursive
                else client.walk_blobs(delimiter="/", **options)
            )
            pages = listing.by_page(continuation_token=marker)
            found = list(next(pages, ()))
        objects = tuple(_info(item) for item in found if not isinstance(item, BlobPrefix))
        folders = tuple(
            item.name.removesuffix("/") for item in found if isinstance(item, BlobPrefix)
        )
        return Page(objects, folders, getattr(pages, "continuation_token", None) or None)

    def head(self, name: ObjectName) -> ObjectInfo:
        """Return what is known of one blob."""
        with self._translated(name):
            return _info(self._container().get_blob_client(name).get_blob_properties())

    def read_into(
        self, name: ObjectName, offset: int, buffer: memoryview, *, pin: str | None
    ) -> None:
        """Fill `buffer` from one version."""
        from azure.core import MatchConditions  # noqa: PLC0415

        pinned: dict[str, Any] = (
            {"etag": pin, "match_condition": MatchConditions.IfNotModified} if pin else {}
        )
        if not buffer:
            return  # a range has at least one byte
        with self._translated(name), _readable(f"{self.url}/{name}"):
            blob = self._container().get_blob_client(name)
            # The first GET fetches `max_single_get_size` bytes, the rest follows in chunks: parts
            # of ours are never longer, so each is one request.
            data = blob.download_blob(
                offset=offset,
                length=len(buffer),
                max_concurrency=1,
                raw_response_hook=_refuse_another_range,
                **pinned,
            ).readall()
        if len(data) != len(buffer):
            raise IntegrityError(
                f"{self.url}/{name} gave {len(data)} bytes at {offset} instead of {len(buffer)}."
            )
        buffer[:] = data

    def begin_write(
        self, name: ObjectName, size: int, *, replaces: str | None = None, if_absent: bool = False
    ) -> _BlobWriting:
        """Begin a blob: blocks are staged, and seen by nobody before the commit."""
        return _BlobWriting(self, name, size, replaces, if_absent)

    def delete(self, name: ObjectName, *, pin: str | None = None) -> None:
        """Delete one blob."""
        from azure.core import MatchConditions  # noqa: PLC0415

        pinned: dict[str, Any] = (
            {"etag": pin, "match_condition": MatchConditions.IfNotModified} if pin else {}
        )
        with self._translated(name):
            self._container().get_blob_client(name).delete_blob(**pinned)

    def close(self) -> None:
        """Let go of connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @contextmanager
    def _translated(self, name: str = "") -> Iterator[None]:
        from azure.core import exceptions  # noqa: PLC0415

        where = f"{self.url}/{name}" if name else self.url
        try:
            yield
        except exceptions.HttpResponseError as error:
            if error.response is None and isinstance(error, exceptions.ClientAuthenticationError):
                raise AuthenticationFailed(
                    f"Signing in to {self._account_url} failed before it was asked: {_reason(error)}. "
                    f"Check the {self._sign_in()}."
                ) from None
            if error.response is None:  # its body did not come whole
                raise ServiceBusy(f"The connection to {where} broke: {_reason(error)}.") from None
            raise self._from_answer(error, where) from None
        except exceptions.ServiceRequestError as error:
            raise _unreachable(error, self._account_url) from None
        except (exceptions.ServiceResponseError, exceptions.StreamConsumedError) as error:
            raise ServiceBusy(f"The connection to {where} broke: {_reason(error)}.") from None
        except exceptions.AzureError as error:
            raise TransferError(f"{where} failed: {_reason(error)}.") from None

    def _from_answer(self, error: HttpResponseError, where: str) -> DatastoreError:
        status, code = error.status_code or 0, getattr(error, "error_code", None) or ""
        code = str(getattr(code, "value", code))  # an enum, where the SDK knows the code
        if status in _PASSING:
            return ServiceBusy(
                f"{where} answered {status} {code}.", retry_after=_retry_after(error)
            )
        if status in {401, 403}:
            return self._refused(error, where, status, code)
        if code == "ContainerNotFound":
            return ContainerNotFound(
                f"The container {self._container_name!r} does not exist in {self._account_url}. "
                "Check its name, or register the datastore with create_if_not_exists=True."
            )
        if code == "Md5Mismatch":
            return IntegrityError(f"{where} was damaged on its way to the service ({code}).")
        if code == "InvalidBlockList":
            # A commit drops all blocks that it does not name: those of every other writer.
            return SourceChanged(f"{where} was committed by another writer meanwhile ({code}).")
        known: dict[int, tuple[type[DatastoreError], str]] = {
            404: (ObjectNotFound, "does not exist"),
            409: (ObjectExists, "exists already"),
            412: (SourceChanged, "is another version than the one that was asked for"),
            416: (IntegrityError, "is shorter than it was when it was listed"),
        }
        kind, says = known.get(status, (TransferError, f"failed with {status}: {_reason(error)}"))
        if kind is ObjectNotFound and not code:
            kind, says = (
                TransferError,
                "is said to be missing, but not by the service: a proxy's answer",
            )
        return kind(f"{where} {says} ({code or status}).")

    def _sign_in(self) -> str:
        if self._is_sas:
            return "SAS token"
        return "account key" if isinstance(self._credential, str) else "sign-in"

    def _refused(
        self, error: HttpResponseError, where: str, status: int, code: str
    ) -> DatastoreError:
        detail = str(getattr(error, "message", ""))
        answer = f"{where} answered {status} {code}"
        if "Signature not valid in the specified time frame" in detail:
            return CredentialExpired(
                f"{answer}: the SAS token is outside its time. Make a new one."
            )
        # Azurite says AuthorizationFailure where the service says AuthenticationFailed.
        if code in {"AuthenticationFailed", "AuthorizationFailure", "InvalidAuthenticationInfo"}:
            return AuthenticationFailed(
                f"{answer}: the {self._sign_in()} is not accepted. Check that it belongs to this account, is whole, and "
                "that this machine's clock is right; a storage firewall gives the same answer."
            )
        if self._credential is None or code == "NoAuthenticationInformation":
            return AuthenticationFailed(
                f"{answer}: it does not allow anonymous access; give a credential."
            )
        return AccessDenied(f"{answer}: the credential lacks the right to do this.")


class _BlobWriting:
    """Put Blob for an object of one part, Put Block and Put Block List for more."""

    def __init__(
        self, store: BlobStore, name: ObjectName, size: int, replaces: str | None, if_absent: bool
    ) -> None:
        self._store, self._name, self._size = store, name, size
        self._conditions = _conditions(replaces, if_absent)
        # A salt, so that blocks of another writer or attempt are never taken for ours
        # (fsspec/adlfs#462); all ids have one length, as the service demands.
        self._salt = secrets.token_hex(8)
        self._blocks: dict[int, int] = {}
        self._only_part = memoryview(b"")

    def _block_id(self, index: int) -> str:
        return base64.b64encode(f"{self._salt}-{index:06d}".encode()).decode()

    def write_part(self, index: int, offset: int, data: memoryview) -> None:
        self._blocks[index] = 0
        if len(data) == self._size:
            self._only_part = data
        else:
            with self._store._translated(self._name):  # noqa: SLF001 - one room, two classes
                self._blob().stage_block(
                    self._block_id(index), _as_bytes(data), length=len(data), validate_content=True
                )
        self._blocks[index] = len(data)

    def _blob(self) -> Any:
        return self._store._container().get_blob_client(self._name)  # noqa: SLF001

    def commit(self, digest: bytes) -> ObjectInfo:
        from azure.storage.blob import BlobBlock, ContentSettings  # noqa: PLC0415

        if sum(self._blocks.values()) != self._size:
            raise IntegrityError(f"{self._store.url}/{self._name} was not written whole.")
        settings = ContentSettings(
            content_type="application/octet-stream", content_md5=bytearray(digest)
        )
        with self._taken(), self._store._translated(self._name):  # noqa: SLF001
            if len(self._blocks) <= 1:
                answer = self._blob().upload_blob(
                    _as_bytes(self._only_part),
                    length=self._size,
                    content_settings=settings,
                    validate_content=True,
                    **(self._conditions or {"overwrite": True}),
                )
            else:
                blocks = [BlobBlock(self._block_id(index)) for index in sorted(self._blocks)]
                answer = self._blob().commit_block_list(
                    blocks, content_settings=settings, validate_content=True, **self._conditions
                )
        modified = (
            answer["last_modified"].timestamp() if answer.get("last_modified") else time.time()
        )
        return ObjectInfo(self._name, self._size, answer["etag"], digest, modified)

    @contextmanager
    def _taken(self) -> Iterator[None]:
        try:
            yield
        except SourceChanged as error:
            where = f"{self._store.url}/{self._name}"
            raise ObjectExists(
                f"{where} was written by somebody else meanwhile; it was left as it is."
            ) from error

    def abort(self) -> None:
        # Blocks that were never committed are invisible, and the service drops them after a week;
        # deleting the blob to get rid of them would delete somebody's good version.
        self._only_part = memoryview(b"")


def _as_bytes(view: memoryview) -> bytes:
    """Return a view's bytes, which the SDK insists on, without copying where it is all of them."""
    whole = view.obj
    return whole if isinstance(whole, bytes) and len(whole) == len(view) else bytes(view)


def _conditions(replaces: str | None, if_absent: bool) -> dict[str, Any]:
    from azure.core import MatchConditions  # noqa: PLC0415

    if if_absent:
        return {"match_condition": MatchConditions.IfMissing}
    if replaces is not None:
        return {"etag": replaces, "match_condition": MatchConditions.IfNotModified}
    return {}


def _session() -> Any:
    """Return a session that reads every body whole before it gives an answer, as it is stored.

    The SDK would read bodies later, try a broken one again by itself with pauses of a second, and
    unpack what was stored with a `Content-Encoding`. A part is in memory as a whole anyway.
    """
    import requests  # noqa: PLC0415

    class Session(requests.Session):
        def request(self, *args: Any, **options: Any) -> requests.Response:
            return super().request(*args, **{**options, "stream": False})

    def as_stored(answer: requests.Response, **_: Any) -> None:
        if "x-ms-range" in answer.request.headers:
            answer.raw.headers.pop("Content-Encoding", None)

    session = Session()
    session.hooks["response"].append(as_stored)
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS))
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS))
    return session


def _refuse_another_range(response: PipelineResponse[Any, Any]) -> None:
    """Refuse an answer that is not the range that was asked for; the SDK does not look."""
    answer = response.http_response
    if answer.status_code >= 300:  # noqa: PLR2004 - an error says so by itself
        return
    asked = response.http_request.headers["x-ms-range"].removeprefix("bytes=").partition("-")[0]
    given = _RANGE.match(answer.headers.get("Content-Range", ""))
    if not given or given[1] != asked or int(given[2]) - int(asked) + 1 != len(answer.body()):
        raise IntegrityError(
            f"{response.http_request.url.partition('?')[0]} gave another range than the one asked for."
        )


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Tell of an answer that the SDK stumbles over: a proxy's page, or one that was cut."""
    try:
        yield
    except DatastoreError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{where} gave an answer that cannot be read: {_reason(error)}."
        ) from error


def _signature_of(sas_token: str) -> str:
    """Return the token's one secret part, as it is before it is encoded for a URL."""
    fields = dict(field.partition("=")[::2] for field in sas_token.split("&"))
    return unquote(fields.get("sig", ""))


def _account_of(account_url: str) -> str:
    """Return the account: the path of an emulator's URL, else the host's first label."""
    host, _, path = account_url.partition("://")[2].partition("/")
    return path.strip("/") or host.partition(".")[0]


def _info(item: BlobProperties) -> ObjectInfo:
    md5 = item.content_settings.content_md5 if item.content_settings else None
    metadata = {key.lower(): value for key, value in (item.metadata or {}).items()}
    # `Hdi_isfolder` arrives capitalised from some clients (fsspec/adlfs#418).
    folder = metadata.get("hdi_isfolder", "").lower() == "true"
    name, size = str(item.name), int(item.size or 0)
    etag = str(item.etag or "")
    return ObjectInfo(
        name=name,
        size=size,
        # A listing gives the ETag bare, a HEAD in quotes; If-Match wants the quotes.
        etag=etag if etag.startswith('"') else f'"{etag}"',
        digest=bytes(md5) if md5 else None,
        modified=item.last_modified.timestamp() if item.last_modified else None,
        is_marker=not size and (folder or name.endswith("/")),
    )


def _retry_after(error: HttpResponseError) -> float | None:
    """Read `Retry-After` in both its forms (RFC 9110, 10.2.3), as seconds from now."""
    headers = getattr(error.response, "headers", None) or {}
    if (milliseconds := headers.get("x-ms-retry-after-ms", "")).isdigit():
        return int(milliseconds) / 1000
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _unreachable(error: Exception, account_url: str) -> DatastoreError:
    reason = _reason(error)
    if any(
        text in reason
        for text in ("Name or service not known", "resolve", "nodename", "getaddrinfo")
    ):
        return EndpointUnreachable(
            f"The host of {account_url} does not exist. Check the account name and the endpoint."
        )
    return EndpointUnreachable(f"Nobody answers at {account_url}: {reason}.")


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
