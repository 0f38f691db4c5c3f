"""Pictures of the page for the docs: ``python -m tests.browser.screenshots STORE COLLECTION``.

Six states of a real service of the demo's store, as WebP files in ``docs/images``. Look at each of
them before you commit it.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import chromium, visit
from tests.search.serving import served

TARGET = Path(__file__).parents[2] / "docs" / "images"
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}, "device_scale_factor": 1.5}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 760},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
CHINESE: dict[str, Any] = {"locale": "zh-CN"}
DARK: dict[str, Any] = {"color_scheme": "dark"}


def found(page: Page, text: str) -> None:
    """Type, and wait for pictures."""
    page.fill("#text", text)
    page.keyboard.press("Enter")
    expect(page.locator("#count")).not_to_be_empty()


def results(page: Page, _: Path) -> None:
    found(page, "灰色背景，下边有一个小的红色十字")
    page.evaluate("document.activeElement.blur()")
    page.hover(".tile:nth-child(2)")


def large(page: Page, _: Path) -> None:
    found(page, "画着蓝色的大月牙，在中间，背景是白色")
    page.click(".tile:first-child a")
    expect(page.locator("#viewer .facts.more")).to_contain_text("B")


def phone(page: Page, _: Path) -> None:
    """As one meets it first: nothing typed yet."""
    expect(page.locator("#intro")).to_be_visible()
    expect(page.locator("#release")).to_be_visible()


def nothing(page: Page, _: Path) -> None:
    """A release without calibration withholds nothing; then a filter does."""
    found(page, "一只在沙发上睡觉的猫")
    page.wait_for_timeout(1000)
    if page.locator("#notice h2").is_hidden():
        page.click("#refine")
        page.fill("[name=name]", "沙发")
        page.wait_for_timeout(1500)
        page.click("#refine")
    expect(page.locator("#notice h2")).to_be_visible()
    page.evaluate("document.activeElement.blur()")


def filters(page: Page, _: Path) -> None:
    found(page, "一个大黄色圆形，位于灰色画面的右边 -棕色")
    page.click("#refine")
    expect(page.locator("[name=folder] option")).not_to_have_count(1)
    page.select_option("[name=folder]", index=1)
    page.fill("[name=name]", "1")
    expect(page.locator("#chips li")).to_have_count(4)


def picture(page: Page, collection: Path) -> None:
    page.set_input_files("#file", collection / "pictures" / "0959.png")
    expect(page.locator("#sample")).to_be_visible()
    found(page, "粉色")
    page.evaluate("document.activeElement.blur()")


STATES: tuple[tuple[Callable[[Page, Path], None], dict[str, Any]], ...] = (
    (results, DESKTOP | CHINESE),
    (large, DESKTOP | CHINESE | DARK),
    (phone, PHONE | CHINESE),
    (nothing, DESKTOP | CHINESE),
    (filters, DESKTOP),
    (picture, DESKTOP | CHINESE | DARK),
)


def shot(browser: Browser, base: str, name: str, collection: Path) -> Path:
    """One state as a file."""
    show, context = next(each for each in STATES if each[0].__name__ == name)
    with visit(browser, base, **context) as page:
        show(page, collection)
        page.wait_for_timeout(1500)  # pictures have come, and fades are over
        page.wait_for_function("() => !document.querySelector('img.coming, .searching')")
        data = page.screenshot()
    target = TARGET / f"page-{name}.webp"
    Image.open(io.BytesIO(data)).convert("RGB").save(target, quality=82, method=6)
    return target


def main(store: str, collection: str, *names: str) -> None:
    """All states, or those that are named."""
    TARGET.mkdir(parents=True, exist_ok=True)
    with served(store, collection=collection) as client, chromium("--lang=zh-CN") as browser:
        base = str(client.base_url).rstrip("/")
        for name in names or [each.__name__ for each, _ in STATES]:
            target = shot(browser, base, name, Path(collection))
            print(f"{target.relative_to(TARGET.parents[1])}  {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
