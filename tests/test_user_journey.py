"""The way of a person through Prefect's pages: a datastore, a deployment, its run, and what that made."""

from __future__ import annotations

import contextlib
import io
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from azure.storage.blob import ContainerClient
from block_form import Form
from PIL import Image
from playwright.sync_api import Locator, expect
from scipy import ndimage
from servers.azurite import Azurite

from prefect_datastores import AccountKey, AzureBlobDatastore, Datastore, Estimator

if TYPE_CHECKING:
    from browser import PrefectPage

pytest_plugins = ["browser", "workers"]
pytestmark = [pytest.mark.xdist_group("user_journey"), pytest.mark.timeout(300)]

BLOBS = {
    "sample/part.csv": "1",
    "images/a.csv": "1",
    "images/b.csv": "2 3",
    "labels/part.csv": "of 1, 2 and 3",
}
RATE, SCORE = "0.75", "4.5"  # what is filled in, and what the script makes of it and of all images
# It takes as long as a bar of the graph needs that can be clicked.
SCRIPT = """
import argparse, json, pathlib, time
from PIL import Image
parser = argparse.ArgumentParser()
for name, kind in dict(images=pathlib.Path, labels=pathlib.Path, rate=float, epochs=int).items():
    parser.add_argument(f"--{name}", type=kind)
given = parser.parse_args()
rows = [float(row) for file in given.images.iterdir() for row in file.read_text().split()]
print("Training on", len(rows), "rows")
time.sleep(1)
metrics = {"score": given.rate * sum(rows), "rows": {"train": len(rows)}}
outputs = pathlib.Path("outputs")
(outputs / "metrics.json").write_text(json.dumps(metrics))
(outputs / "model.txt").write_text(f"{given.epochs} {(given.labels / 'part.csv').read_text()}")
Image.new("RGB", (200, 100), (200, 30, 30)).save(outputs / "confusion.png")
"""
AFTER = {
    "download source": {"run train.py"},
    "download mnist:images": {"run train.py"},
    "download mnist:labels": {"run train.py"},
    "run train.py": {"upload trained:classifier"},
    "upload trained:classifier": set(),
}
"""What a run's graph shows: each task run, and what comes after it."""


def test_a_person_makes_a_datastore_runs_a_deployment_on_it_and_reads_what_came_of_it(
    pool: str,
    worker: Path,
    prefect_page: PrefectPage,
    azurite: Azurite,
    container: ContainerClient,
    tmp_path: Path,
) -> None:
    trained = tmp_path / "trained"
    Datastore.register_local("trained", trained)
    for name, text in BLOBS.items():
        container.upload_blob(name, text)
    make_datastore(prefect_page, azurite, container.container_name)
    deploy(tmp_path / "src", pool)
    run_by_form(prefect_page)
    run_id = watch(prefect_page)
    read_artifacts(prefect_page)
    read_results(prefect_page)
    read_graph(prefect_page, run_id)
    read_logs(prefect_page, run_id)
    assert (trained / "classifier/model.txt").read_text() == "3 of 1, 2 and 3"
    assert not list(container.list_blobs(name_starts_with="classifier"))


def make_datastore(tab: PrefectPage, azurite: Azurite, container: str) -> None:
    """Find the kind in the catalog, and fill in its form."""
    page, form = tab.page, Form(tab)
    tab.open("/blocks/catalog")
    page.get_by_placeholder("Search").fill("azure blob datastore")
    create = page.locator("main").get_by_role("link", name="Create")
    expect(create).to_have_count(1)  # the others are no longer there
    create.click()
    expect(page).to_have_url(re.compile("/azure-blob-datastore/create$"))
    form.fill(Name="mnist", Account=azurite.account, Container=container)
    form.sign_in("Account key", {"Account key": azurite.key})
    form.fill(Protocol="http", Endpoint=f"{azurite.host}:{azurite.port}")
    form.save()
    expect(page.get_by_text("Paste this snippet")).to_be_visible()
    expect(page.locator("main")).to_contain_text(container)
    tab.picture("journey-datastore")
    made = Datastore.get("mnist")
    assert isinstance(made, AzureBlobDatastore)
    assert isinstance(made.auth, AccountKey)
    # What was left empty is what it is in Python.
    left = (made.blob_cache_timeout, made.subscription_id, made.resource_group)
    assert left == (-1, "", "")


def deploy(source: Path, pool: str) -> None:
    """Deploy an estimator on the datastore that the form made."""
    mnist = Datastore.get("mnist")
    source.mkdir()
    (source / "train.py").write_text(SCRIPT)
    Estimator(
        source,
        entry_script="train.py",
        name="train-mnist",
        script_params={
            "--images": mnist.path("sample").as_download(),
            "--labels": mnist.path("labels").as_download(),
            "--rate": 0.1,
            "--epochs": 3,
        },
        inputs=[mnist.path("classifier", "model").as_upload("outputs")],
        source_directory_data_store=mnist,
    ).deploy("nightly", pool)


def run_by_form(tab: PrefectPage) -> None:
    """Find the deployment, and run it with another number, other data, and another place of the results."""
    page, main = tab.page, tab.page.locator("main")
    tab.open("/deployments")
    page.get_by_placeholder("Search deployments").fill("train-mnist")  # among those of other tests
    main.get_by_role("row", name="train-mnist").get_by_role("link", name="nightly").click()
    page.get_by_role("button", name="Run", exact=True).click()
    tab.picture("journey-deployment")
    page.get_by_role("menuitem", name="Custom run").click()
    expect(main).to_contain_text("The argument --rate of train.py.")
    expect(main).to_contain_text("The data that train.py has at --images.")
    expect(main).to_contain_text("Where the results in outputs go.")
    page.get_by_label("rate").fill(RATE)
    # A card for each reference: images, labels, model.
    page.get_by_label("Path").first.fill("images")
    page.get_by_label("Datastore").last.click()
    page.get_by_role("option", name="trained", exact=True).click()
    tab.picture("journey-run-form")
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("button", name="View run").click()


def watch(tab: PrefectPage) -> str:
    """Look at the run's page, which is never loaded anew, until it says that the run is over; return its id."""
    address = re.compile(r"/runs/flow-run/([0-9a-f-]{36})")
    expect(tab.page).to_have_url(address)
    found = address.search(tab.page.url)
    assert found is not None
    expect(tab.page.locator("main").get_by_text("Completed").first).to_be_visible(timeout=120_000)
    return found[1]


def read_logs(tab: PrefectPage, run_id: str) -> None:
    panel = tab.page.get_by_role("tabpanel", name="Logs")
    until = time.monotonic() + 60
    while time.monotonic() < until:  # they come after the run's end, when its page asks no more
        tab.open(f"/runs/flow-run/{run_id}")
        tab.page.get_by_role("tab", name="Logs").click()
        with contextlib.suppress(AssertionError):
            expect(panel).to_contain_text("Finished in state Completed()", timeout=5_000)
            break
    for said in (
        "download mnist:images: 2 objects",
        "download mnist:labels: 1 object",
        "Running train.py",
        "Training on 3 rows",
        "upload trained:classifier: 3 objects",
    ):
        expect(panel).to_contain_text(said)


def read_artifacts(tab: PrefectPage) -> None:
    """Read how far each transfer got, and what it did to each object."""
    tab.page.get_by_role("tab", name="Task Runs").click()
    for name in AFTER:
        expect(tab.page.get_by_role("link", name=name)).to_be_visible()
    tab.picture("journey-task-runs")
    tab.page.get_by_role("tab", name="Artifacts").click()
    cards = tab.page.get_by_role("tabpanel", name="Artifacts").locator("[data-slot=card]")
    expect(cards).to_have_count(9)  # a bar and a table of each transfer, and what was made
    for of, all_of_it in (
        ("download source", "1/1 objects"),
        ("download mnist:images", "2/2 objects"),
        ("download mnist:labels", "1/1 objects"),
        ("upload trained:classifier", "3/3 objects"),
    ):
        of_it = cards.filter(has_text=of)
        expect(of_it).to_have_count(2)
        expect(of_it.filter(has_text=all_of_it)).to_have_count(1)
    results = cards.filter(has_text="results-train-mnist")
    expect(results).to_contain_text(f"score {SCORE}")
    expect(results).to_contain_text("3 objects stored at trained:classifier")
    tab.picture("journey-artifacts")
    cards.filter(has_text="download mnist:images: 2 objects").click()
    expect(tab.page).to_have_url(re.compile("/artifacts/"))
    row = tab.page.locator("main").get_by_role("row")
    for name, size in (("images/a.csv", "1 B"), ("images/b.csv", "3 B")):
        of_it = row.filter(has_text=name)
        for cell in ("moved", size, "md5"):
            expect(of_it.get_by_role("cell", name=cell, exact=True)).to_be_visible()
    tab.picture("journey-table")
    tab.page.go_back()


def read_graph(tab: PrefectPage, run_id: str) -> None:
    """Read the nodes of the graph by clicking on each, and what leads to what."""
    main = tab.page.locator("main")
    with tab.page.expect_response(re.compile(f"/{run_id}/graph-v2")) as answer:
        tab.open(f"/runs/flow-run/{run_id}")
    shown: dict[str, Any] = dict(answer.value.json()["nodes"])
    label = {key: node["label"] for key, node in shown.items()}
    assert {
        label[key]: {label[child["id"]] for child in node["children"]}
        for key, node in shown.items()
    } == AFTER
    graph, card = main.locator("canvas"), main.locator("[data-slot=card]").first
    places = drawn_nodes(graph, len(AFTER))
    box, whole = card.bounding_box(), main.bounding_box()
    assert box is not None
    assert whole is not None
    tab.picture("run-graph", {**whole, "height": box["y"] + box["height"] + 16})
    read, heading = list[str](), card.get_by_role("heading")
    for x, y in places:
        graph.click(position={"x": x, "y": y})
        read.append(heading.inner_text())
        card.get_by_role("button", name="Close panel").click()  # another node may lie below it
        expect(heading).to_have_count(0)
    assert {*read} == {*AFTER}


def nodes(graph: Locator) -> list[tuple[float, float]]:
    """The middle of each node: they are drawn, so they are found by colour."""
    picture = Image.open(io.BytesIO(graph.screenshot())).convert("RGB")
    red, green, blue = np.moveaxis(np.asarray(picture, dtype=int), 2, 0)
    completed = (green > 140) & (red < 80) & (blue < 120)
    labels, _ = ndimage.label(completed[:-12])  # below is the bar of the run, of the same colour
    return [
        ((x.start + x.stop) / 2, float(y.stop - 3))
        for y, x in ndimage.find_objects(labels)
        if y.stop - y.start > 12 and x.stop - x.start > 1
    ]


def drawn_nodes(graph: Locator, count: int) -> list[tuple[float, float]]:
    """The nodes, once all are drawn and stand still."""
    found: list[tuple[float, float]] = []
    until = time.monotonic() + 60  # without a graphics card it takes its time
    while time.monotonic() < until:
        before, found = found, nodes(graph)
        if len(found) == count and found == before:
            return found
    raise AssertionError(f"The graph shows {len(found)} nodes, not {count}.")


def read_results(tab: PrefectPage) -> None:
    """Open the page of what the run made, and read its number and its picture."""
    page, main = tab.page, tab.page.locator("main")
    panel = page.get_by_role("tabpanel", name="Artifacts")
    panel.locator("[data-slot=card]").filter(has_text="results-train-mnist").click()
    # All of that name; the newest is the first.
    main.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()
    expect(main.get_by_role("heading", name="train-mnist", level=1)).to_be_visible()
    expect(main.get_by_role("row", name=f"score {SCORE}")).to_be_visible()
    expect(main.get_by_role("row", name="rows.train 3")).to_be_visible()
    picture = main.get_by_role("img", name="confusion.png")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [200, 100]
    expect(main).to_contain_text("3 objects stored at trained:classifier")
    tab.picture("journey-results")
