"""Listings: streamed, and the same as if all were in memory."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wentu.errors import FormatError
from wentu.formats import digest_of
from wentu.listing import Listing, compare, compare_lines, pictures_of, side_by_side, write_without

NAMES = st.text(min_size=1, max_size=6) | st.sampled_from(
    ["a", "a.jpg", "a/b.jpg", '"\\\n\t', "文 😀", "\udcff"]
)
ROWS = st.dictionaries(NAMES, st.sampled_from(["", "00" * 32, "ab" * 32]), max_size=12)


def rows_of(found: dict[str, str], captions: str = "c") -> list[Any]:
    rows: list[Any] = [["picture", path, len(path), found[path]] for path in sorted(found)]
    return [*rows, ["captions", f"{captions}.json", 3, captions]]


def lines_of(path: Path) -> list[Any]:
    lines = gzip.decompress(path.read_bytes()).decode("utf-8", "surrogatepass").split("\n")
    return [json.loads(line) for line in lines if line]


@given(ROWS)
def test_its_identity_is_that_of_its_rows(tmp_path_factory: Any, found: dict[str, str]) -> None:
    rows = rows_of(found)
    path = tmp_path_factory.mktemp("listing") / "a"
    listing = Listing.write(path, iter(rows))
    assert listing.digest == digest_of(rows)
    assert list(listing) == rows
    assert (listing.pictures, listing.size) == (len(found), sum(map(len, found)))


def test_more_rows_than_are_written_at_once(tmp_path: Path) -> None:
    rows = rows_of({f"{number:05d}.jpg": f"{number:064x}" for number in range(2500)})
    listing = Listing.write(tmp_path / "a", iter(rows))
    assert listing.digest == digest_of(rows)
    assert list(listing) == rows
    assert Listing.write(tmp_path / "b", []).digest == digest_of([])


@given(ROWS, ROWS, st.booleans())
def test_changes_are_those_of_sets(
    before: dict[str, str], after: dict[str, str], captions: bool
) -> None:
    found = compare(rows_of(after, "d" if captions else "c"), rows_of(before)).changes
    shared = before.keys() & after.keys()
    assert found.new == len(after) - len(shared)
    assert found.deleted == len(before) - len(shared)
    assert found.edited == sum(before[path] != after[path] for path in shared)
    assert found.captions is captions
    for comma in (",", ", "):  # as it is written now, and as it was written before
        lines = [
            [json.dumps(row, separators=(comma, ":")).encode() + b"\n" for row in rows]
            for rows in (rows_of(after, "d" if captions else "c"), rows_of(before))
        ]
        assert compare_lines(*map(iter, lines)).changes == found
    merged = list(side_by_side(pictures_of(rows_of(before)), pictures_of(rows_of(after))))
    assert [(a or b or ["", ""])[1] for a, b in merged] == sorted(before.keys() | after.keys())


@given(ROWS, ROWS, ROWS)
def test_what_was_forgotten_counts_as_deleted(
    tmp_path_factory: Any, before: dict[str, str], now: dict[str, str], later: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("listing") / "a"
    gone = write_without(path, rows_of(before), rows_of(now))
    assert gone == len(before.keys() - now.keys())
    left = lines_of(path)
    assert {row[1] for row in left if row[0] == "picture"} == before.keys() & now.keys()
    assert compare(rows_of(now), left).changes == compare(rows_of(now), rows_of(before)).changes
    again = write_without(path, left, rows_of(later))
    assert again == len((before.keys() & now.keys()) - later.keys())
    assert lines_of(path)[-1] == ["forgotten", gone + again]


def test_a_listing_that_is_not_in_order_is_refused() -> None:
    rows = [["picture", "b", 1, ""], ["picture", "a", 1, ""]]
    with pytest.raises(FormatError, match="not in order"):
        list(pictures_of(rows))
