"""The browser of this machine, and a visit to the page that notices what should not happen."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 30_000
"""Milliseconds until something has to be there: other work may keep the machine busy."""
expect.set_options(timeout=PATIENCE)
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}
"""What a visit of a telephone is given."""
EXPECTED = "Failed to load resource"
"""What Chromium itself says of an answer of 400 or more; a test that provokes those allows them."""


def executable() -> str | None:
    """Where a Chromium is; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium(*more: str) -> Iterator[Browser]:
    """A headless browser."""
    arguments = ["--font-render-hinting=none", *more]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium refuses root otherwise
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(
    browser: Browser, base: str, path: str = "/", *, refusals: bool = False, **context: Any
) -> Iterator[Page]:
    """The page, as a visitor of its own sees it. At its end: nothing was asked of another host, and
    the console shows no error.

    refusals: the test provokes answers of 400 and more, or none; the console may tell of them.
    """
    given: dict[str, Any] = {"viewport": {"width": 1200, "height": 800}, "locale": "en-US"}
    opened = browser.new_context(**(given | context))
    opened.set_default_timeout(PATIENCE)
    page, wrong = opened.new_page(), list[str]()
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on(
        "console",
        lambda said: (
            wrong.append(f"{said.type}: {said.text}")
            if said.type in ("error", "warning") and not (refusals and EXPECTED in said.text)
            else None
        ),
    )
    page.on(
        "request",
        lambda asked: (
            None
            if asked.url.startswith((base, "blob:", "data:"))
            else wrong.append(f"asked another host: {asked.url}")
        ),
    )
    try:
        page.goto(base + path)
        yield page
    finally:
        opened.close()
    assert wrong == []


def longer(page: Page) -> None:
    """Let the page's own clock go on for longer than typing has to pause."""
    page.evaluate("new Promise(done => setTimeout(done, 500))")


def settled(page: Page) -> None:
    """Wait until nothing is under way any more."""
    longer(page)
    expect(page.locator("body.searching")).to_have_count(0)


NOTE = """() => {
    const send = window.fetch;
    const base64 = async (blob) => {
        let text = "";
        for (const each of new Uint8Array(await blob.arrayBuffer())) {
            text += String.fromCharCode(each);
        }
        return btoa(text);
    };
    window.asked = [];
    window.fetch = async (address, given = {}) => {
        const body = given.body;
        if (typeof body === "string") window.asked.push(JSON.parse(body));
        if (body instanceof FormData) {
            const fields = Object.fromEntries(body);
            window.asked.push({...fields, picture: await base64(fields.picture)});
        }
        return send(address, given);
    };
}"""


class Asked:
    """The searches that a page sends from now on, but for further pages of one.

    Listens where they are sent: Chromium does not tell what files were in a form.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        page.evaluate(NOTE)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What was in them; pictures as bytes."""
        bodies = self._page.evaluate("window.asked")
        for body in bodies:
            if "picture" in body:
                body["picture"] = base64.b64decode(body["picture"])
        return [body for body in bodies if "after" not in body]

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.bodies[number]
