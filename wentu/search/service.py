"""What the routes share: the release that is served, limits, and counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from starlette.requests import Request

from wentu.search.board import READY, WAITING, Board
from wentu.search.current import Current, NothingServedError
from wentu.search.decoders import Decoders, NoDecoderError
from wentu.search.engine import Engine
from wentu.search.guard import Refusal, Rules, log
from wentu.search.metrics import Metrics, Sample, counter, gauge
from wentu.search.originals import Originals
from wentu.search.rate import one_client

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 64_000_000
"""Of an uploaded picture: those of telephones have 12 to 50 million; 4 bytes each, twice."""
DECODERS = 2
"""Uploads that are decoded and embedded at once."""
MOST_UPLOADS = 16
"""Uploads that are read or wait at once, half of them of one client; each may take
``Rules.most_bytes`` of memory."""
POSTED = 1.0
"""Seconds between what one worker tells the others of its figures."""
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
    board: Board | None = None
    """What several workers share; None: this process answers alone."""
    worker: int = 0
    """Its number."""
    uploading: Counter[str] = field(default_factory=Counter)
    """Uploads of each client."""

    @asynccontextmanager
    async def running(self, _: object) -> AsyncIterator[None]:
        """The lifespan of the application."""
        self.decoders, self.decoding = Decoders(self.most_pixels), anyio.CapacityLimiter(DECODERS)
        self.describing = anyio.CapacityLimiter(1)
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        try:
            async with anyio.create_task_group() as group:
                await self._begin(group)
                group.start_soon(self._warm)
                yield
                group.cancel_scope.cancel()
        finally:
            await anyio.to_thread.run_sync(self.current.close)
            await anyio.to_thread.run_sync(self.decoders.close)

    async def _begin(self, group: TaskGroup) -> None:
        """Follow the pointer. Once one of several workers could answer, the others, and those who
        take their places, let connections wait until they can; the board says how it stands."""
        if self.board is None:
            self.current.start()
            return
        self.board.succeed(self.worker)
        wait = self.board.ever_ready()
        self.current.start()
        if wait:
            await self._looked()
        self.board.set(self.worker, READY if self.current.state().pointer else WAITING)
        group.start_soon(self._keep_board, self.board)

    async def _looked(self) -> None:
        while not self.current.looked.is_set():
            await anyio.sleep(0.05)

    async def _warm(self) -> None:
        await self._looked()  # who waits for the first answer needs the processor
        await anyio.to_thread.run_sync(self.decoders.warm)

    async def _keep_board(self, board: Board) -> None:
        while True:
            if self.current.state().pointer:
                board.set(self.worker, READY)
            board.post(self.worker, self.figures())
            await anyio.sleep(POSTED)

    def all_figures(self) -> Iterator[Sample]:
        """What is counted and known, by all workers."""
        if self.board is None:
            return self.figures()
        self.board.post(self.worker, self.figures())
        return self.board.all()

    def figures(self) -> Iterator[Sample]:
        """What is counted and known here."""
        yield from self.metrics.samples()
        state = self.current.state()
        yield gauge("wentu_ready", "1 while a release is served.", state.pointer is not None)
        broken = "1 while what the store points at is not what is served."
        yield gauge("wentu_release_broken", broken, bool(state.pointer and state.problem))
        yield counter("wentu_swaps_total", "Releases that began to serve.", state.swaps)
        yield counter("wentu_failures_total", "Releases that could not.", state.failures)
        if not state.pointer:
            return
        release, since = state.pointer.release, "Since when it is served, in Unix time."
        yield gauge("wentu_release_info", "Which release is served.", 1, release=release)
        yield gauge("wentu_release_pointer", "Number of its pointer.", state.pointer.number)
        yield gauge("wentu_release_since_seconds", since, state.since)
        try:
            with self.current.engine() as engine:
                count, texts = engine.pictures, engine.texts
        except NothingServedError:
            return
        yield gauge("wentu_release_pictures", "Pictures that can be found.", count)
        known = "Texts whose vector was known from before (for this model)."
        yield counter("wentu_text_cache_hits_total", known, texts.hits)
        yield counter("wentu_text_cache_misses_total", "Texts embedded.", texts.misses)
        sizes = dict(texts.sizes)  # as it is now: others go on counting
        yield counter("wentu_text_calls_total", "Calls of the text model.", sum(sizes.values()))
        shared = "Texts in the largest call: those that waited for the model together."
        yield gauge("wentu_text_call_size_max", shared, max(sizes, default=0))

    def originals(self, engine: Engine) -> Originals:
        """The files of the collection that a release was made of."""
        return Originals(self.collection or str(engine.release.parameters.get("pictures", "")))

    @contextmanager
    def upload_slot(self, request: Request) -> Iterator[None]:
        """Room for one upload; Refusal where there is none."""
        client = one_client(request.client.host) if request.client else ""
        if max(self.uploading.total(), 2 * self.uploading[client]) >= MOST_UPLOADS:
            raise Refusal(
                503,
                "too many pictures are being uploaded; try again in a moment.",
                "上传的图片过多；请稍后再试。",
                {"Retry-After": "1"},
            )
        self.uploading[client] += 1
        try:
            yield
        finally:
            self.uploading -= Counter((client,))

    async def with_picture(
        self,
        data: bytes,
        work: Callable[[Engine, Image], Result],
        limiter: anyio.CapacityLimiter,
    ) -> tuple[str, Result]:
        """(release, what ``work`` makes of the picture as the model sees it); PictureError where
        it is none.

        Args:
            limiter: of how many at once: ``decoding``, or ``describing`` for what embeds many
            texts, so that it keeps no place that a search needs.
        """

        def do() -> tuple[str, Result]:
            with self.current.engine() as engine:
                picture = self.decoders.decode(data, engine.bundle.processor.preprocessing)
                return engine.release.id, work(engine, picture)

        return await self._decoding(do, limiter)

    async def as_jpeg(self, data: bytes) -> bytes:
        """Any picture as JPEG, without metadata; PictureError where it is none, or too large."""
        return await self._decoding(lambda: self.decoders.as_jpeg(data), self.decoding)

    async def _decoding(self, do: Callable[[], Result], limiter: anyio.CapacityLimiter) -> Result:
        try:
            return await anyio.to_thread.run_sync(do, limiter=limiter)
        except NoDecoderError as error:
            log.error("no decoder can be started: %s", error)
            raise Refusal(
                503,
                "no picture can be decoded at the moment; try again, or search by text.",
                "目前无法解码图片；请稍后再试，或用文字搜索。",
                {"Retry-After": "5"},
            ) from None


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    found: Service = request.app.state.service
    return found
