"""Finding a row's picture in the collection, wherever it lies and however it is written."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.captions.writers import write_list
from wentu.captions import Finder, Row
from wentu.formats import CATALOG, bytes_digest, create_catalog

Find = Callable[..., str | None]


def fill(catalog: sqlite3.Connection, paths: Iterable[str], rejected: Iterable[str] = ()) -> None:
    """Pictures whose bytes are their own paths."""
    for number, path in enumerate(paths):
        catalog.execute("INSERT INTO paths VALUES (?, ?)", (path, number))
        row = (number, bytes_digest(path.encode()), 1, 1, 1, 1)
        columns = "(id, digest, width, height, bytes, grp)"
        catalog.execute(f"INSERT INTO pictures {columns} VALUES (?, ?, ?, ?, ?, ?)", row)
    catalog.executemany("INSERT INTO rejected VALUES (?, 'broken')", [(p,) for p in rejected])


@pytest.fixture
def find(tmp_path: Path) -> Iterator[Find]:
    """Find a picture of a collection under ``tmp_path`` whose captions lie in ``beside``."""
    made: list[sqlite3.Connection] = []

    def find(
        image: str, paths: Iterable[str], beside: str = "elsewhere", rejected: Iterable[str] = ()
    ) -> str | None:
        folder = tmp_path / beside
        folder.mkdir(parents=True, exist_ok=True)
        file = write_list(folder / "c.json", [])
        catalog = create_catalog(tmp_path / f"{len(made)}.sqlite")
        made.append(catalog)
        fill(catalog, paths, rejected)
        return Finder(catalog, str(tmp_path / "root"), str(file)).find(
            Row(image=image, captions=())
        )

    yield find
    for catalog in made:
        catalog.close()


def test_a_picture_is_found_under_the_root(find: Find) -> None:
    paths = ["a/x.jpg", "b/x.jpg"]
    assert find("b/x.jpg", paths) == "b/x.jpg"
    assert find("./b/x.jpg", paths) == "b/x.jpg"
    assert find("b/../a/x.jpg", paths) == "a/x.jpg"


def test_a_picture_is_found_beside_the_captions(find: Find) -> None:
    paths = ["a/x.jpg", "a/pictures/x.jpg", "x.jpg", "b/pictures/x.jpg"]
    assert find("pictures/x.jpg", paths, "root/a") == "a/pictures/x.jpg"
    assert find("../b/pictures/x.jpg", paths, "root/a") == "b/pictures/x.jpg"


def test_a_picture_is_found_by_its_whole_path(find: Find, tmp_path: Path) -> None:
    assert find(str(tmp_path / "root/b/x.jpg"), ["a/x.jpg", "b/x.jpg"]) == "b/x.jpg"


def test_a_picture_is_found_by_its_unique_name(find: Find) -> None:
    assert find("flickr8k-images/狗.jpg", ["deep/er/狗.jpg", "猫.jpg"]) == "deep/er/狗.jpg"
    assert find("C:/图/狗.jpg", ["deep/er/狗.jpg", "猫.jpg"]) == "deep/er/狗.jpg"


def test_a_name_that_is_not_unique_finds_nothing(find: Find) -> None:
    assert find("elsewhere/x.jpg", ["a/x.jpg", "b/x.jpg"]) is None
    assert find("elsewhere/x.jpg", ["a/x.jpg", "b/X.jpg", "c/x.jpg"]) is None
    assert find("elsewhere/x.jpg", ["a/x.jpg"], rejected=["b/x.jpg"]) is None


def test_case_and_the_form_of_unicode_do_not_matter(find: Find) -> None:
    apart = unicodedata.normalize("NFD", "Ä/Café.JPG")
    assert find("ä/café.jpg", [apart, "café.jpg"]) == apart
    assert find("other/CAFÉ.jpg", [apart]) == apart
    assert find("b/X.JPG", ["a/x.jpg", "b/x.jpg"]) == "b/x.jpg"
    assert find("B/x.jpg", ["a/x.jpg", "b/X.jpg"], "root/a") == "b/X.jpg"


def test_what_is_written_exactly_comes_first(find: Find) -> None:
    assert find("X.jpg", ["x.jpg", "X.jpg"]) == "X.jpg"
    assert find("X.JPG", ["x.jpg", "X.jpg"]) is None


def test_a_picture_that_was_set_aside_is_found(find: Find) -> None:
    assert find("a/x.jpg", ["b/y.jpg"], rejected=["a/x.jpg"]) == "a/x.jpg"
    assert find("elsewhere/X.jpg", ["b/y.jpg"], rejected=["a/x.jpg"]) == "a/x.jpg"


@pytest.mark.parametrize("image", ["y.jpg", "", ".", "/", "a/", "../../x", "\0", "'; DROP"])
def test_what_is_not_there_is_not_found(find: Find, image: str) -> None:
    assert find(image, ["x.jpg", "a/b.jpg"]) is None


def test_a_digest_finds_one_of_the_paths(tmp_path: Path) -> None:
    file = write_list(tmp_path / "c.json", [])
    with closing(create_catalog(tmp_path / CATALOG)) as catalog:
        fill(catalog, ["b.jpg", "c.jpg"])
        catalog.execute("INSERT INTO paths VALUES ('a.jpg', 0)")
        finder = Finder(catalog, str(tmp_path), str(file))

        def find(data: bytes) -> str | None:
            return finder.find(Row(image="c.jpg", captions=(), digest=bytes_digest(data)))

        assert [find(b"b.jpg"), find(b"c.jpg"), find(b"x")] == ["a.jpg", "c.jpg", None]
        again = Finder(catalog, str(tmp_path), str(file))
        assert again.find(Row(image="C.jpg", captions=())) == "c.jpg"


MEASURE = """
import sys
from pathlib import Path
from wentu.captions import Finder, Row
from wentu.formats import create_catalog

def anonymous():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous"))

def look(count):
    catalog = create_catalog(folder / f"{count}.sqlite")
    rows = ((f"photos/album {n % 97}/holiday picture number {n:07}.JPG", n) for n in range(count))
    catalog.executemany("INSERT INTO paths VALUES (?, ?)", rows)
    pictures = ((n, n.to_bytes(32, "big")) for n in range(count))
    columns = "(id, digest, width, height, bytes, grp)"
    catalog.executemany(f"INSERT INTO pictures {columns} VALUES (?, ?, 1, 1, 1, 1)", pictures)
    catalog.commit()
    before = anonymous()
    finder = Finder(catalog, str(folder), str(folder / "c.json"))
    for n in range(0, count, 50):
        assert finder.find(Row(image=f"x/HOLIDAY picture number {n:07}.jpg", captions=()))
        assert finder.find(Row(image="", captions=(), digest=n.to_bytes(32, "big")))
    return anonymous() - before

folder = Path(sys.argv[1])
look(100)
print(look(20_000) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_paths_are_not_kept_in_memory(tmp_path: Path) -> None:
    write_list(tmp_path / "c.json", [])
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200 * 20_000
