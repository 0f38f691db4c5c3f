"""On a telephone: what one sees and touches there."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.browser.chromium import PHONE, visit

FIRST = ".tile:first-child"
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


def test_how_to_take_a_picture_away_is_seen_without_hovering(
    browser: Browser, base: str, some_picture: Path
) -> None:
    with visit(browser, base, **PHONE) as page:
        page.set_input_files("#file", some_picture)
        expect(page.locator("#sample-remove .icon")).to_have_css("opacity", "1")
        page.tap("#sample-remove")
        expect(page.locator("#sample")).to_be_hidden()


TOUCH = """(moved) => {
    const viewer = document.getElementById("viewer");
    const touch = ([clientX, clientY]) =>
        new Touch({identifier: 1, target: viewer, clientX, clientY});
    const from = touch([200, 300]), to = touch([200 + moved[0], 300 + moved[1]]);
    viewer.dispatchEvent(new TouchEvent("touchstart", {touches: [from], changedTouches: [from]}));
    viewer.dispatchEvent(new TouchEvent("touchend", {touches: [], changedTouches: [to]}));
}"""


def test_swiping_goes_on_and_scrolling_does_not(browser: Browser, base: str) -> None:
    with visit(browser, base, "/#q=圆形", **PHONE) as page:
        page.tap(f"{FIRST} a")
        first = page.inner_text("#viewer-name")
        for slanting in ((-90, -200), (-120, 70), (-50, 0)):
            page.evaluate(TOUCH, slanting)
            assert page.inner_text("#viewer-name") == first
        page.evaluate(TOUCH, (-120, 30))
        expect(page.locator("#viewer-name")).not_to_have_text(first)
        page.evaluate(TOUCH, (120, 30))
        expect(page.locator("#viewer-name")).to_have_text(first)


CUT_OFF = """() => {
    const field = document.getElementById("text"), style = getComputedStyle(field);
    const paper = document.createElement("canvas").getContext("2d");
    paper.font = style.font;
    const room = field.clientWidth - 2 * parseFloat(style.paddingLeft);
    return paper.measureText(field.placeholder).width > room;
}"""


def test_a_telephone_is_told_of_what_it_has(browser: Browser, base: str) -> None:
    for locale, word in (("en-US", "photograph"), ("zh-CN", "拍摄")):
        with visit(browser, base, locale=locale, **PHONE) as page:
            expect(page.locator("#intro .faint")).to_contain_text(word)
            assert not page.evaluate(CUT_OFF)
            page.set_viewport_size({"width": 360, "height": 740})
            assert not page.evaluate(CUT_OFF)


def test_a_very_narrow_window(browser: Browser, base: str) -> None:
    with visit(browser, base, "/#q=圆形", viewport={"width": 320, "height": 600}) as page:
        page.wait_for_selector(FIRST)
        assert not page.evaluate(TOO_WIDE)
