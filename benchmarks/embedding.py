"""Embedding pictures and captions on the CPU: our stage beside eval/extract_features.py."""

from __future__ import annotations

import contextlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.data import Vectors, captions, collection, draw, read_features
from benchmarks.launcher import between
from benchmarks.side_by_side import Row, Seconds, cosine_note, in_turn, run, table


@dataclass(frozen=True, kw_only=True)
class Made:
    """A model with random weights in both forms, and what it is to embed."""

    vision: str
    text: str
    resolution: int
    data: Path
    """Catalog, TSV, JSONL and pictures/."""
    checkpoint: Path
    """For cn_clip."""
    bundle: Path
    """The same weights, exported by our stage."""


def make(folder: Path, *, quick: bool) -> Made:
    """ViT-B-16 (quick: RN50, the smallest that cn_clip names), drawn from a seed; made once."""
    from wentu.clip import checkpoint
    from wentu.clip.model import VISION_AND_TEXT, architecture
    from wentu.stages import export_onnx, pack_lmdb

    vision, text, _ = VISION_AND_TEXT["RN50" if quick else "ViT-B-16"]
    arch = architecture(vision)
    made = Made(
        vision=vision,
        text=text,
        resolution=arch.resolution,
        data=folder / "embed",
        checkpoint=folder / "checkpoint.pt",
        bundle=folder / "bundle",
    )
    if made.data.exists():
        return made
    count = 16 if quick else 48
    pictures = [draw(number, (640, 480), 12.0, 90) for number in range(count)]
    data = collection(made.data, pictures, captions(2 * count))
    with contextlib.redirect_stderr(io.StringIO()):  # how far the stages are
        pack_lmdb.pack_lmdb(
            catalog=data, tsv=data, out=folder / "embed-lmdb", config=pack_lmdb.Config()
        )
        drawn = checkpoint.Checkpoint(architecture=arch)
        checkpoint.save(
            made.checkpoint, drawn.model().state_dict(), drawn, epoch=0, step=0, info={}
        )
        export_onnx.export_onnx(
            catalog=data,
            pictures=str(data / "pictures"),
            store=str(folder / "no-store"),
            out=made.bundle,
            config=export_onnx.Config(parity_samples=4),
            model=str(made.checkpoint),
        )
    return made


def measure(folder: Path, *, quick: bool) -> None:
    """Both sides embed the same pictures and captions."""
    made = make(folder, quick=quick)
    out = folder / "embedded"
    pictures, texts = folder / "images.jsonl", folder / "texts.jsonl"

    def ours() -> Seconds:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return run("benchmarks.ours", ["embed", made.data, made.bundle, out])

    def theirs() -> Seconds:
        options = (
            *("--extract-image-feats", "--image-data", folder / "embed-lmdb" / "train" / "imgs"),
            *("--extract-text-feats", "--text-data", made.data / "train_texts.jsonl"),
            *("--image-feat-output-path", pictures, "--text-feat-output-path", texts),
            *("--resume", made.checkpoint, "--precision", "fp32"),
            *("--vision-model", made.vision, "--text-model", made.text),
        )
        value = run("benchmarks.launcher", ["cn_clip.eval.extract_features", *options])
        return {
            "pictures": between(value, "inference for images", "image features are stored")[0],
            "texts": between(value, "inference for texts", "text features are stored")[0],
            "whole": value["whole"],
        }

    times = in_turn(ours, theirs, 2 if quick else 3)
    count = len(list((made.data / "pictures").iterdir()))
    table(
        f"embedding {count} pictures of 640 x 480 and {2 * count} captions, {made.vision}, CPU",
        *times,
        [
            Row(what="pictures: read, decode, embed", name="pictures", count=count),
            Row(what="captions: tokenize, embed", name="texts", count=2 * count),
            Row(what="whole command, model loaded", name="whole"),
        ],
        [
            "theirs: eval/extract_features.py, unmodified, fp32, its default batches of 64 and 52 "
            "tokens; it calls .cuda(), which a launcher makes do nothing",
            "ours: the stage features (which also checks the files' digests and writes "
            "thumbnails), then Bundle.encode_text",
            "the first two rows leave out process start and opening the model on both sides",
            cosine_note(
                {
                    "pictures": least_cosine(
                        ours_of(out),
                        dict(read_features(pictures, "image_id")),
                    ),
                    "captions": least_cosine(
                        dict(enumerate(np.load(out / "texts.npy"))),
                        dict(enumerate(row for _, row in read_features(texts, "text_id"))),
                    ),
                }
            ),
        ],
    )


def ours_of(out: Path) -> dict[int, Vectors]:
    """What the stage wrote, by the picture's id."""
    ids = np.load(out / "features" / "ids.npy").tolist()
    return dict(zip(ids, np.load(out / "features" / "vectors.npy"), strict=True))


def least_cosine(ours: dict[int, Vectors], theirs: dict[int, list[float]]) -> float:
    """The least over all ids, which must be the same on both sides."""
    assert ours.keys() == theirs.keys(), "the two sides embedded different things"
    return float(min(np.dot(ours[key], np.array(theirs[key])) for key in ours))
