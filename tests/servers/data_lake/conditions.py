"""Conditional headers (RFC 9110, 13.1), as the service reads them."""

from collections.abc import Mapping

from servers.data_lake.calls import seconds_of
from servers.data_lake.namespace import Node
from servers.data_lake.refusals import NotModified, Refusal

NAMES = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
SOURCE_NAMES = tuple(f"x-ms-source-{name}" for name in NAMES)


def check_read(headers: Mapping[str, str], node: Node) -> None:
    """Raise unless what is there is what the client wants to read."""
    if not _holds(headers, node, "if-match", "if-unmodified-since"):
        raise Refusal("ConditionNotMet")
    if not _holds(headers, node, "if-none-match", "if-modified-since"):
        raise NotModified


def check_write(headers: Mapping[str, str], node: Node | None, *, taken: str = "") -> None:
    """Raise unless what is there may be written to, or over.

    `taken` is the code that tells a creator who wanted to be the first that there was one before.
    """
    if "if-match" in headers and "if-none-match" in headers:
        raise Refusal("MultipleConditionHeadersNotSupported")
    if taken and node is not None and headers.get("if-none-match") == "*":
        raise Refusal(taken)
    if not _holds(headers, node, *NAMES):
        raise Refusal("ConditionNotMet")


def check_source(headers: Mapping[str, str], node: Node) -> None:
    """Raise unless the source of a rename is the one that was meant."""
    given = {
        name: headers[source]
        for name, source in zip(NAMES, SOURCE_NAMES, strict=True)
        if source in headers
    }
    if not _holds(given, node, *NAMES):
        raise Refusal("SourceConditionNotMet")


def _holds(headers: Mapping[str, str], node: Node | None, *names: str) -> bool:
    return all(_one_holds(name, headers[name], node) for name in names if name in headers)


def _one_holds(name: str, value: str, node: Node | None) -> bool:
    if name == "if-match":
        return node is not None and _names(value, node)
    if name == "if-none-match":
        return node is None or not _names(value, node)
    if node is None:
        return name == "if-modified-since"
    is_newer = int(node.modified) > int(seconds_of(value))
    return is_newer if name == "if-modified-since" else not is_newer


def _names(value: str, node: Node) -> bool:
    """Tell whether ETags name a node; they may come without quotes, as listings give them."""
    return value.strip() == "*" or node.etag in {one.strip().strip('"') for one in value.split(",")}
