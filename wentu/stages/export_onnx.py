"""export_onnx: a checkpoint -> a model bundle that is served without torch, parity proven.

True float32 (the reference rounds 152 of 207 tensors through float16), dynamic batch and text
length (for this text tower cutting the padding is exact). The export is compared with torch on
real pictures and captions of the collection, and fails unless every cosine is 0.9999 or more.
A bundle that exists already (the current release's, or one the user names) is passed on unchanged.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wentu.clip.bundle import BUNDLE, EXTRA, PARTS, Bundle, bundle_digest
from wentu.clip.encoder import TorchEncoder, find_bundle
from wentu.collection import open_collection
from wentu.errors import InputError, QualityError
from wentu.formats import (
    CATALOG,
    FORMAT,
    facts,
    file_sha256,
    open_catalog,
    read_manifest,
    write_json,
)
from wentu.language import pick
from wentu.settings import StageConfig, option
from wentu.stage import Stage
from wentu.storage import link_or_copy
from wentu.store import Store

SENTENCES = ("一只狗在草地上奔跑", "海边的日落", "a red car", "“你好”,世界!", "")
"""Compared beside the collection's own captions, which may be none."""
OPSET = 17


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How strictly the export is proven."""

    parity: float = option(
        0.9999,
        "Least cosine between torch's embeddings and the export's.",
        "torch 与导出模型的向量之间的最小余弦值。",
    )
    parity_samples: int = option(
        128, "Pictures and captions that are compared.", "用于比较的图片与描述数量。"
    )

    def check(self) -> None:
        self.need(
            0 < self.parity <= 1, "parity", "give a cosine up to 1.", "应为不超过 1 的余弦值。"
        )
        self.need(self.parity_samples >= 1, "parity_samples", "give 1 or more.", "至少为 1。")


def export_onnx(
    *,
    catalog: Path,
    pictures: str,
    store: str,
    out: Path,
    config: Config,
    checkpoint: Path | None = None,
    model: str = "",
) -> None:
    """Write a bundle into ``out``.

    Args:
        catalog: output of pairs, for real samples. pictures: the collection's folder.
        checkpoint: output of finetune; None: ``model`` instead, which is a checkpoint file, a
            bundle, a store, or ``store:<digest>``.
    """
    inputs = {"pairs": read_manifest(catalog, "pairs").digest, "model": model}
    if checkpoint is not None:
        inputs |= {"finetune": read_manifest(checkpoint, "finetune").digest}
    with Stage("export_onnx", out, config, inputs) as stage:
        ready = None if checkpoint else ready_bundle(model, store)
        if ready:
            for path in sorted(ready.iterdir()):
                if path.name in (*PARTS, *EXTRA) or path.name.endswith(".onnx.data"):
                    link_or_copy(str(path), str(out / path.name))
        else:
            _export(catalog, pictures, out, checkpoint, model, config, stage)
        stage.counts |= {"model": bundle_digest(out)}
        stage.counts |= {"megabytes": sum(p.stat().st_size for p in out.iterdir()) // 10**6}


def ready_bundle(model: str, store: str) -> Path | None:
    """The bundle that ``model`` names, if it is one already."""
    if model.startswith("store:"):
        return Store(store).model(model.removeprefix("store:"))
    from wentu.clip.checkpoint import is_name

    return None if is_name(model) else find_bundle(model)


def _export(
    catalog: Path,
    root: str,
    out: Path,
    trained: Path | None,
    model: str,
    config: Config,
    stage: Stage,
) -> None:
    from wentu.clip import checkpoint as checkpoints

    best = trained / "epoch_best.pt" if trained else None
    loaded = checkpoints.load(best) if best else checkpoints.start(model)
    if loaded.state is None:
        raise InputError(f"{model} has no weights to export.", f"{model} 没有可导出的权重。")
    how = facts(catalog / CATALOG).get("convert", "none")
    if best is None and how != "none":  # captions were converted, so queries have to be
        loaded = replace(loaded, info={**loaded.info, "convert": how})
    reference = TorchEncoder(loaded)
    stage.progress.note(
        pick("writing text.onnx and image.onnx", "正在写入 text.onnx 与 image.onnx")
    )
    write_onnx(reference, out)
    info = {
        "format": FORMAT,
        "architecture": loaded.architecture.name,
        "family": loaded.architecture.family,
        "config": dict(loaded.architecture.config),
        "dimension": reference.dimension,
        "logit_scale": reference.logit_scale,
        "processor": reference.processor.save(out),
        "checkpoint": file_sha256(best) if best else checkpoints.weights_digest(model),
        "epoch": loaded.epoch,
        "training": {key: value for key, value in loaded.info.items() if key != "groups"},
    }
    write_json(out / BUNDLE, info)
    if trained:
        link_or_copy(str(trained / "history.json"), str(out / "history.json"))
    if loaded.info.get("groups"):
        write_json(out / "training_groups.json", loaded.info["groups"])
    worst = prove_parity(Bundle(out), reference, *samples(catalog, root, config.parity_samples))
    stage.counts |= {"parity_text": worst[0], "parity_image": worst[1]}
    if min(worst) < config.parity or not np.isfinite(worst).all():
        raise QualityError(
            f"the exported model differs from the trained one: cosine {min(worst):.6f}, at least "
            f"{config.parity} is needed. Nothing is released; please report this.",
            f"导出的模型与训练的模型不一致：余弦 {min(worst):.6f}，要求至少 {config.parity}。"
            "没有发布任何内容，请报告此问题。",
        )


def write_onnx(encoder: TorchEncoder, out: Path) -> None:
    """``text.onnx`` and ``image.onnx``, float32; the batch, and where exact the length, dynamic."""
    import torch

    model, processor = encoder.model, encoder.processor

    class Tower(torch.nn.Module):
        """One of the model's two encoders as a module of its own."""

        def __init__(self, encode: Callable[[Any], Any]) -> None:
            super().__init__()
            self.model, self.encode = model, encode

        def forward(self, batch: torch.Tensor) -> Any:
            return self.encode(batch)

    tokens = torch.from_numpy(processor.tokens(["狗", "a dog"]))
    images = torch.zeros(2, 3, processor.resolution, processor.resolution)
    fixed = processor.tokenizer.settings.get("fixed_length")
    towers = (
        ("text", model.encode_text, tokens, {0: "batch"} if fixed else {0: "batch", 1: "length"}),
        ("image", model.encode_image, images, {0: "batch"}),
    )
    for name, encode, example, axes in towers:
        result = f"unnorm_{name}_features"
        # The exporter's deprecation notice and tracing warnings say nothing to a user.
        with (
            tempfile.TemporaryDirectory(dir=out, prefix=".onnx-") as folder,
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            made = Path(folder) / f"{name}.onnx"
            torch.onnx.export(
                Tower(encode).eval(),
                (example,),
                made,
                input_names=[name],
                output_names=[result],
                opset_version=OPSET,
                dynamo=False,
                dynamic_axes={name: axes, result: {0: "batch"}},
            )
            keep_onnx(made, out)


def keep_onnx(made: Path, out: Path) -> None:
    """Move an exported model to ``out``; above 2 GiB its many weight files become one beside it."""
    if len(list(made.parent.iterdir())) == 1:
        made.replace(out / made.name)
        return
    import onnx

    onnx.save(
        onnx.load(str(made)),
        str(out / made.name),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{made.name}.data",
    )


def samples(catalog: Path, pictures: str, count: int) -> tuple[list[str], list[bytes]]:
    """Real captions (and a few sentences) and real pictures, spread over the catalog."""
    collection = open_collection(pictures)
    with closing(open_catalog(catalog / CATALOG)) as db:
        texts = [
            row[0] for row in db.execute("SELECT text FROM texts ORDER BY id LIMIT ?", (count,))
        ]
        paths = db.execute(
            "SELECT min(path) FROM paths GROUP BY picture ORDER BY picture LIMIT ?", (count,)
        ).fetchall()
    return [*texts, *SENTENCES], [collection.read(path) for (path,) in paths]


def prove_parity(
    bundle: Bundle, reference: TorchEncoder, texts: list[str], images: list[bytes]
) -> tuple[float, float]:
    """Least cosine between the bundle's and torch's embeddings: (of texts, of pictures).

    Batches are of different sizes and lengths on the two sides, so that a fixed axis would show.
    """
    ours = bundle.encode_text(texts, batch_size=7), bundle.encode_image(images, batch_size=5)
    theirs = reference.encode_text(texts), reference.encode_image(images)
    text, image = (float((a * b).sum(axis=1).min()) for a, b in zip(ours, theirs, strict=True))
    return text, image
