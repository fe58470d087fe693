"""Which compute can have which datastore and how: the table, what reads it, and what its cells ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from docker.types import HostConfig
from prefect import flow
from prefect.utilities.templating import apply_values
from pydantic import SecretStr

from prefect_datastores import (
    AccountKey,
    Anonymous,
    AzureBlobDatastore,
    AzureCli,
    AzureDataLakeGen2Datastore,
    AzureFileDatastore,
    Certificate,
    ConnectionString,
    DataReference,
    Datastore,
    Estimator,
    Identity,
    LocalDatastore,
    ManagedIdentity,
    SasToken,
    ServicePrincipal,
    WorkloadIdentity,
    stage,
    staged,
)
from prefect_datastores.cli import main
from prefect_datastores.compute.check import check_compute, check_way
from prefect_datastores.compute.direct import direct
from prefect_datastores.compute.job_variables import for_pool, job_variables
from prefect_datastores.compute.matrix import (
    COMPUTES,
    KINDS,
    MATRIX,
    RETIRED,
    WAYS,
    Kind,
    Way,
    find_compute,
    ways_that_work,
)
from prefect_datastores.compute.page import page
from prefect_datastores.compute.pools import extended_template
from prefect_datastores.datastores.auth import AzureAuth
from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.datastores.documents import KINDS as CLASSES
from prefect_datastores.errors import (
    ConfigurationError,
    MountUnavailable,
    ObjectNotFound,
    WayUnavailable,
)

ROOT = Path(__file__).resolve().parents[1]
POOLS = {
    path.name.rpartition("-")[0]: json.loads(path.read_text())
    for path in sorted((ROOT / "tests/pools").glob("*.json"))
}
KEY = "c2VjcmV0LW9mLXRoZS1hY2NvdW50"
CALLS = {"as_download()": "download", "as_mount()": "mount", "as_upload()": "upload"}


def of_kind(kind: Kind, auth: AzureAuth | None = None) -> FileDatastore:
    """A datastore that nobody registered."""
    auth = auth or AccountKey(account_key=SecretStr(KEY))
    if kind == "AzureBlob":
        return AzureBlobDatastore(account_name="acme", container_name="raw", auth=auth)
    if kind == "AzureDataLakeGen2":
        return AzureDataLakeGen2Datastore(account_name="acme", container_name="raw", auth=auth)
    if kind == "AzureFile":
        return AzureFileDatastore(account_name="acme", file_share_name="raw", auth=auth)
    return LocalDatastore(root="/srv/raw")


def reference(datastore: FileDatastore, way: Way, *, latest: bool = False) -> DataReference:
    place = datastore.path("mnist")
    if way == "mount":
        return place.as_mount(consistency="latest" if latest else "pinned")
    return place.as_upload() if way == "upload" else place.as_download()


@pytest.fixture(scope="module")
def registered(
    prefect_api: object, tmp_path_factory: pytest.TempPathFactory
) -> dict[Kind, FileDatastore]:
    """One datastore of each kind, in an account of nobody's."""
    there = {"account_name": "acme", "account_key": KEY, "skip_validation": True, "overwrite": True}
    return {
        "AzureBlob": Datastore.register_azure_blob_container(
            datastore_name="matrix_blob", container_name="raw", **there
        ),
        "AzureDataLakeGen2": Datastore.register_azure_data_lake_gen2(
            datastore_name="matrix_lake", filesystem="raw", **there
        ),
        "AzureFile": Datastore.register_azure_file_share(
            datastore_name="matrix_share", file_share_name="raw", **there
        ),
        "Local": Datastore.register_local(
            "matrix_folder", tmp_path_factory.mktemp("folder"), overwrite=True
        ),
    }


# The table.


def test_the_table_has_every_compute_kind_and_way() -> None:
    names = [compute.name for compute in COMPUTES]
    assert set(MATRIX) == {(name, kind, way) for name in names for kind in KINDS for way in WAYS}
    assert sorted(KINDS) == sorted(kind.datastore_type for kind in CLASSES)
    assert {"local", "process", "docker", "kubernetes", "azure-container-instance"} < set(names)
    assert {"databricks", "azure-batch", "spark"} < set(names)


def test_what_does_not_work_and_what_takes_something_says_so() -> None:
    for place, cell in MATRIX.items():
        assert cell.how or cell.support == "yes", place
        assert not (cell.need and cell.support in {"yes", "no"}), place
    for compute in COMPUTES:
        assert compute.known == "run by the tests" or compute.sources, compute.name


def test_the_page_of_the_documents_is_made_of_the_table() -> None:
    assert (ROOT / "docs/matrix.md").read_text() == page(), "make it: matrix --markdown"


@pytest.mark.parametrize(
    ("compute", "kind", "way"),
    [place for place, cell in MATRIX.items() if cell.support == "no"],
)
def test_a_way_that_does_not_work_is_refused_and_one_that_works_is_named(
    compute: str, kind: Kind, way: Way
) -> None:
    chosen = find_compute(compute)
    with pytest.raises(WayUnavailable) as refused:
        check_way(chosen, of_kind(kind), way, latest=True)
    said = str(refused.value)
    assert chosen.title in said
    calls = [named for call, named in CALLS.items() if call in said]
    if calls:
        assert set(calls) <= set(ways_that_work(chosen, kind)), said
    elif "direct(reference)" in said:
        assert "direct" in ways_that_work(chosen, kind)
    else:  # nothing works for that kind there: the message names where it does
        assert "compute_target='process'" in said
        assert way in ways_that_work(find_compute("process"), kind)


@pytest.mark.parametrize(
    ("compute", "kind", "way"),
    [place for place, cell in MATRIX.items() if cell.support != "no" and place[2] != "direct"],
)
def test_a_way_that_works_is_let_through(compute: str, kind: Kind, way: Way) -> None:
    latest = MATRIX[compute, kind, way].support == "native"
    wanted = reference(of_kind(kind), way, latest=latest)
    assert check_compute(compute, [wanted]).name == compute


def test_a_retired_compute_is_named_with_what_takes_its_place() -> None:
    assert {one.name for one in RETIRED} >= {"hdinsight", "batchai", "datafactory", "adla"}
    for retired in RETIRED:
        with pytest.raises(ConfigurationError, match="is not available") as refused:
            find_compute(retired.name)
        assert retired.title in str(refused.value)
        assert f"compute_target={retired.successor!r}" in str(refused.value)
        assert find_compute(retired.successor) in COMPUTES
    with pytest.raises(ConfigurationError, match="Azure Batch AI is retired"):
        find_compute("Batch-AI")


def test_usual_spellings_are_known() -> None:
    for spelling, name in {
        "ACI": "azure-container-instance",
        "AKS": "kubernetes",
        "Docker": "docker",
        "azure_batch": "azure-batch",
    }.items():
        assert find_compute(spelling).name == name


# What is checked when it is defined.


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/train.py").write_text("")
    return tmp_path / "src"


def test_an_estimator_is_checked_when_it_is_defined(source: Path) -> None:
    blob, share, folder = map(of_kind, ("AzureBlob", "AzureFile", "Local"))

    def define(compute: str, wanted: DataReference) -> Estimator:
        return Estimator(
            source, entry_script="train.py", compute_target=compute, script_params={"--x": wanted}
        )

    with pytest.raises(
        WayUnavailable, match=r"AzureBlob\) cannot be mounted on Azure Con.*as_down"
    ):
        define("azure-container-instance", blob.as_mount())
    with pytest.raises(WayUnavailable, match=r"only as it is now.*consistency='latest'"):
        define("azure-container-instance", share.as_mount())
    with pytest.raises(WayUnavailable, match=r"the folder is on another machine.*'process'"):
        define("kubernetes", folder.path("x").as_upload())
    with pytest.raises(ConfigurationError, match=r"HDInsight.*compute_target='spark'"):
        define("HDInsight", blob.as_download())
    # What the worker has does the same without a mount.
    define("azure-container-instance", blob.as_mount(fallback="download"))
    made = define("ACI", share.as_mount(consistency="latest"))
    assert made.spec.compute_target == "azure-container-instance"
    assert Estimator.from_spec(made.spec.model_copy(update={"inputs": ()})).spec == made.spec


def test_an_estimator_for_another_compute_does_not_run_here(
    source: Path, monkeypatch: pytest.MonkeyPatch, registered: dict[Kind, FileDatastore]
) -> None:
    inputs = [registered["AzureBlob"].as_download()]
    est = Estimator(source, entry_script="train.py", compute_target="docker", inputs=inputs)
    for start in (est.run, est.submit):
        with pytest.raises(ConfigurationError, match=r"Docker, and this is a process.*deploy"):
            start()
    est.as_flow()
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_COMPUTE", "kubernetes")
    with pytest.raises(ConfigurationError, match="and this is Kubernetes"):
        est.run()


def test_a_stage_is_checked_when_it_is_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    blob = of_kind("AzureBlob")
    with pytest.raises(WayUnavailable, match="Spark"):
        stage(blob.as_mount(), compute_target="spark")
    with pytest.raises(WayUnavailable, match="Databricks"):
        staged(data=blob.as_mount(), compute_target="databricks")(lambda data: data)
    stage(blob.as_mount(), compute_target="docker")
    stage(blob.as_mount())
    # As the job variables of the matrix say it where the flow runs.
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_COMPUTE", "azure-container-instance")
    with pytest.raises(WayUnavailable, match="Azure Container Instances"):
        stage(blob.as_mount())


# What the jobs of a work pool need.


def accepted(compute: str, variables: dict[str, Any], template: dict[str, Any]) -> Any:
    """The job that a worker makes of the variables, which the pool's schema was asked about."""
    schema = template["variables"]
    assert set(variables) <= set(schema["properties"]), compute
    jsonschema.validate(variables, {**schema, "required": []})
    return apply_values(template["job_configuration"], variables)


def test_docker_gets_the_device_the_capability_and_the_folder(
    registered: dict[Kind, FileDatastore],
) -> None:
    mounts = [registered[kind].path("mnist").as_mount() for kind in KINDS]
    results = registered["Local"].path("results").as_upload()
    made = job_variables("docker", [*mounts, results])
    job = accepted("docker", made, POOLS["docker"])
    host = HostConfig(version="1.44", **job["container_create_kwargs"])
    device = {"CgroupPermissions": "rwm", "PathInContainer": "/dev/fuse", "PathOnHost": "/dev/fuse"}
    assert host["Devices"] == [device]
    assert host["CapAdd"] == ["SYS_ADMIN"]
    assert host["SecurityOpt"] == ["apparmor=unconfined"]
    folder = registered["Local"].root  # type: ignore[attr-defined]
    assert job["volumes"] == [f"{folder}:{folder}"]
    only_read = job_variables("docker", [registered["Local"].as_download()])
    assert only_read["volumes"] == [f"{folder}:{folder}:ro"]
    assert "container_create_kwargs" not in only_read
    assert job_variables("docker", [registered["AzureBlob"].as_download()]) == {
        "env": {"PREFECT_INTEGRATIONS_DATASTORES_COMPUTE": "docker"}
    }
    assert job_variables("process", mounts) == {
        "env": {"PREFECT_INTEGRATIONS_DATASTORES_COMPUTE": "process"}
    }


def test_kubernetes_gets_privilege_for_a_mount_and_a_volume_for_a_share(
    registered: dict[Kind, FileDatastore],
) -> None:
    template = extended_template("kubernetes", POOLS["kubernetes"])
    share = registered["AzureFile"].path("mnist")
    natively = job_variables("kubernetes", [share.as_mount(consistency="latest")])
    pod = accepted("kubernetes", natively, template)["job_manifest"]["spec"]["template"]["spec"]
    assert pod["volumes"] == [
        {
            "name": "matrix-share",
            "csi": {
                "driver": "file.csi.azure.com",
                "readOnly": True,
                "volumeAttributes": {
                    "shareName": "raw",
                    "secretName": "azure-storage-account-acme-secret",
                },
            },
        }
    ]
    (container,) = pod["containers"]
    assert container["volumeMounts"] == [
        {"name": "matrix-share", "mountPath": "/mnt/datastores/matrix_share", "readOnly": True}
    ]
    assert "securityContext" not in container
    for kind in KINDS[:3]:
        made = job_variables("kubernetes", [registered[kind].as_mount()])
        pod = accepted("kubernetes", made, template)["job_manifest"]["spec"]["template"]["spec"]
        assert pod["containers"][0]["securityContext"] == {"privileged": True}
        assert "volumes" not in pod


def test_an_instance_gets_the_share_as_a_volume_whose_key_azure_looks_up(
    registered: dict[Kind, FileDatastore],
) -> None:
    template = extended_template("azure-container-instance", POOLS["azure-container-instance"])
    wanted = registered["AzureFile"].path("mnist").as_mount(consistency="latest")
    made = job_variables("aci", [wanted, wanted.path("more")])
    group = accepted("aci", made, template)["arm_template"]["resources"][0]["properties"]
    assert group["volumes"] == [
        {
            "name": "matrix-share",
            "azureFile": {
                "shareName": "raw",
                "readOnly": True,
                "storageAccountName": "acme",
                "storageAccountKey": "[listKeys(resourceId('Microsoft.Storage/storageAccounts', 'acme'), "
                "'2023-01-01').keys[0].value]",
            },
        }
    ]
    assert [mount["name"] for mount in group["containers"][0]["properties"]["volumeMounts"]] == [
        "matrix-share"
    ]
    with pytest.raises(WayUnavailable, match="as_download"):
        job_variables("aci", [registered["AzureBlob"].as_mount()])


def test_job_variables_have_no_secret_and_none_for_what_no_job_could_find(
    registered: dict[Kind, FileDatastore],
) -> None:
    for compute in ("docker", "kubernetes", "azure-container-instance", "process"):
        wanted = [registered["AzureFile"].as_mount(consistency="latest")]
        assert KEY not in json.dumps(job_variables(compute, wanted))
    with pytest.raises(ConfigurationError, match="is not registered"):
        job_variables("docker", [of_kind("AzureBlob").as_download()])
    with pytest.raises(ConfigurationError, match="takes no job variables"):
        job_variables("spark", [registered["AzureBlob"].as_download()])


def test_a_deployment_gets_what_its_data_needs_and_over_it_what_was_given(
    registered: dict[Kind, FileDatastore],
) -> None:
    wanted = [registered["AzureBlob"].as_mount(), registered["Local"].as_download()]
    given = {
        "image": "mine",
        "env": {"A": "b"},
        "volumes": ["/x:/x"],
        "container_create_kwargs": {"cap_add": ["SYS_ADMIN", "NET_ADMIN"], "init": True},
    }
    made = for_pool("docker", POOLS["docker"], wanted, given)
    folder = registered["Local"].root  # type: ignore[attr-defined]
    assert made == {
        "image": "mine",
        "env": {"PREFECT_INTEGRATIONS_DATASTORES_COMPUTE": "docker", "A": "b"},
        "volumes": [f"{folder}:{folder}:ro", "/x:/x"],
        "container_create_kwargs": {
            "devices": ["/dev/fuse:/dev/fuse:rwm"],
            "cap_add": ["SYS_ADMIN", "NET_ADMIN"],
            "security_opt": ["apparmor=unconfined"],
            "init": True,
        },
    }
    assert given["volumes"] == ["/x:/x"]  # what was given is not changed
    assert for_pool("docker", POOLS["docker"], wanted) == job_variables("docker", wanted)
    assert for_pool("ecs", {}, wanted, given) == given


def test_what_a_pool_has_no_place_for_is_refused_and_not_lost(
    registered: dict[Kind, FileDatastore],
) -> None:
    share = [registered["AzureFile"].as_mount(consistency="latest")]
    for pool in ("kubernetes", "azure-container-instance"):
        with pytest.raises(ConfigurationError, match=rf"'volumes'.*pool-template {pool}"):
            for_pool(pool, POOLS[pool], share)
        assert for_pool(pool, extended_template(pool, POOLS[pool]), share)["volumes"]
    with pytest.raises(WayUnavailable):
        for_pool("kubernetes", POOLS["kubernetes"], [registered["Local"].as_download()])


@pytest.mark.parametrize("pool", list(POOLS))
def test_a_template_that_is_extended_changes_nothing_for_runs_that_ask_for_nothing(
    pool: str,
) -> None:
    made = extended_template(pool, POOLS[pool])
    assert extended_template(pool, made) == made
    assert accepted(pool, {}, made) == accepted(pool, {}, POOLS[pool])
    with pytest.raises(ConfigurationError, match="no base job template"):
        extended_template(pool, {"variables": {}})


def test_what_a_template_has_of_its_own_is_not_lost() -> None:
    own = json.loads(json.dumps(POOLS["kubernetes"]))
    own["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["volumes"] = [
        {"name": "x"}
    ]
    with pytest.raises(ConfigurationError, match="'volumes' of its own"):
        extended_template("kubernetes", own)
    old = json.loads(json.dumps(POOLS["docker"]))
    del old["variables"]["properties"]["container_create_kwargs"]
    del old["job_configuration"]["container_create_kwargs"]
    made = extended_template("docker", old)
    assert "container_create_kwargs" in accepted("docker", {"container_create_kwargs": {}}, made)


# Shares that the compute mounted.


@pytest.fixture
def mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registered: dict[Kind, FileDatastore]
) -> Path:
    """A folder that stands for a share, as the job variables name it; the scratch space is the test's own."""
    root = tmp_path / "mounted"
    (root / "mnist").mkdir(parents=True)
    (root / "mnist/a.csv").write_text("1")
    wanted = registered["AzureFile"].path("mnist").as_mount(consistency="latest")
    said = job_variables("aci", [wanted])["env"]
    for name, value in said.items():
        there = value.replace("/mnt/datastores/matrix_share", str(root))
        assert there != value or "MOUNTS" not in name
        monkeypatch.setenv(name, there)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_DATASTORES_SCRATCH_ROOT", str(tmp_path / "scratch"))
    return root


@pytest.mark.usefixtures("no_mounts")
def test_a_share_that_the_compute_mounted_is_what_a_stage_gives(
    mounted: Path, registered: dict[Kind, FileDatastore], tmp_path: Path
) -> None:
    share = registered["AzureFile"]

    @flow
    def read() -> tuple[str, str]:
        folder = share.path("mnist").as_mount(consistency="latest")
        with stage(folder=folder, file=folder.path("a.csv")) as paths:
            assert paths.file.name == "a.csv"
            (mounted / "mnist/a.csv").write_text("2")
            return (paths.folder / "a.csv").read_text(), paths.file.read_text()

    assert read() == ("2", "2")
    assert (mounted / "mnist/a.csv").read_text() == "2"  # what is mounted is not cleaned up
    assert not list((tmp_path / "scratch").rglob("a.csv"))
    with pytest.raises(ObjectNotFound, match="matrix_share:gone"):
        with stage(data=share.path("gone").as_mount(consistency="latest")):
            pass


@pytest.mark.usefixtures("mounted", "no_mounts")
def test_a_pinned_mount_is_not_served_by_what_the_compute_mounted(
    registered: dict[Kind, FileDatastore], monkeypatch: pytest.MonkeyPatch, mounted: Path
) -> None:
    share = registered["AzureFile"].path("mnist")
    with pytest.raises(WayUnavailable, match="consistency='latest'"):
        stage(data=share.as_mount())
    monkeypatch.delenv("PREFECT_INTEGRATIONS_DATASTORES_COMPUTE")
    with (
        pytest.raises(MountUnavailable, match="consistency='latest'"),
        stage(data=share.as_mount()),
    ):
        pass
    mounted.rename(mounted.with_name("gone"))
    with pytest.raises(MountUnavailable, match="no such folder"):
        with stage(data=share.as_mount(consistency="latest")):
            pass


# What Spark opens by itself.

HOST = "acme.dfs.core.windows.net"
CLIENT, TENANT = "client-of-the-tests", "tenant-of-the-tests"
SAS = "sv=2024-11-04&sr=c&sp=rl&sig=c2lnbmF0dXJl"
OAUTH = "org.apache.hadoop.fs.azurebfs.oauth2"


def test_spark_gets_the_uri_and_the_keys_of_every_way_that_its_driver_knows() -> None:
    connection = f"AccountName=acme;AccountKey={KEY};EndpointSuffix=core.windows.net"
    principal = ServicePrincipal(
        tenant_id=TENANT, client_id=CLIENT, client_secret=SecretStr("of-the-principal")
    )
    by_principal = {
        "account.auth.type": "OAuth",
        "account.oauth.provider.type": f"{OAUTH}.ClientCredsTokenProvider",
        "account.oauth2.client.id": CLIENT,
        "account.oauth2.client.secret": "${env.THE_SECRET}",
        "account.oauth2.client.endpoint": f"https://login.microsoftonline.com/{TENANT}/oauth2/token",
    }
    by_key = {"account.auth.type": "SharedKey", "account.key": "${env.THE_SECRET}"}
    by_sas = {
        "account.auth.type": "SAS",
        "sas.token.provider.type": "org.apache.hadoop.fs.azurebfs.sas.FixedSASTokenProvider",
        "sas.fixed.token": "${env.THE_SECRET}",
    }
    by_machine = {
        "account.auth.type": "OAuth",
        "account.oauth.provider.type": f"{OAUTH}.MsiTokenProvider",
    }
    by_pod = {
        "account.auth.type": "OAuth",
        "account.oauth.provider.type": f"{OAUTH}.WorkloadIdentityTokenProvider",
        "account.oauth2.msi.tenant": "${env.AZURE_TENANT_ID}",
        "account.oauth2.client.id": CLIENT,
        "account.oauth2.token.file": "${env.AZURE_FEDERATED_TOKEN_FILE}",
    }
    ways: list[tuple[AzureAuth, dict[str, str]]] = [
        (AccountKey(account_key=SecretStr(KEY)), by_key),
        (ConnectionString(connection_string=SecretStr(connection)), by_key),
        (SasToken(sas_token=SecretStr(SAS)), by_sas),
        (principal, by_principal),
        (Identity(), by_machine),
        (
            ManagedIdentity(managed_identity_id=CLIENT),
            {**by_machine, "account.oauth2.client.id": CLIENT},
        ),
        (WorkloadIdentity(workload_client_id=CLIENT), by_pod),
    ]
    kinds: tuple[Kind, ...] = ("AzureBlob", "AzureDataLakeGen2")
    for auth, keys in ways:
        for kind in kinds:
            place = of_kind(kind, auth).path("day=1/x.parquet")
            found = direct(place, secret="THE_SECRET")
            assert found.uri == f"abfss://raw@{HOST}/day=1/x.parquet"
            assert found.configuration == {
                f"spark.hadoop.fs.azure.{key}.{HOST}": value for key, value in keys.items()
            }
            for secret in (KEY, "c2lnbmF0dXJl", "of-the-principal"):
                assert secret not in str(found)


def test_databricks_takes_secrets_of_a_scope_and_identities_of_unity_catalog() -> None:
    found = direct(of_kind("AzureBlob"), compute="databricks", secret="scope/key")
    assert found.uri == f"abfss://raw@{HOST}/"
    assert found.configuration[f"spark.hadoop.fs.azure.account.key.{HOST}"] == (
        "{{secrets/scope/key}}"
    )
    assert direct(of_kind("AzureBlob", Identity()), compute="databricks").configuration == {}


@pytest.mark.parametrize(
    ("auth", "says"),
    [
        (AzureCli(), "azure cli"),
        (Anonymous(), "anonymous"),
        (
            Certificate(
                certificate_tenant_id="t", certificate_client_id="c", certificate=SecretStr("x")
            ),
            "certificate",
        ),
        (ManagedIdentity(managed_identity_id="/subscriptions/x"), "client id"),
        (AccountKey(account_key=SecretStr(KEY)), "secret='NAME'"),
    ],
)
def test_a_sign_in_that_spark_cannot_use_is_refused(auth: AzureAuth, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        direct(of_kind("AzureBlob", auth))


def test_what_spark_cannot_open_is_refused() -> None:
    for kind in ("AzureFile", "Local"):
        with pytest.raises(WayUnavailable, match="cannot be opened on Spark"):
            direct(of_kind(kind))
    with pytest.raises(ConfigurationError, match="secret='scope/key'"):
        direct(of_kind("AzureBlob"), compute="databricks", secret=KEY + "==")
    emulator = AzureBlobDatastore(
        account_name="acme",
        container_name="raw",
        protocol="http",
        endpoint="127.0.0.1:10000",
        auth=AccountKey(account_key=SecretStr(KEY)),
    )
    with pytest.raises(ConfigurationError, match="not the DFS endpoint"):
        direct(emulator, secret="THE_SECRET")


# From a shell.


def run(*arguments: str, code: int = 0, given: str | None = None) -> str:
    done = CliRunner().invoke(main, arguments, input=given)
    assert done.exit_code == code, done.output
    return done.output


def test_the_command_shows_the_table_and_makes_what_jobs_need(
    registered: dict[Kind, FileDatastore],
) -> None:
    shown = run("matrix")
    for compute in COMPUTES:
        assert compute.name in shown
    values = json.loads(run("matrix", "--compute", "ACI", "--json"))
    (only,) = values["computes"]
    assert only["name"] == "azure-container-instance"
    assert only["datastores"]["AzureFile"]["mount"]["support"] == "native"
    assert run("matrix", "--markdown") == page()
    assert "compute_target='spark'" in run("matrix", "--compute", "hdinsight", code=2)
    made = json.loads(run("job-variables", "docker", "--mount", "matrix_blob:mnist"))
    assert made == job_variables("docker", [registered["AzureBlob"].path("mnist").as_mount()])
    extended = run("pool-template", "kubernetes", "-", given=json.dumps(POOLS["kubernetes"]))
    assert json.loads(extended) == extended_template("kubernetes", POOLS["kubernetes"])
    assert "is not JSON" in run("pool-template", "kubernetes", "-", given="{", code=2)
