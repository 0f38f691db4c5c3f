"""The whole pipeline in containers: its release, what MLflow knows, and that a local run agrees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.containers.conftest import Ran
from tests.proofs.conftest import must
from wentu.formats import CATALOG, open_catalog, read_json
from wentu.search.engine import Engine
from wentu.settings import code_version
from wentu.storage.s3 import Objects
from wentu.store import Store

pytestmark = pytest.mark.containers


@pytest.fixture(scope="session")
def engines(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """The release of the containers, and that of a local run from the same checkpoint."""
    store = str(tmp_path_factory.mktemp("local") / "store")
    checkpoint = str(ran.artifact("finetune/checkpoint/epoch_best.pt"))
    where = ["--pictures", str(ran.drawn), "--captions", str(ran.drawn), "--store", store]
    must("run", *where, "--model", checkpoint, "--no-train")
    both = Engine.open(ran.store), Engine.open(store)
    yield both
    for engine in both:
        engine.close()


def segment_of(engine: Engine) -> Path:
    (segment,) = engine.release.segments
    return engine.store.segment(segment.digest)


def said(catalog: Path) -> dict[str, list[Any]]:
    """What a catalog says of its pictures: id, path, split, and captions in their order."""
    queries = {
        "pictures": "SELECT id, split, hex(digest), own_id FROM pictures ORDER BY id",
        "paths": "SELECT path, picture FROM paths ORDER BY path",
        "captions": "SELECT c.picture, t.text, c.original FROM captions c JOIN texts t "
        "ON t.id = c.text ORDER BY 1, 2",
    }
    with closing(open_catalog(catalog)) as db:
        return {name: list(db.execute(query)) for name, query in queries.items()}


def test_a_release_is_current_and_better_than_its_start(ran: Ran) -> None:
    current = Store(ran.store).current()
    assert current
    pointer, release = current
    assert (pointer.number, pointer.reason, release.pictures) == (1, "train", 1920)
    assert release.metrics["text_to_image/recall@10"] > 0.5
    verdict = read_json(ran.artifact("evaluate/report") / "evaluation.json")["verdict"]
    assert verdict["promote"]


def test_the_images_hold_this_code_and_every_stage_ran_as_nobody_special(ran: Ran) -> None:
    manifests = sorted(ran.artifacts.rglob("manifest.json"))
    stages = {read_json(path)["stage"] for path in manifests}
    assert stages >= {"inventory", "pairs", "finetune", "evaluate", "features", "index", "promote"}
    # That of the TSV folder, which pairs writes along, names no code.
    assert {read_json(path)["code_version"] for path in manifests} - {""} == {code_version()}
    assert {path.stat().st_uid for path in manifests} == {1000}


def test_mlflow_knows_the_run_and_keeps_its_artifacts_in_the_bucket(
    ran: Ran, place: str, mlflow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(mlflow)
    experiment = client.get_experiment_by_name("wentu")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [each for each in runs if each.data.tags.get("wentu.run") == ran.id]
    children = {
        each.data.tags["wentu.stage"]: each
        for each in runs
        if each.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    assert {"pairs", "finetune", "evaluate", "features", "promote"} <= set(children)
    assert {each.info.status for each in children.values()} == {"FINISHED"}
    kept = {entry.key for entry in Objects(f"{place}/mlflow").list(deep=True)}
    assert any(children["evaluate"].info.run_id in key for key in kept)

    champion = client.get_model_version_by_alias("wentu", "champion")
    model = Store(ran.store).current()[1].model  # type: ignore[index]
    assert champion.tags["wentu.model"] == model
    assert champion.source == f"{ran.store}/models/{model}"


def test_a_local_run_gives_the_same_ids_splits_and_captions(
    engines: tuple[Engine, Engine],
) -> None:
    container, local = (said(segment_of(engine) / CATALOG) for engine in engines)
    assert len(container["pictures"]) == 1920
    for name, rows in container.items():
        assert rows == local[name], name


def test_a_local_run_gives_the_same_vectors(engines: tuple[Engine, Engine]) -> None:
    container, local = map(segment_of, engines)
    ids = [np.load(each / "ids.npy") for each in (container, local)]
    vectors = [np.load(each / "vectors.npy") for each in (container, local)]
    assert (ids[0] == ids[1]).all()
    assert np.abs(vectors[0] - vectors[1]).max() <= 1e-5


def test_a_local_run_finds_the_same_ten_for_100_queries(engines: tuple[Engine, Engine]) -> None:
    container, local = engines
    queries = container.example_captions("test", 100)
    assert len(set(queries)) == 100
    for text in queries:
        assert [hit.id for hit in container.search(text)] == [hit.id for hit in local.search(text)]
