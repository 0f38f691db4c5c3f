"""SIGKILL in every stage, then the same command: it finishes, as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.proofs.conftest import (
    Run,
    command,
    events,
    last_run,
    must,
    processes_of,
    wait_until,
)
from wentu.clip.files import read_pt
from wentu.stages import STAGES
from wentu.store import Store

pytestmark = pytest.mark.heavy


def kill_in(stage: str, words: list[str], store: Path, runs_before: int) -> None:
    """Start a run and SIGKILL it while ``stage`` is at work (finetune: in its second epoch)."""

    def at_work() -> bool:
        found = events(store, stage) if (store / "runs").exists() else []
        if len(found) <= runs_before or not found[-1]:
            return False
        wanted = {"event": "epoch", "epoch": 1} if stage == "finetune" else {"event": "start"}
        return any(wanted.items() <= event.items() for event in found[-1])

    process = subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: at_work() or process.poll() is not None, 300, f"{stage} to start")
        assert process.poll() is None, process.stderr.read()[-2000:]  # type: ignore[union-attr]
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    wait_until(lambda: not processes_of(store), 20, f"the processes of {stage} to go")


def latest(store: Path) -> dict[str, Any]:
    """The weights after the last step, of the run that trained last."""
    path = max(store.glob("runs/*/artifacts/*/finetune/checkpoint/epoch_latest.pt"))
    return dict(read_pt(path)["state_dict"])


def assert_same_weights(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    assert [key for key in a if not a[key].equal(b[key])] == []


def test_killed_in_every_stage_the_same_command_finishes_with_the_same_weights(
    first_run: Run, tmp_path: Path
) -> None:
    collection = Path(shutil.copytree(first_run.collection, tmp_path / "图片 集"))
    plain, killed = first_run.store, tmp_path / "killed"
    words = Run(collection=collection, store=killed).words
    for number, stage in enumerate(STAGES):
        kill_in(stage, words, killed, number)
        current = Store(str(killed)).current()
        assert current is None or stage == "promote", f"a release after a kill in {stage}"
    must(*words)

    expected, found = Store(str(plain)).current(), Store(str(killed)).current()
    assert expected is not None
    assert found is not None
    assert found[1].model == expected[1].model, "the weights differ"
    assert found[1].segments == expected[1].segments
    assert found[1].metrics == expected[1].metrics
    Store(str(killed)).verify(found[1])
    assert_same_weights(latest(plain), latest(killed))
    assert [pointer.number for pointer in Store(str(killed)).pointers()] == [1]

    epochs = [
        e["epoch"] for run in events(killed, "finetune") for e in run if e["event"] == "epoch"
    ]
    assert sorted(epochs) == sorted(set(epochs)), f"an epoch was trained twice: {epochs}"
    assert max(epochs) == 4
    finished = {s["name"]: s["status"] for s in last_run(killed)["stages"]}
    assert finished["finetune"] == "cached"
    assert not processes_of(killed)
