"""`prefect-datastores`: datastores from a shell."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
import httpx
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL

from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.documents import DatastoreInfo
from prefect_datastores.datastores.registry import Datastore
from prefect_datastores.display import display_for
from prefect_datastores.errors import (
    AccessError,
    ConfigurationError,
    ContainerNotFound,
    DatastoreError,
    DatastoreNotFound,
    ObjectNotFound,
    UnsafeName,
)
from prefect_datastores.plans import plan_references
from prefect_datastores.references import DataReference, Publish, checked_reference
from prefect_datastores.staging.report import TransferReport, human_bytes
from prefect_datastores.transfers import deliver, fetch

Command = TypeVar("Command", bound=Callable[..., Any])

FAILED, USAGE, NOT_FOUND, REFUSED = 1, 2, 3, 4
_OVERWRITE = click.Choice(["fail", "skip", "replace", "if_changed"])

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
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


def _exit_code(error: BaseException) -> int:
    if isinstance(error, (DatastoreNotFound, ObjectNotFound, ContainerNotFound)):
        return NOT_FOUND
    if isinstance(error, AccessError):
        return REFUSED
    return USAGE if isinstance(error, ConfigurationError) else FAILED


def _errors_told(command: Command) -> Command:
    """End with a message and an exit code instead of a trace."""

    @wraps(command)
    def told(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except httpx.TransportError as error:
            server = PREFECT_API_URL.value() or "the local server"
            told_error = DatastoreError(f"Prefect's server does not answer at {server}: {error}")
            _tell(told_error, json_wanted=bool(kwargs.get("as_json")))
            sys.exit(FAILED)
        except (DatastoreError, PrefectException) as error:
            _tell(error, json_wanted=bool(kwargs.get("as_json")))
            sys.exit(_exit_code(error))

    return told  # type: ignore[return-value]


def _tell(error: Exception, *, json_wanted: bool) -> None:
    if json_wanted:
        click.echo(json.dumps({"error": type(error).__name__, "message": str(error)}))
    click.echo(f"Error: {error}", err=True)


def _print(value: Any, text: str, *, json_wanted: bool) -> None:
    click.echo(json.dumps(value, indent=2, default=str) if json_wanted else text)


def _reference(place: str) -> DataReference:
    """Read `NAME` or `NAME:PATH`."""
    name, _, path = place.partition(":")
    try:
        return checked_reference({"datastore": name, "path_on_datastore": path})
    except UnsafeName as error:
        raise ConfigurationError(str(error)) from None


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
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


@main.group()
def register() -> None:
    """Register a datastore under a name.

    \b
    Examples:
      prefect-datastores register local raw /srv/data/raw
      prefect-datastores register azure-blob raw --account acme --container raw
      PREFECT_DATASTORES_ACCOUNT_KEY=... prefect-datastores register azure-blob raw \\
          --account acme --container raw --create
    """


@register.command("local")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace a datastore that has the name.")
@as_json
@_errors_told
def register_local(name: str, folder: Path, overwrite: bool, as_json: bool) -> None:
    """Register FOLDER of this machine as NAME; it is made when it is missing.

    \b
    Example:
      prefect-datastores register local raw /srv/data/raw
    """
    _tell_registered(Datastore.register_local(name, folder, overwrite=overwrite), as_json)


_ACCOUNT_OPTIONS = (
    click.option("--account", required=True, help="The storage account, without a domain."),
    click.option(
        "--account-key",
        envvar="PREFECT_DATASTORES_ACCOUNT_KEY",
        help="The account's key; '-' asks for it. Better in the variable PREFECT_DATASTORES_ACCOUNT_KEY: "
        "other users of this machine can read arguments.",
    ),
    click.option(
        "--sas-token",
        envvar="PREFECT_DATASTORES_SAS_TOKEN",
        help="A shared access signature; '-' asks for it, or PREFECT_DATASTORES_SAS_TOKEN.",
    ),
    click.option("--endpoint", help="The cloud's suffix, a URL, or host:port of an emulator."),
    click.option(
        "--protocol", type=click.Choice(["https", "http"]), help="http for an emulator only."
    ),
    click.option("--create", is_flag=True, help="Make the container when it is missing."),
    click.option("--overwrite", is_flag=True, help="Replace a datastore that has the name."),
    click.option("--skip-validation", is_flag=True, help="Register without asking the service."),
)


def _account_options(command: Command) -> Command:
    """Add what opens a place in a storage account."""
    for option in reversed(_ACCOUNT_OPTIONS):
        command = option(command)
    return command


@register.command("azure-blob")
@click.argument("name")
@click.option("--container", required=True, help="The blob container.")
@_account_options
@as_json
@_errors_told
def register_azure_blob(name: str, container: str, as_json: bool, **account: Any) -> None:
    """Register a blob container as NAME, once it is known to work.

    Without a key or a token the machine's own identity signs in.

    \b
    Examples:
      prefect-datastores register azure-blob raw --account acme --container raw
      prefect-datastores register azure-blob raw --account acme --container raw --account-key -
    """
    given = _account_arguments(**account)
    _tell_registered(
        Datastore.register_azure_blob_container(
            datastore_name=name, container_name=container, **given
        ),
        as_json,
    )


@register.command("azure-file")
@click.argument("name")
@click.option("--share", required=True, help="The file share.")
@_account_options
@as_json
@_errors_told
def register_azure_file(name: str, share: str, as_json: bool, **account: Any) -> None:
    """Register a share of Azure Files as NAME, once it is known to work.

    Without a key or a token the machine's own identity signs in.

    \b
    Example:
      prefect-datastores register azure-file raw --account acme --share raw --account-key -
    """
    given = _account_arguments(**account)
    _tell_registered(
        Datastore.register_azure_file_share(datastore_name=name, file_share_name=share, **given),
        as_json,
    )


@register.command("azure-data-lake-gen2")
@click.argument("name")
@click.option("--filesystem", required=True, help="The filesystem.")
@click.option(
    "--dfs-endpoint", help="Where folders are asked for, if not beside the Blob endpoint."
)
@_account_options
@as_json
@_errors_told
def register_azure_data_lake_gen2(
    name: str, filesystem: str, dfs_endpoint: str | None, as_json: bool, **account: Any
) -> None:
    """Register a filesystem of Data Lake Storage Gen2 as NAME, once it is known to work.

    Without a key or a token the machine's own identity signs in.

    \b
    Example:
      prefect-datastores register azure-data-lake-gen2 raw --account acme --filesystem raw --account-key -
    """
    given = _account_arguments(**account)
    _tell_registered(
        Datastore.register_azure_data_lake_gen2(
            datastore_name=name, filesystem=filesystem, dfs_endpoint=dfs_endpoint, **given
        ),
        as_json,
    )


def _account_arguments(
    account: str,
    account_key: str | None,
    sas_token: str | None,
    create: bool,
    **same: Any,
) -> dict[str, Any]:
    """Return what the options of an account mean as arguments; a secret that is `-` is asked for."""
    return {
        "account_name": account,
        "account_key": _secret("Account key", account_key),
        "sas_token": _secret("SAS token", sas_token),
        "create_if_not_exists": create,
        **same,
    }


def _tell_registered(datastore: FileDatastore, as_json: bool) -> None:
    _print(
        _described(datastore), f"Registered {datastore.name}: {datastore.url}", json_wanted=as_json
    )


def _secret(title: str, value: str | None) -> str | None:
    return str(click.prompt(title, hide_input=True, err=True)) if value == "-" else value


def _described(datastore: FileDatastore) -> dict[str, Any]:
    return {
        "name": datastore.name,
        "type": datastore.datastore_type,
        "url": datastore.url,
        "sign_in": datastore.sign_in,
    }


@main.command("list")
@as_json
@_errors_told
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
    table = _table([("NAME", "TYPE", "SIGN IN", "URL"), *rows])
    _print([dataclasses.asdict(info) for info in infos], table, json_wanted=as_json)


@main.command()
@click.argument("name")
@as_json
@_errors_told
def show(name: str, as_json: bool) -> None:
    """Show a datastore, without its secrets.

    \b
    Example:
      prefect-datastores show raw
    """
    described = _described(Datastore.get(name))
    _print(
        described,
        "\n".join(f"{key:8}  {value}" for key, value in described.items()),
        json_wanted=as_json,
    )


@main.command()
@click.argument("name", required=False)
@as_json
@_errors_told
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
    _print(_described(found), found.name, json_wanted=as_json)


@main.command()
@click.argument("name")
@as_json
@_errors_told
def unregister(name: str, as_json: bool) -> None:
    """Forget a datastore; its data is not touched."""
    Datastore.unregister(name)
    _print({"unregistered": name}, f"Forgot {name}; its data is where it was.", json_wanted=as_json)


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
@_errors_told
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
    reference = _reference(place).as_upload(
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
@_errors_told
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
    reference = _reference(place).as_download(
        overwrite=overwrite,
        include=include,
        exclude=exclude,
        keep_times=keep_times,
        keep_properties=keep_properties,
    )
    _print_report(fetch(reference, folder, progress=display_for(True))[1], as_json)


def _print_report(report: TransferReport, json_wanted: bool) -> None:
    _print(report.to_dict(), report.summary(), json_wanted=json_wanted)


@main.command()
@click.argument("place")
@click.option("--limit", type=int, default=1000, show_default=True, help="Show at most that many.")
@as_json
@_errors_told
def ls(place: str, limit: int, as_json: bool) -> None:
    """List what is at PLACE and below it.

    \b
    Example:
      prefect-datastores ls raw:mnist
    """
    reference = _reference(place)
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
    _print(values, (_table(rows) if rows else "(empty)") + more, json_wanted=as_json)


@main.command()
@click.argument("places", nargs=-1, required=True)
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path(), help="Where it would go."
)
@include
@exclude
@as_json
@_errors_told
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
        _reference(place).as_download(include=include, exclude=exclude) for place in places
    ]
    made = plan_references(references, folder.absolute())
    _print(made.to_dict(), str(made), json_wanted=as_json)


@main.command()
@click.argument("name")
@click.option("--read-only", is_flag=True, help="Do not try to write.")
@as_json
@_errors_told
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
    _print([dataclasses.asdict(item) for item in checks], _table(rows), json_wanted=as_json)
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
@_errors_told
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


if __name__ == "__main__":
    main()
