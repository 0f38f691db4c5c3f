"""pairs: every layout of captions becomes one catalog, three splits, and Chinese-CLIP's files."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wentu import formats
from wentu.errors import InputError
from wentu.formats import read_manifest, read_texts, read_tsv
from wentu.stages.pairs import Config
from wentu.store import Store

Pair = Callable[..., Any]
Save = Callable[[Path, list[dict[str, Any]]], Path]


def rows_of(catalog: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(formats.open_catalog(catalog / "catalog.sqlite")) as db:
        return db.execute(query).fetchall()


def split_of_path(catalog: Path) -> dict[str, str]:
    query = "SELECT f.path, p.split FROM paths f JOIN pictures p ON p.id = f.picture"
    return {path: split for path, split in rows_of(catalog, query) if split}


def facts(catalog: Path) -> dict[str, Any]:
    """The numbers of the report."""
    value = json.loads((catalog / "report.json").read_text("utf-8"))
    return dict(value["counts"] | value["details"])


@pytest.fixture
def place(tmp_path: Path) -> str:
    """Where a store may be made."""
    return str(tmp_path / "store")


# --- what it writes ---------------------------------------------------------------------------


def test_the_catalog_knows_every_picture_its_paths_and_captions(built: Any) -> None:
    sources = {
        path.relative_to(built.collection).as_posix(): path.read_bytes()
        for path in (built.collection / "pictures").iterdir()
    }
    query = "SELECT f.path, p.id, p.digest, p.width, p.height, p.bytes FROM paths f JOIN pictures p"
    rows = rows_of(built.catalog, query + " ON p.id = f.picture")
    assert {path for path, *_ in rows} == sources.keys()
    for path, identity, digest, width, height, size in rows:
        assert digest == formats.bytes_digest(sources[path])
        assert identity == formats.id_of(digest)
        assert (width, height, size) == (128, 128, len(sources[path]))
    captions = rows_of(
        built.catalog,
        "SELECT f.path, t.text FROM captions c JOIN paths f ON f.picture = c.picture "
        "JOIN texts t ON t.id = c.text",
    )
    said = [
        (row["image"], text)
        for split in ("train", "valid", "test")
        for row in json.loads((built.collection / f"cn_{split}.json").read_text("utf-8"))
        for text in row["caption"]
    ]
    assert sorted(captions) == sorted(said)


def test_manifests_counts_and_the_report_are_written(built: Any) -> None:
    manifest = read_manifest(built.catalog, "pairs")
    assert manifest.counts == {
        "pictures": 24,
        "captions": 48,
        "train": 14,
        "valid": 4,
        "test": 6,
        "rejected": 0,
    }
    assert manifest.inputs["inventory"] == built.answer.inventory
    assert set(manifest.inputs) == {"inventory", "splits"}
    assert read_manifest(built.tsv, "pairs").digest == manifest.digest
    page = (built.catalog / "report.html").read_text("utf-8")
    assert "<table>" in page
    assert "://" not in page


def test_the_users_files_decide_the_splits(built: Any) -> None:
    given = {
        row["image"]: split
        for split in ("train", "valid", "test")
        for row in json.loads((built.collection / f"cn_{split}.json").read_text("utf-8"))
    }
    assert split_of_path(built.catalog) == given


def test_the_tsv_is_sorted_as_lmdb_sorts_and_the_texts_name_their_pictures(built: Any) -> None:
    for split, count in (("train", 14), ("valid", 4), ("test", 6)):
        ids = [str(image) for image, _ in read_tsv(built.tsv / f"{split}_imgs.tsv")]
        assert ids == sorted(ids)
        assert len(ids) == count
        texts = list(read_texts(built.tsv / f"{split}_texts.jsonl"))
        assert {str(image) for text in texts for image in text.image_ids} == set(ids)
        assert all(text.text_id == formats.text_id(text.text) for text in texts)


def test_mistake_03_the_bytes_of_a_picture_are_kept(
    pair: Pair, place: str, tmp_path: Path, save_captions: Save
) -> None:
    root = tmp_path / "jpeg"
    root.mkdir()
    noise = random.Random(0).randbytes(64 * 48 * 3)
    picture = Image.frombytes("RGB", (64, 48), noise)
    for number, quality in enumerate((95, 100, 40)):
        picture.save(root / f"{number}.jpg", quality=quality, exif=b"Exif\x00\x00MM\x00*")
    rows = [{"image": f"{number}.jpg", "caption": ["噪声"]} for number in range(3)]
    save_captions(root / "train.json", rows)
    pair(root, str(root), place, test_fraction=0.0, valid_fraction=0.0)
    found = {base64.urlsafe_b64decode(d) for _, d in read_tsv(tmp_path / "tsv/train_imgs.tsv")}
    assert found == {path.read_bytes() for path in root.glob("*.jpg")}


def test_the_texts_are_read_by_the_reference(built: Any) -> None:
    from cn_clip.eval.data import EvalTxtDataset

    ours = list(read_texts(built.tsv / "test_texts.jsonl"))
    theirs = EvalTxtDataset(str(built.tsv / "test_texts.jsonl"), max_txt_length=52)
    assert theirs.texts == [(text.text_id, text.text) for text in ours]
    assert len(theirs[0][1]) == 52


def test_the_same_collection_gives_the_same_files(built: Any, pair: Pair, tmp_path: Path) -> None:
    pair(built.collection, built.captions, str(tmp_path / "other store"))
    for path in built.tsv.iterdir():
        if path.name != "manifest.json":
            assert (tmp_path / "tsv" / path.name).read_bytes() == path.read_bytes()
    query = "SELECT * FROM pictures ORDER BY id"
    assert rows_of(tmp_path / "catalog", query) == rows_of(built.catalog, query)


# --- pictures ---------------------------------------------------------------------------------


def test_equal_files_are_one_picture_with_several_paths(
    collection: Path, pair: Pair, place: str, tmp_path: Path
) -> None:
    shutil.copy(collection / "pictures/0000.png", collection / "a copy 副本.png")
    pair(collection, str(collection), place)
    assert facts(tmp_path / "catalog")["pictures"] == 24
    assert facts(tmp_path / "catalog")["duplicate_files"] == 1
    query = "SELECT path FROM paths WHERE picture = (SELECT picture FROM paths WHERE path = '{}')"
    found = rows_of(tmp_path / "catalog", query.format("pictures/0000.png"))
    assert sorted(found) == [("a copy 副本.png",), ("pictures/0000.png",)]


def test_a_broken_picture_is_set_aside_with_its_reason(
    collection: Path, pair: Pair, place: str, tmp_path: Path
) -> None:
    path = collection / "pictures/0003.png"
    path.write_bytes(path.read_bytes()[:200])
    (collection / "pointer.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    pair(collection, str(collection), place, max_rejected=0.2)
    assert facts(tmp_path / "catalog")["rejected"] == 2
    assert facts(tmp_path / "catalog")["train"] == 13
    rejected = dict(rows_of(tmp_path / "catalog", "SELECT path, reason FROM rejected"))
    assert rejected.keys() == {"pictures/0003.png", "pointer.jpg"}
    assert all(rejected.values())
    assert "pointer.jpg" in (tmp_path / "catalog/report.html").read_text("utf-8")


def test_too_many_broken_pictures_stop_with_the_first_named(
    collection: Path, pair: Pair, place: str
) -> None:
    for number in (3, 5):
        (collection / f"pictures/{number:04d}.png").write_bytes(b"broken")
    sentence = r"2 of 24 pictures cannot be read, more than --max-rejected 0\.05: "
    with pytest.raises(InputError, match=sentence + r"pictures/0003\.png"):
        pair(collection, str(collection), place)


def test_real_broken_pictures_leave_the_others_intact(
    data: Path, collection: Path, pair: Pair, place: str, tmp_path: Path
) -> None:
    shutil.copytree(data / "broken", collection / "broken")
    pair(collection, str(collection), place, max_rejected=0.9)
    listed = {row[1] for row in Store(place).lines(next(iter_inventories(place)))}
    refused = {path for path in listed if path.startswith("broken/must-be-refused/")}
    loaded = {path for path in listed if path.startswith("broken/must-load/")}
    rejected = {path for (path,) in rows_of(tmp_path / "catalog", "SELECT path FROM rejected")}
    kept = {path for (path,) in rows_of(tmp_path / "catalog", "SELECT path FROM paths")}
    assert refused
    assert loaded
    assert rejected == refused
    assert loaded <= kept
    assert facts(tmp_path / "catalog")["train"] == 14


def iter_inventories(place: str) -> Any:
    return (f"inventories/{name}" for name in Store(place).storage.list("inventories"))


def test_a_file_that_changes_during_the_run_is_set_aside(
    collection: Path, pair: Pair, place: str, tmp_path: Path
) -> None:
    from wentu.stages.pairs import pairs

    answer = pair(collection, str(collection), place)
    path = collection / "pictures/0003.png"
    path.write_bytes(path.read_bytes() + b"\0")
    (collection / "pictures/0004.png").unlink()
    pairs(
        pictures=str(collection),
        captions=str(collection),
        store=place,
        inventory=answer.inventory,
        out=tmp_path / "catalog",
        tsv=None,
        config=Config(max_rejected=0.5),
    )
    rejected = dict(rows_of(tmp_path / "catalog", "SELECT path, reason FROM rejected"))
    assert rejected["pictures/0003.png"] == "changed during the run"
    assert rejected.keys() == {"pictures/0003.png", "pictures/0004.png"}


def test_a_file_name_that_is_no_text_is_set_aside(
    collection: Path, pair: Pair, place: str, tmp_path: Path
) -> None:
    name = os.fsencode(collection) + b"/pictures/\xff\xfe.png"
    Path(os.fsdecode(name)).write_bytes((collection / "pictures/0000.png").read_bytes() + b"\0")
    pair(collection, str(collection), place)
    assert facts(tmp_path / "catalog")["pictures"] == 24
    assert facts(tmp_path / "catalog")["rejected"] == 1


# --- captions ---------------------------------------------------------------------------------


def test_file_names_are_captions(
    tmp_path: Path, small_collection: Path, pair: Pair, place: str
) -> None:
    root = tmp_path / "named"
    for number, name in enumerate(("猫/黑猫.png", "猫/白猫.png", "狗.png", "x/狗.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(small_collection / f"pictures/{number:04d}.png", root / name)
    pair(root, "names", place, test_fraction=0.0, valid_fraction=0.0)
    texts = {
        text.text: len(text.image_ids) for text in read_texts(tmp_path / "tsv/train_texts.jsonl")
    }
    assert texts == {"黑猫": 1, "白猫": 1, "狗": 2}
    assert facts(tmp_path / "catalog")["captions_on_several_pictures"] == 1


def test_without_captions_there_are_no_splits_and_no_training_files(
    collection: Path, pair: Pair, built: Any, place: str, tmp_path: Path
) -> None:
    pair(collection, "none", place, train=False, model=str(built.bundle))
    assert not (tmp_path / "tsv").exists()
    assert split_of_path(tmp_path / "catalog") == {}
    assert facts(tmp_path / "catalog")["pictures"] == 24
    assert list(Store(place).assignments()) == []


def test_captions_without_a_picture_are_counted_and_listed(
    collection: Path, pair: Pair, place: str, tmp_path: Path
) -> None:
    (collection / "pictures/0000.png").unlink()
    pair(collection, str(collection), place)
    assert facts(tmp_path / "catalog")["captions_without_picture"] == 1
    value = json.loads((tmp_path / "catalog/report.json").read_text("utf-8"))
    assert value["missing"] == ["cn_train.json, entry 1: pictures/0000.png"]


def test_pictures_without_a_caption_are_kept_and_counted(
    collection: Path, pair: Pair, place: str, tmp_path: Path, draw: Any
) -> None:
    draw(collection, [50, 51])
    pair(collection, str(collection), place)
    assert facts(tmp_path / "catalog")["without_caption"] == 2
    assert facts(tmp_path / "catalog")["pictures"] == 26
    assert sum(facts(tmp_path / "catalog")[split] for split in formats.SPLITS) == 24


def test_captions_that_belong_to_nothing_stop_with_the_first_named(
    collection: Path, pair: Pair, place: str, tmp_path: Path, save_captions: Save
) -> None:
    path = save_captions(tmp_path / "other.json", [{"image": "y.jpg", "caption": ["狗"]}])
    sentence = (
        r"no caption belongs to any picture under .*; the first: other\.json, entry 1: y\.jpg"
    )
    with pytest.raises(InputError, match=sentence):
        pair(collection, str(path), place)


def test_captions_that_are_cut_or_unknown_are_counted(
    collection: Path, pair: Pair, place: str, tmp_path: Path, save_captions: Save
) -> None:
    texts = ["狗" * 60, "一只狗", "\ue000狗"]
    path = save_captions(tmp_path / "c.json", [{"image": "0001.png", "caption": texts}])
    pair(collection, str(path), place)
    assert facts(tmp_path / "catalog")["captions_cut"] == 1
    assert facts(tmp_path / "catalog")["unknown_tokens"] == 1


def test_half_an_emoji_in_a_caption_does_no_harm(
    collection: Path, pair: Pair, place: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    path.write_text(r'[{"image": "0001.png", "caption": ["好\ud83d", "狗"]}]')
    pair(collection, str(path), place, test_fraction=0.0, valid_fraction=0.0)
    texts = [text.text for text in read_texts(tmp_path / "tsv/train_texts.jsonl")]
    assert len(texts) == 2
    assert "狗" in texts


# --- real collections -------------------------------------------------------------------------


def captions_of(catalog: Path) -> dict[str, tuple[str, str | None]]:
    """(caption, what the user wrote) of each path with one caption."""
    query = (
        "SELECT f.path, t.text, c.original FROM captions c JOIN texts t ON t.id = c.text "
        "JOIN paths f ON f.picture = c.picture"
    )
    rows = rows_of(catalog, query)
    found = {path: (text, original) for path, text, original in rows}
    assert len(found) == len(rows)
    return found


def test_names_of_real_pictures_are_their_captions(
    data: Path, pair: Pair, place: str, tmp_path: Path
) -> None:
    pair(data / "emoji-named", "names", place)
    found = captions_of(tmp_path / "catalog")
    files = [path.name for path in (data / "emoji-named").iterdir()]
    assert found == {name: (name[5:].removesuffix(".png"), None) for name in files}
    assert len(found) == 398
    assert facts(tmp_path / "catalog")["captions_converted"] == 0
    assert set(split_of_path(tmp_path / "catalog").values()) == set(formats.SPLITS)


def test_names_in_traditional_characters_are_those_in_simplified_and_the_original_is_kept(
    data: Path, pair: Pair, place: str, tmp_path: Path
) -> None:
    """The same 48 pictures twice; where both names are the same words, one caption comes out."""
    simplified = {p.name[:4]: p.stem[5:] for p in (data / "emoji-named").iterdir()}
    pair(data / "emoji-named-hant", "names", place, convert="t2s")
    found = captions_of(tmp_path / "catalog")
    assert len(found) == 48
    same = set()
    for path, (text, original) in found.items():
        name = path[4:].removesuffix(".png")
        assert (original or text) == name
        assert len(text) == len(name)  # characters, not words
        assert not set("圓頭電門車馬鍵東書無長紅標") & set(text)
        if text == simplified[path[:4]]:
            same.add(path[:4])
    assert len(same) == 19
    assert same >= {"1032", "1044", "1053", "1062", "1083", "1140", "1149", "1188"}
    converted = [path for path, (_, original) in found.items() if original]
    assert len(converted) == facts(tmp_path / "catalog")["captions_converted"] > 35
    said = formats.facts(tmp_path / "catalog/catalog.sqlite")
    assert said == {"convert": "t2s", "split": "open", "context_length": "0"}
    texts = [
        text.text
        for split in formats.SPLITS
        for text in read_texts(tmp_path / f"tsv/{split}_texts.jsonl")
    ]
    assert sorted(texts) == sorted(text for text, _ in found.values())


def test_names_of_folders_are_captions_where_those_of_files_only_repeat_them(
    data: Path, pair: Pair, place: str, tmp_path: Path
) -> None:
    root = data / "photo-folder"
    with pytest.raises(InputError, match=r"--captions names: of 50 .*: use --captions folder\."):
        pair(root, "names", place)
    pair(root, "folder", place)
    found = captions_of(tmp_path / "catalog")
    assert found["dessert/戚风蛋糕/DSC08612.jpg"] == ("戚风蛋糕", None)
    expected = {
        path.relative_to(root).as_posix(): path.parent.name
        for path in root.rglob("*")
        if path.is_file() and path.parent.name != "imges"
    }
    assert {path: text for path, (text, _) in found.items()} == expected
    assert len(found) == facts(tmp_path / "catalog")["pictures"] - 1 == 49


def test_the_names_taken_as_captions_are_shown(
    data: Path, pair: Pair, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pair(data / "emoji-named-hant", "names", place, convert="t2s")
    said = capsys.readouterr().err
    assert "48 names are captions, 0 are not; for example:" in said
    shown = [line.strip() for line in said.splitlines() if "→" in line]
    assert len(shown) == 10
    assert "1044鍵盤.png → 键盘" in shown


FLICKR = {"train": 60, "val": 20}
"""Pictures of cn_train.json and cn_val.json that are taken."""

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def flickr(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Rows]]:
    """Some real pictures, and the rows of their captions; only such as GBK can write."""
    root = tmp_path_factory.mktemp("flickr")
    (root / "flickr8k-images").mkdir()
    chosen: dict[str, Rows] = {}
    for split, count in FLICKR.items():
        rows: Rows = json.loads((data / f"flickr8k-cn/cn_{split}.json").read_text("utf-8"))
        rows = [
            r
            for r in rows
            if "".join(r["caption"]).encode("gbk", "ignore").decode("gbk") == "".join(r["caption"])
        ]
        chosen[split] = rows[:count]
        for row in chosen[split]:
            os.link(data / "flickr8k-cn" / row["image"], root / row["image"])
    return root, chosen


def write_json(folder: Path, root: Path, split: str, rows: Rows) -> None:
    text = json.dumps(rows, ensure_ascii=False)
    (folder / f"cn_{split}.json").write_text(text, encoding="utf-8")


def write_jsonl(folder: Path, root: Path, split: str, rows: Rows) -> None:
    lines = [json.dumps({"picture": r["image"], "captions": r["caption"]}) for r in rows]
    (folder / f"cn_{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def pairs_of(rows: Rows) -> list[tuple[str, str]]:
    return [(row["image"], text) for row in rows for text in row["caption"]]


def write_csv(folder: Path, root: Path, split: str, rows: Rows, encoding: str = "utf-8") -> None:
    with (folder / f"cn_{split}.csv").open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["编号", "图片", "描述"])
        writer.writerows((n, *pair) for n, pair in enumerate(pairs_of(rows)))


def write_gbk(folder: Path, root: Path, split: str, rows: Rows) -> None:
    write_csv(folder, root, split, rows, "gbk")


def write_xlsx(folder: Path, root: Path, split: str, rows: Rows) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    width = max(len(row["caption"]) for row in rows)
    sheet.append(["filename", *(f"caption{n + 1}" for n in range(width))])
    for row in rows:
        sheet.append([Path(row["image"]).name, *row["caption"]])
    book.save(folder / f"cn_{split}.xlsx")


def write_clip(folder: Path, root: Path, split: str, rows: Rows) -> None:
    """As cn_clip's README makes them: numbers of its own, the standard alphabet of base64."""
    images = [row["image"] for row in rows]
    with (folder / f"{split}_imgs.tsv").open("w", encoding="utf-8") as tsv:
        for number, image in enumerate(images):
            coded = base64.b64encode((root / image).read_bytes()).decode()
            tsv.write(f"{1000 + number}\t{coded}\n")
    with (folder / f"{split}_texts.jsonl").open("w", encoding="utf-8") as jsonl:
        for number, (image, text) in enumerate(pairs_of(rows)):
            row = {"text_id": number, "text": text, "image_ids": [1000 + images.index(image)]}
            jsonl.write(json.dumps(row, ensure_ascii=False) + "\n")


LAYOUTS = [write_json, write_jsonl, write_csv, write_gbk, write_xlsx, write_clip]


def everything(catalog: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All that a catalog holds but the users' own ids."""
    columns = {
        "pictures": "id, digest, width, height, bytes, grp, split",
        **dict.fromkeys(("paths", "texts", "captions", "rejected", "facts"), "*"),
    }
    return {
        table: rows_of(catalog, f"SELECT {what} FROM {table} ORDER BY 1, 2")
        for table, what in columns.items()
    }


def test_every_layout_gives_the_same_catalog(
    flickr: tuple[Path, dict[str, Rows]], pair: Pair, tmp_path: Path
) -> None:
    root, chosen = flickr
    found = {}
    for write in LAYOUTS:
        name = write.__name__.removeprefix("write_")
        folder = tmp_path / name
        folder.mkdir()
        for split, rows in chosen.items():
            write(folder, root, split, rows)
        pair(root, str(folder), str(tmp_path / f"store-{name}"))
        found[name] = everything(tmp_path / "catalog")
        own = dict(rows_of(tmp_path / "catalog", "SELECT id, own_id FROM pictures"))
        assert bool(any(own.values())) == (name in ("clip", "csv", "gbk"))
    first = found["json"]
    said = {(image, text.strip()) for rows in chosen.values() for image, text in pairs_of(rows)}
    assert len(first["pictures"]) == len(first["paths"]) == sum(FLICKR.values())
    assert len(first["captions"]) == len(said)
    assert {row[-1] for row in first["pictures"]} == set(formats.SPLITS)
    valid = {row["image"] for row in chosen["val"]}
    assert {
        path for path, split in split_of_path(tmp_path / "catalog").items() if split == "valid"
    } == valid
    for name, tables in found.items():
        for table, rows in tables.items():
            assert rows == first[table], f"{name} gives other {table}"


def test_the_columns_of_a_table_can_be_named(
    collection: Path, pair: Pair, place: str, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b,c\n0001.png,狗,猫\n0002.png,鸟,鱼\n", "utf-8")
    pair(collection, str(table), place, picture_column="a", caption_column="3")
    texts = captions_of(tmp_path / "catalog")
    assert texts == {"pictures/0001.png": ("猫", None), "pictures/0002.png": ("鱼", None)}


def test_the_users_own_ids_are_kept(
    collection: Path, pair: Pair, place: str, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("id,image,caption\nA-7,0001.png,狗\nB-8,0002.png,鸟\n", "utf-8")
    pair(collection, str(table), place)
    query = "SELECT f.path, p.own_id FROM paths f JOIN pictures p ON p.id = f.picture"
    own = dict(rows_of(tmp_path / "catalog", query))
    assert {path: each for path, each in own.items() if each} == {
        "pictures/0001.png": "A-7",
        "pictures/0002.png": "B-8",
    }


# --- broken pictures --------------------------------------------------------------------------


def test_by_default_a_folder_with_broken_pictures_stops_at_once_with_every_reason_in_the_report(
    data: Path, pair: Pair, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = r"10 of 29 pictures cannot be read, more than --max-rejected 0\.05: .*0\.35\."
    with pytest.raises(InputError, match=sentence):
        pair(data / "broken", "names", place)
    value = json.loads((tmp_path / "catalog/report.json").read_text("utf-8"))
    refused = {f"must-be-refused/{p.name}" for p in (data / "broken/must-be-refused").iterdir()}
    assert {path for path, _ in value["rejected"]} == refused
    assert all(reason for _, reason in value["rejected"])
    page = (tmp_path / "catalog/report.html").read_text("utf-8")
    assert all(path in page for path in refused)
    assert f"All reasons: {tmp_path / 'catalog/report.html'}" in capsys.readouterr().err
    assert not (tmp_path / "catalog/manifest.json").exists()
    assert not (tmp_path / "tsv").exists()
    assert list(Store(place).assignments()) == []


def test_the_share_that_is_named_is_enough(data: Path, pair: Pair, place: str) -> None:
    """What the sentence proposes works."""
    with pytest.raises(InputError, match="--max-rejected") as caught:
        pair(data / "broken", "names", place)
    share = float(str(caught.value).split()[-1].rstrip("."))
    pair(data / "broken", "names", place, max_rejected=share)


def test_a_folder_of_nothing_but_broken_pictures_is_one_clear_error(
    data: Path, pair: Pair, place: str
) -> None:
    sentence = "none of the 10 pictures can be read, so there is nothing to work on"
    for limit in (0.05, 1.0):
        with pytest.raises(InputError, match=sentence):
            pair(data / "broken/must-be-refused", "names", place, max_rejected=limit)


def test_tsv_and_catalog_do_not_go_into_one_folder(
    collection: Path, built: Any, tmp_path: Path
) -> None:
    from wentu.stages.pairs import pairs

    with pytest.raises(InputError, match=r"--tsv .*out is --out; name another folder"):
        pairs(
            pictures=str(collection),
            captions="none",
            store=built.store,
            inventory=built.answer.inventory,
            out=tmp_path / "out",
            tsv=tmp_path / "out",
            config=Config(),
        )


# --- splits -----------------------------------------------------------------------------------


def resized(path: Path, target: Path) -> None:
    """The same picture at another size: another file, and nearly the same."""
    with Image.open(path) as picture:
        picture.resize((96, 96), Image.Resampling.LANCZOS).save(target)


def test_near_duplicates_share_a_split(
    pair: Pair, place: str, tmp_path: Path, draw: Any, save_captions: Save
) -> None:
    root = tmp_path / "bursts"
    rows = draw(root, range(30))
    for row in list(rows):
        copy = row["image"].replace(".png", "-small.png")
        resized(root / row["image"], root / copy)
        rows.append({"image": copy, "caption": row["caption"]})
    save_captions(root / "captions.json", rows)
    pair(root, str(root), place, test_fraction=0.3, valid_fraction=0.3)
    found = split_of_path(tmp_path / "catalog")
    assert len(found) == 60
    assert set(found.values()) == set(formats.SPLITS)
    for path, split in found.items():
        assert found[path.replace("-small", "")] == split
    assert facts(tmp_path / "catalog")["near_duplicates"] >= 30
    assert facts(tmp_path / "catalog")["near_duplicates_in_several_splits"] == 0


def test_the_users_split_files_part_what_looks_alike(
    collection: Path, pair: Pair, place: str, tmp_path: Path, draw: Any, save_captions: Save
) -> None:
    resized(collection / "pictures/0000.png", collection / "small.png")
    rows = json.loads((collection / "cn_test.json").read_text("utf-8"))
    save_captions(collection / "cn_test.json", [*rows, {"image": "small.png", "caption": ["小"]}])
    pair(collection, str(collection), place)
    found = split_of_path(tmp_path / "catalog")
    assert (found["pictures/0000.png"], found["small.png"]) == ("train", "test")
    assert facts(tmp_path / "catalog")["near_duplicates_in_several_splits"] == 1
    query = (
        "SELECT p.split, p.grp FROM pictures p JOIN paths f ON f.picture = p.id WHERE f.path IN "
    )
    groups = dict(rows_of(tmp_path / "catalog", query + "('small.png', 'pictures/0000.png')"))
    assert groups["train"] != groups["test"]


def test_a_split_that_the_users_files_lack_is_drawn_from_training_pictures(
    collection: Path, pair: Pair, place: str, tmp_path: Path
) -> None:
    (collection / "cn_valid.json").rename(collection / "cn_train2_train.json")
    pair(collection, str(collection), place, valid_fraction=0.4)
    found = split_of_path(tmp_path / "catalog")
    tests = {row["image"] for row in json.loads((collection / "cn_test.json").read_text("utf-8"))}
    assert {path for path, split in found.items() if split == "test"} == tests
    assert 2 <= sum(split == "valid" for split in found.values()) <= 12


def test_a_picture_never_moves_as_the_collection_grows(
    pair: Pair, place: str, tmp_path: Path, draw: Any, save_captions: Save
) -> None:
    root, seen = tmp_path / "growing", {}
    for count in (10, 25, 40):
        rows = draw(root, range(count))
        save_captions(root / "captions.json", rows)
        pair(root, str(root), place, test_fraction=0.3, valid_fraction=0.2)
        found = split_of_path(tmp_path / "catalog")
        assert len(found) == count
        assert seen.items() <= found.items()
        seen = found
    assert set(seen.values()) == set(formats.SPLITS)


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"valid_fraction": -0.1}, r"--valid-fraction -0\.1: give a share from 0 to 1"),
        ({"test_fraction": 1.5}, r"--test-fraction 1\.5: give a share"),
        ({"valid_fraction": 0.5, "test_fraction": 0.5}, r"leaves nothing to train on"),
        ({"max_rejected": 2}, r"--max-rejected 2: give a share"),
        ({"context_length": 2}, r"--context-length 2: give 3 or more"),
    ],
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Config(**wrong)


def test_an_unknown_listing_is_named(collection: Path, place: str, tmp_path: Path) -> None:
    from wentu.stages.pairs import pairs

    with pytest.raises(InputError, match="has no inventory abc; run `wentu inventory` first"):
        pairs(
            pictures=str(collection),
            captions="none",
            store=place,
            inventory="abc",
            out=tmp_path / "catalog",
            tsv=None,
            config=Config(),
        )
    assert not (tmp_path / "catalog" / "manifest.json").exists()


def test_a_picture_of_the_tsv_decodes_as_its_file(built: Any) -> None:
    image, data = next(read_tsv(built.tsv / "test_imgs.tsv"))
    (path,) = next(iter(rows_of(built.catalog, f"SELECT path FROM paths WHERE picture = {image}")))
    with (
        Image.open(io.BytesIO(base64.b64decode(data, altchars=b"-_"))) as ours,
        Image.open(built.collection / path) as theirs,
    ):
        assert ours.tobytes() == theirs.tobytes()
