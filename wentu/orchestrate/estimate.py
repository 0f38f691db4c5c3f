"""`wentu plan`: what a run would do, and about how long, how large, with how much memory.

Two things are measured on the spot, for a second: how fast this machine multiplies matrices, and
how fast it decodes some of the user's own pictures. The rest is arithmetic over the shapes of the
model. Expect the right order of magnitude, not the right minute.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wentu import captions as layouts
from wentu import pictures as decoder
from wentu.clip.model import NAMES, Architecture, architecture
from wentu.collection import Skipped
from wentu.orchestrate.parameters import config_of
from wentu.orchestrate.watch import FLOW
from wentu.progress import Reporter
from wentu.stages import inventory, training_settings
from wentu.storage import collection_root
from wentu.store import Store

EFFICIENCY = 0.45
"""Share of the matrix rate that training reaches (tiny model, two CPU cores: 99 of 215 GFLOP/s)."""
START_SECONDS = {"finetune": 6.0, "export_onnx": 6.0, "evaluate": 7.0, "promote": 3.0}
"""Importing torch and MLflow; every other stage about 2 s."""
CAPTION_TOKENS = 24
"""Of a usual Chinese caption, [CLS] and [SEP] included."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A run that was not made."""

    decision: str
    reason: str
    pictures: int
    pairs: int
    seconds: dict[str, float]
    """By stage, in the order of the flow."""
    disk: dict[str, float]
    """Bytes that the store grows by, by what they hold."""
    memory: float
    """Bytes, of the stage that needs most."""


def estimate(values: Mapping[str, Any]) -> Estimate:
    """Look at the collection as inventory would, and add up. Writes nothing but cached digests."""
    root, store = collection_root(str(values["pictures"])), Store(str(values["store"]))
    captions = str(values["captions"])
    rows = list(inventory.listing(root, captions, store, Reporter(), Skipped()))
    config = config_of("inventory", values)
    assert isinstance(config, inventory.Config)
    answer = inventory.decide(
        store,
        rows,
        inventory.listing_digest(rows),
        captions,
        str(values["model"]),
        training_settings(
            pairs=config_of("pairs", values).text(), finetune=config_of("finetune", values).text()
        ),
        config,
    )
    files = [row for row in rows if row[0] == "picture"]
    pairs = count_pairs(values, len(files))
    arch = named_or_usual(answer.model)
    flops, parameters = forward_flops(arch), parameter_total(arch)
    decode = decode_seconds(root, [row[1] for row in files])
    rate = EFFICIENCY * matrix_rate()
    compute = {
        "pairs": decode * len(files),
        "finetune": 3 * flops["both"] * pairs * int(values["epochs"]) / rate,
        "evaluate": 3 * flops["both"] * len(files) * float(values["test_fraction"]) / rate,
        "features": len(files) * (decode + flops["image"] / rate),
    }
    stages = FLOW[answer.decision]
    seconds = {name: START_SECONDS.get(name, 2.0) + compute.get(name, 0.0) for name in stages}
    size = sum(row[2] for row in files)
    disk = {"thumbnails": 8e3 * len(files), "vectors": 8.0 * arch.embed_dim * len(files)}
    if answer.decision == "train":
        disk |= {"tsv": 1.34 * size, "lmdb": 1.5 * size, "weights": 40.0 * parameters}
    at_once = int(values["chunk"]) or int(values["batch_size"])
    activations = 4 * 16 * at_once * flops["activations"]
    training = answer.decision == "train"
    memory = 6e8 + (16 * parameters + activations if training else 8 * parameters)
    return Estimate(
        decision=answer.decision,
        reason=answer.reason,
        pictures=len(files),
        pairs=pairs,
        seconds=seconds,
        disk=disk if answer.decision != "skip" else {},
        memory=memory,
    )


def named_or_usual(model: str) -> Architecture:
    """The named architecture; for files and others, whose shape is not looked at, ViT-B-16."""
    return architecture(model if model in NAMES else "ViT-B-16")


def count_pairs(values: Mapping[str, Any], pictures: int) -> int:
    """Training pairs, before any picture is set aside."""
    captions = str(values["captions"])
    if captions in layouts.NO_FILES:
        return 0 if captions == "none" else pictures
    columns = {name: str(values[name]) for name in ("picture_column", "caption_column")}
    rows = layouts.read(captions, **columns)
    trained = (None, "train", "valid", "test") if values["split"] == "closed" else (None, "train")
    return sum(len(row.captions) for row in rows if row.split in trained)


def forward_flops(arch: Architecture) -> dict[str, float]:
    """Operations of one forward pass of a pair, and its activations (numbers kept per pair).

    A transformer layer of width W on T tokens multiplies 12 W^2 weights with T vectors and T x T
    attention twice: 24 T W^2 + 4 T^2 W operations (Kaplan et al. 2020, table 1).
    """
    config = arch.config
    width, layers = int(config["vision_width"]), config["vision_layers"]
    if isinstance(layers, list):  # RN50 at 224: 4.1 G multiply-adds (He et al. 2016), CLIP's 1.5x
        image, kept = 1.2e10 * (arch.resolution / 224) ** 2, 1.2e7
    else:
        tokens = (arch.resolution // int(config["vision_patch_size"])) ** 2 + 1
        image = layers * (24.0 * tokens * width**2 + 4.0 * tokens**2 * width)
        kept = layers * tokens * width
    hidden, depth = int(config["text_hidden_size"]), int(config["text_num_hidden_layers"])
    text = depth * (24.0 * CAPTION_TOKENS * hidden**2 + 4.0 * CAPTION_TOKENS**2 * hidden)
    kept += depth * CAPTION_TOKENS * hidden
    return {"image": image, "text": text, "both": image + text, "activations": float(kept)}


def parameter_total(arch: Architecture) -> float:
    """About how many numbers the model learns."""
    config = arch.config
    layers = config["vision_layers"]
    width, hidden = float(config["vision_width"]), float(config["text_hidden_size"])
    vision = 3.8e7 if isinstance(layers, list) else 12 * layers * width**2
    text = 12 * int(config["text_num_hidden_layers"]) * hidden**2
    return vision + text + int(config["vocab_size"]) * hidden


def matrix_rate(side: int = 1024, seconds: float = 0.4) -> float:
    """float32 operations per second of this machine's matrix product (the GPU's, if there is one:
    taken as 40 T/s, a card of the middle class, since torch is not loaded for a plan)."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return 4e13
    matrix = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        matrix @ matrix
        count += 1
    return 2.0 * side**3 * count / (time.monotonic() - began)


def decode_seconds(root: Path, paths: list[str], sample: int = 16) -> float:
    """Mean seconds to decode one of the pictures, on two cores or more about half of one core's."""
    chosen = paths[:: max(1, len(paths) // sample)][:sample]
    began = time.monotonic()
    for path in chosen:
        try:
            decoder.fingerprint(decoder.decode((root / path).read_bytes()))
        except (OSError, decoder.PictureError):
            continue
    return (time.monotonic() - began) / max(1, len(chosen)) / 2
