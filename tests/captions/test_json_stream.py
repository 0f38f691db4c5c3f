"""A JSON list, entry by entry: what json.loads would say, in windows of any size."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wentu.captions import json_stream
from wentu.errors import FormatError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=st.lists(VALUES, max_size=6), window=st.integers(1, 40), ascii_only=st.booleans())
def test_entries_are_those_of_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, value: list[Any], window: int, ascii_only: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "list.json"
    path.write_text(" \n" + json.dumps(value, ensure_ascii=ascii_only) + "\n ", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "WINDOW", window)
        assert list(json_stream.entries(path)) == value


@pytest.mark.parametrize("text", ["[1,2", "[1 2]", "[1,2] x", "", "[1,,2]", "[", '["a'])
def test_what_is_broken_is_refused_with_its_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=r"line 1, column \d+"):
        list(json_stream.entries(path))


def test_what_is_no_list_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('{"image": "a.jpg"}', encoding="utf-8")
    assert list(json_stream.entries(path)) == [json_stream.NO_LIST]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    row = {"image": "x" * 200, "caption": ["y" * 200]}
    path.write_text(json.dumps([row] * 60_000), encoding="utf-8")
    tracemalloc.start()
    assert sum(1 for _ in json_stream.entries(path)) == 60_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 3
