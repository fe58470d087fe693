"""`datastore.filesystem()`: signed in as the block says, on every kind, in this process and in another."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from adlfs import AzureBlobFileSystem
from azure.storage.blob import ContainerClient, generate_container_sas
from fsspec.implementations.local import LocalFileSystem
from pydantic import SecretStr
from servers.azure_files import AzureFiles
from servers.azurite import Azurite
from servers.data_lake import DataLake

from prefect_datastores import (
    AccountKey,
    Anonymous,
    AzureBlobDatastore,
    AzureDataLakeGen2Datastore,
    AzureFileDatastore,
    ConnectionString,
    LocalDatastore,
    SasToken,
    ServicePrincipal,
)
from prefect_datastores.datastores.auth import AzureAuth
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import ConfigurationError, UnsafeName
from prefect_datastores.filesystems import AzureFileShareFileSystem


@pytest.fixture(params=["blob", "lake", "share", "local"])
def datastore(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    azurite: Azurite,
    azure_files: AzureFiles,
    data_lake: DataLake,
) -> FileDatastore:
    """A datastore of each kind, opened with a key."""
    if request.param == "local":
        return LocalDatastore(root=str(tmp_path))
    if request.param == "share":
        return AzureFileDatastore(
            account_name=azure_files.account,
            file_share_name=request.getfixturevalue("share"),
            auth=AccountKey(account_key=SecretStr(azure_files.key)),
            protocol="http",
            endpoint=f"{azure_files.host}:{azure_files.port}",
        )
    if request.param == "lake":
        return AzureDataLakeGen2Datastore(
            account_name=data_lake.account,
            container_name=request.getfixturevalue("filesystem"),
            auth=AccountKey(account_key=SecretStr(data_lake.key)),
            protocol="http",
            endpoint=f"{data_lake.host}:{data_lake.blob_port}",
            dfs_endpoint=f"{data_lake.host}:{data_lake.dfs_port}",
        )
    return blobs(
        azurite,
        request.getfixturevalue("container"),
        AccountKey(account_key=SecretStr(azurite.key)),
    )


def blobs(azurite: Azurite, container: ContainerClient, auth: AzureAuth) -> AzureBlobDatastore:
    return AzureBlobDatastore(
        account_name=azurite.account,
        container_name=container.container_name,
        auth=auth,
        protocol="http",
        endpoint=f"{azurite.host}:{azurite.port}",
    )


def use(datastore: FileDatastore) -> None:
    """Write by the file system what the datastore reads, and the reverse."""
    fs, at = datastore.filesystem(), datastore.filesystem_path
    fs.pipe_file(at("folder/written.csv"), b"a,b\n1,2\n")
    assert datastore.read_path("folder/written.csv") == b"a,b\n1,2\n"
    datastore.write_path("folder/other", b"other")
    fs.invalidate_cache()
    assert sorted(fs.find(at("folder"))) == [at("folder/other"), at("folder/written.csv")]
    with fs.open(at("folder/other"), "rb") as file:
        assert file.read() == b"other"


def test_a_file_system_reads_and_writes_what_the_datastore_has(datastore: FileDatastore) -> None:
    use(datastore)


def test_each_kind_has_the_file_system_of_its_service(datastore: FileDatastore) -> None:
    kinds = {
        "AzureBlob": AzureBlobFileSystem,
        "AzureDataLakeGen2": AzureBlobFileSystem,
        "AzureFile": AzureFileShareFileSystem,
        "Local": LocalFileSystem,
    }
    assert isinstance(datastore.filesystem(), kinds[datastore.datastore_type])


def test_a_path_in_it_leaves_no_datastore(datastore: FileDatastore) -> None:
    at = datastore.filesystem_path
    root = at()
    assert at("./a//b/") == at("/a/b") == f"{root}/a/b"
    assert not root.endswith("/")
    with pytest.raises(UnsafeName):
        at("a/../../other")


def test_a_file_system_travels_to_another_process(datastore: FileDatastore, tmp_path: Path) -> None:
    """As dask's workers get it; this is not a fork, which would have it anyway."""
    datastore.write_path("x", b"data")
    (tmp_path / "fs").write_bytes(
        pickle.dumps((datastore.filesystem(), datastore.filesystem_path("x")))
    )
    program = "import pickle, sys; fs, path = pickle.load(open(sys.argv[1], 'rb')); print(fs.cat_file(path))"
    given = [sys.executable, "-c", program, str(tmp_path / "fs")]
    done = subprocess.run(given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "b'data'"


def test_options_go_to_the_file_system(datastore: FileDatastore) -> None:
    options: dict[str, Any] = {"use_listings_cache": False}
    if isinstance(datastore, LocalDatastore):
        options = {"auto_mkdir": False}
    assert datastore.filesystem(**options).storage_options.items() >= options.items()


def test_two_datastores_do_not_share_a_sign_in(
    azurite: Azurite, container: ContainerClient
) -> None:
    right = blobs(azurite, container, AccountKey(account_key=SecretStr(azurite.key)))
    wrong = blobs(azurite, container, AccountKey(account_key=SecretStr("d3Jvbmc=")))
    use(right)
    with pytest.raises(Exception, match="AuthorizationFailure"):
        wrong.filesystem().cat_file(right.filesystem_path("folder/other"))


# -- each way to sign in ------------------------------------------------------------------------------


def a_sas(azurite: Azurite, container: ContainerClient) -> str:
    return generate_container_sas(
        azurite.account,
        str(container.container_name),
        account_key=azurite.key,
        permission="racwdl",
        expiry=datetime.now(timezone.utc) + timedelta(hours=1),
    )


WAYS: dict[str, Callable[[Azurite, ContainerClient], AzureAuth]] = {
    "key": lambda azurite, _: AccountKey(account_key=SecretStr(azurite.key)),
    "sas": lambda azurite, container: SasToken(sas_token=SecretStr(a_sas(azurite, container))),
    "sas with a question mark": lambda azurite, container: SasToken(
        sas_token=SecretStr(f"?{a_sas(azurite, container)}")
    ),
    "connection string": lambda azurite, _: ConnectionString(
        connection_string=SecretStr(
            f"AccountName={azurite.account};AccountKey={azurite.key};"
            f"BlobEndpoint=http://{azurite.host}:{azurite.port}/{azurite.account}"
        )
    ),
}
MISLEADING = {
    "AZURE_STORAGE_CONNECTION_STRING": "AccountName=other;AccountKey=b3RoZXI=;EndpointSuffix=invalid",
    "AZURE_STORAGE_ACCOUNT_NAME": "other",
    "AZURE_STORAGE_ACCOUNT_KEY": "b3RoZXI=",
    "AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=other",
}


@pytest.mark.parametrize("way", WAYS)
def test_blobs_are_opened_as_the_block_says_whatever_the_environment_says(
    azurite: Azurite, container: ContainerClient, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in MISLEADING.items():
        monkeypatch.setenv(variable, value)
    use(blobs(azurite, container, WAYS[way](azurite, container)))


def test_a_public_container_is_read_anonymously(
    azurite: Azurite, container: ContainerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in MISLEADING.items():
        monkeypatch.setenv(variable, value)
    container.upload_blob("x", b"public")
    container.set_container_access_policy({}, public_access="container")
    datastore = blobs(azurite, container, Anonymous())
    assert datastore.filesystem().cat_file(datastore.filesystem_path("x")) == b"public"


def test_shares_let_nobody_in_anonymously(azure_files: AzureFiles) -> None:
    datastore = AzureFileDatastore(
        account_name=azure_files.account, file_share_name="data", auth=Anonymous()
    )
    with pytest.raises(ConfigurationError, match="without signing in"):
        datastore.filesystem()


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("core.windows.net", "acme.blob.core.windows.net"),
        ("core.chinacloudapi.cn", "acme.blob.core.chinacloudapi.cn"),
        ("https://data.acme.test", "data.acme.test"),
    ],
)
def test_a_token_goes_to_the_account_alone(
    endpoint: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in MISLEADING.items():
        monkeypatch.setenv(variable, value)
    auth = ServicePrincipal(tenant_id="t", client_id="c", client_secret=SecretStr("s"))
    datastore = AzureBlobDatastore(
        account_name="acme", container_name="data", auth=auth, endpoint=endpoint
    )
    fs = datastore.filesystem()
    assert fs.service_client.url.rstrip("/") == f"https://{host}"
    assert (fs.account_key, fs.connection_string, fs.sas_token) == (None, None, None)


def test_what_is_missing_is_named(
    azurite: Azurite, container: ContainerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [
        name for name in sys.modules if name.startswith("prefect_datastores.filesystems.blobs")
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'prefect-datastores\[adlfs\]'"):
        blobs(azurite, container, Anonymous()).filesystem()
