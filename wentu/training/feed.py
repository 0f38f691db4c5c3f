"""From arrays on the host to what a model is called with on its device."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wentu.clip.processor import Processor
from wentu.training.data import Cells, Inputs, threads

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Fed:
    """A model and what it is fed by."""

    model: Any
    processor: Processor
    dimension: int
    """Length of an embedding."""


class Feed:
    """Moves inputs to a device; pictures travel as bytes and are normalised there."""

    def __init__(self, processor: Processor, device: torch.device) -> None:
        self.processor, self.device = processor, device
        self._pinned = pins(device)
        self._mean = self._constant(processor.preprocessing.mean)
        self._std = self._constant(processor.preprocessing.std)

    def _constant(self, values: Any) -> torch.Tensor:
        import torch

        tensor = torch.tensor([float(value) for value in values], device=self.device)
        return 255 * tensor.view(1, 3, 1, 1)

    def move(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """An array on the device; the host does not wait for it."""
        import torch

        tensor = torch.from_numpy(array)
        if self._pinned:
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)  # on the CPU, the same

    def decoded(self, files: list[bytes]) -> npt.NDArray[np.uint8]:
        """uint8 [n, R, R, 3] of files' bytes, decoded by as many threads as there are cores."""
        with ThreadPoolExecutor(threads()) as pool:
            return np.stack(list(pool.map(self.processor.pixels, files)))

    def pictures(self, arrays: npt.NDArray[np.uint8]) -> torch.Tensor:
        """uint8 [n, R, R, 3] -> float32 [n, 3, R, R], normalised."""
        tensor: torch.Tensor = self.move(arrays).permute(0, 3, 1, 2).float()
        return (tensor - self._mean) / self._std

    def cells(self, cells: Cells, rows: int, columns: int) -> torch.Tensor:
        """bool [rows, columns], true in the given cells."""
        import torch

        found = torch.zeros((rows, columns), dtype=torch.bool, device=self.device)
        found[self.move(cells[0]), self.move(cells[1])] = True
        return found


class Teacher:
    """A larger model whose similarities are learned; it learns nothing itself."""

    def __init__(
        self, fed: Fed, device: torch.device, autocast: Callable[[], Any] = nullcontext
    ) -> None:
        """autocast: makes the contexts that it computes in, as the one that learns does."""
        self._autocast = autocast
        self._model = fed.model.to(device).eval().requires_grad_(False)
        self._feed, self._dimension = Feed(fed.processor, device), fed.dimension
        self.scale = float(self._model.logit_scale.exp())

    def encode(self, inputs: Inputs, chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(pictures, texts) [n, D] each, L2-normalised, ``chunk`` at a time."""
        import torch

        images = [torch.zeros((0, self._dimension), device=self._feed.device)]
        texts = list(images)
        with torch.no_grad(), self._autocast():
            for first in range(0, len(inputs.pictures), max(1, chunk)):
                here = slice(first, first + max(1, chunk))
                pictures = self._feed.pictures(inputs.pictures[here])
                images.append(unit(self._model.encode_image(pictures)))
                texts.append(unit(self._model.encode_text(self._feed.move(inputs.tokens[here]))))
        return torch.cat(images), torch.cat(texts)


def pins(device: torch.device) -> bool:
    """Does memory of the host that is pinned make copies to a device faster? Found by trying.

    With MPS, whose memory is the host's, pinning fails or gives a tensor of the device, depending
    on the version of torch (pytorch/pytorch#86060, #181374).
    """
    import torch

    if device.type == "cpu":
        return False
    try:
        tensor = torch.zeros(1).pin_memory()
    except (RuntimeError, NotImplementedError):
        return False
    return tensor.device.type == "cpu" and tensor.is_pinned()


def unit(features: torch.Tensor) -> torch.Tensor:
    """Rows of length 1, at least in float32: half precision is too coarse for similarities."""
    if features.element_size() < 4:
        features = features.float()
    found: torch.Tensor = features / features.norm(dim=-1, keepdim=True)
    return found
