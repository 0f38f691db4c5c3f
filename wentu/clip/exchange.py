"""Weights for other programs, and one model out of two files.

chinese-clip   .pt as cn_clip reads it
experiments    NAME/checkpoints/epoch_latest.pt and epochN.pt, as its training leaves them
safetensors    plain tensors, with our note
huggingface    a folder for transformers' ChineseCLIPModel
clip-pytorch   .pth with that program's names
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wentu.clip import layouts
from wentu.clip.checkpoint import Checkpoint, load, save
from wentu.clip.files import beside, read_weights, save_atomic, write_safetensors
from wentu.clip.model import Architecture, build, cn_clip_folder, infer
from wentu.clip.text import Tokenizer
from wentu.errors import InputError
from wentu.formats import read_json, write_atomic, write_json
from wentu.storage import link_or_copy

if TYPE_CHECKING:
    import torch

KINDS = ("chinese-clip", "experiments", "safetensors", "huggingface", "clip-pytorch")


def write(found: Checkpoint, kind: str, out: Path) -> list[Path]:
    """Write a checkpoint as ``kind`` to ``out`` (a file, or a folder); returns what was written.

    Raises InputError where the family has no such form.
    """
    if kind not in KINDS:
        raise InputError(
            f"--to {kind}: known are {', '.join(KINDS)}.",
            f"--to {kind}：可用：{', '.join(KINDS)}。",
        )
    needed = {"huggingface": "chinese-clip", "clip-pytorch": "clip-pytorch"}.get(kind)
    needed = "chinese-clip" if kind in ("chinese-clip", "experiments") else needed
    family = found.architecture.family
    if needed and family != needed:
        raise InputError(
            f"a model of the family {family} cannot be written as {kind}: it computes "
            "differently. Use --to safetensors, or the bundle that `wentu run` exports.",
            f"{family} 系列的模型不能写成 {kind}：计算方式不同。"
            "请用 --to safetensors，或使用 wentu run 导出的模型包。",
        )
    into_folder = kind in ("huggingface", "experiments")
    if out.is_file() if into_folder else out.is_dir():
        raise InputError(
            f"{out} is a {'file' if into_folder else 'folder'}; {kind} is written to a "
            f"{'folder' if into_folder else 'file'}.",
            f"{out} 是{'文件' if into_folder else '目录'}；{kind} 要写到"
            f"{'目录' if into_folder else '文件'}。",
        )
    model = found.model()
    if kind == "huggingface":
        return _hugging_face(found, out)
    if kind == "safetensors":
        notes = {"wentu": json.dumps(found.note(), ensure_ascii=False)}
        write_safetensors(out, model.state_dict(), notes)
        return [out]
    if kind == "clip-pytorch":
        import torch

        save_atomic(out, layouts.to_clip_pytorch(model.state_dict()), torch.save)
        return [out]
    place = out / "checkpoints" / "epoch_latest.pt" if kind == "experiments" else out
    save(place, model.state_dict(), found, epoch=found.epoch, step=found.step, info=found.info)
    if kind == "chinese-clip":
        return [place]
    numbered = place.with_name(f"epoch{found.epoch}.pt")
    numbered.unlink(missing_ok=True)
    link_or_copy(str(place), str(numbered))
    return [place, numbered]


def _hugging_face(found: Checkpoint, out: Path) -> list[Path]:
    """A folder that ``ChineseCLIPModel.from_pretrained`` and its processor read."""
    config, processor = found.architecture.config, found.processor()
    if isinstance(config["vision_layers"], list):
        raise InputError(
            "transformers' Chinese-CLIP has no ResNet: RN50 has no Hugging Face form.",
            "transformers 的 Chinese-CLIP 没有 ResNet:RN50 没有 Hugging Face 形式。",
        )
    pixels = processor.preprocessing
    if pixels.resize == "pad":
        raise InputError(
            "this model was trained on padded pictures (--resize pad), which transformers' "
            "Chinese-CLIP does not do: it has no Hugging Face form.",
            "该模型以补边(--resize pad)的图片训练，transformers 的 Chinese-CLIP 不支持："
            "没有 Hugging Face 形式。",
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", _hf_config(config))
    side = {"height": pixels.resolution, "width": pixels.resolution}
    crop = pixels.resize == "crop"
    picture = {
        "image_processor_type": "ChineseCLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": pixels.resolution} if crop else side,
        "resample": 3,
        "do_center_crop": crop,
        "crop_size": side,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
    }
    write_json(out / "preprocessor_config.json", picture)
    tokenizer = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": processor.context_length,
    }
    write_json(out / "tokenizer_config.json", tokenizer)
    Tokenizer.chinese_bert().save(out / "tokenizer.json")
    write_atomic(out / "vocab.txt", (cn_clip_folder() / "vocab.txt").read_bytes())
    state: dict[str, torch.Tensor] = layouts.to_hugging_face(found.model().state_dict())
    write_safetensors(out / "model.safetensors", state, {"format": "pt"})
    return sorted(path for path in out.iterdir() if path.is_file())


def _hf_config(config: Any) -> dict[str, Any]:
    text = {key.removeprefix("text_"): config[key] for key in config if key.startswith("text_")} | {
        "vocab_size": config["vocab_size"],
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": config["vision_width"],
        "intermediate_size": 4 * config["vision_width"],
        "num_hidden_layers": config["vision_layers"],
        "num_attention_heads": config["vision_width"] // config.get("vision_head_width", 64),
        "image_size": config["image_resolution"],
        "patch_size": config["vision_patch_size"],
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
    return {
        "architectures": ["ChineseCLIPModel"],
        "model_type": "chinese_clip",
        "projection_dim": config["embed_dim"],
        "text_config": text | {"model_type": "chinese_clip_text_model"},
        "vision_config": vision | {"model_type": "chinese_clip_vision_model"},
        "dtype": "float32",
    }


def combine(vision: Path, text: Path, seed: int = 0) -> Checkpoint:
    """A Chinese-CLIP from OpenAI's vision tower and a Chinese BERT; the two do not match yet.

    The projection of texts is drawn from ``seed`` (spread width**-0.5, as cn_clip starts one), so
    the result is a start for a training, as Chinese-CLIP's own was, and finds nothing before.
    """
    source = load(vision)
    own = source.architecture
    if own.family == "openclip" and not own.config["model"].get("quick_gelu"):
        raise InputError(
            f"the vision tower of {vision} computes with GELU; Chinese-CLIP's, like OpenAI's, with "
            "QuickGELU.",
            f"{vision} 的视觉塔使用 GELU，而 Chinese-CLIP 与 OpenAI 的使用 QuickGELU。",
        )
    pictures = {
        name: value
        for name, value in (source.state or {}).items()
        if name.startswith("visual.") or name == "logit_scale"
    }
    bert = layouts.bert_of(layouts.weights_in(read_weights(text)[0]))
    if layouts.BERT not in bert or not any(name.startswith("visual.") for name in pictures):
        raise InputError(
            f"{vision} must hold a CLIP's vision tower and {text} a BERT.",
            f"{vision} 应含 CLIP 的视觉塔，{text} 应含 BERT。",
        )
    import torch

    width = bert[layouts.BERT].shape[1]
    last = "visual.proj" if "visual.proj" in pictures else "visual.attnpool.c_proj.weight"
    embed_dim = pictures[last].shape[1 if last.endswith("proj") else 0]
    generator = torch.Generator().manual_seed(seed)
    projection = torch.randn(width, embed_dim, generator=generator) * width**-0.5
    state = pictures | bert | {"text_projection": projection}
    arch = infer("chinese-clip", state)
    arch = replace(arch, config=dict(arch.config) | _told_by_bert(text, width))
    empty = build(arch, seed).state_dict()  # what neither file has, e.g. a missing logit scale
    return Checkpoint(architecture=arch, state=empty | state)


def _told_by_bert(text: Path, width: int) -> dict[str, Any]:
    """What BERT's config.json knows beyond its shapes; one of another width is another model's."""
    found = beside(text, "config.json")
    value = read_json(found) if found else {}
    if not isinstance(value, dict) or value.get("hidden_size") != width:
        return {}
    act, eps = value.get("hidden_act", "gelu"), value.get("layer_norm_eps", 1e-12)
    heads = value.get("num_attention_heads", 12)
    if act not in ("gelu", "relu", "gelu_new") or eps != 1e-12 or not isinstance(heads, int):
        raise InputError(
            f"{found}: hidden_act {act}, layer_norm_eps {eps}, num_attention_heads {heads}: "
            "Chinese-CLIP's text tower does not compute like this.",
            f"{found}：hidden_act {act}、layer_norm_eps {eps}、num_attention_heads {heads}："
            "Chinese-CLIP 的文本塔不支持这种计算方式。",
        )
    return {"text_num_attention_heads": heads, "text_hidden_act": act}


def describe(found: Checkpoint) -> list[tuple[str, str]]:
    """(what, value) rows of ``wentu weights inspect``."""
    arch: Architecture = found.architecture
    state = found.state or {}
    total = sum(tensor.numel() for tensor in state.values())
    processor = found.processor()
    rows = [
        ("family", arch.family),
        ("architecture", arch.name),
        ("parameters", f"{total:,}"),
        ("tensors", f"{len(state):,}"),
        ("embedding", str(arch.embed_dim)),
        ("picture", f"{processor.resolution} px, {processor.preprocessing.resize}"),
        ("context length", str(processor.context_length)),
        ("convert", processor.convert),
        ("epoch, step", f"{found.epoch}, {found.step}"),
    ]
    if "logit_scale" in state:
        rows.append(("logit scale", f"{float(state['logit_scale'].exp()):.2f}"))
    for name in ("model", "weights"):
        if found.info.get(name):
            rows.append((f"trained from ({name})", str(found.info[name])))
    return rows
