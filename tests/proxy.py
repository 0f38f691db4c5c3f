"""An HTTP proxy before a server that misbehaves on purpose, as networks and busy servers do."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Fault = Callable[[int, str, str], str]
"""(number of the request, method, path) -> one of: "", unavailable, cut, slow, corrupt, drop."""

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>busy</Message></Error>"


class FaultyProxy:
    """Forwards to ``target`` but for what ``fault`` says; counts what it did.

    unavailable: 503 without asking the server. cut: half of the answer's body, then the connection
    is closed. slow: the answer comes after a while. corrupt: one byte of the body is another one.
    drop: the server does what it was asked, and its answer is lost.
    """

    def __init__(self, target: str, fault: Fault) -> None:
        self.target, self.fault = urlsplit(target), fault
        self.numbers = itertools.count(1)
        self.done: dict[str, int] = {}
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def handle_one(self) -> None:
                proxy.forward(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def forward(self, request: Any) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        if request.headers.get("Expect", "").lower() == "100-continue":
            request.send_response_only(100)
            request.end_headers()
        body = request.rfile.read(length) if length else b""
        kind = self.fault(next(self.numbers), request.command, request.path)
        self.done[kind] = self.done.get(kind, 0) + 1
        if kind == "unavailable":
            answer(request, 503, [("Content-Type", "application/xml")], SLOW_DOWN)
            return
        server = http.client.HTTPConnection(
            self.target.hostname or "", self.target.port, timeout=60
        )
        try:
            server.putrequest(
                request.command, request.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers.items():
                if name.lower() not in ("connection", "expect"):
                    server.putheader(name, value)
            server.endheaders(body)
            found = server.getresponse()
            data = found.read()
        finally:
            server.close()
        headers = [
            (name, value)
            for name, value in found.getheaders()
            if name.lower() not in ("connection", "transfer-encoding", "content-length")
        ]
        said = found.headers.get("Content-Length") if request.command == "HEAD" else None
        if kind == "slow":
            time.sleep(1.0)
        if kind == "corrupt" and data and found.status < 300:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if kind == "drop":
            request.close_connection = True
            request.connection.close()
            return
        cut = kind == "cut" and len(data) > 1
        answer(request, found.status, headers, data, said=said, cut=cut)


def answer(
    request: Any,
    status: int,
    headers: list[tuple[str, str]],
    data: bytes,
    *,
    said: str | None = None,
    cut: bool = False,
) -> None:
    request.send_response_only(status)
    for name, value in headers:
        request.send_header(name, value)
    if status != 204:
        request.send_header("Content-Length", said or str(len(data)))
    request.end_headers()
    if request.command == "HEAD":
        return
    request.wfile.write(data[: len(data) // 2] if cut else data)
    if cut:
        request.wfile.flush()
        request.close_connection = True
        request.connection.close()
