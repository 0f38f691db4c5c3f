"""How fast a training is, and what it waits for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from wentu.training.devices import peak_memory

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")


class Meter:
    """Samples per second, the share of the time that is waited for data, memory, and MFU.

    MFU (model FLOPs utilisation, Chowdhery et al. 2022) counts three forward passes per pair,
    whatever is computed twice to save memory, against what the devices could do at most.
    """

    def __init__(self, device: torch.device, flops: float, peak: float) -> None:
        """flops: of one pair's forward pass, or 0. peak: operations per second of all devices."""
        self._device, self._flops, self._peak = device, flops, peak
        self._began = time.monotonic()
        self.samples, self.waited = 0, 0.0

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Hand on ``items``, timing how long each lets itself be waited for."""
        following = iter(items)
        while True:
            moment = time.monotonic()
            try:
                item = next(following)
            except StopIteration:
                return
            finally:
                self.waited += time.monotonic() - moment
            yield item

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def figures(self) -> dict[str, float]:
        """Of all that was seen since it began."""
        seconds = max(self.seconds, 1e-9)
        rate = self.samples / seconds
        found = {
            "samples_per_second": rate,
            "loader_wait": self.waited / seconds,
            "memory_gib": peak_memory(self._device) / 2**30,
        }
        return found | ({"mfu": 3 * self._flops * rate / self._peak} if self._flops else {})


def means(sums: Mapping[str, float], count: int) -> dict[str, float]:
    """Sums over steps as means of a step."""
    return {name: value / max(1, count) for name, value in sums.items()}
