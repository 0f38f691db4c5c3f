"""The loop: what comes out, exact resume, and what is the same however a batch is computed."""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.small import (
    DROPOUT,
    SMALL,
    Heard,
    StopAfter,
    Stopped,
    fed,
    train,
)
from wentu.clip.files import read_pt
from wentu.clip.model import build
from wentu.errors import QualityError, StoppedError, WentuError
from wentu.tracking import Tracker
from wentu.training import collapse, layers, loop, saving
from wentu.training.config import Config
from wentu.training.loop import Trainer
from wentu.training.optimizer import rate_at
from wentu.training.saving import Position
from wentu.training.validation import Validation

State = dict[str, torch.Tensor]


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def best(work: Path, at: Position) -> State:
    return read_pt(work / at.best)


# --- exact resume -----------------------------------------------------------------------------

TIMED = {"samples_per_second", "loader_wait", "memory_gib"}


def untimed(at: Position) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in at.history]


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"student": DROPOUT},
    "chunks": {"student": DROPOUT, "chunk": 3, "patch_dropout": 0.5, "unmasked": 0.4},
    "average": {"ema": 0.9, "scratch": False},
    "sigmoid": {"loss": "sigmoid", "layer_decay": 0.5},
    "lora": {"lora": 2, "scratch": False, "checkpointing": True},
}


def run(built: Any, work: Path, name: str, stop: StopAfter | None = None) -> tuple[Trainer, Any]:
    changed = dict(SETTINGS[name])
    student = fed(changed.pop("student", SMALL))
    return train(built, work, stop, student=student, **changed)


@pytest.mark.parametrize("name", SETTINGS)
def test_mistake_10_a_training_that_was_stopped_ends_in_the_same_bits(
    built: Any, tmp_path: Path, name: str
) -> None:
    _, whole = run(built, tmp_path / "whole", name)
    for steps in (1, 1, 3):
        with pytest.raises(Stopped):
            run(built, tmp_path / "parts", name, StopAfter(steps))
    _, at = run(built, tmp_path / "parts", name)
    latest = [read_pt(tmp_path / each / "latest.pt") for each in ("whole", "parts")]
    assert same(*latest)
    assert same(best(tmp_path / "whole", whole), best(tmp_path / "parts", at))
    assert (at.epoch, at.step, at.best, at.tried) == (
        whole.epoch, whole.step, whole.best, whole.tried,
    )  # fmt: skip
    assert untimed(at) == untimed(whole)
    assert not same(latest[0], build(SMALL).state_dict())


def test_a_finished_training_is_not_done_again(built: Any, tmp_path: Path) -> None:
    _, first = train(built, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    _, again = train(built, tmp_path, StopAfter(0))
    assert vars(again) == vars(first)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


def test_only_the_best_weights_are_kept(built: Any, tmp_path: Path) -> None:
    _, at = train(built, tmp_path, epochs=6)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("state.pt", "latest.pt", "result.json"),
        at.best,
    }


def test_sigterm_saves_and_ends(built: Any, tmp_path: Path) -> None:
    import signal

    class Terminate(Heard):
        def track(self, items: Any, *_: Any, **__: Any) -> Any:
            for number, item in enumerate(items):
                if number == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield item

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError, match="stopped on request after step 3") as caught:
        train(built, tmp_path / "a", Terminate(), save_seconds=1e9)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    _, at = train(built, tmp_path / "a", heard := Heard(), save_seconds=1e9)
    assert "resumed after epoch 0, at step 3 of 8" in heard.said[0]
    _, whole = train(built, tmp_path / "b", save_seconds=1e9)
    assert same(best(tmp_path / "a", at), best(tmp_path / "b", whole))


@pytest.mark.parametrize("cut", range(6))
def test_weights_and_state_never_disagree(
    built: Any, tmp_path: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut after each file that is written; what is named is what was scored."""
    written = 0
    save = saving.save

    def cut_short(path: Path, value: Any) -> None:
        nonlocal written
        save(path, value)
        written += 1
        if written > cut:
            raise Stopped

    monkeypatch.setattr(saving, "save", cut_short)
    with pytest.raises(Stopped):
        train(built, tmp_path, save_seconds=1e9, epochs=6)
    monkeypatch.setattr(saving, "save", save)
    at = saving.position(tmp_path)
    if at.best:
        trainer, _ = train(built, tmp_path / "other", epochs=0)
        trainer.learner.model.load_state_dict(best(tmp_path, at))
        assert trainer._recall()["mean_recall"] == at.best_recall


def test_a_full_disk_is_said_and_loses_nothing(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    save_atomic = saving.save_atomic
    room = 3

    def fill(path: Path, value: Any, writer: Any) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_atomic(path, value, writer)

    monkeypatch.setattr(saving, "save_atomic", fill)
    with pytest.raises(
        WentuError, match=r"state\.pt could not be written: the disk is full\. Make"
    ):
        train(built, tmp_path / "a")
    monkeypatch.setattr(saving, "save_atomic", save_atomic)
    assert saving.position(tmp_path / "a").step == 1
    _, at = train(built, tmp_path / "a")
    _, whole = train(built, tmp_path / "b")
    assert same(best(tmp_path / "a", at), best(tmp_path / "b", whole))


def test_what_was_saved_outlives_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """The file that is written first leads to /dev/full, which refuses every byte."""
    path = tmp_path / "state.pt"
    saving.save(path, {"step": torch.ones(1000)})
    before = path.read_bytes()
    name = f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp"
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(
        WentuError, match=r"state\.pt could not be written: the disk is full\. Make"
    ):
        saving.save(path, {"step": torch.zeros(10**6)})
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize(("seconds", "step"), [(0.0, 3), (1e9, 0), (math.inf, 0)])
def test_mistake_09_a_long_interval_means_never(
    built: Any, tmp_path: Path, seconds: float, step: int
) -> None:
    """Of saves within an epoch; after each epoch it is saved and scored whatever the interval."""
    with pytest.raises(Stopped):
        train(built, tmp_path, StopAfter(3), save_seconds=seconds)
    assert saving.position(tmp_path).step == step
    _, at = train(built, tmp_path, save_seconds=seconds)
    assert saving.position(tmp_path).step == at.step == 8
    assert [row["step"] for row in at.history] == [0, 4, 8]
    assert all("recall" in row for row in at.history)


def test_a_training_that_fails_leaves_no_thread_that_reads(built: Any, tmp_path: Path) -> None:
    """Whoever called it closes the LMDB next: a thread that still reads it would crash Python."""
    before = set(threading.enumerate())
    with pytest.raises(Stopped) as caught:
        train(built, tmp_path, StopAfter(1))
    assert set(threading.enumerate()) - before == set()
    assert caught.type is Stopped


# --- the same, however it is computed ---------------------------------------------------------


def double(model: Any) -> Any:
    """The model in float64; cn_clip's LayerNorm would go back to float32."""
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.__class__ = torch.nn.LayerNorm
    return model.double()


def gradients(built: Any, work: Path, **changed: Any) -> tuple[float, State]:
    """Of the first batch, and its loss, in float64 without dropout."""
    trainer, _ = train(built, work, epochs=0, valid=False, batch_size=10, keep=True, **changed)
    double(trainer.learner.model)
    learner = trainer.learner
    learner.feed._mean, learner.feed._std = learner.feed._mean.double(), learner.feed._std.double()
    learner.bias.data = learner.bias.data.double()
    (batch, *_) = trainer.batches.epoch(1)
    trainer.batches.close()
    loss, _ = trainer.learner.gradients(batch, 0)
    found = {n: p.grad for n, p in trainer.learner.model.named_parameters() if p.grad is not None}
    return loss, found


def obvious(built: Any, work: Path, **changed: Any) -> tuple[float, State]:
    """The same by one backward pass through the whole batch, as one would write it down."""
    from tests.training.test_losses import slow_sigmoid, slow_softmax

    trainer, _ = train(built, work, epochs=0, valid=False, batch_size=10, keep=True, **changed)
    model = double(trainer.learner.model)
    (batch, *_) = trainer.batches.epoch(1)
    mean, std = trainer.learner.feed._mean.double(), trainer.learner.feed._std.double()
    pictures = torch.from_numpy(batch.inputs[0].pictures).permute(0, 3, 1, 2).double()
    image = model.encode_image((pictures - mean) / std)
    text = model.encode_text(torch.from_numpy(batch.inputs[0].tokens))
    image, text = (each / each.norm(dim=-1, keepdim=True) for each in (image, text))
    right = torch.zeros(10, 10, dtype=torch.bool)
    right[batch.belongs[0]] = True
    logits = model.logit_scale.exp() * image @ text.T
    scale = float(model.logit_scale.detach().exp())
    lists = image.detach().tolist(), text.detach().tolist()
    if changed.get("loss") == "sigmoid":
        signs = torch.where(right, 1.0, -1.0)
        bias = -float(logits.detach().mean()) - math.log(10)
        loss = -torch.nn.functional.logsigmoid(signs * (logits + bias)).sum() / 10
        assert float(loss.detach()) == pytest.approx(
            slow_sigmoid(*lists, scale, bias, right.tolist())
        )
    else:
        positives = changed.get("positives", "share")
        wanted = right if positives == "share" else torch.eye(10, dtype=torch.bool)
        loss = torch.zeros(()).double()
        for way, target in ((logits, wanted), (logits.T, wanted.T)):
            shares = target / target.sum(dim=1, keepdim=True)
            loss = loss - (shares * way.log_softmax(dim=1)).sum() / 20
        assert float(loss.detach()) == pytest.approx(
            slow_softmax(*lists, scale, right.tolist(), positives)
        )
    loss.backward()
    trainer.batches.close()
    return float(loss.detach()), {
        n: p.grad for n, p in model.named_parameters() if p.grad is not None
    }


KINDS: list[dict[str, Any]] = [{}, {"positives": "diagonal"}, {"loss": "sigmoid"}]


@pytest.mark.parametrize("kind", KINDS, ids=["multi-positive", "plain", "sigmoid"])
@pytest.mark.parametrize(
    "way", [{}, {"chunk": 1}, {"chunk": 4}, {"checkpointing": True}, {"chunk": 4, "ema": 0.9}]
)
def test_gradients_are_those_of_the_obvious_loss(
    built: Any, tmp_path: Path, kind: dict[str, Any], way: dict[str, Any]
) -> None:
    # Two captions of one picture are in the batch: the sampler would keep them apart.
    common = kind | {"sampler": "random", "seed": 3}
    loss, found = gradients(built, tmp_path / "ours", **common, **way)
    expected_loss, expected = obvious(built, tmp_path / "obvious", **common)
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    assert found.keys() == expected.keys()
    for name in expected:
        difference = float((found[name] - expected[name]).norm())
        assert difference <= 1e-9 * float(expected[name].norm()) + 1e-15, name


def test_chunks_see_the_dropout_and_the_patches_of_the_first_pass(
    built: Any, tmp_path: Path
) -> None:
    """Were they drawn anew for the second pass, its features would not be those of the loss."""
    trainer, _ = train(
        built,
        tmp_path,
        student=fed(DROPOUT),
        epochs=0,
        chunk=3,
        patch_dropout=0.5,
        valid=False,
        keep=True,
    )
    trainer.learner.model.train()
    trainer.learner.drop_patches(True)
    (batch, *_) = trainer.batches.epoch(1)
    for part in trainer.learner.parts(batch, 0):
        one, other = trainer.learner.encode(*part), trainer.learner.encode(*part)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        inputs, key = part
        another = trainer.learner.encode(inputs, [*key[:1], key[1] + 1, *key[2:]])
        assert not any(torch.equal(a, b) for a, b in zip(one, another, strict=True))
    trainer.batches.close()


def test_fused_attention_is_the_attention_of_cn_clip() -> None:
    fused, plain = build(SMALL).eval(), build(SMALL).eval()
    layers.fuse_attention(fused)
    tokens = torch.tensor([[101, 671, 1372, 4318, 102], [101, 671, 102, 0, 0]])
    with torch.no_grad():
        ours, theirs = fused.encode_text(tokens), plain.encode_text(tokens)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.equal(ours[0], ours[1])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_too_and_is_scored_in_float32(
    built: Any, tmp_path: Path, precision: str
) -> None:
    trainer, at = train(
        built, tmp_path / "a", precision=precision, augment="none", epochs=12, batch_size=14
    )
    assert at.history[-1]["loss"] < 0.9 * at.history[1]["loss"]
    _, plain = train(built, tmp_path / "b", epochs=0)
    assert at.history[0]["recall"] == plain.history[0]["recall"]
    assert {each.dtype for each in trainer.learner.model.state_dict().values()} >= {torch.float32}


# --- what comes out ---------------------------------------------------------------------------


def test_history_starts_before_the_first_step_and_has_a_row_an_epoch(
    built: Any, tmp_path: Path
) -> None:
    _, at = train(built, tmp_path)
    assert [(row["epoch"], row["step"]) for row in at.history] == [(0, 0), (1, 4), (2, 8)]
    assert "loss" not in at.history[0]
    assert all(0 <= row["recall"] <= 1 for row in at.history)
    for row in at.history[1:]:
        assert row["loss"] > 0
        assert 0 <= row["in_batch_accuracy"] <= 1
        assert row["gradient_norm"] > 0
        assert row["samples_per_second"] > 0
        assert 0 <= row["loader_wait"] <= 1
        assert row["memory_gib"] > 0.1


def test_training_lowers_the_loss(built: Any, tmp_path: Path) -> None:
    _, at = train(built, tmp_path, epochs=16, save_seconds=60.0, augment="none", valid=False)
    losses = [row["loss"] for row in at.history[1:]]
    assert losses[-1] < 0.75 * losses[0]


def test_the_best_epoch_is_the_one_that_is_kept(built: Any, tmp_path: Path) -> None:
    trainer, at = train(built, tmp_path, epochs=5)
    recalls = [row["recall"] for row in at.history]
    assert at.best_recall == max(recalls) == recalls[at.best_epoch]
    trainer.learner.model.load_state_dict(best(tmp_path, at))
    assert trainer._recall()["mean_recall"] == at.best_recall


def test_without_a_valid_split_the_last_epoch_is_kept(built: Any, tmp_path: Path) -> None:
    trainer, at = train(built, tmp_path, heard := Heard(), valid=False)
    assert at.best_epoch == 2
    assert same(best(tmp_path, at), dict(trainer.learner.model.state_dict()))
    (said,) = [text for text in heard.said if "no valid split" in text]
    assert "give captions of a valid split or raise --valid-fraction" in said
    train(built, tmp_path / "with", heard := Heard())
    assert not [text for text in heard.said if "no valid split" in text]


@pytest.mark.parametrize(("scratch", "epoch"), [(True, 2), (False, 0)])
def test_of_equal_epochs_a_start_that_is_worth_something_is_kept(
    built: Any, tmp_path: Path, scratch: bool, epoch: int
) -> None:
    """A step so small that no rank changes."""
    _, at = train(built, tmp_path, learning_rate=1e-12, scratch=scratch, interpolate=False)
    assert len({row["recall"] for row in at.history}) == 1
    assert at.best_epoch == epoch


def trained(built: Any, tmp_path: Path) -> State:
    """Weights that know the training pictures well."""
    trainer, _ = train(
        built, tmp_path / "start", epochs=40, save_seconds=1e9, augment="none", valid=False
    )
    return {name: each.clone() for name, each in trainer.learner.model.state_dict().items()}


def test_a_rate_far_too_high_ends_in_the_start_or_better(built: Any, tmp_path: Path) -> None:
    start = trained(built, tmp_path)
    student = fed()
    student.model.load_state_dict(start)
    trainer, at = train(
        built, tmp_path / "spoiled", student=student, scratch=False, learning_rate=0.5, epochs=8
    )
    assert at.best_recall >= at.history[0]["recall"]
    assert min(row["recall"] for row in at.history) < at.history[0]["recall"]
    assert at.over in ("patience", "epochs", "diverged", "collapsed")
    validation = Validation(built.lmdb / "valid")
    layers_free = build(SMALL)
    layers_free.load_state_dict(best(tmp_path / "spoiled", at))
    trainer.learner.model.load_state_dict(layers_free.state_dict())
    with trainer.learner.evaluated():
        learner = trainer.learner
        found = validation.score(learner.encode_pictures, learner.encode_texts)
    assert found["mean_recall"] == at.best_recall


def test_averages_with_the_start_are_tried_and_the_best_is_kept(built: Any, tmp_path: Path) -> None:
    """Against a training that is the same but for them, and averages made by hand."""
    given: dict[str, Any] = {"scratch": False, "epochs": 8, "augment": "none"}
    trainer, plain = train(built, tmp_path / "plain", **given, interpolate=False, keep=True)
    _, at = train(built, tmp_path / "averaged", **given)
    assert plain.best_epoch == at.best_epoch > 0
    start, trained = build(SMALL).state_dict(), best(tmp_path / "plain", plain)
    candidates = {(plain.best_recall, plain.best_mrr): (1.0, trained)}
    for share, tried in zip(loop.SHARES, at.tried, strict=True):
        mixed = {
            name: torch.lerp(start[name], each, share) if each.is_floating_point() else each
            for name, each in trained.items()
        }
        trainer.learner.model.load_state_dict(mixed)
        metrics = trainer._score()
        assert tried == {"share": share, "recall": metrics["mean_recall"]}
        candidates.setdefault((metrics["mean_recall"], loop.reciprocal(metrics)), (share, mixed))
    trainer.batches.close()
    share, weights = candidates[max(candidates)]
    assert at.best_share == share
    assert same(best(tmp_path / "averaged", at), weights)


def test_patience_ends_what_does_not_get_better(built: Any, tmp_path: Path) -> None:
    _, at = train(
        built, tmp_path, heard := Heard(), epochs=9, patience=2, learning_rate=1e-12, scratch=False
    )
    assert (at.over, at.epoch, at.best_epoch) == ("patience", 2, 0)
    assert any("no better recall on valid in 2 epochs" in text for text in heard.said)
    _, at = train(built, tmp_path / "b", epochs=4, patience=0, learning_rate=1e-12, scratch=False)
    assert (at.over, at.epoch) == ("epochs", 4)


class Poison(Heard):
    """Weights become NaN before a step, as after a gradient that overflowed."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step, self.model = step, fed()

    def track(self, items: Any, *_: Any, **given: Any) -> Any:
        for number, item in enumerate(items, given.get("start", 0)):
            if number == self.step:
                with torch.no_grad():
                    self.model.model.text_projection.fill_(float("nan"))
            yield item


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_loss_that_is_no_number_ends_with_the_last_good_weights(
    built: Any, tmp_path: Path, step: int
) -> None:
    poison = Poison(step)
    _, at = train(built, tmp_path, poison, student=poison.model, scratch=False, epochs=3)
    assert (at.over, at.diverged_at) == ("diverged", step + 1)
    (said,) = [text for text in poison.said if "training ends here" in text]
    assert f"the loss became nan at step {step + 1}" in said
    assert "Try a --learning-rate below 0.001." in said
    for name in (at.best, "latest.pt"):
        assert all(each.isfinite().all() for each in read_pt(tmp_path / name).values())


class Steep(Poison):
    """From a step on the gradient of one matrix is infinite, while the loss is a number."""

    def track(self, items: Any, *_: Any, **given: Any) -> Any:
        for number, item in enumerate(items, given.get("start", 0)):
            if number == self.step:
                matrix = self.model.model.text_projection
                matrix.register_hook(lambda gradient: gradient * float("inf"))
            yield item


def test_a_gradient_that_is_no_number_is_called_by_its_name(built: Any, tmp_path: Path) -> None:
    steep = Steep(5)
    _, at = train(built, tmp_path, steep, student=steep.model, scratch=False, epochs=3)
    assert (at.over, at.diverged_at) == ("diverged", 6)
    (said,) = [text for text in steep.said if "training ends here" in text]
    assert re.match(r"the norm of the gradient became (inf|nan) at step 6: the training", said)
    assert all(each.isfinite().all() for each in best(tmp_path, at).values())


def test_a_collapse_ends_with_the_best_weights_so_far(built: Any, tmp_path: Path) -> None:
    """A rate far too high, on pictures that the start knows by heart: no figure becomes NaN."""
    student = fed()
    student.model.load_state_dict(trained(built, tmp_path))
    given: dict[str, Any] = {"learning_rate": 0.2, "epochs": 6, "augment": "none", "split": "train"}
    _, at = train(
        built, tmp_path / "spoiled", heard := Heard(), student=student, scratch=False, **given
    )
    assert at.over == "collapsed"
    assert at.epoch < 6
    assert at.best_recall >= at.history[0]["recall"] > 2 * at.history[-1]["recall"]
    assert math.isfinite(at.history[-1]["loss"])
    (said,) = [text for text in heard.said if "has collapsed" in text]
    assert f"with the best weights so far, of epoch {at.best_epoch}. Try a" in said
    assert said.endswith("Try a --learning-rate below 0.2.")
    again, _ = train(
        built, tmp_path / "spoiled", StopAfter(0), student=fed(), scratch=False, **given
    )
    assert saving.read_result(again.work) is not None  # over is over


def test_what_is_trained_from_random_weights_does_not_collapse(built: Any, tmp_path: Path) -> None:
    student = fed()
    student.model.load_state_dict(trained(built, tmp_path))
    given: dict[str, Any] = {"learning_rate": 0.2, "epochs": 3, "augment": "none", "split": "train"}
    _, at = train(built, tmp_path / "a", student=student, scratch=True, **given)
    assert (at.over, at.epoch) == ("epochs", 3)


@pytest.mark.parametrize(
    ("start", "recall", "loss", "expected"),
    [
        (0.8, 0.1, 4.16, True),
        (0.8, 0.1, 4.0, True),  # the first steps were still good
        (0.8, 0.1, 3.0, False),  # something is learned
        (0.8, 0.41, 4.16, False),  # more than half is left
        (0.05, 0.02, 4.16, False),  # there was nothing to lose
    ],
)
def test_when_a_training_has_collapsed(
    start: float, recall: float, loss: float, expected: bool
) -> None:
    history = [{"epoch": 0, "recall": start}, {"epoch": 1, "recall": recall, "loss": loss}]
    expects = collapse.loss_of_chance(Config(batch_size=64), 640)
    assert expects == pytest.approx(math.log(64))
    found = collapse.collapsed(history, recall_of_chance=0.03, loss_of_chance=expects)
    assert found == expected


def test_the_loss_of_chance_is_the_mean_of_an_epochs_steps() -> None:
    def of(pairs: int, **changed: Any) -> float:
        return collapse.loss_of_chance(Config(batch_size=8, **changed), pairs)

    assert of(28) == pytest.approx((3 * math.log(8) + math.log(4)) / 4)
    assert of(5) == pytest.approx(math.log(5))
    assert of(8, loss="sigmoid") == pytest.approx(math.log(8) + 7 * math.log(8 / 7))
    halves = (of(8, loss="sigmoid") + of(8)) / 2
    assert of(8, loss="sigmoid", teacher="large.pt", distill=0.5) == pytest.approx(halves)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_recall_of_chance_is_that_of_random_vectors(built: Any, split: str) -> None:
    validation, rng = Validation(built.lmdb / split), np.random.default_rng(0)

    def encode(items: Any) -> Any:
        return rng.standard_normal((len(items), 8), dtype=np.float32)

    found = [validation.score(encode, encode)["mean_recall"] for _ in range(300)]
    validation.close()
    assert validation.chance == pytest.approx(np.mean(found), abs=0.02)


class Points(Tracker):
    """Keeps the steps that a curve has points at."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        if "gradient_norm" in values:
            self.steps.append(step)


@pytest.mark.parametrize(
    ("epochs", "points"), [(2, [1, 8]), (3, [1, 10, 12])], ids=["fewer than ten", "more"]
)
def test_curves_have_the_first_and_the_last_step(
    built: Any, tmp_path: Path, epochs: int, points: list[int]
) -> None:
    tracker = Points()
    _, at = train(built, tmp_path, epochs=epochs, tracker=tracker)
    assert tracker.steps == points
    assert "mean learning rate 0.0" in loop.describe(at.history[1])


def test_random_weights_that_diverge_at_once_are_an_error(built: Any, tmp_path: Path) -> None:
    poison = Poison(0)
    with pytest.raises(QualityError, match="at step 1, before anything was learned; train with a"):
        train(built, tmp_path, poison, student=poison.model)


def test_the_moving_average_is_what_comes_out(built: Any, tmp_path: Path) -> None:
    trainer, at = train(built, tmp_path, ema=0.9, valid=False)
    average, last = best(tmp_path, at), dict(trainer.learner.model.state_dict())
    assert not same(average, last)
    start = build(SMALL).state_dict()
    name = "text_projection"
    assert (average[name] - start[name]).norm() < (last[name] - start[name]).norm()


def test_the_average_by_hand() -> None:
    from wentu.training.average import Average

    model = torch.nn.Linear(1, 1, bias=False)
    average = Average(model, 0.5)
    expected = value = float(model.weight.detach())
    for step in range(12):
        value += 1
        with torch.no_grad():
            model.weight.fill_(value)
        average.follow(model, step)
        decay = min(0.5, (1 + step) / (11 + step))
        expected = decay * expected + (1 - decay) * value
    with average.swapped(model):
        assert float(model.weight.detach()) == pytest.approx(expected)
    assert float(model.weight.detach()) == pytest.approx(value)


def test_the_temperature_stays_below_100(built: Any, tmp_path: Path) -> None:
    student = fed()
    with torch.no_grad():
        student.model.logit_scale.fill_(9.0)
    trainer, _ = train(built, tmp_path, student=student, epochs=1, valid=False)
    assert 0 < float(trainer.learner.model.logit_scale.detach().exp()) <= 100.01


@pytest.mark.parametrize("warmup", [0.0, 0.9, 0.999])
def test_mistake_09_a_run_that_is_all_warm_up_ends_at_the_peak(
    built: Any, tmp_path: Path, warmup: float
) -> None:
    """Four steps; a warm-up of 100 steps, as the reference has it, would end at a 25th of it."""
    trainer, _ = train(built, tmp_path, epochs=1, warmup=warmup, valid=False)
    rates = [rate_at(step, 4, 1e-3, warmup) for step in range(4)]
    assert max(rates) == 1e-3
    used = {group["lr"] for group in trainer.learner.optimizer.param_groups}
    assert used == {rates[-1]}
    assert rates[-1] == 1e-3 or warmup == 0.0


def test_mistake_10_a_batch_larger_than_the_split_trains_and_is_saved(
    built: Any, tmp_path: Path
) -> None:
    trainer, at = train(built, tmp_path, heard := Heard(), batch_size=1000, warmup=0.0)
    assert (at.epoch, at.step) == (2, 2)
    assert (
        "--batch-size 1000: there are only 28 pairs, so that each epoch is one step; a smaller "
        "batch takes more steps"
    ) in heard.said
    start = build(SMALL).state_dict()
    state = trainer.learner.model.state_dict()
    moved = [name for name in state if not torch.equal(state[name].cpu(), start[name])]
    assert len(moved) > 0.9 * len(list(trainer.learner.model.parameters()))
    assert same(read_pt(tmp_path / "state.pt")["model"], dict(state))


@pytest.mark.parametrize("norm", [0.01, 1e9])
def test_mistake_13_gradients_are_clipped_to_the_norm(
    built: Any, tmp_path: Path, norm: float
) -> None:
    """Those of the last step are still there."""
    trainer, _ = train(built, tmp_path, epochs=1, clip_norm=norm, valid=False)
    left = [each.grad for each in trainer.learner.model.parameters() if each.grad is not None]
    total = float(torch.stack([each.norm() for each in left]).norm())
    assert total == pytest.approx(0.01, rel=1e-3) if norm == 0.01 else total > 0.1


def test_a_frozen_tower_comes_out_as_it_went_in(built: Any, tmp_path: Path) -> None:
    trainer, _ = train(built, tmp_path, freeze="vision", epochs=1, valid=False)
    start, state = build(SMALL).state_dict(), trainer.learner.model.state_dict()
    changed = {name for name in state if not torch.equal(state[name], start[name])}
    assert changed
    assert not [name for name in changed if name.startswith("visual.")]


def test_a_teacher_is_learned_from(built: Any, tmp_path: Path) -> None:
    """Only from it (distill 1): our similarities come nearer to its."""
    teacher = fed(seed=9)
    teacher.model.load_state_dict(trained(built, tmp_path))
    common: dict[str, Any] = {"augment": "none", "valid": False, "save_seconds": 1e9}
    _, at = train(built, tmp_path / "a", teacher=teacher, distill=1.0, epochs=20, **common)
    losses = [row["loss"] for row in at.history[1:]]
    assert losses[-1] < 0.8 * losses[0]
    assert at.history[-1]["in_batch_accuracy"] > at.history[1]["in_batch_accuracy"]


def test_mistake_04_a_perfect_model_scores_1_whatever_the_size_of_a_batch(built: Any) -> None:
    """On the training split, as the one with most pictures: one-hot by the picture's number."""
    from wentu.formats import PairsLmdb

    with PairsLmdb(built.lmdb / "train") as split:
        triples = split.pairs()
        row_of = {split.picture(image): row for row, (image, _, _) in enumerate(triples)}
        row_of_text = {text: row_of[split.picture(image)] for image, _, text in triples}
    one_hot = np.eye(len(triples), dtype=np.float32)
    metrics = Validation(built.lmdb / "train").score(
        lambda data: one_hot[[row_of[each] for each in data]],
        lambda texts: one_hot[[row_of_text[text] for text in texts]],
    )
    assert metrics["mean_recall"] == metrics["text_to_image/recall@1"] == 1.0
