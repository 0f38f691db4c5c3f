"""What stands between a user's texts and pictures and a model: the same in training and serving.

A model is only as good as the input it gets, so how captions become tokens and pictures become
pixels travels with it: in the checkpoint, in the bundle, in the release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wentu import pictures
from wentu.clip.convert import convert
from wentu.clip.tokenizers import TextTokenizer, load_tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class Processor:
    """Texts -> token ids, pictures -> pixels, as one model wants them."""

    tokenizer: TextTokenizer
    preprocessing: pictures.Preprocessing
    context_length: int
    """Tokens of a text, those that begin and end it included; what is longer is cut."""
    convert: str = "none"
    """Chinese script that texts are brought to first, as in training (see clip/convert.py)."""

    def tokens(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """int64 [N, L], L what the longest text needs (or always the context length)."""
        texts = [convert(text, self.convert) for text in texts]
        return self.tokenizer.encode(texts, self.context_length)

    def pixels(self, image: bytes | Image) -> npt.NDArray[np.uint8]:
        """uint8 [R, R, 3] of a file's bytes or a decoded picture; PictureError on a bad one."""
        picture = pictures.decode(image) if isinstance(image, bytes) else image
        return self.preprocessing.to_array(picture)

    def normalize(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 [N, R, R, 3] -> float32 [N, 3, R, R]."""
        return self.preprocessing.normalize(batch)

    @property
    def resolution(self) -> int:
        """Pixels of a side of the model's square input."""
        return self.preprocessing.resolution

    def save(self, folder: Path) -> dict[str, Any]:
        """Write ``tokenizer.json`` into ``folder``; returns the rest as JSON values."""
        self.tokenizer.save(folder / TOKENIZER)
        return {
            "preprocessing": self.preprocessing.to_json(),
            "tokenizer": dict(self.tokenizer.settings),
            "context_length": self.context_length,
            "convert": self.convert,
        }

    @classmethod
    def load(cls, folder: Path, value: Mapping[str, Any]) -> Processor:
        """What ``save`` wrote: the folder with its ``tokenizer.json``, and the JSON values."""
        return cls(
            tokenizer=load_tokenizer(folder / TOKENIZER, value["tokenizer"]),
            preprocessing=pictures.Preprocessing.from_json(value["preprocessing"]),
            context_length=int(value["context_length"]),
            convert=str(value["convert"]),
        )
