"""How far the follower of a library is, in a file of its store: any process may read it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from wentu.errors import WentuError
from wentu.formats import read_json, write_json
from wentu.language import pick
from wentu.store import Store

STATUS = "library/status.json"


@dataclass(frozen=True, kw_only=True)
class Status:
    """See the top of this file."""

    state: str
    """indexing, following, away (the folder is out of reach), failing, or stopped."""
    indexed: int
    """Pictures that can be found."""
    waiting: int
    """Files that were found and not read yet."""
    damaged: int
    """Files that are no readable pictures."""
    pid: int
    """The process that follows."""

    @property
    def problem(self) -> str:
        """A sentence for whoever may search, which tells nothing of this machine; empty where all
        is well. What exactly is wrong, and where, the terminal says."""
        return {
            "away": pick(
                "the folder of the pictures is absent or empty; what was indexed stays searchable.",
                "图片目录不存在或为空；已建立的索引仍可搜索。",
            ),
            "failing": pick(
                "new pictures cannot be indexed; the log of the service says why.",
                "无法为新图片建立索引；原因见服务日志。",
            ),
            "stopped": pick(
                "the folder is not followed now; the log of the service says why.",
                "目前未跟踪图片目录；原因见服务日志。",
            ),
        }.get(self.state, "")


def write_status(store: Store, status: Status) -> None:
    """Say how it stands."""
    write_json(store.storage.home / STATUS, asdict(status))


def read_status(store: Store) -> Status | None:
    """How it stands; None where nobody ever followed."""
    try:
        status = Status(**read_json(store.storage.home / STATUS))
    except (WentuError, TypeError):
        return None
    return status if lives(status.pid) else replace(status, state="stopped")


def lives(pid: int) -> bool:
    """Is there such a process, and not merely what is left of one that nobody waited for?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2]
    except OSError:  # another system than Linux, or it ended just now
        return not Path("/proc/self/stat").exists()
    return not state.startswith(b"Z")
