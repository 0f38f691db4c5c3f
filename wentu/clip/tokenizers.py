"""Tokenizers of other families of models: a tokenizer.json and a few settings. No torch.

A bundle carries the two, so that a model of open_clip is searched with where neither open_clip
nor transformers is installed. ``kind`` "clip" is OpenAI's byte-level BPE, which most models of
open_clip use; "hf" is any tokenizer.json as open_clip's ``HFTokenizer`` uses it (XLM-R, SigLIP,
BERT); "bert" is Chinese-CLIP's own, in ``text``.

The ids are those of open_clip, with ``normalise.plain`` in place of ftfy: measured equal on the
27,000 English and Chinese captions of Flickr8k-CN, on sentences in 21 languages, and on every
character of Unicode 14 but U+0345 and the 25 that ``plain`` names. They differ on 17,507 younger
code points, and where a text has the name of a special token in it: "<end_of_text>" ends a text
for open_clip, here it is text. English captions take half the time that open_clip takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tokenizers

from wentu.clip.clip_bpe import CLIP_SIZE, clip_tokenizer
from wentu.clip.normalise import CLEANERS
from wentu.clip.text import Tokenizer
from wentu.clip.tokenizer_file import no_tokenizer, parse_tokenizer, read_tokenizer, refusing
from wentu.errors import FormatError

__all__ = ["JsonTokenizer", "TextTokenizer", "clip_tokenizer", "load_tokenizer", "tokenizer_from"]

_PROBES = ("", "a dog, 2 cats", "一只猫", "é👍🏽", "\U0010fffe")  # the last is in no vocabulary
_LONGEST = 100  # characters of a token: a megabyte takes 30 ms so, and 4 s when all is encoded
_CHOICES = {
    "kind": ("clip", "hf"),
    "clean": tuple(CLEANERS),
    "pad_side": ("right", "left"),
    "cut_side": ("right", "left"),
    "fixed_length": (True, False),
    "strip_sep": (True, False),
}

Ids = npt.NDArray[np.int64]


class TextTokenizer(Protocol):
    """What a bundle needs of a tokenizer. Safe to share between threads, and to pickle."""

    @property
    def settings(self) -> dict[str, Any]:
        """What ``load_tokenizer`` needs beside the file; JSON."""

    def encode(self, texts: Sequence[str], context_length: int) -> Ids:
        """int64 [N, L], L at most ``context_length``."""

    def cut_and_unknown(self, texts: Sequence[str], context_length: int) -> tuple[int, int]:
        """(how many texts are cut, how many unknown tokens are in what is left)."""

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""


def load_tokenizer(path: Path, settings: Mapping[str, Any] | None = None) -> TextTokenizer:
    """The tokenizer of a bundle; without settings Chinese-CLIP's.

    Raises FormatError on a broken file and on settings that this version does not know.
    """
    if settings is None or settings == {} or _is_bert(settings):
        return Tokenizer.load(path)
    return JsonTokenizer(read_tokenizer(path), settings, str(path))


def tokenizer_from(
    source: tokenizers.Tokenizer | str, settings: Mapping[str, Any]
) -> JsonTokenizer:
    """As ``load_tokenizer``, from the content of a tokenizer.json or the library's tokenizer."""
    return JsonTokenizer(source if isinstance(source, str) else source.to_str(), settings)


def _is_bert(settings: object) -> bool:
    return isinstance(settings, Mapping) and settings.get("kind") == "bert"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a tokenizer.json is used: what open_clip and transformers keep in other files."""

    kind: str
    """clip: OpenAI's, checked to be that; hf: any other."""
    clean: str
    """A name in ``normalise.CLEANERS``; if not given: lower for clip, whitespace for hf."""
    pad_id: int
    """What rows are filled up with. Also a token is taken. If not given: 0 for clip; for hf what
    the file says under padding, else <pad> or [PAD]. Mind SigLIP's first generation: it pads with
    "</s>", which stands in its tokenizer_config.json only."""
    fixed_length: bool = False
    """Always fill up to context_length: for text towers that shorter rows would change."""
    strip_sep: bool = False
    """[SEP] or </s> becomes 0 (open_clip's ``strip_sep_token``, for CLIPA)."""
    pad_side: str = "right"
    """right or left. If not given, these two are what the file says, if it does."""
    cut_side: str = "right"


def _read_settings(
    given: object, tokenizer: tokenizers.Tokenizer, document: Mapping[str, Any]
) -> Settings:
    """FormatError on anything but a mapping of the names in Settings to values that can be."""
    if not isinstance(given, Mapping) or given.get("kind") not in _CHOICES["kind"]:
        raise _bad_settings(given)
    chosen = dict(given)
    clip = chosen["kind"] == "clip"
    chosen.setdefault("clean", "lower" if clip else "whitespace")
    pad = chosen.get("pad_id", 0 if clip else _padding(tokenizer, document))
    chosen["pad_id"] = tokenizer.token_to_id(pad) if isinstance(pad, str) else pad
    if chosen["pad_id"] is None:
        raise FormatError(
            "Which token a tokenizer fills rows up with is not known; say it in pad_id.",
            "不知道分词器用哪个词元填充；请在 pad_id 中指定。",
        )
    for side, part in (("pad_side", "padding"), ("cut_side", "truncation")):
        if document.get(part):
            chosen.setdefault(side, str(document[part].get("direction", "right")).lower())
    for name, value in chosen.items():
        choices = _CHOICES.get(name, ())
        known = any(type(value) is type(choice) and value == choice for choice in choices)
        if not (known or (name == "pad_id" and _is_id(value))):
            raise _bad_settings({name: given.get(name, value)})
    if clip and chosen["clean"] != "lower":
        raise _bad_settings({"kind": "clip", "clean": chosen["clean"]})
    return Settings(**chosen)


def _padding(tokenizer: tokenizers.Tokenizer, document: Mapping[str, Any]) -> object:
    if document.get("padding"):
        return document["padding"].get("pad_id")
    found = map(tokenizer.token_to_id, ("<pad>", "[PAD]"))
    return next((number for number in found if number is not None), None)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _bad_settings(settings: object) -> FormatError:
    return FormatError(
        f"This wentu cannot use a tokenizer with the settings {settings!r}.",
        f"本版 wentu 无法使用设置为 {settings!r} 的分词器。",
    )


class JsonTokenizer:
    """A tokenizer.json with settings; ids as open_clip makes them (see the module).

    Safe to share between threads, and to pickle: the library's tokenizer is not changed once it
    is made (its own truncation is such a change, so texts are cut one by one here).
    """

    def __init__(
        self, content: str, settings: Mapping[str, Any], name: str = "tokenizer.json"
    ) -> None:
        """``content`` of a tokenizer.json; FormatError, with ``name``, where it cannot be used."""
        self._name = name
        self._tokenizer, document = parse_tokenizer(content, name)
        self._settings = _read_settings(settings, self._tokenizer, document)
        self._clean = CLEANERS[self._settings.clean]
        self._tokenizer.encode_special_tokens = True  # a written "</s>" is text
        with refusing(name):
            _make_certain(self._tokenizer.model)
        self.size = _size(self._tokenizer, document)
        """Ids are below this."""
        self._unknown = _unknown(self._tokenizer, document)
        self._stripped = self._separator() if self._settings.strip_sep else None
        self._check()

    @property
    def settings(self) -> dict[str, Any]:
        """What ``load_tokenizer`` needs beside the file."""
        return asdict(self._settings)

    def encode(self, texts: Sequence[str], context_length: int = 77) -> Ids:
        """int64 [N, L]: special tokens and ids of each text, then the padding.

        L is ``context_length`` with ``fixed_length``, else what the longest of these texts needs
        (at least 1); what does not fit is cut, special tokens stay.
        """
        with refusing(self._name):
            rows = [self._row(text, context_length) for text in texts]
        width = max(map(len, rows), default=1) or 1
        if self._settings.fixed_length:
            width = context_length
        tokens = np.full((len(rows), width), self._settings.pad_id, dtype=np.int64)
        for row, ids in zip(tokens, rows, strict=True):
            start = width - len(ids) if self._settings.pad_side == "left" else 0
            row[start : start + len(ids)] = ids
        if self._stripped is not None:
            tokens[tokens == self._stripped] = 0
        return tokens

    def cut_and_unknown(self, texts: Sequence[str], context_length: int = 77) -> tuple[int, int]:
        """(texts cut at ``context_length``, unknown tokens in what is left of all)."""
        cut = unknown = 0
        with refusing(self._name):
            for text in texts:
                encoding, was_cut = self._cut(text, context_length)
                cut += was_cut
                unknown += sum(number == self._unknown for number in encoding.ids)
        return cut, unknown

    def save(self, path: Path) -> None:
        """Write tokenizer.json, in the format of the ``tokenizers`` library."""
        self._tokenizer.save(str(path), pretty=False)

    def __reduce__(self) -> tuple[type[JsonTokenizer], tuple[str, dict[str, Any], str]]:
        return JsonTokenizer, (self._tokenizer.to_str(), self.settings, self._name)

    def _separator(self) -> int:
        for token in ("[SEP]", "</s>"):
            number: int | None = self._tokenizer.token_to_id(token)
            if number is not None:
                return number
        raise no_tokenizer(self._name, "strip_sep, but no [SEP] or </s>")

    def _row(self, text: str, context_length: int) -> list[int]:
        encoding, _ = self._cut(text, context_length)
        ids: list[int] = self._tokenizer.post_process(encoding).ids
        return ids[:context_length]

    def _cut(self, text: str, context_length: int) -> tuple[tokenizers.Encoding, bool]:
        """A text's tokens without special ones, as many as there is room for; were there more?"""
        text = self._clean(text)
        right = self._settings.cut_side == "right"
        most = _LONGEST * context_length
        if len(text) > most:
            text = text[:most] if right else text[-most:]
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        room = max(0, context_length - self._tokenizer.num_special_tokens_to_add(False))
        more = len(encoding) > room
        encoding.truncate(room, direction=self._settings.cut_side)
        return encoding, more

    def _check(self) -> None:
        """FormatError where a text cannot be encoded, an id cannot be, or it is not CLIP's."""
        with refusing(self._name):
            rows = [self._row(text, 77) for text in _PROBES]
        if max(self._settings.pad_id, *(max(row, default=0) for row in rows)) >= self.size:
            raise no_tokenizer(self._name, "an id outside of its vocabulary")
        ends = [CLIP_SIZE - 2, CLIP_SIZE - 1]
        if self._settings.kind == "clip" and (rows[0] != ends or self.size != CLIP_SIZE):
            raise FormatError(
                f"{self._name} is not the tokenizer of CLIP ({CLIP_SIZE} entries).",
                f"{self._name} 不是 CLIP 的分词器（应有 {CLIP_SIZE} 个词条）。",
            )


def _make_certain(model: Any) -> None:
    """The same ids every time: what a training may leave to chance is off."""
    for chance in ("dropout", "alpha", "nbest_size"):
        if getattr(model, chance, None) is not None:
            setattr(model, chance, None)


def _size(tokenizer: tokenizers.Tokenizer, document: Mapping[str, Any]) -> int:
    """The highest id + 1."""
    entries = document["model"]["vocab"]
    # Unigram lists its pieces; the other models have an id for each.
    last = len(entries) - 1 if isinstance(entries, list) else max(entries.values(), default=-1)
    return 1 + max([last, *tokenizer.get_added_tokens_decoder()])


def _unknown(tokenizer: tokenizers.Tokenizer, document: Mapping[str, Any]) -> int | None:
    """The id of the unknown token, if the model has one."""
    token = getattr(tokenizer.model, "unk_token", None)
    found = tokenizer.token_to_id(token) if token else document["model"].get("unk_id")
    return found if isinstance(found, int) else None
