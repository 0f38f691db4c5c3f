"""Pictures: bytes -> upright RGB -> model input. The one decoder of the whole product.

Training, evaluation, embedding and serving all go through ``decode``, so a picture cannot look
different to the model on the day it is searched for than on the day it was trained on.

Unusual here, and its price:

- Formats are opened through Pillow's plugins, not ``PIL.Image.open``: that one refuses more than
  179 megapixels (phones make 200) unless a global is changed for the whole process. Ours is
  checked before any pixel is read. TIFF, WebP and GIF keep Pillow's 179: their plugins check.
- Damaged EXIF never costs a picture. The one field that we need is read by our own 20 lines
  (``_orientation``), because Pillow's reader warns, and silencing a warning
  (``warnings.catch_warnings``) is not safe in a thread pool.
- Only common formats are tried (``_FORMATS``). Pillow knows 40 more, one of which starts
  Ghostscript.

Every function may run in many threads at once. The one thing done to the process is a warning
filter for one category (``_silence_bomb_warning``), on the first GIF or TIFF.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import math
import struct
import warnings
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wentu.errors import InputError

if TYPE_CHECKING:
    from PIL import ImageFile
    from PIL.Image import Image

MAX_PIXELS = 300_000_000
"""Width times height above which a picture is refused: 200-megapixel phone photos pass. Decoding
the largest takes about 2.4 GB for a moment (4 bytes a pixel in Pillow, two copies)."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of red, green, blue in 0..1: OpenAI CLIP, ``clip/clip.py``; Chinese-CLIP uses the same."""

STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of red, green, blue, from the same place."""

Fingerprint = tuple[int, bytes]
"""What ``fingerprint`` makes: a 64-bit hash, and 192 bytes of 8x8 RGB."""

MAX_HASH_DISTANCE = 3
"""Bits of 64 in which the hashes of copies may differ. So two copies share at least one of the
four 16-bit quarters of the hash: candidates can be found without comparing every pair."""

MAX_COLOUR_DISTANCE = 3.0
"""Mean absolute difference, in 0..255, by which the miniatures of copies may differ."""

MAX_CELL_DIFFERENCE = 18
"""Largest difference of any value of the miniatures of copies, in 0..255: a small thing of another
colour changes few cells, and those much. Copies were at most 16 apart (emoji, half+q60); without
this 289 pairs of the 1,920 demo drawings would be joined."""

_HASH_MARGIN = 4  # grey levels of 255 by which one cell must be brighter: see near_duplicate

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_HEIC_BRANDS = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypheim", b"ftypheis", b"ftypmif1")

_Opener = Callable[[IO[bytes], str], "ImageFile.ImageFile"]
_Accepts = Callable[[bytes], bool | str] | None


class PictureError(InputError):
    """One picture cannot be used; the sentence says what is wrong with it, without its name."""


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image:
    """The picture in a file's bytes: first frame, upright, on white, mode RGB, fully loaded.

    The result holds neither the file nor its metadata. ``max_pixels`` bounds width times height
    and is checked before pixels are read.

    Raises PictureError for everything that is wrong with the bytes, whatever Pillow calls it.
    """
    from PIL import Image

    try:
        picture = _open(data)
        _check_size(picture.size, max_pixels)
        picture.load()
        orientation = _orientation(picture.info.get("exif"))
        return _plain(_upright(_to_rgb(picture), orientation))
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"more pixels than Pillow reads in this format ({error})",
            f"像素数超过 Pillow 对这种格式的上限（{error}）",
        ) from error
    except MemoryError as error:
        raise PictureError("too large for the memory left", "图片太大，内存不足") from error
    except Exception as error:
        # Pillow's plugins raise OSError, ValueError, SyntaxError, struct.error, zlib.error,
        # IndexError, ... on damaged files; none of them is a reason to stop a whole collection.
        detail = str(error) or type(error).__name__
        raise PictureError(
            f"damaged or incomplete: {detail}", f"文件损坏或不完整：{detail}"
        ) from error


def to_array(picture: Image, resolution: int) -> npt.NDArray[np.uint8]:
    """The whole picture squashed to a square, uint8 [resolution, resolution, 3].

    Pillow's bicubic, which is antialiased: what torchvision's ``Resize((R, R), BICUBIC)`` does to
    a Pillow picture, and so what Chinese-CLIP was trained on.
    """
    from PIL.Image import Resampling

    return np.array(_to_rgb(picture).resize((resolution, resolution), Resampling.BICUBIC))


def normalize(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """uint8 [N, R, R, 3] in 0..255 -> float32 [N, 3, R, R], contiguous: (x / 255 - MEAN) / STD.

    The same bits as torchvision's ToTensor and Normalize, which also compute in float32.
    """
    assert batch.ndim == 4
    assert batch.shape[3] == 3
    assert batch.dtype == np.uint8
    out = np.empty((batch.shape[0], 3, batch.shape[1], batch.shape[2]), dtype=np.float32)
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        plane = out[:, channel]
        np.divide(batch[..., channel], np.float32(255), out=plane)
        plane -= np.float32(mean)
        plane /= np.float32(std)
    return out


def augment(picture: Image, resolution: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A random crop squashed to a square, uint8 [resolution, resolution, 3], for training.

    The crop keeps 0.9..1.0 of the area, as Chinese-CLIP's training does. Its aspect relative to
    the *picture's own* is log-uniform within 3/4..4/3 and what fits. (torchvision means the
    absolute aspect; on a 3:2 photo no such crop fits and it always falls back to the same centre
    crop, which cuts off a ninth of what evaluation then shows. On square pictures both agree.)
    No flip: captions say left and right, and pictures hold text. Draws two numbers from ``rng``.
    """
    from PIL.Image import Resampling

    area = rng.uniform(0.9, 1.0)
    widest = min(math.log(4 / 3), -math.log(area))  # wider than 1 / area would leave the picture
    aspect = math.exp(rng.uniform(-widest, widest))
    width = min(1.0, math.sqrt(area * aspect)) * picture.width
    height = min(1.0, math.sqrt(area / aspect)) * picture.height
    left = rng.uniform(0.0, picture.width - width)
    top = rng.uniform(0.0, picture.height - height)
    box = (left, top, min(left + width, picture.width), min(top + height, picture.height))
    size = (resolution, resolution)
    return np.array(_to_rgb(picture).resize(size, Resampling.BICUBIC, box=box))


def thumbnail(picture: Image, side: int = 256) -> bytes:
    """JPEG (quality 85) of at most ``side`` x ``side`` pixels, aspect kept, never enlarged.

    Carries no metadata: no EXIF, hence no GPS position, no comment, no colour profile.
    """
    from PIL.Image import Resampling

    scale = min(1.0, side / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = _to_rgb(picture).resize(size, Resampling.BICUBIC, reducing_gap=2.0)
    small.info = {}  # Pillow writes a comment that it finds here back into the file
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def fingerprint(picture: Image) -> Fingerprint:
    """What copies share: (64-bit difference hash as an unsigned int, miniature of 192 bytes).

    The hash is dHash on 9x8 grey cells: is a cell brighter than the next in its row (N. Krawetz,
    "Kind of Like That", hackerfactor.com, January 2013), row by row from the highest bit down;
    ours wants it brighter by more than 4 levels, or noise would decide on flat ground. The
    miniature is 8x8 RGB, row by row.
    """
    from PIL.Image import Resampling

    picture = _to_rgb(picture)
    times = min(picture.size) // 256
    if times > 1:
        picture = picture.reduce(times)  # area means: saves 80 ms on 12 megapixels
    cells = picture.convert("L").resize((9, 8), Resampling.BICUBIC)
    grey = np.asarray(cells).astype(np.int16)
    bits = np.packbits(grey[:, :-1] > grey[:, 1:] + _HASH_MARGIN)
    small = picture.resize((8, 8), Resampling.BICUBIC)
    return int.from_bytes(bits.tobytes(), "big"), small.tobytes()


def near_duplicate(a: Fingerprint, b: Fingerprint) -> bool:
    """Whether two pictures are copies, re-encoded or resized; not merely alike.

    Copies recognised, in percent, and wrong joins among all pairs that are not pixel-equal:

        pictures                     q60    half   half+q60   70%+WebP50   wrong joins
        Flickr8k-CN, 2,700 photos    99.96  100    99.63      99.30        0 of 3,643,649
        Noto emoji, 446 flat icons   100    100    93.72      99.55        0 of 99,187
        50 food photos               100    100    100        100          0 of 1,225

    (q60: as JPEG of that quality; half: both sides halved, which leaves icons 64 pixels.)
    Without the margin of 4 levels the hash recognises 98 % of half+q60 on Flickr8k-CN and 86 % on
    the emoji; miniatures up to 6 apart would join clock faces that differ in their hands only.
    """
    if (a[0] ^ b[0]).bit_count() > MAX_HASH_DISTANCE:
        return False
    first, second = (np.frombuffer(x[1], dtype=np.uint8).astype(np.int16) for x in (a, b))
    difference = np.abs(first - second)
    return bool(
        difference.mean() <= MAX_COLOUR_DISTANCE and difference.max() <= MAX_CELL_DIFFERENCE
    )


def _open(data: bytes) -> ImageFile.ImageFile:
    """The picture's header, read by the first plugin that recognises the bytes."""
    _refuse_known_strangers(data)
    for name, opener, accepts in _openers():
        accepted = accepts(data[:16]) if accepts else True
        if accepted is True:
            if name in ("GIF", "TIFF"):
                _silence_bomb_warning()
            picture = opener(io.BytesIO(data), "")
            _scale_transparent_colour(picture)
            return picture
    raise PictureError(
        f"not a picture in a format we read ({', '.join(_FORMATS)})",
        f"不是可以读取的图片格式（{'、'.join(_FORMATS)}）",
    )


def _refuse_known_strangers(data: bytes) -> None:
    """Name what is often found where a picture should be."""
    if not data:
        raise PictureError("the file is empty", "文件是空的")
    if data.startswith(_LFS_POINTER):
        raise PictureError(
            "a Git LFS pointer, not the picture: run git lfs pull",
            "这是 Git LFS 指针，不是图片本身：请运行 git lfs pull",
        )
    if data[4:12] in _HEIC_BRANDS:
        raise PictureError(
            "a HEIC picture, which cannot be read here: convert it to JPEG",
            "HEIC 格式的图片，这里无法读取：请先转换为 JPEG",
        )


@functools.cache
def _openers() -> list[tuple[str, _Opener, _Accepts]]:
    """(format, opener, "are these the first 16 bytes of one?") of every format in _FORMATS."""
    from PIL import Image, JpegImagePlugin

    for plugin in ("Avif", "Bmp", "Gif", "Jpeg2K", "Png", "Ppm", "Tiff", "WebP"):
        with contextlib.suppress(ImportError):  # Avif came with Pillow 11.3
            importlib.import_module(f"PIL.{plugin}ImagePlugin")  # which registers it

    class QuietJpeg(JpegImagePlugin.JpegImageFile):
        """A JPEG, also where it is the first of several in an MPO, opened without reading EXIF."""

        def _read_dpi_from_exif(self) -> None:
            """Nobody here wants the resolution, and damaged EXIF would warn."""

    found: list[tuple[str, _Opener, _Accepts]] = []
    for name in _FORMATS:
        if name in Image.OPEN:  # AVIF and JPEG 2000 may be missing from a build of Pillow
            opener, accepts = Image.OPEN[name]
            found.append((name, QuietJpeg if name == "JPEG" else opener, accepts))
    return found


def _silence_bomb_warning() -> None:
    """Stop Pillow's *warning* above 89 megapixels, which its GIF and TIFF plugins still give.

    A filter for that one category, left in place: taking it away again would race with other
    threads. Its error above 179 megapixels stays, and so does our own limit.
    """
    from PIL.Image import DecompressionBombWarning

    if ("ignore", None, DecompressionBombWarning, None, 0) not in warnings.filters:
        warnings.simplefilter("ignore", DecompressionBombWarning)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise PictureError("a picture without pixels", "图片没有像素")
    if width * height > max_pixels:
        raise PictureError(
            f"{width} x {height} pixels, more than the {max_pixels:,} allowed",
            f"{width} x {height} 像素，超过允许的 {max_pixels:,} 像素",
        )


def _scale_transparent_colour(picture: ImageFile.ImageFile) -> None:
    """Bring a PNG's one transparent colour to the depth that Pillow gives its pixels.

    PNG states it in the file's own depth (section 11.3.2.1); Pillow widens 2 and 4 bits to 8 and
    narrows 3 x 16 to 3 x 8, but leaves this colour as it was.
    """
    colour = picture.info.get("transparency")
    if picture.format != "PNG" or colour is None or not picture.tile:
        return
    stored = picture.tile[0].args
    if stored == "RGB;16B":
        picture.info["transparency"] = tuple(value >> 8 for value in colour)
    elif stored in ("L;2", "L;4"):
        picture.info["transparency"] = colour * (85 if stored == "L;2" else 17)


def _orientation(exif: object) -> int:
    """The orientation tag (0x0112) of an EXIF block, 1..8; 1 where it is missing or damaged.

    EXIF 2.32, sections 4.6.2 and 4.6.4: a TIFF header, then one directory of 12-byte entries.
    """
    if not isinstance(exif, bytes):
        return 1
    body = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(body[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", body, 4)
        (count,) = struct.unpack_from(order + "H", body, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", body, entry)
            if tag == 0x0112:
                width = {1: "B", 3: "H", 4: "I"}.get(kind, "H")
                (value,) = struct.unpack_from(order + width, body, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # points outside of the block
        pass
    return 1


def _upright(picture: Image, orientation: int) -> Image:
    """Turn and mirror as EXIF 2.32, section 4.6.4, defines orientations 1 to 8."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return picture.transpose(turns[orientation]) if orientation in turns else picture


def _to_rgb(picture: Image) -> Image:
    """Any mode -> RGB: palettes looked up, transparency put on white, deep grey narrowed."""
    if picture.mode.startswith(("I", "F")):
        return _narrow_grey(picture)
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    return _on_white(picture.convert("RGBA"))


def _on_white(picture: Image) -> Image:
    """RGBA -> RGB over white: transparent red is white, as every viewer shows it."""
    from PIL import Image

    alpha = picture.getchannel("A")
    colours = picture.convert("RGB")
    if alpha.getextrema() == (255, 255):
        return colours
    white = Image.new("RGB", picture.size, "white")
    white.paste(colours, mask=alpha)
    return white


def _narrow_grey(picture: Image) -> Image:
    """Grey of 16 or 32 bits, or of floats -> RGB. Pillow's own conversion clips at 255.

    16 bits are divided by 257 and rounded. 32-bit and float pictures do not say what white is:
    it is the first of (1, 255 for floats; 65,535) that no value exceeds, else the largest value.
    """
    from PIL import Image

    values = np.nan_to_num(np.asarray(picture).astype(np.float32), posinf=0.0, neginf=0.0)
    top = float(values.max())
    likely = (1.0, 255.0, 65535.0) if picture.mode == "F" else (65535.0,)
    white = next((value for value in likely if top <= value), top)
    shades = np.rint(np.clip(values * np.float32(255 / white), 0, 255)).astype(np.uint8)
    key = picture.info.get("transparency")
    if isinstance(key, int):
        shades[np.asarray(picture) == key] = 255
    return Image.fromarray(shades).convert("RGB")


def _plain(picture: Image) -> Image:
    """A picture that holds no file and no metadata."""
    from PIL import ImageFile

    result = picture.copy() if isinstance(picture, ImageFile.ImageFile) else picture
    result.info = {}
    return result
