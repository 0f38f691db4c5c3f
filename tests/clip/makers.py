"""What the tests of weights share: pictures and texts to encode, small models of other programs,
and how far two sets of features are apart."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from wentu.clip import checkpoint
from wentu.clip.encoder import TorchEncoder
from wentu.clip.model import TINY

FloatArray = npt.NDArray[np.float32]
State = dict[str, torch.Tensor]

TEXTS = [
    "一只黑色的狗在雪地里奔跑",
    "红色圆形",
    "两个人在海边散步,天很蓝",
    "a red car in the rain",
    "猫",
    "2 dogs, 3 cats & a bird",
    "长" * 90,
]
"""Nothing that only our own normaliser changes; the last one is cut."""

SMALL: dict[str, Any] = TINY | {
    "embed_dim": 32,
    "image_resolution": 32,
    "vision_layers": 2,
    "vision_width": 128,
    "vision_head_width": 64,
    "text_hidden_size": 64,
    "text_intermediate_size": 128,
    "text_num_hidden_layers": 2,
    "text_num_attention_heads": 1,
    "text_attention_probs_dropout_prob": 0.1,
    "text_hidden_dropout_prob": 0.1,
    "text_initializer_range": 0.02,
}
"""Of cn_clip's CLIP. Head widths, dropout and spread are Chinese-CLIP's own, which no tensor's
shape tells."""


@cache
def pictures() -> tuple[Image.Image, ...]:
    """Seven RGB pictures, wide, tall, square, small: soft shapes with some noise, as photos are."""
    rng = np.random.default_rng(0)
    found = []
    for width, height in ((320, 200), (150, 260), (224, 224), (40, 30), (500, 120), (97, 101)):
        soft = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        soft = soft.resize((width, height), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 12, (height, width, 3))
        array = np.clip(np.asarray(soft, np.float64) + noise, 0, 255).astype(np.uint8)
        found.append(Image.fromarray(array))
    return (*found, Image.new("RGB", (64, 64), (200, 30, 30)))


def unit(features: torch.Tensor | FloatArray) -> FloatArray:
    """L2-normalised rows."""
    rows = np.asarray(features.detach() if isinstance(features, torch.Tensor) else features)
    result: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result


def apart(ours: torch.Tensor | FloatArray, theirs: torch.Tensor | FloatArray) -> float:
    """The largest difference of two sets of features, which are not all the same."""
    one, two = unit(ours), unit(theirs)
    assert one.shape == two.shape
    assert np.abs(two - two[0]).max() > 1e-3, "features of different inputs should differ"
    return float(np.abs(one - two).max())


def encoded(path: Path, name: str = "") -> tuple[FloatArray, FloatArray]:
    """Our features of TEXTS and of ``pictures()`` with the weights in a file or folder."""
    encoder = TorchEncoder(checkpoint.load(path, name))
    return encoder.encode_text(TEXTS), encoder.encode_image(pictures())


def theirs(
    model: Any,
    preprocess: Callable[[Image.Image], torch.Tensor],
    tokenize: Callable[[Sequence[str]], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by another program's own model, preprocessing and tokenizer."""
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(each) for each in pictures()]))
        return model.encode_text(tokenize(TEXTS)), images


def varied(model: Any, seed: int = 0) -> Any:
    """The model in evaluation mode, every weight moved: none is left at 0 or 1 by its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not name.endswith("logit_scale"):
                noise = torch.randn(tensor.shape, generator=generator)
                if name.endswith("running_var"):
                    tensor.copy_(1 + 0.1 * noise.abs())
                else:
                    tensor.add_(0.02 * noise)
    return model.eval()


def in_half(model: Any) -> Any:
    """The model with weights that float16 holds exactly, in float32."""
    return model.half().float().eval()


def clip_config(**vision: Any) -> dict[str, Any]:
    """A config of open_clip's for a small CLIP as OpenAI's are: QuickGELU, heads of 64."""
    return {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8} | vision,
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 64,
            "heads": 1,
            "layers": 2,
        },
    }


RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None}
"""``clip_config(**RESNET)``: as OpenAI's RN50."""


def openai_model(config: dict[str, Any], seed: int = 0) -> Any:
    """open_clip's model of that config; weights as OpenAI's files have them, in float16."""
    from open_clip import CLIP

    torch.manual_seed(seed)
    return in_half(varied(CLIP(**config), seed))


def save_torchscript(model: Any, path: Path) -> None:
    """An archive as OpenAI publishes: traced, float16, three numbers among the tensors."""
    size, length = model.visual.image_size, model.context_length
    size = size if isinstance(size, int) else size[0]
    numbers = {"input_resolution": size, "context_length": length, "vocab_size": model.vocab_size}
    model.attn_mask = model._buffers.pop("attn_mask")  # OpenAI's is no buffer
    for name, value in numbers.items():
        model.__dict__.pop(name, None)
        model.register_buffer(name, torch.tensor(value))
    examples = {
        "encode_image": torch.zeros(1, 3, size, size),
        "encode_text": torch.zeros(1, length, dtype=torch.int64),
    }
    with warnings.catch_warnings():  # of torch: its tracer is deprecated; an if on a shape
        warnings.simplefilter("ignore")
        torch.jit.trace_module(model, examples, check_trace=False).half().save(str(path))


def bert_tokenizer() -> Any:
    """transformers' own, with the vocabulary of Chinese-CLIP."""
    import tempfile

    from transformers import BertTokenizer

    from wentu.clip.model import cn_clip_folder

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_bytes((cn_clip_folder() / "vocab.txt").read_bytes())
        return BertTokenizer.from_pretrained(folder)


def clip_pytorch_model(seed: int = 0) -> Any:
    """What github.com/bubbliiiing/clip-pytorch calls self-cn, written from its description.

    OpenAI's vision transformer; transformers' BERT, of which the pooler's output goes through a
    LayerNorm and a projection.
    """
    from open_clip.transformer import QuickGELU, VisionTransformer
    from transformers import BertConfig, BertModel

    class ClipPytorch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = VisionTransformer(
                image_size=32,
                patch_size=8,
                width=128,
                layers=2,
                heads=2,
                mlp_ratio=4,
                output_dim=32,
                act_layer=QuickGELU,
            )
            config = BertConfig(
                vocab_size=21128,
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=1,
                intermediate_size=128,
            )
            self.transformer = BertModel(config)
            self.ln_final = torch.nn.LayerNorm(64)
            self.text_projection = torch.nn.Parameter(torch.randn(64, 32) / 8)
            self.logit_scale = torch.nn.Parameter(torch.tensor(2.66))

        def encode_image(self, images: torch.Tensor) -> Any:
            return self.visual(images)

        def encode_text(self, words: Any) -> Any:
            return self.ln_final(self.transformer(**words).pooler_output) @ self.text_projection

    torch.manual_seed(seed)
    return varied(ClipPytorch(), seed)
