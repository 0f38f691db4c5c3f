"""One connection: how long it may take over what it sends and fetches, how many a client may hold.

uvicorn waits for ever for the head of a request, and for a client that does not fetch its answer;
this is its protocol with a watch. A body has its own limit in the guard.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from wentu.language import pick
from wentu.search.rate import one_client
from wentu.settings import is_loopback

LINGER = 2.0
"""Seconds that a connection is still there after a refusal."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of the connections of one process."""

    head_seconds: float = 10.0
    """Until the head of a request has to be there, and between the requests of a connection."""
    slowest: int = 4096
    """Bytes a second that a client has to fetch of an answer."""
    pause: float = 15.0
    """Seconds between looks at that."""
    each: int = 100
    """Connections of one address. This machine's own may have all: a proxy on it has."""
    most: int = 512
    """Connections altogether. Who comes above is told so; above one and a half times as many (or
    as ``each``), it is closed at once."""
    trust_proxy: bool = False
    """All connections are a proxy's, so ``each`` says nothing."""


class Watched(H11Protocol):
    """uvicorn's protocol with a watch, see the top of this file."""

    limits: Limits
    held: Counter[str]
    """Connections of each address."""
    _watch: asyncio.TimerHandle | None = None
    _fetching: asyncio.TimerHandle | None = None
    _address = ""
    _ended = False
    """Nothing more is read of what comes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = one_client(self.client[0]) if self.client else ""
        self.held[self._address] += 1
        free = self.limits.trust_proxy or bool(self.client and is_loopback(self.client[0]))
        full = max(
            len(self.connections) / self.limits.most,
            0.0 if free else self.held[self._address] / self.limits.each,
        )
        if full > 1.5:
            transport.abort()
        elif full > 1:
            self.app = too_many
        self._await_head(self.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.held[self._address] -= 1
        if self.held[self._address] <= 0:
            del self.held[self._address]
        for timer in (self._watch, self._fetching):
            if timer:
                timer.cancel()

    def on_response_complete(self) -> None:
        self._await_head(self.limits.head_seconds)
        super().on_response_complete()

    def _await_head(self, seconds: float) -> None:
        if self._watch:
            self._watch.cancel()
        self._watch = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Close, unless a request is being read or answered."""
        if self._ended or self.transport.is_closing():
            self.transport.abort()  # what is left was not fetched
        elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            seconds = self.limits.head_seconds
            self._refuse(
                408,
                f"the head of the request was not there within {seconds:g} seconds.",
                f"请求头未在 {seconds:g} 秒内到达。",
            )
        elif self.conn.their_state is h11.IDLE or (self.cycle and self.cycle.response_complete):
            self.transport.close()  # the rest of a body that was answered already is not waited for
            self._await_head(LINGER)

    def send_400_response(self, msg: str) -> None:
        self._refuse(
            400,
            "this is no HTTP request, or its head is longer than 64 kB.",
            "这不是 HTTP 请求，或请求头超过 64 kB。",
        )

    def _refuse(self, status: int, en: str, zh: str) -> None:
        """Answer, and for a moment throw away what still comes: a connection that is closed on
        it breaks, before its client reads why."""
        self._ended = True
        self._await_head(LINGER)
        with suppress(h11.LocalProtocolError):  # half of another answer is out
            self.transport.write(refusal(self.conn, status, sentence(en, zh)))
        with suppress(OSError):  # it is gone already
            self.transport.write_eof()

    def shutdown(self) -> None:
        if self._ended:
            self.transport.abort()
        else:
            super().shutdown()
            self._await_head(LINGER)  # who does not fetch the rest is not waited for

    def data_received(self, data: bytes) -> None:
        if not self._ended:
            super().data_received(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._fetch_on(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._fetching:
            self._fetching.cancel()

    def _fetch_on(self, left: int) -> None:
        self._fetching = self.loop.call_later(self.limits.pause, self._fetched, left)

    def _fetched(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if before - left < self.limits.pause * self.limits.slowest:
            self.transport.abort()
        else:
            self._fetch_on(left)


def protocol(limits: Limits) -> type[H11Protocol]:
    """A protocol for uvicorn, with its own counts."""
    return type("Limited", (Watched,), {"limits": limits, "held": Counter()})


def sentence(en: str, zh: str) -> bytes:
    """The body of a refusal."""
    return json.dumps({"error": pick(en, zh)}, ensure_ascii=False).encode()


def refusal(connection: h11.Connection, status: int, body: bytes) -> bytes:
    """An answer to what is no request yet, after which the connection ends."""
    headers = [("Content-Type", "application/json"), ("Connection", "close")]
    headers.append(("Content-Length", str(len(body))))
    reason = HTTPStatus(status).phrase.encode()
    events = (
        h11.Response(status_code=status, headers=headers, reason=reason),
        h11.Data(data=body),
        h11.EndOfMessage(),
    )
    return b"".join(connection.send(event) or b"" for event in events)


async def too_many(
    scope: dict[str, Any], receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """An application that says that there is no room."""
    body = sentence(
        "too many connections are open; close some, or try again in a moment.",
        "连接数过多；请关闭一些连接，或稍后再试。",
    )
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers += [(b"content-length", str(len(body)).encode()), (b"retry-after", b"5")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
