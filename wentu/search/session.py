"""Who asks: by the token, by a cookie that stands for it, or from a page, and of which site.

The cookie is there because an <img> sends no Authorization.

Unusual here: nothing is kept. The cookie is the time until which it counts and a keyed digest of
that time, with the token as the key; so every worker knows it, a restart forgets nobody, and
another token ends all sessions. Its name holds a few digits of such a digest: two services on one
machine, which share their cookies whatever their ports, do not overwrite each other's.
"""

from __future__ import annotations

import hmac
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from starlette.requests import cookie_parser

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from wentu.search.guard import Rules

DAYS = 30
"""That a session lasts."""
router = APIRouter(prefix="/api/v1")


def keyed(token: str, what: str) -> str:
    """Hexadecimal HMAC-SHA-256 of a text, by the token."""
    return hmac.digest(token.encode(), f"wentu session {what}".encode(), "sha256").hex()


def name(token: str) -> str:
    """Of the cookie."""
    return f"wentu_{keyed(token, 'name')[:8]}"


def made(token: str, now: float) -> str:
    """The value of a new cookie; ``now`` is Unix time."""
    until = str(int(now) + DAYS * 86_400)
    return f"{until}.{keyed(token, until)}"


def holds(token: str, cookies: str, now: float) -> bool:
    """Is there a cookie of this token, which still counts, in a Cookie header?"""
    value = cookie_parser(cookies).get(name(token), "")
    until, _, digest = value.partition(".")
    right = hmac.compare_digest(digest.encode(), keyed(token, until).encode())
    return right and until.isascii() and until.isdigit() and now < int(until)


@router.post("/session", status_code=204)
def begin(request: Request) -> Response:
    """Get a cookie that stands for the token: for pages, whose pictures cannot show one."""
    rules: Rules = request.app.state.service.rules
    answer = Response(status_code=204)
    if rules.token:
        value = made(rules.token, time.time())
        answer.set_cookie(max_age=DAYS * 86_400, value=value, **settings(request, rules))
    return answer


@router.delete("/session", status_code=204)
def end(request: Request) -> Response:
    """Forget the cookie."""
    rules: Rules = request.app.state.service.rules
    answer = Response(status_code=204)
    if rules.token:
        answer.delete_cookie(**settings(request, rules))
    return answer


def settings(request: Request, rules: Rules) -> dict[str, Any]:
    """What a cookie is bound to: no script reads it, and no other site's page has it sent."""
    return {
        "key": name(rules.token),
        "path": quote(rules.root_path) or "/",
        "secure": request.url.scheme == "https",
        "httponly": True,
        "samesite": "strict",
    }


# --- who asks ---------------------------------------------------------------------------------


def shown(headers: Headers, token: str) -> bool:
    """Is this the token? Takes as long for a wrong one."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode("latin-1"), token.encode())
    return right and kind.lower() == "bearer"


def own_page(headers: Headers, trust_proxy: bool) -> bool | None:
    """Does the browser say that a page of this service asks? None: it is no browser's request.

    Sec-Fetch-Site (Fetch Metadata, section 2.1) knows it; over plain HTTP browsers send Origin
    alone (RFC 6454, section 7), which is compared with the name that was called.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in ("same-origin", "none")
    if origin is None:
        return None
    called = [headers.get("host", "")]
    if trust_proxy:
        called.append(last(headers, "x-forwarded-host"))
    return origin.lower().partition("://")[2] in {each.lower() for each in called if each}


def last(headers: Headers, name: str) -> str:
    """The last of the values of a header, which may be given several times."""
    return ",".join(headers.getlist(name)).rpartition(",")[2].strip()
