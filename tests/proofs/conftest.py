"""What the long proofs share: a collection of drawings and a run of it in a process of its own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from wentu import demo

SIZES = {"train": 64, "valid": 16, "test": 32}
OPTIONS = ["--model", "tiny", "--scratch", "--epochs", "4", "--batch-size", "16"]
OPTIONS += ["--learning-rate", "1e-3", "--save-seconds", "0"]


def draw_collection(folder: Path, sizes: dict[str, int] = SIZES, first: int = 0) -> Path:
    """Drawings ``first``, ``first`` + 1, … of the demo in splits of those sizes."""
    rng = random.Random(first)
    everything = demo.combinations()
    random.Random(7).shuffle(everything)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    number = first
    for split, size in sizes.items():
        rows = []
        for combination in everything[number : number + size]:
            name = f"pictures/{number:04d}.png"
            demo.draw(combination, rng).save(folder / name)
            rows.append({"image": name, "caption": combination.captions(rng)})
            number += 1
        path = folder / f"cn_{split}.json"
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder


def command(*words: str) -> list[str]:
    """A wentu command line in this environment."""
    return [sys.executable, "-c", "from wentu.cli import main; main()", *words]


def wentu(*words: str, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output is shown when it fails."""
    env = os.environ | {"LANG": "C.UTF-8"}
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=timeout, env=env)


def must(*words: str, timeout: float = 1800) -> str:
    """Run a command that has to succeed; returns what it printed."""
    done = wentu(*words, timeout=timeout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def events(store: Path, stage: str) -> list[list[dict[str, Any]]]:
    """The events of a stage, run by run."""
    found = []
    for run in sorted((store / "runs").iterdir(), key=lambda path: path.stat().st_ctime):
        path = run / "events" / f"{stage}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found.append([json.loads(line) for line in lines if line.endswith("}")])
    return found


def last_run(store: Path) -> dict[str, Any]:
    """run.json of the newest run."""
    runs = [json.loads(p.read_text("utf-8")) for p in (store / "runs").glob("*/run.json")]
    return max(runs, key=lambda run: run["run_id"])


def processes_of(store: Path) -> list[int]:
    """Processes that belong to a run on the store, by what they inherited."""
    mark, found = f"WENTU_RUN_DIR={store}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except (OSError, ProcessLookupError):
                continue
    return found


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Poll until something holds; fail with a sentence where it does not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    pytest.fail(f"waited {seconds} s for {what}")


Demo = Callable[[int], tuple[Path, str, float]]


@pytest.fixture(scope="session")
def demo_of(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """(folder, what it printed, seconds) of `wentu demo` with a seed, run once for all proofs."""

    @cache
    def run(seed: int) -> tuple[Path, str, float]:
        folder = tmp_path_factory.mktemp(f"demo-{seed}")
        began = time.monotonic()
        said = must("demo", "--folder", str(folder), "--seed", str(seed))
        return folder, said, time.monotonic() - began

    return run
