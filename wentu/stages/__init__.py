"""One module per stage of the pipeline; they meet only in files. Here is what is true of all."""

from __future__ import annotations

from importlib import import_module

from wentu.settings import StageConfig

STAGES = (
    "inventory",
    "pairs",
    "pack_lmdb",
    "finetune",
    "export_onnx",
    "evaluate",
    "features",
    "index",
    "promote",
)
"""In the order of the flow."""


def config_class(stage: str) -> type[StageConfig]:
    """The Config of a stage."""
    found: type[StageConfig] = import_module(f"wentu.stages.{stage}").Config
    return found


def training_settings(**options: str) -> str:
    """What inventory compares, to see whether a training would come out otherwise.

    Args:
        options: by stage, its options as text (see ``StageConfig.parse``).
    """
    shaping = {name: config_class(name).parse(text) for name, text in options.items()}
    return "\n".join(f"{name} {shaping[name].text(shaping=True)}" for name in sorted(shaping))
