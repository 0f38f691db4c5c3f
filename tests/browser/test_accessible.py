"""axe-core finds nothing serious in any state of the page, light or dark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import visit
from tests.conftest import Built
from tests.search.serving import served
from wentu.library.status import Status

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}}


def violations(page: Page) -> list[str]:
    """What axe-core calls serious or critical, with where it is."""
    # Half-faded text has no contrast: what was asked is answered, and the fades are over.
    expect(page.locator("body.searching")).to_have_count(0)
    page.wait_for_timeout(300)
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def start(page: Page) -> None:
    expect(page.locator("#intro")).to_be_visible()


def results(page: Page) -> None:
    page.fill("#text", "圆形 -红色")
    expect(page.locator("#count")).to_contain_text("Best of")
    page.hover(".tile:nth-child(2)")


def filters(page: Page) -> None:
    results(page)
    page.click("#refine")
    page.fill("[name=name]", "00")
    expect(page.locator("#chips button").first).to_be_visible()


def large(page: Page) -> None:
    results(page)
    page.click(".tile:first-child a")
    expect(page.locator("#viewer .captions")).to_be_visible()


def nothing(page: Page) -> None:
    page.goto(page.url.partition("#")[0] + "#q=x&name=nosuchname")
    expect(page.locator("#notice h2")).to_have_text("Nothing fits")


def about(page: Page) -> None:
    page.click("#release")
    expect(page.locator("#about")).to_be_visible()


STATES = (start, results, filters, large, nothing, about)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_nothing_serious(
    browser: Browser, base: str, state: Callable[[Page], None], theme: Any
) -> None:
    with visit(browser, base, color_scheme=theme) as page:
        state(page)
        assert violations(page) == []


def test_nothing_serious_on_a_telephone(browser: Browser, base: str, some_picture: Path) -> None:
    with visit(browser, base, locale="zh-CN", **PHONE) as page:
        page.set_input_files("#file", some_picture)
        expect(page.locator("#sample")).to_be_visible()
        expect(page.locator(".tile").first).to_be_visible()
        assert violations(page) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_serious_where_something_is_wrong(
    browser: Browser, gallery: Built, theme: Any
) -> None:
    away = Status(state="away", indexed=150, waiting=0, damaged=0, pid=0)
    with served(gallery.store, token="secret", library=lambda: away) as client:
        base = str(client.base_url).rstrip("/")
        with visit(browser, base, refusals=True, color_scheme=theme) as page:
            page.fill("#token-text", "wrong")
            page.keyboard.press("Enter")
            expect(page.locator("#token-wrong")).not_to_be_empty()
            assert violations(page) == []
            page.fill("#token-text", "secret")
            page.keyboard.press("Enter")
            expect(page.locator(".tile").first).to_be_visible()
            expect(page.locator("#library")).to_be_visible()
            page.route("**/api/v1/search", lambda route: route.abort())
            page.fill("#text", "x")
            expect(page.locator("#banner")).to_be_visible()
            assert violations(page) == []
