"""Token ids equal cn_clip's own, for captions and for the worst strings that there are.

cn_clip gets a text prepared as it prepares captions, unless there is one of CHANGED in it, which
``clean`` changes and cn_clip does not: then it gets the cleaned text.
"""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wentu.clip.normalise import clean
from wentu.clip.text import Tokenizer
from wentu.errors import FormatError, InputError

CHANGED = (
    "＂＃＄％＆＇＊＋－．／０１２３４５６７８９＜＝＞＠［＼］＾＿｛｜｝￡"
    "ａｂｃｄｅｆｇｈｉｊｋｌｍｎｏｐｑｒｓｔｕｖｗｘｙｚＡＢＣＤＥＦＧＨＩＪＫＬＭＮＯＰＱＲＳＴＵＶＷＸＹＺ"
    "ʼ‘’‚‛„‟\v\f\x1c\x1d\x1e\x1f\x85"
)
"""Every character for which the ids are not those of cn_clip's own preparation."""

Reference = Callable[[Sequence[str], int], Any]

AWKWARD = [
    "",
    " \t\r\n\u3000 ",
    "一只“狗”在‘跑’。",
    "Café NAÏVE Ångström İstanbul Straße ΑΣ ΣΑΣ Σ ǅ ﬃ",
    "e\u0301\u0327a\u0327\u0301 \u0301alone",
    "[CLS] [SEP] [UNK] [PAD] [MASK] [unk] ##ing # #ing",
    "a\x00b\ufffdc\x1cd\x85e\u200bf\ufeffg\u2028h\u2029i\u00adj\u180ek",
    "a" * 100 + " " + "b" * 200 + " " + "c" * 201 + "，" + "d" * 5000,
    "\ud800 abc\udfff 猫\ud83d",
    "👍🏽👩‍👩‍👧‍👦🇨🇳❤️ 1️⃣",
    "𠀀𪛟𪜀𫝀𫠠𬺰𰀀𱍐 豈﨑丽 ⼀⺀ 㐀䶿 々〆〇ヶ",
    "한국어 조선말 ㄱ カタカナ がぎぐ が ひらがな",
    "ｆｕｌｌ　ｗｉｄｔｈ１２３！？ ①②③ ㈱ ½ x² H₂O",
    "don't stop—believing… $5.00 + 3% = <b> ^_^ `~|",
    "\ue000\U000f0000\U0010ffff\u0378\U000e0001",
    "ก็ ที่ हिन्दी தமிழ் עִבְרִית العَرَبِيَّة",
    "K\u212a\u2126\u212b\u1fef\u037e\u0387\u1fc1",
    "unaffable transformers 2023年10月 iPhone15ProMax",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.chinese_bert()


@pytest.fixture(scope="module")
def reference() -> Reference:
    """cn_clip's ids of texts prepared for training and evaluation (see above)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the import only: not our code
        clip = pytest.importorskip("cn_clip.clip")
        data = pytest.importorskip("cn_clip.eval.data")

    def tokenize(texts: Sequence[str], context_length: int) -> Any:
        changed = set(CHANGED)
        cleaned = (clean(text) if changed & set(text) else text for text in texts)
        prepared = [data._preprocess_text(text) for text in cleaned]
        return clip.tokenize(prepared, context_length).numpy()

    return tokenize


def assert_same(
    tokenizer: Tokenizer, reference: Reference, texts: Sequence[str], context_length: int = 52
) -> None:
    """Ids equal the reference's; what is not there is padding there."""
    ours = tokenizer.encode(texts, context_length)
    theirs = reference(texts, context_length)
    width = ours.shape[1]
    same = (theirs[:, :width] == ours).all(axis=1) & (theirs[:, width:] == 0).all(axis=1)
    assert same.all(), [ascii(texts[i]) for i in np.flatnonzero(~same)[:5]]


def random_texts(count: int, seed: int) -> list[str]:
    """Strings of 1 to 40 characters, each from a handful of Unicode blocks of 256."""
    rng = random.Random(seed)
    common = "的一是猫狗 ，。 abcXYZ019-_'\"“”"
    texts = []
    for _ in range(count):
        blocks = [rng.randrange(0x110000 >> 8) for _ in range(2)]
        blocks += [rng.randrange(0x3200 >> 8), rng.randrange(0x10000 >> 8)]
        texts.append(
            "".join(
                rng.choice(common)
                if rng.random() < 0.4
                else chr((rng.choice(blocks) << 8) + rng.randrange(256))
                for _ in range(rng.randint(1, 40))
            )
        )
    return texts


def test_awkward_texts(tokenizer: Tokenizer, reference: Reference) -> None:
    assert_same(tokenizer, reference, AWKWARD)
    assert_same(tokenizer, reference, AWKWARD, context_length=7)
    assert_same(tokenizer, reference, AWKWARD, context_length=2)


def test_random_texts(tokenizer: Tokenizer, reference: Reference) -> None:
    assert_same(tokenizer, reference, random_texts(5000, seed=20240501))


@pytest.mark.parametrize(
    "block", [*range(0x000, 0x34, 4), 0x9F, 0xA4, 0xAA, 0xF8, 0xFC, 0x1D0, 0x1F0, 0x2B8, 0x2F8]
)
def test_every_character_of_a_block(tokenizer: Tokenizer, reference: Reference, block: int) -> None:
    """1,024 code points from here, each within a word, at its end, and doubled."""
    characters = (chr(code) for code in range(block << 8, (block << 8) + 1024))
    assert_same(tokenizer, reference, [f"a{c}b1{c}{c}" for c in characters], 16)


@pytest.mark.exhaustive
@pytest.mark.parametrize("plane", range(17))
def test_every_character_there_is(tokenizer: Tokenizer, reference: Reference, plane: int) -> None:
    characters = (chr(code) for code in range(plane << 16, (plane + 1) << 16))
    assert_same(tokenizer, reference, [f"a{c}b1{c}{c}" for c in characters], 16)


def test_changed_are_those_that_differ(tokenizer: Tokenizer) -> None:
    """None stands in CHANGED for nothing, and what stands there has a twin that cn_clip knows."""
    from cn_clip.clip import tokenize
    from cn_clip.eval.data import _preprocess_text

    for char in CHANGED:
        text = f"猫a{char}b"
        theirs = tokenize([_preprocess_text(text)])[0].tolist()
        ours = tokenizer.encode([text], 52)[0].tolist()
        assert theirs[: len(ours)] != ours
        assert tokenizer.cut_and_unknown([text]) == (0, 0)


def test_full_width_punctuation_keeps_its_token(tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer._tokenizer.get_vocab()
    for char in "！（），：；？～｀￥。、《》「」【】":
        assert tokenizer.encode([char])[0].tolist() == [101, vocabulary[char], 102]


def test_full_width_words_and_quotes(tokenizer: Tokenizer) -> None:
    same = [
        ("ＤＯＧ，３０％！", "dog，30%！"),
        ("他说‘停’", "他说'停'"),
        ("the dog’s ball", "the dog's ball"),
        ("„Hund“ ‟x”", '"hund" "x"'),
        ("猫\u200b狗\ufeff\u202d\u2066x\u2069\u00ad", "猫狗x"),
        ("一只\v黑狗\x85跑", "一只 黑狗 跑"),
    ]
    for text, plain in same:
        assert tokenizer.encode([text]).tolist() == tokenizer.encode([plain]).tolist()


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=[])))
@example(text="e\u0301 \u1112\u1161\u11ab ｶﾞ I\u0307 \uf900 \u2126 a\u0327\u200d\u0301")
def test_composing_changes_no_id(tokenizer: Tokenizer, text: str) -> None:
    """So ``clean`` need not do it."""
    expected = tokenizer.encode([text]).tolist()
    for form in ("NFC", "NFD"):
        assert tokenizer.encode([unicodedata.normalize(form, text)]).tolist() == expected


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=[])))
@example(text="\u2028a\x1cb\v ＡΣ\u200d \ud83d")
def test_cleaning_again_changes_no_id(tokenizer: Tokenizer, text: str) -> None:
    """The tokenizer's table does what ``clean`` does."""
    assert tokenizer.encode([clean(text)]).tolist() == tokenizer.encode([text]).tolist()


def test_marks_in_any_order(tokenizer: Tokenizer, reference: Reference) -> None:
    """Decomposing character by character does not sort marks; no id may depend on that."""
    rng = random.Random(7)
    marks = [chr(c) for c in range(0x110000) if unicodedata.combining(chr(c))]
    texts = [
        "".join(
            rng.choice(marks) if rng.random() < 0.5 else rng.choice("aeo가中ß") for _ in "12345678"
        )
        for _ in range(2000)
    ]
    assert_same(tokenizer, reference, texts)


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=[])))
@example(text="\udc80")
def test_any_text(tokenizer: Tokenizer, reference: Reference, text: str) -> None:
    assert_same(tokenizer, reference, [text])


def test_real_captions(tokenizer: Tokenizer, reference: Reference, data: Path) -> None:
    """An ordinary caption has the ids that cn_clip gives it: none of CHANGED is in one."""
    captions: list[str] = []
    for path in sorted((data / "flickr8k-cn").glob("*.json")):
        for entry in json.loads(path.read_text(encoding="utf-8")):
            captions += (
                [entry["caption"]] if isinstance(entry["caption"], str) else entry["caption"]
            )
    assert len(captions) > 10_000
    assert not set("".join(captions)) & set(CHANGED)
    assert_same(tokenizer, reference, captions)
    assert_same(tokenizer, reference, captions[:2000], context_length=12)


def test_mistake_05_curly_quotes_served_as_trained(
    tokenizer: Tokenizer, reference: Reference
) -> None:
    """What a user searches for has the ids that the same words had in training."""
    from cn_clip.clip import tokenize

    quoted = "写着“停”的牌子"
    served = tokenizer.encode([quoted], 52)
    assert served.tolist() == tokenizer.encode(['写着"停"的牌子'], 52).tolist()
    assert served.tolist() == reference([quoted], 52)[:, : served.shape[1]].tolist()
    assert tokenize([quoted])[0, : served.shape[1]].tolist() != served[0].tolist()


def test_padding_and_cutting(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(["一只猫", "", "很" * 100], context_length=10)
    assert tokens.dtype == np.int64
    assert tokens.shape == (3, 10)
    assert tokens[0].tolist()[:1] + tokens[0].tolist()[4:] == [101, 102, 0, 0, 0, 0, 0]
    assert tokens[1].tolist() == [101, 102] + [0] * 8
    assert tokens[2, 0] == 101
    assert tokens[2, -1] == 102
    assert len(set(tokens[2, 1:-1])) == 1
    assert tokenizer.encode(["猫", "狗狗"]).shape == (2, 4)
    assert tokenizer.encode([""]).tolist() == [[101, 102]]
    assert tokenizer.encode([]).shape == (0, 2)


def test_cut_and_unknown(tokenizer: Tokenizer) -> None:
    texts = ["很" * 8, "很" * 9, "猫\ue000狗", "\ue000", "猫" * 8 + "\ue000"]
    assert tokenizer.cut_and_unknown(texts, 10) == (2, 2)
    assert tokenizer.cut_and_unknown(["很" * 8, "很" * 9], 10) == (1, 0)
    assert tokenizer.cut_and_unknown([], 10) == (0, 0)


def test_saved_and_loaded_gives_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    texts = AWKWARD + random_texts(500, seed=3)
    expected = tokenizer.encode(texts)
    assert np.array_equal(loaded.encode(texts), expected)
    assert np.array_equal(pickle.loads(pickle.dumps(loaded)).encode(texts), expected)


def test_the_saved_file_is_a_whole_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Another program that reads tokenizer.json gets the ids of ordinary texts right."""
    import tokenizers

    tokenizer.save(tmp_path / "tokenizer.json")
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("一只“黑”狗，在 Café 外面 running!", "‘ＤＯＧ’ ３０％，￡5", "[SEP] 猫", ""):
        assert other.encode(text).ids == tokenizer.encode([text])[0].tolist()


@pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0"}', None])
def test_no_tokenizer_file(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(FormatError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


def test_another_kind_of_tokenizer_is_refused(tmp_path: Path) -> None:
    import tokenizers

    special = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    models = tokenizers.models
    for model in (models.WordLevel(special, "[UNK]"), models.WordPiece({"[UNK]": 0})):
        tokenizers.Tokenizer(model).save(str(tmp_path / "other.json"))
        with pytest.raises(FormatError, match="WordPiece"):
            Tokenizer.load(tmp_path / "other.json")


def test_without_cn_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install cn_clip"):
        Tokenizer.chinese_bert()


def test_threads_share_a_tokenizer(tokenizer: Tokenizer) -> None:
    texts = random_texts(800, seed=11)
    expected = [tokenizer.encode([text]).tolist() for text in texts]
    fresh = Tokenizer.chinese_bert()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: fresh.encode([text]).tolist(), texts)) == expected


def test_the_cache_of_words_is_bounded(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = len(tokenizer._words) + 5
    monkeypatch.setattr("wentu.clip.text._CACHED_WORDS", full)
    tokenizer.encode(["q" * 5000])
    tokenizer.encode([f"zq{number}xj" for number in range(50)])
    assert len(tokenizer._words) == full
    assert not any(len(word) > 40 for word in tokenizer._words)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, wentu.clip.text as t; t.Tokenizer.chinese_bert().encode(['猫']);"
        "assert not {'torch', 'cn_clip', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
