"""finetune: an LMDB and a start become the best checkpoint, which Chinese-CLIP's class loads."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import sqlite3
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wentu import formats
from wentu.clip import checkpoint
from wentu.clip.convert import convert
from wentu.clip.encoder import TorchEncoder
from wentu.clip.model import TINY
from wentu.errors import FormatError, InputError
from wentu.formats import CATALOG, read_manifest
from wentu.orchestrate import local, parameters
from wentu.stages import pack_lmdb
from wentu.stages.finetune import Config, finetune


class Malicious:
    """Unpickled by the standard library, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


TINIEST = {"batch_size": 8, "learning_rate": 1e-3}


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
        "epoch_loss.png",
        "epoch_recall.png",
        "manifest.json",
    }
    history = json.loads((built.checkpoint / "history.json").read_text())
    assert [row["epoch"] for row in history] == [0, 1]
    assert (built.checkpoint / "epoch_recall.png").read_bytes().startswith(b"\x89PNG")


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
    assert latest["optimizer"] == {}
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
    found = checkpoint.load(built.checkpoint / "epoch_best.pt").info["groups"]
    assert found == expected
    assert len(found) == 14


def test_a_checkpoint_needs_no_words_about_its_architecture(built: Any) -> None:
    loaded = checkpoint.load(built.checkpoint / "epoch_best.pt")
    assert loaded.architecture.name == "tiny"
    assert dict(loaded.architecture.config) == TINY
    assert loaded.info["model"] == "scratch:tiny"
    assert loaded.info["context_length"] == 52


# --- how it trains ----------------------------------------------------------------------------


def test_the_same_call_again_ends_in_the_same_weights_without_training(
    built: Any, tmp_path: Path
) -> None:
    work = Path(built.store) / "work"
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.pt")}
    assert len(before) == 3
    finetune(
        lmdb=built.lmdb,
        model="scratch:tiny",
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
    start = checkpoint.start("tiny", seed=0).model().state_dict()
    assert equal(state_of(tmp_path / "0" / "epoch_best.pt"), start)
    assert not equal(state_of(tmp_path / "1" / "epoch_best.pt"), start)


# --- how input is prepared --------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LMDB of 12 wide pictures that differ at their ends only: a crop sees none of it."""
    root = tmp_path_factory.mktemp("wide")
    tsv, catalog = root / "tsv", root / "catalog"
    tsv.mkdir()
    with closing(formats.create_catalog(catalog / "catalog.sqlite")) as db:
        db.commit()
    formats.write_manifest(catalog, formats.Manifest(stage="pairs", config={}, inputs={}))
    rows = [formats.tsv_line(n, wide_png(20 * n, 250 - 20 * n)) for n in range(12)]
    texts = [formats.Text(text_id=n, text=f"狗 {n}", image_ids=(n,)) for n in range(12)]
    (tsv / "train_imgs.tsv").write_bytes(b"".join(rows))
    (tsv / "train_texts.jsonl").write_bytes("".join(text.line() for text in texts).encode())
    pack_lmdb.pack_lmdb(catalog=catalog, tsv=tsv, out=root / "lmdb", config=pack_lmdb.Config())
    return root / "lmdb"


def wide_png(left: int, right: int) -> bytes:
    picture = Image.new("RGB", (300, 100), (128, 128, 128))
    picture.paste((left, 0, 0), (0, 0, 90, 100))
    picture.paste((0, 0, right), (210, 0, 300, 100))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def tuned(tmp_path: Path, lmdb: Path, name: str = "out", **changed: Any) -> checkpoint.Checkpoint:
    """The best checkpoint of one epoch."""
    if "context_length" in changed:
        lmdb = Path(shutil.copytree(lmdb, tmp_path / f"lmdb-{name}", dirs_exist_ok=True))
        with closing(sqlite3.connect(lmdb / CATALOG)) as db, db:
            length = str(changed.pop("context_length"))
            db.execute("INSERT OR REPLACE INTO facts VALUES ('context_length', ?)", (length,))
    finetune(
        lmdb=lmdb,
        model=changed.pop("model", "tiny"),
        store=str(tmp_path / "store"),
        out=tmp_path / name,
        config=Config(**{"epochs": 1, **TINIEST, **changed}),
    )
    return checkpoint.load(tmp_path / name / "epoch_best.pt")


def test_resize_reaches_training_and_is_in_the_checkpoint(wide: Path, tmp_path: Path) -> None:
    found = {each: tuned(tmp_path, wide, each, resize=each) for each in ("squash", "crop", "pad")}
    for name, loaded in found.items():
        assert loaded.info["resize"] == loaded.processor().preprocessing.resize == name
    states = [dict(loaded.state or {}) for loaded in found.values()]
    assert not any(equal(one, other) for one, other in combinations(states, 2))
    history = json.loads((tmp_path / "crop" / "history.json").read_text())
    # Of twelve pictures that look alike none can be told from another, whatever the caption.
    assert history[-1]["loss"] > (math.log(8) + math.log(4)) / 2 - 1e-3
    encoders = {name: TorchEncoder(loaded) for name, loaded in found.items()}
    one, two = wide_png(0, 250), wide_png(250, 0)
    for name, encoder in encoders.items():
        vectors = encoder.encode_image([one, two])
        assert np.allclose(vectors[0], vectors[1], atol=1e-6) == (name == "crop")


def test_on_squares_every_way_to_resize_is_the_same(built: Any, tmp_path: Path) -> None:
    states = [state_of(built.checkpoint / "epoch_best.pt")]
    states += [
        dict(tuned(tmp_path, built.lmdb, each, resize=each).state or {}) for each in ("crop", "pad")
    ]
    assert equal(states[0], states[1])
    assert equal(states[0], states[2])


def test_auto_goes_on_as_the_start_was_trained(wide: Path, tmp_path: Path) -> None:
    start = tuned(tmp_path, wide, "start", epochs=0, resize="crop", context_length=20)
    assert start.processor().context_length == 20
    best = str(tmp_path / "start" / "epoch_best.pt")
    again = tuned(tmp_path, wide, "again", model=best, epochs=0)
    assert (again.info["resize"], again.info["context_length"]) == ("crop", 20)
    other = tuned(tmp_path, wide, "other", model=best, epochs=0, resize="pad", context_length=9)
    assert (other.info["resize"], other.info["context_length"]) == ("pad", 9)


def test_a_context_above_the_models_positions_is_refused_before_anything_long(
    built: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--context-length 65: tiny has 64 positions"):
        tuned(tmp_path, built.lmdb, context_length=65)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert [*(tmp_path / "store").rglob("*.pt")] == []
    loaded = tuned(tmp_path, built.lmdb, context_length=64)
    assert loaded.processor().context_length == 64
    text = "长" * 80
    assert loaded.processor().tokens([text]).shape == (1, 64)


def test_captions_that_pairs_converted_are_not_converted_again(
    built_converted: Any, tmp_path: Path
) -> None:
    """tw2sp of 檔案 is 文件; of 文件 it is 文档, which is no query for 檔案."""
    best = built_converted.checkpoint / "epoch_best.pt"
    loaded = checkpoint.load(best)
    assert loaded.info["convert"] == loaded.processor().convert == "tw2sp"
    with formats.PairsLmdb(built_converted.lmdb / "train") as split:
        trained = {text for _, _, text in split.pairs()}
    assert {convert(text, "tw2sp") for text in ("檔案", "滑鼠", "紅色的圓形")} <= trained
    lmdb = Path(shutil.copytree(built_converted.lmdb, tmp_path / "lmdb"))
    with closing(sqlite3.connect(lmdb / "catalog.sqlite")) as db:  # the same texts, as written
        db.execute("UPDATE facts SET value = 'none' WHERE name = 'convert'")
        db.commit()
    tuned(tmp_path, lmdb, resize="crop")
    assert equal(state_of(tmp_path / "out" / "epoch_best.pt"), state_of(best))


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"epochs": -1}, "--epochs -1: give 0 or more"),
        ({"batch_size": 1}, "--batch-size 1: give 2 or more"),
        ({"learning_rate": 1.0}, r"--learning-rate 1\.0: give a number between 0 and 1"),
        ({"warmup": 1.0}, r"--warmup 1\.0: give a share from 0 to below 1"),
        ({"weight_decay": -0.1}, r"--weight-decay -0\.1: give 0 or more"),
        ({"clip_norm": 0.0}, r"--clip-norm 0\.0: give more than 0"),
        ({"precision": "int8"}, "--precision 'int8' is none of: auto, bf16, fp16, fp32"),
        ({"resize": "stretch"}, "--resize 'stretch' is none of: auto, squash, crop, pad"),
        ({"patch_dropout": 1.0}, r"--patch-dropout 1\.0: give a share from 0 to below 1"),
        ({"distill": 1.5}, r"--distill 1\.5: give a share from 0 to 1"),
        ({"layer_decay": 0.0}, r"--layer-decay 0\.0: give a factor from above 0 to 1"),
        ({"save_seconds": -1.0}, r"--save-seconds -1\.0: give 0 or more"),
        ({"nodes": 0}, "--nodes 0: give 1 or more"),
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


def test_several_machines_are_for_a_cluster_to_give(built: Any, tmp_path: Path) -> None:
    """And which ones do it makes no other model: the same training is found again."""
    with pytest.raises(InputError, match="--nodes 2: only a Kubernetes cluster gives machines"):
        tuned(tmp_path, built.lmdb, nodes=2)
    assert Config(nodes=2).text(shaping=True) == Config().text(shaping=True)
    values = parameters.complete({"pictures": str(built.collection), "nodes": 2}, "demo")
    with pytest.raises(InputError, match="use `wentu submit`"):
        local.run(values, None)  # type: ignore[arg-type]


def test_one_picture_is_refused_with_what_to_do_instead(
    draw: Any, pair: Any, built: Any, tmp_path: Path
) -> None:
    tuned(tmp_path, built.lmdb, epochs=0)
    before = formats.folder_sha256(tmp_path / "out")
    collection, store = tmp_path / "one", str(tmp_path / "store")
    rows = draw(collection, range(1))
    (collection / "cn_train.json").write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    pair(collection, str(collection), store, valid_fraction=0.0, test_fraction=0.0)
    pack_lmdb.pack_lmdb(
        catalog=tmp_path / "catalog",
        tsv=tmp_path / "tsv",
        out=tmp_path / "lmdb",
        config=pack_lmdb.Config(),
    )
    with pytest.raises(InputError, match=r"one picture cannot be told from others.*--no-train"):
        tuned(tmp_path, tmp_path / "lmdb", model="tiny")
    assert formats.folder_sha256(tmp_path / "out") == before


def test_an_unfinished_lmdb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"is not finished: it has no manifest\.json"):
        finetune(
            lmdb=tmp_path,
            model="tiny",
            store=str(tmp_path / "store"),
            out=tmp_path / "out",
            config=Config(),
        )


def test_an_output_of_another_stage_is_not_replaced(built: Any, tmp_path: Path) -> None:
    lmdb = Path(shutil.copytree(built.lmdb, tmp_path / "lmdb"))
    before = formats.folder_sha256(lmdb)
    with pytest.raises(InputError, match="lmdb was written by the stage pack_lmdb; name a new or"):
        finetune(
            lmdb=lmdb,
            model="tiny",
            store=str(tmp_path / "store"),
            out=lmdb,
            config=Config(),
        )
    assert formats.folder_sha256(lmdb) == before
    assert read_manifest(lmdb, "pack_lmdb")


def test_a_wrong_start_leaves_the_checkpoint_that_is_there(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    tuned(tmp_path, built.lmdb, epochs=0)
    before = formats.folder_sha256(out)
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(FormatError, match=r"broken\.pt cannot be read safely as a checkpoint"):
        tuned(tmp_path, built.lmdb, model=str(tmp_path / "broken.pt"))
    mark = tmp_path / "mark"
    torch.save({"state_dict": {}, "args": Malicious(mark)}, tmp_path / "bad.pt")
    sentence = r"bad\.pt cannot be read safely as a checkpoint .* from where you trust it, or"
    with pytest.raises(FormatError, match=sentence):
        tuned(tmp_path, built.lmdb, model=str(tmp_path / "bad.pt"))
    assert not mark.exists()
    found = torch.load(built.checkpoint / "epoch_best.pt", weights_only=True)
    found["wentu"]["config"] = {**found["wentu"]["config"], "vision_layers": 5}
    torch.save(found, tmp_path / "other.pt")
    sentence = r"other\.pt: the weights do not fit tiny: missing or of another.*take a whole file"
    with pytest.raises(FormatError, match=sentence):
        tuned(tmp_path, built.lmdb, model=str(tmp_path / "other.pt"))
    monkeypatch.setenv("WENTU_WEIGHTS", str(tmp_path))
    shutil.copy(built.checkpoint / "epoch_best.pt", tmp_path / "clip_cn_rn50.pt")
    sentence = r"clip_cn_rn50\.pt holds tiny, not RN50: give its path to use it as it is, or"
    with pytest.raises(InputError, match=sentence):
        tuned(tmp_path, built.lmdb, model="RN50")
    with pytest.raises(InputError, match=sentence):
        tuned(tmp_path, built.lmdb, teacher="RN50")
    with pytest.raises(InputError, match="--context-length 99"):
        tuned(tmp_path, built.lmdb, context_length=99)
    assert formats.folder_sha256(out) == before
    assert read_manifest(out, "finetune")
