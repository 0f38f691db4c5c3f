"""The demo collection: drawn pictures of one shape each, with Chinese captions.

6 shapes x 8 colours x 2 sizes x 5 places x 4 backgrounds = 1,920 combinations, each drawn once,
jittered in place, size, angle and shade, and captioned in two of four wordings. The split is by
combination, so that no test combination was ever trained on: to find it, the model must have
learned the words, not the pictures.
"""

from __future__ import annotations

import colorsys
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    Point = tuple[float, float]

SHAPES = ("圆形", "正方形", "三角形", "十字", "心形", "月牙")
COLOURS = {  # hue in degrees, saturation, value
    "红色": (0, 0.90, 0.85),
    "橙色": (28, 0.95, 0.98),
    "黄色": (54, 0.90, 0.97),
    "绿色": (125, 0.80, 0.60),
    "青色": (182, 0.80, 0.78),
    "蓝色": (222, 0.85, 0.85),
    "紫色": (280, 0.70, 0.70),
    "粉色": (335, 0.38, 1.00),
}
SIZES = {"小": 0.13, "大": 0.23}  # half the shape's extent, as a fraction of the picture's side
PLACES = {
    "上边": (0.5, 0.25),
    "下边": (0.5, 0.75),
    "左边": (0.25, 0.5),
    "右边": (0.75, 0.5),
    "中间": (0.5, 0.5),
}
BACKGROUNDS = {
    "白色": (0, 0.0, 0.98),
    "灰色": (0, 0.0, 0.55),
    "黑色": (0, 0.0, 0.06),
    "棕色": (25, 0.60, 0.40),
}
WORDINGS = (
    "{background}背景，{place}有一个{size}的{colour}{shape}",
    "一个{size}{colour}{shape}，位于{background}画面的{place}",
    "{place}的{colour}{shape}，{size}号，{background}底",
    "画着{colour}的{size}{shape}，在{place}，背景是{background}",
)
SIDE = 128
"""Pixels; the tiny model sees 64."""
TRAIN, VALID, TEST = 1520, 100, 300


@dataclass(frozen=True, kw_only=True)
class Combination:
    """What one picture shows."""

    shape: str
    colour: str
    size: str
    place: str
    background: str

    def captions(self, rng: random.Random) -> list[str]:
        """Two of the four wordings."""
        return [wording.format(**vars(self)) for wording in rng.sample(WORDINGS, 2)]


def combinations() -> list[Combination]:
    """All 1,920, in a fixed order."""
    everything = itertools.product(SHAPES, COLOURS, SIZES, PLACES, BACKGROUNDS)
    return [
        Combination(shape=s, colour=c, size=z, place=p, background=b)
        for s, c, z, p, b in everything
    ]


def _rgb(hsv: tuple[float, float, float], rng: random.Random) -> tuple[int, int, int]:
    """A shade near the named one: the hue moves by 4 degrees, the value by 4 %."""
    hue, saturation, value = hsv
    hue = (hue + rng.uniform(-4, 4)) / 360 % 1
    value = min(1.0, max(0.0, value + rng.uniform(-0.04, 0.04)))
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _cross() -> Iterator[Point]:
    """A plus with arms a third as thick as it is wide."""
    thin, wide = 0.36, 1.05
    quarter = [(thin, -wide), (thin, -thin), (wide, -thin)]
    for turn in range(4):
        for x, y in quarter:
            for _ in range(turn):
                x, y = -y, x
            yield x, y


def _heart() -> Iterator[Point]:
    for step in range(60):
        t = 2 * math.pi * step / 60
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        yield x / 15.5, -y / 15.5


def _moon() -> Iterator[Point]:
    """The outer arc of one circle, closed by the arc of a second one that covers it."""
    for step in range(41):
        angle = math.radians(50 + 260 * step / 40)
        yield 1.02 * math.cos(angle) + 0.15, 1.02 * math.sin(angle)
    for step in range(41):
        angle = math.radians(285 - 210 * step / 40)
        yield 0.81 * math.cos(angle) + 0.6, 0.81 * math.sin(angle)


def _circle() -> Iterator[Point]:
    for step in range(60):
        yield math.cos(math.pi * step / 30), math.sin(math.pi * step / 30)


OUTLINES: dict[str, Callable[[], Iterator[Point]]] = {
    "圆形": _circle,
    "正方形": lambda: iter([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
    "三角形": lambda: iter([(0.0, -1.05), (1.05, 0.85), (-1.05, 0.85)]),
    "十字": _cross,
    "心形": _heart,
    "月牙": _moon,
}


def draw(combination: Combination, rng: random.Random) -> Image.Image:
    """One RGB picture of ``SIDE`` x ``SIDE`` pixels, smoothed by drawing at double size."""
    from PIL import Image, ImageDraw

    side = 2 * SIDE
    background = _rgb(BACKGROUNDS[combination.background], rng)
    picture = Image.new("RGB", (side, side), background)
    left, top = PLACES[combination.place]
    centre_x = (left + rng.uniform(-0.03, 0.03)) * side
    centre_y = (top + rng.uniform(-0.03, 0.03)) * side
    radius = SIZES[combination.size] * rng.uniform(0.92, 1.08) * side
    turn = math.radians(rng.uniform(-8, 8))
    points = [
        (
            centre_x + radius * (x * math.cos(turn) - y * math.sin(turn)),
            centre_y + radius * (x * math.sin(turn) + y * math.cos(turn)),
        )
        for x, y in OUTLINES[combination.shape]()
    ]
    ImageDraw.Draw(picture).polygon(points, fill=_rgb(COLOURS[combination.colour], rng))
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def make_collection(folder: Path, seed: int = 0) -> Path:
    """Draw the collection into ``folder`` and return the path of its captions JSON.

    Three files in the layout of Flickr8K-CN (``cn_train.json``, ``cn_valid.json``,
    ``cn_test.json``) and 1,920 PNG files under ``pictures/``. The same seed gives the same bytes;
    a finished collection of the same seed is left as it is.
    """
    marker = folder / f"seed-{seed}.done"
    if marker.exists():
        return folder
    rng = random.Random(seed)
    everything = combinations()
    rng.shuffle(everything)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for number, combination in enumerate(everything):
        name = f"pictures/{number:04d}.png"
        draw(combination, rng).save(folder / name)
        rows.append({"image": name, "caption": combination.captions(rng)})
    bounds = {"train": (0, TRAIN), "valid": (TRAIN, TRAIN + VALID), "test": (TRAIN + VALID, None)}
    for split, (start, stop) in bounds.items():
        text = json.dumps(rows[start:stop], ensure_ascii=False, indent=1)
        (folder / f"cn_{split}.json").write_text(text, encoding="utf-8")
    marker.touch()
    return folder
