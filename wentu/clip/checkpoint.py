"""Reading and writing ``.pt`` checkpoints in Chinese-CLIP's form.

A file is read with ``weights_only``: nothing in it is executed. What we write, cn_clip reads; one
more key, ``wentu``, says how to build the model, so that no architecture arguments are needed.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wentu.clip.model import NAMES, VISION_AND_TEXT, Architecture, architecture, build, infer
from wentu.errors import FormatError, InputError
from wentu.formats import FORMAT, file_sha256
from wentu.settings import weights_folder
from wentu.storage import local_path

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights and what is known of them."""

    architecture: Architecture
    state: Mapping[str, torch.Tensor]
    """float32, bare names (no ``module.``), no BERT pooler."""
    epoch: int = 0
    step: int = 0
    info: Mapping[str, Any] = field(default_factory=dict)
    """Our own notes: what it was trained from and on; empty for foreign files."""

    def model(self) -> Any:
        """The model with these weights, float32, in evaluation mode."""
        model = build(self.architecture)
        missing, unexpected = model.load_state_dict(self.state, strict=False)
        if missing or unexpected:
            raise InputError(
                f"the weights do not fit {self.architecture.name}: missing {missing[:3]}, "
                f"unexpected {unexpected[:3]}.",
                f"权重与 {self.architecture.name} 不符："
                f"缺少 {missing[:3]}，多出 {unexpected[:3]}。",
            )
        return model.eval()


def save(
    path: Path,
    model: Any,
    arch: Architecture,
    *,
    epoch: int,
    step: int,
    info: Mapping[str, Any],
    optimizer: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint, whole or not at all: keys ``module.*``, float32, on the CPU."""
    import torch

    state = {f"module.{k}": v.detach().float().cpu() for k, v in model.state_dict().items()}
    note = {"format": FORMAT, "name": arch.name, "config": dict(arch.config), "info": dict(info)}
    value = {
        "epoch": epoch,
        "step": step,
        "name": arch.name,
        "state_dict": state,
        "optimizer": dict(optimizer or {}),
        "wentu": note,
    }
    save_atomic(path, value, torch.save)


def save_atomic(path: Path, value: Any, writer: Any) -> None:
    """``writer(value, file)`` to a temporary name, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        writer(value, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_pt(path: Path) -> dict[str, Any]:
    """The dictionary in a ``.pt`` file, without executing anything in it."""
    import torch

    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", f"{path} 不存在。") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        first = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise FormatError(
            f"{path} cannot be read safely as a checkpoint ({first}); it is damaged or holds code.",
            f"{path} 不能作为检查点安全读取({first})：文件已损坏或含有代码。",
        ) from None
    if not isinstance(value, dict):
        raise FormatError(f"{path} holds no checkpoint.", f"{path} 不是检查点。")
    return value


def load(path: Path) -> Checkpoint:
    """A checkpoint of ours or of Chinese-CLIP's, whatever its prefix and precision."""
    value = read_pt(path)
    raw = value.get("state_dict", value)
    state = {
        key.removeprefix("module."): tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in raw.items()
        if hasattr(tensor, "is_floating_point") and "bert.pooler" not in key
    }
    note = value.get("wentu", {})
    if note and note.get("format") != FORMAT:
        raise FormatError(
            f"{path} has format {note.get('format')}; this wentu reads {FORMAT}.",
            f"{path} 的格式版本是 {note.get('format')}，本版 wentu 只读 {FORMAT}。",
        )
    arch = Architecture(name=note["name"], config=note["config"]) if note else infer(state)
    return Checkpoint(
        architecture=arch,
        state=state,
        epoch=int(value.get("epoch", 0)),
        step=int(value.get("step", 0)),
        info=note.get("info", {}),
    )


def find_weights(model: str) -> Path | None:
    """The file that ``model`` (a name or a path) starts from; None: drawn from a seed.

    Raises InputError that names the file and the folder where pretrained weights are missing.
    """
    if model == "tiny":
        return None
    if model in VISION_AND_TEXT:
        path = weights_folder() / VISION_AND_TEXT[model][2]
        if not path.exists():
            raise InputError(
                f"the pretrained weights of {model} are not on this machine: put {path.name} into "
                f"{path.parent} (or name its folder in WENTU_WEIGHTS), add --scratch to train "
                "from random weights, or --model tiny for a small model.",
                f"本机没有 {model} 的预训练权重：请把 {path.name} 放入 {path.parent}"
                "(或用 WENTU_WEIGHTS 指定目录)，或加 --scratch 从随机权重训练，"
                "或用 --model tiny 训练小模型。",
            )
        return path
    path = local_path(model)
    if not path.is_file():
        raise InputError(
            f"--model {model}: neither a file nor one of {', '.join(NAMES)}.",
            f"--model {model}：既不是文件，也不是 {', '.join(NAMES)} 之一。",
        )
    return path


def start(model: str, *, scratch: bool = False, seed: int = 0) -> tuple[Any, Architecture]:
    """The model that a training starts from: pretrained weights, a checkpoint, or a seed."""
    if scratch and model in NAMES:
        arch = architecture(model)
        return build(arch, seed), arch
    path = find_weights(model)
    if path is None:
        arch = architecture(model)
        return build(arch, seed), arch
    checkpoint = load(path)
    if scratch:
        return build(checkpoint.architecture, seed), checkpoint.architecture
    return checkpoint.model(), checkpoint.architecture


def weights_digest(model: str, *, scratch: bool = False) -> str:
    """SHA-256 of the file that ``model`` starts from; empty where it is drawn from a seed."""
    path = None if scratch and model in NAMES else find_weights(model)
    return file_sha256(path) if path else ""
