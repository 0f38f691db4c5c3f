"""Two runs side by side, and the candidate that was held back released anyway."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from wentu import cli
from wentu.clip.bundle import bundle_digest
from wentu.commands.compare import moved
from wentu.commands.promote import accept, bundle_of
from wentu.errors import InputError
from wentu.store import Release, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two runs that trained: in the second one a query is found sooner, another one later."""
    store = Store(str(tmp_path / "store"))
    ranks = ({"红色的圆": 40, "蓝色的星": 2, "白猫": 1}, {"红色的圆": 1, "蓝色的星": 5, "白猫": 1})
    for number, found in enumerate(ranks):
        run_id = f"20261121-10000{number}-abc{number}"
        folder = store.storage.home / f"runs/{run_id}"
        report = folder / "artifacts" / "wentu" / "evaluate" / "report"
        report.mkdir(parents=True)
        (folder / "alive").touch()
        run: dict[str, Any] = {"run_id": run_id, "status": "succeeded", "decision": "train"}
        run |= {"reason": "first training", "seconds": 7.0}
        run |= {"parameters": {"epochs": 3 + number, "seed": 0}}
        (folder / "run.json").write_text(json.dumps(run), "utf-8")
        verdict = {"promote": number == 0, "reason": "mean recall +0.1 [-1.0, +1.2] points"}
        evaluation = {"verdict": verdict, "split_version": "v", "metrics": {"candidate": {}}}
        (report / "evaluation.json").write_text(json.dumps(evaluation), "utf-8")
        lines = [{"text": text, "ranks": {"candidate": rank}} for text, rank in found.items()]
        (report / "queries.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return store


def shown(store: Store, *names: str) -> str:
    words = ["compare", *names, "--store", store.place]
    result = CliRunner().invoke(cli.build(), words, env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_queries_that_moved_are_shown(store: Store) -> None:
    text = shown(store)
    assert "epochs" in text
    assert "seed" not in text.split("Compared")[1]
    assert "Found better: 1 of 3" in text
    assert re.search(r"红色的圆 +40 → 1", text)
    assert "Found worse: 1 of 3" in text
    assert re.search(r"蓝色的星 +2 → 5", text)
    assert "白猫" not in text
    assert re.search(r"蓝色的星 +5 → 2", shown(store, "abc1", "abc0"))


def test_different_splits_are_not_compared_by_query(store: Store) -> None:
    from wentu.orchestrate.local import runs

    path = next(
        (store.storage.home / "runs").glob("*abc1/artifacts/*/evaluate/report/evaluation.json")
    )
    path.write_text(path.read_text("utf-8").replace('"v"', '"w"'), "utf-8")
    assert list(moved(store, runs(store))) == []
    assert "tested on different splits" in shown(store).replace("\n", " ")


def test_what_cannot_be_promoted_anyway_is_said(store: Store, built: Any) -> None:
    with pytest.raises(InputError, match="abc1 trained no candidate that could be promoted"):
        accept(store, "abc1")
    with pytest.raises(InputError, match="nothing names 0 runs; known: "):
        accept(store, "nothing")
    digest = bundle_digest(built.bundle)
    folder = next((store.storage.home / "runs").glob("*abc1/artifacts/*"))
    report = folder / "evaluate" / "report" / "evaluation.json"
    found = json.loads(report.read_text("utf-8")) | {"candidate": digest}
    report.write_text(json.dumps(found), "utf-8")
    # The export of an earlier run: where a run is repeated, kfp takes it from its cache.
    exported = next((store.storage.home / "runs").glob("*abc0/artifacts/*")) / "export-onnx"
    shutil.copytree(built.bundle, exported / "bundle")
    assert bundle_of(store, digest) == exported / "bundle"
    assert bundle_of(store, "other") is None
    release = Release(model=digest, segments=(), inventory="", pictures=0, dimension=1)
    store.publish(store.write_release(release), after=0, reason="train")
    with pytest.raises(InputError, match="abc1 was released already; to go back to it: wentu"):
        accept(store, "abc1")


def test_the_stage_alone_still_names_what_it_lacks() -> None:
    result = CliRunner().invoke(cli.build(), ["promote"])
    assert result.exit_code == 2
    assert "Missing option '--catalog'" in result.output
