"""Checkpoints go to Chinese-CLIP's own classes and come from them, whole and in float32."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wentu.clip import checkpoint
from wentu.clip.model import NAMES, TINY, Architecture, architecture, build, infer
from wentu.errors import FormatError, InputError

SMALL: dict[str, Any] = TINY | {
    "embed_dim": 32,
    "image_resolution": 32,
    "vision_layers": 2,
    "vision_width": 128,
    "vision_head_width": 64,
    "text_hidden_size": 64,
    "text_intermediate_size": 128,
    "text_num_hidden_layers": 2,
    "text_num_attention_heads": 1,
    "text_attention_probs_dropout_prob": 0.1,
    "text_hidden_dropout_prob": 0.1,
    "text_initializer_range": 0.02,
}
"""Head widths, dropout and spread are Chinese-CLIP's own, which no tensor's shape tells."""

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def clip() -> Callable[..., Any]:
    """cn_clip's class."""
    from cn_clip.clip.model import CLIP

    return CLIP


@pytest.fixture(scope="module")
def reference(clip: Callable[..., Any]) -> Any:
    """A small model of cn_clip's, as it makes and keeps one: partly in float16."""
    from cn_clip.clip.model import convert_weights

    torch.manual_seed(0)
    model = clip(**SMALL)
    convert_weights(model)
    return model.eval()


def prefixed(state: State) -> State:
    """As cn_clip's training writes it: out of DistributedDataParallel, and BERT's pooler too."""
    pooler = {
        "bert.pooler.dense.weight": torch.ones(64, 64),
        "bert.pooler.dense.bias": torch.ones(64),
    }
    return {f"module.{name}": tensor for name, tensor in (state | pooler).items()}


def same_values(ours: Any, theirs: State) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name].float()) for name in theirs
    )


# --- from Chinese-CLIP ------------------------------------------------------------------------


def test_a_checkpoint_of_the_reference_is_loaded_by_its_shapes(
    reference: Any, tmp_path: Path
) -> None:
    state = reference.state_dict()
    assert torch.float16 in {tensor.dtype for tensor in state.values()}
    path = tmp_path / "epoch_latest.pt"
    torch.save(
        {
            "epoch": 3,
            "step": 120,
            "name": "muge_finetune",
            "state_dict": prefixed(state),
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5}]},
        },
        path,
    )
    loaded = checkpoint.load(path)
    assert (loaded.epoch, loaded.step, dict(loaded.info)) == (3, 120, {})
    assert same_values(loaded.state, state)
    for name, value in SMALL.items():
        assert loaded.architecture.config.get(name, 64) == value, name
    assert loaded.architecture.resolution == 32
    assert loaded.architecture.embed_dim == 32


def test_what_was_loaded_encodes_as_the_reference_does(reference: Any, tmp_path: Path) -> None:
    path = tmp_path / "epoch1.pt"
    torch.save({"epoch": 1, "state_dict": prefixed(reference.state_dict())}, path)
    model = checkpoint.load(path).model()
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[101, 671, 1372, 4318, 102], [101, 4318, 102, 0, 0]])
    theirs = reference.float()
    with torch.no_grad():
        assert torch.equal(model.encode_image(images), theirs.encode_image(images))
        assert torch.equal(model.encode_text(tokens), theirs.encode_text(tokens))


@pytest.mark.parametrize("wrapped", [True, False])
def test_mistake_08_bare_keys_with_a_pooler_are_loaded(
    reference: Any, tmp_path: Path, wrapped: bool
) -> None:
    state = reference.state_dict()
    bare = state | {"bert.pooler.dense.weight": torch.ones(64, 64)}
    torch.save({"state_dict": bare} if wrapped else bare, tmp_path / "bare.pt")
    loaded = checkpoint.load(tmp_path / "bare.pt")
    assert same_values(loaded.state, state)
    loaded.model()


def test_a_resnet_is_loaded_by_its_shapes(clip: Callable[..., Any], tmp_path: Path) -> None:
    config = SMALL | {"vision_layers": [1, 2, 1, 1], "vision_width": 16, "image_resolution": 64}
    torch.save({"state_dict": prefixed(clip(**config).state_dict())}, tmp_path / "rn.pt")
    loaded = checkpoint.load(tmp_path / "rn.pt")
    assert loaded.architecture.config["vision_layers"] == [1, 2, 1, 1]
    assert loaded.architecture.resolution == 64
    loaded.model()


@pytest.mark.parametrize("name", NAMES)
def test_every_named_architecture_is_known_by_its_shapes(
    clip: Callable[..., Any], name: str
) -> None:
    with torch.device("meta"):  # shapes alone: the largest would take 4 GB
        state = clip(**architecture(name).config).state_dict()
    assert infer(state) == architecture(name)


# --- to Chinese-CLIP --------------------------------------------------------------------------


def test_what_we_save_is_read_by_the_reference(clip: Callable[..., Any], tmp_path: Path) -> None:
    model, path = build(Architecture(name="small", config=SMALL), seed=5), tmp_path / "ours.pt"
    arch = Architecture(name="small", config=SMALL)
    checkpoint.save(path, model, arch, epoch=2, step=8, info={"a": 1}, optimizer={"state": {}})
    value = torch.load(path, map_location="cpu", weights_only=True)
    assert value.keys() == {"epoch", "step", "name", "state_dict", "optimizer", "wentu"}
    assert (value["epoch"], value["step"], value["name"]) == (2, 8, "small")
    state = value["state_dict"]
    assert all(name.startswith("module.") for name in state)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    theirs = clip(**SMALL)
    theirs.load_state_dict({name.removeprefix("module."): each for name, each in state.items()})
    assert same_values(theirs.state_dict(), model.state_dict())


def test_what_we_save_comes_back_exactly(tmp_path: Path) -> None:
    arch = Architecture(name="small", config=SMALL)
    model = build(arch, seed=1)
    checkpoint.save(tmp_path / "a.pt", model, arch, epoch=2, step=8, info={"文": [1, None]})
    loaded = checkpoint.load(tmp_path / "a.pt")
    assert loaded.architecture == arch
    assert (loaded.epoch, loaded.step, loaded.info) == (2, 8, {"文": [1, None]})
    assert same_values(loaded.state, model.state_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


# --- refused ----------------------------------------------------------------------------------


class Malicious:
    """Unpickled by the standard library, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_code_is_refused_and_never_runs(tmp_path: Path, zipped: bool) -> None:
    path, mark = tmp_path / "bad.pt", tmp_path / "mark"
    torch.save(
        {"state_dict": {}, "args": Malicious(mark)}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(FormatError, match=r"bad\.pt cannot be read safely as a checkpoint"):
        checkpoint.load(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"PK\x03\x04" + b"\x00" * 100, b"\x80\x02}q\x00."]
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    with pytest.raises((FormatError, InputError), match="checkpoint"):
        checkpoint.load(path)


def test_a_truncated_checkpoint_is_refused(reference: Any, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    torch.save({"state_dict": reference.state_dict()}, path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(FormatError, match=r"cut\.pt cannot be read safely"):
        checkpoint.load(path)


def test_other_models_are_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="it is not a Chinese-CLIP model"):
        checkpoint.load(tmp_path / "other.pt")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(FormatError, match=r"list\.pt holds no checkpoint"):
        checkpoint.load(tmp_path / "list.pt")


def test_a_checkpoint_that_lacks_a_tensor_is_refused(reference: Any, tmp_path: Path) -> None:
    state = dict(reference.state_dict())
    del state["logit_scale"]
    torch.save({"state_dict": state}, tmp_path / "part.pt")
    with pytest.raises(InputError, match=r"missing \['logit_scale'\]"):
        checkpoint.load(tmp_path / "part.pt").model()


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "wentu": {"format": 2}}, tmp_path / "new.pt")
    with pytest.raises(FormatError, match=r"new\.pt has format 2; this wentu reads 1"):
        checkpoint.load(tmp_path / "new.pt")


# --- what a training starts from --------------------------------------------------------------


def test_random_weights_come_from_the_seed() -> None:
    states = [
        checkpoint.start("tiny", scratch=True, seed=seed)[0].state_dict() for seed in (0, 0, 1)
    ]
    assert same_values(states[0], states[1])
    assert not torch.equal(states[0]["text_projection"], states[2]["text_projection"])
    assert checkpoint.weights_digest("tiny") == ""


def test_a_checkpoint_is_a_start_and_known_by_its_bytes(reference: Any, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.pt", "two.pt")]
    for path in paths:
        checkpoint.save(
            path,
            reference,
            Architecture(name="small", config=SMALL),
            epoch=1 if path.name == "one.pt" else 2,
            step=0,
            info={},
        )
    model, arch = checkpoint.start(str(paths[0]))
    assert same_values(model.state_dict(), reference.state_dict())
    assert arch.config == SMALL
    digests = {checkpoint.weights_digest(str(path)) for path in paths}
    assert len(digests) == 2
    assert {len(digest) for digest in digests} == {64}
    drawn, same = checkpoint.start(str(paths[0]), scratch=True, seed=3)
    assert same.config == SMALL
    assert not same_values(drawn.state_dict(), reference.state_dict())


def test_pretrained_weights_that_are_missing_say_where_to_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENTU_WEIGHTS", str(tmp_path))
    sentence = r"weights of ViT-B-16 are not on this machine: put clip_cn_vit-b-16\.pt into "
    with pytest.raises(InputError, match=sentence + str(tmp_path)):
        checkpoint.find_weights("ViT-B-16")
    (tmp_path / "clip_cn_vit-b-16.pt").write_bytes(b"")
    assert checkpoint.find_weights("ViT-B-16") == tmp_path / "clip_cn_vit-b-16.pt"


def test_an_unknown_model_lists_the_known() -> None:
    with pytest.raises(
        InputError, match=r"--model vit-b: neither a file nor one of tiny, ViT-B-16"
    ):
        checkpoint.find_weights("vit-b")
    with pytest.raises(InputError, match=r"no model is called 'vit-b'; known: tiny, ViT-B-16"):
        architecture("vit-b")
