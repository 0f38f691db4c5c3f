"""pairs: every layout of captions becomes one catalog, three splits, and Chinese-CLIP's files."""

from __future__ import annotations

import base64
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
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wentu import formats, splits
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
    sentence = r"2 of 24 pictures cannot be read, more than --max-rejected 0\.05; the first: "
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


Picture = tuple[int, int, str | None]
"""Id, cluster, and the split that the user's files name."""


def assign(
    folder: Path, store: Store, pictures: list[Picture], **fractions: float
) -> dict[int, str]:
    """One run of the assignment over pictures with a caption each."""
    path = folder / "catalog.sqlite"
    path.unlink(missing_ok=True)
    with closing(formats.create_catalog(path)) as db:
        for number, cluster, own in pictures:
            row = (number, b"", 1, 1, 1, cluster, own)
            db.execute("INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            db.execute("INSERT INTO captions VALUES (?, 1)", (number,))
        splits.assign(db, store, **({"valid_fraction": 0.3, "test_fraction": 0.3} | fractions))
        return dict(db.execute("SELECT id, split FROM pictures").fetchall())


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, 2**63 - 1), st.integers(0, 5), max_size=14),
    st.randoms(use_true_random=False),
)
def test_no_picture_moves_and_no_cluster_is_parted_however_a_collection_grows(
    tmp_path_factory: pytest.TempPathFactory, looks: dict[int, int], rng: random.Random
) -> None:
    """``looks`` is what each picture looks like; they come in any order, a few at a time."""
    folder = tmp_path_factory.mktemp("splits")
    store = Store(str(folder / "store"))
    order, here = rng.sample(sorted(looks), len(looks)), 0
    before: dict[int, str] = {}
    while here < len(order):
        here += rng.randint(1, 4)
        there = order[:here]
        first = {look: min(p for p in there if looks[p] == look) for look in map(looks.get, there)}
        found = assign(folder, store, [(p, first[looks[p]], None) for p in there])
        assert before.items() <= found.items()
        assert len({(looks[p], split) for p, split in found.items()}) == len(first)
        before = found
    assert assign(folder, store, [(p, p, None) for p in order]) == before


@pytest.mark.parametrize(("one", "other"), [(5, 9), (9, 5)])
def test_what_looks_like_a_test_picture_of_the_user_follows_it(
    tmp_path: Path, one: int, other: int
) -> None:
    """Named for test by one file; its near copy stands in a file that names no split."""
    for cluster in range(20, 30):
        store = Store(str(tmp_path / f"store-{cluster}"))
        pictures = [(one, cluster, "test"), (other, cluster, None)]
        assert assign(tmp_path, store, sorted(pictures)) == {one: "test", other: "test"}


def test_the_users_files_win_over_what_was_drawn_before(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    pictures: list[Picture] = [(number, number, None) for number in range(60)]
    drawn = assign(tmp_path, store, pictures)
    assert set(drawn.values()) == set(formats.SPLITS)
    named: list[Picture] = [(n, n, ("test", "valid", "train")[n % 3]) for n in range(60)]
    assert assign(tmp_path, store, named) == {n: own for n, _, own in named}


def test_fractions_are_about_what_was_asked_for(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    found = assign(
        tmp_path, store, [(n, n, None) for n in range(3000)], valid_fraction=0.1, test_fraction=0.3
    )
    counts = [list(found.values()).count(split) for split in ("train", "valid", "test")]
    assert sum(counts) == 3000
    for count, share in zip(counts, (0.6, 0.1, 0.3), strict=True):
        assert abs(count / 3000 - share) < 0.03


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
