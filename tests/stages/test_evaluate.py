"""evaluate: what would be served, on the test split; the better of the two is handed on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wentu import retrieval
from wentu.clip.bundle import Bundle, bundle_digest
from wentu.errors import InputError
from wentu.formats import PairsLmdb, folder_sha256, read_manifest
from wentu.retrieval import Task
from wentu.stages import evaluate as stage
from wentu.stages.evaluate import (
    Config,
    evaluate,
    split_version,
)
from wentu.store import Store


def call(built: Any, tmp_path: Path, **changed: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "lmdb": built.lmdb,
        "bundle": built.bundle,
        "store": built.store,
        "out": tmp_path / "evaluation",
        "winner": tmp_path / "winner",
        "config": Config(resamples=200),
    }
    evaluate(**given | changed)
    value: dict[str, Any] = json.loads((given["out"] / "evaluation.json").read_text("utf-8"))
    return value


def result_of(built: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((built.evaluation / "evaluation.json").read_text("utf-8"))
    return value


# --- what it writes ---------------------------------------------------------------------------


def test_figures_plots_and_the_report_are_written(built: Any) -> None:
    names = {path.name for path in built.evaluation.iterdir()}
    assert names >= {
        "evaluation.json",
        "report.html",
        "recall.png",
        "epoch_loss.png",
        "manifest.json",
    }
    page = (built.evaluation / "report.html").read_text("utf-8")
    assert page.count("data:image/png;base64") == 3
    assert "://" not in page
    manifest = read_manifest(built.evaluation, "evaluate")
    assert manifest.inputs["candidate"] == bundle_digest(built.bundle)
    result = result_of(built)
    assert manifest.counts["candidate_mean_recall"] == result["metrics"]["candidate"]["mean_recall"]


def test_what_is_measured_is_the_bundle_over_the_whole_split(built: Any) -> None:
    """Again by hand, with the retrieval figures' own module."""
    with PairsLmdb(built.lmdb / "test") as split:
        pairs = split.pairs()
        images = sorted({image for image, _, _ in pairs})
        texts = sorted({text for _, _, text in pairs})
        files = [split.picture(image) for image in images]
    right = {(images.index(image), texts.index(text)) for image, _, text in pairs}
    bundle = Bundle(built.bundle)
    image, text = bundle.encode_image(files), bundle.encode_text(texts)
    of_text = [np.array([i for i, t in right if t == n]) for n in range(len(texts))]
    of_image = [np.array([t for i, t in right if i == n]) for n in range(len(images))]
    expected = retrieval.summarize(
        retrieval.rank(text, image, of_text), retrieval.rank(image, text, of_image)
    )
    result = result_of(built)
    assert result["metrics"]["candidate"] == pytest.approx(expected)
    assert (result["queries"], result["pictures"]) == (len(texts), len(images)) == (12, 6)


def test_mistake_11_a_gallery_of_fewer_than_10_pictures_is_evaluated(built: Any) -> None:
    result = result_of(built)
    assert result["pictures"] == 6
    for metrics in result["metrics"].values():
        assert metrics["text_to_image/recall@10"] == 1.0
        assert 0 <= metrics["text_to_image/recall@1"] <= metrics["text_to_image/recall@5"] <= 1


def test_the_first_model_is_compared_with_its_start_and_handed_on(built: Any) -> None:
    result = result_of(built)
    assert set(result["metrics"]) == {"start", "candidate"}
    assert result["verdict"]["promote"] is True
    assert result["verdict"]["against"] == "start"
    assert result["champion"] == ""
    assert result["winner"] == result["candidate"] == bundle_digest(built.winner)


# --- against a champion -----------------------------------------------------------------------


def test_an_equal_candidate_does_not_replace_the_champion(
    built: Any, store: str, tmp_path: Path
) -> None:
    result = call(built, tmp_path, store=store, pointer=1)
    assert list(result["metrics"]) == ["start", "champion", "candidate"]
    assert result["metrics"]["champion"] == result["metrics"]["candidate"]
    verdict = result["verdict"]
    assert (verdict["promote"], verdict["against"]) == (False, "champion")
    assert verdict["interval"]["mean"] == 0.0
    assert result["winner"] == result["champion"] == bundle_digest(tmp_path / "winner")


def test_the_split_is_known_by_its_content(built: Any, store: str, tmp_path: Path) -> None:
    task, groups = stage.split_to_test(built.lmdb)
    assert split_version(task) == result_of(built)["split_version"]
    assert set(groups) == set(task.image_ids)
    other = Task.of([(1, 1, "狗"), (2, 2, "猫")])
    moved = Task.of([(1, 1, "狗"), (2, 1, "狗"), (2, 2, "猫")])
    assert len({split_version(task), split_version(other), split_version(moved)}) == 3


def test_a_test_split_that_was_trained_on_is_refused(built: Any, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(built.bundle, tmp_path / "bundle"))
    groups = sorted(stage.split_to_test(built.lmdb)[1].values())
    (bundle / "training_groups.json").write_text(json.dumps(groups[:2]))
    with pytest.raises(InputError, match="2 groups of nearly equal pictures are in the test split"):
        call(built, tmp_path, bundle=bundle)
    assert not (tmp_path / "evaluation" / "manifest.json").exists()


def test_a_champion_that_was_trained_on_it_is_said_to_have_an_advantage(
    built: Any, store: str, tmp_path: Path
) -> None:
    groups = sorted(stage.split_to_test(built.lmdb)[1].values())
    champion = Store(store).model(result_of(built)["winner"])
    (champion / "training_groups.json").write_text(json.dumps(groups[:3]))
    result = call(built, tmp_path, store=store, pointer=1)
    said = "the champion was trained on 3 of the test groups: it has an advantage"
    assert result["notes"][0] == said
    assert said in (tmp_path / "evaluation" / "report.html").read_text("utf-8")


def test_without_a_test_split_a_champion_stays_and_a_first_model_is_handed_on(
    built: Any, store: str, tmp_path: Path
) -> None:
    lmdb = Path(shutil.copytree(built.lmdb, tmp_path / "lmdb"))
    shutil.rmtree(lmdb / "test")
    manifest = json.loads((lmdb / "manifest.json").read_text())
    manifest["counts"]["test_pairs"] = 0
    (lmdb / "manifest.json").write_text(json.dumps(manifest))
    first = call(built, tmp_path, lmdb=lmdb, store=store)
    assert first["verdict"]["promote"] is True
    later = call(built, tmp_path, lmdb=lmdb, store=store, pointer=1)
    assert later["verdict"]["promote"] is False
    assert later["verdict"]["reason"] == "there is no test split to compare on"
    assert later["metrics"] == {}


def test_a_start_that_is_gone_is_left_out(built: Any, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(built.bundle, tmp_path / "bundle"))
    info = json.loads((bundle / "bundle.json").read_text("utf-8"))
    info["training"] |= {"model": str(tmp_path / "gone.pt")}
    (bundle / "bundle.json").write_text(json.dumps(info), "utf-8")
    result = call(built, tmp_path, bundle=bundle)
    assert list(result["metrics"]) == ["candidate"]
    assert result["verdict"]["promote"] is True


def test_a_start_that_is_broken_by_now_is_left_out(built: Any, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(built.bundle, tmp_path / "bundle"))
    info = json.loads((bundle / "bundle.json").read_text("utf-8"))
    info["training"] |= {"model": str(tmp_path / "broken.pt")}
    (bundle / "bundle.json").write_text(json.dumps(info), "utf-8")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    assert list(call(built, tmp_path, bundle=bundle)["metrics"]) == ["candidate"]


def test_an_open_split_refuses_what_a_closed_one_is_about(
    built: Any, built_closed: Any, tmp_path: Path
) -> None:
    """The model that was trained on every picture, against a test split of some of them."""
    with pytest.raises(InputError, match="6 groups of nearly equal pictures are in the test split"):
        call(built, tmp_path, bundle=built_closed.bundle)


def test_a_champion_of_a_closed_split_is_said_to_have_an_advantage(
    built: Any, built_closed: Any, tmp_path: Path
) -> None:
    result = call(built, tmp_path, store=built_closed.store, pointer=1)
    assert "the champion was trained on 6 of the test groups" in result["notes"][0]


def test_what_is_measured_is_what_users_write(built_converted: Any) -> None:
    """Captions as they were before pairs converted them: the model converts, as when it serves."""
    task, groups = stage.split_to_test(built_converted.lmdb)
    assert set(task.texts) == {"骷髏頭", "噴泉", "程式"}
    assert set(groups) == set(task.image_ids)
    bundle = Bundle(built_converted.bundle)
    served = bundle.processor.tokens(["程式"])
    assert np.array_equal(served, bundle.processor.tokens(["程式", ""])[:1])
    assert not np.array_equal(served, bundle.processor.tokens(["程序"]))  # 进程 by then
    with PairsLmdb(built_converted.lmdb / "test") as split:
        of_text = {text: image for image, _, text in split.pairs()}
        files = [split.picture(image) for image in task.image_ids]
    assert set(of_text) == {"骷髅头", "喷泉", "程序"}
    scores = bundle.encode_text(task.texts) @ bundle.encode_image(files).T
    right = [int(rows[0]) for rows in task.pictures_of_text]
    first = float(np.mean([scores[n].argmax() == row for n, row in enumerate(right)]))
    metrics = result_of(built_converted)["metrics"]["candidate"]
    assert metrics["text_to_image/recall@1"] == pytest.approx(first)


def test_few_test_pictures_are_said_to_prove_little(built: Any) -> None:
    assert "only 6 test pictures: these figures prove little" in result_of(built)["notes"]


def test_a_model_that_is_its_start_is_said_to_be(built: Any, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(built.bundle, tmp_path / "bundle"))
    said = "no epoch was better than the start on the valid split: the model is its start"
    for epoch in (0, 1):
        info = json.loads((built.bundle / "bundle.json").read_text("utf-8"))
        (bundle / "bundle.json").unlink()
        (bundle / "bundle.json").write_text(json.dumps(info | {"epoch": epoch}), "utf-8")
        notes = call(built, tmp_path, bundle=bundle)["notes"]
        assert (said in notes) == (epoch == 0)


# --- mistakes ---------------------------------------------------------------------------------


def test_a_winner_that_would_replace_what_is_needed_is_refused_and_nothing_is_lost(
    built: Any, store: str, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(built.bundle, tmp_path / "bundle"))
    champion = Store(store).model(result_of(built)["winner"])
    done = call(built, tmp_path, bundle=bundle)
    out = tmp_path / "evaluation"
    folders = (bundle, champion, out, tmp_path / "winner")
    before = [folder_sha256(folder) for folder in folders]
    for winner, sentence in (
        (bundle, "bundle is one of the bundles compared; name another folder"),
        (tmp_path / "x" / ".." / "bundle", "is one of the bundles compared"),
        (champion, "is one of the bundles compared"),
        (out, "evaluation is --out; name another folder"),
        (built.lmdb, "lmdb was written by the stage pack_lmdb"),
        (built.collection, "holds files that this stage did not write"),
    ):
        with pytest.raises(InputError, match=sentence):
            call(built, tmp_path, bundle=bundle, store=store, pointer=1, winner=winner)
        assert [folder_sha256(folder) for folder in folders] == before
        assert read_manifest(out, "evaluate")
    assert json.loads((out / "evaluation.json").read_text("utf-8")) == done


def test_an_unknown_pointer_is_named(built: Any, store: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the store has no pointer 7"):
        call(built, tmp_path, store=store, pointer=7)


# --- a general task that must not be unlearned ------------------------------------------------


def test_the_suite_stands_in_the_result_and_in_the_report(
    built: Any, store: str, tmp_path: Path
) -> None:
    """Every model classifies the same pictures; equal models lose nothing."""
    source = sorted((built.collection / "pictures").iterdir())
    for number, path in enumerate(source[:6]):
        folder = tmp_path / "suite" / ("圆形" if number % 2 else "星形")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    place = str(tmp_path / "suite")
    result = call(
        built, tmp_path, store=store, pointer=1, config=Config(suite=place, resamples=100)
    )
    assert result["suite"].keys() == {"start", "champion", "candidate"}
    assert result["suite"]["candidate"] == result["suite"]["champion"]
    assert result["verdict"]["suite_change"] == 0.0
    assert "general task +0.0 points" in result["verdict"]["reason"]
    page = (tmp_path / "evaluation" / "report.html").read_text("utf-8")
    assert "General task" in page
    with pytest.raises(InputError, match=r"--suite .*: no such folder"):
        call(built, tmp_path, store=store, pointer=1, config=Config(suite=place + "x"))


def test_each_caption_is_kept_with_its_rank_by_every_model(built: Any) -> None:
    lines = (built.evaluation / "queries.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    result = result_of(built)
    assert len(rows) == result["queries"]
    for name in ("start", "candidate"):
        hits = [row["ranks"][name] == 1 for row in rows]
        assert np.mean(hits) == pytest.approx(result["metrics"][name]["text_to_image/recall@1"])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"max_suite_drop": 1.5}, r"--max-suite-drop 1\.5: give a share from 0 to 1"),
        ({"confidence": 1.0}, r"--confidence 1\.0: give a level from 0\.5 to below 1"),
        ({"confidence": 0.1}, r"--confidence 0\.1: give a level"),
        ({"resamples": 10}, "--resamples 10: give 100 or more"),
    ],
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Config(**wrong)
