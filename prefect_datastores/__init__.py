"""Azure ML's datastores for Prefect 3: blocks hold the connection, tasks stage the data."""

from prefect_datastores.datastores.auth import (
    AccountKey,
    Anonymous,
    AzureCli,
    Certificate,
    ConnectionString,
    Identity,
    ManagedIdentity,
    SasToken,
    ServicePrincipal,
    WorkloadIdentity,
)
from prefect_datastores.datastores.azure_blob import AzureBlobDatastore
from prefect_datastores.datastores.azure_data_lake_gen2 import AzureDataLakeGen2Datastore
from prefect_datastores.datastores.azure_file import AzureFileDatastore
from prefect_datastores.datastores.local import LocalDatastore
from prefect_datastores.datastores.registry import AnyDatastore, Datastore
from prefect_datastores.errors import DatastoreError
from prefect_datastores.estimator import Estimator
from prefect_datastores.references import DataReference
from prefect_datastores.stage import stage, staged
from prefect_datastores.tasks import download, mount, upload

__all__ = [
    "AccountKey",
    "Anonymous",
    "AnyDatastore",
    "AzureBlobDatastore",
    "AzureCli",
    "AzureDataLakeGen2Datastore",
    "AzureFileDatastore",
    "Certificate",
    "ConnectionString",
    "DataReference",
    "Datastore",
    "DatastoreError",
    "Estimator",
    "Identity",
    "LocalDatastore",
    "ManagedIdentity",
    "SasToken",
    "ServicePrincipal",
    "WorkloadIdentity",
    "download",
    "mount",
    "stage",
    "staged",
    "upload",
]
