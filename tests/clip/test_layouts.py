"""Names of tensors: every spelling into ours and back, and no value changed on the way."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.clip.makers import RESNET, SMALL, State, clip_config, clip_pytorch_model, openai_model
from wentu.clip import layouts
from wentu.clip.model import Architecture, build, infer
from wentu.errors import FormatError


def state_of(family: str = "chinese-clip", **changed: Any) -> State:
    """A small model's, every value another."""
    model = build(Architecture(name="x", config=SMALL | changed, family=family))
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in model.state_dict().items()
    }


RN = {"vision_layers": [1, 2, 1, 1], "vision_width": 16, "image_resolution": 64}


def equal(ours: State, theirs: State) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], tensor) for name, tensor in theirs.items()
    )


# --- there and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [{}, RN], ids=["vit", "resnet"])
@pytest.mark.parametrize("family", ["chinese-clip", "clip-pytorch"])
def test_our_own_spelling_stays(family: str, changed: dict[str, Any]) -> None:
    state = state_of(family, **changed)
    found, again = layouts.standard(state)
    assert found == family
    assert equal(again, state)


def test_hugging_face_and_back() -> None:
    state = state_of()
    theirs = layouts.to_hugging_face(state)
    assert not any(name.startswith(("visual.", "bert.")) for name in theirs)
    family, again = layouts.standard(theirs)
    assert family == "chinese-clip"
    assert equal(again, state)


def test_clip_pytorch_and_back() -> None:
    state = state_of("clip-pytorch")
    theirs = layouts.to_clip_pytorch(state)
    assert set(theirs) == {
        *(name for name in clip_pytorch_model().state_dict()),
    }
    family, again = layouts.standard(theirs)
    assert family == "clip-pytorch"
    assert equal(again, state)


@pytest.mark.parametrize("changed", [{}, RN], ids=["vit", "resnet"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_flash_attention_and_back(prefix: str, changed: dict[str, Any]) -> None:
    """By cn_clip's own converter."""
    from cn_clip.clip.model import convert_state_dict

    state = state_of(**changed)
    theirs = convert_state_dict({f"{prefix}{name}": tensor for name, tensor in state.items()})
    assert any("Wqkv" in name for name in theirs)
    family, again = layouts.standard(theirs)
    assert family == "chinese-clip"
    assert equal(again, state)


@pytest.mark.parametrize("vision", [{}, RESNET], ids=["vit", "resnet"])
def test_openai_without_its_numbers(vision: dict[str, Any]) -> None:
    state = openai_model(clip_config(**vision)).state_dict()
    numbers = {name: torch.tensor(3) for name in ("input_resolution", "context_length")}
    family, again = layouts.standard(state | numbers | {"vocab_size": torch.tensor(9)})
    assert family == "openclip"
    assert equal(again, state)
    config = infer(family, again).config["model"]
    assert config["vision_cfg"]["image_size"] == (64 if vision else 32)
    assert config["text_cfg"] == clip_config()["text_cfg"]


# --- wrappers ---------------------------------------------------------------------------------

WRAPPERS: dict[str, Callable[[str], str]] = {
    "DataParallel": lambda name: f"module.{name}",
    "twice": lambda name: f"module.module.{name}",
    "Lightning": lambda name: f"model.{name}",
    "Lightning, parallel": lambda name: f"module.model.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "compiled, then parallel": lambda name: f"module._orig_mod.{name}",
    "parallel, then compiled": lambda name: f"_orig_mod.module.{name}",
    "a tower compiled": lambda name: name.replace("visual.", "visual._orig_mod."),
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name}",
    "blocks under FSDP": lambda name: re.sub(
        r"(resblocks\.\d+)\.", r"\1._fsdp_wrapped_module._checkpoint_wrapped_module.", name
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("family", ["chinese-clip", "clip-pytorch", "openai", "hugging face"])
def test_prefixes_of_wrappers(family: str, wrapper: str) -> None:
    if family == "openai":
        state = openai_model(clip_config()).state_dict()
    elif family == "clip-pytorch":
        state = layouts.to_clip_pytorch(state_of(family))
    elif family == "hugging face":
        state = layouts.to_hugging_face(state_of())
    else:
        state = state_of()
    wrapped = {WRAPPERS[wrapper](name): tensor for name, tensor in state.items()}
    expected, found = layouts.standard(state), layouts.standard(wrapped)
    assert found[0] == expected[0]
    assert equal(found[1], expected[1])


# --- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
)
def test_every_float_becomes_float32_and_nothing_else_changes(kind: torch.dtype) -> None:
    state = {name: t.to(kind) if t.is_floating_point() else t for name, t in state_of(**RN).items()}
    _, found = layouts.standard(state)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32, torch.int64}
    assert all(
        torch.equal(found[name], tensor.to(found[name].dtype)) for name, tensor in state.items()
    )


def test_parts_of_a_checkpoint_that_are_no_tensors_are_left_out() -> None:
    state: dict[Any, Any] = state_of()
    _, found = layouts.standard(state | {"epoch": 3, "name": "x", "nothing": None, 7: [1]})
    assert equal(found, state)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_where_trainings_keep_their_weights(key: str) -> None:
    state = state_of()
    assert equal(dict(layouts.weights_in({key: state, "epoch": 1})), state)
    assert equal(dict(layouts.weights_in(state)), state)


# --- BERTs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "bert.", "roberta.", "module.bert."])
@pytest.mark.parametrize("old", [False, True])
def test_a_bert_of_its_own(prefix: str, old: bool) -> None:
    state = {name: each for name, each in state_of().items() if name.startswith("bert.")}
    theirs = {prefix + name.removeprefix("bert."): each for name, each in state.items()}
    if old:  # names of TensorFlow's time
        theirs = {
            name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): each
            for name, each in theirs.items()
        }
    theirs[f"{prefix}embeddings.position_ids"] = torch.arange(64).expand(1, -1)
    theirs[f"{prefix}pooler.dense.weight"] = torch.ones(64, 64)
    if not prefix.startswith("module."):
        theirs["cls.predictions.transform.LayerNorm.gamma"] = torch.ones(64)
        theirs["lm_head.bias"] = torch.ones(9)
    assert equal(layouts.bert_of(theirs), state)


# --- what does not fit ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ({}, "-"),
        ({"fc.weight": torch.ones(2, 2)}, "fc.weight"),
        ({3: torch.ones(2, 2)}, "3"),
        ({"epoch": 3, 4: "x"}, "4, epoch"),
        ({"text_model.embeddings.token_embedding.weight": torch.ones(2, 2)}, "text_model"),
        ({"vision_model.embeddings.class_embedding": torch.ones(2)}, "vision_model"),
    ],
)
def test_other_models_are_refused_by_their_names(state: dict[Any, Any], shown: str) -> None:
    with pytest.raises(FormatError, match="none of the known models has these tensors") as refusal:
        layouts.standard(state)
    assert f"({shown}" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("vision_model.encoder.layers.0.self_attn.k_proj.weight", None),
        ("vision_model.encoder.layers.0.self_attn.v_proj.bias", (3, 3)),
        ("text_projection.weight", (2, 2, 2)),
        ("visual_projection.weight", (2, 2, 2)),
    ],
)
def test_halves_of_hugging_faces_are_refused(name: str, shape: tuple[int, ...] | None) -> None:
    state = layouts.to_hugging_face(state_of())
    assert name in state
    if shape is None:
        del state[name]
    else:
        state[name] = torch.ones(shape)
    with pytest.raises(FormatError, match="the tensors do not fit each other"):
        layouts.standard(state)


def test_what_is_not_in_three_parts_is_no_flash_attention() -> None:
    state = state_of()
    state["bert.encoder.layer.0.attention.self.Wqkv.weight"] = torch.ones(2, 2)
    with pytest.raises(FormatError, match="the tensors do not fit each other"):
        layouts.standard(state)


def test_a_shape_that_is_missing_is_named() -> None:
    state = state_of()
    del state["visual.conv1.weight"]
    with pytest.raises(FormatError, match=r"no tensor 'visual\.conv1\.weight': its model cannot"):
        infer("chinese-clip", state)
