"""MLflow, or nothing: the only module that imports mlflow.

One parent run per pipeline run, found by the tag ``wentu.run``; a child for each stage that really
ran. The parent is made by the first stage that tracks, so that a run with nothing to do leaves
none. Nothing is tracked unless MLFLOW_TRACKING_URI is set (``wentu run`` sets it to a database in
the store). No model is pickled; ONNX bundles are registered by reference.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wentu.errors import InputError

EXPERIMENT = "wentu"
MODEL = "wentu"
"""Name of the registered model that carries the aliases champion and previous."""
LAST = "promote"
"""The stage that a run ends with."""
SILENCE = 60.0
"""Seconds without a metric after a server did not answer."""
SETTLE = 2.0
"""Seconds after which stages of a cluster that began together see each other's runs: longer than a
server takes to write one."""


def _client() -> Any:
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # Its own patience, 7 attempts of 120 s each, would stop a training for a quarter of an hour.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    return MlflowClient()


def enabled() -> bool:
    """Is there anywhere to track to?"""
    off = os.environ.get("WENTU_TRACKING", "").lower() == "off"
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) and not off


def keeps_own() -> bool:
    """Does a run track into its store, for want of a server that the user named?"""
    off = os.environ.get("WENTU_TRACKING", "").lower() == "off"
    return not off and not os.environ.get("MLFLOW_TRACKING_URI")


def use_store(folder: Path) -> None:
    """Track into a database in ``folder`` unless the user named a server; initialise it once.

    Several processes that initialise one fresh database at once crash, so the caller, of which
    there is one, does it before any stage starts. Takes about 5 s the first time.
    """
    if not keeps_own():
        return
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    ready = folder / "ready"
    if ready.exists():
        return
    client = _client()
    if client.get_experiment_by_name(EXPERIMENT) is None:
        client.create_experiment(EXPERIMENT, artifact_location=(folder / "artifacts").as_uri())
    ready.touch()


class Tracker:
    """What a stage reports to; this base class keeps nothing."""

    id = ""
    """By which another process of the stage finds the same run (see ``attach``)."""
    link = ""
    """The page of the whole run, where a server has one."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters of the stage."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Metrics of the stage at a step."""

    def headline(self, values: Mapping[str, float], tags: Mapping[str, str] | None = None) -> None:
        """Metrics and tags of the whole run, on the parent: what the runs table compares."""

    def artifact(self, path: Path) -> None:
        """A file to keep with the stage (plots, reports)."""

    def close(self, status: str) -> None:
        """FINISHED or FAILED."""


class MlflowTracker(Tracker):
    """A child run of the pipeline's parent run.

    A server that is gone for a while costs points of a curve, never the work that they tell of.
    """

    def __init__(self, client: Any, parent: str, child: str, *, last: bool = False) -> None:
        self._client, self._parent, self.id, self._last = client, parent, child, last
        self._silent_until = 0.0

    @classmethod
    def begin(cls, stage: str, run: str) -> MlflowTracker:
        """A new child for a stage of the pipeline run ``run``."""
        client = _client()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
        parent = cls._find_parent(client, number, run)
        tags = {"mlflow.parentRunId": parent, "mlflow.runName": stage, "wentu.stage": stage}
        child = client.create_run(number, tags=tags).info.run_id
        made = cls(client, parent, child, last=stage == LAST)
        server = os.environ["MLFLOW_TRACKING_URI"].rstrip("/")
        if server.startswith("http"):
            made.link = f"{server}/#/experiments/{number}/runs/{parent}"
        return made

    @staticmethod
    def _find_parent(client: Any, experiment: str, run: str) -> str:
        """The one parent of a pipeline run; made where there is none.

        MLflow cannot create only where there is none, and shards may begin together. On this
        machine a lock makes one wait for the other. On a cluster those that find none, or one that
        is quite new, look again a while later, and all take the earliest.
        """
        folder = os.environ.get("WENTU_RUN_DIR")
        with _locked(Path(folder)) if folder else contextlib.nullcontext():
            found, own = _parents(client, experiment, run), ""
            if not found or (not folder and _is_new(found[0])):
                if not found:
                    tags = {"wentu.run": run, "mlflow.runName": run}
                    own = str(client.create_run(experiment, tags=tags).info.run_id)
                if not folder:
                    time.sleep(SETTLE)
                found = _parents(client, experiment, run)
        chosen = str(found[0].info.run_id)
        if own and own != chosen:
            client.delete_run(own)
        if found[0].info.status != "RUNNING":  # a stage that failed is tried again
            client.update_run(chosen, "RUNNING")
        return chosen

    def params(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:500]) for key, value in values.items()]
        with self._tolerated():
            self._client.log_batch(self.id, params=params)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        if time.monotonic() >= self._silent_until:
            with self._tolerated():
                self._batch(self.id, values, step)

    @contextlib.contextmanager
    def _tolerated(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            if not self._silent_until:
                print(f"MLflow is out of reach, the work goes on: {error}", file=sys.stderr)
            self._silent_until = time.monotonic() + SILENCE

    def _batch(self, run: str, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        moment = int(time.time() * 1000)
        named = [Metric(k.replace("@", "_at_"), float(v), moment, step) for k, v in values.items()]
        self._client.log_batch(run, metrics=named)

    def headline(self, values: Mapping[str, float], tags: Mapping[str, str] | None = None) -> None:
        with self._tolerated():
            self._batch(self._parent, values, 0)
            for key, value in (tags or {}).items():
                self._client.set_tag(self._parent, key, value)

    def artifact(self, path: Path) -> None:
        with self._tolerated():
            self._client.log_artifact(self.id, str(path))

    def close(self, status: str) -> None:
        with self._tolerated():
            self._client.set_terminated(self.id, status)
            # `wentu run` ends the whole run itself; on a cluster nobody waits to do so.
            if "WENTU_RUN_DIR" not in os.environ and (self._last or status == "FAILED"):
                self._client.set_terminated(self._parent, status)


def _parents(client: Any, experiment: str, run: str) -> list[Any]:
    """The runs that stand for a pipeline run, in the order that every stage sees them in."""
    found = client.search_runs([experiment], f"tags.`wentu.run` = '{run}'")
    return sorted(found, key=lambda each: (each.info.start_time, each.info.run_id))


def _is_new(run: Any) -> bool:
    """May another one be on its way that is earlier?"""
    return bool(time.time() - run.info.start_time / 1000 < 2 * SETTLE)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl

    with (folder / "tracking").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def open_tracker(stage: str) -> Tracker:
    """The tracker of a stage of the current run (WENTU_RUN_ID), or one that keeps nothing.

    Raises InputError where MLflow cannot be reached: at the start that is a mistake to mend.
    """
    run = os.environ.get("WENTU_RUN_ID")
    if not run or not enabled():
        return Tracker()
    from mlflow.exceptions import MlflowException

    try:
        return MlflowTracker.begin(stage, run)
    except MlflowException as error:
        place = os.environ["MLFLOW_TRACKING_URI"]
        raise InputError(
            f"MLflow at {place} cannot be used ({str(error)[:200]}); mend MLFLOW_TRACKING_URI, or "
            "run without it: WENTU_TRACKING=off.",
            f"无法使用 {place} 的 MLflow({str(error)[:200]});请修正 MLFLOW_TRACKING_URI，"
            "或设置 WENTU_TRACKING=off 不使用它。",
        ) from None


def attach(child: str) -> Tracker:
    """The tracker whose ``id`` another process of the stage passed on."""
    if not child or not enabled():
        return Tracker()
    client = _client()
    parent = client.get_run(child).data.tags["mlflow.parentRunId"]
    return MlflowTracker(client, parent, child)


def finish_run(run: str, status: str, params: Mapping[str, Any]) -> None:
    """Close the parent run, if a stage made one, with the parameters of the pipeline run.

    MLflow is no part of how a run ends: one that is gone by then is a line.
    """
    if not enabled():
        return
    try:
        from mlflow.entities import Param

        named = [Param(key, str(value)[:500]) for key, value in params.items()]
        client = _client()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        for found in _parents(client, experiment.experiment_id, run) if experiment else ():
            # The end first: parameters that another process wrote otherwise are refused.
            client.set_terminated(found.info.run_id, status)
            client.log_batch(found.info.run_id, params=named)
    except _troubles() as error:
        why = " ".join(str(error).split())[:200]
        print(f"MLflow is out of reach, the run is not ended there: {why}", file=sys.stderr)


def stages_that_failed(run: str) -> set[str] | None:
    """The stages that noticed their own failure; None where MLflow does not know the run.

    What was killed, or never began, is not among them.
    """
    if not enabled():
        return None
    try:
        client = _client()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment else ""
        parents = _parents(client, number, run) if experiment else []
        names = [
            child.data.tags.get("wentu.stage", "")
            for parent in parents
            for child in client.search_runs(
                [number], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
            )
            if child.info.status == "FAILED"
        ]
    except _troubles():
        return None
    return set(names) if parents else None


def _troubles() -> tuple[type[Exception], ...]:
    """What an MLflow is known by that is gone, or not installed where runs are waited for."""
    try:
        from mlflow.exceptions import MlflowException
    except ImportError:
        return ImportError, OSError
    return MlflowException, OSError


def repair_aliases(releases: Sequence[tuple[str, str]]) -> None:
    """Make MLflow's aliases say what the store's pointer says.

    Where MLflow refuses or is gone, a sentence says so and the release stands: the next promotion
    repairs them.

    Args:
        releases: (digest of the model, where it lies), current one first, then the one before it.
            Called under the store's promote lock: MLflow's aliases have no compare-and-swap.
    """
    if not enabled():
        return
    from mlflow.exceptions import MlflowException

    try:
        _repair(_client(), releases)
    except (MlflowException, OSError) as error:
        print(f"MLflow's aliases could not be set, the release stands: {error}", file=sys.stderr)


def _repair(client: Any, releases: Sequence[tuple[str, str]]) -> None:
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):  # it is there already
        client.create_registered_model(MODEL)
    known = {
        version.tags.get("wentu.model"): version.version
        for version in client.search_model_versions(f"name = '{MODEL}'")
    }
    for alias, (digest, place) in zip(("champion", "previous"), releases, strict=False):
        version = known.get(digest)
        if version is None:
            tags = {"wentu.model": digest}
            made = client.create_model_version(MODEL, source=_source(place), tags=tags)
            version = known[digest] = made.version
        client.set_registered_model_alias(MODEL, alias, version)


def _source(place: str) -> str:
    """A place as MLflow takes it: a server refuses local paths, for it would take them for its own.

    Such a model is registered as wentu://host/path, which says where it is and opens nothing.
    """
    if place.startswith("file://") and os.environ["MLFLOW_TRACKING_URI"].startswith("http"):
        return f"wentu://{socket.gethostname()}{place.removeprefix('file://')}"
    return place
