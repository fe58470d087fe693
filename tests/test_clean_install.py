"""What a person gets who installs the package alone, without this repository's constraints."""

import http.client
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from servers import prefect_server

REPOSITORY = Path(__file__).resolve().parents[1]

LOOK_INSIDE = """
import json
from importlib.metadata import version
from prefect.plugins import load_prefect_collections
print(json.dumps({
    "fastapi": version("fastapi"),
    "sqlalchemy": version("sqlalchemy"),
    "prefect": version("prefect"),
    "collections": {name: repr(found) for name, found in load_prefect_collections().items()},
}))
"""


def install(environment: Path, env: dict[str, str]) -> Path:
    """Make an environment with the package, built from this checkout; return its Python."""
    python = environment / "bin" / "python"
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]]))
    if uv:
        make = [sys.executable, "-m", "venv", "--without-pip", environment]
        add = [uv, "pip", "install", "-q", "--python", python]
    else:
        make = [sys.executable, "-m", "venv", environment]
        add = [python, "-m", "pip", "install", "-q"]
    subprocess.run(make, check=True)
    subprocess.run([*add, REPOSITORY], check=True, env=env, cwd=environment)
    return python


@pytest.mark.timeout(600)
def test_a_clean_install_runs_the_server_and_finds_the_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_CONSTRAINT", "UV_CONSTRAINT", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.delenv(name, raising=False)
    python = install(tmp_path / "environment", dict(os.environ))

    running = prefect_server.start(tmp_path, python=str(python))
    try:
        running.server.wait_until_ready(180)
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        connection.request("GET", "/api/admin/version")
        served = json.loads(connection.getresponse().read())
        connection.close()
    finally:
        running.server.stop()

    said = subprocess.run(
        [python, "-c", LOOK_INSIDE], check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout
    inside = json.loads(said.splitlines()[-1])
    assert served == inside["prefect"]
    for name, bound in (("fastapi", (0, 151)), ("sqlalchemy", (2, 1))):
        assert tuple(int(part) for part in inside[name].split(".")[:2]) < bound
    found = [value for name, value in inside["collections"].items() if "prefect_datastores" in name]
    assert len(found) == 1
    assert found[0].startswith("<module 'prefect_datastores'")
