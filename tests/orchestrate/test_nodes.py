"""A training of two machines, whole: the stage launches it, and what the TrainJob says is run.

There is no Kubernetes: a server of this machine answers as its API does, and runs each pod's
command in processes of its own, with the variables that the controller sets.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.orchestrate.kubernetes_api import KubernetesApi
from wentu.clip import checkpoint
from wentu.errors import InputError, StageError, WentuError
from wentu.formats import read_manifest
from wentu.orchestrate import cluster, trainjob
from wentu.orchestrate.cluster import Cluster
from wentu.orchestrate.trainjob import Training
from wentu.stages.finetune import Config, finetune
from wentu.store import Store
from wentu.training import saving

pytestmark = pytest.mark.heavy

USUAL: dict[str, Any] = {"batch_size": 9, "learning_rate": 1e-3, "augment": "crop", "epochs": 3}


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cluster whose machines are processes of this one."""
    monkeypatch.setattr(trainjob, "POLL", 0.3)
    monkeypatch.setattr(cluster, "PAUSES", (0.05,))
    monkeypatch.setenv("WENTU_TRAINJOB", json.dumps({"image": "any"}))
    for name in ("KUBERNETES_SERVICE_HOST", "KFP_POD_NAME", "HOSTNAME"):
        monkeypatch.delenv(name, raising=False)
    with KubernetesApi() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.write_kubeconfig(tmp_path / "kubeconfig")))
        server.play(tmp_path / "pods")
        yield server


def launch(vault: Store, key: str, job: Any, stage: Any) -> None:
    """As trainjob.launch, which wants a bucket."""
    Training(Cluster.connect(), vault, key, job, stage.progress).run(stage.tracker.id)


def tuned(built: Any, store: str, out: Path, model: str = "tiny", **changed: Any) -> None:
    config = Config(**USUAL | changed)
    finetune(lmdb=built.lmdb, model=model, store=store, out=out, config=config, launcher=launch)


def assert_alike(one: Path, other: Path) -> None:
    """The same curve, and the same weights but for the order of sums."""
    ours, theirs = (json.loads((each / "history.json").read_text("utf-8")) for each in (one, other))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    first, second = (checkpoint.load(each / "epoch_latest.pt").state for each in (one, other))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=5e-5, rtol=1e-3, msg=name)


def test_two_machines_end_in_the_weights_of_one_process(
    built: Any, controller: KubernetesApi, tmp_path: Path
) -> None:
    tuned(built, str(tmp_path / "one"), tmp_path / "alone", nproc=1)
    tuned(built, str(tmp_path / "two"), tmp_path / "together", nodes=2, nproc=1)
    assert_alike(tmp_path / "alone", tmp_path / "together")
    assert read_manifest(tmp_path / "together", "finetune").counts["steps"] == 12
    assert controller.jobs == {}
    for rank in (0, 1):  # both took the data from the store, none from here
        (log,) = (tmp_path / "pods").glob(f"wentu-*-node-0-{rank}-*")
        assert "Traceback" not in log.read_text("utf-8")


def test_two_machines_meet_in_a_bucket(
    built: Any, controller: KubernetesApi, tmp_path: Path, bucket: str
) -> None:
    """Each has a cache of its own; the state comes back through the bucket."""
    start = built.checkpoint / "epoch_best.pt"
    tuned(built, str(tmp_path / "one"), tmp_path / "alone", str(start), nproc=1)
    store = f"s3://{bucket}/{tmp_path.name}"
    tuned(built, store, tmp_path / "together", str(start), nodes=2, nproc=1)
    assert_alike(tmp_path / "alone", tmp_path / "together")
    for rank in (0, 1):
        assert [*(tmp_path / "pods" / f"cache-{rank}").rglob("data.mdb")]


def test_a_machine_that_is_lost_costs_what_was_not_saved(
    built: Any, controller: KubernetesApi, tmp_path: Path
) -> None:
    """The error says so; the next attempt goes on, and ends in the same weights."""
    changed: dict[str, Any] = {"epochs": 6, "patience": 0, "save_seconds": 0.0}
    tuned(built, str(tmp_path / "one"), tmp_path / "alone", nproc=1, **changed)
    store = str(tmp_path / "two")

    def lose_one() -> None:
        while not (works := [*(tmp_path / "two").glob("work/*/state.pt")]):
            time.sleep(0.05)
        while saving.position(works[0].parent).step < 6:
            time.sleep(0.05)
        controller.kill_pods(1)

    losing = threading.Thread(target=lose_one, daemon=True)
    losing.start()
    with pytest.raises(StageError, match=r"the TrainJob wentu-\w+ failed \(FailedJobs: jobset"):
        tuned(built, store, tmp_path / "together", nodes=2, nproc=1, **changed)
    losing.join()
    (work,) = (tmp_path / "two").glob("work/*")
    stopped_at = saving.position(work).step
    assert 6 <= stopped_at < 24
    assert not (tmp_path / "together" / "manifest.json").exists()
    tuned(built, store, tmp_path / "together", nodes=2, nproc=1, **changed)
    assert_alike(tmp_path / "alone", tmp_path / "together")


def test_what_a_machine_refuses_is_the_error_of_the_stage(
    built: Any, controller: KubernetesApi, tmp_path: Path
) -> None:
    with pytest.raises(WentuError, match="--device npu: torch finds no such device here") as error:
        tuned(built, str(tmp_path / "store"), tmp_path / "out", nodes=2, nproc=1, device="npu")
    assert error.value.exit_code == InputError.exit_code
    assert controller.jobs == {}
