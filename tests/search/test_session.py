"""The cookie that stands for the token: whom it lets in, and which page may use it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.search.serving import served, until
from wentu.search import session

TOKEN = "s3cret-令牌"
BEARER = {"Authorization": f"Bearer {TOKEN}".encode()}
TEXT = {"text": "红色圆形", "k": 3}


@pytest.fixture(scope="module")
def client(built: Any) -> Iterator[httpx.Client]:
    with served(built.store, token=TOKEN, ready=False) as opened:
        until(lambda: opened.get("/readyz").status_code == 200)
        yield opened


@pytest.fixture
def cookie(client: httpx.Client) -> dict[str, str]:
    answer = client.post("/api/v1/session", headers=BEARER)
    assert answer.status_code == 204
    client.cookies.clear()
    return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}


def test_a_cookie_shows_pictures_and_no_script_can_read_it(
    client: httpx.Client, cookie: dict[str, str]
) -> None:
    hit = client.post("/api/v1/search", json=TEXT, headers=BEARER).json()["hits"][0]["id"]
    address = f"/api/v1/pictures/{hit}/thumbnail"
    assert client.get(address).status_code == 401
    assert client.get(address, headers=cookie).status_code == 200
    said = client.post("/api/v1/session", headers=BEARER).headers["set-cookie"].lower()
    client.cookies.clear()
    for word in ("httponly", "samesite=strict", "path=/", "max-age=2592000"):
        assert word in said.split("; ")
    assert "secure" not in said.split("; ")  # there is no https here
    assert TOKEN not in said


def test_what_is_not_exactly_the_cookie_is_refused(
    client: httpx.Client, cookie: dict[str, str]
) -> None:
    name, _, value = cookie["Cookie"].partition("=")
    later, _, digest = value.partition(".")
    for wrong in (
        f"{name}=",
        f"{name}={later}.",
        f"{name}={int(later) + 1}.{digest}",
        f"{name}={value}x",
        f"{name}=x{value}",
        f"{name}={session.made('another', time.time())}",
        f"{name}={session.made(TOKEN, time.time() - 31 * 86_400)}",
        f"{name}={TOKEN}".encode(),
        f"wentu={value}",
        "; ; =;" * 100,
    ):
        answer = client.get("/api/v1/release", headers={"Cookie": wrong})  # type: ignore[dict-item]
        assert answer.status_code == 401, wrong


def test_a_cookie_alone_asks_for_more_only_from_our_own_page(
    client: httpx.Client, cookie: dict[str, str]
) -> None:
    here = str(client.base_url).rstrip("/")
    picture = {"picture": b"x"}
    for headers, status in (
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": here}, 200),
        ({}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": here}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": here + ".evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
    ):
        answer = client.post("/api/v1/search", json=TEXT, headers=cookie | headers)
        assert answer.status_code == status, headers
        if status == 403:
            assert "page of another site" in answer.json()["error"]
            upload = client.post("/api/v1/captions", files=picture, headers=cookie | headers)
            assert upload.status_code == 403
        with_token = BEARER | {name: value.encode() for name, value in headers.items()}
        assert client.post("/api/v1/search", json=TEXT, headers=with_token).status_code == 200


def test_a_page_of_another_site_is_refused_where_no_token_is_needed(built: Any) -> None:
    with served(built.store) as open_to_all:
        for headers, status in (
            ({}, 200),
            ({"Origin": str(open_to_all.base_url).rstrip("/")}, 200),
            ({"Origin": "https://evil.example"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
        ):
            answer = open_to_all.post("/api/v1/search", json=TEXT, headers=headers)
            assert answer.status_code == status, headers
        answer = open_to_all.post("/api/v1/session")
        assert (answer.status_code, answer.headers.get("set-cookie")) == (204, None)


def test_a_session_ends_when_asked(client: httpx.Client, cookie: dict[str, str]) -> None:
    own = {"Sec-Fetch-Site": "same-origin"}
    answer = client.delete("/api/v1/session", headers=cookie | own)
    assert answer.status_code == 204
    assert "max-age=0" in answer.headers["set-cookie"].lower()
    assert client.delete("/api/v1/session", headers=cookie).status_code == 403
    assert client.post("/api/v1/session").status_code == 401


def test_the_page_needs_no_token_but_the_right_name(client: httpx.Client) -> None:
    for path in ("/", "//", "/page/index.js", "/page/no/such"):
        assert client.get(path).status_code != 401
        assert client.get(path, headers={"Host": "evil.example"}).status_code == 400
    for path in ("/page", "/pages", "/page/../api/v1/release", "/api/v1/page/"):
        answer = client.get(path)
        assert answer.status_code in (401, 404), f"{path}: {answer.status_code}, {answer.text[:80]}"
        assert "release" not in answer.json()


def test_behind_a_proxy_the_cookie_is_bound_to_its_path_and_to_https(built: Any) -> None:
    with served(built.store, token="x", root_path="/搜索", trust_proxy=True, ready=False) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        headers = {"Authorization": "Bearer x", "X-Forwarded-Proto": "http, https"}
        said = client.post("/搜索/api/v1/session", headers=headers).headers["set-cookie"]
        assert "Path=/%E6%90%9C%E7%B4%A2" in said
        assert "secure" in said.lower().split("; ")
        cookie = {"Cookie": said.partition(";")[0]}
        named = {"Origin": "https://pictures.example", "X-Forwarded-Host": "pictures.example"}
        answer = client.post("/api/v1/search", json=TEXT, headers=cookie | named)
        assert answer.status_code == 200
        assert client.post("/api/v1/search", json=TEXT, headers=cookie).status_code == 403
