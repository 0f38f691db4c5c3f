"""`wentu STAGE`: a stage alone, its options from the verb's arguments and the Config."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import click

from wentu.commands.options import make_command, make_option
from wentu.language import pick
from wentu.orchestrate.parameters import HELP
from wentu.settings import default_of, help_of, store_place

WORDS = {
    "out": ("Folder to write the output into.", "输出目录。"),
    "inventory": (
        "Digest of the listing (from inventory's answer.json).",
        "清单摘要(见 inventory 的 answer.json)。",
    ),
    "tsv": (
        "Folder of {split}_imgs.tsv and {split}_texts.jsonl.",
        "{split}_imgs.tsv 与 {split}_texts.jsonl 所在目录。",
    ),
    "catalog": ("Output of pairs.", "pairs 的输出。"),
    "lmdb": ("Output of pack_lmdb.", "pack_lmdb 的输出。"),
    "checkpoint": ("Output of finetune.", "finetune 的输出。"),
    "bundle": (
        "A model bundle: output of export_onnx, or evaluate's winner.",
        "模型包：export_onnx 的输出或 evaluate 的优胜者。",
    ),
    "winner": ("Folder to write the better bundle into.", "写入较优模型包的目录。"),
    "features": (
        "Output of features; of several shards, once for each.",
        "features 的输出；分为多份时每份给一次。",
    ),
    "shard": (
        "Which of --shards parts to do, from 1; 0: all of them.",
        "处理 --shards 中的第几份(从 1 起)；0：全部。",
    ),
    "index": ("Output of index.", "index 的输出。"),
    "evaluation": ("Output of evaluate.", "evaluate 的输出。"),
    "pointer": ("Number of the store's pointer to compare with.", "用于比较的仓库指针编号。"),
    "settings": (
        "Anything that shapes the trained model, in any spelling.",
        "影响训练结果的其他设置。",
    ),
    "model_digest": ("SHA-256 of the starting weights, if known.", "起始权重的 SHA-256(若已知)。"),
    "attempt": ("Number of the training that this ends.", "本次结束的训练编号。"),
    "use": ("The weights that inventory named.", "inventory 给出的权重。"),
    "use_digest": ("Their digest.", "其摘要。"),
}


def command(name: str) -> click.Command:
    """The command of a stage."""
    module = import_module(f"wentu.stages.{name}")
    verb, kind = getattr(module, name), module.Config
    hints = get_type_hints(verb)
    options: list[click.Option] = []
    paths: list[str] = []
    for each in inspect.signature(verb).parameters.values():
        if each.name in ("config", "launcher"):  # which is no place, and no option
            continue
        required = each.default is inspect.Parameter.empty and each.name != "store"
        kind_of: Any = hints[each.name]
        several = kind_of == Sequence[Path]
        if several or kind_of in (Path, Path | None):
            paths.append(each.name)
            required = required and kind_of != Path | None
            kind_of = str
        default = None if each.default is inspect.Parameter.empty else each.default
        text = pick(*(WORDS.get(each.name) or HELP[each.name]))
        options.append(
            make_option(each.name, kind_of, default, text, required=required, multiple=several)
        )
    known = {option.name for option in options}
    configured = [each for each in fields(kind) if each.name not in known]
    types = get_type_hints(kind)
    options += [
        make_option(
            each.name,
            types[each.name],
            default_of(each),
            help_of(each),
            choices=each.metadata.get("choices", ()),
        )
        for each in configured
    ]

    def call(**given: Any) -> None:
        values = {key: value for key, value in given.items() if value is not None}
        values |= {key: as_path(values[key]) for key in paths if key in values}
        if "tsv" in paths and "tsv" not in values:
            values["tsv"] = values["out"] / "tsv"
        if "store" in inspect.signature(verb).parameters:
            values.setdefault("store", store_place())
        mine = {each.name for each in fields(kind)}
        config = kind(**{key: values[key] for key in mine & values.keys()})
        accepted = set(inspect.signature(verb).parameters)
        verb(config=config, **{key: values[key] for key in accepted & values.keys()})

    return make_command(name, call, options)


def as_path(given: str | tuple[str, ...]) -> Path | list[Path]:
    """What was given for a path, or for several."""
    return Path(given) if isinstance(given, str) else [Path(each) for each in given]
