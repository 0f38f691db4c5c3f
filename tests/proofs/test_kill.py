"""SIGKILL at ten random moments of a training: the same command ends in the same weights."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wentu.clip import checkpoint
from wentu.clip.files import read_pt
from wentu.clip.model import TINY, architecture
from wentu.training import saving
from wentu.training.config import Config
from wentu.training.job import Job

pytestmark = pytest.mark.heavy

SCRIPT = """
import sys
from pathlib import Path
from wentu.progress import Reporter
from wentu.tracking import Tracker
from wentu.training.job import Job, launch
launch(Job.read(Path(sys.argv[1])), Reporter(), Tracker())
"""
KILLS = 10


def start_with_dropout(path: Path) -> Path:
    """The tiny model as weights to start from, with dropout in its text tower."""
    dropping = {"text_attention_probs_dropout_prob": 0.1, "text_hidden_dropout_prob": 0.1}
    arch = replace(architecture("tiny"), name="custom", config=TINY | dropping)
    found = checkpoint.Checkpoint(architecture=arch)
    checkpoint.save(path, found.model().state_dict(), found, epoch=0, step=0, info={})
    return path


def began(job: Job) -> subprocess.Popen[bytes]:
    """The training in a process of its own, and in those that it starts."""
    job.work.mkdir(exist_ok=True)
    job.write(job.work / "plan.json")
    words = [sys.executable, "-c", SCRIPT, str(job.work / "plan.json")]
    return subprocess.Popen(words, start_new_session=True, stderr=subprocess.DEVNULL)


def session(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that it started, and what they started; torchrun's have sessions too."""
    shown = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in shown.stdout.splitlines()[1:]]
    found = {process.pid}
    while True:
        more = found | {pid for pid, parent in pairs if parent in found}
        if more == found:
            return sorted(found - {process.pid})
        found = more


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_ten_random_moments_the_weights_are_the_same(
    built: Any, tmp_path: Path, processes: int
) -> None:
    config = Config(
        epochs=12,
        batch_size=5,
        chunk=2,
        learning_rate=1e-3,
        augment="crop",
        patch_dropout=0.5,
        ema=0.9,
        patience=0,
        save_seconds=0.2,
        nproc=processes,
    )
    plan = Job(
        lmdb=built.lmdb,
        model=str(start_with_dropout(tmp_path / "start.pt")),
        work=tmp_path / "whole",
        config=config,
    )
    assert began(plan).wait(timeout=900) == 0
    whole = saving.position(plan.work)
    assert whole.step == 12 * 6

    parts, rng, reached = replace(plan, work=tmp_path / "parts"), random.Random(processes), []
    for kill in range(KILLS):
        process = began(parts)
        target = (kill + 0.5) * whole.step / KILLS
        while saving.position(parts.work).step < target:
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.3))
        others = session(process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        reached.append(saving.position(parts.work).step)
        deadline = time.monotonic() + 20
        while any(map(alive, others)):  # they die with the one that was killed
            assert time.monotonic() < deadline, "a worker outlives the process that started it"
            time.sleep(0.05)
    assert len(set(reached)) >= KILLS - 3
    assert began(parts).wait(timeout=900) == 0

    at = saving.position(parts.work)
    assert (at.step, at.best, at.tried) == (whole.step, whole.best, whole.tried)
    for name in (whole.best, saving.LATEST):
        one, other = (read_pt(each.work / name) for each in (plan, parts))
        assert one.keys() == other.keys()
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
