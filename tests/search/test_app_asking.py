"""What the search routes take and answer beside the pictures themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.search.serving import pictures_of, served, until
from wentu import ann
from wentu.calibration import Limit, evidence, from_plain
from wentu.search.engine import Engine
from wentu.search.paging import end_of
from wentu.search.query import Query
from wentu.store import Release, Store

TEXT = "一个小红色圆形，位于白色画面的上边"


@pytest.fixture(scope="module")
def client(built: Any) -> Iterator[httpx.Client]:
    with served(built.store) as opened:
        yield opened


def publish(store: str, **changed: Any) -> Release:
    """The current release with other fields, made current."""
    vault = Store(store)
    current = vault.current()
    assert current
    release = replace(current[1], **changed)
    vault.write_release(release)
    vault.publish(release.id, after=current[0].number, reason="refresh")
    return release


def limited(store: str, limit: float) -> dict[str, Any]:
    """The calibration of the current release with another limit."""
    current = Store(store).current()
    assert current
    found = from_plain(current[1].calibration)
    assert found
    return replace(found, limits=(Limit(units=0, query=limit, picture=limit),)).plain()


def test_every_way_to_ask_takes_the_same_filters(built: Any, client: httpx.Client) -> None:
    flat = {"name": "*1?.png", "min_side": 100, "captioned": True, "k": 5, "all": True}
    body = {"filters": {k: flat[k] for k in ("name", "min_side", "captioned")}, "k": 5, "all": True}
    one = client.post("/api/v1/search", json={"text": TEXT, **body}).json()
    two = client.get("/api/v1/search", params={"q": TEXT, **flat}).json()
    assert one == two
    assert one["total"] == 10
    assert {len(hit["paths"][0]) for hit in one["hits"]} == {len("pictures/0010.png")}
    data = {name: str(value) for name, value in flat.items()}
    files = {"picture": pictures_of(built)[11].read_bytes()}
    form = client.post("/api/v1/search/picture", data=data, files=files).json()
    assert form["hits"][0]["paths"] == ["pictures/0011.png"]
    assert (form["total"], form["threshold"]) == (10, None)
    first = one["hits"][0]["id"]
    like = client.get(f"/api/v1/pictures/{first}/similar", params=flat).json()
    assert first not in [hit["id"] for hit in like["hits"]]
    assert len(like["hits"]) == 5


def test_the_next_page_is_asked_for_with_what_came(client: httpx.Client) -> None:
    whole = client.post("/api/v1/search", json={"text": TEXT, "k": 24, "all": True}).json()
    assert whole["after"] is None
    shown: list[str] = []
    body: dict[str, Any] = {"text": TEXT, "k": 7, "all": True}
    while body.get("after", "") is not None:
        answer = client.post("/api/v1/search", json=body).json()
        assert answer["offset"] == len(shown)
        shown += [hit["id"] for hit in answer["hits"]]
        body["after"] = answer["after"]
    assert shown == [hit["id"] for hit in whole["hits"]]


def test_a_page_of_another_model_is_a_conflict(client: httpx.Client) -> None:
    place = end_of("0" * 32, 1, np.array([0.5], np.float32), np.array([7], np.int64), None, True)
    answer = client.get("/api/v1/search", params={"q": TEXT, "after": place.text()})
    assert answer.status_code == 409
    assert answer.json() == {"error": "the model changed meanwhile; search again."}
    answer = client.get("/api/v1/search", params={"q": TEXT, "after": "AAAA"})
    assert answer.status_code == 422


def test_what_was_understood_is_told(client: httpx.Client) -> None:
    body = {"text": "紅色圓形 －藍色", "negative": ["狗"]}
    answer = client.post("/api/v1/search", json=body).json()
    assert answer["understood"] == {"text": "红色圆形", "negative": ["狗", "蓝色"]}
    raw = client.post("/api/v1/search", json=body | {"raw": True}).json()
    assert raw["understood"] == {"text": "紅色圓形 －藍色", "negative": ["狗"]}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"filters": {"taken_from": "24"}}, "filters.taken_from: "),
        ({"filters": {"min_side": -1}}, "filters.min_side: "),
        ({"filters": {"size": 1}}, "filters.size: "),
        ({"after": "x" * 2000}, "after: "),
        ({"folder": "2024"}, "folder: "),
    ],
    ids=str,
)
def test_what_no_filter_is_is_a_sentence(
    client: httpx.Client, fields: dict[str, Any], sentence: str
) -> None:
    answer = client.post("/api/v1/search", json={"text": TEXT} | fields)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(sentence)


def test_nothing_found_is_an_answer(store: str) -> None:
    publish(store, calibration=limited(store, 1e6))
    with served(store) as client:
        answer = client.post("/api/v1/search", json={"text": TEXT, "k": 9}).json()
        assert (answer["hits"], answer["withheld"], answer["after"]) == ([], 9, None)
        assert answer["threshold"] == 0.5
        shown = client.post("/api/v1/search", json={"text": TEXT, "k": 9, "all": True}).json()
        assert (len(shown["hits"]), shown["withheld"]) == (9, 0)
        assert shown["after"]
        assert all(hit["confidence"] <= 0.5 for hit in shown["hits"])
        further = {"text": TEXT, "k": 9, "after": shown["after"]}
        more = client.post("/api/v1/search", json=further | {"all": True}).json()
        assert all(hit["confidence"] <= 0.5 for hit in more["hits"])
        assert client.post("/api/v1/search", json=further).json()["hits"] == []
        first = shown["hits"][0]["id"]
        body = {"text": TEXT, "id": first, "k": 9}
        mixed = client.post("/api/v1/search", json=body).json()
        assert (mixed["threshold"], len(mixed["hits"])) == (None, 9)
        told = client.get("/api/v1/release").json()["calibration"]
        assert told["basis"] == "background"
        assert told["gallery"] == 24
    publish(store, calibration=limited(store, -1e6))
    with served(store) as client:
        answer = client.post("/api/v1/search", json={"text": TEXT, "k": 9}).json()
        assert (len(answer["hits"]), answer["withheld"]) == (9, 0)
        assert all(hit["confidence"] >= 0.5 for hit in answer["hits"])


def test_whether_a_text_is_answered_does_not_depend_on_the_size_of_the_page(
    store: str,
) -> None:
    """Asked so that the best fit of the five nearest, and of no two, reaches the limit."""
    with closing(Engine.open(store)) as engine:
        assert engine.calibration
        assert engine._known
        queries = [Query(text=text) for text in engine.example_captions("train", 100)]
        vectors = np.stack([engine.vector(query)[0] for query in queries])
        _, ids = ann.search(engine._parts, vectors, 5)
        fits, familiar = evidence(
            vectors, np.stack([engine._vectors(row) for row in ids]), engine._known.vectors
        )
        scores = engine.calibration.score(fits, familiar)
        late = int(np.argmax(scores.max(axis=1) - scores[:, :2].max(axis=1)))
        limit = float(scores[late].max() + scores[late, :2].max()) / 2
    assert scores[late, :2].max() < limit < scores[late].max()
    publish(store, calibration=limited(store, limit))
    with served(store) as client:
        for k in (1, 2, 9):
            body = {"text": queries[late].text, "k": k, "fold": False, "all": True, "raw": True}
            answer = client.post("/api/v1/search", json=body).json()
            assert answer["after"]
            body |= {"after": answer["after"], "k": 9, "all": False}
            fit = client.post("/api/v1/search", json=body).json()["hits"]
            assert len(fit) == (scores[late, k:] >= limit).sum()


def test_a_release_of_an_earlier_version_withholds_nothing(store: str) -> None:
    """Neither the fields of its JSON nor the files are there; its id is what it was."""
    vault = Store(store)
    current = vault.current()
    assert current
    release = replace(current[1], calibration={}, index={})
    files = {k: v for k, v in release.files.items() if not k.startswith("calibrations/")}
    release = replace(release, files=files)
    value = asdict(release) | {"id": release.id, "created": "2026-01-01T00:00:00Z"}
    for name in ("calibration", "index"):
        del value[name]
    path = Path(store) / f"releases/{release.id}.json"
    path.write_text(json.dumps(value), "utf-8")
    assert vault.release(release.id) == release
    vault.publish(release.id, after=current[0].number, reason="refresh")
    with served(store) as client:
        until(lambda: client.get("/readyz").json()["release"] == release.id)
        answer = client.post("/api/v1/search", json={"text": TEXT, "k": 24}).json()
        assert (len(answer["hits"]), answer["threshold"]) == (24, None)
        assert {hit["confidence"] for hit in answer["hits"]} == {None}
        told = client.get("/api/v1/release").json()
        assert told["calibration"] is None
        assert told["index"] == {"kind": "Flat", "recall_at_10": None}


def test_folders_are_told(client: httpx.Client) -> None:
    answer = client.get("/api/v1/folders").json()
    assert answer["folders"] == [{"folder": "pictures", "pictures": 24}]
