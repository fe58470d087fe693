"""`stage(...)`: data is there when the block begins, and results are stored when it ends well."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from prefect.context import FlowRunContext, TaskRunContext

from prefect_datastores.checkpoints import Checkpoints, checkpoints_of
from prefect_datastores.compute.check import check_compute
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.display import run_log
from prefect_datastores.errors import ConfigurationError, DatastoreError, NameCollision
from prefect_datastores.mounts import Mounts, mounts_of
from prefect_datastores.references import DataReference, When, check_references
from prefect_datastores.settings import scratch_root, this_compute
from prefect_datastores.staging.cancellation import Cancellation
from prefect_datastores.staging.report import TransferReport
from prefect_datastores.supervision.watched import watched
from prefect_datastores.tasks import (
    cancellation_scope,
    checkpoint,
    download,
    mount,
    restore,
    results,
    upload_of,
)
from prefect_datastores.transfers import as_available, as_reference, preflight

Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")


class Staged(Mapping[str, Path]):
    """The local path of each reference, as an attribute or by key."""

    def __init__(self, paths: Mapping[str, Path], references: Mapping[str, DataReference]) -> None:
        """Keep the paths."""
        self._paths = dict(paths)
        self._references = references
        self.reports: dict[str, TransferReport] = {}

    def __getattr__(self, name: str) -> Path:
        paths: dict[str, Path] = self.__dict__.get("_paths", {})  # a copy begins without it
        if name not in paths:
            raise AttributeError(f"Nothing is staged as {name!r}; there is: {', '.join(paths)}.")
        return paths[name]

    def __getitem__(self, name: str) -> Path:
        return self._paths[name]

    def __iter__(self) -> Any:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def environment(self) -> dict[str, str]:
        """Return the variables that tell a script where its data is."""
        return {
            variable: str(self._paths[key])
            for key, reference in self._references.items()
            for variable in reference.variables()
        }


class stage:  # noqa: N801 - used as a statement: `with stage(...)`
    """Downloads and mounts before the block, uploads after it; as `with` and as `async with`.

    Entering returns when all data is there, whole. Leaving uploads what the outcome asks for
    (`when`), and raises when anything could not be stored. Inside a flow each download and upload
    is a task run; elsewhere the same work is done without one. Staged data of which no
    `path_on_compute` was given is removed at the end.

    Example:
        ```python
        with stage(data=raw.path("mnist").as_download(), model=models.path("mnist").as_upload()) as s:
            fit(s.data, s.model)
        ```
    """

    def __init__(
        self,
        *references: DataReference | FileDatastore,
        working_directory: str | Path | None = None,
        compute_target: str | None = None,
        **named: DataReference | FileDatastore,
    ) -> None:
        """Take references by keyword, or by position under their own names.

        `compute_target` is where the block will run, as `prefect-datastores matrix` lists it; where it is
        not given, the job variables that the matrix makes say it. What cannot be had there is refused now.

        Raises:
            NameCollision: two share a name.
            WayUnavailable: the compute cannot have a datastore so; the message names a way that works.
            ConfigurationError: something else than a reference was given, or there is no such compute.
        """
        given = {as_reference(item).name: as_reference(item) for item in references}
        if len(given) != len(references) or given.keys() & named.keys():
            raise NameCollision(
                "Two references share a name; give one a name of its own: "
                "datastore.path(..., data_reference_name='...')."
            )
        if hidden := [name for name in named if hasattr(Staged, name) or name == "reports"]:
            raise ConfigurationError(
                f"{hidden[0]!r} is a word of the staged paths' own; choose another keyword."
            )
        self._references = {**given, **{key: as_reference(item) for key, item in named.items()}}
        if (compute := compute_target or this_compute()) is not None:
            check_compute(compute, self._references.values())
        self._directory = Path(working_directory) if working_directory else None
        self._exits = ExitStack()
        self._kept: Checkpoints
        self._places: dict[str, Path] = {}
        self._staged: Staged | None = None
        self._scope = ""
        self._mounts = Mounts()
        self._stop = Cancellation()

    def __enter__(self) -> Staged:
        self._stop = Cancellation()  # it may have been entered before, in vain
        return self._enter()

    def _enter(self) -> Staged:
        ready = {key: as_available(reference) for key, reference in self._references.items()}
        check_references(list(ready.values()))
        self._references = ready
        with ExitStack() as exits:
            root = scratch_root() / "stages" / uuid.uuid4().hex
            exits.enter_context(watched(root, keep=False))
            exits.callback(shutil.rmtree, root, ignore_errors=True)
            self._scope, _ = exits.enter_context(cancellation_scope(self._stop))
            self._mounts = exits.enter_context(mounts_of(self._scope))
            self._kept = exits.enter_context(checkpoints_of(self._scope))
            self._places = {
                key: self._place(root, key, reference) for key, reference in ready.items()
            }
            uploads = {
                key: reference for key, reference in ready.items() if reference.mode == "upload"
            }
            for reference in ready.values():
                preflight(reference)
            for key, reference in uploads.items():
                if not reference.path_on_compute:
                    self._places[key].mkdir(parents=True)
            downloads = {
                key: reference for key, reference in ready.items() if reference.mode == "download"
            }
            calls: dict[str, tuple[Any, tuple[Any, ...]]] = {
                key: (download, (downloads[key], self._places[key])) for key in downloads
            }
            calls |= {
                key: (mount, (reference, self._places[key]))
                for key, reference in ready.items()
                if reference.mode == "mount"
            }
            restored = {
                key: _call(restore, reference, self._places[key], scope=self._scope)
                for key, reference in ready.items()
                if reference.mode == "checkpoint"
            }
            fetched = _call_all(calls, self._scope, self._stop, stop_at_fault=True)
            paths = {**{key: self._places[key] for key in uploads}, **fetched, **restored}
            self._staged = Staged({key: paths[key] for key in ready}, ready)
            self._kept.begin()
            self._exits = exits.pop_all()
        return self._staged

    def _place(self, root: Path, key: str, reference: DataReference) -> Path:
        if reference.path_on_compute:
            return (self._directory or Path.cwd()) / reference.path_on_compute
        return root / key

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._exits:
            if error is not None and not isinstance(error, Exception):
                return  # cancelled or interrupted: whoever did that wants the end, not an upload
            unstored = self._keep_last()
            if error is not None and unstored is not None:
                run_log().error("%s", unstored)  # the block's own error is what people need to see
            fault = error or unstored
            self._upload(fault)
            self._unmount(fault)
            if fault is None:
                self._kept.finish()
            if error is None and unstored is not None:
                raise unstored

    def _upload(self, fault: BaseException | None) -> None:
        """Store what is due after this outcome."""
        outcome: When = "success" if fault is None else "failure"
        due = {
            key: reference
            for key, reference in self._references.items()
            if reference.mode == "upload" and reference.when in {outcome, "always"}
        }
        try:
            sources = [item for item in self._references.values() if item.mode != "upload"]
            calls = {
                key: (upload_of(due[key], sources), (self._places[key], due[key])) for key in due
            }
            reports = _call_all(calls, self._scope, self._stop)
        except Exception as another:
            if fault is None:
                raise
            # The block's own error is what people need to see.
            run_log().error("An upload after the failure failed as well: %s", another)
        else:
            if self._staged is not None:
                self._staged.reports.update(reports)

    def _unmount(self, fault: BaseException | None) -> None:
        try:
            self._mounts.close()
        except DatastoreError as another:
            if fault is None:
                raise
            run_log().error("A mount failed as well: %s", another)

    def _keep_last(self) -> Exception | None:
        """Make the last checkpoints; return the first fault."""
        first: Exception | None = None
        for reference in self._references.values():
            if reference.mode == "checkpoint":
                try:
                    _call(checkpoint, reference, scope=self._scope)
                except Exception as fault:  # noqa: BLE001 - raised when the others are made
                    first = first or fault
        return first

    async def __aenter__(self) -> Staged:
        self._stop = Cancellation()
        try:
            return await self._off_the_loop(self._enter)
        except asyncio.CancelledError:
            await asyncio.to_thread(self._exits.close)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._off_the_loop(self.__exit__, kind, error, trace)

    async def _off_the_loop(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Run in a thread; a cancel stops what moves there, and waits until it is over."""
        running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._stop.cancel()
            await asyncio.wait([running])
            if not running.cancelled():
                running.exception()  # seen, so that asyncio does not complain
            raise


def _call(task: Any, *arguments: Any, scope: str) -> Any:
    """Call a task here and now, as a task run where there is a run: its owner is this process."""
    inside = TaskRunContext.get() or FlowRunContext.get()
    return (task if inside else task.fn)(*arguments, scope=scope)


def _call_all(
    calls: Mapping[str, tuple[Any, tuple[Any, ...]]],
    scope: str,
    stop: Cancellation,
    *,
    stop_at_fault: bool = False,
) -> dict[str, Any]:
    """Call tasks all at once and return their results; the first fault is raised when all are over.

    In a flow they are submitted, so that each is a node of the run graph. Inside a task they run
    one after another as task runs below it: its runner may be on another machine. Outside of any
    run, their functions run in threads. `stop_at_fault` gives up on the rest when one fails.
    """
    if not calls:
        return {}
    if TaskRunContext.get():
        return {key: task(*arguments, scope=scope) for key, (task, arguments) in calls.items()}
    stops = scope if stop_at_fault else None
    if FlowRunContext.get():
        submitted = {
            key: task.submit(*arguments, scope=scope) for key, (task, arguments) in calls.items()
        }
        return results(submitted, stops=stops)
    with ThreadPoolExecutor(len(calls)) as threads:
        running = {
            key: threads.submit(task.fn, *arguments, scope=scope)
            for key, (task, arguments) in calls.items()
        }
        try:
            return results(running, stops=stops)
        except BaseException as error:
            if not isinstance(error, Exception):
                stop.cancel()  # before the threads are waited for
            raise


def staged(
    *,
    working_directory: str | Path | None = None,
    compute_target: str | None = None,
    **references: DataReference | FileDatastore,
) -> Callable[[Function], Function]:
    """Stage data around a function: use it below `@task` or `@flow`.

    The function gets the paths as keyword arguments, which are not parameters of the flow or task:
    callers and Prefect's forms do not see them.

    Raises:
        ConfigurationError: the function has no parameter for a reference.
        WayUnavailable: `compute_target` was given, and cannot have a datastore so.
    """
    if compute_target is not None:
        check_compute(compute_target, map(as_reference, references.values()))

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        unknown = [name for name in references if name not in signature.parameters]
        if unknown:
            raise ConfigurationError(
                f"{function.__name__}() has no parameter {unknown[0]!r} for the reference of that name."
            )
        visible = signature.replace(
            parameters=[
                item for name, item in signature.parameters.items() if name not in references
            ]
        )

        chosen = _wrapped(
            function,
            visible,
            lambda: stage(
                working_directory=working_directory, compute_target=compute_target, **references
            ),
        )
        chosen.__signature__ = visible
        chosen.__annotations__ = {
            name: kind for name, kind in function.__annotations__.items() if name not in references
        }
        return chosen  # type: ignore[no-any-return]

    return decorate


def _wrapped(
    function: Callable[..., Any], visible: inspect.Signature, staging: Callable[[], stage]
) -> Any:
    """Return a function of the same kind, plain, async or a generator, that stages around it."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = visible.bind(*args, **kwargs)
        with staging() as paths:
            return _call_with(function, bound, paths)

    @wraps(function)
    async def acall(*args: Any, **kwargs: Any) -> Any:
        bound = visible.bind(*args, **kwargs)
        async with staging() as paths:
            return await _call_with(function, bound, paths)

    @wraps(function)
    def generate(*args: Any, **kwargs: Any) -> Any:
        bound = visible.bind(*args, **kwargs)
        with staging() as paths:
            return (yield from _call_with(function, bound, paths))

    @wraps(function)
    async def agenerate(*args: Any, **kwargs: Any) -> Any:
        bound = visible.bind(*args, **kwargs)
        async with staging() as paths:
            async for item in _call_with(function, bound, paths):
                yield item

    if inspect.iscoroutinefunction(function):
        return acall
    if inspect.isasyncgenfunction(function):
        return agenerate
    return generate if inspect.isgeneratorfunction(function) else call


def _call_with(function: Callable[..., Any], bound: inspect.BoundArguments, paths: Staged) -> Any:
    """Call by keyword: Prefect passes arguments by the visible order, the function has another."""
    positional: list[Any] = []
    named = dict(paths)
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            positional.extend(value)
        elif kind is inspect.Parameter.POSITIONAL_ONLY:
            positional.append(value)
        else:
            named[name] = value
    return function(*positional, **named)
