"""The naming task: one picture per name, all of them trained on, tested by changed views.

120 epochs take 8 minutes of two cores, so `make exhaustive` runs this and CI does not.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.proofs.conftest import must
from wentu.search.engine import Engine

pytestmark = pytest.mark.exhaustive


def test_names_of_emoji_are_learned_and_the_report_says_what_that_means(
    data: Path, tmp_path: Path
) -> None:
    folder, store = data / "emoji-named", tmp_path / "store"
    said = must(
        "run", "--pictures", str(folder), "--captions", "names", "--store", str(store),
        "--preset", "naming",
    )  # fmt: skip
    found = next(store.glob("runs/*/artifacts/*/evaluate/report/evaluation.json"))
    result = json.loads(found.read_text(encoding="utf-8"))
    recall = result["metrics"]["candidate"]["text_to_image/recall@1"]
    print(f"\nrecall@1 {recall:.3f} on changed views of {result['pictures']} pictures")
    assert recall >= 0.95
    assert result["verdict"]["promote"]
    assert result["split"] == "closed"
    assert "changed views of the training pictures" in said
    report = found.with_name("report.html").read_text(encoding="utf-8")
    assert "not how well unseen" in report
    assert said.count("→") >= 10  # the ten samples before training
    engine = Engine.open(str(store))
    assert engine.release.pictures == result["pictures"]
    first = [engine.search(text, k=1)[0].captions[0] for text in ("彩虹", "火山", "四叶草")]
    engine.close()
    assert first == ["彩虹", "火山", "四叶草"]
