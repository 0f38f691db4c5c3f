"""One text query, from its characters to its vector: ours beside cn_clip's API."""

from __future__ import annotations

import contextlib
import io
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.data import QUERIES, Vectors, captions
from benchmarks.embedding import Made, make
from benchmarks.side_by_side import Row, Seconds, cosine_note, in_turn, table

Encode = Callable[[str], Vectors]
PAUSE = 0.3
"""Seconds between the sides: the threads of either spin for a while after their last work."""


def measure(folder: Path, *, quick: bool) -> None:
    """Latency of one query at a time, and of what stands around it."""
    made = make(folder, quick=quick)
    our, their = our_encoder(made), their_encoder(made)
    rounds = 3 if quick else 7
    ours, theirs = in_turn(latency(our), latency(their), rounds)
    for what, pair in (("start", (start_ours, start_theirs)), ("tokenize", tokenizers())):
        for kept, times in zip((ours, theirs), in_turn(*pair, 3), strict=True):
            kept[what] = times["seconds"]
    cosine = min(float(our(text) @ their(text)) for text in QUERIES)
    table(
        f"one text query, {made.vision}'s text tower ({made.text}), CPU",
        ours,
        theirs,
        [
            Row(what="tokenize and embed: median query", name="median", aim=0.0 if quick else 3.0),
            Row(what="tokenize and embed: slowest", name="slowest"),
            Row(what="fresh process: first tokens", name="start"),
            Row(what="tokenize 1,000 captions", name="tokenize"),
        ],
        [
            f"{len(QUERIES)} Chinese queries of {min(map(len, QUERIES))} to "
            f"{max(map(len, QUERIES))} characters, one by one, after a first pass to warm up",
            "theirs: clip.tokenize and model.encode_text of load_from_name(..., device='cpu'), "
            "float32, no_grad, eval, as its README says; ours: Bundle.encode_text([text])",
            cosine_note({"queries": cosine}),
        ],
    )


def our_encoder(made: Made) -> Encode:
    """A bundle, opened."""
    from wentu.clip.bundle import Bundle

    bundle = Bundle(made.bundle)

    def encode(text: str) -> Vectors:
        result: Vectors = bundle.encode_text([text])[0]
        return result

    return encode


def their_encoder(made: Made) -> Encode:
    """cn_clip's model, loaded from the same weights by its own loader."""
    import cn_clip.clip as clip
    import torch

    with contextlib.redirect_stdout(io.StringIO()):
        model, _ = clip.load_from_name(
            str(made.checkpoint),
            device="cpu",
            vision_model_name=made.vision,
            text_model_name=made.text,
            input_resolution=made.resolution,
        )
    model.eval()

    def encode(text: str) -> Vectors:
        with torch.no_grad():
            features = model.encode_text(clip.tokenize([text]))
            features /= features.norm(dim=-1, keepdim=True)
            result: Vectors = features[0].numpy()
            return result

    return encode


def latency(encode: Encode) -> Callable[[], Seconds]:
    """All queries one by one; their median and their slowest."""

    def measured() -> Seconds:
        time.sleep(PAUSE)
        encode(QUERIES[0])
        times = []
        for text in QUERIES:
            began = time.perf_counter()
            encode(text)
            times.append(time.perf_counter() - began)
        return {"median": statistics.median(times), "slowest": max(times)}

    return measured


def timed(call: Callable[[], object]) -> Callable[[], Seconds]:
    """A call that returns how long it took."""

    def measured() -> Seconds:
        began = time.perf_counter()
        call()
        return {"seconds": time.perf_counter() - began}

    return measured


def in_fresh_process(code: str) -> Callable[[], Seconds]:
    """A Python process of its own that runs one line."""
    return timed(lambda: subprocess.run([sys.executable, "-c", code], check=True))


start_ours = in_fresh_process(
    "from wentu.clip.text import Tokenizer; Tokenizer.chinese_bert().encode(['雪地里的狗'])"
)
start_theirs = in_fresh_process("import cn_clip.clip as clip; clip.tokenize(['雪地里的狗'])")


def tokenizers() -> tuple[Callable[[], Seconds], Callable[[], Seconds]]:
    """Both tokenizers on the same captions, of which they must make the same ids."""
    import cn_clip.clip as clip

    from wentu.clip.text import Tokenizer

    texts, tokenizer = captions(1000), Tokenizer.chinese_bert()
    same, full = tokenizer.encode(texts), clip.tokenize(texts).numpy()
    assert np.array_equal(same, full[:, : same.shape[1]]), "the tokenizers differ"
    return timed(lambda: tokenizer.encode(texts)), timed(lambda: clip.tokenize(texts))
