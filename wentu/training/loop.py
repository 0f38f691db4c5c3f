"""A training from its first step to its last; resumable to the bit at every saved step.

Validation is recall over the whole split, in float32 as it will be served, before the first step
and after every epoch; the best of these, step 0 included, is what comes out, so on valid it is
never worse than what went in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from wentu.clip.files import read_pt
from wentu.clip.model import Architecture
from wentu.errors import QualityError
from wentu.formats import FORMAT
from wentu.language import pick
from wentu.progress import Reporter
from wentu.tracking import Tracker
from wentu.training import collapse, layers, saving
from wentu.training.cost import pair_flops
from wentu.training.data import Batch, PairBatches
from wentu.training.devices import peak_rate_of
from wentu.training.learner import Diverged, Learner
from wentu.training.meter import Meter, means
from wentu.training.optimizer import peak_rate, rate_at
from wentu.training.saving import LATEST, Position, Stop
from wentu.training.validation import Validation

if TYPE_CHECKING:
    import torch

SHARES = (0.75, 0.5, 0.25)
"""Of the trained weights, in the averages with the start that are tried (Wortsman et al. 2022)."""
TRACK_EVERY = 10
"""Steps between two points of a curve in MLflow; the first and the last one are there too."""


class Trainer:
    """One training: what learns, from what, and where it stands."""

    def __init__(
        self,
        learner: Learner,
        batches: PairBatches,
        valid: Validation | None,
        work: Path,
        *,
        start: Mapping[str, torch.Tensor] | None = None,
        architecture: Architecture | None = None,
        report: Reporter | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        """start: the weights that training starts from, on the host, to try averages with.
        architecture: for the MFU, where the device's peak is known."""
        self.learner, self.batches, self.valid, self.work = learner, batches, valid, work
        self.config, self.group = learner.config, learner.group
        averages = self.config.interpolate and valid is not None and not learner.scratch
        self.start = start if averages else None
        self.report, self.tracker = report or Reporter(), tracker or Tracker()
        self.at, self.stop = Position(), Stop()
        peak = self.group.size * peak_rate_of(learner.device, learner.precision)
        self.speed = pair_flops(architecture) if peak and architecture else 0.0, peak
        self.peak = peak_rate(
            self.config.learning_rate,
            batch_size=min(self.config.batch_size, len(batches)),
            scratch=learner.scratch or self.config.lora > 0,
        )
        self.total = self.config.epochs * batches.steps

    # --- the whole -----------------------------------------------------------------------------

    def run(self) -> Position:
        """Train to the end, from wherever the work folder's state stands.

        Leaves the best weights (``Position.best``) and the last ones (``latest.pt``) in the work
        folder. Raises StoppedError after SIGTERM, once the state is saved.
        """
        ended: Position | None = self.group.told(
            saving.read_result(self.work) if self.group.first else None
        )
        if ended:
            return ended
        at = self.at
        if self.learner.precision != "fp32" and self.learner.device.type == "cpu":
            self._note(
                f"{self.learner.precision} on a CPU is usually slower than fp32",
                f"在 CPU 上 {self.learner.precision} 通常比 fp32 更慢",
            )
        if self._restore():
            self._note(
                f"resumed after epoch {at.epoch}, at step {at.step} of {self.total}",
                f"从第 {at.epoch} 轮之后、第 {at.step}/{self.total} 步继续",
            )
        else:
            self._say_what_to_expect()
            self._end_epoch({})
        with self.stop.heard():
            while not at.over:
                try:
                    self._epoch()
                except Diverged as error:
                    self._diverge(error)
        self._finish()
        return at

    def _say_what_to_expect(self) -> None:
        pairs, size = len(self.batches), self.config.batch_size
        if self.valid is None and self.config.epochs:
            self._note(
                "there is no valid split: the last epoch is taken, be it better than the start or "
                "not; to choose the best, give captions of a valid split or raise --valid-fraction",
                "没有验证集：将直接采用最后一轮，无论它是否优于起点；"
                "要选出最好的，请提供验证集的描述或增大 --valid-fraction",
            )
        if size > pairs:
            self._note(
                f"--batch-size {size}: there are only {pairs} pairs, so that each epoch is one "
                "step; a smaller batch takes more steps",
                f"--batch-size {size}：只有 {pairs} 个图文对，每轮只有一步；减小批大小可增加步数",
            )

    def _epoch(self) -> None:
        at = self.at
        self.learner.train_mode()
        meter = Meter(self.learner.device, *self.speed)
        label = pick(
            f"epoch {at.epoch + 1}/{self.config.epochs}",
            f"第 {at.epoch + 1}/{self.config.epochs} 轮",
        )
        saved = time.monotonic()
        # Closed whatever happens: threads that still read ahead must not outlive the LMDB.
        with closing(self.batches.epoch(at.epoch + 1, at.batch)) as batches:
            waited = meter.waiting(batches)
            for batch in self.report.track(waited, label, self.total, start=at.step):
                due = time.monotonic() - saved >= self.config.save_seconds
                stop, save = self._step(batch, due, meter)
                if stop or (save and at.batch < self.batches.steps):
                    self._save()
                    saved = time.monotonic()
                if stop:
                    raise saving.stopped(at.step)
        at.seconds += meter.seconds
        row = means(at.sums, self.batches.steps) | meter.figures()
        at.epoch, at.batch, at.sums = at.epoch + 1, 0, {}
        self._end_epoch(row)

    def _step(self, batch: Batch, due: bool, meter: Meter) -> tuple[bool, bool]:
        """One optimizer step; whether to stop after it, and whether to save."""
        at, first = self.at, self.group.first
        rate = rate_at(at.step, self.total, self.peak, self.config.warmup)
        self.learner.drop_patches(at.step < (1 - self.config.unmasked) * self.total)
        asked = [float(self.stop.asked), float(first and due)]
        figures, (stop, save) = self.learner.step(batch, at.step, rate, asked)
        for name, value in figures.items():
            at.sums[name] = at.sums.get(name, 0.0) + value
        at.batch += 1
        at.step += 1
        meter.samples += len(batch.image_ids)
        if at.step in (1, self.total) or at.step % TRACK_EVERY == 0:
            self.tracker.metrics(figures | meter.figures(), step=at.step)
        return stop > 0, save > 0

    # --- between epochs ------------------------------------------------------------------------

    def _end_epoch(self, figures: dict[str, float]) -> None:
        """Score valid, keep the best, save; told only once it is safe on disk."""
        at = self.at
        metrics = self._recall()
        row = {"epoch": at.epoch, "step": at.step, **figures}
        row |= {name: metrics[key] for name, key in COLUMNS.items() if key in metrics}
        at.history.append(row)
        if self._better(metrics):
            at.best_epoch, at.best_share = at.epoch, 1.0
            at.best_recall, at.best_mrr = metrics.get("mean_recall", -1.0), reciprocal(metrics)
            self._save_best(f"best-{at.epoch}.pt")
        at.over = self._ending()
        self._save()
        tracked = {f"valid/{name}": value for name, value in metrics.items()}
        self.tracker.metrics(tracked | {f"epoch/{k}": v for k, v in figures.items()}, at.step)
        self.report.emit("epoch", **row)
        self.report.note(describe(row))

    def _better(self, metrics: dict[str, float]) -> bool:
        """Are the weights of now the best? Without a valid split the last ones are.

        Recall decides, then the reciprocal rank, which tells more where a small split is soon
        found whole. Of equals the later: training goes on to help; but not against a start that is
        worth something.
        """
        at = self.at
        if not at.best or not metrics:
            return True
        found = metrics["mean_recall"], reciprocal(metrics)
        best = at.best_recall, at.best_mrr
        return found > best or (found == best and (self.learner.scratch or at.best_epoch > 0))

    def _ending(self) -> str:
        """Why the training is over, if it is."""
        at, patience = self.at, self.config.patience
        if self._collapsed():
            self.report.tell(
                collapse.sentence(at.history, best_epoch=at.best_epoch, peak=self.peak)
            )
            return "collapsed"
        if at.epoch >= self.config.epochs:
            return "epochs"
        # What begins at chance stays there for a while before it learns.
        waits = self.valid is not None and patience > 0 and not self.learner.scratch
        if waits and at.epoch - at.best_epoch >= patience:
            self.report.tell(
                pick(
                    f"no better recall on valid in {patience} epochs: stopped after epoch "
                    f"{at.epoch}",
                    f"验证集召回率连续 {patience} 轮没有提高：在第 {at.epoch} 轮之后停止",
                )
            )
            return "patience"
        return ""

    def _collapsed(self) -> bool:
        if self.valid is None or self.learner.scratch or not self.at.epoch:
            return False
        return collapse.collapsed(
            self.at.history,
            recall_of_chance=self.valid.chance,
            loss_of_chance=collapse.loss_of_chance(self.config, len(self.batches)),
        )

    def _diverge(self, error: Diverged) -> None:
        """Go back to the last weights that are numbers, and end there."""
        at, what = self.at, pick(*NO_NUMBER[error.what])
        if self.learner.scratch and not at.best_epoch:
            raise QualityError(
                f"{what} became {error.value} at step {error.step}, before anything was learned; "
                f"train with a --learning-rate below {self.peak:g}.",
                f"第 {error.step} 步{what}变为 {error.value}，尚未学到任何东西；"
                f"请使用低于 {self.peak:g} 的 --learning-rate。",
            )
        self.report.tell(
            pick(
                f"{what} became {error.value} at step {error.step}: the training ends here, with "
                f"the best weights so far, of epoch {at.best_epoch}. Try a --learning-rate below "
                f"{self.peak:g}.",
                f"第 {error.step} 步{what}变为 {error.value}：训练到此为止，采用目前最好的权重"
                f"(第 {at.best_epoch} 轮)。请尝试低于 {self.peak:g} 的 --learning-rate。",
            )
        )
        self._restore()
        at.over, at.diverged_at = "diverged", error.step

    def _finish(self) -> None:
        """The last weights, and the best average of start and best weights, if it finds more."""
        at = self.at
        if self.group.first:
            saving.save(self.work / LATEST, self.learner.weights())
        if self.start is not None and at.best_epoch:
            self._interpolate(self.start)
        if self.group.first:
            saving.save_result(self.work, at)

    def _interpolate(self, start: Mapping[str, torch.Tensor]) -> None:
        import torch

        at, model = self.at, self.learner.model
        self.learner.release()
        trained = self.group.told(read_pt(self.work / at.best) if self.group.first else None)
        layers.merge(model)
        for share in SHARES:
            mixed = {
                name: torch.lerp(start[name], each.cpu(), share)
                if each.is_floating_point()
                else each
                for name, each in trained.items()
            }
            model.load_state_dict(mixed)
            metrics = self._score()
            at.tried.append({"share": share, "recall": metrics["mean_recall"]})
            if (metrics["mean_recall"], reciprocal(metrics)) > (at.best_recall, at.best_mrr):
                at.best_recall, at.best_mrr = metrics["mean_recall"], reciprocal(metrics)
                at.best_share = share
                at.best = f"best-{at.best_epoch}-{share}.pt"
                if self.group.first:
                    saving.save(self.work / at.best, mixed)
        if at.best_share < 1:
            self.report.tell(
                pick(
                    f"{at.best_share:.0%} of the trained and {1 - at.best_share:.0%} of the "
                    "starting weights find more on valid than either",
                    f"训练后权重占 {at.best_share:.0%}、起始权重占 {1 - at.best_share:.0%} 的插值"
                    "在验证集上优于两者",
                )
            )

    # --- validation ----------------------------------------------------------------------------

    def _recall(self) -> dict[str, float]:
        """Of the weights that would come out: their moving average, if there is one."""
        try:
            with self.learner.averaged():
                return self._score()
        except QualityError as error:  # embeddings that are no numbers
            if self.at.step == 0:
                raise
            raise Diverged("embeddings", math.nan, self.at.step) from error

    def _score(self) -> dict[str, float]:
        """Recall on the valid split, if there is one."""
        if self.valid is None:
            return {}
        with self.learner.evaluated():
            return self.valid.score(self.learner.encode_pictures, self.learner.encode_texts)

    # --- state ---------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.group.first:
            saving.save_state(self.work, {"format": FORMAT, **self.learner.state()}, self.at)

    def _save_best(self, name: str) -> None:
        self.at.best = name
        if self.group.first:
            with self.learner.averaged():
                saving.save(self.work / name, self.learner.weights())

    def _restore(self) -> bool:
        state = self.group.told(saving.read_state(self.work) if self.group.first else None)
        if state is None:
            return False
        self.learner.load(state)
        vars(self.at).update(state["position"])
        return True

    def _note(self, en: str, zh: str) -> None:
        self.report.note(pick(en, zh))


NO_NUMBER = {
    "loss": ("the loss", "损失"),
    "gradient": ("the norm of the gradient", "梯度的范数"),
    "embeddings": ("an embedding", "嵌入向量"),
}
"""What ``Diverged.what`` is called."""
COLUMNS = {
    "recall": "mean_recall",
    "text_to_image_recall": "text_to_image/mean_recall",
    "image_to_text_recall": "image_to_text/mean_recall",
}
"""Columns of the history, and what they are called in a summary of recall."""


def reciprocal(metrics: dict[str, float]) -> float:
    """Mean reciprocal rank over both directions; -1 where nothing was scored."""
    if not metrics:
        return -1.0
    return (metrics["text_to_image/mrr"] + metrics["image_to_text/mrr"]) / 2


LINE: tuple[tuple[str, str, str, str], ...] = (
    ("loss", "loss", "损失", "{:.3f}"),
    ("in_batch_accuracy", "right in its batch", "批内准确率", "{:.3f}"),
    ("recall", "valid mean recall", "验证集平均召回率", "{:.3f}"),
    ("learning_rate", "mean learning rate", "平均学习率", "{:.2g}"),
    ("samples_per_second", "samples/s", "每秒对数", "{:,.1f}"),
    ("loader_wait", "waited", "等待数据", "{:.0%}"),
    ("memory_gib", "memory", "内存", "{:.1f} GiB"),
    ("mfu", "MFU", "MFU", "{:.0%}"),
)
"""What is told of an epoch: key of the history, words in both languages, format."""


def describe(row: dict[str, float]) -> str:
    """One row of the history, for a person."""
    told = [f"{pick(en, zh)} {form.format(row[key])}" for key, en, zh, form in LINE if key in row]
    return " · ".join([pick(f"epoch {row['epoch']:.0f}", f"第 {row['epoch']:.0f} 轮"), *told])
