"""The bytes of files: read, written, cleared, brought from another file, and told where they are."""

from __future__ import annotations

import base64

from servers.azure_files import sources, times
from servers.azure_files.checksums import crc64
from servers.azure_files.errors import Refused
from servers.azure_files.files import LARGEST_RANGE, headers_of_read
from servers.azure_files.leases import headers_of as headers_of_lease
from servers.azure_files.operation import Call, Operation, check_lease
from servers.azure_files.request import Answer, md5, xml
from servers.azure_files.tree import File

_SETS_WRITE_TIME = "2021-06-08"
_LEASE = frozenset({"x-ms-lease-id"})
_SNAPSHOT = frozenset({"sharesnapshot"})


def read(call: Call) -> Answer:
    """Send a file, or a range of it."""
    request = call.request
    file = call.share().file(request.path)
    check_lease(file, request.headers.get("x-ms-lease-id", "").lower(), must_have=False)
    headers = {**headers_of_read(call, file), "Accept-Ranges": "bytes"}
    if request.since("2019-07-07"):
        headers |= headers_of_lease(file)
    asked = request.range()
    wants_md5 = request.flag("x-ms-range-get-content-md5")
    if asked is None:
        if wants_md5:
            raise Refused("MissingRequiredHeader", "x-ms-range")
        return Answer(200, headers, file.content.read(0, file.content.length))
    start, end = _within(file, *asked)
    data = file.content.read(start, end)
    if "Content-MD5" in headers:  # that of the whole is told by another header
        headers["x-ms-content-md5"] = headers.pop("Content-MD5")
    if wants_md5:
        if len(data) > LARGEST_RANGE:
            raise Refused("OutOfRangeInput")
        headers["Content-MD5"] = md5(data)
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.content.length}"
    return Answer(206, headers, data)


def _within(file: File, first: int, last: int | None) -> tuple[int, int]:
    """Cut a range off at the file's end."""
    length = file.content.length
    if first >= length:
        raise Refused("InvalidRange", headers={"Content-Range": f"bytes */{length}"})
    return first, length if last is None else min(last + 1, length)


def put(call: Call) -> Answer:
    """Write a range, from the body or from another file, or clear one."""
    request = call.request
    first, last = request.closed_range()
    how = request.header("x-ms-write").lower()
    if how not in {"update", "clear"}:
        raise Refused("InvalidHeaderValue", "x-ms-write")
    if how == "update" and last + 1 - first > LARGEST_RANGE:
        raise Refused("RequestBodyTooLarge")
    comes_from = request.headers.get("x-ms-copy-source", "")
    has_body = how == "update" and not comes_from
    if len(request.body) != (last + 1 - first if has_body else 0):
        raise Refused("InvalidHeaderValue", "content-length")
    if not has_body and "content-md5" in request.headers:
        raise Refused("InvalidHeaderValue", "content-md5")
    digest = request.checked_md5()
    file = call.changed_share().file(request.path)
    call.leased(file)
    if file.is_read_only:
        raise Refused("ReadOnlyAttribute")
    # The service looks at the source before it looks at the file that is written.
    data = _from_source(call, first, last) if comes_from else request.body
    if last >= file.content.length:
        raise Refused("InvalidRange")
    if how == "clear":
        file.content.clear(first, last + 1)
        return Answer(201, _written(call, file))
    file.content.write(first, data)
    told = {"x-ms-content-crc64": _crc64(data)} if comes_from else {"Content-MD5": digest}
    return Answer(201, {**_written(call, file), **told, "x-ms-request-server-encrypted": "true"})


def _crc64(data: bytes) -> str:
    return base64.b64encode(crc64(data)).decode()


def _from_source(call: Call, first: int, last: int) -> bytes:
    """Return the bytes of another file that are to be written."""
    request = call.request
    start, end = request.closed_range("x-ms-source-range")
    source = sources.file_at(call, request.header("x-ms-copy-source"))
    data = source.content.read(start, min(end + 1, source.content.length))
    if end - start != last - first or len(data) != last + 1 - first:
        raise Refused("CannotVerifyCopySource")
    checksum = _crc64(data)
    for name, must_match in (
        ("x-ms-source-content-crc64", True),
        ("x-ms-source-if-match-crc64", True),
        ("x-ms-source-if-none-match-crc64", False),
    ):
        if name in request.headers and (request.headers[name] == checksum) != must_match:
            raise Refused("ConditionNotMet")
    return data


def _written(call: Call, file: File) -> dict[str, str]:
    """Take note of a write; old versions leave all moments but the ETag's as they are."""
    request = call.request
    now = call.now()
    file.modified = now
    headers = {"ETag": times.etag(now), "Last-Modified": times.http_date(now)}
    if request.since(_SETS_WRITE_TIME):
        wanted = request.headers.get("x-ms-file-last-write-time", "now").lower()
        if wanted not in {"now", "preserve"}:
            raise Refused("InvalidHeaderValue", "x-ms-file-last-write-time")
        file.changed = now
        file.written = now if wanted == "now" else file.written
        headers["x-ms-file-last-write-time"] = times.iso(file.written)
    return headers


def tell(call: Call) -> Answer:
    """Tell which ranges were written."""
    request = call.request
    file = call.share().file(request.path)
    check_lease(file, request.headers.get("x-ms-lease-id", "").lower(), must_have=False)
    asked = request.range() or (0, None)
    first = asked[0]
    last = file.content.length if asked[1] is None else asked[1]
    told = "".join(
        f"<Range><Start>{max(start, first)}</Start><End>{min(end - 1, last)}</End></Range>"
        for start, end in file.content.ranges
        if start <= last and end > first
    )
    answer = xml(f"<Ranges>{told}</Ranges>" if told else "<Ranges />")
    answer.headers |= {
        "ETag": times.etag(file.modified),
        "Last-Modified": times.http_date(file.modified),
        "x-ms-content-length": str(file.content.length),
    }
    return answer


READ = Operation(
    read, "object", "r", _LEASE | {"x-ms-range", "x-ms-range-get-content-md5"}, _SNAPSHOT
)
PUT = Operation(
    put,
    "object",
    "w",
    _LEASE
    | {
        "x-ms-range",
        "x-ms-write",
        "x-ms-file-last-write-time",
        "x-ms-copy-source",
        "x-ms-source-range",
        "x-ms-source-content-crc64",
        "x-ms-source-if-match-crc64",
        "x-ms-source-if-none-match-crc64",
        "x-ms-source-allow-trailing-dot",
    },
    _SNAPSHOT,
)
TELL = Operation(tell, "object", "r", _LEASE | {"x-ms-range"}, _SNAPSHOT)
