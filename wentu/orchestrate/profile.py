"""What a cluster must give to each stage: a TOML file, read into frozen values.

    [images]                     cpu, gpu; pull_secret: a Kubernetes secret for a private registry
    [stages.default]             of all stages
    [stages.finetune]            of one stage: goes before default
    [secrets.NAME]               key of that Kubernetes secret = "environment variable"
    [config.NAME]                the same of a config map
    [env]                        plain environment variables; never secrets

Unknown keys are refused: a misspelled `memmory` would be found out by a killed pod hours later.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from wentu import __version__
from wentu.errors import InputError
from wentu.stages import STAGES

DEFAULT = "default"
BUILT_IN = """
[stages.default]
retries = 2
timeout = 86400
[stages.finetune]
shm = "2Gi"
timeout = 604800
[secrets.wentu-s3]
AWS_ACCESS_KEY_ID = "AWS_ACCESS_KEY_ID"
AWS_SECRET_ACCESS_KEY = "AWS_SECRET_ACCESS_KEY"
[secrets.wentu-webhook]
WENTU_WEBHOOK = "WENTU_WEBHOOK"
[config.wentu-config]
AWS_ENDPOINT_URL_S3 = "AWS_ENDPOINT_URL_S3"
AWS_DEFAULT_REGION = "AWS_DEFAULT_REGION"
MLFLOW_TRACKING_URI = "MLFLOW_TRACKING_URI"
"""
"""Where the user's file says nothing: what infra/k8s installs, two retries, a day for a stage and a
week for a training. Naming any secret (or config map) replaces the list of those here."""

Kind = TypeVar("Kind")
_CPU = re.compile(r"\d+(\.\d+)?|\d+m")
_SIZE = re.compile(r"\d+(\.\d+)?([KMGT]i?)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY|API_KEY|CREDENTIAL")


@dataclass(frozen=True, kw_only=True)
class Images:
    """The container images; empty: as compiled."""

    cpu: str = ""
    gpu: str = f"wentu/gpu:{__version__}"
    """Of stages that are given a GPU."""
    pull_secret: str = ""


@dataclass(frozen=True, kw_only=True)
class Toleration:
    """As in a pod; ``seconds`` is its tolerationSeconds."""

    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""
    seconds: int | None = None


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What one stage is given. Empty or 0: nothing is asked for."""

    cpu: str = ""
    memory: str = ""
    """cpu and memory are requested and are the limit: a pod gets what it was promised."""
    gpu: int = 0
    gpu_type: str = "nvidia.com/gpu"
    shm: str = ""
    """Size of /dev/shm, over which the processes of a training pass batches; counts as memory."""
    storage: str = ""
    """Most that a stage may write to its scratch folder; the pod is evicted above it."""
    timeout: int = 0
    """Seconds after which the pod is stopped (activeDeadlineSeconds)."""
    retries: int = 0
    image: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A whole profile."""

    images: Images = Images()
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By stage or "default": the fields of Needs that were given, as they are kept there."""
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    config: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    """Of the built-in profile."""

    def of(self, stage: str) -> Needs:
        """What a stage is given: its own, else the file's default, else the built-in."""
        needs = Needs()
        for given in (self.defaults, self.stages):
            for name in (DEFAULT, stage):
                needs = replace(needs, **given.get(name, {}))
        return needs


def read_profile(path: Path | None) -> Profile:
    """The profile in a TOML file over the built-in one; None: the built-in alone."""
    built_in = parse(BUILT_IN, "built-in")
    if path is None:
        return replace(built_in, defaults=built_in.stages, stages={})
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"--profile {path}: no such file.", f"--profile {path}：文件不存在。"
        ) from None
    given = parse(text, str(path))
    return replace(
        given,
        defaults=built_in.stages,
        secrets=given.secrets or built_in.secrets,
        config=given.config or built_in.config,
    )


def parse(text: str, where: str) -> Profile:
    """The profile that a TOML text says; InputError names the line of thought that is wrong."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"{where}: no TOML: {error}.", f"{where}：不是有效的 TOML：{error}。"
        ) from None
    known = ("images", "stages", "secrets", "config", "env")
    _refuse_unknown(given, known, f"{where}:")
    for name in known:
        _need(isinstance(given.get(name, {}), dict), f"{where}: [{name}]", "a table", "表")
    stages = given.get("stages", {})
    _refuse_unknown(stages, (DEFAULT, *STAGES), f"{where}: [stages]")
    profile = Profile(
        images=_values(Images, given.get("images", {}), f"{where}: [images]"),
        stages={name: _needs(table, f"{where}: [stages.{name}]") for name, table in stages.items()},
        secrets=_variables(given.get("secrets", {}), f"{where}: [secrets"),
        config=_variables(given.get("config", {}), f"{where}: [config"),
        env=_env(given.get("env", {}), f"{where}: [env]"),
    )
    _refuse_twice(profile, where)
    return profile


# --- tables -----------------------------------------------------------------------------------


def _needs(given: Any, where: str) -> dict[str, Any]:
    """The fields of Needs in a table, checked; only those that are there."""
    _need(isinstance(given, dict), where, "a table", "表")
    given = dict(given)
    for name in ("cpu", "memory", "shm", "storage"):
        if isinstance(given.get(name), int | float) and not isinstance(given[name], bool):
            given[name] = f"{given[name]:g}"
    listed = given.pop("tolerations", None)
    selector = given.pop("node_selector", None)
    needs = _values(Needs, given, where)
    _need(
        not needs.cpu or bool(_CPU.fullmatch(needs.cpu)),
        f"{where} cpu",
        '4 or "500m"',
        '4 或 "500m"',
    )
    for name in ("memory", "shm", "storage"):
        value = getattr(needs, name)
        right = not value or bool(_SIZE.fullmatch(value))
        _need(right, f"{where} {name} = {value!r}", 'a size such as "8Gi"', '大小，如 "8Gi"')
    for name in ("gpu", "timeout", "retries"):
        _need(getattr(needs, name) >= 0, f"{where} {name}", "0 or more", "0 或正数")
    found: dict[str, Any] = {name: getattr(needs, name) for name in given}
    if selector is not None:
        right = isinstance(selector, dict) and all(isinstance(v, str) for v in selector.values())
        _need(right, f"{where} node_selector", 'a table {label = "value"}', '表 {标签 = "值"}')
        found["node_selector"] = selector
    if listed is not None:
        right = isinstance(listed, list) and all(isinstance(each, dict) for each in listed)
        _need(right, f"{where} tolerations", "an array of tables", "表的数组")
        found["tolerations"] = tuple(
            _values(Toleration, each, f"{where} tolerations") for each in listed
        )
    return found


def _values(kind: type[Kind], given: Mapping[str, Any], where: str) -> Kind:
    """A dataclass of texts and whole numbers."""
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    _refuse_unknown(given, tuple(known), where)
    for name, value in given.items():
        whole = "int" in str(known[name].type)
        right = type(value) is (int if whole else str)
        words = ("a whole number", "整数") if whole else ("a text in quotes", "带引号的文本")
        _need(right, f"{where} {name} = {value!r}", *words)
    return kind(**given)


def _variables(given: Mapping[str, Any], where: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for name, table in given.items():
        at = f"{where}.{name}]"
        _need(isinstance(table, dict) and bool(table), at, 'key = "ENV_NAME"', '键 = "环境变量"')
        for key, variable in table.items():
            right = isinstance(variable, str) and bool(_VARIABLE.fullmatch(variable))
            _need(right, f"{at} {key}", "the name of an environment variable", "环境变量名")
        found[name] = dict(table)
    return found


def _env(given: Mapping[str, Any], where: str) -> dict[str, str]:
    for name, value in given.items():
        right = isinstance(value, str) and bool(_VARIABLE.fullmatch(name))
        _need(right, f"{where} {name}", 'NAME = "value"', '名称 = "值"')
        if _SECRET.search(name.upper()):
            raise InputError(
                f"{where} {name} looks like a secret, and this file and the pipeline are not: put "
                'it into a Kubernetes secret and name that: [secrets.NAME] key = "ENV_NAME".',
                f"{where} {name} 看起来是机密，而本文件与流程均非机密：请放入 Kubernetes secret，"
                '并写成 [secrets.名称] 键 = "环境变量"。',
            )
    return dict(given)


# --- refusals ---------------------------------------------------------------------------------


def _refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        names = ", ".join(known)
        raise InputError(
            f"{where} {unknown[0]} is not known; known: {names}.",
            f"{where} {unknown[0]} 未知；可用：{names}。",
        )


def _refuse_twice(profile: Profile, where: str) -> None:
    """Kubernetes takes the last of two values for a variable, without a word."""
    seen: dict[str, str] = {}
    sources = [(f"secrets.{n}", table.values()) for n, table in profile.secrets.items()]
    sources += [(f"config.{n}", table.values()) for n, table in profile.config.items()]
    sources.append(("env", list(profile.env)))  # type: ignore[arg-type]
    for source, variables in sources:
        for variable in variables:
            if variable in seen:
                raise InputError(
                    f"{where}: {variable} is set by [{seen[variable]}] and by [{source}]; keep "
                    "one.",
                    f"{where}：{variable} 在 [{seen[variable]}] 与 [{source}] 中重复，请保留一处。",
                )
            seen[variable] = source


def _need(right: bool, where: str, en: str, zh: str) -> None:
    if not right:
        raise InputError(f"{where}: give {en}.", f"{where}：应为{zh}。")
