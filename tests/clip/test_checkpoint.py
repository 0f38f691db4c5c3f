"""Checkpoints go to Chinese-CLIP's own classes and come from them, whole and in float32."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.clip.makers import SMALL, TEXTS, State, apart, encoded, pictures, varied
from wentu.clip import checkpoint
from wentu.clip.checkpoint import Checkpoint
from wentu.clip.model import NAMES, VISION_AND_TEXT, Architecture, architecture, build, infer
from wentu.errors import FormatError, InputError


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


SAME = 1e-5
ARCH = Architecture(name="small", config=SMALL)
RESNET = SMALL | {"vision_layers": [1, 2, 1, 1], "vision_width": 16, "image_resolution": 64}


def saved(path: Path, seed: int = 0, **changed: Any) -> Any:
    """A model of ours, saved; returns the model."""
    model = build(ARCH, seed)
    given: dict[str, Any] = {"epoch": 2, "step": 8, "info": {}}
    checkpoint.save(path, model.state_dict(), Checkpoint(architecture=ARCH), **given | changed)
    return model


def prefixed(state: State) -> State:
    """As cn_clip's training writes it: out of DistributedDataParallel, and BERT's pooler too."""
    pooler = {
        "bert.pooler.dense.weight": torch.ones(64, 64),
        "bert.pooler.dense.bias": torch.ones(64),
    }
    return {f"module.{name}": tensor for name, tensor in (state | pooler).items()}


def same_values(ours: Any, theirs: State) -> bool:
    assert ours is not None
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


def as_cn_clip_saves(form: str, model: Any) -> dict[str, Any]:
    """What its training and its tools write, from its own model."""
    from cn_clip.clip.model import convert_state_dict

    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state |= {"bert.pooler.dense.weight": torch.ones(64, 64)}
    match form:
        case "bare":
            return state
        case "wrapped":
            return {"epoch": 5, "name": "x", "state_dict": state}
        case "training":
            optimizer = torch.optim.AdamW(model.parameters())
            model.encode_text(torch.tensor([[101, 671, 102]])).sum().backward()
            optimizer.step()  # with a state for half of the parameters; the weights move
            optimizer.zero_grad()
            return {
                "epoch": 5,
                "step": 77,
                "name": "x",
                "state_dict": prefixed(model.state_dict()),
                "optimizer": optimizer.state_dict(),
            }
        case "flash":
            result: dict[str, Any] = convert_state_dict(state)
            assert "bert.encoder.layer.1.attention.self.Wqkv.weight" in result
            return result
        case "flash, module":
            return {"state_dict": convert_state_dict(prefixed(model.state_dict()))}
        case "float16":
            return {"state_dict": prefixed({k: v.half() for k, v in state.items()})}
        case "compiled":
            return {f"_orig_mod.{name}": tensor for name, tensor in state.items()}
        case "compiled, then parallel":
            return {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}
        case "parallel, then compiled":
            return {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}
        case "a part compiled":
            return {name.replace("visual.", "visual._orig_mod."): t for name, t in state.items()}
    raise AssertionError(form)


FORMS = ["bare", "wrapped", "training", "flash", "flash, module", "float16", "compiled"]
FORMS += ["compiled, then parallel", "parallel, then compiled", "a part compiled"]


@pytest.mark.parametrize("resnet", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_file_of_cn_clip_computes_what_it_computes(
    clip: Callable[..., Any],
    form: str,
    resnet: bool,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Its model, its picture transform, its tokenizer."""
    from cn_clip.clip import image_transform, tokenize

    small = {"vision_layers": [1, 2, 1, 1], "vision_width": 16, "image_resolution": 64}
    torch.manual_seed(0)
    model = varied(clip(**SMALL | (small if resnet else {})))
    if form == "float16":
        model = model.half().float()
    torch.save(as_cn_clip_saves(form, model), tmp_path / "a.pt")
    transform = image_transform(64 if resnet else 32)
    with torch.no_grad():
        images = model.encode_image(torch.stack([transform(each) for each in pictures()]))
        texts = model.encode_text(tokenize(TEXTS))
    for what, ours, theirs in zip("tp", encoded(tmp_path / "a.pt"), (texts, images), strict=True):
        record_property(what, f"{apart(ours, theirs):.1e}")
        assert apart(ours, theirs) <= SAME


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
    torch.save({"state_dict": prefixed(clip(**RESNET).state_dict())}, tmp_path / "rn.pt")
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
    assert infer("chinese-clip", state) == architecture(name)


# --- to Chinese-CLIP --------------------------------------------------------------------------


def test_what_we_save_is_read_by_the_reference(clip: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "ours.pt"
    model = saved(path, 5, info={"a": 1})
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
    model = saved(tmp_path / "a.pt", 1, info={"文": [1, None]})
    loaded = checkpoint.load(tmp_path / "a.pt")
    assert loaded.architecture == ARCH
    assert (loaded.epoch, loaded.step, loaded.info) == (2, 8, {"文": [1, None]})
    assert same_values(loaded.state, model.state_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_how_the_input_was_prepared_comes_back(tmp_path: Path) -> None:
    info = {"resize": "pad", "context_length": 24, "convert": "t2s"}
    saved(tmp_path / "a.pt", info=info)
    processor = checkpoint.load(tmp_path / "a.pt").processor()
    found = (processor.preprocessing.resize, processor.context_length, processor.convert)
    assert found == ("pad", 24, "t2s")
    saved(tmp_path / "b.pt")
    processor = checkpoint.load(tmp_path / "b.pt").processor()
    found = (processor.preprocessing.resize, processor.context_length, processor.convert)
    assert found == ("squash", 52, "none")


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
    with pytest.raises(FormatError, match=r"other\.pt: none of the known models has these tensors"):
        checkpoint.load(tmp_path / "other.pt")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(FormatError, match=r"list\.pt holds no checkpoint"):
        checkpoint.load(tmp_path / "list.pt")


def test_a_checkpoint_that_lacks_a_tensor_is_refused(reference: Any, tmp_path: Path) -> None:
    state = dict(reference.state_dict())
    del state["logit_scale"]
    torch.save({"state_dict": state}, tmp_path / "part.pt")
    with pytest.raises(FormatError, match=r"missing or of another shape \['logit_scale'\]"):
        checkpoint.load(tmp_path / "part.pt").model()


def test_a_tensor_of_another_shape_is_refused(reference: Any, tmp_path: Path) -> None:
    state = dict(reference.state_dict())
    state["visual.ln_post.weight"] = torch.ones(7)
    torch.save({"state_dict": state}, tmp_path / "odd.pt")
    with pytest.raises(FormatError, match=r"another shape \['visual\.ln_post\.weight'\]"):
        checkpoint.load(tmp_path / "odd.pt").model()


def test_a_tensor_too_many_is_refused(reference: Any, tmp_path: Path) -> None:
    state = reference.state_dict() | {"adapter.weight": torch.ones(2, 2)}
    torch.save({"state_dict": state}, tmp_path / "odd.pt")
    with pytest.raises(FormatError, match=r"unexpected \['adapter\.weight'\]"):
        checkpoint.load(tmp_path / "odd.pt").model()


@pytest.mark.parametrize("version", [1, 3, "2", None])
def test_a_checkpoint_of_another_version_is_refused(version: object, tmp_path: Path) -> None:
    saved(tmp_path / "new.pt")
    value = torch.load(tmp_path / "new.pt", weights_only=True)
    value["wentu"]["format"] = version
    torch.save(value, tmp_path / "new.pt")
    with pytest.raises(FormatError, match=rf"new\.pt has format {version}; this wentu reads 2"):
        checkpoint.load(tmp_path / "new.pt")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"config": None}, "its note lacks or has a strange config"),
        ({"config": [1], "info": "x"}, "its note lacks or has a strange config, info"),
        ({"family": "gpt"}, "its note lacks or has a strange family"),
        ({"name": 3}, "its note lacks or has a strange name"),
        ({"tokenizer": b"x"}, "its note lacks or has a strange tokenizer"),
        ({"info": {"context_length": "52"}}, "its note lacks or has a strange context_length"),
        ({"info": {"context_length": 10**12}}, "its note lacks or has a strange context_length"),
        ({"info": {"resize": 3}}, "its note lacks or has a strange resize"),
        ({"config": {}}, "the model's config is incomplete or strange .*embed_dim"),
        ({"config": {"embed_dim": 4}}, "config is incomplete or strange .*image_resolution"),
        ({"config": SMALL | {"embed_dim": "x"}}, "config is incomplete or strange"),
    ],
)
def test_a_note_that_is_none_is_refused(
    changed: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    saved(tmp_path / "a.pt")
    value = torch.load(tmp_path / "a.pt", weights_only=True)
    value["wentu"] |= changed
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(FormatError, match=sentence):
        checkpoint.load(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "changed",
    [
        {"vocab_size": 2**50},
        {"text_num_hidden_layers": 10**12},
        {"vision_layers": [10**9] * 4},
        {"vision_patch_size": 0},
        {"vision_width": "wide"},
        {"text_num_attention_heads": 0},
        {"vision_head_width": 10**6},
        {"embed_dim": -3},
        {"unknown": 1},
    ],
)
def test_a_note_of_an_impossible_model_is_refused_at_once(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    """Without the memory or the time that it asks for."""
    saved(tmp_path / "a.pt")
    value = torch.load(tmp_path / "a.pt", weights_only=True)
    value["wentu"]["config"] |= changed
    torch.save(value, tmp_path / "a.pt")
    sentence = "no model can be built as|the weights do not fit small|config is incomplete"
    with pytest.raises(FormatError, match=sentence):
        checkpoint.load(tmp_path / "a.pt").model()


# --- what a training starts from --------------------------------------------------------------


def test_random_weights_come_from_the_seed() -> None:
    states = [
        checkpoint.start("scratch:tiny", seed=seed).model().state_dict() for seed in (0, 0, 1)
    ]
    assert same_values(states[0], states[1])
    assert not torch.equal(states[0]["text_projection"], states[2]["text_projection"])
    assert checkpoint.weights_digest("tiny") == ""


def test_a_checkpoint_is_a_start_and_known_by_its_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.pt", "two.pt")]
    model = saved(paths[0], 4, epoch=1)
    saved(paths[1], 4, epoch=2)
    found = checkpoint.start(str(paths[0]))
    assert same_values(found.model().state_dict(), model.state_dict())
    assert found.architecture.config == SMALL
    digests = {checkpoint.weights_digest(str(path)) for path in paths}
    assert len(digests) == 2
    assert {len(digest) for digest in digests} == {64}
    drawn = checkpoint.start(f"scratch:{paths[0]}", seed=3)
    assert drawn.architecture.config == SMALL
    assert drawn.state is None
    assert same_values(drawn.model().state_dict(), build(ARCH, 3).state_dict())
    assert not same_values(drawn.model().state_dict(), model.state_dict())


def test_a_folder_is_known_by_its_weights_and_config(tmp_path: Path) -> None:
    """Its weights alone would not do: the same numbers compute otherwise with other heads."""
    for name, config in (("a", "{}"), ("b", "{}"), ("c", '{"x": 1}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "config.json").write_text(config)
    digests = [checkpoint.weights_digest(str(tmp_path / name)) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("name", VISION_AND_TEXT)
def test_pretrained_weights_that_are_missing_say_where_to_put_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENTU_WEIGHTS", str(tmp_path))
    file = VISION_AND_TEXT[name][2]
    sentence = rf"weights of {name} are not on this machine: run `wentu weights get {name}`, or put"
    with pytest.raises(InputError, match=rf"{sentence} {re.escape(file)} into {tmp_path}"):
        checkpoint.find_weights(name)
    (tmp_path / file).write_bytes(b"")
    assert checkpoint.find_weights(name) == tmp_path / file


@pytest.mark.parametrize("kind", ["reference", "ours", "resnet"])
def test_a_file_of_another_architecture_than_its_name_says_is_refused(
    kind: str, clip: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where ViT-B-16's weights are looked for; it may well be used under its own path."""
    monkeypatch.setenv("WENTU_WEIGHTS", str(tmp_path))
    path = tmp_path / VISION_AND_TEXT["ViT-B-16"][2]
    held = {"reference": "tiny", "ours": "small", "resnet": "custom"}[kind]
    if kind == "ours":
        saved(path)
    elif kind == "reference":
        state = prefixed(build(architecture("tiny")).state_dict())
        torch.save({"epoch": 3, "name": "x", "state_dict": state, "optimizer": {}}, path)
    else:
        state = prefixed(clip(**RESNET).state_dict())
        torch.save({"epoch": 3, "name": "x", "state_dict": state, "optimizer": {}}, path)
    before = path.read_bytes()
    sentence = (
        rf"{re.escape(path.name)} holds {held}, not ViT-B-16: give its path to use it as it is, "
        r"or remove it and run `wentu weights get ViT-B-16`\."
    )
    with pytest.raises(InputError, match=sentence):
        checkpoint.start("ViT-B-16")
    assert path.read_bytes() == before
    assert checkpoint.start(str(path)).architecture.name == held
    assert checkpoint.start("scratch:ViT-B-16").architecture == architecture("ViT-B-16")


def test_a_start_that_does_not_fit_its_own_note_is_refused_by_its_path(tmp_path: Path) -> None:
    """A checkpoint of ours whose tensors are of another model than it says."""
    saved(tmp_path / "a.pt")
    value = torch.load(tmp_path / "a.pt", weights_only=True)
    other = build(architecture("tiny")).state_dict()
    value["state_dict"] = {f"module.{name}": tensor for name, tensor in other.items()}
    torch.save(value, tmp_path / "a.pt")
    sentence = r"a\.pt: the weights do not fit small: .*`wentu weights inspect`, and take a whole"
    with pytest.raises(FormatError, match=sentence):
        checkpoint.start(str(tmp_path / "a.pt"))


def test_names_of_open_clip_need_a_tag_or_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENTU_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=r"openclip:ViT-B-32 names no weights: add @TAG"):
        checkpoint.start("openclip:ViT-B-32")
    with pytest.raises(InputError, match="weights of openclip:ViT-B-32@openai are not on this"):
        checkpoint.start("openclip:ViT-B-32@openai")
    with pytest.raises(InputError, match="open_clip has no model 'ViT-B-33'"):
        checkpoint.start("openclip:ViT-B-33")
    found = checkpoint.start("scratch:openclip:ViT-B-32")
    assert (found.state, found.architecture.embed_dim) == (None, 512)


def test_an_unknown_model_lists_the_known() -> None:
    with pytest.raises(
        InputError, match=r"--model vit-b: neither a file nor one of tiny, ViT-B-16"
    ):
        checkpoint.find_weights("vit-b")
    with pytest.raises(InputError, match=r"no model is called 'vit-b'; known: tiny, ViT-B-16"):
        architecture("vit-b")
