"""The models: families, named architectures, our ``tiny`` one, and shapes -> model.

A family says how a model computes: Chinese-CLIP's (cn_clip's classes), clip-pytorch's, open_clip's.
Whatever the family, a model has ``encode_image``, ``encode_text`` and ``logit_scale``. cn_clip
takes 4 s to import, so it is imported where a model is built and nowhere else.
"""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wentu.clip import clip_pytorch, openclip
from wentu.errors import FormatError, InputError, WentuError
from wentu.pictures import Preprocessing

if TYPE_CHECKING:
    import torch

VISION_AND_TEXT = {  # as in cn_clip.clip.utils._MODEL_INFO
    "ViT-B-16": ("ViT-B-16", "RoBERTa-wwm-ext-base-chinese", "clip_cn_vit-b-16.pt"),
    "ViT-L-14": ("ViT-L-14", "RoBERTa-wwm-ext-base-chinese", "clip_cn_vit-l-14.pt"),
    "ViT-L-14-336": ("ViT-L-14-336", "RoBERTa-wwm-ext-base-chinese", "clip_cn_vit-l-14-336.pt"),
    "ViT-H-14": ("ViT-H-14", "RoBERTa-wwm-ext-large-chinese", "clip_cn_vit-h-14.pt"),
    "RN50": ("RN50", "RBT3-chinese", "clip_cn_rn50.pt"),
}
TINY: dict[str, Any] = {
    "embed_dim": 128,
    "image_resolution": 64,
    "vision_layers": 3,
    "vision_width": 128,
    "vision_patch_size": 8,
    "vision_head_width": 32,
    "vocab_size": 21128,
    "text_attention_probs_dropout_prob": 0.0,
    "text_hidden_act": "gelu",
    "text_hidden_dropout_prob": 0.0,
    "text_hidden_size": 128,
    "text_initializer_range": 0.08,
    "text_intermediate_size": 512,
    "text_max_position_embeddings": 64,
    "text_num_attention_heads": 2,
    "text_num_hidden_layers": 3,
    "text_type_vocab_size": 2,
}
"""4 M parameters, of which 2.7 M embed the vocabulary; trains on two CPU cores in minutes.

BERT's initializer_range of 0.02 is made for a width of 768; the same share of the signal at width
128 needs about 0.08 (1 / sqrt(width) = 0.09). With 0.02 the text tower is what learns last."""
NAMES = ("tiny", *VISION_AND_TEXT)
SCRATCH = "scratch:"
"""Before a name or a path: that architecture, with random weights."""
FAMILIES = ("chinese-clip", "clip-pytorch", "openclip")
MOST = 2**24
"""In a config: no model has a width, a length or a vocabulary of 16 million."""
MOST_NUMBERS = 2**28
"""In tables that a model makes for itself and no file holds, such as those of positions."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What it takes to build a model."""

    name: str
    config: Mapping[str, Any]
    """chinese-clip and clip-pytorch: the keyword arguments of cn_clip's CLIP; openclip: the
    package's own config under ``model``, and ``preprocessing``."""
    family: str = "chinese-clip"

    @property
    def embed_dim(self) -> int:
        """Length of the embeddings."""
        own = self.config["model"] if self.family == "openclip" else self.config
        return int(own["embed_dim"])

    @property
    def context_length(self) -> int:
        """Tokens of a text that the model was made for."""
        if self.family == "openclip":
            return int(self.config["model"]["text_cfg"].get("context_length", 77))
        own = {"chinese-clip": 52, "clip-pytorch": clip_pytorch.CONTEXT_LENGTH}[self.family]
        return min(own, int(self.config["text_max_position_embeddings"]))

    @property
    def preprocessing(self) -> Preprocessing:
        """How the family turns pictures into its input."""
        if self.family == "openclip":
            return Preprocessing.from_json(self.config["preprocessing"])
        resize = "crop" if self.family == "clip-pytorch" else "squash"
        return Preprocessing(resolution=int(self.config["image_resolution"]), resize=resize)

    @property
    def resolution(self) -> int:
        """Pixels of a side of the model's square input."""
        return self.preprocessing.resolution


@cache
def cn_clip_folder() -> Path:
    """Where cn_clip keeps its configs and its vocabulary; found without importing it."""
    spec = importlib.util.find_spec("cn_clip")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the package cn_clip is not installed: pip install 'wentu[train]'.",
            "没有安装 cn_clip：请运行 pip install 'wentu[train]'。",
        )
    return Path(next(iter(spec.submodule_search_locations))) / "clip"


def architecture(name: str) -> Architecture:
    """A named architecture; InputError lists the known ones."""
    if name.startswith(openclip.PREFIX):
        return Architecture(name=name, config=openclip.config_of(name), family="openclip")
    if name == "tiny":
        return Architecture(name=name, config=TINY)
    if name not in VISION_AND_TEXT:
        raise InputError(
            f"no model is called {name!r}; known: {', '.join(NAMES)}, openclip:NAME, or a "
            "path to a checkpoint.",
            f"没有名为 {name!r} 的模型；可用：{', '.join(NAMES)}、openclip:名称，或检查点的路径。",
        )
    config: dict[str, Any] = {}
    for part in VISION_AND_TEXT[name][:2]:
        config |= json.loads(
            (cn_clip_folder() / "model_configs" / f"{part}.json").read_text("utf-8")
        )
    if isinstance(config["vision_layers"], str):
        config["vision_layers"] = list(ast.literal_eval(config["vision_layers"]))
    return Architecture(name=name, config=config)


def infer(family: str, state: Mapping[str, torch.Tensor]) -> Architecture:
    """The architecture that a state dict was made with, from the shapes of its tensors.

    ``state`` is spelled as ``layouts.standard`` leaves it. Attention heads are in no shape: they
    are those of the named model that fits, else of 64 units, as in all of OpenAI's and BERT's.
    """
    try:
        if family == "openclip":
            return Architecture(name="openai", config=openclip.from_openai(state), family=family)
        shape = _shape_of(state)
    except (KeyError, IndexError) as error:
        raise FormatError(
            f"the checkpoint has no tensor {error}: its model cannot be told from its shapes; "
            "name it with `wentu weights convert --architecture NAME`.",
            f"检查点中没有张量 {error}，无法由形状推断模型；"
            "请用 wentu weights convert --architecture 名称 指定。",
        ) from None
    for name in NAMES:
        known = architecture(name).config
        if all(known.get(key) == value for key, value in shape.items()):
            return Architecture(name=name, config=known, family=family)
    base = dict(architecture("ViT-B-16").config) | shape
    base["text_num_attention_heads"] = max(1, shape["text_hidden_size"] // 64)
    return Architecture(name="custom", config=base, family=family)


def _count(state: Mapping[str, Any], prefix: str) -> int:
    """How many numbered blocks follow a prefix: ``prefix0.``, ``prefix1.``, …"""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def _shape_of(state: Mapping[str, Any]) -> dict[str, Any]:
    words = state["bert.embeddings.word_embeddings.weight"]
    inner = state["bert.encoder.layer.0.intermediate.dense.weight"]
    shape: dict[str, Any] = {
        "embed_dim": state["text_projection"].shape[1],
        "vocab_size": words.shape[0],
        "text_hidden_size": words.shape[1],
        "text_intermediate_size": inner.shape[0],
        "text_max_position_embeddings": state["bert.embeddings.position_embeddings.weight"].shape[
            0
        ],
        "text_num_hidden_layers": _count(state, "bert.encoder.layer."),
        "text_type_vocab_size": state["bert.embeddings.token_type_embeddings.weight"].shape[0],
    }
    if "visual.attnpool.positional_embedding" in state:  # a ResNet
        width = state["visual.layer1.0.conv1.weight"].shape[0]
        grid = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
        layers = [_count(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)]
        return shape | {
            "vision_layers": layers,
            "vision_width": width,
            "image_resolution": grid * 32,
        }
    patches = state["visual.conv1.weight"]
    grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    return shape | {
        "vision_width": patches.shape[0],
        "vision_patch_size": patches.shape[2],
        "vision_layers": _count(state, "visual.transformer.resblocks."),
        "image_resolution": grid * patches.shape[2],
    }


def misfit(arch: Architecture, state: Mapping[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    """(what ``state`` lacks of the model or has in another shape, what it has beyond it).

    The model is laid out without memory: a damaged file may speak of a word list of a terabyte.
    Raises FormatError for a config that no model can be built from.
    """
    import torch

    for name, number in _numbers(arch.config):
        if number > (len(state) if "layers" in name else MOST):
            raise _impossible(f"{name} is {number}")
    with torch.device("meta"):
        model = build(arch)
    if sum(buffer.numel() for buffer in model.buffers()) > MOST_NUMBERS:
        raise _impossible("tables of a size that no model has")
    own = model.state_dict()
    lacking = [key for key in own if key not in state or state[key].shape != own[key].shape]
    return lacking, [key for key in state if key not in own]


def _numbers(config: object, name: str = "") -> Iterator[tuple[str, int]]:
    """The whole numbers in a config, at any depth, by their names; of a list, its sum."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _numbers(value, str(key))
    elif isinstance(config, list | tuple):
        yield name, sum(number for value in config for _, number in _numbers(value, name))
    elif isinstance(config, int):
        yield name, config


def build(arch: Architecture, seed: int = 0) -> Any:
    """The model in float32 with weights drawn from ``seed``, in training mode.

    Raises FormatError for a config that no model can be built from.
    """
    import torch

    makers = {
        "chinese-clip": _chinese_clip,
        "clip-pytorch": clip_pytorch.build,
        "openclip": openclip.build,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return makers[arch.family](arch.config).float().train()
        except (WentuError, MemoryError):
            raise
        except Exception as error:  # whatever the builders stumble over
            raise _impossible(repr(error)[:200]) from error


def _impossible(why: str) -> FormatError:
    return FormatError(
        f"no model can be built as this file says ({why}).",
        f"无法按该文件的说明构建模型({why})。",
    )


def _chinese_clip(config: Mapping[str, Any]) -> Any:
    import torch
    from cn_clip.clip.model import CLIP

    model = CLIP(**config)
    if hasattr(model.visual, "class_embedding"):
        # cn_clip draws positions with a spread of width**-0.5, a tenth of the patches':
        # harmless where weights replace them, but from scratch a model hardly learns where
        # things are (demo, 600 steps: recall@1 0.30 with 0.09, 0.46 with 0.5, 0.85 with 1.0).
        torch.nn.init.normal_(model.visual.positional_embedding, std=1.0)
    return model
