"""TSV + JSONL -> LMDB: our stage beside preprocess/build_lmdb_dataset.py."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.data import captions, collection, draw
from benchmarks.side_by_side import Row, Seconds, in_turn, run, table


def measure(folder: Path, *, quick: bool) -> None:
    """Pack a made collection: 30 KB a picture, two captions each."""
    count, rounds = (200, 2) if quick else (2000, 5)
    pictures = [draw(number, (320, 240), 12.0, 88) for number in range(count)]
    data = collection(folder / "pack", pictures, captions(2 * count))
    out = folder / "packed"

    def ours() -> Seconds:
        shutil.rmtree(out, ignore_errors=True)
        return run("benchmarks.ours", ["pack", data, out])

    def theirs() -> Seconds:
        shutil.rmtree(out, ignore_errors=True)
        module = "cn_clip.preprocess.build_lmdb_dataset"
        options = ("--data_dir", data, "--splits", "train", "--lmdb_dir", out)
        value = run("benchmarks.launcher", [module, *options])
        return {name: value[name] for name in ("script", "whole")}

    size = sum(map(len, pictures)) / 1e6
    table(
        f"packing {count:,} pictures ({size:.0f} MB) and {2 * count:,} captions into LMDB",
        *in_turn(ours, theirs, rounds),
        [
            Row(what="without process start", name="script"),
            Row(what="whole command", name="whole"),
        ],
        [
            "theirs: preprocess/build_lmdb_dataset.py, unmodified",
            "ours: the stage pack_lmdb, which also checks that every caption's picture is there",
        ],
    )
    shutil.rmtree(out)
    shutil.rmtree(data)
