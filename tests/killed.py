"""A promotion in a process of its own that kills itself at its n-th moment, around a write.

A module of its own, for that process has to find it by its name.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wentu.stages.promote import promote
from wentu.storage import lease

LIFE = 1.0
"""Seconds after which a lease without a sign of life is free, here; 90 else."""
Given = dict[str, Any]


def wrap(owner: Any, name: str, store: str, around: Callable[[], None]) -> None:
    """Call ``around`` before and after each call that writes into the store."""
    plain = getattr(owner, name)

    def call(*given: Any, **named: Any) -> Any:
        mine = owner is not os or any(
            isinstance(each, str | os.PathLike) and str(each).startswith(store) for each in given
        )
        if mine:
            around()
        value = plain(*given, **named)
        if mine:
            around()
        return value

    setattr(owner, name, call)


def killed_at(moment: int, given: Given, counted: Path | None) -> None:
    """Promote, and die at that moment of all those before and after a write."""
    moments = 0

    def around() -> None:
        nonlocal moments
        moments += 1
        if moments == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    lease.LIFE = LIFE
    store = given["store"]
    if store.startswith("s3://"):
        from wentu.storage.s3 import Objects

        for name in ("put", "delete"):
            wrap(Objects, name, store, around)
    else:
        for name in ("link", "rename", "replace", "unlink", "mkdir"):
            wrap(os, name, store, around)
    promote(**given)
    if counted:
        counted.write_text(str(moments))


def child(moment: int, given: Given, counted: Path | None = None) -> int | None:
    """The exit status of a process of its own that promotes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["wentu.stages.promote", "boto3", "onnxruntime"])
    process = context.Process(target=killed_at, args=(moment, given, counted))
    process.start()
    process.join(120)
    return process.exitcode
