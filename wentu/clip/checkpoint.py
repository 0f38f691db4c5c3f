"""Checkpoints: weights, how to build their model, and what it wants to be fed.

What we write, cn_clip reads; one more key, ``wentu``, says how to build the model and how its
texts and pictures are prepared, so that no architecture arguments are needed. What others write
is recognised by its tensors' names and shapes (see layouts.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wentu.clip import layouts, openclip
from wentu.clip.download import target
from wentu.clip.files import beside, read_weights, save_atomic, weights_sha256
from wentu.clip.model import (
    FAMILIES,
    NAMES,
    SCRATCH,
    VISION_AND_TEXT,
    Architecture,
    architecture,
    build,
    infer,
    misfit,
)
from wentu.clip.processor import Processor
from wentu.clip.text import Tokenizer
from wentu.clip.tokenizer_file import read_tokenizer
from wentu.errors import FormatError, InputError
from wentu.formats import FORMAT, read_json
from wentu.settings import weights_folder
from wentu.storage import local_copy

if TYPE_CHECKING:
    import torch

TUNED = ("context_length", "resize", "convert")
"""Keys of ``Checkpoint.info`` that say how a fine-tuned model's input was prepared."""
MOST_TOKENS = 65_536
"""Of a text. Every row of a batch may be as long as that, so a file is not believed beyond it."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights and what is known of them."""

    architecture: Architecture
    state: Mapping[str, torch.Tensor] | None = None
    """float32, in our spelling; None: drawn from ``seed``."""
    seed: int = 0
    epoch: int = 0
    step: int = 0
    info: Mapping[str, Any] = field(default_factory=dict)
    """Our own notes: what it was trained from and on; empty for foreign files."""
    tokenizer_json: str = ""
    """For families whose tokenizer is no part of an installed package."""

    def model(self) -> Any:
        """The model with these weights, float32, in evaluation mode."""
        if self.state is None:
            return build(self.architecture, self.seed).eval()
        self.refuse_misfit()
        model = build(self.architecture, self.seed)
        model.load_state_dict(self.state)
        return model.eval()

    def refuse_misfit(self, path: str = "") -> None:
        """FormatError where the weights are not those of the architecture, whose file is named."""
        missing, unexpected = misfit(self.architecture, self.state or {})
        if missing or unexpected:
            name = self.architecture.name
            en, zh = (f"{path}: ", f"{path}：") if path else ("", "")
            raise FormatError(
                f"{en}the weights do not fit {name}: missing or of another shape {missing[:3]}, "
                f"unexpected {unexpected[:3]}; the file is cut, or of another architecture: look "
                "with `wentu weights inspect`, and take a whole file.",
                f"{zh}权重与 {name} 不符：缺少或形状不同 {missing[:3]}，多出 {unexpected[:3]}；"
                "文件不完整或属于其他架构：请用 wentu weights inspect 查看，并换用完整的文件。",
            )

    def processor(self) -> Processor:
        """How its texts and pictures are prepared: the family's way, as it was fine-tuned."""
        arch = self.architecture
        resize = str(self.info.get("resize") or arch.preprocessing.resize)
        tokenizer = (
            openclip.tokenizer_of(arch.config, self.tokenizer_json)
            if arch.family == "openclip"
            else Tokenizer.chinese_bert()
        )
        return Processor(
            tokenizer=tokenizer,
            preprocessing=replace(arch.preprocessing, resize=resize),
            context_length=int(self.info.get("context_length") or arch.context_length),
            convert=str(self.info.get("convert") or "none"),
        )

    def note(self) -> dict[str, Any]:
        """What a file of ours says beside the tensors."""
        return {
            "format": FORMAT,
            "name": self.architecture.name,
            "family": self.architecture.family,
            "config": dict(self.architecture.config),
            "info": dict(self.info),
            "tokenizer": self.tokenizer_json,
        }


def save(
    path: Path,
    state: Mapping[str, torch.Tensor],
    like: Checkpoint,
    *,
    epoch: int,
    step: int,
    info: Mapping[str, Any],
) -> None:
    """Write weights as a checkpoint of ``like``'s kind: keys ``module.*``, float32, on the CPU."""
    import torch

    state = {f"module.{k}": v.detach().float().cpu() for k, v in state.items()}
    made = replace(like, info=info)
    value = {
        "epoch": epoch,
        "step": step,
        "name": like.architecture.name,
        "state_dict": state,
        "optimizer": {},  # cn_clip looks for it; ours is in the training state
        "wentu": made.note(),
    }
    save_atomic(path, value, torch.save)


def load(path: Path, name: str = "") -> Checkpoint:
    """A file or a folder of weights, whoever wrote it.

    Args:
        name: the architecture, where the shapes do not tell (open_clip's).
    """
    value, notes = read_weights(path)
    try:
        note = json.loads(notes["wentu"]) if "wentu" in notes else value.get("wentu", {})
        raw = layouts.weights_in(value)
        family, state = layouts.standard(raw)
    except (ValueError, RecursionError, FormatError) as error:
        raise FormatError(f"{path}: {error}", f"{path}：{error}") from None
    if note:
        arch = _noted(path, note)
    elif name:
        arch = architecture(name)
        if family != "openclip" and arch.family != "openclip":
            arch = replace(arch, family=family)
    elif family == "openclip" and beside(path, openclip.CONFIG):
        folder = path if path.is_dir() else path.parent
        arch = Architecture(name="openclip", config=openclip.from_folder(folder), family="openclip")
    else:
        arch = infer(family, state)
        if family == "openclip" and not openclip.is_openai(raw, state):
            raise FormatError(
                f"{path}: OpenAI's models (QuickGELU) and others of open_clip (GELU) have the same "
                "tensors; name this one with `wentu weights convert --architecture openclip:NAME`.",
                f"{path}：OpenAI 的模型(QuickGELU)与 open_clip 的其他模型(GELU)张量相同；"
                "请用 wentu weights convert --architecture openclip:名称 指定。",
            )
    if not note:
        arch = _told_beside(path, arch)
    _check(path, arch)
    if arch.family == family == "openclip":
        state = openclip.adapted(arch.config, state)
    tokenizer = str(note.get("tokenizer", "")) if note else _tokenizer_beside(path, arch)
    return Checkpoint(
        architecture=arch,
        state=state,
        epoch=_whole(value.get("epoch", 0)),
        step=_whole(value.get("step", 0)),
        info=note.get("info", {}),
        tokenizer_json=tokenizer,
    )


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _noted(path: Path, note: Any) -> Architecture:
    """The architecture in a file's own note."""
    version = note.get("format") if isinstance(note, dict) else None
    if version != FORMAT:
        raise FormatError(
            f"{path} has format {version}; this wentu reads {FORMAT}.",
            f"{path} 的格式版本是 {version}，本版 wentu 只读 {FORMAT}。",
        )
    kinds = {"name": str, "config": dict, "family": str, "info": dict, "tokenizer": str}
    wrong = [key for key, kind in kinds.items() if not isinstance(note.get(key), kind)]
    if not wrong and note["family"] not in FAMILIES:
        wrong = ["family"]
    told = {"context_length": int, "resize": str, "convert": str}
    info = note["info"] if "info" not in wrong else {}
    wrong += [key for key in TUNED if not isinstance(info.get(key) or told[key](), told[key])]
    if not wrong and not 0 <= (info.get("context_length") or 2) <= MOST_TOKENS:
        wrong = ["context_length"]
    if wrong:
        raise FormatError(
            f"{path}: its note lacks or has a strange {', '.join(wrong)}.",
            f"{path} 的说明缺少 {'、'.join(wrong)}，或其值无效。",
        )
    return Architecture(name=note["name"], config=note["config"], family=note["family"])


def _check(path: Path, arch: Architecture) -> None:
    """FormatError for a config that lacks what every family has."""
    try:
        sizes = arch.embed_dim, arch.resolution, arch.context_length
        if min(sizes) < 1 or arch.context_length > MOST_TOKENS:
            raise ValueError(sizes)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{path}: the model's config is incomplete or strange ({error!r}).",
            f"{path}：模型的配置不完整或无效({error!r})。",
        ) from None


def _told_beside(path: Path, arch: Architecture) -> Architecture:
    """What only the files beside foreign weights say: heads, padding, the text tower's config."""
    found = beside(path, "config.json")
    value = read_json(found) if found else {}
    config = dict(arch.config)
    try:
        if arch.family == "openclip":
            tokens = beside(path, "tokenizer_config.json")
            pad = read_json(tokens).get("pad_token") if tokens else None
            if isinstance(pad, dict):
                pad = pad.get("content")
            config |= {"tokenizer": {"pad_id": pad}} if pad else {}
            if "hf_model_name" in config["model"]["text_cfg"] and value.get("model_type"):
                config |= {"text_config": value}
        elif value.get("model_type") == "chinese_clip":
            config |= _of_hugging_face(value, config)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise FormatError(
            f"{found}: not the config of such a model ({error!r}).",
            f"{found}：不是该类模型的配置({error!r})。",
        ) from None
    return replace(arch, config=config)


def _of_hugging_face(value: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json of transformers' ChineseCLIPModel knows beyond the shapes.

    What it leaves out is as in ViT-B-16. A config of other sizes belongs to another file.
    """
    text, vision = value.get("text_config") or {}, value.get("vision_config") or {}
    width = int(config["vision_width"])
    sizes = text.get("hidden_size", 768), vision.get("hidden_size", 768)
    if sizes != (config["text_hidden_size"], width):
        return {}
    odd = {
        "hidden_act": vision.get("hidden_act", "quick_gelu") != "quick_gelu",
        "layer_norm_eps": (text.get("layer_norm_eps", 1e-12), vision.get("layer_norm_eps", 1e-5))
        != (1e-12, 1e-5),
    }
    if any(odd.values()):
        names = ", ".join(name for name, is_odd in odd.items() if is_odd)
        raise ValueError(f"{names} other than Chinese-CLIP's")
    return {
        "text_num_attention_heads": int(text.get("num_attention_heads", 12)),
        "text_hidden_act": str(text.get("hidden_act", "gelu")),
        "vision_head_width": width // int(vision.get("num_attention_heads", 12)),
    }


def _tokenizer_beside(path: Path, arch: Architecture) -> str:
    found = beside(path, "tokenizer.json") if arch.family == "openclip" else None
    return read_tokenizer(found) if found else ""


# --- what a model name or path means -----------------------------------------------------------


def is_name(model: str) -> bool:
    """Is it the name of an architecture rather than a path?"""
    return model in NAMES or model.startswith(openclip.PREFIX)


def find_weights(model: str) -> Path | None:
    """The file or folder that ``model`` (a name or a path) starts from; None: drawn from a seed.

    Raises InputError that names the file and the folder where pretrained weights are missing.
    """
    if model == "tiny" or (model.startswith(SCRATCH) and is_name(model[len(SCRATCH) :])):
        return None
    model = model.removeprefix(SCRATCH)
    if not is_name(model):
        path = local_copy(model)
        if not path.exists():
            raise InputError(
                f"--model {model}: neither a file nor one of {', '.join(NAMES)}.",
                f"--model {model}：既不是文件，也不是 {', '.join(NAMES)} 之一。",
            )
        return path
    if model not in VISION_AND_TEXT and not openclip.split_name(model)[1]:
        architecture(model)  # names the known ones
        raise InputError(
            f"{model} names no weights: add @TAG (`wentu weights get {model}` lists them), or "
            "--scratch to train from random weights.",
            f"{model} 没有指明权重：请加上 @标签(运行 wentu weights get {model} 可列出)，"
            "或加 --scratch 从随机权重训练。",
        )
    path = target(model, weights_folder())
    if not path.exists():
        raise InputError(
            f"the pretrained weights of {model} are not on this machine: run `wentu weights get "
            f"{model}`, or put {path.name} into {path.parent} (or name its folder in "
            "WENTU_WEIGHTS), add --scratch to train from random weights, or --model tiny for a "
            "small model.",
            f"本机没有 {model} 的预训练权重：请运行 wentu weights get {model}，或把 {path.name} "
            f"放入 {path.parent}(或用 WENTU_WEIGHTS 指定目录)，或加 --scratch 从随机权重训练，"
            "或用 --model tiny 训练小模型。",
        )
    return path


def start(model: str, *, seed: int = 0) -> Checkpoint:
    """What a training starts from: pretrained weights, a checkpoint, or a seed.

    Raises InputError or FormatError where the file is of another architecture than its name or its
    own note says.
    """
    path, name = find_weights(model), model.removeprefix(SCRATCH)
    if path is None:
        return Checkpoint(architecture=architecture(name), seed=seed)
    found = load(path, name if name.startswith(openclip.PREFIX) else "")
    refuse_another(path, name, found.architecture.name)
    found.refuse_misfit(str(path))
    return replace(found, state=None, seed=seed) if name != model else found


def refuse_another(path: Path, name: str, held: str) -> None:
    """InputError where the file of the pretrained weights ``name`` holds another architecture."""
    if name in VISION_AND_TEXT and held != name:
        raise InputError(
            f"{path} holds {held}, not {name}: give its path to use it as it is, or remove it and "
            f"run `wentu weights get {name}`.",
            f"{path} 中是 {held}，而不是 {name}：要照原样使用，请给出它的路径；"
            f"否则请删除它并运行 wentu weights get {name}。",
        )


def weights_digest(model: str) -> str:
    """The digest of what ``model`` starts from; empty where it is drawn from a seed."""
    path = find_weights(model)
    return weights_sha256(path) if path else ""
