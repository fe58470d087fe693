"""`prefect-datastores mount` and what goes with it: data as a folder of a shell."""

from __future__ import annotations

import contextlib
import signal
import threading
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import click

from prefect_datastores.cli.telling import as_json, errors_told, print_value, reference_of, table
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.mounting import lease
from prefect_datastores.mounting.advice import summary
from prefect_datastores.mounts import StoredLate, mounted, store_left
from prefect_datastores.settings import mounts_root
from prefect_datastores.staging.report import human_bytes, plural
from prefect_datastores.supervision.settle import Settled, settle_left

_LOOK_SECONDS = 0.5


@click.command()
@click.argument("place")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--latest", is_flag=True, help="Show what is there now, not what was seen first.")
@click.option(
    "--write", is_flag=True, help="Let programs write; a file is stored when it is closed."
)
@click.option("--no-cache", is_flag=True, help="Keep nothing for the next mount.")
@errors_told
def mount(place: str, folder: Path, latest: bool, write: bool, no_cache: bool) -> None:
    """Mount PLACE at FOLDER until Ctrl-C or `unmount FOLDER` ends it.

    FOLDER is made where it is missing, and has to be empty. A file is mounted in it.

    \b
    Example:
      prefect-datastores mount raw:mnist ./mnist
    """
    reference = reference_of(place).as_mount(
        consistency="latest" if latest else "pinned", read_only=not write, cache=not no_cache
    )
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ConfigurationError(f"{folder} is not empty: name another folder.")
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: over.set())
    try:
        one = mounted(reference, at=folder)
    except BaseException:
        if made:
            folder.rmdir()
        raise
    click.echo(f"Mounted {reference.uri} at {one.path}; Ctrl-C ends it.")
    with contextlib.suppress(KeyboardInterrupt):
        while one.is_alive() and not over.wait(_LOOK_SECONDS):
            pass
    numbers = one.unmount(tell=_tell_storing)
    if made:
        folder.rmdir()
    click.echo(f"Unmounted {reference.uri}: {summary(numbers)}")


def _tell_storing(files: int, size: int) -> None:
    click.echo(f"{plural(files, 'file')} ({human_bytes(size)}) still to be stored.")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@as_json
@errors_told
def unmount(folder: Path, as_json: bool) -> None:
    """Unmount what is mounted at FOLDER; its data is not touched.

    \b
    Example:
      prefect-datastores unmount ./mnist
    """
    found = lease.at(mounts_root(), folder)
    if found is None:
        raise ConfigurationError(f"Nothing of this package is mounted at {folder}.")
    lease.end(found)
    print_value({"unmounted": str(folder)}, f"Unmounted {folder}.", json_wanted=as_json)


@click.command()
@as_json
@errors_told
def mounts(as_json: bool) -> None:
    """List what is mounted on this machine, and what was read of it."""
    found = lease.mounts(mounts_root())
    values = [
        {
            "reference": one.lease.title if one.lease else "",
            "folder": str(one.point),
            "since": _time(one.lease.since) if one.lease else "",
            "served": not one.is_left,
            **one.numbers(),
        }
        for one in found
    ]
    rows = [
        (
            str(value["reference"]),
            str(value["folder"]),
            str(value["since"]),
            summary(one.numbers()) if value["served"] else "left by a killed run; see `doctor`",
        )
        for one, value in zip(found, values, strict=True)
    ]
    text = table([("REFERENCE", "FOLDER", "SINCE", "READ"), *rows]) if rows else "(nothing)"
    print_value(values, text, json_wanted=as_json)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")


@click.command()
@as_json
@errors_told
def doctor(as_json: bool) -> None:
    """Clean what killed runs left on this machine, report them, and store what was written to their mounts and closed."""
    ends = settle_left(seconds=0.0)
    late = store_left()
    gone = [str(folder) for folder in lease.clean(mounts_root())]
    left = [str(one.point) for one in lease.mounts(mounts_root()) if one.is_left]
    lines = [f"Removed {folder}." for folder in gone] + [
        f"{point} could not be unmounted." for point in left
    ]
    lines += [line for one in ends for line in (*one.told, *_not_told(one))]
    value = {
        "removed": gone,
        "left": left,
        "late": [asdict(one) for one in late],
        "ended": [asdict(one) for one in ends],
    }
    lines += [line for one in late for line in _lines_of(one)]
    print_value(value, "\n".join(lines) or "All is well.", json_wanted=as_json)


def _not_told(end: Settled) -> list[str]:
    if not end.reason:
        return []
    return [
        f"Prefect's server could not be told what became of process {end.process}: {end.reason}"
    ]


def _lines_of(late: StoredLate) -> list[str]:
    lines = [f"Stored {name} in {late.title}." for name in late.stored]
    lines += [f"{late.title}: {late.reason}"] if late.reason else []
    lines += [
        f"{one.name} is not stored: {one.reason} It is in {one.draft}." for one in late.unstored
    ]
    why = "could not be tried" if late.reason else "was never closed"
    lines += [
        f"{path}, written to {late.title}, {why}; it stays there for a week."
        for path in late.unclosed
    ]
    return lines
