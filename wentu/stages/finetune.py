"""finetune: LMDB + starting weights -> the best checkpoint, and how it came about.

Distributed training comes with its own issue; this is one process on one device. What must survive
a crash is kept in the store under the digest of the inputs and the Config, so that the same command
goes on where it was stopped, to the same bits on a CPU.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wentu.errors import InputError
from wentu.formats import CATALOG, digest_of, facts, open_catalog, read_manifest, write_json
from wentu.settings import StageConfig, option
from wentu.stage import Stage
from wentu.store import Store

if TYPE_CHECKING:
    from wentu.clip.checkpoint import Checkpoint
    from wentu.training.loop import Trainer


ARITHMETIC = 2
"""Raised when the same data and Config would train to other weights. A training that was begun
under another number starts anew; other changes of the code do not cost it what it has done."""


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How to train."""

    scratch: bool = option(
        False,
        "Start from random weights instead of pretrained ones.",
        "从随机权重开始，而不是预训练权重。",
    )
    epochs: int = option(
        3,
        "Passes over the training pairs; 0: keep the starting weights.",
        "训练轮数；0：保留起始权重。",
    )
    batch_size: int = option(64, "Pairs in a step.", "每步的图文对数。")
    learning_rate: float = option(
        2e-5,
        "Peak learning rate; 5e-4 to 1e-3 for small models from random weights.",
        "最高学习率；小模型从随机权重训练时用 5e-4 到 1e-3。",
    )
    warmup: float = option(
        0.1,
        "Share of all steps in which the learning rate rises to its peak.",
        "学习率上升阶段占全部步数的比例。",
    )
    weight_decay: float = option(0.05, "On matrices only.", "权重衰减，只作用于矩阵。")
    clip_norm: float = option(1.0, "Gradients are clipped to this norm.", "梯度裁剪的范数。")
    precision: str = option(
        "auto",
        "auto: bf16 on a GPU that has it, else fp16; fp32 on the CPU.",
        "auto:GPU 支持时用 bf16，否则 fp16;CPU 用 fp32。",
        choices=("auto", "bf16", "fp16", "fp32"),
    )
    resize: str = option(
        "auto",
        "How pictures become square: squash (whole, distorted), crop (the middle), pad (whole, "
        "with margins); auto: as the model was made, squash for Chinese-CLIP.",
        "图片如何变为正方形：squash(整图压缩)、crop(居中裁剪)、pad(整图加边);"
        "auto：按模型原来的方式，Chinese-CLIP 为 squash。",
        choices=("auto", "squash", "crop", "pad"),
    )
    augment: str = option(
        "none",
        "crop: random crops of 90 to 100 % of a picture. view: larger changes of frame, angle, "
        "light and colour, for names with one picture each. Never flips.",
        "crop：随机裁剪 90–100 % 的区域。view：构图、角度、光线与色彩变化更大，"
        "用于每个名称只有一张图片的情形。不做翻转。",
        choices=("none", "crop", "view"),
    )
    seed: int = option(0, "Of order, augmentation, and random weights.", "随机种子。")
    save_seconds: float = option(
        60.0, "Seconds between saves of the training state.", "训练状态的保存间隔(秒)。"
    )

    def check(self) -> None:
        self.need(self.epochs >= 0, "epochs", "give 0 or more.", "应为 0 或更大。")
        self.need(self.batch_size >= 2, "batch_size", "a contrast needs 2 or more.", "至少为 2。")
        self.need(
            0 < self.learning_rate < 1,
            "learning_rate",
            "give a number between 0 and 1.",
            "应在 0 与 1 之间。",
        )
        self.need(
            0 <= self.warmup < 1,
            "warmup",
            "give a share from 0 to below 1.",
            "应为 0 到 1 之间的比例。",
        )
        self.need(self.weight_decay >= 0, "weight_decay", "give 0 or more.", "应为 0 或更大。")
        self.need(self.clip_norm > 0, "clip_norm", "give more than 0.", "应大于 0。")
        self.need(self.save_seconds >= 0, "save_seconds", "give 0 or more.", "应为 0 或更大。")


def finetune(
    *,
    lmdb: Path,
    model: str,
    store: str,
    out: Path,
    context_length: int = 0,
    config: Config,
    model_digest: str = "",
) -> None:
    """Train and write ``epoch_best.pt``, ``epoch_latest.pt``, ``history.json``, ``curves.png``.

    Args:
        lmdb: output of pack_lmdb. model: a name or a checkpoint to start from.
        context_length: tokens of a caption, longer ones are cut; 0: what the model was made for.
        model_digest: SHA-256 of the starting weights, where the caller knows it.
    """
    from wentu import report
    from wentu.clip import checkpoint
    from wentu.training.data import PairBatches
    from wentu.training.loop import Plan, Trainer

    digest = model_digest or checkpoint.weights_digest(model, scratch=config.scratch)
    inputs = {"pack_lmdb": read_manifest(lmdb, "pack_lmdb").digest, "weights": digest}
    key = digest_of([inputs, model, context_length, trained_by(config), ARITHMETIC])
    with Stage("finetune", out, config, inputs) as stage, Store(store).work(key) as work:
        converted = facts(lmdb / CATALOG).get("convert", "none")
        start = prepared(
            checkpoint.start(model, scratch=config.scratch, seed=config.seed),
            context_length=context_length,
            resize=config.resize,
            convert=converted,
        )
        processor = start.processor()
        if converted != "none":  # by pairs; twice is not the same: 檔案 -> 文件 -> 文档
            processor = replace(processor, convert="none")
        batches = PairBatches(
            lmdb / "train",
            processor=processor,
            batch_size=config.batch_size,
            seed=config.seed,
            augment=config.augment,
        )
        plan = Plan(**{each.name: getattr(config, each.name) for each in fields(Plan)})
        valid = lmdb / "valid" if stage_has(lmdb, "valid") else None
        trainer = Trainer(
            start.model(), batches, valid, plan, work, processor, stage.progress, stage.tracker
        )
        with closing(batches):
            at = trainer.run()
        info = {
            **{name: start.info[name] for name in checkpoint.TUNED},
            "model": model,
            "scratch": config.scratch,
            "seed": config.seed,
            "weights": digest,
            "inputs": inputs,
            "config": asdict(config),
        }
        write_checkpoints(out, trainer, start, info)
        write_json(out / "training_groups.json", training_groups(lmdb / CATALOG))
        write_json(out / "history.json", at.history)
        report.plot_curves(at.history, out / "curves.png")
        stage.tracker.artifact(out / "curves.png")
        stage.counts |= summary(at, len(batches.pairs), trainer.total)


def write_checkpoints(out: Path, trainer: Trainer, start: Checkpoint, info: dict[str, Any]) -> None:
    """``epoch_latest.pt``, with the optimizer's state, and ``epoch_best.pt``."""
    from wentu.clip.checkpoint import save

    at, state = trainer.position, trainer.optimizer.state_dict()
    latest, best = out / "epoch_latest.pt", out / "epoch_best.pt"
    save(latest, trainer.model, start, epoch=at.epoch, step=at.step, info=info, optimizer=state)
    trainer.load_best()
    step = next((int(row["step"]) for row in at.history if row["epoch"] == at.best_epoch), 0)
    save(best, trainer.model, start, epoch=at.best_epoch, step=step, info=info)


def prepared(start: Checkpoint, *, context_length: int, resize: str, convert: str) -> Checkpoint:
    """The start with its input prepared as it is going to be trained (see Checkpoint.info)."""
    own, name = start.architecture.context_length, start.architecture.name
    if start.architecture.family == "openclip" and context_length not in (0, own):
        raise InputError(
            f"--context-length {context_length}: {name} takes {own} tokens only.",
            f"--context-length {context_length}：{name} 只接受 {own} 个词元。",
        )
    longest = start.architecture.config.get("text_max_position_embeddings", own)
    if context_length > longest:
        raise InputError(
            f"--context-length {context_length}: {name} has {longest} positions.",
            f"--context-length {context_length}：{name} 只有 {longest} 个位置。",
        )
    processor = start.processor()
    tuned = {
        "context_length": context_length or processor.context_length,
        "resize": processor.preprocessing.resize if resize == "auto" else resize,
        "convert": convert if convert != "none" else processor.convert,
    }
    return replace(start, info={**start.info, **tuned})


def trained_by(config: Config) -> dict[str, Any]:
    """The part of the Config that the trained weights depend on."""
    return {k: v for k, v in asdict(config).items() if k != "save_seconds"}


def stage_has(lmdb: Path, split: str) -> bool:
    """Did pack_lmdb write pairs of that split?"""
    return bool(read_manifest(lmdb).counts.get(f"{split}_pairs"))


def training_groups(catalog: Path) -> list[int]:
    """The groups that are trained on; a test split that holds any of them is refused."""
    with closing(open_catalog(catalog)) as db:
        rows = db.execute("SELECT DISTINCT grp FROM pictures WHERE split = 'train' ORDER BY grp")
        return [row[0] for row in rows]


def summary(at: Any, pairs: int, steps: int) -> dict[str, Any]:
    """The figures that the table of stages shows."""
    recalls = [row["recall"] for row in at.history if "recall" in row]
    best = {"best_recall": max(recalls), "start_recall": recalls[0]} if recalls else {}
    epochs = at.step / max(1, steps) * at.epoch
    speed = {"samples_per_second": pairs * epochs / at.seconds} if at.seconds else {}
    return {"epochs": at.epoch, "steps": at.step, "best_epoch": at.best_epoch, **best, **speed}
