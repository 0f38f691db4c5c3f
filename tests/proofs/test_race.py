"""Two promotions at once: one consistent release, and the loser says that it is stale."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.proofs.conftest import Run, command, must
from wentu.store import Store

pytestmark = pytest.mark.heavy


def promote_words(run: Path, store: Path, out: Path, inventory: str) -> list[str]:
    def artifact(pattern: str) -> str:
        return str(next(run.glob(f"artifacts/*/{pattern}")))

    return command(
        "promote", "--catalog", artifact("pairs/catalog"), "--bundle", artifact("evaluate/winner"),
        "--index", artifact("index/segment"), "--evaluation", artifact("evaluate/report"),
        "--store", str(store), "--inventory", inventory, "--out", str(out), "--pointer", "0",
        "--pictures", str(out),
    )  # fmt: skip


def test_of_two_promotions_at_once_one_wins_and_the_other_says_that_it_is_stale(
    first_run: Run, tmp_path: Path
) -> None:
    other = Run(collection=first_run.collection, store=tmp_path / "other")
    must(*other.words, "--epochs", "1")
    stores = [first_run.store, other.store]
    inventory = Store(str(stores[0])).current()
    assert inventory is not None
    for attempt in range(5):
        shared = tmp_path / f"shared-{attempt}"
        shutil.copytree(stores[0] / "inventories", shared / "inventories")
        racers = []
        for number, store in enumerate(stores):
            run = next((store / "runs").iterdir())
            out = tmp_path / f"out-{attempt}-{number}"
            words = promote_words(run, shared, out, inventory[1].inventory)
            racers.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True))
        said = [racer.communicate(timeout=600)[1] for racer in racers]
        codes = sorted(racer.returncode for racer in racers)
        assert codes == [0, 5], said
        assert any("stale" in text for text in said)
        vault = Store(str(shared))
        assert [pointer.number for pointer in vault.pointers()] == [1]
        current = vault.current()
        assert current is not None
        vault.verify(current[1])
        winners = list(tmp_path.glob(f"out-{attempt}-*/release.json"))
        assert [json.loads(p.read_text())["release"] for p in winners] == [current[1].id]
