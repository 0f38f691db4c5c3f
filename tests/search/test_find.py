"""Filters, folding and pages of the engine: the fast ones against a slow, obvious one."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wentu import ann, pictures
from wentu.errors import InputError
from wentu.search.engine import Engine
from wentu.search.filters import like, name_test
from wentu.search.paging import Place, Rest
from wentu.search.query import Filters, Query
from wentu.store import Store, now

TEXT = "一个小红色圆形，位于白色画面的上边"
DATES = {"海边/夏天/IMG_1.jpg": "2023:07:01 10:00:00", "海边/IMG_2.JPG": "2024:05:31 23:59:59"}


@dataclass(frozen=True)
class Made:
    """A store with folders, copies and dates, in two segments; its engine."""

    engine: Engine
    folder: Path


@pytest.fixture(scope="module")
def made(
    built: Any, small_collection: Path, draw: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Made]:
    import shutil

    from tests.conftest import embed_and_promote, list_and_pair, outputs, replace

    root = tmp_path_factory.mktemp("find")
    folder, store = root / "collection", root / "store"
    shutil.copytree(small_collection, folder)
    shutil.copytree(built.store, store, ignore=shutil.ignore_patterns("work"))
    draw(folder, [300, 301, 302])
    for number, (name, date) in enumerate(DATES.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = date
        with Image.open(folder / f"pictures/{300 + number:04d}.png") as image:
            image.save(folder / name, exif=exif, quality=95)
        (folder / f"pictures/{300 + number:04d}.png").unlink()
    for name, side in (("大/0001.png", 512), ("小_图/0001.png", 96)):
        (folder / name).parent.mkdir(exist_ok=True)
        with Image.open(folder / "pictures/0001.png") as image:
            image.resize((side, side), Image.Resampling.LANCZOS).save(folder / name)
    (folder / "pictures/0003.png").unlink()
    answer = list_and_pair(root, folder, str(folder), str(store), train="never")
    run = built.__class__(**outputs(root, folder, str(folder), str(store)), answer=answer)
    embed_and_promote(replace(run, winner=built.winner), pointer=1, train=False)
    engine = Engine.open(str(store))
    assert len(engine._segments) == 2
    yield Made(engine, folder)
    engine.close()


def slow(made: Made, query: Query) -> list[int]:
    """All ids that pass, best first, by NumPy and the files themselves."""
    engine = made.engine
    vector = engine.vector(engine.understood(query))[0]
    rows: list[tuple[float, int]] = []
    groups: dict[int, int] = {}
    size: dict[int, int] = {}
    for segment, part in zip(engine._segments, engine._parts, strict=True):
        for identity, its in zip(segment.ids.tolist(), segment.vectors, strict=True):
            hit = None if identity in part.dead else engine._records([identity])[identity]
            if hit and identity != query.id and passes(made.folder, hit, query.filters):
                rows.append((-float(its @ vector), identity))
                with segment.catalog.borrow() as db:
                    row = db.execute("SELECT grp FROM pictures WHERE id = ?", (identity,))
                    groups[identity] = row.fetchone()[0]
                size[identity] = hit.width * hit.height
    if query.fold:
        first = {}
        for identity in sorted(groups, key=lambda i: (-size[i], i)):
            first.setdefault(groups[identity], identity)
        rows = [row for row in rows if row[1] in first.values()]
    return [identity for _, identity in sorted(rows)]


def passes(folder: Path, hit: Any, filters: Filters) -> bool:
    def name_fits(path: str) -> bool:
        name, wanted = Path(path).name.lower(), filters.name.lower()
        return fnmatch.fnmatchcase(name, wanted) if set("*?") & set(wanted) else wanted in name

    with Image.open(folder / hit.paths[0]) as image:
        sides = image.size
    taken = DATES.get(hit.paths[0], "").replace(":", "-", 2).replace(" ", "T")
    below = filters.folder.strip("/")
    wanted = [
        not below or any(path.startswith(f"{below}/") for path in hit.paths),
        any(name_fits(path) for path in hit.paths),
        not filters.taken_from or taken >= filters.taken_from,
        not filters.taken_to
        or (bool(taken) and taken[: len(filters.taken_to)] <= filters.taken_to),
        filters.captioned is None or filters.captioned == bool(hit.captions),
        min(sides) >= filters.min_side,
        not filters.max_side or max(sides) <= filters.max_side,
    ]
    return all(wanted)


FILTERS = [
    {},
    {"folder": "海边"},
    {"folder": "/海边/夏天/"},
    {"folder": "海"},
    {"name": "000"},
    {"name": "img_?.jpg"},
    {"name": "*1.png"},
    {"name": "_"},
    {"name": "海边"},
    {"taken_from": "2024"},
    {"taken_to": "2024-05-31"},
    {"taken_from": "2023-07", "taken_to": "2024-05-30"},
    {"captioned": True},
    {"captioned": False},
    {"min_side": 128},
    {"max_side": 127},
    {"min_side": 100, "folder": "pictures", "captioned": False},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("fold", [True, False])
def test_filters_give_what_a_slow_search_gives(
    made: Made, filters: dict[str, Any], fold: bool
) -> None:
    query = Query(text=TEXT, filters=Filters(**filters), fold=fold, k=100, all=True)
    for _ in range(2):  # the second time from what is remembered
        answer = made.engine.find(query)
        assert [hit.id for hit in answer.hits] == slow(made, query)
    assert answer.total == len(slow(made, Query(text=TEXT, filters=query.filters, fold=False)))


@pytest.mark.parametrize("filters", [{}, {"folder": "pictures"}, {"name": "0001.png"}], ids=str)
@pytest.mark.parametrize("k", [1, 4, 100])
@pytest.mark.parametrize("fold", [True, False])
def test_pages_put_together_are_the_whole(
    made: Made, filters: dict[str, Any], k: int, fold: bool
) -> None:
    query = Query(text=TEXT, filters=Filters(**filters), k=k, all=True, fold=fold)
    whole, shown, after = slow(made, query), [], ""
    while after is not None:
        answer = made.engine.find(Query(**{**vars(query), "after": after}))
        assert answer.offset == len(shown)
        shown += [hit.id for hit in answer.hits]
        after = answer.after
    assert shown == whole
    by_offset = made.engine.find(Query(**{**vars(query), "offset": 3})).hits
    assert [hit.id for hit in by_offset] == whole[3 : 3 + k]


def test_a_place_that_was_made_up_costs_no_more_than_a_page(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing lies behind it, but that is no reason to look through the whole collection."""
    asked: list[int] = []

    def search(_: object, __: object, depth: int) -> tuple[ann.Vectors, ann.Ids]:
        asked.append(depth)
        return np.ones((1, depth), np.float32), np.arange(depth, dtype=np.int64)[None] % 7

    monkeypatch.setattr(ann, "search", search)
    engine = made.engine
    place = Place(model=engine.release.model[:16], score=-1.0, rank=0, answered=True, ids=(1,))
    rest = Rest(drop=np.arange(5), before=place)
    scores, _ = engine._ranked(np.zeros((1, 4), np.float32), 20, None, rest)
    assert len(scores) == 0
    assert asked[-1] == max(asked) == 20 + 5 + 64


def test_the_largest_copy_stands_for_the_others(made: Made) -> None:
    everything = made.engine.find(Query(text=TEXT, k=100, all=True)).hits
    (shown,) = [hit for hit in everything if any("0001.png" in path for path in hit.paths)]
    assert shown.paths == ("大/0001.png",)
    assert shown.width == 512
    others = [made.engine.picture(each)[0].paths[0] for each in shown.similar]
    assert others == ["pictures/0001.png", "小_图/0001.png"]
    filters = Filters(max_side=200)
    (shown,) = made.engine.find(Query(text=TEXT, filters=filters, k=1, all=True)).hits[:1]
    found = made.engine.find(Query(text=TEXT, filters=filters, k=100, all=True)).hits
    (shown,) = [hit for hit in found if any("0001.png" in path for path in hit.paths)]
    assert shown.paths == ("pictures/0001.png",)
    assert [made.engine.picture(each)[0].paths[0] for each in shown.similar] == ["小_图/0001.png"]
    like_it = made.engine.find(Query(id=shown.id, k=100)).hits
    assert shown.id not in [hit.id for hit in like_it]
    assert like_it[0].paths == ("大/0001.png",)


def test_dates_and_folders_are_known(made: Made) -> None:
    found = made.engine.find(Query(text=TEXT, filters=Filters(folder="海边"), k=9, all=True)).hits
    assert {hit.paths[0]: hit.taken for hit in found} == {
        "海边/夏天/IMG_1.jpg": "2023-07-01T10:00:00",
        "海边/IMG_2.JPG": "2024-05-31T23:59:59",
    }
    assert {hit.added for hit in found} <= {now()[:10], found[0].added}
    assert made.engine.folders == [
        ("pictures", 24),
        ("大", 1),
        ("小_图", 1),
        ("海边", 2),
        ("海边/夏天", 1),
    ]


def test_what_is_typed_is_understood(made: Made) -> None:
    engine = made.engine
    one = engine.find(Query(text="紅色圓形 -藍色", k=5, all=True))
    assert (one.text, one.negative) == ("红色圆形", ("蓝色",))
    two = engine.find(Query(text="红色圆形", negative=("蓝色",), k=5, raw=True, all=True))
    assert one.hits == two.hits
    raw = engine.find(Query(text="紅色 -藍色", k=5, raw=True, all=True))
    assert (raw.text, raw.negative) == ("紅色 -藍色", ())


def test_days_that_are_none_are_sentences() -> None:
    for day in ("24", "2024-5", "2024-05-31T00", "yesterday"):
        with pytest.raises(InputError, match="give a day as 2024-05-31"):
            Filters(taken_from=day)


@pytest.mark.parametrize(
    ("wanted", "path", "fits"),
    [
        ("img", "a/IMG_1.jpg", True),
        ("a/", "a/IMG_1.jpg", False),
        ("cafe\u0301", "CAF\u00c9.jpg", True),
        ("*.JPG", "x/y.jpg", True),
        ("CAF\u00c9", "cafe\u0301.jpg", True),
        ("y.?", "x/y.jpg", False),
        ("100%", "x/100%.jpg", True),
        ("a_b", "axb.jpg", False),
    ],
)
def test_names(wanted: str, path: str, fits: bool) -> None:
    import sqlite3

    assert name_test(wanted)(path) is fits
    row = (
        sqlite3.connect(":memory:")
        .execute("SELECT ? LIKE ? ESCAPE '\\'", (path, like(wanted)))
        .fetchone()
    )
    assert row[0] or not fits, "the coarse look in SQLite loses none"


def test_a_name_of_many_stars_takes_no_time() -> None:
    path = "IMG_20240531_180211_a_rather_long_name_of_a_picture.jpeg"
    assert not name_test("*a" * 60 + "x")(path)
    assert name_test("*" * 100 + ".jpeg")(path)


def test_rows_are_of_the_ids_that_were_asked_for(made: Made) -> None:
    segment = made.engine._segments[0]
    ids = segment.ids
    absent = ids[3:5] - 1
    assert not np.isin(absent, ids).any()
    asked = np.sort(np.concatenate([ids[[0, 3, 4]], absent, [2**63 - 1]]))
    assert segment.rows_of(asked).tolist() == [0, 3, 4]


def test_a_date_is_read_from_what_cameras_write() -> None:
    image = Image.new("RGB", (8, 8))
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9004] = "2021:02:03 04:05:06"
    assert pictures.exif_taken(b"Exif\0\0" + exif.tobytes()[6:]) == "2021-02-03T04:05:06"
    for wrong in ("0000:00:00 00:00:00", "    :  :     :  :  ", "2021:13:01 00:00:00"):
        exif.get_ifd(0x8769)[0x9004] = wrong
        assert pictures.exif_taken(exif.tobytes()) is None
    block = exif.tobytes()
    for end in range(len(block)):  # cut off anywhere
        pictures.exif_taken(block[:end])
    assert pictures.exif_taken(None) is None
    assert pictures.taken(b"no picture") is None
    assert image.size == (8, 8)


def test_a_store_keeps_the_day_a_picture_was_added(made: Made) -> None:
    store = Store(str(made.engine.store.place))
    assert store.current()
    hits = made.engine.find(Query(text=TEXT, k=100, all=True, fold=False)).hits
    assert all(hit.added and len(hit.added) == 10 for hit in hits)
