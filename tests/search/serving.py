"""A real server on a free port, in this process, for the tests of the service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from wentu.commands.serve import GRACE, bound
from wentu.search.app import create_app
from wentu.search.connections import Limits, protocol
from wentu.search.current import Current
from wentu.search.guard import LOOPBACK_NAMES, Rules
from wentu.search.service import Service
from wentu.store import Store

POLL = 0.05


@contextmanager
def served(
    store: str, *, ready: bool = True, port: int = 0, **given: Any
) -> Iterator[httpx.Client]:
    """A client of a service of ``store``; ``given`` are fields of Rules, Limits and Service."""
    rules = {name: given.pop(name) for name in Rules.__dataclass_fields__ if name in given}
    limits = {name: given.pop(name) for name in Limits.__dataclass_fields__ if name in given}
    service = Service(
        current=Current(Store(store), poll=POLL),
        rules=Rules(**{"hosts": LOOPBACK_NAMES, **rules}),
        **given,
    )
    config = uvicorn.Config(
        create_app(service),
        http=protocol(Limits(**limits)),
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        ws="none",
    )
    server, listening = uvicorn.Server(config), bound("127.0.0.1", port)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    port = listening.getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            until(lambda: server.started)
            if ready:
                until(lambda: client.get("/readyz").json()["verified"])
            yield client
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listening.close()
    assert not thread.is_alive()


def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for something to become so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.02)


def pictures_of(built: Any) -> list[Path]:
    """The files of the collection, by name."""
    return sorted((built.collection / "pictures").iterdir())
