"""The family of clip-pytorch (github.com/bubbliiiing/clip-pytorch, "self-cn"): a BERT's pooler.

Pictures as in OpenAI's CLIP: shorter side resized, centre crop. Texts: the pooler's output (a
linear layer and tanh on [CLS]), LayerNorm, projection; Chinese-CLIP projects [CLS] itself. The
towers are cn_clip's classes, which compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONTEXT_LENGTH = 77
"""Its texts are not cut below BERT's 512; what is longer than this is no caption."""


def build(config: Mapping[str, Any]) -> Any:
    """The model with random weights, in training mode."""
    import torch
    from cn_clip.clip.model import CLIP

    class Pooler(torch.nn.Module):
        """BERT's: tanh of a linear layer on the first token."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.dense = torch.nn.Linear(width, width)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.dense(hidden[:, 0]))

    class ClipPytorch(CLIP):  # type: ignore[misc]
        """cn_clip's CLIP with another way out of the text tower."""

        def __init__(self) -> None:
            super().__init__(**config)
            width = int(config["text_hidden_size"])
            self.pooler, self.ln_final = Pooler(width), torch.nn.LayerNorm(width)

        def encode_text(self, text: torch.Tensor) -> Any:
            mask = text.ne(0).type(self.dtype)
            hidden = self.bert(text, attention_mask=mask)[0]
            return self.ln_final(self.pooler(hidden)).type(self.dtype) @ self.text_projection

    return ClipPytorch()
