"""What a run is called with: where, and every option of every stage, from their Configs.

Each option lives once, in a Config. The command line has them all by name; the pipeline has one
parameter for each stage, ``<stage>_options``. Presets fill in what the user did not give.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from wentu import zeroshot
from wentu.captions import NO_FILES, caption_files, expand
from wentu.clip.checkpoint import find_weights, is_name
from wentu.clip.model import NAMES, SCRATCH
from wentu.clip.openclip import PREFIX
from wentu.collection import open_collection
from wentu.errors import InputError
from wentu.language import pick
from wentu.settings import StageConfig, code_version, default_of, store_place
from wentu.stages import STAGES, config_class
from wentu.storage import local_copy, portable, same_place
from wentu.store import Store

HELP = {
    "pictures": ("Folder of the pictures, or s3://bucket/prefix.", "图片目录，或 s3://桶/前缀。"),
    "captions": (
        "Captions: JSON, JSONL, CSV, TSV, XLSX, or Chinese-CLIP's TSV + JSONL (repeat for several; "
        "names that say train, val or test are kept), a folder of them, 'names' (the file names "
        "are the captions), 'folder' (the folder names are), or 'none'.",
        "描述文件：JSON、JSONL、CSV、TSV、XLSX 或 Chinese-CLIP 的 TSV + JSONL(可重复；"
        "文件名中的 train、val、test 会被采用)、其所在目录、names(文件名即描述)、"
        "folder(目录名即描述)或 none。",
    ),
    "store": (
        "Where everything is kept: a folder, or s3://bucket/prefix [WENTU_STORE].",
        "保存所有结果的仓库：目录，或 s3://桶/前缀 [WENTU_STORE]。",
    ),
    "model": (
        "Where to start: tiny, ViT-B-16, ViT-L-14, ViT-L-14-336, ViT-H-14, RN50, "
        "openclip:NAME@TAG, or a checkpoint (a file, or a Hugging Face folder); with --no-train "
        "also a bundle or a store. Default: ViT-B-16; with --no-train the current release's.",
        "起点：tiny、ViT-B-16、ViT-L-14、ViT-L-14-336、ViT-H-14、RN50、openclip:名称@标签，"
        "或检查点(文件或 Hugging Face 目录)；"
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
    """All values of a run, by name: given, else the preset's, else the Configs'; checked.

    Raises InputError for a value or a combination that cannot work, before anything starts.
    """
    values = named(given, preset_name)
    if given.get("captions") is None and values["captions"] == "none":
        values["captions"] = captions_before(values)
    if not values.get("pictures"):
        raise InputError("name the pictures: --pictures DIR.", "请用 --pictures 指定图片目录。")
    if values["captions"] not in NO_FILES and values.get("captions_lang"):
        values["captions"] = expand(str(values["captions"]), str(values["captions_lang"]))
    values.pop("captions_lang", None)
    for stage in STAGES:
        config_of(stage, values)
    open_collection(values["pictures"])
    if values["captions"] not in NO_FILES:
        caption_files(values["captions"])
    values["pictures"] = portable(values["pictures"])
    values["store"] = portable(values["store"])
    if values["captions"] not in NO_FILES:
        values["captions"] = "\n".join(portable(line) for line in values["captions"].splitlines())
    if values["suite"]:
        if values["train"]:  # a refresh or a rollback uses none, and it may be gone by then
            zeroshot.Suite.open(local_copy(values["suite"]))
        values["suite"] = portable(values["suite"])
    if values["teacher"] and not is_name(values["teacher"]):
        if values["train"]:
            find_weights(values["teacher"])
        values["teacher"] = portable(values["teacher"])
    model = values["model"]
    name = model.removeprefix(SCRATCH)
    if name and not (name in NAMES or name.startswith(PREFIX)):
        if not local_copy(name).exists():
            known = ", ".join(NAMES)
            raise InputError(
                f"--model {model}: neither a path nor one of {known}, openclip:NAME@TAG.",
                f"--model {model}：既不是路径，也不是 {known}、openclip:名称@标签 之一。",
            )
        values["model"] = model.removesuffix(name) + portable(name)
    return values | {"code_version": code_version()}


def named(given: Mapping[str, Any], preset_name: str | None) -> dict[str, Any]:
    """All values by name: given, else the preset's, else the Configs'; InputError for unknown ones.

    Nothing is looked for yet.
    """
    base: dict[str, Any] = {name: default_of(each) for name, each in options().items()}
    base |= {"captions": "none", "store": store_place(), "model": ""}
    base |= preset(preset_name) if preset_name else {}
    unknown = sorted(given.keys() - base.keys() - {"pictures", "captions_lang"})
    if unknown:
        raise InputError(
            f"no option is called {', '.join(unknown)}; see `wentu run --help`.",
            f"没有名为 {', '.join(unknown)} 的选项；见 wentu run --help。",
        )
    return base | {key: value for key, value in given.items() if value is not None}


def config_of(stage: str, values: Mapping[str, Any]) -> StageConfig:
    """The Config that the values of a run make for a stage; InputError where it cannot work."""
    kind = config_class(stage)
    return kind(**{each.name: values[each.name] for each in fields(kind)})


def packed(values: Mapping[str, Any]) -> dict[str, str]:
    """The values of a run as the pipeline's parameters."""
    found = {name: str(values[name]) for name in (*HELP, "code_version")}
    for stage in STAGES:
        if fields(config_class(stage)):
            found[f"{stage}_options"] = config_of(stage, values).text()
    return found


def captions_before(values: Mapping[str, Any]) -> str:
    """The captions that the store's current release was made with, if it is of these pictures.

    So a later run on the same pictures does not lose them because they were not named again.
    """
    if not values.get("pictures"):
        return "none"
    current = Store(str(values["store"])).current()
    before = current[1].parameters if current else {}
    places = (str(before.get("pictures") or ""), str(values["pictures"]))
    if not places[0] or not same_place(*places):
        return "none"
    return str(before.get("captions") or "none")


def help_for(name: str) -> str:
    """Help of a parameter in the user's language."""
    if name in HELP:
        return pick(*HELP[name])
    each = options()[name]
    return pick(each.metadata["en"], each.metadata["zh"])
