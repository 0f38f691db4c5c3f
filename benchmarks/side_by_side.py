"""Two sides in turn, each in a process of its own, and a table of both with ratio and spread."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

Seconds = dict[str, float]
"""Name of what was measured -> how long it took."""
Times = dict[str, list[float]]
"""The same of several runs."""
BUSY = 0.3
"""Load per core above which figures are not to be trusted."""


def machine() -> str:
    """What the figures hold for, and a warning where others use the machine."""
    cores = os.cpu_count() or 1
    names = ("cn_clip", "torch", "onnxruntime", "faiss-cpu")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    lines = [
        f"{cores} CPU cores, " + ", ".join(f"{name} {version(name)}" for name in names),
        "medians of runs in turn (fastest-slowest); threads as each side sets them by default",
    ]
    if load > BUSY * cores:
        lines.append(
            f"THE MACHINE IS BUSY (load {load:.1f}), run again when it is idle: torch's threads "
            "then wait for each other, which flatters us"
        )
    return "\n".join(lines)


def run(module: str, arguments: Sequence[object]) -> dict[str, Any]:
    """One side in a fresh process: what it reported, and ``whole``, the seconds of the command."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", module, str(report), *map(str, arguments)]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
        whole = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"{module} {arguments[0]} failed:\n{done.stderr[-4000:]}")
        value: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return value | {"whole": whole}


def in_turn(
    ours: Callable[[], Seconds], theirs: Callable[[], Seconds], rounds: int
) -> tuple[Times, Times]:
    """Run both ``rounds`` times; who begins changes, so that neither always meets a warm cache."""
    times: tuple[Times, Times] = ({}, {})
    for number in range(rounds):
        sides = ((ours, times[0]), (theirs, times[1]))
        for call, kept in sides if number % 2 == 0 else sides[::-1]:
            for name, seconds in call().items():
                kept.setdefault(name, []).append(seconds)
    return times


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    what: str
    name: str
    """Of the seconds."""
    count: int = 0
    """Shown as this many a second; 0: shown as seconds."""
    aim: float = 0.0
    """How many times faster we mean to be; 0: no aim."""


def table(
    title: str, ours: Times, theirs: Times, rows: Sequence[Row], notes: Sequence[str]
) -> None:
    """Print both sides, how many times faster ours is, and what one must know to believe it."""
    print(f"\n{title}")
    print(f"  {'':32}{'wentu':>24}{'cn_clip':>24}  times faster")
    for row in rows:
        left, right = ours[row.name], theirs[row.name]
        line = f"  {row.what:32}{shown(left, row.count):>24}{shown(right, row.count):>24}  "
        print(line + ratio(left, right, row.aim), flush=True)
    for note in notes:
        print(f"  - {note}")


def shown(times: Sequence[float], count: int = 0) -> str:
    """Median (fastest-slowest) as a time, or as ``count`` per that time."""
    values = (statistics.median(times), min(times), max(times))
    if count:
        middle, high, low = (count / value for value in values)
        return f"{middle:.1f}/s ({low:.1f}-{high:.1f})"
    scale, unit = (1.0, "s") if values[0] >= 1 else (1e3, "ms")
    digits = 1 if values[0] * scale >= 10 else 2
    first, second, third = (f"{value * scale:.{digits}f}" for value in values)
    return f"{first} {unit} ({second}-{third})"


def ratio(ours: Sequence[float], theirs: Sequence[float], aim: float = 0.0) -> str:
    """Ratio of the medians, (least-largest) of the single rounds, and how it stands to the aim."""
    middle = statistics.median(theirs) / statistics.median(ours)
    each = [right / left for left, right in zip(ours, theirs, strict=True)]
    text = f"{middle:.1f}x ({min(each):.1f}-{max(each):.1f})"
    return f"{text}  aim {aim:g}x: {'met' if middle >= aim else 'MISSED'}" if aim else text


def cosine_note(cosines: Mapping[str, float]) -> str:
    """How alike the results of both sides are."""
    return "least cosine between the two sides: " + ", ".join(
        f"{value:.6f} ({name})" for name, value in cosines.items()
    )
