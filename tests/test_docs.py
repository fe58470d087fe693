"""What the documents show is run: Python blocks in order, console lines, relative links."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from azure.storage.blob import ContainerClient
from servers.azurite import Azurite

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(path for path in ROOT.glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.xdist_group("the default datastore")
def test_the_readme_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, azurite: Azurite, container: ContainerClient
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCOUNT_KEY", azurite.key)
    named = f"AccountName={azurite.account};AccountKey={azurite.key};BlobEndpoint={azurite.url}"
    monkeypatch.setenv("CONNECTION_STRING", named)
    ran = {"python": 0, "console": 0}
    for language, text in BLOCK.findall((ROOT / "README.md").read_text()):
        if language == "python":
            # The account of the text is nobody's; Azurite stands for it.
            here = f'account_name="{azurite.account}", protocol="http", endpoint="{azurite.host}:{azurite.port}"'
            shown = text.replace('account_name="acme"', here).replace(
                'container_name="models"', f'container_name="{container.container_name}"'
            )
            # A module of its own each, from a file: flows are found by their source.
            program = tmp_path / f"readme_{ran['python']}.py"
            program.write_text(shown)
            done = subprocess.run(
                [sys.executable, program],
                capture_output=True,
                text=True,
                check=False,
                env=os.environ,
            )
            assert done.returncode == 0, text + done.stdout + done.stderr
            ran["python"] += 1
        if language == "console":
            for line in re.findall(r"^\$ prefect-datastores (.*)$", text, re.MULTILINE):
                command = [sys.executable, "-m", "prefect_datastores.cli", *shlex.split(line)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert done.returncode == 0, line + done.stdout + done.stderr
                ran["console"] += 1
            for line in re.findall(r"^\$ prefect (work-pool .*)$", text, re.MULTILINE):
                made = [sys.executable, "-m", "prefect", *shlex.split(line)]
                done = subprocess.run(made, capture_output=True, text=True, check=False)
                assert done.returncode == 0, line + done.stdout + done.stderr
                ran["console"] += 1
    assert ran["python"] >= 5
    assert ran["console"] >= 5
    assert (tmp_path / "copy-of-mnist/train.csv").read_text() == "digit,pixel\n7,255\n"
    generation = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")
    assert {generation.sub("G", blob.name) for blob in container.list_blobs()} == {
        "churn/.pds-current",
        "churn/.pds-data/G/model.txt",
        "ckpt/digits/.pds-current",
        "ckpt/digits/.pds-data/G.list",
        "ckpt/digits/.pds-data/G/epoch",
        "mnist/model.txt",
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if "://" not in target:
            assert (ROOT / target).exists(), f"{document.name} links to {target}"


def test_semantics_names_a_test_that_exists_for_each_promise() -> None:
    text = (ROOT / "SEMANTICS.md").read_text()
    promises = re.split(r"^## \d+\. ", text, flags=re.MULTILINE)[1:]
    assert len(promises) >= 10
    for promise in promises:
        named = re.findall(r"`tests/(\w+\.py)::(\w+)`", promise)
        assert named, f"no test is named: {promise.splitlines()[0]}"
        for file, function in named:
            source = (ROOT / "tests" / file).read_text() if (ROOT / "tests" / file).exists() else ""
            assert re.search(rf"def {function}\(", source), f"{file}::{function} does not exist"


def test_every_fault_has_a_row_and_a_test_that_exists() -> None:
    text = (ROOT / "docs/faults.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 43))
    for number, row in rows:
        named = re.findall(r"`(tests/\w+\.py|prefect_datastores/testing/\w+\.py)::(\w+)`", row)
        assert named, f"no test is named for fault {number}"
        for file, function in named:
            source = (ROOT / file).read_text() if (ROOT / file).exists() else ""
            assert re.search(rf"def {function}\(", source), f"{file}::{function} does not exist"
