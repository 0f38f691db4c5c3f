"""What survives a crash: one file of state, one of the best weights, and a polite way to stop.

    state.pt        everything that the next step depends on, and the name of
    best-<n>.pt     the best weights so far, under the model's own names
    latest.pt       the last weights, once the training is over
    result.json     where it ended, once nothing is left to do

Each is written whole or not at all, the weights before the state that names them, so that the two
never disagree. No generator's state is among them: whatever is random in a step is drawn anew from
(seed, step, row).
"""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from wentu.clip.files import read_pt, save_atomic
from wentu.errors import FormatError, StoppedError, WentuError
from wentu.formats import FORMAT, read_json, write_json

STATE, LATEST, RESULT = "state.pt", "latest.pt", "result.json"


@dataclass(kw_only=True)
class Position:
    """Where a training stands, and what it has seen."""

    epoch: int = 0
    """Epochs finished."""
    batch: int = 0
    """Batches of the current epoch that are done."""
    step: int = 0
    """Optimizer steps so far."""
    best: str = ""
    """File of the best weights so far."""
    best_epoch: int = 0
    best_recall: float = -1.0
    best_mrr: float = -1.0
    best_share: float = 1.0
    """Of the trained weights in the best ones; the rest is the start."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the current epoch, over its steps: loss, hits, gradient norm."""
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    tried: list[dict[str, float]] = field(default_factory=list)
    """Recall of the averages of starting and trained weights."""
    over: str = ""
    """Why the training ended: epochs, patience, collapsed, diverged; empty while it goes on."""
    diverged_at: int = 0
    """The step whose loss or gradient was no number; 0: none."""


def save(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value``; WentuError where the disk is full, with what was there before intact."""
    import torch

    try:
        save_atomic(path, dict(value), torch.save)
    except OSError as error:
        raise _full(path, error) from error
    except RuntimeError as error:  # torch's own writer, of a write that fails
        if "write" not in str(error) and "PytorchStreamWriter" not in str(error):
            raise
        raise _full(path, error) from error


def _full(path: Path, error: Exception) -> WentuError:
    full = isinstance(error, RuntimeError) or getattr(error, "errno", 0) == errno.ENOSPC
    why, zh = ("the disk is full", "磁盘已满") if full else (str(error), str(error))
    return WentuError(
        f"{path} could not be written: {why}. Make room and run the same command again; it goes "
        "on from the last state that was saved.",
        f"无法写入 {path}：{zh}。请腾出空间后再次运行同一命令，将从上次保存的状态继续。",
    )


def read_state(work: Path) -> dict[str, Any] | None:
    """What ``state.pt`` holds; None where a training has not begun."""
    path = work / STATE
    if not path.exists():
        return None
    state = read_pt(path)
    if state.get("format") != FORMAT:
        raise _other_version(path)
    return state


def _other_version(path: Path) -> FormatError:
    return FormatError(
        f"{path} is of another version; remove {path.parent}.",
        f"{path} 属于其他版本，请删除 {path.parent}。",
    )


def save_state(work: Path, state: Mapping[str, Any], at: Position) -> None:
    """Write the state; only then older best weights go."""
    save(work / STATE, {**state, "position": vars(at)})
    keep_best(work, at)


def keep_best(work: Path, at: Position) -> None:
    """Remove all best weights but the best."""
    for path in work.glob("best-*.pt"):
        if path.name != at.best:
            path.unlink()


def save_result(work: Path, at: Position) -> None:
    """Nothing is left to do: the weights that come out are chosen."""
    write_json(work / RESULT, {"format": FORMAT, **vars(at)})
    keep_best(work, at)


def read_result(work: Path) -> Position | None:
    """Where a training ended; None while there is something left to do."""
    path = work / RESULT
    if not path.exists():
        return None
    value = read_json(path)
    if value.pop("format", None) != FORMAT:
        raise _other_version(path)
    return Position(**value)


def position(work: Path) -> Position:
    """Where the training in a work folder stands."""
    found = read_result(work)
    if found:
        return found
    state = read_state(work)
    return Position(**state["position"]) if state else Position()


class Stop:
    """Was this process asked to end (SIGTERM)? Then the next step is the last, and is saved."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen for as long as the context lasts; only a process's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(_number: int, _frame: FrameType | None) -> None:
            self.asked = True

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def stopped(step: int) -> StoppedError:
    """What is raised once the state of a stopped training is safe."""
    return StoppedError(
        f"stopped on request after step {step}; the state is saved: the same command goes on.",
        f"已按要求在第 {step} 步后停止，状态已保存：再次运行同一命令即可继续。",
    )
