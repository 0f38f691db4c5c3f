"""What goes wrong around the page: it says so, and goes on by itself when that is over."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import visit
from tests.conftest import Built
from tests.search.serving import served
from wentu.search.rate import Rate

TOKEN = "a long secret of this test"
RECOVERS = 20_000
"""Milliseconds; the page waits longer from try to try."""


@contextmanager
def gone(browser: Browser, gallery: Built) -> Iterator[tuple[Page, int]]:
    """The page of a service that went away before a search, and the port that it had."""
    with ExitStack() as running:
        client = running.enter_context(served(gallery.store))
        base, port = str(client.base_url).rstrip("/"), client.base_url.port or 0
        with visit(browser, base, refusals=True) as page:
            page.wait_for_selector(".tile")
            running.close()
            page.fill("#text", "圆形")
            expect(page.locator("#banner")).to_contain_text("The service does not answer.")
            yield page, port


def test_the_service_goes_and_comes_back(browser: Browser, gallery: Built) -> None:
    with gone(browser, gallery) as (page, port):
        expect(page.locator("#banner")).to_contain_text("Trying again in")
        with served(gallery.store, port=port):
            expect(page.locator("#banner")).to_be_hidden(timeout=RECOVERS)
            expect(page.locator("#count")).to_contain_text("Best of")
            expect(page.locator("#toast")).to_have_text("The service answers again")


def test_another_language_while_the_service_is_away(browser: Browser, gallery: Built) -> None:
    with gone(browser, gallery) as (page, port):
        page.click("#language")
        expect(page.locator("#banner")).to_contain_text("服务没有响应。")
        with served(gallery.store, port=port):
            expect(page.locator("#banner")).to_be_hidden(timeout=RECOVERS)
            expect(page.locator("#count")).to_contain_text("最佳匹配")


@pytest.mark.parametrize(
    ("kind", "body"),
    [("text/html", "<!doctype html><title>Log in</title>"), ("application/json", '{"hits": [{"i')],
    ids=["a-proxy", "broken-off"],
)
def test_an_answer_that_is_none(browser: Browser, gallery: Built, kind: str, body: str) -> None:
    with (
        served(gallery.store) as client,
        visit(browser, str(client.base_url).rstrip("/"), refusals=True) as page,
    ):
        page.wait_for_selector(".tile")
        page.route("**/api/v1/search", lambda route: route.fulfill(content_type=kind, body=body))
        page.fill("#text", "圆形")
        expect(page.locator("#banner")).to_contain_text("The service does not answer.")
        page.unroute_all()
        expect(page.locator("#count")).to_contain_text("Best of", timeout=RECOVERS)
        expect(page.locator("#banner")).to_be_hidden()


def test_a_token_in_the_address(browser: Browser, gallery: Built) -> None:
    with served(gallery.store, token=TOKEN, collection=str(gallery.collection)) as client:
        base = str(client.base_url).rstrip("/")
        path = f"/#q=圆形&token={TOKEN.replace(' ', '+')}"
        with visit(browser, base, path) as page:
            page.wait_for_selector(".tile img:not(.coming)")
            assert "token" not in page.url
            assert "圆形" in page.input_value("#text")
            assert page.evaluate("document.cookie") == ""  # no script reads it
            assert page.evaluate("document.querySelector('.tile img').naturalWidth") > 0
            page.reload()
            page.wait_for_selector(".tile")


def test_a_token_that_is_asked_for(browser: Browser, gallery: Built) -> None:
    with served(gallery.store, token=TOKEN) as client:
        base = str(client.base_url).rstrip("/")
        with visit(browser, base, refusals=True) as page:
            expect(page.locator("#token-title")).to_be_visible()
            page.keyboard.press("Escape")
            expect(page.locator("#token-title")).to_be_visible()
            page.fill("#token-text", "a wrong one")
            page.keyboard.press("Enter")
            expect(page.locator("#token-wrong")).to_have_text("That is not the token.")
            page.fill("#token-text", TOKEN)
            page.keyboard.press("Enter")
            expect(page.locator("#token-title")).to_be_hidden()
            expect(page.locator(".tile").first).to_be_visible()


def test_a_link_with_a_token_is_opened_in_a_tab_that_waits_for_one(
    browser: Browser, gallery: Built
) -> None:
    with served(gallery.store, token=TOKEN) as client:
        base = str(client.base_url).rstrip("/")
        with visit(browser, base, refusals=True) as page:
            expect(page.locator("#token-title")).to_be_visible()
            page.evaluate("token => { location.hash = new URLSearchParams({ token }) }", TOKEN)
            expect(page.locator("#token-title")).to_be_hidden()
            expect(page.locator(".tile").first).to_be_visible()
            assert "token" not in page.url


def test_no_release_yet(browser: Browser, gallery: Built, tmp_path: Path) -> None:
    place, ready = tmp_path / "store", tmp_path / "ready"
    shutil.copytree(gallery.store, ready, ignore=shutil.ignore_patterns("work"))
    with served(str(place), ready=False) as client:
        base = str(client.base_url).rstrip("/")
        with visit(browser, base, refusals=True) as page:
            expect(page.locator("#notice h2")).to_have_text("There is nothing to search yet")
            ready.rename(place)
            expect(page.locator(".tile").first).to_be_visible(timeout=RECOVERS)
            expect(page.locator("#notice")).to_be_hidden()
            expect(page.locator("#release")).to_contain_text("Release of")


def test_too_much_at_once(browser: Browser, gallery: Built) -> None:
    rate = Rate(1)
    with served(gallery.store, rate=rate) as client:
        base = str(client.base_url).rstrip("/")
        with visit(browser, base, refusals=True, viewport={"width": 400, "height": 300}) as page:
            page.wait_for_selector(".tile")
            while not rate.wait("127.0.0.1"):  # others ask from here, all that may be asked
                pass
            rate._full[rate._place("127.0.0.1")] += 3.0  # and a little more: it holds for a while
            page.fill("#text", "圆形")
            page.keyboard.press("Enter")
            expect(page.locator("#banner")).to_contain_text("Trying again in")
            expect(page.locator("#banner")).to_be_hidden(timeout=RECOVERS)
            expect(page.locator("#count")).to_contain_text("Best of")


def test_a_file_that_is_too_large_or_no_picture(
    browser: Browser, gallery: Built, tmp_path: Path
) -> None:
    large, odd = tmp_path / "large.heic", tmp_path / "odd.png"
    large.write_bytes(bytes(30_000))
    odd.write_bytes(b"no picture")
    with served(gallery.store, most_bytes=20_000) as client:
        base = str(client.base_url).rstrip("/")
        with visit(browser, base, refusals=True) as page:
            page.wait_for_selector(".tile")
            page.set_input_files("#file", large)
            expect(page.locator("#notice h2")).to_have_text("This file is too large")
            expect(page.locator("#notice p")).to_contain_text("0.02 MB")
            page.set_input_files("#file", odd)
            expect(page.locator("#notice h2")).to_have_text("That did not work")
            page.fill("#text", "圆形")
            page.locator("#sample").hover()
            page.click("#sample-remove")
            expect(page.locator(".tile").first).to_be_visible()
            expect(page.locator("#notice")).to_be_hidden()


def test_a_picture_that_is_not_there(browser: Browser, gallery: Built) -> None:
    with served(gallery.store) as client:
        base = str(client.base_url).rstrip("/")
        with visit(browser, base, "/#q=圆形&open=12345", refusals=True) as page:
            expect(page.locator("#toast")).to_contain_text("there is no picture 12345")
            expect(page.locator("#viewer")).to_be_hidden()
            expect(page.locator(".tile").first).to_be_visible()
            assert "open" not in page.url
