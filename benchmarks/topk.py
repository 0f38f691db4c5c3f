"""The ten nearest pictures of many texts: our index beside eval/make_topk_predictions.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import clip_like, read_features, write_features
from benchmarks.launcher import between
from benchmarks.side_by_side import Row, Seconds, Times, in_turn, run, table
from wentu import ann

TEXTS = 5000
SIZES = ((1000, TEXTS, 3), (50_000, 100, 3))
"""Pictures, texts that theirs searches for (scaled to all: it takes each by itself), rounds."""
QUICK = ((500, TEXTS // 10, 2), (2000, 100, 2))


def measure(folder: Path, *, quick: bool) -> None:
    """Search galleries of different size for the same number of texts."""
    texts = TEXTS // 10 if quick else TEXTS
    for pictures, subset, rounds in QUICK if quick else SIZES:
        place = folder / f"topk-{pictures}"
        make(place, pictures, texts, subset)
        factor = texts / subset
        ours, theirs, agreement = both(place, factor, rounds)
        part = "" if factor == 1 else f" for {subset} texts, its searching x {factor:g}"
        table(
            f"top 10 of {texts:,} texts over {pictures:,} pictures, 512 numbers each, CPU",
            ours,
            theirs,
            [
                Row(what="searching", name="search", aim=0.0 if quick else 20.0),
                Row(what="reading features or index", name="load"),
                Row(what="whole command", name="whole"),
            ],
            [
                f"theirs: eval/make_topk_predictions.py, unmodified, its .cuda() made to do "
                f"nothing{part}; parsing the texts' JSONL counts as reading, not as searching",
                "ours: ann.search, exact, all texts at once, over an index file",
                f"the same pictures in the same places: {agreement:.2%}",
            ],
        )
        shutil.rmtree(place)


def make(place: Path, pictures: int, texts: int, subset: int) -> None:
    """The same seeded features as JSONL for them and as an index for us."""
    place.mkdir()
    gallery, queries = clip_like(pictures, texts)
    write_features(place / "images.jsonl", "image_id", gallery)
    write_features(place / "texts.jsonl", "text_id", queries[:subset])
    ann.write_index(ann.build(gallery), place / "index.faiss")
    np.save(place / "ids.npy", np.arange(pictures, dtype=np.int64))
    np.save(place / "texts.npy", queries)


def both(place: Path, scale: float, rounds: int) -> tuple[Times, Times, float]:
    """Times of both sides, and the share of places that hold the same picture."""
    predicted = place / "predictions.jsonl"

    def ours() -> Seconds:
        return run("benchmarks.ours", ["topk", place, place / "found.npy"])

    def theirs() -> Seconds:
        options = (
            *("--image-feats", place / "images.jsonl", "--text-feats", place / "texts.jsonl"),
            *("--top-k", 10, "--output", predicted),
        )
        value = run("benchmarks.launcher", ["cn_clip.eval.make_topk_predictions", *options])
        return scaled(value, scale)

    times = in_turn(ours, theirs, rounds)
    found = np.load(place / "found.npy")
    rows = [row for _, row in read_features(predicted, "text_id", "image_ids")]
    return *times, float(np.mean(found[: len(rows)] == np.array(rows)))


def scaled(value: dict[str, Any], scale: float) -> Seconds:
    """Their times as if all texts had been searched for."""
    load, _ = between(value, "Begin to load image features", "Finished loading image features")
    whole, parsing = between(value, "Begin to compute top", "predictions are saved")
    return {
        "load": load + scale * parsing,
        "search": scale * (whole - parsing),
        "whole": value["whole"] + (scale - 1) * whole,
    }
