"""`prefect-datastores matrix` and what goes with it: what a compute can have, and what its jobs need for it."""

from __future__ import annotations

import json
from typing import Any, TextIO

import click

from prefect_datastores.cli.telling import as_json, errors_told, print_value, reference_of, table
from prefect_datastores.compute import job_variables as making
from prefect_datastores.compute.matrix import COMPUTES, RETIRED, find_compute
from prefect_datastores.compute.page import as_values, notes, page, rows
from prefect_datastores.compute.pools import extended_template
from prefect_datastores.errors import ConfigurationError


@click.command()
@click.option("--compute", metavar="NAME", help="Show this one alone, with what its cells take.")
@click.option("--markdown", is_flag=True, help="Print the page of the documents.")
@as_json
@errors_told
def matrix(compute: str | None, markdown: bool, as_json: bool) -> None:
    """Say which compute can have which datastore in which way.

    \b
    Examples:
      prefect-datastores matrix
      prefect-datastores matrix --compute docker
    """
    chosen = [find_compute(compute)] if compute else list(COMPUTES)
    if markdown:
        click.echo(page(), nl=False)
        return
    text = table(rows(chosen))
    if compute:
        text += "\n\n" + "\n".join(notes(chosen[0]))
    else:
        retired = ", ".join(one.title for one in RETIRED)
        text += f"\n\nWhat `needs` and `native` take: --compute NAME. No longer there: {retired}."
    print_value(as_values(chosen), text, json_wanted=as_json)


@click.command("job-variables")
@click.argument("compute")
@click.option("--download", multiple=True, metavar="PLACE", help="Downloaded; may be repeated.")
@click.option("--mount", multiple=True, metavar="PLACE", help="Mounted as it is first seen.")
@click.option("--mount-latest", multiple=True, metavar="PLACE", help="Mounted as it is now.")
@click.option("--upload", multiple=True, metavar="PLACE", help="Uploaded to.")
@errors_told
def job_variables(
    compute: str,
    download: tuple[str, ...],
    mount: tuple[str, ...],
    mount_latest: tuple[str, ...],
    upload: tuple[str, ...],
) -> None:
    """Print, as JSON, the job variables by which COMPUTE can have these places; no secret is in them.

    \b
    Examples:
      prefect-datastores job-variables docker --mount raw:mnist
      prefect-datastores job-variables aci --mount-latest share:mnist
    """
    references = [
        *(reference_of(place).as_download() for place in download),
        *(reference_of(place).as_mount() for place in mount),
        *(reference_of(place).as_mount(consistency="latest") for place in mount_latest),
        *(reference_of(place).as_upload() for place in upload),
    ]
    click.echo(json.dumps(making.job_variables(compute, references), indent=2))


@click.command("pool-template")
@click.argument("pool_type", metavar="TYPE")
@click.argument("template", type=click.File())
@errors_told
def pool_template(pool_type: str, template: TextIO) -> None:
    """Print the base job TEMPLATE of a pool of that TYPE with a place for what job-variables gives.

    \b
    Example:
      prefect work-pool get-default-base-job-template --type kubernetes |
        prefect-datastores pool-template kubernetes - > template.json
      prefect work-pool create --type kubernetes --base-job-template template.json staging
    """
    try:
        given: Any = json.load(template)
    except ValueError as error:
        raise ConfigurationError(f"The template is not JSON: {error}.") from None
    made = extended_template(find_compute(pool_type).work_pool or pool_type, given)
    click.echo(json.dumps(made, indent=2))
