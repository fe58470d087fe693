"""Methods that work from sync and from async code, as those of Prefect's own blocks do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])


def _called_from_async() -> bool:
    from prefect.context import get_run_context  # noqa: PLC0415
    from prefect.exceptions import MissingContextError  # noqa: PLC0415

    try:
        context: Any = get_run_context()
    except MissingContextError:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return False
        return True
    running = getattr(context, "task", None) or getattr(context, "flow", None)
    return bool(getattr(running, "isasync", True))


def either_way(method: Method) -> Method:
    """Make a method return its result to sync callers and an awaitable to async ones.

    `_sync=True` asks for the result, `_sync=False` for the awaitable, as in Prefect. `method.aio`
    is the async form.
    """

    async def aio(*args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(method, *args, **kwargs)

    @wraps(method)
    def dispatched(*args: Any, _sync: bool | None = None, **kwargs: Any) -> Any:
        wants_result = _sync if _sync is not None else not _called_from_async()
        return method(*args, **kwargs) if wants_result else aio(*args, **kwargs)

    dispatched.aio = aio  # type: ignore[attr-defined]
    return dispatched  # type: ignore[return-value]
