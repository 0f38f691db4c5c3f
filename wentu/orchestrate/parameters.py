"""The pipeline's parameters: their names, defaults and help, from the stages' Configs.

Each default lives once, in a Config; the compiled pipeline and the command line are compared with
it by tests. Presets fill in what the user did not give.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import Field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from wentu.captions import caption_files
from wentu.clip.model import NAMES
from wentu.errors import InputError
from wentu.language import pick
from wentu.settings import StageConfig, code_version, default_of, store_place
from wentu.stages import STAGES
from wentu.storage import collection_root, local_path, portable

HELP = {
    "pictures": ("Folder of the pictures.", "图片目录。"),
    "captions": (
        "Captions JSON (repeat for several; names that say train, val or test are kept), a folder "
        "of them, 'names' (the file names are the captions), or 'none'.",
        "描述 JSON(可重复；文件名中的 train、val、test 会被采用)、其所在目录、"
        "names(文件名即描述)或 none。",
    ),
    "store": ("Where everything is kept [WENTU_STORE].", "保存所有结果的仓库 [WENTU_STORE]。"),
    "model": (
        "Where to start: tiny, ViT-B-16, ViT-L-14, ViT-L-14-336, ViT-H-14, RN50, or a checkpoint "
        "file; with --no-train also a bundle or a store. Default: ViT-B-16; with --no-train the "
        "current release's.",
        "起点：tiny、ViT-B-16、ViT-L-14、ViT-L-14-336、ViT-H-14、RN50 或检查点文件；"
        "与 --no-train 同用时也可以是模型包或仓库。默认 ViT-B-16;--no-train 时用当前版本的模型。",
    ),
}


def packaged(name: str) -> Path:
    """``pipeline.yaml`` or ``presets.toml``: inside the wheel, or in the repository."""
    inside = Path(__file__).parent.parent / name
    if inside.exists():
        return inside
    root = inside.parent.parent
    return root / name if (root / name).exists() else root / "pipelines" / name


def config_class(stage: str) -> type[StageConfig]:
    """The Config of a stage."""
    found: type[StageConfig] = import_module(f"wentu.stages.{stage}").Config
    return found


def options() -> dict[str, Field[Any]]:
    """Every Config field of every stage, by name, in the order of the flow."""
    found: dict[str, Field[Any]] = {}
    for stage in STAGES:
        for each in fields(config_class(stage)):
            assert each.name not in found, f"two stages have an option {each.name}"
            found[each.name] = each
    return found


def presets() -> dict[str, dict[str, Any]]:
    """The named runs."""
    return tomllib.loads(packaged("presets.toml").read_text(encoding="utf-8"))


def preset(name: str) -> dict[str, Any]:
    """The parameters of one named run; InputError lists the known ones."""
    known = presets()
    if name not in known:
        names = ", ".join(known)
        raise InputError(
            f"--preset {name}: known are {names}.", f"--preset {name}：可用：{names}。"
        )
    return {key: value for key, value in known[name].items() if key in options() or key in HELP}


def complete(given: Mapping[str, Any], preset_name: str | None) -> dict[str, Any]:
    """All parameters of a run: given, else the preset's, else the Configs'; checked.

    Raises InputError for a value or a combination that cannot work, before anything starts.
    """
    base: dict[str, Any] = {name: default_of(each) for name, each in options().items()}
    base |= {"captions": "none", "store": store_place(), "model": ""}
    base |= preset(preset_name) if preset_name else {}
    values = base | {key: value for key, value in given.items() if value is not None}
    if not values.get("pictures"):
        raise InputError("name the pictures: --pictures DIR.", "请用 --pictures 指定图片目录。")
    for stage in STAGES:
        kind = config_class(stage)
        kind(**{each.name: values[each.name] for each in fields(kind)})
    collection_root(values["pictures"])
    if values["captions"] not in ("names", "none"):
        caption_files(values["captions"])
    values["pictures"] = portable(values["pictures"])
    values["store"] = portable(values["store"])
    if values["captions"] not in ("names", "none"):
        values["captions"] = "\n".join(portable(line) for line in values["captions"].splitlines())
    model = values["model"]
    if model and model not in NAMES and local_path(model).exists():
        values["model"] = portable(model)
    return values | {"code_version": code_version()}


def help_for(name: str) -> str:
    """Help of a parameter in the user's language."""
    if name in HELP:
        return pick(*HELP[name])
    each = options()[name]
    return pick(each.metadata["en"], each.metadata["zh"])
