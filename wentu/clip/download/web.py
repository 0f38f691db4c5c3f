"""Requests: redirects, what went wrong in words, trying again.

urllib is enough, and takes proxies from the environment (HTTPS_PROXY, NO_PROXY).
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import Request

from wentu import __version__
from wentu.language import pick
from wentu.progress import Reporter

Value = TypeVar("Value")

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dropped."""
ATTEMPTS = 6
"""Tries in a row that get no further than the best one before them."""
PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the second try; doubled each time."""
BLOCK = 64_000
LINKED = "X-Linked-ETag"
"""On Hugging Face's redirect to a file in LFS: its SHA-256."""
# Nothing may be compressed on the way: sizes and ranges are those of the file.
HEADERS = {"User-Agent": f"wentu/{__version__}", "Accept-Encoding": "identity"}
OUT_OF_REACH = (
    (socket.gaierror, "its name cannot be resolved", "域名无法解析"),
    (
        ssl.SSLCertVerificationError,
        "its certificate is not trusted; behind a proxy that inspects traffic, name the proxy's "
        "certificate in SSL_CERT_FILE",
        "证书不受信任；若代理会检查流量，请用 SSL_CERT_FILE 指明代理的证书",
    ),
    (ConnectionRefusedError, "the connection was refused", "连接被拒绝"),
    (TimeoutError, f"no answer within {TIMEOUT:g} s", f"{TIMEOUT:g} 秒内没有应答"),
)


class Missing(Exception):
    """The host does not have the file, or not for us."""

    def __init__(self, status: int) -> None:
        self.status = status


class Lost(Exception):
    """No answer, half an answer, or none that is of use: why.

    ``final``: trying again at once is pointless; ``pause``: seconds that the host asks us to wait.
    """

    def __init__(self, en: str, zh: str, *, final: bool = False, pause: float = 0.0) -> None:
        super().__init__(pick(en, zh))
        self.final, self.pause = final, pause


@contextlib.contextmanager
def losses() -> Iterator[None]:
    """What breaks on the way becomes Lost, in words."""
    try:
        yield
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        for kind, en, zh in OUT_OF_REACH:
            if isinstance(reason, kind):
                raise Lost(en, zh, final=True) from None
        what = str(reason)[:200] or type(reason).__name__
        raise Lost(f"the connection broke ({what})", f"连接中断({what})") from None


class _Redirects(urllib.request.HTTPRedirectHandler, urllib.request.HTTPDefaultErrorHandler):
    """Follows redirects, without the token to elsewhere; hands on every other answer as it is."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        if req.get_method() == "HEAD" and LINKED in headers:
            return None
        new = Request(newurl, headers=req.headers, method=req.get_method())
        new.remove_header("Proxy-authorization")  # comes again where there is a proxy again
        if urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            new.remove_header("Authorization")
        return new

    def http_error_default(self, req: Request, fp: Any, *args: Any) -> Any:
        return fp


def send(method: str, url: str, headers: dict[str, str]) -> HTTPResponse:
    """The answer at the end of the redirects; to HEAD, the first one with ``LINKED``."""
    request = Request(url, method=method, headers=HEADERS | headers)
    with losses():
        answer: HTTPResponse = urllib.request.build_opener(_Redirects).open(request, None, TIMEOUT)
    return answer


def check(answer: HTTPResponse, *, missing: bool = False) -> None:
    """Refuse what is no file: Missing if ``missing`` is meant to be told apart, else Lost."""
    status, kind = answer.status, answer.headers["Content-Type"] or ""
    if status in (200, 206):
        if "html" in kind.lower():
            raise Lost(
                "it answers with a web page instead of the file: a login page of the network?",
                "返回的是网页而不是文件：是否为网络的登录页？",
                final=True,
            )
        return
    if missing and status in (401, 403, 404, 410):
        raise Missing(status)
    wait = min(number(answer.headers["Retry-After"]) or 0, LONGEST_PAUSE)
    # 403 is what a signed address says once it has expired; the next try gets a new one.
    final = status < 500 and status not in (403, 408, 425, 429)
    raise Lost(f"it answers HTTP {status}", f"返回 HTTP {status}", final=final, pause=wait)


def number(header: str | None) -> int | None:
    """The number that a header states, if it does."""
    return int(header) if header and re.fullmatch("[0-9]{1,18}", header) else None


def read(answer: HTTPResponse) -> bytes:
    """The next block of the body; empty at its end."""
    with losses():
        return answer.read(BLOCK)


def insist(
    attempt: Callable[[], Value], report: Reporter, reached: Callable[[], int] = lambda: 0
) -> Value:
    """``attempt()``, again after every Lost, while it gets further or ATTEMPTS are left.

    What is ``final`` is tried again only if something has been reached: then the network was there.
    """
    start = best = reached()
    failures = 0
    while True:
        try:
            return attempt()
        except Lost as lost:
            now = reached()
            best, failures = (now, 1) if now > best else (best, failures + 1)
            if failures == ATTEMPTS or (lost.final and best == start):
                raise
            pause = max(lost.pause, min(PAUSE * 2 ** (failures - 1), LONGEST_PAUSE))
            again = pick(f"{lost}; again in {pause:.0f} s", f"{lost}；{pause:.0f} 秒后重试")
            report.note(f"{again} ({failures}/{ATTEMPTS - 1})")
            time.sleep(pause)
