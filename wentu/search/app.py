"""The HTTP service: routes, and how errors become one sentence. What they do is in the engine."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import wentu
from wentu.calibration import THRESHOLD
from wentu.errors import InputError, WentuError
from wentu.search import asking, health, session
from wentu.search import query as asked
from wentu.search import schemas as s
from wentu.search.asking import COUNT, ERRORS, PREFIX, TEXT, Here, fields_of, identity
from wentu.search.current import NothingServedError
from wentu.search.engine import Engine
from wentu.search.guard import Guard, Refusal, log
from wentu.search.originals import media_type, without_place
from wentu.search.service import Service
from wentu.search.static import add_page
from wentu.search.uploads import form, invalid, read_upload, reason

CACHED = {"Cache-Control": "private, max-age=3600"}
api = APIRouter(prefix=PREFIX, responses=ERRORS)


def create_app(service: Service) -> FastAPI:
    """The application; it begins to follow the store's pointer when it is started."""
    app = FastAPI(
        title="wentu",
        version=wentu.__version__,
        description="Search your pictures by text, by picture, or by a mix of both.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # its scripts come from another host
        redoc_url=None,
        lifespan=service.running,
        exception_handlers={
            HTTPException: on_http_error,
            RequestValidationError: on_invalid,
            WentuError: on_our_error,
        },
    )
    app.state.service = service
    add_page(app)
    app.add_middleware(Guard, rules=service.rules, metrics=service.metrics)
    app.include_router(asking.router)
    app.include_router(api)
    app.include_router(session.router, responses=ERRORS)
    app.include_router(health.router)
    return app


# --- captions and labels of an uploaded picture ------------------------------------------------


@api.post("/captions", openapi_extra=form(k=COUNT))
async def captions(service: Here, request: Request) -> s.CaptionsOut:
    """Captions of the collection that fit an uploaded picture, best first."""
    with service.upload_slot(request):
        upload = await read_upload(request, ("k",))
        k = upload.field("k", s.Count, 10)
        release, hits = await service.with_picture(
            upload.picture, lambda engine, picture: engine.captions(picture, k), service.describing
        )
    return s.CaptionsOut(release=release, captions=[s.CaptionOut(**vars(hit)) for hit in hits])


@api.post("/classify", openapi_extra=form(labels=TEXT))
async def classify(service: Here, request: Request) -> s.LabelsOut:
    """Which of some labels (``a,b,c``) an uploaded picture shows, likeliest first."""
    with service.upload_slot(request):
        upload = await read_upload(request, ("labels",))
        labels = labels_of(upload.field("labels", s.Text, ""))
        release, rows = await service.with_picture(
            upload.picture,
            lambda engine, picture: engine.classify(picture, labels),
            service.describing,
        )
    out = [s.LabelOut(label=label, probability=share) for label, share in rows]
    return s.LabelsOut(release=release, labels=out)


def labels_of(text: str) -> list[str]:
    """Labels from ``a,b,c``, Chinese commas too; Refusal unless there are 2 to MOST_LABELS."""
    parts = text.replace("，", ",").replace("、", ",").split(",")
    labels = list(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not 2 <= len(labels) <= s.MOST_LABELS:
        raise Refusal(
            422,
            f"labels: give 2 to {s.MOST_LABELS} different ones as a,b,c.",
            f"labels：请给出 2 到 {s.MOST_LABELS} 个不同的标签，写作 a,b,c。",
        )
    return labels


# --- pictures ---------------------------------------------------------------------------------


@api.get("/pictures/{picture}")
def picture(service: Here, picture: str) -> s.PictureOut:
    """Paths, captions, size and dates of a picture, and the user's own id."""
    with service.current.engine() as engine:
        hit, _ = engine.picture(identity(picture))
    return s.PictureOut(**fields_of(hit), bytes=hit.bytes)


def binary(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: a route that answers with a picture."""
    schema = {"schema": {"type": "string", "format": "binary"}}
    return {200: {"content": dict.fromkeys(kinds, schema)}}


@api.get("/pictures/{picture}/thumbnail", response_class=Response, responses=binary("image/jpeg"))
def thumbnail(service: Here, picture: str) -> Response:
    """A JPEG of at most 256 pixels a side, without metadata."""
    with service.current.engine() as engine:
        number = identity(picture)
        engine.find_row(number)  # what was deleted is gone, also where its thumbnail still lies
        return Response(engine.thumbnail(number), media_type="image/jpeg", headers=CACHED)


@api.get("/pictures/{picture}/original", response_class=Response, responses=binary("image/*"))
async def original(
    service: Here,
    picture: str,
    location: Annotated[
        bool, Query(description="Hand out the file as it is, with where it was taken.")
    ] = False,
) -> Response:
    """The picture's own file, where the collection can be read; without its metadata."""

    def stored() -> tuple[str, bytes, bytes | None]:
        """Name and bytes of the file, and the bytes without the place, if there is a way."""
        with service.current.engine() as engine:
            hit, digest = engine.picture(identity(picture))
            data = service.originals(engine).read(hit.paths, digest)
        return hit.paths[0].rpartition("/")[2], data, None if location else without_place(data)

    name, data, bare = await anyio.to_thread.run_sync(stored)
    kind, _ = media_type(data)
    if not location:
        if bare is None:
            bare, kind, name = await service.as_jpeg(data), "image/jpeg", f"{name}.jpg"
        data = bare
    shown = f"inline; filename*=UTF-8''{quote(name.encode('utf-8', 'replace'), safe='')}"
    return Response(data, media_type=kind, headers=CACHED | {"Content-Disposition": shown})


@api.get("/release")
def release(service: Here) -> s.ReleaseOut:
    """What is searched."""
    with service.current.engine() as engine:
        return described(service, engine)


def described(service: Service, engine: Engine) -> s.ReleaseOut:
    """A release in figures; nothing of where things lie on this machine."""
    state, release = service.current.state(), engine.release
    pointer = state.pointer
    return s.ReleaseOut(
        release=release.id,
        pointer=pointer.number if pointer else 0,
        reason=pointer.reason if pointer else "",
        published=pointer.created if pointer else "",
        pinned=bool(pointer and pointer.pinned),
        pictures=engine.pictures,
        dimension=release.dimension,
        model=release.model,
        segments=[
            s.SegmentOut(digest=each.digest, tombstones=len(each.tombstones))
            for each in release.segments
        ],
        calibration=calibration_of(engine),
        index=s.IndexOut(kind=engine.index_kind, recall_at_10=release.index.get("recall_at_10")),
        metrics=dict(release.metrics),
        verified=state.verified,
        originals=service.originals(engine).there(),
        problem=state.problem,
        library=library_of(service),
    )


def library_of(service: Service) -> s.LibraryOut | None:
    """How the folder that is followed stands."""
    status = service.library() if service.library else None
    if status is None:
        return None
    return s.LibraryOut(
        state=status.state,
        indexed=status.indexed,
        waiting=status.waiting,
        damaged=status.damaged,
        problem=status.problem,
    )


def calibration_of(engine: Engine) -> s.CalibrationOut | None:
    """Its figures; None of a release of an earlier version."""
    found = engine.calibration
    if found is None:
        return None
    names = "basis", "lost", "false_accepts", "queries", "background", "gallery"
    figures = {name: getattr(found, name) for name in names}
    return s.CalibrationOut(threshold=THRESHOLD, **figures)


# --- errors -----------------------------------------------------------------------------------


def answer(error: HTTPException) -> JSONResponse:
    """A refusal as JSON."""
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def on_http_error(_: Request, error: Any) -> JSONResponse:
    """Ours as they are; those of the libraries in our words."""
    if isinstance(error, Refusal):
        return answer(error)
    words = {
        404: ("there is nothing at this address.", "此地址没有内容。"),
        405: ("this address does not know that method.", "此地址不支持该方法。"),
    }
    usual = "the body of the request cannot be read.", "无法读取请求内容。"
    return answer(Refusal(error.status_code, *words.get(error.status_code, usual), error.headers))


async def on_invalid(_: Request, error: Any) -> JSONResponse:
    """The first thing that is wrong with parameters or body."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return answer(Refusal(400, "the body is no valid JSON.", "请求内容不是合法的 JSON。"))
    name = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return answer(invalid(name[:60], *reason(first)))


async def on_our_error(request: Request, error: Any) -> JSONResponse:
    """A sentence for its sender, or a few words where it is about what is behind the service."""
    if isinstance(error, NothingServedError):
        return JSONResponse({"error": str(error)}, 503, {"Retry-After": "5"})
    if isinstance(error, InputError):
        statuses = {asked.NotHereError: 404, asked.OtherModelError: 409}
        return JSONResponse({"error": str(error)}, statuses.get(type(error), 422))
    log.error("%s: %s", request.url.path, error)
    return answer(
        Refusal(
            503,
            "the store does not answer as it should; the log of the service says more.",
            "仓库未能正常响应；详情见服务日志。",
        )
    )
