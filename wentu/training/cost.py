"""What a training costs, found by taking one step with tensors that hold no numbers.

torch's fake tensors go through the real model, forward and backward, with shapes only: nothing is
allocated, nothing computed. What would be alive at each moment is added up. So every architecture,
layer trick and precision is counted as it is, and no formula has to follow them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wentu.clip.model import Architecture, build
from wentu.training import layers, losses
from wentu.training.config import Config
from wentu.training.data import CACHE_BYTES, room

if TYPE_CHECKING:
    import torch

CAPTION_TOKENS = 24
"""Of a usual Chinese caption, [CLS] and [SEP] included."""
LIBRARIES = 0.75 * 2**30
"""Bytes of a process that has torch and MLflow imported (measured: 0.7 to 0.8 GiB)."""
CONTEXT = 1.0 * 2**30
"""Bytes on a GPU that are no tensors: CUDA's context, workspaces of cuBLAS and cuDNN."""
HELD = {"cpu": 1.13, "gpu": 1.05}
"""What the allocator holds for each byte that is in use at the peak: glibc's malloc as measured
(ViT-B-16, 1.1 to 1.2), torch's on a GPU as is usual."""
ADAM = 8
"""Bytes for each number that learns: two moments in float32."""


@dataclass(frozen=True, kw_only=True)
class Forward:
    """A forward pass of one pair, in floating-point operations."""

    parameters: int
    image: float
    text: float


def forward(arch: Architecture, tokens: int = CAPTION_TOKENS) -> Forward:
    """What it takes to encode a picture, and a caption of ``tokens``."""
    model = _on(arch, "meta")
    image, text = (_flops(model, encode) for encode in _encoders(model, arch, 1, tokens))
    parameters = sum(each.numel() for each in model.parameters())
    return Forward(parameters=parameters, image=image, text=text)


def pair_flops(arch: Architecture) -> float:
    """Operations of a pair's forward pass."""
    found = forward(arch)
    return found.image + found.text


def training_flops(
    learns: Forward, config: Config, *, chunked: bool = False, teaches: Forward | None = None
) -> float:
    """Operations that learning from a pair takes: backward is worth two forward passes.

    A frozen tower has a forward pass only; patches that are left out save their share of the
    vision tower; chunks (``chunked``: there are several) and --checkpointing do a pass twice; a
    teacher does one. --lora saves nothing: the gradients of its additions are made from those of
    the matrices.
    """
    kept = 1.0 + chunked
    moved = 3.0 + chunked + config.checkpointing
    left_out = config.patch_dropout * (1 - config.unmasked)
    image = (1 - left_out) * learns.image * (kept if config.freeze == "vision" else moved)
    text = learns.text * (kept if config.freeze == "text" else moved)
    return image + text + (teaches.image + teaches.text if teaches else 0.0)


def decodings(config: Config, pairs: int, pictures: int, resolutions: Sequence[int]) -> float:
    """How often a training decodes a picture: once what is kept, all else for every pair.

    Args:
        pairs: in an epoch, of so many ``pictures``. resolutions: of the models that are fed.
    """
    kept = min(1.0, room(resolutions) / max(1, pictures)) if keeps_pictures(config) else 0.0
    return (kept * pictures + (1 - kept) * pairs * config.epochs) if config.epochs else 0.0


def keeps_pictures(config: Config) -> bool:
    """Are decoded pictures kept? What is changed anew for every epoch is not."""
    return config.augment == "none" and not config.flip


def memory(
    arch: Architecture,
    config: Config,
    *,
    gpu: bool,
    devices: int = 1,
    pairs: int = 10**9,
    tokens: int = CAPTION_TOKENS,
    scratch: bool = False,
    teacher: Architecture | None = None,
) -> float:
    """Bytes that training needs at most, on each of ``devices``.

    Args:
        gpu: on a device of its own; else in the host's memory, where a process keeps more.
        pairs: in an epoch. tokens: of the longest caption in a batch.
    """
    batch = min(config.batch_size, pairs)
    step = _Step(arch, config, batch, devices, tokens, gpu=gpu, teacher=teacher)
    peak = step.peak()
    total = float(peak) + ADAM * step.learned + (4 * step.numbers if config.ema else 0)
    if gpu:
        return HELD["gpu"] * total + CONTEXT
    # The start is kept to try averages with, and pictures are kept decoded.
    start = 4 * step.numbers if config.interpolate and not scratch else 0
    fed = sum(3 * each.resolution**2 for each in (arch, teacher) if each)
    kept = min(CACHE_BYTES, pairs * fed) if keeps_pictures(config) else 0
    return LIBRARIES + HELD["cpu"] * total + start + kept


def _on(arch: Architecture, device: str) -> Any:
    import torch

    with torch.device(device):
        return build(arch)


def _encoders(model: Any, arch: Architecture, count: int, tokens: int) -> list[Callable[[], Any]]:
    """What encodes ``count`` pictures, and as many texts, wherever the model is."""
    import torch

    place = model.logit_scale.device
    pictures = torch.empty(count, 3, arch.resolution, arch.resolution, device=place)
    length = arch.context_length if arch.family == "openclip" else min(tokens, arch.context_length)
    texts = torch.ones(count, length, dtype=torch.long, device=place)
    return [lambda: model.encode_image(pictures), lambda: model.encode_text(texts)]


def _flops(model: Any, encode: Callable[[], Any]) -> float:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # In evaluation torch has fused layers that the counter does not know.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.train()
        encode()
    return float(counter.get_total_flops())


class _Step:
    """One step of a training, in shapes."""

    def __init__(
        self,
        arch: Architecture,
        config: Config,
        batch: int,
        devices: int,
        tokens: int,
        *,
        gpu: bool,
        teacher: Architecture | None = None,
    ) -> None:
        self.arch, self.config, self.gpu, self.teacher = arch, config, gpu, teacher
        self.batch, self.tokens = batch, tokens
        self.half = config.precision in ("bf16", "fp16") or (gpu and config.precision == "auto")
        self.share = -(-batch // devices)
        self.chunk = min(config.chunk or self.share, self.share)
        self.numbers = self.learned = 0

    def peak(self) -> int:
        """Bytes of weights, gradients and everything between, at their most."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        model = _on(self.arch, "meta")
        teacher = _on(self.teacher, "meta") if self.teacher else None
        with FakeTensorMode():
            _refill(model)
            if teacher:
                _refill(teacher)
                teacher.eval().requires_grad_(False)
            layers.prepare(model, self.config, "gpu" if self.gpu else "cpu")
            model.train()
            self.numbers = sum(p.numel() for p in model.parameters())
            self.learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
            chunks = self.chunk < self.share
            with _alive()(*(each for each in (model, teacher) if each)) as alive:
                self._loss(model)
                if chunks:  # the teacher is asked when no activations are there
                    self._teach(teacher)
                self._chunk(model, None if chunks else teacher)
                if chunks:  # now with all gradients there
                    self._chunk(model)
        return int(alive.most)

    def _teach(self, teacher: Any) -> None:
        import torch

        if teacher and self.teacher:
            encoders = _encoders(teacher, self.teacher, self.chunk, self.tokens)
            with torch.no_grad(), self._autocast():
                for encode in encoders:
                    encode()

    def _autocast(self) -> Any:
        import torch

        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.half)

    def _chunk(self, model: Any, teacher: Any = None) -> None:
        import torch

        encoders = _encoders(model, self.arch, self.chunk, self.tokens)
        with self._autocast():
            features = [encode() for encode in encoders]
        self._teach(teacher)
        live = [each.float().sum() for each in features if each.requires_grad]
        if live:
            torch.stack(live).sum().backward()  # type: ignore[no-untyped-call]

    def _loss(self, model: Any) -> None:
        import torch

        width = self.arch.embed_dim
        image, text = (torch.empty(self.batch, width, requires_grad=True) for _ in range(2))
        belongs = torch.zeros(self.share, self.batch, dtype=torch.bool)
        rows = losses.Rows(
            image=image, text=text, own=slice(0, self.share), belongs=(belongs, belongs)
        )
        losses.softmax_loss(rows, model.logit_scale.exp(), self.config.positives).backward()  # type: ignore[no-untyped-call]


def _refill(model: Any) -> None:
    """Give a model without storage weights of the mode that is on."""
    import torch

    for module in model.modules():
        for name, each in module._parameters.items():
            if each is not None:
                empty = torch.empty(each.shape, dtype=each.dtype)
                module._parameters[name] = torch.nn.Parameter(empty)
        for name, each in module._buffers.items():
            if each is not None:
                module._buffers[name] = torch.zeros(each.shape, dtype=each.dtype)


def _alive() -> Any:
    """The class of a mode that adds up the storages that are alive; torch comes late here."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self, *models: Any) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.now, self.most = 0, 0
            self._known: dict[int, int] = {}
            for model in models:
                for each in model.state_dict(keep_vars=True).values():
                    self._see(each)

        def _see(self, tensor: torch.Tensor) -> None:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._known:
                self._known[key] = storage.nbytes()
                self.now += self._known[key]
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, key)

        def _gone(self, key: int) -> None:
            self.now -= self._known.pop(key)

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = func(*args, **(kwargs or {}))
            for each in tree_leaves(made):
                if isinstance(each, torch.Tensor):
                    self._see(each)
            return made

    return Alive
