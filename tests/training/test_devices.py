"""Cards by name, what is pinned, and what runs where another system is beneath."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.small import SMALL, fed
from wentu.training import data
from wentu.training.data import Inputs
from wentu.training.devices import PEAK_RATES, precision_of, rate_of_card
from wentu.training.feed import Feed, Teacher, pins


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla T4", "T4"),
    ],
)
def test_a_card_is_known_by_the_whole_of_its_name(name: str, key: str) -> None:
    assert rate_of_card(name) == PEAK_RATES[key]


@pytest.mark.parametrize(
    "name", ["", "NVIDIA GB200", "NVIDIA T400", "NVIDIA GeForce RTX 4090 Laptop GPU", "Ascend910B"]
)
def test_what_only_resembles_a_known_card_is_not_known(name: str) -> None:
    assert rate_of_card(name) == 0


class Pinned:
    """What pinning gives on one kind of machine or another."""

    def __init__(self, kind: str, pinned: bool) -> None:
        self.device, self._pinned = torch.device(kind), pinned

    def is_pinned(self) -> bool:
        return self._pinned


def refused(*_: Any) -> Any:
    raise RuntimeError('Attempted to set the storage of a tensor on device "cpu" to "mps:0"')


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda _: Pinned("cpu", True), True),
        (lambda _: Pinned("cpu", False), False),
        (lambda _: Pinned("mps", True), False),
        (refused, False),
    ],
    ids=["CUDA", "not pinned", "new MPS", "old MPS"],
)
def test_memory_is_pinned_only_where_that_works(
    monkeypatch: pytest.MonkeyPatch, answer: Any, expected: bool
) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", answer)
    assert pins(torch.device("mps")) == expected
    assert not pins(torch.device("cpu"))


def test_what_is_not_pinned_is_moved_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device without numbers stands for one to which nothing is pinned."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", refused)
    feed = Feed(fed().processor, torch.device("meta"))
    moved = feed.move(np.zeros((2, 3), np.int64))
    assert (moved.device.type, tuple(moved.shape)) == ("meta", (2, 3))


def test_threads_are_counted_where_cores_cannot_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has no sched_getaffinity."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert data.threads() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert data.threads() == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_teacher_computes_as_the_one_that_learns_does(precision: str) -> None:
    cpu, seen = torch.device("cpu"), set()
    _, autocast, _ = precision_of(precision, cpu)
    theirs = fed(seed=9)
    layer = theirs.model.visual.transformer.resblocks[0].mlp.c_fc
    layer.register_forward_hook(lambda _module, _given, made: seen.add(made.dtype))
    side = SMALL.resolution
    inputs = Inputs(
        pictures=np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8),
        tokens=np.array([[101, 671, 102]] * 3),
    )
    teacher = Teacher(theirs, cpu, autocast)
    found, plain = (each.encode(inputs, 2) for each in (teacher, Teacher(fed(seed=9), cpu)))
    assert seen == {torch.bfloat16 if precision == "bf16" else torch.float32}
    for one, other in zip(found, plain, strict=True):
        assert one.dtype == torch.float32
        assert not one.requires_grad
        assert torch.equal(one, other) == (precision == "fp32")
        assert torch.allclose(one, other, atol=0.02)
