"""How every stage runs: cleared output, progress, log, tracking, and the manifest last.

A stage is ``Stage("pairs", out, config, inputs)`` used as a context manager. On leaving it without
an error the manifest is written; without a manifest the output counts as not there. Under
``wentu run`` a stage writes its own log and dies with the run that started it.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TypeGuard

from wentu import notices
from wentu.errors import InputError, StoppedError, WentuError, of_the_system
from wentu.formats import MANIFEST, Manifest, read_json, write_manifest
from wentu.progress import Reporter, file_stem, open_reporter
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
        shard: str = "",
    ) -> None:
        """shard: which part of the stage this is, as 2/3, where several processes share it."""
        self.name, self.out, self.config = name, out, config
        self.inputs = inputs
        self.counts: dict[str, Any] = {}
        self._before: Path | None = None
        self.progress: Reporter = Reporter()
        self.tracker: Tracker = Tracker()
        self._track, self.shard = track, shard

    def __enter__(self) -> Stage:
        self._began = time.monotonic()
        run_dir = os.environ.get("WENTU_RUN_DIR")
        if run_dir:
            join_run(Path(run_dir), file_stem(self.name, self.shard))
        self.progress = open_reporter(self.name, self.shard)
        self.progress.emit("start", pid=os.getpid(), shard=self.shard)
        self._before = set_aside(self.out, self.name)
        clear(self.out, self.name)
        try:
            if self._track:
                self.tracker = open_tracker(self.name)
                self.tracker.params(asdict(self.config))
        except BaseException:  # nobody leaves what was not entered
            self._put_back()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        seconds = time.monotonic() - self._began
        if error is not None:
            expected = isinstance(error, WentuError | KeyboardInterrupt) or is_full(error)
            if not expected or os.environ.get("WENTU_RUN_DIR"):  # a log may hold the trace
                traceback.print_exception(error)
            sentence = sentence_of(error)
            code = error.exit_code if isinstance(error, WentuError) else 1
            self._put_back()
            self.progress.emit("error", text=sentence, exit_code=code, seconds=seconds)
            self.tracker.close("FAILED")
            if not isinstance(error, KeyboardInterrupt | StoppedError):
                notices.send("failure", sentence, stage=self.name, link=self.tracker.link)
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
        if self._before:
            shutil.rmtree(self._before)
        self.progress.emit("done", counts=self.counts, seconds=time.monotonic() - self._began)

    def _put_back(self) -> None:
        """What was there before this attempt, finished, is there again."""
        if self._before:
            shutil.rmtree(self.out, ignore_errors=True)
            self._before.rename(self.out)


def is_full(error: BaseException) -> TypeGuard[OSError]:
    """Is it the disk that is full?"""
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def sentence_of(error: BaseException) -> str:
    """What a run shows of an error."""
    if is_full(error):
        return of_the_system(error)
    return str(error) if isinstance(error, WentuError) else f"{type(error).__name__}: {error}"


MARK = ".wentu"
"""Names the stage that began to write into a folder."""


def clear(out: Path, stage: str) -> None:
    """Make ``out`` an empty folder for ``stage``; only output of that same stage is removed."""
    if out.is_file():
        raise InputError(f"{out} is a file; name a folder.", f"{out} 是文件，请给出目录。")
    if out.is_dir() and any(out.iterdir()):
        if (out / MANIFEST).exists():
            refuse_others(out, stage)
        elif not (out / MARK).exists() or (out / MARK).read_text("utf-8") not in ("", stage):
            raise InputError(
                f"{out} holds files that this stage did not write; name a new or empty folder.",
                f"{out} 中有不是本阶段写入的文件，请使用新目录或空目录。",
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text(stage, "utf-8")


def set_aside(out: Path, stage: str) -> Path | None:
    """Move a finished output of ``stage`` away until its successor is finished too.

    Where an attempt was killed, what it had moved away is found again by its name.
    """
    aside = out.with_name(f".{out.name}.before-{stage}")
    if not (out / MANIFEST).exists():
        return aside if aside.exists() else None
    refuse_others(out, stage)
    if aside.exists():
        shutil.rmtree(aside)
    out.rename(aside)
    return aside


def refuse_others(out: Path, stage: str) -> None:
    """A finished output of another stage is not replaced; of this one, by any version, it is."""
    value = read_json(out / MANIFEST)
    wrote = value.get("stage") if isinstance(value, dict) else None
    if wrote != stage:
        raise InputError(
            f"{out} was written by the stage {wrote}; name a new or empty folder.",
            f"{out} 是 {wrote} 阶段的输出；请使用新目录或空目录。",
        )


def join_run(run_dir: Path, stem: str) -> None:
    """Log into the run's folder, as ``logs/<stem>.log``, and die when the run's process does.

    The run holds an exclusive lock on ``alive`` for as long as it lives; whoever else gets a lock
    knows that it is gone, however it went (SIGKILL too), and through however many shells between.
    """
    logs = run_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(logs / f"{stem}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
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
