"""What stands before every answer: who may ask, how much, and how refusals read.

An ASGI middleware of our own, since order matters: the language first, so that refusals are in it;
then the host's name, how much the client asks, the token, the size and the pace of the body. Health
needs neither name nor token; the page, which holds nothing of the collection, no token.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from wentu.language import Language, pick, speaking
from wentu.search import session
from wentu.search.metrics import Metrics
from wentu.search.rate import Rate

OPEN = ("/healthz", "/readyz", "/metrics")
"""Paths that need no token and no name: they say nothing of pictures or queries."""
PAGE = "/page/"
"""Below it, and at the root, lie the files of the page."""
UPLOADS = ("/search/picture", "/captions", "/classify")
"""Ends of the paths that take pictures; what is sent elsewhere is JSON, and kept in memory."""
MOST_JSON = 1_000_000
"""Bytes of a body that is no picture."""
GONE = 499
"""What is counted of a client that left while it sent; nginx's number, for there is no other."""
LITTLE = 1 / 20
"""What a thumbnail or a file of the page counts, beside a query."""
SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
DRAIN_SECONDS, DRAIN_TIMES = 5.0, 4
"""How long, and how many times what is allowed, a body that is refused is still read and thrown
away: else its sender would see a connection that breaks, not why."""

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]
log = logging.getLogger("wentu.serve")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is let through."""

    token: str = ""
    """Callers show it as ``Authorization: Bearer …``; empty: nobody needs to."""
    hosts: tuple[str, ...] = ()
    """Names that this service may be called by, without the port; empty: any."""
    most_bytes: int = 20_000_000
    """Of a picture that is sent."""
    body_seconds: float = 60.0
    """Until a body has to be there."""
    root_path: str = ""
    """The path below which a proxy shows this service; it may leave it in what it hands on."""
    rate: Rate | None = None
    """How much a client may ask; None: as much as it likes."""
    trust_proxy: bool = False
    """Believe what a proxy says of the client (X-Forwarded-For, -Proto, -Host), its last word."""


class Refusal(HTTPException):
    """An answer in the 400s or 500s with one sentence of ours."""

    def __init__(
        self, status: int, en: str, zh: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, pick(en, zh), headers)


class Guard:
    """See the top of this file."""

    def __init__(self, app: App, rules: Rules, metrics: Metrics) -> None:
        self.app, self.rules, self.metrics = app, rules, metrics

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # there are no websockets: closed
        headers = Headers(raw=scope["headers"])
        if self.rules.root_path:
            scope["root_path"] = self.rules.root_path
        if self.rules.trust_proxy:
            believe(scope, headers)
        upload = scope["path"].endswith(UPLOADS)
        most = self.rules.most_bytes if upload else min(MOST_JSON, self.rules.most_bytes)
        body, began = Body(receive, most, self.rules.body_seconds), time.perf_counter()
        answering = Answering(send, body)
        self.metrics.in_flight += 1
        try:
            with speaking(asked_language(headers.get("accept-language", ""))):
                await self._answer(scope, headers, body, answering)
        finally:
            self.metrics.in_flight -= 1
            took = time.perf_counter() - began
            known = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.count(known, method, answering.status, took)

    async def _answer(
        self, scope: dict[str, Any], headers: Headers, body: Body, send: Answering
    ) -> None:
        try:
            self._admit(scope, headers, body.most)
            await self.app(scope, body, send)
        except Refusal as error:
            await refuse(error, scope, body, send)
        except ClientDisconnect:
            send.status = GONE
        except Exception:
            if send.status:  # half of an answer is out; the server closes the connection
                raise
            log.exception("%s %s", scope["method"], getattr(scope.get("route"), "path", "?"))
            en = "something went wrong here; the log of the service says what."
            fault = Refusal(500, en, "服务内部出错；详情见服务日志。")
            await refuse(fault, scope, body, send)

    def _admit(self, scope: dict[str, Any], headers: Headers, most: int) -> None:
        """Raise Refusal unless this caller may ask this; ``most``: bytes of the body."""
        rules = self.rules
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in OPEN:  # probes come by the address of a machine
            return
        if rules.hosts and host_of(headers.get("host", "")) not in rules.hosts:
            raise Refusal(
                400,
                "this service is not called that; use one of its names, or start it with "
                "--allow-host NAME.",
                "Host 不是本服务的名称；请使用正确的地址，或以 --allow-host NAME 启动。",
            )
        page = path in ("", "/") or path.startswith(PAGE)
        if rules.rate and scope.get("client"):
            little = page or path.endswith("/thumbnail")
            seconds = rules.rate.wait(scope["client"][0], LITTLE if little else 1.0)
            if seconds:
                raise too_often(seconds)
        if not page:
            self._know(scope["method"], headers)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length[:20]) > most:
            raise too_large(most)

    def _know(self, method: str, headers: Headers) -> None:
        """Raise Refusal unless the token is shown, or a cookie that stands for it; and where a page
        of another site asks by what the browser has."""
        token, cookie = self.rules.token, False
        if token:
            if session.shown(headers, token):
                return  # no page of another site has it
            cookie = session.holds(token, headers.get("cookie", ""), time.time())
            if not cookie:
                raise Refusal(
                    401,
                    "a token is needed: send it as Authorization: Bearer TOKEN.",
                    "需要令牌：请以 Authorization: Bearer TOKEN 发送。",
                    {"WWW-Authenticate": "Bearer"},
                )
        own = session.own_page(headers, self.rules.trust_proxy)
        if method not in SAFE and (own is False or (cookie and not own)):
            raise Refusal(
                403,
                "this was asked by a page of another site; show the token itself "
                "(Authorization: Bearer TOKEN), or use the page of this service.",
                "请求来自其他网站的页面；请直接出示令牌(Authorization: Bearer TOKEN)，"
                "或使用本服务自己的页面。",
            )


def believe(scope: dict[str, Any], headers: Headers) -> None:
    """Write into the scope what the proxy says of the client: its last word, not the client's."""
    address, scheme = (
        session.last(headers, "x-forwarded-for"),
        session.last(headers, "x-forwarded-proto"),
    )
    if address:
        scope["client"] = (host_of(address) or address, 0)
    if scheme in ("http", "https"):
        scope["scheme"] = scheme


METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH")


class Body:
    """``receive`` that counts: what callers say of the length of a body is not relied on."""

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        """most: bytes. seconds: until all of it has to be there."""
        self.most = most
        self._receive, self._seconds = receive, seconds
        self._bytes, self._ended = 0, False
        self._until = time.monotonic() + seconds

    async def __call__(self) -> Message:
        if self._ended:  # what is awaited now is the caller's leaving
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                message = await self._take()
        except TimeoutError:
            raise Refusal(
                408,
                f"the body was not there within {self._seconds:g} seconds.",
                f"请求内容未在 {self._seconds:g} 秒内到达。",
            ) from None
        if self._bytes > self.most:
            raise too_large(self.most)
        return message

    async def _take(self) -> Message:
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Throw away what is still to come, for a while: before a refusal is sent."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self._ended and self._bytes < DRAIN_TIMES * self.most:
                    await self._take()
        except TimeoutError:
            pass


class Answering:
    """``send`` with our headers on every answer; remembers its status."""

    def __init__(self, send: Send, body: Body) -> None:
        self._send, self._body, self.status = send, body, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.status >= 400:
                await self._body.drain()
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *(each for each in HEADERS if each[0] not in present),
            ]
            if b"cache-control" not in present:
                message["headers"].append((b"cache-control", b"no-store"))
        await self._send(message)


async def refuse(error: HTTPException, scope: Any, receive: Any, send: Any) -> None:
    """Answer with the sentence of a refusal."""
    answer = JSONResponse({"error": error.detail}, error.status_code, error.headers)
    await answer(scope, receive, send)


def too_large(most: int) -> Refusal:
    """A body that nobody wants."""
    return Refusal(
        413,
        f"the body is larger than the {most / 1e6:g} MB allowed.",
        f"请求内容超过允许的 {most / 1e6:g} MB。",
    )


def too_often(seconds: int) -> Refusal:
    """More than a client may ask."""
    return Refusal(
        429,
        f"you ask more often than is allowed here; try again in {seconds} s.",
        f"请求过于频繁；请在 {seconds} 秒后重试。",
        {"Retry-After": str(seconds)},
    )


def host_of(header: str) -> str:
    """The name in a Host header, lower case, without port and brackets."""
    found = re.fullmatch(r"\[([0-9a-fA-F:.]+)\](:\d+)?|([^:\[\]]+)(:\d+)?", header.strip())
    return (found[1] or found[3]).lower().rstrip(".") if found else ""


def asked_language(header: str) -> Language | None:
    """Chinese or English, whichever an Accept-Language header likes more; None: neither."""
    best: tuple[float, Language] | None = None
    for part in header[:200].split(","):
        tag, _, weight = part.partition(";q=")
        short = tag.strip().lower()[:2]
        try:
            value = float(weight) if weight else 1.0
        except ValueError:
            continue
        if short in ("zh", "en") and value > 0 and (best is None or value > best[0]):
            best = value, "zh" if short == "zh" else "en"
    return best[1] if best else None
