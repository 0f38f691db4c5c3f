"""A TCP proxy that adds a delay each way, as a distant server has it: ``-m benchmarks.delay``.

Every piece is handed on so many seconds after it came, while others follow: it slows nothing else
down. It runs in a process of its own, so that it shares no interpreter with what is measured.
"""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit


class Delayed:
    """The proxy in a process of its own; ``url`` is where it listens."""

    def __init__(self, target: str, seconds: float) -> None:
        words = [sys.executable, "-m", "benchmarks.delay", target, str(seconds)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.url = self._process.stdout.readline().strip()

    def __enter__(self) -> Delayed:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def relay(source: socket.socket, target: socket.socket, seconds: float) -> None:
    """Hand on what comes, each piece ``seconds`` after it came."""
    pieces: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def deliver() -> None:
        while True:
            due, piece = pieces.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if not piece:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(piece)
            except OSError:
                return

    threading.Thread(target=deliver, daemon=True).start()
    piece = b"-"
    while piece:
        try:
            piece = source.recv(1 << 16)
        except OSError:
            piece = b""
        pieces.put((time.monotonic() + seconds, piece))


def main() -> None:
    """Listen on any port, print where, and forward for ever."""
    target, seconds = urlsplit(sys.argv[1]), float(sys.argv[2]) / 2
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        print(f"http://127.0.0.1:{server.getsockname()[1]}", flush=True)
        while True:
            near, _ = server.accept()
            far = socket.create_connection((target.hostname or "", target.port or 80))
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pair in ((near, far), (far, near)):
                threading.Thread(target=relay, args=(*pair, seconds), daemon=True).start()


if __name__ == "__main__":
    main()
