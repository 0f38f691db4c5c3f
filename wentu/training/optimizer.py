"""AdamW with weight decay where it belongs, and the learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from wentu.training.layers import depth_of

if TYPE_CHECKING:
    import torch


def parameter_groups(
    model: Any, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Parameters by weight decay and by depth; ``scale`` is a group's share of the learning rate.

    Decay is on the matrices of linear and convolution layers only: not on biases, LayerNorms
    (BERT's included), embeddings and positions, the class embedding and the logit scale; the
    reference decays BERT's LayerNorm weights and the class embedding.

    Layer-wise decay of the rate is BEiT's (Bao et al. 2022): ``layer_decay`` to the power of the
    layers above.
    """
    groups: dict[tuple[bool, float], list[Any]] = {}
    depths, decayed = depth_of(model), set(matrices(model))
    top = max(depths.values())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = layer_decay ** (top - depths[name])
            groups.setdefault((name in decayed, scale), []).append(parameter)
    return [
        {"params": each, "weight_decay": weight_decay if decays else 0.0, "scale": scale}
        for (decays, scale), each in groups.items()
    ]


BARE = ("proj", "text_projection")
"""Matrices that stand in a model without a layer around them."""


def matrices(model: Any) -> Iterator[str]:
    """Names of the weights of linear, convolution and attention layers, and of bare projections."""
    import torch

    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd, torch.nn.MultiheadAttention)
    for name, parameter in model.named_parameters():
        owner, _, last = name.rpartition(".")
        layer = isinstance(model.get_submodule(owner), kinds) or last == "in_proj_weight"
        if parameter.ndim >= 2 and (layer or last in BARE or ".parametrizations." in name):
            yield name


def make_optimizer(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """AdamW with the betas and epsilon of CLIP's ViT training (Radford et al. 2021, table 20).

    Fused where every parameter's device can: one pass over memory instead of ten.
    """
    import torch

    # lr is set before each step; amsgrad and the like are left out.
    options: dict[str, Any] = {"lr": 0.0, "betas": (0.9, 0.98), "eps": 1e-6}
    try:
        return torch.optim.AdamW(groups, fused=True, **options)
    except RuntimeError:  # a device of a plug-in without a fused kernel
        return torch.optim.AdamW(groups, **options)


USUAL_BATCH = 64
PRETRAINED_RATE, SCRATCH_RATE = 1.25e-5, 1e-3


def peak_rate(given: float, *, batch_size: int, scratch: bool) -> float:
    """The peak learning rate of a run: what is given, else what suits start and batch.

    Chinese-CLIP fine-tunes with 5e-5 at batches of 1,024 (its run_scripts/muge_finetune_*.sh).
    Adam's rate goes with the square root of the batch (Malladi et al. 2022), which is 1.25e-5 at
    64. From random weights 1e-3 was measured on the demo, and is not exceeded.
    """
    if given:
        return given
    growth = math.sqrt(batch_size / USUAL_BATCH)
    return min(SCRATCH_RATE * growth, 1e-3) if scratch else min(PRETRAINED_RATE * growth, 2e-4)


def rate_at(step: int, total: int, peak: float, warmup: float) -> float:
    """Linear warm-up over the share ``warmup`` of all steps, then a cosine down to 0.

    Args:
        step: 0-based; total: steps of the whole run, so the peak is always reached.
    """
    rising = max(1, round(warmup * total))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
