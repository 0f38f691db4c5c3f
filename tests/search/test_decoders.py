"""Decoders: the same pixels as here, and what becomes of pictures that they die of."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.search.serving import pictures_of, served, until
from wentu.language import speaking
from wentu.pictures import PictureError, Preprocessing, decode
from wentu.search import decoders as module
from wentu.search.decoders import Decoders

WANTED = Preprocessing(resolution=64)


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    opened = Decoders(64_000_000)
    yield opened
    opened.close()


def children() -> list[int]:
    """The decoders of this process."""
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in map(int, path.read_text("ascii").split()):
            if b"wentu.search.decoders" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def slow_picture() -> bytes:
    """A small file that takes a second and more to decode."""
    out = io.BytesIO()
    Image.new("RGBA", (7900, 7900), (1, 2, 3, 4)).save(out, "PNG", compress_level=1)
    return out.getvalue()


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_a_picture_from_a_decoder_is_what_the_model_sees(
    decoders: Decoders, built: Any, resize: str
) -> None:
    wanted = Preprocessing(resolution=64, resize=resize, fill=7)
    tall = io.BytesIO()
    Image.effect_mandelbrot((90, 301), (-2, -2, 1, 2), 50).convert("LA").save(tall, "PNG")
    for data in (pictures_of(built)[0].read_bytes(), tall.getvalue()):
        here = wanted.to_array(decode(data))
        there = decoders.decode(data, wanted)
        assert there.size == (64, 64)
        assert np.array_equal(wanted.to_array(there), here)  # also when it is prepared once more


def test_what_is_wrong_is_said_in_the_language_of_who_sent_it(decoders: Decoders) -> None:
    with speaking("zh"), pytest.raises(PictureError, match="文件是空的"):
        decoders.decode(b"", WANTED)
    with speaking("en"), pytest.raises(PictureError, match="the file is empty"):
        decoders.decode(b"", WANTED)
    assert len(children()) == 1


def test_one_that_takes_too_long_is_given_up_and_its_decoder_replaced(built: Any) -> None:
    decoders = Decoders(64_000_000, seconds=0.2)
    try:
        with pytest.raises(PictureError, match=r"longer than 0\.2 seconds to decode"):
            decoders.decode(slow_picture(), WANTED)
        assert children() == []
        assert decoders.decode(pictures_of(built)[0].read_bytes(), WANTED).size == (64, 64)
    finally:
        decoders.close()
    assert children() == []


def test_one_that_fills_the_memory_is_refused_and_the_next_is_taken(
    built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BYTES_A_PIXEL", 4)
    decoders = Decoders(62_500_000)
    try:
        with pytest.raises(PictureError, match="too large for the memory left"):
            decoders.decode(slow_picture(), WANTED)
        assert decoders.decode(pictures_of(built)[0].read_bytes(), WANTED).size == (64, 64)
    finally:
        decoders.close()


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL])
def test_one_that_crashes_its_decoder_is_refused_and_the_service_goes_on(
    built: Any, how: signal.Signals
) -> None:
    slow, good = slow_picture(), pictures_of(built)[0].read_bytes()
    with served(built.store) as client:
        until(children)
        (pid,) = children()
        answers: list[httpx.Response] = []

        def ask() -> None:
            files = {"picture": slow}
            answers.append(client.post("/api/v1/search/picture", files=files, timeout=60))

        asking = threading.Thread(target=ask)
        asking.start()
        before = busy(pid)
        until(lambda: busy(pid) > before + 20)  # 0.2 s of work: it is at it
        os.kill(pid, how)
        asking.join()
        assert answers[0].status_code == 422
        assert "crashed on it" in answers[0].json()["error"]
        answer = client.post("/api/v1/search/picture", files={"picture": good})
        assert answer.status_code == 200
        (other,) = children()
        os.kill(other, how)  # while nobody asks
        os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)  # until its end can be seen
        answer = client.post("/api/v1/search/picture", files={"picture": good})
        assert answer.status_code == 200
    assert children() == []


def busy(pid: int) -> int:
    """Hundredths of a second that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])


def test_where_no_decoder_can_be_started_text_can_still_be_searched(
    built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(built.store) as client:
        until(children)
        os.kill(children()[0], signal.SIGKILL)
        until(lambda: not children())
        monkeypatch.setattr("sys.executable", "/no/such/python")
        files = {"picture": pictures_of(built)[0].read_bytes()}
        answer = client.post("/api/v1/search/picture", files=files)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert "search by text" in answer.json()["error"]
        assert client.post("/api/v1/search", json={"text": "圆"}).status_code == 200
