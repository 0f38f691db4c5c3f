"""Following the pointer: new releases, broken ones, and none, under load."""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.search.serving import POLL, pictures_of, served, until
from wentu.search.current import Current
from wentu.store import Release, Store

TEXT = {"text": "红色圆形", "k": 24, "all": True}


@pytest.fixture
def two(collection: Path, store: str, refresh: Any, draw: Any) -> tuple[str, str, str]:
    """A store with two releases, the second without picture 3 and with another; both their ids."""
    draw(collection, [200])
    (collection / "pictures/0003.png").unlink()
    refresh(collection, store, pointer=1)
    vault = Store(store)
    first, second = (pointer.release for pointer in vault.pointers())
    (Path(store) / "pointer/00000002.json").unlink()
    return store, first, second


def release_of(client: httpx.Client) -> str:
    return str(client.get("/readyz").json()["release"])


def test_a_store_without_a_release_is_waited_for(store: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    with served(str(empty), ready=False) as client:
        until(lambda: "no release yet" in client.get("/readyz").json()["problem"])
        assert str(tmp_path) not in client.get("/readyz").text
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        answer = client.post("/api/v1/search", json=TEXT)
        assert answer.status_code == 503
        assert answer.json() == {"error": "nothing can be searched yet; /readyz says why."}
        assert answer.headers["retry-after"]
        assert "wentu_ready 0\n" in client.get("/metrics").text
        for part in ("models", "segments", "calibrations", "thumbnails", "releases", "pointer"):
            shutil.copytree(Path(store) / part, empty / part)
        until(lambda: client.get("/readyz").status_code == 200)
        assert len(client.post("/api/v1/search", json=TEXT).json()["hits"]) == 24


def test_no_query_fails_while_releases_are_swapped(
    built: Any, two: tuple[str, str, str], tmp_path: Path
) -> None:
    """Two in turn, ten times, under four clients; every answer is of one of them, whole."""
    store, first, second = two
    vault, wrong, seen, stop = Store(store), list[str](), set[str](), threading.Event()
    picture = pictures_of(built)[0].read_bytes()

    def ask(client: httpx.Client, number: int) -> None:
        while not stop.is_set():
            if number % 2:
                answer = client.post("/api/v1/search", json=TEXT)
            else:
                answer = client.post(
                    "/api/v1/search/picture", files={"picture": picture}, data={"k": "24"}
                )
            if answer.status_code != 200:
                wrong.append(answer.text)
                continue
            value = answer.json()
            seen.add(value["release"])
            names = {Path(hit["paths"][0]).name for hit in value["hits"]}
            right = ("0003.png" if value["release"] == first else "0200.png") in names
            if not right or len(names) != 24:
                wrong.append(f"{value['release']}: {sorted(names)}")

    with served(store) as client:
        threads = [threading.Thread(target=ask, args=(client, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for number in range(1, 11):
            goal = second if number % 2 else first
            vault.publish(goal, after=number, reason="refresh")
            until(lambda goal=goal: release_of(client) == goal)  # type: ignore[misc]
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert seen == {first, second}
        assert "wentu_swaps_total 11\n" in client.get("/metrics").text


def test_what_is_the_same_in_two_releases_is_opened_once(two: tuple[str, str, str]) -> None:
    store, _, second = two
    vault = Store(store)
    current = Current(vault)
    current.look()
    with current.engine() as old:
        vault.publish(second, after=1, reason="refresh")
        current.look()
        with current.engine() as new:
            assert new is not old
            assert new.bundle is old.bundle
            assert new._segments[0] is old._segments[0]
        assert len(old.search("红色圆形", k=24)) == 24  # still in use: still open
    assert old._segments == []
    with current.engine() as new:
        assert len(new.search("红色圆形", k=24)) == 24
    kept = list(new._segments)
    current.close()
    assert [segment._users for segment in kept] == [0, 0]


# --- broken releases --------------------------------------------------------------------------


def written(store: str, change: Callable[[dict[str, Any]], object], identity: str) -> str:
    """A release that is like another one but for a change that no wentu would make."""
    path = Path(store) / "releases" / f"{identity}.json"
    value = json.loads(path.read_text("utf-8"))
    change(value)
    value["id"] = "f" * 16
    path.with_name(f"{'f' * 16}.json").write_text(json.dumps(value), "utf-8")
    return "f" * 16


def without_segment(store: str, second: str) -> str:
    release = Store(store).release(second)
    shutil.rmtree(Path(store) / "segments" / release.segments[1].digest)
    return second


def cut_index(store: str, second: str) -> str:
    path = new_segment(store, second) / "index.faiss"
    path.write_bytes(path.read_bytes()[:100])
    return second


def other_ids(store: str, second: str) -> str:
    """Files that fit each other no more."""
    first = Store(store).release(second).segments[0].digest
    shutil.copy(Path(store) / "segments" / first / "ids.npy", new_segment(store, second))
    return second


def no_catalog(store: str, second: str) -> str:
    (new_segment(store, second) / "catalog.sqlite").write_bytes(b"nothing of the kind" * 100)
    return second


def changed_vector(store: str, second: str) -> str:
    """Nothing but the digest tells."""
    path = new_segment(store, second) / "vectors.npy"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    return second


def another_format(store: str, second: str) -> str:
    return written(store, lambda value: value.update(format=99), second)


def no_model(store: str, second: str) -> str:
    return written(store, lambda value: value.update(model="0" * 32), second)


def wrong_dimension(store: str, second: str) -> str:
    return written(store, lambda value: value.update(dimension=7), second)


def nothing_at_all(store: str, second: str) -> str:
    return "e" * 16


def new_segment(store: str, release: str) -> Path:
    """The folder of the segment that is new in the second release."""
    found: Release = Store(store).release(release)
    folder = Path(store) / "segments" / found.segments[1].digest
    for path in folder.iterdir():  # hard links to what other tests use
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    return folder


BROKEN = [without_segment, cut_index, other_ids, no_catalog, changed_vector]
BROKEN += [another_format, no_model, wrong_dimension, nothing_at_all]


@pytest.mark.parametrize("harm", BROKEN, ids=lambda harm: harm.__name__)
def test_a_broken_release_leaves_the_last_good_one(
    two: tuple[str, str, str], harm: Callable[[str, str], str]
) -> None:
    store, first, second = two
    with served(store) as client:
        vault = Store(store)
        vault.publish(harm(store, second), after=1, reason="refresh")
        until(lambda: "pointer 2" in client.get("/readyz").json()["problem"])
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["release"], ready.json()["pointer"]) == (
            200,
            first,
            1,
        )
        assert "wentu_release_broken 1\n" in client.get("/metrics").text
        fixed = "pointer 2 cannot be served; the log of the service says why."
        assert client.get("/api/v1/release").json()["problem"] == ready.json()["problem"] == fixed
        hits = client.post("/api/v1/search", json=TEXT).json()
        assert (hits["release"], len(hits["hits"])) == (first, 24)
        vault.publish(first, after=2, reason="rollback", pinned=True)
        until(lambda: client.get("/readyz").json()["pointer"] == 3)
        assert client.get("/readyz").json()["problem"] == ""
    with served(store) as client:
        assert release_of(client) == first


def test_a_release_that_was_wrong_serves_only_when_it_is_right(
    two: tuple[str, str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """It may answer while its digests are looked at, but once."""
    store, first, second = two
    vault, told = Store(store), list[str]()
    current = Current(vault, poll=0.0, tell=lambda engine: told.append(engine.release.id))
    current.look()
    path = new_segment(store, second) / "vectors.npy"
    right = path.read_bytes()
    changed_vector(store, second)
    vault.publish(second, after=1, reason="refresh")
    for _ in range(3):
        current.look()
        with current.engine() as engine:
            assert engine.release.id == first
    assert told == [first, second]
    assert current.state().failures == 3
    (line,) = caplog.messages
    assert "vectors.npy is missing or was changed" in line, "the log says what and where"
    path.write_bytes(right)
    current.look()
    assert told == [first, second, second]
    assert current.state().verified
    current.close()


@pytest.mark.parametrize("harm", [without_segment, changed_vector], ids=lambda h: h.__name__)
def test_a_start_on_a_broken_release_takes_the_one_before(
    two: tuple[str, str, str], harm: Callable[[str, str], str]
) -> None:
    store, first, second = two
    Store(store).publish(harm(store, second), after=1, reason="refresh")
    with served(store) as client:
        ready = client.get("/readyz").json()
        assert (ready["release"], ready["pointer"], ready["ready"]) == (first, 1, True)
        assert "pointer 2" in ready["problem"]


def test_a_release_that_was_broken_for_a_while_is_served_later(two: tuple[str, str, str]) -> None:
    store, _, second = two
    segment = new_segment(store, second)
    away = segment.with_name(".away")
    segment.rename(away)
    with served(store) as client:
        Store(store).publish(second, after=1, reason="refresh")
        until(lambda: "pointer 2" in client.get("/readyz").json()["problem"])
        away.rename(segment)
        until(lambda: release_of(client) == second)
        assert client.get("/readyz").json()["problem"] == ""
        assert POLL < 1


# --- in an object store -----------------------------------------------------------------------


def put_into(bucket: str, two: tuple[str, str, str]) -> str:
    """The store with both releases, the first one current, in a bucket."""
    store, first, _ = two
    here, there = Store(store), Store(f"s3://{bucket}/{uuid.uuid4().hex[:8]}")
    for key in ("models", "segments", "calibrations"):
        for name in here.storage.list(key):
            there.storage.put_folder(Path(store) / key / name, f"{key}/{name}")
    for path in Path(store).glob("*/**/*"):
        key = path.relative_to(store).as_posix()
        if path.is_file() and key.startswith(("thumbnails/", "releases/")):
            there.storage.write(key, path.read_bytes())
    there.publish(first, after=0, reason="train")
    return there.place


def test_a_store_in_a_bucket_is_served_and_followed(bucket: str, two: tuple[str, str, str]) -> None:
    _, first, second = two
    place = put_into(bucket, two)
    with served(place) as client:
        assert release_of(client) == first
        hit = client.post("/api/v1/search", json=TEXT).json()["hits"][0]
        small = client.get(f"/api/v1/pictures/{hit['id']}/thumbnail")
        assert (small.status_code, small.content[:3]) == (200, b"\xff\xd8\xff")
        Store(place).publish(second, after=1, reason="refresh")
        until(lambda: release_of(client) == second)
        names = {
            Path(found["paths"][0]).name
            for found in client.post("/api/v1/search", json=TEXT).json()["hits"]
        }
        assert "0200.png" in names
        assert "0003.png" not in names
        until(lambda: client.get("/readyz").json()["verified"])
