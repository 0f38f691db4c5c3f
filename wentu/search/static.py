"""The page that people search with: a few files of ours, and nothing of the collection.

So they need no token. The files lie below an address with their common digest, ``page/<digest>/``,
and may be kept for ever: modules name each other relatively and so can never be of two versions.
Only the page itself, ``/``, is asked for anew each time. All addresses in it are relative: it works
below whatever path a proxy shows it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from wentu.search.guard import Refusal

FOLDER = Path(__file__).with_name("page")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
}
"""blob: is a picture that is searched with, shown small beside the words. The microphone is for
speech that the browser turns into text by itself."""
FOR_EVER = "public, max-age=31536000, immutable"
router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, kw_only=True)
class Page:
    """The files of the page."""

    digest: str
    """Of all of them together."""
    files: dict[str, bytes]
    """Content by name, but for the page itself."""
    index: bytes
    """The page itself, which names the others below ``page/<digest>/``."""


@cache
def page() -> Page:
    """The page as it was installed."""
    files = {
        path.name: path.read_bytes()
        for path in sorted(FOLDER.iterdir())
        if path.suffix in TYPES and path.is_file()
    }
    together = hashlib.sha256(b"".join(name.encode() + data for name, data in files.items()))
    digest = together.hexdigest()[:16]
    index = files.pop("index.html").replace(b"{digest}", digest.encode())
    return Page(digest=digest, files=files, index=index)


@router.api_route("/", methods=["GET", "HEAD"])
async def index(request: Request) -> Response:
    """The page itself."""
    tag = f'"{page().digest}"'
    headers = HEADERS | {"ETag": tag, "Cache-Control": "no-cache"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(page().index, media_type=TYPES[".html"], headers=headers)


@router.api_route("/page/{digest}/{name}", methods=["GET", "HEAD"])
async def file(digest: str, name: str) -> Response:
    """A file of the page; that of another version is not here."""
    data = page().files.get(name)
    if data is None or digest != page().digest:
        raise Refusal(404, "there is nothing at this address.", "此地址没有内容。")
    kind = TYPES[Path(name).suffix]
    return Response(data, media_type=kind, headers=HEADERS | {"Cache-Control": FOR_EVER})


class TrailingSlash:
    """Sends ``/search`` to ``/search/`` where a proxy shows the service there: the addresses in the
    page are relative. By a relative address too, since only the proxy knows its own name."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "")
        if scope["type"] == "http" and root and scope["path"] == root:
            to = f"{root.rpartition('/')[2]}/"
            await Response(status_code=308, headers={"Location": to})(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def add_page(app: FastAPI) -> None:
    """Let an application serve the page."""
    app.add_middleware(TrailingSlash)
    app.include_router(router)
