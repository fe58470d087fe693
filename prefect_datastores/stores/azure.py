"""Requests to an account of Azure Storage: signed, versioned, and what goes wrong in our own errors."""

from __future__ import annotations

import contextlib
import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import unescape

from prefect_datastores.errors import (
    AuthenticationFailed,
    ConfigurationError,
    ContainerNotFound,
    DatastoreError,
    FolderMissing,
    FolderNotEmpty,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    PartsRefused,
    PlaceTaken,
    ServiceBusy,
    SourceChanged,
    TransferError,
)
from prefect_datastores.stores.connection import Answer, Receive
from prefect_datastores.stores.http import Exchange, HttpClient
from prefect_datastores.stores.refusals import BLOB_ROLES, Refusal, refused, right_of
from prefect_datastores.stores.requests import about_to_ask
from prefect_datastores.stores.signing import NoSigner, Query, Request, Signer

_VERSION = "2024-11-04"
_AGENT = "prefect-datastores"
_NONE: Mapping[str, str] = MappingProxyType({})
_PASSING = {408, 429, 500, 502, 503, 504}
_TOO_BUSY = {429, 503}
_CODE = re.compile(rb"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]*)</Message>")
_DETAIL = re.compile(rb"<AuthenticationErrorDetail>([^<]*)</AuthenticationErrorDetail>")
_NOT_HIERARCHICAL = (ConfigurationError, "is in an account without a hierarchical namespace")
_BY_CODE: dict[str, tuple[type[DatastoreError], str]] = {
    "BlobAlreadyExists": (ObjectExists, "exists already"),
    "ContainerAlreadyExists": (ObjectExists, "exists already"),
    "PublicAccessNotPermitted": (
        AuthenticationFailed,
        "allows no anonymous access; give a credential",
    ),
    "BlobOperationNotSupported": (
        PartsRefused,
        "was written at the DFS endpoint, and takes no parts at this one",
    ),
    "ContainerBeingDeleted": (ServiceBusy, "is being deleted; try again in a minute"),
    "InvalidBlobOrBlock": (
        TransferError,
        "holds unfinished blocks of another client, which cannot be mixed with ours; they vanish within a week",
    ),
    # A commit drops all blocks that it does not name: those of every other writer.
    "InvalidBlockList": (SourceChanged, "was committed by another writer meanwhile"),
    "ParentNotFound": (FolderMissing, "is in a folder that does not exist"),
    "ResourceAlreadyExists": (ObjectExists, "exists already"),
    "ResourceTypeMismatch": (PlaceTaken, "is a folder, or a file is where a folder is needed"),
    "DirectoryNotEmpty": (FolderNotEmpty, "is not empty"),
    "DirectoryIsNotEmpty": (FolderNotEmpty, "is not empty"),  # of the Blob endpoint
    "PendingCopyOperation": (ServiceBusy, "is being copied to by somebody"),
    "ShareAlreadyExists": (ObjectExists, "exists already"),
    "ShareBeingDeleted": (ServiceBusy, "is being deleted; try again in a minute"),
    "SharingViolation": (TransferError, "is held open by an SMB client; close it there"),
    "FileLockConflict": (TransferError, "is locked by an SMB client; close it there"),
    "ReadOnlyAttribute": (TransferError, "is marked read-only; take the mark off"),
    "Md5Mismatch": (IntegrityError, "was damaged on its way to the service"),
    # Of the DFS endpoint.
    "HierarchicalNamespaceNotEnabled": _NOT_HIERARCHICAL,
    # What the DFS endpoint does not go with, and a hierarchical namespace does not have.
    "EndpointUnsupportedAccountFeatures": _NOT_HIERARCHICAL,
    "InvalidDestinationPath": (PlaceTaken, "is below a file"),
    "InvalidRenameSourcePath": (PlaceTaken, "is the folder that is renamed, or lies in it"),
    "InvalidSourceOrDestinationResourceType": (
        PlaceTaken,
        "is a file where a folder is meant, or the reverse",
    ),
    "PathAlreadyExists": (ObjectExists, "exists already"),
    "PathConflict": (PlaceTaken, "is a folder, or a file is where a folder is needed"),
    "RenameDestinationParentPathNotFound": (FolderMissing, "is in a folder that does not exist"),
}
_BY_STATUS: dict[int, tuple[type[DatastoreError], str]] = {
    404: (ObjectNotFound, "does not exist"),
    412: (SourceChanged, "is another version than the one that was asked for"),
    416: (IntegrityError, "is shorter than it was when it was listed"),
}
_CONTAINER_MISSING = {"ContainerNotFound", "ShareNotFound", "FilesystemNotFound"}


@dataclass(frozen=True)
class Fault:
    """What the service said was wrong."""

    status: int
    code: str
    message: str
    retry_after: float | None
    date: str = ""
    """The time that the service has."""
    server: str = ""


class AzureService:
    """One container (or share) of an account; used by many threads at once."""

    def __init__(
        self,
        account_url: str,
        container: str,
        signer: Signer,
        headers: Mapping[str, str] = _NONE,
        roles: str = BLOB_ROLES,
    ) -> None:
        """Name the container; nothing is connected before the first request. Each has `headers`.

        `roles` is how the roles are called that give rights on the data.
        """
        account_url = account_url.rstrip("/")
        self.account_url, self.container = account_url, container
        self.url = f"{account_url}/{container}"
        self._path = f"{urlsplit(account_url).path}/{container}"
        self._signer, self._roles = signer, roles
        self._headers = {"x-ms-version": _VERSION, "User-Agent": _AGENT, **headers}
        self._http = HttpClient(account_url)

    def request(
        self,
        method: str,
        name: str = "",
        query: Query = (),
        headers: Mapping[str, str] = _NONE,
        body: bytes | memoryview = b"",
        receive: Receive | None = None,
    ) -> Answer:
        """Send one request about the container, or about an object in it, and return a good answer.

        Raises:
            DatastoreError: the service said no, or did not say anything; each as `_error` has it.
        """
        return self.begin(method, name, query, headers, body).finish(receive)

    def begin(
        self,
        method: str,
        name: str = "",
        query: Query = (),
        headers: Mapping[str, str] = _NONE,
        body: bytes | memoryview = b"",
    ) -> Asked:
        """Send one request; its answer comes to who finishes it."""
        about_to_ask()
        path = f"{self._path}/{quote(name, safe='~/')}" if name else self._path
        given = {
            "x-ms-date": _date(int(time.time())),
            **self._headers,
            **headers,
        }
        target, signed = self._signer.sign(Request(method, path, query, given, len(body)))
        exchange = self._http.begin(method, target, signed, body)
        return Asked(self, exchange, signed, (method, name, query, headers, body))

    def signed_url(self, name: str) -> str:
        """Return the whole URL of an object, signed where its signature is part of it (a SAS)."""
        path = f"{self._path}/{quote(name, safe='~/')}"
        target, _ = self._signer.sign(Request("GET", path, (), {}))
        return f"{self._http.origin}{target}"

    def signed_path(self, name: str) -> str:
        """Return the path of an object in the account, signed as `signed_url` is; how a rename names its source."""
        path = f"/{self.container}/{quote(name, safe='~/')}"
        return self._signer.sign(Request("GET", path, (), {}))[0]

    def is_ready(self) -> bool:
        """Tell whether a request could be sent at once; if not, connections are made meanwhile."""
        return self._http.is_ready()

    def renew(self, answer: Answer, signed: Mapping[str, str]) -> bool:
        """Tell whether another try may be signed better than the one that was refused."""
        return self._signer.renew(answer.headers.get("www-authenticate", ""), signed)

    def refusal(
        self, answer: Answer, name: str, method: str = "GET", query: Query = ()
    ) -> DatastoreError:
        """Return what an answer says that is none of the good ones, to a request for that."""
        fault, where = fault_of(answer), f"{self.url}/{name}" if name else self.url
        if fault.status in {401, 403}:
            said = f"{where} answered {fault.status} {fault.code}".rstrip()
            refusal = Refusal(fault.code, fault.message, fault.date, fault.server)
            return refused(refusal, said, self._signer, right_of(method, query), self._roles)
        error = self._error(fault, where)
        if isinstance(error, PlaceTaken) and name and method in {"GET", "HEAD"}:
            return ObjectNotFound(str(error))  # a folder is no object
        return error

    def interrupt(self) -> None:
        """Break the requests that are under way."""
        self._http.interrupt()

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    def _error(self, fault: Fault, where: str) -> DatastoreError:
        status, code = fault.status, fault.code
        if status in _PASSING:
            return ServiceBusy(
                f"{where} answered {status} {code}".rstrip() + ".",
                retry_after=fault.retry_after,
                throttled=status in _TOO_BUSY,
            )
        if code in _CONTAINER_MISSING:
            return ContainerNotFound(
                f"The container {self.container!r} does not exist in {self.account_url}. "
                "Check its name, or register the datastore with create_if_not_exists=True (--create)."
            )
        kind: type[DatastoreError] = TransferError
        says = f"failed with {status}: {fault.message or 'no reason was given'}"
        if code.startswith("Lease"):
            says = "is leased by somebody, who alone may change it: wait for its end, or break the lease"
        elif status == 404 and not code:  # noqa: PLR2004
            says = "is said to be missing, but not by the service: a proxy's answer"
        elif code == "ResourceNotFound" and isinstance(self._signer, NoSigner):
            kind, says = ObjectNotFound, "does not exist, or allows no anonymous access"
        elif code == "ResourceNotFound" and where == self.url:  # an emulator has many accounts
            kind, says = ObjectNotFound, "does not exist; is the account's name right?"
        else:
            kind, says = _BY_CODE.get(code) or _BY_STATUS.get(status) or (kind, says)
        return kind(f"{where} {says} ({code or status}).")


class Asked:
    """A request about a container or an object that was sent, and whose answer is still to come."""

    __slots__ = ("_exchange", "_request", "_service", "_signed")

    def __init__(
        self,
        service: AzureService,
        exchange: Exchange,
        signed: Mapping[str, str],
        request: tuple[str, str, Query, Mapping[str, str], bytes | memoryview],
    ) -> None:
        """Take over the exchange; `request` is what `AzureService.begin` was given."""
        self._service, self._exchange = service, exchange
        self._signed, self._request = signed, request

    def finish(self, receive: Receive | None = None) -> Answer:
        """Wait for the answer, and return it where it is a good one; it raises what `request` raises."""
        answer = self._exchange.finish(receive)
        if answer.status < 300:  # noqa: PLR2004
            return answer
        if answer.status == 401 and self._service.renew(answer, self._signed):  # noqa: PLR2004
            again = self._service.begin(*self._request)
            answer = again._exchange.finish(receive)  # noqa: SLF001 - the same, once more
            if answer.status < 300:  # noqa: PLR2004
                return answer
        method, name, query = self._request[:3]
        raise self._service.refusal(answer, name, method, query)

    def drop(self) -> None:
        """Do not wait for the answer; whether the request is carried out is unknown."""
        self._exchange.drop()


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)


def fault_of(answer: Answer) -> Fault:
    """Read an answer that is none of the good ones."""
    of_body = _of_json if answer.body[:1] == b"{" else _of_xml
    code, message = of_body(answer.body)
    return Fault(
        answer.status,
        answer.headers.get("x-ms-error-code", "") or code,
        message,
        _retry_after(answer.headers),
        answer.headers.get("date", ""),
        answer.headers.get("server", ""),
    )


def _of_xml(body: bytes) -> tuple[str, str]:
    """Return code and message of an error."""
    message = _text(_MESSAGE.search(body)), _text(_DETAIL.search(body))
    return _text(_CODE.search(body)), " ".join(filter(None, message))


def _of_json(body: bytes) -> tuple[str, str]:
    """Return the same of an error of the DFS endpoint."""
    try:
        error = json.loads(body)["error"]
        return _first_line(str(error["code"])), _first_line(str(error["message"]))
    except (ValueError, KeyError, TypeError):
        return "", ""


def _text(found: Any) -> str:
    return _first_line(unescape(found[1].decode(errors="replace"))) if found else ""


def _first_line(text: str) -> str:
    """Return the first line; the next ones hold the request's id and time."""
    return next(iter(text.strip().splitlines()), "")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read `Retry-After` in both its forms (RFC 9110, 10.2.3), as seconds from now."""
    milliseconds = _number(headers.get("x-ms-retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "").strip()
    seconds = _number(value)
    if seconds is None:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return seconds


def _number(text: str) -> float | None:
    """Return a number of digits alone; one that is far too long is infinite, as it is meant."""
    return float(text) if text.isascii() and text.isdecimal() else None
