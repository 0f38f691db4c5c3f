"""A moving average of the weights, beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Average:
    """What the weights have been of late: theta' <- d theta' + (1 - d) theta after each step.

    The decay d grows from 1/11 to the given one, (1 + t) / (11 + t), so that the start, which is
    soon far away, does not weigh on a short training.
    """

    def __init__(self, model: Any, decay: float) -> None:
        self.decay = decay
        self._shadow = {name: each.detach().clone() for name, each in _floats(model)}

    def follow(self, model: Any, step: int) -> None:
        """Take in the weights after step number ``step``, from 0."""
        import torch

        decay = min(self.decay, (1 + step) / (11 + step))
        with torch.no_grad():
            for name, each in _floats(model):
                self._shadow[name].lerp_(each, 1 - decay)

    @contextmanager
    def swapped(self, model: Any) -> Iterator[None]:
        """The model with the average's weights, for a while."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    def _swap(self, model: Any) -> None:
        import torch

        with torch.no_grad():
            for name, each in _floats(model):
                kept = each.detach().clone()
                each.copy_(self._shadow[name])
                self._shadow[name] = kept

    def state(self) -> Mapping[str, torch.Tensor]:
        """To be saved."""
        return self._shadow

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """What was saved."""
        for name, each in self._shadow.items():
            each.copy_(state[name])


def _floats(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, each in model.state_dict(keep_vars=True).items():
        if each.is_floating_point():
            yield name, each
