"""Prefect's pages in headless Chromium, for tests; a module gets it by `pytest_plugins = ["browser"]`.

Pictures go to `screenshots/`, which git ignores; `docs/run-graph.png` and `docs/block-form.png` are copies of some of
them, and `docs/run-results.png` is of the demo's page.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import FloatRect, Page, Response, expect, sync_playwright
from servers.prefect_server import PrefectServer

SCREENSHOTS = Path(__file__).resolve().parents[1] / "screenshots"
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    # Logos and the pages' telemetry are elsewhere; no test needs them.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_WAIT_MS = 30_000
_SIZE = (1500, 900)
# A server that was told its port by `--port` tells its pages that the API is at port 4200. To
# answer for it by Playwright's routes would turn off the browser's cache, and take twice the time.
_FIND_API = """
const real = window.fetch;
window.fetch = async (...asked) => {
    const answer = await real(...asked);
    const settings = String(asked[0].url ?? asked[0]).endsWith("/ui-settings");
    return settings ? Response.json({...await answer.json(), api_url: "API_URL"}) : answer;
};
"""


class PrefectPage:
    """A tab with Prefect's pages of version 2."""

    def __init__(self, page: Page, server: PrefectServer) -> None:
        self.page, self._server = page, server
        self._answers: list[Response] = []
        self._read: list[str] = []
        page.on("response", lambda answer: self._answers.append(answer))  # noqa: PLW0108 - it asks for a def

    def open(self, path: str) -> None:
        """Open a page by its path below `/v2`."""
        self._read_answers()
        self.page.goto(f"{self._server.ui_url}/v2{path}", wait_until="commit")

    def reload(self) -> None:
        """Load the page anew."""
        self._read_answers()
        self.page.reload(wait_until="commit")

    def forget(self) -> None:
        """Forget what the API answered so far, and what the pages keep for later.

        A form that was left half filled is kept by the browser and filled in again.
        """
        # A page of the same origin that has no scripts, which would write it again.
        self.page.goto(f"{self._server.api_url}/health")
        self.page.evaluate("localStorage.clear()")
        self._answers.clear()
        self._read.clear()

    def picture(self, name: str, clip: FloatRect | None = None) -> Path:
        """Take a picture of the whole page, or of a part that is in view."""
        SCREENSHOTS.mkdir(exist_ok=True)
        target = SCREENSHOTS / f"{name}.png"
        whole = clip is None
        self.page.screenshot(path=target, full_page=whole, clip=clip, animations="disabled")
        return target

    def everything(self) -> str:
        """All that this tab has or was sent: HTML, text, the values of fields, the API's answers."""
        self._read_answers()
        values = self.page.locator("input, textarea, select").evaluate_all(
            "fields => fields.map(field => String(field.value))"
        )
        shown = [self.page.content(), self.page.inner_text("body")]
        return "\n".join([*shown, *values, *self._read])

    def _read_answers(self) -> None:
        api, has_body = f"{self._server.api_url}/", {200, 201}
        for answer in self._answers:
            if answer.url.startswith(api) and answer.status in has_body:
                # The browser drops the body of an answer that came after its page was left.
                with contextlib.suppress(PlaywrightError):
                    self._read.append(answer.text())
        self._answers.clear()


@pytest.fixture(scope="module")
def _tab(prefect_api: PrefectServer) -> Iterator[PrefectPage]:
    """A browser with one tab for the tests of a module: a tab has its scripts compiled.

    Not for the whole session: an event loop runs in this thread while Playwright is there, and
    tests of other modules have loops of their own.
    """
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.fail("There is no Chromium: run `make browser`.")
    expect.set_options(timeout=_WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*_FLAGS])
        page = browser.new_page(viewport={"width": _SIZE[0], "height": _SIZE[1]})
        page.set_default_timeout(_WAIT_MS)
        page.add_init_script(_FIND_API.replace("API_URL", prefect_api.api_url))
        yield PrefectPage(page, prefect_api)
        browser.close()


@pytest.fixture
def prefect_page(_tab: PrefectPage) -> PrefectPage:
    """A tab that has forgotten the test before."""
    _tab.page.set_viewport_size({"width": _SIZE[0], "height": _SIZE[1]})
    _tab.forget()
    return _tab
