"""What a running pipeline looks like: events of its stages, drawn live or as plain lines."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from wentu.language import pick
from wentu.progress import clock, describe_counts

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

from wentu.stages import STAGES

REFRESH = ("inventory", "pairs", "export_onnx", "features", "index", "promote")
FLOW = {"train": STAGES, "refresh": REFRESH, "skip": ("inventory",)}
"""Which stages each answer of inventory leads to."""


@dataclass(kw_only=True)
class StageView:
    """What is known of one stage of a run."""

    name: str
    status: str = "waiting"
    """waiting, running, done, cached or failed"""
    seconds: float = 0.0
    started: float = 0.0
    progress: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    error: str = ""
    exit_code: int = 1
    log: str = ""
    """What the log of the process that failed is called, in the run's folder of logs."""

    def take(self, event: dict[str, Any]) -> None:
        """Change by what one process of the stage reported."""
        kind = event["event"]
        if kind == "start":
            self.status, self.started = "running", event["time"]
        elif kind == "progress":
            self.progress = event
        elif kind == "note":
            self.note = event["text"]
        elif kind == "done":
            self.status, self.seconds, self.counts = "done", event["seconds"], event["counts"]
        elif kind == "error":
            self.status, self.seconds = "failed", event["seconds"]
            self.error, self.exit_code = event["text"], event["exit_code"]

    def gather(self, shards: Collection[StageView], number: int) -> None:
        """Become the sum of ``shards``, those of ``number`` that were heard of."""
        failed = next((each for each in shards if each.error), None)
        over = [each for each in shards if each.status == "done"]
        self.status = "done" if len(over) == number else "running"
        self.started = min(each.started for each in shards)
        ends = [each.started + each.seconds for each in shards if each.seconds]
        self.seconds = max(ends, default=self.started) - self.started
        names = dict.fromkeys(name for each in over for name in each.counts)
        self.counts = {name: sum(each.counts.get(name, 0) for each in over) for name in names}
        self.note = next((each.note for each in reversed([*shards]) if each.note), "")
        known = [each.progress for each in shards if each.progress]
        if known:
            total = sum(at["total"] for at in known) * number // len(known)  # they are even
            rate = sum(each.progress["rate"] for each in shards if self.at_work(each))
            done = sum(at["done"] for at in known)
            self.progress = {"label": known[-1]["label"], "done": done, "total": total}
            self.progress["rate"] = rate
        if failed:
            self.status, self.error = "failed", failed.error
            self.exit_code, self.log = failed.exit_code, failed.log

    @staticmethod
    def at_work(shard: StageView) -> bool:
        """Does it still report how far it is?"""
        return bool(shard.progress) and shard.status == "running"


class RunView:
    """Follows ``<run>/events/*.jsonl`` in a thread and draws; a context manager.

    The shards of a stage are drawn as one, their figures summed.
    """

    EVERY = 0.2
    """Seconds between looks."""

    def __init__(self, run_dir: Path, console: Console) -> None:
        self._events, self._console = run_dir / "events", console
        self._offsets: dict[str, int] = {}
        self.stages: dict[str, StageView] = {name: StageView(name=name) for name in STAGES}
        self._shards: dict[str, dict[str, StageView]] = {name: {} for name in STAGES}
        self._number: dict[str, int] = {}
        """Of shards, by stage."""
        self.decision: dict[str, Any] = {}
        self._stop = threading.Event()
        self._live: Any = None
        self._said: dict[str, float] = {}

    def __enter__(self) -> RunView:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(self.table(), console=self._console, refresh_per_second=5)
            self._live.start()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.read()
        if self._live:
            self._live.update(self.table())
            self._live.stop()

    def finish(self, succeeded: bool) -> None:
        """Settle what no event said: a stage of the flow that never ran was cached."""
        self.read()
        for view in self.flow():
            if view.status == "waiting" and succeeded:
                view.status = "cached"
            elif view.status == "running":
                view.status = "done" if self._all_done(view) else "failed"

    def flow(self) -> list[StageView]:
        """The stages of this run, as far as it is known which they are."""
        names = FLOW.get(self.decision.get("decision", "train"), STAGES)
        return [self.stages[name] for name in names]

    def failed(self) -> StageView | None:
        """The stage that failed, if one did."""
        return next((view for view in self.stages.values() if view.error), None)

    def _follow(self) -> None:
        while not self._stop.wait(self.EVERY):
            self.read()
            if self._live:
                self._live.update(self.table())

    def read(self) -> None:
        """Take in what happened since the last look."""
        order = {name: place for place, name in enumerate(STAGES)}
        found = [(order.get(path.stem.partition("-")[0]), path) for path in self._events.glob("*")]
        for _, path in sorted((place, path) for place, path in found if place is not None):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path.stem, 0))
                block = file.read()
            whole = block[: block.rfind(b"\n") + 1]
            self._offsets[path.stem] = self._offsets.get(path.stem, 0) + len(whole)
            for line in whole.splitlines():
                self._take(path.stem, json.loads(line))

    def _take(self, stem: str, event: dict[str, Any]) -> None:
        """stem: of the file of events: a stage, or a shard of it (features-2)."""
        name, kind = stem.partition("-")[0], event["event"]
        view, shards = self.stages[name], self._shards[name]
        if kind == "start":
            self._settle_before(name)
        if name == stem:
            view.take(event)
        else:
            shard = shards.setdefault(stem, StageView(name=name, log=stem))
            shard.take(event)
            if kind == "start":
                self._number[name] = int(event["shard"].partition("/")[2])
            view.gather(shards.values(), self._number[name])
        if kind == "tell":  # above the table, where it stays
            self._console.print(escape(event["text"]), soft_wrap=True)
        elif kind == "decision":
            self.decision = event
        if not self._live and (kind != "done" or view.status == "done"):
            self._say(view, kind)

    def _all_done(self, view: StageView) -> bool:
        """Of a stage in shards: is none of those that were heard of at work? Others were cached."""
        shards = self._shards[view.name].values()
        return bool(shards) and all(each.status == "done" for each in shards)

    def _settle_before(self, name: str) -> None:
        """A stage that starts shows that the ones before it are done: those unseen were cached."""
        for view in self.flow():
            if view.name == name:
                return
            if view.status == "waiting":
                view.status = "cached"
                if not self._live:
                    self._console.print(f"{view.name}: {pick('cached', '沿用缓存')}")
            elif view.status == "running" and self._all_done(view):
                view.status = "done"
                if not self._live:
                    self._say(view, "done")

    def _say(self, view: StageView, kind: str) -> None:
        """Plain lines for a log."""
        moment = time.monotonic()
        if kind == "progress":
            if moment - self._said.get(view.name, 0.0) < 10:
                return
            self._said[view.name] = moment
            text = escape(doing(view, note=False))
            self._console.print(f"{view.name}: {text}", soft_wrap=True)
        elif kind == "start":
            self._said[view.name] = moment
        elif kind in ("note", "done"):  # an error is said once, at the end of the run
            text = view.note if kind == "note" else outcome(view)
            self._console.print(f"{view.name}: {escape(text)}", soft_wrap=True)

    def table(self) -> Table:
        """One row per stage: a mark, its name, its time, and what it does or found."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for head in ("", pick("stage", "阶段"), pick("time", "用时"), ""):
            table.add_column(head, justify="right" if head == pick("time", "用时") else "left")
        marks = {
            "waiting": "[dim]·",
            "running": "[yellow]▶",
            "done": "[green]✓",
            "cached": "[cyan]↺",
            "failed": "[red]✗",
        }
        for view in self.flow():
            seconds = time.time() - view.started if view.status == "running" else view.seconds
            shown = clock(seconds) if seconds >= 60 else f"{seconds:.1f} s"
            busy = view.status in ("running", "done", "failed")
            text = doing(view) if view.status == "running" else outcome(view)
            table.add_row(marks[view.status], view.name, shown if busy else "", escape(text))
        return table


def doing(view: StageView, *, note: bool = True) -> str:
    """What a running stage is at."""
    if not view.progress:
        return view.note
    at = view.progress
    share = at["done"] / max(1, at["total"])
    bar = "━" * round(20 * share) + "╌" * (20 - round(20 * share))
    left = clock((at["total"] - at["done"]) / at["rate"]) if at["rate"] else "?"
    text = f"{bar} {at['label']} {at['done']:,}/{at['total']:,}  {pick('left', '剩余')} {left}"
    return f"{text}  {view.note}" if view.note and note else text


def outcome(view: StageView) -> str:
    """What a stage that is over found."""
    if view.status == "cached":
        return pick("cached", "沿用缓存")
    return view.error or describe_counts(view.counts)
