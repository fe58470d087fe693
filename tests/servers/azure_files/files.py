"""Files as wholes: made, looked at, changed, deleted."""

from __future__ import annotations

from servers.azure_files import leases, smb, times
from servers.azure_files.content import Content
from servers.azure_files.directories import metadata_of, version_of
from servers.azure_files.errors import Refused
from servers.azure_files.operation import Call, Operation, check_lease
from servers.azure_files.request import Answer, Request
from servers.azure_files.tree import Directory, File, Share

LARGEST_FILE = 4 << 40
LARGEST_RANGE = 4 << 20
_CREATES_WITH_DATA = "2026-02-06"

_HTTP = {
    "x-ms-content-type": "Content-Type",
    "x-ms-content-encoding": "Content-Encoding",
    "x-ms-content-language": "Content-Language",
    "x-ms-content-disposition": "Content-Disposition",
    "x-ms-cache-control": "Cache-Control",
    "x-ms-content-md5": "Content-MD5",
}
_META = frozenset({"x-ms-meta-"})
_LEASE = frozenset({"x-ms-lease-id"})
_SNAPSHOT = frozenset({"sharesnapshot"})
_OVERRIDES = {
    "rsct": "Content-Type",
    "rsce": "Content-Encoding",
    "rscl": "Content-Language",
    "rscd": "Content-Disposition",
    "rscc": "Cache-Control",
}


def create(call: Call) -> Answer:
    """Make a file of zeros, or with its data; one that is there is replaced."""
    request = call.request
    if request.header("x-ms-type").lower() != "file":
        raise Refused("InvalidHeaderValue", "x-ms-type")
    length = request.number("x-ms-content-length", LARGEST_FILE)
    if request.body and not request.since(_CREATES_WITH_DATA):
        raise Refused("InvalidHeaderValue", "content-length")
    if len(request.body) > LARGEST_RANGE:
        raise Refused("RequestBodyTooLarge")
    if len(request.body) > length:
        raise Refused("InvalidHeaderValue", "content-length")
    digest = request.checked_md5() if request.body else ""
    share = call.changed_share()
    check_replaced(call, share)
    file = new_file(call, share, Content(length))
    file.http = http_of(request) or {"Content-Type": "application/octet-stream"}
    headers = {}
    if request.body:
        file.content.write(0, request.body)
        headers["Content-MD5"] = digest
    share.parent(request.path).put(file)
    return Answer(201, {**headers, **_changed(call, file, tells_smb=True)})


def new_file(call: Call, share: Share, content: Content) -> File:
    """Return the file that a request makes; it is not in its directory yet."""
    request = call.request
    given = smb.of_new(request, share, call.now(), is_directory=False)
    return File(
        request.path[-1],
        given.attributes,
        given.created,
        given.written,
        given.changed,
        given.modified,
        given.permission,
        request.metadata(),
        content=content,
    )


def check_replaced(call: Call, share: Share, *, ignores_read_only: bool = False) -> None:
    """Refuse to make a file where something is that must not be replaced."""
    path = call.request.path
    if not path:
        raise Refused("InvalidUri")
    there = share.parent(path).get(path[-1])
    if there is None:
        if "x-ms-lease-id" in call.request.headers:
            raise Refused("LeaseNotPresentWithFileOperation")
        return
    call.grant.require("w")
    if not isinstance(there, File):
        raise Refused("ResourceTypeMismatch")
    call.leased(there)
    if there.is_read_only and not ignores_read_only:
        raise Refused("ReadOnlyAttribute")


def http_of(request: Request) -> dict[str, str]:
    """Return the headers that are to come with a file's bytes, as a request gives them."""
    return {
        shown: request.headers[name] for name, shown in _HTTP.items() if request.headers.get(name)
    }


def properties(call: Call) -> Answer:
    """Tell what is known of a file."""
    file = call.share().file(call.request.path)
    check_lease(file, call.request.headers.get("x-ms-lease-id", "").lower(), must_have=False)
    headers = headers_of_read(call, file)
    if call.request.since("2019-02-02"):
        headers |= leases.headers_of(file)
    return Answer(200, headers, length=file.content.length)


def headers_of_read(call: Call, file: File) -> dict[str, str]:
    """Return the headers that HEAD and GET have in common."""
    headers = {
        **file.http,
        **version_of(file),
        **smb.headers_of(call.request, file),
        **metadata_of(file),
        "x-ms-type": "File",
        "x-ms-server-encrypted": "true",
    }
    if file.copied:
        headers |= {
            "x-ms-copy-id": file.copied.id,
            "x-ms-copy-source": file.copied.source,
            "x-ms-copy-status": "success",
            "x-ms-copy-progress": f"{file.copied.length}/{file.copied.length}",
            "x-ms-copy-completion-time": times.http_date(file.copied.at),
        }
    for parameter, name in _OVERRIDES.items():
        if call.request.query.get(parameter):
            headers[name] = call.request.query[parameter]
    return headers


def set_properties(call: Call) -> Answer:
    """Set length, headers and what Windows knows."""
    request = call.request
    share = call.changed_share()
    file = share.file(request.path)
    call.leased(file)
    length = file.content.length
    if "x-ms-content-length" in request.headers:
        length = request.number("x-ms-content-length", LARGEST_FILE)
    if file.is_read_only and length != file.content.length:
        raise Refused("ReadOnlyAttribute")
    smb.change(request, share, file, call.now())
    # Whoever names one of the headers sets them all; a change of the length alone leaves them.
    if not _HTTP.keys().isdisjoint(request.headers):
        file.http = http_of(request)
    file.content.resize(length)
    return Answer(200, _changed(call, file, tells_smb=True))


def metadata(call: Call) -> Answer:
    """Tell the metadata of a file."""
    file = call.share().file(call.request.path)
    check_lease(file, call.request.headers.get("x-ms-lease-id", "").lower(), must_have=False)
    return Answer(200, {**version_of(file), **metadata_of(file)})


def set_metadata(call: Call) -> Answer:
    """Replace the metadata of a file."""
    file = call.changed_share().file(call.request.path)
    call.leased(file)
    file.metadata = call.request.metadata()
    file.changed = file.modified = call.now()
    return Answer(200, _changed(call, file, tells_smb=False))


def delete(call: Call) -> Answer:
    """Remove a file."""
    path = call.request.path
    share = call.changed_share()
    file = share.file(path)
    call.leased(file)
    if file.is_read_only:
        raise Refused("ReadOnlyAttribute")
    parent: Directory = share.parent(path)
    parent.take_out(file.name)
    return Answer(202)


def _changed(call: Call, file: File, *, tells_smb: bool) -> dict[str, str]:
    told = smb.headers_of(call.request, file) if tells_smb else {}
    return {**version_of(file), **told, "x-ms-request-server-encrypted": "true"}


_SENT = frozenset(_HTTP)

CREATE = Operation(
    create,
    "object",
    "cw",
    _SENT | _META | _LEASE | smb.HEADERS | {"x-ms-type", "x-ms-content-length"},
)
PROPERTIES = Operation(properties, "object", "r", _LEASE, _SNAPSHOT)
SET_PROPERTIES = Operation(
    set_properties,
    "object",
    "w",
    _SENT | _LEASE | smb.HEADERS | {"x-ms-content-length"},
    _SNAPSHOT,
)
METADATA = Operation(metadata, "object", "r", _LEASE, _SNAPSHOT)
SET_METADATA = Operation(set_metadata, "object", "w", _META | _LEASE, _SNAPSHOT)
DELETE = Operation(delete, "object", "d", _LEASE, _SNAPSHOT)
