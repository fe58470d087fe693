"""The one place where secrets are taken out of text.

Two nets: the shapes that Azure's secrets have wherever they stand (a SAS signature, an account
key in a connection string, a bearer token), and the exact values that this process has opened a
store with. The second finds a secret in a shape that nobody thought of.
"""

from __future__ import annotations

import logging
import re
import threading
from urllib.parse import quote, quote_plus

MASK = "********"
_SHORTEST_SECRET = 8  # shorter values would mask ordinary words

_SHAPES = (
    re.compile(r"(?i)(\b(?:sig|signature)=)[^&\s\"'<>]+"),
    re.compile(r"(?i)(\b(?:AccountKey|SharedAccessSignature|client_secret|password)=)[^;&\s\"']+"),
    re.compile(r"(?i)(\b(?:Bearer|SharedKey(?:Lite)?)\s+)[A-Za-z0-9+/=._:~-]{8,}"),
)

_known: set[str] = set()
_lock = threading.Lock()


def remember(secret: str) -> None:
    """Make `secret` be masked in every text from now on, raw and percent-encoded."""
    if len(secret) < _SHORTEST_SECRET:
        return
    with _lock:
        _known.update({secret, quote(secret), quote(secret, safe=""), quote_plus(secret)})


def scrub(text: str) -> str:
    """Return `text` with every secret masked."""
    for shape in _SHAPES:
        text = shape.sub(rf"\g<1>{MASK}", text)
    with _lock:
        known = sorted(_known, key=len, reverse=True)
    for secret in known:
        text = text.replace(secret, MASK)
    return text


class RedactingFilter(logging.Filter):
    """Masks secrets in records of the loggers it is attached to."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the record's message and keep the record."""
        message = record.getMessage()
        scrubbed = scrub(message)
        if scrubbed != message:
            record.msg, record.args = scrubbed, ()
        return True


# urllib3 logs each request's whole query, a SAS signature included, at DEBUG; a filter on a
# parent logger does not see what its children emit, so each emitting logger is named.
_LEAKY_LOGGERS = (
    "azure.core.pipeline.policies.http_logging_policy",
    "azure.core.pipeline.policies._universal",
    "azure.identity",
    "azure.identity._internal.get_token_mixin",
    "azure.storage.blob",
    "msal.application",
    "msal.authority",
    "msal.telemetry",
    "requests.packages.urllib3.connectionpool",
    "urllib3.connectionpool",
    "urllib3.util.retry",
)


def guard_loggers() -> None:
    """Attach the filter to the loggers of the clients in use; calling it again changes nothing."""
    for name in _LEAKY_LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(present, RedactingFilter) for present in logger.filters):
            logger.addFilter(RedactingFilter())
