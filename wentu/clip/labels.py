"""Which of these labels does a picture show? Over any model that embeds texts and pictures.

A label is put into several sentences (``TEMPLATES``) whose embeddings are averaged, because a model
that learned captions knows sentences better than bare words (Radford et al. 2021, section 3.1.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]

TEMPLATES = {
    "zh": ("{}", "{}的照片。", "一张{}的图片。", "图中是{}。", "画面里有{}。", "近处的{}。"),
    "en": ("{}", "a photo of {}.", "a picture of a {}.", "a close view of {}.", "there is a {}."),
}
"""Ours; the bare label is among them, for names that are no everyday words."""


class Model(Protocol):
    """What is needed of a model; encoders and bundles have it."""

    logit_scale: float

    def encode_text(self, texts: Sequence[str], /) -> Features:
        """L2-normalised float32 [N, D]."""

    def encode_image(self, images: Sequence[Any], /) -> Features:
        """L2-normalised float32 [N, D]."""


def templates_for(labels: Sequence[str]) -> tuple[str, ...]:
    """Chinese sentences where any label has a Chinese character, else English ones."""
    chinese = any("\u4e00" <= char <= "\u9fff" for label in labels for char in label)
    return TEMPLATES["zh" if chinese else "en"]


def embed_labels(model: Model, labels: Sequence[str], templates: Sequence[str]) -> Features:
    """L2-normalised [C, D]: each label's mean over the templates."""
    count = len(templates)
    texts = [template.replace("{}", label) for label in labels for template in templates]
    vectors = model.encode_text(texts).reshape(len(labels), count, -1).mean(axis=1)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def probabilities(
    model: Model, images: Sequence[Any], labels: Sequence[str], templates: Sequence[str]
) -> npt.NDArray[np.float64]:
    """[N, C] softmax over the labels of the scaled cosines; every row adds up to 1."""
    cosines = model.encode_image(images) @ embed_labels(model, labels, templates).T
    logits = model.logit_scale * cosines.astype(np.float64)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
