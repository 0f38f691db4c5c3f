"""What is done to a text before it is cut into tokens: one way each for training and serving.

``clean`` is Chinese-CLIP's, ``plain`` and ``CLEANERS`` are those of the models of open_clip.

Chinese-CLIP lower-cases and makes “ and ” straight, in training and evaluation only
(``_preprocess_text``); its served queries keep their curly quotes, which the model never saw.
Beyond that, ``clean`` changes ids in these places and in no others (compared on every code point;
not one of the 13,500 captions of Flickr8k-CN is touched):

- Letters, digits and symbols of full width become ASCII. The vocabulary has a token for each of
  ！ to ～ (U+FF01-FF5E; capitals are lower-cased first), but hardly a word is written in them:
  ｄｏｇ is three pieces, dog is one. ！（），：；？～ stay: they are how Chinese is punctuated, and
  tokens of their own beside ! ( ) , : ; ? and ~. So do 。、《》「」【】, which have no twin in
  ASCII, ￥ (a token), and ｀, because ` is not in the vocabulary. ￡ is not, so it becomes £.
- ‘ ’ ‚ ‛ ʼ become ' and „ ‟ become " (the characters that ftfy's ``uncurl_quotes`` names): ‘ and ’
  are not in the vocabulary, so every word in single quotes came between two [UNK]. „ has a token;
  it is changed all the same, so that „x“ and "x" are one text. ‹ › « » ′ ″ 〝 〞 stay: tokens.
- Vertical tab, form feed, U+001C-001F and U+0085 separate words; cn_clip joins the two words.

Zero-width characters, marks of direction, soft hyphens, variation selectors and other control
characters are dropped, tabs and line breaks become a space: BERT's own rules do that too, no id
changes. Nor does NFC change any: BERT decomposes and drops accents; so ``clean`` leaves it out.
"""

from __future__ import annotations

import html
import re
import string
import unicodedata
from collections.abc import Callable

_KEPT = "！（），：；？～｀"
_SINGLE, _DOUBLE = "\u02bc\u2018\u2019\u201a\u201b", "\u201c\u201d\u201e\u201f"
_BREAKS = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"

# No word is meant to differ by one of these: soft hyphen, zero-width space, word joiner, byte
# order mark, marks of direction and annotation, control characters.
_DROPPED = (
    *(0x00AD, 0x061C, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F)),
    *(0x2060, *range(0x2066, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFC)),
    *(code for code in range(0xA0) if unicodedata.category(chr(code)) == "Cc"),
)
# These shape what is seen: joiners in emoji, Persian and Hindi, variation selectors.
_JOINERS = (0x200C, 0x200D, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))

_COMMON: dict[int, str] = (
    dict.fromkeys(_DROPPED, "")
    | dict.fromkeys(map(ord, _BREAKS + "\u3000"), " ")
    | dict.fromkeys(map(ord, _SINGLE), "'")
    | dict.fromkeys(map(ord, _DOUBLE), '"')
)

REPLACED: dict[int, str] = (
    _COMMON
    | dict.fromkeys(_JOINERS, "")
    | {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) not in _KEPT}
    | {ord("￡"): "£"}
)
"""What stands for a character in ``clean``: "" for one that is dropped, " " for a line break."""

# ftfy 6.3.1: fix_character_width, fix_latin_ligatures (ﬅ as there), remove_control_chars, and
# fix_c1_controls: what was read as Latin-1 and was Windows-1252, as the ’ in "don\x92t".
_PLAIN: dict[int, str] = (
    {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFFF0)}
    | {ord(char): unicodedata.normalize("NFKC", char) for char in "ĲĳǄǅǆǇǈǉǊǋǌǱǲǳﬀﬁﬂﬃﬄﬆ"}
    | {ord("ŉ"): "'n", ord("ﬅ"): "ſt", 0xFFFC: ""}
    | _COMMON
    | {c: bytes([c]).decode("cp1252", "ignore").translate(_COMMON) for c in range(0x80, 0xA0)}
)


def _any_of(table: dict[int, str]) -> re.Pattern[str]:
    """A pattern of one character that is in ``table``."""
    near = re.escape("".join(chr(code) for code in table if code <= 0xFFFF))
    # Beyond U+FFFF Python compares with one after the other: 30 us a caption, were it no range.
    far = [code for code in table if code > 0xFFFF]
    assert not far or len(far) == far[-1] - far[0] + 1
    return re.compile(f"[{near}{chr(far[0])}-{chr(far[-1])}]" if far else f"[{near}]")


_ODD = _any_of(REPLACED)
_PLAIN_ODD = _any_of(_PLAIN)
_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def _ordinary(text: str) -> bool:
    """Is there certainly nothing to replace? As quick as a look; a pattern takes 1 us."""
    return text.isascii() and text.isprintable()


def clean(text: str) -> str:
    """The one normaliser for Chinese-CLIP: lower case, and what the module says; idempotent.

    0.5 us for a Chinese caption. (The tokenizer does the same in its own table, for nothing.)
    """
    text = text.lower()
    if not _ordinary(text) and _ODD.search(text):
        text = text.translate(REPLACED)
    return " ".join(text.split())


def plain(text: str) -> str:
    """open_clip's ``basic_clean``, without ftfy: quotes, widths, ligatures, entities, NFC.

    All widths become ordinary here, ， too: open_clip trained its models on that. Not as there:
    mojibake and the escape codes of terminals stay; soft hyphens, zero-width spaces, word joiners
    and marks of direction are dropped, as in ``clean``; vertical tab and U+001C-001F separate
    words. Joiners of emoji and of Persian, and variation selectors, stay, as there.
    """
    text = whole(text)
    if "&" in text and "<" not in text:  # ftfy: what has tags may mean its entities
        text = html.unescape(text)
    if not _ordinary(text) and _PLAIN_ODD.search(text):
        text = text.translate(_PLAIN)
    text = unicodedata.normalize("NFC", text)
    if "&" in text:
        text = html.unescape(html.unescape(text))
    return text.strip()


def whole(text: str) -> str:
    """Pairs of surrogates made one character, lone ones U+FFFD: what UTF-8 can hold."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _whitespace(text: str) -> str:
    return " ".join(plain(text).split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _canonicalize(text: str) -> str:
    """big_vision's, for SigLIP: without ASCII punctuation, in lower case."""
    return " ".join(plain(text).translate(_PUNCTUATION).lower().split())


CLEANERS: dict[str, Callable[[str], str]] = {
    "lower": _lower,
    "whitespace": _whitespace,
    "canonicalize": _canonicalize,
    "none": whole,
}
"""open_clip's names (``get_clean_fn``), and "none"."""
