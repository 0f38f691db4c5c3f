"""inventory lists the collection and answers: train, refresh or skip."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wentu.clip import checkpoint
from wentu.errors import InputError, WentuError
from wentu.formats import folder_sha256, read_manifest
from wentu.stages import training_settings
from wentu.stages.inventory import Answer, Config, inventory, read_answer
from wentu.store import Attempt, Release, Store

Look = Callable[..., Answer]


@pytest.fixture
def look(collection: Path, tmp_path: Path) -> Look:
    """inventory of ``collection``, which a test changes between two calls."""

    def run(**changed: Any) -> Answer:
        names = ("train", "scratch", "min_new", "max_deleted")
        config = {"scratch": True} | {k: changed.pop(k) for k in names if k in changed}
        given: dict[str, Any] = {
            "pictures": str(collection),
            "captions": str(collection),
            "store": str(tmp_path / "store"),
            "out": tmp_path / "inventory",
            "model": "tiny",
        }
        return inventory(**given | changed, config=Config(**config))

    return run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def finish(store: Store, answer: Answer, *, trained: bool = True, pinned: bool = False) -> None:
    """What promote leaves behind, as far as inventory looks at it."""
    release = Release(
        model="m" * 32,
        segments=(),
        inventory=answer.inventory,
        pictures=24,
        dimension=128,
        parameters={} if trained else {"served_from": answer.model_digest},
    )
    name = store.write_release(release)
    store.publish(name, after=answer.pointer, reason="train", pinned=pinned)
    if trained:
        store.end_attempt(answer.attempt)


def add_pictures(collection: Path, draw: Any, count: int) -> None:
    draw(collection, range(100, 100 + count))


# --- what it writes ---------------------------------------------------------------------------


def test_the_answer_and_the_listing_are_written(look: Look, store: Store, tmp_path: Path) -> None:
    answer = look()
    assert read_answer(tmp_path / "inventory") == answer
    manifest = read_manifest(tmp_path / "inventory", "inventory")
    assert manifest.counts == {"pictures": 24, "passed_over": 3, "decision": "train"}
    rows = list(store.inventory(answer.inventory))
    assert [row[1] for row in rows[:2]] == ["pictures/0000.png", "pictures/0001.png"]
    assert [row[1] for row in rows[24:]] == ["cn_test.json", "cn_train.json", "cn_valid.json"]
    assert {row[0] for row in rows[:24]} == {"picture"}


def test_a_listing_depends_on_the_files_alone(look: Look, collection: Path, tmp_path: Path) -> None:
    before = look().inventory
    copy = shutil.copytree(collection, tmp_path / "elsewhere 文")
    os.utime(copy / "pictures" / "0000.png", (1, 1))
    other = look(pictures=str(copy), captions=str(copy), store=str(tmp_path / "other"))
    assert other.inventory == before


@pytest.mark.parametrize("change", ["edit", "rename", "delete", "add", "captions"])
def test_every_change_gives_another_listing(
    look: Look, collection: Path, draw: Any, change: str
) -> None:
    before = look().inventory
    picture = collection / "pictures" / "0003.png"
    if change == "edit":
        picture.write_bytes(picture.read_bytes() + b"\0")
    elif change == "rename":
        picture.rename(collection / "新.png")
    elif change == "delete":
        picture.unlink()
    elif change == "add":
        add_pictures(collection, draw, 1)
    else:
        path = collection / "cn_train.json"
        path.write_text(path.read_text("utf-8").replace("红色", "鲜红色"), "utf-8")
    assert look().inventory != before


def test_an_unchanged_file_is_not_read_again(look: Look, collection: Path) -> None:
    before = look().inventory
    path = collection / "pictures" / "0003.png"
    stat = path.stat()
    with path.open("r+b") as file:  # the same size, time and place: nobody would look
        file.seek(40)
        file.write(b"\xff")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert look().inventory == before
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert look().inventory != before


def test_hidden_files_and_other_files_are_no_pictures(look: Look, collection: Path) -> None:
    before = look().inventory
    for name in (".hidden.png", "notes.txt", ".cache/a.png", "@eaDir/a.png"):
        (collection / name).parent.mkdir(exist_ok=True)
        (collection / name).write_bytes(b"x")
    assert look().inventory == before


def test_pictures_are_found_in_any_depth_and_spelling(
    look: Look, tmp_path: Path, small_collection: Path
) -> None:
    root = tmp_path / "我的 photos"
    names = ["a/b/c/深.PNG", "x.JPeG", "😀.webp", "y.tiff", "100%#.bmp"]
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(small_collection / "pictures" / f"{number:04d}.png", root / name)
    look(pictures=str(root), captions="names")
    answer = read_manifest(tmp_path / "inventory")
    assert answer.counts["pictures"] == len(names)


def test_a_real_folder_of_photos_is_listed(look: Look, data: Path, tmp_path: Path) -> None:
    look(pictures=str(data / "photo-folder"), captions="names")
    assert read_manifest(tmp_path / "inventory").counts["pictures"] == 50


def test_a_store_inside_of_the_collection_is_not_indexed(
    built: Any, collection: Path, look: Look, tmp_path: Path
) -> None:
    """Neither the one that is worked with, which holds thumbnails, nor another."""
    before = look().inventory
    mine = str(collection / "wentu-store")
    shutil.copytree(built.store, mine)
    shutil.copytree(built.store, collection / "pictures" / "another")
    assert len(list(Path(mine).rglob("*.jpg"))) == 24
    for place in (str(tmp_path / "store"), mine):
        answer = look(store=place)
        assert answer.inventory == before
        assert read_manifest(tmp_path / "inventory").counts["pictures"] == 24
    with pytest.raises(InputError, match="is the folder of the pictures; name one in it or"):
        look(store=f"{collection}/pictures/..")
    fresh = collection / "a new store"
    assert [look(store=str(fresh)).inventory for _ in range(2)] == [before, before]


def test_what_is_no_picture_is_told_with_its_kind(
    look: Look, store: Store, collection: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("clip.mp4", "raw.CR2", ".hidden.png"):
        (collection / name).write_bytes(b"x")
    answer = look()
    said = capsys.readouterr().err
    assert "passed over 6: 1 video, 1 picture in a format not read, " in said
    assert read_manifest(tmp_path / "inventory").counts["passed_over"] == 6
    passed = dict(store.passed_over(answer.inventory))
    assert passed["clip.mp4"] == "video"
    assert passed["raw.CR2"] == "unsupported"
    assert passed[".hidden.png"] == "junk"
    assert passed["cn_train.json"] == "other"


# --- when to train ----------------------------------------------------------------------------


def test_the_first_time_is_a_training(look: Look, store: Store) -> None:
    answer = look()
    assert (answer.decision, answer.reason) == ("train", "first training")
    assert (answer.model, answer.model_digest, answer.pointer) == ("scratch:tiny", "", 0)
    last = store.last_attempt()
    assert last is not None
    assert last.pictures == 24
    assert not store.attempt_ended()
    store.end_attempt(answer.attempt)
    assert store.attempt_ended()


def test_nothing_new_is_skipped(look: Look, store: Store) -> None:
    finish(store, look())
    answer = look()
    assert answer.decision == "skip"
    assert answer.reason == "nothing changed since the current release"
    assert (answer.pointer, answer.model, answer.attempt) == (1, "store:" + "m" * 32, "")


def test_few_new_pictures_refresh_and_many_train(
    look: Look, store: Store, collection: Path, draw: Any
) -> None:
    finish(store, look())
    add_pictures(collection, draw, 3)
    few = look(min_new=5)
    assert (few.decision, few.reason) == ("refresh", "3 new, 0 edited, 0 deleted")
    assert few.model == "store:" + "m" * 32
    finish(store, few, trained=False)
    assert look(min_new=5).decision == "skip"
    add_pictures(collection, draw, 5)  # 2 more; counted from the last training all 5 are new
    many = look(min_new=5)
    assert (many.decision, many.pointer) == ("train", 2)
    assert many.reason == "5 new, 0 edited, 0 deleted since the last training"


def test_edited_and_deleted_pictures_count(look: Look, store: Store, collection: Path) -> None:
    finish(store, look())
    folder = collection / "pictures"
    (folder / "0000.png").unlink()
    (folder / "0001.png").write_bytes((folder / "0001.png").read_bytes() + b"\0")
    assert look(min_new=3).reason == "0 new, 1 edited, 1 deleted"
    assert look(min_new=2).decision == "train"


@pytest.mark.parametrize(("new", "decision"), [(1, "refresh"), (2, "train")])
def test_by_default_a_twentieth_of_the_collection_counts_as_many(
    look: Look, store: Store, collection: Path, draw: Any, new: int, decision: str
) -> None:
    draw(collection, range(24, 40))  # 40 pictures: 2 are 5 %
    finish(store, look())
    add_pictures(collection, draw, new)
    assert look().decision == decision


def test_changed_captions_alone_train(look: Look, store: Store, collection: Path) -> None:
    finish(store, look())
    path = collection / "cn_train.json"
    path.write_text(path.read_text("utf-8").replace("红色", "鲜红色"), "utf-8")
    answer = look()
    assert (answer.decision, answer.reason) == (
        "train",
        "the captions changed since the last training",
    )


def test_changed_settings_train(look: Look, store: Store) -> None:
    finish(store, look(settings="epochs 3"))
    assert look(settings="epochs 3").decision == "skip"
    answer = look(settings="epochs 4")
    assert (answer.decision, answer.reason) == ("train", "the settings of the training changed")


def test_only_options_that_shape_the_model_are_settings() -> None:
    plain = training_settings(pairs="{}", finetune="{}")
    assert training_settings(pairs='{"max_rejected": 0.5}', finetune='{"save_seconds": 9}') == plain
    assert training_settings(pairs='{"test_fraction": 0.1}', finetune='{"epochs": 3}') == plain
    changed = {training_settings(pairs="{}", finetune=f'{{"seed": {n}}}') for n in range(3)}
    assert len(changed | {training_settings(pairs='{"split": "closed"}', finetune="{}")}) == 4


def test_random_weights_are_another_start(look: Look) -> None:
    assert look(model="tiny").model == "scratch:tiny"
    assert look(model="scratch:tiny").model == "scratch:tiny"
    assert look(model="tiny", scratch=False).model == "tiny"


def save_weights(path: Path, seed: int) -> Path:
    found = checkpoint.start("tiny", seed=seed)
    checkpoint.save(path, found.model().state_dict(), found, epoch=0, step=0, info={})
    return path


def test_other_starting_weights_train(look: Look, store: Store, tmp_path: Path) -> None:
    weights = save_weights(tmp_path / "weights.pt", 0)
    finish(store, look(model=str(weights), scratch=False))
    assert look(model=str(weights), scratch=False).decision == "skip"
    save_weights(weights, 1)
    answer = look(model=str(weights), scratch=False)
    assert answer.reason == "the settings of the training changed"
    assert len(answer.model_digest) == 64


@pytest.mark.parametrize("kind", ["another", "cut", "damaged"])
def test_a_wrong_start_is_told_first_and_what_is_served_stays(
    look: Look, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Before pictures are decoded and packed for it."""
    monkeypatch.setenv("WENTU_WEIGHTS", str(tmp_path))
    finish(store, look(model=str(save_weights(tmp_path / "good.pt", 0)), scratch=False))
    before = store.current(), folder_sha256(tmp_path / "inventory")
    path = save_weights(tmp_path / "clip_cn_vit-b-16.pt", 1)
    model, sentence = str(path), r"vit-b-16\.pt cannot be read safely .*name another"
    if kind == "another":
        model, sentence = "ViT-B-16", r"vit-b-16\.pt holds tiny, not ViT-B-16: give its path"
    elif kind == "cut":
        value = torch.load(path, weights_only=True)
        del value["state_dict"]["module.logit_scale"]
        torch.save(value, path)
        sentence = r"vit-b-16\.pt: the weights do not fit tiny: .*\['logit_scale'\].*a whole file"
    else:
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WentuError, match=sentence):
        look(model=model, scratch=False)
    assert (store.current(), folder_sha256(tmp_path / "inventory")) == before


def test_a_training_that_was_cut_off_is_taken_up_again(look: Look, store: Store) -> None:
    first = look()
    again = look()
    assert (again.decision, again.reason) == ("train", "the last training did not finish")
    assert again.attempt == first.attempt
    assert len(list(store.storage.list("attempts"))) == 1


def test_a_first_training_that_died_is_no_dead_end_when_a_few_pictures_come(
    look: Look, collection: Path, draw: Any
) -> None:
    assert look(min_new=50).decision == "train"
    add_pictures(collection, draw, 1)
    answer = look(min_new=50)
    assert answer.decision == "train"
    assert "no training finished" in answer.reason


def test_a_dangling_link_is_listed_and_left_to_pairs(look: Look, collection: Path) -> None:
    (collection / "gone.jpg").symlink_to(collection / "nowhere.jpg")
    assert look().decision == "train"


def test_a_refused_training_is_not_repeated(
    look: Look, store: Store, collection: Path, draw: Any
) -> None:
    finish(store, look())
    add_pictures(collection, draw, 5)
    refused = look()
    assert refused.decision == "train"
    finish(store, refused)  # the champion stays, its pictures are refreshed
    assert look().decision == "skip"


def test_settings_tried_before_train_again_until_there_is_a_verdict(
    look: Look, store: Store
) -> None:
    for settings in ("a", "b"):
        finish(store, look(settings=settings))
    assert look(settings="a").decision == "train"  # and is cut off
    assert look(settings="a").decision == "train"


def test_training_can_be_declined(look: Look, store: Store, collection: Path, draw: Any) -> None:
    finish(store, look())
    add_pictures(collection, draw, 20)
    answer = look(train=False, model="", settings="other")
    assert (answer.decision, answer.reason) == ("refresh", "20 new, 0 edited, 0 deleted")
    assert store.last_attempt() == replace(
        store.last_attempt() or Attempt(inventory="", settings="", pictures=0), pictures=24
    )


def test_a_pin_holds_trainings_and_not_new_pictures(
    look: Look, store: Store, collection: Path, draw: Any
) -> None:
    finish(store, look(), pinned=True)
    answer = look(settings="other")
    assert answer.decision == "skip"
    assert answer.reason.endswith("pinned by a rollback: no training")
    add_pictures(collection, draw, 20)
    answer = look()
    assert (answer.decision, answer.model) == ("refresh", "store:" + "m" * 32)
    assert answer.reason.startswith("20 new")


# --- without captions -------------------------------------------------------------------------


def test_without_captions_a_named_model_is_used(look: Look, store: Store, tmp_path: Path) -> None:
    weights = tmp_path / "any.pt"
    weights.write_bytes(b"weights")
    for train in (True, False):
        answer = look(captions="none", model=str(weights), scratch=False, train=train)
        assert (answer.decision, answer.reason) == ("refresh", "first index")
        assert answer.model == str(weights)
        assert answer.attempt == ""
    assert store.last_attempt() is None
    finish(store, answer, trained=False)
    again = look(captions="none", model=str(weights), scratch=False, train=False)
    assert again.decision == "skip"
    weights.write_bytes(b"others")
    changed = look(captions="none", model=str(weights), scratch=False, train=False)
    assert changed.decision == "refresh"


def test_without_captions_the_current_model_is_used(
    look: Look, store: Store, collection: Path, draw: Any
) -> None:
    finish(store, look())
    answer = look(captions="none", model="")
    assert (answer.decision, answer.model) == ("refresh", "store:" + "m" * 32)


def change_captions(collection: Path) -> None:
    path = collection / "cn_train.json"
    path.write_text(path.read_text("utf-8").replace("红色", "鲜红色"), "utf-8")


def test_changed_captions_beside_few_pictures_are_said(
    look: Look, store: Store, collection: Path, draw: Any
) -> None:
    finish(store, look())
    change_captions(collection)
    add_pictures(collection, draw, 1)
    answer = look(min_new=5)
    assert answer.decision == "refresh"
    assert answer.reason == "1 new, 0 edited, 0 deleted, captions changed"
    assert look(train=False, model="").reason == answer.reason


def test_changed_captions_without_training_refresh(
    look: Look, store: Store, collection: Path
) -> None:
    finish(store, look())
    change_captions(collection)
    answer = look(train=False, model="")
    assert (answer.decision, answer.reason) == (
        "refresh",
        "0 new, 0 edited, 0 deleted, captions changed",
    )


def test_another_model_is_said(look: Look, store: Store, collection: Path, tmp_path: Path) -> None:
    finish(store, look())
    weights = tmp_path / "any.pt"
    weights.write_bytes(b"weights")
    answer = look(train=False, model=str(weights), scratch=False)
    assert (answer.decision, answer.model) == ("refresh", str(weights))
    assert answer.reason == "0 new, 0 edited, 0 deleted, another model"


# --- most of it is gone -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "limit", "refused"),
    [
        (12, 0.5, False),
        (13, 0.5, True),
        (13, 1.0, False),
        (2, 0.05, True),
        (0, 0.0, False),
    ],
)
def test_a_collection_that_is_mostly_gone_is_refused(
    look: Look,
    store: Store,
    collection: Path,
    tmp_path: Path,
    gone: int,
    limit: float,
    refused: bool,
) -> None:
    finish(store, look())
    before = (tmp_path / "inventory" / "answer.json").read_bytes()
    for path in sorted((collection / "pictures").iterdir())[:gone]:
        path.unlink()
    if not refused:
        assert look(max_deleted=limit, min_new=50).decision == ("refresh" if gone else "skip")
        return
    sentence = (
        rf"{gone} of the 24 pictures of the current release are not in .*collection: is it the "
        r"right folder, and is its drive mounted\? .* --max-deleted 1\. .* another --store"
    )
    with pytest.raises(InputError, match=sentence):
        look(max_deleted=limit)
    assert (tmp_path / "inventory" / "answer.json").read_bytes() == before  # still finished
    assert read_manifest(tmp_path / "inventory", "inventory")
    assert len(list(store.storage.list("attempts"))) == 2  # of the first, with its end


def test_another_folder_is_refused_and_renamed_files_are_not_gone(
    look: Look, store: Store, collection: Path, draw: Any, tmp_path: Path
) -> None:
    finish(store, look())
    draw(tmp_path / "elsewhere", range(300, 310))
    with pytest.raises(InputError, match="24 of the 24 pictures of the current release are not in"):
        look(pictures=str(tmp_path / "elsewhere"))
    (collection / "pictures").rename(collection / "renamed")
    assert look(max_deleted=0.0).decision == "train"


def test_before_there_is_a_release_nothing_is_missed(look: Look, collection: Path) -> None:
    look()
    for path in sorted((collection / "pictures").iterdir())[:20]:
        path.unlink()
    assert look(max_deleted=0.0).decision == "train"


# --- mistakes ---------------------------------------------------------------------------------


def test_without_captions_and_without_a_model_there_is_nothing_to_do(look: Look) -> None:
    sentence = "no release yet whose model could be used: give --captions .* or name a --model"
    with pytest.raises(InputError, match=sentence):
        look(captions="none", model="")
    with pytest.raises(InputError, match=sentence):
        look(train=False, model="")
    with pytest.raises(InputError, match="--no-train --model tiny: it has no weights to use"):
        look(train=False, model="tiny")


def test_missing_weights_are_named_before_anything_long(look: Look) -> None:
    with pytest.raises(InputError, match=r"weights of ViT-B-16 are not on this machine"):
        look(model="", scratch=False)


def test_a_folder_without_pictures_is_named(look: Look, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no picture\."):
        look(pictures=str(tmp_path / "empty"))
    with pytest.raises(InputError, match="nowhere: no such folder"):
        look(pictures=str(tmp_path / "nowhere"))


def test_missing_captions_are_named(look: Look, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--captions .*nothing\.json: no such file"):
        look(captions=str(tmp_path / "nothing.json"))


def test_what_failed_is_not_finished(look: Look, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        look(captions=str(tmp_path / "nothing.json"))
    assert not (tmp_path / "inventory" / "manifest.json").exists()


def test_min_new_is_checked() -> None:
    with pytest.raises(InputError, match="--min-new -2: give -1 or more"):
        Config(min_new=-2)


def test_the_answer_is_plain_json(look: Look, tmp_path: Path) -> None:
    answer = look()
    assert json.loads((tmp_path / "inventory" / "answer.json").read_text("utf-8")) == vars(answer)


def test_max_deleted_is_a_share() -> None:
    with pytest.raises(InputError, match=r"--max-deleted 50: give a share from 0 to 1"):
        Config(max_deleted=50)


def test_what_one_machine_read_another_does_not_read_again(
    look: Look, collection: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster each run begins on a machine that knows nothing."""
    place = f"s3://{bucket}/{uuid.uuid4().hex[:8]}"
    first = look(store=place)
    assert first.decision == "train"
    same, other = sorted((collection / "pictures").iterdir())[:2]
    stat, data = same.stat(), bytearray(same.read_bytes())
    data[-20] ^= 1
    with same.open("r+b") as file:  # other bytes, but nothing that is looked at tells so
        file.write(data)
    os.utime(same, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    monkeypatch.setenv("WENTU_CACHE", str(tmp_path / "another machine"))
    assert look(store=place).inventory == first.inventory
    os.utime(other)
    with other.open("ab") as file:
        file.write(b"more")
    monkeypatch.setenv("WENTU_CACHE", str(tmp_path / "a third one"))
    assert look(store=place).inventory != first.inventory
