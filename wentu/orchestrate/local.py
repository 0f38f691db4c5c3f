"""`wentu run`: the packaged pipeline.yaml on this machine, with kfp.local.

What kfp.local lacks is added around it, not inside it: one run at a time per store, a log per
stage, live progress, run.json, a cache in the store, and stages that die with the run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wentu import tracking
from wentu.errors import InputError, ServiceError, StageError
from wentu.formats import FORMAT, read_json, write_json
from wentu.language import pick
from wentu.orchestrate.live import RunView
from wentu.orchestrate.parameters import packaged, packed
from wentu.stages.finetune import no_cluster
from wentu.storage import Folder, is_remote
from wentu.store import Store, now

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    run_id: str
    decision: str
    reason: str
    release: str
    """The current release afterwards; empty where there is none."""
    seconds: float
    folder: Path


def run(values: Mapping[str, Any], console: Console) -> Outcome:
    """Execute the pipeline with complete ``values`` (see ``parameters.complete``).

    Raises InputError where another run works on the store, StageError where a stage failed.
    """
    store = Store(str(values["store"]))
    if values["train"] and values["nodes"] > 1:
        raise no_cluster(values["nodes"])
    if "python3" in str(store.storage.home):
        raise InputError(
            f"--store {store.storage.home}: the local runner cannot work under a path that "
            "contains 'python3'; choose another folder.",
            f"--store {store.storage.home}：本地运行器不支持含有 python3 的路径，请换一个目录。",
        )
    if not (store.storage.home / "mlflow/ready").exists() and tracking.keeps_own():
        console.print(pick("Preparing MLflow, once.", "正在准备 MLflow(仅首次)。"))
    with store.storage.lock("run", wait=False) as free:
        if not free:
            killed = pick(
                " One that was killed counts for 90 seconds.", "被终止的运行在 90 秒内仍算。"
            )
            killed = killed if is_remote(store.place) else ""
            raise InputError(
                f"another run is working on {store.place}; wait for it, or use another --store."
                f"{killed}",
                f"另一个运行正在使用 {store.place}；请等待，或使用其他 --store。{killed}",
            )
        store.claim()
        run_id = time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
        folder = store.storage.home / f"runs/{run_id}"
        folder.mkdir(parents=True)
        with _environment(folder, run_id, store), _alive(folder):
            return _execute(store, values, folder, run_id, console)


@contextlib.contextmanager
def _environment(folder: Path, run_id: str, store: Store) -> Iterator[None]:
    """What the stages' processes inherit; put back afterwards."""
    before = dict(os.environ)
    os.environ |= {"WENTU_RUN_DIR": str(folder), "WENTU_RUN_ID": run_id}
    # Threads that spin for long while they wait slow down a machine that does other things too.
    # Spinning this briefly costs an idle one nothing (0.21 s a step); not at all, 30 %.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        tracking.use_store(store.storage.home / "mlflow")
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _alive(folder: Path) -> Iterator[None]:
    """Hold the lock whose release tells the stages that this process is gone."""
    with (folder / "alive").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _execute(
    store: Store, values: Mapping[str, Any], folder: Path, run_id: str, console: Console
) -> Outcome:
    began, started = time.monotonic(), now()
    shown = RunView(folder, console)

    def record(status: str) -> None:
        try:
            current = store.current()
        except ServiceError:  # a bucket that is gone must not hide how the run ended
            current = None
        write_json(
            folder / "run.json",
            {
                "format": FORMAT,
                "run_id": run_id,
                "status": status,
                "started": started,
                "seconds": round(time.monotonic() - began, 1),
                "parameters": dict(values),
                "decision": shown.decision.get("decision", ""),
                "reason": shown.decision.get("reason", ""),
                "release": current[1].id if current else "",
                "stages": [asdict(view) for view in shown.flow()],
            },
        )

    record("running")
    status = "failed"
    try:
        with shown:
            error = _call_pipeline(store, values, folder)
            shown.finish(succeeded=error is None)
        failure = shown.failed()
        if failure or error:
            raise _failure(shown, folder, error)
        status = "succeeded"
    except KeyboardInterrupt:
        status = "stopped"
        raise
    finally:
        record(status)
        mlflow_status = "FINISHED" if status == "succeeded" else "FAILED"
        if shown.decision.get("decision") != "skip":
            tracking.finish_run(run_id, mlflow_status, _compact(values))
    current = store.current()
    return Outcome(
        run_id=run_id,
        decision=shown.decision["decision"],
        reason=shown.decision["reason"],
        release=current[1].id if current else "",
        seconds=time.monotonic() - began,
        folder=folder,
    )


def _compact(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "code_version"}


def _call_pipeline(store: Store, values: Mapping[str, Any], folder: Path) -> Exception | None:
    """Run it with kfp.local, whose own output goes to ``kfp.log``."""
    with (folder / "kfp.log").open("w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # kfp's own, at import
            from kfp import components, local
        pipeline = components.load_component_from_file(str(packaged("pipeline.yaml")))
        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(folder / "artifacts"),
            enable_caching=True,
            # Of this store alone: one that was removed and begun anew has nothing to reuse.
            cache_root=str(store.storage.home / "cache" / store.id),
        )
        try:
            with warnings.catch_warnings():
                # What is in the image is installed here, which is what it warns of.
                warnings.filterwarnings("ignore", ".*non-Python base image", RuntimeWarning)
                pipeline(**packed(values))
        except RuntimeError as error:  # kfp names the task; the stage itself said why
            return error
    return None


def _failure(shown: RunView, folder: Path, error: Exception | None) -> StageError:
    view = shown.failed()
    if view is None:
        log = folder / "kfp.log"
        return StageError(
            f"the run failed: {error}; see {log}.", f"运行失败：{error}；详见 {log}。"
        )
    log = folder / "logs" / f"{view.log or view.name}.log"
    failure = StageError(
        f"{view.name}: {view.error}\nLog: {log}", f"{view.name}:{view.error}\n日志：{log}"
    )
    failure.exit_code = view.exit_code
    return failure


def runs(store: Store) -> list[dict[str, Any]]:
    """run.json of every run, oldest first."""
    found = []
    for name in Folder("", store.storage.home).list("runs"):
        path = store.storage.home / f"runs/{name}/run.json"
        if path.exists():
            run = read_json(path)
            if run["status"] == "running" and not is_alive(path.parent):
                run["status"] = "stopped"
            found.append(run)
    return found


def is_alive(folder: Path) -> bool:
    """Does the process of a run still hold its lock? (See ``_alive``.)"""
    with (folder / "alive").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
