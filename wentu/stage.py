"""How every stage runs: cleared output, progress, log, tracking, and the manifest last.

A stage is ``Stage("pairs", out, config, inputs)`` used as a context manager. On leaving it without
an error the manifest is written; without a manifest the output counts as not there. Under
``wentu run`` a stage writes its own log and dies with the run that started it.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from wentu.errors import InputError, WentuError
from wentu.formats import MANIFEST, Manifest, write_manifest
from wentu.progress import EventFile, Lines, Reporter
from wentu.settings import StageConfig, code_version
from wentu.tracking import Tracker, open_tracker


class Stage:
    """One execution of a stage; ``counts`` and ``inputs`` go into its manifest."""

    def __init__(
        self,
        name: str,
        out: Path,
        config: StageConfig,
        inputs: dict[str, str],
        *,
        track: bool = True,
    ) -> None:
        self.name, self.out, self.config = name, out, config
        self.inputs = inputs
        self.counts: dict[str, Any] = {}
        self.report: Reporter = Reporter()
        self.tracker: Tracker = Tracker()
        self._track = track

    def __enter__(self) -> Stage:
        self._began = time.monotonic()
        run_dir = os.environ.get("WENTU_RUN_DIR")
        if run_dir:
            join_run(Path(run_dir), self.name)
            self.report = EventFile(Path(run_dir) / "events" / f"{self.name}.jsonl")
        else:
            self.report = Lines(self.name)
        self.report.emit("start", pid=os.getpid())
        clear(self.out)
        if self._track:
            self.tracker = open_tracker(self.name)
            self.tracker.params(asdict(self.config))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        seconds = time.monotonic() - self._began
        if error is not None:
            if not isinstance(error, WentuError) or os.environ.get("WENTU_RUN_DIR"):
                traceback.print_exception(error)
            sentence = (
                str(error)
                if isinstance(error, WentuError)
                else f"{kind.__name__ if kind else ''}: {error}"
            )
            code = error.exit_code if isinstance(error, WentuError) else 1
            self.report.emit("error", text=sentence, exit_code=code, seconds=seconds)
            self.tracker.close("FAILED")
            return
        manifest = Manifest(
            stage=self.name,
            config=asdict(self.config),
            inputs=self.inputs,
            counts=self.counts,
            code_version=code_version(),
            seconds=round(seconds, 3),
        )
        self.tracker.metrics({k: v for k, v in self.counts.items() if isinstance(v, (int, float))})
        self.tracker.close("FINISHED")
        write_manifest(self.out, manifest)
        self.report.emit("done", counts=self.counts, seconds=time.monotonic() - self._began)


def clear(out: Path) -> None:
    """Make ``out`` an empty folder; only half-written output of ours is ever removed."""
    if out.is_file():
        raise InputError(f"{out} is a file; name a folder.", f"{out} 是文件，请给出目录。")
    if out.is_dir() and any(out.iterdir()):
        finished = (out / MANIFEST).exists()
        if not finished and not (out / ".wentu").exists():
            raise InputError(
                f"{out} holds files that are not ours; name a new or empty folder.",
                f"{out} 中有不属于 wentu 的文件，请使用新目录或空目录。",
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / ".wentu").touch()


def join_run(run_dir: Path, stage: str) -> None:
    """Log into the run's folder, and die when the run's process does.

    The run holds an exclusive lock on ``alive`` for as long as it lives; whoever else gets a lock
    knows that it is gone, however it went (SIGKILL too), and through however many shells between.
    """
    logs = run_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(logs / f"{stage}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush(), sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    threading.Thread(target=_die_with, args=(run_dir / "alive",), daemon=True).start()


def _die_with(alive: Path) -> None:
    import fcntl

    with alive.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    os._exit(137)
