"""What one does: type, also with an input method; leave out; narrow."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import Asked, longer, settled, visit
from tests.search.serving import served

FIRST = ".tile:first-child"
TYPE = """text => {
    const field = document.querySelector("#text");
    field.focus();
    for (const letter of text) document.execCommand("insertText", false, letter);
}"""
"""Types letter by letter, within one turn: each fires ``input`` as a key does."""


def names(page: Page) -> list[str]:
    """What is seen first: the captions or the names of the first pictures."""
    return page.eval_on_selector_all(".tile img", "all => all.slice(0, 12).map(each => each.alt)")


def test_what_is_typed_is_searched_when_typing_pauses(browser: Browser, base: str) -> None:
    with visit(browser, base) as page:
        expect(page.locator("#intro")).to_be_visible()
        asked = Asked(page)
        # All letters within one turn of the page: how fast a machine types is its own affair.
        page.evaluate(TYPE, "red circle")
        settled(page)
        assert [body["text"] for body in asked.bodies] == ["red circle"]
        expect(page.locator("#intro")).to_be_hidden()
        expect(page.locator(FIRST)).to_be_visible()
        assert "q=red+circle" in page.url


def test_nothing_is_asked_while_an_input_method_composes(browser: Browser, base: str) -> None:
    with visit(browser, base, locale="zh-CN") as page:
        page.focus("#text")
        asked, method = Asked(page), page.context.new_cdp_session(page)
        for text in ("h", "ho", "hon", "hong", "hong'se", "红色"):
            at = {"selectionStart": len(text), "selectionEnd": len(text)}
            method.send("Input.imeSetComposition", {"text": text, **at})
            longer(page)
        assert page.input_value("#text") == "红色"
        assert asked.bodies == []
        method.send("Input.insertText", {"text": "红色"})
        settled(page)
        assert [body["text"] for body in asked.bodies] == ["红色"]


def test_enter_that_ends_a_composition_does_not_search(browser: Browser, base: str) -> None:
    with visit(browser, base) as page:
        page.focus("#text")
        asked, method = Asked(page), page.context.new_cdp_session(page)
        at = {"selectionStart": 3, "selectionEnd": 3}
        method.send("Input.imeSetComposition", {"text": "mao", **at})
        page.evaluate("document.getElementById('ask').requestSubmit()")
        assert asked.bodies == []
        method.send("Input.insertText", {"text": "猫"})
        settled(page)
        assert [body["text"] for body in asked.bodies] == ["猫"]


def test_an_older_answer_does_not_come_late(browser: Browser, base: str) -> None:
    """The first request is held back until the second is answered: it was given up."""
    with visit(browser, base) as page:
        given_up: list[str] = []
        page.on("requestfailed", lambda request: given_up.append(request.failure or ""))

        def slow(route: Any) -> None:
            if json.loads(route.request.post_data)["text"] == "first":
                return  # never answered
            route.continue_()

        page.route("**/api/v1/search", slow)
        page.fill("#text", "first")
        longer(page)
        page.fill("#text", "second")
        expect(page.locator("#count")).to_contain_text("Best of")
        assert given_up == ["net::ERR_ABORTED"]
        page.unroute_all(behavior="ignoreErrors")


def test_more_like_this_and_words_on_top(browser: Browser, base: str) -> None:
    with visit(browser, base) as page:
        page.wait_for_selector(FIRST)
        asked = Asked(page)
        page.hover(FIRST)
        wanted = page.get_attribute(f"{FIRST} a", "href") or ""
        page.click(f"{FIRST} .like")
        settled(page)
        number = wanted.rpartition("=")[2]
        assert asked[0]["id"] == number
        expect(page.locator("#sample img")).to_have_attribute(
            "src", f"api/v1/pictures/{number}/thumbnail"
        )
        page.fill("#text", "红色")
        settled(page)
        assert (asked[-1]["id"], asked[-1]["text"]) == (number, "红色")
        page.locator("#sample").hover()
        page.click("#sample-remove")
        settled(page)
        assert "id" not in asked[-1]


def test_what_is_left_out_is_said(browser: Browser, base: str) -> None:
    with visit(browser, base) as page:
        page.fill("#text", "圆形 -红色")
        expect(page.locator("#chips")).to_have_text("without 红色")
        settled(page)
        before = names(page)
        page.click("#refine")
        asked = Asked(page)
        page.locator("[name=weight_negative]").fill("2")
        settled(page)
        assert asked[-1]["weights"]["negative"] == 2
        assert names(page) != before
        page.fill("#text", "T-shirt")
        settled(page)
        expect(page.locator("#chips")).to_be_hidden()


@pytest.mark.parametrize("typed", ["-", "-人", '-"红色 圆形" －狗'])
def test_what_only_excludes_waits_for_what_to_look_for(
    browser: Browser, base: str, typed: str
) -> None:
    with visit(browser, base) as page:
        page.wait_for_selector(FIRST)
        asked, before = Asked(page), names(page)
        page.fill("#text", typed)
        expect(page.locator("#excluded")).to_have_text(
            f"Add what to look for: {typed} only excludes."
        )
        expect(page.locator("#say")).to_contain_text("only excludes")
        page.keyboard.press("Enter")
        settled(page)
        assert asked.bodies == []
        assert names(page) == before
        expect(page.locator("#notice")).to_be_hidden()
        page.fill("#text", f"{typed} 圆形")
        settled(page)
        assert asked[-1]["text"] == f"{typed} 圆形"
        expect(page.locator("#excluded")).to_be_hidden()
        expect(page.locator("#count")).to_contain_text("Best of")
        page.fill("#text", typed)
        expect(page.locator("#excluded")).to_be_visible()
        expect(page.locator("#count")).to_have_text("153 pictures")  # all there are


def test_filters_narrow_and_their_chips_widen(browser: Browser, base: str) -> None:
    with visit(browser, base) as page:
        page.fill("#text", "圆形")
        settled(page)
        page.click("#refine")
        expect(page.locator("[name=folder] option")).to_have_count(4)
        asked = Asked(page)
        page.select_option("[name=folder]", "winter/day")
        settled(page)
        page.fill("[name=name]", "001")
        settled(page)
        assert asked[-1]["filters"] == {"folder": "winter/day", "name": "001"}
        expect(page.locator(".tile")).to_have_count(6)  # 0001, and the odd ones from 0011 on
        expect(page.locator("#count")).to_have_text("6 pictures")
        expect(page.locator("#say")).to_have_text("6 pictures found")
        page.click("#chips button >> nth=0")
        settled(page)
        assert asked[-1]["filters"] == {"name": "001"}
        assert page.input_value("[name=folder]") == ""
        page.select_option("[name=captioned]", "false")
        page.fill("[name=min_side]", "80")
        settled(page)
        held = {"name": "001", "captioned": False, "min_side": 80}
        assert asked[-1]["filters"] == held
        page.click("text=Remove all filters")
        settled(page)
        assert "filters" not in asked[-1]


def test_without_words_the_filters_browse(browser: Browser, base: str) -> None:
    with visit(browser, base, "/#folder=winter") as page:
        expect(page.locator("#count")).to_have_text("75 pictures")
        expect(page.locator("#intro")).to_be_hidden()
        expect(page.locator("#chips")).to_have_text("in winter")


def test_filters_that_let_nothing_through(browser: Browser, base: str) -> None:
    with visit(browser, base, "/#q=x&name=nosuchname") as page:
        expect(page.locator("#notice h2")).to_have_text("Nothing fits")
        expect(page.locator("#say")).to_have_text("Nothing fits")


def test_what_does_not_fit_is_shown_on_a_click(browser: Browser, calibrated: str) -> None:
    with (
        served(calibrated) as client,
        visit(browser, str(client.base_url).rstrip("/"), locale="zh-CN") as page,
    ):
        page.fill("#text", "red circle")
        expect(page.locator("#notice h2")).to_have_text("没有匹配的图片")
        expect(page.locator(".tile")).to_have_count(0)
        page.click("text=仍然显示最接近的图片")
        expect(page.locator(FIRST)).to_be_visible()
        expect(page.locator("#notice")).to_be_hidden()
        page.click(f"{FIRST} a")
        expect(page.locator("#viewer meter")).to_be_visible()
        expect(page.locator("#viewer .sure")).to_contain_text("%")
        page.keyboard.press("Escape")
        page.fill("#text", "red circles")
        expect(page.locator("#notice h2")).to_have_text("没有匹配的图片")
