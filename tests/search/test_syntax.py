"""What is typed, taken apart."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wentu.errors import InputError
from wentu.search import syntax
from wentu.search.syntax import MOST_NEGATIVES, parse

CASES = [
    ("海滩 -人", "海滩", ("人",)),
    ("海滩－人", "海滩", ("人",)),
    ("海滩 −人", "海滩", ("人",)),
    ("海滩−人", "海滩", ("人",)),
    ("海滩 －人", "海滩", ("人",)),
    ("海滩－人－狗 -猫", "海滩", ("人", "狗", "猫")),
    ("-人 海滩", "海滩", ("人",)),
    ("-人", "", ("人",)),
    ("T-shirt", "T-shirt", ()),
    ("4-人桌", "4-人桌", ()),
    ("海滩-人", "海滩-人", ()),
    ("红色 T-shirt -red", "红色 T-shirt", ("red",)),
    ("2020－2021", "2020－2021", ()),
    ("海滩 － 人", "海滩 － 人", ()),
    ("海滩 -", "海滩 -", ()),
    ("a -- b", "a -- b", ()),
    ('"海滩 -人"', "海滩 -人", ()),
    ("“海滩－人”", "海滩－人", ()),
    ('海滩 -"红色 圆形"', "海滩", ("红色 圆形",)),
    ('海滩－"红色 圆形"', "海滩", ("红色 圆形",)),
    ('5" 屏幕 -人', '5" 屏幕', ("人",)),
    ('""', '""', ()),
    ("海滩 -人 -人", "海滩", ("人",)),
    ("海滩\u3000-人", "海滩", ("人",)),
    ("  两只  狗 ", "两只  狗", ()),
    ("", "", ()),
]


@pytest.mark.parametrize(("typed", "text", "negative"), CASES)
def test_what_is_meant(typed: str, text: str, negative: tuple[str, ...]) -> None:
    parsed = parse(typed)
    assert (parsed.text, parsed.negative) == (text, negative)


@given(st.text(alphabet='海人狗 -－−"“”aZ4\u3000', max_size=30))
def test_nothing_typed_is_lost_or_made_up(typed: str) -> None:
    """Letters come back in their order, in the text or in what is excluded; signs alone go."""
    try:
        parsed = parse(typed)
    except InputError:
        return
    letters = [each for each in typed if each.isalnum()]
    back = [each for each in parsed.text + "".join(parsed.negative) if each.isalnum()]
    if len(set(parsed.negative)) == typed.count("-") + typed.count("－") + typed.count("−"):
        assert sorted(back) == sorted(letters)
    assert set(back) <= set(letters)
    assert all(each.strip() for each in parsed.negative)


@given(st.text(alphabet="海滩人狗abZ4 T,，。", max_size=30))
def test_a_text_without_signs_stays_as_it_is(typed: str) -> None:
    assert parse(typed) == syntax.Parsed(text=typed.strip())


def test_too_much_excluded_is_a_sentence() -> None:
    many = [f"-词{number}" for number in range(MOST_NEGATIVES + 1)]
    assert len(parse(" ".join(many[1:])).negative) == MOST_NEGATIVES
    with pytest.raises(InputError, match="excludes 17 things; at most 16"):
        parse(" ".join(many))


def test_the_examples_of_the_module_are_right() -> None:
    assert doctest.testmod(syntax).failed == 0
