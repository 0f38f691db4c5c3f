"""What a person types, taken apart: what to look for, and what not.

    海滩 -人      海滩－人      海滩 −人        beach without people
    "T-shirt -red"   -"红色 圆形"              a phrase is kept whole, also behind a minus

A hyphen excludes only where nobody would write one otherwise: at the start or after a space, and
before something. Between Chinese characters, where nobody types spaces, the full-width － (U+FF0D)
and the minus − (U+2212) do too; ASCII's stays part of the word there (T-shirt, 4-人桌).
"""

from __future__ import annotations

from dataclasses import dataclass

from wentu.errors import InputError

MOST_NEGATIVES = 16
"""Each is embedded: one query must not cost as much as a hundred."""
_WIDE = "\uff0d\u2212"
_MINUS = "-" + _WIDE
_QUOTES = {'"': '"', "\u201c": "\u201d", "\uff02": "\uff02"}
_CJK = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A text, taken apart."""

    text: str = ""
    """What to look for."""
    negative: tuple[str, ...] = ()
    """What not to, in the order it was written, each once."""


def parse(typed: str) -> Parsed:
    """What is meant by what was typed; InputError where more is excluded than ``MOST_NEGATIVES``.

    >>> parse("海滩－人 -狗")
    Parsed(text='海滩', negative=('人', '狗'))
    >>> parse('红色 T-shirt')
    Parsed(text='红色 T-shirt', negative=())
    """
    wanted: list[str] = []
    away: list[str] = []
    at = 0
    while at < len(typed):
        if _excludes(typed, at):
            phrase, at = _term(typed, at + 1)
            away.append(phrase)
            wanted.append(" ")
        else:
            phrase, end = _quoted(typed, at)
            wanted.append(phrase if end else typed[at])
            at = end or at + 1
    text = "".join(wanted)
    # A text without signs stays as it is: what is embedded is what was typed.
    text = " ".join(text.split()) if away else text.strip()
    negative = tuple(dict.fromkeys(each for each in map(str.strip, away) if each))
    if len(negative) > MOST_NEGATIVES:
        raise InputError(
            f"the text excludes {len(negative)} things; at most {MOST_NEGATIVES} can be.",
            f"文字中排除了 {len(negative)} 项；最多 {MOST_NEGATIVES} 项。",
        )
    return Parsed(text=text, negative=negative)


def _excludes(typed: str, at: int) -> bool:
    """Is the sign there one that excludes what follows?"""
    if typed[at] not in _MINUS or at + 1 == len(typed):
        return False
    before, after = typed[at - 1 : at], typed[at + 1]
    if after.isspace() or after in _MINUS:
        return False
    if not before or before.isspace():
        return True
    return typed[at] in _WIDE and _is_cjk(before) and (_is_cjk(after) or after in _QUOTES)


def _term(typed: str, at: int) -> tuple[str, int]:
    """(what is excluded, where it ends): a phrase in quotes, or up to a space or the next sign."""
    phrase, end = _quoted(typed, at)
    if end:
        return phrase, end
    end = at
    while (
        end < len(typed) and not typed[end].isspace() and not (end > at and _excludes(typed, end))
    ):
        end += 1
    return typed[at:end], end


def _quoted(typed: str, at: int) -> tuple[str, int]:
    """(the phrase, where it ends) of quotes that open there; 0: none do, or nothing closes them."""
    closing = _QUOTES.get(typed[at])
    end = typed.find(closing, at + 1) if closing else -1
    return (typed[at + 1 : end], end + 1) if end > at + 1 else ("", 0)


def _is_cjk(letter: str) -> bool:
    return any(low <= ord(letter) <= high for low, high in _CJK)
