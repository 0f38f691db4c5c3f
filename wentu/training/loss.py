"""The contrastive loss (Radford et al. 2021), without false negatives.

In a batch, two captions of one picture, and one caption that stands on two pictures, are no
negatives of each other: their logits are left out of the softmax. (In Flickr8k-CN 8,893 of 30,000
training captions stand on more than one picture.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def false_negatives(image_ids: torch.Tensor, text_ids: torch.Tensor) -> torch.Tensor:
    """bool [B, B]: off the diagonal, where picture i and caption j belong together.

    Args:
        image_ids: int64 [B], the picture of each pair.
        text_ids: int64 [B], the caption of each pair.
    """
    import torch

    same = (image_ids[:, None] == image_ids) | (text_ids[:, None] == text_ids)
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)


def contrastive_loss(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, ignore: torch.Tensor
) -> torch.Tensor:
    """Mean of the cross entropies picture -> caption and caption -> picture, in float32.

    Args:
        image, text: [B, D], L2-normalised; row i of one belongs to row i of the other.
        scale: the logit scale, exponentiated.
        ignore: bool [B, B], pairs that are no negatives (see ``false_negatives``).
    """
    import torch
    import torch.nn.functional as functional

    logits = scale.float() * image.float() @ text.float().T
    logits = logits.masked_fill(ignore, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    both = functional.cross_entropy(logits, target), functional.cross_entropy(logits.T, target)
    return (both[0] + both[1]) / 2
