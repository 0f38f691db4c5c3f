"""How a run stands, in one shape for runs of this machine and of a cluster.

Of a run here, run.json and its events say everything. Of one on a cluster, KFP's server tells the
nodes of an Argo workflow: for each task a DAG named as the task, a driver named `TASK-driver`, and
below the DAG an `executor`, which is SKIPPED where the task's result came from the cache. Pods are
found by `task_id`; one that failed is asked for its reason where this machine reaches Kubernetes.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wentu.errors import StageError
from wentu.language import pick
from wentu.orchestrate import pods
from wentu.orchestrate.filling import compiled, tasks_by_name
from wentu.orchestrate.live import FLOW, RunView, StageView
from wentu.orchestrate.local import is_alive, runs
from wentu.store import Store

if TYPE_CHECKING:
    from rich.console import Console

    from wentu.orchestrate.kubeflow import Cluster

ENDED = {
    "SUCCEEDED": "succeeded",
    "SKIPPED": "succeeded",
    "FAILED": "failed",
    "CANCELED": "stopped",
    "CANCELING": "stopped",
}
"""KFP's states of a run in which nothing more happens -> ours."""
POLL = 5.0
SHOWN = ("name", "status", "seconds", "counts", "note", "error")
"""Of a stage, in JSON."""
Shape = dict[str, Any]


def shape(**values: Any) -> Shape:
    """One run, as `--json` prints it; the same keys for every run."""
    usual: Shape = {
        "run_id": "",
        "where": "local",
        "status": "",
        "started": "",
        "seconds": 0.0,
        "decision": "",
        "reason": "",
        "release": "",
        "url": "",
        "error": "",
        "parameters": {},
        "stages": [],
    }
    assert values.keys() <= usual.keys()
    return usual | values


def stages(views: list[StageView]) -> list[Shape]:
    """The stages of a run, as `--json` prints them."""
    now = time.time()
    return [
        {name: getattr(view, name) for name in SHOWN}
        | ({"seconds": round(now - view.started, 1)} if view.status == "running" else {})
        for view in views
    ]


# --- of this machine --------------------------------------------------------------------------


def local_runs(store: Store) -> list[Shape]:
    """Every run on this machine, oldest first, without its stages."""
    return [_of_file(run) for run in runs(store)]


def _of_file(run: Mapping[str, Any]) -> Shape:
    names = ("run_id", "status", "started", "seconds", "decision", "reason", "release")
    return shape(parameters=run["parameters"], **{name: run[name] for name in names})


def local_status(store: Store, run_id: str) -> tuple[Shape, RunView]:
    """A run on this machine with its stages, also while it runs; and what draws it."""
    from rich.console import Console

    run = next(each for each in runs(store) if each["run_id"] == run_id)
    folder: Path = store.storage.home / f"runs/{run_id}"
    view = RunView(folder, Console(file=io.StringIO()))
    view.read()
    found = _of_file(run)
    if run["status"] == "running" and is_alive(folder):
        began = datetime.fromisoformat(run["started"])
        found["seconds"] = round((datetime.now(UTC) - began).total_seconds(), 1)
        found["decision"] = view.decision.get("decision", "")
        found["reason"] = view.decision.get("reason", "")
    else:
        view.decision = {"decision": run["decision"] or "train", "reason": run["reason"]}
        view.finish(succeeded=run["status"] == "succeeded")
    failed = view.failed()
    found |= {"stages": stages(view.flow()), "error": failed.error if failed else ""}
    return found, view


# --- of a cluster -----------------------------------------------------------------------------


class ClusterView(RunView):
    """Follows a run on a cluster and draws it as one here is drawn; a context manager."""

    EVERY = POLL

    def __init__(self, cluster: Cluster, run_id: str, console: Console) -> None:
        super().__init__(Path(), console)
        self._cluster, self._run_id = cluster, run_id
        self.run: Any = None
        self._trouble: Exception | None = None

    @property
    def ended(self) -> str:
        """How the run ended; empty while it has not."""
        return ENDED.get(str(self.run.state), "") if self.run else ""

    def read(self) -> None:
        """Ask for the run; a server that is gone for a while is asked again later."""
        from wentu.errors import ServiceError

        try:
            self.run = self._cluster.run(self._run_id)
            self._trouble = None
        except ServiceError as error:
            self._trouble = error
            return
        found, decision = read_run(self.run, self._cluster.namespace or "kubeflow")
        self.decision = {"decision": decision} if decision else {}
        for name, view in found.items():
            before, self.stages[name] = self.stages[name], view
            if view.status != before.status and not self._live:
                self._tell(view)

    def _tell(self, view: StageView) -> None:
        """A line for a log where a stage's state changed; an error is said once, at the end."""
        kind = {"running": "start", "done": "done", "cached": "done"}.get(view.status, "")
        if view.status == "running":
            self._console.print(f"{view.name}: {pick('running', '运行中')}", soft_wrap=True)
        elif kind:
            self._say(view, kind)

    def shape(self) -> Shape:
        """The run as `--json` prints it."""
        assert self.run is not None
        failed = next((v for v in self.flow() if v.status == "failed"), None)
        return of_run(self.run, self._cluster) | {
            "decision": self.decision.get("decision", ""),
            "stages": stages(self.flow()),
            "error": (failed.error if failed else "") or _message(self.run.error),
        }


def cluster_runs(cluster: Cluster, count: int = 20) -> list[Shape]:
    """The newest runs of a cluster, oldest first, without their stages."""
    return [of_run(run, cluster) for run in reversed(cluster.runs(count))]


def of_run(run: Any, cluster: Cluster) -> Shape:
    """What the list of runs says of one."""
    config = run.runtime_config
    began, ended = _moment(run.created_at), _moment(run.finished_at)
    seconds = ((ended or datetime.now(UTC)) - began).total_seconds() if began else 0.0
    return shape(
        run_id=run.run_id,
        where="cluster",
        status=ENDED.get(str(run.state), "running"),
        started=began.strftime("%Y-%m-%dT%H:%M:%SZ") if began else "",
        seconds=round(seconds, 1),
        url=cluster.url(run.run_id),
        error=_message(run.error),
        parameters=dict(config.parameters or {}) if config else {},
    )


def cluster_status(cluster: Cluster, run_id: str, console: Console) -> tuple[Shape, ClusterView]:
    """A run on a cluster with its stages; and what draws it."""
    view = ClusterView(cluster, run_id, console)
    view.run = cluster.run(run_id)
    view.stages, decision = read_run(view.run, cluster.namespace or "kubeflow")
    view.decision = {"decision": decision} if decision else {}
    return view.shape(), view


def wait(cluster: Cluster, run_id: str, console: Console) -> Shape:
    """Follow a run until it ends; StageError where it fails, naming the stage and its reason."""
    view = ClusterView(cluster, run_id, console)
    view.read()
    with view:
        while not view.ended:
            time.sleep(min(1.0, view.EVERY))
    found = view.shape()
    if found["status"] != "succeeded":
        name = next((each["name"] for each in found["stages"] if each["status"] == "failed"), "")
        why = found["error"] or pick("no reason is known", "原因未知")
        label = name or pick("the run", "运行")
        raise StageError(
            f"{label}: {why}\nRun: {found['url']}", f"{label}:{why}\n运行：{found['url']}"
        )
    return found


# --- nodes ------------------------------------------------------------------------------------


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
    began, ended = _moment(node.start_time), _moment(node.end_time)
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
        history = [_message(status.error) for status in each.state_history or ()]
        for text in (_message(each.error), *reversed(history)):
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


def _message(error: Any) -> str:
    return str(error.message or "").strip() if error else ""


def _moment(value: datetime | None) -> datetime | None:
    """A time; None where there is none, which KFP writes as the year 1 or 1970."""
    if value is None or value.year <= 1970:
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
