"""The page of an estimator's run shows what was staged: a graph of named tasks, and how far each got."""

from __future__ import annotations

import io
import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, expect
from scipy import ndimage

from prefect_datastores import Datastore, Estimator

if TYPE_CHECKING:
    from browser import PrefectPage
    from servers.prefect_server import PrefectServer

pytest_plugins = ["browser"]
pytestmark = pytest.mark.xdist_group("run_page")

NAMES = [
    *("download mnist:images", "download mnist:labels"),
    *("run train.py", "upload trained:classifier"),
]
# It takes as long as a bar needs that can be seen and clicked.
SCRIPT = """
import json, pathlib, time
from PIL import Image
time.sleep(1.5)
pathlib.Path("outputs/model.txt").write_text("a model")
pathlib.Path("outputs/metrics.json").write_text(json.dumps({"accuracy": 0.98765, "rows": {"train": 1000}}))
Image.new("RGB", (200, 100), (200, 30, 30)).save("outputs/confusion.png")
"""


@pytest.fixture(scope="module")
def run_id(prefect_api: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of an estimator's run with two downloads and an upload.

    It is over before the browser starts, whose event loop is not the run's business.
    """
    folder = tmp_path_factory.mktemp("estimator")
    mnist = Datastore.register_local("mnist", folder / "mnist", overwrite=True)
    trained = Datastore.register_local("trained", folder / "trained", overwrite=True)
    for name in ("images", "labels"):
        (folder / name).mkdir()
        (folder / name / "part.csv").write_text("1,2,3\n" * 1000)
        mnist.upload(folder / name, target_path=name)
    (folder / "source").mkdir()
    (folder / "source/train.py").write_text(SCRIPT)
    estimator = Estimator(
        folder / "source",
        entry_script="train.py",
        name="train-mnist",
        script_params={
            "--images": mnist.path("images").as_download(),
            "--labels": mnist.path("labels").as_download(),
        },
        inputs=[trained.path("classifier").as_upload("outputs")],
    )
    run_id: str = estimator.run()["run_id"]
    return run_id


@pytest.fixture
def run_page(run_id: str, prefect_page: PrefectPage) -> PrefectPage:
    """The page of the run."""
    prefect_page.open(f"/runs/flow-run/{run_id}")
    expect(prefect_page.page.locator("main")).to_contain_text("train-mnist")
    expect(prefect_page.page.locator("main")).to_contain_text("Completed")
    return prefect_page


def nodes(graph: Locator) -> list[tuple[float, float, float]]:
    """Width and middle of each node, widest first: they are drawn, so they are found by colour."""
    picture = Image.open(io.BytesIO(graph.screenshot())).convert("RGB")
    red, green, blue = np.moveaxis(np.asarray(picture, dtype=int), 2, 0)
    completed = (green > 140) & (red < 80) & (blue < 120)
    labels, _ = ndimage.label(completed[:-12])  # below is the bar of the run, of the same colour
    found = [
        (float(x.stop - x.start), (x.start + x.stop) / 2, float(y.stop - 3))
        for y, x in ndimage.find_objects(labels)
        if y.stop - y.start > 20 and x.stop - x.start > 4
    ]
    return sorted(found, reverse=True)


def drawn_nodes(graph: Locator) -> list[tuple[float, float, float]]:
    """The nodes, once all are drawn and stand still."""
    found: list[tuple[float, float, float]] = []
    until = time.monotonic() + 60  # without a graphics card it takes its time
    while time.monotonic() < until:
        before, found = found, nodes(graph)
        if len(found) == len(NAMES) and found == before:
            return found
    raise AssertionError(f"The graph shows {len(found)} nodes, not {len(NAMES)}.")


def test_the_graph_shows_downloads_the_script_and_the_upload(run_page: PrefectPage) -> None:
    main = run_page.page.locator("main")
    graph = main.locator("canvas")
    (_, x, y), *_ = drawn_nodes(graph)
    card, whole = main.locator("[data-slot=card]").first.bounding_box(), main.bounding_box()
    assert card is not None
    assert whole is not None
    run_page.picture("run-graph", {**whole, "height": card["y"] + card["height"] + 16})
    graph.click(position={"x": x, "y": y})
    opened = main.locator("[data-slot=card]").first
    expect(opened).to_contain_text("run train.py")
    expect(opened).to_contain_text("Task Run ID")
    run_page.picture("run-page")


def test_the_graph_leads_from_each_download_by_the_script_to_the_upload(
    run_id: str, prefect_page: PrefectPage
) -> None:
    with prefect_page.page.expect_response(re.compile(f"/{run_id}/graph-v2")) as answer:
        prefect_page.open(f"/runs/flow-run/{run_id}")
    graph: dict[str, Any] = dict(answer.value.json()["nodes"])
    label = {key: node["label"] for key, node in graph.items()}
    after = {
        label[key]: {label[child["id"]] for child in node["children"]}
        for key, node in graph.items()
    }
    assert after == {
        "download mnist:images": {"run train.py"},
        "download mnist:labels": {"run train.py"},
        "run train.py": {"upload trained:classifier"},
        "upload trained:classifier": set(),
    }


def test_the_task_runs_have_the_names_of_what_they_move(run_page: PrefectPage) -> None:
    run_page.page.get_by_role("tab", name="Task Runs").click()
    for name in NAMES:
        expect(run_page.page.get_by_role("link", name=name)).to_be_visible()
    run_page.picture("run-task-runs")


def test_the_artifacts_say_how_far_each_transfer_got(run_page: PrefectPage) -> None:
    run_page.page.get_by_role("tab", name="Artifacts").click()
    panel = run_page.page.get_by_role("tabpanel", name="Artifacts")
    artifacts = panel.locator("[data-slot=card]")
    expect(artifacts).to_have_count(7)  # a bar and a table of each transfer, and what was made
    run_page.picture("run-artifacts")
    expect(artifacts.filter(has_text="Downloaded 1 object")).to_have_count(2)
    expect(artifacts.filter(has_text="Uploaded 3 objects")).to_have_count(1)
    expect(artifacts.filter(has_text="1/1 objects")).to_have_count(2)
    expect(artifacts.filter(has_text="3/3 objects")).to_have_count(1)
    expect(artifacts.filter(has_text="Downloading")).to_have_count(2)
    expect(artifacts.filter(has_text="Uploading")).to_have_count(1)


def test_the_numbers_and_pictures_of_a_run_are_on_a_page(run_page: PrefectPage) -> None:
    run_page.page.get_by_role("tab", name="Artifacts").click()
    panel = run_page.page.get_by_role("tabpanel", name="Artifacts")
    card = panel.locator("[data-slot=card]").filter(has_text="accuracy 0.98765")
    expect(card).to_contain_text("results-train-mnist")
    expect(card).to_contain_text("3 objects stored at trained:classifier")
    card.click()
    main = run_page.page.locator("main")  # all of that name; the newest is the first
    main.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()
    expect(main.get_by_role("heading", name="train-mnist", level=1)).to_be_visible()
    expect(main.get_by_role("row", name="accuracy 0.98765")).to_be_visible()
    expect(main.get_by_role("row", name="rows.train 1000")).to_be_visible()
    picture = main.get_by_role("img", name="confusion.png")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [200, 100]
    where = main.get_by_text("which is").first
    expect(where).to_contain_text("trained/classifier")
    where.evaluate("text => text.remove()")  # a folder of this test is for no picture
    run_page.picture("run-results", {"x": 0, "y": 0, "width": 1500, "height": 700})


def test_the_logs_say_what_was_moved(run_page: PrefectPage) -> None:
    run_page.page.get_by_role("tab", name="Logs").click()
    panel = run_page.page.get_by_role("tabpanel", name="Logs")
    expect(panel).to_contain_text("Running train.py")
    expect(panel).to_contain_text("Downloaded 1 object")
    expect(panel).to_contain_text("Uploaded 3 objects")
