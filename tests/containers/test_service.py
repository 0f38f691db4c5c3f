"""The serve image on the release that the containers made: right answers over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.containers.conftest import SERVE, Ran, free_port, until_healthy
from wentu.search.engine import Engine

pytestmark = pytest.mark.containers

TOKEN = "a long secret of this test"


@pytest.fixture(scope="session")
def service(engine: Any, ran: Ran) -> Iterator[httpx.Client]:
    """A client of the serve image, which runs with a root file system that it cannot write to."""
    port = free_port()
    container = engine.containers.run(
        SERVE,
        ["--store", ran.store, "--port", str(port)],
        detach=True,
        network_mode="host",
        environment=ran.environment | {"WENTU_TOKEN": TOKEN},
        read_only=True,
        cap_drop=["ALL"],
        tmpfs={"/tmp": "mode=1777", "/var/cache/wentu": "mode=1777"},
    )

    def alive() -> bool:
        container.reload()
        return bool(container.status in ("created", "running"))

    url = f"http://127.0.0.1:{port}"
    try:
        until_healthy(f"{url}/readyz", alive)
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            yield client
    except BaseException:
        print(container.logs().decode())
        raise
    finally:
        container.remove(force=True)


@pytest.fixture(scope="session")
def here(ran: Ran) -> Iterator[Engine]:
    """The same release, opened without a service."""
    opened = Engine.open(ran.store)
    yield opened
    opened.close()


def ids(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [int(hit["id"]) for hit in answer.json()["hits"]]


def test_nobody_is_let_in_without_the_token(service: httpx.Client) -> None:
    url = f"{service.base_url}/api/v1/search"
    assert httpx.post(str(url), json={"text": "红色圆形"}).status_code == 401


def test_it_serves_the_release_that_the_containers_made(
    service: httpx.Client, here: Engine
) -> None:
    told = service.get("/api/v1/release").json()
    assert (told["release"], told["pictures"]) == (here.release.id, 1920)


def test_texts_find_what_the_engine_finds_and_the_right_picture(
    service: httpx.Client, here: Engine
) -> None:
    right = 0
    queries = here.example_captions("test", 100)
    for text in queries:
        answer = service.post(
            "/api/v1/search", json={"text": text, "k": 10, "all": True, "fold": False}
        )
        hits = here.search(text, k=10)
        assert ids(answer) == [hit.id for hit in hits]
        for got, hit in zip(answer.json()["hits"], hits, strict=True):
            assert got["score"] == pytest.approx(hit.score, abs=1e-5)
        right += any(text in hit["captions"] for hit in answer.json()["hits"])
    # Ten of 1,920 hold it by chance for one query in 200; two epochs came to 14 in 100.
    assert right > 0.1 * len(queries)


def test_pictures_find_what_the_engine_finds_and_themselves_first(
    service: httpx.Client, here: Engine, ran: Ran
) -> None:
    for number in range(0, 1920, 96):
        name = f"pictures/{number:04d}.png"
        data = (ran.drawn / name).read_bytes()
        files = {"picture": (name, data, "image/png")}
        answer = service.post(
            "/api/v1/search/picture", files=files, data={"k": "10", "fold": "false"}
        )
        assert ids(answer) == [hit.id for hit in here.search(picture=data, k=10)]
        assert name in answer.json()["hits"][0]["paths"]


def test_what_it_hands_out_comes_from_the_bucket(service: httpx.Client, ran: Ran) -> None:
    (hit,) = service.post("/api/v1/search", json={"text": "红色圆形", "k": 1, "all": True}).json()[
        "hits"
    ]
    thumbnail = service.get(f"/api/v1/pictures/{hit['id']}/thumbnail")
    assert (thumbnail.status_code, thumbnail.headers["content-type"]) == (200, "image/jpeg")
    original = service.get(f"/api/v1/pictures/{hit['id']}/original", params={"location": "true"})
    assert original.content == (ran.drawn / hit["paths"][0]).read_bytes()
