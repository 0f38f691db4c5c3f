"""A model bundle: what is served. Two ONNX files, the tokenizer, and how to prepare pictures.

    bundle.json       names, sizes, preprocessing, and where the model came from
    text.onnx         text int64 [batch, length] -> unnorm_text_features [batch, D]
    image.onnx        image float32 [batch, 3, R, R] -> unnorm_image_features [batch, D]
    tokenizer.json

Files that Chinese-CLIP exported itself serve too (``wentu import``): a fixed batch is fed one by
one, a fixed text length is filled up.

No torch is needed to use one. Its digest is that of these files, so equal models are one model.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wentu.clip.processor import Processor
from wentu.errors import FormatError
from wentu.formats import FORMAT, batched, digest_of, file_sha256, read_json
from wentu.language import pick

if TYPE_CHECKING:
    from PIL.Image import Image

BUNDLE = "bundle.json"
PARTS = (BUNDLE, "text.onnx", "image.onnx", "tokenizer.json")
EXTRA = ("history.json", "training_groups.json")
"""What a bundle brings along from its training; not part of its identity."""
Features = npt.NDArray[np.float32]
CUDA = "CUDAExecutionProvider"


def bundle_digest(folder: Path) -> str:
    """The identity of a model: 32 hex digits over the SHA-256 of its parts."""
    extra = sorted(path.name for path in folder.glob("*.onnx.data"))
    return digest_of({name: file_sha256(folder / name) for name in (*PARTS, *extra)})


def gpu_count() -> int:
    """How many NVIDIA GPUs the driver shows; 0 where there is no driver. No toolkit is needed."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) == 0:
            driver.cuDeviceGetCount(ctypes.byref(count))
    except (OSError, AttributeError):
        return 0
    return count.value


def session(path: Path, threads: int = 0) -> Any:
    """An ONNX Runtime session: the GPU's where there is one, else the CPU's (see ``device_note``).

    ONNX Runtime's build for GPUs is asked for one only where the driver shows one: it would fall
    back by itself, with a page of errors.

    Args:
        threads: inside one operator; 0: one per core.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin while they wait for the next operator took half of the cores' time from
    # whatever else runs: the search itself, in a service.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if CUDA in ort.get_available_providers() and gpu_count():
        ort.preload_dlls()  # CUDA and cuDNN of the packages beside it, not of the system
        # In TF32, the default, a vector would differ from a CPU's in its third decimal; queries
        # may be embedded by either.
        providers.insert(0, (CUDA, {"use_tf32": "0"}))
    return ort.InferenceSession(str(path), options, providers=providers)


class Bundle:
    """A bundle opened for use; sessions are made when they are first needed."""

    def __init__(self, folder: Path) -> None:
        missing = [name for name in PARTS if not (folder / name).exists()]
        if missing:
            raise FormatError(
                f"{folder} is no model bundle: {', '.join(missing)} missing.",
                f"{folder} 不是模型包：缺少 {'、'.join(missing)}。",
            )
        self.folder = folder
        self.info: dict[str, Any] = read_json(folder / BUNDLE)
        if self.info.get("format") != FORMAT:
            raise FormatError(
                f"{folder} has format {self.info.get('format')}; this wentu reads {FORMAT}.",
                f"{folder} 的格式版本是 {self.info.get('format')}，本版 wentu 只读 {FORMAT}。",
            )
        try:
            self.dimension = int(self.info["dimension"])
            self.logit_scale = float(self.info["logit_scale"])
            self.processor = Processor.load(folder, self.info["processor"])
        except (KeyError, TypeError) as error:
            raise FormatError(
                f"{folder / BUNDLE} lacks {error}.", f"{folder / BUNDLE} 缺少 {error}。"
            ) from None
        self._sessions: dict[str, Any] = {}

    def _session(self, name: str) -> Any:
        if name not in self._sessions:
            self._sessions[name] = session(self.folder / f"{name}.onnx")
        return self._sessions[name]

    def device_note(self) -> str:
        """Where pictures are embedded, as a sentence; empty where a CPU was all to be expected."""
        import onnxruntime as ort

        if CUDA in self._session("image").get_providers():
            return pick("embedding on the GPU (CUDA)", "在 GPU(CUDA)上嵌入")
        if CUDA in ort.get_available_providers():
            return pick(
                "embedding on the CPU: ONNX Runtime is here in its build for GPUs, but no GPU is",
                "在 CPU 上嵌入：安装的是 GPU 版 ONNX Runtime，但本机没有可用的 GPU",
            )
        return ""

    def _run(self, name: str, batch: npt.NDArray[Any]) -> Features:
        opened = self._session(name)
        shape = opened.get_inputs()[0].shape
        if name == "text" and isinstance(shape[1], int):  # 0 is [PAD]
            batch = np.pad(batch, ((0, 0), (0, shape[1] - batch.shape[1])))
        size = shape[0] if isinstance(shape[0], int) else max(1, len(batch))
        assert size == 1 or not isinstance(shape[0], int), "an export has a batch of 1, or any"
        parts = [
            opened.run(None, {name: batch[start : start + size]})[0]
            for start in range(0, len(batch), size)
        ]
        raw = np.concatenate(parts) if parts else np.empty((0, self.dimension), np.float32)
        length = np.linalg.norm(raw, axis=1, keepdims=True)
        return np.asarray(raw / np.maximum(length, 1e-12), np.float32)

    def encode_text(self, texts: Sequence[str], batch_size: int = 64) -> Features:
        """L2-normalised [N, D] of ``texts``; texts of like length share a batch."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        result = np.empty((len(texts), self.dimension), np.float32)
        for rows in batched(order, batch_size):
            result[rows] = self._run("text", self.processor.tokens([texts[i] for i in rows]))
        return result

    def encode_arrays(self, arrays: npt.NDArray[np.uint8]) -> Features:
        """L2-normalised [N, D] of prepared pictures, uint8 [N, R, R, 3]."""
        return self._run("image", self.processor.normalize(arrays))

    def encode_image(self, images: Iterable[bytes | Image], batch_size: int = 32) -> Features:
        """L2-normalised [N, D] of encoded files or Pillow pictures; PictureError on a bad one."""
        with ThreadPoolExecutor() as pool:
            parts = [
                self.encode_arrays(np.stack(list(pool.map(self.processor.pixels, batch))))
                for batch in batched(images, batch_size)
            ]
        return np.concatenate(parts) if parts else np.empty((0, self.dimension), np.float32)


def training_of(bundle: Path) -> tuple[list[dict[str, float]], list[int]]:
    """(history, groups trained on) that a bundle brings along; empty where it was not trained."""
    found = [read_json(bundle / name) if (bundle / name).exists() else [] for name in EXTRA]
    return found[0], found[1]
