"""Copies by the service, which are done when it answers."""

import uuid

from servers.azure_files import smb, sources, times
from servers.azure_files.errors import Refused, unknown
from servers.azure_files.files import check_replaced, new_file
from servers.azure_files.operation import Call, Operation
from servers.azure_files.request import Answer
from servers.azure_files.tree import Copied, File

_TAKES_SOURCE = ("x-ms-file-attributes", "x-ms-file-creation-time", "x-ms-file-last-write-time")


def copy(call: Call) -> Answer:
    """Make a file with the bytes of another."""
    request = call.request
    address = request.header("x-ms-copy-source")
    source = sources.file_at(call, address)
    share = call.changed_share()
    check_replaced(call, share, ignores_read_only=request.flag("x-ms-file-copy-ignore-readonly"))
    file = new_file(_with_own(call, source), share, source.content.copy())
    if request.headers.get("x-ms-file-permission-copy-mode", "").lower() == "source":
        file.permission = source.permission
        share.permissions.setdefault(file.permission, "")
    file.http = dict(source.http)
    file.metadata = file.metadata or dict(source.metadata)
    shown = address.partition("?")[0]
    file.copied = Copied(str(uuid.uuid4()), shown, source.content.length, file.modified)
    share.parent(request.path).put(file)
    return Answer(
        202,
        {
            "ETag": times.etag(file.modified),
            "Last-Modified": times.http_date(file.modified),
            "x-ms-copy-id": file.copied.id,
            "x-ms-copy-status": "success",
        },
    )


def _with_own(call: Call, source: File) -> Call:
    """Fill in what the request takes from the source, and what it may leave out here."""
    headers = dict(call.request.headers)
    of_source = {
        "x-ms-file-attributes": source.attributes,
        "x-ms-file-creation-time": times.iso(source.created),
        "x-ms-file-last-write-time": times.iso(source.written),
        "x-ms-file-change-time": times.iso(source.changed),
    }
    for name, value in of_source.items():
        if headers.get(name, "").lower() == "source":
            headers[name] = value
    mode = headers.pop("x-ms-file-permission-copy-mode", "override").lower()
    if mode not in {"source", "override"}:
        raise Refused("InvalidHeaderValue", "x-ms-file-permission-copy-mode")
    if headers.pop("x-ms-file-copy-set-archive", "true").lower() != "true":
        raise unknown("x-ms-file-copy-set-archive: false")
    for name in _TAKES_SOURCE:
        headers.setdefault(name, "None" if name.endswith("attributes") else "now")
    if "x-ms-file-permission-key" not in headers:
        headers.setdefault("x-ms-file-permission", "inherit")
    request = call.request
    filled = type(request)(
        request.method, request.raw_path, request.query, headers, request.body, request.peer
    )
    return Call(call.account, filled, call.grant)


def abort(call: Call) -> Answer:
    """Refuse: there is never a copy that is not done."""
    try:
        uuid.UUID(call.request.query.get("copyid", ""))
    except ValueError:
        raise Refused("InvalidQueryParameterValue", "copyid") from None
    if call.request.header("x-ms-copy-action").lower() != "abort":
        raise Refused("InvalidHeaderValue", "x-ms-copy-action")
    call.leased(call.changed_share().file(call.request.path))
    raise Refused("NoPendingCopyOperation")


COPY = Operation(
    copy,
    "object",
    "cw",
    smb.HEADERS
    | {
        "x-ms-copy-source",
        "x-ms-lease-id",
        "x-ms-meta-",
        "x-ms-source-allow-trailing-dot",
        "x-ms-file-permission-copy-mode",
        "x-ms-file-copy-ignore-readonly",
        "x-ms-file-copy-set-archive",
    },
)
ABORT = Operation(
    abort,
    "object",
    "w",
    frozenset({"x-ms-copy-action", "x-ms-lease-id"}),
    frozenset({"copyid"}),
)
