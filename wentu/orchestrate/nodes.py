"""Stages of a run on a cluster, out of what KFP's server tells of it.

It tells the nodes of an Argo workflow: for each task a DAG named as the task, a driver named
`TASK-driver`, and below the DAG an `executor`, which is SKIPPED where the task's result came from
the cache; attempts of a retry are `executor(0)`, `executor(1)`. Pods are found by `task_id`; one
that failed is asked for its reason where this machine reaches Kubernetes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from wentu.orchestrate import pods
from wentu.orchestrate.filling import compiled, tasks_by_name
from wentu.orchestrate.live import FLOW, StageView

ENDED = {
    "SUCCEEDED": "succeeded",
    "SKIPPED": "succeeded",
    "FAILED": "failed",
    "CANCELED": "stopped",
    "CANCELING": "stopped",
}
"""KFP's states of a run in which nothing more happens -> ours."""


def read_run(run: Any, namespace: str) -> tuple[dict[str, StageView], str]:
    """(every stage, inventory's answer as far as it shows) of a V2beta1Run."""
    details = run.run_details.task_details if run.run_details else None
    nodes = list(details or ())
    tasks = tasks_by_name(_spec_of(run))
    found: dict[str, list[StageView]] = {}
    answers = set()
    for node in nodes:
        name = _bare(node.display_name)
        failed_driver = name.endswith("-driver") and str(node.state) == "FAILED"
        if failed_driver:
            name = name.removesuffix("-driver")
        if name not in tasks:
            continue
        stage, branch = tasks[name]
        if branch and str(node.state) != "SKIPPED":
            answers.add(branch)
        found.setdefault(stage, []).append(_view(stage, node, nodes, namespace))
    views = {name: StageView(name=name) for name in FLOW["train"]}
    views |= {name: _merged(several) for name, several in found.items() if name in views}
    answer = next(iter(answers), "")
    if not answer and ENDED.get(str(run.state)) == "succeeded":
        answer = "skip"
    return views, answer


def _view(stage: str, node: Any, nodes: list[Any], namespace: str) -> StageView:
    executors = list(_executors(node, nodes))
    states = {str(each.state) for each in executors}
    state = str(node.state)
    view = StageView(name=stage)
    began, ended = moment(node.start_time), moment(node.end_time)
    if began:
        view.started = began.timestamp()
        view.seconds = round(((ended or datetime.now(UTC)) - began).total_seconds(), 1)
    if state == "SUCCEEDED":
        view.status = "cached" if states == {"SKIPPED"} else "done"
    elif state == "CACHED":
        view.status = "cached"
    elif state in ("FAILED", "CANCELED", "CANCELING"):
        view.status = "failed"
        view.error = _why(node, executors, namespace)
    elif state == "RUNNING":
        view.status = "running"
        waiting = [each for each in executors if str(each.state) == "PENDING"]
        view.note = next((pods.reason(_pod(each), namespace) for each in waiting), "")
    return view


def _merged(several: list[StageView]) -> StageView:
    """One stage that ran as several tasks (shards): as far as the slowest, as bad as the worst."""
    for status in ("failed", "running", "waiting", "done", "cached"):
        found = [view for view in several if view.status == status]
        if found:
            seconds = max(view.seconds for view in several)
            began = min((view.started for view in several if view.started), default=0.0)
            if status == "waiting" and len(found) < len(several):
                status = "running"
            return replace(found[0], status=status, seconds=seconds, started=began)
    raise AssertionError


def _executors(node: Any, nodes: list[Any]) -> Iterator[Any]:
    """The nodes below a task that ran its container, attempts of a retry included.

    Children are named by node id; a node by its pod, which ends in the same hash.
    """
    by_id = {each.task_id: each for each in nodes}
    by_hash = {_hash(each.task_id): each for each in nodes}
    left, seen = [node], set()
    while left:
        for child in left.pop().child_tasks or ():
            name = child.pod_name or child.task_id or ""
            found = by_id.get(name) or by_hash.get(_hash(name))
            if found is None or found.task_id in seen:
                continue
            seen.add(found.task_id)
            if _bare(found.display_name) == "executor":  # what comes after it is its child, too
                yield found
                left.append(found)


def _why(node: Any, executors: list[Any], namespace: str) -> str:
    """The reason of a failure: KFP's, else the pod's, the last attempt's first."""
    last_first = [*reversed(executors), node]
    for each in last_first:
        history = [message(status.error) for status in each.state_history or ()]
        for text in (message(each.error), *reversed(history)):
            if text:
                return text
    for each in last_first:
        if str(each.state) == "FAILED":
            text = pods.reason(_pod(each), namespace)
            if text:
                return text
    return ""


def _spec_of(run: Any) -> Mapping[str, Any]:
    """The pipeline that a run ran: its own where the server tells, else the one we have."""
    told = run.pipeline_spec or {}
    told = told.get("pipeline_spec", told)
    if "deploymentSpec" in told and "root" in told:
        return dict(told)
    return compiled()


def _pod(node: Any) -> str:
    return str(node.pod_name or node.task_id or "")


def _bare(name: str | None) -> str:
    """A node's name without the number of an attempt: executor(0)."""
    return re.sub(r"\(\d+\)$", "", name or "")


def _hash(name: str | None) -> str:
    return (name or "").rpartition("-")[2]


def message(error: Any) -> str:
    return str(error.message or "").strip() if error else ""


def moment(value: datetime | None) -> datetime | None:
    """A time; None where there is none, which KFP writes as the year 1 or 1970."""
    if value is None or value.year <= 1970:
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
