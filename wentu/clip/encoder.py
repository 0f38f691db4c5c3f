"""``wentu.load``: one face over bundles, releases, checkpoints and names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wentu.clip.bundle import BUNDLE, Bundle
from wentu.errors import InputError
from wentu.formats import STORE_MARK, batched
from wentu.storage import local_copy

if TYPE_CHECKING:
    from wentu.clip.checkpoint import Checkpoint

Features = npt.NDArray[np.float32]
Picture = "str | Path | bytes | Image"


class Encoder:
    """Encodes texts and pictures into one space; subclasses say how."""

    dimension: int
    logit_scale: float
    """exp of the learned temperature: what similarities are multiplied by before a softmax."""

    def encode_text(self, texts: Sequence[str]) -> Features:
        """L2-normalised float32 [N, D]."""
        raise NotImplementedError

    def encode_image(self, images: Sequence[Any]) -> Features:
        """L2-normalised float32 [N, D] of paths, encoded bytes or Pillow pictures."""
        raise NotImplementedError

    def similarity(self, image: Any, texts: Sequence[str]) -> Features:
        """Cosine [N] of one picture with each text."""
        result: Features = self.encode_text(texts) @ self.encode_image([image])[0]
        return result

    def probabilities(self, image: Any, labels: Sequence[str]) -> dict[str, float]:
        """Softmax over ``labels`` of scaled similarities: zero-shot classification."""
        logits = self.logit_scale * self.similarity(image, labels).astype(np.float64)
        weights = np.exp(logits - logits.max())
        return dict(zip(labels, (weights / weights.sum()).tolist(), strict=True))


class BundleEncoder(Encoder):
    """Over a bundle: ONNX Runtime, no torch."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.dimension, self.logit_scale = bundle.dimension, bundle.logit_scale

    def encode_text(self, texts: Sequence[str]) -> Features:
        return self.bundle.encode_text(texts)

    def encode_image(self, images: Sequence[Any]) -> Features:
        return self.bundle.encode_image(opened(images))


class TorchEncoder(Encoder):
    """Over a torch model, in float32 on the CPU."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model, self.processor = checkpoint.model(), checkpoint.processor()
        self.dimension = checkpoint.architecture.embed_dim
        self.logit_scale = float(self.model.logit_scale.detach().exp())

    def encode_text(self, texts: Sequence[str]) -> Features:
        tokens = (self.processor.tokens(part) for part in batched(texts, 64))
        return self._features(self.model.encode_text, tokens)

    def encode_image(self, images: Sequence[Any]) -> Features:
        arrays = (self.processor.pixels(image) for image in opened(images))
        prepared = (self.processor.normalize(np.stack(part)) for part in batched(arrays, 32))
        return self._features(self.model.encode_image, prepared)

    def _features(self, encode: Any, batches: Any) -> Features:
        import torch

        with torch.no_grad():
            parts = [encode(torch.from_numpy(batch)).float().numpy() for batch in batches]
        raw = np.concatenate(parts) if parts else np.empty((0, self.dimension), np.float32)
        length = np.linalg.norm(raw, axis=1, keepdims=True)
        return np.asarray(raw / np.maximum(length, 1e-12), np.float32)


def opened(images: Sequence[Any]) -> list[Any]:
    """Paths read into bytes; bytes and pictures as they are."""
    return [Path(i).read_bytes() if isinstance(i, (str, Path)) else i for i in images]


def find_bundle(place: str) -> Path | None:
    """The bundle that a path means: a bundle itself, or the current release of a store."""
    from wentu.store import Store

    store = Store(place)
    if store.storage.exists(STORE_MARK) or (store.storage.home / "pointer").is_dir():
        current = store.current()
        return store.model(current[1].model) if current else None
    path = local_copy(place)
    return path if (path / BUNDLE).exists() else None


def load_encoder(name: str) -> Encoder:
    """See ``wentu.load``."""
    from wentu.clip.checkpoint import is_name, start

    bundle = None if is_name(name) else find_bundle(name)
    if bundle:
        return BundleEncoder(Bundle(bundle))
    checkpoint = start(name)
    if checkpoint.state is None:
        raise InputError(
            f"{name} has no pretrained weights; load a checkpoint or a store of it.",
            f"{name} 没有预训练权重；请加载它的检查点或仓库。",
        )
    return TorchEncoder(checkpoint)
