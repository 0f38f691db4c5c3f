"""Is it alive, can it answer, and how much does it answer: for probes and Prometheus."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, PlainTextResponse

from wentu.search.metrics import CONTENT_TYPE, page
from wentu.search.service import Service, service_of

Here = Annotated[Service, Depends(service_of)]
router = APIRouter()


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process runs."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(service: Here) -> JSONResponse:
    """200 while a release is served, also where it is not the newest one; else 503.

    Of several workers, while each that takes connections serves one. Asks for no token: so it tells
    neither where things lie nor what a library says of them.
    """
    state = service.current.state()
    pointer = state.pointer
    ready = pointer is not None and (service.board is None or service.board.all_ready())
    value = {
        "ready": ready,
        "release": pointer.release if pointer else None,
        "pointer": pointer.number if pointer else None,
        "verified": state.verified,
        "problem": state.problem,
    }
    return JSONResponse(value, 200 if ready else 503)


@router.get("/metrics")
async def metrics(service: Here) -> PlainTextResponse:
    """Prometheus' text format."""
    return PlainTextResponse(page(service.all_figures()), media_type=CONTENT_TYPE)
