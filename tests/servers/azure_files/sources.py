"""Other files and directories that a request names by their address."""

from __future__ import annotations

from urllib.parse import urlsplit

from servers.azure_files import authorization
from servers.azure_files.errors import Refused, unknown
from servers.azure_files.operation import Call
from servers.azure_files.request import Request
from servers.azure_files.tree import File, Node, Share


def _as_request(call: Call, address: str) -> Request:
    """Read an address as the request it would be."""
    request = call.request
    split = urlsplit(address)
    if split.netloc != request.headers.get("host", ""):
        raise unknown(f"a source on another host: {split.netloc}")
    target = split.path + (f"?{split.query}" if split.query else "")
    headers = {"x-ms-version": request.version}
    if request.flag("x-ms-source-allow-trailing-dot"):
        headers["x-ms-allow-trailing-dot"] = "true"
    found = Request.parse("GET", target, headers, b"", request.peer)
    if found.account != call.account.name:
        raise unknown(f"a source in another account: {found.account}")
    return found


def file_at(call: Call, address: str) -> File:
    """Return the file of an address, which may be read by whoever asks."""
    found = _as_request(call, address)
    if found.is_by_sas:
        authorization.grant_of_sas(call.account, found, "object").require("r")
    elif call.request.is_by_sas:
        raise Refused("AuthenticationFailed", "The source needs a signature of its own")
    share = call.account.share(found.share, found.query.get("sharesnapshot", ""))
    return share.file(found.path)


def moved(call: Call, address: str) -> tuple[Share, tuple[str, ...], Node]:
    """Return share, path and node of what a rename moves."""
    found = _as_request(call, address)
    if found.is_by_sas:
        authorization.grant_of_sas(call.account, found, "object").require("w")
    elif call.request.is_by_sas:
        raise Refused("AuthenticationFailed", "The source needs a signature of its own")
    if found.share != call.request.share:
        raise unknown("a rename to another share")
    share = call.changed_share()
    if not found.path:
        raise Refused("InvalidUri")
    return share, found.path, share.find(found.path)
