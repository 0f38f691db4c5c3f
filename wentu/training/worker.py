"""One of several training processes, as torchrun starts them.

``python -m wentu.training.worker JOB`` takes part on this machine (see job.launch);
``python -m wentu.training.worker --store PLACE KEY`` on any machine, with everything that it needs
from the store (see remote.py).
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from wentu.errors import WentuError
from wentu.formats import write_json
from wentu.progress import open_reporter
from wentu.tracking import Tracker, attach
from wentu.training import remote
from wentu.training.job import FAILURE, Job, rank

SAID = "wentu finetune: "
"""How the sentence of an error begins in the log of a machine."""


def main(path: Path, tracked: str = "") -> int:
    """Take part in the job described in ``path``; the exit status."""
    job = Job.read(path)
    threading.Thread(target=_die_with, args=(job.work / "alive",), daemon=True).start()
    try:
        _train(job, tracked)
    except WentuError as error:
        if not (job.work / FAILURE).exists():  # the first that fails says why
            failure = {"text": str(error), "exit_code": error.exit_code}
            write_json(job.work / FAILURE, failure)
        return error.exit_code
    return 0


def from_store(place: str, key: str) -> int:
    """Take part in the training ``key`` of the store; the exit status."""
    try:
        with remote.taken_over(place, key, rank()) as (job, tracked):
            _train(job, tracked)
    except WentuError as error:
        print(f"{SAID}{error}", file=sys.stderr, flush=True)
        remote.tell_failure(place, key, error)
        return error.exit_code
    return 0


def _train(job: Job, tracked: str) -> None:
    job.train(open_reporter("finetune"), attach(tracked) if rank() == 0 else Tracker())


def _die_with(alive: Path) -> None:
    """End when the process that launched us does, however it went."""
    import fcntl

    with alive.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    os._exit(137)


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(from_store(*words[1:]) if words[0] == "--store" else main(Path(words[0]), *words[1:2]))
