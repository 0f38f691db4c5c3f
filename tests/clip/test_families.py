"""What other programs compute with their weights, we compute: texts and pictures, all the way.

Each file is written by the program's own code, and compared with what that code makes of texts
and pictures: its model, its preprocessing, its tokenizer. 1e-5 of L2-normalised features.
"""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.clip.makers import (
    RESNET,
    SMALL,
    TEXTS,
    apart,
    bert_tokenizer,
    clip_config,
    clip_pytorch_model,
    encoded,
    openai_model,
    pictures,
    save_torchscript,
    theirs,
    varied,
)
from tests.fuzz import mutations, survives
from wentu.clip import checkpoint, exchange, files
from wentu.clip.bundle import BUNDLE, Bundle
from wentu.clip.encoder import TorchEncoder
from wentu.clip.model import infer
from wentu.errors import FormatError, InputError
from wentu.formats import FORMAT, write_json
from wentu.stages.export_onnx import write_onnx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the imports only
    import open_clip
    import transformers
    from open_clip.push_to_hf_hub import save_for_hf

    from tests.clip.test_tokenizers import FAMILIES

SAME = 1e-5
Measure = Callable[[str, Any, Any, float], None]


@pytest.fixture
def measure(record_property: Callable[[str, object], None]) -> Measure:
    """``apart`` with a limit; what was measured is kept in a report (--junitxml)."""

    def compare(what: str, ours: Any, others: Any, limit: float = SAME) -> None:
        difference = apart(ours, others)
        record_property(what, f"{difference:.1e}")
        assert difference <= limit, what

    return compare


# --- OpenAI -----------------------------------------------------------------------------------


def openai_features(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """By open_clip's reader of OpenAI's files: float16 weights, computed in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls jit.load, which it uses, deprecated
        model = open_clip.load_openai_model(str(path), precision="fp32", device="cpu")
    transform = open_clip.image_transform(model.visual.image_size, is_train=False)
    return theirs(model, transform, open_clip.SimpleTokenizer(context_length=model.context_length))


def published(model: Any, path: Path, form: str) -> Path:
    """OpenAI's archive, its state dict, or that without the three numbers."""
    save_torchscript(model, path)
    if form == "archive":
        return path
    numbers = ("input_resolution", "context_length", "vocab_size") if form == "bare" else ()
    state = {name: each for name, each in model.state_dict().items() if name not in numbers}
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
    return path


@pytest.mark.parametrize("form", ["archive", "state", "bare"])
@pytest.mark.parametrize("vision", [{}, RESNET], ids=["vit", "resnet"])
def test_openai(vision: dict[str, Any], form: str, tmp_path: Path, measure: Measure) -> None:
    path = published(openai_model(clip_config(**vision)), tmp_path / "ViT.pt", form)
    texts, images = openai_features(path)
    our_texts, our_images = encoded(path)
    measure("texts", our_texts, texts, SAME)
    measure("pictures", our_images, images, SAME)
    found = checkpoint.load(path)
    assert (found.architecture.family, found.architecture.name) == ("openclip", "openai")
    assert found.architecture.config["model"]["quick_gelu"] is True
    assert found.processor().preprocessing.resize == "crop"


def test_the_measure_tells_activations_apart(tmp_path: Path) -> None:
    """QuickGELU from GELU, which have the same tensors."""
    state = openai_model(clip_config()).state_dict()
    torch.save(state, tmp_path / "a.pt")
    found = checkpoint.load(tmp_path / "a.pt")
    config = dict(found.architecture.config)
    config["model"] = config["model"] | {"quick_gelu": False}
    other = replace(found, architecture=replace(found.architecture, config=config))
    quick, smooth = TorchEncoder(found), TorchEncoder(other)
    assert apart(quick.encode_text(TEXTS), smooth.encode_text(TEXTS)) > 100 * SAME
    images = list(pictures())
    assert apart(quick.encode_image(images), smooth.encode_image(images)) > 100 * SAME


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "RN50"])
def test_openai_in_its_real_shapes(name: str, tmp_path: Path, measure: Measure) -> None:
    config = open_clip.get_model_config(f"{name}-quickgelu")
    path = published(openai_model(config), tmp_path / f"{name}.pt", "archive")
    texts, images = openai_features(path)
    for architecture in ("", f"openclip:{name}-quickgelu", f"openclip:{name}@openai"):
        our_texts, our_images = encoded(path, architecture)
        measure(f"texts {architecture}", our_texts, texts, SAME)
        measure(f"pictures {architecture}", our_images, images, SAME)


def test_what_may_be_openais_or_not_has_to_be_named(tmp_path: Path) -> None:
    """LAION's ViT-B-32 has the tensors of OpenAI's, and another activation."""
    model = varied(open_clip.CLIP(**clip_config()))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    with pytest.raises(FormatError, match=r"a\.pt: OpenAI's models \(QuickGELU\) and others of"):
        checkpoint.load(tmp_path / "a.pt")
    torch.save(model.half().state_dict(), tmp_path / "a.pt")
    checkpoint.load(tmp_path / "a.pt")


# --- open_clip --------------------------------------------------------------------------------

TEXT = {"width": 64, "heads": 2, "layers": 2}
WITH_ITS_OWN = TEXT | {"hf_tokenizer_name": "here", "vocab_size": 400}
SIGLIP_TEXT = WITH_ITS_OWN | {
    "context_length": 16,
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
    "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"},
    "tokenizer_kwargs": {"clean": "canonicalize"},
}
CLIPA_TEXT = WITH_ITS_OWN | {
    "context_length": 32,
    "tokenizer_kwargs": {"strip_sep_token": True},
    "pool_type": "last",
    "no_causal_mask": True,
}
CLIPA_VISION = {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True}
TIMM = {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_proj": "none"}
MAP = TIMM | {"timm_pool": "map"}
EVA = {"timm_model_name": "eva02_tiny_patch14_224", "image_size": 224, "timm_pool": "token"}
CONVNEXT = {"timm_model_name": "test_convnext", "image_size": 64, "timm_proj": "linear"}
HF = {"hf_model_name": "here", "hf_tokenizer_name": "here", "context_length": 20}
LONGEST = {"resize_mode": "longest", "fill_color": 0}
SQUASH = {"resize_mode": "squash", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
GELU = {"quick_gelu": False}

# Name -> (the config, preprocessing, tokenizer in FAMILIES or none for OpenAI's, text tower).
Variant = tuple[dict[str, Any], dict[str, Any], str, str]
VARIANTS: dict[str, Variant] = {
    "laion": (clip_config() | GELU, {}, "", ""),
    "quickgelu": (clip_config(), SQUASH, "", ""),
    "rn50": (clip_config(**RESNET) | GELU, {}, "", ""),
    "head-width-longest": (clip_config(width=64, head_width=16, mlp_ratio=2.5), LONGEST, "", ""),
    "layer-scale": (clip_config(ls_init_value=0.5) | GELU, {}, "", ""),
    "clipa": (
        clip_config(**CLIPA_VISION) | GELU | {"text_cfg": CLIPA_TEXT},
        SQUASH,
        "clipa",
        "",
    ),
    "worldwide": (
        clip_config()
        | {"text_cfg": WITH_ITS_OWN | {"context_length": 77, "pool_type": "eos", "eos_id": 2}},
        {},
        "xlm-roberta",
        "",
    ),
    "siglip": (
        {"embed_dim": 192, "init_logit_bias": -10, "custom_text": True}
        | {"vision_cfg": MAP, "text_cfg": SIGLIP_TEXT},
        SQUASH,
        "siglip",
        "",
    ),
    "eva": (
        {"embed_dim": 192, "custom_text": True, "text_cfg": TEXT}
        | {"vision_cfg": EVA | {"timm_proj": None}},
        {},
        "",
        "",
    ),
    "convnext": (
        {"embed_dim": 32, "vision_cfg": CONVNEXT | {"timm_pool": ""}, "text_cfg": TEXT},
        {},
        "",
        "",
    ),
    "xlm-roberta": (
        clip_config() | GELU | {"text_cfg": HF | {"hf_pooler_type": "mean_pooler"}},
        {},
        "xlm-roberta",
        "xlm-roberta",
    ),
    "roberta": (
        clip_config() | {"text_cfg": HF | {"hf_pooler_type": "cls_pooler"}},
        {},
        "roberta",
        "roberta",
    ),
    "nllb": (
        clip_config()
        | {"init_logit_bias": -10, "custom_text": True}
        | {"text_cfg": HF | {"hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"}},
        SQUASH,
        "xlm-roberta",
        "m2m_100",
    ),
    "mt5": (
        clip_config() | {"text_cfg": HF | {"hf_pooler_type": "mean_pooler"}},
        {},
        "siglip",
        "mt5",
    ),
}


def text_tower(kind: str) -> Any:
    """A small config of transformers'; the padding is that of the tokenizer."""
    own: dict[str, Any] = {"vocab_size": 400, "pad_token_id": 1}
    if kind == "mt5":
        own |= {"d_model": 64, "d_kv": 16, "num_heads": 4, "d_ff": 96, "num_layers": 2}
    elif kind == "m2m_100":
        for part in ("encoder", "decoder"):
            own |= {f"{part}_layers": 2, f"{part}_attention_heads": 2, f"{part}_ffn_dim": 96}
        own |= {"d_model": 64, "max_position_embeddings": 64}
    else:
        own |= {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
        own |= {"intermediate_size": 96, "max_position_embeddings": 64, "type_vocab_size": 1}
    return transformers.AutoConfig.for_model(kind, **own)


class _Nothing:
    """OpenAI's tokenizer, which open_clip does not save."""

    def save_pretrained(self, folder: Path) -> None:
        pass


def hub_folder(name: str, folder: Path) -> Path:
    """A folder as open_clip's ``push_to_hf_hub`` uploads it, random weights in it."""
    config, preprocessing, tokenizer, tower = VARIANTS[name]
    config = json.loads(json.dumps(config))
    folder.mkdir()
    if tokenizer:
        make, tokens, *_ = FAMILIES[tokenizer]
        make().save(str(folder / "tokenizer.json"))
        named = {f"{token}_token": text for token, text in tokens.items()}
        write_json(
            folder / "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast"} | named,
        )
    if tower:
        text_tower(tower).save_pretrained(folder)
        config["text_cfg"] |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    torch.manual_seed(0)
    custom = config.get("custom_text") or tower
    given = {key: value for key, value in config.items() if key != "custom_text"}
    model = varied((open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**given))
    side = model.visual.image_size
    own = {"size": side, "mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    open_clip.set_model_preprocess_cfg(
        model, own | {"interpolation": "bicubic", "resize_mode": "shortest"} | preprocessing
    )
    save_for_hf(model, _Nothing(), config, str(folder))
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``hub_folder`` of a variant, made once."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = hub_folder(name, tmp_path_factory.mktemp("hub") / name)
        return made[name]

    return get


def openclip_features(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """By open_clip's own readers of such a folder."""
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    return theirs(model.eval(), transform, open_clip.get_tokenizer(f"local-dir:{folder}"))


@pytest.mark.parametrize("name", VARIANTS)
def test_openclip(name: str, hub: Callable[[str], Path], measure: Measure) -> None:
    texts, images = openclip_features(hub(name))
    our_texts, our_images = encoded(hub(name))
    measure("texts", our_texts, texts, SAME)
    measure("pictures", our_images, images, SAME)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(("worldwide", form) for form in ("bin", "file", "training", "ours", "safetensors")),
        *(("xlm-roberta", form) for form in ("bin", "ours", "safetensors")),
        *(("siglip", form) for form in ("ours",)),
        *(pytest.param(name, "safetensors", marks=pytest.mark.exhaustive) for name in VARIANTS),
    ],
)
def test_openclip_in_other_files(
    name: str, form: str, hub: Callable[[str], Path], tmp_path: Path
) -> None:
    """Without safetensors; a file rather than its folder; of open_clip's training; saved by us."""
    folder = Path(shutil.copytree(hub(name), tmp_path / "copy"))
    weights = folder / "open_clip_model.safetensors"
    path = folder
    if form == "bin":
        weights.unlink()
    elif form == "file":
        path = weights
    elif form == "training":
        state = {f"module.{k}": v for k, v in files.read_weights(weights)[0].items()}
        path = folder / "epoch_1.pt"
        torch.save({"epoch": 1, "name": "run", "state_dict": state, "optimizer": {}}, path)
    else:
        found = checkpoint.load(folder)
        path = tmp_path / "ours" / f"ours.{'pt' if form == 'ours' else form}"
        if form == "ours":
            checkpoint.save(path, found.model().state_dict(), found, epoch=3, step=7, info={})
        else:
            exchange.write(found, form, path)
        shutil.rmtree(folder)  # nothing beside it is needed
    expected = encoded(hub(name))
    for ours, others in zip(encoded(path), expected, strict=True):
        assert apart(ours, others) == 0
    loaded = checkpoint.load(path)
    assert (loaded.epoch, loaded.step) == {"training": (1, 0), "ours": (3, 7)}.get(form, (0, 0))


QUICK = ("clipa", "worldwide", "xlm-roberta")
SLOW = [pytest.param(n, marks=pytest.mark.exhaustive) for n in VARIANTS if n not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_openclip_through_onnx(
    name: str, hub: Callable[[str], Path], tmp_path: Path, measure: Measure
) -> None:
    """Any batch; texts of the length that the model was made for."""
    bundle = bundle_of(checkpoint.load(hub(name)), tmp_path)
    texts, images = encoded(hub(name))
    for size in (1, 3, 7):
        measure(f"texts by {size}", bundle.encode_text(TEXTS, size), texts, 1e-4)
        measure(f"pictures by {size}", bundle.encode_image(pictures(), size), images, 1e-4)


def bundle_of(found: checkpoint.Checkpoint, folder: Path) -> Bundle:
    """The model as the stage export_onnx writes it."""
    encoder = TorchEncoder(found)
    write_onnx(encoder, folder)
    info = {
        "format": FORMAT,
        "dimension": encoder.dimension,
        "logit_scale": encoder.logit_scale,
        "processor": encoder.processor.save(folder),
    }
    write_json(folder / BUNDLE, info)
    return Bundle(folder)


def test_openclip_with_transformers_files_beside(
    hub: Callable[[str], Path], tmp_path: Path
) -> None:
    """Most folders of the hub hold the model once more, as transformers' CLIPModel."""
    folder = Path(shutil.copytree(hub("laion"), tmp_path / "copy"))
    for name in ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"):
        (folder / name).write_bytes(b"of another program")
    write_json(folder / "config.json", {"model_type": "clip", "text_config": {}})
    for ours, others in zip(encoded(folder), encoded(hub("laion")), strict=True):
        assert apart(ours, others) == 0


def test_openclip_text_towers_of_older_transformers(
    hub: Callable[[str], Path], tmp_path: Path
) -> None:
    """Before 4.31 the numbers of positions were saved as a tensor; XLM-RoBERTa's files have it."""
    folder = Path(shutil.copytree(hub("xlm-roberta"), tmp_path / "copy"))
    state, _ = files.read_weights(folder / "open_clip_model.safetensors")
    state["text.transformer.embeddings.position_ids"] = torch.arange(64).expand(1, -1)
    (folder / "open_clip_model.safetensors").unlink()
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    for ours, others in zip(encoded(folder), encoded(hub("xlm-roberta")), strict=True):
        assert apart(ours, others) == 0


def test_openclip_text_towers_that_became_parts_of_their_own(
    hub: Callable[[str], Path], tmp_path: Path
) -> None:
    """As open_clip: a file of CLIP for a config of CustomTextCLIP, without logit bias."""
    folder = Path(shutil.copytree(hub("laion"), tmp_path / "copy"))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"] |= {"custom_text": True, "init_logit_bias": -10}
    write_json(folder / "open_clip_config.json", config)
    texts, images = openclip_features(folder)
    our_texts, our_images = encoded(folder)
    assert apart(our_texts, texts) <= SAME
    assert apart(our_images, images) <= SAME
    assert float(checkpoint.load(folder).model().logit_bias.detach()) == 0


def test_what_open_clip_knows_and_we_do_not_is_said(
    hub: Callable[[str], Path], tmp_path: Path
) -> None:
    state, _ = files.read_weights(hub("siglip") / "open_clip_model.safetensors")
    torch.save(state, tmp_path / "alone.pt")
    with pytest.raises(FormatError, match="cannot be told from its shapes; name it with"):
        checkpoint.load(tmp_path / "alone.pt")
    with pytest.raises(InputError, match="this is a CoCa, which also writes captions"):
        checkpoint.load(tmp_path / "alone.pt", "openclip:coca_ViT-B-32")
    with pytest.raises(InputError, match="wants pictures resized by bilinear"):
        checkpoint.load(tmp_path / "alone.pt", "openclip:PE-Core-B-16@meta")
    with pytest.raises(InputError, match="open_clip has no model 'ViT-B-33'; names like it: ViT-B"):
        checkpoint.load(tmp_path / "alone.pt", "openclip:ViT-B-33")
    with pytest.raises(InputError, match="open_clip has no weights 'x' for ViT-B-32; known: "):
        checkpoint.load(tmp_path / "alone.pt", "openclip:ViT-B-32@x")
    folder = Path(shutil.copytree(hub("laion"), tmp_path / "laion"))
    config = json.loads((folder / "open_clip_config.json").read_text())
    for part, strange, sentence in (
        ("text_cfg", {"tokenizer_mode": "clips"}, "cuts texts into tokens in a way that is not"),
        ("text_cfg", {"tokenizer_kwargs": {"language": "zh"}}, "cuts texts into tokens in a way"),
        ("vision_cfg", {"image_size": [32, 64]}, r"wants pictures of \[32, 64\] pixels"),
    ):
        own = config["model_cfg"] | {part: config["model_cfg"][part] | strange}
        write_json(folder / "open_clip_config.json", config | {"model_cfg": own})
        with pytest.raises((FormatError, InputError), match=sentence):
            checkpoint.load(folder).processor()
    with pytest.raises(FormatError, match=r"the weights do not fit openclip:ViT-B-32: missing or"):
        checkpoint.load(tmp_path / "alone.pt", "openclip:ViT-B-32").model()


def test_a_text_tower_without_its_config_is_not_looked_up(
    hub: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(hub("xlm-roberta"), tmp_path / "copy"))
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"needs its config\.json beside the weights"):
        checkpoint.load(folder).model()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"this model's tokenizer \(here\) is missing"):
        checkpoint.load(folder).processor()


def test_a_config_cannot_send_us_to_the_hub(hub: Callable[[str], Path], tmp_path: Path) -> None:
    """timm looks "hf-hub:" names up; transformers asks whether to run the code of "auto_map"."""
    folder = Path(shutil.copytree(hub("xlm-roberta"), tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"auto_map": {"AutoConfig": "a/b--c.D"}})
    checkpoint.load(folder).model()
    folder = Path(shutil.copytree(hub("eva"), tmp_path / "timm"))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = "hf-hub:a/b"
    write_json(folder / "open_clip_config.json", config)
    with pytest.raises(FormatError, match="timm has no model 'hf-hub:a/b'"):
        checkpoint.load(folder).model()


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a JSON value something stands."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += leaves(value[key], (*path, key))
    return found


def changed(content: bytes, rng: random.Random) -> bytes:
    """A JSON file in which one thing is another, or gone."""
    value = json.loads(content)
    *path, last = rng.choice(leaves(value))
    place = value
    for key in path:
        place = place[key]
    others: list[Any] = [None, True, -1, 0, 1, 3, 10**6, 10**9, 10**12, 2**70, 1.5, "", "x", []]
    others += [{}, [1], {"a": 1}, float("nan"), "hf-hub:a/b"]
    place[last] = rng.choice(others)
    if rng.random() < 0.2 and isinstance(place, dict):
        del place[last]
    return json.dumps(value).encode()


SETTINGS = ("open_clip_config.json", "config.json", "tokenizer_config.json", "tokenizer.json")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("xlm-roberta", 20),
        *(pytest.param(name, 400, marks=pytest.mark.exhaustive) for name in ("worldwide", "nllb")),
        pytest.param("xlm-roberta", 400, marks=pytest.mark.exhaustive),
    ],
)
def test_damaged_settings(
    name: str, count: int, hub: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of a folder: each of its JSON files, as text and as values."""
    folder = Path(shutil.copytree(hub(name), tmp_path / "copy"))
    rng = random.Random(0)
    for file in SETTINGS:
        path = folder / file
        if not path.exists():
            continue
        content = path.read_bytes()

        def load(data: bytes, path: Path = path) -> None:
            path.write_bytes(data)
            found = checkpoint.load(folder)
            found.processor().tokens(TEXTS)
            found.model()

        survives(load, (changed(content, rng) for _ in range(count)))
        survives(load, mutations(content, count // 2, 0))
        path.write_bytes(content)
        load(content)


@pytest.mark.exhaustive
def test_every_architecture_of_open_clip_is_laid_out_or_refused() -> None:
    from wentu.clip import openclip
    from wentu.clip.model import architecture, build

    refused = {}
    for name in open_clip.list_models():
        try:
            with torch.device("meta"):
                model = build(architecture(openclip.PREFIX + name))
        except InputError as error:
            refused[name] = str(error)
        else:
            assert {each.device.type for each in model.state_dict().values()} == {"meta"}, name
    reasons = ("which also writes captions", "resized by bilinear", "needs its config.json")
    assert all(any(reason in text for reason in reasons) for text in refused.values())
    assert len(open_clip.list_models()) - len(refused) > 100


# --- transformers' Chinese-CLIP ---------------------------------------------------------------


def chinese_clip_of_transformers() -> Any:
    """Small, with heads that its widths do not tell."""
    text = {"vocab_size": 21128, "hidden_size": 64, "num_attention_heads": 4}
    text |= {"num_hidden_layers": 2, "intermediate_size": 128, "max_position_embeddings": 64}
    vision = {"hidden_size": 96, "num_attention_heads": 3, "num_hidden_layers": 2}
    vision |= {"intermediate_size": 384, "image_size": 32, "patch_size": 8}
    config = transformers.ChineseCLIPConfig(
        text_config=text, vision_config=vision, projection_dim=32
    )
    torch.manual_seed(0)
    return varied(transformers.ChineseCLIPModel(config))


def transformers_features(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """By its own model, image processor (Pillow's resize) and tokenizer."""
    model = transformers.ChineseCLIPModel.from_pretrained(folder).eval()
    side = {"height": 32, "width": 32}
    processor = transformers.ChineseCLIPImageProcessorPil(size=side, do_center_crop=False)
    words = bert_tokenizer()(
        TEXTS, padding="max_length", max_length=52, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        images = processor(list(pictures()), return_tensors="pt")
        found = model.get_text_features(**words), model.get_image_features(**images)
    return found[0].pooler_output, found[1].pooler_output


@pytest.mark.parametrize("form", ["safetensors", "bin", "shards", "file"])
def test_chinese_clip_of_transformers(form: str, tmp_path: Path, measure: Measure) -> None:
    model = chinese_clip_of_transformers()
    size = "300KB" if form == "shards" else "1GB"
    model.save_pretrained(tmp_path, max_shard_size=size)
    path = tmp_path
    if form == "bin":  # as of 2022: a pooler that nothing uses, and numbers of positions
        state = model.state_dict()
        state |= {"text_model.pooler.dense.weight": torch.ones(64, 64)}
        state |= {"text_model.pooler.dense.bias": torch.ones(64)}
        state |= {"text_model.embeddings.position_ids": torch.arange(64).expand(1, -1)}
        state |= {"vision_model.embeddings.position_ids": torch.arange(17).expand(1, -1)}
        torch.save(state, tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    elif form == "file":
        path = tmp_path / "model.safetensors"
    assert (form == "shards") == (tmp_path / "model.safetensors.index.json").exists()
    texts, images = transformers_features(tmp_path)
    our_texts, our_images = encoded(path)
    measure("texts", our_texts, texts, SAME)
    measure("pictures", our_images, images, SAME)
    assert checkpoint.load(path).architecture.config["text_num_attention_heads"] == 4


def test_heads_that_transformers_leaves_out_are_its_defaults(tmp_path: Path) -> None:
    """Its configs say only what differs from ViT-B-16: 12 heads."""
    model = chinese_clip_of_transformers()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for part, width in (("text_config", 64), ("vision_config", 96)):
        config[part].pop("num_attention_heads")
        assert config[part]["hidden_size"] == width
    write_json(tmp_path / "config.json", config)
    found = checkpoint.load(tmp_path).architecture.config
    assert (found["text_num_attention_heads"], found["vision_head_width"]) == (12, 8)


def test_a_config_of_another_model_beside_a_file_says_nothing(tmp_path: Path) -> None:
    model = chinese_clip_of_transformers()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "mine.safetensors")
    other = {"text_config": {"hidden_size": 1024, "num_attention_heads": 16}}
    write_json(tmp_path / "config.json", {"model_type": "chinese_clip"} | other)
    found = checkpoint.load(tmp_path / "mine.safetensors").architecture.config
    assert (found["text_num_attention_heads"], found.get("vision_head_width", 64)) == (1, 64)


@pytest.mark.parametrize(
    ("part", "odd"),
    [
        ("vision_config", {"hidden_act": "gelu"}),
        ("text_config", {"layer_norm_eps": 1e-5}),
        ("vision_config", {"layer_norm_eps": 1e-12}),
        ("text_config", {"num_attention_heads": "many"}),
        ("vision_config", {"num_attention_heads": 0}),
    ],
)
def test_what_computes_otherwise_is_refused(part: str, odd: dict[str, Any], tmp_path: Path) -> None:
    chinese_clip_of_transformers().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config[part] |= odd
    write_json(tmp_path / "config.json", config)
    with pytest.raises(FormatError, match=r"config\.json: not the config of such a model"):
        checkpoint.load(tmp_path)


def test_the_default_processor_of_transformers_resizes_by_torchvision(
    tmp_path: Path, measure: Measure
) -> None:
    """Its pixels are up to a few levels of 255 from Pillow's, which Chinese-CLIP trained with."""
    chinese_clip_of_transformers().save_pretrained(tmp_path)
    encoder = TorchEncoder(checkpoint.load(tmp_path))
    side = {"height": 32, "width": 32}
    processor = transformers.ChineseCLIPImageProcessor(size=side, do_center_crop=False)
    given = processor(list(pictures()), return_tensors="pt")["pixel_values"].numpy()
    ours = encoder.processor.normalize(
        np.stack([encoder.processor.pixels(each) for each in pictures()])
    )
    levels = np.abs(given - ours).max() * 255 * 0.27
    assert 0.5 < levels < 5


# --- clip-pytorch -----------------------------------------------------------------------------


def clip_pytorch_features(model: Any, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Shorter side resized, middle cut out; BERT's tokenizer, texts of any length."""
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD),
        ]
    )
    words = bert_tokenizer()(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        images = model.encode_image(torch.stack([transform(each) for each in pictures()]))
        return model.encode_text(words), images


@pytest.mark.parametrize("parallel", [False, True])
def test_clip_pytorch(parallel: bool, tmp_path: Path, measure: Measure) -> None:
    model = clip_pytorch_model()
    state = (torch.nn.DataParallel(model) if parallel else model).state_dict()
    torch.save(state, tmp_path / "ep100.pth")
    found = checkpoint.load(tmp_path / "ep100.pth")
    assert found.architecture.family == "clip-pytorch"
    texts, images = clip_pytorch_features(model, TEXTS[:-1])  # the longest has 92 tokens, not 77
    encoder = TorchEncoder(found)
    measure("texts", encoder.encode_text(TEXTS[:-1]), texts, SAME)
    measure("pictures", encoder.encode_image(pictures()), images, SAME)
    bundle = bundle_of(found, tmp_path)
    measure("ONNX texts", bundle.encode_text(TEXTS[:-1], 3), texts, 1e-4)
    measure("ONNX pictures", bundle.encode_image(pictures(), 3), images, 1e-4)


def test_clip_pytorch_survives_our_training_files(tmp_path: Path) -> None:
    torch.save(clip_pytorch_model().state_dict(), tmp_path / "a.pth")
    found = checkpoint.load(tmp_path / "a.pth")
    checkpoint.save(tmp_path / "b.pt", found.model().state_dict(), found, epoch=1, step=2, info={})
    again = checkpoint.load(tmp_path / "b.pt")
    assert again.architecture == found.architecture
    assert again.state is not None
    assert found.state is not None
    assert again.state.keys() == found.state.keys()
    assert all(torch.equal(again.state[name], found.state[name]) for name in found.state)


def test_families_are_told_apart_by_their_tensors() -> None:
    from cn_clip.clip.model import CLIP

    assert infer("chinese-clip", CLIP(**SMALL).state_dict()).family == "chinese-clip"
