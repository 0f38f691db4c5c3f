"""Is it alive, can it answer, and how much does it answer: for probes and Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, PlainTextResponse

from wentu.search.current import NothingServedError
from wentu.search.metrics import CONTENT_TYPE
from wentu.search.service import Service, service_of

Here = Annotated[Service, Depends(service_of)]
Sample = tuple[str, str, str, Mapping[str, str], float]
router = APIRouter()


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process runs."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(service: Here) -> JSONResponse:
    """200 while a release is served, also where it is not the newest one; else 503.

    Asks for no token: so it tells neither where things lie nor what a library says of them.
    """
    state = service.current.state()
    pointer = state.pointer
    value = {
        "ready": pointer is not None,
        "release": pointer.release if pointer else None,
        "pointer": pointer.number if pointer else None,
        "verified": state.verified,
        "problem": state.problem,
    }
    return JSONResponse(value, 200 if pointer else 503)


@router.get("/metrics")
async def metrics(service: Here) -> PlainTextResponse:
    """Prometheus' text format."""
    text = service.metrics.text(samples(service))
    return PlainTextResponse(text, media_type=CONTENT_TYPE)


def samples(service: Service) -> Iterator[Sample]:
    """What is known of the release."""
    state = service.current.state()
    yield "wentu_ready", "gauge", "1 while a release is served.", {}, state.pointer is not None
    broken = "1 while what the store points at is not what is served."
    yield "wentu_release_broken", "gauge", broken, {}, bool(state.pointer and state.problem)
    yield "wentu_swaps_total", "counter", "Releases that began to serve.", {}, state.swaps
    yield "wentu_failures_total", "counter", "Releases that could not.", {}, state.failures
    if not state.pointer:
        return
    labels = {"release": state.pointer.release}
    yield "wentu_release_info", "gauge", "Which release is served.", labels, 1
    number = state.pointer.number
    yield "wentu_release_pointer", "gauge", "Number of its pointer.", {}, number
    since = "Since when it is served, in Unix time."
    yield "wentu_release_since_seconds", "gauge", since, {}, state.since
    try:
        with service.current.engine() as engine:
            pictures, texts = engine.pictures, engine.texts
    except NothingServedError:
        return
    yield "wentu_release_pictures", "gauge", "Pictures that can be found.", {}, pictures
    known = "Texts whose vector was known from before (for this model)."
    yield "wentu_text_cache_hits_total", "counter", known, {}, texts.hits
    yield "wentu_text_cache_misses_total", "counter", "Texts embedded.", {}, texts.misses
    calls = "Calls of the text model."
    sizes = dict(texts.sizes)  # as it is now: others go on counting
    yield "wentu_text_calls_total", "counter", calls, {}, sum(sizes.values())
    shared = "Texts in the largest call: those that waited for the model together."
    yield "wentu_text_call_size_max", "gauge", shared, {}, max(sizes, default=0)
