"""MLflow's runs of a pipeline that no process of ours waits for, as on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wentu import tracking

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning"),  # MLflow's, of SQLAlchemy
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # its database's connections
]
Status = Callable[[], str]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where MLflow tracks to, initialised, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = tmp_path_factory.mktemp("mlflow")
        tracking.use_store(folder)
        patch.delenv("MLFLOW_TRACKING_URI")
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture
def parent(
    database: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Status:
    """How the whole run stands that the stages of a test belong to."""
    run = request.node.name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setenv("WENTU_RUN_ID", run)

    def status() -> str:
        from mlflow.tracking import MlflowClient

        client = MlflowClient()
        (experiment,) = client.search_experiments(filter_string="name = 'wentu'")
        (found,) = client.search_runs([experiment.experiment_id], f"tags.`wentu.run` = '{run}'")
        return str(found.info.status)

    return status


def work(stage: str, status: str = "FINISHED") -> None:
    tracker = tracking.open_tracker(stage)
    tracker.params({"epochs": 3})
    tracker.close(status)


def test_on_a_cluster_the_run_ends_with_its_last_stage(parent: Status) -> None:
    work("pairs")
    assert parent() == "RUNNING"
    work("finetune", "FAILED")
    assert parent() == "FAILED"
    work("finetune")  # tried again
    assert parent() == "RUNNING"
    work("promote")
    assert parent() == "FINISHED"


def test_a_run_that_is_waited_for_is_ended_by_whoever_waits(
    parent: Status, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WENTU_RUN_DIR", str(tmp_path))
    work("promote")
    assert parent() == "RUNNING"
    tracking.finish_run(os.environ["WENTU_RUN_ID"], "FINISHED", {"epochs": 3})
    assert parent() == "FINISHED"
