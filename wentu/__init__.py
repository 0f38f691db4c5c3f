"""wentu (文图): pictures and captions in, a proven Chinese-CLIP and a search engine out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wentu.clip.encoder import Encoder

__version__ = "0.1.0"


def load(name: str) -> Encoder:
    """A model that encodes texts and pictures.

    Args:
        name: a model bundle or a store (its current release), as ``wentu run`` makes them; a
            checkpoint file (ours or Chinese-CLIP's, ``.pt``); or a name such as ``ViT-B-16``
            whose weights are on this machine.
    """
    from wentu.clip.encoder import load_encoder

    return load_encoder(name)
