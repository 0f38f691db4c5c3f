"""finetune: an LMDB and a start become the best checkpoint, which Chinese-CLIP's class loads."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from wentu import formats
from wentu.clip import checkpoint
from wentu.clip.model import TINY
from wentu.errors import FormatError, InputError
from wentu.formats import read_manifest
from wentu.stages.finetune import Config, finetune

TINIEST = {"scratch": True, "batch_size": 8, "learning_rate": 1e-3}


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(path).state)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# --- what it writes ---------------------------------------------------------------------------


def test_checkpoints_history_and_curves_are_written(built: Any) -> None:
    names = {path.name for path in built.checkpoint.iterdir()}
    assert names == {
        ".wentu",
        "epoch_best.pt",
        "epoch_latest.pt",
        "history.json",
        "curves.png",
        "training_groups.json",
        "manifest.json",
    }
    history = json.loads((built.checkpoint / "history.json").read_text())
    assert [row["epoch"] for row in history] == [0, 1]
    assert (built.checkpoint / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_manifest_says_what_it_came_from_and_how_it_went(built: Any) -> None:
    manifest = read_manifest(built.checkpoint, "finetune")
    assert manifest.inputs == {"pack_lmdb": read_manifest(built.lmdb).digest, "weights": ""}
    assert manifest.config["batch_size"] == 8
    counts = manifest.counts
    assert (counts["epochs"], counts["steps"]) == (1, 4)
    assert counts["best_epoch"] in (0, 1)
    assert 0 <= counts["start_recall"] <= counts["best_recall"] <= 1
    assert counts["samples_per_second"] > 0


def test_a_checkpoint_has_the_references_keys(built: Any) -> None:
    latest = torch.load(built.checkpoint / "epoch_latest.pt", weights_only=True)
    assert (latest["epoch"], latest["step"], latest["name"]) == (1, 4, "tiny")
    assert all(name.startswith("module.") for name in latest["state_dict"])
    assert latest["optimizer"]["param_groups"][0]["weight_decay"] == 0.05
    best = torch.load(built.checkpoint / "epoch_best.pt", weights_only=True)
    assert best["state_dict"].keys() == latest["state_dict"].keys()
    assert {each.dtype for each in best["state_dict"].values()} == {torch.float32}


def test_the_references_class_loads_our_best_checkpoint(built: Any) -> None:
    from cn_clip.clip.model import CLIP

    value = torch.load(built.checkpoint / "epoch_best.pt", weights_only=True)
    model = CLIP(**TINY)
    model.load_state_dict({k.removeprefix("module."): v for k, v in value["state_dict"].items()})
    ours = checkpoint.load(built.checkpoint / "epoch_best.pt").model()
    tokens = torch.tensor([[101, 671, 1372, 4318, 102]])
    with torch.no_grad():
        assert torch.equal(model.eval().encode_text(tokens), ours.encode_text(tokens))


def test_the_groups_that_were_trained_on_come_along(built: Any) -> None:
    with closing(formats.open_catalog(built.catalog / "catalog.sqlite")) as db:
        query = "SELECT DISTINCT grp FROM pictures WHERE split = 'train'"
        expected = sorted(row[0] for row in db.execute(query))
    found = json.loads((built.checkpoint / "training_groups.json").read_text())
    assert found == expected
    assert len(found) == 14


def test_a_checkpoint_needs_no_words_about_its_architecture(built: Any) -> None:
    loaded = checkpoint.load(built.checkpoint / "epoch_best.pt")
    assert loaded.architecture.name == "tiny"
    assert dict(loaded.architecture.config) == TINY
    assert loaded.info["model"] == "tiny"
    assert loaded.info["context_length"] == 52
    assert loaded.info["scratch"] is True


# --- how it trains ----------------------------------------------------------------------------


def test_the_same_call_again_ends_in_the_same_weights_without_training(
    built: Any, tmp_path: Path
) -> None:
    work = Path(built.store) / "work"
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.pt")}
    assert len(before) == 2
    finetune(
        lmdb=built.lmdb,
        model="tiny",
        store=built.store,
        out=tmp_path / "again",
        config=Config(epochs=1, save_seconds=3.0, **TINIEST),  # how often to save changes nothing
    )
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.pt")} == before
    for name in ("epoch_best.pt", "epoch_latest.pt"):
        assert equal(state_of(tmp_path / "again" / name), state_of(built.checkpoint / name))
    assert read_manifest(tmp_path / "again").counts == read_manifest(built.checkpoint).counts


def test_no_epochs_keep_the_start(built: Any, tmp_path: Path) -> None:
    best = built.checkpoint / "epoch_best.pt"
    finetune(
        lmdb=built.lmdb,
        model=str(best),
        store=str(tmp_path / "store"),
        out=tmp_path / "out",
        config=Config(epochs=0),
    )
    assert equal(state_of(tmp_path / "out" / "epoch_best.pt"), state_of(best))
    assert read_manifest(tmp_path / "out").counts["steps"] == 0
    assert read_manifest(tmp_path / "out").inputs["weights"] == formats.file_sha256(best)


def test_the_seed_draws_the_weights(built: Any, tmp_path: Path) -> None:
    for seed in (0, 1):
        finetune(
            lmdb=built.lmdb,
            model="tiny",
            store=str(tmp_path / "store"),
            out=tmp_path / f"{seed}",
            config=Config(epochs=0, seed=seed, **TINIEST),
        )
    start = checkpoint.start("tiny", scratch=True, seed=0)[0].state_dict()
    assert equal(state_of(tmp_path / "0" / "epoch_best.pt"), start)
    assert not equal(state_of(tmp_path / "1" / "epoch_best.pt"), start)


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"epochs": -1}, "--epochs -1: give 0 or more"),
        ({"batch_size": 1}, "--batch-size 1: a contrast needs 2 or more"),
        ({"learning_rate": 0.0}, r"--learning-rate 0\.0: give a number between 0 and 1"),
        ({"warmup": 1.0}, r"--warmup 1\.0: give a share from 0 to below 1"),
        ({"weight_decay": -0.1}, r"--weight-decay -0\.1: give 0 or more"),
        ({"clip_norm": 0.0}, r"--clip-norm 0\.0: give more than 0"),
        ({"precision": "int8"}, "--precision 'int8' is none of: auto, bf16, fp16, fp32"),
        ({"save_seconds": -1.0}, r"--save-seconds -1\.0: give 0 or more"),
    ],
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Config(**wrong)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("ViT-B-16", "weights of ViT-B-16 are not on this machine"),
        ("nothing.pt", r"--model nothing\.pt: neither a file nor one of tiny, ViT-B-16"),
    ],
)
def test_a_start_that_is_not_there_is_named(
    built: Any, tmp_path: Path, model: str, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        finetune(
            lmdb=built.lmdb,
            model=model,
            store=str(tmp_path / "store"),
            out=tmp_path / "out",
            config=Config(),
        )
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_unfinished_lmdb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"is not finished: it has no manifest\.json"):
        finetune(
            lmdb=tmp_path,
            model="tiny",
            store=str(tmp_path / "store"),
            out=tmp_path / "out",
            config=Config(scratch=True),
        )
