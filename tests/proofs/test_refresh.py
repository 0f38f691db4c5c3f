"""What a second run does: nothing, a refresh of what is new, or another training."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.proofs.conftest import Run, draw_collection, last_run, must
from wentu.search.engine import Engine
from wentu.store import Store

pytestmark = pytest.mark.heavy
TWENTY = {"more": 20}


def counts(store: Path) -> dict[str, dict[str, object]]:
    return {stage["name"]: stage["counts"] for stage in last_run(store)["stages"]}


def test_nothing_new_is_said_in_seconds_and_twenty_more_pictures_are_refreshed_and_found(
    first_run: Run, tmp_path: Path
) -> None:
    mine = first_run.copy(tmp_path)
    collection, store, words = mine.collection, mine.store, [*mine.words, "--min-new", "50"]
    first = Store(str(store)).current()
    assert first is not None

    began = time.monotonic()
    said = must(*words)
    assert time.monotonic() - began < 10, "nothing new took ten seconds"
    assert "Nothing new" in said
    assert last_run(store)["decision"] == "skip"

    draw_collection(collection, TWENTY, first=500)
    must(*words)
    assert last_run(store)["decision"] == "refresh"
    assert counts(store)["features"]["embedded"] == 20
    second = Store(str(store)).current()
    assert second is not None
    assert second[1].model == first[1].model
    assert second[1].pictures == first[1].pictures + 20
    engine = Engine.open(str(store))
    for number in range(500, 520):
        path = collection / f"pictures/{number:04d}.png"
        hit = engine.search(picture=path.read_bytes(), k=1)[0]
        assert hit.paths == (f"pictures/{number:04d}.png",)
        assert hit.score > 0.9999
    engine.close()

    for number in range(500, 505):
        (collection / f"pictures/{number:04d}.png").unlink()
    gone = (collection / "pictures/0000.png").read_bytes()
    (collection / "pictures/0000.png").rename(collection / "pictures/改名 了.png")
    must(*words)
    assert last_run(store)["decision"] == "refresh"
    assert counts(store)["features"]["embedded"] == 0, "a renamed picture is not embedded again"
    engine = Engine.open(str(store))
    hits = engine.search("红色", k=1000)
    assert len(hits) == first[1].pictures + 15
    assert engine.search(picture=gone, k=1)[0].paths == ("pictures/改名 了.png",)
    engine.close()

    (collection / "pictures/改名 了.png").rename(collection / "pictures/0000.png")
    more = [*words, "--epochs", "6"]
    must(*more)
    assert last_run(store)["decision"] == "train", "another number of epochs is a change"

    # Serve another model for certain, whatever the verdict on that training was.
    latest = max(store.glob("runs/*/artifacts/*/finetune/checkpoint/epoch_latest.pt"))
    must(*mine.words[: mine.words.index("--model")], "--no-train", "--model", str(latest))
    other = Store(str(store)).current()
    assert other is not None
    must("rollback", "--store", str(store))
    back = Store(str(store)).current()
    assert back is not None
    assert back[0].pinned
    assert back[1].model != other[1].model
    assert back[1].pictures == first[1].pictures + 15, "pictures added since stay"
    table = must("compare", "--store", str(store))
    assert "epochs" in table
    found = json.loads(
        must("search", "红色圆形", "-k", "3", "--json", "--all", "--store", str(store))
    )
    assert len(found) == 3
    assert all(isinstance(hit["id"], str) for hit in found)
