"""Ranges of an object's bytes: asked for, and received into the caller's memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefect_datastores.errors import IntegrityError
from prefect_datastores.names import ObjectName
from prefect_datastores.stores.azure import AzureService
from prefect_datastores.stores.connection import Answer, Head, Receive
from prefect_datastores.stores.listing import digest_of


def _of_blob(headers: Mapping[str, str]) -> bytes | None:
    return digest_of(headers.get("x-ms-blob-content-md5", ""))


class Asking:
    """A request that is sent ahead where there is a connection for it, and else when its answer is wanted."""

    __slots__ = ("_asked", "_request", "_service")

    def __init__(self, service: AzureService, request: tuple[Any, ...], *, ahead: bool) -> None:
        """Take what `AzureService.begin` takes."""
        self._service, self._request = service, request
        self._asked = service.begin(*request) if ahead and service.is_ready() else None

    @property
    def is_under_way(self) -> bool:
        """Whether it was sent."""
        return self._asked is not None

    def finish(self, receive: Receive | None = None) -> Answer:
        """Return the answer, as `AzureService.request` does."""
        asked = self._asked or self._service.begin(*self._request)
        return asked.finish(receive)

    def drop(self) -> None:
        """Do not wait for the answer."""
        if self._asked is not None:
            self._asked.drop()


class Reading:
    """A range that is asked for, and whose bytes are still to come."""

    __slots__ = ("_asked", "_buffer", "_check", "_span", "_where", "_whole", "drop")

    def __init__(
        self,
        service: AzureService,
        name: ObjectName,
        offset: int,
        buffer: memoryview,
        headers: Mapping[str, str],
        *,
        ahead: bool,
        check: Callable[[Mapping[str, str]], None] | None = None,
        whole: Callable[[Mapping[str, str]], bytes | None] = _of_blob,
    ) -> None:
        """Ask for what fills `buffer`, a byte at least.

        `check` is given the headers before any byte is; `whole` finds the MD5 of the whole in them.
        """
        span = f"{offset}-{offset + len(buffer) - 1}"
        request = ("GET", name, (), {"x-ms-range": f"bytes={span}", **headers})
        self._asked = Asking(service, request, ahead=ahead)
        self._buffer, self._check, self._whole = buffer, check, whole
        self._span, self._where = f"bytes {span}/", f"{service.url}/{name}"
        self.drop = self._asked.drop

    @property
    def is_under_way(self) -> bool:
        """Whether it was sent."""
        return self._asked.is_under_way

    def go_on(self) -> bool:
        """Tell that nothing follows."""
        return False

    def finish(self) -> bytes | None:
        """Fill the buffer; return the MD5 of the whole object where the service told it.

        Raises:
            IntegrityError: it is another range.
        """
        answer = self._asked.finish(self._receive)
        if answer.status != 206:  # noqa: PLR2004
            raise self._other_range()
        return self._whole(answer.headers)

    def _receive(self, head: Head) -> memoryview | None:
        status, given, _ = head
        if status >= 300:  # noqa: PLR2004 - an error says so by itself
            return None
        if self._check is not None:
            self._check(given)
        length = str(len(self._buffer))
        is_span = given.get("content-range", "").startswith(self._span)
        if not is_span or given.get("content-length", length) != length:
            raise self._other_range()
        return self._buffer

    def _other_range(self) -> IntegrityError:
        return IntegrityError(f"{self._where} gave another range than the one asked for.")
