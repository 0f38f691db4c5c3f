"""How it is used: by keyboard, in two languages, back and forth; how it grows."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import PHONE, Asked, visit
from tests.search.serving import served

FIRST = ".tile:first-child"


def focused(page: Page) -> Any:
    """Which hit the keyboard is at."""
    return page.evaluate("document.activeElement.dataset.index")


# --- large ------------------------------------------------------------------------------------


def test_a_picture_large_first_small_then_sharp(browser: Browser, base: str) -> None:
    with visit(browser, base, "/#q=圆形") as page:
        page.click(f"{FIRST} a")
        picture = page.locator("#viewer .stage img")
        expect(picture).to_have_attribute("src", re.compile("/original$"))
        expect(page.locator("#viewer .captions li").first).to_be_visible()
        facts = page.locator("#viewer .facts")
        expect(facts.nth(0)).to_contain_text("Similarity")
        expect(facts.nth(1)).to_contain_text("×")
        expect(facts.nth(1)).to_contain_text("B")
        with page.expect_download() as download:
            page.click("#viewer a[download]")
        assert download.value.suggested_filename == page.inner_text("#viewer-name")


def test_the_next_one_the_one_before_and_a_link(browser: Browser, base: str) -> None:
    with visit(browser, base, "/#q=圆形") as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.click(f"{FIRST} a")
        first = page.inner_text("#viewer-name")
        expect(page.locator("#viewer-before")).to_be_disabled()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#viewer-name")).not_to_have_text(first)
        page.click("#viewer-before")
        expect(page.locator("#viewer-name")).to_have_text(first)
        page.click("#viewer-link")
        expect(page.locator("#toast")).to_have_text("Copied")
        link = page.evaluate("navigator.clipboard.readText()")
        assert link == page.url
        page.click("#viewer-copy")
        page.wait_for_timeout(100)
        assert page.evaluate("navigator.clipboard.readText()") == first
    with visit(browser, base, link.removeprefix(base)) as page:  # somebody else
        expect(page.locator("#viewer-name")).to_have_text(first)
        expect(page.locator("#text")).to_have_value("圆形")


def test_back_and_forward(browser: Browser, base: str) -> None:
    with visit(browser, base) as page:
        page.locator("#text").press_sequentially("红色", delay=10)
        expect(page.locator("#count")).to_contain_text("Best of")
        page.click(f"{FIRST} a")
        name = page.inner_text("#viewer-name")
        page.click("#viewer-like")
        expect(page.locator("#sample")).to_be_visible()
        expect(page.locator("#viewer")).to_be_hidden()
        page.go_back()
        expect(page.locator("#viewer-name")).to_have_text(name)
        page.go_back()
        expect(page.locator("#viewer")).to_be_hidden()
        expect(page.locator("#text")).to_have_value("红色")
        page.go_back()
        expect(page.locator("#text")).to_have_value("")
        expect(page.locator("#intro")).to_be_visible()
        page.go_forward()
        expect(page.locator("#text")).to_have_value("红色")
        page.reload()
        expect(page.locator("#text")).to_have_value("红色")
        expect(page.locator("#count")).to_contain_text("Best of")


def test_a_day_is_the_same_everywhere(browser: Browser, base: str, service: httpx.Client) -> None:
    first = service.get("/api/v1/browse?k=1").json()["hits"][0]
    day = date.fromisoformat(first["added"])
    path = f"/#open={first['id']}"
    with visit(browser, base, path, timezone_id="America/Los_Angeles") as page:
        shown = f"{day:%b} {day.day}, {day.year}"
        expect(page.locator("#viewer .facts.more")).to_contain_text(f"Added{shown}")


# --- keyboard ---------------------------------------------------------------------------------


def test_the_keyboard_alone(browser: Browser, base: str) -> None:
    with visit(browser, base) as page:
        page.wait_for_selector(FIRST)
        page.keyboard.press("Escape")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("/")
        page.keyboard.type("圆形")
        page.keyboard.press("Enter")
        expect(page.locator("#count")).to_contain_text("Best of")
        page.keyboard.press("ArrowDown")
        assert focused(page) == "0"
        for key, index in (("ArrowRight", "1"), ("ArrowRight", "2"), ("ArrowLeft", "1")):
            page.keyboard.press(key)
            assert focused(page) == index
        page.keyboard.press("ArrowDown")
        below = int(focused(page))
        assert below > 3
        page.keyboard.press("ArrowUp")
        assert focused(page) == "1"
        page.keyboard.press("End")
        assert int(focused(page)) > 40
        expect(page.locator(":focus")).to_be_in_viewport()
        page.keyboard.press("Home")
        assert focused(page) == "0"
        page.keyboard.press("Enter")
        expect(page.locator("#viewer")).to_be_visible()
        inside = "!!document.activeElement.closest('#viewer, body:not(:has(:focus))')"
        for _ in range(12):
            page.keyboard.press("Tab")
            assert page.evaluate(inside)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Escape")
        expect(page.locator("#viewer")).to_be_hidden()
        assert focused(page) == "1"
        page.keyboard.press("Shift+Tab")
        assert page.evaluate("document.activeElement.id") == "release"


def test_the_first_stop_leads_past_everything(browser: Browser, base: str) -> None:
    with visit(browser, base, "/#q=圆形") as page:
        page.wait_for_selector(FIRST)
        page.focus("#text")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Shift+Tab")
        expect(page.locator("#skip")).to_be_focused()
        page.keyboard.press("Enter")
        assert focused(page) == "0"


def test_the_keyboard_stays_at_the_filters_that_are_left(browser: Browser, base: str) -> None:
    named = "document.activeElement.dataset.name ?? document.activeElement.id"
    with visit(browser, base, "/#q=圆形&folder=winter&name=0&min_side=80") as page:
        expect(page.locator("#count")).to_contain_text("pictures")
        page.focus("[data-name=name]")
        for left in ("min_side", "folder", "refine"):
            with page.expect_response("**/api/v1/search"):
                page.keyboard.press("Enter")
                assert page.evaluate(named) == left  # at once
            expect(page.locator("body.searching")).to_have_count(0)
            assert page.evaluate(named) == left  # and when it is answered


def test_the_keyboard_goes_to_the_pictures_that_a_button_brings(
    browser: Browser, base: str, calibrated: str
) -> None:
    with visit(browser, base, "/#q=x&name=nosuchname") as page:
        page.focus("#notice button")
        page.keyboard.press("Enter")
        expect(page.locator(FIRST)).to_be_visible()
        assert focused(page) == "0"
    with (
        served(calibrated) as client,
        visit(browser, str(client.base_url).rstrip("/")) as page,
    ):
        page.fill("#text", "red circle")
        page.focus("#notice button")
        page.keyboard.press("Enter")
        expect(page.locator(FIRST)).to_be_visible()
        assert focused(page) == "0"


UNDER_THE_TOP = """() => document.activeElement.getBoundingClientRect().top
    < document.querySelector(".top").getBoundingClientRect().bottom"""


@pytest.mark.parametrize("context", [{}, PHONE], ids=["desktop", "telephone"])
def test_no_picture_lies_under_the_top(
    browser: Browser, base: str, context: dict[str, Any]
) -> None:
    with visit(browser, base, "/#q=圆形", **context) as page:
        page.wait_for_selector(FIRST)
        page.focus(f"{FIRST} a")
        page.keyboard.press("End")
        for _ in range(6):
            page.keyboard.press("ArrowUp")
            assert not page.evaluate(UNDER_THE_TOP)
            expect(page.locator(":focus")).to_be_in_viewport()


# --- languages and themes ---------------------------------------------------------------------


def test_the_language_of_the_browser_and_the_other(browser: Browser, base: str) -> None:
    with visit(browser, base, locale="zh-CN", refusals=True) as page:
        expect(page.locator("#refine")).to_have_text("筛选")
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
        too_much = "圆形" + "".join(f" -{each}" for each in range(17))
        page.fill("#text", too_much)  # refused by the service, in the language of the page
        expect(page.locator("#notice p")).to_have_text("文字中排除了 17 项；最多 16 项。")
        page.click("#language")
        expect(page.locator("#refine")).to_have_text("Filters")
        expect(page.locator("#notice p")).to_contain_text("excludes 17 things")
        page.reload()
        expect(page.locator("#refine")).to_have_text("Filters")
        expect(page.locator("#notice p")).to_contain_text("excludes 17 things")


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_theme_of_the_system_and_the_others(browser: Browser, base: str, system: Any) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    with visit(browser, base, color_scheme=system) as page:
        seen = {"auto": page.evaluate(colour)}
        for theme in ("light", "dark"):
            page.click("#theme")
            seen[theme] = page.evaluate(colour)
            page.reload()
            assert page.evaluate(colour) == seen[theme]
        assert seen["light"] != seen["dark"]
        assert seen["auto"] == seen[system]
        page.click("#theme")
        assert page.evaluate("document.documentElement.dataset.theme ?? 'auto'") == "auto"


# --- the grid ---------------------------------------------------------------------------------

SHIFTS = """
window.shifts = 0;
new PerformanceObserver((list) => {
    for (const each of list.getEntries()) if (!each.hadRecentInput) window.shifts += each.value;
}).observe({type: "layout-shift", buffered: true});
"""


def test_it_goes_on_without_end_and_nothing_jumps(browser: Browser, base: str) -> None:
    with visit(browser, base, "/#q=圆形") as page:
        page.evaluate(SHIFTS)
        page.wait_for_selector(FIRST)
        most, at = 0, -1
        while at != (at := page.evaluate("scrollY")) or "Best of" in page.inner_text("#count"):
            page.mouse.wheel(0, 500)
            page.wait_for_timeout(80)
            most = max(most, page.locator(".tile").count())
        expect(page.locator("#count")).to_have_text("150 pictures")
        page.evaluate("scrollTo(0, document.body.scrollHeight)")  # the last page may have come late
        expect(page.locator(".tile").last).to_have_attribute("aria-posinset", "150")
        sizes = page.eval_on_selector_all(".tile", "all => all.map(each => each.ariaSetSize)")
        assert set(sizes) == {"150"}  # also of those that were there before the end was known
        assert page.evaluate("window.shifts") < 0.05
        assert most < 120  # of 150: what is far from the window is not in the document
        page.evaluate("scrollTo(0, 0)")
        expect(page.locator(FIRST)).to_have_attribute("aria-posinset", "1")


def test_rows_fill_the_width_and_keep_the_shape_of_pictures(browser: Browser, base: str) -> None:
    with visit(browser, base, "/#q=圆形") as page:
        page.wait_for_selector(FIRST)
        for width in (1200, 700, 1500):
            page.set_viewport_size({"width": width, "height": 800})
            page.wait_for_timeout(200)
            boxes = page.eval_on_selector_all(
                ".tile",
                "all => all.map(each => [each.offsetTop, each.offsetLeft, "
                "each.offsetWidth, each.offsetHeight])",
            )
            rows: dict[int, list[list[int]]] = {}
            for box in boxes:
                rows.setdefault(box[0], []).append(box)
            inside = page.evaluate("document.getElementById('grid').clientWidth")
            for row in list(rows.values())[:-1]:
                assert abs(row[-1][1] + row[-1][2] - inside) <= 2
                assert len({height for *_, height in row}) == 1
        shapes = {round(width / height, 1) for _, _, width, height in boxes}
        assert shapes == {0.7, 1.0, 1.6, 1.7}


def test_a_later_page_is_asked_once(browser: Browser, base: str) -> None:
    with visit(browser, base) as page:
        page.wait_for_selector(FIRST)
        Asked(page)
        page.fill("#text", "圆形")
        expect(page.locator("#count")).to_contain_text("Best of")
        page.mouse.wheel(0, 9000)
        expect(page.locator("#count")).to_have_text("150 pictures")
        after = page.evaluate("window.asked.map(each => each.after ?? '')")
        assert len(after) == len(set(after)) == 3
