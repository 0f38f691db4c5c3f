"""Names of tensors: from what other programs write to one spelling per family, and back.

Only names change here, and how query, key and value are cut; every value stays what it was. The
spelling of the families:

    chinese-clip   cn_clip's own: visual.*, bert.*, text_projection, logit_scale
    clip-pytorch   the same with pooler.dense.* and ln_final.* behind the BERT
    openclip       open_clip's (and OpenAI's) own
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wentu.errors import FormatError

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

QKV = ("query", "key", "value")
BERT = "bert.embeddings.word_embeddings.weight"
_WRAPPERS = re.compile(r"^((module|model)\.)+")
_INSERTED = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and checkpointing put into names, where they wrap a part."""
_UNUSED = ("bert.pooler.", "bert.embeddings.position_ids")
_UNUSED_HERE = re.compile(
    r"^(input_resolution|context_length|vocab_size)$|\.position_ids$|attn_mask$"
)
"""Numbers in OpenAI's files; what transformers saved before 4.31; what a traced model has."""
_HF_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_HF_VISION = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",
    "vision_model.post_layernorm.": "visual.ln_post.",
}


def standard(raw: Mapping[str, object]) -> tuple[str, State]:
    """(family, its state in our spelling, float32) of any state dict that we know.

    Raises FormatError where no family fits, or a tensor does not have the shape that its name has.
    """
    state = _plain(raw)
    try:
        found = _recognised(state)
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        why = repr(error)[:100]
        raise FormatError(
            f"the tensors do not fit each other ({why}).", f"张量互不相符({why})。"
        ) from None
    if found is not None:
        return found
    some = ", ".join(sorted(map(str, raw))[:3]) or "-"
    raise FormatError(
        f"none of the known models has these tensors ({some}, …): known are Chinese-CLIP, its "
        "Hugging Face form, clip-pytorch, OpenAI's CLIP and open_clip.",
        f"这些张量({some}…)不属于任何已知模型；支持 Chinese-CLIP 及其 Hugging Face 形式、"
        "clip-pytorch、OpenAI CLIP 与 open_clip。",
    )


def weights_in(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tensors in what a file holds: as they are, or as a part of a training's checkpoint."""
    for name in ("state_dict", "model_state_dict", "model"):
        if isinstance(value.get(name), Mapping):
            return dict(value[name])
    return value


def _recognised(state: State) -> tuple[str, State] | None:
    """(family, state in our spelling), or None."""
    if any(key.startswith("text_model.") for key in state):
        state = _from_hugging_face(state)
    if "transformer.embeddings.word_embeddings.weight" in state:
        return "clip-pytorch", _from_clip_pytorch(state)
    if "pooler.dense.weight" in state and "ln_final.weight" in state and BERT in state:
        return "clip-pytorch", state
    if BERT in state and "text_projection" in state:
        state = _without_flash(state)
        kept = {k: v for k, v in state.items() if not k.startswith(_UNUSED)}
        return "chinese-clip", kept
    if "token_embedding.weight" in state or any(k.startswith("text.") for k in state):
        return "openclip", {k: v for k, v in state.items() if not _UNUSED_HERE.search(k)}
    return None


def _plain(raw: Mapping[str, object]) -> State:
    """Tensors only, float32, without the prefixes that wrappers add to names."""
    tensors: dict[str, Any] = {
        _INSERTED.sub("", str(key)): value
        for key, value in raw.items()
        if hasattr(value, "is_floating_point")
    }
    if all(map(_WRAPPERS.match, tensors)):
        tensors = {_WRAPPERS.sub("", key): value for key, value in tensors.items()}
    return {name: _in_float32(name, value) for name, value in tensors.items()}


def _in_float32(name: str, value: Any) -> torch.Tensor:
    """FormatError for what cannot be a weight: files may hold a tensor of a terabyte in 200 bytes,
    by repeating one number, by being sparse, or by having a shape only."""
    import torch

    try:
        plain = (
            type(value) in (torch.Tensor, torch.nn.Parameter)
            and value.layout == torch.strided
            and value.device.type == "cpu"
            and not value.is_quantized
            and not value.is_nested
            and 0 < value.numel() * value.element_size() <= value.untyped_storage().nbytes()
        )
        if plain:
            whole: torch.Tensor = value.float() if value.is_floating_point() else value
            return whole
    except (RuntimeError, NotImplementedError):  # types of 4 bits, which nothing computes with
        pass
    raise FormatError(
        f"the tensor {name} is no plain one: sparse, quantized, repeated or empty.",
        f"张量 {name} 不是普通张量：稀疏、量化、重复或为空。",
    )


def _without_flash(state: State) -> State:
    """Flash attention's Wqkv back into in_proj (pictures) and query, key, value (texts)."""
    result: State = {}
    for key, value in state.items():
        if ".attn.Wqkv." in key:
            result[key.replace(".attn.Wqkv.", ".attn.in_proj_")] = value
        elif ".attention.self.Wqkv." in key:
            for name, part in zip(QKV, value.chunk(3), strict=True):
                result[key.replace("Wqkv", name)] = part
        elif ".attention.self.out_proj." in key:
            result[key.replace("self.out_proj", "output.dense")] = value
        else:
            result[key] = value
    return result


def _from_clip_pytorch(state: State) -> State:
    """``transformer.*`` is a BERT whose pooler counts: pooler -> ln_final -> text_projection."""
    result: State = {}
    for key, value in state.items():
        if key.startswith("transformer.pooler."):
            result[key.removeprefix("transformer.")] = value
        elif key.startswith("transformer."):
            if not key.endswith("position_ids"):
                result["bert." + key.removeprefix("transformer.")] = value
        else:
            result[key] = value
    return result


def to_clip_pytorch(state: Mapping[str, torch.Tensor]) -> State:
    """The spelling of clip-pytorch's own files."""
    return {
        f"transformer.{key}"
        if key.startswith("pooler.")
        else re.sub(r"^bert\.", "transformer.", key): value
        for key, value in state.items()
    }


def _from_hugging_face(state: State) -> State:
    """transformers' ChineseCLIPModel: other names, q, k, v apart, projections as Linear."""
    import torch

    result: State = {}
    for key, value in state.items():
        if key.startswith("text_model."):
            result["bert." + key.removeprefix("text_model.")] = value
        elif key == "text_projection.weight":
            result["text_projection"] = value.t().contiguous()
        elif key == "visual_projection.weight":
            result["visual.proj"] = value.t().contiguous()
        elif key == "logit_scale":
            result[key] = value
        elif match := re.match(r"vision_model\.encoder\.layers\.(\d+)\.(.+)\.(\w+)$", key):
            block, part, kind = match.groups()
            start = f"visual.transformer.resblocks.{block}."
            if part in _HF_BLOCK:
                result[f"{start}{_HF_BLOCK[part]}.{kind}"] = value
            elif part == "self_attn.q_proj":
                parts = [state[key.replace("q_proj", f"{name}_proj")] for name in "qkv"]
                result[f"{start}attn.in_proj_{kind}"] = torch.cat(parts)
        else:
            for theirs, ours in _HF_VISION.items():
                if key.startswith(theirs):
                    result[ours + key.removeprefix(theirs)] = value
    return result


def to_hugging_face(state: Mapping[str, torch.Tensor]) -> State:
    """The spelling of transformers' ChineseCLIPModel (vision transformers only)."""
    block = {ours: theirs for theirs, ours in _HF_BLOCK.items()}
    result: State = {}
    for key, value in state.items():
        if key.startswith("bert."):
            result["text_model." + key.removeprefix("bert.")] = value
        elif key in ("text_projection", "visual.proj"):
            name = "text_projection" if key == "text_projection" else "visual_projection"
            result[f"{name}.weight"] = value.T.contiguous()
        elif key == "logit_scale":
            result[key] = value
        elif match := re.match(r"visual\.transformer\.resblocks\.(\d+)\.(.+)$", key):
            start, rest = f"vision_model.encoder.layers.{match[1]}.", match[2]
            if rest.startswith("attn.in_proj_"):
                for name, part in zip("qkv", value.chunk(3), strict=True):
                    kind = rest.removeprefix("attn.in_proj_")
                    result[f"{start}self_attn.{name}_proj.{kind}"] = part.contiguous()
            else:
                place, _, kind = rest.rpartition(".")
                result[f"{start}{block[place]}.{kind}"] = value
        else:
            for theirs, ours in _HF_VISION.items():
                if key.startswith(ours):
                    result[theirs + key.removeprefix(ours)] = value
    return result


def bert_of(raw: Mapping[str, object]) -> State:
    """``bert.*`` of a BERT's own file: with or without prefix, without heads and pooler.

    Files converted from TensorFlow call a LayerNorm's weight and bias gamma and beta.
    """
    result: State = {}
    for key, value in _plain(raw).items():
        name = key.removeprefix("bert.").removeprefix("roberta.")
        name = re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name))
        if name.startswith(("embeddings.", "encoder.")) and not name.endswith("position_ids"):
            result[f"bert.{name}"] = value
    return result
