"""finetune: LMDB + starting weights -> the best checkpoint, and how it came about.

One process or many, on one machine or several (see training/job.py); the first of them owns this
stage's output. Machines of a cluster are started by a ``Launcher``, which this stage is given. What
must survive a crash is kept in the store under the digest of the inputs and the Config, so that the
same command goes on where it was stopped, to the same bits on a CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wentu.errors import InputError
from wentu.formats import CATALOG, digest_of, open_catalog, read_manifest, write_json
from wentu.progress import Reporter
from wentu.stage import Stage
from wentu.store import Store
from wentu.tracking import Tracker
from wentu.training.config import Config
from wentu.training.job import Job, launch, rank

if TYPE_CHECKING:
    from wentu.clip.checkpoint import Checkpoint
    from wentu.training.saving import Position

ARITHMETIC = 5
"""Raised when the same data and Config would train to other weights. A training that was begun
under another number starts anew; other changes of the code do not cost it what it has done."""

Launcher = Callable[[Store, str, Job, Stage], None]
"""Trains the job under its key, elsewhere; what came of it is in ``vault.work(key)`` then."""

FEWEST = 2
"""Pictures that can be trained on."""

__all__ = ["Config", "finetune"]


def finetune(
    *,
    lmdb: Path,
    model: str,
    store: str,
    out: Path,
    config: Config,
    model_digest: str = "",
    launcher: Launcher | None = None,
) -> None:
    """Train and write ``epoch_best.pt``, ``epoch_latest.pt``, ``history.json`` and its plots.

    Args:
        lmdb: output of pack_lmdb. model: a name or a checkpoint to start from.
        model_digest: SHA-256 of the starting weights, where the caller knows it.
        launcher: starts the training where ``config.nodes`` asks for several machines.
    """
    from wentu.clip import checkpoint

    digest = checkpoint.weights_digest(model)
    if model_digest and digest != model_digest:
        raise InputError(
            f"{model} is not what it was when this run began: its digest is {digest[:12]}, it was "
            f"{model_digest[:12]}. Run again.",
            f"{model} 已与本次运行开始时不同：摘要为 {digest[:12]}，原为 {model_digest[:12]}。"
            "请重新运行。",
        )
    packed = read_manifest(lmdb, "pack_lmdb")
    if int(packed.counts.get("train_pictures", 0)) < FEWEST:
        raise InputError(
            "one picture cannot be told from others: give captions of two or more to train on, or "
            "only make the pictures searchable with --no-train.",
            "只有一张图片，无从区分：训练至少需要两张有描述的图片；"
            "或用 --no-train 只让图片可检索。",
        )
    inputs = {"pack_lmdb": packed.digest, "weights": digest}
    if config.teacher:
        inputs["teacher"] = checkpoint.weights_digest(config.teacher)
    key = digest_of([inputs, model, config.text(shaping=True), ARITHMETIC])
    vault = Store(store)

    def job(work: Path) -> Job:
        return Job(lmdb=lmdb, model=model, work=work, config=config)

    if rank() > 0:  # one of several that torchrun started: the first one does the rest
        job(vault.storage.home / f"work/{key}").train(Reporter(), Tracker())
        return
    several = config.nodes > 1 and "WORLD_SIZE" not in os.environ
    with Stage("finetune", out, config, inputs) as stage:
        if several and launcher:
            launcher(vault, key, job(vault.storage.home / f"work/{key}"), stage)
        elif several:
            raise no_cluster(config.nodes)
        with vault.work(key) as work:
            if not several:
                launch(job(work), stage.progress, stage.tracker)
            write_outputs(out, job(work), work, inputs, stage)


def no_cluster(nodes: int) -> InputError:
    """Several machines are asked for where there is no cluster to take them from."""
    return InputError(
        f"--nodes {nodes}: only a Kubernetes cluster gives machines; use `wentu submit`, or start "
        "the stage on each machine with torchrun (see docs/fine-tuning.md).",
        f"--nodes {nodes}：只有 Kubernetes 集群能分配多台机器；请用 wentu submit，"
        "或用 torchrun 在每台机器上启动本阶段(见 docs/zh-CN/fine-tuning.md)。",
    )


def write_outputs(out: Path, job: Job, work: Path, inputs: dict[str, str], stage: Stage) -> None:
    """The checkpoints, and how they came about."""
    from wentu import report
    from wentu.clip.checkpoint import TUNED
    from wentu.training.saving import position

    at, start, config = position(work), job.start(), job.config
    info = {
        **{name: start.info[name] for name in TUNED},
        "model": job.model,
        "seed": config.seed,
        "weights": inputs["weights"],
        "inputs": inputs,
        "config": asdict(config),
        "groups": training_groups(job.lmdb / CATALOG, start),
        "share": at.best_share,
    }
    write_checkpoints(out, work, at, start, info)
    write_json(out / "history.json", at.history)
    report.plot_loss(at.history, out / "epoch_loss.png")
    report.plot_recall(at.history, out / "epoch_recall.png")
    for name in ("epoch_loss.png", "epoch_recall.png"):
        stage.tracker.artifact(out / name)
    stage.counts |= summary(at, read_manifest(job.lmdb).counts)


def write_checkpoints(
    out: Path, work: Path, at: Position, start: Checkpoint, info: dict[str, Any]
) -> None:
    """``epoch_latest.pt`` and ``epoch_best.pt``."""
    from wentu.clip.checkpoint import save
    from wentu.clip.files import read_pt
    from wentu.training.saving import LATEST

    latest, best = read_pt(work / LATEST), read_pt(work / at.best)
    save(out / "epoch_latest.pt", latest, start, epoch=at.epoch, step=at.step, info=info)
    step = next((int(row["step"]) for row in at.history if row["epoch"] == at.best_epoch), 0)
    save(out / "epoch_best.pt", best, start, epoch=at.best_epoch, step=step, info=info)


def training_groups(catalog: Path, start: Checkpoint) -> list[int]:
    """The groups that the weights know: trained on now, or by what they start from.

    A valid or test split that holds any of them would praise what was learned by heart.
    """
    with closing(open_catalog(catalog)) as db:
        rows = db.execute("SELECT DISTINCT grp FROM pictures WHERE split = 'train'")
        return sorted({row[0] for row in rows} | set(start.info.get("groups", ())))


def summary(at: Position, counts: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that the table of stages shows."""
    recalls = [row["recall"] for row in at.history if "recall" in row]
    best = {"best_recall": at.best_recall, "start_recall": recalls[0]} if recalls else {}
    pairs = at.epoch * int(counts.get("train_pairs", 0))
    speed = {"samples_per_second": pairs / at.seconds} if at.seconds else {}
    return {"epochs": at.epoch, "steps": at.step, "best_epoch": at.best_epoch, **best, **speed}
