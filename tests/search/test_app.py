"""The HTTP service: right answers to every kind of query, over a real socket."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.search.serving import pictures_of, served
from wentu.search.engine import Engine
from wentu.search.schemas import DEEPEST
from wentu.store import Store

TEXT = "左上角的红色圆形,大号,白色底"


@pytest.fixture(scope="module")
def client(built: Any) -> Iterator[httpx.Client]:
    with served(built.store) as opened:
        yield opened


@pytest.fixture(scope="module")
def engine(built: Any) -> Iterator[Engine]:
    opened = Engine.open(built.store)
    yield opened
    opened.close()


def search(client: httpx.Client, **body: Any) -> dict[str, Any]:
    """The answer to a query, with what lies below the threshold."""
    answer = client.post("/api/v1/search", json={"all": True, "fold": False} | body)
    assert answer.status_code == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


def hits(engine: Engine, vector: Any) -> list[tuple[str, float]]:
    """(id, score) of every picture, best first, by NumPy alone."""
    segment = engine._segments[0]
    scores = segment.vectors @ np.asarray(vector)
    order = np.lexsort((segment.ids, -scores))
    return [(str(segment.ids[i]), float(scores[i])) for i in order]


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


def assert_same(answer: dict[str, Any], expected: list[tuple[str, float]]) -> None:
    got = [(hit["id"], hit["score"]) for hit in answer["hits"]]
    assert [score for _, score in got] == pytest.approx([s for _, s in expected], abs=1e-5)
    assert {i for i, _ in got} == {i for i, _ in expected}


# --- text, picture, id, mixes -----------------------------------------------------------------


def test_a_text_finds_what_the_engine_finds(client: httpx.Client, engine: Engine) -> None:
    expected = engine.search(TEXT, k=5)
    for answer in (
        search(client, text=TEXT, k=5),
        client.get("/api/v1/search", params={"q": TEXT, "k": 5, "all": True}).json(),
    ):
        assert answer["release"] == engine.release.id
        assert (answer["total"], answer["offset"]) == (24, 0)
        assert [hit["id"] for hit in answer["hits"]] == [str(hit.id) for hit in expected]
        for hit, other in zip(answer["hits"], expected, strict=True):
            assert hit["score"] == pytest.approx(other.score, abs=1e-6)
            assert hit["paths"] == list(other.paths)
            assert hit["captions"] == list(other.captions)


def test_a_picture_finds_itself_first(built: Any, client: httpx.Client) -> None:
    for path in pictures_of(built)[:3]:
        form = client.post("/api/v1/search/picture", files={"picture": path.read_bytes()})
        body = client.post(
            "/api/v1/search/picture?k=1",
            content=path.read_bytes(),
            headers={"Content-Type": "image/png"},
        )
        for answer in (form, body):
            assert answer.status_code == 200, answer.text
            assert answer.json()["hits"][0]["paths"] == [f"pictures/{path.name}"]
        assert (len(form.json()["hits"]), len(body.json()["hits"])) == (20, 1)


def test_a_mix_is_the_weighted_sum_of_its_parts(
    built: Any, client: httpx.Client, engine: Engine
) -> None:
    path = pictures_of(built)[3]
    text, image = engine.query_vector(TEXT, None)[0], engine.query_vector(None, path.read_bytes())
    away = np.mean([engine.query_vector(t, None)[0] for t in ("蓝色", "月牙")], axis=0)
    data = {"text": TEXT, "text_weight": "2", "picture_weight": "0.5", "negative": ["蓝色", "月牙"]}
    with path.open("rb") as file:
        answer = client.post(
            "/api/v1/search/picture", data=data | {"k": "24"}, files={"picture": file}
        )
    expected = hits(engine, unit(2 * text + 0.5 * image[0] - 0.5 * away))
    assert_same(answer.json(), expected)
    identity = expected[5][0]
    own = engine._segments[0].vectors[engine.find_row(int(identity))[1]]
    mixed = search(
        client,
        text=TEXT,
        id=identity,
        negative=["蓝色", "月牙"],
        weights={"text": 1, "id": 3, "negative": 2},
        k=50,
    )
    others = [h for h in hits(engine, unit(text + 3 * own - 2 * away)) if h[0] != identity]
    assert_same(mixed, others)


def test_more_like_a_picture_is_without_itself(client: httpx.Client, engine: Engine) -> None:
    first = search(client, text=TEXT, k=1)["hits"][0]["id"]
    own = engine._segments[0].vectors[engine.find_row(int(first))[1]]
    expected = [hit for hit in hits(engine, own) if hit[0] != first]
    answer = client.get(f"/api/v1/pictures/{first}/similar", params={"k": 6}).json()
    assert_same(answer, expected[:6])


def test_pages_follow_each_other_without_overlap(client: httpx.Client) -> None:
    whole = [hit["id"] for hit in search(client, text="红色", k=24)["hits"]]
    pages = [search(client, text="红色", k=7, offset=start)["hits"] for start in (0, 7, 14, 21, 28)]
    assert [hit["id"] for page in pages for hit in page] == whole
    assert [len(page) for page in pages] == [7, 7, 7, 3, 0]
    similar = f"/api/v1/pictures/{whole[0]}/similar"
    parts = [client.get(similar, params={"k": 8, "offset": o}).json()["hits"] for o in (0, 8, 16)]
    assert sorted(hit["id"] for part in parts for hit in part) == sorted(whole[1:])


def test_a_folder_holds_what_lies_below_it(collection: Path, store: str, refresh: Any) -> None:
    for number in range(5):
        (collection / "海边/夏 天").mkdir(parents=True, exist_ok=True)
        path = collection / f"pictures/{number:04d}.png"
        path.rename(collection / "海边/夏 天" / path.name)
    (collection / "海边2").mkdir()
    (collection / "pictures/0005.png").rename(collection / "海边2/0005.png")
    (collection / "pictures/0006.png").unlink()
    refresh(collection, store, pointer=1, captions="none")
    with served(store) as client:
        for folder, count in (("海边", 5), ("/海边/夏 天/", 5), ("海边2", 1), ("pictures", 17)):
            answer = search(client, text="红色", filters={"folder": folder}, k=30)
            assert answer["total"] == len(answer["hits"]) == count
            assert all(
                hit["paths"][0].startswith(folder.strip("/") + "/") for hit in answer["hits"]
            )
            everything = search(client, text="红色", k=30)["hits"]
            inside = [hit["id"] for hit in answer["hits"]]
            assert [hit["id"] for hit in everything if hit["id"] in inside] == inside
        for folder in ("海", "pictures/0007.png", "..", "%"):
            assert search(client, text="红色", filters={"folder": folder})["hits"] == []


# --- captions, labels, pictures ---------------------------------------------------------------


def test_captions_and_labels_of_a_picture(built: Any, client: httpx.Client, engine: Engine) -> None:
    path = pictures_of(built)[0]
    files = {"picture": path.read_bytes()}
    answer = client.post("/api/v1/captions", files=files, data={"k": "4"}).json()
    expected = engine.captions(path.read_bytes(), k=4)
    assert [row["text"] for row in answer["captions"]] == [hit.text for hit in expected]
    assert [row["path"] for row in answer["captions"]] == [hit.path for hit in expected]
    answer = client.post("/api/v1/classify", files=files, data={"labels": "红色，蓝色、绿色"})
    rows = answer.json()["labels"]
    assert {row["label"] for row in rows} == {"红色", "蓝色", "绿色"}
    assert sum(row["probability"] for row in rows) == pytest.approx(1)
    assert [(row["label"], row["probability"]) for row in rows] == [
        (label, pytest.approx(share, abs=1e-6))
        for label, share in engine.classify(path.read_bytes(), ["红色", "蓝色", "绿色"])
    ]


def test_a_picture_its_thumbnail_and_its_file(built: Any, client: httpx.Client) -> None:
    hit = search(client, text=TEXT, k=1)["hits"][0]
    here = f"/api/v1/pictures/{hit['id']}"
    known = client.get(here).json()
    shared = {name: hit[name] for name in known if name != "bytes"}
    assert known == shared | {"bytes": (built.collection / hit["paths"][0]).stat().st_size}
    assert (known["width"], known["height"]) == (128, 128)
    assert known.keys() >= {"id", "paths", "captions", "own_id", "taken", "added"}
    small = client.get(f"{here}/thumbnail")
    assert small.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(small.content)) as image:
        assert image.size == (128, 128)
    file = (built.collection / hit["paths"][0]).read_bytes()
    whole = client.get(f"{here}/original")
    assert whole.headers["content-type"] == "image/png"
    assert Path(hit["paths"][0]).name in whole.headers["content-disposition"]
    assert client.get(f"{here}/original?location=true").content == file


def test_originals_are_those_that_were_indexed(built: Any, tmp_path: Path) -> None:
    """Not an edited file, not one beside, and none where there is no collection."""
    (tmp_path / "pictures").mkdir()
    for path in pictures_of(built)[:2]:
        (tmp_path / "pictures" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pictures" / pictures_of(built)[1].name).write_bytes(b"another one")
    with served(built.store, collection=str(tmp_path)) as client:
        every = search(client, text="红色", k=24)["hits"]
        by_name = {Path(hit["paths"][0]).name: hit["id"] for hit in every}
        names = [path.name for path in pictures_of(built)[:3]]
        codes = [
            client.get(f"/api/v1/pictures/{by_name[name]}/original").status_code for name in names
        ]
        assert codes == [200, 404, 404]
        assert client.get("/api/v1/release").json()["originals"] is True
    with served(built.store, collection=str(tmp_path / "nothing")) as client:
        answer = client.get(f"/api/v1/pictures/{by_name[names[0]]}/original")
        assert (answer.status_code, answer.json()["error"]) == (
            404,
            "the collection cannot be read from here; start with --collection DIR.",
        )
        assert client.get("/api/v1/release").json()["originals"] is False


def test_a_deleted_picture_is_gone_everywhere(
    built: Any, collection: Path, store: str, refresh: Any
) -> None:
    with served(store) as client:
        gone = client.post(
            "/api/v1/search/picture", files={"picture": pictures_of(built)[3].read_bytes()}
        ).json()["hits"][0]
        assert gone["paths"] == ["pictures/0003.png"]
    (collection / "pictures/0003.png").unlink()
    refresh(collection, store, pointer=1)
    with served(store) as client:
        kept = search(client, text="红色", k=1)["hits"][0]["id"]
        (Path(store) / Store.thumbnail_key(int(kept))).unlink()
        missing = client.get(f"/api/v1/pictures/{kept}/thumbnail")
        assert missing.status_code == 404
        assert missing.json() == {"error": f"picture {kept} has no thumbnail."}
        for rest in ("", "/thumbnail", "/original", "/similar"):
            assert client.get(f"/api/v1/pictures/{gone['id']}{rest}").status_code == 404
        assert client.post("/api/v1/search", json={"id": gone["id"]}).status_code == 404


# --- about itself -----------------------------------------------------------------------------


def test_the_release_is_described(built: Any, client: httpx.Client, engine: Engine) -> None:
    value = client.get("/api/v1/release").json()
    assert value["release"] == engine.release.id
    assert (value["pictures"], value["dimension"]) == (24, engine.release.dimension)
    assert (value["pointer"], value["reason"], value["pinned"]) == (1, "train", False)
    assert value["metrics"] == dict(engine.release.metrics)
    assert value["verified"] is True
    assert value["problem"] == ""
    assert built.store not in json.dumps(value)


def test_health_and_metrics(client: httpx.Client, engine: Engine) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["release"]) == (200, engine.release.id)
    for _ in range(2):
        client.get("/api/v1/search", params={"q": "一句没有搜过的话"})
        client.get("/no/such/address")
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.text
    assert re.search(
        r'^wentu_requests_total\{route="/api/v1/search",.*status="200"\} \d+$', text, re.M
    )
    assert re.search(r'^wentu_requests_total\{route="other",.*status="404"\} [1-9]', text, re.M)
    assert "wentu_ready 1\n" in text
    assert "wentu_release_broken 0\n" in text
    assert "wentu_release_pictures 24\n" in text
    assert f'wentu_release_info{{release="{engine.release.id}"}} 1\n' in text
    assert re.search(r"^wentu_text_cache_hits_total [1-9]", text, re.M)
    assert "一句" not in text
    for line in text.splitlines():
        assert line.startswith("# ") or re.fullmatch(r'\w+(\{(\w+="[^"]*",?)+\})? \S+', line), line


def test_the_openapi_document_says_that_ids_are_texts(client: httpx.Client) -> None:
    document = client.get("/api/v1/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert schemas["HitOut"]["properties"]["id"]["type"] == "string"
    assert "picture" in str(document["paths"]["/api/v1/search/picture"]["post"]["requestBody"])
    assert set(document["paths"]) == {
        *("/healthz", "/readyz", "/metrics", "/api/v1/release", "/api/v1/search"),
        *("/api/v1/folders", "/api/v1/browse", "/api/v1/session"),
        *("/api/v1/search/picture", "/api/v1/captions", "/api/v1/classify"),
        *("/api/v1/pictures/{picture}", "/api/v1/pictures/{picture}/thumbnail"),
        *("/api/v1/pictures/{picture}/original", "/api/v1/pictures/{picture}/similar"),
    }


# --- mistakes ---------------------------------------------------------------------------------

MISTAKES: list[tuple[dict[str, Any], int, str]] = [
    ({}, 422, "give a text, a picture, or both"),
    ({"text": "  "}, 422, "give a text, a picture, or both"),
    ({"negative": ["人"]}, 422, "give a text, a picture, or both"),
    ({"text": 5}, 422, "text: "),
    ({"text": "红", "k": 0}, 422, "k: "),
    ({"text": "红", "k": 100_000}, 422, "k: "),
    ({"text": "红", "offset": DEEPEST + 1}, 422, "offset: "),
    ({"text": "红", "weights": {"text": -1}}, 422, "weights.text: "),
    ({"text": "红", "wieghts": {}}, 422, "wieghts: "),
    ({"text": "红" * 3000}, 422, "text: "),
    ({"id": "1"}, 404, "there is no picture 1"),
    ({"id": "99999999999999999999"}, 422, "id: "),
    ({"id": "9999999999999999999"}, 404, "there is no picture"),
    ({"id": 12}, 422, "id: "),
    ({"text": "\ud800"}, 422, "text: "),
]


@pytest.mark.parametrize(("body", "status", "sentence"), MISTAKES, ids=str)
def test_a_mistake_is_one_sentence(
    client: httpx.Client, body: Any, status: int, sentence: str
) -> None:
    answer = client.post(
        "/api/v1/search", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status
    (name, said), *rest = answer.json().items()
    assert (name, rest) == ("error", [])
    assert said.startswith(sentence)
    assert said.endswith(".")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[1]", b"null", b"[" * 100_000])
def test_what_is_no_query_is_refused(client: httpx.Client, body: bytes) -> None:
    for kind in ("application/json", "text/plain", ""):
        answer = client.post("/api/v1/search", content=body, headers={"Content-Type": kind})
        assert 400 <= answer.status_code < 500
        assert len(answer.json()["error"]) > 10
    for path in ("/api/v1/search/picture", "/api/v1/captions", "/api/v1/classify"):
        for kind in ("multipart/form-data", "multipart/form-data; boundary=x", "image/png", "a/b"):
            answer = client.post(path, content=body, headers={"Content-Type": kind})
            assert 400 <= answer.status_code < 500, (path, kind)
            assert len(answer.json()["error"]) > 10


def test_forms_with_wrong_fields_are_refused(built: Any, client: httpx.Client) -> None:
    picture = pictures_of(built)[0].read_bytes()
    for path, data, sentence in (
        ("search/picture", {"k": "x"}, "k: "),
        ("search/picture", {"picture_weight": "-1"}, "picture_weight: "),
        ("search/picture", {"picture_weight": "nan"}, "picture_weight: "),
        ("search/picture", {"limit": "3"}, "unknown field 'limit'"),
        ("classify", {}, "labels: give 2 to 100"),
        ("classify", {"labels": "猫,猫"}, "labels: give 2 to 100"),
        ("captions", {"k": "1000"}, "k: "),
    ):
        answer = client.post(f"/api/v1/{path}", files={"picture": picture}, data=data)
        assert (answer.status_code, answer.json()["error"][: len(sentence)]) == (422, sentence)


def test_errors_speak_the_language_of_who_asks(client: httpx.Client) -> None:
    for header, sentence in (
        ("zh-CN,zh;q=0.9,en;q=0.8", "请给出文字、图片，或两者。"),
        ("en-GB", "give a text, a picture, or both."),
        ("fr;q=0.9, zh-TW;q=0.5, en;q=0.4", "请给出文字、图片，或两者。"),
        ("de", "give a text, a picture, or both."),
        (";;q=x,,", "give a text, a picture, or both."),
    ):
        answer = client.post("/api/v1/search", json={}, headers={"Accept-Language": header})
        assert answer.json()["error"] == sentence
    answer = client.post(
        "/api/v1/search/picture",
        files={"picture": b"%PDF-1.4"},
        headers={"Accept-Language": "zh"},
    )
    assert answer.json()["error"].startswith("这是 PDF 文档")
    chinese = {"Accept-Language": "zh"}
    for body, sentence in (
        ({"k": 0}, "k：不得小于 1。"),
        ({"k": "x"}, "k：应为整数。"),
        ({"text": "红" * 3000}, "text：不得超过 2000 个字符。"),
        ({"colour": "red"}, "colour：未知字段。"),
        ({"weights": {"picture": 1}}, "weights.picture：未知字段。"),
    ):
        answer = client.post("/api/v1/search", json=body, headers=chinese)
        assert (answer.status_code, answer.json()["error"]) == (422, sentence)


# --- the page of the docs ---------------------------------------------------------------------


@pytest.mark.parametrize("page", ["docs/search.md", "docs/zh-CN/search.md"])
def test_the_examples_of_the_docs_are_answered(
    built: Any, client: httpx.Client, page: str, tmp_path: Path
) -> None:
    shutil.copy(pictures_of(built)[0], tmp_path / "query.jpg")
    text = (Path(__file__).parents[2] / page).read_text("utf-8")
    here = str(client.base_url).rstrip("/")
    lines = [line for line in text.splitlines() if line.startswith("curl ")]
    assert len(lines) == 7
    for line in lines[:6]:  # the last one shows a token
        command = line.replace("http://127.0.0.1:8000", here).replace("curl ", "curl -sSf ", 1)
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True, timeout=60
        )
        assert "release" in json.loads(done.stdout), line
