"""Pictures: bytes -> upright RGB -> model input. The one decoder of the whole product.

Training, evaluation, embedding and serving all go through ``decode`` and one ``Preprocessing``, so
a picture cannot look different to the model on the day it is searched for than on the day it was
trained on.

    opening.py    which format the bytes are in, and their header; HEIC through pillow_heif
    decoding.py   the first frame, upright, on white, RGB
    preparing.py  that -> uint8 [R, R, 3] (squash, crop or pad) -> float32 [N, 3, R, R]; views
    copies.py     thumbnails, and fingerprints by which copies are found

Every function may run in many threads at once. Nothing is registered for the process; the one
thing done to it is two warning filters for Pillow's plugins (``opening._silence_plugins``).
"""

from wentu.pictures.copies import (
    MAX_CELL_DIFFERENCE,
    MAX_COLOUR_DISTANCE,
    MAX_HASH_DISTANCE,
    Fingerprint,
    fingerprint,
    near_duplicate,
    thumbnail,
)
from wentu.pictures.decoding import (
    MAX_PIXELS,
    MAX_SIDE,
    decode,
    exif_orientation,
    exif_taken,
    taken,
)
from wentu.pictures.opening import PictureError
from wentu.pictures.preparing import (
    MEAN,
    RESIZES,
    STD,
    Preprocessing,
    augment,
    normalize,
    to_array,
    view,
)

__all__ = [
    "MAX_CELL_DIFFERENCE",
    "MAX_COLOUR_DISTANCE",
    "MAX_HASH_DISTANCE",
    "MAX_PIXELS",
    "MAX_SIDE",
    "MEAN",
    "RESIZES",
    "STD",
    "Fingerprint",
    "PictureError",
    "Preprocessing",
    "augment",
    "decode",
    "exif_orientation",
    "exif_taken",
    "fingerprint",
    "near_duplicate",
    "normalize",
    "taken",
    "thumbnail",
    "to_array",
    "view",
]
