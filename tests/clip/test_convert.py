"""Traditional characters -> simplified ones."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wentu.clip.convert import CONVERSIONS, _converter, convert
from wentu.errors import InputError
from wentu.language import set_language


@pytest.mark.parametrize(
    ("how", "text", "converted"),
    [
        ("none", "滑鼠與鍵盤", "滑鼠與鍵盤"),
        ("t2s", "一隻貓與兩隻狗在草地上奔跑", "一只猫与两只狗在草地上奔跑"),
        ("t2s", "乾淨的乾坤袋，頭髮與發財", "干净的乾坤袋，头发与发财"),
        ("t2s", "滑鼠與電腦軟體", "滑鼠与电脑软体"),
        ("tw2sp", "滑鼠與電腦軟體", "鼠标与电脑软件"),
        ("tw2sp", "他看著計程車和腳踏車", "他看着出租车和自行车"),
        ("tw2sp", "網路記憶體", "网络内存"),
        ("hk2s", "衞生間裏的麪包", "卫生间里的面包"),
        ("hk2s", "巴士和的士", "巴士和的士"),
        ("t2s", "“A 貓”, 👍🏽 don't\n①", "“A 猫”, 👍🏽 don't\n①"),
        ("t2s", "", ""),
    ],
)
def test_convert(how: str, text: str, converted: str) -> None:
    assert convert(text, how) == converted


def test_real_names(data: Path) -> None:
    """Names in traditional characters become what the same picture is called in simplified."""
    names = [path.stem.lstrip("0123456789") for path in (data / "emoji-named-hant").iterdir()]
    converted = {convert(name, "t2s") for name in names}
    assert {"商标", "阴阳", "剑", "闹钟", "雨伞", "黑色中小型方块", "无障碍空间"} <= converted
    assert len(names) == 48


def test_simplified_text_stays_as_it_is(data: Path) -> None:
    names = [path.stem for path in (data / "emoji-named").iterdir()]
    assert len(names) == 398
    for how in ("t2s", "hk2s"):
        assert [convert(name, how) for name in names] == names
    # tw2sp takes every word for Taiwan's: 文件 there is 文档 here, 程序 there 进程 here.
    changed = [name[5:] for name in names if convert(name, "tw2sp") != name]
    assert sorted(changed) == ["打开的文件夹", "文件柜", "男程序员"]
    for how in CONVERSIONS:
        once = [convert(name, how) for name in names]
        assert [convert(name, how) for name in once] == once


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet=st.characters(exclude_categories=[])),
    how=st.sampled_from(CONVERSIONS),
)
@example(text="貓\ud800狗\0貓\udc80", how="t2s")
def test_any_text(text: str, how: str) -> None:
    """What OpenCC cannot take stays, and parts the words."""
    result = convert(text, how)
    for char in "\0\ud800\udc80\udfff":
        assert result.count(char) == text.count(char)


def test_lone_surrogates_and_nul() -> None:
    assert convert("\0貓\ud83d狗\0\0門\udfff", "t2s") == "\0猫\ud83d狗\0\0门\udfff"


@pytest.mark.parametrize("how", ["s2t", "", "t2s.json"])
def test_an_unknown_conversion(how: str) -> None:
    with pytest.raises(InputError, match="none, t2s, tw2sp, hk2s"):
        convert("dog", how)
    set_language("zh")
    with pytest.raises(InputError, match="没有名为"):
        convert("貓", how)


def test_without_opencc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opencc", None)
    _converter.cache_clear()
    assert convert("貓", "none") == "貓"
    try:
        with pytest.raises(InputError, match="pip install opencc"):
            convert("貓", "t2s")
    finally:
        _converter.cache_clear()


def test_threads_share_a_converter() -> None:
    texts = [f"滑鼠{number}電腦軟體裡的貓" * (number % 5 + 1) for number in range(2000)]
    expected = [convert(text, "tw2sp") for text in texts]
    _converter.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: convert(text, "tw2sp"), texts)) == expected


def test_opencc_is_opened_when_it_is_needed() -> None:
    code = (
        "import sys; from wentu.clip.convert import convert; convert('dog', 't2s');"
        "convert('貓', 'none'); assert 'opencc' not in sys.modules; convert('貓', 't2s');"
        "assert not {'torch', 'cn_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
