"""AdamW with weight decay where it belongs, and the learning rate of every step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Decay on the matrices of linear and convolution layers only.

    Not on biases, LayerNorms (BERT's included), embeddings and positions, the class embedding and
    the logit scale; the reference decays BERT's LayerNorm weights and the class embedding.
    """
    decayed: list[Any] = []
    others: list[Any] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim < 2 or "embedding" in name
        (others if plain else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def make_optimizer(model: Any, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with the betas and epsilon of CLIP's ViT training (Radford et al. 2021, table 20)."""
    import torch

    groups = parameter_groups(model, weight_decay)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def rate_at(step: int, total: int, peak: float, warmup: float) -> float:
    """Linear warm-up over the share ``warmup`` of all steps, then a cosine down to 0.

    Args:
        step: 0-based; total: steps of the whole run, so the peak is always reached.
    """
    rising = max(1, round(warmup * total))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
