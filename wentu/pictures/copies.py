"""What a result list shows, and what copies of a picture share."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from wentu.pictures.decoding import to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

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


def thumbnail(picture: Image, side: int = 256) -> bytes:
    """JPEG (quality 85) of at most ``side`` x ``side`` pixels, aspect kept, never enlarged.

    Carries no metadata: no EXIF, hence no GPS position, no comment, no colour profile.
    """
    from PIL.Image import Resampling

    scale = min(1.0, side / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = to_rgb(picture).resize(size, Resampling.BICUBIC, reducing_gap=2.0)
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

    picture = to_rgb(picture)
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
