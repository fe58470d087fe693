"""The same as `prefect-datastores`."""

from prefect_datastores.cli.commands import main

main()
