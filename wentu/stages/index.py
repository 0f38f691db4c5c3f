"""index: vectors -> a segment with its FAISS index, its recall measured against brute force.

Exact search; choosing among indexes by size comes with its own issue.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wentu import ann
from wentu.errors import QualityError
from wentu.formats import CATALOG, create_catalog, read_manifest
from wentu.language import pick
from wentu.settings import StageConfig, option
from wentu.stage import Stage
from wentu.storage import link_or_copy


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How good the index must be."""

    min_recall: float = option(
        0.98,
        "Least recall@10 of the index against exact search.",
        "索引相对精确检索的最低 recall@10。",
    )

    def check(self) -> None:
        self.need_share("min_recall")


def index(*, catalog: Path, features: Path, out: Path, config: Config) -> None:
    """Write ``segment/`` (vectors, ids, catalog, index; absent when nothing is new) into ``out``.

    Args:
        catalog: output of pairs. features: output of features.
    """
    inputs = {
        "pairs": read_manifest(catalog, "pairs").digest,
        "features": read_manifest(features, "features").digest,
    }
    with Stage("index", out, config, inputs) as stage:
        ids = np.load(features / "ids.npy")
        link_or_copy(str(features / "reuse.json"), str(out / "reuse.json"))
        stage.counts |= {"vectors": len(ids)}
        if not len(ids):
            return
        vectors = np.load(features / "vectors.npy", mmap_mode="r")
        segment = out / "segment"
        segment.mkdir()
        for name in ("ids.npy", "vectors.npy"):
            link_or_copy(str(features / name), str(segment / name))
        built = ann.build(vectors)
        recall = ann.exact_recall(built, vectors)
        if gpus := ann.gpu_count():
            text = pick(f"searched on {gpus} GPUs", f"在 {gpus} 个 GPU 上检索")
            stage.progress.note(text)
        if recall < config.min_recall:
            raise QualityError(
                f"the index finds {recall:.3f} of the true nearest, --min-recall is "
                f"{config.min_recall}.",
                f"索引只找回 {recall:.3f} 的真实近邻，低于 --min-recall {config.min_recall}。",
            )
        ann.write_index(built, segment / "index.faiss")
        copy_catalog(catalog / CATALOG, segment / CATALOG, ids.tolist())
        stage.counts |= {"recall_at_10": recall}


def copy_catalog(source: Path, target: Path, ids: list[int]) -> None:
    """The part of a catalog that speaks of ``ids``."""
    with closing(create_catalog(target)) as db:
        db.execute("ATTACH ? AS whole", (str(source),))
        db.execute("CREATE TEMP TABLE wanted (id INTEGER PRIMARY KEY)")
        db.executemany("INSERT INTO wanted VALUES (?)", ((each,) for each in ids))
        mine = "SELECT id FROM wanted"
        for statement in (
            f"INSERT INTO pictures SELECT * FROM whole.pictures WHERE id IN ({mine})",
            f"INSERT INTO paths SELECT * FROM whole.paths WHERE picture IN ({mine})",
            f"INSERT INTO captions SELECT * FROM whole.captions WHERE picture IN ({mine})",
            "INSERT INTO facts SELECT * FROM whole.facts",
            "INSERT INTO texts SELECT * FROM whole.texts WHERE id IN (SELECT text FROM captions)",
        ):
            db.execute(statement)
        db.commit()
        vacuum(db)


def vacuum(db: sqlite3.Connection) -> None:
    """Equal content becomes equal bytes, so that a retried stage gives the same segment."""
    db.execute("DETACH whole")
    db.execute("VACUUM")
