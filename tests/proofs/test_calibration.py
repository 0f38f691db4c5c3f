"""Nothing found is an answer: what the demo has no picture of is refused, what it has is found.

The limits come from the captions of the valid split. Measured here: the captions of the test split,
and the demo's own wordings filled with its own words as no picture shows them, a shape in a colour
of the backgrounds, or a background in a colour of the shapes.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence

import pytest

from tests.proofs.conftest import Demo
from wentu import demo
from wentu.search.engine import Engine, Query

ASKED = 600


def filled(colours: Sequence[str], backgrounds: Sequence[str]) -> Iterator[str]:
    """Every wording of every combination of these colours on these backgrounds."""
    words = itertools.product(demo.SHAPES, colours, demo.SIZES, demo.PLACES, backgrounds)
    for shape, colour, size, place, background in words:
        one = demo.Combination(
            shape=shape, colour=colour, size=size, place=place, background=background
        )
        yield from (wording.format(**vars(one)) for wording in demo.WORDINGS)


def some(texts: Iterator[str], seed: int) -> list[str]:
    return random.Random(seed).sample(list(texts), ASKED // 2)


def refused(engine: Engine, texts: Sequence[str]) -> float:
    """Share of these that are answered with nothing."""
    return sum(not engine.find(Query(text=text, k=5)).hits for text in texts) / len(texts)


@pytest.mark.heavy
@pytest.mark.xdist_group("demo")
def test_the_demo_refuses_what_it_has_no_picture_of(demo_run: Demo) -> None:
    folder = demo_run.folder
    engine = Engine.open(str(folder / "store-0"))
    calibration = engine.calibration
    assert calibration
    assert calibration.basis == "captions"
    rows = json.loads((folder / "collection-0/cn_test.json").read_text("utf-8"))
    there = [text for row in rows for text in row["caption"]]
    shapes, grounds = tuple(demo.COLOURS), tuple(demo.BACKGROUNDS)
    absent = some(filled(grounds, grounds), 1) + some(filled(shapes, shapes), 2)
    assert len(there) == len(absent) == ASKED
    lost, accepted = refused(engine, there), 1 - refused(engine, absent)
    mirrored = 1 - refused(engine, some(filled(grounds, shapes), 3))
    elsewhere = refused(engine, ("狗", "雪地里两只黑狗", "一碗牛肉面", "城市夜景", "海边的日落"))
    short = refused(engine, [c + s for c in demo.COLOURS for s in demo.SHAPES])
    engine.close()
    print(
        f"\nlost {lost:.3f}, false accepts {accepted:.3f} of {ASKED}; "
        f"colours the other way round {mirrored:.3f}, short queries lost {short:.3f}"
    )
    assert lost <= 0.05
    assert accepted <= 0.05
    assert elsewhere == 1
    assert short <= 0.1


@pytest.mark.heavy
@pytest.mark.xdist_group("demo")
def test_the_curve_stands_in_the_report_of_the_release(demo_run: Demo) -> None:
    folder = demo_run.folder
    (report,) = folder.glob("store-0/runs/*/artifacts/*/promote/out/report.html")
    text = report.read_text("utf-8")
    assert "What counts as found" in text
    engine = Engine.open(str(folder / "store-0"))
    assert engine.calibration
    assert len(engine.calibration.curve) == 41
    assert f"{engine.calibration.curve[20]['lost']:.4f}" in text
    engine.close()


def test_no_absent_text_is_a_caption() -> None:
    everything = set(filled(tuple(demo.COLOURS), tuple(demo.BACKGROUNDS)))
    assert len(everything) == len(demo.combinations()) * len(demo.WORDINGS)
    for colours, grounds in itertools.product((demo.COLOURS, demo.BACKGROUNDS), repeat=2):
        if (colours, grounds) != (demo.COLOURS, demo.BACKGROUNDS):
            assert everything.isdisjoint(filled(tuple(colours), tuple(grounds)))
