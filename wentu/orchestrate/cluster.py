"""The Kubernetes API, as far as a training needs it, with patience.

A server that does not answer, or says that it is busy, is asked again for PATIENCE seconds: a
training of a day must not end because the control plane is upgraded for ten minutes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from wentu.errors import ServiceError
from wentu.orchestrate.connection import connect
from wentu.orchestrate.trainspec import GROUP, NODE, PLURAL, VERSION

PATIENCE = 900.0
"""Seconds without an answer after which we give up."""
PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between attempts; the last one is repeated."""
TIMEOUT = 30
LINES = 200
"""Of a log that are read."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class PodView:
    """What is worth knowing of a pod."""

    name: str
    phase: str
    """Pending, Running, Succeeded, Failed or Unknown."""
    waits: str = ""
    """Why it does not run, in Kubernetes' words; empty where it does."""
    reason: str = ""
    """The first word of that: Unschedulable, ImagePullBackOff, …"""
    index: str = ""
    """Which machine of the training it is."""
    ended: str = ""
    """How its container ended: OOMKilled (137), Error (1)."""
    restarts: int = 0


class Cluster:
    """A namespace of a cluster."""

    def __init__(self, client: Any, namespace: str) -> None:
        from kubernetes.client import CoreV1Api, CustomObjectsApi

        self.namespace = namespace
        self._custom, self._core = CustomObjectsApi(client), CoreV1Api(client)
        self._where = {"group": GROUP, "version": VERSION, "plural": PLURAL}
        self._where["namespace"] = namespace

    @classmethod
    def connect(cls) -> Cluster:
        """The one that ``connection.connect`` finds."""
        return cls(*connect())

    def get(self, name: str) -> dict[str, Any] | None:
        """A TrainJob; None where there is none."""
        found: dict[str, Any] | None = self._ask(
            lambda: self._custom.get_namespaced_custom_object(
                name=name, _request_timeout=TIMEOUT, **self._where
            ),
            missing=lambda: None,
        )
        return found

    def create(self, body: dict[str, Any]) -> bool:
        """Create a TrainJob; False where there is one of that name."""
        from kubernetes.client import ApiException

        def call() -> bool:
            try:
                self._custom.create_namespaced_custom_object(
                    body=body, _request_timeout=TIMEOUT, **self._where
                )
            except ApiException as error:
                if error.status == 409:
                    return False
                raise
            return True

        return self._ask(call)

    def suspend(self, name: str, suspended: bool) -> None:
        """Let a TrainJob give its machines back, or ask for them again."""
        self._ask(
            lambda: self._custom.patch_namespaced_custom_object(
                name=name,
                body={"spec": {"suspend": suspended}},
                _request_timeout=TIMEOUT,
                **self._where,
            ),
            missing=lambda: None,
        )

    def delete(self, name: str) -> None:
        """Remove a TrainJob and its pods; returns when they are gone, or after PATIENCE."""
        self._ask(
            lambda: self._custom.delete_namespaced_custom_object(
                name=name,
                propagation_policy="Foreground",  # a successor has pods of the same names
                _request_timeout=TIMEOUT,
                **self._where,
            ),
            missing=lambda: None,
        )
        began = time.monotonic()
        while self.get(name) is not None and time.monotonic() - began < PATIENCE:
            time.sleep(PAUSES[0])

    def pods(self, name: str) -> list[PodView]:
        """The pods of a TrainJob, by machine. (JobSet labels them with its name, which is that of
        the TrainJob; Kubernetes' Job with the index.)"""
        listed = self._ask(
            lambda: self._core.list_namespaced_pod(
                self.namespace,
                label_selector=f"jobset.sigs.k8s.io/jobset-name={name}",
                _request_timeout=TIMEOUT,
            )
        )
        return sorted(map(view, listed.items), key=lambda pod: (pod.index.zfill(6), pod.name))

    def own_pod(self, name: str) -> Any:
        """The pod that we run in; None where there is none of that name."""
        return self._ask(
            lambda: self._core.read_namespaced_pod(name, self.namespace, _request_timeout=TIMEOUT),
            missing=lambda: None,
        )

    def log(self, pod: PodView) -> list[str]:
        """The last lines of a pod; of a container that was started again, those before."""
        for previous in (False, True) if pod.restarts else (False,):
            text = self._ask(
                lambda previous=previous: self._core.read_namespaced_pod_log(  # type: ignore[misc]
                    pod.name,
                    self.namespace,
                    container=NODE,
                    tail_lines=LINES,
                    previous=previous,
                    _request_timeout=TIMEOUT,
                ),
                missing=lambda: "",
                absent=(404, 400),  # a container that has not started, or was not started before
            )
            lines = str(text or "").splitlines()
            if lines:
                return lines
        return []

    def _ask(
        self,
        call: Callable[[], Answer],
        missing: Callable[[], Answer] | None = None,
        absent: tuple[int, ...] = (404,),
    ) -> Answer:
        """What the server answers; of one that does not, we wait for it.

        Args:
            missing: gives the answer where the object is not there. absent: how that is said.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        began, attempt = time.monotonic(), 0
        while True:
            try:
                return call()
            except ApiException as error:
                if error.status in absent and missing:
                    return missing()
                if error.status in (401, 403):
                    raise not_allowed(error, self.namespace) from None
                if not (error.status in (0, 429) or (error.status or 0) >= 500):
                    raise refused(error) from None
                said: Exception = error
            except (HTTPError, OSError) as error:
                said = error
            if time.monotonic() - began > PATIENCE:
                raise ServiceError(
                    f"the Kubernetes API has not answered for {PATIENCE / 60:.0f} minutes ({said})"
                    "; the training itself goes on: run again to find it.",
                    f"Kubernetes API 已有 {PATIENCE / 60:.0f} 分钟没有应答({said})；"
                    "训练仍在继续：再次运行即可接上。",
                ) from None
            if attempt == 0:
                print(f"Kubernetes does not answer, asking again: {said}", file=sys.stderr)
            time.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
            attempt += 1


def view(pod: Any) -> PodView:
    """A pod as Kubernetes tells of it."""
    status, labels = pod.status, pod.metadata.labels or {}
    containers = [each for each in status.container_statuses or () if each.name == NODE]
    waiting = [each.state.waiting for each in containers if each.state and each.state.waiting]
    over = [
        state.terminated
        for each in containers
        for state in (each.state, each.last_state)
        if state and state.terminated
    ]
    conditions = {each.type: each for each in status.conditions or ()}
    scheduled = conditions.get("PodScheduled")
    if waiting:
        reason, message = waiting[0].reason or "", waiting[0].message or ""
    elif scheduled and scheduled.status == "False":
        reason, message = scheduled.reason or "", scheduled.message or ""
    else:
        reason, message = "", ""
    return PodView(
        name=pod.metadata.name,
        phase=status.phase or "Unknown",
        waits=": ".join(part for part in (reason, message) if part),
        reason=reason,
        index=labels.get("batch.kubernetes.io/job-completion-index", ""),
        ended=f"{over[0].reason or 'Error'} ({over[0].exit_code})" if over else "",
        restarts=sum(each.restart_count or 0 for each in containers),
    )


def message_of(error: Any) -> str:
    """What the server said, in a sentence."""
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def not_allowed(error: Any, namespace: str) -> ServiceError:
    """This pod's account lacks a right."""
    return ServiceError(
        f"Kubernetes does not allow it: {message_of(error)}. Bind the Role wentu-trainjobs to the "
        f"account that runs the pipeline in {namespace} (see docs/cluster.md).",
        f"Kubernetes 拒绝了请求：{message_of(error)}。请在 {namespace} 中把 Role wentu-trainjobs "
        "绑定到运行流水线的账号(见 docs/zh-CN/cluster.md)。",
    )


def refused(error: Any) -> ServiceError:
    """What was asked for cannot be."""
    return ServiceError(
        f"Kubernetes refuses it ({error.status}): {message_of(error)}. A TrainJob needs Kubeflow "
        "Trainer 2.3 or later, and its runtime torch-distributed.",
        f"Kubernetes 拒绝了请求({error.status})：{message_of(error)}。"
        "TrainJob 需要 Kubeflow Trainer 2.3 或更高版本及其 torch-distributed 运行时。",
    )
