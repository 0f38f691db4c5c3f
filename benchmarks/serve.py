"""`wentu serve` under load, on the demo and on a million made vectors, beside a plain service.

Both services are processes of their own on this machine, and so are their clients' threads: what is
measured is the whole answer to an HTTP request, with 1, 8 and 32 clients that ask one request after
the other. *Cold*: every text is new. *Cached*: sixteen texts in turn. The text tower of a ViT-B-16
with random weights is as fast as a trained one; its vectors say nothing, so recall is measured
apart, with queries of benchmarks/gallery.py and with uniform vectors.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from benchmarks.data import QUERIES, Vectors, draw
from benchmarks.embedding import Made, make
from benchmarks.gallery import Maker, uniform, write_store, write_vectors
from benchmarks.side_by_side import machine
from wentu import ann
from wentu.store import Store

CLIENTS = (1, 8, 32)
COUNT, QUICK_COUNT = 1_000_000, 60_000
SECONDS, QUICK_SECONDS = 8.0, 1.0
"""Of each measurement, after a fourth of it to warm up."""
START = 120.0
"""Seconds after which a service that did not answer will not."""
RECALL_QUERIES = 200
UNIFORM = 100_000
"""Uniform vectors of the gallery for them: no index helps there, which the smaller one shows."""
HOST = "127.0.0.1"

Ask = Callable[[http.client.HTTPConnection, int], http.client.HTTPResponse]


@dataclass(frozen=True, kw_only=True)
class Load:
    """What some clients met."""

    service: str
    gallery: str
    what: str
    clients: int
    p50: float
    """Seconds, as the next two."""
    p95: float
    p99: float
    rate: float
    """Answers a second."""
    core: float
    """Seconds of a core that the service took for an answer: what others do does not count."""
    failed: int
    """Answers but 200, which count nowhere else: of more than 16 uploads at once some are refused
    with 503."""


# --- requests ---------------------------------------------------------------------------------


def cold(connection: http.client.HTTPConnection, number: int) -> http.client.HTTPResponse:
    """A text that was not asked for before: 7 to 16 characters."""
    extra = chr(0x4E00 + number % 5000) + chr(0x4E00 + number // 5000 % 5000)
    return text(connection, f"{QUERIES[number % len(QUERIES)]}{extra}")


def cached(connection: http.client.HTTPConnection, number: int) -> http.client.HTTPResponse:
    """One of a few texts."""
    return text(connection, QUERIES[number % len(QUERIES)])


def text(connection: http.client.HTTPConnection, query: str) -> http.client.HTTPResponse:
    """Ten pictures by text."""
    connection.request("GET", f"/api/v1/search?q={quote(query)}&k=10")
    return connection.getresponse()


def picture_of(form: bool) -> Ask:
    """Ten pictures by picture; ours takes a form, the plain service the bytes."""
    files = [draw(number, (640, 480), 12.0, 90) for number in range(8)]
    edge = "wentu-benchmark"
    head = (
        f'--{edge}\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    kind = f"multipart/form-data; boundary={edge}" if form else "image/jpeg"

    def ask(connection: http.client.HTTPConnection, number: int) -> http.client.HTTPResponse:
        data = files[number % len(files)]
        body = head.encode() + data + f"\r\n--{edge}--\r\n".encode() if form else data
        connection.request("POST", "/api/v1/search/picture", body, {"Content-Type": kind})
        return connection.getresponse()

    return ask


# --- services ---------------------------------------------------------------------------------


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


@dataclass(frozen=True, kw_only=True)
class Running:
    """A service that answers."""

    port: int
    process: int
    start: float
    """Seconds from the start of its process to its first answer."""

    def core(self) -> float:
        """Seconds of a core that it and its children took so far; 0 where the system does not
        say."""
        here = Path(f"/proc/{self.process}")
        children = (path.read_text("ascii").split() for path in here.glob("task/*/children"))
        ticks = 0
        for each in (here, *(Path("/proc", pid) for pid in itertools.chain(*children))):
            with suppress(OSError):  # it ended, or there is no such place
                fields = (each / "stat").read_text("ascii").rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(words: Sequence[str], port: int) -> Iterator[Running]:
    """A service in a process of its own, when it gave its first answer."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.DEVNULL)
    try:
        while not answers(port):
            if process.poll() is not None or time.perf_counter() - began > START:
                raise RuntimeError(f"{words[0]} does not answer")
            time.sleep(0.02)
        yield Running(port=port, process=process.pid, start=time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(20)


def answers(port: int) -> bool:
    """Does a search succeed?"""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    try:
        return text(connection, "图").status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def ours(place: str, port: int) -> list[str]:
    """The command of our service."""
    return ["wentu", "serve", "--store", place, "--port", str(port)]


def plain(place: str, made: Made, port: int) -> list[str]:
    """The command of the straightforward one."""
    words = [place, str(made.checkpoint), made.vision, made.text, str(made.resolution), str(port)]
    return ["benchmarks.straightforward", *words]


# --- load -------------------------------------------------------------------------------------

_NUMBERS = itertools.count(1)


def load(port: int, ask: Ask, clients: int, seconds: float) -> tuple[list[float], float, int, int]:
    """(seconds of each answer after warming up, seconds altogether, failures, all answers)."""
    times: list[list[float]] = [[] for _ in range(clients)]
    failed, answered = [0] * clients, [0] * clients
    start = time.perf_counter() + seconds / 4
    end = start + seconds

    def client(mine: int) -> None:
        connection = http.client.HTTPConnection(HOST, port, timeout=120)
        while (began := time.perf_counter()) < end:
            answer = ask(connection, next(_NUMBERS))
            answer.read()
            done = time.perf_counter()
            answered[mine] += 1
            failed[mine] += answer.status != 200
            if answer.status != 200:
                time.sleep(float(answer.headers.get("Retry-After", 0)))
            elif done >= start:
                times[mine].append(done - began)
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    whole = max(time.perf_counter() - start, seconds)
    found = sorted(itertools.chain.from_iterable(times))
    return found, whole, sum(failed), sum(answered)


def measured(
    service: str, gallery: str, there: Running, asks: dict[str, Ask], seconds: float
) -> list[Load]:
    """Every kind of request by every number of clients."""
    rows = []
    for what, ask in asks.items():
        for clients in CLIENTS:
            before = there.core()
            times, whole, failed, answers = load(there.port, ask, clients, seconds)
            p50, p95, p99 = np.percentile(times, [50, 95, 99]).tolist()
            row = Load(
                service=service,
                gallery=gallery,
                what=what,
                clients=clients,
                p50=p50,
                p95=p95,
                p99=p99,
                rate=len(times) / whole,
                core=(there.core() - before) / answers,
                failed=failed,
            )
            print(line(row), flush=True)
            rows.append(row)
    return rows


def line(row: Load) -> str:
    """One row of the table."""
    times = "".join(f"{1e3 * value:10.1f}" for value in (row.p50, row.p95, row.p99))
    rates = f"{row.rate:12.1f}{1e3 * row.core:12.1f}"
    failed = f"  {row.failed} not 200" if row.failed else ""
    return f"  {row.service:16}{row.what:10}{row.clients:8}{times}{rates}{failed}"


def heading(gallery: str) -> None:
    """The head of a table."""
    titles = ("p50 ms", "p95 ms", "p99 ms")
    print(f"\n{gallery}")
    times = "".join(f"{title:>10}" for title in titles)
    print(f"  {'':26}{'clients':>8}{times}{'a second':>12}{'core ms':>12}")


# --- recall -----------------------------------------------------------------------------------


def recalls(store: str, maker: Maker) -> dict[str, dict[str, float]]:
    """Recall@10 and the median milliseconds of the index alone, one query at a time."""
    opened = Store(store)
    current = opened.current()
    assert current is not None
    folder = opened.segment(current[1].segments[0].digest)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    index = ann.open_index(folder, vectors)
    pictures = np.concatenate(list(maker.pictures(RECALL_QUERIES, seed=6)))
    return {
        "text-like": recall(index, vectors, maker.texts(RECALL_QUERIES, seed=11)),
        "new pictures": recall(index, vectors, pictures),
    }


def uniform_recall(folder: Path, count: int, dimension: int) -> dict[str, float]:
    """The same where all vectors are random directions."""
    folder.mkdir()
    blocks = uniform(count, dimension)
    vectors = write_vectors(folder / "vectors.npy", blocks, count, dimension)
    ann.make(vectors, folder)
    (queries,) = uniform(RECALL_QUERIES, dimension, seed=7)
    found = recall(ann.open_index(folder, vectors), vectors, queries)
    shutil.rmtree(folder)
    return found


def recall(index: object, vectors: Vectors, queries: Vectors) -> dict[str, float]:
    """Against brute force, by score."""
    part = ann.Part(index=index, ids=np.arange(len(vectors)))
    truth = ann.best_rows(vectors, queries, 10)[0][:, -1]
    right, times = [], []
    for query, worst in zip(queries, truth, strict=True):
        began = time.perf_counter()
        scores, _ = ann.search([part], query[None], 10)
        times.append(time.perf_counter() - began)
        right.append(float((scores[0] >= worst - 1e-5).mean()))
    return {"recall_at_10": statistics.mean(right), "milliseconds": 1e3 * statistics.median(times)}


# --- all --------------------------------------------------------------------------------------


def measure(
    folder: Path, *, quick: bool, demo: str = "", gallery: str = "", out: str = "serve.json"
) -> None:
    """Both galleries.

    Args:
        demo: a store that `wentu demo` made; without one it is left out.
        gallery: where the large store is, or is to be kept; empty: made for this run.
        out: file for the figures.
    """
    made, maker = make(folder, quick=quick), Maker(1024 if quick else 512)
    count, seconds = (QUICK_COUNT, QUICK_SECONDS) if quick else (COUNT, SECONDS)
    place = Path(gallery) if gallery else folder / "gallery"
    report: dict[str, object] = {"machine": machine(), "pictures": maker.source}
    if not place.exists():
        place.mkdir(parents=True)
        report["made"] = dict(
            zip(
                ("vectors_s", "index_s"), write_store(place, made.bundle, count, maker), strict=True
            )
        )
    current = Store(str(place)).current()
    assert current is not None
    count = current[1].pictures
    rows: list[Load] = []
    starts: dict[str, float] = {}
    asks = {"cold": cold, "cached": cached}
    galleries = {"demo": demo} if demo else {}
    for name, store in (galleries | {f"{count:,} made vectors": str(place)}).items():
        heading(f"{name} (`wentu serve`, two processes in turn)")
        with running(ours(store, port := free_port()), port) as there:
            starts[f"wentu, {name}"] = there.start
            asked = asks | {"picture": picture_of(True)}
            rows += measured("wentu", name, there, asked, seconds)
        if store != demo:
            with running(plain(store, made, port := free_port()), port) as there:
                starts[f"straightforward, {name}"] = there.start
                asked = {"cold": cold, "picture": picture_of(False)}
                rows += measured("straightforward", name, there, asked, seconds)
    found = recalls(str(place), maker)
    found["uniform"] = uniform_recall(folder / "uniform", min(count, UNIFORM), maker.dimension)
    finish(rows, starts, found, report, Path(out))


def finish(
    rows: Sequence[Load],
    starts: dict[str, float],
    found: dict[str, dict[str, float]],
    report: dict[str, object],
    out: Path,
) -> None:
    """Print what is not in the tables, and write everything."""
    print("\nseconds from the start of the process to the first answer")
    for name, value in starts.items():
        print(f"  {name:40}{value:8.1f}")
    print("\nthe index alone, one query at a time")
    for name, each in found.items():
        print(f"  {name:16} recall@10 {each['recall_at_10']:.4f}, {each['milliseconds']:.2f} ms")
    by_key = {(row.service, row.what, row.clients): row for row in rows if row.gallery != "demo"}
    for clients in CLIENTS:
        ratio = (
            by_key["wentu", "cold", clients].rate / by_key["straightforward", "cold", clients].rate
        )
        print(f"cold texts a second, {clients} clients: {ratio:.1f} x the straightforward service")
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    values = {"rows": [asdict(row) for row in rows], "starts": starts, "recall": found}
    text = json.dumps(report | values | {"load_average": load}, ensure_ascii=False, indent=2)
    out.write_text(text + "\n", encoding="utf-8")
    print(f"written: {out}")
