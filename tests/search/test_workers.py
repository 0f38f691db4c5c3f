"""Several processes on one socket: killed, asked to end, left alone; and what they count."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.search.serving import until
from wentu.search.board import AWAY, READY, ROOM, WAITING, Board
from wentu.search.metrics import Metrics, counter, gauge, page

TEXT = {"text": "红色圆形", "k": 3}


def children(pid: int) -> list[int]:
    """Of a process, those that are no zombies."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    return [int(each) for each in text.split() if alive(int(each))]


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text("ascii")
    except FileNotFoundError:
        return False


@contextmanager
def serving(store: str, *words: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, "-m", "wentu", "serve", "--store", store, "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        try:
            assert it.stdout
            url = it.stdout.readline().split()[0]
            with httpx.Client(base_url=url, timeout=30) as client:
                until(lambda: client.get("/readyz").status_code == 200, 120)
                yield it, client
        finally:
            it.kill()


def ask(url: httpx.URL | str) -> int:
    """A query on a connection of its own."""
    answer = httpx.post(f"{url}/api/v1/search", json=TEXT, timeout=30)
    return answer.status_code if answer.json().get("hits") else -1


def test_workers_that_are_killed_are_replaced_and_nobody_is_refused(built: Any) -> None:
    with serving(built.store, "--workers", "2") as (it, client):
        until(lambda: len(children(it.pid)) == 2, 60)
        seen = set(children(it.pid))
        for _ in range(4):
            for _ in range(3):
                assert ask(client.base_url) == 200
            victim = children(it.pid)[0]
            os.kill(victim, signal.SIGKILL)
            until(lambda victim=victim: not alive(victim))  # type: ignore[misc]
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                assert ask(client.base_url) == 200
            seen |= set(children(it.pid))
        until(lambda: len(children(it.pid)) == 2, 120)
        assert len(seen) > 3


def test_all_workers_killed_at_once_make_callers_wait_not_fail(built: Any) -> None:
    with serving(built.store, "--workers", "2") as (it, client):
        until(lambda: len(children(it.pid)) == 2, 60)
        for pid in children(it.pid):
            os.kill(pid, signal.SIGKILL)
        httpx.get(f"{client.base_url}/healthz", timeout=30).raise_for_status()
        until(lambda: httpx.get(f"{client.base_url}/readyz", timeout=30).status_code == 200, 120)
        assert ask(client.base_url) == 200


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_all_end_and_answers_under_way_are_given(
    built: Any, how: signal.Signals
) -> None:
    with serving(built.store, "--workers", "2") as (it, client):
        until(lambda: len(children(it.pid)) == 2, 60)
        workers = children(it.pid)
        port = client.base_url.port
        assert port
        with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
            body = '{"text": "圆"}'.encode()
            head = "POST /api/v1/search HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            slow.sendall(head.encode())
            assert slow.recv(100).startswith(b"HTTP/1.1 100 ")  # now it waits for the body
            it.send_signal(how)
            began = time.monotonic()
            time.sleep(1)
            slow.sendall(body)
            assert slow.recv(100).startswith(b"HTTP/1.1 200 ")
        _, said = it.communicate(timeout=30)
        assert time.monotonic() - began < 10
        ignored = signal.getsignal(how) is signal.SIG_IGN  # of what a shell runs in the background
        assert it.returncode in (-how, 130, 143) or ignored  # as the command line says it
        assert not any(map(alive, workers))
        assert "Traceback" not in said


def test_workers_end_when_their_supervisor_is_killed(built: Any) -> None:
    with serving(built.store, "--workers", "2") as (it, client):
        until(lambda: len(children(it.pid)) == 2, 60)
        workers = children(it.pid)
        decoders = [pid for worker in workers for pid in children(worker)]
        it.kill()
        until(lambda: not any(map(alive, workers + decoders)), 30)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{client.base_url}/healthz")


def test_a_worker_that_keeps_dying_is_started_with_pauses(built: Any) -> None:
    with serving(built.store, "--workers", "2") as (it, client):
        killed, end = 0, time.monotonic() + 4
        while time.monotonic() < end:
            for pid in children(it.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
            time.sleep(0.1)  # until what was killed is seen to be dead, also on a busy machine
        assert 4 <= killed <= 10  # 2 workers: at once, after 1, 3 and 7 seconds
        assert client.get("/healthz", timeout=60).status_code == 200


def test_whichever_worker_is_asked_answers_for_all(built: Any) -> None:
    with serving(built.store, "--workers", "2") as (it, client):
        until(lambda: len(children(it.pid)) == 2, 60)

        def count() -> float:
            text = httpx.get(f"{client.base_url}/metrics").text
            found = re.findall(r'_total\{route="/api/v1/search",.*"200"\} (\d+)', text)
            return float(found[0]) if found else 0.0

        for _ in range(12):
            assert ask(client.base_url) == 200
        until(lambda: count() == 12)
        os.kill(children(it.pid)[0], signal.SIGKILL)
        time.sleep(0.5)
        assert count() == 12
        for _ in range(12):
            assert ask(client.base_url) == 200
        until(lambda: count() == 24)
        text = httpx.get(f"{client.base_url}/metrics").text
        until(lambda: 'wentu_ready{worker="0"} 1' in httpx.get(f"{client.base_url}/metrics").text)
        names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(names) == len(set(names))  # a metric stands in one place


# --- the board --------------------------------------------------------------------------------


def test_figures_add_up_and_outlive_their_worker() -> None:
    board = Board(3)
    for number, count in enumerate((5, 7)):
        board.set(number, READY)
        rows = [counter("c", "C.", count, route="/"), gauge("g", "G.", count)]
        board.post(number, rows)
    lines = page(board.all()).splitlines()
    assert lines[2] == 'c{route="/"} 12'
    assert lines[5:] == ['g{worker="0"} 5', 'g{worker="1"} 7']
    board.set(1, AWAY)
    assert page(board.all()).splitlines()[5:] == ['g{worker="0"} 5']
    board.succeed(1)  # in its successor
    board.post(1, [counter("d", "D.", 1)])
    board.post(1, [counter("c", "C.", 2, route="/"), counter("d", "D.", 1)])
    lines = page(board.all()).splitlines()
    assert 'c{route="/"} 14' in lines
    assert "d 1" in lines


def test_what_is_half_written_counts_as_nothing() -> None:
    board = Board(2)
    board.post(0, [counter("c", "C.", 1)])
    board.post(1, [counter("c", "C.", 2)])
    board._figures[ROOM + 20] ^= 1
    assert page(board.all()).splitlines()[-1] == "c 1"


def test_nobody_is_ready_while_one_that_takes_connections_is_not() -> None:
    board = Board(2)
    assert not board.ever_ready()
    board.set(0, READY)
    assert (board.ever_ready(), board.all_ready()) == (True, True)
    board.set(1, WAITING)
    assert (board.ever_ready(), board.all_ready()) == (True, False)
    board.set(0, AWAY)
    board.set(1, AWAY)
    assert (board.ever_ready(), board.all_ready()) == (True, True)


def test_a_histogram_of_several_workers_is_one() -> None:
    board, lines = Board(2), []
    for number, seconds in enumerate((0.02, 3.0)):
        metrics = Metrics()
        metrics.count("/a", "GET", 200, seconds)
        metrics.count("/b" if number else "/a", "GET", 200, seconds)
        board.post(number, metrics.samples())
    lines = page(board.all()).splitlines()
    assert 'wentu_request_seconds_bucket{route="/a",le="0.025"} 2' in lines
    assert 'wentu_request_seconds_bucket{route="/a",le="+Inf"} 3' in lines
    assert 'wentu_request_seconds_sum{route="/b"} 3' in lines
    bounds = [each for each in lines if 'route="/a",le=' in each]
    counts = [float(each.split()[1]) for each in bounds]
    assert counts == sorted(counts)
