"""A folder that is followed: the page says how far it is, and what is wrong."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.browser.chromium import visit
from tests.conftest import Built
from tests.search.serving import served
from wentu.library.status import Status
from wentu.store import Store


def test_a_folder_that_is_indexed_for_the_first_time(
    browser: Browser, gallery: Built, tmp_path: Path
) -> None:
    place = tmp_path / "store"
    shutil.copytree(gallery.store, place, ignore=shutil.ignore_patterns("work"))
    store, whole = Store(str(place)), Store(gallery.store).current()
    assert whole is not None
    full = whole[1]
    files = store.files_of(full.model, ())
    nothing = replace(full, segments=(), inventory="", pictures=0, calibration={}, files=files)
    empty = store.publish(store.write_release(nothing), after=whole[0].number, reason="refresh")
    stands = Status(state="indexing", indexed=0, waiting=0, damaged=0, pid=0)
    with (
        served(str(place), library=lambda: stands) as client,
        visit(browser, str(client.base_url).rstrip("/")) as page,
    ):
        line, notice = page.locator("#library"), page.locator("#notice")
        expect(line).to_have_text("The folder is being read")
        expect(notice.locator("h2")).to_have_text("There is nothing to search yet")
        expect(notice.locator("p")).to_contain_text("they appear here by themselves")
        expect(page.locator("#intro")).to_be_hidden()
        stands = replace(stands, waiting=150, damaged=2)
        expect(line).to_have_text("Indexing: 0 of 150")
        store.publish(store.write_release(full), after=empty.number, reason="refresh")
        expect(page.locator(".tile").first).to_be_visible()
        expect(notice).to_be_hidden()
        expect(page.locator("#intro")).to_be_visible()
        stands = replace(stands, state="following", indexed=150, waiting=0)
        expect(line).to_be_hidden()
        page.click("#release")
        expect(page.locator("#about")).to_contain_text("Folderfollowed")
        expect(page.locator("#about")).to_contain_text("Damaged files2")
        page.keyboard.press("Escape")


def test_a_folder_that_is_out_of_reach(browser: Browser, gallery: Built) -> None:
    stands = Status(state="away", indexed=150, waiting=0, damaged=0, pid=0)
    with (
        served(gallery.store, library=lambda: stands) as client,
        visit(browser, str(client.base_url).rstrip("/")) as page,
    ):
        line = page.locator("#library.problem")
        expect(line).to_contain_text("The folder of the pictures is out of reach.")
        expect(line).to_have_role("alert")
        expect(page.locator(".tile").first).to_be_visible()
        page.click("#release")
        expect(page.locator("#about")).to_contain_text("out of reach")
        page.keyboard.press("Escape")
        page.click("#language")
        expect(line).to_contain_text("无法访问图片目录")
        stands = replace(stands, state="following")
        expect(page.locator("#library")).to_be_hidden()
