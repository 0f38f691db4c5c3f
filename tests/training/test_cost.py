"""What a training costs, by one step in shapes: every option that saves memory is seen to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.training.small import SMALL
from wentu.clip.model import Architecture, architecture, build
from wentu.training import cost, layers
from wentu.training.config import Config

TEACHER = Architecture(
    name="custom", config=SMALL.config | {"vision_layers": 6, "vision_width": 256}
)


def memory(
    gpu: bool = True,
    scratch: bool = True,
    devices: int = 1,
    teacher: Architecture | None = None,
    **changed: Any,
) -> float:
    config = Config(**{"batch_size": 256} | changed)
    return cost.memory(SMALL, config, gpu=gpu, devices=devices, scratch=scratch, teacher=teacher)


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


def test_a_teacher_takes_its_weights_and_a_forward_pass() -> None:
    weights = 4 * cost.forward(TEACHER).parameters
    assert memory(teacher=TEACHER) > memory() + weights
    # In chunks of which each is small, what it works in is as good as nothing.
    more = memory(teacher=TEACHER, chunk=1) - memory(chunk=1)
    assert more == pytest.approx(cost.HELD["gpu"] * weights, rel=0.15)
    assert memory(gpu=False, teacher=TEACHER) > memory(gpu=False) + weights


def test_pictures_that_are_changed_anew_are_not_kept() -> None:
    for changed in ({"augment": "crop"}, {"flip": True}):
        kept = memory(gpu=False) - memory(gpu=False, **changed)
        assert kept == pytest.approx(cost.CACHE_BYTES)


def test_operations_of_a_training() -> None:
    model = cost.Forward(parameters=1, image=100.0, text=10.0)

    def flops(chunked: bool = False, teaches: cost.Forward | None = None, **changed: Any) -> float:
        return cost.training_flops(model, Config(**changed), chunked=chunked, teaches=teaches)

    assert flops() == flops(lora=4) == 330
    assert flops(chunked=True) == flops(checkpointing=True) == 440
    assert flops(freeze="vision") == 100 + 30
    assert flops(freeze="text") == 300 + 10
    assert flops(freeze="vision", chunked=True) == 200 + 40
    assert flops(patch_dropout=0.5, unmasked=0.1) == pytest.approx(0.55 * 300 + 30)
    assert flops(teaches=cost.Forward(parameters=1, image=7.0, text=2.0)) == 339


def test_what_is_not_kept_is_decoded_in_every_epoch() -> None:
    def decoded(pictures: int, pairs: int, *resolutions: int, **changed: Any) -> float:
        return cost.decodings(Config(epochs=3, **changed), pairs, pictures, resolutions or (224,))

    room = cost.CACHE_BYTES // (3 * 224**2)
    assert 3000 < room < 4000
    assert decoded(1000, 5000) == 1000
    assert decoded(1000, 5000, augment="crop") == decoded(1000, 5000, flip=True) == 15000
    assert decoded(2 * room, 10 * room) == pytest.approx(room + 15 * room)
    assert decoded(1000, 5000, 224, 1024) > 1000  # a teacher's pictures are kept too
    assert cost.decodings(Config(epochs=0), 5000, 1000, (224,)) == 0


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
