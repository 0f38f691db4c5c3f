"""ONNX files that Chinese-CLIP's ``pytorch_to_onnx.py`` made -> a model bundle.

    NAME.txt.fp32.onnx, NAME.img.fp32.onnx    and .fp16.onnx; weights beside them in *.extra_file

What they are for is read from their inputs and outputs: resolution, length of a text, dimension.
Two things stand in none of them. The tokenizer and the preparation of pictures are Chinese-CLIP's.
The temperature is that of a checkpoint, if one is named, else 100: where its training clamps it
(exp(4.6052), cn_clip/training/train.py). It orders no search result; it only says how sharp the
percentages of a classification are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wentu.clip.bundle import BUNDLE, Bundle, session
from wentu.clip.processor import Processor
from wentu.clip.text import Tokenizer
from wentu.errors import FormatError, InputError
from wentu.formats import FORMAT, file_sha256, write_json
from wentu.pictures import Preprocessing
from wentu.storage import link_or_copy, local_path

SHORT = {"text": "txt", "image": "img"}
PRECISIONS = ("fp32", "fp16")
"""In the order in which they are preferred."""
LOGIT_SCALE = 100.0
CONTEXT_LENGTH = 52


def find_onnx(place: str) -> dict[str, Path]:
    """The files of both towers under a prefix, or in a folder that holds one model.

    fp32 is taken where it is there: half precision is slower on CPUs, and less exact.
    """
    path = local_path(place)
    prefixes = {str(path)}
    if path.is_dir():
        made = path.glob("*.txt.fp??.onnx")
        prefixes = {str(each).rsplit(".", 3)[0] for each in made}
    if len(prefixes) > 1:
        names = ", ".join(sorted(Path(prefix).name for prefix in prefixes))
        raise InputError(
            f"--onnx {place} holds several models ({names}); name one: --onnx {place}/NAME.",
            f"--onnx {place} 中有多个模型({names})；请指定其一：--onnx {place}/名称。",
        )
    found: dict[str, Path] = {}
    for name, short in SHORT.items():
        files = (Path(f"{p}.{short}.{kind}.onnx") for kind in PRECISIONS for p in prefixes)
        taken = next((file for file in files if file.is_file()), None)
        if taken is None:
            raise InputError(
                f"--onnx {place}: there is no NAME.{short}.fp32.onnx (or .fp16.onnx), as "
                "Chinese-CLIP's pytorch_to_onnx.py writes it.",
                f"--onnx {place}：没有 NAME.{short}.fp32.onnx(或 .fp16.onnx)，"
                "即 Chinese-CLIP 的 pytorch_to_onnx.py 所写的文件。",
            )
        found[name] = taken
    return found


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One of the two files, as its input and its output describe it."""

    shape: tuple[int, ...]
    """Of the input; 0 where any size will do."""
    dimension: int
    """Length of what it gives."""


def look(path: Path, name: str) -> Tower:
    """Open a file and try it once; FormatError where it is none of Chinese-CLIP's."""
    try:
        opened = session(path)
        inputs = opened.get_inputs()
        shape = tuple(size if isinstance(size, int) else 0 for size in inputs[0].shape)
        fits = len(inputs) == 1 and inputs[0].name == name and shape[0] in (0, 1)
        if (
            not fits
            or len(shape) != {"text": 2, "image": 4}[name]
            or (name == "image" and not shape[2])
        ):
            said = ", ".join(f"{each.name} {each.shape}" for each in inputs)
            raise _strange(path, f"{name} [1, …] is expected, found {said}")
        kind = np.int64 if name == "text" else np.float32
        given = np.zeros([size or 2 for size in shape], kind)
        result = opened.run(None, {name: given})[0]
    except FormatError:
        raise
    except Exception as error:  # ONNX Runtime's own kinds, all over its C++ code
        raise _strange(path, str(error).strip().splitlines()[0][:300]) from None
    return Tower(shape=shape, dimension=int(result.shape[1]))


def _strange(path: Path, what: str) -> FormatError:
    return FormatError(
        f"{path} is no encoder of Chinese-CLIP's pytorch_to_onnx.py, or its .extra_file is not "
        f"beside it: {what}.",
        f"{path} 不是 Chinese-CLIP 的 pytorch_to_onnx.py 导出的编码器，或缺少同目录的 .extra_file："
        f"{what}。",
    )


def make_bundle(
    found: dict[str, Path], out: Path, *, context_length: int | None, checkpoint: Path | None
) -> Bundle:
    """Write a bundle around ONNX files into ``out`` and open it.

    Args:
        context_length: tokens of a text, for files that take any; the others state it.
        checkpoint: where the temperature is read from.
    """
    towers = {name: look(path, name) for name, path in found.items()}
    if towers["text"].dimension != towers["image"].dimension:
        sizes = towers["text"].dimension, towers["image"].dimension
        raise FormatError(
            f"the ONNX files are not of one model: texts become {sizes[0]} numbers, pictures "
            f"{sizes[1]}.",
            f"两个 ONNX 文件不属于同一模型：文本向量 {sizes[0]} 维，图片向量 {sizes[1]} 维。",
        )
    stated = towers["text"].shape[1]
    if context_length and stated and context_length != stated:
        raise InputError(
            f"--context-length {context_length}: {found['text'].name} takes {stated}; leave the "
            "option out.",
            f"--context-length {context_length}：{found['text'].name} 固定为 {stated}，"
            "请去掉该选项。",
        )
    out.mkdir(parents=True, exist_ok=True)
    for name, path in found.items():
        keep(path, out / f"{name}.onnx")
    processor = Processor(
        tokenizer=Tokenizer.chinese_bert(),
        preprocessing=Preprocessing(resolution=towers["image"].shape[2]),
        context_length=stated or context_length or CONTEXT_LENGTH,
    )
    info = {
        "format": FORMAT,
        "architecture": found["text"].name.rsplit(".", 3)[0],
        "family": "chinese-clip",
        "config": {},
        "dimension": towers["text"].dimension,
        "logit_scale": temperature(checkpoint) if checkpoint else LOGIT_SCALE,
        "processor": processor.save(out),
        "checkpoint": file_sha256(checkpoint) if checkpoint else "",
        "epoch": 0,
        "training": {},
    }
    write_json(out / BUNDLE, info)
    return Bundle(out)


def keep(source: Path, target: Path) -> None:
    """Put an ONNX file into a bundle as it is; weights beside it get the bundle's name for them.

    Where they lie is written inside the file, so that one is written again; its weights are not
    changed. This holds the model in memory, as serving it does.
    """
    import onnx

    model = onnx.load(str(source), load_external_data=False)
    if not _has_weights_beside(model):
        link_or_copy(str(source), str(target))
        return
    onnx.save(
        onnx.load(str(source)),
        str(target),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{target.name}.data",
        convert_attribute=True,
    )


def _has_weights_beside(model: object) -> bool:
    """Does any tensor of a model lie in another file? Its script moves those of nodes too."""
    from onnx.external_data_helper import uses_external_data

    graph = model.graph  # type: ignore[attr-defined]
    attributes = (each for node in graph.node for each in node.attribute if each.HasField("t"))
    tensors = [*graph.initializer, *(each.t for each in attributes)]
    return any(uses_external_data(tensor) for tensor in tensors)


def temperature(checkpoint: Path) -> float:
    """exp of the logit scale that a checkpoint learned."""
    from wentu.clip.checkpoint import load

    state = load(checkpoint).state or {}
    if "logit_scale" not in state:
        raise FormatError(f"{checkpoint} has no logit_scale.", f"{checkpoint} 中没有 logit_scale。")
    return float(state["logit_scale"].exp())
