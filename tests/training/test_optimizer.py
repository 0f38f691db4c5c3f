"""The learning rate of every step, and which parameters are decayed how much."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.small import SMALL
from wentu.clip.model import architecture, build
from wentu.training import layers
from wentu.training.optimizer import matrices, parameter_groups, peak_rate, rate_at


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


def test_the_usual_rate_grows_with_the_root_of_the_batch() -> None:
    pretrained = [peak_rate(0, batch_size=size, scratch=False) for size in (16, 64, 1024)]
    assert pretrained == pytest.approx([6.25e-6, 1.25e-5, 5e-5])
    assert peak_rate(0, batch_size=64, scratch=True) == 1e-3
    assert peak_rate(0, batch_size=4096, scratch=True) == 1e-3
    assert peak_rate(3e-6, batch_size=4096, scratch=False) == 3e-6


DECAYED = (
    "visual.conv1.weight",
    "visual.proj",
    "text_projection",
    "visual.transformer.resblocks.0.attn.in_proj_weight",
    "visual.transformer.resblocks.1.attn.out_proj.weight",
    "bert.encoder.layer.0.intermediate.dense.weight",
)
FREE = (
    "logit_scale",
    "visual.class_embedding",
    "visual.positional_embedding",
    "visual.ln_post.weight",
    "bert.embeddings.word_embeddings.weight",
    "bert.embeddings.position_embeddings.weight",
    "bert.embeddings.LayerNorm.weight",
    "bert.encoder.layer.0.output.LayerNorm.weight",
)


def test_mistake_13_only_matrices_of_layers_are_decayed() -> None:
    model = build(SMALL)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, 0.05)
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}
    kept = {names[id(p)] for g in groups if g["weight_decay"] for p in g["params"]}
    free = {names[id(p)] for g in groups if not g["weight_decay"] for p in g["params"]}
    assert kept | free == set(names.values())
    assert not kept & free
    assert set(FREE) <= free
    assert set(DECAYED) <= kept
    assert not [name for name in kept if name.endswith("bias") or "LayerNorm" in name]


def test_mistake_13_positions_of_other_families_are_not_decayed() -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", global_pool="map", num_classes=0)
    decayed = set(matrices(model))
    assert {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= decayed
    assert not decayed & {"pos_embed", "cls_token", "attn_pool.latent"}


def test_lower_layers_learn_more_slowly() -> None:
    model = build(SMALL)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scale = {
        names[id(p)]: group["scale"]
        for group in parameter_groups(model, 0.05, 0.5)
        for p in group["params"]
    }
    block = "visual.transformer.resblocks.{}.mlp.c_fc.weight"
    layer = "bert.encoder.layer.{}.output.dense.weight"
    for name in (block, layer):
        assert [scale[name.format(number)] for number in (0, 1)] == [0.25, 0.5]
    assert scale["visual.conv1.weight"] == scale["bert.embeddings.word_embeddings.weight"] == 0.125
    assert scale["text_projection"] == scale["visual.proj"] == scale["logit_scale"] == 1.0


def test_the_stages_of_a_resnet_are_one_tower() -> None:
    """RN50: three convolutions of the stem, stages of 3, 4, 6 and 3 blocks, attention pooling."""
    with torch.device("meta"):
        model = build(architecture("RN50"))
    depths = layers.depth_of(model)
    stem = [f"visual.{kind}{number}.weight" for kind in ("conv", "bn") for number in (1, 2, 3)]
    assert {depths[name] for name in stem} == {0}
    blocks = [
        (stage, block) for stage, height in enumerate((3, 4, 6, 3), 1) for block in range(height)
    ]
    found = [depths[f"visual.layer{stage}.{block}.conv2.weight"] for stage, block in blocks]
    assert found == list(range(1, 17))
    assert depths["visual.layer3.0.downsample.0.weight"] == 8
    words = [depths[f"bert.encoder.layer.{each}.output.dense.weight"] for each in range(3)]
    assert words == [14, 15, 16]  # aligned at the top, where the towers meet
    pooling = [depth for name, depth in depths.items() if name.startswith("visual.attnpool.")]
    assert {*pooling, depths["text_projection"], depths["logit_scale"]} == {17}
    assert depths["bert.embeddings.word_embeddings.weight"] == 0


@pytest.mark.parametrize(("tower", "kept"), [("vision", "visual."), ("text", "bert.")])
def test_a_frozen_tower_has_no_parameter_that_learns(tower: str, kept: str) -> None:
    model = build(SMALL)
    layers.freeze(model, tower)
    learning = {name for name, each in model.named_parameters() if each.requires_grad}
    assert learning
    assert not [name for name in learning if name.startswith(kept)]
    assert "logit_scale" in learning
    assert ("text_projection" in learning) == (tower == "vision")


def test_low_rank_additions_start_as_nothing_and_merge_exactly() -> None:
    model, plain = build(SMALL).eval(), build(SMALL).eval()
    layers.add_lora(model, 4, seed=1)
    learning = {name for name, each in model.named_parameters() if each.requires_grad}
    assert all("parametrizations" in name or name == "logit_scale" for name in learning)
    numbers = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (model, plain)]
    assert numbers[0] < 0.2 * (numbers[1] - 21128 * 64)
    tokens, pictures = torch.tensor([[101, 671, 102]]), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for encode, given in (("encode_text", tokens), ("encode_image", pictures)):
            assert torch.equal(getattr(model, encode)(given), getattr(plain, encode)(given))
        for name, each in model.named_parameters():
            if name.endswith(".up"):
                torch.nn.init.normal_(each, std=0.1)
        before = model.encode_image(pictures)
        assert not torch.equal(before, plain.encode_image(pictures))
        state = layers.plain_state(model.state_dict())
        assert state.keys() == plain.state_dict().keys()
        plain.load_state_dict(state)
        assert torch.allclose(plain.encode_image(pictures), before, atol=1e-6)
        layers.merge(model)
        assert model.state_dict().keys() == plain.state_dict().keys()
        assert torch.allclose(model.encode_image(pictures), before, atol=1e-6)
