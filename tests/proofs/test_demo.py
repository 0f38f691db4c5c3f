"""The demo: recall on 300 pictures whose combinations were never trained on.

CI takes one seed; `make exhaustive` the other two as well.
"""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from tests.proofs.conftest import Demo, must
from wentu.clip import checkpoint
from wentu.clip.encoder import TorchEncoder
from wentu.formats import PairsLmdb
from wentu.progress import Reporter
from wentu.stages import evaluate
from wentu.training.optimizer import PRETRAINED_RATE
from wentu.verdict import compare, score

MEMORY = 4 * 2**30


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(0, marks=pytest.mark.heavy),
        pytest.param(1, marks=pytest.mark.exhaustive),
        pytest.param(2, marks=pytest.mark.exhaustive),
    ],
)
def test_the_demo_finds_unseen_pictures(demo_of: Demo, tmp_path: Path, seed: int) -> None:
    folder, said, seconds = demo_of(seed)
    found = next(folder.glob("store-*/runs/*/artifacts/*/evaluate/report/evaluation.json"))
    result = json.loads(found.read_text(encoding="utf-8"))
    recall = result["metrics"]["candidate"]
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    at_1, at_10 = recall["text_to_image/recall@1"], recall["text_to_image/recall@10"]
    print(
        f"\nseed {seed}: recall@1 {at_1:.3f}, recall@10 {at_10:.3f}, {seconds:.0f} s, "
        f"{largest / 2**30:.2f} GiB"
    )
    assert result["pictures"] == 300
    assert at_1 >= 0.55
    assert at_10 >= 0.98
    assert largest < MEMORY
    assert (folder / f"searches-{seed}.png").stat().st_size > 10_000
    assert said.count("Search:") == 3
    assert "Next:" in said
    if seed == 0:
        a_rate_far_too_high_does_no_harm(found.parents[2], tmp_path / "spoiled")


def a_rate_far_too_high_does_no_harm(run: Path, out: Path) -> None:
    """A hundred times the usual one, from the demo's model: not worse on test, beyond doubt."""
    lmdb, start = run / "pack-lmdb" / "lmdb", run / "finetune" / "checkpoint" / "epoch_best.pt"
    rate = 100 * PRETRAINED_RATE
    words = ["--lmdb", str(lmdb), "--model", str(start), "--store", str(out / "store")]
    words += ["--out", str(out / "checkpoint"), "--learning-rate", str(rate), "--epochs", "1"]
    must("finetune", *words)
    history = json.loads((out / "checkpoint" / "history.json").read_text("utf-8"))
    assert min(row["recall"] for row in history[1:]) < history[0]["recall"], "it did do harm"
    task, groups = evaluate.split_to_test(lmdb)
    with PairsLmdb(lmdb / "test") as split:
        before, after = (
            score(split, task, TorchEncoder(checkpoint.load(path)), "test", Reporter())
            for path in (start, out / "checkpoint" / "epoch_best.pt")
        )
    interval = compare(before, after, task, groups)
    print(
        f"learning rate {rate:g}: mean recall on test {100 * interval.mean:+.2f} "
        f"[{100 * interval.low:+.2f}, {100 * interval.high:+.2f}] points"
    )
    assert interval.high >= 0
