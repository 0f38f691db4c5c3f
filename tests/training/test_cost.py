"""What a training costs, by one step in shapes: every option that saves memory is seen to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.training.small import SMALL
from wentu.clip.model import architecture, build
from wentu.training import cost, layers
from wentu.training.config import Config


def memory(gpu: bool = True, scratch: bool = True, devices: int = 1, **changed: Any) -> float:
    config = Config(**{"batch_size": 256} | changed)
    return cost.memory(SMALL, config, gpu=gpu, devices=devices, scratch=scratch)


@pytest.mark.parametrize(
    "saving",
    [
        {"chunk": 32},
        {"checkpointing": True},
        {"lora": 2},
        {"freeze": "vision"},
        {"patch_dropout": 0.5},
        {"batch_size": 64},
        {"devices": 4},
    ],
)
def test_what_saves_memory_is_seen_to_save_it(saving: dict[str, Any]) -> None:
    assert memory(**saving) < memory()


def test_what_needs_more_memory_is_seen_to() -> None:
    assert memory(ema=0.9) > memory()
    assert memory(precision="fp32") > memory()
    assert memory(gpu=False, scratch=False) > memory(gpu=False)


def test_activations_grow_with_the_batch_and_weights_do_not() -> None:
    one, two, three = (memory(batch_size=size) for size in (128, 256, 384))
    assert two - one == pytest.approx(three - two, rel=0.05)


@pytest.mark.parametrize("name", ["tiny", "RN50", "openclip:ViT-B-32"])
def test_operations_and_parameters_are_those_of_the_model(name: str) -> None:
    found = cost.forward(architecture(name))
    with torch.device("meta"):
        model = build(architecture(name))
    assert found.parameters == sum(each.numel() for each in model.parameters())
    assert 0 < found.text < found.image


def test_operations_of_a_transformer_are_those_of_the_formula() -> None:
    """24 T W^2 + 4 T^2 W for each layer (Kaplan et al. 2020, table 1), and the patches."""
    tokens, width, layers_ = 14 * 14 + 1, 768, 12
    formula = layers_ * (24.0 * tokens * width**2 + 4.0 * tokens**2 * width)
    assert cost.forward(architecture("ViT-B-16")).image == pytest.approx(formula, rel=0.02)


def test_additions_to_a_frozen_tower_do_not_learn() -> None:
    model = build(SMALL)
    layers.prepare(model, Config(lora=2, freeze="vision"), "cpu")
    learning = {name for name, each in model.named_parameters() if each.requires_grad}
    assert learning
    assert not any(name.startswith("visual.") for name in learning)
