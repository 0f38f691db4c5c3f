"""Where things are: environment variables. *What* to do is in each stage's Config.

WENTU_STORE           the store (default ./wentu-store)
WENTU_WEIGHTS         folder of pretrained weights (default ~/.cache/clip, cn_clip's own)
WENTU_CACHE           folder for copies out of s3://, and for this machine's runs of a store that
                      lies there (default ~/.cache/wentu)
XDG_DATA_HOME         below it, in wentu/, lie the indexes of `wentu serve --library` (default
                      ~/.local/share)
WENTU_LANG            en or zh (default: from LANG)
WENTU_TRACKING        "off": no MLflow
MLFLOW_TRACKING_URI   an MLflow server; without it a run keeps its own in the store
WENTU_TOKEN           what callers of `wentu serve` and `wentu watch` must know
WENTU_WEBHOOK         where notices of promotions, rejections and failures are POSTed to
WENTU_RUN_DIR         set by `wentu run` for its stages: where they log and report progress
WENTU_RUN_ID          the pipeline run that a stage belongs to
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar, get_type_hints

from wentu.errors import InputError
from wentu.language import pick

Value = TypeVar("Value")
EXTRAS = {
    "train": ("torch", "torchvision", "cn_clip", "open_clip", "mlflow", "lmdb", "matplotlib"),
    "export": ("onnx", "onnxruntime"),
    "index": ("faiss",),
    "run": ("kfp",),
    "cluster": ("croniter", "kfp_server_api", "kubernetes", "kubeflow_trainer_api"),
    "serve": ("fastapi", "uvicorn", "python_multipart"),
}
"""What an installation may leave out: extra -> packages, by name of import."""


def store_place() -> str:
    """The store that is meant when none is named."""
    return os.environ.get("WENTU_STORE") or "wentu-store"


def weights_folder() -> Path:
    """Where pretrained weights are looked for."""
    return Path(os.environ.get("WENTU_WEIGHTS") or "~/.cache/clip").expanduser()


def cache_folder() -> Path:
    """Where copies of what lies in object stores are kept, and runs of stores that lie there."""
    return Path(os.environ.get("WENTU_CACHE") or "~/.cache/wentu").expanduser()


def is_loopback(host: str) -> bool:
    """Is what is bound reachable from this machine alone?"""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def data_folder() -> Path:
    """Where what this user made is kept if they name no place: indexes of their folders."""
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "wentu"


@cache
def code_version() -> str:
    """The version and a digest of our own sources: what caching of stages must not look past."""
    from wentu import __version__

    digest = hashlib.blake2b(digest_size=6)
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()}"


# --- configuration ----------------------------------------------------------------------------


def option(
    default: Value, en: str, zh: str, *, choices: tuple[str, ...] = (), shapes: bool = True
) -> Value:
    """A field of a stage's Config: its default, its help in both languages, allowed values.

    shapes: the result depends on it; False where it says only how fast, how careful or where.
    """
    metadata = {"en": en, "zh": zh, "choices": choices, "shapes": shapes}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Base of every stage's Config: frozen, keyword-only, checked when constructed.

    Between processes it is a text, a JSON object of what differs from the defaults: the pipeline
    has one such parameter for each stage, so that an option is written down in one place only.
    """

    @classmethod
    def parse(cls, text: str) -> Self:
        """The Config that ``text`` says; InputError for anything else."""
        try:
            given = json.loads(text or "{}")
        except ValueError as error:
            given = str(error)
        if not isinstance(given, dict):
            raise InputError(
                f'options {text!r}: not a JSON object such as {{"epochs": 3}}.',
                f'选项 {text!r} 不是 JSON 对象，例如 {{"epochs": 3}}。',
            )
        kinds = get_type_hints(cls)
        for name, value in given.items():
            kind = kinds.get(name)
            whole = kind is float and type(value) is int
            if kind is None or not (whole or type(value) is kind):
                known = ", ".join(each.name for each in fields(cls))
                raise InputError(
                    f"options: {name} = {json.dumps(value)} is none of theirs, or of another type; "
                    f"known: {known or 'none'}.",
                    f"选项 {name} = {json.dumps(value)} 不存在或类型不符；可用：{known or '无'}。",
                )
            given[name] = float(value) if whole else value
        return cls(**given)

    def text(self, *, shaping: bool = False) -> str:
        """What ``parse`` reads; equal for equal Configs.

        shaping: leave out what the result does not depend on.
        """
        differs = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if getattr(self, each.name) != default_of(each)
            and (each.metadata["shapes"] or not shaping)
        }
        return json.dumps(differs, ensure_ascii=False, sort_keys=True)

    def __post_init__(self) -> None:
        for each in fields(self):
            choices = each.metadata.get("choices")
            value = getattr(self, each.name)
            if choices and value not in choices:
                option_name = "--" + each.name.replace("_", "-")
                raise InputError(
                    f"{option_name} {value!r} is none of: {', '.join(choices)}.",
                    f"{option_name} {value!r} 无效，可选：{', '.join(choices)}。",
                )
        self.check()

    def check(self) -> None:
        """Refuse values and combinations that cannot work; overridden by each stage."""

    def need(self, right: bool, name: str, en: str, zh: str) -> None:
        """Raise InputError naming the option unless ``right``."""
        if not right:
            flag, value = "--" + name.replace("_", "-"), getattr(self, name)
            raise InputError(f"{flag} {value}: {en}", f"{flag} {value}:{zh}")

    def need_share(self, *names: str, below: bool = False) -> None:
        """Raise InputError unless these are shares from 0 to 1; below: 1 itself is too much."""
        for name in names:
            value = getattr(self, name)
            right = 0 <= value < 1 if below else 0 <= value <= 1
            en, zh = ("below 1", "1(不含)") if below else ("1", "1")
            self.need(right, name, f"give a share from 0 to {en}.", f"应为 0 到 {zh} 之间的比例。")


def help_of(each: Field[Any]) -> str:
    """The help of a Config field in the user's language."""
    return pick(each.metadata.get("en", ""), each.metadata.get("zh", ""))


def default_of(each: Field[Any]) -> Any:
    """The default of a Config field."""
    assert each.default is not MISSING, each.name
    return each.default
