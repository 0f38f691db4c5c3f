"""Our side in a process of its own: ``python -m benchmarks.ours REPORT WHAT ARGUMENT...``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock


def pack(folder: Path, out: Path) -> dict[str, float]:
    """The stage pack_lmdb over a folder of TSV + JSONL."""
    from wentu.stages import pack_lmdb

    began = time.perf_counter()
    pack_lmdb.pack_lmdb(catalog=folder, tsv=folder, out=out, config=pack_lmdb.Config())
    return {"script": time.perf_counter() - began}


def embed(folder: Path, bundle: Path, out: Path) -> dict[str, float]:
    """The stage features over a folder's catalog and pictures, and then its texts.

    Opening the model is not part of the two times, as it is not of cn_clip's.
    """
    import numpy as np

    from wentu.clip.bundle import Bundle
    from wentu.stages import features

    seconds = {}
    real = features.embed

    def timed(rows: Any, ids: Any, vectors: Any, opened: Bundle, *rest: Any) -> None:
        side = opened.processor.resolution
        opened.encode_arrays(np.empty((0, side, side, 3), np.uint8))  # opens the session
        began = time.perf_counter()
        real(rows, ids, vectors, opened, *rest)
        seconds["pictures"] = time.perf_counter() - began

    with mock.patch.object(features, "embed", timed):
        features.features(
            catalog=folder,
            bundle=bundle,
            pictures=str(folder / "pictures"),
            store=str(out / "store"),
            out=out / "features",
            config=features.Config(),
        )
    encoder = Bundle(bundle)
    encoder.encode_text(["狗"])  # opens the session
    began = time.perf_counter()
    lines = (folder / "train_texts.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    np.save(out / "texts.npy", encoder.encode_text(texts))
    seconds["texts"] = time.perf_counter() - began
    return seconds


def topk(folder: Path, out: Path) -> dict[str, float]:
    """Read an index, search it for all texts, keep the ids that were found."""
    import faiss  # noqa: F401  importing it is no reading
    import numpy as np

    from wentu import ann

    began = time.perf_counter()
    part = ann.Part(index=ann.read_index(folder / "index.faiss"), ids=np.load(folder / "ids.npy"))
    texts = np.load(folder / "texts.npy")
    loaded = time.perf_counter()
    _, found = ann.search([part], texts, 10)
    searched = time.perf_counter()
    np.save(out, found)
    return {"load": loaded - began, "search": searched - loaded}


def main() -> None:
    """Do what is asked and write its seconds as JSON."""
    report, what, *arguments = sys.argv[1:]
    calls: dict[str, Callable[..., dict[str, float]]] = {
        "pack": pack,
        "embed": embed,
        "topk": topk,
    }
    seconds = calls[what](*map(Path, arguments))
    Path(report).write_text(json.dumps(seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
