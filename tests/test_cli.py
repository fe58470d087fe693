"""The command line as a person uses it: a process, its output, its exit code."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from azure.storage.blob import ContainerClient
from servers.azurite import Azurite

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
def name() -> str:
    return f"cli_{uuid.uuid4().hex[:10]}"


def run(*arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
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
    uploaded = json.loads(run("upload", tmp_path / "in", f"{name}:data", "--json").stdout)
    assert (uploaded["count"], uploaded["bytes"]) == (2, 2)
    listed = json.loads(run("ls", f"{name}:data", "--json").stdout)
    assert [item["name"] for item in listed] == ["data/a.txt", "data/sub/b.csv"]
    assert "2 objects, 2 B" in run("plan", f"{name}:data").stdout
    run("download", f"{name}:data", tmp_path / "out", "--include", "*.csv")
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
    assert "No datastore is registered as" in run("show", name, code=3).stderr
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
    done = run("list", "--json", code=1, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert "Prefect's server does not answer at http://127.0.0.1:9/api" in done.stderr
    assert json.loads(done.stdout)["error"] == "DatastoreError"
