"""`wentu doctor`: is everything there that a run needs, on this machine and on the cluster?

Each check says what it found and, where that is not well, what to do. Every one has a patience of
seconds; none changes anything but for an object in the store that is created and removed again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from wentu import __version__, notices
from wentu.collection import open_collection
from wentu.errors import WentuError
from wentu.language import pick
from wentu.orchestrate import pods
from wentu.orchestrate.probes import ask, settings, silent
from wentu.orchestrate.profile import Profile
from wentu.settings import EXTRAS, cache_folder
from wentu.storage import is_remote, local_path

State = Literal["ok", "warn", "fail", "-"]
ROOM = 10e9
"""Bytes of free disk below which a run of some size will not fit."""
OLDEST = (2, 5)
"""Of KFP's servers: the first that reads each part of what we send (resources as texts, secrets
that may be missing, emptyDir)."""

RIGHTS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("trainer.kubeflow.org", "trainjobs"): ("create", "get", "list", "watch", "patch", "delete"),
    ("", "pods"): ("get", "list"),
    ("", "pods/log"): ("get",),
}
"""What the Role wentu-trainjobs grants; a test holds both against each other."""
ACCOUNTS = ("pipeline-runner", "default-editor")
"""The service account of tasks: KFP's alone, and where it has several users."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one look found. ``-``: not checked, and why."""

    name: str
    state: State
    found: str
    advice: str = ""


def examine(
    *,
    store: str,
    profile: Profile,
    pictures: str = "",
    host: str = "",
    namespace: str = "",
    notify: bool = False,
) -> Iterator[Check]:
    """Every check, one after another."""
    looks: list[Callable[[], Check]] = [
        _python,
        _packages,
        lambda: _store(pick("store", "仓库"), store),
        lambda: _store_of_tasks(store, profile, namespace or "kubeflow"),
        lambda: _pictures(pictures),
        _mlflow,
        lambda: _kubeflow(host),
        lambda: _rights(namespace or "kubeflow"),
        _gpu,
        lambda: _disk(store),
        _weights,
        lambda: _webhook(notify),
    ]
    for look in looks:
        yield look()


# --- this machine -----------------------------------------------------------------------------


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    right = sys.version_info[:2] >= (3, 11)
    advice = "" if right else pick("use Python 3.11", "请使用 Python 3.11")
    return Check(name="Python", state="ok" if right else "fail", found=version, advice=advice)


def _packages() -> Check:
    missing = {
        extra: [name for name in names if find_spec(name) is None]
        for extra, names in EXTRAS.items()
    }
    extras = [extra for extra, names in missing.items() if names]
    found = ", ".join([f"wentu {__version__}", *_versions("kfp", "torch", "mlflow", "onnxruntime")])
    if not extras:
        return Check(name=pick("packages", "软件包"), state="ok", found=found)
    lacking = ", ".join(name for names in missing.values() for name in names)
    advice = pick(
        f"without {lacking}: pip install 'wentu[{','.join(extras)}]' where it is needed",
        f"缺少 {lacking}：需要时 pip install 'wentu[{','.join(extras)}]'",
    )
    return Check(name=pick("packages", "软件包"), state="warn", found=found, advice=advice)


def _versions(*names: str) -> Iterator[str]:
    for name in names:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue


def _gpu() -> Check:
    if find_spec("torch") is None:
        return Check(name="GPU", state="-", found=pick("torch is not installed", "未安装 torch"))
    from wentu.training.devices import pick_device

    device = pick_device("auto")
    if device.type == "cpu":
        advice = pick(
            "train ViT-B-16 on a machine or a cluster that has one; searching needs none",
            "请在有 GPU 的机器或集群上训练 ViT-B-16；搜索不需要 GPU",
        )
        return Check(name="GPU", state="warn", found=pick("none", "无"), advice=advice)
    return Check(name="GPU", state="ok", found=str(device))


def _disk(store: str) -> Check:
    place = cache_folder() if is_remote(store) else local_path(store)
    free = shutil.disk_usage(_existing(place)).free
    found = pick(f"{free / 1e9:.0f} GB free at {place}", f"{place} 剩余 {free / 1e9:.0f} GB")
    if free >= ROOM:
        return Check(name=pick("disk", "磁盘"), state="ok", found=found)
    advice = pick(
        "make room, or move WENTU_STORE and WENTU_CACHE",
        "请清理，或移动 WENTU_STORE 与 WENTU_CACHE",
    )
    return Check(name=pick("disk", "磁盘"), state="warn", found=found, advice=advice)


def _weights() -> Check:
    name = pick("weights", "权重")
    from wentu.clip.checkpoint import find_weights

    try:
        return Check(name=name, state="ok", found=str(find_weights("ViT-B-16")))
    except WentuError as error:
        found = pick("no ViT-B-16", "没有 ViT-B-16")
        return Check(name=name, state="warn", found=found, advice=str(error))


# --- where things are -------------------------------------------------------------------------


def _store_of_tasks(place: str, profile: Profile, namespace: str) -> Check:
    """The same with what the tasks on the cluster are given: KFP's own keys are not theirs."""
    name = pick("store, as tasks", "仓库(任务密钥)")
    if not is_remote(place):
        return Check(name=name, state="-", found=pick("a folder of this machine", "本机目录"))
    given, missing = pods.variables(profile.secrets, profile.config, namespace)
    if given is None:
        return Check(name=name, state="-", found=_not_checked(missing))
    if missing:
        found = pick(f"{missing} is not in {namespace}", f"{namespace} 中没有 {missing}")
        advice = pick(
            "apply it there (infra/k8s), or name yours in a --profile",
            "请在该命名空间中创建(infra/k8s)，或在 --profile 中指定",
        )
        return Check(name=name, state="fail", found=found, advice=advice)
    with settings({key: value for key, value in given.items() if key.startswith("AWS_")}):
        found = silent(os.environ.get("AWS_ENDPOINT_URL_S3"))
        if found:  # an address of inside the cluster
            return Check(name=name, state="-", found=_not_checked(found))
        return _store(name, place)


def _not_checked(why: str) -> str:
    return pick(f"not checked: {why}", f"未检查：{why}")


def _store(name: str, place: str) -> Check:
    if not is_remote(place):
        folder = local_path(place)
        right = os.access(_existing(folder), os.W_OK | os.X_OK)
        advice = "" if right else pick("give a folder that you may write to", "请给出可写的目录")
        return Check(name=name, state="ok" if right else "fail", found=str(folder), advice=advice)
    nobody = silent(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))
    if nobody:
        advice = pick(
            "mend AWS_ENDPOINT_URL_S3, or start the server",
            "请修正 AWS_ENDPOINT_URL_S3 或启动服务器",
        )
        return Check(name=name, state="fail", found=nobody, advice=advice)
    from wentu.storage.s3 import Objects

    try:
        objects, key = Objects(place), f"doctor/{uuid.uuid4().hex}"
        won = [objects.put(key, b"wentu doctor", only_new=True) for _ in range(2)]
        right = objects.get(key) == b"wentu doctor"
        objects.delete([key])
    except WentuError as error:
        return Check(name=name, state="fail", found=place, advice=str(error))
    if won == [True, False] and right:
        found = pick(
            f"{place}: reads, creates only once, deletes", f"{place}：可读、仅创建一次、可删除"
        )
        return Check(name=name, state="ok", found=found)
    advice = pick(
        "this object store overwrites what it was told to create only where there is none "
        "(If-None-Match): a store needs that; pictures may lie there",
        "该对象存储忽略 If-None-Match，仓库需要它；图片可以放在那里",
    )
    return Check(name=name, state="fail", found=place, advice=advice)


def _pictures(place: str) -> Check:
    name = pick("pictures", "图片")
    if not place:
        return Check(
            name=name, state="-", found=pick("none named: --pictures", "未指定：--pictures")
        )
    try:
        collection = open_collection(place)
        first = next(iter(collection.walk(lambda path, kind: None)), None)
        if first is None:
            advice = pick("name a folder with pictures", "请指定含有图片的目录")
            return Check(name=name, state="fail", found=place, advice=advice)
        size = len(collection.read(first.path))
    except (WentuError, OSError) as error:
        return Check(name=name, state="fail", found=place, advice=str(error))
    return Check(name=name, state="ok", found=f"{place}: {first.path}, {size:,} B")


def _mlflow() -> Check:
    place = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not place.startswith("http"):
        found = place or pick("none named: a run keeps its own", "未指定：运行自带记录")
        return Check(name="MLflow", state="ok" if place else "-", found=found)
    status, said = ask(f"{place.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1")
    place = notices.without_credentials(place)
    if status == 200:
        return Check(name="MLflow", state="ok", found=place)
    host = urlsplit(place).netloc
    advice = {
        0: pick("start it, or mend MLFLOW_TRACKING_URI", "请启动，或修正 MLFLOW_TRACKING_URI"),
        401: pick(
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            "请设置 MLFLOW_TRACKING_USERNAME 与 MLFLOW_TRACKING_PASSWORD",
        ),
        403: pick(
            f"start it with --allowed-hosts {host.partition(':')[0]},{host}: it refuses hosts that "
            "it was not told, with and without the port",
            f"启动时加 --allowed-hosts {host.partition(':')[0]},{host}："
            "它会拒绝未声明的主机名(含与不含端口)",
        ),
    }.get(status, pick("is this an MLflow server?", "这是 MLflow 服务器吗？"))
    found = f"{place}: {status or ''} {said}".rstrip()
    return Check(name="MLflow", state="fail", found=found, advice=advice)


def _webhook(notify: bool) -> Check:
    name, place = "webhook", os.environ.get("WENTU_WEBHOOK", "").strip()
    if not place:
        return Check(
            name=name, state="-", found=pick("WENTU_WEBHOOK is not set", "未设置 WENTU_WEBHOOK")
        )
    if not notify:
        return Check(
            name=name, state="-", found=pick("not called; --notify does", "未调用；--notify 会调用")
        )
    wrong = notices.post(place, {"event": "test", "sentence": "wentu doctor"})
    if not wrong:
        return Check(name=name, state="ok", found=pick("answers", "有响应"))
    advice = pick("mend WENTU_WEBHOOK", "请修正 WENTU_WEBHOOK")
    return Check(name=name, state="fail", found=wrong, advice=advice)


# --- the cluster ------------------------------------------------------------------------------


def _kubeflow(host: str) -> Check:
    name = "Kubeflow Pipelines"
    from wentu.orchestrate.kubeflow import ENDPOINT, TOKEN

    host = (host or os.environ.get(ENDPOINT, "")).rstrip("/")
    if not host:
        found = pick(f"none named: --host or {ENDPOINT}", f"未指定：--host 或 {ENDPOINT}")
        return Check(name=name, state="-", found=found)
    token = os.environ.get(TOKEN, "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    status, said = ask(f"{host}/apis/v2beta1/healthz", headers=headers)
    if status != 200:
        advice = {
            0: pick("is it the address, and the port forwarded?", "请检查地址与端口转发"),
            401: pick(f"put a token into {TOKEN}", f"请在 {TOKEN} 中给出令牌"),
            403: pick(f"put a token into {TOKEN}", f"请在 {TOKEN} 中给出令牌"),
        }.get(status, pick("is this Kubeflow Pipelines 2?", "这是 Kubeflow Pipelines 2 吗？"))
        found = f"{host}: {status or ''} {said}".rstrip()
        return Check(name=name, state="fail", found=found, advice=advice)
    # Only the older API tells the version.
    _, told = ask(f"{host}/apis/v1beta1/healthz", headers=headers)
    version = _tag(told)
    if not version:
        found = pick(f"{host}: version unknown", f"{host}：版本未知")
        return Check(name=name, state="ok", found=found)
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST:
        advice = pick(
            f"resources and secrets want {OLDEST[0]}.{OLDEST[1]} or newer: update it",
            f"资源与机密设置需要 {OLDEST[0]}.{OLDEST[1]} 或更新版本，请升级",
        )
        return Check(name=name, state="warn", found=f"{host}: {version}", advice=advice)
    return Check(name=name, state="ok", found=f"{host}: {version}")


def _tag(told: str) -> str:
    try:
        return str(json.loads(told).get("tag_name", ""))
    except (ValueError, AttributeError):
        return ""


def _rights(namespace: str) -> Check:
    """May the tasks do what a training on several nodes asks of Kubernetes?"""
    name = pick("rights to TrainJobs", "TrainJob 权限")
    found: dict[str, list[str]] = {}
    for account in ACCOUNTS:
        denied, why = pods.lacking(RIGHTS, namespace, account)
        if denied is None:  # asking for another account is a right, too: of ourselves, then
            you = pick("you", "您")
            denied, why = pods.lacking(RIGHTS, namespace)
            if denied is None:
                return Check(name=name, state="-", found=_not_checked(why))
            found = {you: denied}
            break
        found[account] = denied
    who = min(found, key=lambda each: len(found[each]))
    other = "" if who in ACCOUNTS else pick(" (not the tasks' account)", "(不是任务的账号)")
    if not found[who]:
        text = pick(
            f"{who} may do all of it in {namespace}{other}",
            f"{who} 在 {namespace} 中拥有全部权限{other}",
        )
        return Check(name=name, state="ok", found=text)
    advice = pick(
        "training on several nodes needs the Role wentu-trainjobs of infra/k8s",
        "多节点训练需要 infra/k8s 中的 Role wentu-trainjobs",
    )
    denied_text = ", ".join(found[who])
    text = pick(
        f"{who} may not, in {namespace}: {denied_text}{other}",
        f"{who} 在 {namespace} 中没有权限：{denied_text}{other}",
    )
    return Check(name=name, state="warn", found=text, advice=advice)


def _existing(place: Path) -> Path:
    """The place, or the nearest folder above it that is there."""
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return place
