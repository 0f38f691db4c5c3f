"""What training changes about a model, whatever its family: which parts learn, and how they run.

No family is named here. The layers of a tower are found as what they are everywhere: the longest
list of modules of one class. Everything is undone, or leaves no trace, in the weights that come out
(see ``plain_state``).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wentu.clip import openclip
from wentu.errors import InputError
from wentu.training.config import Config

if TYPE_CHECKING:
    import torch

VISION = "visual."
"""The vision tower's parameters begin so in every family; the logit scale belongs to none."""
SHARED = ("logit_scale", "logit_bias")


def stacks(model: Any) -> dict[str, list[Any]]:
    """The layers of each tower, bottom to top, by the name of the list that holds them."""
    import torch

    found: dict[str, list[Any]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.ModuleList | torch.nn.Sequential):
            continue
        inside = list(module)
        same = len({type(each) for each in inside}) == 1
        within = any(name.startswith(f"{outer}.") for outer in found)
        if len(inside) > 1 and same and not within:
            found[name] = inside
    return found


def depth_of(model: Any) -> dict[str, int]:
    """The depth of every parameter: 0 for embeddings, 1 and up for layers, the top for heads.

    Towers of different height are aligned at the top, where they meet. The stages of a ResNet,
    ``visual.layer1`` to ``visual.layer4``, are one tower: their names differ by a number only.
    """
    heights: dict[str, int] = {}
    below: dict[str, int] = {}  # by stack: layers of its tower that stand under it
    for name, inside in stacks(model).items():
        tower = _tower(name)
        below[name] = heights.get(tower, 0)
        heights[tower] = below[name] + len(inside)
    top = max(heights.values(), default=0) + 1
    depths: dict[str, int] = {}
    for name, _ in model.named_parameters():
        stack = next((each for each in below if name.startswith(f"{each}.")), None)
        if stack is not None:
            number = int(name[len(stack) + 1 :].split(".")[0])
            depths[name] = top - heights[_tower(stack)] + below[stack] + number
        elif _is_embedding(name):
            depths[name] = 0
        else:
            depths[name] = top
    return depths


def _tower(stack: str) -> str:
    return re.sub(r"\d+", "", stack)


def _is_embedding(name: str) -> bool:
    """Outside of all layers: patches, words, positions, and a ResNet's stem of three convolutions.

    The positions of a ResNet's attention pooling stand at the top, like all of it.
    """
    pooling = re.search(r"attn_?pool", name)
    return not pooling and bool(re.search(r"embed|conv\d|bn\d|ln_pre|patch|stem", name))


def prepare(model: Any, config: Config, device: str) -> None:
    """Decide what learns and how it is computed, as ``config`` says, on a kind of device."""
    if config.lora:
        add_lora(model, config.lora, config.seed)
    freeze(model, config.freeze)  # after it: additions to a frozen tower do not learn either
    if device != "cpu":  # there its kernel is slower on short texts, by a tenth
        fuse_attention(model)
    if config.checkpointing:
        checkpoint_layers(model)
    drop_patches(model, config.patch_dropout)
    if config.compile:
        compile_towers(model)


def freeze(model: Any, tower: str) -> None:
    """Let a tower keep its weights: ``vision``, ``text`` or ``none``."""
    if tower == "none":
        return
    for name, parameter in model.named_parameters():
        if name not in SHARED and name.startswith(VISION) == (tower == "vision"):
            parameter.requires_grad_(False)


def keep_statistics(model: Any) -> None:
    """Leave BatchNorm's running statistics as they are, and use them.

    Statistics of a few fine-tuning pictures would replace those of the hundreds of millions that
    the model was made from, and would differ between processes and chunks.
    """
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def drop_patches(model: Any, share: float) -> None:
    """Leave out a share of the patches in training (Li et al. 2023, FLIP); InputError if it cannot.

    Both cn_clip and open_clip have it built in, each in its own way.
    """
    if not share:
        _patches(model, 0.0)
    elif not _patches(model, share):
        raise InputError(
            f"--patch-dropout {share}: this model's vision tower is no plain transformer.",
            f"--patch-dropout {share}：该模型的视觉塔不是普通的 Transformer。",
        )


def _patches(model: Any, share: float) -> bool:
    visual = model.visual
    if hasattr(visual, "random_masking"):  # cn_clip: an argument of encode_image
        plain = type(model).encode_image
        if share:
            model.encode_image = functools.partial(plain, model, mask_ratio=share)
        else:
            model.__dict__.pop("encode_image", None)
        return True
    if hasattr(visual, "patch_dropout") and hasattr(visual, "conv1"):
        openclip.set_patch_dropout(visual, share)
        return True
    return not share


def checkpoint_layers(model: Any) -> None:
    """Keep no activations within a layer; compute them again when their gradient is due."""
    from torch.utils.checkpoint import checkpoint

    for layers in stacks(model).values():
        for layer in layers:
            if not any(parameter.requires_grad for parameter in layer.parameters()):
                continue
            plain = layer.forward

            def again(*args: Any, _plain: Any = plain, **given: Any) -> Any:
                return checkpoint(_plain, *args, use_reentrant=False, **given)

            layer.forward = again


def fuse_attention(model: Any) -> None:
    """Let BERT's attention in cn_clip run in one kernel, as that of the vision tower does."""
    for module in model.modules():
        if type(module).__name__ == "BertSelfAttention" and hasattr(module, "transpose_for_scores"):
            module.forward = functools.partial(_fused, module)


def _fused(
    self: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    head_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor]:
    """softmax(Q K' / sqrt(d) + mask) V, as BertSelfAttention computes it in four steps."""
    import torch.nn.functional as functional

    assert head_mask is None
    query, key, value = (
        self.transpose_for_scores(layer(hidden_states))
        for layer in (self.query, self.key, self.value)
    )
    context = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask.to(query.dtype) if attention_mask is not None else None,
        dropout_p=self.dropout.p if self.training else 0.0,
    )
    merged = context.transpose(1, 2).flatten(2)
    return (merged,)


# --- low-rank additions -----------------------------------------------------------------------

MERGED = re.compile(r"^(?P<module>.+)\.parametrizations\.(?P<name>\w+)\.(?P<part>original|0\..+)$")


def add_lora(model: Any, rank: int, seed: int) -> None:
    """Train low-rank additions to the layers' matrices instead of all else (Hu et al. 2022).

    W + 2 B A, with B of zeros and A drawn from ``seed``; alpha is twice the rank, as is usual. A
    parametrization reaches the packed matrices of torch's MultiheadAttention too, and comes out as
    ordinary weights.
    """
    import torch
    from torch.nn.utils import parametrize

    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in SHARED)
    generator = torch.Generator().manual_seed(seed)
    for layers in stacks(model).values():
        for module in [each for layer in layers for each in layer.modules()]:
            matrices = [name for name, each in module._parameters.items() if _is_matrix(each)]
            for name in matrices:
                addition = _low_rank(getattr(module, name), rank, generator)
                parametrize.register_parametrization(module, name, addition)


def _is_matrix(parameter: torch.Tensor | None) -> bool:
    return parameter is not None and parameter.ndim == 2


def _low_rank(weight: torch.Tensor, rank: int, generator: torch.Generator) -> torch.nn.Module:
    import torch

    class LowRank(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            rows, columns = weight.shape
            down = torch.empty(rank, columns)
            torch.nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
            self.down = torch.nn.Parameter(down.to(weight.device))
            self.up = torch.nn.Parameter(torch.zeros(rows, rank, device=weight.device))

        def forward(self, original: torch.Tensor) -> torch.Tensor:
            return original + 2 * self.up @ self.down

    return LowRank()


def plain_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict under the model's own names, low-rank additions merged in."""
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        found = MERGED.match(name)
        if not found:
            plain[name] = tensor
        elif found["part"] == "original":
            prefix = name.removesuffix("original")
            up, down = state[f"{prefix}0.up"], state[f"{prefix}0.down"]
            plain[f"{found['module']}.{found['name']}"] = tensor + 2 * up @ down
    return plain


def merge(model: Any) -> None:
    """Make a model plain: additions become part of the matrices, for good."""
    from torch.nn.utils import parametrize

    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def compile_towers(model: Any) -> None:
    """Compile both towers; texts of any length share one program."""
    import torch

    model.encode_image = torch.compile(model.encode_image)
    model.encode_text = torch.compile(model.encode_text, dynamic=True)
