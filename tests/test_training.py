"""The loss against an obvious slow one, the rate, the order of batches, and exact resume."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wentu.clip.checkpoint import Checkpoint
from wentu.clip.files import read_pt
from wentu.clip.model import TINY, Architecture, build
from wentu.clip.processor import Processor
from wentu.errors import QualityError
from wentu.progress import Reporter
from wentu.tracking import Tracker
from wentu.training.data import Batch, PairBatches, Retrieval
from wentu.training.loop import Plan, Position, Trainer, score_split
from wentu.training.loss import contrastive_loss, false_negatives
from wentu.training.optimizer import parameter_groups, rate_at

SMALL = Architecture(
    name="custom",
    config=TINY
    | {
        "embed_dim": 32,
        "image_resolution": 32,
        "vision_layers": 1,
        "vision_width": 64,
        "text_hidden_size": 64,
        "text_intermediate_size": 128,
        "text_num_hidden_layers": 1,
    },
)


def processor(**info: Any) -> Processor:
    """How SMALL is fed: 32 pixels, 52 tokens."""
    return Checkpoint(architecture=SMALL, info=info).processor()


# --- loss -------------------------------------------------------------------------------------


def slow_loss(
    image: list[list[float]],
    text: list[list[float]],
    scale: float,
    image_ids: list[int],
    text_ids: list[int],
) -> float:
    """One query at a time: -log of its own share among what it may be confused with."""
    total, size = 0.0, len(image)

    def score(picture: int, caption: int) -> float:
        products = zip(image[picture], text[caption], strict=True)
        return math.exp(scale * sum(a * b for a, b in products))

    def rival(i: int, j: int) -> bool:
        return i != j and image_ids[i] != image_ids[j] and text_ids[i] != text_ids[j]

    for i in range(size):
        captions = score(i, i) + sum(score(i, j) for j in range(size) if rival(i, j))
        pictures = score(i, i) + sum(score(j, i) for j in range(size) if rival(i, j))
        total -= math.log(score(i, i) / captions) + math.log(score(i, i) / pictures)
    return total / (2 * size)


def unit(seed: int, size: int) -> torch.Tensor:
    vectors = torch.randn(size, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors.double(), dim=1)


@pytest.mark.parametrize(
    ("image_ids", "text_ids"),
    [
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
        ([1, 1, 2, 3, 3, 3], [1, 2, 3, 4, 5, 6]),
        ([1, 2, 3, 4, 5, 6], [1, 1, 2, 3, 3, 3]),
        ([1, 1, 2, 2, 3, 4], [1, 2, 2, 3, 1, 9]),
        ([1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6]),
        ([1], [1]),
    ],
)
def test_the_loss_equals_the_slow_one(image_ids: list[int], text_ids: list[int]) -> None:
    image, text = unit(0, len(image_ids)), unit(1, len(image_ids))
    ignore = false_negatives(torch.tensor(image_ids), torch.tensor(text_ids))
    found = contrastive_loss(image, text, torch.tensor(7.5), ignore)
    expected = slow_loss(image.tolist(), text.tolist(), 7.5, image_ids, text_ids)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(expected, abs=2e-6)


def test_mistake_14_what_belongs_together_is_no_negative() -> None:
    two_captions = false_negatives(torch.tensor([1, 1, 2]), torch.tensor([5, 6, 7]))
    one_caption = false_negatives(torch.tensor([1, 2, 3]), torch.tensor([5, 6, 5]))
    assert two_captions.nonzero().tolist() == [[0, 1], [1, 0]]
    assert one_caption.nonzero().tolist() == [[0, 2], [2, 0]]
    vectors = unit(0, 3)
    vectors[1] = vectors[0]  # equal, so that counting it as a negative would cost
    for ignore, ids in ((two_captions, [1, 1, 2]), (one_caption[[0, 2, 1]][:, [0, 2, 1]], [])):
        apart = contrastive_loss(vectors, vectors, torch.tensor(50.0), torch.zeros(3, 3).bool())
        joined = contrastive_loss(vectors, vectors, torch.tensor(50.0), ignore)
        assert joined < 0.01 < apart, ids


def test_the_loss_of_half_precision_is_taken_in_float32() -> None:
    image, text = unit(0, 5).bfloat16(), unit(1, 5).bfloat16()
    ignore = torch.zeros(5, 5, dtype=torch.bool)
    expected = contrastive_loss(image.float(), text.float(), torch.tensor(100.0), ignore)
    assert contrastive_loss(image, text, torch.tensor(100.0).half(), ignore) == expected


# --- learning rate and weight decay -----------------------------------------------------------


@given(st.integers(1, 400), st.floats(0, 0.999), st.sampled_from([2e-5, 1e-3]))
def test_mistake_09_the_rate_reaches_its_peak_whatever_the_warm_up(
    total: int, warmup: float, peak: float
) -> None:
    rates = [rate_at(step, total, peak, warmup) for step in range(total)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(peak)
    assert min(rates) > 0
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_the_rate_ends_near_zero(warmup: float) -> None:
    assert rate_at(199, 200, 1e-3, warmup) < 1e-6
    assert rate_at(round(199 * (1 + warmup) / 2), 200, 1e-3, warmup) == pytest.approx(5e-4, rel=0.1)


def test_mistake_13_only_matrices_of_layers_are_decayed() -> None:
    model = build(SMALL)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, others = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    kept = {names[id(parameter)] for parameter in decayed["params"]}
    free = {names[id(parameter)] for parameter in others["params"]}
    assert kept | free == set(names.values())
    assert not kept & free
    for name in (
        "logit_scale",
        "visual.class_embedding",
        "visual.positional_embedding",
        "visual.ln_post.weight",
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.position_embeddings.weight",
        "bert.embeddings.LayerNorm.weight",
        "bert.encoder.layer.0.output.LayerNorm.weight",
    ):
        assert name in free
    assert not [name for name in kept if name.endswith("bias") or "LayerNorm" in name]
    for name in (
        "visual.conv1.weight",
        "visual.proj",
        "text_projection",
        "visual.transformer.resblocks.0.attn.in_proj_weight",
        "bert.encoder.layer.0.intermediate.dense.weight",
    ):
        assert name in kept


# --- batches ----------------------------------------------------------------------------------


@pytest.fixture
def batches(built: Any) -> Iterator[Callable[..., PairBatches]]:
    """Make batches of the training split of ``built``: 28 pairs of 14 pictures."""
    made: list[PairBatches] = []

    def make(**changed: Any) -> PairBatches:
        given = {"processor": processor(), "batch_size": 8, "seed": 0, "augment": "none"}
        made.append(PairBatches(built.lmdb / "train", **{**given, **changed}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def pairs_of(batches: Iterable[Batch]) -> list[tuple[int, int]]:
    return [
        (int(image), int(text))
        for batch in batches
        for image, text in zip(batch.image_ids, batch.text_ids, strict=True)
    ]


@pytest.mark.parametrize("size", [2, 8, 27, 28, 100])
def test_an_epoch_is_every_pair_once(batches: Callable[..., PairBatches], size: int) -> None:
    made = batches(batch_size=size)
    epoch = list(made.epoch(1))
    assert len(epoch) == made.steps == math.ceil(28 / size)
    assert all(len(batch.image_ids) == size for batch in epoch[:-1])
    assert sorted(pairs_of(epoch)) == sorted((image, text) for image, text, _ in made.pairs)
    assert len(set(pairs_of(epoch))) == 28


def test_epochs_and_seeds_differ_in_their_order(batches: Callable[..., PairBatches]) -> None:
    one, other = batches(), batches(seed=1)
    orders = [pairs_of(one.epoch(1)), pairs_of(one.epoch(2)), pairs_of(other.epoch(1))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert pairs_of(one.epoch(1)) == orders[0] == pairs_of(batches().epoch(1))


@pytest.mark.parametrize("augment", ["none", "crop", "view"])
def test_mistake_10_an_epoch_resumed_in_the_middle_goes_on_with_its_rest(
    batches: Callable[..., PairBatches], augment: str
) -> None:
    whole = list(batches(augment=augment).epoch(3))
    rest = list(batches(augment=augment).epoch(3, first=2))
    assert len(rest) == 2
    for ours, theirs in zip(rest, whole[2:], strict=True):
        for name in ("pictures", "tokens", "image_ids", "text_ids"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_batch_holds_the_pictures_and_captions_it_names(
    batches: Callable[..., PairBatches], built: Any
) -> None:
    from wentu import pictures
    from wentu.clip.text import Tokenizer
    from wentu.formats import PairsLmdb

    batch = next(batches().epoch(1))
    texts = {text_id: text for _, text_id, text in batches().pairs}
    tokens = Tokenizer.chinese_bert().encode([texts[each] for each in batch.text_ids.tolist()])
    assert np.array_equal(batch.tokens, tokens)
    assert batch.pictures.shape == (8, 32, 32, 3)
    with PairsLmdb(built.lmdb / "train") as split:
        for row, image in enumerate(batch.image_ids.tolist()):
            picture = pictures.decode(split.picture(image))
            assert np.array_equal(batch.pictures[row], pictures.to_array(picture, 32))


def test_augmentation_changes_pictures_with_the_epoch(batches: Callable[..., PairBatches]) -> None:
    made = batches(augment="crop", batch_size=28)
    first, second = (next(made.epoch(number)) for number in (1, 2))
    (row,) = np.flatnonzero(second.text_ids == first.text_ids[0])
    assert not np.array_equal(first.pictures[0], second.pictures[row])


def test_a_split_is_a_task_over_distinct_captions_and_pictures() -> None:
    task = Retrieval.of([(9, 1, "狗"), (9, 2, "黑狗"), (4, 1, "狗")])
    assert task.image_ids == [4, 9]
    assert task.texts == ["狗", "黑狗"]
    assert [rows.tolist() for rows in task.pictures_of_text] == [[0, 1], [1]]
    assert [rows.tolist() for rows in task.texts_of_picture] == [[0], [0, 1]]


def test_mistake_04_a_perfect_model_scores_1_whatever_the_size_of_a_batch(built: Any) -> None:
    """On the training split, as the one with most pictures: one-hot by the picture's number."""
    from wentu.formats import PairsLmdb

    with PairsLmdb(built.lmdb / "train") as split:
        triples = split.pairs()
        row_of = {split.picture(image): row for row, (image, _, _) in enumerate(triples)}
        row_of_text = {text: row_of[split.picture(image)] for image, _, text in triples}

    def encoders() -> tuple[Callable[..., Any], Callable[..., Any]]:
        one_hot = np.eye(len(triples), dtype=np.float32)
        return (
            lambda data: one_hot[[row_of[each] for each in data]],
            lambda texts: one_hot[[row_of_text[text] for text in texts]],
        )

    metrics = score_split(torch.nn.Identity(), built.lmdb / "train", encoders)
    assert metrics["mean_recall"] == metrics["text_to_image/recall@1"] == 1.0


# --- the loop ---------------------------------------------------------------------------------


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


def plan(**changed: Any) -> Plan:
    given: dict[str, Any] = {
        "epochs": 2,
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "warmup": 0.1,
        "clip_norm": 1.0,
        "precision": "auto",
        "save_seconds": 0.0,
        "seed": 0,
    }
    return Plan(**given | changed)


def train(
    built: Any,
    work: Path,
    report: Reporter | None = None,
    model: Any = None,
    valid: bool = True,
    augment: str = "crop",
    batch_size: int = 8,
    **changed: Any,
) -> tuple[Trainer, Position]:
    """One call of the trainer: 28 pairs, batches of 8, so 4 steps in an epoch."""
    work.mkdir(exist_ok=True)
    batches = PairBatches(
        built.lmdb / "train",
        processor=processor(),
        batch_size=batch_size,
        seed=0,
        augment=augment,
    )
    trainer = Trainer(
        model or build(SMALL),
        batches,
        built.lmdb / "valid" if valid else None,
        plan(**changed),
        work,
        processor(),
        report or Reporter(),
        Tracker(),
    )
    at = trainer.run()
    batches.close()  # not after an error: see the test of threads below
    return trainer, at


@pytest.fixture(scope="module")
def uninterrupted(
    built: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, torch.Tensor], Position]:
    trainer, at = train(built, tmp_path_factory.mktemp("work"))
    return trainer.model.state_dict(), at


@pytest.mark.parametrize("stops", [[2], [4], [5], [1, 1, 3]])
def test_mistake_10_a_training_that_was_stopped_ends_in_the_same_bits(
    built: Any,
    uninterrupted: tuple[dict[str, torch.Tensor], Position],
    tmp_path: Path,
    stops: list[int],
) -> None:
    for steps in stops:
        with pytest.raises(Stopped):
            train(built, tmp_path / "work", StopAfter(steps))
    trainer, at = train(built, tmp_path / "work")
    expected, whole = uninterrupted
    state = trainer.model.state_dict()
    assert state.keys() == expected.keys()
    assert [name for name in state if not torch.equal(state[name], expected[name])] == []
    assert (at.epoch, at.step, at.best_epoch) == (whole.epoch, whole.step, whole.best_epoch)
    timed = ("steps_per_second",)
    for ours, theirs in zip(at.history, whole.history, strict=True):
        assert {k: v for k, v in ours.items() if k not in timed} == {
            k: v for k, v in theirs.items() if k not in timed
        }


def test_a_training_that_fails_leaves_no_thread_that_reads(built: Any, tmp_path: Path) -> None:
    """Whoever called it closes the LMDB next: a thread that still reads it would crash Python."""
    before = set(threading.enumerate())
    with pytest.raises(Stopped) as caught:
        train(built, tmp_path / "work", StopAfter(1))
    assert set(threading.enumerate()) - before == set()
    assert caught.type is Stopped


def test_a_finished_training_is_not_done_again(
    built: Any, uninterrupted: tuple[dict[str, torch.Tensor], Position], tmp_path: Path
) -> None:
    train(built, tmp_path / "work")
    trainer, at = train(built, tmp_path / "work", StopAfter(0))
    state = trainer.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in uninterrupted[0].items())
    assert at.step == 8


def test_history_starts_before_the_first_step_and_has_a_row_an_epoch(
    uninterrupted: tuple[dict[str, torch.Tensor], Position],
) -> None:
    history = uninterrupted[1].history
    assert [(row["epoch"], row["step"]) for row in history] == [(0, 0), (1, 4), (2, 8)]
    assert "loss" not in history[0]
    assert all(0 <= row["recall"] <= 1 for row in history)
    assert all(row["loss"] > 0 for row in history[1:])


def test_training_lowers_the_loss(built: Any, tmp_path: Path) -> None:
    _, at = train(
        built, tmp_path / "work", epochs=16, save_seconds=60.0, augment="none", valid=False
    )
    losses = [row["loss"] for row in at.history[1:]]
    assert losses[-1] < 0.75 * losses[0]


def test_the_best_epoch_is_the_one_that_is_kept(built: Any, tmp_path: Path) -> None:
    trainer, at = train(built, tmp_path / "work", epochs=3)
    recalls = [row["recall"] for row in at.history]
    assert at.best_epoch == max(n for n, recall in enumerate(recalls) if recall == max(recalls))
    assert at.best_recall == max(recalls)
    trainer.load_best()
    again = score_split(trainer.model, built.lmdb / "valid", trainer._encode)
    assert again["mean_recall"] == at.best_recall


def test_without_a_valid_split_the_last_epoch_is_kept(built: Any, tmp_path: Path) -> None:
    trainer, at = train(built, tmp_path / "work", valid=False)
    assert at.best_epoch == 2
    last = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.load_best()
    assert all(torch.equal(v, last[k]) for k, v in trainer.model.state_dict().items())


def test_the_temperature_stays_below_100(built: Any, tmp_path: Path) -> None:
    model = build(SMALL)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    trainer, _ = train(built, tmp_path / "work", model=model, epochs=1, valid=False)
    assert 0 < float(trainer.model.logit_scale.detach().exp()) <= 100.01


def test_a_loss_that_is_no_number_stops_with_a_sentence(built: Any, tmp_path: Path) -> None:
    model = build(SMALL)
    with torch.no_grad():
        model.text_projection.fill_(float("nan"))
    with pytest.raises(QualityError, match=r"loss became nan at step 0; lower --learning-rate"):
        train(built, tmp_path / "work", model=model, valid=False)


@pytest.mark.parametrize("warmup", [0.0, 0.9, 0.999])
def test_mistake_09_a_run_that_is_all_warm_up_ends_at_the_peak(
    built: Any, tmp_path: Path, warmup: float
) -> None:
    """Four steps; a warm-up of 100 steps, as the reference has it, would end at a 25th of it."""
    trainer, at = train(built, tmp_path / "work", epochs=1, warmup=warmup, valid=False)
    rates = [rate_at(step, 4, 1e-3, warmup) for step in range(4)]
    assert max(rates) == 1e-3
    used = {group["lr"] for group in trainer.optimizer.param_groups}
    assert used == {rates[-1]} == {at.history[-1]["learning_rate"]}
    assert rates[-1] == 1e-3 or warmup == 0.0


def saved_step(work: Path) -> int:
    return int(read_pt(work / "state.pt")["position"]["step"])


@pytest.mark.parametrize(("seconds", "step"), [(0.0, 3), (1e9, 0), (math.inf, 0)])
def test_mistake_09_a_long_interval_means_never(
    built: Any, tmp_path: Path, seconds: float, step: int
) -> None:
    """Of saves within an epoch; after each epoch it is saved and scored whatever the interval."""
    work = tmp_path / "work"
    with pytest.raises(Stopped):
        train(built, work, StopAfter(3), save_seconds=seconds)
    assert saved_step(work) == step
    _, at = train(built, work, save_seconds=seconds)
    assert saved_step(work) == at.step == 8
    assert [row["step"] for row in at.history] == [0, 4, 8]
    assert all("recall" in row for row in at.history)


def test_mistake_10_a_batch_larger_than_the_split_trains_and_is_saved(
    built: Any, tmp_path: Path
) -> None:
    trainer, at = train(built, tmp_path / "work", batch_size=1000, warmup=0.0)
    assert (at.epoch, at.step) == (2, 2)
    start = build(SMALL).state_dict()
    state = trainer.model.state_dict()
    moved = [name for name in state if not torch.equal(state[name].cpu(), start[name])]
    assert len(moved) > 0.9 * len(list(trainer.model.parameters()))
    saved = read_pt(tmp_path / "work" / "state.pt")["model"]
    assert all(torch.equal(saved[name], state[name].cpu()) for name in state)


@pytest.mark.parametrize("norm", [0.01, 1e9])
def test_mistake_13_gradients_are_clipped_to_the_norm(
    built: Any, tmp_path: Path, norm: float
) -> None:
    """Those of the last step are still there."""
    trainer, _ = train(built, tmp_path / "work", epochs=1, clip_norm=norm, valid=False)
    gradients = [each.grad for each in trainer.model.parameters() if each.grad is not None]
    total = float(torch.stack([each.norm() for each in gradients]).norm())
    assert total == pytest.approx(0.01, rel=1e-3) if norm == 0.01 else total > 0.1


def test_mistake_14_duplicates_in_a_batch_are_no_negatives_in_training(
    built: Any, tmp_path: Path
) -> None:
    """All pairs of one picture in a batch: nothing to tell apart, so nothing is learned."""
    trainer, _ = train(built, tmp_path / "work", epochs=0, valid=False)
    trainer.total = 1
    with closing(
        PairBatches(
            built.lmdb / "train", processor=processor(), batch_size=28, seed=0, augment="none"
        )
    ) as batches:
        (batch,) = batches.epoch(1)
    image = batch.image_ids[0]
    rows = np.flatnonzero(batch.image_ids == image)
    assert len(rows) == 2  # two captions of one picture
    names = ("pictures", "tokens", "image_ids", "text_ids")
    only = Batch(**{name: getattr(batch, name)[rows] for name in names})
    assert trainer._step(only) == pytest.approx(0, abs=1e-6)
    apart = replace(only, image_ids=np.array([1, 2]))
    assert trainer._step(apart) > 0.1


def test_of_equally_good_epochs_the_later_is_kept(built: Any, tmp_path: Path) -> None:
    """A step so small that no rank changes."""
    _, at = train(built, tmp_path / "work", epochs=2, learning_rate=1e-12)
    assert len({row["recall"] for row in at.history}) == 1
    assert at.best_epoch == 2
