"""What the long proofs share: a collection of drawings and a run of it in a process of its own."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wentu import demo

SIZES = {"train": 64, "valid": 16, "test": 32}
OPTIONS = ["--model", "tiny", "--scratch", "--epochs", "4", "--batch-size", "16"]
OPTIONS += ["--learning-rate", "1e-3", "--save-seconds", "0"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A collection and the store that a run of it, with OPTIONS, left."""

    collection: Path
    store: Path

    @property
    def words(self) -> list[str]:
        """The command that made it; again, it finds nothing new."""
        where = ["--pictures", str(self.collection), "--captions", str(self.collection)]
        return ["run", *where, "--store", str(self.store), *OPTIONS]

    def copy(self, folder: Path) -> Run:
        """One that may be changed."""
        return Run(
            collection=Path(shutil.copytree(self.collection, folder / "collection")),
            store=Path(shutil.copytree(self.store, folder / "store")),
        )


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run, not to be changed: what many proofs begin with."""
    folder = tmp_path_factory.mktemp("first-run")
    made = Run(collection=draw_collection(folder / "collection"), store=folder / "store")
    must(*made.words)
    return made


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What `wentu demo` left and said."""

    folder: Path
    said: str
    seconds: float
    connections: list[str] | None
    """Calls that would have left the machine; None where they could not be watched."""

    @property
    def store(self) -> Path:
        return next(self.folder.glob("store-*"))

    @property
    def artifacts(self) -> Path:
        """Of its run, stage by stage."""
        return next(self.store.glob("runs/*/artifacts/*"))


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The whole demo, made once by each worker: what uses it stands in one file."""
    return run_demo(tmp_path_factory.mktemp("demo"), 0)


def run_demo(folder: Path, seed: int) -> Demo:
    """The demo in a namespace without any network, where one can be made.

    In it not even the loopback is up: any connection fails at once. Failed attempts count too:
    strace shows a connect() to anything but a local socket.
    """
    unshare, strace = shutil.which("unshare"), shutil.which("strace")
    alone = (
        bool(unshare) and not subprocess.run([str(unshare), "-n", "true"], check=False).returncode
    )
    trace, words = folder / "trace", command("demo", "--folder", str(folder), "--seed", str(seed))
    if alone and strace:
        calls = ["-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto", "-o", str(trace)]
        words = [strace, *calls, *words]
    if alone:
        words = [str(unshare), "-n", *words]
    # Libraries keep quiet where these are set: what users see is how it is without them.
    quiet = ("CI", "GITHUB_ACTIONS", "DO_NOT_TRACK")
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in quiet and "TELEMETRY" not in name
    }
    began = time.monotonic()
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=1800, env=env | {"LANG": "C.UTF-8"}
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    connections: list[str] | None = [] if alone else None
    if alone and strace:
        lines = trace.read_text(encoding="utf-8", errors="replace").splitlines()
        assert lines, "strace saw nothing"
        connections = [line for line in lines if "AF_INET" in line]
    return Demo(
        folder=folder,
        said=done.stdout,
        seconds=time.monotonic() - began,
        connections=connections,
    )


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
