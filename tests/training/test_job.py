"""Several processes on one machine: the same training as one, and what happens when one ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from wentu.clip import checkpoint
from wentu.clip.files import read_pt
from wentu.errors import InputError, StageError, StoppedError, WentuError
from wentu.formats import read_manifest, write_json
from wentu.progress import Reporter
from wentu.tracking import Tracker
from wentu.training import saving
from wentu.training.config import Config
from wentu.training.devices import has_bf16
from wentu.training.job import FAILURE, Job, _failure, launch, refuse_no_numbers
from wentu.training.learner import Learner

USUAL: dict[str, Any] = {"batch_size": 9, "learning_rate": 1e-3, "augment": "crop"}


def job(built: Any, work: Path, **changed: Any) -> Job:
    work.mkdir(exist_ok=True)
    config = Config(**USUAL | changed)
    return Job(lmdb=built.lmdb, model="tiny", work=work, config=config)


def train(built: Any, work: Path, **changed: Any) -> saving.Position:
    launch(job(built, work, **changed), Reporter(), Tracker())
    return saving.position(work)


def apart(one: float, other: float) -> float:
    return abs(one - other) / abs(one)


@pytest.mark.parametrize(
    ("changed", "steps"),
    [
        ({"epochs": 20, "batch_size": 28, "patience": 0}, 20),
        ({"epochs": 3, "chunk": 2, "loss": "sigmoid"}, 12),
    ],
    ids=["20 steps", "chunks and sigmoid"],
)
def test_two_processes_have_the_losses_of_one(
    built: Any, tmp_path: Path, changed: dict[str, Any], steps: int
) -> None:
    """28 pairs: a step an epoch; or four, of which the last has a single pair for both."""
    one = train(built, tmp_path / "one", nproc=1, **changed)
    two = train(built, tmp_path / "two", nproc=2, **changed)
    assert one.step == two.step == steps
    for ours, theirs in zip(one.history, two.history, strict=True):
        assert ours["step"] == theirs["step"]
        if "loss" in ours:
            assert apart(ours["loss"], theirs["loss"]) <= 1e-5
            assert apart(ours["gradient_norm"], theirs["gradient_norm"]) <= 1e-4
            assert ours["in_batch_accuracy"] == pytest.approx(theirs["in_batch_accuracy"])
    losses = [row["loss"] for row in two.history[1:]]
    assert losses[-1] < losses[0]


def test_what_a_worker_says_is_what_is_said(built: Any, tmp_path: Path) -> None:
    with pytest.raises(WentuError, match="--teacher tiny: it has no weights to learn from") as said:
        train(built, tmp_path, nproc=2, teacher="tiny")
    assert said.value.exit_code == InputError.exit_code


def endless(built: Any, folder: Path, script: str) -> list[str]:
    """A command that trains in two processes until it is stopped."""
    plan = job(built, folder, nproc=2, epochs=1000, patience=0, save_seconds=0.0)
    plan.write(folder / "plan.json")
    return [sys.executable, "-c", script, str(folder / "plan.json")]


def test_a_worker_that_is_killed_is_told_from_one_that_failed(built: Any, tmp_path: Path) -> None:
    """And its fellow does not wait for it for ever."""
    script = (
        "import sys; from pathlib import Path; from wentu.training.job import Job, launch\n"
        "from wentu.progress import Reporter; from wentu.tracking import Tracker\n"
        "launch(Job.read(Path(sys.argv[1])), Reporter(), Tracker())\n"
    )
    words = endless(built, tmp_path, script)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        while saving.position(tmp_path).step < 5:
            time.sleep(0.2)
        os.kill(workers(tmp_path)[1], signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode
    assert "a training process ended without a word" in errors
    assert not workers(tmp_path)
    assert saving.position(tmp_path).step >= 5


STOPPED = {"text": "stopped on request after step 3", "exit_code": 143}


def test_a_training_that_was_asked_to_end_has_not_failed(built: Any, tmp_path: Path) -> None:
    """Nobody is to be told of a failure: see Stage, which sends no notice of a StoppedError."""
    plan = job(built, tmp_path)
    before = _failure(plan, 1, stopped=True)
    assert isinstance(before, StoppedError)
    assert str(before).startswith("stopped on request; what was saved is there")
    write_json(tmp_path / FAILURE, STOPPED)
    told = _failure(plan, 1, stopped=True)
    assert isinstance(told, StoppedError)
    assert (str(told), told.exit_code) == ("stopped on request after step 3", 143)


def test_a_worker_that_torchrun_stops_because_another_died_is_a_failure(
    built: Any, tmp_path: Path
) -> None:
    write_json(tmp_path / FAILURE, STOPPED)
    error = _failure(job(built, tmp_path), 1, stopped=False)
    assert isinstance(error, StageError)
    assert str(error).startswith("a training process ended without a word (status 1)")


def test_a_mistake_is_told_also_where_one_was_asked_to_end(built: Any, tmp_path: Path) -> None:
    write_json(tmp_path / FAILURE, {"text": "--teacher: no", "exit_code": 2})
    error = _failure(job(built, tmp_path), 1, stopped=True)
    assert not isinstance(error, StoppedError)
    assert (str(error), error.exit_code) == ("--teacher: no", 2)


@pytest.mark.parametrize("begun", [True, False], ids=["training", "still starting"])
def test_sigterm_to_several_processes_is_a_stop(built: Any, tmp_path: Path, begun: bool) -> None:
    script = (
        "import sys; from pathlib import Path; from wentu.training.job import Job, launch\n"
        "from wentu.errors import StoppedError\n"
        "from wentu.progress import Reporter; from wentu.tracking import Tracker\n"
        "try:\n"
        "    launch(Job.read(Path(sys.argv[1])), Reporter(), Tracker())\n"
        "except StoppedError as error:\n"
        "    print(f'stopped: {error}')\n"
        "    sys.exit(error.exit_code)\n"
    )
    words = endless(built, tmp_path, script)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        while saving.position(tmp_path).step < 5 if begun else not workers(tmp_path):
            time.sleep(0.2)
        process.terminate()
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    assert ("stopped: stopped on request after step" in said) == begun
    assert said.startswith("stopped: stopped on request")
    assert not workers(tmp_path)


class OldCuda:
    """Before torch 2.4, and cards that imitate bf16."""

    @staticmethod
    def is_bf16_supported() -> bool:
        return True


class Imitating:
    @staticmethod
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation


def test_bf16_that_is_imitated_is_none() -> None:
    assert has_bf16(OldCuda)
    assert not has_bf16(Imitating)
    assert not has_bf16(object())


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            torch.AcceleratorError("CUDA error: unspecified launch failure\nmore"),
            r"the device failed or is gone \(CUDA error: unspecified launch failure\)\. The last",
        ),
        (torch.OutOfMemoryError("Tried to allocate"), "not enough memory for a step.*--chunk"),
        (RuntimeError("[x] DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
    ],
    ids=["gone", "full", "full host"],
)
def test_a_device_that_fails_is_said_and_the_same_command_goes_on(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    """Thrown where a card throws it: no card here can be pulled out."""
    step = Learner.step

    def fail(self: Learner, batch: Any, number: int, *more: Any) -> Any:
        if number == 6:
            raise error
        return step(self, batch, number, *more)

    monkeypatch.setattr(Learner, "step", fail)
    with pytest.raises(StageError, match=sentence):
        train(built, tmp_path / "a", nproc=1, epochs=2, save_seconds=0.0)
    assert saving.position(tmp_path / "a").step == 6
    monkeypatch.setattr(Learner, "step", step)
    at = train(built, tmp_path / "a", nproc=1, epochs=2)
    whole = train(built, tmp_path / "b", nproc=1, epochs=2)
    one, other = (read_pt(tmp_path / each / at.best) for each in ("a", "b"))
    assert at.step == whole.step == 8
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_torchrun_may_start_the_stage_itself(built: Any, tmp_path: Path) -> None:
    """As one does on several machines: every process is the command; the first one writes."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words += ["-m", "wentu", "finetune", "--lmdb", str(built.lmdb), "--model", "tiny"]
    words += ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    words += ["--epochs", "2", "--batch-size", "9", "--learning-rate", "1e-3"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    history = json.loads((tmp_path / "out" / "history.json").read_text("utf-8"))
    assert read_manifest(tmp_path / "out", "finetune").counts["steps"] == 8
    alone = train(built, tmp_path / "alone", nproc=1, epochs=2, augment="none")
    for ours, theirs in zip(history[1:], alone.history[1:], strict=True):
        assert apart(ours["loss"], theirs["loss"]) <= 1e-5


def workers(work: Path) -> list[int]:
    """Process ids of the workers of a job, in the order of their start."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if str(work / "job.json") in words and "torch.distributed.run" not in words:
            found.append(int(path.parent.name))
    return sorted(found)


def test_a_job_is_the_same_after_its_journey(built: Any, tmp_path: Path) -> None:
    before = job(built, tmp_path, epochs=7, teacher="x y")
    before.write(tmp_path / "a.json")
    assert Job.read(tmp_path / "a.json") == before
    assert "teacher" in json.loads((tmp_path / "a.json").read_text())["config"]


def test_a_start_without_numbers_is_refused(tmp_path: Path) -> None:
    model = checkpoint.start("tiny").model()
    with torch.no_grad():
        model.text_projection[0, 0] = float("inf")
    torch.save(model.state_dict(), tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt: its weights hold NaN or infinity \(text_proj"):
        refuse_no_numbers(checkpoint.load(tmp_path / "a.pt"), "a.pt")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"device": "npu"}, "--device npu: torch finds no such device here, only cpu; a card of"),
        ({"plugin": "torch_nothing"}, "--plugin torch_nothing: it cannot be imported"),
    ],
)
def test_devices_that_are_not_there_are_named(
    built: Any, tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        train(built, tmp_path, **changed)
