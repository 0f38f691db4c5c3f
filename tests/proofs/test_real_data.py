"""Real pictures and captions: Flickr8k in Chinese and in English, and a folder of photographs."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.proofs.conftest import OPTIONS, draw_collection, must
from wentu import demo
from wentu.search.engine import Engine, Query

TRAINING = ["--model", "tiny", "--scratch", "--epochs", "2", "--batch-size", "64"]
TRAINING += ["--learning-rate", "1e-3"]


@pytest.mark.parametrize(
    "language",
    [
        pytest.param("cn", marks=pytest.mark.heavy),
        pytest.param("en", marks=pytest.mark.exhaustive),
    ],
)
def test_a_tiny_model_from_scratch_learns_flickr8k(
    data: Path, tmp_path: Path, language: str
) -> None:
    """English paths are written with backslashes; nothing but the files' names says the split."""
    folder, store = data / "flickr8k-cn", tmp_path / "store"
    captions = [
        word for split in ("train", "val")
        for word in ("--captions", str(folder / f"{language}_{split}.json"))
    ]  # fmt: skip
    where = ["--pictures", str(folder), *captions, "--store", str(store)]
    must("run", *where, *TRAINING)
    found = next(store.glob("runs/*/artifacts/*/evaluate/report/evaluation.json"))
    result = json.loads(found.read_text(encoding="utf-8"))
    recall = result["metrics"]["candidate"]["text_to_image/recall@10"]
    chance = 10 / result["pictures"]
    print(
        f"\n{language}: recall@10 {recall:.3f}, {recall / chance:.1f} times chance "
        f"({result['pictures']} test pictures)"
    )
    assert recall >= 2 * chance
    if language == "cn":
        lost, answered = told_apart(store)
        print(f"test captions lost {lost:.3f}; captions of drawings answered {answered:.3f}")
        assert lost <= 0.06  # the other figure is told only: so weak a model knows no better


def told_apart(store: Path) -> tuple[float, float]:
    """(share of the test captions that are answered with nothing, share of the captions of the
    demo's drawings that are answered: no photograph shows a cyan cross on grey)."""
    engine = Engine.open(str(store))
    there = engine.example_captions("test", 500)
    absent = [one.captions(random.Random(0))[0] for one in demo.combinations()[::4]]

    def found(texts: Sequence[str]) -> float:
        return sum(bool(engine.find(Query(text=text, k=5)).hits) for text in texts) / len(texts)

    result = 1 - found(there), found(absent)
    engine.close()
    return result


@pytest.mark.heavy
def test_a_folder_of_photographs_becomes_searchable_with_a_ready_model(
    data: Path, tmp_path: Path
) -> None:
    collection, trained, store = (tmp_path / name for name in ("drawn", "trained", "store"))
    draw_collection(collection)
    where = ["--pictures", str(collection), "--captions", str(collection)]
    must("run", *where, "--store", str(trained), *OPTIONS)
    folder = data / "photo-folder"
    words = ["run", "--pictures", str(folder), "--captions", "none", "--no-train"]
    words += ["--store", str(store)]
    must(*words, "--model", str(trained))
    engine = Engine.open(str(store))
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    assert engine.release.pictures == len(paths)
    for path in paths:
        hits = engine.search(picture=path.read_bytes(), k=3)
        found = {name for hit in hits if hit.score > 0.9999 for name in hit.paths}
        assert path.relative_to(folder).as_posix() in found
    engine.close()
    assert "Nothing new" in must(*words, "--model", str(trained))
