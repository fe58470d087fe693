"""What a run made, as a page: its numbers and pictures, within limits, without links and secrets."""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from prefect_datastores import Datastore, Estimator
from prefect_datastores.errors import ScriptFailed
from prefect_datastores.redaction import MASK, remember
from prefect_datastores.results_page import (
    ALL_PICTURES,
    LARGEST_PICTURE,
    MOST_NUMBERS,
    MOST_PICTURES,
    metrics,
    results_page,
    show_results,
)

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


def page(outputs: Path) -> str:
    return results_page("train", outputs, metrics(outputs), "2 objects stored at `models:x`")


def test_numbers_are_a_table_and_pictures_are_shown(tmp_path: Path) -> None:
    found = {"accuracy": 0.98765432, "steps": 10, "good": True, "by": {"class": {"7": 0.5}}}
    (tmp_path / "metrics.json").write_text(json.dumps({**found, "curve": [1, 2], "none": None}))
    (tmp_path / "b.png").write_bytes(PNG)
    (tmp_path / "a.png").write_bytes(PNG + b"a")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/c.png").write_bytes(PNG)
    assert metrics(tmp_path) == {
        "accuracy": "0.987654",
        "steps": "10",
        "good": "True",
        "by.class.7": "0.5",
    }
    shown = page(tmp_path)
    assert "| accuracy | 0.987654 |" in shown
    assert "| by.class.7 | 0.5 |" in shown
    first, second = shown.index("## a.png"), shown.index("## b.png")
    assert first < second
    assert f"![a.png](data:image/png;base64,{base64.b64encode(PNG + b'a').decode()})" in shown
    assert "c.png" not in shown


@pytest.mark.parametrize("text", ["{", "[1, 2]", "3", '{"a": [1]}', "[" * 100_000, "\x00"])
def test_what_holds_no_numbers_is_no_table(tmp_path: Path, text: str) -> None:
    assert metrics(tmp_path) == {}
    (tmp_path / "metrics.json").write_text(text)
    assert metrics(tmp_path) == {}
    assert "| | |" not in page(tmp_path)


def test_a_page_has_no_more_than_it_may_and_says_what_it_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({f"n{i:03}": i for i in range(60)}))
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(PNG)
    (tmp_path / "large.png").write_bytes(PNG + bytes(LARGEST_PICTURE))
    shown = page(tmp_path)
    assert f"| n{MOST_NUMBERS - 1:03} |" in shown
    assert f"| n{MOST_NUMBERS:03} |" not in shown
    assert "10 more numbers are in `metrics.json`" in shown
    assert shown.count("](data:") == MOST_PICTURES
    assert "8.png, 9.png, large.png" in shown
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(PNG + bytes(LARGEST_PICTURE - 100))
    assert len(page(tmp_path)) < 2 * ALL_PICTURES


def test_no_link_is_followed_and_nothing_but_pictures_is_shown(tmp_path: Path) -> None:
    outputs, other = tmp_path / "outputs", tmp_path / "other"
    outputs.mkdir()
    other.write_bytes(PNG)
    (outputs / "link.png").symlink_to(other)
    (outputs / "text.png").write_text("no picture")
    (outputs / "folder.png").mkdir()
    os.mkfifo(outputs / "pipe.png")
    (tmp_path / "secrets.json").write_text('{"password": "x"}')
    (outputs / "metrics.json").symlink_to(tmp_path / "secrets.json")
    assert page(outputs) == page(tmp_path / "there is none")


def test_a_name_or_a_value_is_text_and_no_part_of_the_page(tmp_path: Path) -> None:
    value = 'a|b <img src=x onerror="x"> [l](javascript:x) `c` **d**\n# heading'
    (tmp_path / "metrics.json").write_text(json.dumps({"key|<script>": value}))
    (tmp_path / "x](y) <b>.png").write_bytes(PNG)
    shown = page(tmp_path)
    for sign in ("<img", "<script", "<b>", "[l](", "**d**"):
        assert sign not in shown.replace(f"\\{sign[0]}", "")
    (row,) = [line for line in shown.splitlines() if line.startswith("| key")]
    assert row.replace("\\|", "").count("|") == 3


def test_a_secret_is_masked(tmp_path: Path) -> None:
    secret = secrets.token_hex(16)
    remember(secret)
    (tmp_path / "metrics.json").write_text(json.dumps({"key": secret, secret: 1}))
    (tmp_path / f"{secret}.png").write_bytes(PNG)
    shown = page(tmp_path)
    assert secret not in shown
    assert MASK.replace("*", "\\*") in shown or MASK in shown


def results_of(name: str) -> list[dict[str, Any]]:
    wanted = {"artifacts": {"key": {"any_": [name]}}}
    with get_client(sync_client=True) as client:
        found: list[dict[str, Any]] = client.request(
            "POST", "/artifacts/filter", json=wanted
        ).json()
    return found


@pytest.mark.usefixtures("prefect_api")
def test_a_run_that_failed_shows_what_it_made_where_that_was_stored(tmp_path: Path) -> None:
    source, name = tmp_path / "src", f"of-{secrets.token_hex(4)}"
    source.mkdir()
    (source / "train.py").write_text(
        "open('outputs/metrics.json', 'w').write('{\"loss\": 3.5}')\nraise SystemExit(3)"
    )
    store = Datastore.register_local(name, tmp_path / "store")
    for when, shown in (("success", 0), ("always", 1)):
        outputs = store.path("out").as_upload("outputs", when=when)  # type: ignore[arg-type]
        est = Estimator(source, entry_script="train.py", name=f"Train {name}!", inputs=[outputs])
        with pytest.raises(ScriptFailed):
            est.run()
        found = results_of(f"results-train-{name}")
        assert len(found) == shown
    assert "| loss | 3.5 |" in found[0]["data"]
    assert "loss 3.5" in found[0]["description"]


@pytest.mark.usefixtures("prefect_api")
def test_the_page_leads_to_where_the_results_are(tmp_path: Path) -> None:
    name, url = f"of-{secrets.token_hex(4)}", "https://acme.blob.core.windows.net/models/a b"

    @flow
    def show() -> None:
        show_results(name, tmp_path, uri="models:a b", url=url, stored=2)

    show()
    (found,) = results_of(f"results-{name}")
    assert "2 objects stored at `models:a b`" in found["data"]
    assert "](https://acme.blob.core.windows.net/models/a%20b)" in found["data"]


@pytest.mark.filterwarnings("ignore:Artifact creation outside")
def test_no_server_costs_the_page_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    show_results("train", tmp_path, uri="x:y", url="https://acme/x", stored=1)
