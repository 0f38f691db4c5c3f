"""OpenAI's byte-level BPE, which most models of open_clip use, as a tokenizer.json."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import tokenizers

from wentu.errors import InputError

CLIP_SIZE = 49_408
_START, _END = "<start_of_text>", "<end_of_text>"


def clip_tokenizer() -> tokenizers.Tokenizer:
    """OpenAI's tokenizer, from the merges that open_clip brings: 49,408 entries.

    Built as transformers' ``CLIPTokenizer`` is. Raises InputError where open_clip is not
    installed; it is found, not imported (no torch).
    """
    spec = importlib.util.find_spec("open_clip")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder) / "bpe_simple_vocab_16e6.txt.gz"
        if path.exists():
            return _clip(path)
    raise InputError(
        "The vocabulary of CLIP is missing: pip install open_clip_torch",
        "找不到 CLIP 的词表：请运行 pip install open_clip_torch",
    )


def _clip(path: Path) -> tokenizers.Tokenizer:
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges = [(a, b) for a, b in map(str.split, lines[1 : CLIP_SIZE - 512 - 2 + 1])]
    letters = _bytes()
    entries = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    entries += [_START, _END]
    numbers = {entry: number for number, entry in enumerate(entries)}
    normalizers, before = tokenizers.normalizers, tokenizers.pre_tokenizers
    clip = tokenizers.Tokenizer(
        tokenizers.models.BPE(numbers, merges, end_of_word_suffix="</w>", unk_token=_END)
    )
    space = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    clip.normalizer = normalizers.Sequence([normalizers.NFC(), space, normalizers.Lowercase()])
    word = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
    clip.pre_tokenizer = before.Sequence(
        [
            before.Split(tokenizers.Regex(word), behavior="removed", invert=True),
            before.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    ends = [(token, numbers[token]) for token in (_START, _END)]
    clip.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{_START} $A {_END}", special_tokens=ends
    )
    clip.decoder = tokenizers.decoders.ByteLevel()
    clip.add_special_tokens([_START, _END])
    return clip


def _bytes() -> list[str]:
    """A visible character for each byte, in GPT-2's order: those that are visible come first."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [*map(chr, visible), *map(chr, range(256, 512 - len(visible)))]
