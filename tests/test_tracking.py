"""MLflow's runs of a pipeline that no process of ours waits for, as on a cluster."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    monkeypatch.setattr(tracking, "SETTLE", 0.5)

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


def test_a_server_that_is_gone_at_the_end_is_a_line(
    parent: Status, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking.finish_run(os.environ["WENTU_RUN_ID"], "FINISHED", {"epochs": 3})
    assert capsys.readouterr().err.startswith("MLflow is out of reach, the run is not ended there")
    assert tracking.stages_that_failed(os.environ["WENTU_RUN_ID"]) is None


def test_a_run_ends_whatever_becomes_of_its_parameters(parent: Status) -> None:
    work("pairs")
    for epochs, status in ((3, "FAILED"), (4, "FINISHED")):  # a parameter cannot be changed
        tracking.finish_run(os.environ["WENTU_RUN_ID"], status, {"epochs": epochs})
        assert parent() == status


# --- one parent -------------------------------------------------------------------------------


def test_shards_that_begin_together_share_a_parent(
    parent: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finds none; the one that stamps its own first is the last to write it."""
    client, create = type(tracking._client()), type(tracking._client()).create_run
    both = threading.Barrier(2)
    begun: list[int] = []

    def slow(self: Any, experiment: str, *args: Any, **more: Any) -> Any:
        if "wentu.run" in more["tags"]:
            late = not begun
            begun.append(1)
            more["start_time"] = int(time.time() * 1000) - (50 if late else 0)
            both.wait(5)
            time.sleep(0.2 if late else 0.0)
        return create(self, experiment, *args, **more)

    monkeypatch.setattr(client, "create_run", slow)
    shards(2)
    assert parent() == "RUNNING"
    assert children() == ["features", "features"]


def shards(count: int) -> None:
    """As many stages that begin together."""
    threads = [threading.Thread(target=work, args=("features",)) for _ in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def children() -> list[str]:
    """Stages whose parent is the parent of this test's run, and was not deleted."""
    found = tracking._client()
    (experiment,) = found.search_experiments(filter_string="name = 'wentu'")
    number = experiment.experiment_id
    (run,) = found.search_runs([number], f"tags.`wentu.run` = '{os.environ['WENTU_RUN_ID']}'")
    query = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    return [each.data.tags["wentu.stage"] for each in found.search_runs([number], query)]


def test_shards_of_this_machine_wait_for_each_other(
    parent: Status, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WENTU_RUN_DIR", str(tmp_path))
    client, create = type(tracking._client()), type(tracking._client()).create_run

    def slow(self: Any, *args: Any, **more: Any) -> Any:
        time.sleep(0.5)
        return create(self, *args, **more)

    monkeypatch.setattr(client, "create_run", slow)
    shards(3)
    assert parent() == "RUNNING"
    assert len(children()) == 3


# --- who could say so -------------------------------------------------------------------------


def test_what_was_killed_is_not_among_those_that_failed(parent: Status) -> None:
    run = os.environ["WENTU_RUN_ID"]
    assert tracking.stages_that_failed(run) is None
    tracking.open_tracker("pairs")  # killed: nobody closes it
    assert tracking.stages_that_failed(run) == set()
    work("finetune", "FAILED")
    assert tracking.stages_that_failed(run) == {"finetune"}
