"""Contrastive losses, a few rows at a time, so that memory grows with own rows x batch.

A batch of B pairs lies over several processes. Each has the features of all pairs and computes
the loss of its own n pictures against all B captions and of its own n captions against all B
pictures; the sum over the processes is the loss of the batch.

What belongs together is what the training split says, for every picture and caption of the batch:
two captions of one picture, one caption of several pictures, and the pairs that follow from both.
(In Flickr8k-CN 8,893 of 30,000 training captions stand on more than one picture; in batches of
1,024 there are 7,590 right pairs off the diagonal.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One process's part of a batch of B pairs."""

    image: torch.Tensor
    """[B, D], L2-normalised; of all pairs"""
    text: torch.Tensor
    """[B, D]"""
    own: slice
    """The n rows that are this process's."""
    belongs: tuple[torch.Tensor, torch.Tensor]
    """bool [n, B] twice: own picture i and caption j belong together; own caption i, picture j."""

    @cached_property
    def similarities(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[n, B] twice: own pictures with all captions, own captions with all pictures."""
        image, text = at_least_float32(self.image), at_least_float32(self.text)
        return image[self.own] @ text.T, text[self.own] @ image.T


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision would lose the differences that a large scale makes much of."""
    return tensor if tensor.element_size() == 8 else tensor.float()


def softmax_loss(rows: Rows, scale: torch.Tensor, positives: str = "share") -> torch.Tensor:
    """Own rows' part of CLIP's loss (Radford et al. 2021), the mean of both directions.

    Args:
        scale: the logit scale, exponentiated.
        positives: what belongs together off the diagonal is right as well (``share``: the target
            of a row is spread evenly over its right answers, as in supervised contrastive
            learning, Khosla et al. 2020, L_out), left out of the row (``ignore``), or taken for
            wrong (``diagonal``).
    """
    import torch

    total = len(rows.image)
    diagonal = torch.zeros_like(rows.belongs[0])
    diagonal[:, rows.own].fill_diagonal_(True)
    loss = at_least_float32(rows.image.new_zeros(()))
    for similarity, belongs in zip(rows.similarities, rows.belongs, strict=True):
        logits = scale.to(similarity.dtype) * similarity
        if positives == "ignore":
            logits = logits.masked_fill(belongs & ~diagonal, float("-inf"))
        target = belongs if positives == "share" else diagonal
        # -inf * 0 is NaN: what is left out has no share in the target and must not be read.
        right = torch.where(target, logits, 0).sum(dim=1) / target.sum(dim=1)
        loss = loss + (logits.logsumexp(dim=1) - right).sum()
    return loss / (2 * total)


def sigmoid_loss(rows: Rows, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Own rows' part of SigLIP's loss (Zhai et al. 2023, equation 1): each pair for itself.

    Args:
        scale: the logit scale, exponentiated; bias: added to all logits.
    """
    import torch
    import torch.nn.functional as functional

    similarity = rows.similarities[0]
    logits = scale.to(similarity.dtype) * similarity + bias.to(similarity.dtype)
    sign = torch.where(rows.belongs[0], 1.0, -1.0).to(logits.dtype)
    return -functional.logsigmoid(sign * logits).sum() / len(rows.image)


def first_bias(rows: Rows, scale: torch.Tensor) -> torch.Tensor:
    """Where SigLIP's bias starts: a usual pair of the batch gets the logit -log B.

    That is -10 at the batches of 32,768 and the cosines near 0 for which Zhai et al. 2023 chose
    it; the cosines of a pretrained CLIP are well above 0, and its scale is ten times theirs.
    """
    usual = at_least_float32(rows.image).mean(dim=0) @ at_least_float32(rows.text).mean(dim=0)
    return -scale.to(usual.dtype) * usual - math.log(len(rows.image))


def distillation_loss(
    rows: Rows, scale: torch.Tensor, teacher: Rows, teacher_scale: float
) -> torch.Tensor:
    """Own rows' part of the cross entropy between the teacher's softmax and ours, both directions.

    0 gradient where every picture resembles the batch's captions as it does for the teacher
    (Yang et al. 2024, CLIP-KD, contrastive relational distillation).
    """
    loss = at_least_float32(rows.image.new_zeros(()))
    for ours, theirs in zip(rows.similarities, teacher.similarities, strict=True):
        wanted = (teacher_scale * theirs).softmax(dim=1)
        loss = loss - (wanted * (scale.to(ours.dtype) * ours).log_softmax(dim=1)).sum()
    return loss / (2 * len(rows.image))


def hits(rows: Rows) -> tuple[int, int]:
    """Own (pictures, captions) whose most similar one in the batch is that of their own row.

    In-batch accuracy, as Chinese-CLIP logs it, so that old figures can be compared: another row's
    caption counts as wrong even where it belongs. No recall: it is the easier the smaller the
    batch.
    """
    import torch

    own = torch.arange(rows.own.start, rows.own.stop, device=rows.image.device)
    image, text = (int((each.argmax(dim=1) == own).sum()) for each in rows.similarities)
    return image, text


def chance(size: int, loss: str = "softmax") -> float:
    """The loss of a batch of ``size`` pairs in which everything is equally similar.

    softmax, and a teacher's similarities: log B. sigmoid: where its bias is at its best, B times
    the entropy of one right answer in B.
    """
    if loss == "sigmoid" and size > 1:
        return math.log(size) - (size - 1) * math.log1p(-1 / size)
    return math.log(size)
