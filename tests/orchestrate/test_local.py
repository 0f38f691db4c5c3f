"""`wentu run`: how it ends where something besides the pipeline goes wrong."""

from __future__ import annotations

import io
import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from wentu.clip.bundle import bundle_digest
from wentu.commands.promote import accept
from wentu.errors import InputError, ServiceError, StageError
from wentu.formats import write_json
from wentu.orchestrate.local import run, runs
from wentu.orchestrate.parameters import complete
from wentu.storage.s3 import Objects
from wentu.store import Store


@pytest.fixture
def failing(small_collection: Path, tmp_path: Path) -> dict[str, Any]:
    """Values of a run whose first stage fails: its pictures went away."""
    pictures = tmp_path / "pictures"
    shutil.copytree(small_collection, pictures)
    given = {"pictures": str(pictures), "store": str(tmp_path / "store"), "train": False}
    values = complete(given, None)
    shutil.rmtree(pictures)
    return values


def test_the_failure_of_a_stage_is_told_also_where_mlflow_is_gone(
    failing: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StageError, match=r"inventory: .*no such folder"):
        run(failing, Console(file=io.StringIO()))
    assert "MLflow is out of reach" in capsys.readouterr().err


def test_the_failure_of_a_stage_is_told_also_where_the_store_is_gone(
    failing: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: Store) -> None:
        raise ServiceError("no answer", "没有响应")

    monkeypatch.setenv("WENTU_TRACKING", "off")
    monkeypatch.setattr(Store, "current", gone)
    with pytest.raises(StageError, match=r"inventory: .*no such folder"):
        run(failing, Console(file=io.StringIO()))
    (told,) = runs(Store(failing["store"]))
    assert (told["status"], told["release"]) == ("failed", "")


def test_the_bundle_of_a_clusters_run_can_be_released(
    built: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/submit.md tells to: its candidate lies below KFP's pipeline root."""
    monkeypatch.setenv("WENTU_TRACKING", "off")
    place = f"s3://{bucket}/{uuid.uuid4().hex[:8]}/wentu/export-onnx/bundle"
    objects = Objects(place)
    for path in built.bundle.iterdir():
        objects.put(path.name, path)
    given = {"pictures": str(built.collection), "model": place, "train": False}
    store = str(tmp_path / "store")
    found = run(complete(given | {"store": store}, None), Console(file=io.StringIO()))
    assert found.decision == "refresh"
    current = Store(store).current()
    assert current is not None
    assert current[1].model == bundle_digest(built.bundle)


def test_what_was_measured_of_a_candidate_is_released_with_it(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`promote --anyway`: its run evaluates nothing, and the one that did is not the cluster's."""
    monkeypatch.setenv("WENTU_TRACKING", "off")
    store, digest = Store(str(tmp_path / "store")), bundle_digest(built.bundle)
    store.claim()
    shutil.copytree(Path(built.store) / "inventories", store.storage.home / "inventories")
    first = Store(built.store).current()
    assert first is not None
    served = replace(first[1], model="f" * 32, segments=(), metrics={}, split_version="")
    store.put_model(built.bundle, served.model)
    store.publish(store.write_release(served), after=0, reason="train")
    folder = store.storage.home / "runs/20261121-100000-abcd"
    shutil.copytree(built.bundle, folder / "artifacts/wentu/export-onnx/bundle")
    verdict = {"promote": False, "reason": "-1.0 points", "interval": {"mean": -0.01}}
    said = {"candidate": digest, "winner": "f" * 32, "verdict": verdict, "split_version": "v"}
    said |= {"metrics": {"candidate": {"mean_recall": 0.5}}}
    (folder / "artifacts/wentu/evaluate/report").mkdir(parents=True)
    write_json(folder / "artifacts/wentu/evaluate/report/evaluation.json", said)
    parameters = {"pictures": str(built.collection), "captions": built.captions}
    ended = {"run_id": folder.name, "status": "succeeded", "parameters": parameters}
    write_json(folder / "run.json", ended)
    (folder / "alive").touch()
    with pytest.raises(InputError, match=r"zzz names 0 runs.*--no-train --model BUNDLE"):
        accept(store, "zzz")
    accept(store, "abcd")
    current = store.current()
    assert current is not None
    figures = {"mean_recall": 0.5, "verdict/promote": 0.0, "verdict/difference": -0.01}
    assert (current[1].model, current[1].metrics) == (digest, figures)
    assert current[1].parameters["note"] == f"promoted anyway, from {folder.name}: -1.0 points"
    assert list(store.storage.list("evaluations")) == []
