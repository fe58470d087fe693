"""Leases on files, which never end by themselves."""

import uuid

from servers.azure_files import times
from servers.azure_files.errors import Refused
from servers.azure_files.operation import Call, Operation
from servers.azure_files.request import Answer, Request
from servers.azure_files.tree import File, Lease


def _id(request: Request, name: str) -> str:
    try:
        return str(uuid.UUID(request.header(name)))
    except ValueError:
        raise Refused("InvalidHeaderValue", name) from None


def _acquire(request: Request, file: File) -> tuple[int, dict[str, str]]:
    if request.headers.get("x-ms-lease-duration", "-1") != "-1":
        raise Refused("InvalidHeaderValue", "x-ms-lease-duration")
    proposed = str(uuid.uuid4())
    if "x-ms-proposed-lease-id" in request.headers:
        proposed = _id(request, "x-ms-proposed-lease-id")
    if file.lease and not file.lease.is_broken and file.lease.id != proposed:
        raise Refused("LeaseAlreadyPresent")
    file.lease = Lease(proposed)
    return 201, {"x-ms-lease-id": proposed}


def _change(request: Request, file: File) -> tuple[int, dict[str, str]]:
    given, proposed = _id(request, "x-ms-lease-id"), _id(request, "x-ms-proposed-lease-id")
    if file.lease is None or file.lease.is_broken:
        raise Refused("LeaseNotPresentWithLeaseOperation")
    if file.lease.id not in {given, proposed}:
        raise Refused("LeaseIdMismatchWithLeaseOperation")
    file.lease = Lease(proposed)
    return 200, {"x-ms-lease-id": proposed}


def _release(request: Request, file: File) -> tuple[int, dict[str, str]]:
    given = _id(request, "x-ms-lease-id")
    if file.lease is None or file.lease.id != given:
        raise Refused("LeaseIdMismatchWithLeaseOperation")
    file.lease = None
    return 200, {}


def _break(request: Request, file: File) -> tuple[int, dict[str, str]]:
    if file.lease is None:
        raise Refused("LeaseNotPresentWithLeaseOperation")
    given = request.headers.get("x-ms-lease-id", "")
    if given and _id(request, "x-ms-lease-id") != file.lease.id:
        raise Refused("LeaseIdMismatchWithLeaseOperation")
    file.lease.is_broken = True
    return 202, {"x-ms-lease-time": "0"}


_ACTIONS = {"acquire": _acquire, "change": _change, "release": _release, "break": _break}


def lease(call: Call) -> Answer:
    """Do what the lease's action says; a file's ETag is the same before and after."""
    request = call.request
    file = call.changed_share().file(request.path)
    action = _ACTIONS.get(request.header("x-ms-lease-action").lower())
    if action is None:  # "renew" is for shares, whose leases do end
        raise Refused("InvalidHeaderValue", "x-ms-lease-action")
    status, headers = action(request, file)
    headers |= {"ETag": times.etag(file.modified), "Last-Modified": times.http_date(file.modified)}
    return Answer(status, headers, is_chunked=True)


def headers_of(file: File) -> dict[str, str]:
    """Return the headers that tell of a file's lease."""
    if file.lease is None:
        return {"x-ms-lease-state": "available", "x-ms-lease-status": "unlocked"}
    if file.lease.is_broken:
        return {"x-ms-lease-state": "broken", "x-ms-lease-status": "unlocked"}
    return {
        "x-ms-lease-duration": "infinite",
        "x-ms-lease-state": "leased",
        "x-ms-lease-status": "locked",
    }


LEASE = Operation(
    lease,
    "object",
    "wd",
    frozenset(
        {
            "x-ms-lease-action",
            "x-ms-lease-duration",
            "x-ms-lease-id",
            "x-ms-proposed-lease-id",
        }
    ),
    since="2019-02-02",
)
