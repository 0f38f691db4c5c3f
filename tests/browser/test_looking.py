"""How it is used: by keyboard, on a telephone, in two languages, back and forth; how it grows."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import Asked, visit

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}
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


# --- languages and themes ---------------------------------------------------------------------


def test_the_language_of_the_browser_and_the_other(browser: Browser, base: str) -> None:
    with visit(browser, base, locale="zh-CN", refusals=True) as page:
        expect(page.locator("#refine")).to_have_text("筛选")
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
        page.click("#language")
        expect(page.locator("#refine")).to_have_text("Filters")
        page.fill("#text", "-人")  # nothing to look for
        expect(page.locator("#notice p")).to_have_text("give a text, a picture, or both.")
        page.reload()
        expect(page.locator("#refine")).to_have_text("Filters")
        page.click("#language")
        page.fill("#text", "-红")
        expect(page.locator("#notice p")).to_have_text("请给出文字、图片，或两者。")


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


# --- sizes ------------------------------------------------------------------------------------

SMALL = """() => [...document.querySelectorAll("button, a, select, input")]
    .filter(each => each.checkVisibility() && each.offsetParent && !each.closest(".tile")
        && each.type !== "range" && each.id !== "skip")
    .map(each => [each.id || each.className, each.getBoundingClientRect()])
    .filter(([name, {width, height}]) => width < 44 || height < 44)
    .map(([name, {width, height}]) => `${name}: ${width} x ${height}`)"""
TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


def test_a_telephone(browser: Browser, base: str) -> None:
    with visit(browser, base, **PHONE) as page:
        page.wait_for_selector(FIRST)
        page.fill("#text", "圆形 -红色")
        expect(page.locator("#count")).to_contain_text("Best of")
        assert not page.evaluate(TOO_WIDE)
        page.tap("#refine")
        page.wait_for_selector("[name=folder] option:nth-child(2)", state="attached")
        assert not page.evaluate(TOO_WIDE)
        assert page.evaluate(SMALL) == []
        page.tap("#refine")
        page.tap(f"{FIRST} a")
        expect(page.locator("#viewer")).to_be_visible()
        assert not page.evaluate(TOO_WIDE)
        assert page.evaluate(SMALL) == []
        page.tap("#viewer-close")
        expect(page.locator("#viewer")).to_be_hidden()


def test_a_very_narrow_window(browser: Browser, base: str) -> None:
    with visit(browser, base, "/#q=圆形", viewport={"width": 320, "height": 600}) as page:
        page.wait_for_selector(FIRST)
        assert not page.evaluate(TOO_WIDE)


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
        expect(page.locator(".tile").last).to_have_attribute("aria-posinset", "150")
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
