"""A picture that one brings: chosen, dropped or pasted, alone and beside words."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import Asked, longer, settled, visit

FIRST = ".tile:first-child"


def test_a_picture_that_is_chosen(browser: Browser, base: str, some_picture: Path) -> None:
    with visit(browser, base) as page:
        settled(page)
        asked = Asked(page)
        page.set_input_files("#file", some_picture)
        expect(page.locator("#sample")).to_be_visible()
        settled(page)
        assert asked[0]["picture"] == some_picture.read_bytes()  # small enough: as it is
        page.click(f"{FIRST} a")
        expect(page.locator("#viewer-name")).to_have_text("0000.png")


def test_a_picture_and_words(browser: Browser, base: str, some_picture: Path) -> None:
    with visit(browser, base) as page:
        page.set_input_files("#file", some_picture)
        settled(page)
        asked = Asked(page)
        page.fill("#text", "蓝色")
        settled(page)
        assert asked[0]["text"] == "蓝色"
        page.click("#refine")
        page.locator("[name=weight_picture]").fill("0.2")
        settled(page)
        assert asked[-1]["picture_weight"] == "0.2"
        page.locator("#sample").hover()
        page.click("#sample-remove")
        settled(page)
        assert asked[-1]["text"] == "蓝色"
        expect(page.locator("#sample")).to_be_hidden()


def test_a_large_photo_is_made_small_before_it_is_sent(
    browser: Browser, base: str, tmp_path: Path
) -> None:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (1800, 2400, 3), np.uint8)
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    photo = tmp_path / "photo.jpg"
    Image.fromarray(noise).save(photo, quality=90, exif=exif)
    assert b"taken at home" in photo.read_bytes()
    with visit(browser, base) as page:
        asked = Asked(page)
        page.set_input_files("#file", photo)
        expect(page.locator("#sample")).to_be_visible()
        settled(page)
        assert len(asked[0]["picture"]) < photo.stat().st_size / 1.5
        assert b"taken at home" not in asked[0]["picture"]


TRANSFER = """([name, type, data]) => {
    const bytes = Uint8Array.from(atob(data), each => each.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type}));
    return transfer;
}"""


def transfer_of(page: Page, path: Path, kind: str = "image/png") -> Any:
    """A file as a drag or a clipboard carries it."""
    data = base64.b64encode(path.read_bytes()).decode()
    return page.evaluate_handle(TRANSFER, [path.name, kind, data])


def test_a_picture_that_is_dropped(browser: Browser, base: str, some_picture: Path) -> None:
    with visit(browser, base) as page:
        given = {"dataTransfer": transfer_of(page, some_picture)}
        page.dispatch_event("#main", "dragenter", given)
        expect(page.locator("#drop")).to_be_visible()
        page.dispatch_event("#main", "dragover", given)
        page.dispatch_event("#main", "drop", given)
        expect(page.locator("#drop")).to_be_hidden()
        expect(page.locator("#sample")).to_be_visible()
        settled(page)
        page.click(f"{FIRST} a")
        expect(page.locator("#viewer-name")).to_have_text("0000.png")


def test_a_drop_that_is_no_picture_is_refused_in_words(
    browser: Browser, base: str, tmp_path: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("words", encoding="utf-8")
    with visit(browser, base) as page:
        page.dispatch_event(
            "#main", "drop", {"dataTransfer": transfer_of(page, text, "text/plain")}
        )
        expect(page.locator("#notice h2")).to_have_text("This is no picture")


def test_a_picture_that_is_pasted(browser: Browser, base: str, some_picture: Path) -> None:
    with visit(browser, base) as page:
        carried = transfer_of(page, some_picture)
        page.evaluate(
            """carried => document.getElementById("text").dispatchEvent(
                new ClipboardEvent("paste", {clipboardData: carried, bubbles: true}))""",
            carried,
        )
        expect(page.locator("#sample")).to_be_visible()
        settled(page)
        page.click(f"{FIRST} a")
        expect(page.locator("#viewer-name")).to_have_text("0000.png")


PASTE = """([id, name, text, data]) => {
    const bytes = Uint8Array.from(atob(data), each => each.charCodeAt(0));
    const carried = new DataTransfer();
    carried.items.add(new File([bytes], name, {type: "image/png"}));
    if (text) carried.setData("text/plain", text);
    const event = new ClipboardEvent(
        "paste", {clipboardData: carried, bubbles: true, cancelable: true});
    const target = document.getElementById(id);
    target.focus();
    return target.dispatchEvent(event);
}"""
"""Whether the browser may paste it: nobody has said otherwise."""


def test_cells_that_are_pasted_into_the_field_are_text(
    browser: Browser, base: str, some_picture: Path
) -> None:
    data = base64.b64encode(some_picture.read_bytes()).decode()
    with visit(browser, base) as page:
        page.wait_for_selector(FIRST)
        assert page.evaluate(PASTE, ["text", "image.png", "red\tcircle\n", data])
        longer(page)
        expect(page.locator("#sample")).to_be_hidden()
        # A file manager lays the name of a picture beside it; that is a picture, all the same.
        assert not page.evaluate(PASTE, ["text", "0000.png", "0000.png", data])
        expect(page.locator("#sample")).to_be_visible()
        settled(page)
        page.hover("#sample")
        page.click("#sample-remove")
        expect(page.locator("#sample")).to_be_hidden()
        # Outside a field text goes nowhere.
        assert not page.evaluate(PASTE, ["main", "image.png", "red\tcircle\n", data])
        expect(page.locator("#sample")).to_be_visible()


def test_an_address_of_before_means_no_other_picture(
    browser: Browser, base: str, some_picture: Path
) -> None:
    other = some_picture.with_name("0002.png")
    with visit(browser, base) as page:
        page.set_input_files("#file", some_picture)
        expect(page.locator("#sample")).to_be_visible()
        settled(page)
        before = page.url
        page.reload()
        expect(page.locator("#notice p")).to_contain_text("no longer here")
        page.set_input_files("#file", other)
        expect(page.locator("#sample")).to_be_visible()
        settled(page)
        assert page.url != before
        page.go_back()
        expect(page.locator("#notice p")).to_contain_text("no longer here")
        expect(page.locator("#sample")).to_be_hidden()


def test_copies_are_folded_and_can_be_seen(browser: Browser, base: str, some_picture: Path) -> None:
    with visit(browser, base) as page:
        page.set_input_files("#file", some_picture)
        settled(page)
        expect(page.locator(f"{FIRST} .folded")).to_have_text("+3")
        page.click(f"{FIRST} .folded")
        expect(page.locator(".strip h3")).to_have_text("3 nearly the same")
        page.click(".strip button >> nth=0")
        expect(page.locator("#viewer-name")).to_contain_text("copy-")
