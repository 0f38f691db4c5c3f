"""Tokenizers of open_clip's models without open_clip: the same ids, whatever the text or file."""

from __future__ import annotations

import base64
import json
import pickle
import random
import struct
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from wentu.clip.normalise import CLEANERS
from wentu.clip.text import Tokenizer
from wentu.clip.tokenizers import (
    JsonTokenizer,
    TextTokenizer,
    clip_tokenizer,
    load_tokenizer,
    tokenizer_from,
)
from wentu.errors import FormatError, InputError

SENTENCES = [
    "A man in an orange hat starring at something.",
    "Two dogs – one brown, one black – don't play; they're running at 12:30pm (£5.50)!",
    "一只黑色的狗在雪地里奔跑，嘴里叼着一个红色的球。",
    "滑鼠與鍵盤放在書桌上。",
    "二匹の犬が浜辺を走っている。カメラ、がぎぐげご",
    "두 마리의 개가 해변에서 뛰고 있다.",
    "Два пса бегут по пляжу — быстро!",
    "Δύο σκύλοι τρέχουν στην παραλία· ΟΔΟΣ",
    "כלב רץ על החוף, שָׁלוֹם",
    "كلبٌ يركض على الشاطئ، ١٢٣",
    "दो कुत्ते समुद्र तट पर दौड़ रहे हैं।",
    "สุนัขสองตัววิ่งบนชายหาด",
    "হ্যালো বিশ্ব, দুটি কুকুর",
    "இரண்டு நாய்கள் கடற்கரையில் ஓடுகின்றன",
    "Zwei Hunde laufen über den Strand. Straße, Größe, „Äpfel“",
    "Deux chiens courent sur la plage à l’été, cœur, garçon",
    "İki köpek sahilde koşuyor. IĞDIR",
    "Hai con chó đang chạy trên bãi biển đẹp",
    "Dva psi běží po pláži, příliš žluťoučký kůň",
    "ორი ძაღლი გარბის პლაჟზე",
    "Երկու շուն վազում են լողափին",
    "دو سگ در ساحل می\u200cدوند",
    "👍🏽 👩\u200d👩\u200d👧\u200d👦 🇨🇳 ❤\ufe0f 1\ufe0f\u20e3 x² ½ ① Ⅳ ٣ 五",
    "“Quoted” ‘single’ ＦＵＬＬ　ｗｉｄｔｈ１２３！？，。 ﬁre ﬂag",
    "I'm you've we'll he'd it's they're don't O'REILLY'S 'tis ''s",
    "a_b c__d e-f #hash @user https://x.y/z?q=1&r=2 <b>bold</b> &amp; &lt;",
    "e\u0301te\u0301 n\u0303 \u1112\u1161\u11ab ｶﾞ",
    "   spaces \t tabs \n\n lines \u3000 wide \u2028 end   ",
    "",
    " ",
    "word " * 100,
    "supercalifragilisticexpialidocious" * 20,
]
ANY = st.text(alphabet=st.characters(exclude_categories=[]))
CLIP = {"kind": "clip", "fixed_length": True}


def captions(data: Path, language: str) -> list[str]:
    found: list[str] = []
    for path in sorted((data / "flickr8k-cn").glob(f"{language}_*.json")):
        for entry in json.loads(path.read_text(encoding="utf-8")):
            caption = entry["caption"]
            found += [caption] if isinstance(caption, str) else caption
    return found


@pytest.fixture(scope="module")
def open_clip() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the import only: not our code
        return pytest.importorskip("open_clip.tokenizer")


# --- small tokenizers as those of other families ----------------------------------------------


def unigram() -> tokenizers.Tokenizer:
    """As XLM-RoBERTa's: <s> 0, <pad> 1, </s> 2, <unk> 3."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=names, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(SENTENCES[:14], trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return made


def wordpiece() -> tokenizers.Tokenizer:
    """As BERT's: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=names, show_progress=False)
    made.train_from_iterator(SENTENCES[:8], trainer)
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


def sentencepiece() -> tokenizers.Tokenizer:
    """As SigLIP's: only </s> at the end, which is the padding too."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    names = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=names, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(SENTENCES[:4], trainer)
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return made


def byte_bpe() -> tokenizers.Tokenizer:
    """As RoBERTa's: byte-level BPE, <s> 0, <pad> 1, </s> 2."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(SENTENCES[:10], trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return made


# Name -> (how it is made, transformers' names of its tokens, our settings, open_clip's).
Family = tuple[Callable[[], tokenizers.Tokenizer], dict[str, str], dict[str, Any], dict[str, Any]]
FAMILIES: dict[str, Family] = {
    "xlm-roberta": (
        unigram,
        {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>"},
        {},
        {},
    ),
    "clipa": (
        wordpiece,
        {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]"},
        {"strip_sep": True, "pad_id": "[PAD]"},
        {"strip_sep_token": True},
    ),
    "siglip": (
        sentencepiece,
        {"eos": "</s>", "unk": "<unk>", "pad": "</s>"},
        {"clean": "canonicalize", "pad_id": 1},
        {"clean": "canonicalize"},
    ),
    "roberta": (
        byte_bpe,
        {"bos": "<s>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>"},
        {"clean": "lower"},
        {"clean": "lower"},
    ),
}
SETTINGS = {"kind": "hf", "fixed_length": True}


@pytest.fixture(scope="module")
def small() -> dict[str, str]:
    """The contents of tokenizer.json by family."""
    return {name: make().to_str() for name, (make, *_) in FAMILIES.items()}


@pytest.fixture(scope="module")
def clip() -> JsonTokenizer:
    return tokenizer_from(clip_tokenizer(), CLIP)


@pytest.fixture(scope="module")
def everything(clip: JsonTokenizer, small: dict[str, str]) -> dict[str, TextTokenizer]:
    """One tokenizer of each kind."""
    made: dict[str, TextTokenizer] = {"bert": Tokenizer.chinese_bert(), "clip": clip}
    for name, content in small.items():
        made[name] = tokenizer_from(content, {"kind": "hf"} | FAMILIES[name][2])
    return made


# --- OpenAI's ---------------------------------------------------------------------------------


def test_clip_is_open_clips(open_clip: Any, clip: JsonTokenizer) -> None:
    for length in (77, 32, 9, 2):
        expected = open_clip.tokenize(SENTENCES, context_length=length).numpy()
        assert np.array_equal(clip.encode(SENTENCES, length), expected)
    assert clip.size == 49_408
    assert clip.encode(["a photo of a cat"])[0, :7].tolist() == [
        *(49406, 320, 1125, 539, 320, 2368, 49407)
    ]


def test_clip_on_real_captions(open_clip: Any, clip: JsonTokenizer, data: Path) -> None:
    texts = captions(data, "en") + captions(data, "cn")[::10]
    assert len(texts) > 10_000
    assert np.array_equal(clip.encode(texts), open_clip.tokenize(texts).numpy())


def test_clip_on_random_texts(open_clip: Any, clip: JsonTokenizer) -> None:
    """Words of many scripts, digits, punctuation and emoji, mixed."""
    rng = random.Random(5)
    parts = sorted({word for text in SENTENCES for word in text.split()})
    parts += ["'", "-", "...", "!!", "'s", "1", "23", "_"]
    glue = ["", " ", "  "]
    texts = [
        "".join(rng.choice(parts) + rng.choice(glue) for _ in range(rng.randint(1, 12)))
        for _ in range(2000)
    ]
    assert np.array_equal(clip.encode(texts), open_clip.tokenize(texts).numpy())


@pytest.mark.exhaustive
def test_clip_on_every_character(open_clip: Any, clip: JsonTokenizer) -> None:
    """One letter of all that Python knows has other ids, beside those that test_normalise names."""
    everything = map(chr, range(0x110000))
    known = [char for char in everything if unicodedata.category(char) not in ("Cs", "Cn")]
    differ = []
    for start in range(0, len(known), 10_000):
        texts = [f"a{c}b1{c}{c}2 {c}" for c in known[start : start + 10_000]]
        texts = [t for t in texts if CLEANERS["lower"](t) == open_clip.get_clean_fn("lower")(t)]
        ours, theirs = clip.encode(texts), open_clip.tokenize(texts).numpy()
        differ += [texts[row][1] for row in np.flatnonzero((ours != theirs).any(axis=1))]
    assert differ == ["\u0345"]


def test_names_of_special_tokens_are_text(open_clip: Any, clip: JsonTokenizer) -> None:
    """A caption cannot end a text early. In open_clip it can."""
    text = "a <end_of_text> b"
    ids = clip.encode([text])[0].tolist()
    assert ids.count(49407) == 1
    assert open_clip.tokenize([text])[0].tolist().count(49407) == 2


def test_rows_as_short_as_the_texts_allow(clip: JsonTokenizer) -> None:
    short = tokenizer_from(clip_tokenizer(), {"kind": "clip"})
    assert short.encode(["cat", "a cat"]).tolist() == [
        [49406, 2368, 49407, 0],
        [49406, 320, 2368, 49407],
    ]
    assert short.encode([""]).tolist() == [[49406, 49407]]
    assert short.encode(["cat " * 100], 5).tolist() == [[49406, 2368, 2368, 2368, 49407]]
    assert short.encode([]).shape == (0, 1)
    assert clip.encode([]).shape == (0, 77)
    assert clip.encode(["cat"]).dtype == np.int64


def test_another_program_reads_the_file(clip: JsonTokenizer, tmp_path: Path) -> None:
    clip.save(tmp_path / "tokenizer.json")
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("A Dog's  ball, 12", "Zwei Hunde laufen über den Strand."):
        ids = other.encode(text).ids
        assert ids == clip.encode([text])[0, : len(ids)].tolist()
    assert other.decode(other.encode("a cat").ids).replace("</w>", " ") == "a cat "


def test_without_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install open_clip_torch"):
        clip_tokenizer()


# --- any other --------------------------------------------------------------------------------


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, small: dict[str, str], tmp_path: Path) -> Any:
    """(content of tokenizer.json, a folder as transformers saves it, our settings, open_clip's)."""
    transformers = pytest.importorskip("transformers")
    _, names, ours, theirs = FAMILIES[request.param]
    tokens = {f"{name}_token": token for name, token in names.items()}
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(small[request.param]), **tokens
    )
    wrapped.save_pretrained(tmp_path / "saved")
    return (tmp_path / "saved" / "tokenizer.json").read_text("utf-8"), tmp_path, ours, theirs


def test_as_open_clips_wrapper(open_clip: Any, family: Any) -> None:
    content, folder, ours, theirs = family
    reference = open_clip.HFTokenizer(str(folder / "saved"), **theirs)
    tokenizer = tokenizer_from(content, SETTINGS | ours)
    for length in (77, 16, 4):
        expected = reference(SENTENCES, context_length=length).numpy()
        assert np.array_equal(tokenizer.encode(SENTENCES, length), expected)


def test_as_open_clips_wrapper_on_captions(open_clip: Any, family: Any, data: Path) -> None:
    content, folder, ours, theirs = family
    texts = captions(data, "en")[::20] + captions(data, "cn")[::20]
    reference = open_clip.HFTokenizer(str(folder / "saved"), **theirs)
    expected = reference(texts, context_length=64).numpy()
    tokenizer = tokenizer_from(content, SETTINGS | ours)
    assert np.array_equal(tokenizer.encode(texts, 64), expected)
    short = tokenizer_from(content, {"kind": "hf"} | ours).encode(texts, 64)
    assert np.array_equal(short, expected[:, : short.shape[1]])


@pytest.mark.parametrize("named", [True, False])
def test_padding_and_cutting_on_the_left(small: dict[str, str], named: bool) -> None:
    """As the settings say, or else the file."""
    made = tokenizers.Tokenizer.from_str(small["xlm-roberta"])
    given: dict[str, Any] = {"pad_side": "left", "cut_side": "left"} if named else {}
    if not named:
        made.enable_padding(direction="left", pad_id=1, pad_token="<pad>")
        made.enable_truncation(9, direction="left")
    tokenizer = tokenizer_from(made, {"kind": "hf", **given})
    long, short = tokenizer.encode(["a man in a hat", "a"], 6).tolist()
    everything = tokenizer.encode(["a man in a hat"], 99)[0].tolist()
    assert long == [0, *everything[-5:-1], 2]
    assert (
        short == [1] * (6 - len(tokenizer.encode(["a"])[0])) + tokenizer.encode(["a"])[0].tolist()
    )
    assert tokenizer_from(made, tokenizer.settings).settings == tokenizer.settings


def test_padding_is_found(small: dict[str, str]) -> None:
    def pad(content: str, **more: Any) -> object:
        return tokenizer_from(content, {"kind": "hf", **more}).settings["pad_id"]

    assert pad(small["xlm-roberta"]) == 1
    assert pad(small["clipa"]) == 0
    assert pad(small["siglip"], pad_id="</s>") == 1
    nameless = json.loads(small["siglip"].replace("<pad>", "<none>"))
    with pytest.raises(FormatError, match="pad_id"):
        pad(json.dumps(nameless))


def test_cut_and_unknown(small: dict[str, str], clip: JsonTokenizer) -> None:
    texts = ["a " * 6, "a " * 7, "a \u4e02 a", "\ue000", "a " * 6 + "\ue000"]
    bert = tokenizer_from(small["clipa"], {"kind": "hf"})
    assert bert.cut_and_unknown(["a " * 6, "a " * 7, "a 丂 a", "a " * 6 + "丂"], 8) == (2, 1)
    assert bert.cut_and_unknown([], 8) == (0, 0)
    xlm = tokenizer_from(small["xlm-roberta"], {"kind": "hf"})
    assert xlm.cut_and_unknown(["丂"], 8)[1] == 1
    assert clip.cut_and_unknown(texts[:2], 8) == (1, 0)
    assert clip.cut_and_unknown(texts[2:4], 8)[1] == 0  # bytes: nothing is unknown


def test_nothing_is_left_to_chance(small: dict[str, str]) -> None:
    made = json.loads(small["roberta"])
    made["model"]["dropout"] = 0.5
    tokenizer = tokenizer_from(json.dumps(made), {"kind": "hf"})
    expected = tokenizer_from(small["roberta"], {"kind": "hf"}).encode(SENTENCES)
    for _ in range(5):
        assert np.array_equal(tokenizer.encode(SENTENCES), expected)


# --- all of them ------------------------------------------------------------------------------


def test_saved_loaded_and_pickled(everything: dict[str, TextTokenizer], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for tokenizer in everything.values():
        expected = tokenizer.encode(SENTENCES, 20)
        tokenizer.save(path)
        told = json.loads(json.dumps(tokenizer.settings))
        loaded = load_tokenizer(path, told)
        assert type(loaded) is type(tokenizer)
        assert loaded.settings == told
        assert np.array_equal(loaded.encode(SENTENCES, 20), expected)
        assert np.array_equal(pickle.loads(pickle.dumps(loaded)).encode(SENTENCES, 20), expected)
        first = path.read_bytes()
        loaded.save(path)
        assert path.read_bytes() == first


def test_without_settings_it_is_chinese_clips(tmp_path: Path) -> None:
    Tokenizer.chinese_bert().save(tmp_path / "tokenizer.json")
    for settings_ in (None, {}, {"kind": "bert"}):
        assert isinstance(load_tokenizer(tmp_path / "tokenizer.json", settings_), Tokenizer)


def test_threads_share_a_tokenizer(everything: dict[str, TextTokenizer]) -> None:
    for tokenizer in everything.values():
        jobs = [(text, length) for text in SENTENCES for length in (5, 9, 30)] * 5
        expected = [tokenizer.encode([text], length).tolist() for text, length in jobs]

        def encode(job: tuple[str, int], by: TextTokenizer = tokenizer) -> object:
            return by.encode([job[0]], job[1]).tolist()

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(encode, jobs)) == expected


@settings(max_examples=400, deadline=None)
@given(texts=st.lists(ANY, max_size=3), length=st.integers(2, 80))
@example(texts=["\ud800 \udfff\0", "\U0010ffff\ufffe", "&#0;&#xD800;&"], length=5)
@example(texts=["</s> <s> [SEP] <end_of_text> <|endoftext|>"], length=40)
def test_any_text(everything: dict[str, TextTokenizer], texts: list[str], length: int) -> None:
    for name, tokenizer in everything.items():
        ids = tokenizer.encode(texts, length)
        assert ids.dtype == np.int64
        assert ids.ndim == 2
        assert len(ids) == len(texts)
        assert ids.shape[1] == length if name == "clip" else ids.shape[1] <= length
        size = tokenizer.size if isinstance(tokenizer, JsonTokenizer) else 21_128
        assert ids.size == 0 or (ids.min() >= 0 and ids.max() < size)
        cut, unknown = tokenizer.cut_and_unknown(texts, length)
        assert 0 <= cut <= len(texts)
        assert 0 <= unknown <= ids.size


def test_a_very_long_text(everything: dict[str, TextTokenizer]) -> None:
    for tokenizer in everything.values():
        for text in ("a" * 10**6, "a " * 10**6, "猫" * 10**6, "!" * 10**6):
            ids = tokenizer.encode([text[:300_000]], 52)
            assert np.array_equal(tokenizer.encode([text], 52), ids)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from wentu.clip.tokenizers import clip_tokenizer, tokenizer_from;"
        "tokenizer_from(clip_tokenizer(), {'kind': 'clip'}).encode(['a cat']);"
        "heavy = {'torch', 'cn_clip', 'open_clip', 'transformers', 'ftfy', 'regex'};"
        "assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


# --- what is broken ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "other"},
        {"kind": None},
        {"kind": []},
        {"pad_id": 0},
        {"kind": "hf", "pad_id": -1},
        {"kind": "hf", "pad_id": True},
        {"kind": "hf", "pad_id": 1.0},
        {"kind": "hf", "pad_id": "<nobody>"},
        {"kind": "hf", "pad_id": 10**6},
        {"kind": "hf", "clean": "upper"},
        {"kind": "hf", "clean": []},
        {"kind": "hf", "fixed_length": 1},
        {"kind": "hf", "pad_side": "top"},
        {"kind": "hf", "another": 1},
        {"kind": "clip"},
        {"kind": "clip", "clean": "whitespace"},
        {"kind": "hf", 1: 2},
        [],
        [1],
        "hf",
        7,
    ],
)
def test_settings_that_cannot_be(small: dict[str, str], tmp_path: Path, wrong: Any) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(small["xlm-roberta"], encoding="utf-8")
    with pytest.raises(FormatError):
        load_tokenizer(path, wrong)


def test_no_separator_to_strip(small: dict[str, str]) -> None:
    content = small["clipa"].replace("[SEP]", "[END]")
    with pytest.raises(FormatError, match="strip_sep"):
        tokenizer_from(content, {"kind": "hf", "strip_sep": True})


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 10**5, None])
@pytest.mark.parametrize("kind", ["bert", "hf", "clip"])
def test_no_tokenizer_file(tmp_path: Path, content: bytes | None, kind: str) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FormatError, match=r"tokenizer\.json"):
        load_tokenizer(path, {"kind": kind})


def test_panics_of_the_library(
    small: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is known to make Rust panic is found before, so that no trace is on stderr."""
    prefix = json.loads(small["roberta"])
    prefix["model"]["continuing_subword_prefix"] = "x" * 40
    template = json.loads(small["xlm-roberta"])
    template["post_processor"]["special_tokens"] = {}
    nested = {"type": "Sequence", "processors": [template["post_processor"]]}
    for broken in (prefix, template, template | {"post_processor": nested}):
        with pytest.raises(FormatError, match=r"tokenizer\.json"):
            tokenizer_from(json.dumps(broken), {"kind": "hf"})
    assert "panicked" not in capfd.readouterr().err


def test_a_panic_that_cannot_be_foreseen(small: dict[str, str]) -> None:
    trie = struct.pack("<II", 4, 0x7FFFFFFF)  # one node, whose children would be far away
    broken = json.loads(small["xlm-roberta"])
    broken["normalizer"] = {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(trie + b"a\0").decode(),
    }
    with pytest.raises(FormatError) as caught:
        tokenizer_from(json.dumps(broken), {"kind": "hf"})
    assert not isinstance(caught.value.__cause__, Exception)


ODD_VALUES: list[Any] = [
    *(None, 0, -1, 1, 2**31, 2**32 - 1, 2**32, 2**63, 10**30, 1.5, float("nan"), True, False),
    *("", "a", "\ud800", "[UNK]", "</s>", "BPE", "Unigram", "WordPiece", "WordLevel"),
    *([], {}, [[]], [1], {"type": "BPE"}, {"String": "("}, {"Regex": "("}, {"Regex": ""}),
]


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the parts of a JSON value are; of long lists and mappings the first eight."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in list(value)[:8]:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 8)):
            yield from paths(value[index], (*path, index))


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def mutated(rng: random.Random, content: str) -> str:
    """A tokenizer.json with one to three parts deleted, copied, renamed or replaced; or bytes."""
    document = json.loads(content)
    for _ in range(rng.randint(1, 3)):
        by_top: dict[Any, list[tuple[Any, ...]]] = {}
        for path in paths(document):
            by_top.setdefault(path[0], []).append(path)
        if not by_top:
            break
        path = rng.choice(by_top[rng.choice(list(by_top))])
        holder, key, what = at(document, path[:-1]), path[-1], rng.random()
        if what < 0.2:
            del holder[key]
        elif what < 0.4:
            other = rng.choice(by_top[rng.choice(list(by_top))])
            holder[key] = json.loads(json.dumps(at(document, other)))
        elif what < 0.5 and isinstance(holder, dict):
            holder[rng.choice(["type", "id", "vocab", "a"])] = holder.pop(key)
        else:
            holder[key] = json.loads(json.dumps(rng.choice(ODD_VALUES)))
    text = json.dumps(document)
    if rng.random() < 0.1:
        position = rng.randrange(len(text))
        text = text[:position] + rng.choice('{}[]",:09.eE-\\n') + text[position + 1 :]
    return text


def try_mutations(small: dict[str, str], path: Path, count: int, seed: int) -> tuple[int, int]:
    """(how many were opened and used, how many were refused)."""
    rng = random.Random(seed)
    used = refused = 0
    for _ in range(count):
        name = rng.choice(sorted(small))
        path.write_text(mutated(rng, small[name]), encoding="utf-8", errors="surrogatepass")
        kind = "bert" if name == "clipa" and rng.random() < 0.5 else "hf"
        try:
            tokenizer = load_tokenizer(path, {"kind": kind})
            for texts in (SENTENCES[:4], ["", "\U0010fffe\ud800", "</s>[SEP]"]):
                assert len(tokenizer.encode(texts, 12)) == len(texts)
                tokenizer.cut_and_unknown(texts, 12)
            used += 1
        except FormatError:
            refused += 1
    return used, refused


def test_broken_files(small: dict[str, str], tmp_path: Path) -> None:
    used, refused = try_mutations(small, tmp_path / "tokenizer.json", 300, seed=1)
    assert used > 20
    assert refused > 100


@pytest.mark.exhaustive
def test_many_broken_files(small: dict[str, str], tmp_path: Path) -> None:
    used, refused = try_mutations(small, tmp_path / "tokenizer.json", 10_000, seed=2)
    assert used > 500
    assert refused > 5000
