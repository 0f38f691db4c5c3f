"""What can go wrong, as sentences a user can act on.

    WentuError                 exit status 1
    ├── InputError             2  an option, a path or a file of the user's; the sentence says which
    ├── FormatError            3  a file that crosses stages is broken or of another version
    ├── QualityError           4  a proof failed: parity of the export, recall of the index
    ├── StaleError             5  the world changed while we worked; run again
    ├── StageError             6  a stage of a run failed; the sentence names its log
    ├── ServiceError           7  an object store or a cluster refuses, or does not answer
    └── StoppedError         143  asked to end (SIGTERM); what was done is saved

A WentuError is the user's or the world's; an ``assert`` is for our own mistakes.
"""

from __future__ import annotations

import errno

from wentu.language import pick


class WentuError(Exception):
    """Base of every error that is shown as one sentence, without a trace."""

    exit_code = 1

    def __init__(self, en: str, zh: str = "") -> None:
        super().__init__(pick(en, zh or en))


class InputError(WentuError):
    """An option, a path or a file of the user's is wrong."""

    exit_code = 2


class FormatError(WentuError):
    """A file is broken, unfinished, or of a version that we do not read."""

    exit_code = 3


class QualityError(WentuError):
    """What was made is not good enough to go on with."""

    exit_code = 4


class StaleError(WentuError):
    """Somebody else changed what this work was based on."""

    exit_code = 5


class StageError(WentuError):
    """A stage of a run failed."""

    exit_code = 6


class ServiceError(WentuError):
    """An object store, a tracking server or a cluster refuses, or does not answer."""

    exit_code = 7


class StoppedError(WentuError):
    """The process was asked to end, and saved what it had done."""

    exit_code = 143


def of_the_system(error: OSError) -> str:
    """What an operating system's error says to a user; of a full disk also what to do."""
    if error.errno == errno.ENOSPC:
        where = f" ({error.filename})" if error.filename else ""
        return pick(
            f"the disk is full{where}. Make room and run the same command again: what was finished "
            "is still there.",
            f"磁盘已满{where}。请腾出空间后再次运行同一命令：已完成的部分仍在。",
        )
    return f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
