"""What was made out of what: places of datastores as assets of Prefect, in events of the real server."""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import get_client

from prefect_datastores import DataReference, Datastore, Estimator, stage
from prefect_datastores.assets import asset_of
from prefect_datastores.errors import DatastoreError
from prefect_datastores.references import checked_reference

MATERIALIZED = "prefect.asset.materialization.succeeded"


def place(path: str) -> DataReference:
    return checked_reference({"datastore": "raw", "path_on_datastore": path})


def test_a_place_is_an_asset_by_its_uri() -> None:
    asset = asset_of(place("mnist/2024"))
    assert asset.key == "datastore://raw/mnist/2024"
    assert asset.properties is not None
    assert asset.properties.name == "raw:mnist/2024"
    assert asset_of(place("mnist/2024").as_download()) == asset_of(place("mnist/2024").as_upload())
    assert asset_of(place("")).key == "datastore://raw/"


@given(st.lists(st.text(min_size=1, max_size=300), min_size=2, max_size=2, unique=True))
def test_every_place_is_an_asset_and_each_another(paths: list[str]) -> None:
    places = set()
    for path in paths:
        with contextlib.suppress(DatastoreError):  # no name of an object, so no place
            places.add(place(path))
    assert len({asset_of(one).key for one in places}) == len(places)


def test_places_that_would_have_one_key_are_told_apart() -> None:
    places = [place(path) for path in ("a b", "a_b", "a?b", "x" * 600, "x" * 601)]
    keys = {asset_of(one).key for one in places}
    assert len(keys) == len(places)
    assert max(map(len, keys)) <= 512


def events(asset: str) -> list[dict[str, Any]]:
    wanted = {
        "event": {"prefix": ["prefect.asset."]},
        "resource": {"id": [asset]},
        "order": "ASC",
    }
    with get_client(sync_client=True) as client:
        answer = client.request("POST", "/events/filter", json={"filter": wanted}).json()
    found: list[dict[str, Any]] = answer["events"]
    return found


def made_of(asset: str, seconds: float = 60) -> set[str]:
    """The assets that one was made of, once the server knows it."""
    until = time.monotonic() + seconds
    while not (made := [one for one in events(asset) if one["event"] == MATERIALIZED]):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.2)
    (event,) = made
    return {
        related["prefect.resource.id"]
        for related in event["related"]
        if related["prefect.resource.role"] == "asset"
    }


@pytest.mark.usefixtures("prefect_api")
def test_a_model_is_known_to_be_made_of_its_data(tmp_path: Path) -> None:
    name = f"assets_{uuid.uuid4().hex[:8]}"
    store = Datastore.register_local(name, tmp_path / "store")
    for part in ("images", "labels"):
        (tmp_path / "store" / part).mkdir()
        (tmp_path / "store" / part / "a.csv").write_text("1")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/train.py").write_text("open('outputs/model', 'w').write('m')")
    inputs = [store.path("images").as_download(), store.path("labels").as_download()]
    Estimator(
        tmp_path / "src",
        entry_script="train.py",
        inputs=[*inputs, store.path("model").as_upload("outputs")],
    ).run()

    @flow
    def score() -> None:
        with stage(
            model=store.path("model").as_download(), scores=store.path("scores").as_upload()
        ) as paths:
            (paths.scores / "a").write_text((paths.model / "model").read_text())

    score()
    assert made_of(f"datastore://{name}/model") == {
        f"datastore://{name}/images",
        f"datastore://{name}/labels",
    }
    assert made_of(f"datastore://{name}/scores") == {f"datastore://{name}/model"}
    referenced = [one["event"] for one in events(f"datastore://{name}/images")]
    assert referenced == ["prefect.asset.referenced"]
