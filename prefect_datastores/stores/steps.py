"""What takes several requests, one after the answer to the other: made at once, or begun and gone on with later."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

from prefect_datastores.stores.azure import AzureService
from prefect_datastores.stores.connection import Answer
from prefect_datastores.stores.ranges import Asking

Result = TypeVar("Result")
Request = tuple[Any, ...]
"""What `AzureService.begin` takes."""
Steps = Generator[Request, Answer, Result]
"""Gives each request, and is sent its answer, or thrown what went wrong."""


class Stepwise(Generic[Result]):
    """Steps that are under way, and whose result is still to come; for one thread."""

    __slots__ = ("_ahead", "_asking", "_fault", "_result", "_service", "_steps")

    def __init__(self, service: AzureService, steps: Steps[Result], *, ahead: bool) -> None:
        """Make the first request, ahead where there is a connection for it; it raises what is wrong before it."""
        self._service, self._steps, self._ahead = service, steps, ahead
        self._asking: Asking | None = None
        self._fault: BaseException | None = None
        self._result: list[Result] = []
        self._step(partial(next, steps))
        if self._asking is None and self._fault is not None:
            raise self._fault

    @property
    def is_under_way(self) -> bool:
        """Whether a request was sent."""
        return self._asking is not None and self._asking.is_under_way

    def go_on(self) -> bool:
        """Wait for an answer, and make the next request; False where nothing more is to be sent ahead."""
        if self.is_under_way:
            self._answer()
        return self.is_under_way

    def finish(self) -> Result:
        """Make all requests that are left, and return what comes of them."""
        self._ahead = False
        while self._asking is not None:
            self._answer()
        if self._fault is not None:
            raise self._fault
        return self._result[0]

    def drop(self) -> None:
        """Do not wait for the answer, and make no request more."""
        if self._asking is not None:
            self._asking.drop()
            self._asking = None
        self._steps.close()

    def _answer(self) -> None:
        asking = self._asking
        assert asking is not None
        try:
            answer = asking.finish()
        except Exception as error:  # noqa: BLE001 - the steps know what to do with it
            self._step(partial(self._steps.throw, error))  # a name for it here would be a circle
        else:
            self._step(partial(self._steps.send, answer))

    def _step(self, step: Callable[[], Request]) -> None:
        """Go to the next request, and make it."""
        self._asking = None
        try:
            request = step()
            self._asking = Asking(self._service, request, ahead=self._ahead)
        except StopIteration as end:
            self._result = [end.value]
        except Exception as error:  # noqa: BLE001 - told at the end
            self._fault = error


def carry_out(service: AzureService, steps: Steps[Result]) -> Result:
    """Make all the requests, and return what comes of them."""
    return Stepwise(service, steps, ahead=False).finish()
