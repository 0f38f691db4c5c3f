"""Has a training destroyed what its start knew, though every figure is still a number?

After an epoch two things have to be so: on valid less than half of the start's recall is left, and
the loss of the epoch was that of a model to which everything is equally similar. One alone is no
proof: valid may be of another kind than what is trained on, and hard data may never have a loss
much below that of chance. Where the start finds hardly more than chance does, and from random
weights, there is nothing to lose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wentu.language import pick
from wentu.training.config import Config
from wentu.training.losses import chance

LOST = 0.5
"""Share of the start's recall below which the rest is lost."""
KNOWS = 2.0
"""Times the recall of chance that a start needs to have something to lose."""
AT_CHANCE = 0.95
"""Share of the loss of chance that counts as no better: an epoch's mean has its early steps in it,
from before the collapse."""


def collapsed(
    history: Sequence[Mapping[str, float]], *, recall_of_chance: float, loss_of_chance: float
) -> bool:
    """Did the last epoch, the last row of ``history``, find what was there in ruins?"""
    start, now = history[0], history[-1]
    if "recall" not in now or "loss" not in now:
        return False
    knew = start["recall"] > KNOWS * recall_of_chance
    lost = now["recall"] < LOST * start["recall"]
    return knew and lost and now["loss"] >= AT_CHANCE * loss_of_chance


def loss_of_chance(config: Config, pairs: int) -> float:
    """The mean over an epoch's steps, of which the last may be smaller, as the loss is told."""
    taught = config.distill if config.teacher else 0.0

    def of(size: int) -> float:
        return (1 - taught) * chance(size, config.loss) + taught * chance(size)

    whole, rest = divmod(pairs, config.batch_size)
    if not rest:
        return of(config.batch_size)
    return (whole * of(config.batch_size) + of(rest)) / (whole + 1)


def sentence(history: Sequence[Mapping[str, float]], *, best_epoch: int, peak: float) -> str:
    """What a user reads of it, and can do."""
    start, now = history[0], history[-1]
    return pick(
        f"the training has collapsed: after epoch {now['epoch']:.0f} the recall on valid is "
        f"{now['recall']:.3f}, it was {start['recall']:.3f} at the start, and the loss, "
        f"{now['loss']:.3f}, is that of chance. It ends here, with the best weights so far, of "
        f"epoch {best_epoch}. Try a --learning-rate below {peak:g}.",
        f"训练已崩溃：第 {now['epoch']:.0f} 轮之后验证集召回率为 {now['recall']:.3f}，起点为 "
        f"{start['recall']:.3f}，损失 {now['loss']:.3f} 与随机猜测相当。训练到此为止，采用目前"
        f"最好的权重(第 {best_epoch} 轮)。请尝试低于 {peak:g} 的 --learning-rate。",
    )
