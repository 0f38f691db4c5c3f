"""Weights as files: what is on disk -> names and tensors, with nothing in a file ever executed.

    .pt .pth .bin   torch.save, read with weights_only; or a TorchScript archive, as OpenAI's are
    .safetensors    plain tensors
    a folder        as Hugging Face keeps a model: config.json beside the weights

What a damaged or hostile file says of sizes is not believed: nothing larger than the file is
allocated (see ``_check_archive`` and ``layouts``).
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wentu.clip.torchscript import is_torchscript, read_torchscript
from wentu.errors import FormatError, InputError
from wentu.formats import digest_of, file_sha256, read_json, replacing

if TYPE_CHECKING:
    import torch

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
OPENCLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_model.bin",
    "open_clip_model.pt",
)
"""Names of the weights in a folder of the hub's; with these often the same model in the spelling of
transformers' CLIPModel, under the names above."""
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Name -> file, where the weights are too large for one."""
KINDS = (".safetensors", ".bin", ".pt", ".pth")


def save_atomic(path: Path, value: Any, writer: Any) -> None:
    """``writer(value, file)``, whole or not at all."""
    with replacing(path) as file:
        writer(value, file)


def read_pt(path: Path) -> dict[str, Any]:
    """The dictionary in a ``.pt`` file, without executing anything in it."""
    import torch

    try:
        _check_archive(path)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", f"{path} 不存在。") from None
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise whatever the unpickler stumbles over
        raise _unreadable(path, error) from None
    if not isinstance(value, dict):
        raise FormatError(f"{path} holds no checkpoint.", f"{path} 不是检查点。")
    return value


def _check_archive(path: Path) -> bool:
    """Is it a TorchScript archive? ValueError where the file is a zip that could grow on reading.

    torch stores tensors as they are, so what is unpacked cannot be larger than the file. (It
    does compress TorchScript's code, which nothing here reads.)
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # torch's older format, which has no sizes to believe
            return False
        with zipfile.ZipFile(file) as archive:
            records = [each for each in archive.infolist() if "/code/" not in each.filename]
            total = sum(each.file_size for each in records)
            if total > path.stat().st_size:
                raise ValueError(f"its records are said to be larger than the file: {total} bytes")
            return is_torchscript(archive)


def _unreadable(path: Path, error: BaseException) -> FormatError:
    first = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    if isinstance(error, pickle.UnpicklingError):
        first = first.split(". ")[0]
    return FormatError(
        f"{path} cannot be read safely as a checkpoint ({first}); it is damaged or holds code, of "
        "which nothing ran: get it again from where you trust it, or name another.",
        f"{path} 不能作为检查点安全读取({first})：文件已损坏或含有代码(没有执行)；"
        "请从可信来源重新获取，或换用其他文件。",
    )


def read_weights(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """(the value in a file of any kind, or a folder's tensors by name; a file's own notes)."""
    if path.is_dir():
        tensors: dict[str, Any] = {}
        for part in parts_of(path):
            tensors |= read_weights(part)[0]
        return tensors, {}
    if not path.exists():
        raise InputError(f"{path} does not exist.", f"{path} 不存在。")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        if _check_archive(path):
            return dict(read_torchscript(path)), {}
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from None
    return read_pt(path), {}


def parts_of(folder: Path) -> list[Path]:
    """The weight files of a folder; InputError where there is none."""
    from wentu.clip.openclip import CONFIG

    its_own = (folder / CONFIG).exists()
    for name in OPENCLIP_WEIGHTS if its_own else ():
        if (folder / name).is_file():
            return [folder / name]
    for name in INDEXES:
        if (folder / name).exists():
            paths = [folder / part for part in _named_in(folder / name)]
            lost = [path.name for path in paths if not path.is_file()]
            if lost:
                raise InputError(
                    f"{folder}: {', '.join(lost)} of the weights is missing.",
                    f"{folder}：缺少权重文件 {'、'.join(lost)}。",
                )
            return paths
    for name in (*WEIGHTS, *OPENCLIP_WEIGHTS):
        if (folder / name).is_file():
            return [folder / name]
    raise InputError(
        f"{folder} holds no weights ({', '.join(WEIGHTS)}).",
        f"{folder} 中没有权重文件({'、'.join(WEIGHTS)})。",
    )


def _named_in(index: Path) -> list[str]:
    """The names of the weight files in an index; FormatError where one is not a plain file name."""
    value = read_json(index)
    named = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(named, dict) or not named:
        raise FormatError(f"{index} has no weight_map.", f"{index} 中没有 weight_map。")
    for name in named.values():
        plain = isinstance(name, str) and name.isprintable() and Path(name).name == name
        if not plain or Path(name).suffix not in KINDS:
            raise FormatError(
                f"{index}: {name!r} is not the name of a file beside it.",
                f"{index}：{name!r} 不是同一目录下的文件名。",
            )
    return sorted(set(named.values()))


def weights_sha256(path: Path) -> str:
    """The identity of a file (its SHA-256) or of a folder's weights and config."""
    if path.is_file():
        return file_sha256(path)
    extra = [p for p in sorted(path.glob("*.json")) if p.name not in INDEXES]
    return digest_of({part.name: file_sha256(part) for part in [*parts_of(path), *extra]})


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except MemoryError:
        raise
    except Exception as error:  # mostly a SafetensorError; others for types that torch lacks
        raise _unreadable(path, error) from None


def write_safetensors(
    path: Path, state: Mapping[str, torch.Tensor], notes: Mapping[str, str]
) -> None:
    """Tensors and notes, whole or not at all."""
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_atomic(path, tensors, lambda value, file: file.write(save(value, dict(notes))))


def beside(path: Path, name: str) -> Path | None:
    """A file that belongs to the weights: in their folder, or beside the file."""
    found = (path if path.is_dir() else path.parent) / name
    return found if found.exists() else None
