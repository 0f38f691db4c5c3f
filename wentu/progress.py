"""How a stage tells how far it is: a bar on a terminal, plain lines in a log, events for `run`.

Under ``wentu run`` a stage appends JSON lines to ``<run>/events/<stage>.jsonl`` (each shard of it
to ``<stage>-<n>.jsonl``), which the parent draws; by hand it draws for itself. Lines are at most a
few per second, whatever the speed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

Item = TypeVar("Item")


class Reporter:
    """Writes events of one stage; the base class draws nothing."""

    def emit(self, event: str, **values: Any) -> None:
        """One event: start, progress, note, done or error."""

    def note(self, text: str) -> None:
        """A sentence for the user that is no progress."""
        self.emit("note", text=text)

    def tell(self, text: str) -> None:
        """A sentence for the user that stays on the screen."""
        self.emit("tell", text=text)

    def track(
        self, items: Iterable[Item], label: str, total: int, *, size: int = 1, start: int = 0
    ) -> Iterator[Item]:
        """Hand on ``items``, each counting ``size`` of ``total``, reporting now and then."""
        done, last = start, 0.0
        began = time.monotonic()
        for item in items:
            yield item
            done = min(done + size, total)
            moment = time.monotonic()
            if moment - last > 0.25 or done >= total:
                last = moment
                rate = (done - start) / max(moment - began, 1e-9)
                self.emit("progress", label=label, done=done, total=total, rate=round(rate, 2))


class EventFile(Reporter):
    """Appends events to a file that `wentu run` watches."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def emit(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, "time": time.time(), **values}, ensure_ascii=False)
        self._file.write(line + "\n")
        self._file.flush()


class Lines(Reporter):
    """Plain lines on a stream: one in ten seconds in a log, a rewritten one on a terminal."""

    def __init__(self, stage: str, stream: TextIO | None = None) -> None:
        self._stage, self._stream = stage, stream or sys.stderr
        self._live = self._stream.isatty()
        self._last, self._label, self._open = 0.0, "", False

    def emit(self, event: str, **values: Any) -> None:
        if event == "progress":
            self._progress(**values)
        elif event in ("note", "tell", "done"):
            if self._open:
                self._stream.write("\n")
                self._open = False
            text = values.get("text") or describe_counts(values.get("counts") or {})
            seconds = f" ({values['seconds']:.1f} s)" if "seconds" in values else ""
            print(f"{self._stage}: {text}{seconds}", file=self._stream, flush=True)

    def _progress(self, label: str, done: int, total: int, rate: float) -> None:
        moment = time.monotonic()
        every = 0.2 if self._live else 10.0
        if moment - self._last < every and done < total and label == self._label:
            return
        self._last, self._label = moment, label
        left = (total - done) / rate if rate else 0.0
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        text = f"{self._stage}: {label} {done:,}/{total:,}  {speed}/s  {clock(left)}"
        if self._live:
            self._stream.write(f"\r\x1b[K{text}")
            self._open = True
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


def open_reporter(stage: str, shard: str = "") -> Reporter:
    """Where a stage tells how far it is: the events of `wentu run`, or lines of its own.

    shard: which part of a stage that several processes share, as 2/3.
    """
    run_dir = os.environ.get("WENTU_RUN_DIR")
    if run_dir:
        return EventFile(Path(run_dir) / "events" / f"{file_stem(stage, shard)}.jsonl")
    return Lines(f"{stage} {shard}" if shard else stage)


def file_stem(stage: str, shard: str = "") -> str:
    """What a stage's files in a run's folder are called: features, or features-2 of 2/3."""
    return f"{stage}-{shard.partition('/')[0]}" if shard else stage


def clock(seconds: float) -> str:
    """1:05 or 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def describe_counts(counts: dict[str, Any]) -> str:
    """``{"pictures": 1920}`` as "1,920 pictures"."""
    return ", ".join(
        f"{value:,} {name.replace('_', ' ')}"
        if isinstance(value, int)
        else f"{name.replace('_', ' ')} {value:.3f}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value}"
        for name, value in counts.items()
    )
