"""gc: what nothing needs goes, what deleted pictures left goes, and what is needed stays whole."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import embed_and_promote, list_and_pair, outputs
from wentu.commands.gc import command
from wentu.commands.rollback import rolled_back
from wentu.digests import FILE
from wentu.errors import InputError
from wentu.formats import CATALOG, open_catalog
from wentu.gc import Plan, collect
from wentu.language import set_language
from wentu.search.engine import Engine
from wentu.store import Attempt, Release, Store

Refresh = Callable[..., Any]
GONE = (1, 2, 3)
"""Numbers of the pictures that tests delete."""


def current(store: str) -> Release:
    found = Store(store).current()
    assert found is not None
    return found[1]


def gc(store: str, **changed: Any) -> Plan:
    return collect(Store(store), **{"keep": 2, "grace": 0.0} | changed)


def objects(store: str) -> dict[str, bytes]:
    """Every object of a store, hidden ones too; gzipped ones unpacked."""
    storage = Store(store).storage
    found = {each.key: storage.read(each.key) for each in storage.walk("") if each.size}
    return {
        key: gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        for key, data in found.items()
    }


class Traces:
    """What pictures leave in a store: vectors, paths, captions of theirs alone, thumbnails."""

    def __init__(self, built: Any, collection: Path, numbers: tuple[int, ...]) -> None:
        names = [f"pictures/{number:04d}.png" for number in numbers]
        with closing(open_catalog(built.catalog / CATALOG)) as db:
            self.ids = [
                db.execute("SELECT picture FROM paths WHERE path = ?", (name,)).fetchone()[0]
                for name in names
            ]
            mine = ", ".join(map(str, self.ids))
            own = (
                f"SELECT text FROM texts WHERE id IN (SELECT text FROM captions WHERE picture IN "
                f"({mine})) AND id NOT IN (SELECT text FROM captions WHERE picture NOT IN ({mine}))"
            )
            self.captions = [row[0].encode() for row in db.execute(own)]
        ids, vectors = (np.load(built.features / f"{name}.npy") for name in ("ids", "vectors"))
        self.vectors = [vectors[ids == each][0].tobytes() for each in self.ids]
        self.paths = [name.encode() for name in names]
        assert self.captions

    def in_store(self, store: str) -> list[str]:
        """(what, where) of each that is found."""
        found = []
        for key, data in objects(store).items():
            for what in (*self.paths, *self.captions, *self.vectors):
                if what in data:
                    found.append(f"{what[:20]!r} in {key}")
            if key in {Store.thumbnail_key(each) for each in self.ids}:
                found.append(key)
        return found


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENTU_TRACKING", "off")


@pytest.fixture
def traces(built: Any, collection: Path) -> Traces:
    return Traces(built, collection, GONE)


def delete(collection: Path, numbers: tuple[int, ...] = GONE) -> None:
    """Pictures, and what the captions say of them."""
    for number in numbers:
        (collection / f"pictures/{number:04d}.png").unlink()
    path = collection / "cn_train.json"
    rows = json.loads(path.read_text("utf-8"))
    names = {f"pictures/{number:04d}.png" for number in numbers}
    kept = [row for row in rows if row["image"] not in names]
    path.write_text(json.dumps(kept, ensure_ascii=False), "utf-8")


# --- deleted pictures -------------------------------------------------------------------------


def test_nothing_is_left_of_deleted_pictures(
    collection: Path, store: str, refresh: Refresh, traces: Traces, built: Any
) -> None:
    delete(collection)
    refresh(collection, store, pointer=1)
    before, left = current(store), traces.in_store(store)
    assert len(left) >= 4 * len(GONE), "otherwise this test sees nothing"
    plan = gc(store)
    assert traces.in_store(store) == []
    after = current(store)
    assert (plan.dead, plan.rewritten, plan.release) == (3, 1, after.id)
    assert after.model == before.model
    assert (after.pictures, after.metrics) == (21, before.metrics)
    assert [segment.tombstones for segment in after.segments] == [()]
    Store(store).verify(after)
    pointer = Store(store).pointer()
    assert pointer is not None
    assert (pointer.number, pointer.reason) == (3, "gc")


def test_what_stays_is_found_as_before(collection: Path, store: str, refresh: Refresh) -> None:
    delete(collection)
    refresh(collection, store, pointer=1)
    with closing(Engine.open(store)) as engine:
        before = engine.search("红色圆形", k=50)
    gc(store)
    with closing(Engine.open(store)) as engine:
        after = engine.search("红色圆形", k=50)
        assert all(engine.thumbnail(hit.id) for hit in after)
    assert [(hit.id, hit.paths, hit.captions) for hit in after] == [
        (hit.id, hit.paths, hit.captions) for hit in before
    ]
    assert [hit.score for hit in after] == pytest.approx([hit.score for hit in before])


def test_segments_with_dead_rows_become_one_and_clean_ones_stay(
    collection: Path, store: str, refresh: Refresh, draw: Any
) -> None:
    draw(collection, [200, 201])
    refresh(collection, store, pointer=1)
    draw(collection, [300])
    refresh(collection, store, pointer=2)
    clean = current(store).segments[2]
    for number in (3, 200):
        (collection / f"pictures/{number:04d}.png").unlink()
    refresh(collection, store, pointer=3)
    assert [len(segment.tombstones) for segment in current(store).segments] == [1, 1, 0]
    plan = gc(store)
    assert (plan.dead, plan.rewritten) == (2, 2)
    release = current(store)
    assert len(release.segments) == 2
    assert release.segments[0] == clean
    assert release.pictures == 25
    with closing(Engine.open(store)) as engine:
        assert len(engine.search("红色", k=100)) == 25
        data = (collection / "pictures/0201.png").read_bytes()
        assert engine.search(picture=data, k=1)[0].paths == ("pictures/0201.png",)


def test_equal_content_keeps_its_digest(
    built: Any, collection: Path, store: str, refresh: Refresh, tmp_path: Path
) -> None:
    """Compacted here, or written as one segment by features: the same segment."""
    delete(collection)
    refresh(collection, store, pointer=1)
    gc(store)
    fresh = str(tmp_path / "fresh")
    run(built, collection, fresh, tmp_path / "run")
    assert current(fresh).segments == current(store).segments


def test_a_second_gc_finds_nothing(collection: Path, store: str, refresh: Refresh) -> None:
    delete(collection)
    refresh(collection, store, pointer=1)
    gc(store)
    before, release = objects(store), current(store)
    assert gc(store) == Plan(release=release.id)
    assert objects(store) == before


def test_changed_captions_leave_too(
    collection: Path, store: str, refresh: Refresh, built: Any
) -> None:
    path = collection / "cn_train.json"
    rows = json.loads(path.read_text("utf-8"))
    old = list(rows[3]["caption"])
    rows[3]["caption"] = ["完全不同的一句话"]
    path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    refresh(collection, store, pointer=1)
    others = {text for row in rows for text in row["caption"]}
    (secret, *_) = [text for text in old if text not in others]
    gc(store)
    assert not [key for key, data in objects(store).items() if secret.encode() in data]
    with closing(Engine.open(store)) as engine:
        data = (collection / "pictures/0003.png").read_bytes()
        assert engine.search(picture=data, k=1)[0].captions == ("完全不同的一句话",)


def test_a_deleted_picture_still_counts_as_a_change_since_the_last_training(
    collection: Path, store: str, refresh: Refresh, tmp_path: Path, draw: Any
) -> None:
    delete(collection)
    refresh(collection, store, pointer=1)
    gc(store)
    gc(store)
    draw(collection, [200])
    answer = look(tmp_path / "look", collection, store, min_new=5)
    assert answer.decision == "refresh"
    answer = look(tmp_path / "look", collection, store, min_new=4)
    assert answer.reason.startswith("1 new, 0 edited, 3 deleted")
    assert answer.decision == "train"


def look(root: Path, collection: Path, store: str, **settings: Any) -> Any:
    from wentu.stages.inventory import Config, inventory

    return inventory(
        pictures=str(collection),
        captions=str(collection),
        store=store,
        out=root,
        model="tiny" if settings.get("train", True) else "",
        config=Config(scratch=True, **settings),
    )


def test_remembered_digests_of_deleted_files_go_and_others_stay(
    collection: Path, store: str, refresh: Refresh
) -> None:
    delete(collection)
    refresh(collection, store, pointer=1)
    gc(store)
    with closing(sqlite3.connect(Path(store) / FILE)) as db:
        assert db.execute("SELECT count(*) FROM seen").fetchone()[0] == 21


# --- what nothing needs -----------------------------------------------------------------------


def run(built: Any, collection: Path, store: str, root: Path, bundle: Path | None = None) -> None:
    """Inventory to promote with a named model, into any store."""
    winner = bundle or built.winner
    before = Store(store).pointer()
    said = str(collection)
    answer = list_and_pair(root, collection, said, store, train=False, model=str(winner))
    paths = outputs(root, collection, said, store) | {"winner": winner}
    done = replace(built, **paths, answer=answer)
    embed_and_promote(done, pointer=before.number if before else 0, train=False)


@pytest.fixture
def another(built: Any, tmp_path: Path) -> Callable[[int], Path]:
    """Another model: the same one under another name."""

    def make(number: int) -> Path:
        other = tmp_path / f"model-{number}"
        if other.exists():
            return other
        shutil.copytree(built.winner, other)
        info = json.loads((other / "bundle.json").read_text("utf-8"))
        (other / "bundle.json").unlink()
        (other / "bundle.json").write_text(json.dumps(info | {"epoch": 90 + number}), "utf-8")
        return other

    return make


def test_of_models_that_are_no_more_current_the_last_ones_stay(
    built: Any, collection: Path, store: str, tmp_path: Path, another: Callable[[int], Path]
) -> None:
    models = [current(store).model]
    for number in range(3):
        run(built, collection, store, tmp_path / f"run-{number}", another(number))
        models.append(current(store).model)
    assert len(set(models)) == 4
    vault = Store(store)
    plan = gc(store, keep=1)
    assert set(vault.storage.list("models")) == set(models[2:])
    assert plan.removed["models"].count == 2
    assert plan.removed["models"].size > 1e6
    found = rolled_back(vault, None)
    assert vault.release(found.release).model == models[2]
    with closing(Engine.open(store)) as engine:
        assert len(engine.search("红色", k=100)) == 24


def test_back_to_an_earlier_model_without_what_was_deleted_since(
    built: Any,
    collection: Path,
    store: str,
    tmp_path: Path,
    another: Callable[[int], Path],
    traces: Traces,
) -> None:
    first = current(store).model
    run(built, collection, store, tmp_path / "second", another(1))
    delete(collection)
    run(built, collection, store, tmp_path / "third", another(1))
    gc(store)
    assert traces.in_store(store) == []
    vault = Store(store)
    found = rolled_back(vault, None)
    release = vault.release(found.release)
    vault.verify(release)
    assert (release.model, release.pictures, found.pinned) == (first, 21, True)
    with closing(Engine.open(store)) as engine:
        hits = engine.search("红色", k=100)
    assert len(hits) == 21
    assert not {hit.id for hit in hits} & set(traces.ids)
    answer = look(tmp_path / "look", collection, store, max_deleted=0.0, train=False)
    assert answer.decision == "refresh"  # the listing is another one than it had
    gc(store)
    assert traces.in_store(store) == []


def test_leftovers_of_killed_writers_and_unused_parts_go(store: str) -> None:
    home = Path(store)
    for name in ("segments/.abc.x.tmp/a", "models/.part.tmp/b", "segments/unused/ids.npy"):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_bytes(b"x" * 1000)
    for name in ("thumbnails/00/5.jpg", "inventories/x.jsonl.gz", "releases/.r.json.9.tmp"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes(b"x" * 10)
    (home / "work" / "0123").mkdir(parents=True)
    (home / "work" / "0123" / "state.pt").write_bytes(b"x" * 100)
    for name in ("trainings/0123/job.json", "parts/4567/train/data.mdb"):  # of several machines
        (home / name).parent.mkdir(parents=True)
        (home / name).write_bytes(b"x" * 50)
    shard = home / "runs/r/artifacts/wentu-1/for-loop-2-iteration-0/features-2/vectors"
    shard.mkdir(parents=True)
    (shard / "vectors.npy").write_bytes(b"x" * 70)
    before = current(store)
    plan = gc(store, dry_run=True)
    counts = {kind: (each.count, each.size) for kind, each in plan.removed.items()}
    assert counts["segments"] == (2, 2000)
    assert counts["models"] == (1, 1000)
    assert counts["thumbnails"] == (1, 10)
    assert counts["releases"] == (1, 10)
    assert counts["work"] == (1, 100)
    assert (counts["trainings"], counts["parts"]) == ((1, 50), (1, 50))
    assert counts["runs"] == (1, 70)
    assert (home / "work/0123/state.pt").exists()
    assert gc(store) == plan
    assert current(store) == before
    Store(store).verify(before)
    assert {path.name for path in home.glob("*/*") if path.name[0] == "."} == set()
    assert not (home / "work" / "0123").exists()
    assert sum(1 for _ in home.glob("thumbnails/*/*.jpg")) == 24


# --- what must not be disturbed ---------------------------------------------------------------


def test_what_was_served_lately_stays_for_the_services_that_serve_it(
    collection: Path, store: str, refresh: Refresh, traces: Traces
) -> None:
    old = current(store)
    delete(collection)
    refresh(collection, store, pointer=1)
    with closing(Engine.open(store)) as running:
        gc(store, grace=3600.0)
        Store(store).verify(old)
        assert traces.in_store(store)
        assert [segment.tombstones for segment in current(store).segments] == [()]
        gc(store)
        assert traces.in_store(store) == []
        assert len(running.search("红色", k=100)) == 21  # it holds what it opened


def test_a_dry_run_changes_nothing(
    collection: Path, store: str, refresh: Refresh, traces: Traces
) -> None:
    delete(collection)
    refresh(collection, store, pointer=1)
    before = objects(store)
    plan = gc(store, dry_run=True)
    assert (plan.dead, plan.rewritten) == (3, 1)
    assert plan.removed["thumbnails"].count == 3
    assert objects(store) == before


def test_a_training_under_way_is_not_made_stale(
    collection: Path, store: str, refresh: Refresh, traces: Traces
) -> None:
    delete(collection)
    refresh(collection, store, pointer=1)
    vault = Store(store)
    listing = current(store).inventory
    number = vault.record_attempt(Attempt(inventory=listing, settings="s", pictures=1))
    (Path(store) / "work/abc").mkdir()
    (Path(store) / "work/abc/state").write_bytes(b"x")
    (Path(store) / "trainings/abc").mkdir(parents=True)
    (Path(store) / "trainings/abc/job.json").write_bytes(b"x")
    pictures = set((Path(store) / "thumbnails").rglob("*.jpg"))
    before = vault.pointer()
    assert "a training is under way" in gc(store).waits
    assert vault.pointer() == before
    assert (Path(store) / "work/abc/state").exists()
    assert (Path(store) / "trainings/abc/job.json").exists()
    # A picture that comes back takes its vector from the dead row, and is not decoded again.
    assert set((Path(store) / "thumbnails").rglob("*.jpg")) == pictures
    vault.end_attempt(number)
    assert not gc(store).waits
    assert not (Path(store) / "work/abc").exists()
    assert not (Path(store) / "trainings/abc").exists()
    assert len(set((Path(store) / "thumbnails").rglob("*.jpg"))) < len(pictures)


def test_a_run_at_work_is_waited_for_by_the_user(store: str) -> None:
    with (
        Store(store).storage.lock("run"),
        pytest.raises(InputError, match=r"a run is working on .*; run gc when it is done"),
    ):
        gc(store)


def test_mistakes_are_told(store: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give 0 or more"):
        gc(store, keep=-1)
    with pytest.raises(InputError, match="has no release yet"):
        gc(str(tmp_path / "empty"))


def test_the_command_says_what_it_did(
    collection: Path, store: str, refresh: Refresh, capsys: pytest.CaptureFixture[str]
) -> None:
    delete(collection)
    refresh(collection, store, pointer=1)
    capsys.readouterr()
    words = ["--store", store, "--grace-hours", "0", "--keep", "1"]
    command().main([*words, "--dry-run"], standalone_mode=False)
    said = capsys.readouterr().out
    assert "1 segments would be written anew without 3 rows of deleted or replaced" in said
    assert "Would remove: 3 thumbnails (" in said
    command().main(words, standalone_mode=False)
    said = capsys.readouterr().out
    assert "1 segments written anew without 3 rows" in said
    assert "Removed: 1 segments (" in said
    assert f"Release {current(store).id} is current." in said
    set_language("zh")
    command().main(words, standalone_mode=False)
    assert capsys.readouterr().out.startswith("已清理: 无; 0 B.")


# --- in a bucket ------------------------------------------------------------------------------


def test_nothing_is_left_of_deleted_pictures_in_a_bucket(
    built: Any, collection: Path, bucket: str, tmp_path: Path, traces: Traces
) -> None:
    store = f"s3://{bucket}/{uuid.uuid4().hex[:8]}"
    run(built, collection, store, tmp_path / "first")
    delete(collection)
    run(built, collection, store, tmp_path / "second")
    assert traces.in_store(store)
    plan = gc(store)
    assert plan.dead == 3
    assert traces.in_store(store) == []
    Store(store).verify(current(store))
    with closing(Engine.open(store)) as engine:
        assert len(engine.search("红色", k=100)) == 21
    assert gc(store) == Plan(release=current(store).id)
