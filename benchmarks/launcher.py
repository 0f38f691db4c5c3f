"""Runs one of cn_clip's scripts, unmodified, on the CPU, and notes when it printed what.

``python -m benchmarks.launcher REPORT MODULE ARGUMENT...``. The evaluation scripts call ``.cuda()``
without asking: on the CPU that, and ``torch.cuda.set_device``, do nothing here. What they print is
kept with its time, from which loading and computing can be told apart; so is the time that they
have spent in ``json.loads`` until then.
"""

from __future__ import annotations

import io
import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any


class Stamped(io.TextIOBase):
    """A stdout that keeps each text with its time and the seconds spent in json.loads so far."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.parsing = 0.0
        self.marks: list[tuple[float, float, str]] = []

    def write(self, text: str) -> int:
        """Keep what is more than a line break."""
        if text.strip():
            self.marks.append((time.perf_counter() - self.began, self.parsing, text))
        return len(text)

    def watch_json(self) -> None:
        """From now on, count the time that goes into json.loads (0.2 us more for each call)."""
        real = json.loads

        def timed(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return real(*args, **options)
            finally:
                self.parsing += time.perf_counter() - began

        json.loads = timed


def stay_on_the_cpu() -> None:
    """Make the calls that move to a GPU do nothing."""
    import torch

    def same(this: Any, *_: Any, **__: Any) -> Any:
        return this

    def nothing(*_: Any, **__: Any) -> None:
        """Set no device."""

    changes: tuple[tuple[Any, str, Any], ...] = (
        (torch.Tensor, "cuda", same),
        (torch.nn.Module, "cuda", same),
        (torch.cuda, "set_device", nothing),
    )
    for owner, name, replacement in changes:
        setattr(owner, name, replacement)


def main() -> None:
    """Run the script; write its seconds, and marks of (seconds, of these parsing, text)."""
    report, module, *arguments = sys.argv[1:]
    if module.startswith("cn_clip.eval"):
        stay_on_the_cpu()
    sys.argv = [module, *arguments]
    stamped, stdout = Stamped(), sys.stdout
    stamped.watch_json()
    sys.stdout = stamped
    try:
        runpy.run_module(module, run_name="__main__")
    finally:
        sys.stdout = stdout
    seconds = time.perf_counter() - stamped.began
    value = {"script": seconds, "marks": stamped.marks}
    Path(report).write_text(json.dumps(value), encoding="utf-8")


def between(value: dict[str, Any], first: str, last: str) -> tuple[float, float]:
    """(seconds, of these in json.loads) from the text with ``first`` to the one with ``last``."""
    start, end = (
        next(mark for mark in value["marks"] if words in mark[2]) for words in (first, last)
    )
    return end[0] - start[0], end[1] - start[1]


if __name__ == "__main__":
    main()
