"""Training, in one process on one device, resumable to the bit at any step that was saved.

The state that must survive a crash (weights, optimizer, scaler, generators, position, history,
best weights so far) is one file in a work folder outside the stage's output. Validation is recall
over the whole split, before the first step and after every epoch; the best of these, step 0
included, is what comes out, so on valid it is never worse than what went in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wentu import retrieval
from wentu.clip.files import read_pt, save_atomic
from wentu.clip.processor import Processor
from wentu.errors import FormatError, QualityError
from wentu.formats import FORMAT, PairsLmdb, batched
from wentu.language import pick
from wentu.progress import Reporter
from wentu.tracking import Tracker
from wentu.training.data import Batch, PairBatches, Retrieval
from wentu.training.loss import contrastive_loss, false_negatives
from wentu.training.optimizer import make_optimizer, rate_at

if TYPE_CHECKING:
    import torch

MAX_LOGIT_SCALE = math.log(100)
"""As in Radford et al. 2021: a larger scale makes training unstable."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train."""

    epochs: int
    learning_rate: float
    weight_decay: float
    warmup: float
    clip_norm: float
    precision: str
    save_seconds: float
    seed: int


@dataclass(kw_only=True)
class Position:
    """Where a training stands, and what it has seen."""

    epoch: int = 0
    """Epochs finished."""
    batch: int = 0
    """Batches of the current epoch that are done."""
    step: int = 0
    """Optimizer steps so far."""
    best_epoch: int = 0
    best_recall: float = -1.0
    loss_sum: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One training: the model, what moves it, and where it stands."""

    def __init__(
        self,
        model: Any,
        batches: PairBatches,
        valid: Path | None,
        plan: Plan,
        work: Path,
        processor: Processor,
        report: Reporter,
        tracker: Tracker,
    ) -> None:
        self.device = pick_device()
        self.model = model.to(self.device)
        self.batches, self.valid, self.plan, self.work = batches, valid, plan, work
        self.processor, self.report, self.tracker = processor, report, tracker
        self.optimizer = make_optimizer(model, plan.learning_rate, plan.weight_decay)
        self.autocast, self.scaler = precision_of(plan.precision, self.device)
        self.position = Position()
        self.total = plan.epochs * batches.steps
        self._mean = self._constant(processor.preprocessing.mean)
        self._std = self._constant(processor.preprocessing.std)

    def _constant(self, values: Any) -> torch.Tensor:
        import torch

        tensor = torch.tensor([float(value) for value in values], device=self.device)
        return 255 * tensor.view(1, 3, 1, 1)

    # --- the loop ------------------------------------------------------------------------------

    def run(self) -> Position:
        """Train to the end, from wherever the work folder's state stands."""
        at = self.position
        if self._restore():
            self.report.note(
                pick(
                    f"resumed after epoch {at.epoch}, at step {at.step} of {self.total}",
                    f"从第 {at.epoch} 轮之后、第 {at.step}/{self.total} 步继续",
                )
            )
        elif self.plan.epochs:
            self._end_epoch(loss=None)
        while at.epoch < self.plan.epochs:
            self._epoch()
        return at

    def _epoch(self) -> None:
        at, began, saved = self.position, time.monotonic(), time.monotonic()
        self.model.train()
        label = f"epoch {at.epoch + 1}/{self.plan.epochs}"
        left = self.batches.steps - at.batch
        # Closed whatever happens: threads that still read ahead must not outlive the LMDB.
        with closing(self.batches.epoch(at.epoch + 1, at.batch)) as batches:
            for batch in self.report.track(batches, label, self.total, start=at.step):
                at.loss_sum += self._step(batch)
                at.batch += 1
                at.step += 1
                due = time.monotonic() - saved > self.plan.save_seconds
                if due and at.batch < self.batches.steps:
                    self._save()
                    saved = time.monotonic()
        at.seconds += time.monotonic() - began
        loss = at.loss_sum / self.batches.steps
        at.epoch, at.batch, at.loss_sum = at.epoch + 1, 0, 0.0
        rate = left / max(time.monotonic() - began, 1e-9)
        self._end_epoch(loss=loss, steps_per_second=rate)

    def _step(self, batch: Batch) -> float:
        import torch

        at, plan = self.position, self.plan
        rate = rate_at(at.step, self.total, plan.learning_rate, plan.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        ignore = false_negatives(self._move(batch.image_ids), self._move(batch.text_ids))
        with self.autocast():
            image = self.model.encode_image(self._normalized(batch.pictures))
            text = self.model.encode_text(self._move(batch.tokens))
            image, text = (each / each.norm(dim=-1, keepdim=True) for each in (image, text))
            loss = contrastive_loss(image, text, self.model.logit_scale.exp(), ignore)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), plan.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise QualityError(
                f"the loss became {value} at step {at.step}; lower --learning-rate "
                f"({plan.learning_rate}). The best weights so far are kept.",
                f"第 {at.step} 步损失变为 {value}；请降低 --learning-rate({plan.learning_rate})。"
                "目前最好的权重已保留。",
            )
        if at.step % 10 == 0:
            self.tracker.metrics({"loss": value, "learning_rate": rate}, step=at.step)
        return value

    def _move(self, array: npt.NDArray[Any]) -> torch.Tensor:
        import torch

        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def _normalized(self, batch: npt.NDArray[np.uint8]) -> torch.Tensor:
        """uint8 [B, R, R, 3] -> float32 [B, 3, R, R]; normalised on the device."""
        tensor: torch.Tensor = self._move(batch).permute(0, 3, 1, 2).float()
        return (tensor - self._mean) / self._std

    # --- validation ----------------------------------------------------------------------------

    def _end_epoch(self, loss: float | None, steps_per_second: float = 0.0) -> None:
        """Score valid, keep the best, save; told only once it is safe on disk."""
        at = self.position
        row: dict[str, float] = {"epoch": at.epoch, "step": at.step}
        if loss is not None:
            rate = rate_at(
                max(0, at.step - 1), self.total, self.plan.learning_rate, self.plan.warmup
            )
            row |= {"loss": loss, "learning_rate": rate, "steps_per_second": steps_per_second}
        metrics = score_split(self.model, self.valid, self._encode) if self.valid else {}
        recall = metrics.get("mean_recall", float(at.epoch))  # no valid split: the last epoch
        row |= {"recall": metrics["mean_recall"]} if metrics else {}
        at.history.append(row)
        # Of equals the later one: a small split is soon found whole, and training goes on to help.
        if recall >= at.best_recall:
            at.best_recall, at.best_epoch = recall, at.epoch
            self._save_best()
        tracked = {f"valid/{name}": value for name, value in metrics.items()}
        self.tracker.metrics(tracked | ({"epoch_loss": loss} if loss is not None else {}), at.step)
        self._save()
        self.report.emit("epoch", **row)
        self.report.note(describe(row))

    def _encode(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return self._encode_pictures, self._encode_texts

    def _encode_pictures(self, data: list[bytes]) -> npt.NDArray[np.float32]:
        arrays = [self.processor.pixels(each) for each in data]
        return self._features(self.model.encode_image, self._normalized(np.stack(arrays)))

    def _encode_texts(self, texts: list[str]) -> npt.NDArray[np.float32]:
        tokens = self._move(self.processor.tokens(texts))
        return self._features(self.model.encode_text, tokens)

    def _features(self, encode: Callable[..., Any], batch: torch.Tensor) -> npt.NDArray[np.float32]:
        import torch

        with torch.no_grad(), self.autocast():
            features = encode(batch).float()
        return normalized(features.cpu().numpy())

    # --- state ---------------------------------------------------------------------------------

    def _save(self) -> None:
        import torch

        state = {
            "format": FORMAT,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "position": vars(self.position),
            "cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        save_atomic(self.work / "state.pt", state, torch.save)

    def _save_best(self) -> None:
        import torch

        save_atomic(self.work / "best.pt", self.model.state_dict(), torch.save)

    def _restore(self) -> bool:
        import torch

        path = self.work / "state.pt"
        if not path.exists():
            torch.manual_seed(self.plan.seed)
            return False
        state = read_pt(path)
        if state.get("format") != FORMAT:
            raise FormatError(
                f"{path} is of another version; remove {self.work}.",
                f"{path} 属于其他版本，请删除 {self.work}。",
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])
        vars(self.position).update(state["position"])
        return True

    def load_best(self) -> None:
        """Put the best weights so far into the model."""
        if (self.work / "best.pt").exists():
            self.model.load_state_dict(read_pt(self.work / "best.pt"))


def describe(row: Mapping[str, float]) -> str:
    """One row of the history, for a person."""
    parts = [pick(f"epoch {row['epoch']:.0f}", f"第 {row['epoch']:.0f} 轮")]
    if "loss" in row:
        parts.append(pick(f"loss {row['loss']:.3f}", f"损失 {row['loss']:.3f}"))
    if "recall" in row:
        parts.append(
            pick(f"valid mean recall {row['recall']:.3f}", f"验证集平均召回率 {row['recall']:.3f}")
        )
    return " · ".join(parts)


def score_split(model: Any, split: Path, encoders: Callable[[], Any]) -> dict[str, float]:
    """Recall of a model over a whole split, both ways (see ``retrieval.summarize``)."""
    model.eval()
    encode_pictures, encode_texts = encoders()
    with PairsLmdb(split) as lmdb:
        task = Retrieval.of(lmdb.pairs())
        image = np.concatenate(
            [encode_pictures([lmdb.picture(i) for i in ids]) for ids in batched(task.image_ids, 64)]
        )
    text = np.concatenate([encode_texts(texts) for texts in batched(task.texts, 256)])
    to_image = retrieval.rank(text, image, task.pictures_of_text)
    to_text = retrieval.rank(image, text, task.texts_of_picture)
    return retrieval.summarize(to_image, to_text)


def normalized(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows of ``features`` [N, D] with length 1."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, 1e-12), np.float32)


def pick_device() -> torch.device:
    """The first GPU, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision_of(name: str, device: torch.device) -> tuple[Callable[[], Any], Any]:
    """(autocast context maker, gradient scaler) for auto, bf16, fp16 or fp32.

    auto is bfloat16 on a GPU that has it, float16 with a scaler on one that has not, and float32
    on the CPU.
    """
    import torch

    if name == "auto":
        if device.type == "cpu":
            name = "fp32"
        else:
            name = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)
    scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
    return (
        lambda: torch.autocast(device.type, dtype=dtype, enabled=dtype is not None),
        scaler,
    )
