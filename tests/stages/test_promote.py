"""promote: a whole new release becomes current, or nothing changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wentu.clip.bundle import bundle_digest
from wentu.errors import QualityError, StaleError
from wentu.formats import file_sha256, read_manifest
from wentu.stages.promote import Config, evaluation_key, promote, publish
from wentu.store import Pointer, Release, Store
from wentu.tracking import Tracker

Refresh = Callable[..., Any]


def again(run: Any, store: str, out: Path, **changed: Any) -> dict[str, Any]:
    """Promote the outputs of ``run`` once more; returns release.json."""
    given: dict[str, Any] = {
        "catalog": run.catalog,
        "bundle": run.winner,
        "index": run.index,
        "store": store,
        "inventory": run.answer.inventory,
        "config": Config(),
        "evaluation": run.evaluation,
        "attempt": run.answer.attempt,
        "pictures": str(run.collection),
        "captions": run.captions,
    }
    promote(**given | changed, out=out)
    value: dict[str, Any] = json.loads((out / "release.json").read_text())
    return value


def current(store: str) -> tuple[Pointer, Release]:
    found = Store(store).current()
    assert found is not None
    return found


# --- what it writes ---------------------------------------------------------------------------


def test_a_release_is_current_and_whole(built: Any) -> None:
    pointer, release = current(built.store)
    assert (pointer.number, pointer.reason, pointer.pinned) == (1, "train", False)
    written = json.loads((built.promoted / "release.json").read_text())
    assert written == {"release": release.id, "pointer": 1}
    assert release.model == bundle_digest(built.winner)
    assert release.inventory == built.answer.inventory
    assert (release.pictures, release.dimension) == (24, 128)
    said = json.loads((built.evaluation / "evaluation.json").read_text("utf-8"))["verdict"]
    assert release.parameters == {
        **{"pictures": str(built.collection), "captions": built.captions},
        "note": said["reason"],
    }
    manifest = read_manifest(built.promoted, "promote")
    assert manifest.counts == {"release": release.id, "pictures": 24}


def test_a_release_names_every_file_with_its_digest(built: Any) -> None:
    store = Store(built.store)
    _, release = current(built.store)
    store.verify(release)
    folders = [store.model(release.model), *(store.segment(s.digest) for s in release.segments)]
    folders.append(store.calibration(release.calibration["known"]))
    files = [p for folder in folders for p in folder.rglob("*") if p.name != "manifest.json"]
    keys = {path.relative_to(store.storage.home).as_posix() for path in files}
    assert release.files.keys() == keys
    names = {Path(key).name for key in keys}
    assert names >= {"bundle.json", "text.onnx", "image.onnx", "tokenizer.json"}
    assert names >= {"vectors.npy", "ids.npy", "catalog.sqlite", "index.faiss"}
    for key, digest in release.files.items():
        assert file_sha256(store.storage.home / key) == digest


def test_a_release_carries_the_figures_of_its_model(built: Any) -> None:
    _, release = current(built.store)
    result = json.loads((built.evaluation / "evaluation.json").read_text("utf-8"))
    own = {key: value for key, value in release.metrics.items() if key[:8] != "verdict/"}
    assert own == result["metrics"]["candidate"]
    assert release.split_version == result["split_version"]


def test_a_release_carries_the_verdict_that_its_model_came_with(built: Any) -> None:
    _, release = current(built.store)
    interval = json.loads((built.evaluation / "evaluation.json").read_text("utf-8"))["verdict"][
        "interval"
    ]
    assert {key: value for key, value in release.metrics.items() if key[:8] == "verdict/"} == {
        "verdict/promote": 1.0,
        "verdict/difference": interval["mean"],
        "verdict/low": interval["low"],
        "verdict/high": interval["high"],
    }


def rewritten(evaluation: Path, out: Path, **changed: Any) -> Path:
    """The output of an evaluation that came out otherwise."""
    found = json.loads((evaluation / "evaluation.json").read_text("utf-8"))
    out.mkdir()
    (out / "evaluation.json").write_text(json.dumps(found | changed), "utf-8")
    return out


SUITE = {"candidate": {"top1": 0.4, "mean_per_class": 0.3}, "champion": {"top1": 0.5}}
HELD: dict[str, Any] = {
    "promote": False,
    "reason": "mean recall +1.0 [+0.5, +1.5] points; general task -10.0 points",
    "interval": {"mean": 0.01, "low": 0.005, "high": 0.015},
    "suite_change": -0.1,
}


def test_of_a_model_that_is_kept_the_verdict_is_still_its_own(
    built: Any, collection: Path, store: str, refresh: Refresh, draw: Any, tmp_path: Path
) -> None:
    """The figures are new, and the decision on the candidate stands in the note."""
    draw(collection, [200])
    run = refresh(collection, store, pointer=1)
    _, before = current(store)
    champion = {"mean_recall": 0.25}
    kept = {"candidate": "c" * 32, "suite": SUITE, "verdict": HELD}
    kept |= {"metrics": {"candidate": {"mean_recall": 0.5}, "champion": champion}}
    out = rewritten(built.evaluation, tmp_path / "kept", **kept)
    again(run, store, tmp_path / "out", evaluation=out, pointer=2, inventory="i" * 32)
    pointer, release = current(store)
    assert (pointer.number, release.model) == (3, before.model)
    verdict = {key: v for key, v in before.metrics.items() if key.startswith("verdict/")}
    assert len(verdict) == 4
    assert release.metrics == champion | {"suite/top1": 0.5} | verdict
    assert release.parameters["note"] == f"the trained model was not promoted: {HELD['reason']}"


def test_a_suite_that_was_asked_for_stands_in_the_release(built: Any, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    Store(store).claim()
    out = rewritten(built.evaluation, tmp_path / "suite", suite=SUITE, verdict=HELD)
    again(built, store, tmp_path / "out", evaluation=out, config=Config(note="autumn"))
    _, release = current(store)
    assert release.metrics["suite/top1"] == 0.4
    assert release.metrics["verdict/suite_change"] == -0.1
    assert release.parameters["note"] == f"autumn; {HELD['reason']}"


def test_what_is_promoted_anyway_has_its_figures_and_hands_them_on(
    built: Any, collection: Path, refresh: Refresh, draw: Any, tmp_path: Path
) -> None:
    """`promote --anyway` leaves them in the store, for its run evaluates nothing."""
    store = str(tmp_path / "anyway")
    vault = Store(store)
    vault.claim()
    shutil.copytree(Path(built.store) / "inventories", Path(store) / "inventories")
    said = rewritten(built.evaluation, tmp_path / "held", verdict=HELD, winner="c" * 32)
    key = evaluation_key(bundle_digest(built.winner))
    vault.storage.write(key, (said / "evaluation.json").read_bytes())
    note = "promoted anyway, from autumn: " + HELD["reason"]
    config = Config(note=note)
    for number in range(2):  # as a retry does
        again(built, store, tmp_path / f"{number}", evaluation=None, config=config)
    pointer, release = current(store)
    found = json.loads((said / "evaluation.json").read_text("utf-8"))
    assert pointer.number == 1
    assert release.metrics.items() >= found["metrics"]["candidate"].items()
    assert (release.metrics["verdict/promote"], release.metrics["verdict/low"]) == (0.0, 0.005)
    assert (release.split_version, release.parameters["note"]) == (found["split_version"], note)
    vault.storage.delete([key])
    draw(collection, [200])
    refresh(collection, store, pointer=1)
    _, later = current(store)
    assert (later.metrics, later.split_version) == (release.metrics, release.split_version)
    assert later.pictures == release.pictures + 1


def test_the_verdict_is_in_the_runs_table_of_mlflow(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    class Heard(Tracker):
        def headline(self, values: Any, tags: Any = None) -> None:
            told.update(values, **tags)

    monkeypatch.setattr("wentu.stage.open_tracker", lambda _: Heard())
    monkeypatch.setenv("WENTU_RUN_ID", "autumn")
    store = str(tmp_path / "store")
    Store(store).claim()
    again(built, store, tmp_path / "out")
    _, release = current(store)
    assert told["wentu.reason"] == release.parameters["note"]
    verdict = {key: value for key, value in release.metrics.items() if key[:8] == "verdict/"}
    assert told.items() >= verdict.items()
    assert set(verdict) == {f"verdict/{name}" for name in ("promote", "difference", "low", "high")}


def test_the_training_has_come_to_its_verdict(built: Any) -> None:
    assert Store(built.store).attempt_ended()


# --- refresh ----------------------------------------------------------------------------------


def test_a_refresh_adds_a_segment_and_hands_the_figures_on(
    built: Any, collection: Path, store: str, refresh: Refresh, draw: Any
) -> None:
    _, before = current(store)
    draw(collection, [200, 201])
    run = refresh(collection, store, pointer=1)
    pointer, release = current(store)
    assert (pointer.number, pointer.reason) == (2, "refresh")
    assert release.segments[0] == before.segments[0]
    assert len(release.segments) == 2
    assert (release.pictures, release.model) == (26, before.model)
    assert (release.metrics, release.split_version) == (before.metrics, before.split_version)
    assert release.inventory == run.answer.inventory != before.inventory
    Store(store).verify(release)
    Store(store).verify(before)  # the old one stays whole, for a rollback


def test_a_deleted_picture_gives_a_release_without_a_new_segment(
    collection: Path, store: str, refresh: Refresh
) -> None:
    (collection / "pictures/0003.png").unlink()
    refresh(collection, store, pointer=1)
    _, release = current(store)
    assert release.pictures == 23
    assert len(release.segments) == 1
    assert len(release.segments[0].tombstones) == 1


def test_a_pin_outlives_a_refresh(
    collection: Path, store: str, refresh: Refresh, draw: Any
) -> None:
    pointer, _ = current(store)
    Store(store).publish(pointer.release, after=1, reason="rollback", pinned=True)
    draw(collection, [200])
    refresh(collection, store, pointer=2)
    pointer, release = current(store)
    assert (pointer.number, pointer.pinned, release.pictures) == (3, True, 25)


# --- twice, at once, cut off ------------------------------------------------------------------


def test_promoting_twice_changes_nothing(built: Any, store: str, tmp_path: Path) -> None:
    before = sorted(p for p in Path(store).rglob("*") if "locks" not in p.parts)
    pointer, release = current(store)
    for number in range(2):
        found = again(built, store, tmp_path / f"{number}")
        assert found == {"release": release.id, "pointer": 1}
    assert sorted(p for p in Path(store).rglob("*") if "locks" not in p.parts) == before
    assert current(store) == (pointer, release)


@pytest.mark.parametrize(
    "lost", ["pointer", "pointer releases", "pointer releases models segments"]
)
def test_a_promotion_that_was_cut_off_ends_in_the_same_release(
    built: Any, store: str, tmp_path: Path, lost: str
) -> None:
    _, release = current(store)
    for name in lost.split():
        shutil.rmtree(Path(store) / name)
    assert again(built, store, tmp_path / "again") == {"release": release.id, "pointer": 1}
    assert current(store)[1] == release
    Store(store).verify(release)


def test_a_pointer_that_moved_meanwhile_makes_the_comparison_stale(
    built: Any, collection: Path, store: str, refresh: Refresh, draw: Any, tmp_path: Path
) -> None:
    draw(collection, [200])
    run = refresh(collection, store, pointer=1)
    before = current(store)
    assert before[0].number == 2
    draw(collection, [201])
    with pytest.raises(StaleError, match="pointer 2 is current, this run compared with 1"):
        refresh(collection, store, pointer=1)
    assert current(store) == before
    with pytest.raises(StaleError, match="pointer 2 is current, this run compared with 0"):
        again(built, store, tmp_path / "old")
    assert current(store) == before
    assert not (tmp_path / "old" / "manifest.json").exists()
    done = again(run, store, tmp_path / "same", evaluation=None, pointer=1, use="store:x")
    assert done == {"release": before[1].id, "pointer": 2}  # its own, done already


def test_a_training_that_lost_the_race_has_no_verdict(
    built: Any, store: str, tmp_path: Path
) -> None:
    vault = Store(store)
    attempt = vault.last_attempt()
    assert attempt is not None
    number = vault.record_attempt(replace(attempt, settings="others"))
    name = vault.write_release(replace(current(store)[1], pictures=1))
    vault.publish(name, after=1, reason="refresh")
    with pytest.raises(StaleError):
        again(built, store, tmp_path / "out", attempt=number)
    assert not vault.attempt_ended()


def test_a_refresh_during_a_training_does_not_lose_the_training(store: str) -> None:
    """As on a cluster, where a receiver and a schedule may both submit runs."""
    vault, (_, first) = Store(store), current(store)
    refreshed = vault.write_release(replace(first, pictures=25))
    vault.publish(refreshed, after=1, reason="refresh")
    trained = replace(first, model="b" * 32)
    done = publish(vault, trained, 1, "train")
    assert (done.number, done.release, done.reason) == (3, trained.id, "train")
    assert publish(vault, trained, 1, "train") == done  # a retry
    with pytest.raises(StaleError, match="pointer 3 is current, this run compared with 1"):
        publish(vault, replace(first, model="c" * 32), 1, "train")
    with pytest.raises(StaleError):
        publish(vault, replace(first, pictures=26), 1, "refresh")


def test_a_training_that_kept_the_model_leaves_the_newer_release(store: str) -> None:
    vault, (_, first) = Store(store), current(store)
    refreshed = vault.write_release(replace(first, pictures=25))
    newer = vault.publish(refreshed, after=1, reason="refresh")
    assert publish(vault, replace(first, pictures=23), 1, "train") == newer


def test_a_rollback_during_a_training_stands(store: str) -> None:
    vault, (_, first) = Store(store), current(store)
    same = vault.write_release(replace(first, pictures=25))
    vault.publish(same, after=1, reason="rollback", pinned=True)
    with pytest.raises(StaleError):
        publish(vault, replace(first, model="b" * 32), 1, "train")


# --- mistakes ---------------------------------------------------------------------------------


def test_vectors_of_another_model_are_refused(built: Any, store: str, tmp_path: Path) -> None:
    other = Path(shutil.copytree(built.winner, tmp_path / "other"))
    info = json.loads((other / "bundle.json").read_text("utf-8"))
    (other / "bundle.json").unlink()
    (other / "bundle.json").write_text(json.dumps(info | {"epoch": 99}), "utf-8")
    before = current(store)
    with pytest.raises(QualityError, match="vectors were not made by the model that is to be"):
        again(built, store, tmp_path / "out", bundle=other, pointer=1)
    assert current(store) == before
    assert list(Store(store).storage.list("models")) == [before[1].model]


def test_a_model_named_by_the_user_is_remembered_so_that_again_is_no_change(
    built: Any, store: str, tmp_path: Path
) -> None:
    use = {"use": "any.pt", "use_digest": "d" * 64}
    again(built, store, tmp_path / "out", evaluation=None, pointer=1, **use)
    assert current(store)[1].parameters["served_from"] == "d" * 64
