"""The demo, as `make demo` runs it, and the example flow on a folder and on Azurite."""

import json
import os
import runpy
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest
from azure.storage.blob import ContainerClient
from servers.azurite import Azurite

from prefect_datastores import Datastore

ROOT = Path(__file__).parent.parent
PNG = b"\x89PNG\r\n\x1a\n"
GOOD = 0.95  # a support vector machine gets 0.98; chance is 0.1


@pytest.mark.timeout(400)
def test_the_demo_trains_on_staged_data_twice_in_a_row(tmp_path: Path) -> None:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")
    }
    # A server that is somebody's own is left alone.
    theirs = tmp_path / "theirs.db"
    environment["PREFECT_API_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{theirs}"
    environment["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    for _ in range(2):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "prefect_datastores.cli",
                "demo",
                "--home",
                str(tmp_path),
                "--json",
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads(done.stdout)
        assert result["accuracy"] > GOOD
        assert "Accuracy on images it has not seen" in done.stderr
        assert result["run_id"] in result["page"]
        outputs = Path(result["outputs"])
        assert json.loads((outputs / "metrics.json").read_text())["accuracy"] == result["accuracy"]
        assert (outputs / "confusion.png").read_bytes().startswith(PNG)
        assert (outputs / "model.joblib").stat().st_size > 0
    assert not list(tmp_path.rglob("*.part"))
    assert not theirs.exists()


def example(line: str, replacement: str, folder: Path) -> None:
    """Run `flows/train_digits.py` with its one line for the datastore changed."""
    text = (ROOT / "flows/train_digits.py").read_text()
    assert text.count(line) == 1
    changed = folder / "train_digits.py"
    changed.write_text(text.replace(line, replacement))
    runpy.run_path(str(changed), run_name="__main__")


LINE = 'store = Datastore.register_local("digits", "digits-datastore", overwrite=True)'


@pytest.mark.usefixtures("prefect_api")
def test_the_example_runs_on_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"digits_{uuid.uuid4().hex[:8]}"
    example(LINE, LINE.replace('"digits"', repr(name)), tmp_path)
    assert (
        json.loads((tmp_path / "digits-datastore/model/metrics.json").read_text())["accuracy"]
        > GOOD
    )


@pytest.mark.usefixtures("prefect_api")
def test_the_example_runs_on_azurite_with_one_changed_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, azurite: Azurite, container: ContainerClient
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"digits_{uuid.uuid4().hex[:8]}"
    azure = (
        f"store = Datastore.register_azure_blob_container(datastore_name={name!r}, "
        f"container_name={container.container_name!r}, account_name={azurite.account!r}, "
        f"account_key={azurite.key!r}, endpoint='{azurite.host}:{azurite.port}', protocol='http')"
    )
    example(LINE, azure, tmp_path)
    stored = {blob.name for blob in container.list_blobs(name_starts_with="model/")}
    assert stored == {"model/confusion.png", "model/metrics.json", "model/model.joblib"}
    metrics = json.loads(Datastore.get(name).read_path("model/metrics.json"))
    assert metrics["accuracy"] > GOOD


@pytest.mark.timeout(200)
def test_a_server_that_the_demo_started_ends_with_it(tmp_path: Path) -> None:
    arguments = ["-m", "prefect_datastores.cli", "demo", "--ui", "--home", str(tmp_path)]
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert "UI is at" in demo.stdout.readline()
        (server,) = psutil.Process(demo.pid).children()
        demo.terminate()
        assert demo.wait(60) == 128 + signal.SIGTERM
    assert not server.is_running()
