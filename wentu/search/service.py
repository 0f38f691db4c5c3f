"""What the routes share: the release that is served, limits, and counters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

from wentu import pictures
from wentu.search.current import Current
from wentu.search.engine import Engine
from wentu.search.guard import Refusal, Rules
from wentu.search.metrics import Metrics
from wentu.search.originals import Originals

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 64_000_000
"""Of an uploaded picture: those of telephones have 12 to 50 million; 4 bytes each, twice."""
DECODERS = 2
"""Uploads that are decoded and embedded at once."""
MOST_UPLOADS = 16
"""Uploads that are read or wait at once; each may take ``Rules.most_bytes`` of memory."""
THREADS = 16
"""Everything else that is answered at once."""

Result = TypeVar("Result")


class LibraryStatus(Protocol):
    """What is told of a folder that is followed (see wentu/library/status.py)."""

    @property
    def state(self) -> str: ...
    @property
    def indexed(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def damaged(self) -> int: ...
    @property
    def problem(self) -> str: ...


@dataclass(kw_only=True)
class Service:
    """See the top of this file."""

    current: Current
    rules: Rules = field(default_factory=Rules)
    collection: str = ""
    """Where the pictures lie; empty: where they lay when the release was made."""
    most_pixels: int = MOST_PIXELS
    library: Callable[[], LibraryStatus | None] | None = None
    """How the folder that is followed stands; None: no folder is followed."""
    metrics: Metrics = field(default_factory=Metrics)
    uploading: int = 0

    @asynccontextmanager
    async def running(self, _: object) -> AsyncIterator[None]:
        """The lifespan of the application."""
        self.decoders = anyio.CapacityLimiter(DECODERS)
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        self.current.start()
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(self.current.close)

    def originals(self, engine: Engine) -> Originals:
        """The files of the collection that a release was made of."""
        return Originals(self.collection or str(engine.release.parameters.get("pictures", "")))

    @contextmanager
    def upload_slot(self) -> Iterator[None]:
        """Room for one upload; Refusal where there is none."""
        if self.uploading >= MOST_UPLOADS:
            raise Refusal(
                503,
                "too many pictures are being uploaded; try again in a moment.",
                "上传的图片过多；请稍后再试。",
                {"Retry-After": "1"},
            )
        self.uploading += 1
        try:
            yield
        finally:
            self.uploading -= 1

    async def with_picture(
        self, data: bytes, work: Callable[[Engine, Image], Result]
    ) -> tuple[str, Result]:
        """(release, what ``work`` makes of the decoded picture), in one of the few threads that
        decode; PictureError where it is none."""

        def do() -> tuple[str, Result]:
            with self.current.engine() as engine:
                picture = pictures.decode(data, max_pixels=self.most_pixels)
                return engine.release.id, work(engine, picture)

        return await anyio.to_thread.run_sync(do, limiter=self.decoders)


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    found: Service = request.app.state.service
    return found
