"""The form of a block in Prefect's pages, as a person uses it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from playwright.sync_api import Locator, Response, expect

if TYPE_CHECKING:
    from browser import PrefectPage

# What the server says when SQLite is locked by other tests; a person presses the button again.
_OK, _BUSY = 200, 503


class Form:
    """The form of a block in a tab."""

    def __init__(self, tab: PrefectPage) -> None:
        self.tab, self.form = tab, tab.page.locator("form")

    def create(self, slug: str) -> Form:
        self.tab.open(f"/blocks/catalog/{slug}/create")
        expect(self.form.get_by_role("button", name="Save")).to_be_visible()
        return self

    def edit(self) -> Form:
        """Open the form of the block whose page is open, as its menu does."""
        expect(self.tab.page.get_by_text("Paste this snippet")).to_be_visible()
        self.tab.page.get_by_role("button", name="Open menu").click()
        self.tab.page.get_by_role("menuitem", name="Edit").click()
        expect(self.tab.page).to_have_url(re.compile(r"/blocks/block/[0-9a-f-]{36}/edit$"))
        return self._filled()

    def reload(self) -> Form:
        """Open the form anew: now its scripts come after the block's values, and not before."""
        self.tab.reload()
        return self._filled()

    def _filled(self) -> Form:
        expect(self.field("Account")).not_to_have_value("")
        return self

    def field(self, label: str, within: Locator | None = None) -> Locator:
        named = re.compile(rf"^{re.escape(label)}( \(Optional\))?$")
        return (
            (within or self.form).locator("input, textarea").and_(self.tab.page.get_by_label(named))
        )

    def fill(self, **values: str) -> None:
        for label, value in values.items():
            self.field(label).fill(value)

    def sign_in(self, title: str, typed: dict[str, str] | None = None) -> Locator:
        """Choose a tab and fill it in."""
        self.form.get_by_role("tab", name=title, exact=True).click()
        panel = self.form.get_by_role("tabpanel", name=title, exact=True)
        expect(panel).to_be_visible()
        for label, value in (typed or {}).items():
            self.field(label, panel).fill(value)
        return panel

    def save(self) -> str:
        """Save, and return the id of the block whose page opens."""
        # The form gathers what is typed, for 10 ms at each level of it; a person is never so quick.
        self.tab.page.evaluate("new Promise(done => setTimeout(done, 100))")
        for _ in range(5):
            # Longer than the server itself waits for its database.
            with self.tab.page.expect_response(_ends_save, timeout=90_000) as answer:
                self.form.get_by_role("button", name="Save").click()
            if answer.value.status != _BUSY:
                break
        assert answer.value.ok, f"{answer.value.url} answered {answer.value.status}"
        page = re.compile(r"/blocks/block/([0-9a-f-]{36})$")
        expect(self.tab.page).to_have_url(page)
        found = page.search(self.tab.page.url)
        assert found is not None
        return found[1]


def _ends_save(answer: Response) -> bool:
    """Tell the answer to a save; before it the form has its values checked, and ends where that fails."""
    saves = answer.request.method in {"POST", "PATCH"} and "/api/block_documents/" in answer.url
    checks = answer.url.endswith("/api/ui/schemas/validate")
    return saves or (checks and answer.status != _OK) or answer.status == _BUSY
