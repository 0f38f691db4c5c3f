"""One connection: how long it may take over what it sends and fetches, how many a client may hold.

uvicorn waits for ever for the head of a request, and for a client that does not fetch its answer;
this is its protocol with a watch. A body has its own limit in the guard.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from wentu.language import pick
from wentu.search.rate import one_client

LOOPBACK = ("127.0.0.1", "::1")


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


def protocol(limits: Limits) -> type[H11Protocol]:
    """A protocol for uvicorn, with its own counts."""
    held: Counter[str] = Counter()

    class Watched(H11Protocol):
        """See the top of this file."""

        _watch: asyncio.TimerHandle | None = None
        _fetching: asyncio.TimerHandle | None = None
        _address = ""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = one_client(self.client[0]) if self.client else ""
            held[self._address] += 1
            free = limits.trust_proxy or self._address in LOOPBACK
            full = max(
                len(self.connections) / limits.most,
                0.0 if free else held[self._address] / limits.each,
            )
            if full > 1.5:
                transport.abort()
            elif full > 1:
                self.app = too_many
            self._await_head(limits.head_seconds)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            held[self._address] -= 1
            if held[self._address] <= 0:
                del held[self._address]
            for timer in (self._watch, self._fetching):
                if timer:
                    timer.cancel()

        def on_response_complete(self) -> None:
            self._await_head(limits.head_seconds)
            super().on_response_complete()

        def _await_head(self, seconds: float) -> None:
            if self._watch:
                self._watch.cancel()
            self._watch = self.loop.call_later(seconds, self._look)

        def _look(self) -> None:
            """Close, unless a request is being read or answered."""
            if self.transport.is_closing():
                self.transport.abort()  # what is left was not fetched
            elif self.conn.their_state is h11.IDLE:
                if self.conn.trailing_data[0]:
                    self.transport.write(too_slow(self.conn, limits.head_seconds))
                self.transport.close()
                self._await_head(1.0)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._fetch_on(self.transport.get_write_buffer_size())

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._fetching:
                self._fetching.cancel()

        def _fetch_on(self, left: int) -> None:
            self._fetching = self.loop.call_later(limits.pause, self._fetched, left)

        def _fetched(self, before: int) -> None:
            left = self.transport.get_write_buffer_size()
            if before - left < limits.pause * limits.slowest:
                self.transport.abort()
            else:
                self._fetch_on(left)

    return Watched


def sentence(en: str, zh: str) -> bytes:
    """The body of a refusal."""
    return json.dumps({"error": pick(en, zh)}, ensure_ascii=False).encode()


def too_slow(connection: h11.Connection, seconds: float) -> bytes:
    """The answer to the head of a request that did not come to its end."""
    body = sentence(
        f"the head of the request was not there within {seconds:g} seconds.",
        f"请求头未在 {seconds:g} 秒内到达。",
    )
    headers = [("Content-Type", "application/json"), ("Connection", "close")]
    headers.append(("Content-Length", str(len(body))))
    events = (
        h11.Response(status_code=408, headers=headers, reason=b"Request Timeout"),
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
