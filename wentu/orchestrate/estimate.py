"""`wentu plan`: what a run would do, and about how long, how large, with how much memory.

Two things are measured on the spot, for a second: how fast this machine multiplies matrices (of a
GPU, its maker's figure is taken), and how fast it decodes some of the user's own pictures. What the
model needs comes from one step of it in shapes (see training/cost.py). Expect memory within about
15 %, and of the time the right order of magnitude.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from wentu import captions as layouts
from wentu import pictures as decoder
from wentu.ann.turns import cores
from wentu.clip import checkpoint
from wentu.clip.encoder import find_bundle
from wentu.clip.model import NAMES, SCRATCH, Architecture, architecture
from wentu.collection import Collection, Skipped, open_collection
from wentu.errors import InputError
from wentu.listing import Listing, pictures_of
from wentu.orchestrate.live import FLOW
from wentu.orchestrate.parameters import config_of
from wentu.progress import Reporter
from wentu.stages import inventory, training_settings
from wentu.storage import local_copy
from wentu.store import Store
from wentu.training import cost
from wentu.training.config import Config as Training
from wentu.training.devices import peak_rate_of, pick_device, processes

EFFICIENCY = 0.45
"""Share of the matrix rate that training reaches (tiny model, two CPU cores: 99 of 215 GFLOP/s)."""
GPU_EFFICIENCY, GPU_RATE = 0.3, 1.3e14
"""The same share of a GPU's peak, a usual one; and the peak of a card that is not known."""
DECODERS = 2
"""Pictures that pairs and features decode at once, on two cores or more about so many."""
START_SECONDS = {"finetune": 6.0, "export_onnx": 6.0, "evaluate": 7.0, "promote": 3.0}
"""Importing torch and MLflow; every other stage about 2 s."""


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
    """Bytes, of the stage that needs most, on a CPU."""
    gpu_memory: float
    """Bytes on each GPU where training uses them; 0 where nothing is trained."""
    missing: str
    """What a run would stop at."""


def estimate(values: Mapping[str, Any]) -> Estimate:
    """Look at the collection as inventory would, and add up. Writes nothing but cached digests."""
    source, store = open_collection(str(values["pictures"])), Store(str(values["store"]))
    captions = str(values["captions"])
    with tempfile.TemporaryDirectory() as folder:
        rows = inventory.listing(source, captions, store, Reporter(), Skipped())
        listed = Listing.write(Path(folder) / "listing", rows)
        return _estimate(values, source, store, listed)


def _estimate(
    values: Mapping[str, Any], source: Collection, store: Store, listed: Listing
) -> Estimate:
    config, settings = config_of("inventory", values), config_of("finetune", values)
    assert isinstance(config, inventory.Config)
    assert isinstance(settings, Training)
    model, missing = start_of(values)
    answer = inventory.decide(
        store,
        listed,
        inventory.Against(store, listed),
        str(values["captions"]),
        model,
        training_settings(pairs=config_of("pairs", values).text(), finetune=settings.text()),
        config,
    )
    files = listed.pictures
    pairs = count_pairs(values, files)
    arch = architecture_of(answer.model)
    teacher = architecture_of(settings.teacher) if settings.teacher else None
    each = cost.forward(arch)
    both = each.image + each.text
    decode, rate = decode_seconds(source, listed), EFFICIENCY * matrix_rate()
    compute = {
        "pairs": decode / DECODERS * files,
        "evaluate": 3 * both * files * float(values["test_fraction"]) / rate,
        "features": files * (decode / DECODERS + each.image / rate),
    }
    if answer.decision == "train":
        fed = [arch, teacher] if teacher else [arch]
        compute["finetune"] = finetune_seconds(settings, fed, pairs, files, decode)
    stages = FLOW[answer.decision]
    seconds = {name: START_SECONDS.get(name, 2.0) + compute.get(name, 0.0) for name in stages}
    size = listed.size
    disk = {"thumbnails": 8e3 * files, "vectors": 8.0 * arch.embed_dim * files}
    memory, gpu_memory = cost.LIBRARIES + 8.0 * each.parameters, 0.0
    if answer.decision == "train":
        disk |= {"tsv": 1.34 * size, "lmdb": 1.5 * size, "weights": 40.0 * each.parameters}
        scratch = answer.model.startswith(SCRATCH) and not missing
        memory, gpu_memory = (
            cost.memory(
                arch,
                settings,
                gpu=gpu,
                devices=devices,
                pairs=pairs,
                scratch=scratch,
                teacher=teacher,
            )
            for gpu, devices in ((False, 1), (True, devices_of(settings)))
        )
    return Estimate(
        decision=answer.decision,
        reason=answer.reason,
        pictures=files,
        pairs=pairs,
        seconds=seconds,
        disk=disk if answer.decision != "skip" else {},
        memory=memory,
        gpu_memory=gpu_memory,
        missing=missing if answer.decision == "train" else "",
    )


def start_of(values: Mapping[str, Any]) -> tuple[str, str]:
    """What to plan with, and what the user has to be told of it: a plan does without weights."""
    model = str(values["model"])
    name = model or inventory.DEFAULT_MODEL
    trains = values["train"] and values["captions"] != "none"
    if not trains or values["scratch"] or name not in NAMES:
        return model, ""
    try:
        checkpoint.find_weights(name)
    except InputError as error:
        return SCRATCH + name, str(error)
    return model, ""


def finetune_seconds(
    settings: Training, fed: Sequence[Architecture], pairs: int, pictures: int, decode: float
) -> float:
    """Of a whole training: computing, and decoding the pictures, whichever takes longer on a GPU.

    On the CPU both want the same cores, and their times add up.

    Args:
        fed: the model that learns, then its teacher if it has one.
        decode: seconds that one core takes for a picture.
    """
    learns, *teaches = (cost.forward(each) for each in fed)
    chunked = 0 < settings.chunk < settings.batch_size / devices_of(settings)
    operations = cost.training_flops(
        learns, settings, chunked=chunked, teaches=teaches[0] if teaches else None
    )
    computing = operations * pairs * settings.epochs / training_rate(settings)
    resolutions = [each.resolution for each in fed]
    decodings = cost.decodings(settings, pairs, min(pairs, pictures), resolutions)
    decoding = decode * decodings / (settings.nodes * cores())
    on_cpu = pick_device(settings.device, settings.plugin).type == "cpu"
    return computing + decoding if on_cpu else max(computing, decoding)


def devices_of(settings: Training) -> int:
    """How many devices share a batch, here or where ``--nproc`` and ``--nodes`` say so."""
    return settings.nodes * (settings.nproc or processes(settings.device, settings.plugin))


def training_rate(settings: Training) -> float:
    """Operations per second that training reaches on this machine."""
    device = pick_device(settings.device, settings.plugin)
    if device.type == "cpu":
        return EFFICIENCY * matrix_rate()
    return devices_of(settings) * GPU_EFFICIENCY * (peak_rate_of(device, "bf16") or GPU_RATE)


def architecture_of(model: str) -> Architecture:
    """The architecture that is trained or served; of a bundle or a store's model, the usual one."""
    name = model.removeprefix(SCRATCH)
    if checkpoint.is_name(name):
        return architecture(name)
    if find_bundle(name) or not local_copy(name).exists():
        return architecture(inventory.DEFAULT_MODEL)
    return checkpoint.load(local_copy(name)).architecture


def count_pairs(values: Mapping[str, Any], pictures: int) -> int:
    """Training pairs, before any picture is set aside."""
    captions = str(values["captions"])
    if captions in layouts.NO_FILES:
        return 0 if captions == "none" else pictures
    columns = {name: str(values[name]) for name in ("picture_column", "caption_column")}
    rows = layouts.read(captions, **columns)
    trained = (None, "train", "valid", "test") if values["split"] == "closed" else (None, "train")
    return sum(len(row.captions) for row in rows if row.split in trained)


def matrix_rate(side: int = 1024, seconds: float = 0.4) -> float:
    """float32 operations per second of this machine's matrix product."""
    matrix = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        matrix @ matrix
        count += 1
    return 2.0 * side**3 * count / (time.monotonic() - began)


def decode_seconds(source: Collection, listed: Listing, sample: int = 16) -> float:
    """Mean seconds that one core takes to decode one of the pictures."""
    every = max(1, listed.pictures // sample)
    chosen = [row[1] for row in islice(pictures_of(listed), 0, every * sample, every)]
    began = time.monotonic()
    for path in chosen:
        try:
            decoder.fingerprint(decoder.decode(source.read(path)))
        except (OSError, decoder.PictureError):
            continue
    return (time.monotonic() - began) / max(1, len(chosen))
