"""What a training is estimated to take: computing, decoding, a teacher."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wentu.clip.model import architecture
from wentu.orchestrate import estimate
from wentu.training import cost
from wentu.training.config import Config

TINY, LARGER = architecture("tiny"), architecture("RN50")
RATE, DECODE, CORES = 1e12, 0.01, 4
"""Operations per second, seconds of one core for a picture, cores."""


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what is trained on; on the CPU until then."""

    def choose(kind: str) -> None:
        monkeypatch.setattr(estimate, "pick_device", lambda *_: torch.device(kind))

    choose("cpu")
    monkeypatch.setattr(estimate, "training_rate", lambda _: RATE)
    monkeypatch.setattr(estimate, "devices_of", lambda _: 1)
    monkeypatch.setattr(estimate, "cores", lambda: CORES)
    return choose


def seconds(
    pairs: int = 1000, pictures: int = 1000, teacher: bool = False, **changed: Any
) -> float:
    fed = [TINY, LARGER] if teacher else [TINY]
    return estimate.finetune_seconds(Config(epochs=3, **changed), fed, pairs, pictures, DECODE)


def computing(pairs: int = 1000, **changed: Any) -> float:
    learns = cost.forward(TINY)
    return cost.training_flops(learns, Config(**changed)) * 3 * pairs / RATE


def test_on_the_cpu_decoding_comes_on_top_of_computing(device: Any) -> None:
    assert seconds() == pytest.approx(computing() + 1000 * DECODE / CORES)
    again = seconds(augment="crop")
    assert again == pytest.approx(computing() + 3 * 1000 * DECODE / CORES)


def test_on_a_gpu_the_longer_of_the_two_counts(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device("cuda")
    assert seconds(augment="crop") == pytest.approx(3 * 1000 * DECODE / CORES)
    monkeypatch.setattr(estimate, "training_rate", lambda _: RATE / 1e6)
    assert seconds(augment="crop") == pytest.approx(1e6 * computing())


def test_machines_of_a_cluster_decode_together(device: Any) -> None:
    device("cuda")
    assert seconds(augment="crop", nodes=2) == pytest.approx(seconds(augment="crop") / 2)


def test_many_pictures_are_decoded_in_every_epoch(device: Any) -> None:
    """Beyond the pictures that are kept; twice as many take more than twice as long."""
    device("cuda")
    room = cost.CACHE_BYTES // (3 * TINY.resolution**2)
    assert seconds(2 * room, 2 * room) == pytest.approx(2 * seconds(room, room) * 2)


def test_what_is_frozen_or_left_out_is_not_computed(device: Any) -> None:
    for saving in ({"freeze": "vision"}, {"freeze": "text"}, {"patch_dropout": 0.5}):
        assert seconds() - seconds(**saving) == pytest.approx(computing() - computing(**saving))
        assert seconds(**saving) < seconds()


def test_a_teacher_computes_too(device: Any) -> None:
    asked = 3 * 1000 * cost.pair_flops(LARGER) / RATE
    assert seconds(teacher=True) - seconds() == pytest.approx(asked)
