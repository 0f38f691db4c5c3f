"""A million keys compared, and five thousand small objects moved; ours only, on this machine.

The listing: a server in a process of its own answers ListObjectsV2 with a million keys, a thousand
a request, to the stage inventory itself, which compares them with what the store remembers.
The objects: to and from a real S3 server (AWS_ENDPOINT_URL_S3), through a proxy that adds 20 ms to
every exchange: the way ours goes, and one after another.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benchmarks.delay import Delayed

DELAY = 0.020
"""Seconds that the proxy adds to an exchange."""
NEW, EDITED, DELETED = 600, 300, 100
"""Of the collection, against the time before."""
CHANGED = "2026-01-01T00:00:00.000Z"


def measure(folder: Path, *, quick: bool) -> None:
    """Both; the second only where there is an S3 server."""
    compare_listings(folder, 20_000 if quick else 1_000_000)
    if os.environ.get("AWS_ENDPOINT_URL_S3"):
        move_objects(folder, 200 if quick else 5_000)
    else:
        print("\nno AWS_ENDPOINT_URL_S3: no objects were moved")


# --- a million keys ---------------------------------------------------------------------------


def key(number: int) -> str:
    """As cameras and dates make them, in order."""
    return f"{2000 + number // 50000:04d}/{number // 500 % 100:02d}/IMG_{number:08d}.jpg"


def content(number: int, version: int) -> bytes:
    """The bytes of an object; its ETag is their MD5."""
    return b"picture %d, version %d" % (number, version)


def listed(count: int, *, after: bool) -> Iterator[tuple[int, int]]:
    """(number, version) of each object, before or after something changed."""
    every = count // 1000
    for number in range(count):
        turn, place = divmod(number, every)
        new, edited = place == 2 and turn < NEW, place == 3 and turn < EDITED
        deleted = place == 1 and turn < DELETED
        if not (deleted if after else new):
            yield number, int(after and edited)


def serve(count: int) -> None:
    """Answer as an S3 server would that holds these objects; ``PUT /after`` changes them."""
    state: dict[str, Any] = {}

    def fill(after: bool) -> None:
        rows = [
            (key(number), number, version, hashlib.md5(content(number, version)).hexdigest())
            for number, version in listed(count, after=after)
        ]
        state.update(rows=rows, at={row[0]: row for row in rows})

    fill(False)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one piece an answer: of two, the second would wait for a sign from afar

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, data: bytes, **headers: str) -> None:
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_PUT(self) -> None:
            fill(True)
            self.answer(b"")

        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            if "list-type" not in asked.query:
                row = state["at"][asked.path.removeprefix("/listing/")]
                self.answer(content(row[1], row[2]), ETag=f'"{row[3]}"')
                return
            first = int(parse_qs(asked.query).get("continuation-token", ["0"])[0])
            page = state["rows"][first : first + 1000]
            more = first + 1000 < len(state["rows"])
            text = "".join(
                f"<Contents><Key>{name}</Key><LastModified>{CHANGED}</LastModified><ETag>&quot;"
                f"{tag}&quot;</ETag><Size>{len(content(number, version))}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
                for name, number, version, tag in page
            )
            following = f"<NextContinuationToken>{first + 1000}</NextContinuationToken>"
            self.answer(
                f"<?xml version='1.0'?><ListBucketResult><IsTruncated>{str(more).lower()}"
                f"</IsTruncated>{following if more else ''}{text}</ListBucketResult>".encode()
            )

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


def remember(store: Path, count: int) -> None:
    """The digests of the collection before, as if it had been read then."""
    from wentu.digests import FILE, DigestCache
    from wentu.formats import bytes_digest

    path = store / FILE
    with closing(DigestCache(path)):
        pass
    with closing(sqlite3.connect(path)) as db:
        for number, version in listed(count, after=False):
            data = content(number, version)
            mark = f"{len(data)}:{hashlib.md5(data).hexdigest()}"
            row = f"s3://listing/{key(number)}".encode(), mark, bytes_digest(data).hex()
            db.execute("INSERT INTO seen VALUES (?, ?, ?)", row)
        db.commit()


def stage(store: str, out: str) -> None:
    """The stage inventory as a run has it, and what it took; a release covers what it found."""
    from wentu.stages.inventory import Config, inventory
    from wentu.store import Release, Store

    began = time.monotonic()
    answer = inventory(
        pictures="s3://listing",
        captions="names",
        store=store,
        out=Path(out),
        model="tiny",
        config=Config(scratch=True),
    )
    seconds, vault = time.monotonic() - began, Store(store)
    used = resource.getrusage(resource.RUSAGE_SELF)
    took = {"seconds": seconds, "cpu": used.ru_utime + used.ru_stime}
    took["megabytes"] = used.ru_maxrss / 1e3
    if answer.attempt and vault.current() is None:
        release = Release(
            model="m", segments=(), inventory=answer.inventory, pictures=1, dimension=1
        )
        vault.publish(vault.write_release(release), after=0, reason="train")
        vault.end_attempt(answer.attempt)
    print(json.dumps(took | {"reason": answer.reason}))


def compare_listings(folder: Path, count: int) -> None:
    """List and compare a collection twice, the second time after a thousand changes."""
    store = folder / "listing-store"
    remember(store, count)
    words = [sys.executable, "-m", "benchmarks.storage"]
    server = subprocess.Popen([*words, "serve", str(count)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        url = server.stdout.readline().strip()
        keys = {"AWS_ENDPOINT_URL_S3": url, "AWS_ACCESS_KEY_ID": "x"}
        keys |= {"AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}

        def run() -> dict[str, Any]:
            done = subprocess.run(
                [*words, "stage", str(store), str(folder / "listing-out")],
                capture_output=True,
                text=True,
                env=os.environ | keys,
            )
            assert done.returncode == 0, done.stderr[-2000:]
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found

        print(f"\ninventory of {count:,} keys, listed over HTTP, every digest remembered")
        first = run()
        import urllib.request

        urllib.request.urlopen(urllib.request.Request(f"{url}/after", b"", method="PUT")).close()
        second = run()
    finally:
        server.terminate()
        server.wait()
    for name, found in (("first", first), ("compared", second)):
        print(
            f"  {name:10} {found['seconds']:6.1f} s, {found['cpu']:.1f} s of it computing, "
            f"{found['megabytes']:.0f} MB at most: {found['reason']}"
        )
    shutil.rmtree(store)


# --- five thousand objects --------------------------------------------------------------------


def move_objects(folder: Path, count: int) -> None:
    """Up and down, the way ours goes and one after another, through the delay."""
    source = folder / "objects"
    source.mkdir()
    rng = random.Random(0)
    for number in range(count):
        (source / f"{number:05d}").write_bytes(rng.randbytes(rng.randrange(2000, 20000)))
    with Delayed(os.environ["AWS_ENDPOINT_URL_S3"], DELAY) as proxy:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.storage", "move", str(source)],
            capture_output=True,
            text=True,
            env=os.environ
            | {"AWS_ENDPOINT_URL_S3": proxy.url, "WENTU_CACHE": str(folder / "cache")},
        )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{count:,} objects of 2 to 20 KB through {1000 * DELAY:.0f} ms")
    for way in ("up", "down"):
        ours, single = found[way], found[f"{way}, one by one"]
        print(
            f"  {way:5} ours {ours:6.1f} s  one after another {single:6.1f} s  "
            f"{single / ours:5.1f} times"
        )
    shutil.rmtree(source)


def move(source: Path) -> None:
    """What ``move_objects`` measures, in a process of its own."""
    from wentu.storage.bucket import Bucket
    from wentu.storage.s3 import Objects, client

    name, seconds = f"wentu-bench-{uuid.uuid4().hex[:12]}", {}
    client().create_bucket(Bucket=name)
    try:
        bucket, single = Bucket(f"s3://{name}/a"), Objects(f"s3://{name}/b")
        began = time.monotonic()
        bucket.put_folder(source, "folder")
        seconds["up"] = time.monotonic() - began
        began = time.monotonic()
        copy = bucket.folder("folder")
        seconds["down"] = time.monotonic() - began
        names = sorted(path.name for path in source.iterdir())
        began = time.monotonic()
        for each in names:
            single.put(each, source / each)
        seconds["up, one by one"] = time.monotonic() - began
        other = copy.with_name("other")
        other.mkdir()
        began = time.monotonic()
        for each in names:
            single.download(each, other / each)
        seconds["down, one by one"] = time.monotonic() - began
        for folder in (copy, other):
            assert all(
                (folder / each).read_bytes() == (source / each).read_bytes() for each in names
            )
    finally:
        everything = Objects(f"s3://{name}")
        everything.delete([entry.key for entry in everything.list(deep=True)])
        client().delete_bucket(Bucket=name)
    print(json.dumps(seconds))


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    if what == "serve":
        serve(int(given[0]))
    elif what == "stage":
        stage(*given)
    else:
        move(Path(given[0]))
