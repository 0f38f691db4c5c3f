"""Upright RGB -> the square that a model looks at; and the views that evaluation may ask for.

How a model wants its pictures travels with it as a ``Preprocessing``: in the checkpoint, in the
bundle, in the release.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wentu.errors import InputError
from wentu.pictures.decoding import to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of red, green, blue in 0..1: OpenAI CLIP, ``clip/clip.py``; Chinese-CLIP uses the same."""

STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of red, green, blue, from the same place."""

RESIZES = ("squash", "crop", "pad")
"""How a picture of any shape becomes a square; see Preprocessing."""

_LONGEST = 16
"""Aspect up to which crop is torchvision's bit for bit: it makes the whole strip before it cuts
the square out. Beyond, a strip of 1 x 20,000 pixels would become 224 x 4,480,000 of them."""

_Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the picture


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How one model wants its pictures. Resizing is Pillow's bicubic, which is antialiased.

    - ``squash``: all of the picture, stretched to a square: Chinese-CLIP; torchvision's
      ``Resize((R, R), BICUBIC)`` of a Pillow picture, bit for bit.
    - ``crop``: the shorter side becomes R and the middle square is kept, so the ends of a long
      picture are never seen: OpenAI's CLIP, most of open_clip; torchvision's ``Resize(R, BICUBIC)``
      and ``CenterCrop(R)``, bit for bit up to 16:1. Beyond, only the part that is needed is
      resized: up to 3 levels of 255 from it on smooth pictures, 25 on enlarged noise.
    - ``pad``: the longer side becomes R, the rest is filled, so all of the picture is seen and
      nothing is stretched: open_clip's ``longest``, bit for bit with its ``fill``.

    ``augment`` makes of a random crop what ``to_array`` makes of the whole picture.

    Raises InputError for values that cannot work, at construction.
    """

    resolution: int
    """R, pixels of a side of the square."""
    resize: str = "squash"
    """One of RESIZES."""
    mean: tuple[float, float, float] = MEAN
    """Of red, green, blue in 0..1: what is taken away."""
    std: tuple[float, float, float] = STD
    """Of red, green, blue in 0..1: what is divided by then."""
    fill: int = 255
    """Level, 0..255, of what pad fills in: white, as behind a transparent picture. open_clip
    fills with 0."""

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise InputError(
                f"preprocessing: resize is {self.resize!r}; it is one of {', '.join(RESIZES)}.",
                f"图片预处理：resize 为 {self.resize!r}；可选值为 {'、'.join(RESIZES)}。",
            )
        if not 1 <= self.resolution <= 8192:
            raise _wrong("resolution", self.resolution, "1..8192")
        if not 0 <= self.fill <= 255:
            raise _wrong("fill", self.fill, "0..255")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise _wrong(name, values, "red, green, blue")
        if min(self.std) <= 0:
            raise _wrong("std", self.std, "> 0")

    def to_array(self, picture: Image) -> npt.NDArray[np.uint8]:
        """A picture of any size -> uint8 [R, R, 3]."""
        picture = to_rgb(picture)
        if self.resize == "crop" and max(picture.size) <= _LONGEST * min(picture.size):
            return np.array(_centre(picture, self.resolution))
        return self._fit(picture, (0.0, 0.0, float(picture.width), float(picture.height)))

    def normalize(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 [N, R, R, 3] in 0..255 -> float32 [N, 3, R, R], contiguous: (x/255 - mean) / std.

        The same bits as torchvision's ToTensor and Normalize, which also compute in float32.
        """
        assert batch.ndim == 4
        assert batch.shape[3] == 3
        assert batch.dtype == np.uint8
        out = np.empty((batch.shape[0], 3, batch.shape[1], batch.shape[2]), dtype=np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            plane = out[:, channel]
            np.divide(batch[..., channel], np.float32(255), out=plane)
            plane -= np.float32(mean)
            plane /= np.float32(std)
        return out

    def augment(self, picture: Image, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """A random crop, resized as ``to_array`` resizes a picture: uint8 [R, R, 3], for training.

        The crop keeps 0.9..1.0 of the area, as Chinese-CLIP's training does. Its aspect relative
        to the *picture's own* is log-uniform within 3/4..4/3 and what fits. (torchvision means the
        absolute aspect; on a 3:2 photo no such crop fits and it always falls back to the same
        centre crop, which cuts off a ninth of what evaluation then shows. On square pictures both
        agree.) No flip: captions say left and right, and pictures hold text. Draws four numbers
        from ``rng``.
        """
        return self._fit(to_rgb(picture), _random_box(picture.size, 0.9, rng))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, all fields."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return values | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preprocessing:
        """What ``to_json`` made. Raises InputError for a field that is missing, new or wrong."""
        known = [each.name for each in fields(cls)]
        strange = sorted(set(value) - set(known))
        if strange or "resolution" not in value:
            names = ", ".join(strange) or "resolution"
            raise InputError(
                f"preprocessing: {names} {'is unknown' if strange else 'is missing'}; the fields "
                f"are {', '.join(known)}.",
                f"图片预处理：{'未知字段' if strange else '缺少字段'} {names}；"
                f"字段为 {'、'.join(known)}。",
            )
        try:
            given = {name: _plain_value(name, value[name]) for name in known if name in value}
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"preprocessing: {dict(value)} has a value of the wrong kind ({error}).",
                f"图片预处理：{dict(value)} 中有类型错误的值（{error}）。",
            ) from error

    def _fit(self, picture: Image, box: _Box) -> npt.NDArray[np.uint8]:
        """What is inside of the box, made square by the rule; nothing outside of it is kept."""
        from PIL import Image
        from PIL.Image import Resampling

        side = self.resolution
        width, height = box[2] - box[0], box[3] - box[1]
        if self.resize == "pad":
            ratio = max(width, height) / side
            size = (max(1, round(width / ratio)), max(1, round(height / ratio)))
            small = picture.resize(size, Resampling.BICUBIC, box=box)
            square = Image.new("RGB", (side, side), (self.fill,) * 3)
            square.paste(small, ((side - size[0]) // 2, (side - size[1]) // 2))
            return np.array(square)
        if self.resize == "crop":
            box = _middle(box, side)
        return np.array(picture.resize((side, side), Resampling.BICUBIC, box=box))


def to_array(picture: Image, resolution: int) -> npt.NDArray[np.uint8]:
    """The whole picture squashed to a square, uint8 [resolution, resolution, 3]."""
    return Preprocessing(resolution=resolution).to_array(picture)


def normalize(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """uint8 [N, R, R, 3] in 0..255 -> float32 [N, 3, R, R]: (x / 255 - MEAN) / STD."""
    return Preprocessing(resolution=1).normalize(batch)


def augment(picture: Image, resolution: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A random crop squashed to a square, uint8 [resolution, resolution, 3], for training."""
    return Preprocessing(resolution=resolution).augment(picture, rng)


def view(picture: Image, seed: int, side: int = 320) -> Image:
    """An augmented view: another, slightly different photo of what one picture shows; RGB.

    Where every name has a single picture, there is nothing left to ask for once it was trained on:
    finding the name of a view stands in for finding that of a new photo, and is easier. The view
    keeps 80..100 % of the picture's area, its longer side is 80..100 % of ``side`` (or of its own,
    if shorter), its brightness, contrast and saturation change by up to 15 % each, and it is turned
    by up to 8 degrees, white filling the corners. Never mirrored: pictures hold text. ``seed``
    decides alone (nine numbers are drawn), so the same view can be asked for again.
    """
    from PIL import ImageEnhance
    from PIL.Image import Resampling

    rng = np.random.default_rng(seed)
    left, top, right, bottom = box = _random_box(picture.size, 0.8, rng)
    longest = max(right - left, bottom - top)
    ratio = min(1.0, side / longest) * rng.uniform(0.8, 1.0)
    size = (max(1, round((right - left) * ratio)), max(1, round((bottom - top) * ratio)))
    seen = to_rgb(picture).resize(size, Resampling.BICUBIC, box=box)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        seen = change(seen).enhance(rng.uniform(0.85, 1.15))
    return seen.rotate(rng.uniform(-8.0, 8.0), Resampling.BICUBIC, fillcolor="white")


def _random_box(size: tuple[int, int], least: float, rng: np.random.Generator) -> _Box:
    """A random crop of at least this share of the area; see ``Preprocessing.augment``."""
    area = rng.uniform(least, 1.0)
    widest = min(math.log(4 / 3), -math.log(area))  # wider than 1 / area would leave the picture
    aspect = math.exp(rng.uniform(-widest, widest))
    width = min(1.0, math.sqrt(area * aspect)) * size[0]
    height = min(1.0, math.sqrt(area / aspect)) * size[1]
    left = rng.uniform(0.0, size[0] - width)
    top = rng.uniform(0.0, size[1] - height)
    return left, top, min(left + width, size[0]), min(top + height, size[1])


def _centre(picture: Image, side: int) -> Image:
    """torchvision's Resize(side, BICUBIC) and CenterCrop(side), its rounding included."""
    from PIL.Image import Resampling

    long = int(side * max(picture.size) / min(picture.size))
    start = round((long - side) / 2.0)
    if picture.width <= picture.height:
        small = picture.resize((side, long), Resampling.BICUBIC)
        return small.crop((0, start, side, start + side))
    small = picture.resize((long, side), Resampling.BICUBIC)
    return small.crop((start, 0, start + side, side))


def _middle(box: _Box, side: int) -> _Box:
    """The part of a box that ``_centre`` would keep of it."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    long = int(side * max(width, height) / min(width, height))
    scale = max(width, height) / long
    start = round((long - side) / 2.0) * scale
    if width <= height:
        return left, top + start, right, min(top + start + side * scale, bottom)
    return left + start, top, min(left + start + side * scale, right), bottom


def _plain_value(name: str, value: Any) -> Any:
    """A JSON value as the field holds it; TypeError or ValueError where it is no such value."""
    if name == "resize":
        return str(value)
    if name in ("mean", "std"):
        return tuple(float(each) for each in value)
    if isinstance(value, bool) or int(value) != value:
        raise ValueError(f"{name}: {value!r}")
    return int(value)


def _wrong(name: str, value: object, allowed: str) -> InputError:
    return InputError(
        f"preprocessing: {name} is {value}; it should be {allowed}.",
        f"图片预处理：{name} 为 {value}；应为 {allowed}。",
    )
