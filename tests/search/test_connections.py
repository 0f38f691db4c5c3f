"""Clients that send or fetch slowly, or open too much; how often one may ask."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.search.serving import served
from wentu.search import rate as module
from wentu.search.rate import Rate, one_client

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
TEXT = {"text": "红色圆形", "k": 3}


@pytest.fixture(scope="module")
def client(built: Any) -> Iterator[httpx.Client]:
    with served(built.store, head_seconds=1.0, body_seconds=2.0) as opened:
        yield opened


@contextmanager
def raw(client: httpx.Client) -> Iterator[socket.socket]:
    port = client.base_url.port
    assert port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as opened:
        yield opened


def until_closed(opened: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    try:
        while part := opened.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def test_a_head_that_trickles_is_not_waited_for(client: httpx.Client) -> None:
    with raw(client) as slow:
        began = time.monotonic()
        slow.sendall(HEAD)
        slow.settimeout(0.2)
        answer = b""
        while not answer:
            assert time.monotonic() - began < 10
            slow.sendall(b"X-A: b\r\n")
            try:
                answer = slow.recv(65536)
            except TimeoutError:
                continue
        assert 0.9 < time.monotonic() - began < 5
    assert answer.startswith(b"HTTP/1.1 408 ")
    said = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert said == "the head of the request was not there within 1 seconds."


def test_a_connection_that_says_nothing_is_closed_first_and_last(client: httpx.Client) -> None:
    with raw(client) as idle:
        began = time.monotonic()
        assert until_closed(idle) == b""
        assert 0.9 < time.monotonic() - began < 5
    with raw(client) as one:
        one.sendall(HEAD + b"\r\n")
        began = time.monotonic()
        answer = until_closed(one)
        assert answer.count(b"HTTP/1.1 200 ") == 1
        assert 0.9 < time.monotonic() - began < 5


def test_the_rest_of_a_body_that_was_answered_is_not_waited_for(client: httpx.Client) -> None:
    with raw(client) as one:
        began = time.monotonic()
        one.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += one.recv(65536)
        one.sendall(b"x")  # now it is not idle, and what it waits for never comes
        until_closed(one)
        assert 0.9 < time.monotonic() - began < 8


def test_one_that_asks_again_in_time_is_kept(client: httpx.Client) -> None:
    with raw(client) as one:
        for _ in range(8):
            one.sendall(HEAD[:9])
            time.sleep(0.15)
            one.sendall(HEAD[9:] + b"\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += one.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            time.sleep(0.15)
        one.sendall((HEAD + b"\r\n") * 3)  # at once
        answer = until_closed(one)
        assert answer.count(b"HTTP/1.1 200 ") == 3


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz?" + b"x" * 300_000 + b" HTTP/1.1\r\n",
        HEAD + b"X: " + b"x" * 300_000,
        b"\x16\x03\x01\x02\x00\x01\x00" + bytes(600),  # TLS
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
    ],
)
def test_what_is_no_request_is_told_so(client: httpx.Client, sent: bytes) -> None:
    with raw(client) as one:
        one.sendall(sent)
        answer = until_closed(one)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    said = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert said.startswith("this is no HTTP request")


def test_a_hundred_slow_clients_do_not_keep_others_from_answers(client: httpx.Client) -> None:
    with ExitStack() as held:
        for _ in range(100):
            held.enter_context(raw(client)).sendall(HEAD)
        assert len(client.post("/api/v1/search", json=TEXT).json()["hits"]) == 3


def test_a_client_that_does_not_fetch_its_answers_is_left(built: Any) -> None:
    line = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def ask_on(lazy: socket.socket) -> None:
        while True:
            lazy.sendall(line * 100)

    def fetch(lazy: socket.socket) -> None:
        while lazy.recv(1 << 20):
            pass

    with served(built.store, pause=0.5) as client, raw(client) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.settimeout(1.0)
        with pytest.raises((TimeoutError, ConnectionError)):  # nobody reads more of it
            ask_on(lazy)
        time.sleep(3)
        lazy.settimeout(20)
        with suppress(ConnectionResetError):  # reset, or ended: it does not time out
            fetch(lazy)
        assert client.get("/healthz").status_code == 200


def test_more_connections_than_there_is_room_for_are_told_so(built: Any) -> None:
    with served(built.store, most=8) as client:
        with ExitStack() as held:
            opened = [held.enter_context(raw(client)) for _ in range(20)]
            answers = []
            for each in opened:
                try:
                    each.sendall(HEAD + b"\r\n")
                    answers.append(each.recv(65536)[9:12])
                except ConnectionError:
                    answers.append(b"")
            assert set(answers) == {b"200", b"503", b""}
            assert answers.count(b"200") in (7, 8)  # the client's own may be still open
        assert client.get("/healthz").status_code == 200


# --- rate -------------------------------------------------------------------------------------


def test_a_client_may_ask_so_often_and_no_more(built: Any) -> None:
    with served(built.store, rate=Rate(0.2), trust_proxy=True) as client:

        def ask(address: str, path: str = "/api/v1/release") -> httpx.Response:
            return client.get(path, headers={"X-Forwarded-For": f"9.9.9.9, {address}"})

        assert ask("192.0.2.1").status_code == 200
        answer = ask("192.0.2.1")
        assert answer.status_code == 429
        seconds = int(answer.headers["retry-after"])
        assert 1 <= seconds <= 5
        assert answer.json()["error"].startswith("you ask more often than is allowed here")
        assert ask("192.0.2.2").status_code == 200
        assert ask("192.0.2.1", "/healthz").status_code == 200
        thumbnails = [ask("192.0.2.3", "/api/v1/pictures/1/thumbnail") for _ in range(15)]
        assert {each.status_code for each in thumbnails} == {404}
        time.sleep(seconds)
        assert ask("192.0.2.1").status_code == 200


def test_wrong_tokens_count_too(built: Any) -> None:
    with served(built.store, rate=Rate(0.2), token="x", ready=False) as client:
        statuses = [client.get("/api/v1/release").status_code for _ in range(2)]
        assert statuses == [401, 429]


def test_a_bucket_fills_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the plain definition: a count that grows by the rate, up to the burst."""
    now = [1000.0]
    # Its name for the module, not the module: the service of this file lives by the same clock.
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    rate, tokens, last = Rate(3), 15.0, now[0]
    for step in range(2000):
        now[0] += (step * 37 % 11) / 50
        tokens, last = min(15.0, tokens + 3 * (now[0] - last)), now[0]
        cost = (1.0, 0.05, 2.0)[step % 3]
        allowed = tokens >= cost - 1e-9
        waits = rate.wait("192.0.2.1", cost)
        assert (waits == 0) == allowed
        if allowed:
            tokens -= cost
        else:
            assert (cost - tokens) / 3 <= waits < (cost - tokens) / 3 + 1


def test_slow_rates_let_one_query_through() -> None:
    rate = Rate(0.01)
    assert rate.wait("a") == 0
    assert 95 <= rate.wait("a") <= 100


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("unknown", "unknown", True),
    ],
)
def test_what_counts_as_one_client(one: str, other: str, same: bool) -> None:
    assert (one_client(one) == one_client(other)) is same
