"""A model that trains in milliseconds, and how it is fed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from wentu.clip.checkpoint import Checkpoint
from wentu.clip.model import TINY, Architecture, build
from wentu.clip.processor import Processor
from wentu.progress import Reporter
from wentu.tracking import Tracker
from wentu.training.config import Config
from wentu.training.data import PairBatches
from wentu.training.feed import Fed
from wentu.training.learner import Learner
from wentu.training.loop import Trainer
from wentu.training.parallel import Group
from wentu.training.saving import Position
from wentu.training.validation import Validation

SMALL = Architecture(
    name="custom",
    config=TINY
    | {
        "embed_dim": 32,
        "image_resolution": 32,
        "vision_layers": 2,
        "vision_width": 64,
        "text_hidden_size": 64,
        "text_intermediate_size": 128,
        "text_num_hidden_layers": 2,
    },
)
DROPOUT = Architecture(
    name="custom",
    config={
        **SMALL.config,
        "text_attention_probs_dropout_prob": 0.1,
        "text_hidden_dropout_prob": 0.1,
    },
)


def processor(**info: Any) -> Processor:
    """How SMALL is fed: 32 pixels, 52 tokens."""
    return Checkpoint(architecture=SMALL, info=info).processor()


def fed(architecture: Architecture = SMALL, seed: int = 0) -> Fed:
    """Random weights."""
    return Fed(model=build(architecture, seed), processor=processor(), dimension=32)


class Stopped(Exception):
    """What a reporter raises in place of a power cut."""


class StopAfter(Reporter):
    """Counts steps over all epochs and stops before the one after ``steps``."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def track(self, items: Iterable[Any], *_: Any, **__: Any) -> Iterator[Any]:
        for item in items:
            if self.left == 0:
                raise Stopped
            self.left -= 1
            yield item


class Heard(Reporter):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def emit(self, event: str, **values: Any) -> None:
        if "text" in values:
            self.said.append(values["text"])


USUAL: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "augment": "crop",
    "save_seconds": 0.0,
}


def train(
    built: Any,
    work: Path,
    report: Reporter | None = None,
    student: Fed | None = None,
    valid: bool = True,
    scratch: bool = True,
    teacher: Fed | None = None,
    keep: bool = False,
    split: str = "valid",
    tracker: Tracker | None = None,
    **changed: Any,
) -> tuple[Trainer, Position]:
    """One call of the trainer: 28 pairs, batches of 8, so 4 steps in an epoch.

    keep: leave the LMDB open, for more batches. split: what recall is measured on.
    """
    work.mkdir(exist_ok=True)
    student, config = student or fed(), Config(**USUAL | changed)
    fed_too = [each.processor for each in (student, teacher) if each]
    batches = PairBatches.of(built.lmdb / "train", config, fed_too)
    start = {name: each.clone() for name, each in student.model.state_dict().items()}
    trainer = Trainer(
        Learner(
            student,
            config,
            device=torch.device("cpu"),
            group=Group(),
            scratch=scratch,
            teacher=teacher,
        ),
        batches,
        Validation(built.lmdb / split) if valid else None,
        work,
        start=None if scratch else start,
        report=report,
        tracker=tracker,
    )
    at = trainer.run()
    if not keep:
        batches.close()  # not after an error: see the test of threads
    return trainer, at
