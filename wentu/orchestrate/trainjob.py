"""A training across the machines of a cluster, as a Kubeflow TrainJob.

The task finetune launches it, follows it, and takes what came of it out of the store; it computes
nothing itself. The name of the TrainJob is made from what is trained and into which store, so a
task that was restarted finds the one that runs, or has ended. A task that is asked to end suspends
it: the machines are free, and the next attempt goes on from the last state that was saved.

Done, it is removed. Failed, it stays for ``kubectl logs`` until the next attempt or until the
pipeline run is removed; its last lines are in the error, and in the log of the task.

What the pods are is told by WENTU_TRAINJOB (see trainspec.Pods), else they are as this one.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from wentu.errors import InputError, ServiceError, StageError, StoppedError, WentuError
from wentu.formats import digest_of
from wentu.language import pick
from wentu.orchestrate.cluster import Cluster, PodView
from wentu.orchestrate.trainspec import NODE, Owner, Pods, trainjob
from wentu.progress import Reporter
from wentu.stage import Stage
from wentu.storage import is_remote
from wentu.store import Store
from wentu.training import remote, saving
from wentu.training.job import Job
from wentu.training.worker import SAID

POLL = 10.0
"""Seconds between looks."""
STUCK = 600.0
"""Seconds that a machine may wait for its image or its secrets, which seldom mends itself."""
NEVER = (
    *("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"),
    *("CreateContainerConfigError", "CreateContainerError"),
)
SHOWN = 30
"""Lines of a log in an error."""
PASSED_ON = ("AWS_", "MLFLOW_", "WENTU_", "HF_", "NCCL_", "GLOO_")
"""Beginnings of the variables of this pod that its TrainJob's pods get too."""
OWN = ("WENTU_TRAINJOB", "WENTU_CACHE", "WENTU_RUN_DIR", "WENTU_RUN_ID")
"""And which of them not."""


def launch(vault: Store, key: str, job: Job, stage: Stage) -> None:
    """Train ``job`` on several machines; its state is in ``vault.work(key)`` then (a Launcher)."""
    if not is_remote(vault.place):
        raise InputError(
            f"--nodes {job.config.nodes}: machines meet in the store, which must be s3://, not "
            f"{vault.place}.",
            f"--nodes {job.config.nodes}：各机器通过仓库交换数据，仓库必须是 s3://，"
            f"而不是 {vault.place}。",
        )
    Training(Cluster.connect(), vault, key, job, stage.progress).run(stage.tracker.id)


class Training:
    """One training of several machines, seen from the task that launches it."""

    def __init__(
        self, cluster: Cluster, vault: Store, key: str, job: Job, report: Reporter
    ) -> None:
        self.cluster, self.vault, self.key, self.job = cluster, vault, key, job
        self.report, self.name = report, name_of(vault, key)
        self._asked = threading.Event()
        self._said = ""
        self._stuck: dict[str, float] = {}

    def run(self, tracked: str = "") -> None:
        """Launch it or find it, follow it to its end, remove it.

        Raises StageError with the last lines of a machine where it failed, or the error that a
        machine had where trying again would not help.
        """
        with self._listening():
            found = self._found()
            if not found and not self._finished():
                self._create(tracked)
                found = True
            if found:
                self._follow()
        finished = self._finished()
        self.cluster.delete(self.name)  # without a result, too: no attempt is to find it complete
        if not finished:
            raise StageError(
                f"the TrainJob {self.name} is complete, but its result is not in {self.vault.place}"
                "; run again.",
                f"TrainJob {self.name} 已完成，但 {self.vault.place} 中没有其结果；请重新运行。",
            )

    # --- the beginning -------------------------------------------------------------------------

    def _found(self) -> bool:
        """Is there one that runs or is complete? One that failed makes room for another."""
        found = self.cluster.get(self.name)
        if found is None:
            return False
        if condition(found, "Failed"):
            self._note(
                f"TrainJob {self.name} failed before; it starts again from its last state",
                f"TrainJob {self.name} 此前失败；将从最近的状态重新开始",
            )
            self.cluster.delete(self.name)
            return False
        if found.get("spec", {}).get("suspend"):
            self.cluster.suspend(self.name, False)
        self._note(f"TrainJob {self.name} is there: going on", f"TrainJob {self.name} 已存在：继续")
        return True

    def _finished(self) -> bool:
        """Is its result in the store?"""
        with self.vault.work(self.key) as work:
            return saving.read_result(work) is not None

    def _create(self, tracked: str) -> None:
        self._note("copying the training data to the store", "正在把训练数据复制到仓库")
        remote.hand_over(self.vault, self.key, self.job, tracked)
        pods, owner = described(self.cluster)
        config = self.job.config
        body = trainjob(
            self.name,
            pods,
            nodes=config.nodes,
            processes=config.nproc,
            place=self.vault.place,
            key=self.key,
            owner=owner,
        )
        if self.cluster.create(body):  # else another task was faster: the same training
            where = f"kubectl -n {self.cluster.namespace} logs -f {self.name}-{NODE}-0-0-…"
            self._note(
                f"TrainJob {self.name} on {config.nodes} machines; {where}",
                f"TrainJob {self.name}，{config.nodes} 台机器；{where}",
            )

    # --- the middle ----------------------------------------------------------------------------

    def _follow(self) -> None:
        """Until it is complete; an error for every other end."""
        while True:
            found = self.cluster.get(self.name)
            if found is None:
                raise StageError(
                    f"the TrainJob {self.name} was removed by somebody else; run again to go on "
                    "from its last state.",
                    f"TrainJob {self.name} 已被他人删除；再次运行即可从最近的状态继续。",
                )
            if condition(found, "Complete"):
                return
            pods = self.cluster.pods(self.name)
            failed = condition(found, "Failed")
            told = self._told()
            if failed or told:
                raise self._failure(failed or {}, told, pods)
            self._show(pods)
            self._refuse_stuck(pods)
            if self._asked.wait(POLL):
                self.cluster.suspend(self.name, True)
                raise self._stopped()

    def _told(self) -> WentuError | None:
        """A mistake that a machine left word of; nothing of a store that does not answer now."""
        try:
            return remote.told_failure(self.vault, self.key)
        except ServiceError:
            return None

    def _show(self, pods: list[PodView]) -> None:
        """How many machines run, and why others do not; said again only when it changes."""
        running = sum(pod.phase in ("Running", "Succeeded") for pod in pods)
        nodes = self.job.config.nodes
        waits = next((pod.waits for pod in pods if pod.waits), "")
        en = f"{running} of {nodes} machines run" + (f" ({waits[:300]})" if waits else "")
        zh = f"{nodes} 台机器中 {running} 台在运行" + (f"({waits[:300]})" if waits else "")
        if en != self._said:
            self._said = en
            self._note(en, zh)

    def _refuse_stuck(self, pods: list[PodView]) -> None:
        """End what waits for an image or a secret that does not come."""
        now = time.monotonic()
        stuck = {pod.name: pod for pod in pods if pod.reason in NEVER}
        self._stuck = {name: self._stuck.get(name, now) for name in stuck}
        for name, since in self._stuck.items():
            if now - since > STUCK:
                self.cluster.delete(self.name)
                raise StageError(
                    f"machine {name} of the TrainJob {self.name} cannot start: "
                    f"{stuck[name].waits}.",
                    f"TrainJob {self.name} 的机器 {name} 无法启动：{stuck[name].waits}。",
                )

    # --- the end -------------------------------------------------------------------------------

    def _failure(
        self, failed: Mapping[str, Any], told: WentuError | None, pods: list[PodView]
    ) -> WentuError:
        """What to say of a training that failed: a machine's own sentence, or its last lines."""
        lines, pod = self._last_lines(pods)
        if told:
            self.cluster.delete(self.name)  # its machines would only try again
            return told
        said = next((line for line in reversed(lines) if line.startswith(SAID)), "")
        why = ": ".join(str(failed[k]) for k in ("reason", "message") if failed.get(k))
        ended = f", {pod.name} {pod.ended}" if pod and pod.ended else ""
        shown = "\n".join(f"  {line}" for line in lines[-SHOWN:])
        first = said.removeprefix(SAID) or why
        return StageError(
            f"the TrainJob {self.name} failed ({why}{ended}): {first}\n{shown}",
            f"TrainJob {self.name} 失败({why}{ended})：{first}\n{shown}",
        )

    def _last_lines(self, pods: list[PodView]) -> tuple[list[str], PodView | None]:
        """Of the machine that failed first by its index, else of the first that says anything;
        all of them go to the log of this task."""
        order = sorted(pods, key=lambda pod: (not pod.ended, pod.phase != "Failed"))
        chosen: tuple[list[str], PodView | None] = [], None
        for pod in order:
            lines = self.cluster.log(pod)
            if lines and not chosen[0]:
                chosen = lines, pod
            print(f"--- {pod.name} {pod.phase} {pod.ended}", *lines, sep="\n", file=sys.stderr)
        return chosen

    def _stopped(self) -> WentuError:
        return StoppedError(
            f"stopped on request; the TrainJob {self.name} is suspended, its state saved: the same "
            "command goes on.",
            f"已按要求停止；TrainJob {self.name} 已挂起，状态已保存：再次运行同一命令即可继续。",
        )

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """SIGTERM asks to stop; only a process's main thread can hear it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, lambda *_: self._asked.set())
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _note(self, en: str, zh: str) -> None:
        self.report.note(pick(en, zh))


def name_of(vault: Store, key: str) -> str:
    """The TrainJob of a training: of two stores in a namespace each has its own."""
    return f"wentu-{digest_of([vault.place.rstrip('/'), key])[:20]}"


def condition(job: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """The condition of a TrainJob, if it holds: Complete, Failed (TrainJobStatus.conditions)."""
    for each in (job.get("status") or {}).get("conditions") or ():
        if each.get("type") == kind and each.get("status") == "True":
            found: Mapping[str, Any] = each
            return found
    return None


def described(cluster: Cluster) -> tuple[Pods, Owner]:
    """What the pods are to be, and which run they belong to."""
    # Set for every container of a pipeline: KFP's argocompiler, commonEnvs.
    name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME", "")
    own = cluster.own_pod(name) if name else None
    labels = (own.metadata.labels or {}) if own else {}
    owner = Owner(
        run=os.environ.get("WENTU_RUN_ID") or labels.get("pipeline/runid", ""),
        references=tuple(
            {"apiVersion": each.api_version, "kind": each.kind, "name": each.name, "uid": each.uid}
            for each in (own.metadata.owner_references or () if own else ())
        ),
    )
    text = os.environ.get("WENTU_TRAINJOB")
    if text:
        return Pods.parse(text), owner
    if own is None:
        raise InputError(
            "WENTU_TRAINJOB does not say what the pods of the training are, and this is no pod "
            "that they could be like; use `wentu submit`.",
            "WENTU_TRAINJOB 没有说明训练 Pod 的配置，本进程也不在 Pod 中运行；"
            "请使用 wentu submit。",
        )
    return like(own), owner


def like(pod: Any) -> Pods:
    """Pods as this one: image, limits, place, and the variables that say where things are."""
    named = [each for each in pod.spec.containers if each.name == "main"]  # Argo's own name
    main = (named or pod.spec.containers)[0]
    limits = dict((main.resources and main.resources.limits) or {})
    gpu = next((name for name in limits if name.endswith("/gpu")), "")
    return Pods(
        image=main.image,
        pull_secret=next((each.name for each in pod.spec.image_pull_secrets or ()), ""),
        cpu=limits.get("cpu", ""),
        memory=limits.get("memory", ""),
        storage=limits.get("ephemeral-storage", ""),
        gpu=int(limits[gpu]) if gpu else 0,
        gpu_type=gpu or "nvidia.com/gpu",
        node_selector=dict(pod.spec.node_selector or {}),
        tolerations=tuple(
            {"key": t.key, "operator": t.operator, "value": t.value, "effect": t.effect}
            for t in pod.spec.tolerations or ()
            if not (t.key or "").startswith("node.kubernetes.io/")  # every pod has those
        ),
        **variables(main.env or ()),
    )


def variables(env: Iterable[Any]) -> dict[str, Any]:
    """Those of a container that are passed on, by where they come from."""
    secrets: dict[str, dict[str, str]] = {}
    config: dict[str, dict[str, str]] = {}
    plain: dict[str, str] = {}
    for each in env:
        if not each.name.startswith(PASSED_ON) or each.name in OWN:
            continue
        secret = each.value_from and each.value_from.secret_key_ref
        listed = each.value_from and each.value_from.config_map_key_ref
        if secret:
            secrets.setdefault(secret.name, {})[secret.key] = each.name
        elif listed:
            config.setdefault(listed.name, {})[listed.key] = each.name
        elif each.value is not None:
            plain[each.name] = each.value
    return {"secrets": secrets, "config": config, "env": plain}
