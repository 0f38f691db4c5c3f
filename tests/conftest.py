"""What all tests share: a clean environment, the test data, and one tiny collection, trained once.

The expensive part (a training, an export) happens once in a session, in ``built``; a test that
changes a store works on its own copy of it (``store``). Drawn picture number n is the same picture
in every test, so that two collections that share numbers share files.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from wentu import demo
from wentu.language import set_language

# Read when torch is loaded: threads that spin while they wait make a training of four steps take
# 14 s instead of half a second on a machine that somebody else uses too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Two busy cores: how long an example takes says nothing.
hypothesis.settings.register_profile("wentu", deadline=None)
hypothesis.settings.load_profile("wentu")

SPLITS = {"train": range(14), "valid": range(14, 18), "test": range(18, 24)}
"""Numbers of the pictures in each file of ``small_collection``; fewer than 10 in test."""

FOR_TESTS = ("WENTU_TEST_DATA", "WENTU_UPDATE_DOCS")
"""Settings of the tests themselves, which a clean environment keeps."""

Row = dict[str, Any]
Draw = Callable[[Path, Iterable[int]], list[Row]]


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """The name of an empty bucket of a real S3 server: that which the AWS_* variables name."""
    if not os.environ.get("AWS_ENDPOINT_URL_S3"):
        pytest.skip("needs an S3 server: start any, and set AWS_ENDPOINT_URL_S3 and its keys")
    from wentu.storage.s3 import Objects, client

    name = f"wentu-test-{uuid.uuid4().hex[:12]}"
    client().create_bucket(Bucket=name)
    yield name
    objects = Objects(f"s3://{name}")
    objects.delete(entry.key for entry in list(objects.list(deep=True)))
    client().delete_bucket(Bucket=name)


# --- environment ------------------------------------------------------------------------------


def clean(patch: pytest.MonkeyPatch, weights: Path) -> None:
    """Nothing of the user's settings, English, and no pretrained weights."""
    set_language(None)
    for name in list(os.environ):
        if name.startswith(("WENTU_", "MLFLOW_")) and name not in FOR_TESTS:
            patch.delenv(name)
    for name in ("LC_ALL", "LC_MESSAGES", "LANGUAGE"):
        patch.delenv(name, raising=False)
    patch.setenv("LANG", "C.UTF-8")
    patch.setenv("WENTU_WEIGHTS", str(weights))
    patch.setenv("WENTU_CACHE", str(weights.with_name("cache")))


@pytest.fixture(scope="session", autouse=True)
def _clean_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For the fixtures of the session, which are made before those of a test."""
    with pytest.MonkeyPatch.context() as patch:
        clean(patch, tmp_path_factory.mktemp("no-weights"))
        yield


@pytest.fixture(autouse=True)
def _clean_test(monkeypatch: pytest.MonkeyPatch, _clean_session: None) -> Iterator[None]:
    clean(monkeypatch, Path(os.environ["WENTU_WEIGHTS"]))
    yield
    set_language(None)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of shared test data; the test is skipped where there is none."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WENTU_TEST_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}; name its folder in WENTU_TEST_DATA")
    return folder


# --- collections ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def draw() -> Draw:
    """Draw pictures by number into ``<folder>/pictures``; returns their rows of captions."""
    everything = demo.combinations()
    random.Random(0).shuffle(everything)

    def draw_into(folder: Path, numbers: Iterable[int]) -> list[Row]:
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        rows: list[Row] = []
        for number in numbers:
            rng = random.Random(number)
            name = f"pictures/{number:04d}.png"
            demo.draw(everything[number], rng).save(folder / name)
            rows.append({"image": name, "caption": everything[number].captions(rng)})
        return rows

    return draw_into


def write_captions(path: Path, rows: list[Row]) -> Path:
    """A captions JSON in the style of Flickr8K-CN."""
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def save_captions() -> Callable[[Path, list[Row]], Path]:
    """``write_captions``, for tests."""
    return write_captions


@pytest.fixture(scope="session")
def small_collection(tmp_path_factory: pytest.TempPathFactory, draw: Draw) -> Path:
    """24 drawn pictures and cn_train.json, cn_valid.json, cn_test.json; not to be changed."""
    folder = tmp_path_factory.mktemp("collection")
    for split, numbers in SPLITS.items():
        write_captions(folder / f"cn_{split}.json", draw(folder, numbers))
    return folder


@pytest.fixture
def collection(small_collection: Path, tmp_path: Path) -> Path:
    """A copy of ``small_collection`` that a test may change."""
    return Path(shutil.copytree(small_collection, tmp_path / "collection"))


# --- one run, stage by stage ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Built:
    """Where the outputs of one run of the stages are."""

    root: Path
    """Folder that all outputs are in."""
    collection: Path
    captions: str
    store: str
    answer: Any
    """What inventory said."""
    catalog: Path
    tsv: Path
    lmdb: Path
    checkpoint: Path
    bundle: Path
    evaluation: Path
    winner: Path
    features: Path
    index: Path
    promoted: Path


def outputs(root: Path, collection: Path, captions: str, store: str) -> dict[str, Any]:
    """The paths of a run below ``root``."""
    names = ("catalog", "tsv", "lmdb", "checkpoint", "bundle", "evaluation", "winner")
    names += ("features", "index", "promoted")
    given = {"root": root, "collection": collection, "captions": captions, "store": store}
    return given | {name: root / name for name in names}


def list_and_pair(root: Path, collection: Path, captions: str, store: str, **settings: Any) -> Any:
    """inventory and pairs; returns the answer."""
    from wentu.stages.inventory import Config, inventory
    from wentu.stages.pairs import Config as PairsConfig
    from wentu.stages.pairs import pairs

    names = ("train", "min_new", "max_deleted")
    usual = {"scratch": True} | {name: settings.pop(name) for name in names if name in settings}
    given = {"pictures": str(collection), "captions": captions, "store": store}
    answer = inventory(
        **given,
        out=root / "inventory",
        model=settings.pop("model", "tiny"),
        config=Config(**usual),
    )
    pairs(
        **given,
        inventory=answer.inventory,
        out=root / "catalog",
        tsv=root / "tsv" if captions != "none" else None,
        config=PairsConfig(**settings),
    )
    return answer


def embed_and_promote(run: Built, *, pointer: int, train: bool) -> None:
    """features, index and promote."""
    from wentu.stages import features, index, promote

    features.features(
        catalog=run.catalog,
        bundle=run.winner,
        pictures=str(run.collection),
        store=run.store,
        out=run.features,
        config=features.Config(),
        pointer=pointer,
    )
    index.index(catalog=run.catalog, features=[run.features], out=run.index, config=index.Config())
    promote.promote(
        catalog=run.catalog,
        bundle=run.winner,
        index=run.index,
        store=run.store,
        inventory=run.answer.inventory,
        out=run.promoted,
        config=promote.Config(),
        evaluation=run.evaluation if train else None,
        pointer=pointer,
        attempt=run.answer.attempt,
        pictures=str(run.collection),
        captions=run.captions,
        use=run.answer.model,
        use_digest=run.answer.model_digest,
    )


def every_stage(root: Path, collection: Path, captions: str, **settings: Any) -> Built:
    """Every stage once, the tiny model from scratch for one epoch, into a store of its own.

    settings: of pairs; ``training`` holds those of finetune.
    """
    from wentu.stages import evaluate, export_onnx, finetune, pack_lmdb

    store, training = str(root / "store"), settings.pop("training", {})
    paths = outputs(root, collection, captions, store)
    answer = list_and_pair(root, collection, captions, store, **settings)
    run = Built(**paths, answer=answer)
    pack_lmdb.pack_lmdb(catalog=run.catalog, tsv=run.tsv, out=run.lmdb, config=pack_lmdb.Config())
    usual = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
    finetune.finetune(
        lmdb=run.lmdb,
        model=answer.model,
        store=store,
        out=run.checkpoint,
        config=finetune.Config(**usual | training),
    )
    export_onnx.export_onnx(
        catalog=run.catalog,
        pictures=str(collection),
        store=store,
        out=run.bundle,
        config=export_onnx.Config(),
        checkpoint=run.checkpoint,
    )
    evaluate.evaluate(
        lmdb=run.lmdb,
        bundle=run.bundle,
        store=store,
        out=run.evaluation,
        winner=run.winner,
        config=evaluate.Config(resamples=200),
    )
    embed_and_promote(run, pointer=0, train=True)
    return run


@pytest.fixture(scope="session")
def built(small_collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Every stage once, the tiny model from scratch for one epoch; not to be changed."""
    return every_stage(tmp_path_factory.mktemp("built"), small_collection, str(small_collection))


@pytest.fixture(scope="session")
def built_closed(small_collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The same with a closed split; not to be changed."""
    root = tmp_path_factory.mktemp("closed")
    return every_stage(root, small_collection, str(small_collection), split="closed")


TRADITIONAL = (
    *("檔案", "滑鼠", "鍵盤", "紅色的圓形", "一隻貓", "電腦", "軟體", "雨傘"),
    *("鬧鐘", "帳篷", "鏈條", "電話", "商標", "骷髏頭", "噴泉", "程式"),
)
"""Captions as written in Taiwan; brought to the mainland's words twice, 檔案 and 程式 differ."""


@pytest.fixture(scope="session")
def built_converted(draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Every stage once with ``convert="tw2sp"`` and a crop; not to be changed."""
    root, collection = (tmp_path_factory.mktemp(name) for name in ("converted", "taiwan"))
    rows = draw(collection, range(len(TRADITIONAL)))
    rows = [row | {"caption": [text]} for row, text in zip(rows, TRADITIONAL, strict=True)]
    for split, part in (("train", rows[:10]), ("valid", rows[10:13]), ("test", rows[13:])):
        write_captions(collection / f"cn_{split}.json", part)
    return every_stage(
        root, collection, str(collection), convert="tw2sp", training={"resize": "crop"}
    )


@pytest.fixture
def store(built: Built, tmp_path: Path) -> str:
    """A copy of the store of ``built``, one release in it, without the training's state."""
    target = tmp_path / "store"
    shutil.copytree(built.store, target, ignore=shutil.ignore_patterns("work"))
    return str(target)


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., Any]:
    """inventory and pairs into ``tmp_path``: ``pair(collection, captions, store)``."""

    def run(collection: Path, captions: str, store: str, **settings: Any) -> Any:
        return list_and_pair(tmp_path, collection, captions, store, **settings)

    return run


@pytest.fixture
def refresh(built: Built, tmp_path: Path) -> Callable[..., Built]:
    """A refresh of ``collection`` with the model of ``built``: inventory, pairs, features, index,
    promote, each time into a new folder."""
    runs = iter(range(100))

    def run(
        collection: Path, store: str, *, pointer: int, captions: str | None = None, **settings: Any
    ) -> Built:
        root = tmp_path / f"refresh-{next(runs)}"
        said = captions or str(collection)
        answer = list_and_pair(root, collection, said, store, train=False, model="", **settings)
        paths = outputs(root, collection, said, store) | {"winner": built.winner}
        done = replace(Built(**paths, answer=answer))
        embed_and_promote(done, pointer=pointer, train=False)
        return done

    return run
