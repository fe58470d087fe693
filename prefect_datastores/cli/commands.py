"""The commands of `prefect-datastores`."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path

import click

from prefect_datastores.cli.compute import job_variables, matrix, pool_template
from prefect_datastores.cli.mounting import doctor, mount, mounts, unmount
from prefect_datastores.cli.register import register
from prefect_datastores.cli.telling import (
    FAILED,
    as_json,
    described,
    errors_told,
    print_value,
    reference_of,
    table,
)
from prefect_datastores.datastores.documents import DatastoreInfo
from prefect_datastores.datastores.registry import Datastore
from prefect_datastores.display import display_for
from prefect_datastores.errors import ObjectNotFound
from prefect_datastores.plans import plan_references
from prefect_datastores.references import Publish
from prefect_datastores.staging.report import TransferReport, human_bytes
from prefect_datastores.transfers import deliver, fetch

_OVERWRITE = click.Choice(["fail", "skip", "replace", "if_changed"])

overwrite = click.option(
    "--overwrite",
    type=_OVERWRITE,
    default="if_changed",
    show_default=True,
    help="What happens to what is there.",
)
include = click.option(
    "--include", multiple=True, metavar="GLOB", help="Take only these; may be repeated."
)
exclude = click.option(
    "--exclude", multiple=True, metavar="GLOB", help="Leave these out; may be repeated."
)
keep_times = click.option(
    "--keep-times",
    is_flag=True,
    help="Keep the times of the last change, not that of the transfer.",
)
keep_properties = click.option(
    "--keep-properties",
    is_flag=True,
    help="Keep attributes and access control, of file shares and data lakes.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="prefect-datastores")
def main() -> None:
    """Datastores of the current Prefect profile: register, look, move data.

    \b
    Examples:
      prefect-datastores register local raw /srv/data/raw
      prefect-datastores upload ./images raw:mnist
      prefect-datastores ls raw:mnist
      prefect-datastores download raw:mnist ./mnist
      prefect-datastores check raw

    A place is NAME or NAME:PATH. Exit codes: 0 done, 1 failed, 2 wrong usage,
    3 not found, 4 access refused.
    """
    # Prefect waits for its events at exit, and says so; nobody asked.
    logging.getLogger("EventsWorker").setLevel(logging.ERROR)


@main.command("list")
@as_json
@errors_told
def list_datastores(as_json: bool) -> None:
    """List all registered datastores; the default one has a star."""
    infos: list[DatastoreInfo] = list(Datastore.list().values())
    rows = [
        (
            f"{info.name}{' *' if info.is_default else ''}",
            info.datastore_type,
            info.sign_in,
            info.url,
        )
        for info in infos
    ]
    listed = table([("NAME", "TYPE", "SIGN IN", "URL"), *rows])
    print_value([dataclasses.asdict(info) for info in infos], listed, json_wanted=as_json)


@main.command()
@click.argument("name")
@as_json
@errors_told
def show(name: str, as_json: bool) -> None:
    """Show a datastore, without its secrets.

    \b
    Example:
      prefect-datastores show raw
    """
    found = described(Datastore.get(name))
    print_value(
        found,
        "\n".join(f"{key:8}  {value}" for key, value in found.items()),
        json_wanted=as_json,
    )


@main.command()
@click.argument("name", required=False)
@as_json
@errors_told
def default(name: str | None, as_json: bool) -> None:
    """Print the default datastore, or make NAME the default.

    \b
    Examples:
      prefect-datastores default
      prefect-datastores default raw
    """
    if name:
        Datastore.set_default(name)
    found = Datastore.get_default()
    print_value(described(found), found.name, json_wanted=as_json)


@main.command()
@click.argument("name")
@as_json
@errors_told
def unregister(name: str, as_json: bool) -> None:
    """Forget a datastore; its data is not touched."""
    Datastore.unregister(name)
    print_value(
        {"unregistered": name}, f"Forgot {name}; its data is where it was.", json_wanted=as_json
    )


@main.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("place")
@overwrite
@include
@exclude
@click.option(
    "--publish",
    type=click.Choice(["each", "atomic"]),
    default="each",
    show_default=True,
    help="Whether files are seen one by one, or a folder all at once.",
)
@keep_times
@keep_properties
@as_json
@errors_told
def upload(
    source: Path,
    place: str,
    overwrite: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    publish: Publish,
    keep_times: bool,
    keep_properties: bool,
    as_json: bool,
) -> None:
    """Upload a file, or a folder's content, to PLACE.

    \b
    Examples:
      prefect-datastores upload ./images raw:mnist/images
      prefect-datastores upload model.pkl models:mnist --overwrite fail
      prefect-datastores upload ./logs raw:logs --include '*.txt'
      prefect-datastores upload ./model models:churn --publish atomic
      prefect-datastores upload ./reports share:reports --keep-times --keep-properties
    """
    reference = reference_of(place).as_upload(
        overwrite=overwrite,
        include=include,
        exclude=exclude,
        publish=publish,
        keep_times=keep_times,
        keep_properties=keep_properties,
    )
    _print_report(deliver(source, reference, progress=display_for(True)), as_json)


@main.command()
@click.argument("place")
@click.argument("folder", type=click.Path(path_type=Path))
@overwrite
@include
@exclude
@keep_times
@keep_properties
@as_json
@errors_told
def download(
    place: str,
    folder: Path,
    overwrite: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    keep_times: bool,
    keep_properties: bool,
    as_json: bool,
) -> None:
    """Download a file, or a folder's content, from PLACE into FOLDER.

    \b
    Examples:
      prefect-datastores download raw:mnist ./mnist
      prefect-datastores download raw:mnist/train.csv . --overwrite replace
    """
    reference = reference_of(place).as_download(
        overwrite=overwrite,
        include=include,
        exclude=exclude,
        keep_times=keep_times,
        keep_properties=keep_properties,
    )
    _print_report(fetch(reference, folder, progress=display_for(True))[1], as_json)


def _print_report(report: TransferReport, json_wanted: bool) -> None:
    print_value(report.to_dict(), report.summary(), json_wanted=json_wanted)


@main.command()
@click.argument("place")
@click.option("--limit", type=int, default=1000, show_default=True, help="Show at most that many.")
@as_json
@errors_told
def ls(place: str, limit: int, as_json: bool) -> None:
    """List what is at PLACE and below it.

    \b
    Example:
      prefect-datastores ls raw:mnist
    """
    reference = reference_of(place)
    datastore = Datastore.get(reference.datastore)
    try:
        found = datastore.list_objects(reference.path_on_datastore, limit=limit)
    except ObjectNotFound:
        raise ObjectNotFound(f"There is nothing at {reference.uri!r}.") from None
    rows = [(human_bytes(item.size), item.name) for item in found]
    values = [
        {"name": item.name, "bytes": item.size, "etag": item.etag, "modified": item.modified}
        for item in found
    ]
    more = f"\n(the first {limit}; see --limit)" if len(found) == limit else ""
    print_value(values, (table(rows) if rows else "(empty)") + more, json_wanted=as_json)


@main.command()
@click.argument("places", nargs=-1, required=True)
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path(), help="Where it would go."
)
@include
@exclude
@as_json
@errors_told
def plan(
    places: tuple[str, ...],
    folder: Path,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say what a download of PLACES would move, before a byte moves.

    \b
    Example:
      prefect-datastores plan raw:mnist raw:reference
    """
    references = [
        reference_of(place).as_download(include=include, exclude=exclude) for place in places
    ]
    made = plan_references(references, folder.absolute())
    print_value(made.to_dict(), str(made), json_wanted=as_json)


@main.command()
@click.argument("name")
@click.option("--read-only", is_flag=True, help="Do not try to write.")
@as_json
@errors_told
def check(name: str, read_only: bool, as_json: bool) -> None:
    """Try to sign in, list, read and write; say what works and how long it took.

    \b
    Example:
      prefect-datastores check raw
    """
    checks = Datastore.get(name).check(write=not read_only)
    marks = {"ok": "ok", "failed": "FAILED", "not tried": "-"}
    rows = [
        (item.step, marks[item.outcome], f"{item.seconds * 1000:.0f} ms", item.detail)
        for item in checks
    ]
    print_value([dataclasses.asdict(item) for item in checks], table(rows), json_wanted=as_json)
    if any(item.outcome == "failed" for item in checks):
        sys.exit(FAILED)


@main.command()
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    default=Path(".demo"),
    show_default=True,
    help="Where the demo keeps its server's database and its datastores.",
)
@click.option("--ui", is_flag=True, help="Only run the server, to look at earlier runs.")
@as_json
@errors_told
def demo(home: Path, ui: bool, as_json: bool) -> None:
    """Train a classifier on staged data, on this machine alone, and say how it went.

    \b
    Examples:
      prefect-datastores demo
      prefect-datastores demo --ui
    """
    from prefect_datastores.demo.main import run_demo, show_ui  # noqa: PLC0415 - only the demo needs it

    if ui:
        show_ui(home.absolute())
        return
    result = run_demo(home.absolute(), quiet=as_json)
    if as_json:
        click.echo(json.dumps(result))


main.add_command(register)
for command in (mount, unmount, mounts, doctor, matrix, job_variables, pool_template):
    main.add_command(command)
