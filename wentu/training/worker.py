"""One of several training processes on this machine: ``python -m wentu.training.worker JOB``."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from wentu.errors import WentuError
from wentu.formats import write_json
from wentu.progress import open_reporter
from wentu.tracking import Tracker, attach
from wentu.training.job import FAILURE, Job, rank


def main(path: Path, tracked: str = "") -> int:
    """Take part in the job described in ``path``; the exit status."""
    job = Job.read(path)
    threading.Thread(target=_die_with, args=(job.work / "alive",), daemon=True).start()
    try:
        job.train(open_reporter("finetune"), attach(tracked) if rank() == 0 else Tracker())
    except WentuError as error:
        if not (job.work / FAILURE).exists():  # the first that fails says why
            failure = {"text": str(error), "exit_code": error.exit_code}
            write_json(job.work / FAILURE, failure)
        return error.exit_code
    return 0


def _die_with(alive: Path) -> None:
    """End when the process that launched us does, however it went."""
    import fcntl

    with alive.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    os._exit(137)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:3]))
