"""`make bench`: packing an LMDB and answering one text query, beside cn_clip's own code.

Both sides work on the same files in the same run, in turn, and the ratio of the medians is what
counts: machines are noisy. Pictures are drawn; pass a folder of TSV + JSONL to measure your own.
"""

from __future__ import annotations

import base64
import contextlib
import io
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wentu.formats import Manifest, Text, create_catalog, text_id, write_manifest
from wentu.stages import pack_lmdb

ROUNDS = 5
PICTURES = 2000


def main() -> None:
    """Print a table of ours, the reference's and their ratio."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else make_tsv(Path(name) / "data")
        work = Path(name) / "work"
        rows.append(
            (
                "pack an LMDB",
                *turns(
                    lambda: pack_ours(folder, work / "ours"),
                    lambda: pack_theirs(folder, work / "theirs"),
                ),
            )
        )
        rows.append(("import and tokenize one query", *turns(start_ours, start_theirs)))
        rows.append(("tokenize 1,000 captions", *turns(*tokenizers())))
    print(f"{'':34}{'wentu':>10}{'cn_clip':>10}{'times faster':>15}")
    for what, ours, theirs in rows:
        print(f"{what:34}{ours:>9.3f}s{theirs:>9.3f}s{theirs / ours:>14.1f}x")


def turns(ours: Callable[[], None], theirs: Callable[[], None]) -> tuple[float, float]:
    """Median seconds of each, run in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for call, kept in zip((ours, theirs), times, strict=True):
            began = time.perf_counter()
            call()
            kept.append(time.perf_counter() - began)
    return statistics.median(times[0]), statistics.median(times[1])


def make_tsv(folder: Path) -> Path:
    """Noise as JPEG (30 KB each) with two captions, as a split that both sides read."""
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "train_imgs.tsv").open("wb") as tsv:
        for number in sorted(range(PICTURES), key=str):
            buffer = io.BytesIO()
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((336, 336)).save(buffer, "JPEG", quality=95)
            tsv.write(b"%d\t%s\n" % (number, base64.urlsafe_b64encode(buffer.getvalue())))
    with (folder / "train_texts.jsonl").open("w", encoding="utf-8") as file:
        for number in range(2 * PICTURES):
            text = f"第 {number} 条描述:一只狗在草地上追逐红色的球"
            file.write(Text(text_id=text_id(text), text=text, image_ids=(number // 2,)).line())
    create_catalog(folder / "catalog.sqlite").close()
    write_manifest(folder, Manifest(stage="pairs", config={}, inputs={}))
    return folder


def pack_ours(folder: Path, out: Path) -> None:
    """Our stage, in this process."""
    shutil.rmtree(out, ignore_errors=True)
    with contextlib.redirect_stderr(io.StringIO()):
        pack_lmdb.pack_lmdb(catalog=folder, tsv=folder, out=out, config=pack_lmdb.Config())


def pack_theirs(folder: Path, out: Path) -> None:
    """cn_clip's script, in this process too, so that no start-up counts against it."""
    import runpy

    shutil.rmtree(out, ignore_errors=True)
    before = sys.argv
    sys.argv = ["build", "--data_dir", str(folder), "--splits", "train", "--lmdb_dir", str(out)]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            runpy.run_module("cn_clip.preprocess.build_lmdb_dataset", run_name="__main__")
    finally:
        sys.argv = before


def start_ours() -> None:
    """A fresh process that tokenizes one query."""
    code = "from wentu.clip.text import Tokenizer; Tokenizer.chinese_bert().encode(['雪地里的狗'])"
    subprocess.run([sys.executable, "-c", code], check=True)


def start_theirs() -> None:
    """The same with cn_clip."""
    code = "import cn_clip.clip as clip; clip.tokenize(['雪地里的狗'])"
    subprocess.run([sys.executable, "-c", code], check=True)


def tokenizers() -> tuple[Callable[[], None], Callable[[], None]]:
    """Both tokenizers on the same captions."""
    import cn_clip.clip as clip

    from wentu.clip.text import Tokenizer

    texts = [f"第 {n} 条描述:一只棕色的狗在草地上追逐红色的球" for n in range(1000)]
    ours = Tokenizer.chinese_bert()
    return lambda: void(ours.encode(texts)), lambda: void(clip.tokenize(texts))


def void(_: object) -> None:
    """Drop a result."""


if __name__ == "__main__":
    main()
