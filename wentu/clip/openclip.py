"""open_clip's models (github.com/mlfoundations/open_clip): English, and many languages.

Named ``openclip:ViT-B-32`` (architecture) or ``openclip:ViT-B-32@laion2b_s34b_b79k`` (with the
weights of that tag), or a folder as the hub keeps them (open_clip_config.json beside the weights).
Their classes are used as they are; the tokenizer and the preprocessing become ours, so that they
travel through the bundle and serve without torch.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wentu.clip.tokenizers import TextTokenizer, clip_tokenizer, tokenizer_from
from wentu.errors import FormatError, InputError
from wentu.formats import read_json

PREFIX = "openclip:"
CONFIG = "open_clip_config.json"
_TEXT_PARTS = (
    "text_projection",
    "positional_embedding",
    "token_embedding",
    "transformer",
    "ln_final",
)
RESIZE = {"shortest": "crop", "squash": "squash", "longest": "pad"}
"""open_clip's names for what we call crop, squash and pad."""


def package() -> Any:
    """open_clip, imported when it is needed; InputError where it is not installed."""
    try:
        import open_clip
    except ImportError:
        raise InputError(
            "the package open_clip_torch is not installed: pip install 'wentu[train]'.",
            "没有安装 open_clip_torch：请运行 pip install 'wentu[train]'。",
        ) from None
    return open_clip


def split_name(name: str) -> tuple[str, str]:
    """(model, tag) of ``openclip:MODEL@TAG``; the tag may be empty."""
    model, _, tag = name.removeprefix(PREFIX).partition("@")
    return model, tag


def config_of(name: str) -> dict[str, Any]:
    """The config of a named architecture; with a tag, the preprocessing that goes with it."""
    opened = package()
    model, tag = split_name(name)
    found = opened.get_model_config(model)
    if found is None:
        import difflib

        known = opened.list_models()
        near = ", ".join(difflib.get_close_matches(model, known, 5, 0.3)) or ", ".join(known[:5])
        raise InputError(
            f"open_clip has no model {model!r}; names like it: {near}.",
            f"open_clip 中没有模型 {model!r}；相近的名称：{near}。",
        )
    tags = opened.list_pretrained_tags_by_model(model)
    if tag and tag not in tags:
        raise InputError(
            f"open_clip has no weights {tag!r} for {model}; known: {', '.join(tags) or '-'}.",
            f"open_clip 的 {model} 没有权重 {tag!r}；可用：{'、'.join(tags) or '-'}。",
        )
    # Without a tag, the preprocessing of the first: a family's weights were trained alike.
    chosen = tag or (tags[0] if tags else "")
    about = opened.get_pretrained_cfg(model, chosen) or {} if chosen else {}
    settings = dict(found)
    if tag and about.get("quick_gelu"):
        settings["quick_gelu"] = True
    return _config(settings, about)


def _config(model: Mapping[str, Any], preprocess: Mapping[str, Any]) -> dict[str, Any]:
    if "multimodal_cfg" in model:
        raise InputError(
            "this is a CoCa, which also writes captions; here only models with two towers are "
            "known.",
            "这是会生成描述的 CoCa 模型，这里只支持双塔模型。",
        )
    if preprocess.get("interpolation", "bicubic") not in ("bicubic", "random"):
        raise InputError(
            f"this model wants pictures resized by {preprocess['interpolation']}; here only "
            "bicubic is known.",
            f"该模型要求以 {preprocess['interpolation']} 缩放图片，这里只支持 bicubic。",
        )
    size = model["vision_cfg"].get("image_size", 224)
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1:
        raise InputError(
            f"this model wants pictures of {size} pixels; here only squares are known.",
            f"该模型要求 {size} 像素的图片，这里只支持正方形。",
        )
    pixels: dict[str, Any] = {
        "resolution": int(sides.pop()),
        "resize": RESIZE[preprocess.get("resize_mode") or "shortest"],
    }
    if pixels["resize"] == "pad":
        fill = preprocess.get("fill_color", 0)
        pixels["fill"] = int(fill[0] if isinstance(fill, list | tuple) else fill)
    for name in ("mean", "std"):
        if preprocess.get(name):
            pixels[name] = [float(value) for value in preprocess[name]]
    return {"model": json.loads(json.dumps(model)), "preprocessing": pixels}


def from_folder(folder: Path) -> dict[str, Any]:
    """The config in a hub's folder (``open_clip_config.json``)."""
    value = read_json(folder / CONFIG)
    try:
        return _config(value["model_cfg"], value.get("preprocess_cfg", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{folder / CONFIG} is no open_clip config ({error!r}).",
            f"{folder / CONFIG} 不是 open_clip 的配置({error!r})。",
        ) from None


def from_openai(state: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a state dict of OpenAI's shape; QuickGELU, as all of OpenAI's have."""
    text = {
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": state["token_embedding.weight"].shape[0],
        "width": state["ln_final.weight"].shape[0],
        "heads": state["ln_final.weight"].shape[0] // 64,
        "layers": _numbered(state, "transformer.resblocks."),
    }
    vision: dict[str, Any]
    if "visual.proj" in state:
        patch = state["visual.conv1.weight"].shape[-1]
        grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        vision = {
            "image_size": grid * patch,
            "layers": _numbered(state, "visual.transformer.resblocks."),
            "width": state["visual.conv1.weight"].shape[0],
            "patch_size": patch,
        }
    else:
        grid = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
        vision = {
            "image_size": grid * 32,
            "layers": [_numbered(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)],
            "width": state["visual.layer1.0.conv1.weight"].shape[0],
            "patch_size": None,
        }
    model = {
        "embed_dim": state["text_projection"].shape[1],
        "quick_gelu": True,
        "vision_cfg": vision,
        "text_cfg": text,
    }
    return _config(model, {})


def is_openai(names: Iterable[object], state: Mapping[str, Any]) -> bool:
    """Are they OpenAI's own? LAION's and others' have the same names and shapes, but compute with
    GELU. Among OpenAI's tensors are three numbers; and its weights are those of float16."""
    if any(str(name).endswith("input_resolution") for name in names):
        return True
    values = (value for value in state.values() if value.is_floating_point())
    return all(bool((value == value.half().float()).all()) for value in values)


def _numbered(state: Mapping[str, Any], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def build(config: Mapping[str, Any]) -> Any:
    """The model with random weights, in training mode."""
    model = json.loads(json.dumps(config["model"]))
    opened = package()
    kind = opened.CustomTextCLIP if _is_custom(model) else opened.CLIP
    for part in ("vision_cfg", "text_cfg"):
        model[part].pop("output_tokens", None)  # beside the features, for CoCa
    if name := model["vision_cfg"].get("timm_model_name"):
        if ":" in name:  # "hf-hub:…" would be looked up there
            raise FormatError(f"timm has no model {name!r}.", f"timm 中没有模型 {name!r}。")
        model["vision_cfg"]["timm_model_pretrained"] = False
    accepted = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_bias")
    arguments = {key: model[key] for key in accepted if key in model}
    if "hf_model_name" not in model["text_cfg"]:
        return kind(**arguments)
    if not config.get("text_config"):  # open_clip would ask the hub for it
        name = model["text_cfg"]["hf_model_name"]
        raise InputError(
            f"the text tower {name} needs its config.json beside the weights: run `wentu weights "
            "get` for this model, which brings it.",
            f"文本塔 {name} 需要权重旁的 config.json：请对该模型运行 wentu weights get。",
        )
    with tempfile.TemporaryDirectory() as folder:
        own = {key: value for key, value in config["text_config"].items() if key != "auto_map"}
        (Path(folder) / "config.json").write_text(json.dumps(own), "utf-8")
        text = arguments["text_cfg"] | {"hf_model_pretrained": False, "hf_model_name": folder}
        return kind(**(arguments | {"text_cfg": text}))


def _is_custom(model: Mapping[str, Any]) -> bool:
    """Is its text tower a part of its own (open_clip's CustomTextCLIP)?"""
    return bool(model.get("custom_text")) or "hf_model_name" in model["text_cfg"]


def adapted(config: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` as the model wants it, by the rules of open_clip's own ``load_checkpoint``.

    Text towers that became parts of their own, a logit scale in a list, a missing logit bias.
    """
    result = dict(state)
    if _is_custom(config["model"]) and "text_projection" in state:
        result = {f"text.{k}" if k.startswith(_TEXT_PARTS) else k: v for k, v in state.items()}
    for name in ("logit_scale", "logit_bias"):
        if name in result and result[name].numel() == 1:
            result[name] = result[name].reshape(())
    if config["model"].get("init_logit_bias") is not None and "logit_scale" in result:
        result.setdefault("logit_bias", result["logit_scale"] * 0)
    return result


def tokenizer_of(config: Mapping[str, Any], tokenizer_json: str) -> TextTokenizer:
    """The model's tokenizer: OpenAI's BPE, or what ``tokenizer.json`` holds.

    Raises InputError where the model needs a tokenizer of its own and none came with it.
    """
    text = config["model"]["text_cfg"]
    options = text.get("tokenizer_kwargs") or {}
    known = isinstance(options, Mapping) and set(options) <= {"clean", "strip_sep_token"}
    if not known or text.get("tokenizer_mode"):
        asked = {key: text[key] for key in ("tokenizer_mode", "tokenizer_kwargs") if key in text}
        raise FormatError(
            f"this model cuts texts into tokens in a way that is not known here: {asked}.",
            f"该模型的分词方式在此不受支持：{asked}。",
        )
    name = text.get("hf_tokenizer_name") or text.get("hf_model_name", "")
    if not name:
        settings = {"kind": "clip", "fixed_length": True, "clean": options.get("clean", "lower")}
        return tokenizer_from(clip_tokenizer(), settings)
    if not tokenizer_json:
        raise InputError(
            f"this model's tokenizer ({name}) is missing: put its tokenizer.json beside the "
            "weights, or run `wentu weights get` for this model.",
            f"缺少该模型的分词器({name})：请把它的 tokenizer.json 放在权重旁，"
            "或对该模型运行 wentu weights get。",
        )
    settings = {
        "kind": "hf",
        "fixed_length": True,
        "clean": options.get("clean", "whitespace"),
        "strip_sep": bool(options.get("strip_sep_token", False)),
        **config.get("tokenizer", {}),
    }
    return tokenizer_from(tokenizer_json, settings)


def set_patch_dropout(visual: Any, share: float) -> None:
    """Let a vision tower of open_clip leave out a share of its patches in training."""
    from open_clip.transformer import PatchDropout

    if share or isinstance(visual.patch_dropout, PatchDropout):
        visual.patch_dropout = PatchDropout(share)
