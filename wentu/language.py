"""Which language the product speaks: Chinese or English.

Every sentence a user reads is written in both, side by side, where it is used:
``pick("Nothing new.", "没有新内容。")``. No catalogue files: a sentence and its twin are
changed together or a reviewer sees that they were not.
"""

from __future__ import annotations

import os
from typing import Literal

Language = Literal["en", "zh"]

_chosen: Language | None = None


def set_language(language: Language | None) -> None:
    """Choose the language for this process and the stages it starts; None: from LANG again."""
    global _chosen
    _chosen = language
    if language is None:
        os.environ.pop("WENTU_LANG", None)
    else:
        os.environ["WENTU_LANG"] = language


def language() -> Language:
    """The chosen language, else WENTU_LANG, else the one that LC_ALL, LC_MESSAGES or LANG name."""
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
