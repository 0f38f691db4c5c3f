"""The files of the page: what they may do in a browser, how long they are kept, and where."""

from __future__ import annotations

import re

import pytest

from tests.conftest import Built
from tests.search.serving import served
from wentu.search.static import FOLDER, TYPES, page

POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
}
NAMED = re.compile(rb'(?:href|src)="([^"]*)"')


def test_the_page_and_all_it_names(built: Built) -> None:
    with served(built.store, token="secret") as client:  # which none of these asks for
        answer = client.get("/")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert set(answer.headers["content-security-policy"].split("; ")) == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "unsafe" not in answer.text
        assert not re.search(r"<script(?![^>]* src=)|\sstyle=|\son\w+=", answer.text)
        named = {name.decode() for name in NAMED.findall(answer.content)} - {"#"}
        assert len(named) == 4
        for name in named:
            assert client.get(f"/{name}").status_code == 200
        again = client.get("/", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert answer.headers["cache-control"] == again.headers["cache-control"] == "no-cache"


def test_files_are_kept_for_ever_at_an_address_of_their_own(built: Built) -> None:
    with served(built.store) as client:
        for name, data in page().files.items():
            answer = client.get(f"/page/{page().digest}/{name}")
            assert answer.content == data
            assert answer.headers["content-type"] == TYPES[f".{name.rpartition('.')[2]}"]
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert client.head(f"/page/{page().digest}/app.js").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/page/0123456789abcdef/app.js",
        "/page/{digest}/index.html",
        "/page/{digest}/nothing.js",
        "/page/{digest}/..%2Fstatic.py",
        "/page/{digest}/%2e%2e/static.py",
        "/page/",
    ],
)
def test_nothing_else_is_there(built: Built, path: str) -> None:
    with served(built.store) as client:
        answer = client.get(path.format(digest=page().digest))
        assert answer.status_code == 404
        assert answer.json()["error"]


def test_below_a_proxys_path_it_ends_with_a_slash(built: Built) -> None:
    with served(built.store, root_path="/a/search") as client:
        answer = client.get("/a/search")
        assert (answer.status_code, answer.headers["location"]) == (308, "search/")
        whole, stripped = client.get("/a/search/"), client.get("/")
        assert whole.status_code == stripped.status_code == 200
        assert client.get(f"/a/search/page/{page().digest}/app.js").status_code == 200


def test_all_addresses_are_relative_and_of_this_host() -> None:
    for path in sorted(FOLDER.iterdir()):
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|[\"'(]//", text), path.name
        assert not re.search(r"(?:href|src|from|import)[= ]*[\"']/", text), path.name


def test_every_text_is_there_in_both_languages_and_used() -> None:
    words = (FOLDER / "words.js").read_text("utf-8")
    table = words[words.index("const WORDS") : words.index("let chosen")]
    keys = re.findall(r"^  (\w+): \[", table, re.MULTILINE)
    assert len(keys) > 100
    assert len(keys) == len(set(keys))
    others = "".join(p.read_text("utf-8") for p in FOLDER.iterdir() if p.name != "words.js")
    computed = ("chip_", "theme_", "weight_", "captioned_", "verified_")
    fields = re.findall(r'"(\w+)"', (FOLDER / "query.js").read_text("utf-8"))
    for key in keys:
        made = key.startswith(computed) or key in fields
        assert made or re.search(rf"[\"'\[]{key}[\"']", others + words), f"{key} is not used"
