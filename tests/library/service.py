"""`wentu serve --library` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx


@dataclass(kw_only=True)
class Running:
    """A service that runs."""

    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client

    def said(self) -> str:
        """What it printed."""
        return self.log.read_text("utf-8")

    def library(self) -> dict[str, Any]:
        """How the library stands."""
        found: dict[str, Any] = self.client.get("/api/v1/release").json().get("library") or {}
        return found

    def found(self, picture: bytes) -> list[str]:
        """The paths of the nearest picture, if it is that one."""
        files = {"picture": picture}
        answer = self.client.post("/api/v1/search/picture?k=1", files=files)
        hits = answer.json().get("hits", [])
        return hits[0]["paths"] if hits and hits[0]["score"] > 0.9999 else []

    def kill(self) -> None:
        """At once, without a word."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def serving(root: Path, index: Path, log: Path, *more: str) -> Iterator[Running]:
    """Serve the library of a folder on a free port; killed at the end."""
    words = [sys.executable, "-m", "wentu", "serve", "--library", str(root), "--store", str(index)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*words, "--port", "0", *more],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "LANG": "C.UTF-8"},
        )
    try:
        address = until(lambda: re.search(r"^(http://\S+)  \(", log.read_text("utf-8"), re.M))
        with httpx.Client(base_url=address[1], timeout=30) as client:
            yield Running(process=process, log=log, client=client)
    finally:
        process.kill()
        process.wait()


def until(true: Any, seconds: float = 60.0) -> Any:
    """Wait for something to become so; what it is then."""
    end = time.monotonic() + seconds
    while True:
        with suppress(httpx.TransportError):
            if value := true():
                return value
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.1)
