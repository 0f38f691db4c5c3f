"""Which language the product speaks: Chinese or English.

Every sentence a user reads is written in both, side by side, where it is used:
``pick("Nothing new.", "没有新内容。")``. No catalogue files: a sentence and its twin are
changed together or a reviewer sees that they were not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Language = Literal["en", "zh"]

_chosen: Language | None = None
_asked: ContextVar[Language | None] = ContextVar("language", default=None)


def set_language(language: Language | None) -> None:
    """Choose the language for this process and the stages it starts; None: from LANG again."""
    global _chosen
    _chosen = language
    if language is None:
        os.environ.pop("WENTU_LANG", None)
    else:
        os.environ["WENTU_LANG"] = language


@contextmanager
def speaking(language: Language | None) -> Iterator[None]:
    """Speak that language meanwhile, to one of many that are answered at once; None: as else."""
    before = _asked.set(language)
    try:
        yield
    finally:
        _asked.reset(before)


def language() -> Language:
    """The one asked for here, else the chosen one, else WENTU_LANG, else the one that LC_ALL,
    LC_MESSAGES or LANG name."""
    asked = _asked.get()
    if asked is not None:
        return asked
    if _chosen is not None:
        return _chosen
    for name in ("WENTU_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name, "")
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


def pick(en: str, zh: str) -> str:
    """The sentence in the language of the user."""
    return zh if language() == "zh" else en
