"""`prefect-datastores register`: one command for each kind of datastore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from prefect_datastores.cli.account import account_arguments, account_options, grant_options
from prefect_datastores.cli.telling import as_json, described, errors_told, print_value
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.registry import Datastore


@click.group()
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
@errors_told
def register_local(name: str, folder: Path, overwrite: bool, as_json: bool) -> None:
    """Register FOLDER of this machine as NAME; it is made when it is missing.

    \b
    Example:
      prefect-datastores register local raw /srv/data/raw
    """
    _tell_registered(Datastore.register_local(name, folder, overwrite=overwrite), as_json)


@register.command("azure-blob")
@click.argument("name")
@click.option("--container", required=True, help="The blob container.")
@account_options
@grant_options
@as_json
@errors_told
def register_azure_blob(name: str, container: str, as_json: bool, **account: Any) -> None:
    """Register a blob container as NAME, once it is known to work.

    Without a key or a token the machine's own identity signs in.

    \b
    Examples:
      prefect-datastores register azure-blob raw --account acme --container raw
      prefect-datastores register azure-blob raw --account acme --container raw --account-key -
    """
    given = account_arguments(**account)
    _tell_registered(
        Datastore.register_azure_blob_container(
            datastore_name=name, container_name=container, **given
        ),
        as_json,
    )


@register.command("azure-file")
@click.argument("name")
@click.option("--share", required=True, help="The file share.")
@account_options
@as_json
@errors_told
def register_azure_file(name: str, share: str, as_json: bool, **account: Any) -> None:
    """Register a share of Azure Files as NAME, once it is known to work.

    Without a key or a token the machine's own identity signs in.

    \b
    Example:
      prefect-datastores register azure-file raw --account acme --share raw --account-key -
    """
    given = account_arguments(**account)
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
@account_options
@grant_options
@as_json
@errors_told
def register_azure_data_lake_gen2(
    name: str, filesystem: str, dfs_endpoint: str | None, as_json: bool, **account: Any
) -> None:
    """Register a filesystem of Data Lake Storage Gen2 as NAME, once it is known to work.

    Without a key or a token the machine's own identity signs in.

    \b
    Example:
      prefect-datastores register azure-data-lake-gen2 raw --account acme --filesystem raw --account-key -
    """
    given = account_arguments(**account)
    _tell_registered(
        Datastore.register_azure_data_lake_gen2(
            datastore_name=name, filesystem=filesystem, dfs_endpoint=dfs_endpoint, **given
        ),
        as_json,
    )


def _tell_registered(datastore: FileDatastore, as_json: bool) -> None:
    print_value(
        described(datastore), f"Registered {datastore.name}: {datastore.url}", json_wanted=as_json
    )
