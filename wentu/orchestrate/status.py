"""How a run stands, in one shape for runs of this machine and of a cluster.

Of a run here, run.json and its events say everything; of one on a cluster, KFP's server (nodes.py).
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wentu import notices, tracking
from wentu.errors import ServiceError, StageError
from wentu.language import pick
from wentu.orchestrate.live import RunView, StageView
from wentu.orchestrate.local import is_alive, runs
from wentu.orchestrate.nodes import ENDED, message, moment, read_run
from wentu.store import Store

if TYPE_CHECKING:
    from rich.console import Console

    from wentu.orchestrate.kubeflow import PipelinesServer

POLL = 5.0
PATIENCE = 900.0
"""Seconds without an answer after which a run is no longer waited for; it goes on."""
UNTRACKED = "inventory"
"""The stage that MLflow does not follow."""
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

    def __init__(self, server: PipelinesServer, run_id: str, console: Console) -> None:
        super().__init__(Path(), console)
        self._server, self._run_id = server, run_id
        self.run: Any = None
        self.trouble: ServiceError | None = None
        """Why the server cannot be asked now."""
        self.heard = time.monotonic()

    @property
    def ended(self) -> str:
        """How the run ended; empty while it has not."""
        return ENDED.get(str(self.run.state), "") if self.run else ""

    def read(self) -> None:
        """Ask for the run; a server that is gone for a while is asked again later."""
        try:
            self.run = self._server.run(self._run_id)
        except ServiceError as error:
            self.trouble = error
            return
        self.trouble, self.heard = None, time.monotonic()
        found, decision = read_run(self.run, self._server.namespace or "kubeflow")
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
        return of_run(self.run, self._server) | {
            "decision": self.decision.get("decision", ""),
            "stages": stages(self.flow()),
            "error": (failed.error if failed else "") or message(self.run.error),
        }


def cluster_runs(server: PipelinesServer, count: int = 20) -> list[Shape]:
    """The newest runs of a cluster, oldest first, without their stages."""
    return [of_run(run, server) for run in reversed(server.runs(count))]


def of_run(run: Any, server: PipelinesServer) -> Shape:
    """What the list of runs says of one."""
    config = run.runtime_config
    began, ended = moment(run.created_at), moment(run.finished_at)
    seconds = ((ended or datetime.now(UTC)) - began).total_seconds() if began else 0.0
    return shape(
        run_id=run.run_id,
        where="cluster",
        status=ENDED.get(str(run.state), "running"),
        started=began.strftime("%Y-%m-%dT%H:%M:%SZ") if began else "",
        seconds=round(seconds, 1),
        url=server.url(run.run_id),
        error=message(run.error),
        parameters=dict(config.parameters or {}) if config else {},
    )


def cluster_status(
    server: PipelinesServer, run_id: str, console: Console
) -> tuple[Shape, ClusterView]:
    """A run on a cluster with its stages; and what draws it."""
    view = ClusterView(server, run_id, console)
    view.run = server.run(run_id)
    view.stages, decision = read_run(view.run, server.namespace or "kubeflow")
    view.decision = {"decision": decision} if decision else {}
    return view.shape(), view


def wait(server: PipelinesServer, run_id: str, console: Console) -> Shape:
    """Follow a run until it ends; StageError where it fails, naming the stage and its reason."""
    view = ClusterView(server, run_id, console)
    view.read()
    with view:
        while not view.ended:
            if view.trouble and (view.run is None or time.monotonic() - view.heard > PATIENCE):
                raise view.trouble
            time.sleep(min(1.0, view.EVERY))
    found = view.shape()
    failed = next((each["name"] for each in found["stages"] if each["status"] == "failed"), "")
    tell_failure(found, failed)
    close_tracked(found)
    if found["status"] != "succeeded":
        why = found["error"] or pick("no reason is known", "原因未知")
        label = failed or pick("the run", "运行")
        raise StageError(
            f"{label}: {why}\nRun: {found['url']}", f"{label}:{why}\n运行：{found['url']}"
        )
    return found


def tell_failure(found: Shape, stage: str) -> None:
    """A notice of a run that failed, unless its stage sent one: what is killed cannot."""
    if found["status"] != "failed" or told_itself(found["run_id"], stage, found["error"]):
        return
    why = found["error"] or pick("no reason is known", "原因未知")
    link = found["url"] if found["url"].startswith("http") else ""
    notices.send("failure", why, stage=stage, link=link, run=found["run_id"])


def told_itself(run_id: str, stage: str, error: str) -> bool:
    """Did the stage live to say that it failed? No, where that cannot be known.

    MLflow knows, of the stages that it follows. Else a container that ended with a status of its
    own did, unless KFP's launcher says that what it had started was killed; one that was killed,
    evicted or never began did not. Rather two notices than none.
    """
    tracked = tracking.stages_that_failed(run_id)
    if tracked is not None and stage != UNTRACKED:
        return stage in tracked
    ended = re.search(r"\bError \(exit (code )?\d{1,2}\)", error.partition(";")[0])
    return bool(ended) and "signal: killed" not in error


def close_tracked(found: Shape) -> None:
    """End the run in MLflow, where MLFLOW_TRACKING_URI leads to it from here, with its parameters.

    Its stages do not know when the last of them is done.
    """
    status = "FINISHED" if found["status"] == "succeeded" else "FAILED"
    tracking.finish_run(found["run_id"], status, found["parameters"])
