"""MLflow, or nothing: the only module that imports mlflow.

One parent run per pipeline run, found by the tag ``wentu.run``; a child for each stage that really
ran. The parent is made by the first stage that tracks, so that a run with nothing to do leaves
none. Nothing is tracked unless MLFLOW_TRACKING_URI is set (``wentu run`` sets it to a database in
the store). No model is pickled; ONNX bundles are registered by reference.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

EXPERIMENT = "wentu"
MODEL = "wentu"
"""Name of the registered model that carries the aliases champion and previous."""


def _client() -> Any:
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
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
    """A child run of the pipeline's parent run."""

    def __init__(self, stage: str, run: str) -> None:
        self._client = _client()
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        self._experiment = (
            experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT)
        )
        self._parent = self._find_parent(run)
        tags = {"mlflow.parentRunId": self._parent, "mlflow.runName": stage, "wentu.stage": stage}
        self._run = self._client.create_run(self._experiment, tags=tags).info.run_id

    def _find_parent(self, run: str) -> str:
        query = f"tags.`wentu.run` = '{run}'"
        found = self._client.search_runs([self._experiment], query, max_results=1)
        if found:
            return str(found[0].info.run_id)
        tags = {"wentu.run": run, "mlflow.runName": run}
        return str(self._client.create_run(self._experiment, tags=tags).info.run_id)

    def params(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:500]) for key, value in values.items()]
        self._client.log_batch(self._run, params=params)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self._batch(self._run, values, step)

    def _batch(self, run: str, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        moment = int(time.time() * 1000)
        named = [Metric(k.replace("@", "_at_"), float(v), moment, step) for k, v in values.items()]
        self._client.log_batch(run, metrics=named)

    def headline(self, values: Mapping[str, float], tags: Mapping[str, str] | None = None) -> None:
        self._batch(self._parent, values, 0)
        for key, value in (tags or {}).items():
            self._client.set_tag(self._parent, key, value)

    def artifact(self, path: Path) -> None:
        self._client.log_artifact(self._run, str(path))

    def close(self, status: str) -> None:
        self._client.set_terminated(self._run, status)


def open_tracker(stage: str) -> Tracker:
    """The tracker of a stage of the current run (WENTU_RUN_ID), or one that keeps nothing."""
    run = os.environ.get("WENTU_RUN_ID")
    return MlflowTracker(stage, run) if run and enabled() else Tracker()


def finish_run(run: str, status: str, params: Mapping[str, Any]) -> None:
    """Close the parent run, if a stage made one, with the parameters of the pipeline run."""
    if not enabled():
        return
    from mlflow.entities import Param

    client = _client()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    query = f"tags.`wentu.run` = '{run}'"
    for found in client.search_runs([experiment.experiment_id], query) if experiment else ():
        named = [Param(key, str(value)[:500]) for key, value in params.items()]
        client.log_batch(found.info.run_id, params=named)
        client.set_terminated(found.info.run_id, status)


def repair_aliases(releases: Sequence[tuple[str, Path]]) -> None:
    """Make MLflow's aliases say what the store's pointer says.

    Args:
        releases: (digest of the model, its folder), current one first, then the one before it.
            Called under the store's promote lock: MLflow's aliases have no compare-and-swap.
    """
    if not enabled():
        return
    from mlflow.exceptions import MlflowException

    client = _client()
    with contextlib.suppress(MlflowException):  # it is there already
        client.create_registered_model(MODEL)
    known = {
        version.tags.get("wentu.model"): version.version
        for version in client.search_model_versions(f"name = '{MODEL}'")
    }
    for alias, (digest, folder) in zip(("champion", "previous"), releases, strict=False):
        version = known.get(digest)
        if version is None:
            made = client.create_model_version(
                MODEL, source=folder.as_uri(), tags={"wentu.model": digest}
            )
            version = known[digest] = made.version
        client.set_registered_model_alias(MODEL, alias, version)
