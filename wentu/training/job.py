"""One training as a thing that any process can take part in, described by a few words.

``Job.train`` is what a process does, alone or as one of several; ``launch`` starts several of them
on this machine. Where torchrun has started us (a cluster, several machines), every process calls
``Job.train`` and nothing is launched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wentu.ann.turns import cores
from wentu.errors import InputError, StageError, StoppedError, WentuError
from wentu.formats import CATALOG, facts, read_json, read_manifest, write_json
from wentu.progress import Reporter
from wentu.tracking import Tracker
from wentu.training.config import Config
from wentu.training.devices import explained, pick_device, processes
from wentu.training.parallel import Group

if TYPE_CHECKING:
    from wentu.clip.checkpoint import Checkpoint

FAILURE = "failure.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train, on what, how, and where its state is kept."""

    lmdb: Path
    """Output of pack_lmdb."""
    model: str
    """A name or a checkpoint to start from."""
    work: Path
    config: Config

    def write(self, path: Path) -> None:
        """For ``read``, in another process."""
        where = {"lmdb": str(self.lmdb), "model": self.model, "work": str(self.work)}
        write_json(path, where | {"config": self.config.text()})

    @classmethod
    def read(cls, path: Path) -> Job:
        """What ``write`` wrote."""
        value = read_json(path)
        return cls(
            lmdb=Path(value["lmdb"]),
            model=value["model"],
            work=Path(value["work"]),
            config=Config.parse(value["config"]),
        )

    def start(self) -> Checkpoint:
        """The starting weights, with their input prepared as it is going to be trained."""
        from wentu.clip import checkpoint

        known = facts(self.lmdb / CATALOG)
        return prepared(
            checkpoint.start(self.model, seed=self.config.seed),
            context_length=int(known.get("context_length", 0)),
            resize=self.config.resize,
            convert=known.get("convert", "none"),
        )

    def train(self, report: Reporter, tracker: Tracker) -> None:
        """This process's part of the training, to its end; the result is in the work folder."""
        from wentu.training.data import PairBatches
        from wentu.training.learner import Learner
        from wentu.training.loop import Trainer
        from wentu.training.validation import Validation

        config = self.config
        device = pick_device(config.device, config.plugin, int(os.environ.get("LOCAL_RANK", "0")))
        start = self.start()
        refuse_no_numbers(start, self.model)
        student = self._fed(start)
        teacher = self._fed(self._teacher()) if config.teacher else None
        group = Group.join(device, config.dist_backend)
        fed = [each.processor for each in (student, teacher) if each]
        batches = PairBatches.of(self.lmdb / "train", config, fed, group)
        counts = read_manifest(self.lmdb).counts
        valid = Validation(self.lmdb / "valid", group) if counts.get("valid_pairs") else None
        scratch = start.state is None
        with closing(batches), explained():
            learner = Learner(
                student, config, device=device, group=group, scratch=scratch, teacher=teacher
            )
            trainer = Trainer(
                learner,
                batches,
                valid,
                self.work,
                start=start.state,
                architecture=start.architecture,
                report=report if group.first else Reporter(),
                tracker=tracker if group.first else Tracker(),
            )
            del start  # a copy of all weights, unless the trainer keeps it
            trainer.run()
        if valid:
            valid.close()
        group.leave()

    def _fed(self, start: Checkpoint) -> Any:
        from wentu.training.feed import Fed

        processor = start.processor()
        if facts(self.lmdb / CATALOG).get("convert", "none") != "none":
            # Done by pairs; twice is not the same: 檔案 -> 文件 -> 文档.
            processor = replace(processor, convert="none")
        return Fed(model=start.model(), processor=processor, dimension=start.architecture.embed_dim)

    def _teacher(self) -> Checkpoint:
        from wentu.clip import checkpoint

        found = checkpoint.start(self.config.teacher)
        if found.state is None:
            raise InputError(
                f"--teacher {self.config.teacher}: it has no weights to learn from.",
                f"--teacher {self.config.teacher}：没有可供学习的权重。",
            )
        return found


def refuse_no_numbers(start: Checkpoint, name: str) -> None:
    """Weights of a training that diverged are nothing to start from."""
    for key, tensor in (start.state or {}).items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(
                f"--model {name}: its weights hold NaN or infinity ({key}); start from others.",
                f"--model {name}：其权重含有 NaN 或无穷大({key})；请换用其他权重。",
            )


def prepared(start: Checkpoint, *, context_length: int, resize: str, convert: str) -> Checkpoint:
    """The start with its input prepared as it is going to be trained (see Checkpoint.info)."""
    own, name = start.architecture.context_length, start.architecture.name
    if start.architecture.family == "openclip" and context_length not in (0, own):
        raise InputError(
            f"--context-length {context_length}: {name} takes {own} tokens only.",
            f"--context-length {context_length}：{name} 只接受 {own} 个词元。",
        )
    longest = start.architecture.config.get("text_max_position_embeddings", own)
    if context_length > longest:
        raise InputError(
            f"--context-length {context_length}: {name} has {longest} positions.",
            f"--context-length {context_length}：{name} 只有 {longest} 个位置。",
        )
    processor = start.processor()
    tuned = {
        "context_length": context_length or processor.context_length,
        "resize": processor.preprocessing.resize if resize == "auto" else resize,
        "convert": convert if convert != "none" else processor.convert,
    }
    return replace(start, info={**start.info, **tuned})


# --- several processes ------------------------------------------------------------------------


def rank() -> int:
    """Which process of a training this is, where torchrun has started it; else 0."""
    return int(os.environ.get("RANK", "0"))


def launch(job: Job, report: Reporter, tracker: Tracker) -> None:
    """Train in this process, or in as many as the job wants and the machine has devices."""
    config = job.config
    number = config.nproc or processes(config.device, config.plugin)
    if number == 1 or "WORLD_SIZE" in os.environ:
        job.train(report, tracker)
        return
    job.write(job.work / "job.json")
    (job.work / FAILURE).unlink(missing_ok=True)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words += [f"--nproc-per-node={number}", "-m", "wentu.training.worker"]
    words += [str(job.work / "job.json"), tracker.id]
    env = {"OMP_NUM_THREADS": str(max(1, cores() // number))} | os.environ
    with _held(job.work), subprocess.Popen(words, env=env) as process, _handed_on(process) as asked:
        status = process.wait()
    if status:
        raise _failure(job, status, stopped=bool(asked))


@contextmanager
def _held(work: Path) -> Iterator[None]:
    """Hold the lock whose release tells the workers that this process is gone (see worker.py)."""
    import fcntl

    with (work / "alive").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _handed_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """SIGTERM is meant for the workers: they save, and end. Tells each that came."""
    asked: list[int] = []

    def hand_on(number: int, _frame: object) -> None:
        asked.append(number)
        process.terminate()

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _failure(job: Job, status: int, *, stopped: bool) -> WentuError:
    """What a worker said before it ended, or what can be said of it.

    Args:
        stopped: this training was asked to end. Else a worker that says so was told to by torchrun,
            for a fellow of it had died.
    """
    told = read_json(job.work / FAILURE) if (job.work / FAILURE).exists() else {}
    code = told.get("exit_code")
    if code and code != StoppedError.exit_code:
        error = WentuError(told["text"])
        error.exit_code = code
        return error
    if stopped and code:
        return StoppedError(told["text"])
    if stopped:  # before a worker had begun to listen
        return StoppedError(
            "stopped on request; what was saved is there: the same command goes on.",
            "已按要求停止；已保存的状态仍在，再次运行同一命令即可继续。",
        )
    return StageError(
        f"a training process ended without a word (status {status}): killed, perhaps for want of "
        "memory (try a smaller --chunk), or its device is gone. What was saved is there: the same "
        "command goes on.",
        f"某个训练进程异常结束(状态 {status})：可能因内存不足被终止(可减小 --chunk)，或设备失效。"
        "已保存的状态仍在，再次运行同一命令即可继续。",
    )
