"""Which operation a request asks for, and what no operation knows."""

from __future__ import annotations

from servers.azure_files import (
    copies,
    directories,
    files,
    leases,
    listing,
    ranges,
    renames,
    shares,
)
from servers.azure_files.errors import Refused, unknown
from servers.azure_files.operation import Operation
from servers.azure_files.request import Request

_HEADERS = {
    "x-ms-date",
    "x-ms-version",
    "x-ms-client-request-id",
    "x-ms-return-client-request-id",
    "x-ms-file-request-intent",
    "x-ms-allow-trailing-dot",
}
_QUERY = {"restype", "comp", "timeout"}
_SAS = {
    "sig", "sp", "st", "se", "sv", "sr", "si", "sip", "spr", "ss", "srt", "ses",
    "rscc", "rscd", "rsce", "rscl", "rsct",
}  # fmt: skip
_CONDITIONS = {"if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"}

# By whether it is about a share and about what is in it, the method, and the query.
_ROUTES: dict[tuple[str, str, str, str], Operation] = {
    ("account", "GET", "", "list"): listing.SHARES,
    ("share", "PUT", "share", ""): shares.CREATE,
    ("share", "GET", "share", ""): shares.PROPERTIES,
    ("share", "HEAD", "share", ""): shares.PROPERTIES,
    ("share", "DELETE", "share", ""): shares.DELETE,
    ("share", "GET", "share", "metadata"): shares.METADATA,
    ("share", "HEAD", "share", "metadata"): shares.METADATA,
    ("share", "PUT", "share", "metadata"): shares.SET_METADATA,
    ("share", "PUT", "share", "properties"): shares.SET_PROPERTIES,
    ("share", "GET", "share", "stats"): shares.STATS,
    ("share", "PUT", "share", "snapshot"): shares.SNAPSHOT,
    ("share", "GET", "share", "acl"): shares.POLICIES,
    ("share", "PUT", "share", "acl"): shares.SET_POLICIES,
    ("share", "PUT", "share", "filepermission"): shares.CREATE_PERMISSION,
    ("share", "GET", "share", "filepermission"): shares.PERMISSION,
    ("any", "GET", "directory", "list"): listing.ENTRIES,
    ("any", "PUT", "directory", ""): directories.CREATE,
    ("any", "GET", "directory", ""): directories.PROPERTIES,
    ("any", "HEAD", "directory", ""): directories.PROPERTIES,
    ("path", "DELETE", "directory", ""): directories.DELETE,
    ("any", "GET", "directory", "metadata"): directories.METADATA,
    ("any", "HEAD", "directory", "metadata"): directories.METADATA,
    ("any", "PUT", "directory", "metadata"): directories.SET_METADATA,
    ("any", "PUT", "directory", "properties"): directories.SET_PROPERTIES,
    ("path", "PUT", "directory", "rename"): renames.RENAME_DIRECTORY,
    ("path", "PUT", "", ""): files.CREATE,
    ("path", "GET", "", ""): ranges.READ,
    ("path", "HEAD", "", ""): files.PROPERTIES,
    ("path", "DELETE", "", ""): files.DELETE,
    ("path", "PUT", "", "properties"): files.SET_PROPERTIES,
    ("path", "GET", "", "metadata"): files.METADATA,
    ("path", "HEAD", "", "metadata"): files.METADATA,
    ("path", "PUT", "", "metadata"): files.SET_METADATA,
    ("path", "PUT", "", "range"): ranges.PUT,
    ("path", "GET", "", "rangelist"): ranges.TELL,
    ("path", "PUT", "", "rename"): renames.RENAME_FILE,
    ("path", "PUT", "", "copy"): copies.ABORT,
    ("path", "PUT", "", "lease"): leases.LEASE,
}


def operation_of(request: Request) -> Operation:
    """Return the operation, having refused what it does not know."""
    place = "path" if request.has_path else "share" if request.share else "account"
    key = (request.method, request.query.get("restype", ""), request.query.get("comp", ""))
    found = _ROUTES.get((place, *key))
    if found is None and place != "account":
        found = _ROUTES.get(("any", *key))
    if found is files.CREATE and "x-ms-copy-source" in request.headers:
        found = copies.COPY
    _check_conditions(request)
    if found is None:
        if place != "path" and not key[2]:
            # A share is none of its own files, and an account no share.
            raise Refused("InvalidQueryParameterValue", "comp")
        raise unknown(f"{key[0]} of {place} with restype={key[1]} and comp={key[2]}")
    if found.since and not request.since(found.since):
        raise Refused("InvalidHeaderValue", "x-ms-version")
    _check_names(request, found)
    return found


def _check_conditions(request: Request) -> None:
    """Refuse conditions: no operation of the service is documented to know any.

    Whether it refuses them or does not even look, it does not do what is asked for; a client
    that relies on one must not pass here.
    """
    for name in request.headers:
        bare = name.removeprefix("x-ms-").removeprefix("source-")
        if bare in _CONDITIONS:
            raise Refused("ConditionHeadersNotSupported", name)


def _check_names(request: Request, operation: Operation) -> None:
    for name in request.headers:
        if name.startswith("x-ms-") and name not in _HEADERS and name not in operation.headers:
            # Microsoft's own client sends "x-ms-meta" beside the headers that mean something.
            if f"{name}-".startswith("x-ms-meta-") and "x-ms-meta-" in operation.headers:
                continue
            raise unknown(f"the header {name}")
    allowed = _QUERY | operation.query | (_SAS if request.is_by_sas else set())
    for name in request.query:
        if name not in allowed:
            raise unknown(f"the query's {name}")
