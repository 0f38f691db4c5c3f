"""Opening a tokenizer.json of the ``tokenizers`` library, also one that is broken.

The library (0.23) answers most broken files with an Exception, and some with a panic of Rust: a
BaseException that passes every ``except Exception``, after its trace on stderr. Of 10,000 mutated
files 12 did, in two ways; both are looked for here first. A third cannot be seen beforehand (a
damaged ``precompiled_charsmap``); there the trace stays, and the error is a FormatError all the
same. Reading the file twice costs 5 ms for BERT's, 0.3 s of 0.9 s for 250,000 pieces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers

from wentu.errors import FormatError


def read_tokenizer(path: Path) -> str:
    """The text of a tokenizer.json; FormatError where there is none."""
    with refusing(str(path)):
        return path.read_text(encoding="utf-8")


def parse_tokenizer(content: str, name: str) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """(the tokenizer, the same as parsed JSON), without its padding and truncation.

    FormatError, with ``name``, on anything that the library cannot use.
    """
    with refusing(name):
        document = json.loads(content)
        for trouble in _panics(document):
            raise no_tokenizer(name, trouble)
        loaded = tokenizers.Tokenizer.from_str(content)
    loaded.no_padding()
    loaded.no_truncation()
    return loaded, document


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """What the library raises on a broken tokenizer, panics of Rust too, as FormatError."""
    try:
        yield
    except BaseException as error:
        ours = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if isinstance(error, FormatError) or not ours:  # a KeyboardInterrupt, say
            raise
        raise no_tokenizer(name, error) from error


def no_tokenizer(name: str, reason: object) -> FormatError:
    """The error for a file that is no usable tokenizer.json."""
    return FormatError(
        f"{name} is no usable tokenizer.json: {reason}",
        f"{name} 不是可用的 tokenizer.json：{reason}",
    )


def _panics(document: Any) -> Iterator[str]:
    """What makes the library panic, in words."""
    if not isinstance(document, dict):
        yield "no JSON object"
        return
    model = document.get("model")
    if isinstance(model, dict) and isinstance(model.get("merges"), list):
        prefix = model.get("continuing_subword_prefix")
        if prefix and not all(_continues(merge, prefix) for merge in model["merges"]):
            yield "a merge without the continuing_subword_prefix"
    for processor in _processors(document.get("post_processor")):
        known = processor.get("special_tokens")
        for piece in [*_listed(processor.get("single")), *_listed(processor.get("pair"))]:
            token = piece.get("SpecialToken") if isinstance(piece, dict) else None
            if isinstance(token, dict) and token.get("id") not in (known or ()):
                yield f"the special token {token.get('id')!r} has no id"


def _continues(merge: object, prefix: object) -> bool:
    """Does the second part of a merge begin as it has to?"""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    last = parts[-1] if isinstance(parts, list) and parts else None
    return isinstance(last, str) and isinstance(prefix, str) and last.startswith(prefix)


def _processors(processor: object) -> Iterator[dict[str, Any]]:
    """A post-processor and those that are in it."""
    if isinstance(processor, dict):
        yield processor
        for part in _listed(processor.get("processors")):
            yield from _processors(part)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
