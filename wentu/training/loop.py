"""The training loop: one step, one epoch, the whole; resumable to the bit at every saved step.

A step of B pairs over several processes, each with its share of n, computed ``chunk`` at a time:

1. features of the own pairs (without gradients, if they do not fit at once)
2. features of all B pairs are gathered, once
3. the loss of the own rows, and its gradients for all features; these are summed, once
4. each chunk again, with the gradients of its features (gradient caching, Gao et al. 2021)
5. gradients of the weights are summed over the processes; clip; step

Whatever is random in a chunk (dropout, patches left out) is drawn from (seed, step, first row), so
that both passes draw the same, and so does a training that was resumed.

Validation is recall over the whole split, in float32 as it will be served, before the first step
and after every epoch; the best of these, step 0 included, is what comes out, so on valid it is
never worse than what went in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wentu.errors import QualityError
from wentu.formats import FORMAT
from wentu.language import pick
from wentu.progress import Reporter
from wentu.tracking import Tracker
from wentu.training import layers, losses, saving
from wentu.training.average import Average
from wentu.training.config import Config
from wentu.training.data import Batch, Inputs, PairBatches
from wentu.training.devices import peak_rate_of, precision_of
from wentu.training.feed import Fed, Feed, Teacher, unit
from wentu.training.meter import Meter, means
from wentu.training.optimizer import make_optimizer, parameter_groups, peak_rate, rate_at
from wentu.training.parallel import Group
from wentu.training.saving import LATEST, Position, Stop
from wentu.training.validation import Features, Validation

if TYPE_CHECKING:
    import torch

MAX_LOGIT_SCALE = math.log(100)
"""As in Radford et al. 2021: a larger scale makes training unstable."""
SIGMOID_BIAS = -10.0
"""Where SigLIP's bias starts (Zhai et al. 2023)."""
SHARES = (0.75, 0.5, 0.25)
"""Of the trained weights, in the averages with the start that are tried (Wortsman et al. 2022)."""
TRACK_EVERY = 10
"""Steps between two points of a curve in MLflow."""


class Diverged(Exception):
    """The loss or its gradient is no number any more."""


class Trainer:
    """One training: the model, what moves it, and where it stands."""

    def __init__(
        self,
        student: Fed,
        batches: PairBatches,
        valid: Validation | None,
        config: Config,
        work: Path,
        *,
        device: torch.device,
        group: Group | None = None,
        scratch: bool = False,
        teacher: Fed | None = None,
        flops: float = 0.0,
        report: Reporter | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        """flops: of one pair's forward pass, for the MFU."""
        import torch

        self.config, self.work, self.device = config, work, device
        self.group = group or Group()
        self.batches, self.valid, self.scratch = batches, valid, scratch
        self.report, self.tracker = report or Reporter(), tracker or Tracker()
        self.at, self.stop = Position(), Stop()
        self.model, self.width = student.model, student.dimension
        self.averaging = config.interpolate and valid is not None and not scratch
        self.start = (
            {name: each.clone() for name, each in self.model.state_dict().items()}
            if self.averaging
            else {}
        )
        self.model.to(device)
        self._prepare()
        self.feed = Feed(student.processor, device)
        self.teacher = Teacher(teacher, device) if teacher else None
        self.bias = torch.nn.Parameter(torch.tensor(SIGMOID_BIAS, device=device))
        groups = parameter_groups(self.model, config.weight_decay, config.layer_decay)
        if config.loss == "sigmoid" and self.logit_bias is self.bias:
            groups.append({"params": [self.bias], "weight_decay": 0.0, "scale": 1.0})
        self.optimizer = make_optimizer(groups)
        self.moved = [each for every in groups for each in every["params"]]
        self.used: list[torch.nn.Parameter] | None = None
        self.precision, self.autocast, self.scaler = precision_of(config.precision, device)
        self.speed = flops, self.group.size * peak_rate_of(device, self.precision)
        self.peak = peak_rate(
            config.learning_rate,
            batch_size=min(config.batch_size, len(batches)),
            scratch=scratch or config.lora > 0,
        )
        self.total = config.epochs * batches.steps
        self.average = Average(self.model, config.ema) if config.ema else None
        self._dropping = config.patch_dropout > 0

    def _prepare(self) -> None:
        """What is learned, and how it is computed."""
        config = self.config
        layers.freeze(self.model, config.freeze)
        if config.lora:
            layers.add_lora(self.model, config.lora, config.seed)
        if self.device.type != "cpu":  # there its kernel is slower on short texts, by a tenth
            layers.fuse_attention(self.model)
        if config.checkpointing:
            layers.checkpoint_layers(self.model)
        layers.drop_patches(self.model, config.patch_dropout)
        if config.compile:
            layers.compile_towers(self.model)

    @property
    def logit_bias(self) -> torch.nn.Parameter:
        """SigLIP's: the model's own, or one that only training has (the order needs none)."""
        own: torch.nn.Parameter | None = getattr(self.model, "logit_bias", None)
        return self.bias if own is None else own

    # --- the whole -----------------------------------------------------------------------------

    def run(self) -> Position:
        """Train to the end, from wherever the work folder's state stands.

        Leaves the best weights (``Position.best``) and the last ones (``latest.pt``) in the work
        folder. Raises StoppedError after SIGTERM, once the state is saved.
        """
        at = self.at
        if self.precision != "fp32" and self.device.type == "cpu":
            self._note(
                f"{self.precision} on a CPU is usually slower than fp32",
                f"在 CPU 上 {self.precision} 通常比 fp32 更慢",
            )
        if self._restore():
            self._note(
                f"resumed after epoch {at.epoch}, at step {at.step} of {self.total}",
                f"从第 {at.epoch} 轮之后、第 {at.step}/{self.total} 步继续",
            )
        else:
            self._end_epoch({})
        with self.stop.heard():
            while not at.over:
                try:
                    self._epoch()
                except Diverged as error:
                    self._diverge(str(error))
        if not at.finished:
            self._finish()
        return at

    def _epoch(self) -> None:
        at = self.at
        self._train_mode()
        meter = Meter(self.device, *self.speed)
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

    # --- a step --------------------------------------------------------------------------------

    def _step(self, batch: Batch, due: bool, meter: Meter) -> tuple[bool, bool]:
        """One optimizer step; whether to stop after it, and whether to save."""
        at, config = self.at, self.config
        rate = rate_at(at.step, self.total, self.peak, config.warmup)
        for each in self.optimizer.param_groups:
            each["lr"] = rate * each["scale"]
        self._drop_patches(at.step < (1 - config.unmasked) * self.total)
        self.optimizer.zero_grad(set_to_none=True)
        loss, hits = self._gradients(batch)
        first = self.group.first
        told = [loss, *hits, float(self.stop.asked), float(first and due)]
        loss, pictures, texts, stop, save = self.group.total(told)
        norm = self._sum_and_clip()
        # With float16 an infinite gradient is usual now and then: the scaler skips that step.
        if not math.isfinite(loss + (0.0 if self.scaler.is_enabled() else norm)):
            raise Diverged(str(loss))
        self._move()
        size = len(batch.image_ids)
        figures = {
            "loss": loss,
            "learning_rate": rate,
            "in_batch_accuracy": (pictures + texts) / (2 * size),
            "gradient_norm": norm if math.isfinite(norm) else 0.0,
        }
        for name, value in figures.items():
            at.sums[name] = at.sums.get(name, 0.0) + value
        at.batch += 1
        at.step += 1
        meter.samples += size
        if at.step % TRACK_EVERY == 0:
            self.tracker.metrics(figures | meter.figures(), step=at.step)
        return stop > 0, save > 0

    def _gradients(self, batch: Batch) -> tuple[float, tuple[int, int]]:
        """Fill ``.grad`` with this process's part; its part of the loss, and its hits."""
        import torch

        parts = list(self._parts(batch))
        whole = len(parts) == 1
        with nullcontext() if whole else torch.no_grad():
            features = [self._encode(*part) for part in parts]
        leaves = self._gather(features, len(batch.image_ids))
        rows = self._rows(batch, leaves)
        loss = self._loss(rows, batch)
        self.scaler.scale(loss).backward()
        gradients = [each.grad for each in leaves if each.grad is not None]
        self.group.add(gradients)
        first = batch.own.start
        for number, part in enumerate(parts):
            live = features[number] if whole else self._encode(*part)
            here = slice(first, first + len(live[0]))
            first = here.stop
            pairs = [
                (feature, gradient[here])
                for feature, gradient in zip(live, gradients, strict=True)
                if feature.requires_grad
            ]
            if pairs:
                torch.autograd.backward([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        return float(loss.detach()), losses.hits(rows)

    def _parts(self, batch: Batch) -> Iterator[tuple[Inputs, list[int]]]:
        """The own share in chunks, each with what its random numbers are drawn from."""
        own, inputs = batch.own.stop - batch.own.start, batch.inputs[0]
        size = self.config.chunk or own
        for first in range(0, own, max(1, size)):
            here = slice(first, first + size)
            key = [self.config.seed, self.at.step, batch.own.start + first]
            yield Inputs(pictures=inputs.pictures[here], tokens=inputs.tokens[here]), key

    def _encode(self, inputs: Inputs, key: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """(pictures, texts) [n, D] each, L2-normalised; what is random is drawn from ``key``."""
        import torch

        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
        with self.autocast():
            image = self.model.encode_image(self.feed.pictures(inputs.pictures))
            text = self.model.encode_text(self.feed.move(inputs.tokens))
        return unit(image), unit(text)

    def _gather(self, features: list[Any], total: int) -> list[torch.Tensor]:
        """Pictures and texts of all pairs [B, D], as leaves that gradients arrive at."""
        import torch

        leaves = []
        for number in range(2):
            own = [each[number].detach() for each in features]
            mine = torch.cat(own) if own else torch.zeros((0, self.width), device=self.device)
            leaves.append(self.group.gather(mine, total).requires_grad_(True))
        return leaves

    def _rows(self, batch: Batch, leaves: list[torch.Tensor]) -> losses.Rows:
        size, own = len(batch.image_ids), batch.own.stop - batch.own.start
        texts, pictures = (self.feed.cells(each, own, size) for each in batch.belongs)
        return losses.Rows(
            image=leaves[0], text=leaves[1], own=batch.own, belongs=(texts, pictures)
        )

    def _loss(self, rows: losses.Rows, batch: Batch) -> torch.Tensor:
        config, scale = self.config, self.model.logit_scale.exp()
        if config.loss == "sigmoid":
            loss = losses.sigmoid_loss(rows, scale, self.logit_bias)
        else:
            loss = losses.softmax_loss(rows, scale, config.positives)
        if self.teacher is None:
            return loss
        theirs = [
            self.group.gather(each, len(batch.image_ids))
            for each in self.teacher.encode(batch.inputs[1], config.chunk or len(batch.image_ids))
        ]
        taught = losses.Rows(image=theirs[0], text=theirs[1], own=rows.own, belongs=rows.belongs)
        learned = losses.distillation_loss(rows, scale, taught, self.teacher.scale)
        return (1 - config.distill) * loss + config.distill * learned

    def _sum_and_clip(self) -> float:
        """Gradients over all processes; their norm before it was clipped."""
        import torch

        self.group.add(self._used_gradients())
        self.scaler.unscale_(self.optimizer)
        return float(torch.nn.utils.clip_grad_norm_(self.moved, self.config.clip_norm))

    def _used_gradients(self) -> list[torch.Tensor]:
        """Gradients to sum: the same list in every process, also where one had no row."""
        import torch

        if self.group.size == 1:
            return []
        if self.used is None:
            flags = self.group.total([float(each.grad is not None) for each in self.moved])
            self.used = [each for each, flag in zip(self.moved, flags, strict=True) if flag]
        for each in self.used:
            if each.grad is None:
                each.grad = torch.zeros_like(each)
        return [each.grad for each in self.used if each.grad is not None]

    def _move(self) -> None:
        import torch

        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        if self.average:
            self.average.follow(self.model, self.at.step)

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
        return found > best or (found == best and (self.scratch or at.best_epoch > 0))

    def _ending(self) -> str:
        """Why the training is over, if it is."""
        at, patience = self.at, self.config.patience
        if at.epoch >= self.config.epochs:
            return "epochs"
        # What begins at chance stays there for a while before it learns.
        waits = self.valid is not None and patience > 0 and not self.scratch
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

    def _diverge(self, value: str) -> None:
        at = self.at
        if self.scratch and not at.best_epoch:
            raise QualityError(
                f"the loss became {value} at step {at.step + 1}, before anything was learned; "
                f"train with a --learning-rate below {self.peak:g}.",
                f"第 {at.step + 1} 步损失变为 {value}，尚未学到任何东西；"
                f"请使用低于 {self.peak:g} 的 --learning-rate。",
            )
        self.report.tell(
            pick(
                f"the loss became {value} at step {at.step + 1}: the training ends here, with the "
                f"best weights so far, of epoch {at.best_epoch}. Try a --learning-rate below "
                f"{self.peak:g}.",
                f"第 {at.step + 1} 步损失变为 {value}：训练到此为止，采用目前最好的权重"
                f"(第 {at.best_epoch} 轮)。请尝试低于 {self.peak:g} 的 --learning-rate。",
            )
        )
        step = at.step
        self._restore()  # the last weights that are numbers
        at.over, at.diverged_at = "diverged", step + 1

    def _finish(self) -> None:
        """The last weights, and the best average of start and best weights, if it finds more."""
        at = self.at
        if self.group.first:
            saving.save(self.work / LATEST, layers.plain_state(self.model.state_dict()))
        if self.averaging and at.best_epoch:
            self._interpolate()
        at.finished = True
        if self.group.first:
            saving.save_position(self.work, at)

    def _interpolate(self) -> None:
        import torch

        at = self.at
        read = saving.weights(self.work / at.best) if self.group.first else None
        trained = self.group.told(read)
        layers.merge(self.model)
        for share in SHARES:
            mixed = {
                name: torch.lerp(self.start[name], each.cpu(), share)
                if each.is_floating_point()
                else each
                for name, each in trained.items()
            }
            self.model.load_state_dict(mixed)
            with self._evaluated():
                metrics = self.valid.score(self._pictures, self._texts) if self.valid else {}
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
        if self.valid is None:
            return {}
        try:
            with self._averaged(), self._evaluated():
                return self.valid.score(self._pictures, self._texts)
        except QualityError as error:  # embeddings that are no numbers
            if self.at.step == 0:
                raise
            raise Diverged("nan") from error

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        with self.average.swapped(self.model) if self.average else nullcontext():
            yield

    @contextmanager
    def _evaluated(self) -> Iterator[None]:
        """No gradients, no dropout, every patch, float32: as it will be served."""
        import torch

        self._drop_patches(False)
        self.model.eval()
        with torch.no_grad():
            yield

    def _train_mode(self) -> None:
        self.model.train()
        if not self.scratch:
            layers.keep_statistics(self.model)

    def _drop_patches(self, wanted: bool) -> None:
        wanted = wanted and self.config.patch_dropout > 0
        if wanted != self._dropping:
            layers.drop_patches(self.model, self.config.patch_dropout if wanted else 0.0)
            self._dropping = wanted

    def _pictures(self, files: list[bytes]) -> Features:
        features = unit(self.model.encode_image(self.feed.pictures(self.feed.decoded(files))))
        return np.asarray(features.cpu().numpy(), np.float32)

    def _texts(self, texts: list[str]) -> Features:
        tokens = self.feed.processor.tokens(texts)
        features = unit(self.model.encode_text(self.feed.move(tokens)))
        return np.asarray(features.cpu().numpy(), np.float32)

    # --- state ---------------------------------------------------------------------------------

    def _save(self) -> None:
        if not self.group.first:
            return
        state = {
            "format": FORMAT,
            "model": self.model.state_dict(),
            "bias": self.bias.detach(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": dict(self.average.state()) if self.average else {},
        }
        saving.save_state(self.work, state, self.at)

    def _save_best(self, name: str) -> None:
        self.at.best = name
        if self.group.first:
            with self._averaged():
                state = self.model.state_dict()
                saving.save(self.work / name, layers.plain_state(state))

    def _restore(self) -> bool:
        import torch

        state = self.group.told(saving.read_state(self.work) if self.group.first else None)
        if state is None:
            return False
        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            self.bias.copy_(state["bias"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load(state["average"])
        vars(self.at).update(state["position"])
        return True

    def _note(self, en: str, zh: str) -> None:
        self.report.note(pick(en, zh))


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


def describe(row: dict[str, float]) -> str:
    """One row of the history, for a person."""
    parts = [pick(f"epoch {row['epoch']:.0f}", f"第 {row['epoch']:.0f} 轮")]
    if "loss" in row:
        parts.append(pick(f"loss {row['loss']:.3f}", f"损失 {row['loss']:.3f}"))
    if "recall" in row:
        parts.append(
            pick(f"valid mean recall {row['recall']:.3f}", f"验证集平均召回率 {row['recall']:.3f}")
        )
    if "samples_per_second" in row:
        rate = f"{row['samples_per_second']:,.1f}"
        parts.append(pick(f"{rate} samples/s", f"每秒 {rate} 对"))
    return " · ".join(parts)
