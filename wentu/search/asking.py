"""The routes that search: what is asked in a body, an address or a form -> a query -> its answer.

The fields have the same names everywhere; in the body the filters stand together, elsewhere flat.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from wentu.search import query as asked
from wentu.search import schemas as s
from wentu.search.service import Service, service_of
from wentu.search.uploads import Upload, form, read_upload

Here = Annotated[Service, Depends(service_of)]
PREFIX = "/api/v1"
STATUSES = (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503)
ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": s.ErrorOut} for status in STATUSES}
TEXT: dict[str, Any] = {"type": "string"}
FLAG: dict[str, Any] = {"type": "boolean"}
NUMBER: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 100}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": s.MOST_HITS}
OFFSET: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": asked.DEEPEST}
SIDE: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": s.LONGEST_SIDE}
FILTERS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("folder", "name", "taken_from", "taken_to", "added_from", "added_to"), TEXT),
    "captioned": FLAG,
    "min_side": SIDE,
    "max_side": SIDE,
}
PAGE = {"fold": FLAG, "all": FLAG, "k": COUNT, "offset": OFFSET, "after": TEXT}
WEIGHTS = ("text_weight", "picture_weight", "negative_weight")
FORM = {"text": TEXT, "negative": TEXT, "raw": FLAG, **dict.fromkeys(WEIGHTS, NUMBER)}
FORM |= FILTERS | PAGE
KINDS = {
    "text": s.Text,
    "raw": bool,
    **dict.fromkeys(WEIGHTS, s.Weight),
    "folder": s.Folder,
    "name": s.Name,
    **dict.fromkeys(("taken_from", "taken_to", "added_from", "added_to"), s.Day),
    "captioned": bool,
    "min_side": s.Side,
    "max_side": s.Side,
    "fold": bool,
    "all": bool,
    "k": s.Count,
    "offset": s.Offset,
    "after": s.After,
}
"""What each field of a form, which is text, has to be."""

router = APIRouter(prefix=PREFIX, responses=ERRORS)


def identity(text: str) -> int:
    """The number that an id means; NotHereError where no picture can have it."""
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63:
        raise asked.NotHereError(f"there is no picture {text[:40]}.", f"没有图片 {text[:40]}。")
    return int(text)


def fields_of(hit: asked.Hit) -> dict[str, Any]:
    """What goes out of every picture."""
    return {
        "id": str(hit.id),
        "paths": list(hit.paths),
        "captions": list(hit.captions),
        "own_id": hit.own_id,
        "width": hit.width,
        "height": hit.height,
        "taken": hit.taken,
        "added": hit.added,
    }


def page(release: str, model: str, answer: asked.Answer) -> s.SearchOut:
    """An answer as it goes out."""
    hits = [
        s.HitOut(
            **fields_of(hit),
            score=hit.score,
            confidence=hit.confidence,
            similar=[str(other) for other in hit.similar],
        )
        for hit in answer.hits
    ]
    return s.SearchOut(
        release=release,
        model=model,
        total=answer.total,
        offset=answer.offset,
        hits=hits,
        threshold=answer.threshold,
        withheld=answer.withheld,
        after=answer.after,
        understood=s.Understood(text=answer.text, negative=list(answer.negative)),
    )


def found(service: Service, query: asked.Query) -> s.SearchOut:
    """Search the current release."""
    with service.current.engine() as engine:
        return page(engine.release.id, engine.release.model, engine.find(query))


def sifted(
    folder: s.Folder = "",
    name: s.Name = "",
    taken_from: s.Day = "",
    taken_to: s.Day = "",
    added_from: s.Day = "",
    added_to: s.Day = "",
    captioned: bool | None = None,
    min_side: s.Side = 0,
    max_side: s.Side = 0,
) -> asked.Filters:
    """Filters from an address."""
    return asked.Filters(
        folder=folder,
        name=name,
        taken_from=taken_from,
        taken_to=taken_to,
        added_from=added_from,
        added_to=added_to,
        captioned=captioned,
        min_side=min_side,
        max_side=max_side,
    )


Sifted = Annotated[asked.Filters, Depends(sifted)]


def flat(
    filters: Sifted,
    fold: bool = True,
    everything: Annotated[bool, Query(alias="all")] = False,
    k: s.Count = 20,
    offset: s.Offset = 0,
    after: s.After = "",
) -> asked.Query:
    """Filters and page from an address."""
    return asked.Query(filters=filters, fold=fold, all=everything, k=k, offset=offset, after=after)


Flat = Annotated[asked.Query, Depends(flat)]


@router.post("/search")
def search(service: Here, body: s.SearchBody) -> s.SearchOut:
    """Pictures by text, by the id of a picture, or by a mix, best first."""
    query = asked.Query(
        text=body.text,
        id=identity(body.id) if body.id else None,
        negative=tuple(body.negative),
        text_weight=body.weights.text,
        id_weight=body.weights.id,
        negative_weight=body.weights.negative,
        filters=asked.Filters(**body.filters.model_dump()),
        raw=body.raw,
        fold=body.fold,
        all=body.all,
        k=body.k,
        offset=body.offset,
        after=body.after,
    )
    return found(service, query)


@router.get("/search")
def search_text(
    service: Here,
    q: Annotated[s.Text, Query(description="What to look for; 海滩 -人 excludes.")],
    given: Flat,
    negative: Annotated[list[s.Text], Query(max_length=16)] = [],  # noqa: B006
    raw: bool = False,
) -> s.SearchOut:
    """Pictures by text, best first."""
    return found(service, replace(given, text=q, negative=tuple(negative), raw=raw))


@router.post("/search/picture", openapi_extra=form(**FORM))
async def search_picture(service: Here, request: Request) -> s.SearchOut:
    """Pictures like an uploaded one, and like a text where one is given, best first."""
    with service.upload_slot(request):
        upload = await read_upload(request, tuple(FORM))
        query = query_of(upload)
        release, (model, answer) = await service.with_picture(
            upload.picture,
            lambda engine, picture: (
                engine.release.model,
                engine.find(replace(query, picture=picture)),
            ),
            service.decoding,
        )
    return page(release, model, answer)


def query_of(upload: Upload) -> asked.Query:
    """What a form asks for, still without its picture, which is decoded later."""
    given: dict[str, Any] = {
        name: upload.field(name, kind, None)
        for name, kind in KINDS.items()
        if upload.fields.get(name, [""])[-1] != ""
    }
    filters = asked.Filters(**{name: given.pop(name) for name in FILTERS if name in given})
    negative = tuple(upload.fields.get("negative", ()))
    return asked.Query(**{"k": 20} | given, filters=filters, negative=negative)


@router.get("/pictures/{picture}/similar")
def similar(service: Here, picture: str, given: Flat) -> s.SearchOut:
    """Pictures like one of the collection, best first, without itself."""
    return found(service, replace(given, id=identity(picture)))


@router.get("/browse")
def browse(
    service: Here, filters: Sifted, fold: bool = True, k: s.Count = 20, after: s.After = ""
) -> s.SearchOut:
    """All pictures that pass the filters, as good as shuffled: something to begin with."""
    query = asked.Query(filters=filters, fold=fold, k=k, after=after)
    with service.current.engine() as engine:
        return page(engine.release.id, engine.release.model, engine.browse(query))


@router.get("/folders")
def folders(service: Here) -> s.FoldersOut:
    """The collection's folders of the first two levels, with how many pictures lie below each."""
    with service.current.engine() as engine:
        rows = [s.FolderOut(folder=folder, pictures=count) for folder, count in engine.folders]
        return s.FoldersOut(release=engine.release.id, folders=rows)
