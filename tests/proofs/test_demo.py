"""The demo with three seeds: recall on 300 pictures whose combinations were never trained on."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import pytest

from tests.proofs.conftest import must

pytestmark = pytest.mark.heavy
MEMORY = 4 * 2**30


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_finds_unseen_pictures(tmp_path: Path, seed: int) -> None:
    began = time.monotonic()
    said = must("demo", "--folder", str(tmp_path), "--seed", str(seed))
    seconds = time.monotonic() - began
    found = next(tmp_path.glob("store-*/runs/*/artifacts/*/evaluate/report/evaluation.json"))
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
    assert (tmp_path / f"searches-{seed}.png").stat().st_size > 10_000
    assert said.count("Search:") == 3
    assert "Next:" in said
