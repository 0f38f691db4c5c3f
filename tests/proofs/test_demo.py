"""The demo: recall on 300 pictures whose combinations were never trained on; without any network.

CI takes one seed; `make exhaustive` the other two as well.
"""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from tests.proofs.conftest import Demo, must, run_demo
from wentu.clip import checkpoint
from wentu.clip.encoder import TorchEncoder
from wentu.formats import PairsLmdb
from wentu.progress import Reporter
from wentu.stages import evaluate
from wentu.training.optimizer import PRETRAINED_RATE
from wentu.verdict import compare, score

MEMORY = 4 * 2**30
heavy = [pytest.mark.heavy, pytest.mark.xdist_group("demo")]


def finds_unseen_pictures(demo: Demo, seed: int) -> None:
    found = demo.artifacts / "evaluate" / "report" / "evaluation.json"
    result = json.loads(found.read_text(encoding="utf-8"))
    recall = result["metrics"]["candidate"]
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    at_1, at_10 = recall["text_to_image/recall@1"], recall["text_to_image/recall@10"]
    print(
        f"\nseed {seed}: recall@1 {at_1:.3f}, recall@10 {at_10:.3f}, {demo.seconds:.0f} s, "
        f"{largest / 2**30:.2f} GiB"
    )
    assert result["pictures"] == 300
    assert at_1 >= 0.55
    assert at_10 >= 0.98
    assert largest < MEMORY
    assert (demo.folder / f"searches-{seed}.png").stat().st_size > 10_000
    assert demo.said.count("Search:") == 3
    assert "Next:" in demo.said


class TestDemo:
    """Of one run."""

    pytestmark = heavy

    def test_it_finds_unseen_pictures(self, demo_run: Demo) -> None:
        finds_unseen_pictures(demo_run, 0)

    def test_nothing_phones_home(self, demo_run: Demo) -> None:
        if demo_run.connections is None:
            pytest.skip("needs util-linux's unshare and the right to make a network namespace")
        assert demo_run.connections == []

    def test_a_rate_far_too_high_does_no_harm(self, demo_run: Demo, tmp_path: Path) -> None:
        """A hundred times the usual one, from the demo's model: not worse on test, beyond doubt."""
        lmdb = demo_run.artifacts / "pack-lmdb" / "lmdb"
        start = demo_run.artifacts / "finetune" / "checkpoint" / "epoch_best.pt"
        rate, out = 100 * PRETRAINED_RATE, tmp_path
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


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", [1, 2])
def test_so_do_other_seeds(tmp_path: Path, seed: int) -> None:
    finds_unseen_pictures(run_demo(tmp_path, seed), seed)
