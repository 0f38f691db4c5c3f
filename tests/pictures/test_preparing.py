"""Model input: equal to torchvision's, open_clip's and cn_clip's own, in every way of resizing."""

from __future__ import annotations

import io
import json
import pickle
import re
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pictures.make import saved, scene
from wentu import pictures
from wentu.errors import InputError
from wentu.pictures import Preprocessing


@pytest.fixture(scope="module")
def reference() -> Callable[[Image.Image], Any]:
    """cn_clip's own transform for resolution 224."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the import only: not our code
        clip = pytest.importorskip("cn_clip.clip")
    transform: Callable[[Image.Image], Any] = clip.image_transform(224)
    return transform


def assert_like_reference(data: bytes, reference: Callable[[Image.Image], Any]) -> None:
    array = pictures.to_array(pictures.decode(data), 224)
    assert array.shape == (224, 224, 3)
    assert array.dtype == np.uint8
    theirs = reference(Image.open(io.BytesIO(data))).numpy()
    assert np.abs(pictures.normalize(array[None])[0] - theirs).max() <= 1e-6


@pytest.mark.parametrize("size", [(640, 427), (224, 224), (31, 500), (1, 1), (1000, 20)])
def test_equals_cn_clips_transform(
    size: tuple[int, int], reference: Callable[[Image.Image], Any]
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert_like_reference(saved(Image.fromarray(noise), "JPEG"), reference)


def test_equals_cn_clips_transform_on_photos(
    data: Path, reference: Callable[[Image.Image], Any]
) -> None:
    for photo in sorted((data / "flickr8k-originals").glob("*.jpg"))[:20]:
        assert_like_reference(photo.read_bytes(), reference)


def test_normalize() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 3), dtype=np.uint8)
    out = pictures.normalize(batch)
    assert out.shape == (3, 3, 5, 5)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    exact = (batch / 255 - pictures.MEAN) / pictures.STD
    assert np.abs(out - exact.transpose(0, 3, 1, 2)).max() < 1e-6
    assert pictures.normalize(batch[:0]).shape == (0, 3, 5, 5)


def sizes(count: int, largest: int, seed: int) -> Iterator[tuple[int, int]]:
    """Sizes of every shape, odd ones too, small ones more often."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        width, height = np.exp(rng.uniform(0, np.log(largest), 2)).astype(int)
        yield int(width), int(height)


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def torchvisions(resolution: int, resize: str) -> Callable[[Image.Image], Any]:
    """What torchvision does to a Pillow picture."""
    transforms = pytest.importorskip("torchvision.transforms")
    bicubic = transforms.InterpolationMode.BICUBIC
    if resize == "squash":
        chosen = transforms.Resize((resolution, resolution), bicubic)
    else:
        chosen = transforms.Compose(
            [transforms.Resize(resolution, bicubic), transforms.CenterCrop(resolution)]
        )
    return lambda picture: np.asarray(chosen(picture))


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("resolution", [31, 64])
def test_the_same_bits_as_torchvision(resize: str, resolution: int) -> None:
    ours = Preprocessing(resolution=resolution, resize=resize)
    theirs = torchvisions(resolution, resize)
    known = [(640, 427), (64, 64), (65, 64), (1, 1), (333, 500), (31, 32), (1000, 63), (63, 1000)]
    for size in (*known, *sizes(200, 300, resolution)):
        if resize == "crop" and max(size) > 16 * min(size):
            continue
        picture = noise(size)
        assert np.array_equal(ours.to_array(picture), theirs(picture)), size


@pytest.mark.parametrize("size", [(30, 600), (600, 30), (7, 333), (100, 20_000), (20_001, 99)])
def test_crop_of_a_long_picture_is_what_torchvision_shows(size: tuple[int, int]) -> None:
    picture = scene(*size)
    ours = Preprocessing(resolution=64, resize="crop").to_array(picture).astype(int)
    assert np.abs(ours - torchvisions(64, "crop")(picture)).max() <= 3


def test_pad_is_the_same_bits_as_open_clips_longest() -> None:
    transform = pytest.importorskip("open_clip.transform")
    ours = Preprocessing(resolution=48, resize="pad", fill=0)
    theirs = transform.ResizeKeepRatio(48, longest=1), transform.CenterCropOrPad(48, fill=0)
    for size in ((640, 427), (48, 48), (47, 48), (1, 1), (30, 900), *sizes(150, 300, 3)):
        if max(size) < 90 * min(size):  # theirs fails where a side is rounded to nothing
            picture = noise(size)
            expected = np.asarray(theirs[1](theirs[0](picture)))
            assert np.array_equal(ours.to_array(picture), expected), size


def test_pad_shows_all_of_the_picture_in_the_middle_on_white() -> None:
    ours = Preprocessing(resolution=64, resize="pad")
    wide = ours.to_array(coordinates(300, 150)).astype(int)
    assert (wide[:16] == 255).all()
    assert (wide[48:] == 255).all()
    assert (wide[16:48, :, 2] == 0).all()
    assert wide[20, 0, 0] < 5
    assert wide[20, -1, 0] > 250
    tall = ours.to_array(coordinates(150, 300))
    assert np.array_equal(wide[..., 0], tall.transpose(1, 0, 2)[..., 1])
    assert (Preprocessing(resolution=8, resize="pad", fill=7).to_array(scene(80, 8))[0] == 7).all()


@pytest.mark.parametrize("resize", pictures.RESIZES)
@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1000, 20_000), (1, 1), (2, 3)])
def test_any_shape_gives_sane_input_in_little_memory(resize: str, size: tuple[int, int]) -> None:
    ours = Preprocessing(resolution=224, resize=resize)
    picture = Image.new("RGB", size, (10, 200, 30))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for made in (ours.to_array(picture), ours.augment(picture, np.random.default_rng(0))):
        assert made.shape == (224, 224, 3)
        assert (made == (10, 200, 30)).all(2).any()
        assert resize == "pad" or (made == (10, 200, 30)).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kilobytes


def test_normalize_is_torchvisions_with_any_mean_and_deviation() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    ours = Preprocessing(resolution=9, mean=(0.5, 0.4, 0.3), std=(0.25, 0.3, 0.5))
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(ours.mean, ours.std)])
    picture = noise((9, 9))
    assert np.array_equal(ours.normalize(np.asarray(picture)[None])[0], theirs(picture).numpy())


# Preprocessing as a value


def test_preprocessing_survives_json() -> None:
    made = Preprocessing(resolution=336, resize="pad", mean=(0.5, 0.5, 0.5), fill=0)
    assert Preprocessing.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert Preprocessing.from_json({"resolution": 224}) == Preprocessing(resolution=224)
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"resolution": 224, "resize": "stretch"}, "'stretch'; it is one of squash, crop, pad"),
        ({"resize": "crop"}, "resolution is missing"),
        ({"resolution": 224, "flip": True}, "flip is unknown; the fields are resolution, resize"),
        ({"resolution": 0}, "resolution is 0; it should be 1..8192"),
        ({"resolution": "224px"}, "wrong kind"),
        ({"resolution": 224.5}, "wrong kind"),
        ({"resolution": True}, "wrong kind"),
        ({"resolution": None}, "wrong kind"),
        ({"resolution": 224, "mean": 0.5}, "wrong kind"),
        ({"resolution": 224, "mean": [0.5, 0.5]}, "mean is"),
        ({"resolution": 224, "mean": [0.5, 0.5, float("nan")]}, "mean is"),
        ({"resolution": 224, "std": [0.5, 0.5, 0]}, "std is"),
        ({"resolution": 224, "fill": 256}, "fill is 256"),
    ],
)
def test_preprocessing_that_cannot_work_is_refused(value: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        Preprocessing.from_json(value)


# Augmentation


def coordinates(width: int, height: int) -> Image.Image:
    """A picture whose red says how far right a pixel is and whose green how far down, 0..255."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, x * 0], axis=2).astype(np.uint8))


@pytest.mark.parametrize("size", [(300, 300), (300, 200), (600, 60)])
def test_augment_keeps_nine_tenths_and_never_flips(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    picture = coordinates(*size)
    areas, aspects = [], []
    for _ in range(60):
        crop = pictures.augment(picture, 64, rng).astype(int)
        assert crop.shape == (64, 64, 3)
        width = (crop[:, -1, 0] - crop[:, 0, 0]).mean() / 255
        height = (crop[-1, :, 1] - crop[0, :, 1]).mean() / 255
        areas.append(width * height)
        aspects.append(width / height)
    assert min(areas) > 0.85
    assert max(areas) < 1.001
    assert np.std(areas) > 0.01
    assert 0.85 < min(aspects) < 0.98
    assert 1.02 < max(aspects) < 1.18


@pytest.mark.parametrize("size", [(300, 300), (300, 200), (100, 300)])
def test_augment_shows_in_crop_mode_what_evaluation_shows(size: tuple[int, int]) -> None:
    """The middle square of a box of nine tenths or more: moved and enlarged a little."""
    rng = np.random.default_rng(5)
    ours = Preprocessing(resolution=64, resize="crop")
    plain = ours.to_array(coordinates(*size)).astype(int)
    span = (
        plain[:, -1, 0].mean() - plain[:, 0, 0].mean(),
        plain[-1, :, 1].mean() - plain[0, :, 1].mean(),
    )
    for _ in range(40):
        made = ours.augment(coordinates(*size), rng).astype(int)
        width = (made[:, -1, 0] - made[:, 0, 0]).mean() / span[0]
        height = (made[-1, :, 1] - made[0, :, 1]).mean() / span[1]
        assert 0.85 < width < 1.08
        assert abs(width / height - 1) < 0.04  # nothing is stretched
        assert np.abs(made - plain).max() < 40


def test_augment_keeps_the_aspect_in_pad_mode() -> None:
    rng = np.random.default_rng(5)
    ours = Preprocessing(resolution=96, resize="pad")
    blank = []
    for _ in range(40):
        made = ours.augment(coordinates(300, 150), rng)
        inside = (made[..., 2] == 0).any(1)
        blank.append(int((~inside).sum()))
        rows = np.flatnonzero(inside)
        assert abs(rows[0] - (95 - rows[-1])) <= 1  # in the middle
        assert (made[inside][:, :, 2] == 0).all()  # nothing missing at its sides
    assert 40 <= min(blank) < max(blank) <= 56  # 48 without a crop


def test_squash_and_its_short_names_are_the_same() -> None:
    ours, picture = Preprocessing(resolution=40), scene()
    made = ours.to_array(picture)
    assert np.array_equal(pictures.to_array(picture, 40), made)
    assert np.array_equal(pictures.normalize(made[None]), ours.normalize(made[None]))
    first = pictures.augment(picture, 40, np.random.default_rng(1))
    assert np.array_equal(first, ours.augment(picture, np.random.default_rng(1)))


def test_augment_is_repeatable_and_takes_the_smallest_picture() -> None:
    first, second = (pictures.augment(scene(), 32, np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(first, second)
    assert pictures.augment(Image.new("RGB", (1, 1), "red"), 8, np.random.default_rng(0)).shape == (
        8,
        8,
        3,
    )


# Views


def test_a_view_is_repeatable_modest_and_another_picture() -> None:
    picture = coordinates(600, 400)
    views = [pictures.view(picture, seed) for seed in range(40)]
    assert all(np.array_equal(a, pictures.view(picture, n)) for n, a in enumerate(views))
    assert len({view.tobytes() for view in views}) == 40
    widths = [view.width for view in views]
    assert 250 <= min(widths) < 280 < max(widths) <= 320
    for view in views:
        middle = np.asarray(view).astype(int)[30:-30, 30:-30]
        assert middle[:, -1, 0].mean() > middle[:, 0, 0].mean() + 60  # right is right
        assert middle[-1, :, 1].mean() > middle[0, :, 1].mean() + 60  # and up is up


def test_a_view_turns_on_white() -> None:
    corners = [
        pictures.view(Image.new("RGB", (200, 200)), seed).getpixel((0, 0)) for seed in range(20)
    ]
    assert (255, 255, 255) in corners


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 1), (50, 40), (4000, 3000)])
def test_a_view_of_any_size(size: tuple[int, int]) -> None:
    for seed in range(4):
        view = pictures.view(Image.new("RGB", size, "red"), seed, side=100)
        assert view.mode == "RGB"
        assert 1 <= max(view.size) <= min(100, max(size))


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, wentu.pictures as p; assert 'PIL' not in sys.modules;"
        "p.thumbnail(p.decode(b'P6 1 1 255 abc'));"
        "assert not {'torch', 'torchvision', 'cn_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
