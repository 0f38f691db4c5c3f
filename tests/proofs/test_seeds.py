"""Five seeds of Chinese-CLIP's loss and order beside the default, where pictures share captions.

The drawings are captioned by colour and shape alone, in four wordings: 192 captions for 320
pictures, four each, so that in a batch of 128 most pairs have right answers among the others, which
the diagonal loss takes for wrong.

What is asserted was written down before the first run: both ways learn, and the default is not
worse than the other by more than its noise, the 95 % interval of the five seeds' differences.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import losses
from tests.conftest import list_and_pair
from tests.training.small import SMALL, processor
from wentu import demo
from wentu.clip import checkpoint
from wentu.progress import Reporter
from wentu.stages import pack_lmdb
from wentu.training.config import Config
from wentu.training.data import PairBatches

pytestmark = pytest.mark.heavy
SIZES = {"train": 320, "valid": 40, "test": 120}
BATCH, EPOCHS, SEEDS = 128, 10, 5
WORDINGS = (
    "{colour}{shape}",
    "一个{colour}的{shape}",
    "画着{colour}{shape}",
    "{shape}，{colour}的",
)


def draw_all(folder: Path) -> Path:
    """The demo's large drawings, as far as they are needed, in named splits."""
    rng, everything = random.Random(0), [each for each in demo.combinations() if each.size == "大"]
    rng.shuffle(everything)
    (folder / "pictures").mkdir(parents=True)
    following = iter(enumerate(everything))
    for split, size in SIZES.items():
        rows = []
        for number, drawn in (next(following) for _ in range(size)):
            name = f"pictures/{number:04d}.png"
            demo.draw(drawn, rng).save(folder / name)
            rows.append(
                {"image": name, "caption": [each.format(**vars(drawn)) for each in WORDINGS]}
            )
        text = json.dumps(rows, ensure_ascii=False)
        (folder / f"cn_{split}.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def lmdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seeds")
    drawn = draw_all(root / "drawn")
    list_and_pair(root, drawn, str(drawn), str(root / "store"))
    pack_lmdb.pack_lmdb(
        catalog=root / "catalog",
        tsv=root / "tsv",
        out=root / "lmdb",
        config=pack_lmdb.Config(),
    )
    return root / "lmdb"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its kind only: each seed draws weights of its own."""
    path = tmp_path_factory.mktemp("model") / "small.pt"
    found = checkpoint.Checkpoint(architecture=SMALL)
    checkpoint.save(path, found.model().state_dict(), found, epoch=0, step=0, info={})
    return f"scratch:{path}"


def shares_of_rows(lmdb: Path) -> Iterator[float]:
    """Of each batch in random order: pictures with a right caption that is not their own."""
    batches = PairBatches(
        lmdb / "train", processors=[processor()], batch_size=BATCH, seed=0, sampler="random"
    )
    for batch in batches.epoch(1):
        rows, columns = batch.belongs[0]
        yield len(np.unique(rows[rows != columns])) / len(batch.image_ids)
    batches.close()


def test_the_default_is_not_worse_than_the_diagonal_beyond_its_noise(
    lmdb: Path, model: str, tmp_path: Path
) -> None:
    assert min(shares_of_rows(lmdb)) > 0.8
    both = {"batch_size": BATCH, "epochs": EPOCHS, "learning_rate": 2e-3}
    untrained = losses.train(lmdb, tmp_path / "no", model, Config(epochs=0), Reporter())
    results = losses.run(lmdb, tmp_path, model, both, SEEDS, Reporter())
    print("\n" + losses.write_report(tmp_path, lmdb, "drawings", str(both), results))
    chance = untrained["metrics"]["mean_recall"]
    for arm, found in results.items():
        recalls = [each["metrics"]["mean_recall"] for each in found]
        print(arm, " ".join(f"{100 * each:.1f}" for each in recalls), f"chance {100 * chance:.1f}")
        assert min(recalls) > 1.5 * chance
    found = losses.compare(lmdb, *results.values())
    assert len(found.by_seed) == SEEDS
    assert found.seeds[1] >= 0
