"""New pictures in a bucket: its notification starts one run, they are found; deleted ones go.

The notifications are those of a real server, sent to a topic that pushes to `wentu watch`. Only
creations are subscribed to: the gateway of Ceph 16 aborts where a deletion of many is to be told.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.proofs.conftest import command, draw_collection, must, wait_until
from wentu.cli import COMMANDS
from wentu.formats import CATALOG, open_catalog
from wentu.search.engine import Engine
from wentu.storage.s3 import Objects, client
from wentu.store import Store

pytestmark = pytest.mark.heavy

TOKEN = "proof-token"
BATCH, BATCHES, MIN_NEW = 50, 10, 400
"""Nightly batches."""
SIZES = {"train": 24, "valid": 8, "test": 12}
GONE = (500, 501, 3)
"""Pictures that are deleted in the end: two that came later, one of the first."""


@pytest.fixture
def pictures() -> Iterator[Objects]:
    """A bucket of its own: in it nothing may be deleted many at a time while it notifies."""
    if not os.environ.get("AWS_ENDPOINT_URL_S3"):
        pytest.skip("needs an S3 server: start any, and set AWS_ENDPOINT_URL_S3 and its keys")
    name = f"wentu-test-{uuid.uuid4().hex[:12]}"
    client().create_bucket(Bucket=name)
    objects = Objects(f"s3://{name}")
    yield objects
    for entry in list(objects.list(deep=True)):
        client().delete_object(Bucket=name, Key=entry.key)
    client().delete_bucket(Bucket=name)


@contextmanager
def notifying(bucket: str, address: str) -> Iterator[None]:
    """The bucket tells that address of new objects; skips where the server cannot."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    topics = boto3.client("sns", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
    try:
        made = topics.create_topic(
            Name=uuid.uuid4().hex[:12], Attributes={"push-endpoint": address}
        )
        topic = {"Id": "new", "TopicArn": made["TopicArn"], "Events": ["s3:ObjectCreated:*"]}
        client().put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"TopicConfigurations": [topic]}
        )
    except (ClientError, BotoCoreError) as error:
        pytest.skip(f"this S3 server cannot push notifications to an address ({error})")
    yield
    topics.delete_topic(TopicArn=made["TopicArn"])


@contextmanager
def started(*words: str, ready: str, log: Path) -> Iterator[str]:
    """A command that goes on; its first line with ``ready`` in it."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command(*words), stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"LANG": "C"}
        )
        try:

            def line() -> str:
                lines = log.read_text("utf-8").splitlines()
                assert process.poll() is None, "\n".join(lines[-20:])
                return next((each for each in lines if ready in each), "")

            yield wait_until(line, 120, f"{words[0]} to be ready")
        finally:
            process.terminate()
            process.wait(30)


Find = Callable[[Path], list[str]]


@contextmanager
def searching(store: str, log: Path) -> Iterator[Find]:
    """Paths of the picture that is most like a given one: by the running service."""
    if "serve" not in COMMANDS:  # then as the service does it, but opened anew

        def find(picture: Path) -> list[str]:
            with closing(Engine.open(store)) as engine:
                return list(engine.search(picture=picture.read_bytes(), k=1)[0].paths)

        yield find
        return
    import httpx

    with started("serve", "--store", store, "--port", "0", ready="http://", log=log) as line:
        url = line.split()[0]

        def ask(picture: Path) -> list[str]:
            files, head = {"picture": picture.read_bytes()}, {"Authorization": f"Bearer {TOKEN}"}
            answer = httpx.post(
                f"{url}/api/v1/search/picture",
                files=files,
                data={"k": "1"},
                headers=head,
                timeout=30,
            )
            answer.raise_for_status()
            return list(answer.json()["hits"][0]["paths"])

        yield ask


def runs(store: Store) -> list[dict[str, Any]]:
    """run.json of every run that is over, oldest first."""
    paths = sorted(store.storage.home.glob("runs/*/run.json"))
    found = [json.loads(path.read_text("utf-8")) for path in paths]
    return [run for run in found if run["status"] != "running"]


def traces(store: Store, names: list[str]) -> list[bytes]:
    """What a store holds of pictures: paths, vectors, captions of their own, thumbnails' keys."""
    current = store.current()
    assert current is not None
    found = [name.encode() for name in names]
    for segment in current[1].segments:
        folder = store.segment(segment.digest)
        ids, vectors = (np.load(folder / f"{name}.npy") for name in ("ids", "vectors"))
        with closing(open_catalog(folder / CATALOG)) as db:
            for name in names:
                row = db.execute("SELECT picture FROM paths WHERE path = ?", (name,)).fetchone()
                if not row:
                    continue
                found.append(Store.thumbnail_key(row[0]).encode())
                found.append(vectors[ids == row[0]][0].tobytes())
                own = (
                    "SELECT text FROM texts WHERE id IN (SELECT text FROM captions GROUP BY text "
                    "HAVING min(picture) = ? AND max(picture) = ?)"
                )
                found += [text.encode() for (text,) in db.execute(own, (row[0], row[0]))]
    return found


def holding(store: Store, wanted: list[bytes]) -> list[str]:
    """Where in a store any of these is: in a key or in an object's bytes."""
    found = []
    for each in store.storage.walk(""):
        data = each.key.encode() + b"\n" + (store.storage.read(each.key) if each.size else b"")
        body = data.partition(b"\n")[2]
        if body[:2] == b"\x1f\x8b":
            data += gzip.decompress(body)
        found += [f"{what[:30]!r} in {each.key}" for what in wanted if what in data]
    return found


def test_new_pictures_are_told_by_the_bucket_and_found_and_deleted_ones_leave_nothing(
    pictures: Objects, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENTU_TRACKING", "off")
    monkeypatch.setenv("WENTU_TOKEN", TOKEN)
    drawn = draw_collection(tmp_path / "drawn", SIZES)
    place, vault = f"s3://{bucket}/{uuid.uuid4().hex[:8]}", pictures.place
    for path in sorted(drawn.rglob("*.*")):
        pictures.put(path.relative_to(drawn).as_posix(), path)
    captions = [word for split in SIZES for word in ("--captions", f"{vault}/cn_{split}.json")]
    options = ["--pictures", vault, *captions, "--store", place, "--min-new", str(MIN_NEW)]
    options += ["--model", "tiny", "--scratch", "--epochs", "1", "--batch-size", "16"]
    must("run", *options)
    store = Store(place)
    assert [run["decision"] for run in runs(store)] == ["train"]

    assert any(seconds_of_nothing_new(options) < 15 for _ in range(3))

    before = len(runs(store))
    watch = ["watch", "--port", "0", "--quiet-seconds", "2", "--state", str(tmp_path / "state")]
    with (
        searching(place, tmp_path / "serve.log") as find,
        started(*watch, "--", *options, ready="listening", log=tmp_path / "watch.log") as line,
        notifying(pictures.bucket, address_of(line)),
    ):
        for batch in range(BATCHES):
            first = 500 + BATCH * batch
            draw_collection(drawn, {"more": BATCH}, first=first)
            new = [f"pictures/{number:04d}.png" for number in range(first, first + BATCH)]
            for name in new:
                pictures.put(name, drawn / name)
            came(store, line, before + batch + 1)
            seen(find, drawn, new[-1])
        found = [run["decision"] for run in runs(store)[before:]]
        assert len(found) == BATCHES, "one run for each batch"
        assert found.count("train") == 1, found
        assert found.index("train") == MIN_NEW // BATCH - 1
        assert set(found) == {"train", "refresh"}

        names = [f"pictures/{number:04d}.png" for number in GONE]
        left = traces(store, names)
        for name in names:
            client().delete_object(**pictures.where(name))
        must("run", *options)
        last = runs(store)[-1]
        assert (last["decision"], "3 deleted" in last["reason"]) == ("refresh", True)
        wait_until(
            lambda: not any(name in find(drawn / name) for name in names), 60, "them to be gone"
        )
    assert holding(store, left), "otherwise this proves nothing"
    said = must("gc", "--store", place, "--grace-hours", "0")
    assert "rows of deleted or replaced pictures" in said
    assert holding(store, left) == []
    with closing(Engine.open(place)) as engine:
        hits = engine.search("红色", k=1000)
        assert len(hits) == sum(SIZES.values()) + BATCH * BATCHES - len(GONE)
        assert all(engine.thumbnail(hit.id) for hit in hits)
    assert "Nothing new" in must("run", *options)


def seconds_of_nothing_new(options: list[str]) -> float:
    """How long a run takes that has nothing to do: on a machine that others keep busy, computes."""
    busy = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Nothing new" in must("run", *options)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"nothing new: {seconds:.1f} s, {computed:.1f} s of it computing")
    return computed if busy else seconds


def came(store: Store, line: str, count: int) -> None:
    """Wait until there were so many runs, and the receiver is idle."""
    wait_until(lambda: len(runs(store)) >= count, 600, f"run {count}")
    wait_until(lambda: idle(line), 60, "watch to be idle")


def seen(find: Find, folder: Path, name: str) -> None:
    """Wait until a picture is found under its name."""
    wait_until(lambda: name in find(folder / name), 120, f"{name} to be found")


def address_of(line: str) -> str:
    """Where the receiver listens, with the token that Ceph cannot put into a header."""
    url = line.split("listening on ")[1].split()[0]
    return f"{url}?token={TOKEN}"


def idle(line: str) -> bool:
    """Does the receiver neither wait nor run?"""
    health = address_of(line).partition("/events")[0] + "/healthz"
    with urllib.request.urlopen(health, timeout=10) as answer:
        state = json.load(answer)
    return not state["waiting"] and not state["running"]
