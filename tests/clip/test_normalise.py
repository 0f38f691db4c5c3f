"""Texts before they are cut into tokens: ours, and open_clip's without ftfy."""

from __future__ import annotations

import json
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wentu.clip.normalise import CLEANERS, REPLACED, clean, plain, whole

ANY = st.text(alphabet=st.characters(exclude_categories=[]))
NOT_AS_OPEN_CLIP = (
    "\u00ad\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069"
    "\v\x1c\x1d\x1e\x1f\x81\x8d\x8f\x90\x9d"
)
"""Every character that ``plain`` treats otherwise than ftfy does."""


@pytest.fixture(scope="module")
def open_clip() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the import only: not our code
        return pytest.importorskip("open_clip.tokenizer")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (" \u3000“Hello” WORLD\n", '"hello" world'),
        ("‘单’引号 don’t ‚x‛ „y‟", "'单'引号 don't 'x' \"y\""),
        ("ＡＢＣ ｘｙｚ ０１９", "abc xyz 019"),
        ("３０％＋１＝＃＠＆＊／－．", "30%+1=#@&*/-."),
        ("［＿］＾｛｜｝＜＞＼＄＂＇", "[_]^{|}<>\\$\"'"),
        (
            "你好！（是），吗：；？～｀￥。、《》「」【】…—",
            "你好！（是），吗：；？～｀￥。、《》「」【】…—",
        ),
        ("￡5", "£5"),
        ("a\u200bb\u200cc\u200dd\u2060e\ufefff\u00adg\ufe0fh\U000e0100i", "abcdefghi"),
        ("\u200e\u200fa\u202a\u202b\u202c\u202d\u202eb\u2066\u2067\u2068\u2069\u061c", "ab"),
        ("a\x00b\x07c\x7fd\x80e", "abcde"),
        ("一\r\n二\t\t三\u2028四\v五\x85六\u00a0 七", "一 二 三 四 五 六 七"),
        ("ﬁ ㈱ ｶﾅ ½ Ⅳ e\u0301", "ﬁ ㈱ ｶﾅ ½ ⅳ e\u0301"),
        ("\ud800 \udfff", "\ud800 \udfff"),
        ("", ""),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@settings(max_examples=300, deadline=None)
@given(text=ANY)
@example(text="İ ΑΣ ΑΣＡ “x”\x1c\u2028 \U000e0100")
def test_clean_again_changes_nothing(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@settings(max_examples=300, deadline=None)
@given(text=ANY)
@example(text="\U000e0100\U000e01ef ￡ \ufffb")
def test_clean_one_character_at_a_time(text: str) -> None:
    slow = "".join(REPLACED.get(ord(char), char) for char in text.lower())
    assert clean(text) == " ".join(slow.split())


def test_every_character_that_is_replaced() -> None:
    for code in range(0x110000):
        if code in REPLACED:
            assert clean(f"a{chr(code)}b") == " ".join(f"a{REPLACED[code]}b".lower().split())


def test_real_captions_are_lower_cased_and_no_more(data: Path) -> None:
    for path in sorted((data / "flickr8k-cn").glob("cn_*.json")):
        for entry in json.loads(path.read_text(encoding="utf-8")):
            for caption in entry["caption"]:
                assert clean(caption) == caption.lower().strip()


@pytest.mark.parametrize(
    ("text", "kind", "cleaned"),
    [
        ("  A “Dog’s”\n ball，ＯＫ！ ", "lower", 'a "dog\'s" ball,ok!'),
        ("  A “Dog’s”\n ball，ＯＫ！ ", "whitespace", 'A "Dog\'s" ball,OK!'),
        ("  A “Dog’s”\n ball_x，ＯＫ！ ", "canonicalize", "a dogs ball xok"),
        ("  A “Dog” ", "none", "  A “Dog” "),
        ("caf\u0065\u0301 ﬁne ŉ ｶﾞ don\x92t", "whitespace", "café fine 'n ガ don't"),
        ("a &amp;amp; b &lt;x&gt; &ldquo;q&rdquo;", "whitespace", 'a & b <x> "q"'),
        ("<b> &ldquo;q&rdquo;", "whitespace", "<b> “q”"),
        (
            "👩\u200d👩 ❤\ufe0f می\u200cخواهم \u200bx\ufeff",
            "lower",
            "👩\u200d👩 ❤\ufe0f می\u200cخواهم x",
        ),
        ("a\ud83d\udc4db \ud83d", "lower", "a👍b \ufffd"),
        ("a\ud83d\udc4db \ud83d", "none", "a👍b \ufffd"),
    ],
)
def test_of_other_models(text: str, kind: str, cleaned: str) -> None:
    assert CLEANERS[kind](text) == cleaned


def assert_as_open_clip(open_clip: Any, texts: list[str]) -> None:
    for kind in ("lower", "whitespace", "canonicalize"):
        theirs = open_clip.get_clean_fn(kind)
        differ = [text for text in texts if CLEANERS[kind](text) != theirs(text)]
        assert not differ, [ascii(text) for text in differ[:5]]


def around(characters: str) -> list[str]:
    """A character within a word, at an end, doubled, alone, as far as ftfy is followed."""
    return [f"a{c}b1{c}{c}2 {c}" for c in characters if c not in NOT_AS_OPEN_CLIP]


@pytest.mark.parametrize("start", [0x0000, 0x0100, 0x0600, 0x1E00, 0x2000, 0x3000, 0xF900, 0xFE00])
def test_every_character_of_a_block_as_open_clip(open_clip: Any, start: int) -> None:
    stop = min(start + 0x200, 0x10000)
    assert_as_open_clip(open_clip, around("".join(map(chr, range(start, stop)))))


@pytest.mark.exhaustive
def test_every_character_as_open_clip(open_clip: Any) -> None:
    codes = (code for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    assert_as_open_clip(open_clip, around("".join(map(chr, codes))))


def test_what_is_not_as_open_clip(open_clip: Any) -> None:
    theirs = open_clip.get_clean_fn("whitespace")
    for char in NOT_AS_OPEN_CLIP:
        assert CLEANERS["whitespace"](f"a{char}b") != theirs(f"a{char}b")


def test_texts_as_open_clip(open_clip: Any, data: Path) -> None:
    texts = ["a\ud83d\udc4db \ud83d", "x &amp; y &#39; &nbsp;z &hellip; <p>&lt;"]
    for path in sorted((data / "flickr8k-cn").glob("en_*.json")):
        for entry in json.loads(path.read_text(encoding="utf-8"))[::10]:
            texts += entry["caption"] if isinstance(entry["caption"], list) else [entry["caption"]]
    assert_as_open_clip(open_clip, texts)


@settings(max_examples=300, deadline=None)
@given(text=ANY)
@example(text="&#xD800; &amp;#xD800; \ud800&")
def test_plain_is_utf8_and_composed(text: str) -> None:
    result = plain(text)
    result.encode()
    if "&" not in text:
        assert unicodedata.is_normalized("NFC", result)
    whole(text).encode()
