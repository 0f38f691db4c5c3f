"""docs/scale.md shows what benchmarks/scale.py reckons."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import scale

ROOT = Path(__file__).parents[2]
PAGES = {"en": ROOT / "docs" / "scale.md", "zh": ROOT / "docs" / "zh-CN" / "scale.md"}


@pytest.mark.parametrize("language", PAGES)
def test_the_page_has_the_tables_that_the_script_prints(language: str) -> None:
    words = [sys.executable, "-m", "benchmarks.scale", "--lang", language]
    printed = subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout
    tables = printed.decode("utf-8").strip().split("\n\n")
    page = PAGES[language].read_text("utf-8")
    assert len(tables) == 2
    for table in tables:
        assert f"\n\n{table}\n\n" in page, f"put this into {PAGES[language]}:\n{table}"


def test_what_waits_for_requests_is_what_reads_pictures_one_by_one() -> None:
    for size in scale.SIZES:
        waiting = {name for name, work in scale.stages(size).items() if work.waits}
        assert waiting == {"inventory", "pairs", "features"}


def test_twice_the_pods_take_half_the_time_at_the_same_price() -> None:
    one, two = (scale.work(flops=1e18, pods=pods, cores=8) for pods in (1, 2))
    assert two.hours == pytest.approx(one.hours / 2)
    assert two.dollars == pytest.approx(one.dollars)
    reading = scale.work(core=1e-9, reads=1e6)
    assert reading.waits
    assert reading.hours == pytest.approx(1e6 * 0.020 / 16 / 3600)
    assert reading.dollars == pytest.approx(0.4 + reading.hours * scale.CORE_DOLLARS)


def test_two_digits_count() -> None:
    said = [scale.short(number) for number in (0.01, 0.354, 2.51, 12.4, 8149)]
    assert said == ["< 0.1", "0.35", "2.5", "12", "8,100"]
