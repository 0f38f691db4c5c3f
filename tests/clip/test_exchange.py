"""Weights for other programs, read and computed by those; one model of two files; the commands."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.clip.makers import (
    RESNET,
    SMALL,
    TEXTS,
    apart,
    bert_tokenizer,
    clip_config,
    clip_pytorch_model,
    encoded,
    in_half,
    openai_model,
    pictures,
    save_torchscript,
    varied,
)
from wentu import cli
from wentu.clip import checkpoint, exchange, files
from wentu.clip.encoder import TorchEncoder
from wentu.clip.model import Architecture, architecture, build, cn_clip_folder, infer
from wentu.errors import FormatError, InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the imports only
    import transformers

SAME = 1e-5
Measure = Callable[[str, Any, Any, float], None]


@pytest.fixture
def measure(record_property: Callable[[str, object], None]) -> Measure:
    """``apart`` with a limit; what was measured is kept in a report (--junitxml)."""

    def compare(what: str, ours: Any, others: Any, limit: float) -> None:
        difference = apart(ours, others)
        record_property(what, f"{difference:.1e}")
        assert difference <= limit, what

    return compare


def small(**changed: Any) -> checkpoint.Checkpoint:
    """A small Chinese-CLIP with weights that float16 holds, as if trained."""
    return of(Architecture(name="small", config=SMALL | changed))


def of(arch: Architecture) -> checkpoint.Checkpoint:
    model = in_half(varied(build(arch)))
    return checkpoint.Checkpoint(
        architecture=arch, state=model.state_dict(), epoch=3, step=17, info={"model": "a"}
    )


# --- cn_clip ----------------------------------------------------------------------------------


def read_by_cn_clip(found: checkpoint.Checkpoint, path: Path, vision: str, text: str) -> Any:
    """Features by its ``load_from_name``, which rounds all weights to float16 on the way."""
    from cn_clip import clip

    exchange.write(found, "chinese-clip", path)
    with redirect_stdout(io.StringIO()):
        model, preprocess = clip.load_from_name(
            str(path),
            device="cpu",
            vision_model_name=vision,
            text_model_name=text,
            input_resolution=found.architecture.resolution,
        )
    model.eval()
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(each) for each in pictures()]))
        return model.encode_text(clip.tokenize(TEXTS)), images


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("vision", "text"),
    [
        ("RN50", "RBT3-chinese"),
        ("ViT-B-16", "RoBERTa-wwm-ext-base-chinese"),
        ("ViT-B-32", "RBT3-chinese"),
    ],
)
def test_cn_clip_reads_what_we_write(
    vision: str, text: str, tmp_path: Path, measure: Measure
) -> None:
    """In its own shapes, as its reader knows no others; the smallest has 77 M parameters."""
    config: dict[str, Any] = {}
    for part in (vision, text):
        path = cn_clip_folder() / "model_configs" / f"{part}.json"
        config |= json.loads(path.read_text())
    if vision == "RN50":
        config = dict(architecture("RN50").config)
    found = of(Architecture(name="x", config=config))
    texts, images = read_by_cn_clip(found, tmp_path / "ours.pt", vision, text)
    our_texts, our_images = encoded(tmp_path / "ours.pt")
    measure("texts", our_texts, texts, SAME)
    measure("pictures", our_images, images, SAME)


def test_experiments_are_laid_out_as_cn_clip_leaves_them(tmp_path: Path) -> None:
    for _ in range(2):  # again over what is there
        written = exchange.write(small(), "experiments", tmp_path / "run")
    names = [path.relative_to(tmp_path).as_posix() for path in written]
    assert names == ["run/checkpoints/epoch_latest.pt", "run/checkpoints/epoch3.pt"]
    for path in written:
        value = torch.load(path, weights_only=True)
        assert (value["epoch"], value["step"]) == (3, 17)
        assert all(name.startswith("module.") for name in value["state_dict"])


def test_cn_clip_continues_a_training_from_what_we_write(tmp_path: Path) -> None:
    """The lines of its ``main.py`` that read --resume, with --reset-data-offset and --optimizer."""
    from cn_clip.clip.model import CLIP

    (path, _) = exchange.write(small(), "experiments", tmp_path / "run")
    value = torch.load(path, map_location="cpu", weights_only=True)
    state = {k: v for k, v in value["state_dict"].items() if "bert.pooler" not in k}
    model = torch.nn.Module()
    model.module = CLIP(**SMALL)
    model.load_state_dict(state)


# --- transformers -----------------------------------------------------------------------------


def test_transformers_reads_what_we_write(tmp_path: Path, measure: Measure) -> None:
    """Model, tokenizer and image processor, by its own from_pretrained."""
    found = small(vision_head_width=32, text_num_attention_heads=2)
    written = exchange.write(found, "huggingface", tmp_path / "hf")
    assert {path.name for path in written} == {
        *("config.json", "model.safetensors", "preprocessor_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    }
    folder = tmp_path / "hf"
    model, notes = transformers.ChineseCLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not notes["missing_keys"]
    assert not notes["unexpected_keys"]
    processor = transformers.ChineseCLIPProcessor.from_pretrained(folder, backend="pil")
    given = processor(
        text=TEXTS,
        images=list(pictures()),
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    )
    encoder = TorchEncoder(found)
    ids = np.zeros((len(TEXTS), 52), np.int64)
    own = encoder.processor.tokens(TEXTS)
    ids[:, : own.shape[1]] = own
    assert np.array_equal(given["input_ids"], ids)
    pixels = encoder.processor.normalize(
        np.stack([encoder.processor.pixels(each) for each in pictures()])
    )
    np.testing.assert_allclose(given["pixel_values"], pixels, atol=1e-5)
    words = {name: given[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        texts = model.eval().get_text_features(**words).pooler_output
        images = model.get_image_features(pixel_values=given["pixel_values"]).pooler_output
    measure("texts", encoder.encode_text(TEXTS), texts, SAME)
    measure("pictures", encoder.encode_image(pictures()), images, SAME)
    again = TorchEncoder(checkpoint.load(folder))
    assert apart(again.encode_text(TEXTS), encoder.encode_text(TEXTS)) == 0
    assert apart(again.encode_image(pictures()), encoder.encode_image(pictures())) == 0


def test_other_readers_of_that_folder_see_the_same_tokens(tmp_path: Path) -> None:
    exchange.write(small(), "huggingface", tmp_path)
    expected = bert_tokenizer()(TEXTS).input_ids
    for kind in (transformers.BertTokenizer, transformers.AutoTokenizer):
        assert kind.from_pretrained(tmp_path)(TEXTS).input_ids == expected
    bare = tmp_path / "bare"
    bare.mkdir()
    (tmp_path / "vocab.txt").rename(bare / "vocab.txt")
    assert transformers.BertTokenizer.from_pretrained(bare)(TEXTS).input_ids == expected


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_how_pictures_were_resized_in_training_goes_along(resize: str, tmp_path: Path) -> None:
    found = small()
    tuned = replace(found, info={"resize": resize, "context_length": 24})
    if resize == "pad":
        with pytest.raises(InputError, match="trained on padded pictures"):
            exchange.write(tuned, "huggingface", tmp_path)
        return
    exchange.write(tuned, "huggingface", tmp_path)
    processor = transformers.ChineseCLIPProcessor.from_pretrained(tmp_path, backend="pil")
    # Where an odd number of pixels is left over, it cuts one more on the other side than
    # torchvision does, and so than OpenAI's and open_clip's preprocessing, and ours.
    left = [int(32 * max(p.size) / min(p.size)) - 32 for p in pictures()]
    same = [p for p, more in zip(pictures(), left, strict=True) if round(more / 2) == more // 2]
    assert len(same) >= 3
    given = processor(images=same, return_tensors="pt")["pixel_values"]
    own = tuned.processor()
    pixels = own.normalize(np.stack([own.pixels(each) for each in same]))
    np.testing.assert_allclose(given, pixels, atol=1e-5)
    words = processor(text=TEXTS, padding="max_length", truncation=True, return_tensors="np")
    assert words["input_ids"].shape == (len(TEXTS), 24)


# --- clip-pytorch, safetensors ----------------------------------------------------------------


def test_clip_pytorch_reads_what_we_write(tmp_path: Path) -> None:
    model = clip_pytorch_model()
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    exchange.write(checkpoint.load(tmp_path / "theirs.pth"), "clip-pytorch", tmp_path / "ours.pth")
    again = clip_pytorch_model(seed=1)
    again.load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True))
    state = again.state_dict()
    assert all(torch.equal(state[name], each) for name, each in model.state_dict().items())


@pytest.mark.parametrize("family", ["chinese-clip", "resnet", "clip-pytorch", "openai"])
def test_safetensors_hold_all_that_is_needed(family: str, tmp_path: Path) -> None:
    if family == "openai":
        torch.save(openai_model(clip_config()).state_dict(), tmp_path / "a.pt")
        found = checkpoint.load(tmp_path / "a.pt")
    elif family == "clip-pytorch":
        torch.save(clip_pytorch_model().state_dict(), tmp_path / "a.pth")
        found = checkpoint.load(tmp_path / "a.pth")
    elif family == "resnet":
        found = small(vision_layers=[1, 1, 1, 1], vision_width=16, image_resolution=64)
    else:
        found = small(text_num_attention_heads=4)
    found = replace(found, info={"resize": "pad", "文": [1, None]})
    path = tmp_path / "ours.safetensors"
    assert exchange.write(found, "safetensors", path) == [path]
    again = checkpoint.load(path)
    assert again.architecture == found.architecture
    assert again.info == found.info
    assert again.processor().preprocessing == found.processor().preprocessing
    assert found.state is not None
    assert again.state is not None
    assert all(torch.equal(again.state[name], each) for name, each in found.state.items())


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("clip-pytorch", "chinese-clip"),
        ("clip-pytorch", "huggingface"),
        ("clip-pytorch", "experiments"),
        ("chinese-clip", "clip-pytorch"),
        ("openclip", "chinese-clip"),
        ("openclip", "huggingface"),
        ("openclip", "clip-pytorch"),
    ],
)
def test_forms_that_compute_otherwise_are_refused(family: str, kind: str, tmp_path: Path) -> None:
    arch = Architecture(name="x", config=SMALL, family=family)
    with pytest.raises(InputError, match=f"of the family {family} cannot be written as {kind}"):
        exchange.write(checkpoint.Checkpoint(architecture=arch), kind, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", exchange.KINDS)
def test_a_place_that_cannot_be_written_to_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    place = tmp_path / ("file" if kind in ("huggingface", "experiments") else "folder")
    found = small()
    if kind == "clip-pytorch":
        torch.save(clip_pytorch_model().state_dict(), tmp_path / "a.pth")
        found = checkpoint.load(tmp_path / "a.pth")
    with pytest.raises(InputError, match=f"{place.name} is a {place.name}; {kind} is written to"):
        exchange.write(found, kind, place)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_resnet_has_no_form_of_transformers(tmp_path: Path) -> None:
    found = small(vision_layers=[1, 1, 1, 1], vision_width=16, image_resolution=64)
    with pytest.raises(InputError, match="Chinese-CLIP has no ResNet"):
        exchange.write(found, "huggingface", tmp_path / "hf")
    assert not list(tmp_path.iterdir())


# --- OpenAI's pictures and a Chinese BERT ------------------------------------------------------

BERT: dict[str, Any] = {
    "vocab_size": 21128,
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 160,
    "max_position_embeddings": 64,
}


def bert_folder(folder: Path, form: str) -> Any:
    """transformers' own BertModel, as it saves one today, or as files of TensorFlow's time are."""
    torch.manual_seed(1)
    model = in_half(varied(transformers.BertModel(transformers.BertConfig(**BERT)), 1))
    model.save_pretrained(folder)
    if form != "safetensors":
        state = {f"bert.{name}": each for name, each in model.state_dict().items()}
        state = {
            name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): each
            for name, each in state.items()
        }
        state |= {
            "bert.embeddings.position_ids": torch.arange(64).expand(1, -1),
            "cls.predictions.bias": torch.zeros(21128),
            "cls.predictions.transform.LayerNorm.gamma": torch.ones(96),
            "cls.seq_relationship.weight": torch.zeros(2, 96),
        }
        torch.save(state, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return model


@pytest.mark.parametrize("vision", ["vit", "resnet"])
@pytest.mark.parametrize("form", ["safetensors", "bin", "file"])
def test_towers_of_two_files(form: str, vision: str, tmp_path: Path, measure: Measure) -> None:
    openai = openai_model(clip_config(**(RESNET if vision == "resnet" else {})))
    images = torch.randn(3, 3, *(2 * [64 if vision == "resnet" else 32]))
    images *= torch.tensor([0.2, 1, 5])[:, None, None, None]
    words = bert_tokenizer()(TEXTS[:-1], padding=True, return_tensors="pt")
    with torch.no_grad():
        seen = openai.visual(images)
    save_torchscript(openai, tmp_path / "ViT.pt")
    bert = bert_folder(tmp_path / "bert", form)
    text = tmp_path / "bert" / "pytorch_model.bin" if form == "file" else tmp_path / "bert"
    made = exchange.combine(tmp_path / "ViT.pt", text, seed=4)
    assert made.architecture.config["text_num_attention_heads"] == 3
    model = made.model()
    with torch.no_grad():
        hidden = bert(**words).last_hidden_state
        ours = model.bert(words.input_ids, attention_mask=words.attention_mask.float())[0]
        measure("pictures", model.encode_image(images), seen, SAME)
    mask = words.attention_mask.bool()
    measure("hidden states", ours[mask], hidden[mask], SAME)

    # cn_clip itself, as --clip-weight-path and --bert-weight-path of its training
    from cn_clip.clip.model import CLIP, restore_model

    state = {k: v for k, v in files.read_weights(tmp_path / "ViT.pt")[0].items() if v.dim()}
    theirs = CLIP(**made.architecture.config)
    words_state = {f"bert.{name}": each for name, each in bert.state_dict().items()}
    theirs = restore_model(theirs, state, words_state, False).float().eval()
    with torch.no_grad():
        measure(
            "pictures of cn_clip", model.encode_image(images), theirs.encode_image(images), SAME
        )
        other = theirs.bert(words.input_ids, attention_mask=words.attention_mask.float())[0]
    measure("hidden states of cn_clip", ours[mask], other[mask], SAME)


def test_the_projection_that_joins_them_comes_from_the_seed(tmp_path: Path) -> None:
    torch.save(openai_model(clip_config()).state_dict(), tmp_path / "a.pt")
    bert_folder(tmp_path / "bert", "safetensors")
    states = [
        exchange.combine(tmp_path / "a.pt", tmp_path / "bert", seed).state or {}
        for seed in (0, 0, 1)
    ]
    projections = [state["text_projection"] for state in states]
    assert torch.equal(projections[0], projections[1])
    assert not torch.equal(projections[0], projections[2])
    assert float(projections[0].std()) == pytest.approx(96**-0.5, rel=0.1)


def test_what_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    bert_folder(tmp_path / "bert", "safetensors")
    openai, gelu = tmp_path / "openai.pt", tmp_path / "gelu"
    torch.save(openai_model(clip_config()).state_dict(), openai)
    with pytest.raises(InputError, match=r"must hold a CLIP's vision tower and .* a BERT"):
        exchange.combine(openai, openai)
    gelu.mkdir()
    torch.save(openai_model(clip_config()).state_dict(), gelu / "open_clip_model.bin")
    config = {"model_cfg": clip_config() | {"quick_gelu": False}}
    (gelu / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="computes with GELU; Chinese-CLIP's, like OpenAI's"):
        exchange.combine(gelu, tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-5}))
    with pytest.raises(InputError, match=r"config\.json: hidden_act gelu, layer_norm_eps 1e-05"):
        exchange.combine(openai, tmp_path / "bert")


def test_a_config_of_another_model_beside_a_bert_says_nothing(tmp_path: Path) -> None:
    torch.save(openai_model(clip_config()).state_dict(), tmp_path / "a.pt")
    bert = bert_folder(tmp_path / "bert", "file")
    config = {"model_type": "clip", "hidden_size": 768, "num_attention_heads": 12}
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    made = exchange.combine(tmp_path / "a.pt", tmp_path / "bert" / "pytorch_model.bin")
    assert made.architecture.config["text_num_attention_heads"] == 1
    assert infer("chinese-clip", made.state or {}) == made.architecture
    assert bert.config.num_attention_heads == 3


# --- wentu weights ----------------------------------------------------------------------------


def weights(*words: str) -> str:
    """What the command prints."""
    result = CliRunner().invoke(cli.build(), ["weights", *words], env={"COLUMNS": "80"})
    if result.exception:
        raise result.exception
    return result.output


def table(output: str) -> dict[str, str]:
    """What `wentu weights inspect` says, by its first column."""
    found = {}
    for line in output.splitlines():
        what, _, value = line.partition("  ")
        found[what.strip()] = value.strip()
    return found


def test_inspect_says_what_a_file_holds(tmp_path: Path) -> None:
    exchange.write(small(), "chinese-clip", tmp_path / "a.pt")
    assert table(weights("inspect", str(tmp_path / "a.pt"))) == {
        "family": "chinese-clip",
        "architecture": "small",
        "parameters": "1,853,569",
        "tensors": "71",
        "embedding": "32",
        "picture": "32 px, squash",
        "context length": "52",
        "convert": "none",
        "epoch, step": "3, 17",
        "logit scale": "14.30",
        "trained from (model)": "a",
    }
    torch.save(openai_model(clip_config()).state_dict(), tmp_path / "b.pt")
    found = table(weights("inspect", str(tmp_path / "b.pt")))
    assert (found["family"], found["architecture"]) == ("openclip", "openai")
    assert (found["picture"], found["context length"]) == ("32 px, crop", "77")
    torch.save(clip_pytorch_model().state_dict(), tmp_path / "c.pth")
    found = table(weights("inspect", str(tmp_path / "c.pth")))
    assert (found["family"], found["picture"]) == ("clip-pytorch", "32 px, crop")


def test_convert_goes_round_without_a_change(tmp_path: Path) -> None:
    """.pt -> Hugging Face -> .safetensors -> .pt of a training -> the same numbers."""
    start = small()
    exchange.write(start, "chinese-clip", tmp_path / "a.pt")
    hops = [("huggingface", "hf"), ("safetensors", "b.safetensors"), ("experiments", "run")]
    source = tmp_path / "a.pt"
    for kind, name in hops:
        printed = weights("convert", str(source), "--to", kind, "--out", str(tmp_path / name))
        assert str(tmp_path / name) in printed
        source = tmp_path / name
    end = checkpoint.load(source / "checkpoints" / "epoch_latest.pt")
    assert start.state is not None
    assert end.state is not None
    assert start.state.keys() == end.state.keys()
    assert all(torch.equal(end.state[name], each) for name, each in start.state.items())
    (source / "checkpoints" / "epoch0.pt").unlink()  # Hugging Face's form has no epoch


def test_convert_joins_two_towers(tmp_path: Path) -> None:
    save_torchscript(openai_model(clip_config()), tmp_path / "ViT.pt")
    bert_folder(tmp_path / "bert", "bin")
    words = ["--text", str(tmp_path / "bert"), "--seed", "7"]
    weights("convert", str(tmp_path / "ViT.pt"), *words, "--out", str(tmp_path / "a.pt"))
    made = checkpoint.load(tmp_path / "a.pt")
    expected = exchange.combine(tmp_path / "ViT.pt", tmp_path / "bert", 7)
    assert made.architecture == expected.architecture
    assert made.state is not None
    assert all(torch.equal(made.state[name], each) for name, each in (expected.state or {}).items())


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_what_is_no_weights_is_one_sentence(command: str, tmp_path: Path) -> None:
    more = ["--out", str(tmp_path / "out")] if command == "convert" else []
    with pytest.raises(InputError, match=r"nothing\.pt does not exist"):
        weights(command, str(tmp_path / "nothing.pt"), *more)
    with pytest.raises(InputError, match="holds no weights"):
        weights(command, str(tmp_path), *more)
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "a.pt")
    with pytest.raises(FormatError, match=r"a\.pt: none of the known models has these tensors"):
        weights(command, str(tmp_path / "a.pt"), *more)
    assert not (tmp_path / "out").exists()
