"""The command line: what it does and prints, and its exit codes."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from azure.storage.blob import ContainerClient
from click.testing import CliRunner, Result
from pydantic import SecretStr
from servers.azurite import Azurite

from prefect_datastores import (
    AccountKey,
    Anonymous,
    AzureBlobDatastore,
    AzureCli,
    Certificate,
    ConnectionString,
    Datastore,
    Identity,
    ManagedIdentity,
    SasToken,
    ServicePrincipal,
    WorkloadIdentity,
)
from prefect_datastores.cli import main
from prefect_datastores.datastores.auth import AzureAuth

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
def name() -> str:
    return f"cli_{uuid.uuid4().hex[:10]}"


def run(*arguments: object, code: int = 0, **environment: str) -> Result:
    """Run a command in this process, which has imported Prefect already."""
    given = [*map(str, arguments)]
    done = CliRunner().invoke(main, given, env=environment, prog_name="prefect-datastores")
    assert done.exit_code == code, done.output
    return done


def run_apart(
    *arguments: object, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a person does."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect_datastores.cli", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_data_goes_in_and_out_of_a_local_datastore(name: str, tmp_path: Path) -> None:
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/a.txt").write_text("a")
    (tmp_path / "in/sub/b.csv").write_text("b")
    run("register", "local", name, tmp_path / "store")
    uploaded = json.loads(run_apart("upload", tmp_path / "in", f"{name}:data", "--json").stdout)
    assert (uploaded["count"], uploaded["bytes"]) == (2, 2)
    listed = json.loads(run("ls", f"{name}:data", "--json").stdout)
    assert [item["name"] for item in listed] == ["data/a.txt", "data/sub/b.csv"]
    assert "2 objects, 2 B" in run("plan", f"{name}:data").stdout
    run_apart("download", f"{name}:data", tmp_path / "out", "--include", "*.csv")
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["b.csv"]
    again = json.loads(run("upload", tmp_path / "in/a.txt", name, "--json").stdout)
    assert again["objects"][0]["name"] == "a.txt"


def test_a_container_is_registered_with_a_key_that_no_output_shows(
    name: str, azurite: Azurite, container: ContainerClient
) -> None:
    arguments = ("register", "azure-blob", name, "--account", azurite.account, "--protocol", "http")
    where = (
        "--container",
        container.container_name,
        "--endpoint",
        f"{azurite.host}:{azurite.port}",
    )
    done = run(*arguments, *where, PREFECT_DATASTORES_ACCOUNT_KEY=azurite.key)
    shown = run("show", name, "--json")
    assert json.loads(shown.stdout)["sign_in"] == "account key"
    steps = json.loads(run("check", name, "--json").stdout)
    assert {step["step"]: step["outcome"] for step in steps} == {
        "sign in": "ok",
        "list": "ok",
        "read": "not tried",
        "write": "ok",
    }
    listed = run("list")
    for output in (done, shown, listed):
        assert azurite.key not in output.stdout + output.stderr
    assert name in listed.stdout


def test_check_says_that_the_key_is_wrong(
    name: str, azurite: Azurite, container: ContainerClient
) -> None:
    arguments = ("register", "azure-blob", name, "--account", azurite.account, "--protocol", "http")
    where = (
        "--container",
        container.container_name,
        "--endpoint",
        f"{azurite.host}:{azurite.port}",
    )
    wrong = {"PREFECT_DATASTORES_ACCOUNT_KEY": "d3Jvbmcta2V5"}
    refused = run(*arguments, *where, code=4, **wrong)
    assert "account key is not accepted" in refused.stderr
    run(*arguments, *where, "--skip-validation", **wrong)
    checked = run("check", name, code=1)
    assert "sign in  FAILED" in checked.stdout
    assert "account key is not accepted" in checked.stdout


def test_exit_codes_tell_what_happened(name: str, tmp_path: Path) -> None:
    assert "No datastore is registered as" in run_apart("show", name, code=3).stderr
    run("register", "local", name, tmp_path)
    assert "is registered already" in run("register", "local", name, tmp_path, code=2).stderr
    assert "There is nothing at" in run("ls", f"{name}:nothing", code=3).stderr
    failed = run("download", f"{name}:nothing", tmp_path / "out", "--json", code=3)
    assert json.loads(failed.stdout)["error"] == "ObjectNotFound"
    assert "'..'" in run("ls", f"{name}:../x", code=2).stderr
    run("ls", code=2)


@pytest.mark.xdist_group("the default datastore")
def test_the_default_is_shown_and_set(name: str, tmp_path: Path) -> None:
    run("register", "local", name, tmp_path)
    before = run("default").stdout.strip()
    try:
        assert run("default", name).stdout.strip() == name
        assert f"{name} *" in run("list").stdout
    finally:
        run("default", before)


def test_unregister_keeps_the_data(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    run("register", "local", name, tmp_path)
    run("unregister", name)
    run("show", name, code=3)
    assert (tmp_path / "a").read_text() == "a"


@pytest.mark.parametrize(
    "command",
    ["register local", "register azure-blob", "list", "show", "default", "unregister", "upload", "download", "ls", "plan", "check", "demo"],
)  # fmt: skip
def test_help_of_each_command_says_what_it_does(command: str) -> None:
    text = run(*command.split(), "--help").stdout
    assert "Usage:" in text
    assert "--json" in text
    if command not in {"list", "unregister"}:
        assert f"prefect-datastores {command.split(maxsplit=1)[0]}" in text


def test_a_server_that_does_not_answer_is_said() -> None:
    done = run_apart("list", "--json", code=1, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert "Prefect's server does not answer at http://127.0.0.1:9/api" in done.stderr
    assert json.loads(done.stdout)["error"] == "DatastoreError"


# -- each way to sign in ------------------------------------------------------------------------------

PLACE = ("--container", "data", "--skip-validation")
ACME = (*PLACE, "--account", "acme")
PRINCIPAL = ("--tenant-id", "t", "--client-id", "c")
STRING = "DefaultEndpointsProtocol=https;AccountName=acme;AccountKey=a2V5;EndpointSuffix=core.windows.net"
WAYS: list[tuple[AzureAuth, tuple[str, ...], dict[str, str]]] = [
    (Identity(), ACME, {}),
    (Identity(identity_client_id="c"), (*ACME, "--sign-in", "identity", "--client-id", "c"), {}),
    (AccountKey(account_key=SecretStr("a2V5")), ACME, {"ACCOUNT_KEY": "a2V5"}),
    (SasToken(sas_token=SecretStr("sv=1&sig=x")), ACME, {"SAS_TOKEN": "sv=1&sig=x"}),
    (
        ConnectionString(connection_string=SecretStr(STRING)),
        PLACE,
        {"CONNECTION_STRING": STRING},
    ),
    (
        ServicePrincipal(tenant_id="t", client_id="c", client_secret=SecretStr("s")),
        (*ACME, *PRINCIPAL),
        {"CLIENT_SECRET": "s"},
    ),
    (
        Certificate(
            certificate_tenant_id="t",
            certificate_client_id="c",
            certificate=SecretStr("/etc/app.pem"),
            certificate_password=SecretStr("p"),
        ),
        (*ACME, *PRINCIPAL, "--certificate", "/etc/app.pem"),
        {"CERTIFICATE_PASSWORD": "p"},
    ),
    (
        ManagedIdentity(managed_identity_id="c"),
        (*ACME, "--sign-in", "managed-identity", "--client-id", "c"),
        {},
    ),
    (
        WorkloadIdentity(workload_tenant_id="t", workload_client_id="c"),
        (*ACME, "--sign-in", "workload-identity", *PRINCIPAL),
        {},
    ),
    (AzureCli(cli_tenant_id="t"), (*ACME, "--sign-in", "azure-cli", "--tenant-id", "t"), {}),
    (Anonymous(), (*ACME, "--sign-in", "anonymous"), {}),
]


def register(
    name: str, *arguments: str, stdin: str = "", kind: str = "azure-blob", **secrets: str
) -> Result:
    variables = {f"PREFECT_DATASTORES_{key}": value for key, value in secrets.items()}
    given = ["register", kind, name, *arguments]
    return CliRunner().invoke(main, given, env=variables, input=stdin)


@pytest.mark.parametrize(("auth", "arguments", "secrets"), WAYS)
def test_each_way_to_sign_in_can_be_registered(
    name: str, auth: AzureAuth, arguments: tuple[str, ...], secrets: dict[str, str]
) -> None:
    done = register(name, *arguments, **secrets)
    assert done.exit_code == 0, done.output
    found = Datastore.get(name)
    Datastore.unregister(name)
    assert isinstance(found, AzureBlobDatastore)
    assert (found.account_name, found.auth) == ("acme", auth)


def test_a_secret_can_be_typed(name: str) -> None:
    for option, auth in (("--account-key", AccountKey), ("--client-secret", ServicePrincipal)):
        more = PRINCIPAL if auth is ServicePrincipal else ()
        done = register(name, *ACME, "--overwrite", option, "-", *more, stdin="typed-secret\n")
        assert done.exit_code == 0, done.output
        assert "typed-secret" not in done.output
        found = Datastore.get(name)
        assert isinstance(found, AzureBlobDatastore)
        assert isinstance(found.auth, auth)
    Datastore.unregister(name)


@pytest.mark.parametrize(
    ("arguments", "secrets", "says"),
    [
        (PLACE, {}, "--account, or --connection-string"),
        (ACME, {"ACCOUNT_KEY": "a2V5", "SAS_TOKEN": "sv=1"}, "Two ways"),
        ((*ACME, "--sign-in", "azure-cli"), {"ACCOUNT_KEY": "a2V5"}, "Two ways"),
        ((*ACME, *PRINCIPAL), {}, "not how it signs in"),
        ((*ACME, "--tenant-id", "t"), {"CLIENT_SECRET": "s"}, "needs --tenant-id and --client-id"),
        ((*ACME, "--certificate", "app.pem"), {}, "needs --tenant-id and --client-id"),
        ((*ACME, "--sign-in", "anonymous", "--tenant-id", "t"), {}, "takes no --tenant-id"),
        ((*ACME, "--sign-in", "azure-cli", "--client-id", "c"), {}, "takes no --client-id"),
        ((*ACME, "--grant-access"), {}, "needs subscription_id and resource_group"),
        ((*PLACE, "--account", "other"), {"CONNECTION_STRING": STRING}, "of the account 'acme'"),
    ],
)
def test_what_does_not_make_one_sign_in_is_refused(
    name: str, arguments: tuple[str, ...], secrets: dict[str, str], says: str
) -> None:
    done = register(name, *arguments, **secrets)
    assert done.exit_code == 2
    assert says in done.output
    assert not any(secret in done.output for secret in secrets.values() if len(secret) > 3)


def test_a_connection_string_names_the_account_of_every_kind(name: str) -> None:
    for kind, place in (("azure-file", "--share"), ("azure-data-lake-gen2", "--filesystem")):
        arguments = (place, "data", "--skip-validation", "--overwrite")
        done = register(name, *arguments, kind=kind, CONNECTION_STRING=STRING)
        assert done.exit_code == 0, done.output
        assert "acme" in done.output
    Datastore.unregister(name)
