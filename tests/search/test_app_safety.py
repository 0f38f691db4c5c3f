"""Who may ask, how much, and that nothing that is sent takes the service down."""

from __future__ import annotations

import io
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.search.serving import pictures_of, served, until
from wentu.commands.serve import command, rate_for
from wentu.errors import InputError

TEXT = {"text": "红色圆形", "k": 3, "all": True}


@pytest.fixture(scope="module")
def client(built: Any) -> Iterator[httpx.Client]:
    with served(built.store, most_bytes=300_000, body_seconds=2.0) as opened:
        yield opened


def fine(client: httpx.Client) -> None:
    """The service goes on."""
    assert client.get("/healthz").status_code == 200
    assert len(client.post("/api/v1/search", json=TEXT).json()["hits"]) == 3


def test_every_broken_picture_is_refused_and_every_odd_one_is_taken(built: Any, data: Path) -> None:
    with served(built.store) as client:
        for path in sorted((data / "broken" / "must-be-refused").iterdir()):
            for route in ("search/picture", "captions"):
                answer = client.post(f"/api/v1/{route}", files={"picture": path.read_bytes()})
                assert 400 <= answer.status_code < 500, path.name
                assert len(answer.json()["error"]) > 10
        for path in sorted((data / "broken" / "must-load").iterdir()):
            answer = client.post("/api/v1/search/picture", files={"picture": path.read_bytes()})
            assert answer.status_code == 200, (path.name, answer.text)
        fine(client)


def test_a_picture_of_too_many_pixels_is_refused(built: Any) -> None:
    with served(built.store, most_pixels=1000) as client:
        files = {"picture": pictures_of(built)[0].read_bytes()}
        answer = client.post("/api/v1/search/picture", files=files)
        assert answer.status_code == 422
        assert "more than the 1,000 allowed" in answer.json()["error"]


def test_a_body_that_is_too_large_is_refused(client: httpx.Client) -> None:
    def in_bits() -> Iterator[bytes]:
        """Without a length, so that only counting helps."""
        for _ in range(40):
            yield bytes(10_000)

    large = bytes(400_000)
    headers = {"Content-Type": "image/png"}
    for answer in (
        client.post("/api/v1/search/picture", files={"picture": large}),
        client.post("/api/v1/search/picture", content=large, headers=headers),
        client.post("/api/v1/search/picture", content=in_bits(), headers=headers),
        client.post(
            "/api/v1/search", content=in_bits(), headers={"Content-Type": "application/json"}
        ),
        client.post("/no/such", content=large),
    ):
        assert answer.status_code in (413, 404)
        assert answer.status_code == 413 or "/no/such" in str(answer.url)
        assert answer.json()["error"].endswith(".")
    fine(client)


def test_what_is_no_picture_is_small(built: Any) -> None:
    body = {"text": "红", "negative": ["x" * 1500] * 16, "filters": {"folder": "y" * 2000}}
    with served(built.store) as client:
        headers = {"Content-Type": "application/json"}
        answer = client.post("/api/v1/search", content=b" " * 1_000_001, headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"] == "the body is larger than the 1 MB allowed."
        assert client.post("/api/v1/search", json=body).status_code == 200
        noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "PNG")
        assert len(buffer.getvalue()) > 1_000_000
        files = {"picture": buffer.getvalue()}
        assert client.post("/api/v1/search/picture", files=files).status_code == 200


def test_no_client_takes_all_places_for_uploads(built: Any) -> None:
    """Those that trickle take half; one more of their client is told so, another's is taken."""
    head = "POST /api/v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    picture = pictures_of(built)[0].read_bytes()
    with served(built.store, trust_proxy=True) as client, ExitStack() as stack:
        port = client.base_url.port
        assert port

        def ask(address: str) -> httpx.Response:
            headers = {"X-Forwarded-For": address}
            files = {"picture": picture}
            return client.post("/api/v1/search/picture", files=files, headers=headers)

        def trickle() -> None:
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            slow.sendall(
                f"{head}X-Forwarded-For: 192.0.2.1\r\nContent-Length: 100\r\n\r\nabc".encode()
            )

        def refused() -> bool:
            trickle()  # one of them may have come while the last question had a place
            answer = ask("192.0.2.1")
            return (answer.status_code, answer.headers.get("retry-after")) == (503, "1")

        until(refused)
        assert ask("192.0.2.2").status_code == 200
        stack.close()
        until(lambda: ask("192.0.2.1").status_code == 200)


def test_a_body_that_never_comes_is_not_waited_for(client: httpx.Client) -> None:
    port = client.base_url.port
    assert port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
        head = "POST /api/v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
        slow.sendall(f"{head}Content-Length: 100\r\n\r\nabc".encode())
        began = time.monotonic()
        answer = slow.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < 15
    fine(client)


def test_foreign_names_are_refused(client: httpx.Client) -> None:
    for host in ("evil.example", "localhost.evil.example", "", "127.0.0.1.evil", "[::2]"):
        answer = client.post("/api/v1/search", json=TEXT, headers={"Host": host})
        assert answer.status_code == 400, host
        assert "--allow-host" in answer.json()["error"]
        assert client.get("/healthz", headers={"Host": host}).status_code == 200
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:80"):
        answer = client.post("/api/v1/search", json=TEXT, headers={"Host": host})
        assert answer.status_code == 200, host


def test_a_token_is_needed_where_one_is_set(built: Any) -> None:
    with served(built.store, token="s3cret-令牌", ready=False) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        wrong: list[dict[str, Any]] = [
            {},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic czNjcmV0"},
            {"Authorization": "Bearer s3cret-令牌x".encode()},
        ]
        for headers in wrong:
            for answer in (
                client.post("/api/v1/search", json=TEXT, headers=headers),
                client.get("/api/v1/release", headers=headers),
                client.get("/api/v1/openapi.json", headers=headers),
                client.get("/no/such", headers=headers),
                client.get("/healthz/../api/v1/release", headers=headers),
            ):
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": "Bearer s3cret-令牌".encode()}
        assert client.post("/api/v1/search", json=TEXT, headers=right).status_code == 200
        for path in ("/healthz", "/readyz", "/metrics"):
            assert client.get(path).status_code == 200


def test_nothing_but_pictures_of_the_collection_can_be_read(client: httpx.Client) -> None:
    port = client.base_url.port
    assert port
    for path in (
        *("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd"),
        *("1/../../../../etc/passwd", "0/original%00", "-1", "1e5", "１２３", "1" * 5000),
        *("0" * 20 + "9" * 30, "0" * 5000, "9" * 19),
        *("/etc/passwd", "%2Fetc%2Fpasswd/original", "..%5c..%5cwindows", "%ff", "0x10"),
    ):
        for rest in ("", "/original", "/thumbnail"):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
                line = f"GET /api/v1/pictures/{path}{rest} HTTP/1.1\r\nHost: localhost\r\n"
                raw.sendall(f"{line}Connection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda raw=raw: raw.recv(65536), b""))  # type: ignore[misc]
            assert re.match(rb"HTTP/1\.1 4\d\d ", answer), (path, rest, answer[:200])
            assert b"root:" not in answer
    for path in (
        *(
            "/page/../../../../etc/passwd",
            "/page/..%2f..%2f..%2f..%2fetc/passwd",
            "/page//etc/passwd",
        ),
        *("/page/%2e%2e/guard.py", "/page/..\\guard.py", "/page/%00", "/page/../api/v1/release"),
        *("//etc/passwd", "/..%2fetc%2fpasswd", "/page/" + "a/" * 3000, "/page/\x01"),
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            line = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            raw.sendall(line.encode())
            answer = b"".join(iter(lambda raw=raw: raw.recv(65536), b""))  # type: ignore[misc]
        assert re.match(rb"HTTP/1\.1 4\d\d ", answer), (path, answer[:200])
        assert b"root:" not in answer
        assert b"Refusal" not in answer


def test_every_answer_has_its_headers(client: httpx.Client) -> None:
    for answer in (
        client.get("/healthz"),
        client.post("/api/v1/search", json=TEXT),
        client.get("/no/such"),
        client.get("/", headers={"Host": "evil.example"}),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers


def test_an_error_of_ours_is_a_sentence_without_a_trace(
    built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(built.store) as client:
        monkeypatch.setattr("wentu.search.asking.page", lambda *_: 1 / 0)
        answer = client.post("/api/v1/search", json=TEXT)
        assert answer.status_code == 500
        assert answer.json() == {
            "error": "something went wrong here; the log of the service says what."
        }
        assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("prefix", ["", "/搜索"])
def test_behind_a_proxy_that_strips_the_path_or_does_not(built: Any, prefix: str) -> None:
    with served(built.store, root_path="/搜索", token="x", ready=False) as client:
        until(lambda: client.get(f"{prefix}/readyz").status_code == 200)
        headers = {"Authorization": "Bearer x"}
        answer = client.post(f"{prefix}/api/v1/search", json=TEXT, headers=headers)
        assert len(answer.json()["hits"]) == 3
        document = client.get(f"{prefix}/api/v1/openapi.json", headers=headers).json()
        assert document["servers"] == [{"url": "/搜索"}]
        assert client.get(f"{prefix}/api/v1/release").status_code == 401


# --- the command ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "token", "sentence"),
    [
        (["--host", "0.0.0.0"], "", "--host 0.0.0.0 lets others in: set WENTU_TOKEN"),
        (["--host", "::"], "", "--host :: lets others in"),
        (["--host", "example.com"], "", "lets others in"),
        (["--no-token"], "x", "--no-token, and WENTU_TOKEN is set"),
        (["--trust-proxy"], "", "--trust-proxy: who comes through a proxy is let in"),
        (["--allow-host", "a.example"], "", "--allow-host a.example: who comes through a proxy"),
        (["--max-upload", "0"], "", "--max-upload 0: give more than 0 MB"),
        (["--workers", "0"], "", "--workers 0: give 1 to 64"),
        (["--rate", "-1"], "", "--rate -1: give queries a second, or 0"),
        (["--rate", "nan"], "", "--rate nan: give queries a second"),
        (["--port", "99999"], "", "--port 99999: give 0 to 65535"),
    ],
)
def test_unsafe_or_impossible_ways_to_serve_are_refused(
    words: list[str], token: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENTU_TOKEN", token)
    done = CliRunner().invoke(command(), words)
    assert isinstance(done.exception, InputError)
    assert sentence in str(done.exception)


@pytest.mark.parametrize(
    ("host", "given", "trust_proxy", "limited"),
    [
        ("127.0.0.1", None, False, False),
        ("127.0.0.1", None, True, True),
        ("127.0.0.1", 5.0, False, True),
        ("0.0.0.0", None, False, True),
        ("0.0.0.0", 0.0, False, False),
    ],
)
def test_others_than_this_machine_may_ask_fifty_times_a_second(
    host: str, given: float | None, trust_proxy: bool, limited: bool
) -> None:
    rate = rate_for(host, given, trust_proxy)
    assert (rate is not None) is limited
    if rate:
        burst = int(5 * (given or 50))
        assert [rate.wait("192.0.2.7") for _ in range(burst)] == [0] * burst
        assert any(rate.wait("192.0.2.7") for _ in range(10_000))


def test_a_port_that_is_taken_is_a_sentence(built: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ["--store", built.store, "--port", str(taken.getsockname()[1])]
        done = CliRunner().invoke(command(), words)
    assert "cannot listen on 127.0.0.1" in str(done.exception)


def test_the_command_serves_says_what_and_ends_when_asked(built: Any) -> None:
    words = [sys.executable, "-m", "wentu", "serve", "--store", built.store, "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout
            url = run.stdout.readline().split()[0]
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
            assert re.search(r"Serving release \w{16}: 24 pictures", run.stdout.readline())
            with httpx.Client(base_url=url) as client:
                assert len(client.post("/api/v1/search", json=TEXT).json()["hits"]) == 3
            began = time.monotonic()
            run.send_signal(signal.SIGTERM)
            _, said = run.communicate(timeout=20)
        finally:
            run.kill()
    assert time.monotonic() - began < 10
    assert run.returncode in (0, -signal.SIGTERM, 143)
    assert said == ""
