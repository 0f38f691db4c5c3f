"""The service under mixed load, while releases change, some of them broken, and workers are killed.

``python -m benchmarks load`` makes a small store of drawings and takes ten minutes;
``python -m benchmarks.load OUT.json --store S --collection C --seconds N`` takes a copy of one that
is there. Linux only: what is killed and what it held is read from /proc.

Nothing is hidden: a client sends each query once, and what is not answered with 200 counts.
Allowed are only those in flight on a worker when it was killed: on a connection that it held (it is
stopped, looked at, then killed) and sent before. The youngest worker is killed; so the oldest lives
through all of it, and its memory is what is watched.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import random
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wentu.store import Release, Store

SWAP, KILL, SAMPLE = 30.0, 45.0, 2.0
"""Seconds between new releases, kills, and looks at the memory."""
CLIENTS, THINK = 6, 0.05
"""Threads that ask, and the seconds that each waits between two queries, at most."""
WORKERS = 2
WARM = 0.2
"""Share of the time after which memory should be flat."""
PARTS = ("models", "segments", "calibrations", "thumbnails", "releases", "pointer")


@dataclass(frozen=True)
class Failed:
    """A query that was not answered with 200."""

    kind: str
    sent: float
    """time.monotonic()."""
    port: int
    """Of the client."""
    why: str


@dataclass
class Seen:
    """What happened."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Kind of query -> how long each took."""
    failed: list[Failed] = field(default_factory=list)
    kills: list[tuple[float, set[int]]] = field(default_factory=list)
    """When it was dead, and the clients' ports of the connections that the worker held."""
    swaps: Counter[str] = field(default_factory=Counter)
    """Releases that were published: good, or what was wrong with them."""
    releases: Counter[str] = field(default_factory=Counter)
    """Which release answered."""
    memory: list[tuple[float, float, float]] = field(default_factory=list)
    """Second, MB of the oldest worker, MB of all."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def in_flight(self, failed: Failed) -> bool:
        """Was it on a worker that was killed meanwhile?"""
        return any(failed.sent <= when and failed.port in ports for when, ports in self.kills)


def measure(folder: Path, *, quick: bool) -> None:
    """Make a store and load its service."""
    store, collection = made(folder)
    print(table(load(store, collection, 60.0 if quick else 600.0)))


def made(folder: Path) -> tuple[Path, Path]:
    """A store of 60 drawings and a small model, and the drawings."""
    from wentu import demo

    collection, rng = folder / "collection", random.Random(0)
    (collection / "pictures").mkdir(parents=True)
    everything = demo.combinations()
    rng.shuffle(everything)
    for split, numbers in {
        "train": range(40),
        "valid": range(40, 48),
        "test": range(48, 60),
    }.items():
        rows = []
        for number in numbers:
            name = f"pictures/{number:04d}.png"
            demo.draw(everything[number], rng).save(collection / name)
            rows.append({"image": name, "caption": everything[number].captions(rng)})
        text = json.dumps(rows, ensure_ascii=False)
        (collection / f"cn_{split}.json").write_text(text, encoding="utf-8")
    options = ("--model", "tiny", "--scratch", "--epochs", "1", "--store", folder / "store")
    given = ("--pictures", collection, "--captions", collection)
    subprocess.run([sys.executable, "-m", "wentu", "run", *given, *options], check=True)
    return folder / "store", collection


def load(store: Path, collection: Path, seconds: float) -> dict[str, Any]:
    """Load a service of a copy of ``store`` for so long; figures."""
    with tempfile.TemporaryDirectory(prefix="wentu-load-") as folder:
        copy = Path(folder) / "store"
        for part in (each for each in PARTS if (store / each).exists()):
            shutil.copytree(store / part, copy / part)
        shutil.copy2(store / "wentu-store.json", copy)
        releases = Releases(copy)
        with serving(copy, Path(folder) / "log") as (process, port):
            seen, stop = Seen(), threading.Event()
            queries = Queries(collection, port)
            work = [
                *(lambda n=n: ask(queries, n, seen, stop) for n in range(CLIENTS)),
                lambda: swap(releases, seen, stop),
                lambda: kill(process.pid, seen, stop),
                lambda: watch(process.pid, seen, stop),
            ]
            threads = [threading.Thread(target=each) for each in work]
            for thread in threads:
                thread.start()
            time.sleep(seconds)
            stop.set()
            for thread in threads:
                thread.join()
            figures = metrics(port)
        return summary(seen, figures, seconds, (Path(folder) / "log").read_text("utf-8"))


@contextmanager
def serving(store: Path, log: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``wentu serve --workers 2`` of a store: the process and its port."""
    words = ("serve", "--store", store, "--port", "0", "--workers", str(WORKERS))
    with (
        log.open("w", encoding="utf-8") as err,
        subprocess.Popen(
            [sys.executable, "-m", "wentu", *words], stdout=subprocess.PIPE, stderr=err, text=True
        ) as process,
    ):
        try:
            assert process.stdout
            port = int(process.stdout.readline().split()[0].rpartition(":")[2])
            threading.Thread(target=process.stdout.read, daemon=True).start()
            end = time.monotonic() + 120
            while get(port, "/readyz")[0] != 200 or len(children(process.pid)) < WORKERS:
                assert time.monotonic() < end, "the service did not become ready"
                time.sleep(0.2)
            yield process, port
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            process.kill()


# --- what is asked ----------------------------------------------------------------------------


class Queries:
    """Queries of five kinds, about what is in a collection."""

    def __init__(self, collection: Path, port: int) -> None:
        from wentu import demo

        self.port = port
        names = sorted(each for each in collection.rglob("*") if each.suffix in (".png", ".jpg"))
        self.pictures = [each.read_bytes() for each in names[:100]]
        rng = random.Random(1)
        self.texts = [text for each in demo.combinations()[:300] for text in each.captions(rng)]
        _, body = get(port, "/api/v1/search?all=true&fold=false&k=100&q=" + quote(self.texts[0]))
        # The second good release is without the picture with the smallest id.
        self.ids = sorted((hit["id"] for hit in json.loads(body)["hits"]), key=int)[1:]
        self.kinds: dict[str, Callable[[random.Random], tuple[str, bytes, str]]] = {
            "text": self.text,
            "picture": lambda rng: (
                "/api/v1/search/picture?k=20",
                rng.choice(self.pictures),
                "image/png",
            ),
            "similar": lambda rng: (f"/api/v1/pictures/{rng.choice(self.ids)}/similar", b"", ""),
            "thumbnail": lambda rng: (
                f"/api/v1/pictures/{rng.choice(self.ids)}/thumbnail",
                b"",
                "",
            ),
            "filtered": lambda rng: (
                f"/api/v1/search?folder=pictures&q={quote(rng.choice(self.texts))}",
                b"",
                "",
            ),
        }

    def text(self, rng: random.Random) -> tuple[str, bytes, str]:
        """Every second one is a text that was never asked before."""
        text = rng.choice(self.texts)
        if rng.random() < 0.5:
            text += str(rng.randrange(1 << 40))
        body = json.dumps({"text": text, "negative": ["星"] if rng.random() < 0.2 else []})
        return "/api/v1/search", body.encode(), "application/json"


def ask(queries: Queries, number: int, seen: Seen, stop: threading.Event) -> None:
    """A client with one connection, which it opens anew where the other side has closed it."""
    rng, connection = random.Random(number), None
    while not stop.is_set():
        kind = rng.choice(list(queries.kinds))
        path, body, content = queries.kinds[kind](rng)
        sent, port, release = time.monotonic(), 0, ""
        if connection is None or closed(connection):
            if connection:
                connection.close()
            connection = http.client.HTTPConnection("127.0.0.1", queries.port, timeout=60)
        try:
            if connection.sock is None:
                connection.connect()
            port = connection.sock.getsockname()[1]
            headers = {"Content-Type": content} if content else {}
            connection.request("POST" if body else "GET", path, body or None, headers)
            answer = connection.getresponse()
            data = answer.read()
            why = "" if answer.status == 200 else f"{answer.status} {data[:200]!r}"
            if not why and kind != "thumbnail":
                release = json.loads(data)["release"]
        except (OSError, http.client.HTTPException) as error:
            why = f"{type(error).__name__}: {error}"
            connection.close()
            connection = None
        with seen.lock:
            seen.seconds.setdefault(kind, []).append(time.monotonic() - sent)
            seen.releases[release] += 1
            if why:
                seen.failed.append(Failed(kind, sent, port, why))
        stop.wait(rng.random() * THINK)
    if connection:
        connection.close()


def closed(connection: http.client.HTTPConnection) -> bool:
    """Did the other side end it? Who sends then does not wait for an answer to nothing."""
    if connection.sock is None:
        return False
    return bool(select.select([connection.sock], [], [], 0)[0])


def get(port: int, path: str) -> tuple[int, bytes]:
    """One answer; status 0 where there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


# --- what happens meanwhile -------------------------------------------------------------------


class Releases:
    """Two good releases of a store, and three that are broken."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(str(folder))
        current = self.store.current()
        assert current
        self.first, pointer = current[1], current[0]
        self.number = pointer.number
        self.good = [self.first.id, self.without_a_picture()]
        self.broken = {
            "model absent": self.written(model="0" * len(self.first.model)),
            "index cut": self.damaged("index.faiss", lambda data: data[: len(data) // 2]),
            "vectors wrong": self.damaged(
                "vectors.npy", lambda data: data[:-1] + bytes([data[-1] ^ 1])
            ),
        }

    def without_a_picture(self) -> str:
        """The same release, but for one picture, as if that had been deleted."""
        import numpy as np

        segment = self.first.segments[0]
        ids = np.load(self.folder / "segments" / segment.digest / "ids.npy")
        gone = replace(segment, tombstones=(*segment.tombstones, int(ids.min())))
        rest = self.first.segments[1:]
        return self.written(segments=(gone, *rest), pictures=self.first.pictures - 1)

    def damaged(self, name: str, change: Callable[[bytes], bytes]) -> str:
        """A release whose base has one file that is not what its digest says."""
        segment = self.first.segments[0]
        digest = hashlib.sha256(name.encode()).hexdigest()[: len(segment.digest)]
        copy = self.folder / "segments" / digest
        shutil.copytree(self.folder / "segments" / segment.digest, copy)
        (copy / name).write_bytes(change((copy / name).read_bytes()))
        files = {
            key.replace(segment.digest, digest): value for key, value in self.first.files.items()
        }
        rest = self.first.segments[1:]
        return self.written(segments=(replace(segment, digest=digest), *rest), files=files)

    def written(self, **changes: Any) -> str:
        """A release like the first but for some fields; its id."""
        release: Release = replace(self.first, **changes)
        return self.store.write_release(release)

    def publish(self, identity: str) -> None:
        """Make it the current one."""
        self.store.publish(identity, after=self.number, reason="refresh")
        self.number += 1


def swap(releases: Releases, seen: Seen, stop: threading.Event) -> None:
    """Publish a release now and then: good, good, broken, good, ..."""
    turn = 0
    while not stop.wait(SWAP):
        turn += 1
        if turn % 3 == 2:
            what = list(releases.broken)[turn // 3 % 3]
            releases.publish(releases.broken[what])
        else:
            what = "good"
            releases.publish(releases.good[(turn + turn // 3) % 2])
        seen.swaps[what] += 1


def kill(supervisor: int, seen: Seen, stop: threading.Event) -> None:
    """Kill the youngest worker now and then, and note whom it was answering."""
    while not stop.wait(KILL):
        pid = max(children(supervisor), key=started)
        os.kill(pid, signal.SIGSTOP)  # so that it takes no connection that is not seen
        while states(pid) - {"T"}:
            time.sleep(0.001)
        ports = ports_of(pid)
        os.kill(pid, signal.SIGKILL)
        while states(pid) - {"Z"}:  # till then its connections look as if somebody read them
            time.sleep(0.001)
        seen.kills.append((time.monotonic(), ports))


def watch(supervisor: int, seen: Seen, stop: threading.Event) -> None:
    """Note the memory of the oldest worker, and of all processes together."""
    began = time.monotonic()
    while not stop.wait(SAMPLE):
        with suppress(OSError, ValueError):  # one that is just being killed
            workers = children(supervisor)
            oldest = min(workers, key=started)
            family = [supervisor, *workers, *(each for pid in workers for each in children(pid))]
            everything = sum(map(megabytes, family))
            seen.memory.append((time.monotonic() - began, megabytes(oldest), everything))


def children(pid: int) -> list[int]:
    """Of a process, of whatever thread."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text("ascii").split())
    return found


def states(pid: int) -> set[str]:
    """Of its threads: R, S, T (stopped), Z (dead), …; none once it was waited for."""
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):
            found.add(path.read_text("ascii").rpartition(") ")[2][0])
    return found


def started(pid: int) -> int:
    """When, in ticks since the machine's start."""
    return int(Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2].split()[19])


def megabytes(pid: int) -> float:
    """Memory of its own and its share of what is shared."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    return int(text.partition("\nPss:")[2].split()[0]) / 1000


def ports_of(pid: int) -> set[int]:
    """The other sides' ports of its connections."""
    inodes = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes.add(path.readlink().name.removeprefix("socket:[").rstrip("]"))
    rows = (line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:])
    return {int(row[2].rpartition(":")[2], 16) for row in rows if row[9] in inodes}


def metrics(port: int) -> dict[str, float]:
    """The figures without labels that the service gives."""
    lines = get(port, "/metrics")[1].decode().splitlines()
    rows = (line.split() for line in lines if line[0] != "#" and "{" not in line)
    return {name: float(value) for name, value in rows}


# --- what comes of it -------------------------------------------------------------------------


def summary(seen: Seen, figures: dict[str, float], seconds: float, log: str) -> dict[str, Any]:
    """All of it as JSON values."""
    allowed = [each for each in seen.failed if seen.in_flight(each)]
    wrong = [each for each in seen.failed if not seen.in_flight(each)]
    return {
        "seconds": seconds,
        "workers": WORKERS,
        "clients": CLIENTS,
        "queries": {kind: quantiles(rows) for kind, rows in sorted(seen.seconds.items())},
        "answered": sum(map(len, seen.seconds.values())) - len(seen.failed),
        "failed in flight on a killed worker": len(allowed),
        "failed otherwise": len(wrong),
        "why": Counter(each.why for each in wrong).most_common(10),
        "kills": len(seen.kills),
        "restarts": log.count("another takes its place"),
        "published": dict(seen.swaps),
        "releases that answered": len(set(seen.releases) - {""}),
        "swaps": figures.get("wentu_swaps_total", 0),
        "releases refused": figures.get("wentu_failures_total", 0),
        "memory": flatness(seen.memory, seconds),
        "load": os.getloadavg()[0],
    }


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Count and milliseconds."""
    rows = sorted(seconds)
    at = {f"p{share}": rows[int(share / 100 * (len(rows) - 1))] * 1000 for share in (50, 95, 99)}
    return {"count": len(rows), **at, "max": rows[-1] * 1000}


def flatness(memory: list[tuple[float, float, float]], seconds: float) -> dict[str, Any]:
    """MB of the oldest worker and of all: at first (warm), at last, and the slope between."""
    warm = [each for each in memory if each[0] >= WARM * seconds]
    if len(warm) < 4:
        return {}
    values: dict[str, Any] = {}
    for column, name in ((1, "oldest worker"), (2, "all")):
        rows = [each[column] for each in warm]
        tenth = max(1, len(rows) // 10)
        slope = statistics.linear_regression([each[0] / 60 for each in warm], rows).slope
        values[name] = {
            "first": statistics.mean(rows[:tenth]),
            "last": statistics.mean(rows[-tenth:]),
            "most": max(rows),
            "MB a minute": slope,
        }
    every = max(1, len(memory) // 60)
    return values | {"samples": [[round(each, 1) for each in row] for row in memory[::every]]}


def table(value: dict[str, Any]) -> str:
    """For people."""
    lines = [f"\nservice under load: {value['seconds']:.0f} s, {value['workers']} workers, "]
    lines[0] += f"{value['clients']} clients (load of the machine {value['load']:.1f})"
    lines.append(f"{'ms':12}{'count':>9}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}")
    for kind, row in value["queries"].items():
        figures = "".join(f"{row[name]:9.1f}" for name in ("p50", "p95", "p99", "max"))
        lines.append(f"{kind:12}{row['count']:9d}{figures}")
    for name in ("answered", "failed in flight on a killed worker", "failed otherwise", "kills"):
        lines.append(f"{name}: {value[name]:,}")
    lines += [f"  {count} x {why}" for why, count in value["why"]]
    published = (f"{count} {what}" for what, count in value["published"].items())
    lines.append(f"published: {', '.join(published)}")
    lines.append(
        f"swaps {value['swaps']:.0f}, refused {value['releases refused']:.0f} (all workers)"
    )
    for name, row in value["memory"].items():
        if name != "samples":
            figures = f"{row['first']:.0f} -> {row['last']:.0f} MB, most {row['most']:.0f}"
            lines.append(f"memory, {name}: {figures}, {row['MB a minute']:+.2f} MB a minute")
    return "\n".join(lines)


def main() -> None:
    """Load the service of a copy of a store, print a table and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--store", type=Path, help="a store with a release; is copied")
    parser.add_argument("--collection", type=Path, help="its pictures")
    parser.add_argument("--seconds", type=float, default=600.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wentu-bench-") as folder:
        if given.store:
            store, collection = given.store, given.collection or given.store.parent
        else:
            store, collection = made(Path(folder))
        value = load(store, collection, given.seconds)
    print(table(value))
    given.out.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
